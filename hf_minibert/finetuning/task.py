"""What a fine-tuning must know of its task: the interface that every task of `hf_minibert.finetuning.tasks` fills."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from datasets import Dataset
from transformers import EvalPrediction, PreTrainedTokenizerFast

from hf_minibert.finetuning.arguments import FinetuneArguments
from hf_minibert.presets import Config


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """Examples of a task, read and checked."""

    name: str
    """What the user called the data set."""
    hub_id: str | None
    """Its name on the Hub, if it came from there."""
    splits: dict[str, Dataset]
    """`train`, `eval` and perhaps `test`."""
    labels: list[str]
    """The name of every class id; empty where the task has no labels."""
    notes: list[str]
    """Lines that tell the user what was left out."""


class Task(ABC):
    """One kind of fine-tuning: what it reads, which head it trains, and how it is measured."""

    auto_class: ClassVar[Any]
    """The Auto class that opens the head."""
    metrics: ClassVar[tuple[str, ...]]
    """The metrics that `results.json` keeps of an evaluation, beside the loss."""
    best_metric: ClassVar[str]
    """The metric that chooses the best epoch, and that curves show; higher is better."""
    baseline: ClassVar[str]
    """The name, in `results.json`, of the value that `best_metric` has without any learning."""
    baseline_words: ClassVar[str]
    """What that baseline does, for people."""

    @abstractmethod
    def read(self, arguments: FinetuneArguments) -> TaskData:
        """Read the data that the arguments name.

        Raises:
            UserError: something is missing, unreadable, or not what the task needs.
        """

    @abstractmethod
    def describe(self, data: TaskData, rows: dict[str, Dataset]) -> list[str]:
        """Lines about the examples, for people, before training."""

    @abstractmethod
    def config_fields(self, arguments: FinetuneArguments, config: Config, data: TaskData) -> dict[str, Any]:
        """What the head needs in the configuration of the pre-trained model.

        Raises:
            UserError: the model already has a head for something else.
        """

    @abstractmethod
    def encode(self, rows: Dataset, tokenizer: PreTrainedTokenizerFast, arguments: FinetuneArguments) -> Dataset:
        """Examples as the columns that the model takes."""

    @abstractmethod
    def collator(self, tokenizer: PreTrainedTokenizerFast) -> Any:
        """What makes a batch of encoded examples."""

    @abstractmethod
    def measure(self, prediction: EvalPrediction) -> dict[str, float]:
        """The metrics of predictions."""

    @abstractmethod
    def baselines(self, rows: dict[str, Dataset]) -> dict[str, float]:
        """Scores that need no learning, by their names in `results.json`; `baseline` is among them."""

    @abstractmethod
    def report(self, results: dict[str, Any]) -> list[str]:
        """Lines about what was learned, for people."""

    @abstractmethod
    def headline(self, results: dict[str, Any]) -> str:
        """The result in one sentence, for the card."""
