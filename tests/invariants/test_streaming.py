"""Runs that train while a stream is read: killed, grown, divided, broken off; bit for bit as if nothing had been."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import streamed_hub
from commands import REPOSITORY, TWO_PROCESSES, environment, flags, metrics, wait_for_step, write_corpus

STEPS = 30
DRIVER = REPOSITORY / "tests" / "streamed_hub.py"


def options(output: Path, **others: Any) -> dict[str, Any]:
    return {
        "model": "minibert-tiny",
        "corpus": "me/texts",
        "streaming": True,
        "output_dir": output,
        "max_steps": STEPS,
        "save_steps": 4,
        "eval_steps": 15,
        "logging_steps": 1,
        "max_eval_samples": 8,
        "max_seq_length": 32,
        "per_device_train_batch_size": 8,
    } | others


def start(
    folder: Path,
    cache: Path,
    launcher: list[str] | None = None,
    delay: float = 0.0,
    script: str = "pretrain.py",
    **options: Any,
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *(launcher or []), str(DRIVER), *flags(options)],
        cwd=REPOSITORY,
        env=environment(cache)
        | {
            "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'tests'}",
            "HUB_FOLDER": str(folder),
            "HUB_DELAY": str(delay),
            "HUB_SCRIPT": script,
            "PART_BYTES": "20000",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], status: int = 0) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == status, err
    return out + err


def parts(cache: Path) -> list[str]:
    found = (cache / "hf_minibert" / "stores").glob("*/part-*")
    return sorted(path.name for path in found if path.is_dir())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the data set: some 80,000 characters in four files."""
    folder = tmp_path_factory.mktemp("stream")
    lines = write_corpus(folder / "corpus", documents=200).read_text().splitlines()
    rows = [json.dumps({"text": json.loads(line)["text"], "number": 0}) + "\n" for line in lines]
    for number in range(4):
        (folder / f"{number}.jsonl").write_text("".join(rows[50 * number : 50 * (number + 1)]))
    return folder


@pytest.fixture(scope="module")
def uninterrupted(folder: Path) -> Path:
    output = folder / "whole"
    told = finish(start(folder, folder / "cache", **options(output)))
    assert "me/texts, the first part: " in told
    assert parts(folder / "cache") == ["part-00000", "part-00001"], "no more than the run reads"
    return output


