"""Which file is read for which split, and that nothing else is asked for."""

import os
import socket
from pathlib import Path
from typing import NoReturn

import datasets
import pytest
from datasets import Dataset, DatasetDict

from hf_minibert.data.splits import read_source
from hf_minibert.errors import UserError

COLUMNS = {"text_column": "text"}


def write(path: Path, text: str = "some text") -> Path:
    """One row, in the format of the suffix."""
    line = f'{{"text": "{text}"}}\n' if "json" in path.name.lower() else f"text\n{text}\n"
    path.write_text(line)
    return path


def error_of(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_source(str(folder), COLUMNS)
    return str(caught.value)


@pytest.mark.parametrize(
    "others",
    [
        ("train.old.csv", "train.csv.bak", "my train.csv", "train.txt", "README.md", "training.csv"),
        ("TRAIN.OLD.CSV", "evals.csv", "train-00000-of-00001.parquet", "train"),
    ],
)
def test_the_file_of_a_split_has_its_name_and_all_others_are_told(tmp_path: Path, others: tuple[str, ...]) -> None:
    write(tmp_path / "train.csv")
    (tmp_path / "train.folder.csv").mkdir()
    write(tmp_path / ".hidden.csv")
    for name in others:
        write(tmp_path / name, "another text")
    read = read_source(str(tmp_path), COLUMNS)
    assert list(read.tables) == ["train"]
    assert read.tables["train"].columns["text"] == ["some text"]
    assert sorted(read.not_read) == sorted([*others, "train.folder.csv/"])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("train.csv", "train.jsonl"),
        ("train.json", "train.jsonl"),
        ("dev.csv", "validation.csv"),
        ("val.tsv", "valid.tsv"),
        ("train.csv", "train.csv.gz"),
        ("test.csv", "TEST.csv"),
    ],
)
def test_two_files_for_one_split_are_an_error_that_names_both(tmp_path: Path, first: str, second: str) -> None:
    if "train" not in first:
        write(tmp_path / "train.csv")
    write(tmp_path / first)
    write(tmp_path / second)
    message = error_of(tmp_path)
    assert first in message
    assert second in message


def test_names_and_suffixes_count_in_any_case(tmp_path: Path) -> None:
    write(tmp_path / "Train.CSV", "one")
    write(tmp_path / "DEV.Jsonl", "two")
    read = read_source(str(tmp_path), COLUMNS)
    assert {split: list(table.columns["text"]) for split, table in read.tables.items()} == {
        "train": ["one"],
        "eval": ["two"],
    }
    assert not read.not_read


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train-v1.1.jsonl", "dev-v1.1.jsonl"], {"train": ["train-v1.1.jsonl"], "eval": ["dev-v1.1.jsonl"]}),
        (
            ["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl", "validation-00000-of-00001.csv"],
            {
                "train": ["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"],
                "eval": ["validation-00000-of-00001.csv"],
            },
        ),
        (["train_v1_part_a.csv", "train_v1_part_b.csv"], {"train": ["train_v1_part_a.csv", "train_v1_part_b.csv"]}),
        (["train.csv", "train-old.csv", "test_cases.csv", "dev.csv"], {"train": ["train.csv"], "eval": ["dev.csv"]}),
    ],
)
def test_names_that_go_on_count_where_no_file_is_called_train(
    tmp_path: Path, names: list[str], expected: dict[str, list[str]]
) -> None:
    for name in names:
        write(tmp_path / name, name)
    read = read_source(str(tmp_path), COLUMNS)
    assert {split: list(table.columns["text"]) for split, table in read.tables.items()} == expected
    assert {path.name for path in read.files} == {name for each in expected.values() for name in each}
    assert set(read.not_read) == set(names) - {name for each in expected.values() for name in each}


