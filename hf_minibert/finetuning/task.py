"""What a fine-tuning must know of its task: the interface that every task of `hf_minibert.finetuning.tasks` fills."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from datasets import Dataset
from torch import Tensor
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerFast, TrainingArguments

from hf_minibert.finetuning.arguments import FinetuneArguments
from hf_minibert.finetuning.durable import DurableTrainer
from hf_minibert.finetuning.start import Start


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """Examples of a task, read and checked."""

    name: str
    """What the user called the data set."""
    hub_id: str | None
    """Its name on the Hub, if it came from there."""
    splits: dict[str, Dataset]
    """`train`, `eval` and perhaps `test`."""
    labels: list[str] = field(default_factory=list)
    """The name of every class id; empty where the task has no labels."""
    notes: list[str] = field(default_factory=list)
    """Lines that tell the user which columns are read, and what was left out."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """How others use the model: a piece of Python for its card."""

    code: str
    """`{model}` stands for the quoted name of the model, `{options}` for `, trust_remote_code=True` or nothing."""
    needs_package: bool = False
    """Whether the code imports something from `hf_minibert` itself."""


class Task(ABC):
    """One kind of fine-tuning: what it reads, which head it trains, and how it is measured.

    There is one object for each fine-tuning. It is asked in this order: `read`; `encode`, a split at a time;
    `build_model`; `measure` after every epoch and, with the best weights, at the end; then the words and files of the
    result. What later steps need, such as windows or predictions, it keeps in itself.
    """

    pipeline_tag: ClassVar[str | None] = None
    """What the Hub calls the task. Default: the task's name."""
    auto_class: ClassVar[Any]
    """The Auto class that opens the head."""
    trainer_class: ClassVar[type[DurableTrainer]] = DurableTrainer
    """For another `Trainer`, such as `Seq2SeqTrainer`: `class Mine(DurableTrainer, Seq2SeqTrainer)`."""
    training_arguments_class: ClassVar[type[TrainingArguments]] = TrainingArguments
    examples_word: ClassVar[str] = "examples"
    """What people call the examples: texts, questions, sentences."""
    usual_steps: ClassVar[int] = 2_500
    """Unless told, the training text is passed as often as gives so many optimizer steps; see `run.usual_epochs`."""
    metrics: tuple[str, ...]
    """The metrics that `results.json` keeps of an evaluation, beside the loss. `read` may set it."""
    best_metric: str
    """The metric that chooses the best epoch, and that curves show; `runs.scores` says which way is better. `read` may
    set it."""
    baseline_names: Mapping[str, str] = {}
    """For a metric, the name in `results.json` of the value that it has without any learning."""
    baseline_words: str = ""
    """What the baseline does, for people."""

    def __init__(self, arguments: FinetuneArguments) -> None:
        self.arguments = arguments
        self.notes: list[str] = []
        """Lines that tell the user what `encode` did, such as texts that were cut."""

    # ---- data

    @abstractmethod
    def read(self) -> TaskData:
        """Read the data that the arguments name.

        Raises:
            UserError: something is missing, unreadable, or not what the task needs.
        """

    @abstractmethod
    def describe(self, data: TaskData, examples: dict[str, Dataset]) -> list[str]:
        """Lines about the examples, for people, before training."""

    @abstractmethod
    def encode(self, examples: Dataset, split: str, tokenizer: PreTrainedTokenizerFast, max_length: int) -> Dataset:
        """Examples as the rows that the model takes; there may be more rows than examples.

        Batches group rows by the column `length`, or else by the length of `input_ids`.
        """

    def more_tokenizers(self) -> list[PreTrainedTokenizerFast]:
        """Those that made the rows beside the model's own, once `encode` has."""
        return []

    @abstractmethod
    def collator(self, tokenizer: PreTrainedTokenizerFast) -> Any:
        """What makes a batch of rows."""

    # ---- model

    def positions(self, start: Start) -> int:
        """The longest row that the model takes, in tokens."""
        return int(start.config.max_position_embeddings)

    @abstractmethod
    def config_fields(self, start: Start, data: TaskData) -> dict[str, Any]:
        """What the head needs in the configuration of the model.

        Raises:
            UserError: the model already has a head for something else, or a flag does not suit the model.
        """

    def build_model(self, start: Start, data: TaskData, **settings: Any) -> tuple[PreTrainedModel, set[str]]:
        """The model with the task's head, and the names of the weights that are new.

        Args:
            start: the weights to begin with.
            data: the examples.
            settings: fields of the configuration, and the attention's implementation.

        Raises:
            UserError: see `config_fields`.
        """
        return start.model(self.auto_class, **settings, **self.config_fields(start, data))

    # ---- training and evaluation

    def trainer_settings(self) -> dict[str, Any]:
        """Fields of the training arguments that differ from what `trainer_arguments` sets."""
        return {}

    def build_trainer(self, **arguments: Any) -> DurableTrainer:
        """`Trainer`, as `trainer_class` says."""
        return self.trainer_class(**arguments)

    def reduce_logits(self, logits: Any, labels: Tensor) -> Any:
        """What to keep of a batch's outputs for `measure`, such as the likeliest class: it bounds the memory."""
        return logits

    @abstractmethod
    def measure(self, prediction: EvalPrediction, split: str, *, compute_result: bool = True) -> dict[str, float]:
        """The metrics of a split's predictions, on all processes.

        With `batch_eval_metrics` in `trainer_settings`, this is called after every batch; `compute_result` is true for
        the last one.
        """

    def baselines(self, examples: dict[str, Dataset]) -> dict[str, float]:
        """Scores that need no learning, by their names in `results.json`, which `baseline_names` lists."""
        return {}

    # ---- the result

    @abstractmethod
    def predictions(self, split: str) -> Iterator[dict[str, Any]]:
        """A line of `predictions_SPLIT.jsonl` for each example, from what `measure` has kept: --write_predictions."""

    def official_predictions(self, split: str) -> dict[str, Any] | None:
        """The content of `predictions_SPLIT.json`, where the field has a form that its own script reads."""
        return None

    def intervals(self, split: str) -> dict[str, tuple[float, float]]:
        """95% intervals of those metrics that have one, from what `measure` has kept; see `evaluation.metrics`."""
        return {}

    def save(self, folder: Path) -> None:
        """Write what the model needs beside itself and its tokenizer."""
        return

    def pictures(self, folder: Path, data: TaskData) -> dict[str, str]:
        """Draw pictures into a folder. Returns what each shows, by its file's name."""
        return {}

    @abstractmethod
    def report(self, results: dict[str, Any]) -> list[str]:
        """Lines about what was learned, for people."""

    @abstractmethod
    def headline(self, results: dict[str, Any]) -> str:
        """The result in one sentence, for the card."""

    @abstractmethod
    def usage(self) -> Usage:
        """How to use the model, for the card."""

    @abstractmethod
    def limits(self, results: dict[str, Any]) -> list[str]:
        """Sentences about what the model cannot do, for the card."""
