"""What the benchmarks share: running the scripts as a user would, and keeping what a run leaves."""

import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hf_minibert.errors import UserError
from hf_minibert.files import write_json, write_text
from hf_minibert.runs.hardware import computes_in_bfloat16

REPOSITORY = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"


@dataclass(kw_only=True)
class Benchmark:
    """What every benchmark is told."""

    results_dir: str = "runs/results"
    """Folder for figures, charts and logs; the README shows those of `benchmarks/results`."""

    @property
    def results(self) -> Path:
        """That folder, which is there."""
        folder = Path(self.results_dir).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def script(name: str, **flags: Any) -> None:
    """Run one of the scripts with these flags; those that are None are left out."""
    command = [sys.executable, f"scripts/{name}"]
    for flag, value in flags.items():
        if value is not None:
            command += [f"--{flag}", *(str(item) for item in (value if isinstance(value, list) else [value]))]
    subprocess.run(command, check=True, cwd=REPOSITORY)


def results_of(run: Path) -> dict[str, Any]:
    """What a run says of itself."""
    results: dict[str, Any] = json.loads((run / "results.json").read_text(encoding="utf-8"))
    return results


def earlier(file: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What a file of results has already; nothing, if there is none.

    Raises:
        UserError: it was made with other settings.
    """
    if not file.exists():
        return {}
    figures: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    for name, value in settings.items():
        if figures[name] != value:
            raise UserError(f"{file} was made with another {name}: {figures[name]}, not {value}; move it away first")
    return figures


def device() -> torch.device:
    """What the scripts will compute on."""
    return torch.accelerator.current_accelerator() or torch.device("cpu")


def machine() -> list[str]:
    """What the name of a file of results says of the machine: nothing of a CPU that computes in bfloat16."""
    kind = device().type
    return ([] if kind == "cpu" else [kind]) + ([] if computes_in_bfloat16() else ["fp32"])


def short(path: str | Path) -> str:
    """The last two parts of a path: where the rest lies is nobody's business."""
    return "/".join(Path(path).parts[-2:])


def unit(measure: str) -> str:
    """What a measure of a held-out or a test loss counts."""
    return "bits per byte" if measure.endswith("bits_per_byte") else "nats per masked token"


def mean(figures: dict[str, Any], who: str) -> float:
    """Over the seeds of a comparison, of what it measures."""
    losses: list[float] = [one[who]["metrics"][figures["measure"]] for one in figures["runs"]]
    return statistics.mean(losses)


def keep(run: Path, results: Path, name: str) -> None:
    """Copy what a run was told and what it logged to ``runs/NAME`` beside the results."""
    folder = results / "runs" / name
    folder.mkdir(parents=True, exist_ok=True)
    arguments = json.loads((run / "arguments.json").read_text(encoding="utf-8"))
    for flag in ("output_dir", "results_dir", "tokenizer", "corpus", "test_corpus"):
        if isinstance(paths := arguments.get(flag), list):
            arguments[flag] = [short(path) for path in paths]
        elif paths is not None:
            arguments[flag] = short(paths)
    write_json(folder / "arguments.json", arguments)
    write_text(folder / "metrics.jsonl", (run / "metrics.jsonl").read_text(encoding="utf-8"))
