"""Whether an optimizer that fits the loss better also knows grammar better: BLiMP of Muon and of AdamW.

::

    python benchmarks/blimp.py --corpus 'texts/*.jsonl.xz' --dataset blimp.jsonl.xz --seeds 42 43
    python benchmarks/blimp.py --corpus 'texts/*.jsonl.xz' --dataset blimp.jsonl.xz --dry_run

Masked and causal models of one size learn from the same tokens, each with the default rate of its optimizer. Runs that
the result file has are not run again. (A project of 33M parameters found Muon five points of BLiMP behind although its
loss was lower.)
"""

import itertools
import json
import shlex
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_minibert.command_line import invocation, run
from hf_minibert.presets import FAMILIES
from runs import Benchmark, environment, last_two_parts, results_of, results_so_far, script, write_results

OPTIMIZERS = ("muon", "adamw")
TOKENS_PER_STEP = 2_048
LOSSES = {"eval_bits_per_byte": "bits per byte", "eval_loss": "nats per masked token"}
"""Held-out losses, the first that a model has counts, and their units."""


@dataclass(kw_only=True)
class Arguments(Benchmark):
    """BLiMP and held-out loss of both optimizers, masked and causal, after the same tokens."""

    corpus: list[str]
    """Text to train on."""
    dataset: list[str]
    """Minimal pairs: files or folders."""
    size: str = "mini"
    """The size of the models."""
    max_steps: int = 8_000
    """Optimizer steps of every run, of `TOKENS_PER_STEP` tokens each."""
    max_pairs: int | None = None
    """Take only the first so many pairs of each paradigm."""
    seeds: list[int] = field(default_factory=lambda: [42, 43])
    """One run of each kind with each."""
    work_dir: str = "runs/blimp"
    """Folder for the runs."""
    dry_run: bool = False
    """Only print what would be run."""


def main(arguments: Arguments) -> int:
    """Train and measure, one run after the other."""
    settings: dict[str, Any] = {
        "max_steps": arguments.max_steps,
        "max_pairs": arguments.max_pairs,
        "corpus": list(map(last_two_parts, arguments.corpus)),
        "dataset": list(map(last_two_parts, arguments.dataset)),
    }
    path = Path(arguments.results_dir, f"blimp-{arguments.size}.json")
    figures = results_so_far(path, settings) or settings | {"rows": [], "environment": environment()}
    figures["command"] = invocation()
    rows: list[dict[str, Any]] = figures["rows"]
    for family, optimizer, seed in itertools.product(FAMILIES, OPTIMIZERS, arguments.seeds):
        row: dict[str, Any] = {"model": f"{family}-{arguments.size}", "optimizer": optimizer, "seed": seed}
        if any(row.items() <= done.items() for done in rows):
            continue
        folder = Path(arguments.work_dir).resolve() / f"{family}-{arguments.size}-{optimizer}-{seed}"
        length = FAMILIES[family].max_seq_length
        training = {
            "model": row["model"],
            "corpus": arguments.corpus,
            "optimizer": optimizer,
            "seed": seed,
            "max_steps": arguments.max_steps,
            "max_seq_length": length,
            "per_device_train_batch_size": TOKENS_PER_STEP // length,
            "output_dir": folder,
            "overwrite_output_dir": True,
        }
        measuring = {
            "suite": "blimp",
            "model_name_or_path": folder,
            "dataset": arguments.dataset,
            "max_pairs": arguments.max_pairs,
            "output_dir": f"{folder}-blimp",
        }
        if arguments.dry_run:
            for name, flags in (("pretrain", training), ("evaluate", measuring)):
                print(shlex.join(_words(name, flags)))
            continue
        script("pretrain.py", **training)
        script("evaluate.py", **measuring)
        measured = json.loads(Path(f"{folder}-blimp", "results.json").read_text(encoding="utf-8"))
        metrics = results_of(folder)["metrics"]
        found = {name: metrics[name] for name in LOSSES if name in metrics}
        rows.append(row | found | {"blimp": measured["accuracy"], "hardware": measured["hardware"]})
        arguments.results  # noqa: B018  # makes the folder
        write_results(path, figures)
    if not arguments.dry_run:
        print("\n".join(table(figures)))
    return 0


def table(figures: dict[str, Any]) -> list[str]:
    """BLiMP and the held-out loss of each kind of model with each optimizer, the mean over the seeds."""
    million = figures["max_steps"] * TOKENS_PER_STEP / 1e6
    lines = [f"| after {million:.1f} million tokens | optimizer | BLiMP (%), mean of its seeds | held-out loss |"]
    lines.append("|---|---|---:|---:|")
    for model, optimizer in dict.fromkeys((row["model"], row["optimizer"]) for row in figures["rows"]):
        some = [row for row in figures["rows"] if (row["model"], row["optimizer"]) == (model, optimizer)]
        name = next(name for name in LOSSES if name in some[0])
        pairs = [f"{row['blimp']:.1f}" for row in some]
        lines.append(
            f"| `{model}` | {optimizer} | {statistics.mean(row['blimp'] for row in some):.1f} ({', '.join(pairs)}) "
            f"| {statistics.mean(row[name] for row in some):.3f} {LOSSES[name]} |"
        )
    pairs_of = "" if figures["max_pairs"] is None else f"{figures['max_pairs']} pairs of each paradigm; "
    seeds = ", ".join(map(str, dict.fromkeys(row["seed"] for row in figures["rows"])))
    return [*lines, "", f"({pairs_of}seeds {seeds}; {figures['rows'][0]['hardware']}; `{figures['command']}`)"]


def _words(name: str, flags: dict[str, Any]) -> list[str]:
    """A command as people type it."""
    words = ["hf-minibert", name]
    for flag, value in flags.items():
        if value is not None:
            words += [f"--{flag}", *map(str, value if isinstance(value, list) else [value])]
    return words


if __name__ == "__main__":
    run(Arguments, main)
