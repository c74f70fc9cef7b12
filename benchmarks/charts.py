"""The look of all charts, and how one is written. The benchmark that makes a result draws its chart."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hf_minibert.files import replaced_file


def remove_box(*axes: Axes) -> None:
    """Leave the two axes that carry numbers."""
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, file: Path) -> None:
    """Write a chart as ``NAME.png`` beside its results, ``NAME.json``."""
    with replaced_file(file.with_suffix(".png")) as temporary:
        figure.savefig(temporary, format="png")
