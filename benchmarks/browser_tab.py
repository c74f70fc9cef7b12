"""How long it takes from nothing to a model of one's own that answers in a browser tab: four commands, in seconds.

::

    python benchmarks/browser_tab.py

They are those of docs/sharing.md: install (a wheel of this repository, into a new environment, without pip's cache),
pre-train, write the page, and serve it, until a headless Chromium has opened the page, pressed its button and read an
answer. Steps that the result file has are not run again, so that they need not be run at one time. Needs npm, Chromium
and selenium.
"""

import os
import shutil
import subprocess
import sys
import time
import venv
from dataclasses import dataclass, field
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import torch

from hf_minibert.command_line import invocation, run
from hf_minibert.errors import UserError
from hf_minibert.runs.hardware import hardware
from runs import REPOSITORY, Benchmark, machine, results_so_far, write_results

COMMANDS = {
    "install": "pip install --no-compile '.[onnx]'",
    "pretrain": "hf-minibert pretrain --model minibert-mini --budget 60s --output_dir runs/minibert",
    "page": "hf-minibert demo --model_name_or_path runs/minibert --static page",
    "answer": "python3 -m http.server --bind 127.0.0.1 --directory page 8000",
}
SECONDS = 300


@dataclass(kw_only=True)
class Arguments(Benchmark):
    """Time the way from nothing to an answer in a browser tab."""

    steps: list[str] = field(default_factory=lambda: list(COMMANDS))
    """Which of install, pretrain, page and answer to run, if the result file does not have them."""
    work_dir: str = "runs/browser_tab"
    """Folder for the environment, the run and the page. `install` begins it anew."""


def install(folder: Path) -> None:
    """Make an environment with a wheel of this repository; the wheel itself is not timed."""
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder / "environment", with_pip=True)


def wheel(folder: Path) -> Path:
    """A wheel of this repository."""
    words = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(REPOSITORY)]
    subprocess.run(words, check=True)
    (found,) = folder.glob("hf_minibert-*.whl")
    return found


def timed(step: str, folder: Path) -> dict[str, Any]:
    """Run a step; its seconds, and what the page answered."""
    programs = folder / "environment" / "bin"
    if step == "install":
        install(folder)
        words = [
            str(programs / "pip"),
            "install",
            "--no-compile",
            "--no-cache-dir",
            "--quiet",
            f"{wheel(folder)}[onnx]",
        ]
    elif not programs.is_dir():
        raise UserError(f"{folder} has no environment; run the step install first")
    else:
        words = [str(programs / "hf-minibert"), *COMMANDS[step].split()[1:]]
    # Without a path to this clone, or pip would find the package installed.
    settings = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    settings["HF_HOME"] = str(folder / "cache")
    begin = time.perf_counter()
    if step != "answer":
        subprocess.run(words, cwd=folder, env=settings, check=True)
        return {"seconds": round(time.perf_counter() - begin, 1)}
    place = spec_from_file_location("pictures", REPOSITORY / "docs/images/make.py")
    assert place is not None
    assert place.loader is not None
    pictures = module_from_spec(place)
    place.loader.exec_module(pictures)
    begin = time.perf_counter()
    with pictures.served(folder / "page") as address, pictures.chromium() as driver:
        said = pictures.use(driver, address).splitlines()
    return {"seconds": round(time.perf_counter() - begin, 1), "answer": said[:4]}


def table(figures: dict[str, Any]) -> list[str]:
    """The time of each command, and of all."""
    steps = figures["steps"]
    lines = ["| command | seconds |", "|---|---:|"]
    lines += [f"| `{COMMANDS[name]}` | {steps[name]['seconds']:.0f} |" for name in COMMANDS if name in steps]
    if steps.keys() == COMMANDS.keys():
        total = sum(step["seconds"] for step in steps.values())
        lines.append(f"| **together** (asked: {SECONDS}) | **{total:.0f}** |")
    where = f"{figures['hardware']}, packages from an index nearby"
    return [*lines, "", f"({where}; the last one until a headless Chromium has an answer; `{figures['command']}`)"]


def main(arguments: Arguments) -> int:
    """Run the steps that are missing, in their order, and write their times."""
    unknown = [name for name in arguments.steps if name not in COMMANDS]
    if unknown:
        raise UserError(f"steps are {', '.join(COMMANDS)}, got {', '.join(unknown)}")
    settings = {"hardware": hardware(torch.device("cpu"))}
    file = arguments.results / f"{'-'.join(('browser_tab', *machine()))}.json"
    figures = results_so_far(file, settings) or {**settings, "command": invocation(), "steps": {}}
    for step in COMMANDS:
        if step in arguments.steps and step not in figures["steps"]:
            figures["steps"][step] = timed(step, Path(arguments.work_dir).resolve())
            write_results(file, figures)
    print("\n".join(table(figures)))
    return 0


if __name__ == "__main__":
    run(Arguments, main)
