"""What the benchmarks share: they run the scripts as a user would, and write a file of results with its curves."""

import json
import re
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hf_minibert.errors import UserError
from hf_minibert.files import write_text
from hf_minibert.pretraining.arguments import PretrainArguments
from hf_minibert.pretraining.loop import pretrain
from hf_minibert.runs.hardware import computes_in_bfloat16
from hf_minibert.runs.results import environment as versions
from hf_minibert.runs.stopping import StopSignal

REPOSITORY = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
STEPS = 50  # of which `Trainer` logs the mean loss


@dataclass(kw_only=True)
class Benchmark:
    """The flag that every benchmark takes."""

    results_dir: str = "runs/results"
    """Folder for results and charts; the README shows those of `benchmarks/results`."""

    @property
    def results(self) -> Path:
        """That folder; it is made if it is missing."""
        folder = Path(self.results_dir).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def script(name: str, *settings: Path, **flags: Any) -> None:
    """Run one of the scripts with files of settings and these flags; those that are None are left out."""
    command = [sys.executable, str(REPOSITORY / "scripts" / name), *map(str, settings)]
    for flag, value in flags.items():
        if value is not None:
            command += [f"--{flag}", *(str(item) for item in (value if isinstance(value, list) else [value]))]
    subprocess.run(command, check=True)  # in the working directory, from which the paths of flags count


def results_of(run: Path) -> dict[str, Any]:
    """The figures that a run has written."""
    results: dict[str, Any] = json.loads((run / "results.json").read_text(encoding="utf-8"))
    return results


def show_card(run: Path, cards: Path) -> None:
    """Copy a run's card and its curve into a folder of cards."""
    cards.mkdir(parents=True, exist_ok=True)
    card = (run / "README.md").read_text(encoding="utf-8")
    write_text(cards / f"{run.name}.md", card.replace("(curves.png)", f"({run.name}.png)"))
    shutil.copyfile(run / "curves.png", cards / f"{run.name}.png")


def log_of(run: Path) -> list[dict[str, Any]]:
    """The lines that a run has logged."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def curves(lines: list[dict[str, Any]]) -> dict[str, list[list[float | None]]]:
    """The loss over a run, as a result file keeps it: rows of step, tokens, seconds and nats per predicted token.

    ``training`` has a row for every STEPS steps, with their mean loss; ``held_out`` has a row for every evaluation. Of
    a run with several losses it is the masked-LM loss. A loss that was not finite is None.
    """

    def row(line: dict[str, Any], loss: float | None) -> list[float | None]:
        return [line["step"], line["tokens"], line["seconds"], None if loss is None else round(loss, 4)]

    def mean_loss(group: list[dict[str, Any]]) -> float | None:
        losses = [line.get("mlm_loss", line["loss"]) for line in group]
        return None if None in losses else statistics.mean(losses)

    groups: dict[int, list[dict[str, Any]]] = {}
    for line in lines:
        if "loss" in line:
            groups.setdefault((line["step"] - 1) // STEPS, []).append(line)
    whole = [group for group in groups.values() if group[-1]["step"] % STEPS == 0]
    return {
        "training": [row(group[-1], mean_loss(group)) for group in whole],
        "held_out": [row(line, line.get("eval_mlm_loss", line["eval_loss"])) for line in lines if "eval_loss" in line],
    }


def require_same(recorded: dict[str, Any], settings: dict[str, Any], place: Path, remedy: str) -> None:
    """Refuse what was made with other settings.

    Raises:
        UserError: one of them differs from what is recorded; the remedy says what to do then.
    """
    for name, value in settings.items():
        if recorded.get(name) != value:
            raise UserError(f"{place} was made with another {name}: {recorded.get(name)}, not {value}; {remedy}")


def has_ended(run: Path, settings: dict[str, Any], flag: str) -> bool:
    """Whether a pre-training has ended in a folder; of its corpus, the settings have the last two parts of each path.

    Raises:
        UserError: it was made with other settings; the flag names another folder.
    """
    if not (run / "results.json").exists():
        return False
    recorded = json.loads((run / "arguments.json").read_text(encoding="utf-8"))
    recorded["corpus"] = [last_two_parts(source) for source in recorded["corpus"]]
    require_same(recorded, settings, run, f"give another --{flag}")
    return True


def results_so_far(file: Path, settings: dict[str, Any], *, is_timed: bool = False) -> dict[str, Any]:
    """The results that a file holds already; empty, if there is no such file.

    Args:
        file: of results.
        settings: what all of its figures have in common.
        is_timed: whether they depend on the speed of the machine.

    Raises:
        UserError: it was made with other settings or, if that matters, on another kind of CPU.
    """
    if not file.exists():
        return {}
    figures: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    require_same(figures, settings, file, "move it away first")
    before = figures.get("environment", {})
    if is_timed and device().type == "cpu" and "cpu" in before:  # earlier files do not say it
        require_same(before, {"cpu": instructions()}, file, "move it away first")
    return figures


def write_results(file: Path, figures: dict[str, Any]) -> None:
    """Write a file of results, each list of plain numbers on one line."""

    def on_one_line(numbers: re.Match[str]) -> str:
        return f"[{', '.join(number.strip() for number in numbers[1].split(','))}]"

    text = json.dumps(figures, indent=2, ensure_ascii=False)
    write_text(file, re.sub(r'\[\n([^][{}"]*)\]', on_one_line, text) + "\n")


def instructions() -> str:
    """What the CPU has for products of matrices, which decides its speed."""
    more = {
        "AMX": torch.cpu._is_amx_tile_supported(),
        "bfloat16": torch.cpu._is_avx512_bf16_supported(),
        "VNNI": torch.cpu._is_vnni_supported(),
    }
    return " ".join([torch.backends.cpu.get_cpu_capability(), *(name for name, is_there in more.items() if is_there)])


def environment() -> dict[str, str]:
    """The versions and the kind of CPU that a figure depends on."""
    return {"cpu": instructions()} | versions()


def device() -> torch.device:
    """The device that the scripts will compute on."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def machine() -> list[str]:
    """The parts of a result file's name that tell the machine; none for a CPU that computes in bfloat16."""
    kind = device().type
    return ([] if kind == "cpu" else [kind]) + ([] if computes_in_bfloat16() else ["fp32"])


def unless_usual(arguments: Benchmark, *names: str) -> list[str]:
    """The parts of a result file's name that tell the flags, lists of words, which differ from their defaults."""
    given, usual = vars(arguments), vars(type(arguments)())
    return [word for name in names if given[name] != usual[name] for word in given[name]]


def last_two_parts(path: str | Path) -> str:
    """The end of a path; the rest of it is private."""
    return "/".join(Path(path).parts[-2:])


def unit(measure: str) -> str:
    """The unit of a held-out or a test loss."""
    return "bits per byte" if measure.endswith("bits_per_byte") else "nats per masked token"


def mean(figures: dict[str, Any], who: str) -> float:
    """The mean over the seeds of a comparison, in its own measure."""
    losses: list[float] = [one[who]["metrics"][figures["measure"]] for one in figures["runs"]]
    return statistics.mean(losses)


def pretrain_alone(arguments: PretrainArguments) -> int:
    """Pre-train in this process, until the end or a signal; returns the exit status."""
    with StopSignal() as stop:
        return pretrain(arguments, stop)
