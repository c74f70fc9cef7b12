"""The chart of an evaluation: one point for each figure and model."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hf_minibert.runs.curves import INK, style

COLORS = ("#3465a4", "#d9480f", "#2b8a3e", "#862e9c", "#c08a00", "#0b7285", "#5f6b76")
MARKERS = "osD^vPX"


def literal(text: str) -> str:
    """A text as matplotlib writes it, in which a dollar begins no formula."""
    return text.replace("$", r"\$")


def plot_bars(
    bars: Mapping[str, Mapping[str, float]], output: Path, *, axis: str, baseline: tuple[str, float] | None = None
) -> None:
    """Draw figures side by side, from the top in their order; of each label, the models stand one below another.

    Args:
        bars: for each model, a number for each label.
        output: the PNG to write.
        axis: what the numbers are, with their unit.
        baseline: what to compare with: what the legend calls it, and where it is.
    """
    bars = {literal(name): {literal(label): value for label, value in each.items()} for name, each in bars.items()}
    labels = list(dict.fromkeys(label for each in bars.values() for label in each))
    places = {label: -number for number, label in enumerate(labels)}
    figure = Figure(figsize=(8, 1.4 + 0.2 * len(labels)), dpi=120, facecolor="white", layout="constrained")
    axes = figure.subplots()
    style(axes)
    if baseline is not None:
        name, value = baseline
        axes.axvline(value, color="#5f6b76", linewidth=1.2, linestyle=(0, (5, 3)), label=literal(name))
    for number, (name, values) in enumerate(bars.items()):
        lower = 0.4 * (number / (len(bars) - 1) - 0.5) if len(bars) > 1 else 0.0  # so that no point hides its equal
        axes.plot(
            list(values.values()),
            [places[label] - lower for label in values],
            linestyle="none",
            marker=MARKERS[number % len(MARKERS)],
            markersize=5.5,
            color=COLORS[number % len(COLORS)],
            markeredgecolor="white",
            markeredgewidth=0.6,
            label=name,
            zorder=3,
        )
    axes.set_yticks(list(places.values()), labels, fontsize=8)
    axes.set_ylim(-len(labels) + 0.3, 0.7)
    axes.set_xlabel(axis, fontsize=9)
    figure.legend(loc="outside upper right", ncols=3, fontsize=9, frameon=False, labelcolor=INK)
    FigureCanvasAgg(figure)  # draws without a display, and without pyplot's global state
    figure.savefig(output, format="png")
