import errno
import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hf_minibert.errors import UserError
from hf_minibert.files import MANIFEST, Manifest, append_text, disk_errors, share, write_json, write_text


def test_text_and_json_are_replaced_at_once(tmp_path, monkeypatch):
    path = tmp_path / "metrics.json"
    write_json(path, {"loss": 1.5, "text": "größer"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"loss": 1.5, "text": "größer"}
    assert "größer" in path.read_text(encoding="utf-8"), "readable by people"
    with pytest.raises(TypeError):
        write_json(path, {"loss": object()})

    def fail(*_) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        write_text(path, "other")
    assert json.loads(path.read_text(encoding="utf-8"))["loss"] == 1.5
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_replaced_and_what_it_names_stays(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("arguments.json", ".arguments.json.tmp"):
        (folder / name).symlink_to(precious)
    write_json(folder / "arguments.json", {"model": "minibert"})
    assert json.loads((folder / "arguments.json").read_text()) == {"model": "minibert"}
    assert not (folder / "arguments.json").is_symlink()
    (folder / "metrics.jsonl").symlink_to(precious)
    with pytest.raises(OSError, match="symbolic link"):
        append_text(folder / "metrics.jsonl", "a line\n")
    assert precious.read_text() == "mine"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_the_umask_says_who_may_read_a_file(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_text(tmp_path / "card", "text")
        append_text(tmp_path / "log", "text")
        save_file({"weight": torch.ones(2)}, tmp_path / "model.safetensors")
        share(tmp_path)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {mode}


def test_a_listed_file_is_replaced_and_one_that_somebody_changed_is_kept(tmp_path, caplog):
    Manifest(tmp_path, "pretrain", {}).write()
    path = tmp_path / "results.json"
    for number in range(3):
        write_json(path, number)
    assert {one.name for one in tmp_path.iterdir()} == {MANIFEST, "results.json"}
    path.write_text("changed")
    write_json(path, 4)
    path.unlink()
    path.mkdir()
    write_json(path, 5)
    assert (tmp_path / "results.json.kept").read_text() == "changed"
    assert (tmp_path / "results.json.kept-2").is_dir()
    assert path.read_text() == "5\n"
    assert "is kept as results.json.kept" in caplog.text


def test_a_list_deletes_what_was_written_and_nothing_outside_its_folder(tmp_path):
    folder = tmp_path / "run"
    (folder / ".git").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    inside = ["ours", "sub/ours"]
    others = ["../precious", str(tmp_path / "precious"), "linked/file", ".git/config", "sub/../../precious", ""]
    (folder / "sub").mkdir()
    for place in (tmp_path / "precious", folder / ".git/config", tmp_path / "elsewhere/file", folder / "changed"):
        place.write_text("same")
    for name in inside:
        (folder / name).write_text("same")
    stamp = {"sha256": hashlib.sha256(b"same").hexdigest()}
    manifest = Manifest(folder, "pretrain", {name: [stamp] for name in [*inside, *others, "changed"]})
    (folder / "changed").write_text("otherwise")
    assert manifest.remove(list(manifest.files)) == ["changed"]
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()} == {
        "precious",
        "elsewhere/file",
        "run/.git/config",
        "run/changed",
    }
    assert not (folder / "sub").exists()


@pytest.mark.parametrize("tail", ["", '{"step": 2, "loss": 1.0}\n', '{"step": 2, "lo', '{"st'])
def test_a_log_that_grew_after_it_was_listed_is_still_ours(tmp_path, tail):
    manifest = Manifest(tmp_path, "pretrain", {})
    append_text(tmp_path / "metrics.jsonl", '{"step": 1, "loss": 2.0}\n')
    manifest.grow(["metrics.jsonl"])
    append_text(tmp_path / "metrics.jsonl", tail)
    assert manifest.fitting("metrics.jsonl")
    append_text(tmp_path / "metrics.jsonl", "\nWhy does the loss fall so slowly?\n")
    assert not manifest.fitting("metrics.jsonl")


DAMAGE = [
    "",
    "[]",
    '{"verb": "pretrain"}',
    '{"verb": 1, "files": {}}',
    '{"verb": "a", "files": {"b": [1]}}',
    "[" * 99_999,
]


@pytest.mark.parametrize("content", DAMAGE, ids=range(len(DAMAGE)))
def test_a_damaged_list_is_one_clear_error(tmp_path, content):
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(UserError, match="is damaged .*; give another folder") as caught:
        Manifest.read(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError("1048576 requested and 415832 written"),
        RuntimeError("Error while serializing: I/O error: File too large (os error 27)"),
        RuntimeError("[enforce fail at inline_container.cc:858] unexpected pos 64 vs 0"),
    ],
    ids=["python", "numpy", "safetensors", "torch"],
)
def test_a_full_disk_is_known_in_the_words_of_every_library(error):
    words = ("it could not be written", "make room")
    with pytest.raises(UserError, match=r"it could not be written \(.*\); make room"), disk_errors(*words):
        raise error
    with pytest.raises(type(error), match="something else"), disk_errors(*words):
        raise type(error)("something else")
