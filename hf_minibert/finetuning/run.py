"""Read and check what a fine-tuning needs: data and a pre-trained model, both ready to train."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast, set_seed

from hf_minibert.errors import UserError
from hf_minibert.finetuning.arguments import FinetuneArguments
from hf_minibert.finetuning.task import Task, TaskData
from hf_minibert.finetuning.tasks import TASKS
from hf_minibert.finetuning.unfinished import content_hash, saved_arguments
from hf_minibert.presets import load_config, load_pretrained
from hf_minibert.runs.hardware import computes_in_bfloat16, fastest_attention, use_all_cores
from hf_minibert.tokenization import load_tokenizer


@dataclass(frozen=True)
class Run:
    """A fine-tuning that is about to begin."""

    arguments: FinetuneArguments
    task: Task
    data: TaskData
    rows: dict[str, Dataset]
    """The splits, encoded as the model takes them."""
    tokenizer: PreTrainedTokenizerFast
    model: PreTrainedModel
    new_weights: set[str]
    """The names of the weights that are not pre-trained."""
    processes: PartialState


def read(arguments: FinetuneArguments) -> Run:
    """Read the data and the model that the arguments name.

    Raises:
        UserError: one of them is missing or not acceptable.
    """
    load_config(arguments.model_name_or_path)  # a mistake in the name shows best here
    tokenizer = load_tokenizer(arguments.model_name_or_path)
    task = TASKS[arguments.task]
    data = task.read(arguments)
    set_seed(arguments.seed)
    model, new_weights = build_model(arguments, task, data)
    limits = {"train": arguments.max_train_samples, "eval": arguments.max_eval_samples}
    rows = {
        split: task.encode(sample(some, limits.get(split, limits["eval"]), arguments.seed), tokenizer, arguments)
        for split, some in data.splits.items()
    }
    if arguments.mixed_precision is None:
        arguments = dataclasses.replace(arguments, mixed_precision="bf16" if computes_in_bfloat16() else "no")
    processes = PartialState(cpu=not torch.accelerator.is_available())  # unless told, it joins no processes on a CPU
    use_all_cores(processes.device)
    return Run(arguments, task, data, rows, tokenizer, model, new_weights, processes)


def build_model(arguments: FinetuneArguments, task: Task, data: TaskData) -> tuple[PreTrainedModel, set[str]]:
    """The pre-trained model with the task's head, and the names of the weights that are new.

    Raises:
        UserError: it is not one of ours, has fewer positions than max_seq_length, or has a head for something
            else.
    """
    name = arguments.model_name_or_path
    config = load_config(name)
    if arguments.max_seq_length > config.max_position_embeddings:
        raise UserError(
            f"max_seq_length {arguments.max_seq_length} is more than the model's {config.max_position_embeddings} "
            "positions; make it smaller"
        )
    return load_pretrained(
        task.auto_class,
        name,
        dtype=torch.float32,  # also for a checkpoint in bfloat16, whose rounding would lose short steps
        attn_implementation=fastest_attention(arguments.max_seq_length),
        hidden_dropout_prob=arguments.hidden_dropout_prob,
        **task.config_fields(arguments, config, data),
    )


def sample(rows: Dataset, limit: int | None, seed: int) -> Dataset:
    """At most `limit` rows, drawn at random, since a file may be sorted by label; all rows without a limit."""
    return rows if limit is None else rows.shuffle(seed=seed).select(range(min(limit, len(rows))))


def fingerprint(run: Run) -> dict[str, Any]:
    """All that decides the result: the arguments, the content of what they name, and the number of processes."""
    weights = run.model.state_dict()
    return {
        "arguments": saved_arguments(run.arguments),
        "data": content_hash([split, batch] for split, rows in run.data.splits.items() for batch in rows.iter(1_000)),
        "tokenizer": content_hash([run.tokenizer.backend_tokenizer.to_str()]),
        "model": content_hash(part for name, tensor in weights.items() for part in (name, tensor.numpy().tobytes())),
        "number of processes": run.processes.num_processes,
    }
