"""Pairs of two languages, in every form that people have them in."""

import json
import lzma
import re
from pathlib import Path

import datasets
import pytest

from hf_minibert.data.parallel import read_pairs
from hf_minibert.errors import UserError

PAIRS = [(f"house number {number}", f"Haus Nummer {number} – schön") for number in range(40)]
TEST = [("a dog", "ein Hund"), ("a cat", "eine Katze")]


def write_text(folder: Path, stem: str, pairs: list[tuple[str, str]], compression: str = "") -> None:
    for language, lines in zip(("en", "de"), zip(*pairs, strict=True), strict=True):
        content = "".join(f"{line}\n" for line in lines).encode()
        path = folder / f"{stem}.{language}{compression}"
        path.write_bytes(lzma.compress(content) if compression else content)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_text(tmp_path, "train", PAIRS, ".xz")
    write_text(tmp_path, "val", PAIRS[:3])
    write_text(tmp_path, "test_2016_flickr", TEST)
    return tmp_path


def test_parallel_files(folder: Path) -> None:
    (folder / "README.md").write_text("about it")
    read = read_pairs(str(folder), source_lang="en", target_lang="de")
    assert read.splits == {"train": PAIRS, "eval": PAIRS[:3], "test": TEST}
    assert read.notes == ["source: en, target: de", "not read: README.md"]
    back = read_pairs(str(folder), source_lang="de")
    assert back.languages == ("de", "en")
    assert back.splits["test"] == [(target, source) for source, target in TEST]


def test_a_folder_of_one_split_and_a_test_elsewhere(folder: Path) -> None:
    write_text(folder, "test_2017_flickr", TEST[:1])
    with pytest.raises(UserError, match=r"several files for test.*--test_dataset"):
        read_pairs(str(folder), source_lang="en")
    read = read_pairs(str(folder / "train"), source_lang="en", test_dataset=str(folder / "test_2017_flickr"))
    assert read.splits["test"] == TEST[:1]
    assert sorted(read.splits["train"] + read.splits["eval"]) == sorted(PAIRS)
    assert read.splits["eval"]
    assert any("held out" in note for note in read.notes)


@pytest.mark.parametrize(
    "form", ["csv", "tsv", "jsonl", "json", "parquet", "translations.jsonl", "translations.parquet"]
)
def test_tables(tmp_path: Path, form: str) -> None:
    rows = [{"en": source, "de": target, "id": index} for index, (source, target) in enumerate(PAIRS)]
    if form.startswith("translations"):
        rows = [{"id": row["id"], "translation": {"de": row["de"], "en": row["en"]}} for row in rows]
    path = tmp_path / f"train.{form.split('.')[-1]}"
    if form.endswith("parquet"):
        datasets.Dataset.from_list(rows).to_parquet(path)
    elif form in ("csv", "tsv"):
        separator = {"csv": ",", "tsv": "\t"}[form]
        lines = [separator.join(map(str, row)) for row in (rows[0], *(row.values() for row in rows))]
        path.write_text("\n".join(lines) + "\n")
    else:
        path.write_text(json.dumps(rows) if form == "json" else "".join(json.dumps(row) + "\n" for row in rows))
    read = read_pairs(str(path), source_lang="en", target_lang="de")
    assert read.splits["train"] + read.splits["eval"] != PAIRS, "a part is held out"
    assert sorted(read.splits["train"] + read.splits["eval"]) == sorted(PAIRS)


