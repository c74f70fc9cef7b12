"""The picture of a run: ``metrics.jsonl`` in, a PNG with its loss and learning-rate curves out."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from hf_minibert.errors import UserError
from hf_minibert.files import replaced_file
from hf_minibert.runs.scores import score_of

_TRAINING_COLOR = "#3465a4"
_HELD_OUT_COLOR = "#d9480f"
_BASELINE_COLORS = ("#5f6b76", "#8a6d3b", "#6b5b95")
INK = "#30363d"
_GRID_COLOR = "#e6e8eb"


def _read_metrics(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The training and the evaluation lines by step; of a step repeated after a resume, the later line."""
    training: dict[int, dict[str, Any]] = {}
    evaluation: dict[int, dict[str, Any]] = {}
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1] if lines[-1] == b"" else lines, start=1):
        try:
            record = json.loads(line.decode())
            (evaluation if "eval_loss" in record else training)[record["step"]] = record
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"line {number} of {path} is not a line of metrics with a step") from error
    if not training and not evaluation:
        raise UserError(f"{path} is empty, so there is nothing to plot; scripts/pretrain.py fills it as it trains")
    return [training[step] for step in sorted(training)], [evaluation[step] for step in sorted(evaluation)]


def _number(line: dict[str, Any], name: str) -> float:
    """A value of a line; one that was not finite stands there as null."""
    value = line.get(name)
    return math.nan if value is None else float(value)


def _smooth(values: Sequence[float]) -> list[float]:
    """Mean over the neighbours of each value on both sides, so that a falling curve does not lag; gaps are kept.

    At the start the window shrinks on both sides, where losses fall too fast for a one-sided one.
    """
    reach = min(len(values) // 40, 50)
    smoothed = []
    for index, value in enumerate(values):
        near = min(reach, index)
        window = [item for item in values[index - near : index + near + 1] if math.isfinite(item)]
        smoothed.append(sum(window) / len(window) if math.isfinite(value) else math.nan)
    return smoothed


def style(axes: Axes) -> None:
    """The look of all our pictures: a light grid, no frame."""
    axes.grid(visible=True, color=_GRID_COLOR, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#b5bbc2")
    axes.tick_params(colors=INK, labelsize=9, length=3, color="#b5bbc2")
    axes.yaxis.label.set_color(INK)
    axes.xaxis.label.set_color(INK)


def _held_out_label(last: dict[str, Any]) -> str:
    label = f"held-out: {_number(last, 'eval_loss'):.2f}"
    if "eval_bits_per_byte" in last:
        label += f" ({_number(last, 'eval_bits_per_byte'):.2f} bits per byte)"
    return label


def _plot_held_out(axes: Axes, evaluation: Sequence[dict[str, Any]], unit: str, name: str, label: str) -> None:
    axes.plot(
        [line[unit] for line in evaluation],
        [_number(line, name) for line in evaluation],
        color=_HELD_OUT_COLOR,
        linewidth=1.0,
        marker="o",
        markersize=4.5,
        markeredgecolor="white",
        markeredgewidth=0.7,
        label=label,
        zorder=3,
    )


def plot_curves(
    metrics_file: Path,
    output: Path,
    *,
    baselines: Mapping[str, float] | None = None,
    score: str | None = None,
    score_baseline: tuple[str, float] | None = None,
) -> None:
    """Draw a run's losses over its learning rate, against tokens where they were counted and steps where not.

    Args:
        metrics_file: the run's ``metrics.jsonl``.
        output: the PNG to write; it appears whole or not at all.
        baselines: losses to compare with, in nats per predicted token, by the name that the legend shows.
        score: a held-out metric to draw below the losses.
        score_baseline: what to compare it with: the name that the legend shows, and the value.

    Raises:
        UserError: the file has no line of metrics, or one that cannot be read.
    """
    training, evaluation = _read_metrics(metrics_file)
    lines = training + evaluation
    unit = "tokens" if all("tokens" in line for line in lines) else "step"
    last = max(lines, key=lambda line: line["step"])

    figure = Figure(figsize=(8, 5), dpi=150, facecolor="white", layout="constrained")
    heights = [3.2, 1.0] if score is None else [3.2, 1.6, 1.0]
    loss_axes, *accuracy_axes, rate_axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    for axes in (loss_axes, *accuracy_axes, rate_axes):
        style(axes)

    single = "o" if len(training) == 1 else ""
    position = [line[unit] for line in training]
    losses = [_number(line, "loss") for line in training]
    if training:
        loss_axes.plot(position, losses, color=_TRAINING_COLOR, alpha=0.35, linewidth=0.8)
        smoothed = _smooth(losses)
        label = f"training: {smoothed[-1]:.2f}"
        loss_axes.plot(
            position, smoothed, color=_TRAINING_COLOR, linewidth=1.8, marker=single, markersize=4, label=label
        )
        rates = [_number(line, "learning_rate") for line in training]
        rate_axes.plot(position, rates, color=_TRAINING_COLOR, linewidth=1.5, marker=single, markersize=4)
    if evaluation:
        _plot_held_out(loss_axes, evaluation, unit, "eval_loss", _held_out_label(evaluation[-1]))
    if score is not None:
        (axes,), shown = accuracy_axes, score_of(score).shown
        _plot_held_out(axes, evaluation, unit, f"eval_{score}", f"held-out: {shown(evaluation[-1][f'eval_{score}'])}")
        if score_baseline is not None:
            name, value = score_baseline
            color, dashes = _BASELINE_COLORS[0], (0, (5, 3))
            axes.axhline(value, color=color, linewidth=1.2, linestyle=dashes, label=f"{name}: {shown(value)}")
        axes.set_ylabel(score.replace("_", " "), fontsize=9)
        axes.legend(frameon=True, framealpha=0.9, edgecolor="none", fontsize=9, loc="best", labelcolor=INK)
    for number, (name, value) in enumerate((baselines or {}).items()):
        color = _BASELINE_COLORS[number % len(_BASELINE_COLORS)]
        loss_axes.axhline(value, color=color, linewidth=1.2, linestyle=(0, (5, 3)), label=f"{name}: {value:.2f}")

    loss_axes.set_ylabel("loss (nats)", fontsize=9)
    rate_axes.set_ylabel("learning rate", fontsize=9)
    rate_axes.set_ylim(bottom=0)
    rate_axes.yaxis.set_major_locator(MaxNLocator(nbins=3))
    rate_axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    rate_axes.yaxis.get_offset_text().set_fontsize(8)
    rate_axes.set_xlabel("tokens seen" if unit == "tokens" else "optimizer steps", fontsize=9)
    rate_axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if last[unit] > 0:
        loss_axes.set_xlim(0, last[unit] * 1.02)
    if unit == "tokens" and last["tokens"] > 0 and last["step"] > 0:
        tokens_per_step = last["tokens"] / last["step"]
        step_axis = loss_axes.secondary_xaxis(
            "top", functions=(lambda tokens: tokens / tokens_per_step, lambda step: step * tokens_per_step)
        )
        step_axis.set_xlabel("optimizer steps", fontsize=9, color=INK)
        step_axis.tick_params(colors=INK, labelsize=9, length=3, color="#b5bbc2")
        step_axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        step_axis.spines["top"].set_color("#b5bbc2")
    loss_axes.legend(frameon=True, framealpha=0.9, edgecolor="none", fontsize=9, loc="upper right", labelcolor=INK)

    FigureCanvasAgg(figure)  # draws without a display, and without pyplot's global state
    with replaced_file(output) as unfinished:
        figure.savefig(unfinished, format="png")
