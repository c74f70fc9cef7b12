"""Tables are read back row for row, as they are written, or refused with the line that does not fit."""

import csv
import gzip
import io
import json
import lzma
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from datasets import Dataset
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hf_minibert.data import bounded
from hf_minibert.data.bounded import Expansion, decompressed
from hf_minibert.data.splits import table_of
from hf_minibert.data.tables import Table, listed, read_file, shown
from hf_minibert.errors import UserError

COLUMNS = {"text_column": "text", "label_column": "label"}
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def read(path: Path, content: bytes | str) -> Table:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_file(path, COLUMNS)


def rows_of(table: Table) -> list[tuple[Any, Any]]:
    return list(zip(table.columns["text"], table.columns["label"], strict=True))


def error_of(path: Path, content: bytes | str) -> str:
    with pytest.raises(UserError) as caught:
        read(path, content)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


# ---------------------------------------------------------------- what others write


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12) | st.text(
    '",\n\r\t ;\\a\ufeff\u2028', max_size=8
)
ROWS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=8)
every_row = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(ROWS, st.sampled_from(["\n", "\r\n"]), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]), st.booleans())
@example([("a\rb", "x\r")], "\n", csv.QUOTE_MINIMAL, False)
@every_row
def test_what_csv_writes(tmp_path: Path, rows: list[tuple[str, str]], end: str, quoting: Any, has_mark: bool) -> None:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator=end, quoting=quoting)
    writer.writerows([("text", "label"), *rows])
    assert rows_of(read(tmp_path / "rows.csv", "\ufeff" * has_mark + file.getvalue())) == rows


@given(ROWS, st.booleans(), st.sampled_from(["utf-8", "utf-8-sig"]))
@every_row
def test_what_pandas_writes(tmp_path: Path, rows: list[tuple[str, str]], has_index: bool, encoding: str) -> None:
    """The index, a column without a name, is a column that nobody asks for."""
    frame = pd.DataFrame(rows, columns=["text", "label"], dtype="str")
    path = tmp_path / "rows.csv"
    frame.to_csv(path, index=has_index, encoding=encoding)
    assert rows_of(read_file(path, COLUMNS)) == rows
    frame.to_json(tmp_path / "rows.jsonl", orient="records", lines=True, force_ascii=has_index)
    assert rows_of(read_file(tmp_path / "rows.jsonl", COLUMNS)) == rows
    frame.to_json(tmp_path / "rows.json", orient="records", indent=2 * has_index)
    assert rows_of(read_file(tmp_path / "rows.json", COLUMNS)) == rows
    frame.to_parquet(tmp_path / "rows.parquet", index=has_index)
    assert rows_of(read_file(tmp_path / "rows.parquet", COLUMNS)) == rows


# Without subnormal numbers: training in this process rounds them to zero.
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_subnormal=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=5), st.sampled_from([None, 0, 3]), st.booleans())
@every_row
def test_json_keeps_its_types(tmp_path: Path, rows: list[tuple[Any, Any]], indent: int | None, ascii_: bool) -> None:
    objects = [{"text": text, "other": None, "label": label} for text, label in rows]
    whole = json.dumps(objects, indent=indent, ensure_ascii=ascii_)
    assert rows_of(read(tmp_path / "rows.json", whole)) == rows
    lines = "".join(json.dumps(each, ensure_ascii=ascii_) + "\n" for each in objects)
    assert rows_of(read(tmp_path / "rows.jsonl", lines)) == rows
    assert rows_of(read(tmp_path / "rows.json", lines)) == rows, "a .json may also have an object a line"


