"""The tasks that models are fine-tuned for: one row of `TASKS` each, by the name that `--task` takes."""

from hf_minibert.finetuning.arguments import TaskName
from hf_minibert.finetuning.task import Task
from hf_minibert.finetuning.text import TextClassification

TASKS: dict[TaskName, type[Task]] = {
    "text-classification": TextClassification,
}
