"""What the mask and the objective each do: models of one shape, trained for the same time on the same text.

::

    python benchmarks/objectives.py --budget 10m
    python benchmarks/objectives.py --corpus 'texts/*.jsonl' --datasets glue/sst2:sentence imdb/train.jsonl

MiniBERT learns `mlm`, `mlm+nsp`, `mlm+sop` and `hybrid`, MiniGPT `clm`; they run in the order of the table. A masked
and a causal loss are not comparable, so each stands beside the loss of word frequencies alone. What is comparable is
the accuracy on held-out texts after the same fine-tuning (never on a test set: this is a choice between objectives).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

import charts
from hf_minibert.command_line import invocation, run
from runs import Benchmark, curves, environment, last_two_parts, log_of, results_of, script, write_results

OBJECTIVES = {
    "mlm": "minibert",
    "mlm+nsp": "minibert",
    "mlm+sop": "minibert",
    "hybrid": "minibert",
    "clm": "minigpt",
}


@dataclass(kw_only=True)
class Arguments(Benchmark):
    """Train both models of one shape with every objective, and fine-tune them all alike."""

    size: str = "mini"
    """tiny, mini, small or medium."""
    corpus: list[str] = field(default_factory=lambda: ["builtin"])
    """Text, as in `scripts/pretrain.py`."""
    budget: str = "10m"
    """Time of each pre-training."""
    max_seq_length: int = 128
    """Tokens in a row, the same for both models."""
    datasets: list[str] = field(default_factory=lambda: ["builtin"])
    """Labelled texts, each as in `scripts/finetune.py`, and after a colon the column of the text, if it is not `text`.
    Give a file where a folder also has test texts."""
    max_train_samples: int = 4_000
    """Fine-tune on so many texts of each."""
    max_eval_samples: int = 2_000
    """Measure on so many of its held-out texts."""
    output_dir: str = "runs/objectives"
    """Folder for the runs."""


def compare(arguments: Arguments, objective: str, output: Path) -> dict[str, Any]:
    """Pre-train with an objective and fine-tune the result; the figures of both."""
    pretrained = output / objective
    script(
        "pretrain.py",
        model=f"{OBJECTIVES[objective]}-{arguments.size}",
        objective=objective,
        corpus=arguments.corpus,
        budget=arguments.budget,
        max_seq_length=arguments.max_seq_length,
        output_dir=pretrained,
        overwrite_output_dir=True,
    )
    before = results_of(pretrained)
    accuracies = {}
    for source in arguments.datasets:
        dataset, _, column = source.partition(":")
        classifier = output / f"{objective}-{last_two_parts(dataset).replace('/', '-')}"
        script(
            "finetune.py",
            model_name_or_path=pretrained,
            dataset=dataset,
            text_column=column or None,
            max_train_samples=arguments.max_train_samples,
            max_eval_samples=arguments.max_eval_samples,
            max_seq_length=arguments.max_seq_length,
            num_train_epochs=3,
            lm_loss_weight=0,  # so that the classifiers learn alike
            output_dir=classifier,
            overwrite_output_dir=True,
        )
        metrics = results_of(classifier)["metrics"]
        accuracies[last_two_parts(dataset)] = {key: metrics[key] for key in ("eval_accuracy", "majority_accuracy")}
    return {
        "model": before["preset"],
        "objective": objective,
        "num_parameters": before["num_parameters"],
        "training": before["training"],
        "metrics": before["metrics"],
        "finetuning": accuracies,
        "curves": curves(log_of(pretrained)),
    }


def table(figures: dict[str, Any]) -> list[str]:
    """The loss and the accuracy that each objective reaches in the same time."""
    first = figures["runs"][0]
    datasets = first["finetuning"]
    lines = [
        f"| {figures['budget']} on {first['training']['hardware']} | million tokens "
        "| nats per masked token (by frequencies alone) | bits per byte (by frequencies alone) "
        f"| {' | '.join(f'accuracy, {name}' for name in datasets)} |",
        "|---|---:|---:|---:|" + "---:|" * len(datasets),
    ]
    for one in figures["runs"]:
        before = one["metrics"]
        masked = before.get("eval_mlm_loss", before["eval_loss"] if one["objective"] == "mlm" else None)
        pairs = (
            (masked, before["unigram_loss"]),
            (before.get("eval_bits_per_byte"), before.get("byte_unigram_bits_per_byte")),
        )
        cells = [f"{one['training']['tokens_seen'] / 1e6:.1f}"]
        cells += ["" if loss is None else f"{loss:.2f} ({alone:.2f})" for loss, alone in pairs]
        cells += [f"{one['finetuning'][name]['eval_accuracy']:.1%}" for name in datasets]
        lines.append(f"| `{one['objective']}` | {' | '.join(cells)} |")
    pairs_told = ", ".join(
        f"`{one['objective']}` {one['metrics']['eval_nsp_accuracy']:.0%}"
        for one in figures["runs"]
        if "eval_nsp_accuracy" in one["metrics"]
    )
    commonest = " | ".join(f"{one['majority_accuracy']:.1%}" for one in datasets.values())
    return [
        *lines,
        f"| always the commonest label | | | | {commonest} |",
        "",
        f"(`{first['model']}` and the MiniGPT of its size on {', '.join(figures['corpus'])}; pairs of segments that a "
        f"model tells right: {pairs_told}; `{figures['command']}`)",
    ]


def chart(figures: dict[str, Any]) -> Figure:
    """How far each objective falls below its unigram loss over time, and the accuracy after fine-tuning."""
    runs = figures["runs"]
    figure = Figure(figsize=(9, 3.6), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    for one in runs:
        unigram = one["metrics"]["unigram_loss"]
        points = [(seconds / 60, unigram - loss) for _, _, seconds, loss in one["curves"]["held_out"]]
        left.plot(*zip(*points, strict=True), marker="o", label=one["objective"])
    left.set(xlabel="minutes", ylabel="nats per token below the unigram loss", ylim=(0, None))
    left.legend(frameon=False)
    datasets, width = list(runs[0]["finetuning"]), 0.8 / len(runs)
    for index, one in enumerate(runs):
        accuracies = [one["finetuning"][name]["eval_accuracy"] for name in datasets]
        places = [place + (index - (len(runs) - 1) / 2) * width for place in range(len(datasets))]
        bars = right.bar(places, accuracies, width)
        right.bar_label(bars, [f"{100 * accuracy:.0f}" for accuracy in accuracies], fontsize=7)
    for place, name in enumerate(datasets):
        majority = runs[0]["finetuning"][name]["majority_accuracy"]
        right.plot((place - 0.45, place + 0.45), (majority, majority), color="black", linestyle="--", linewidth=1)
    right.set_xticks(range(len(datasets)), datasets)
    right.set(ylabel="held-out accuracy after fine-tuning", ylim=(0, 1))
    right.set_title("dashed: always the commonest label", fontsize=8)
    charts.remove_box(left, right)
    return figure


def main(arguments: Arguments) -> int:
    """All runs, the table and the chart."""
    output = Path(arguments.output_dir).resolve() / arguments.size
    runs = [compare(arguments, objective, output) for objective in OBJECTIVES]
    file = arguments.results / f"objectives-{arguments.size}.json"
    figures = {
        "command": invocation(),
        "budget": arguments.budget,
        "corpus": [last_two_parts(name) for name in arguments.corpus],
        "runs": runs,
        "environment": environment(),
    }
    write_results(file, figures)
    charts.save(chart(figures), file)
    return 0


if __name__ == "__main__":
    run(Arguments, main)
