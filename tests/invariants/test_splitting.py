"""A global batch gives the same run however it is split: into micro-batches, or over processes."""

import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from accelerate.utils import is_deepspeed_available
from commands import (
    REPOSITORY,
    SCRIPTS,
    TWO_PROCESSES,
    both,
    call,
    command,
    environment,
    flags,
    forked,
    metrics,
    wait_for_step,
    write_corpus,
)
from safetensors.torch import load_file

from hf_minibert.pretraining.checkpoint import load_state

FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}
ZERO = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}
SPOILT = f"""
import runpy
from hf_minibert.pretraining.loop import Pretraining

forward = Pretraining.forward


def spoil_step_2(self, batch, counts):
    losses = forward(self, batch, counts)
    if self.state.step == 1 and self.accelerator.is_main_process:
        losses["loss"] = losses["loss"] * float("nan")
    return losses


Pretraining.forward = spoil_step_2
runpy.run_path({str(SCRIPTS / "pretrain.py")!r}, run_name="__main__")
"""
needs_deepspeed = pytest.mark.skipif(not is_deepspeed_available(), reason="deepspeed is not installed")
SPLITS = {"whole": (8, 1, forked), "accumulated": (2, 4, forked), "distributed": (2, 2, both)}


@pytest.mark.parametrize(
    "objective", ["mlm+nsp", "hybrid", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mlm", "clm"))]
)
def test_splits_of_a_batch_give_the_same_run(objective: str, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus.jsonl", documents=60)
    for name, (batch_size, accumulation, run) in SPLITS.items():
        options: dict[str, Any] = {
            "model": "minigpt-tiny" if objective == "clm" else "minibert-tiny",
            "objective": objective,
            "corpus": tmp_path / "corpus.jsonl",
            "output_dir": tmp_path / name,
            "max_steps": 6,
            "logging_steps": 1,
            "eval_steps": 3,
            "max_eval_samples": 9,
            "per_device_eval_batch_size": 2,  # one process more than the other
            "max_seq_length": 32,
            "per_device_train_batch_size": batch_size,
            "gradient_accumulation_steps": accumulation,
            "mixed_precision": "no",  # a sum that is split is rounded otherwise
            "optimizer": "adamw",  # Muon computes in bfloat16, where the smallest difference shows
            "adam_epsilon": 1e-3,  # else the sign of a gradient near zero is a whole step
        }
        done = run("pretrain.py", tmp_path / "cache", **options)
        assert done.returncode == 0, done.stderr
    whole = tmp_path / "whole"
    for other in (tmp_path / "accumulated", tmp_path / "distributed"):
        for key in ("loss", "grad_norm", "eval_loss"):
            assert metrics(other, key) == pytest.approx(metrics(whole, key), abs=1e-4)
        assert len(metrics(other)) == 6
        weights, expected = load_file(other / "model.safetensors"), load_file(whole / "model.safetensors")
        for name in expected:
            torch.testing.assert_close(weights[name], expected[name], atol=1e-5, rtol=1e-4)


def test_sigterm_stops_both_processes(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus.jsonl", documents=60)
    output = tmp_path / "run"
    options = {
        "model": "minibert-tiny",
        "corpus": tmp_path / "corpus.jsonl",
        "output_dir": output,
        "budget": "4m",
        "logging_steps": 1,
        "max_seq_length": 32,
        "per_device_train_batch_size": 2,
    }
    words = [sys.executable, *TWO_PROCESSES, str(SCRIPTS / "pretrain.py"), *flags(options)]
    process = subprocess.Popen(words, cwd=REPOSITORY, env=environment(tmp_path / "cache"))
    wait_for_step(process, output, 1)
    process.send_signal(signal.SIGTERM)  # torchrun passes it on
    process.wait(timeout=60)
    assert len(list(output.glob("checkpoint-*"))) == 1


def test_fsdp_gives_the_same_run_and_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus.jsonl", documents=60)
    options: dict[str, Any] = {
        "model": "minibert-tiny",
        "corpus": tmp_path / "corpus.jsonl",
        "max_steps": 8,
        "logging_steps": 1,
        "eval_steps": 4,
        "save_steps": 4,
        "max_eval_samples": 9,
        "per_device_eval_batch_size": 2,
        "max_seq_length": 32,
        "mixed_precision": "no",
        "optimizer": "muon",
        "config_overrides": "residual_init=normal",  # Muon magnifies rounding in what starts from zero
        "learning_rate": 3e-3,  # and so do long steps
    }
    one = options | {"output_dir": tmp_path / "one", "per_device_train_batch_size": 8}
    assert forked("pretrain.py", tmp_path / "cache", **one).returncode == 0
    two = options | {"output_dir": tmp_path / "two", "per_device_train_batch_size": 4}
    done = both("pretrain.py", tmp_path / "cache", settings=FSDP, **two)
    assert done.returncode == 0, done.stderr
    # Muon computes in bfloat16, which CPUs round differently; a norm of 6 shows it more than a loss
    for key, tolerance in {"loss": 2e-3, "grad_norm": 1e-2, "eval_loss": 2e-3}.items():
        assert metrics(tmp_path / "two", key) == pytest.approx(metrics(tmp_path / "one", key), abs=tolerance), key
    shutil.rmtree(tmp_path / "two" / "checkpoint-8")
    done = forked(
        "pretrain.py",
        tmp_path / "cache",
        output_dir=tmp_path / "two",
        resume=True,
        per_device_train_batch_size=8,
    )
    assert done.returncode == 0, done.stderr
    assert metrics(tmp_path / "two") == pytest.approx(metrics(tmp_path / "one"), abs=2e-3)


@pytest.mark.slow
@needs_deepspeed
def test_zero_gives_the_same_run_and_goes_on_without_it(tmp_path: Path) -> None:
    """Also where the gradient of one process is not finite: the step is left out, and counted."""
    write_corpus(tmp_path / "corpus.jsonl", documents=60)
    script = tmp_path / "spoilt.py"
    script.write_text(SPOILT)
    whole = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}
    divided = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    zero: dict[str, Any] = {"launcher": TWO_PROCESSES, "settings": ZERO}
    options: dict[str, Any] = {
        "model": "minibert-tiny",
        "corpus": tmp_path / "corpus.jsonl",
        "max_steps": 6,
        "logging_steps": 1,
        "eval_steps": 3,
        "save_steps": 3,
        "max_eval_samples": 9,
        "per_device_eval_batch_size": 2,
        "max_seq_length": 32,
        "mixed_precision": "no",
        "optimizer": "adamw",
        "adam_epsilon": 1e-3,  # else the sign of a gradient near zero is a whole step
    }

    def run(name: str, launcher: dict[str, Any], **more: Any) -> None:
        done = command(str(script), tmp_path / "cache", **launcher, **more, output_dir=tmp_path / name)
        assert done.returncode == 0, done.stderr

    run("alone", {}, **options, **whole)
    run("zero", zero, **options, **divided)
    for name in ("alone", "zero"):
        shutil.copytree(tmp_path / name, tmp_path / f"from-{name}")
        shutil.rmtree(tmp_path / f"from-{name}" / "checkpoint-6")
    run("from-zero", {}, resume=True, **whole)
    run("from-alone", zero, resume=True, **divided)
    alone = tmp_path / "alone"
    expected = load_file(alone / "model.safetensors")
    for other in (tmp_path / "zero", tmp_path / "from-zero", tmp_path / "from-alone"):
        assert [step for step, loss in metrics(other).items() if loss is None] == [2]
        assert load_state(other / "checkpoint-6").skipped_steps_in_all == 1
        assert finite(other, "loss") == pytest.approx(finite(alone, "loss"), abs=1e-4)
        assert finite(other, "eval_loss") == pytest.approx(finite(alone, "eval_loss"), abs=1e-4)
        # torch adds the squares of a large gradient in float32, DeepSpeed in float64.
        assert finite(other, "grad_norm") == pytest.approx(finite(alone, "grad_norm"), rel=5e-4)
        weights = load_file(other / "model.safetensors")
        assert weights.keys() == expected.keys()
        for key in expected:
            torch.testing.assert_close(weights[key], expected[key], atol=1e-5, rtol=1e-4)


def finite(run: Path, key: str) -> dict[int, float]:
    """The metrics of the steps that were not left out."""
    return {step: value for step, value in metrics(run, key).items() if value is not None}


@needs_deepspeed
@pytest.mark.parametrize(
    ("options", "settings", "reason"),
    [
        (["--optimizer", "muon"], {}, "begin with --optimizer adamw"),
        ([], {"ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, "zero_stage must be 1 or 2, got 3"),
        ([], {"ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu"}, "set offload_optimizer_device to none"),
        ([], {"ACCELERATE_DEEPSPEED_CONFIG_FILE": "ds.json"}, "deepspeed_config_file"),
    ],
)
def test_what_zero_does_not_do_is_refused_before_anything_is_written(
    options: list[str],
    settings: dict[str, str],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in (ZERO | settings).items():
        monkeypatch.setenv(name, value)
    assert call("pretrain.py", monkeypatch, "--output_dir", tmp_path / "run", "--optimizer", "adamw", *options) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_zero_without_its_package_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hf_minibert.pretraining.backend.is_deepspeed_available", lambda: False)
    for name, value in ZERO.items():
        monkeypatch.setenv(name, value)
    assert call("pretrain.py", monkeypatch, "--output_dir", tmp_path / "run") == 2
    assert "pip install deepspeed" in capsys.readouterr().err


@needs_deepspeed
def test_zero_with_a_package_that_steps_on_nan_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("hf_minibert.pretraining.backend.OLDEST_DEEPSPEED", (99, 0, 1))
    for name, value in ZERO.items():
        monkeypatch.setenv(name, value)
    assert call("pretrain.py", monkeypatch, "--output_dir", tmp_path / "run", "--optimizer", "adamw") == 2
    assert "versions before 99.0.1 step on gradients that are not finite" in capsys.readouterr().err


@pytest.mark.slow
def test_two_nodes_that_share_nothing_but_the_folder_give_the_run_of_one(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "model": "minibert-tiny",
        "max_steps": 4,
        "logging_steps": 1,
        "eval_steps": 2,
        "max_eval_samples": 9,
        "per_device_eval_batch_size": 2,
        "max_seq_length": 32,
        "per_device_train_batch_size": 2,
    }
    corpus = write_corpus(tmp_path / "corpus.jsonl", documents=60)
    one, two = tmp_path / "one", tmp_path / "two"
    done = command("pretrain.py", tmp_path / "cache", launcher=TWO_PROCESSES, **options, corpus=corpus, output_dir=one)
    assert done.returncode == 0, done.stderr
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = []
    for rank in range(2):
        place = tmp_path / f"node-{rank}"
        place.mkdir()
        copy = write_corpus(place / "corpus.jsonl", documents=60)
        words = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node_rank", str(rank)]
        words += ["--nproc_per_node", "1", "--master_addr", "127.0.0.1", "--master_port", str(port)]
        words += [str(SCRIPTS / "pretrain.py"), *flags(options | {"corpus": copy, "output_dir": two})]
        nodes.append(subprocess.Popen(words, cwd=REPOSITORY, env=environment(place / "cache")))
    assert [node.wait(timeout=120) for node in nodes] == [0, 0]
    for key in ("loss", "grad_norm", "eval_loss"):
        assert metrics(two, key) == metrics(one, key)
    files = [{path.relative_to(run) for path in run.rglob("*") if "logs" not in path.parts} for run in (one, two)]
    assert files[0] == files[1]


@pytest.mark.slow
@pytest.mark.parametrize("engine", [{}, FSDP], ids=["ddp", "fsdp"])
def test_compiled_processes_give_the_run_of_others(tmp_path: Path, engine: dict[str, str]) -> None:
    write_corpus(tmp_path / "corpus.jsonl", documents=60)
    options: dict[str, Any] = {
        "model": "minibert-tiny",
        "corpus": tmp_path / "corpus.jsonl",
        "max_steps": 6,
        "logging_steps": 1,
        "eval_steps": 3,
        "max_eval_samples": 8,
        "max_seq_length": 32,
        "per_device_train_batch_size": 4,
    }
    runs = [tmp_path / "compiled", tmp_path / "not"]
    for run, choice in zip(runs, ("yes", "no"), strict=True):
        done = command(
            "pretrain.py",
            tmp_path / "cache",
            launcher=TWO_PROCESSES,
            settings=engine,
            **options,
            output_dir=run,
            compile=choice,
        )
        assert done.returncode == 0, done.stderr
    for key in ("loss", "eval_loss"):
        assert metrics(runs[0], key) == pytest.approx(metrics(runs[1], key), abs=2e-2), key  # in bfloat16


@pytest.mark.slow
def test_a_killed_process_ends_the_run_and_resuming_loses_nothing(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus.jsonl", documents=60)
    options: dict[str, Any] = {
        "model": "minibert-tiny",
        "corpus": tmp_path / "corpus.jsonl",
        "max_steps": 16,
        "logging_steps": 1,
        "save_steps": 3,
        "max_seq_length": 32,
        "per_device_train_batch_size": 2,
    }
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    done = command("pretrain.py", tmp_path / "cache", launcher=TWO_PROCESSES, **options, output_dir=whole)
    assert done.returncode == 0, done.stderr
    words = [sys.executable, *TWO_PROCESSES, str(SCRIPTS / "pretrain.py"), *flags(options | {"output_dir": broken})]
    process = subprocess.Popen(words, cwd=REPOSITORY, env=environment(tmp_path / "cache"))
    wait_for_step(process, broken, 5)
    psutil.Process(process.pid).children()[-1].kill()
    assert process.wait(timeout=120) != 0, "the other process does not wait for ever"
    assert not (broken / "model.safetensors").exists()
    done = command("pretrain.py", tmp_path / "cache", launcher=TWO_PROCESSES, output_dir=broken, resume=True)
    assert done.returncode == 0, done.stderr
    assert (broken / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert metrics(broken) == metrics(whole)
