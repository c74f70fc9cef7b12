"""What the benchmarks share: running the scripts as a user would, and keeping what a run leaves."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from hf_minibert.errors import UserError
from hf_minibert.files import write_json, write_text
from hf_minibert.training.device import computes_in_bfloat16

REPOSITORY = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"


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


def machine() -> list[str]:
    """What the name of a file of results says of the machine: nothing of a CPU that computes in bfloat16."""
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    return ([] if device.type == "cpu" else [device.type]) + ([] if computes_in_bfloat16() else ["fp32"])


def short(path: str | Path) -> str:
    """The last two parts of a path: where the rest lies is nobody's business."""
    return "/".join(Path(path).parts[-2:])


def keep(run: Path, name: str) -> None:
    """Copy what a run was told and what it logged to ``results/runs/NAME``."""
    folder = RESULTS / "runs" / name
    folder.mkdir(parents=True, exist_ok=True)
    arguments = json.loads((run / "arguments.json").read_text(encoding="utf-8"))
    arguments |= {"output_dir": short(arguments["output_dir"]), "corpus": [short(one) for one in arguments["corpus"]]}
    if arguments.get("tokenizer") is not None:
        arguments["tokenizer"] = short(arguments["tokenizer"])
    write_json(folder / "arguments.json", arguments)
    write_text(folder / "metrics.jsonl", (run / "metrics.jsonl").read_text(encoding="utf-8"))
