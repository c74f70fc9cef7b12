"""Run the scripts as a user does: as commands, or where many are tried, as their `main` with their flags."""

import json
import os
import pydoc_data.topics
import runpy
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState
from forked import Forked

REPOSITORY = Path(__file__).parents[1]
COLLECTED = pytest.StashKey[str]()
"""The names of all tests that this run has found, a line each."""
SCRIPTS = REPOSITORY / "scripts"
LAUNCH = ["-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no"]
TWO_PROCESSES = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


TINY_RUN: dict[str, Any] = {
    "model": "minibert-tiny",
    "max_steps": 4,
    "max_seq_length": 32,
    "per_device_train_batch_size": 4,
    "max_eval_samples": 8,
}


def flags(options: dict[str, Any]) -> list[str]:
    """Options as a command line has them; True stands for a flag without a value."""
    words: list[str] = []
    for name, value in options.items():
        words.append(f"--{name}")
        if value is not True:
            words += [str(item) for item in value] if isinstance(value, list) else [str(value)]
    return words


def environment(cache: Path) -> dict[str, str]:
    """Offline, with caches of its own and one thread."""
    return os.environ | {
        "HF_HOME": str(cache),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": "",
    }


def command(
    script: str,
    cache: Path,
    *,
    launcher: list[str] | None = None,
    settings: dict[str, str] | None = None,
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """Run a script in a new Python, with more environment `settings`, and wait for it."""
    words = [sys.executable, *(launcher or []), str(SCRIPTS / script), *flags(options)]
    variables = environment(cache) | (settings or {})
    return subprocess.run(
        words, cwd=REPOSITORY, env=variables, capture_output=True, text=True, timeout=300, check=False
    )


def forked(script: str, cache: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """As `command`, in a process that is forked from one that has imported the libraries."""
    process = begin(script, cache, **options)
    status = process.wait(timeout=300)
    return subprocess.CompletedProcess(script, status, process.printed("stdout"), process.printed("stderr"))


def begin(script: str, cache: Path, **options: Any) -> Forked:
    """Begin a script in such a process, which is the first of its own group."""
    return Forked([str(SCRIPTS / script), *flags(options)], REPOSITORY, environment(cache))


def both(
    script: str, cache: Path, *, settings: dict[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a script in two such processes that compute together, as `torchrun` begins them, and wait for both."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = environment(cache) | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    shared |= {"LOCAL_WORLD_SIZE": "2"} | (settings or {})
    words = [str(SCRIPTS / script), *flags(options)]
    ranks = [Forked(words, REPOSITORY, shared | {"RANK": rank, "LOCAL_RANK": rank}) for rank in "01"]
    status = max((rank.wait(timeout=300) for rank in ranks), key=abs)
    out, err = ("".join(rank.printed(stream) for rank in ranks) for stream in ("stdout", "stderr"))
    return subprocess.CompletedProcess(script, status, out, err)


def call(script: str, monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    """Run a script in this process, which is quick; returns the status that it exits with."""
    AcceleratorState._reset_state(reset_partial_state=True)  # what an earlier test in this process asked for
    monkeypatch.setattr(sys, "argv", [str(SCRIPTS / script), *map(str, words)])
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(SystemExit) as exit_info:
        runpy.run_path(str(SCRIPTS / script), run_name="__main__")
    return int(exit_info.value.code or 0)


def write_corpus(path: Path, documents: int = 160) -> Path:
    """Paragraphs of the Python language reference, a JSON object a line."""
    paragraphs = [
        " ".join(paragraph.split())
        for topic in sorted(pydoc_data.topics.topics)
        for paragraph in pydoc_data.topics.topics[topic].split("\n\n")
        if len(paragraph) > 250 and "::" not in paragraph
    ]
    texts = list(dict.fromkeys(paragraphs))[:documents]
    path.write_text("".join(json.dumps({"text": text, "label": len(text) % 2}) + "\n" for text in texts))
    return path


def metrics(run: Path, key: str = "loss") -> dict[int, float]:
    """The lines of metrics.jsonl that have a key, by step."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line[key] for line in lines if key in line}


def wait_for_step(process: subprocess.Popen[Any] | Forked, output: Path, step: int) -> None:
    """Until a run that logs every step has logged so many."""
    deadline = time.monotonic() + 120
    log = output / "metrics.jsonl"
    while not (log.exists() and len(log.read_text().splitlines()) >= step):
        assert process.poll() is None, "the run ended too soon"
        assert time.monotonic() < deadline
        time.sleep(0.01)


# Importing the package fails in the other process, whether or not it is installed there.
BLOCKER = """
import sys

assert "hf_minibert" not in sys.modules

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_minibert":
            raise ImportError("hf_minibert is not to be had here")

sys.meta_path.insert(0, Blocker())
"""


def elsewhere(program: str, folder: Path, *words: Any) -> str:
    """What a program prints that runs in a folder without this package, forked, offline and with an empty cache."""
    (folder / "program.py").write_text(BLOCKER + program)
    ours = ("HF_", "PYTHON", "TRANSFORMERS_")
    settings = {name: value for name, value in os.environ.items() if not name.startswith(ours)} | {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(folder / "cache"),
        "HOME": str(folder),
    }
    process = Forked([str(folder / "program.py"), *map(str, words)], folder, settings)
    assert process.wait(timeout=300) == 0, process.printed("stderr")
    return process.printed("stdout")
