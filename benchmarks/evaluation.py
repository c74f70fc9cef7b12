"""What the suites of `hf-minibert evaluate` find out about the reference checkpoints, side by side.

::

    python benchmarks/evaluation.py --blimp blimp.jsonl.xz --supplement supplement.jsonl.xz \
        --likelihood valid.jsonl.xz --sts stsb/dev.jsonl.xz --probe sst2

Every flag names the data of one suite, and suites without data are left out. The file of results is written after each
model and suite; those that it has are not measured again, so a stopped command goes on.
"""

import json
import tempfile
from dataclasses import dataclass, field
from typing import Any

import torch

from hf_minibert.command_line import invocation, run
from hf_minibert.evaluation.arguments import EvaluateArguments, SuiteName
from hf_minibert.evaluation.report import RESULTS as FIGURES
from hf_minibert.evaluation.report import evaluate
from hf_minibert.runs.hardware import hardware
from runs import Benchmark, device, environment, last_two_parts, results_so_far, write_results

SUITES: dict[str, SuiteName] = {
    "sts": "sts",
    "likelihood": "likelihood",
    "blimp": "blimp",
    "supplement": "blimp",
    "probe": "probe",
}
"""Which suite each flag is for."""
LABELS = {
    "accuracy": "right pairs, the mean of {groups} paradigms (%)",
    "accuracy_ties_half": "the same, a tie half right (%)",
    "ties": "ties among {pairs:,} pairs",
    "bits_per_byte": "bits per byte",
    "word_perplexity": "perplexity per word",
    "masked_lm_loss": "masked-LM loss, nats per token of its own",
    "masked_lm_accuracy": "masked-LM accuracy (%)",
    "spearman": "Spearman correlation of cosines with people's scores, {pooling} of the last layer (%)",
    "eval_accuracy": "accuracy of a linear probe, {pooling} of the last layer (%)",
    "eval_majority_accuracy": "accuracy of the commonest label (%)",
}
"""The figures that the table shows, by their name in `results.json`."""


@dataclass(kw_only=True)
class Arguments(Benchmark):
    """Measure models with all suites whose data are given."""

    models: list[str] = field(default_factory=lambda: ["minibert-tiny", "minigpt-tiny"])
    """Folders or names of models."""
    blimp: list[str] | None = None
    """Minimal pairs: files or folders."""
    supplement: list[str] | None = None
    """More minimal pairs, measured apart."""
    max_pairs: int | None = None
    """Take only the first so many pairs of each paradigm."""
    likelihood: list[str] | None = None
    """Texts to predict."""
    sts: list[str] | None = None
    """Pairs of sentences with scores."""
    probe: list[str] | None = None
    """Labelled texts: a folder with train and dev, or a file."""
    text_column: str = "text"
    """The column of the labelled texts."""


def measured(model: str, name: str, arguments: Arguments) -> dict[str, Any]:
    """The figures of one model and suite, without those of each paradigm and layer."""
    suite = SUITES[name]
    settings: dict[str, Any] = {}
    if suite == "blimp":
        settings["max_pairs"] = arguments.max_pairs
    if suite == "probe":
        settings["text_column"] = arguments.text_column
    sources: list[str] = getattr(arguments, name)
    with tempfile.TemporaryDirectory() as folder:
        output = f"{folder}/out"
        evaluate(
            EvaluateArguments(suite=suite, model_name_or_path=model, dataset=sources, output_dir=output, **settings)
        )
        with open(f"{output}/{FIGURES}", encoding="utf-8") as file:
            found: dict[str, Any] = json.load(file)
    kept = ("model", "suite", "dataset", "environment", "hardware", "settings")
    plain = {key: value for key, value in found.items() if isinstance(value, (int, float, str)) and key not in kept}
    if suite == "blimp":
        plain |= {"groups": len(found["paradigms"])} | ({"field": found["field"]} if "field" in found else {})
    return {"model": model, "data": name, "settings": found["settings"], "sha256": found["dataset"], "figures": plain}


def table(figures: dict[str, Any]) -> list[str]:
    """A line for each figure, a column for each model."""
    models = list(dict.fromkeys(row["model"] for row in figures["rows"]))
    lines = [f"| | {' | '.join(f'`{model}`' for model in models)} |", f"|---|{'---:|' * len(models)}"]
    for name in dict.fromkeys(row["data"] for row in figures["rows"]):
        rows = {row["model"]: row["figures"] for row in figures["rows"] if row["data"] == name}
        for key, label in LABELS.items():
            cells = [rows.get(model, {}).get(key) for model in models]
            if any(cell is not None for cell in cells):
                words = label.format(**next(row for row in rows.values() if key in row))
                shown = (
                    "" if cell is None else f"{cell:,}" if isinstance(cell, int) else f"{cell:.{digits(key)}f}"
                    for cell in cells
                )
                lines.append(f"| {figures['sources'][name]}: {words} | {' | '.join(shown)} |")
    threads = f"{figures['threads']} thread{'s' if figures['threads'] > 1 else ''}"
    return [*lines, "", f"({figures['hardware']}, {threads}; `{figures['command']}`)"]


def digits(key: str) -> int:
    """Decimals of a figure in the table."""
    return 3 if key in ("bits_per_byte", "masked_lm_loss") else 1


def main(arguments: Arguments) -> int:
    """Measure what the file of results does not have yet."""
    names = [name for name in SUITES if getattr(arguments, name) is not None]
    path = arguments.results / "evaluation.json"
    settings: dict[str, Any] = {
        "command": invocation(),
        "hardware": hardware(device()),
        "threads": torch.get_num_threads(),
        "sources": {name: ", ".join(map(last_two_parts, getattr(arguments, name))) for name in names},
    }
    figures = results_so_far(path, settings) or settings | {"environment": environment(), "rows": []}
    for name in names:
        for model in arguments.models:
            if not any((row["model"], row["data"]) == (model, name) for row in figures["rows"]):
                figures["rows"].append(measured(model, name, arguments))
                write_results(path, figures)
    print("\n".join(table(figures)))
    return 0


if __name__ == "__main__":
    run(Arguments, main)