def weights(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


def test_the_card_says_that_figures_are_of_the_first_part(uninterrupted: Path) -> None:
    assert "of its first part" in (uninterrupted / "README.md").read_text()
    results = json.loads((uninterrupted / "results.json").read_text())
    assert results["corpus"]["is_first_part"]
    assert "epochs" not in results["training"]


def test_killed_while_the_next_part_is_made_and_resumed_equals_uninterrupted(
    folder: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    output, cache = tmp_path / "run", tmp_path / "cache"
    process = start(folder, cache, delay=0.2, **options(output))
    wait_for_step(process, output, 5)  # type: ignore[arg-type]
    makers = [one for one in psutil.Process(process.pid).children(recursive=True) if "spawn_main" in str(one.cmdline())]
    assert len(makers) == 1
    process.kill()
    process.communicate()
    psutil.wait_procs(makers, timeout=10)
    assert not makers[0].is_running(), "it ends with the run"
    assert parts(cache) == ["part-00000"], "the next one was being made"
    (folder / "read.log").unlink()
    (folder / "revision").write_text("later")  # its owner has changed something
    try:
        finish(start(folder, cache, output_dir=output, resume=True, corpus="me/texts"))
    finally:
        (folder / "revision").unlink()
    assert json.loads((output / "arguments.json").read_text())["corpus"] == ["me/texts@first"]
    assert weights(output) == weights(uninterrupted)
    assert metrics(output) == metrics(uninterrupted)


@pytest.mark.slow
def test_a_step_of_a_later_part_is_replayed(folder: Path, uninterrupted: Path) -> None:
    told = finish(start(folder, folder / "cache", script="replay.py", output_dir=uninterrupted, step=28))
    assert "step 28: rows 216 to 223" in told


@pytest.mark.slow
def test_a_run_on_two_processes_reads_the_same(folder: Path, uninterrupted: Path, tmp_path: Path) -> None:
    output, cache = tmp_path / "run", tmp_path / "cache"
    both = {"per_device_train_batch_size": 4, "dataloader_num_workers": 1}
    finish(start(folder, cache, TWO_PROCESSES, **options(output, **both)))
    assert metrics(output)[1] == pytest.approx(metrics(uninterrupted)[1], abs=1e-3)
    assert metrics(output)[STEPS] == pytest.approx(metrics(uninterrupted)[STEPS], abs=0.1)
    assert parts(cache) == ["part-00000", "part-00001"]


@pytest.mark.slow
def test_a_run_grows_and_reads_on(folder: Path, tmp_path: Path) -> None:
    """As the run that had the later end from the start; and past the end of the stream its parts come again."""
    whole, grown, cache = tmp_path / "whole", tmp_path / "grown", tmp_path / "cache"
    trapezoid = {"lr_scheduler_type": "warmup_stable_decay", "warmup_steps": 2, "per_device_train_batch_size": 32}
    base = options(grown, **trapezoid)
    del base["max_steps"]
    tokens = 32 * 32
    finish(start(folder, cache, **base, max_tokens=8 * tokens))
    before = parts(cache)
    (folder / "read.log").unlink()
    finish(start(folder, cache, output_dir=grown, resume=True, max_tokens=30 * tokens))
    assert not [row for row in streamed_hub.rows_read(folder) if row.startswith("0.")], "not from its start"
    assert len(parts(cache)) > len(before)
    assert list((cache / "hf_minibert" / "stores").glob("*/end.json"))
    finish(start(folder, cache, **base | {"output_dir": whole}, max_tokens=30 * tokens))
    assert metrics(grown) == metrics(whole)
    assert weights(grown) == weights(whole)


@pytest.mark.slow
def test_a_stream_that_breaks_off_ends_the_run_in_one_line_with_status_2(
    folder: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    output, cache, broken = tmp_path / "run", tmp_path / "cache", tmp_path / "folder"
    broken.mkdir()
    for file in folder.glob("*.jsonl"):
        shutil.copy(file, broken)
    (broken / "broken").write_text("1.jsonl:40")
    told = finish(start(broken, cache, **options(output, save_steps=1000)), status=2)
    assert list(output.glob("checkpoint-*")), "what was learned before is saved"
    assert "ConnectionError: the line is dead" in told
    assert "goes on from its last checkpoint with --resume" in told
    assert "Traceback" not in told
    (broken / "broken").unlink()
    finish(start(broken, cache, output_dir=output, resume=True))
    assert weights(output) == weights(uninterrupted)


@pytest.mark.slow
def test_sigterm_stops_a_run_that_reads(folder: Path, uninterrupted: Path, tmp_path: Path) -> None:
    output, cache = tmp_path / "run", tmp_path / "cache"
    process = start(folder, cache, delay=0.02, **options(output, save_steps=1000))
    wait_for_step(process, output, 3)  # type: ignore[arg-type]
    process.send_signal(signal.SIGTERM)
    started = time.monotonic()
    finish(process, status=143)
    assert time.monotonic() - started < 30
    finish(start(folder, cache, output_dir=output, resume=True))
    assert weights(output) == weights(uninterrupted)


@pytest.mark.slow
def test_sigterm_stops_a_run_that_waits_for_a_part(folder: Path, uninterrupted: Path, tmp_path: Path) -> None:
    output, cache = tmp_path / "run", tmp_path / "cache"
    process = start(folder, cache, delay=0.4, **options(output, save_steps=1000))
    wait_for_step(process, output, 5)  # type: ignore[arg-type]
    step = 0
    while step != (step := len((output / "metrics.jsonl").read_text().splitlines())):
        time.sleep(4)
    process.send_signal(signal.SIGTERM)
    started = time.monotonic()
    told = finish(process, status=143)
    assert time.monotonic() - started < 30
    assert "stopped by a signal at step" in told
    assert list(output.glob("checkpoint-*")), "what was learned before is saved"
    finish(start(folder, cache, output_dir=output, resume=True))
    assert weights(output) == weights(uninterrupted)
