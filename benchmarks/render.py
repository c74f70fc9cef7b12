"""Put the tables of ``benchmarks/results`` into the documents, between their markers, and draw the charts.

::

    python benchmarks/render.py

``<!-- figures:NAME -->`` opens the table of ``NAME.json``. The benchmark that wrote the file makes its table and its
chart: ``recipe-minigpt-mini.json`` belongs to ``recipe.py``. Nobody types a figure; a test checks that the documents
say what the files say.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

import blimp
import browser_tab
import charts
import data_speed
import evaluation
import finetuning
import imdb
import inference_speed
import learning_efficiency
import objectives
import quickstart
import recipe
import shakespeare
import step_speed
import targets
import tasks
import throughput
import translation
from hf_minibert.command_line import run
from hf_minibert.files import write_text
from runs import REPOSITORY, RESULTS

DOCUMENTS = (
    REPOSITORY / "README.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
    *sorted((REPOSITORY / "benchmarks").glob("*.md")),
)
BLOCK = re.compile(r"(<!-- figures:([\w-]+) -->\n).*?(<!-- end:\2 -->)", flags=re.DOTALL)

TABLES: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "blimp": blimp.table,
    "browser_tab": browser_tab.table,
    "data_speed": data_speed.table,
    "evaluation": evaluation.table,
    "finetuning": finetuning.table,
    "imdb": imdb.table,
    "inference_speed": inference_speed.table,
    "learning_efficiency": learning_efficiency.table,
    "objectives": objectives.table,
    "quickstart": quickstart.table,
    "recipe": recipe.table,
    "shakespeare": shakespeare.table,
    "step_speed": step_speed.table,
    "tasks": tasks.table,
    "throughput": throughput.table,
    "translation": translation.table,
}
"""By the first part of a result file's name."""
CHARTS: dict[str, Callable[[dict[str, Any]], Figure]] = {
    "learning_efficiency": learning_efficiency.chart,
    "objectives": objectives.chart,
}
OVERVIEWS: dict[str, Callable[[], list[str]]] = {
    "defaults": recipe.defaults,
    "efficiency": learning_efficiency.efficiency,
    "rates": finetuning.overview,
    "targets": targets.table,
}
"""Tables over several files, or over none."""


@dataclass(kw_only=True)
class Arguments:
    """Render all tables and charts."""


def read(file: Path) -> dict[str, Any]:
    """A file of results."""
    figures: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return figures


def render(text: str) -> str:
    """A document with all its tables as the files have them now."""

    def fill(block: re.Match[str]) -> str:
        begin, name, end = block.groups()
        lines = (
            OVERVIEWS[name]() if name in OVERVIEWS else TABLES[name.partition("-")[0]](read(RESULTS / f"{name}.json"))
        )
        return begin + "\n".join(lines) + "\n" + end

    return BLOCK.sub(fill, text)


def draw(file: Path) -> None:
    """Draw the chart of a file of results, if its benchmark has one."""
    chart = CHARTS.get(file.stem.partition("-")[0])
    if chart is not None:
        charts.save(chart(read(file)), file)


def main(_: Arguments) -> int:
    """Rewrite the documents, and draw the charts again."""
    for document in DOCUMENTS:
        write_text(document, render(document.read_text(encoding="utf-8")))
    for file in RESULTS.glob("*.json"):
        draw(file)
    return 0


if __name__ == "__main__":
    run(Arguments, main)
