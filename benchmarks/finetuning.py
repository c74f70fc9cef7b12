r"""What the rates of fine-tuning give: a pre-trained model, fine-tuned in several ways on the same part of the texts.

::

    python benchmarks/finetuning.py --model_name_or_path runs/imdb/pretrained --name minibert \
        --dataset imdb/train.jsonl.xz
    python benchmarks/finetuning.py --model_name_or_path minilm --name minilm --dataset imdb/train.jsonl.xz \
        --variants both 'one rate for all' --max_seq_length 128

Every figure is of held-out texts, never of a test set: this is a choice between rates. Rows that the result file has
are not run again: delete one to repeat it. A negative result stays in the table.
"""

import json
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from hf_minibert.command_line import run
from hf_minibert.errors import UserError
from hf_minibert.finetuning import durable, finetune, trainer
from hf_minibert.finetuning.arguments import LEARNING_RATE, FinetuneArguments
from hf_minibert.finetuning.labelled import load_labelled
from hf_minibert.finetuning.text import TextClassification
from hf_minibert.pretraining.arguments import PretrainArguments
from hf_minibert.pretraining.optimization import build_optimizers
from runs import RESULTS, Benchmark, environment, last_two_parts, machine, results_of, results_so_far, write_results

TRIED = ("finetuning-minibert", "finetuning-minigpt", "finetuning-minilm")

rate_factor = trainer.rate_factor


def norms_too(parameter: Tensor, *, is_new: bool) -> float:
    """Norms and biases in proportion to their size, as if each were a matrix of one row."""
    return rate_factor(parameter.view(-1, parameter.shape[-1]), is_new=is_new)


