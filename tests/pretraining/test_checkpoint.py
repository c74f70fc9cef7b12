import errno
import json
import logging
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from hf_minibert.errors import UserError
from hf_minibert.files import TEMPORARY, Manifest
from hf_minibert.pretraining import checkpoint as checkpoint_module
from hf_minibert.pretraining.checkpoint import (
    CHECKSUMS,
    MOMENTS,
    STATE,
    TrainState,
    checkpoints,
    is_whole,
    latest_checkpoint,
    load_state,
    prune_checkpoints,
    read_tensors,
    refuse_other_moments,
    remove_checkpoint,
    save_checkpoint,
)


def write(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    (folder / "logs").mkdir()
    (folder / "logs" / "line.txt").write_text("größer")


def save(output_dir: Path, *steps: int) -> list[Path]:
    return [save_checkpoint(output_dir, TrainState(step=step), write) for step in steps]


def test_a_checkpoint_is_whole_and_says_how_far_the_run_is(tmp_path):
    state = TrainState(step=7, tokens=123, seconds=1.5, skipped_steps=2, samples_before=[{"text": "größer"}])
    folder = save_checkpoint(tmp_path, state, write)
    assert folder == tmp_path / "checkpoint-7"
    assert is_whole(folder)
    assert load_state(folder) == state
    assert latest_checkpoint(tmp_path) == folder
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {
        "model.safetensors",
        "logs/line.txt",
        STATE,
        CHECKSUMS,
    }
    assert set(json.loads((folder / CHECKSUMS).read_text())) == {"model.safetensors", "logs/line.txt", STATE}


def test_the_folder_appears_only_when_all_is_written(tmp_path, monkeypatch):
    seen = []

    def watching_write(folder: Path) -> None:
        write(folder)
        seen.append(sorted(path.name for path in tmp_path.glob("checkpoint-*")))

    real = checkpoint_module.write_json

    def watching_write_json(path: Path, content) -> None:
        real(path, content)
        seen.append(sorted(path.name for path in tmp_path.glob("checkpoint-*")))

    monkeypatch.setattr(checkpoint_module, "write_json", watching_write_json)
    save_checkpoint(tmp_path, TrainState(step=1), watching_write)
    assert seen == [[]] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


@pytest.mark.parametrize(
    ("error", "told"), [(OSError("no space left"), UserError), (KeyboardInterrupt(), KeyboardInterrupt)]
)
def test_an_interrupted_save_leaves_nothing_and_what_was_there(tmp_path, error, told):
    save(tmp_path, 1, 2)

    def broken(folder: Path) -> None:
        write(folder)
        raise error

    for step in (2, 3):
        with pytest.raises(told):
            save_checkpoint(tmp_path, TrainState(step=step), broken)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-2"]
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoint-2"


def test_what_a_kill_left_is_no_checkpoint_and_not_in_the_way(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def interrupted(folder):
        write(folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:  # nothing is tidied up
        killed.setattr(shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(tmp_path, TrainState(step=2), interrupted)
    (left,) = (path for path in tmp_path.iterdir() if path.name != "checkpoint-1")
    assert checkpoints(tmp_path) == [tmp_path / "checkpoint-1"]
    assert TEMPORARY.fullmatch(left.name), "the next verb on the folder knows it by this name"
    (folder,) = save(tmp_path, 2)
    assert is_whole(folder)


def test_what_somebody_changed_in_a_checkpoint_stays_when_it_goes(tmp_path, caplog):
    Manifest(tmp_path, "pretrain", {}).write()
    save(tmp_path, 1, 2)
    (tmp_path / "checkpoint-1" / "logs" / "line.txt").write_text("my words")
    remove_checkpoint(tmp_path / "checkpoint-1")
    assert [path.name for path in (tmp_path / "checkpoint-1").rglob("*") if path.is_file()] == ["line.txt"]
    assert f"kept, since it was changed: {tmp_path / 'checkpoint-1' / 'logs' / 'line.txt'}" in caplog.text
    assert latest_checkpoint(tmp_path).name == "checkpoint-2"
    (folder,) = save(tmp_path, 1)
    assert is_whole(folder)
    assert (tmp_path / "checkpoint-1.kept" / "logs" / "line.txt").read_text() == "my words"


def test_where_a_checkpoint_cannot_take_its_place_the_one_before_it_stays(tmp_path, monkeypatch):
    save(tmp_path, 1)
    rename, calls = Path.rename, []

    def fail_second(self, target):
        calls.append(target)
        if len(calls) == 2:
            raise OSError(errno.EIO, "the disk is gone")
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail_second)
        with pytest.raises(UserError, match=r"checkpoint of step 1 could not be written .*the newest one is"):
            save_checkpoint(tmp_path, TrainState(step=1), write)
    assert len(calls) == 3
    assert is_whole(tmp_path / "checkpoint-1")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def test_what_is_not_the_runs_stays_when_checkpoints_go(tmp_path):
    Manifest(tmp_path, "pretrain", {}).write()
    save(tmp_path, 1)
    (tmp_path / "checkpoint-1" / "notes.md").write_text("the best one")
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "checkpoint-2" / "thesis.md").write_text("precious")
    (tmp_path / "checkpoint-3").write_text("a file")
    save(tmp_path, 2, 3, 4)
    prune_checkpoints(tmp_path, 1)
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()} == {
        ".hf_minibert.json",
        "checkpoint-1/notes.md",
        "checkpoint-2.kept/thesis.md",
        "checkpoint-3.kept",
        *(f"checkpoint-4/{name}" for name in ("model.safetensors", "logs/line.txt", STATE, CHECKSUMS)),
    }
    assert set(Manifest.read(tmp_path).files) == {
        f"checkpoint-4/{name}" for name in ("model.safetensors", "logs/line.txt", STATE, CHECKSUMS)
    }


def test_saving_a_step_again_replaces_it(tmp_path):
    (folder,) = save(tmp_path, 3)
    (folder / "model.safetensors").write_bytes(b"damaged")
    save(tmp_path, 3)
    assert is_whole(folder)


# ---------------------------------------------------------------- damage


def flip_a_byte(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[5_000] ^= 1
    path.write_bytes(content)


def add_checksum(folder: Path, name: str) -> None:
    checksums = json.loads((folder / CHECKSUMS).read_text())
    (folder / CHECKSUMS).write_text(json.dumps({name: "0" * 64} | checksums))


DAMAGE = {
    "a flipped byte": flip_a_byte,
    "a missing file": lambda folder: (folder / "logs" / "line.txt").unlink(),
    "a shorter file": lambda folder: (folder / "model.safetensors").write_bytes(b""),
    "another state": lambda folder: (folder / STATE).write_text('{"step": 99}'),
    "no checksums": lambda folder: (folder / CHECKSUMS).unlink(),
    "empty checksums": lambda folder: (folder / CHECKSUMS).write_text("{}"),
    "half of the checksums": lambda folder: (folder / CHECKSUMS).write_text('{"model.saf'),
    "checksums of another kind": lambda folder: (folder / CHECKSUMS).write_text('["model.safetensors"]'),
    "binary checksums": lambda folder: (folder / CHECKSUMS).write_bytes(b"\xff\xfe"),
    "deep checksums": lambda folder: (folder / CHECKSUMS).write_text("[" * 100_000),
    "a device among the checksums": lambda folder: add_checksum(folder, "/dev/zero"),
    "a file elsewhere among the checksums": lambda folder: add_checksum(folder, "../checkpoint-9/train_state.json"),
    "a pipe among the checksums": lambda folder: (os.mkfifo(folder / "pipe"), add_checksum(folder, "pipe")),
    "moments without a checksum": lambda folder: (folder / MOMENTS).write_bytes(b"others"),
    "a link for checksums": lambda folder: (
        (folder / CHECKSUMS).unlink(),
        (folder / CHECKSUMS).symlink_to("/dev/zero"),
    ),
    "nothing in it": lambda folder: (shutil.rmtree(folder), folder.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_noticed_and_passed_over(tmp_path, caplog, damage):
    older, newest = save(tmp_path, 9, 10)
    damage(newest)
    assert not is_whole(newest)
    with caplog.at_level(logging.WARNING, logger=checkpoint_module.__name__):
        assert latest_checkpoint(tmp_path) == older
    assert [record.getMessage() for record in caplog.records] == [f"{newest} is damaged; looking for the one before"]


def test_a_whole_checkpoint_is_found_without_a_warning(tmp_path, caplog):
    save(tmp_path, 9, 10)
    latest_checkpoint(tmp_path)
    assert not caplog.records


def test_foreign_names_are_no_checkpoints(tmp_path):
    (whole,) = save(tmp_path, 5)
    for name in ("checkpoint-x", "checkpoint-9-old", "checkpoint-", "my-checkpoint-7"):
        shutil.copytree(whole, tmp_path / name)
    (tmp_path / "checkpoint-8").write_text("a file")
    assert checkpoints(tmp_path) == [whole]


@pytest.mark.parametrize("damaged", [True, False])
def test_nothing_to_resume(tmp_path, damaged):
    if damaged:
        flip_a_byte(*save(tmp_path, 1))
    with pytest.raises(UserError, match="has no whole checkpoint; start the run without --resume"):
        latest_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Expecting value"),
        (b"[]", "train_state.json"),
        (b"\xff\xfe", "utf-8"),
        (b"[" * 100_000, "recursion"),
        (b'{"step": 1, "luck": 7}', "unknown key 'luck'"),
        (b'{"step": "1"}', "not a value of step"),
        (b'{"step": 2}', "not a value of step"),
        (b'{"step": 1, "tokens": -1}', "not a value of tokens"),
        (b'{"step": 1, "seconds": NaN}', "not a value of seconds"),
        (b'{"step": 1, "seconds": 1' + b"0" * 400 + b"}", "train_state.json"),
        (b'{"step": 1, "decayed_for": [1]}', "not a value of decayed_for"),
        (b'{"step": 1, "samples_before": [3]}', "not a value of samples_before"),
    ],
)
def test_a_state_that_says_something_else_is_refused(tmp_path, content, reason):
    (folder,) = save(tmp_path, 1)
    (folder / STATE).write_bytes(content)
    with pytest.raises(UserError, match=reason) as refused:
        load_state(folder)
    assert str(folder / STATE) in str(refused.value)


def test_nothing_but_tensors_is_read(tmp_path):
    for number, content in enumerate(
        (b"", b"half", pickle.dumps(print), pickle.dumps(print, protocol=2), pickle.dumps({"state": {}})[:-3])
    ):
        path = tmp_path / f"{number}.pt"
        path.write_bytes(content)
        with pytest.raises(UserError, match="is not as a run wrote it"):
            read_tensors(path)


def test_moments_are_those_of_the_model():
    shapes = {"one": torch.Size([2, 3]), "two": torch.Size([4])}
    moment = {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2, 3)}
    groups = [{"params": ["one"]}, {"params": ["two"]}]
    path = Path("checkpoint-1/optimizer.pt")
    refuse_other_moments({"state": {"one": moment}, "param_groups": groups}, shapes, path)
    others = [
        {"state": {"one": moment | {"exp_avg": torch.zeros(3, 2)}}, "param_groups": groups},
        {"state": {"three": moment}, "param_groups": groups},
        {"state": {"one": moment}, "param_groups": groups[:1]},
        {"state": {}, "param_groups": groups},
        {"state": [moment], "param_groups": groups},
        [1, 2],
        {},
    ]
    for other in others:
        with pytest.raises(UserError, match=r"moments.*delete checkpoint-1 to go on"):
            refuse_other_moments(other, shapes, path)


# ---------------------------------------------------------------- order


def test_newest_is_by_number(tmp_path):
    steps = [9, 100, 20, 1_000, 3, 11, 99, 2, 30]
    save(tmp_path, *steps)
    assert [path.name for path in checkpoints(tmp_path)] == [f"checkpoint-{step}" for step in sorted(steps)[::-1]]


@pytest.mark.parametrize(("keep", "left"), [(1, ["100"]), (2, ["100", "20"]), (9, ["100", "20", "9"])])
def test_pruning_keeps_the_newest_and_what_is_not_ours(tmp_path, keep, left):
    save(tmp_path, 9, 100, 20)
    (tmp_path / "checkpoint-best").mkdir()
    prune_checkpoints(tmp_path, keep)
    assert [path.name for path in checkpoints(tmp_path)] == [f"checkpoint-{step}" for step in left]
    assert (tmp_path / "checkpoint-best").exists()
