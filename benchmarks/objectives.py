"""What the mask and the objective each do: models of one shape, trained for the same time on the same text.

::

    python benchmarks/objectives.py --budget 10m
    python benchmarks/objectives.py --corpus 'texts/*.jsonl' --dataset FOLDER --label_names negative positive

MiniBERT learns `mlm`, `mlm+nsp`, `mlm+sop` and `hybrid`, MiniGPT `clm`; the order of the runs is that of the table. A
masked and a causal loss are not comparable with each other, so each stands beside what frequencies alone would give;
what is comparable is the accuracy on held-out texts after the same fine-tuning (never on a test set: this is a choice
between objectives).
"""

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from hf_minibert.command_line import invocation, run
from hf_minibert.files import write_json
from hf_minibert.training.report import environment

REPOSITORY = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
OBJECTIVES = {
    "mlm": "minibert",
    "mlm+nsp": "minibert",
    "mlm+sop": "minibert",
    "hybrid": "minibert",
    "clm": "minigpt",
}


@dataclass(kw_only=True)
class Arguments:
    """Train both models of one shape with every objective, and fine-tune them all alike."""

    size: str = "mini"
    """tiny, mini, small or medium."""
    corpus: list[str] = field(default_factory=lambda: ["builtin"])
    """Text, as in `scripts/pretrain.py`."""
    budget: str = "10m"
    """Time of each pre-training."""
    max_seq_length: int = 128
    """Tokens in a row, the same for both models."""
    dataset: str = "builtin"
    """Labelled text, as in `scripts/finetune.py`."""
    label_names: list[str] | None = None
    """What its class ids mean, if they are numbers."""
    max_train_samples: int = 4_000
    """Fine-tune on so many texts."""
    output_dir: str = "runs/objectives"
    """Folder for the runs."""


def script(name: str, **flags: Any) -> None:
    """Run one of the scripts as a user would."""
    command = [sys.executable, str(REPOSITORY / "scripts" / name)]
    for flag, value in flags.items():
        if value is not None:
            command += [f"--{flag}", *(map(str, value) if isinstance(value, list) else [str(value)])]
    subprocess.run([*command, "--overwrite_output_dir"], check=True, cwd=REPOSITORY)


def compare(arguments: Arguments, objective: str, output: Path) -> dict[str, Any]:
    """Pre-train with an objective and fine-tune the result; the figures of both."""
    pretrained, classifier = output / objective, output / f"{objective}-classifier"
    script(
        "pretrain.py",
        model=f"{OBJECTIVES[objective]}-{arguments.size}",
        objective=objective,
        corpus=arguments.corpus,
        budget=arguments.budget,
        max_seq_length=arguments.max_seq_length,
        output_dir=pretrained,
    )
    script(
        "finetune.py",
        model_name_or_path=pretrained,
        dataset=arguments.dataset,
        label_names=arguments.label_names,
        max_train_samples=arguments.max_train_samples,
        max_seq_length=arguments.max_seq_length,
        lm_loss_weight=0,  # so that the classifiers learn alike
        output_dir=classifier,
    )
    before, after = (
        json.loads((folder / "results.json").read_text(encoding="utf-8")) for folder in (pretrained, classifier)
    )
    lines = [json.loads(line) for line in (pretrained / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    name = "eval_loss" if objective in ("mlm", "clm") else "eval_mlm_loss"
    return {
        "model": before["preset"],
        "objective": objective,
        "num_parameters": before["num_parameters"],
        "training": before["training"],
        "metrics": before["metrics"],
        "curve": [[line["seconds"], line[name]] for line in lines if name in line],
        "finetuning": {key: after[key] for key in ("dataset", "metrics")},
    }


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """How far each objective has come below its unigram loss over time, and the accuracy after fine-tuning."""
    figure = Figure(figsize=(9, 3.6), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    for one in runs:
        seconds, losses = zip(*one["curve"], strict=True)
        unigram = one["metrics"]["unigram_loss"]
        left.plot(
            [value / 60 for value in seconds], [unigram - loss for loss in losses], marker="o", label=one["objective"]
        )
    left.set(xlabel="minutes", ylabel="nats per token below the unigram loss", ylim=(0, None))
    left.legend(frameon=False)
    names = [one["objective"] for one in runs]
    accuracies = [one["finetuning"]["metrics"]["eval_accuracy"] for one in runs]
    bars = right.bar(names, accuracies, color=[f"C{index}" for index in range(len(runs))])
    right.bar_label(bars, [f"{accuracy:.1%}" for accuracy in accuracies], fontsize=8)
    majority = runs[0]["finetuning"]["metrics"]["majority_accuracy"]
    right.axhline(majority, color="gray", linestyle="--", linewidth=1)
    right.set(ylabel="held-out accuracy after fine-tuning", ylim=(0, 1))
    right.annotate(
        "always the commonest label", (0.02, majority), xycoords=("axes fraction", "data"), fontsize=7, va="bottom"
    )
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def main(arguments: Arguments) -> int:
    """All runs, the table and the chart."""
    output = Path(arguments.output_dir).resolve() / arguments.size
    runs = [compare(arguments, objective, output) for objective in OBJECTIVES]
    write_json(
        RESULTS / f"objectives-{arguments.size}.json",
        {
            "command": invocation(),
            "budget": arguments.budget,
            "corpus": [Path(name).parent.name + "/" + Path(name).name for name in arguments.corpus],
            "runs": runs,
            "environment": environment(),
        },
    )
    draw(runs, RESULTS / f"objectives-{arguments.size}.png")
    return 0


if __name__ == "__main__":
    run(Arguments, main)