class PretrainingOptimizers(torch.optim.Optimizer):
    """The optimizers of pre-training as one, since `Trainer` takes one."""

    def __init__(self, model: nn.Module, learning_rate: float, weight_decay: float) -> None:
        arguments = PretrainArguments(output_dir="", optimizer="muon", weight_decay=weight_decay)
        self._optimizers = build_optimizers(model, arguments, learning_rate)
        self._groups = [group for optimizer in self._optimizers for group in optimizer.param_groups]
        super().__init__([{"params": group["params"], "lr": group["lr"]} for group in self._groups], {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of each, at the rates of the schedule."""
        assert closure is None
        for group, shown in zip(self._groups, self.param_groups, strict=True):
            group["lr"] = shown["lr"]
        for optimizer in self._optimizers:
            optimizer.step()


class MuonTrainer(durable.DurableTrainer):
    """Fine-tuning by the optimizers of pre-training; new weights learn as fast as the others."""

    def create_optimizer(self, *_: Any) -> torch.optim.Optimizer:
        """Muon for all matrices but the embeddings, AdamW at eight times its rate for all else."""
        assert self.model is not None
        self.optimizer = PretrainingOptimizers(self.model, self.args.learning_rate, self.args.weight_decay)
        return self.optimizer


@contextmanager
def replaced(names: dict[str, Any]) -> Iterator[None]:
    """Fine-tune with other constants, another function or another trainer."""
    of_trainer = {name: value for name, value in names.items() if name != "trainer_class"}
    of_task = {name: value for name, value in names.items() if name == "trainer_class"}
    with ExitStack() as patches:
        for owner, changed in ((trainer, of_trainer), (TextClassification, of_task)):
            if changed:
                patches.enter_context(mock.patch.multiple(owner, **changed))
        yield


ONE_RATE: dict[str, Any] = {"USUAL_RMS": math.inf, "NEW_WEIGHTS_RATE": 1.0}
BOTH: dict[str, Any] = {"USUAL_RMS": 0.05, "NEW_WEIGHTS_RATE": 10.0}

# What a variant replaces in `hf_minibert.finetuning.trainer`; the trainer itself, in the task, which uses it.
VARIANTS: dict[str, dict[str, Any]] = {
    "one rate for all": ONE_RATE,
    "classifier 10 times as fast": ONE_RATE | {"NEW_WEIGHTS_RATE": 10.0},
    "matrices in proportion to 0.1": ONE_RATE | {"USUAL_RMS": 0.1},
    "both": BOTH,
    "both, in proportion to 0.1": BOTH | {"USUAL_RMS": 0.1},
    "both, in proportion to 0.03": BOTH | {"USUAL_RMS": 0.03},
    "both, in proportion to 0.1, classifier 30 times": BOTH | {"USUAL_RMS": 0.1, "NEW_WEIGHTS_RATE": 30.0},
    "both, in proportion to 0.1, norms too": BOTH | {"USUAL_RMS": 0.1, "rate_factor": norms_too},
    "Muon": {"trainer_class": MuonTrainer},
}


@dataclass(kw_only=True)
class Arguments(Benchmark):
    """Fine-tune a model with several rates, and write what each reached on held-out texts."""

    model_name_or_path: str
    """Folder of a pre-trained model."""
    name: str
    """What to call it in the results."""
    dataset: str = "builtin"
    """Labelled texts without a test split, as in `scripts/finetune.py`: a file, where a folder has test texts too."""
    variants: list[str] = field(default_factory=lambda: list(VARIANTS))
    """Which of the variants."""
    learning_rates: list[float] = field(default_factory=lambda: [LEARNING_RATE])
    """Each variant with each of them."""
    max_train_samples: int = 4_000
    """Texts to train on, once."""
    max_eval_samples: int = 2_000
    """Held-out texts to measure on."""
    max_seq_length: int = 256
    """Longer texts are cut."""
    seed: int = 42
    """Of the new weights and the order of the texts."""
    output_dir: str = "runs/finetuning"
    """Folder for the classifiers."""


def table(figures: dict[str, Any]) -> list[str]:
    """The accuracy of each way to fine-tune, best first."""
    lines = [
        f"| {figures['model']} on {figures['max_train_samples']:,} texts | learning rate | accuracy | loss |",
        "|---|---:|---:|---:|",
    ]
    for row in sorted(figures["rows"], key=lambda row: -row["metrics"]["eval_accuracy"]):
        metrics = row["metrics"]
        lines.append(
            f"| {row['variant']} | {row['learning_rate']:g} | {metrics['eval_accuracy']:.1%} "
            f"| {metrics['eval_loss']:.3f} |"
        )
    note = f"{figures['max_eval_samples']:,} held-out texts of {figures['dataset']}, seed {figures['seed']}"
    return [*lines, "", f"({note}; one pass, without dropout)"]


def overview() -> list[str]:
    """The two rules of fine-tuning beside one rate for all weights, for every model that was tried."""
    rate = LEARNING_RATE
    files = [json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")) for name in TRIED]
    samples = ", ".join({f"{figures['max_train_samples']:,}" for figures in files})

    def cell(figures: dict[str, Any], variant: str) -> str:
        (row,) = (row for row in figures["rows"] if (row["variant"], row["learning_rate"]) == (variant, rate))
        return f"{row['metrics']['eval_accuracy']:.1%}"

    return [
        f"| accuracy after {samples} texts at a rate of {rate:g} | one rate for all | both rules |",
        "|---|---:|---:|",
        *(f"| {one['model']} | {cell(one, 'one rate for all')} | {cell(one, 'both')} |" for one in files),
        "",
        f"({files[0]['max_eval_samples']:,} held-out texts of {files[0]['dataset']}, one seed, one pass, without "
        "dropout)",
    ]


def main(arguments: Arguments) -> int:
    """All runs that are not there yet, one after another.

    Raises:
        UserError: there is no such variant, or the data has a test split.
    """
    if unknown := set(arguments.variants) - set(VARIANTS):
        raise UserError(f"unknown variant {unknown.pop()!r}; there is {', '.join(map(repr, VARIANTS))}")
    if load_labelled(arguments.dataset).test is not None:
        raise UserError(f"{arguments.dataset} has a test split, which is not for choosing; give the training file")
    settings = {
        "model": arguments.name,
        "pretrained": Path(arguments.model_name_or_path).name,
        "dataset": last_two_parts(arguments.dataset),
        **{key: getattr(arguments, key) for key in ("max_train_samples", "max_eval_samples", "max_seq_length", "seed")},
    }
    file = arguments.results / f"{'-'.join(('finetuning', arguments.name, *machine()))}.json"
    output = Path(arguments.output_dir).resolve() / arguments.name
    rows: list[dict[str, Any]] = results_so_far(file, settings).get("rows", [])
    for variant in arguments.variants:
        for rate in arguments.learning_rates:
            if any((row["variant"], row["learning_rate"]) == (variant, rate) for row in rows):
                continue
            print(f"\n{variant}, learning rate {rate:g}")
            with replaced(VARIANTS[variant]):
                finetune.finetune(
                    FinetuneArguments(
                        model_name_or_path=arguments.model_name_or_path,
                        dataset=arguments.dataset,
                        learning_rate=rate,
                        num_train_epochs=1,
                        max_train_samples=arguments.max_train_samples,
                        max_eval_samples=arguments.max_eval_samples,
                        max_seq_length=arguments.max_seq_length,
                        hidden_dropout_prob=0.0,  # one pass does not overfit
                        lm_loss_weight=0.0,  # better on so few texts
                        seed=arguments.seed,
                        output_dir=str(output),
                        overwrite_output_dir=True,
                    )
                )
            metrics = results_of(output)["metrics"]
            rows.append({"variant": variant, "learning_rate": rate, "metrics": metrics})
            write_results(file, settings | {"rows": rows, "environment": environment()})
    for row in sorted(rows, key=lambda row: -row["metrics"]["eval_accuracy"]):
        print(f"{row['metrics']['eval_accuracy']:.1%}  {row['variant']}, learning rate {row['learning_rate']:g}")
    print(f"\nfigures  {file}")
    return 0


if __name__ == "__main__":
    run(Arguments, main)
