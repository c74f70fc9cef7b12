"""The tasks that models are fine-tuned for: one row of `TASKS` each, by the name that `--task` takes."""

from hf_minibert.finetuning.arguments import TaskName
from hf_minibert.finetuning.causal import LanguageModelling
from hf_minibert.finetuning.task import Task
from hf_minibert.finetuning.text import TextClassification
from hf_minibert.finetuning.translation import Translation

TASKS: dict[TaskName, type[Task]] = {
    "text-classification": TextClassification,
    "causal-lm": LanguageModelling,
    "translation": Translation,
}
