"""A run that goes astray keeps its good checkpoints, says so and fails; a good one goes on from where it was."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import TINY_RUN, call, flags, metrics, write_corpus
from safetensors.torch import load_file

from hf_minibert.files import MANIFEST
from hf_minibert.pretraining import loop, schedule
from hf_minibert.pretraining.checkpoint import checkpoints, whole_checkpoints
from hf_minibert.pretraining.folder import newest_checkpoint

Run = dict[str, Any]


def run_in(folder: Path) -> Run:
    corpus = write_corpus(folder / "corpus.jsonl", documents=60)
    return TINY_RUN | {"corpus": corpus, "output_dir": folder / "run", "logging_steps": 1, "report_to": "none"}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return run_in(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps and two checkpoints."""
    run = run_in(tmp_path_factory.mktemp("trained")) | {"max_steps": 6, "save_steps": 3}
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert call("pretrain.py", monkeypatch, *flags(run)) == 0
    return run["output_dir"]


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("rate", ["1e30", "1e10", "30"])
def test_a_run_that_diverges_keeps_its_good_checkpoints(
    rate: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = {path.name: content(path) for path in checkpoints(folder)}
    assert set(good) == {"checkpoint-3", "checkpoint-6"}
    resume = ["--output_dir", folder, "--resume"]
    spoilt = [*resume, "--learning_rate", rate, "--save_steps", "1", "--warmup_steps", "0"]
    for steps in ("7", "20"):
        assert call("pretrain.py", monkeypatch, *spoilt, "--max_steps", steps) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert "go on from checkpoint-6 with --resume and a --learning_rate below" in error
        assert {path.name: content(path) for path in checkpoints(folder)} == good
    assert call("pretrain.py", monkeypatch, *resume, "--learning_rate", "1e-3", "--max_steps", "8") == 0
    assert "resuming from" in capsys.readouterr().out
    assert all(bool(torch.isfinite(weight).all()) for weight in load_file(folder / "model.safetensors").values())
    assert metrics(folder)[8] < metrics(folder)[1] + 0.5


def test_what_a_user_keeps_in_an_old_checkpoint_is_none(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new run over an old one saves, prunes, diverges and begins anew as if it were not there."""
    folder = run["output_dir"]
    assert call("pretrain.py", monkeypatch, *flags(run | {"max_steps": 9})) == 0
    (folder / "checkpoint-9" / "notes.txt").write_text("mine")
    new = flags(run | {"max_steps": 6, "save_steps": 1, "save_total_limit": 1, "overwrite_output_dir": True})
    assert call("pretrain.py", monkeypatch, *new) == 0
    assert [path.name for path in checkpoints(folder)] == ["checkpoint-9", "checkpoint-6"]
    assert [path.name for path in whole_checkpoints(folder)] == ["checkpoint-6"]
    assert [path.name for path in (folder / "checkpoint-9").iterdir()] == ["notes.txt"]
    for name in ("checkpoint-6", "logs"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("results.json", "model.safetensors"):
        (folder / name).unlink()
    assert newest_checkpoint(folder) is None, "so that a job that was stopped before its first one begins anew"


def test_a_damaged_checkpoint_is_not_kept_in_the_place_of_a_whole_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = folder / "checkpoint-6" / "model.safetensors"
    content_before = weights.read_bytes()
    weights.write_bytes(content_before[:-1] + bytes([content_before[-1] ^ 1]))
    (folder / MANIFEST).unlink()  # a run of a version that kept none
    words = ["--output_dir", folder, "--resume", "--max_steps", "5", "--save_steps", "1", "--save_total_limit", "1"]
    assert call("pretrain.py", monkeypatch, *words) == 0
    assert [path.name for path in whole_checkpoints(folder)] == ["checkpoint-5"]


def test_a_run_that_diverges_from_the_start_leaves_no_model(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run["output_dir"]
    assert call("pretrain.py", monkeypatch, *flags(run | {"max_steps": 8, "learning_rate": "1e30"})) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "begin anew with --resume and a --learning_rate below 1e+30" in error
    assert not any((folder / name).exists() for name in ("model.safetensors", "results.json", "README.md"))
    assert not checkpoints(folder)
    assert metrics(folder, "skipped_steps")[8] >= 6
    words = ["--output_dir", folder, "--resume", "--learning_rate", "1e-3"]
    assert call("pretrain.py", monkeypatch, *words) == 0
    assert json.loads((folder / "results.json").read_text())["training"]["skipped_steps"] == 0
    assert list(metrics(folder)) == [*range(1, 9)]


def test_a_held_out_loss_that_is_not_finite_is_no_end(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run["output_dir"]
    with monkeypatch.context() as patch:
        patch.setattr(loop, "evaluate", lambda *_, **__: {"eval_loss": math.nan, "eval_accuracy": 0.0})
        assert call("pretrain.py", monkeypatch, *flags(run | {"save_steps": 2})) == 2
    assert "the held-out loss is not finite; go on from checkpoint-2" in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in checkpoints(folder)] == ["checkpoint-2"]
    assert not any((folder / name).exists() for name in ("model.safetensors", "results.json", "README.md"))
    assert call("pretrain.py", monkeypatch, "--resume", "--output_dir", folder) == 0


def test_a_short_run_learns_by_default(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call("pretrain.py", monkeypatch, *flags(run | {"max_steps": 20, "per_device_train_batch_size": 16})) == 0
    losses = metrics(run["output_dir"])
    assert max(losses.values()) < losses[1] + 0.25
    assert losses[20] < losses[1]


def test_padding_is_no_token(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = {"objective": "mlm+nsp", "max_tokens": 700, "max_seq_length": 64, "gradient_accumulation_steps": 2}
    texts = "".join(json.dumps({"text": f"One short text, number {number}."}) + "\n" for number in range(300))
    run["corpus"].write_text(texts)
    options = {name: value for name, value in run.items() if name != "max_steps"} | ends
    assert call("pretrain.py", monkeypatch, *flags(options)) == 0
    results = json.loads((run["output_dir"] / "results.json").read_text())
    training = results["training"]
    assert 700 <= training["tokens_seen"] < 900
    assert training["tokens_seen"] < training["steps"] * 8 * 30, "rows of 64 places, of which half are padding"
    assert results["corpus"]["evaluated_tokens"] < 8 * 30
    assert metrics(run["output_dir"], "tokens")[training["steps"]] == training["tokens_seen"]


def test_where_nothing_is_padded_the_rows_of_a_run_are_known() -> None:
    state = schedule.TrainState(step=2, rows=16, tokens=512)
    assert schedule.End(None, None, 1_000).last_row(state, 8, 256) == 32
    assert schedule.End(None, None, 1_000).last_row(state, 8, None) is None
    assert schedule.End(None, 5, 1_000).last_row(state, 8, None) == 40


def test_a_share_of_a_short_run_is_no_warmup() -> None:
    def rates(warmup: float, steps: int) -> list[float]:
        return [schedule.learning_rate_factor("linear", warmup, step, step / steps) for step in range(steps)]

    short = rates(0.05, 20)
    assert short[1:10] == [(step + 1) / schedule.LEAST_WARMUP_STEPS for step in range(1, 10)]
    assert rates(0, 20)[0] == rates(1, 20)[0] == 1, "unless told"
    long = rates(0.05, 1_000)
    assert long == [schedule._factor("linear", 0.05, step, step / 1_000) for step in range(1_000)]


def test_what_damage_a_runs_files_have_is_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder = run["output_dir"]
    assert call("pretrain.py", monkeypatch, *flags(run)) == 0
    resume = ["--output_dir", folder, "--resume", "--max_steps"]
    damages = [b"", b'{"model": "minib', b"[]", b"\xff\xfe", b"[" * 100_000, b'{"optimizer": 3}']
    for damage in damages:
        (folder / "arguments.json").write_bytes(damage)
        assert call("pretrain.py", monkeypatch, *resume, "4") == 0
    assert sum("taking the copy in checkpoint-4" in record.getMessage() for record in caplog.records) == len(damages)
    for name in ("samples.jsonl", "metrics.jsonl"):
        with (folder / name).open("ab") as file:
            file.write('{"step": 1, "samples": "größer'.encode()[:-3])
    (folder / "results.json").write_bytes("{ü".encode()[:-1])
    (folder / "README.md").unlink()
    assert call("pretrain.py", monkeypatch, *resume, "5") == 0
    assert (folder / "README.md").exists()
    assert [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    (folder / "README.md").unlink()
    assert call("pretrain.py", monkeypatch, *resume, "5") == 0
    assert (folder / "README.md").exists(), "a finished run gets its card"
    for damage in damages:
        (folder / "arguments.json").write_bytes(damage)
        for checkpoint in checkpoints(folder):
            (checkpoint / "arguments.json").unlink(missing_ok=True)
        assert call("pretrain.py", monkeypatch, *resume, "9") == 2
        assert "no checkpoint has a copy" in capsys.readouterr().err.strip().splitlines()[-1]


def test_the_lines_of_samples_end_where_they_were_ended(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run["output_dir"]
    assert call("pretrain.py", monkeypatch, *flags(run)) == 0
    line = json.dumps({"step": 1, "samples": [{"text": "a\u2028b\u0085c"}]}, ensure_ascii=False) + "\n"
    path = folder / "samples.jsonl"
    path.write_text(line + path.read_text(encoding="utf-8"), encoding="utf-8")
    assert call("pretrain.py", monkeypatch, "--output_dir", folder, "--resume", "--max_steps", "5") == 0
    assert path.read_text(encoding="utf-8").startswith(line)
