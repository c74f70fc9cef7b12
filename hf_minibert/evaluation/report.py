"""Run a suite on one model or several, and write its figures, predictions and chart."""

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from hf_minibert.evaluation.arguments import EvaluateArguments
from hf_minibert.evaluation.chart import plot_bars
from hf_minibert.evaluation.suites import Result, choose_suite
from hf_minibert.files import digest, write_json, write_text
from hf_minibert.output_folder import replaced_folder
from hf_minibert.runs.hardware import hardware, use_all_cores
from hf_minibert.runs.results import changed_settings, environment

RESULTS, CHART = "results.json", "chart.png"


def evaluate(arguments: EvaluateArguments) -> str:
    """Measure, and write the folder.

    Returns:
        The table, for people to read.

    Raises:
        UserError: something that the user named is not there or does not fit.
    """
    suite = choose_suite(arguments)
    module = suite.load()
    inputs = [*arguments.model_names, *(arguments.dataset or [])]
    with replaced_folder(arguments.output_dir, "evaluate", "an evaluation", inputs=inputs, last=RESULTS) as staged:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        use_all_cores(device)
        disable_progress_bar()  # of loading
        data, files = module.read(arguments)
        results: dict[str, Result] = {name: module.measure(name, data, arguments) for name in arguments.model_names}
        shared = {
            "suite": arguments.suite,
            "dataset": checksums(files),
            "settings": _settings(arguments),
            "hardware": hardware(device),
            "environment": environment(),
        }
        own = [{"model": name} | result.figures for name, result in results.items()]
        write_json(staged / RESULTS, shared | ({"models": own} if arguments.compare else own[0]))
        for number, result in enumerate(results.values(), start=1):
            for name, content in result.files.items():
                path = staged / name
                if path.exists():  # of another model, whose folder has the same name
                    path = staged / f"{number}-{name}"
                path.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(content, bytes):
                    path.write_bytes(content)
                else:
                    write_text(path, content)
        first = next(iter(results.values()))
        bars = {short: result.bars for short, result in zip(short_names(list(results)), results.values(), strict=True)}
        plot_bars(bars, staged / CHART, axis=first.axis, baseline=first.baseline)
    return table(results)


def _settings(arguments: EvaluateArguments) -> dict[str, Any]:
    """The flags that were given, but for those that say where things are."""
    places = ("suite", "model_name_or_path", "compare", "dataset", "output_dir")
    return {name: asdict(arguments)[name] for name in changed_settings(arguments) if name not in places}


def checksums(files: list[Path]) -> dict[str, str]:
    """The SHA-256 of each file, by its path below the folder that all are in: others are not told where that is."""
    paths = [path.absolute() for path in files]
    place = os.path.commonpath([path.parent for path in paths]) if paths else ""
    return {path.relative_to(place).as_posix(): digest(path) for path in paths}


def short_names(names: list[str]) -> list[str]:
    """The last part of each model's name, or all of it where two have the same."""
    last = [Path(name).resolve().name for name in names]
    return last if len(set(last)) == len(last) else names


def table(results: Mapping[str, Result]) -> str:
    """The figures of all models side by side, a label a line."""
    labels = list(dict.fromkeys(label for result in results.values() for label in result.rows))
    columns = [("", labels)]
    for name, result in zip(short_names(list(results)), results.values(), strict=True):
        columns.append((name, [_cell(result.rows.get(label), result.digits) for label in labels]))
    widths = [max(len(head), *map(len, cells)) for head, cells in columns]
    lines = list(zip(*([head, *cells] for head, cells in columns), strict=True))
    return "".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        ).rstrip()
        + "\n"
        for line in lines
    )


def _cell(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"
