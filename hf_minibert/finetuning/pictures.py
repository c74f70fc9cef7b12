"""Pictures of predictions, for the card: which labels are taken for which, and how well each is found."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_fscore_support

from hf_minibert.data.tables import shown
from hf_minibert.files import replaced_file

LABELS_DRAWN = 30
"""Of more labels, the commonest ones are drawn."""
_INK, _BLUE, _ORANGE = "#30363d", "#3465a4", "#d9480f"


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=130, facecolor="white", layout="constrained")
    axes = figure.subplots()
    axes.tick_params(colors=_INK, labelsize=8)
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)  # draws without a display, and without pyplot's global state
    with replaced_file(path) as unfinished:
        figure.savefig(unfinished, format="png")


def _commonest(counts: NDArray[Any]) -> NDArray[Any]:
    """The places of the largest counts, in their order."""
    return np.sort(np.argsort(-counts, kind="stable")[:LABELS_DRAWN])


def _written(name: str) -> str:
    """A label as matplotlib writes it: short, and no formula."""
    short = shown(name)[:24]
    return short.replace("$", r"\$")


def draw_confusion(path: Path, true: NDArray[Any], said: NDArray[Any], labels: list[str]) -> None:
    """For each true label (a row), the share of its texts that got each label.

    Args:
        path: the PNG to write.
        true: class ids, (examples,).
        said: class ids, (examples,).
        labels: the name of every class id.
    """
    drawn = _commonest(np.bincount(true, minlength=len(labels)))
    among = np.isin(true, drawn) & np.isin(said, drawn)  # a matrix of all labels may not fit into memory
    places = (np.searchsorted(drawn, true[among]), np.searchsorted(drawn, said[among]))
    shape = (len(drawn), len(drawn))
    counts = np.bincount(np.ravel_multi_index(places, shape), minlength=shape[0] ** 2).reshape(shape)
    shares = counts / np.maximum(np.bincount(true, minlength=len(labels))[drawn, None], 1)
    names = [_written(labels[place]) for place in drawn]
    side = max(3.2, 1.6 + 0.38 * len(names))
    figure, axes = _figure(side + 0.8, side)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(
        range(len(names)), names, rotation=45 if len(names) > 2 else 0, ha="right" if len(names) > 2 else "center"
    )
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted", fontsize=9, color=_INK)
    axes.set_ylabel("true", fontsize=9, color=_INK)
    if len(names) <= 12:
        for (row, column), count in np.ndenumerate(counts):
            color = "white" if shares[row, column] > 0.55 else _INK
            axes.text(column, row, f"{count:,}", ha="center", va="center", fontsize=8, color=color)
    _save(figure, path)


def draw_shares(path: Path, true: NDArray[Any], said: NDArray[Any], labels: list[str]) -> None:
    """Precision and recall of each label, as bars.

    Args:
        path: the PNG to write.
        true: 1 where a text has a label, (examples, labels).
        said: the same, as predicted.
        labels: the name of every column.
    """
    drawn = _commonest(true.sum(axis=0))
    precision, recall, _, support = precision_recall_fscore_support(true, said, average=None, zero_division=0)
    draw_bars(path, [labels[place] for place in drawn], precision[drawn], recall[drawn], support[drawn])


def draw_bars(
    path: Path,
    names: list[str],
    first: NDArray[Any],
    second: NDArray[Any],
    support: NDArray[Any],
    *,
    figures: tuple[str, str] = ("precision", "recall"),
) -> None:
    """Two figures of each name as bars, and how many examples there are of it.

    Args:
        path: the PNG to write.
        names: of the rows.
        first: the first figure of each, a share of one.
        second: the second figure of each, likewise.
        support: the number of examples of each.
        figures: what the two are called.
    """
    figure, axes = _figure(6.5, max(2.0, 0.9 + 0.34 * len(names)))
    places = np.arange(len(names))
    axes.barh(places - 0.18, first, height=0.34, color=_BLUE, label=figures[0])
    axes.barh(places + 0.18, second, height=0.34, color=_ORANGE, label=figures[1])
    axes.set_yticks(places, [f"{_written(name)} ({count:,})" for name, count in zip(names, support, strict=True)])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=9)
    _save(figure, path)


def draw_histogram(path: Path, values: NDArray[Any], what: str, examples: str) -> None:
    """How many examples have which value.

    Args:
        path: the PNG to write.
        values: (examples,).
        what: what the values are.
        examples: what the examples are.
    """
    figure, axes = _figure(5.2, 3.2)
    axes.hist(values, bins=min(40, max(5, len(values) // 4)), color=_BLUE)
    axes.axvline(float(np.median(values)), color=_ORANGE, linewidth=1, label="median")
    axes.set_xlabel(what, fontsize=9, color=_INK)
    axes.set_ylabel(examples, fontsize=9, color=_INK)
    figure.legend(loc="outside upper right", frameon=False, fontsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    _save(figure, path)


def draw_reliability(path: Path, sure: NDArray[Any], is_right: NDArray[Any]) -> None:
    """How often answers are right over how sure they are (a reliability diagram; Guo et al. 2017, arXiv:1706.04599).

    Args:
        path: the PNG to write.
        sure: the probability of each answer, (examples,).
        is_right: whether it is right, (examples,).
    """
    figure, axes = _figure(4.6, 3.8)
    parts = np.minimum((sure * 10).astype(int), 9)
    counts = np.bincount(parts, minlength=10)
    shares = np.bincount(parts, is_right, minlength=10) / np.maximum(counts, 1)
    middles = (np.arange(10) + 0.5) / 10
    axes.bar(middles, shares, width=0.09, color=_BLUE)
    for place in np.flatnonzero(counts):
        axes.text(middles[place], shares[place] + 0.01, f"{counts[place]:,}", ha="center", fontsize=7, color=_INK)
    axes.plot([0, 1], [0, 1], color=_ORANGE, linewidth=1, label="as right as sure")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.08)
    axes.set_xlabel("probability of the answer (numbers: examples)", fontsize=9, color=_INK)
    axes.set_ylabel("share that is right", fontsize=9, color=_INK)
    figure.legend(loc="outside upper right", frameon=False, fontsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    _save(figure, path)


def draw_scatter(path: Path, true: NDArray[Any], said: NDArray[Any]) -> None:
    """Predicted numbers over true ones, and the line on which both are alike."""
    figure, axes = _figure(4.6, 4.2)
    axes.scatter(true, said, s=8, alpha=0.35, color=_BLUE, linewidths=0)
    low, high = float(min(true.min(), said.min())), float(max(true.max(), said.max()))
    axes.plot([low, high], [low, high], color=_ORANGE, linewidth=1)
    axes.set_xlabel("true", fontsize=9, color=_INK)
    axes.set_ylabel("predicted", fontsize=9, color=_INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    _save(figure, path)
