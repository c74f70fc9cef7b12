"""The tasks that models are fine-tuned for: one row of `TASKS` each, by the name that `--task` takes."""

from hf_minibert.finetuning.answers import QuestionAnswering
from hf_minibert.finetuning.arguments import TaskName
from hf_minibert.finetuning.causal import LanguageModelling
from hf_minibert.finetuning.choices import MultipleChoice
from hf_minibert.finetuning.task import Task
from hf_minibert.finetuning.text import TextClassification
from hf_minibert.finetuning.tokens import TokenClassification
from hf_minibert.finetuning.translation import Translation

TASKS: dict[TaskName, type[Task]] = {
    "text-classification": TextClassification,
    "token-classification": TokenClassification,
    "question-answering": QuestionAnswering,
    "multiple-choice": MultipleChoice,
    "causal-lm": LanguageModelling,
    "translation": Translation,
}