@given(st.lists(st.tuples(*[st.text(st.characters(codec="utf-8", exclude_characters="\0\n\r\t"), max_size=9)] * 2)))
@every_row
def test_cells_of_tsv_are_what_is_between_tabs(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    rows = [*rows, ('"', 'a "quoted" one'), ('"never closed', "b")]
    for end in ("\n", "\r\n", "\r"):
        table = end.join("\t".join(row) for row in [("text", "label"), *rows]) + end
        assert rows_of(read(tmp_path / "rows.tsv", table)) == rows


def test_quotes_of_a_tsv_that_pandas_wrote_are_pointed_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    texts = ['He said "hi"', '"Quoted"', "plain"]
    path = tmp_path / "rows.tsv"
    pd.DataFrame({"text": texts, "label": range(3)}).to_csv(path, sep="\t", index=False)
    read_file(path, {"text": "text"})
    assert "rows.tsv: 2 cells look as pandas and Excel write quotes" in caplog.text
    caplog.clear()
    path.write_text("text\tlabel\n" + "".join(f"{text}\t0\n" for text in texts))
    read_file(path, {"text": "text"})
    assert not caplog.text


def test_tables_of_every_line_end(tmp_path: Path) -> None:
    for end in ("\n", "\r\n", "\r"):
        lines = ["label,text", "1,one", '2,"two, ""2"""', "", ""]
        table = read(tmp_path / "rows.csv", end.join(lines))
        assert rows_of(table) == [("one", "1"), ('two, "2"', "2")]
        assert table.where(1) == f"{tmp_path / 'rows.csv'}, line 3"
    mixed = "text,label\r\na,1\nb,2\r\n"
    assert rows_of(read(tmp_path / "rows.csv", mixed)) == [("a", "1"), ("b", "2")]


def test_cells_are_text_whatever_they_look_like(tmp_path: Path) -> None:
    cells = ["007", "1.0", "NA", "None", "null", "nan", "", "true", " 1 ", "1e5", "2020-01-01", "-0"]
    table = read(tmp_path / "rows.csv", "text,label\n" + "".join(f"{cell},{cell}\n" for cell in cells))
    assert rows_of(table) == [(cell, cell) for cell in cells]


def test_a_text_can_be_long(tmp_path: Path) -> None:
    long = "a, " * 300_000
    assert rows_of(read(tmp_path / "rows.csv", f'text,label\n"{long}",b\n')) == [(long, "b")]


def test_names_of_columns_have_no_space_around_them(tmp_path: Path) -> None:
    table = read(tmp_path / "rows.csv", '\ufefflabel , "x", text\n'.replace(' "x"', '"x"') + "1,2,3\n")
    assert rows_of(table) == [("3", "1")]


# ---------------------------------------------------------------- what does not fit


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\na,1\nb, and more,2\n", "line 3 has 3 fields, the header 2; quote the text"),
        ("text,label\nb, and more,2\na, and less,1\n", "line 2 has 3 fields, the header 2"),
        ("text,label\na,1\nb\n", "line 3 has 1 field, the header 2"),
        ("text,label\n\na,1\n", "line 2 is blank"),
        ('text,label\n"one\ntwo",1\nb,2,3\n', "line 4 has 3 fields"),
        ('text,label\na,1\n"b,2\nc,3\n', "line 3 begins a quote that nothing ends"),
        ('text,label\n"one\ntwo","b\n', "line 3 begins a quote that nothing ends"),
        ('text,label\n"a" and b,1\n', "line 2 has text after the quote"),
        ('text,label\na, "b"\n', "line 2 has a space before a quote"),
        ("text,label,text\na,1,b\n", "has two columns 'text'"),
        ("Great film,good\nbad one,bad\n", "has no column 'text'; it has Great film, good in its first line"),
        ("text;label\na;1\n", "has no column 'text'; it has text;label in its first line"),
        ("text,label\n", "has no rows"),
        ("\n\n", "has blank lines only"),
        ("text,label\na\0b,1\n", "line 2 has a NUL at byte 12 of the file"),
        ("text,label\na,1\nü,2\n".encode("latin-1"), "line 3 is not UTF-8 at byte 15 of the file (0xfc)"),
        ("text,label\na,1\n".encode("utf-16"), "line 1 is not UTF-8 at byte 0"),
        (b"", "is empty"),
    ],
)
def test_a_csv_that_is_none(tmp_path: Path, content: bytes | str, message: str) -> None:
    assert message in error_of(tmp_path / "rows.csv", content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text\tlabel\na\tb\t1\n", "line 2 has 3 fields, the header 2; a .tsv has no quoting"),
        ('text\tlabel\n"one\ntwo"\t1\n', "line 2 has 1 field, the header 2"),
        ("text,label\na,1\n", "has no column 'text'; it has text,label in its first line"),
    ],
)
def test_a_tsv_that_is_none(tmp_path: Path, content: str, message: str) -> None:
    assert message in error_of(tmp_path / "rows.tsv", content)


