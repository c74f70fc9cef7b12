"""A run that is stopped or killed and resumed ends with bit for bit the weights of the uninterrupted run."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import (
    REPOSITORY,
    SCRIPTS,
    begin,
    command,
    environment,
    forked,
    metrics,
    wait_for_step,
    write_corpus,
)
from forked import Forked

from hf_minibert.pretraining.optimization import EMBEDDINGS_RATE

STEPS = 24


def options(folder: Path, output: Path, **others: Any) -> dict[str, Any]:
    return {
        "model": "minibert-tiny",
        "corpus": folder / "corpus.jsonl",
        "output_dir": output,
        "max_steps": STEPS,
        "save_steps": 4,
        "eval_steps": 8,
        "logging_steps": 1,
        "max_eval_samples": 8,
        "max_seq_length": 32,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "config_overrides": "hidden_dropout_prob=0.1",  # so that its generator matters
    } | others


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    write_corpus(folder / "corpus.jsonl", documents=60)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(folder: Path) -> Path:
    """In a Python of its own: the others, which are forked, are to give the same."""
    done = command("pretrain.py", folder / "cache", **options(folder, folder / "whole"))
    assert done.returncode == 0, done.stderr
    return folder / "whole"


def start(folder: Path, output: Path, **others: Any) -> Forked:
    """Begin a run in a group of its own."""
    return begin("pretrain.py", folder / "cache", **options(folder, output, **others))


def assert_same_run(one: Path, other: Path) -> None:
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    moments = [torch.load(run / f"checkpoint-{STEPS}" / "optimizer.pt", weights_only=True) for run in (one, other)]
    torch.testing.assert_close(moments[0]["state"], moments[1]["state"], atol=0, rtol=0)
    groups = [json.dumps(one["param_groups"]) for one in moments]  # a resumed run's pairs are lists
    assert groups[0] == groups[1]
    assert metrics(one) == metrics(other)  # every step once, with the same loss
    assert metrics(one, "eval_loss") == metrics(other, "eval_loss")
    results = [json.loads((run / "results.json").read_text())["samples"] for run in (one, other)]
    assert results[0] == results[1]


@pytest.mark.parametrize("step", [6, pytest.param(15, marks=pytest.mark.slow)])
def test_killed_and_resumed_equals_uninterrupted(folder: Path, uninterrupted: Path, step: int) -> None:
    output = folder / f"killed-{step}"
    process = start(folder, output)
    wait_for_step(process, output, step)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (output / "model.safetensors").exists()
    done = forked("pretrain.py", folder / "cache", output_dir=output, resume=True)  # all else from arguments.json
    assert done.returncode == 0, done.stderr
    assert "resuming from" in done.stdout
    assert_same_run(output, uninterrupted)


@pytest.mark.slow
def test_a_compiled_run_is_resumed_bit_for_bit(folder: Path) -> None:
    whole, killed = folder / "compiled", folder / "compiled-killed"
    done = forked("pretrain.py", folder / "cache", **options(folder, whole, compile=True))
    assert done.returncode == 0, done.stderr
    process = start(folder, killed, compile=True)
    wait_for_step(process, killed, 6)
    process.kill()
    process.wait()
    done = forked("pretrain.py", folder / "cache", output_dir=killed, resume=True)
    assert done.returncode == 0, done.stderr
    assert_same_run(killed, whole)


@pytest.mark.parametrize(
    ("number", "workers"), [(signal.SIGUSR1, 1), pytest.param(signal.SIGTERM, 0, marks=pytest.mark.slow)]
)
def test_a_signal_saves_and_stops_with_143(
    folder: Path, uninterrupted: Path, number: signal.Signals, workers: int
) -> None:
    output = folder / number.name
    process = start(folder, output, save_steps=1000, dataloader_num_workers=workers)
    wait_for_step(process, output, 5)
    os.killpg(process.pid, number)  # workers get it too, as from a cluster's scheduler
    assert process.wait(timeout=60) == 143, process.printed("stderr")
    checkpoint = next(output.glob("checkpoint-*"))
    assert 5 <= int(checkpoint.name.removeprefix("checkpoint-")) < STEPS
    assert forked("pretrain.py", folder / "cache", output_dir=output, resume=True).returncode == 0
    assert_same_run(output, uninterrupted)


def test_a_finished_run_stays_as_it_is(folder: Path, uninterrupted: Path) -> None:
    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in uninterrupted.rglob("*") if path.is_file()}

    before = content()
    done = forked("pretrain.py", folder / "cache", output_dir=uninterrupted, resume=True)
    assert done.returncode == 0, done.stderr
    assert "is already finished" in done.stderr
    assert content() == before


def test_resumes_from_the_checkpoint_before_a_damaged_one(folder: Path, uninterrupted: Path) -> None:
    output = folder / "damaged"
    process = start(folder, output, save_total_limit=10)
    wait_for_step(process, output, 10)
    process.kill()
    process.wait()
    newest = max(output.glob("checkpoint-*"), key=lambda path: int(path.name.removeprefix("checkpoint-")))
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    done = forked("pretrain.py", folder / "cache", output_dir=output, resume=True)
    assert done.returncode == 0, done.stderr
    assert f"{newest} is damaged" in done.stderr
    assert_same_run(output, uninterrupted)


def test_a_full_disk_stops_the_run_with_its_last_checkpoint_whole(folder: Path, uninterrupted: Path) -> None:
    output = folder / "full"
    process = start(folder, output)
    wait_for_step(process, output, 6)
    process.kill()
    process.wait()
    last = max(output.glob("checkpoint-*"), key=lambda path: int(path.name.removeprefix("checkpoint-")))
    script = f'ulimit -f 1000; exec "{sys.executable}" "{SCRIPTS / "pretrain.py"}" --output_dir "{output}" --resume'
    done = subprocess.run(
        ["bash", "-c", script], cwd=REPOSITORY, env=environment(folder / "cache"), capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert "could not be written" in done.stderr
    assert f"the newest one is {last.name}. Make room on the disk" in done.stderr
    assert "Traceback" not in done.stderr
    assert forked("pretrain.py", folder / "cache", output_dir=output, resume=True).returncode == 0
    assert_same_run(output, uninterrupted)


@pytest.mark.parametrize("end", [20, pytest.param(11, marks=pytest.mark.slow)])
def test_a_decay_that_is_put_off_leaves_no_trace(folder: Path, end: int) -> None:
    trapezoid = {"lr_scheduler_type": "warmup_stable_decay", "warmup_steps": 2, "save_steps": 5, "eval_steps": 5}
    trapezoid["learning_rate"] = 1e-3  # two steps of warm-up are too few for the usual rate
    whole, grown = folder / f"trapezoid-{end}", folder / f"grown-{end}"
    done = forked("pretrain.py", folder / "cache", **options(folder, whole, max_steps=end, **trapezoid))
    assert done.returncode == 0, done.stderr
    done = forked("pretrain.py", folder / "cache", **options(folder, grown, max_steps=10, **trapezoid))
    assert done.returncode == 0, done.stderr
    assert metrics(grown, "learning_rate")[10] < metrics(whole, "learning_rate")[10]
    done = forked("pretrain.py", folder / "cache", output_dir=grown, resume=True, max_steps=end)
    assert done.returncode == 0, done.stderr
    assert f"going on from {grown / 'checkpoint-8'}, before that" in done.stderr
    assert metrics(grown) == metrics(whole)
    assert (grown / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_a_resumed_run_obeys_its_flags(folder: Path, uninterrupted: Path) -> None:
    output = folder / "other-settings"
    shutil.copytree(uninterrupted, output)
    further = {"output_dir": output, "resume": True, "max_steps": STEPS + 2}
    done = forked("pretrain.py", folder / "cache", **further, optimizer="adamw")
    assert done.returncode == 2
    assert "it cannot go on with --optimizer adamw; leave the flag out" in done.stderr
    done = forked("pretrain.py", folder / "cache", **further, weight_decay=0.5)
    assert done.returncode == 0, done.stderr
    assert "weight_decay 0.1 -> 0.5" in done.stdout
    moments = torch.load(output / f"checkpoint-{STEPS + 2}" / "optimizer.pt", weights_only=True)
    assert {group["weight_decay"] for group in moments["param_groups"]} == {0.5, 0.0}


def test_the_rates_of_all_groups_follow_one_schedule(uninterrupted: Path) -> None:
    moments = torch.load(uninterrupted / f"checkpoint-{STEPS}" / "optimizer.pt", weights_only=True)
    said = metrics(uninterrupted, "learning_rate")[STEPS]
    rates = {group["weight_decay"]: group["lr"] for group in moments["param_groups"]}
    matrices, all_else = rates.pop(0.1), rates.pop(0.0)
    assert not rates
    assert matrices == pytest.approx(said)
    assert all_else == pytest.approx(EMBEDDINGS_RATE * said)


def test_replay_shows_the_rows_of_a_step_and_writes_nothing(folder: Path, uninterrupted: Path) -> None:
    def files() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*")}

    before = files()
    done = forked("replay.py", folder / "cache", output_dir=uninterrupted, step=22)
    assert done.returncode == 0, done.stderr
    assert f"step 22: rows 168 to 175, with {uninterrupted / 'checkpoint-20'}" in done.stdout
    assert done.stdout.count("gradient norm") == 3
    assert files() == before
    done = forked("replay.py", folder / "cache", output_dir=folder / "nowhere", step=22)
    assert done.returncode == 2
    assert "nothing to replay" in done.stderr


@pytest.mark.slow
def test_twenty_kills_at_random_moments(folder: Path, uninterrupted: Path) -> None:
    output = folder / "many"
    moments = random.Random(0)
    process = start(folder, output, save_steps=1)
    for _ in range(20):
        time.sleep(moments.uniform(1.0, 5.0))
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        if any(output.glob("checkpoint-*")):
            process = begin("pretrain.py", folder / "cache", output_dir=output, resume=True)
        else:
            process = start(folder, output, save_steps=1, overwrite_output_dir=True)
    assert process.wait(timeout=300) == 0
    assert (output / "model.safetensors").read_bytes() == (uninterrupted / "model.safetensors").read_bytes()
