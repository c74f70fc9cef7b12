"""The charts of ``benchmarks/results``, drawn from its files as the tables are: beside ``NAME.json`` a ``NAME.png``."""

import json
import statistics
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hf_minibert.files import replaced_file
from hf_minibert.pretraining.arguments import parse_duration
from runs import mean, unit

COLORS = {"ours": "#d9480f", "stock": "#5f6b76", "nanogpt": "#3465a4"}
STEPS = 50  # of which `Trainer` logs the mean loss


def training_curve(lines: list[dict[str, Any]], seconds_per_step: float) -> tuple[list[float], list[float]]:
    """Seconds and training losses; ours, logged more often, in means over as many steps as the peers'."""
    groups: dict[int, list[dict[str, Any]]] = {}
    for line in lines:
        if "loss" in line:
            groups.setdefault((line["step"] - 1) // STEPS, []).append(line)
    whole = [group for group in groups.values() if group[-1]["step"] % STEPS == 0]
    losses = [statistics.mean(line["loss"] for line in group) for group in whole]
    ends = [group[-1] for group in whole]
    return [end["seconds"] if "seconds" in end else end["step"] * seconds_per_step for end in ends], losses


def learning_efficiency(figures: dict[str, Any], file: Path) -> Figure:
    """Held-out loss of ours and its peers, and their training losses, over the time of the budget."""
    figure = Figure(figsize=(6, 4), dpi=150, layout="constrained")
    axes = figure.subplots()
    dev, budget = figures["measure"].replace("test_", "eval_"), parse_duration(figures["budget"])
    word, per = ("minutes", 60) if budget > 60 else ("seconds", 1)
    for who in ("ours", *figures["peers"]):
        color = COLORS[who]
        for one in figures["runs"]:
            folder = file.parent / "runs" / file.stem / f"{who}-{one['seed']}"
            lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
            metrics = one[who]["metrics"]
            seconds, losses = training_curve(lines, budget / one[who]["training"]["steps"])
            scale, moments = metrics[dev] / metrics["eval_loss"], [second / per for second in seconds]
            axes.plot(moments, [loss * scale for loss in losses], color=color, linewidth=0.8, alpha=0.5)
            held_out = [(line["seconds"] / per, line[dev]) for line in lines if dev in line]
            axes.plot(*zip(*(held_out or [(budget / per, metrics[dev])]), strict=True), color=color, marker="o")
        if who != "ours":
            axes.axhline(mean(figures | {"measure": dev}, who), color=color, linestyle=":", linewidth=1)
        axes.plot([], [], color=color, marker="o", label=f"{who}, {figures['runs'][0][who]['training']['precision']}")
    model = "-".join(file.stem.split("-")[1:3])
    axes.set_title(f"{model}, {figures['budget']} on {figures['hardware']}", fontsize=10)
    axes.set(xlabel=word, ylabel=unit(dev), xlim=(0, None))
    axes.legend(frameon=False, title="dots: held out of the corpus; thin: in training", title_fontsize=8)
    plain(axes)
    return figure


def objectives(figures: dict[str, Any], _: Path) -> Figure:
    """How far each objective has come below its unigram loss over time, and the accuracy after fine-tuning."""
    runs = figures["runs"]
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
    plain(left, right)
    return figure


def plain(*axes: Axes) -> None:
    """No box around the curves."""
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)


CHARTS = {chart.__name__: chart for chart in (learning_efficiency, objectives)}


def draw(file: Path) -> None:
    """Draw the chart of a file of results, if there is one of its kind."""
    chart = CHARTS.get(file.stem.partition("-")[0])
    if chart is not None:
        figure = chart(json.loads(file.read_text(encoding="utf-8")), file)
        with replaced_file(file.with_suffix(".png")) as temporary:
            figure.savefig(temporary, format="png")