def test_usual_names_of_columns_need_no_flags(tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    path.write_text("source\ttarget\n" + "".join("\t".join(pair) + "\n" for pair in PAIRS))
    assert read_pairs(str(path)).languages == ("source", "target")


def test_pairs_without_text_on_a_side_are_counted(tmp_path: Path) -> None:
    write_text(tmp_path, "train", [*PAIRS, ("", "leer"), ("empty", "  ")])
    write_text(tmp_path, "dev", PAIRS[:2])
    read = read_pairs(str(tmp_path), source_lang="en")
    assert read.splits["train"] == PAIRS
    assert any("2 pairs without text on one side are left out" in note for note in read.notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "has de, en; say which is translated into which with --source_lang and --target_lang"),
        ({"source_lang": "fr"}, "has nothing in source_lang fr; it has de, en"),
        ({"source_lang": "en", "target_lang": "en"}, "are both en"),
        ({"source_lang": "en", "test_dataset": "nowhere"}, "not the beginning of two parallel files"),
    ],
)
def test_what_is_not_said_or_not_there(folder: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        read_pairs(str(folder), **options)


def test_files_that_do_not_fit(folder: Path) -> None:
    with (folder / "val.de").open("a") as file:
        file.write("noch einer\n")
    with pytest.raises(UserError, match=r"val\.en has 3 lines, but .*val\.de has 4"):
        read_pairs(str(folder), source_lang="en")
    (folder / "val.de").write_bytes(b"\xff\xfe\n\n\n")
    with pytest.raises(UserError, match=r"val\.de, line 1 is not UTF-8"):
        read_pairs(str(folder), source_lang="en")
    (folder / "val.de").write_bytes(b"")
    with pytest.raises(UserError, match=r"val\.de is empty"):
        read_pairs(str(folder), source_lang="en")
    (folder / "val.de").unlink()
    assert "not read: val.en" in read_pairs(str(folder), source_lang="en").notes
    (folder / "train.de.xz").unlink()
    with pytest.raises(UserError, match="no training file"):
        read_pairs(str(folder), source_lang="en")


def test_lines_end_with_a_line_feed_and_nothing_else(tmp_path: Path) -> None:
    pairs = [(f"a{mark}b", f"c{mark}d") for mark in ("\u2028", "\x85", "\x0b", "\x0c", "\x1c", "\r")]
    write_text(tmp_path, "train", pairs)
    write_text(tmp_path, "dev", TEST)
    assert read_pairs(str(tmp_path), source_lang="en").splits == {"train": pairs, "eval": TEST}
    for language in ("en", "de"):
        (tmp_path / f"dev.{language}").write_bytes(b"a\rb\rc\r")
    with pytest.raises(UserError, match=r"dev\.en is one line, with carriage returns within"):
        read_pairs(str(tmp_path), source_lang="en")


def test_a_suffix_may_be_written_in_any_case(tmp_path: Path) -> None:
    write_text(tmp_path, "train", PAIRS, ".XZ")
    write_text(tmp_path, "dev", TEST)
    assert read_pairs(str(tmp_path), source_lang="en").splits == {"train": PAIRS, "eval": TEST}


def test_a_value_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"translation": {"en": "a", "de": 7}}\n')
    with pytest.raises(UserError, match="line 1: de is 7, not a text"):
        read_pairs(str(path), source_lang="en")
    path.write_text('{"translation": {"en": "a", "de": "b"}}\n{"translation": "a"}\n')
    with pytest.raises(UserError, match="line 2: translation is 'a', not one text for each language"):
        read_pairs(str(path), source_lang="en")
    path.write_text('{"translation": {"en": "a", "de": "b"}}\n{"translation": {"en": "a"}}\n')
    with pytest.raises(UserError, match="line 2 has no de; it has en"):
        read_pairs(str(path), source_lang="en")


def test_each_pair_knows_its_line_or_its_row(tmp_path: Path) -> None:
    write_text(tmp_path, "train", [("a", "x"), ("", "y"), ("c", "z"), ("d", "w")])
    write_text(tmp_path, "val", [("", "x"), ("b", "y")])
    (tmp_path / "dataset_info.json").write_text("{}")  # which is no table of a split
    read = read_pairs(str(tmp_path), source_lang="en")
    assert read.rows == {"train": [1, 3, 4], "eval": [2]}
    assert "not read: dataset_info.json" in read.notes
    (tmp_path / "t.csv").write_text("source,target\na,x\n,y\nc,z\n")
    table = str(tmp_path / "t.csv")
    assert read_pairs(table, eval_dataset=table).rows == {"train": [2, 4], "eval": [2, 4]}