GOOD = '{"text": "a", "label": 1}'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "b"}', "has no column 'label'; it has text"),
        ("[" * 100_000, "is nested too deep"),
        ('{"text": ' * 100_000, "is nested too deep"),
        ('{"text": "b", "label": 1, "label": 2}', "the key 'label' twice"),
        ('{"text": "b", "label": {"a": 1, "a": 2}}', "the key 'a' twice"),
        ('{"text": "\\ud83d", "label": 1}', "'text' has \\ud83d, half of a character"),
        ('{"text": ["a", "\\udE00"], "label": 1}', "'text' has \\ude00, half of a character"),
        (f"{GOOD} {GOOD}", "more after the object"),
        ('{"text": "b", "label": 1', "is not valid JSON"),
        ('{"text": "b\tc", "label": 1}', "is not valid JSON (Invalid control character at column 12)"),
        (f'{{"text": "b", "label": {"9" * 5_000}}}', "is not valid JSON (Exceeds the limit"),
        ("[]", "is a list, not an object"),
        ("text", "is not valid JSON"),
        ('"text"', "is a str, not an object"),
        ('{"text": "\xfc", "label": 1}'.encode("latin-1"), "is not UTF-8 at byte 36"),
    ],
)
def test_a_line_of_json_that_is_none(tmp_path: Path, line: bytes | str, message: str) -> None:
    whole = f"{GOOD}\n".encode() + (line if isinstance(line, bytes) else line.encode()) + b"\n" + GOOD.encode()
    for suffix in (".jsonl", ".json"):
        said = error_of(tmp_path / f"rows{suffix}", whole)
        assert ", line 2" in said
        assert message in said


def test_both_halves_of_a_character_are_one(tmp_path: Path) -> None:
    assert rows_of(read(tmp_path / "rows.jsonl", '{"text": "\\ud83d\\ude00", "label": 1}')) == [("\U0001f600", 1)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"[{GOOD},\n{GOOD}", "line 2 is not valid JSON (the end where , or ] is due)"),
        (f"[{GOOD}\n{GOOD}]", "line 2 is not valid JSON ('{' where , or ] is due)"),
        (f"[\n{GOOD},\n]", "line 3 is not valid JSON"),
        (f"[\n{GOOD}]\n]", "line 3 is not valid JSON (more after the list)"),
        (f"[\n{GOOD},\n[1]]", "line 3 is a list, not an object"),
        (f'[\n{GOOD},\n{{"text":\n"b" "c"}}]', "line 4 is not valid JSON"),
        ("[]", "has no rows"),
        ("[ ]\n", "has no rows"),
        ("[", "line 1 is not valid JSON"),
        ("[" * 100_000, "is nested too deep"),
        (f"[{GOOD}, {{}}]", "line 1 has no column 'text'"),
        ('{"text": ["a", "b"],\n"label": [1, 2]}', "line 1 is not valid JSON"),
        (" \n", "has no rows"),
        (f'{{"data": [{GOOD}], "data": [{GOOD}]}}', "has the key 'data' twice"),
        (f'{{"data": [{GOOD}]', "line 1 is not valid JSON"),
    ],
)
def test_a_list_of_json_that_is_none(tmp_path: Path, content: str, message: str) -> None:
    assert message in error_of(tmp_path / "rows.json", content)


def test_the_rows_of_one_object_are_under_its_own_key(tmp_path: Path) -> None:
    whole = f'{{"about": {{"data": [{{"text": "no", "label": 0}}]}},\n"data" :\n [{GOOD}], "n": "\\"data\\": ["}}\n'
    assert rows_of(read(tmp_path / "rows.json", whole)) == rows_of(read(tmp_path / "rows.jsonl", GOOD))


