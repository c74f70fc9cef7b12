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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_minibert.command_line import run
from hf_minibert.files import write_json
from hf_minibert.presets import FAMILIES
from runs import Benchmark, results_of, script

OPTIMIZERS = ("muon", "adamw")


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
    """Optimizer steps of every run, of 2,048 tokens each."""
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
    path = Path(arguments.results_dir) / f"blimp-{arguments.size}.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    for family, optimizer, seed in itertools.product(FAMILIES, OPTIMIZERS, arguments.seeds):
        row: dict[str, Any] = {"model": f"{family}-{arguments.size}", "optimizer": optimizer, "seed": seed}
        row["max_steps"] = arguments.max_steps
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
            "per_device_train_batch_size": 2_048 // length,
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
        found = {name: metrics[name] for name in ("eval_loss", "eval_bits_per_byte") if name in metrics}
        rows.append(row | found | {"blimp": measured["accuracy"], "hardware": measured["hardware"]})
        arguments.results  # noqa: B018  # makes the folder
        write_json(path, rows)
    for row in rows:
        print(json.dumps(row))
    return 0


def _words(name: str, flags: dict[str, Any]) -> list[str]:
    """A command as people type it."""
    words = ["hf-minibert", name]
    for flag, value in flags.items():
        if value is not None:
            words += [f"--{flag}", *map(str, value if isinstance(value, list) else [value])]
    return words


if __name__ == "__main__":
    run(Arguments, main)
