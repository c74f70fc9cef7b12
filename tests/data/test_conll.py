"""Sentences with a word a line."""

import lzma
from pathlib import Path

import pytest

from hf_minibert.data.conll import TAGS, WORDS, is_conll, read_conll
from hf_minibert.errors import UserError

COLUMNS = {"text_column": WORDS, "label_column": TAGS}
FOUR = """-DOCSTART- -X- O O

EU NNP I-NP I-ORG
rejects VBZ I-VP O

-DOCSTART- -X- -X- O
Peter NNP I-NP I-PER
"""
READ = [(["EU", "rejects"], ["I-ORG", "O"], 3), (["Peter"], ["I-PER"], 7)]


def read(path: Path, columns: dict[str, str] = COLUMNS) -> list[tuple[list[str], list[str], int]]:
    table = read_conll(path, columns)
    return list(zip(*table.columns.values(), table.numbers, strict=True))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("separator", [" ", "\t", "   "])
def test_words_and_tags_of_four_columns(tmp_path: Path, separator: str, end: str) -> None:
    path = tmp_path / "train.conll"
    path.write_bytes(FOUR.replace(" ", separator).replace("\n", end).encode())
    assert read(path) == READ


def test_two_columns_compressed_without_a_blank_line_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "train.txt.xz"
    path.write_bytes(lzma.compress(b"a b\tB-X\nc\tO"))
    assert read(path) == [(["a b", "c"], ["B-X", "O"], 1)], "a tab parts, so a word may have a space"
    assert is_conll(path)
    assert is_conll(tmp_path / "train.tsv")
    assert not is_conll(tmp_path / "train.jsonl.xz")


def test_other_columns_by_number(tmp_path: Path) -> None:
    path = tmp_path / "train.conll"
    path.write_text(FOUR)
    assert read(path, {"text_column": "1", "label_column": "2"})[0][1] == ["NNP", "VBZ"]


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("EU NNP O\nrejects O\n", COLUMNS, "line 2 has 2 columns, the first word 3; give each word as many"),
        ("word\ttag\nEU\tO\n", COLUMNS, "line 1 looks like the names of the columns, not a word; take it out"),
        ("\n\nEU\n", COLUMNS, "line 3 has 1 column; give each word its tag behind it"),
        ("\n \n", COLUMNS, "has no words"),
        ("", COLUMNS, "is empty"),
        (
            "EU O\n",
            COLUMNS | {"label_column": "3"},
            r"line 1 has 2 columns, so there is no column 3 \(--label_column\)",
        ),
        ("EU O\n", COLUMNS | {"label_column": "ner"}, "--label_column ner: the columns of a CoNLL file have no names"),
        ("EU\t\tO\n", COLUMNS | {"label_column": "2"}, "line 1 has nothing in column 2"),
        ("caf\xe9 O\n", COLUMNS, "line 1 is not UTF-8"),
        ("EU O\rto B-X\r\rall O\r", COLUMNS, "line 1 has a carriage return within"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, text: str, columns: dict[str, str], message: str) -> None:
    path = tmp_path / "train.conll"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=message) as caught:
        read_conll(path, columns)
    assert str(path) in str(caught.value) or message.startswith("--")
    assert "\n" not in str(caught.value)