def test_a_parquet_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    assert "is damaged or not what its suffix says" in error_of(path, b"PAR1 nonsense PAR1")
    for table, message in (
        (pa.table({"text": ["a"], "class": [1]}), "has no column 'label'; it has text, class"),
        (pa.table([["a"], [1], [2]], names=["text", "label", "label"]), "has two columns 'label'"),
        (pa.table({"text": pa.array([], pa.string()), "label": pa.array([], pa.int64())}), "has no rows"),
        (
            pa.table({"text": ["a"], "label": [1]}).replace_schema_metadata({"huggingface": "nonsense"}),
            "says of its columns what `datasets` does not write",
        ),
    ):
        pq.write_table(table, path)
        assert message in error_of(path, path.read_bytes())
    pq.write_table(pa.table({"text": ["a" * 1_000] * 50, "label": range(50)}), path, compression="none")
    content = path.read_bytes()
    assert "is damaged" in error_of(path, content[: len(content) // 2])
    assert "is damaged" in error_of(path, content.replace(b"aaaaaaaa", b"\xff" * 8))


@pytest.mark.parametrize("encoding", ["PLAIN", "DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"])
def test_parquet_in_every_encoding_of_texts(tmp_path: Path, encoding: str) -> None:
    rows = [(f"text {number // 2}", None if number % 7 == 3 else f"label {number % 2}") for number in range(2_500)]
    columns = pa.table({"text": [text for text, _ in rows], "label": [label for _, label in rows]})
    path = tmp_path / "rows.parquet"
    pq.write_table(columns, path, use_dictionary=False, column_encoding=encoding)
    assert rows_of(read_file(path, COLUMNS)) == rows


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
def test_numbers_of_low_precision_have_no_digits_that_nobody_wrote(tmp_path: Path, kind: str) -> None:
    numbers, path = [0.1, None, 2.5], tmp_path / "rows.parquet"
    column = pa.array([number and float(np.dtype(kind).type(number)) for number in numbers])
    typed = column.cast(pa.type_for_alias(kind))
    lists = pa.ListArray.from_arrays([0, 2, 2, 3], typed)
    pq.write_table(pa.table({"text": lists, "label": typed}), path)
    rows = [([0.1, None], 0.1), ([], None), ([2.5], 2.5)]
    assert rows_of(read_file(path, COLUMNS)) == rows
    opened = Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache"))
    assert rows_of(table_of(opened, "name", COLUMNS)) == rows


def test_parquet_compressed_once_more_and_in_many_batches(tmp_path: Path) -> None:
    rows: list[tuple[str, int | None]] = [(f"text {number % 70}", number) for number in range(3_000)]
    file = io.BytesIO()
    table = pa.table({"text": [text for text, _ in rows], "label": [None if n == 2_500 else n for _, n in rows]})
    pq.write_table(table, file, row_group_size=1_700)
    rows[2_500] = (rows[2_500][0], None)
    assert rows_of(read(tmp_path / "rows.parquet.gz", gzip.compress(file.getvalue()))) == rows


# ---------------------------------------------------------------- compressed files and bounds


TABLE = ("text,label\n" + "".join(f"text {number},{number % 3}\n" for number in range(60_000))).encode()


@pytest.mark.parametrize("end", COMPRESS)
def test_a_compressed_file_is_read_to_its_end_or_refused(tmp_path: Path, end: str) -> None:
    path, whole = tmp_path / f"rows.csv{end}", COMPRESS[end](TABLE)
    assert len(read(path, whole)) == 60_000
    middle = TABLE.index(b"\n", 400_000) - 3
    assert rows_of(read(path, COMPRESS[end](TABLE[:middle]) + COMPRESS[end](TABLE[middle:])))[-1] == ("text 59999", "2")
    assert "it ends in the middle" in error_of(path, whole[: len(whole) // 2])
    assert "it ends in the middle" in error_of(path, whole[:-1])
    assert "is damaged" in error_of(path, whole + b"garbage that is none of it")
    assert "is damaged" in error_of(path, TABLE)
    assert "is empty once decompressed" in error_of(path, COMPRESS[end](b""))


def test_what_is_compressed_with_a_suffix_in_capitals(tmp_path: Path) -> None:
    assert len(read(tmp_path / "ROWS.CSV.GZ", gzip.compress(TABLE))) == 60_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('text,label\n"' + ("a" * 1_000 + "\n") * 1_100, "where a quote begins on line 2, is longer than 1 MiB"),
        ("text,label\n" + "a" * 1_100_000, "line 2 is longer than 1 MiB"),
    ],
)
def test_a_row_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, message: str) -> None:
    monkeypatch.setattr(bounded, "MAX_ROW_BYTES", 1 << 20)
    assert message in error_of(tmp_path / "rows.csv", content.encode())


def bomb_of_pages(path: Path) -> None:
    """Like `bomb_of_one_text`, but the list of pieces at the end of the file says that they are small."""
    bomb_of_one_text(path)
    place, claimed = path.stat().st_size, pq.read_metadata(path).row_group(0).column(0).total_uncompressed_size
    content = path.read_bytes()
    length = int.from_bytes(content[-8:-4], "little")
    footer, bogus = content[place - 8 - length : -8], thrift_integer(200)
    assert thrift_integer(claimed) in footer
    footer = footer.replace(thrift_integer(claimed), bogus)
    path.write_bytes(content[: place - 8 - length] + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    assert pq.read_metadata(path).row_group(0).column(0).total_uncompressed_size == 200


def thrift_integer(number: int) -> bytes:
    """As the compact protocol writes it."""
    number, written = number << 1, bytearray()
    while number > 127:
        written.append(number & 127 | 128)
        number >>= 7
    return bytes([*written, number])


def bomb_of_lines(path: Path) -> None:
    path.write_bytes(gzip.compress(b"text,label\n" + b"a,b\n" * 1_000_000))


def bomb_of_one_line(path: Path) -> None:
    path.write_bytes(zstandard.ZstdCompressor(level=1).compress(b" " * 100_000_000))


def bomb_of_rows(path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"] * 1_000_000, "label": [1] * 1_000_000}), path)


def bomb_of_texts(path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array(["a" * 1_000_000] * 100), "label": range(100)}), path)


def bomb_of_one_text(path: Path) -> None:
    pq.write_table(
        pa.table({"text": pa.array(["a" * 50_000_000]), "label": [1]}), path, compression="zstd", write_statistics=False
    )


def bomb_of_deltas(path: Path) -> None:
    columns = pa.table({"text": ["a" * 500_000] * 200, "label": list(range(200))})
    pq.write_table(columns, path, use_dictionary=False, column_encoding={"text": "DELTA_BYTE_ARRAY", "label": "PLAIN"})


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("rows.csv.gz", bomb_of_lines),
        ("rows.tsv.zst", bomb_of_one_line),
        ("rows.json.zst", bomb_of_one_line),
        ("rows.parquet", bomb_of_rows),
        ("rows.parquet", bomb_of_texts),
        ("rows.parquet", bomb_of_one_text),
        ("rows.parquet", bomb_of_pages),
        ("rows.parquet", bomb_of_deltas),
    ],
)
def test_a_few_bytes_cannot_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, make: Callable[[Path], None]
) -> None:
    path = tmp_path / name
    make(path)
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(bounded, "MAX_EXPANDED_BYTES", 32 << 20)
    with pytest.raises(
        UserError,
        match=r"rows.* expands to more than 32 MiB, over 100 times",
    ):
        read_file(path, COLUMNS)


def test_pieces_of_a_compressed_file_are_bounded(tmp_path: Path) -> None:
    path, noise = tmp_path / "rows.zst", random.Random(0).randbytes(400_000)  # which is not packed
    path.write_bytes(zstandard.ZstdCompressor(level=1).compress(noise + b" " * 260_000_000))
    sizes = [len(piece) for piece in decompressed(path, Expansion(path))]
    assert sum(sizes) == 260_400_000
    assert max(sizes) <= 1 << 27


def test_what_is_not_packed_more_than_text_is_may_be_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "MAX_EXPANDED_BYTES", 1_000)
    assert len(read(tmp_path / "rows.csv", TABLE)) == 60_000
    assert len(read(tmp_path / "rows.csv.gz", gzip.compress(TABLE))) == 60_000


# ---------------------------------------------------------------- names in messages


def test_names_in_messages_are_short_and_in_one_line() -> None:
    assert shown("a\nb\x1b[1m") == "a\\nb\\x1b[1m"
    assert len(shown("a" * 10_000)) == 60
    assert listed([]) == "none"
    assert listed(range(10_000), limit=2) == "0, 1 and 9,998 more"
