"""Read and check what a fine-tuning needs: data and a model to begin with, both ready to train."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast, set_seed

from hf_minibert.errors import UserError
from hf_minibert.finetuning.arguments import FinetuneArguments
from hf_minibert.finetuning.durable import row_lengths
from hf_minibert.finetuning.lora import with_adapters
from hf_minibert.finetuning.start import Start, from_checkpoint, from_preset
from hf_minibert.finetuning.task import Task, TaskData
from hf_minibert.finetuning.tasks import TASKS
from hf_minibert.finetuning.trainer import steps_per_epoch
from hf_minibert.finetuning.unfinished import content_hash, saved_arguments
from hf_minibert.runs.hardware import computes_in_bfloat16, fastest_attention, use_all_cores
from hf_minibert.runs.scores import score_of

FEWEST_EPOCHS, MOST_EPOCHS = 3, 20
"""Passes over the training text: at least and at most so many, and between them as `Task.usual_steps` says."""


@dataclass(frozen=True)
class Run:
    """A fine-tuning that is about to begin."""

    arguments: FinetuneArguments
    task: Task
    data: TaskData
    examples: dict[str, Dataset]
    """The splits, as many of each as were asked for."""
    rows: dict[str, Dataset]
    """The splits, encoded as the model takes them."""
    max_length: int
    """Longer rows were cut."""
    start: Start
    model: PreTrainedModel
    new_weights: set[str]
    """The names of the weights that are not pre-trained."""
    processes: PartialState
    seed: int
    """Of this training; with --seeds there are more."""

    @property
    def seeds(self) -> list[int]:
        """All seeds to train with."""
        return list(range(self.arguments.seed, self.arguments.seed + self.arguments.seeds))

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """What made the rows."""
        return self.start.tokenizer

    @property
    def measured(self) -> list[str]:
        """The splits that are measured, the one whose figures count last."""
        return [split for split in ("eval", "test") if split in self.rows]

    @property
    def best_metric(self) -> str:
        """The metric that chooses the best epoch."""
        return self.arguments.best_metric or self.task.best_metric

    @property
    def floor(self) -> float | None:
        """What the metric that chooses the best epoch has without any learning; None where it falls from the start."""
        if score_of(self.best_metric).lower_is_better:
            return None
        name = self.task.baseline_names.get(self.best_metric)
        return 0.0 if name is None else self.task.baselines(self.examples)[name]


def read(arguments: FinetuneArguments) -> Run:
    """Read the data and the model that the arguments name.

    Raises:
        UserError: one of them is missing or not acceptable.
    """
    if arguments.model is not None:
        start = from_preset(arguments.model, arguments.tokenizer_name_or_path)
    else:
        assert arguments.model_name_or_path is not None
        start = from_checkpoint(arguments.model_name_or_path, arguments.tokenizer_name_or_path)
    if arguments.max_seq_length is not None:
        start.make_room(arguments.max_seq_length)
    task = TASKS[arguments.task](arguments)
    data = task.read()
    task.config_fields(start, data)  # a mistake shows best before the work
    limits = {"train": arguments.max_train_samples, "eval": arguments.max_eval_samples}
    examples = {
        split: sample(some, limits.get(split, limits["eval"]), arguments.seed) for split, some in data.splits.items()
    }
    max_length = longest_row(arguments, task.positions(start))
    rows = {split: task.encode(some, split, start.tokenizer, max_length) for split, some in examples.items()}
    check_metric(arguments, task)
    model, new_weights = build_model(arguments, task, start, data, rows, max_length, arguments.seed)
    if arguments.mixed_precision is None:
        arguments = dataclasses.replace(arguments, mixed_precision="bf16" if computes_in_bfloat16() else "no")
    processes = PartialState(cpu=not torch.accelerator.is_available())  # unless told, it joins no processes on a CPU
    if arguments.num_train_epochs is None:
        steps = steps_per_epoch(arguments, len(rows["train"]), processes.num_processes)
        arguments = dataclasses.replace(arguments, num_train_epochs=usual_epochs(steps, task.usual_steps))
    use_all_cores(processes.device)
    return Run(
        arguments=arguments,
        task=task,
        data=data,
        examples=examples,
        rows=rows,
        max_length=max_length,
        start=start,
        model=model,
        new_weights=new_weights,
        processes=processes,
        seed=arguments.seed,
    )


def usual_epochs(steps: int, usual_steps: int) -> float:
    """How many passes over the training text are made, unless told.

    Args:
        steps: optimizer steps of one pass.
        usual_steps: those that suffice.
    """
    return float(min(MOST_EPOCHS, max(FEWEST_EPOCHS, math.ceil(usual_steps / steps))))


def with_seed(run: Run, seed: int) -> Run:
    """The same fine-tuning from another seed, with the model as it begins."""
    model, new_weights = build_model(run.arguments, run.task, run.start, run.data, run.rows, run.max_length, seed)
    return dataclasses.replace(run, model=model, new_weights=new_weights, seed=seed)


def build_model(
    arguments: FinetuneArguments,
    task: Task,
    start: Start,
    data: TaskData,
    rows: dict[str, Dataset],
    max_length: int,
    seed: int,
) -> tuple[PreTrainedModel, set[str]]:
    """The model as it begins with a seed, and the names of its new weights."""
    set_seed(seed)
    longest = max(max(row_lengths(some)) for some in rows.values())
    model, new_weights = task.build_model(
        start,
        data,
        attn_implementation=fastest_attention(min(max_length, longest)),
        hidden_dropout_prob=arguments.hidden_dropout_prob,
    )
    if arguments.lora_rank is None:
        return model, new_weights
    if start.source is None:
        raise UserError("--lora_rank adapts a pre-trained model, and --model has new weights; leave one of them out")
    if start.is_converted and not arguments.merge_lora:
        raise UserError(
            f"{start.name} is converted before it is adapted, so that the adapters would not fit it; add --merge_lora"
        )
    return with_adapters(model, arguments.lora_rank, arguments.hidden_dropout_prob)


def check_metric(arguments: FinetuneArguments, task: Task) -> None:
    """Check that the task has the metric that shall choose the best epoch.

    Raises:
        UserError: it has not.
    """
    if arguments.best_metric not in (None, "loss", *task.metrics):
        raise UserError(
            f"best_metric {arguments.best_metric} is no metric of this task; it has loss, {', '.join(task.metrics)}"
        )


def longest_row(arguments: FinetuneArguments, positions: int) -> int:
    """The longest row that the arguments allow, in tokens.

    Raises:
        UserError: it is longer than the model's positions, and `Start.make_room` could not add some.
    """
    if arguments.max_seq_length is not None and arguments.max_seq_length > positions:
        raise UserError(
            f"max_seq_length {arguments.max_seq_length} is more than the model's {positions} positions; make it "
            "smaller, or leave it out"
        )
    return arguments.max_seq_length or positions


def sample(rows: Dataset, limit: int | None, seed: int) -> Dataset:
    """At most `limit` rows, drawn at random, since a file may be sorted by label; all rows without a limit."""
    return rows if limit is None else rows.shuffle(seed=seed).select(range(min(limit, len(rows))))


def settings_of(config: Any) -> Any:
    """A configuration, or a part of one, without what says by which version and from which place it was read."""
    if not isinstance(config, dict):
        return config
    return {
        name: settings_of(value)
        for name, value in sorted(config.items())
        if name not in ("transformers_version", "_name_or_path")
    }


def fingerprint(run: Run) -> dict[str, Any]:
    """All that decides the result: the arguments, the content of what they name, and the number of processes."""
    weights = run.model.state_dict()
    return {
        "arguments": saved_arguments(run.arguments),
        "data": content_hash([split, batch] for split, rows in run.data.splits.items() for batch in rows.iter(1_000)),
        "tokenizer": content_hash(
            tokenizer.backend_tokenizer.to_str() for tokenizer in (run.tokenizer, *run.task.more_tokenizers())
        ),
        "configuration": content_hash([settings_of(run.model.config.to_dict())]),
        "model": content_hash(part for name, tensor in weights.items() for part in (name, tensor.numpy().tobytes())),
        "number of processes": run.processes.num_processes,
    }