def test_several_files_that_are_no_parts_are_refused_unless_one_is_named(tmp_path: Path) -> None:
    for name in ("train-v1.1.csv", "train-v2.0.csv"):
        write(tmp_path / name)
    assert "has several files for train: train-v1.1.csv, train-v2.0.csv; take all but one away" in error_of(tmp_path)
    (tmp_path / "train-v2.0.csv").rename(tmp_path / "dev-v1.csv")
    write(tmp_path / "dev-v2.csv")
    assert "take all but one away, or name one with --eval_dataset" in error_of(tmp_path)
    read = read_source(str(tmp_path), COLUMNS, eval_source=str(tmp_path / "dev-v2.csv"))
    assert [path.name for path in read.files] == ["train-v1.1.csv", "dev-v2.csv"]


def test_a_word_that_begins_with_part_is_no_part(tmp_path: Path) -> None:
    for name in ("train_partial.csv", "train_participants.csv"):
        write(tmp_path / name)
    assert "has several files for train: train_partial.csv, train_participants.csv" in error_of(tmp_path)


def test_a_split_of_which_parts_are_missing_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "train-00000-of-00003.jsonl")
    write(tmp_path / "train-00002-of-00003.jsonl")
    assert "has 2 of the 3 parts of train; get the others, too" in error_of(tmp_path)


def test_a_folder_without_a_training_file_says_what_it_has(tmp_path: Path) -> None:
    write(tmp_path / "reviews.csv")
    write(tmp_path / "dev.csv")
    assert "has no training file (train.jsonl, train.csv, ...); beside that, it has reviews.csv, dev.csv" in error_of(
        tmp_path
    )


def test_a_test_file_takes_the_place_of_the_folders_own(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "train.csv")
    (folder / "test.csv").write_text("not read at all")
    read = read_source(str(folder), COLUMNS, test_source=str(write(tmp_path / "other.csv", "measured")))
    assert read.tables["test"].columns["text"] == ["measured"]
    assert read.not_read == ["test.csv"]


@pytest.mark.parametrize("name", ["reviews[1].jsonl", "a*.csv", "what?.tsv", "{a,b}.csv", "~.csv", "a b:c.csv"])
def test_a_name_is_no_pattern(tmp_path: Path, name: str) -> None:
    write(tmp_path / "reviews1.jsonl", "wrong")
    write(tmp_path / name, "right")
    assert read_source(str(tmp_path / name), COLUMNS).tables["train"].columns["text"] == ["right"]


def test_a_file_that_is_written_anew_is_read_anew(tmp_path: Path) -> None:
    """Also with the time and size that it had."""
    path = write(tmp_path / "train.csv", "old")
    assert read_source(str(path), COLUMNS).tables["train"].columns["text"] == ["old"]
    status = path.stat()
    write(path, "new")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert read_source(str(path), COLUMNS).tables["train"].columns["text"] == ["new"]


def test_other_splits_of_a_hub_data_set_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Dataset.from_dict({"text": ["a"]})
    names = ("train", "validation_matched", "test", "unsupervised")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: DatasetDict(dict.fromkeys(names, rows)))
    read = read_source("glue:mnli", COLUMNS)
    assert (list(read.tables), read.hub_id) == (["train", "test"], "glue")
    assert read.not_read == ["validation_matched", "unsupervised"]


@pytest.mark.parametrize(
    "name", ["./reviews", "/no/folder", "a/b/c", "reviews.CSV", "rows.jsonl.zst", "..", "", "a" * 999]
)
def test_local_files_open_no_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Nor does a path that does not exist, which is no name on the Hub."""

    def refuse(*_: object) -> NoReturn:
        raise AssertionError("nobody named a host")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(datasets, "load_dataset", refuse)
    monkeypatch.chdir(tmp_path)
    for end in (".csv", ".tsv", ".jsonl", ".json"):
        read_source(str(write(tmp_path / f"train{end}")), COLUMNS)
    Dataset.from_dict({"text": ["a"]}).to_parquet(tmp_path / "rows.parquet")
    read_source(str(tmp_path / "rows.parquet"), COLUMNS)
    with pytest.raises(UserError):
        read_source(name, COLUMNS)
