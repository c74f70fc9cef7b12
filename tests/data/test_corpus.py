import bz2
import gzip
import json
import logging
import lzma
import multiprocessing
import os
import shutil
import sys
import typing
from collections.abc import Callable
from importlib import metadata
from itertools import groupby, pairwise
from pathlib import Path
from types import SimpleNamespace

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from hf_minibert.data import bounded, builtin_corpus
from hf_minibert.data import corpus as corpus_module
from hf_minibert.data.builtin_corpus import Source, Statistics, extract, sources_below
from hf_minibert.data.corpus import DOCUMENT_CHARACTERS, open_corpus
from hf_minibert.data.documents import Corpus, document_hash, is_held_out
from hf_minibert.data.prose import clean_docstring
from hf_minibert.errors import UserError
from hf_minibert.files import Manifest

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}
ROWS = [{"text": "Ein Tag, größer als alle."}, {"text": ""}, {"text": "Second\nline"}, {"text": None}, {"text": "last"}]
KEPT = ["Ein Tag, größer als alle.", "Second\nline", "last"]


def write_rows(path: Path, rows: list[dict], *, end: str = "") -> Path:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(COMPRESS[end](text.encode()))
    return path


def texts(corpus: Corpus) -> list[str]:
    return [document.text for document in corpus]


def error_of(source: Path | str, **options: str) -> str:
    """The message of the error that opening, and nothing later, raises."""
    with pytest.raises(UserError) as caught:
        open_corpus([str(source)], **options)
    return str(caught.value)


def error_while_reading(source: Path) -> str:
    corpus = open_corpus([str(source)])
    with pytest.raises(UserError) as caught:
        list(corpus)
    return str(caught.value)


# ---------------------------------------------------------------- formats


@pytest.mark.parametrize("end", COMPRESS)
def test_json_lines_in_every_compression(tmp_path, end):
    path = write_rows(tmp_path / f"rows.jsonl{end}", ROWS, end=end)
    corpus = open_corpus([str(path)])
    assert list(corpus) == [("rows#1", KEPT[0]), ("rows#3", KEPT[1]), ("rows#5", KEPT[2])]
    assert corpus.bytes_read == corpus.num_bytes == path.stat().st_size
    assert texts(corpus) == KEPT, "a corpus can be read again"


@pytest.mark.parametrize("end", COMPRESS)
@pytest.mark.parametrize("suffix", [".txt", ".md"])
def test_text_in_every_compression(tmp_path, suffix, end):
    path = tmp_path / f"note{suffix}{end}"
    path.write_bytes(COMPRESS[end]("\ufeff\n\nOne, größer.\r\n\r\nTwo.\r\n\n".encode()))
    corpus = open_corpus([str(path)])
    assert list(corpus) == [("note#1", "One, größer.\n\nTwo.")]
    assert corpus.bytes_read == corpus.num_bytes == path.stat().st_size


def test_parquet(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist([{**row, "other": 1} for row in ROWS * 200]), path, row_group_size=300)
    corpus = open_corpus([str(path)])
    documents = list(corpus)
    assert [text for _, text in documents] == KEPT * 200
    assert [name for name, _ in documents[:4]] == ["rows#1", "rows#3", "rows#5", "rows#6"]
    assert corpus.bytes_read == corpus.num_bytes == path.stat().st_size


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_every_parquet_type_of_string_is_read(tmp_path, kind):
    pq.write_table(pa.table({"text": pa.array(["a", "b"]).cast(kind)}), tmp_path / "rows.parquet")
    assert texts(open_corpus([str(tmp_path / "rows.parquet")])) == ["a", "b"]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_text_column_and_row_ids(tmp_path, suffix):
    rows = [{"id": 7, "body": "seven"}, {"id": 8, "body": "eight"}]
    path = tmp_path / f"train{suffix}"
    if suffix == ".jsonl":
        write_rows(path, rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    assert list(open_corpus([str(path)], text_column="body")) == [("train/7", "seven"), ("train/8", "eight")]


def test_a_column_that_stands_twice_or_that_no_file_has_is_refused(tmp_path):
    pq.write_table(pa.table([["a"], ["b"]], names=["text", "text"]), tmp_path / "rows.parquet")
    assert "has two columns 'text', and only one can be the text" in error_of(tmp_path / "rows.parquet")
    (tmp_path / "a.txt").write_text("one")
    for source in (tmp_path / "a.txt", "builtin"):
        assert "--text_column body names a column of a table, but" in error_of(source, text_column="body")


def test_each_source_gets_the_settings_that_are_for_it(tmp_path):
    (tmp_path / "lines.txt").write_text("one\ntwo\n")
    write_rows(tmp_path / "rows.jsonl", [{"body": "not\ncut"}])
    sources = [str(tmp_path / name) for name in ("lines.txt", "rows.jsonl")]
    opened = corpus_module.open_each(sources, text_column="body", document="line")
    assert [texts(one) for one in opened] == [["one", "two"], ["not\ncut"]]
    for source, document in zip(sources, ("file", "line"), strict=True):
        with pytest.raises(UserError, match="leave it out"):
            corpus_module.open_each([source], text_column="body", document=document)


@pytest.mark.parametrize(("end", "name"), [(end, f"rows.jsonl{end}") for end in COMPRESS if end])
def test_several_compressed_streams_in_a_row_are_one_file(tmp_path, end, name):
    first, second = (COMPRESS[end](b'{"text": "%s"}\n' % word) for word in (b"one", b"two"))
    (tmp_path / name).write_bytes(first + second + bytes(8))
    assert texts(open_corpus([str(tmp_path / name)])) == ["one", "two"]


def test_rows_longer_than_a_read_and_half_surrogates(tmp_path):
    long = "größe " * 100_000
    path = write_rows(tmp_path / "rows.jsonl", [{"text": long}])
    with path.open("a") as file:
        file.write('\n{"text": "half \\ud83d, whole \\ud83d\\ude00"}')
    assert texts(open_corpus([str(path)])) == [long, "half ?, whole \N{GRINNING FACE}"]


def test_bytes_read_grows_while_reading(tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", [{"text": "word " * 100}] * 2_000)
    corpus = open_corpus([str(path)])
    assert corpus.bytes_read == 0
    progress = [corpus.bytes_read for _ in corpus]
    assert progress == sorted(progress)
    assert 0 < progress[0] < corpus.num_bytes / 4
    assert len(set(progress)) > 4
    next(iter(corpus))
    assert corpus.bytes_read == progress[0], "every iteration starts anew"


# ---------------------------------------------------------------- text files are cut


def test_text_is_cut_at_blank_lines_and_nothing_is_lost(tmp_path):
    paragraphs = [f"Paragraph {number} " + "word " * (number % 300) + "\nsecond line" for number in range(800)]
    text = "\n\n".join(paragraphs)
    (tmp_path / "book.txt").write_text(f"\n\n{text}\n\n\n")
    documents = list(open_corpus([str(tmp_path / "book.txt")]))
    assert "".join(text for _, text in documents) == text
    assert len(documents) > 50
    assert [name for name, _ in documents] == [f"book#{number}" for number in range(1, len(documents) + 1)]
    assert all(text.endswith("second line\n\n") for _, text in documents[:-1])
    assert all(DOCUMENT_CHARACTERS <= len(text) <= 2 * DOCUMENT_CHARACTERS for _, text in documents[:-1])


@pytest.mark.parametrize(("unit", "end"), [("a line\n", "\n"), ("word ", " "), ("x", "x")])
def test_text_without_blank_lines_is_cut_too(tmp_path, unit, end):
    text = (unit * 500_000)[:500_000].strip()
    (tmp_path / "long.txt").write_text(text)
    pieces = texts(open_corpus([str(tmp_path / "long.txt")]))
    assert "".join(pieces) == text
    assert len(pieces) > 20
    assert all(piece.endswith(end) for piece in pieces[:-1])
    assert max(map(len, pieces)) <= 2 * DOCUMENT_CHARACTERS


def test_a_small_text_is_one_document(tmp_path):
    (tmp_path / "small.txt").write_text("paragraph\n\n" * 1_500)
    assert len(list(open_corpus([str(tmp_path / "small.txt")]))) == 1


@given(
    lines=st.lists(st.text(st.sampled_from("ab \t"), max_size=6), max_size=12),
    cuts=st.lists(st.integers(0, 60), max_size=5),
    is_long=st.booleans(),
)
def test_a_document_can_be_a_line_or_what_stands_between_blank_lines(lines, cuts, is_long):
    """Wherever the file's blocks end, and nothing is lost of a line that is too long for one document."""
    if is_long:
        lines = ["x " * DOCUMENT_CHARACTERS * 3, *lines]
    text = "\n".join(lines)
    ends = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    parts = [text[start:end] for start, end in pairwise(ends)]

    def documents(unit):
        return [piece for piece in corpus_module._units(iter(parts), unit) if piece.strip()]

    by_line = [line for line in lines if line.strip()]
    groups = groupby(lines, lambda line: bool(line.strip()))
    by_blank_line = ["\n".join(block) for has_text, block in groups if has_text]
    for unit, expected in (("line", by_line), ("blank-line", by_blank_line)):
        if is_long:
            assert "".join("".join(documents(unit)).split()) == "".join("".join(expected).split())
            assert max(map(len, documents(unit))) <= 2 * DOCUMENT_CHARACTERS
        else:
            assert documents(unit) == expected


def test_what_a_document_is_of_a_text_file_can_be_said(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\r\n  \r\n\r\nthree\r\n")
    write_rows(tmp_path / "b.jsonl", [{"text": "not\n\ncut"}])
    read = {
        unit: list(open_corpus([str(tmp_path)], document=unit)) for unit in typing.get_args(corpus_module.DocumentUnit)
    }
    assert [text for _, text in read["line"]] == ["one", "two", "three", "not\n\ncut"]
    assert [text for _, text in read["blank-line"]] == ["one\ntwo", "three", "not\n\ncut"]
    assert [text for _, text in read["file"]] == ["one\ntwo\n  \n\nthree", "not\n\ncut"]
    for unit, left_out in (("line", 2), ("blank-line", 0)):  # what is behind the last line's end is no line
        corpus = open_corpus([str(tmp_path)], document=unit)
        assert (len(list(corpus)), corpus.empty_documents) == (len(read[unit]), left_out)
    assert all(len({name for name, _ in documents}) == len(documents) for documents in read.values())
    assert len({open_corpus([str(tmp_path)], document=unit).fingerprint for unit in read}) == 3
    message = error_of(tmp_path / "b.jsonl", document="line")
    assert "--document line says what a document of a .txt or .md file is" in message


# ---------------------------------------------------------------- sources


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "z.txt").write_text("z")
    (tmp_path / "a.md").write_text("a")
    (tmp_path / "b" / "c.jsonl").write_text('{"text": "c"}')
    (tmp_path / "b" / "image.png").write_bytes(b"\0")
    (tmp_path / ".hidden" / "h.txt").write_text("h")
    (tmp_path / ".h.txt").write_text("h")
    return tmp_path


def test_folder_is_read_in_order_without_hidden_and_unknown_files(folder):
    assert list(open_corpus([str(folder)])) == [("a#1", "a"), ("c#1", "c"), ("z#1", "z")]


def test_globs_and_files_keep_their_order_and_are_read_once(folder):
    corpus = open_corpus([str(folder / "z.txt"), str(folder / "**" / "*.jsonl"), str(folder / "?.*")])
    assert list(corpus) == [("z#1", "z"), ("c#1", "c"), ("a#1", "a")]


def test_files_with_equal_stems_get_distinct_ids(folder):
    (folder / "b" / "z.md").write_text("other z")
    assert list(open_corpus([str(folder / "z.txt"), str(folder / "b" / "z.md")])) == [
        ("z.txt#1", "z"),
        ("b/z.md#1", "other z"),
    ]


def test_a_link_is_read_by_its_own_suffix_and_a_name_may_contain_glob_characters(folder):
    (folder / "blob").write_text("linked")
    (folder / "link[1].txt").symlink_to(folder / "blob")
    assert list(open_corpus([str(folder / "link[1].txt")])) == [("link[1]#1", "linked")]


def test_results_of_verbs_among_the_texts_of_a_folder_are_no_texts(tmp_path: Path) -> None:
    """Else a run inside its corpus would change the corpus, and could not be resumed."""
    (tmp_path / "a.md").write_text("a text")
    names = {"README.md": "a card", "metrics.jsonl": "{}", "checkpoint-2/notes.txt": "a file"}
    before = open_corpus([str(tmp_path)]).fingerprint
    for name, text in names.items():
        (tmp_path / "runs" / "one" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "runs" / "one" / name).write_text(text)
    Manifest(tmp_path / "runs" / "one", "pretrain", {}).write()
    for source in (str(tmp_path), str(tmp_path / "**" / "*.md")):
        corpus = open_corpus([source])
        assert [document.text for document in corpus] == ["a text"]
        assert "written by a verb" in corpus.skipped
    assert open_corpus([str(tmp_path)]).fingerprint == before
    named = open_corpus([str(tmp_path / "runs" / "*" / "README.md")])  # whoever names it wants it
    assert [document.text for document in named] == ["a card"]


def test_a_suffix_may_be_written_in_any_case(tmp_path):
    (tmp_path / "A.TXT").write_text("a")
    (tmp_path / "b.Md.ZST").write_bytes(COMPRESS[".zst"](b"b"))
    write_rows(tmp_path / "c.JsonL.GZ", [{"text": "c"}], end=".gz")
    pq.write_table(pa.table({"text": ["d"]}), tmp_path / "d.PARQUET")
    corpus = open_corpus([str(tmp_path)])
    assert list(corpus) == [("A#1", "a"), ("b#1", "b"), ("c#1", "c"), ("d#1", "d")]
    assert corpus.skipped == ""
    assert texts(open_corpus([str(tmp_path / "A.TXT")])) == ["a"]


def test_whatever_is_left_out_of_a_folder_is_counted_and_said(folder, monkeypatch):
    for name in ("a.pdf", "b.PDF", "b/c.tar.gz", "README", "x.\n\x1b[31m", "locked.txt", ".hidden/more.md"):
        (folder / name).write_text("text")
    (folder / "dangling.txt").symlink_to(folder / "nothing")
    os.mkfifo(folder / "pipe.txt")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path.name != "locked.txt" and access(path, mode))
    corpus = open_corpus([str(folder)])
    assert texts(corpus) == ["a", "c", "z"]
    assert corpus.skipped == (
        "12 files skipped: hidden 3, unreadable 3, .pdf 2, .png 1, .tar.gz 1, other suffixes 1, without suffix 1"
    )
    assert open_corpus([str(folder / "z.txt")]).skipped == ""
    assert "locked.txt cannot be read" in error_of(folder / "locked.txt")
    (folder / "only").mkdir()
    (folder / "only" / "a.pdf").touch()
    assert "no file to read below it (1 file skipped: .pdf 1)" in error_of(folder / "only")


def test_a_link_that_leads_out_of_a_folder_is_followed_only_if_it_is_named(tmp_path):
    diary, folder = tmp_path / "private", tmp_path / "folder"
    diary.mkdir()
    folder.mkdir()
    (diary / "diary.txt").write_text("secret")
    (folder / "a.txt").write_text("a")
    (folder / "again.txt").symlink_to(folder / "a.txt")
    (folder / "diary.txt").symlink_to(diary / "diary.txt")
    (folder / "inside").symlink_to(folder)
    (folder / "outside").symlink_to(diary)
    (tmp_path / "folder-too").symlink_to(folder)
    for source in (folder, tmp_path / "folder-too"):
        corpus = open_corpus([str(source)])
        assert (texts(corpus), corpus.skipped) == (["a"], "2 files skipped: links that lead elsewhere 2")
    assert "(1 file skipped: links that lead elsewhere 1)" in error_of(folder / "outs*" / "*")
    for told in (folder / "diary.txt", folder / "outside", folder / "d*.txt"):
        assert texts(open_corpus([str(told)])) == ["secret"]
    (folder / "diary.txt").unlink()
    corpus = open_corpus([str(folder / "*" / "*.txt")])
    assert (texts(corpus), corpus.skipped) == (["a"], "1 file skipped: links that lead elsewhere 1")


def test_a_path_that_exists_is_a_path_and_no_pattern(tmp_path):
    for name in ("data[1]", "data1"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "a.txt").write_text(name)
    corpus = open_corpus([str(tmp_path / "data[1]" / "*")])
    assert (texts(corpus), corpus.skipped) == (["data[1]"], "1 file skipped: folders 1")
    assert texts(open_corpus([str(tmp_path / "data[1-9]" / "*.txt")])) == ["data1"]
    assert open_corpus([str(tmp_path / "data[1]" / "**" / "*")]).skipped == ""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system refuses such a name")
def test_a_name_that_is_not_utf8_is_read_in_a_folder_and_refused_as_a_source(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt"))
    path.write_text("a")
    assert list(open_corpus([str(tmp_path)])) == [("caf\\xe9#1", "a")]
    assert "is not UTF-8; rename" in error_of(path)


def test_home_folder_and_relative_paths(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(folder)
    assert texts(open_corpus(["~/z.txt", "a.md"])) == ["z", "a"]


def test_fingerprint_changes_with_content_and_column_only(folder):
    path = write_rows(folder / "rows.jsonl", [{"text": "a", "body": "b"}])
    first = open_corpus([str(path)]).fingerprint
    assert open_corpus([str(path)]).fingerprint == first
    assert int(first, 16) > 0
    assert open_corpus([str(path)], text_column="body").fingerprint != first
    assert open_corpus([str(path), str(folder / "z.txt")]).fingerprint != first
    write_rows(path, [{"text": "ab", "body": "b"}])
    assert open_corpus([str(path)]).fingerprint != first


def test_a_corpus_is_its_bytes_wherever_and_whenever_they_were_written(tmp_path):
    here, there = tmp_path / "here.jsonl", tmp_path / "there" / "copy.jsonl"
    there.parent.mkdir()
    write_rows(here, [{"text": "one"}, {"text": "two"}])
    first, times = open_corpus([str(here)]).fingerprint, here.stat()
    shutil.copyfile(here, there)
    os.utime(here)
    assert open_corpus([str(here)]).fingerprint == open_corpus([str(there)]).fingerprint == first
    write_rows(here, [{"text": "one"}, {"text": "six"}])
    os.utime(here, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert here.stat().st_size == times.st_size
    assert open_corpus([str(here)]).fingerprint != first


def test_a_file_that_is_written_to_while_it_is_read_is_refused(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [{"text": "one"}, {"text": "two"}])
    documents = iter(open_corpus([str(path)]))
    next(documents)
    write_rows(path, [{"text": "one"}, {"text": "two"}, {"text": "three"}])
    with pytest.raises(UserError, match="was written to while it was read"):
        list(documents)


@pytest.mark.parametrize(
    ("happens", "message"),
    [
        (lambda path: path.unlink(), "No such file or directory"),
        (lambda path: os.truncate(path, path.stat().st_size // 2 + 3), "was written to while it was read"),
    ],
)
def test_a_file_that_goes_while_it_is_read_is_one_clear_error(tmp_path, happens, message):
    path = write_rows(tmp_path / "rows.jsonl", [{"text": f"text {number}"} for number in range(20_000)])
    documents = iter(open_corpus([str(path)]))
    next(documents)
    happens(path)
    with pytest.raises(UserError, match=f"{path}.*{message}"):
        list(documents)


# ---------------------------------------------------------------- mistakes that opening shows


@pytest.mark.parametrize("name", ["x" * 300, "x" * 300 + ".txt", "x" * 300 + "*", "y/" * 3_000 + "x.txt"])
def test_a_name_that_no_file_can_have(name):
    error = error_of(name)
    assert "File name too long; check the path" in error
    assert len(error) < 200


def test_no_source():
    with pytest.raises(UserError, match="no corpus given"):
        open_corpus([])


def test_missing_file(tmp_path):
    assert "no file" in error_of(tmp_path / "missing.txt")


def test_glob_without_matches(tmp_path):
    assert "no file matches" in error_of(tmp_path / "*.txt")


def test_folder_without_readable_files(tmp_path):
    (tmp_path / "image.png").write_bytes(b"x")
    assert ".jsonl.xz" in error_of(tmp_path)


def test_unknown_suffix_lists_the_known_ones(tmp_path):
    (tmp_path / "rows.csv.bz2").write_bytes(bz2.compress(b"a,b"))
    message = error_of(tmp_path / "rows.csv.bz2")
    assert "rows.csv.bz2" in message
    assert all(suffix in message for suffix in (".txt", ".md.zst", ".jsonl.gz", ".parquet"))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl.gz", "a.parquet"])
def test_empty_file(tmp_path, name):
    (tmp_path / name).touch()
    assert "is empty" in error_of(tmp_path / name)


def test_empty_once_decompressed(tmp_path):
    (tmp_path / "a.txt.xz").write_bytes(lzma.compress(b""))
    assert "empty once decompressed" in error_of(tmp_path / "a.txt.xz")


@pytest.mark.parametrize("end", COMPRESS)
def test_binary_file(tmp_path, end):
    (tmp_path / f"a.txt{end}").write_bytes(COMPRESS[end](b"text\0"))
    assert "binary (a NUL at byte 4)" in error_of(tmp_path / f"a.txt{end}")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_missing_column_lists_those_there_are(tmp_path, suffix):
    path = write_rows(tmp_path / "a.jsonl", [{"body": "a", "id": 1}])
    if suffix == ".parquet":
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table({"body": ["a"], "id": [1]}), path)
    message = error_of(path)
    assert "no column 'text'" in message
    assert "'body', 'id'" in message


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_column_that_is_not_text(tmp_path, suffix):
    path = write_rows(tmp_path / "a.jsonl", [{"text": 5}])
    if suffix == ".parquet":
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table({"text": [5]}), path)
    message = error_of(path)
    assert "int" in message
    assert "not string" in message or "not a string" in message


def test_first_row_that_is_not_an_object(tmp_path):
    (tmp_path / "a.jsonl").write_text('\n["text"]\n')
    assert "a.jsonl:2 is a list" in error_of(tmp_path / "a.jsonl")


@pytest.mark.parametrize("row", ['{"text": "a", "text": "b"}', '{"text": "a", "of": {"id": 1, "id": 2}}'])
def test_a_key_twice_is_no_row_of_which_half_is_lost(tmp_path, row):
    (tmp_path / "a.jsonl").write_text(f'{{"text": "a"}}\n{row}\n')
    message = error_while_reading(tmp_path / "a.jsonl")
    assert "a.jsonl:2 is not valid JSON (the key '" in message
    assert "twice" in message


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.xz", "a.md.zst", "a.parquet"])
def test_suffix_that_lies(tmp_path, name):
    (tmp_path / name).write_bytes(b"plain text, whatever the suffix says")
    assert "damaged or not what its suffix says" in error_of(tmp_path / name)


@pytest.mark.parametrize("other", ["builtin", "some/dataset"])
def test_only_files_can_be_combined(tmp_path, other):
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(UserError, match=f"'{other}' cannot be combined"):
        open_corpus([str(tmp_path / "a.txt"), other])


# ---------------------------------------------------------------- mistakes that reading shows


def test_not_utf8_names_the_byte(tmp_path):
    text = "größer\n" * 20_000
    (tmp_path / "a.txt").write_bytes(text.encode() + b"\xff")
    assert f"not UTF-8 at byte {len(text.encode()):,}" in error_while_reading(tmp_path / "a.txt")
    (tmp_path / "cut.txt").write_bytes("gr\N{LATIN SMALL LETTER O WITH DIAERESIS}".encode()[:-1])
    assert "not UTF-8 at byte 2;" in error_while_reading(tmp_path / "cut.txt")
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "fine"}\n{"text": "\xff"}\n')
    assert "not UTF-8 at byte 27;" in error_while_reading(tmp_path / "a.jsonl")


def test_broken_json_names_the_line(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n{"text": "br')
    assert "a.jsonl:2 is not valid JSON" in error_while_reading(tmp_path / "a.jsonl")


def test_later_rows_are_checked(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [{"text": "fine"}, {"body": "lost"}])
    assert "a.jsonl:2 has no column 'text'" in error_while_reading(path)


@pytest.mark.parametrize("end", [end for end in COMPRESS if end])
def test_truncated_and_corrupt_compressed_files(tmp_path, end):
    rows = "".join(json.dumps({"text": str(document_hash(str(number)))}) + "\n" for number in range(20_000))
    data = COMPRESS[end](rows.encode())
    path = tmp_path / f"a.jsonl{end}"
    path.write_bytes(data[: len(data) * 3 // 4])
    assert "it ends in the middle" in error_while_reading(path)
    if end != ".zst":  # whose command writes a checksum, but whose Python default does not
        path.write_bytes(data[: len(data) // 2] + bytes(1_000) + data[len(data) // 2 + 1_000 :])
        assert error_while_reading(path)


def test_corrupt_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [str(document_hash(str(number))) for number in range(5_000)]}), path)
    data = path.read_bytes()
    path.write_bytes(data[:4] + bytes(2_000) + data[2_004:])
    assert "a.parquet is damaged" in error_while_reading(path)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
@pytest.mark.parametrize("end", [".xz", ".zst"])  # gzip packs a thousandfold at most
def test_a_small_file_that_unpacks_without_end_is_refused_before_it_fills_memory(tmp_path, monkeypatch, name, end):
    monkeypatch.setattr(bounded, "MAX_EXPANDED_BYTES", 64 << 20)
    monkeypatch.setattr(bounded, "MAX_ROW_BYTES", 128 << 20)
    path = tmp_path / f"{name}{end}"
    path.write_bytes(COMPRESS[end](b"a" * (100 << 20)))
    error = error_while_reading if name == "a.txt" else error_of  # a row is read when it is opened
    assert f"{path} expands to more than 64 MiB, over 100 times its size" in error(path)
    with pytest.raises(UserError):
        max(map(check_size, bounded.decompressed(path, bounded.Expansion(path))))


def check_size(block: bytes) -> int:
    assert len(block) < 48 << 20
    return len(block)


def test_a_parquet_file_that_repeats_a_long_text_is_refused_before_it_fills_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(bounded, "MAX_EXPANDED_BYTES", 64 << 20)
    path = tmp_path / "a.parquet"
    table = pa.table({"text": ["a" * (4 << 20)] * 64})
    pq.write_table(table, path, compression="zstd", dictionary_pagesize_limit=1 << 30)
    before = pa.total_allocated_bytes()
    held = []
    documents = (held.append(pa.total_allocated_bytes() - before) for _ in open_corpus([str(path)]))
    with pytest.raises(UserError, match=r"a\.parquet expands to more than 64 MiB"):
        list(documents)
    assert len(held) > 10
    assert max(held) < 32 << 20


def test_a_row_that_is_no_document_is_refused_by_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr(bounded, "MAX_ROW_BYTES", 1 << 20)
    long = "a" * (1 << 21)
    path = write_rows(tmp_path / "a.jsonl", [{"text": "short"}, {"text": long}])
    assert f"{path}: the line at byte 18 is longer than 1 MiB" in error_while_reading(path)
    pq.write_table(pa.table({"text": ["short", long]}), tmp_path / "a.parquet")
    assert "a.parquet, row 2 is longer than 1 MiB" in error_while_reading(tmp_path / "a.parquet")


@pytest.mark.parametrize("row", ["[" * 100_000, '{"a":' * 100_000, '{"text": ' + "[" * 100_000 + "]" * 100_000 + "}"])
def test_deeply_nested_json_is_one_clear_error(tmp_path, row):
    (tmp_path / "a.jsonl").write_text(row)
    assert "a.jsonl:1 is not valid JSON" in error_of(tmp_path / "a.jsonl")


def test_empty_documents_are_counted(tmp_path):
    corpus = open_corpus([str(write_rows(tmp_path / "a.jsonl", ROWS))])
    for _ in range(2):
        assert texts(corpus) == KEPT
        assert corpus.empty_documents == 2


def test_corpus_without_documents(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [{"text": " \n"}, {"text": None}])
    assert "has no documents" in error_while_reading(path)


# ---------------------------------------------------------------- the Hub


@pytest.fixture
def hub(monkeypatch):
    """A Hub with one data set, and what was asked of it."""
    asked = []

    def load_dataset(name, config, *, split, revision, streaming):
        asked.append((name, config, split, revision, streaming))
        rows = datasets.Dataset.from_list(
            [{"id": "x", "text": "größe", "label": 1}, {"id": "y", "text": "", "label": 0}]
        )
        return rows.to_iterable_dataset() if streaming else rows

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(
        huggingface_hub.HfApi,
        "dataset_info",
        lambda _self, name, revision: SimpleNamespace(sha=revision or f"sha-of-{name}"),
    )
    return asked


def test_hub_data_set(hub):
    corpus = open_corpus(["me/texts:en"])
    assert list(corpus) == list(corpus) == [("me/texts:en/x", "größe")]
    assert corpus.num_bytes is None
    assert corpus.bytes_read == 7
    streamed = open_corpus(["texts"], streaming=True)
    assert list(streamed) == list(streamed) == [("texts/x", "größe")]
    assert streamed.fingerprint == open_corpus(["texts"], streaming=True).fingerprint != corpus.fingerprint
    assert hub[:2] == [("me/texts", "en", "train", None, False), ("texts", None, "train", "sha-of-texts", True)]
    again = open_corpus([streamed.pinned], streaming=True)
    assert (streamed.pinned, again.pinned, again.name) == ("texts@sha-of-texts", "texts@sha-of-texts", "texts")
    assert again.fingerprint == streamed.fingerprint
    open_corpus(["me/texts:en@v1"])
    assert hub[-1] == ("me/texts", "en", "train", "v1", False)


def test_streaming_what_is_here_is_refused(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [{"text": "some"}])
    for source in (str(path), str(tmp_path), "builtin"):
        with pytest.raises(UserError, match=f"streaming reads a data set on the Hub, but {source} is here already"):
            open_corpus([source], streaming=True)


def test_hub_column(hub):
    assert "choose a --text_column among 'id', 'text', 'label'" in error_of("me/texts", text_column="body")
    assert "'label' is a int" in str(
        pytest.raises(UserError, list, open_corpus(["me/texts"], text_column="label")).value
    )
    assert len(hub) == 2


@pytest.mark.parametrize("streaming", [True, False])
def test_unreachable_hub_is_one_clear_error(monkeypatch, tmp_path, streaming):
    def fail(*_arguments, **_options):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", fail)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="'me/texts' is neither a file .* no route to host"):
        open_corpus(["me/texts"], streaming=streaming)


@pytest.mark.usefixtures("hub")
def test_a_connection_that_breaks_off_is_one_clear_error(monkeypatch):
    def rows():
        yield {"text": "first"}
        raise TimeoutError("no answer\nfor a minute")

    corpus = open_corpus(["me/texts"], streaming=True)
    monkeypatch.setattr(corpus, "_rows", datasets.IterableDataset.from_generator(rows))
    with pytest.raises(UserError, match="the data set me/texts broke off at row 2 .TimeoutError: no answer for a min"):
        list(corpus)


def test_what_cannot_be_a_hub_name_does_not_ask_the_hub(hub):
    for source in ("some/missing/folder", "../folder", "/folder", "two words"):
        assert "neither a file or folder" in error_of(source)
    assert hub == []


# ---------------------------------------------------------------- held-out documents


def test_held_out_split_is_stable_and_of_the_right_size():
    assert document_hash("The cat sat on the mat.") == document_hash("The cat sat on " + "the mat.")
    assert document_hash("größe") == 17652106498042665705, "the same on every machine"
    held_out = [number for number in range(50_000) if is_held_out(f"document {number}")]
    assert 0.018 < len(held_out) / 50_000 < 0.022
    assert set(held_out) < {number for number in range(50_000) if is_held_out(f"document {number}", 0.05)}
    assert not is_held_out("document", 0.0)
    assert is_held_out("document", 1.0)


# ---------------------------------------------------------------- the builtin corpus

NUMPY_STYLE = """
    Return the product of two matrices, which must have fitting shapes.

    The result is a new matrix; see :func:`~pkg.linalg.solve` and [1]_ for
    what to do with it, and :class:`Matrix` for ``transpose``.

    Parameters
    ----------
    left, right : array_like, shape (n, n)
        The matrices that are to be multiplied with each other.

    Returns
    -------
    ndarray

    Examples
    --------
    >>> multiply([[1]],
    ...          [[2]])
    array([[2]])

    Large matrices take a while. Write it in this way instead::

        result = left @ right

    See Also
    --------
    solve : Solution of a system of linear equations that has
        as many equations as unknowns.

    References
    ----------
    .. [1] A. Author, "A Title", 1999,
       pp. 1-2.
"""
GOOGLE_STYLE = """load(path, *, mode=None) -> Model

    Load a model from the folder that it was saved to.

    Args:
        path (`str` or `os.PathLike`, *optional*, defaults to `"."`): The folder
            to read from.
        mode: One of the following modes, which say what is read:

            - `all`: everything that is there, which
              takes longest.

    +-------+-------+
    | mode  | bytes |
    +-------+-------+

    ```python
    model = load("here")
    ```

    > [!TIP]
    > Read the page on :ref:`saving <saving_models>` as well.

    .. deprecated:: 2.0
        It will be removed in the next version.

    :param strict: whether unknown files are an error.
    :type strict: bool
"""


def test_cleaning_leaves_prose():
    assert clean_docstring(NUMPY_STYLE) == [
        "Return the product of two matrices, which must have fitting shapes.",
        "The result is a new matrix; see pkg.linalg.solve and for what to do with it, and Matrix for `transpose`.",
        "Parameters",
        "left, right: The matrices that are to be multiplied with each other.",
        "Examples",
        "Large matrices take a while. Write it in this way instead:",
        "See Also",
        "solve: Solution of a system of linear equations that has as many equations as unknowns.",
    ]
    assert clean_docstring(GOOGLE_STYLE) == [
        "Load a model from the folder that it was saved to.",
        "Args:",
        "path: The folder to read from.",
        "mode: One of the following modes, which say what is read:",
        "- `all`: everything that is there, which takes longest.",
        "Read the page on saving as well.",
        "It will be removed in the next version.",
        "strict: whether unknown files are an error.",
    ]


def sentences(first: int, count: int = 6) -> str:
    """Prose of about 45 characters a sentence; different numbers share no run of words."""
    trees = ("ash", "birch", "cedar", "elm", "fir", "hazel", "larch", "maple", "oak", "pine", "rowan", "spruce", "yew")
    return "\n".join(
        f"The {trees[n % 13]} by the {trees[n // 13 % 13]} bends {trees[(n * 7 + 3) % 13]} towards {trees[n * 5 % 13]}."
        for n in range(first, first + count)
    )


@pytest.fixture
def packages(tmp_path):
    root = tmp_path / "site-packages"
    for name in ("fruit", "fruit/tests", "fruit/_vendor", "_nuts"):
        (root / name).mkdir(parents=True)
    (root / "fruit" / "__init__.py").write_text(f'"""{sentences(0)}"""\n')
    (root / "fruit" / "apple.py").write_text(
        f'''
import missing_module
add_newdoc("fruit", "seed", """{sentences(10)}""")
class Apple:
    """{sentences(20)}"""
    if True:
        def peel(self):
            """{sentences(30)}"""
            def inner():
                """{sentences(40)}"""
    def cut(self):
        """Too short."""
'''
    )
    (root / "fruit" / "pear.py").write_text(f'"""{sentences(20)}\nAnd one more word."""\n')
    (root / "fruit" / "broken.py").write_text(f'"""{sentences(50)}"""\nprint "no"\n')
    (root / "fruit" / "tests" / "test_apple.py").write_text(f'"""{sentences(60)}"""\n')
    (root / "fruit" / "_vendor" / "fig.py").write_text(f'"""{sentences(70)}"""\n')
    (root / "_nuts" / "walnut.py").write_text(f'async def crack():\n    r"""{sentences(80)} \\d"""\n')
    return root


def test_extraction(packages):
    statistics = Statistics()
    documents = dict(extract(sources_below(packages), statistics=statistics))
    assert list(documents) == [
        "fruit/fruit:",
        "fruit/fruit.apple:fruit.seed",
        "fruit/fruit.apple:Apple",
        "fruit/fruit.apple:Apple.peel",
        "nuts/_nuts.walnut:crack",
    ]
    assert documents["fruit/fruit:"] == sentences(0).replace("\n", " ")
    assert (statistics.num_files, statistics.num_short, statistics.num_duplicates) == (5, 1, 1)
    assert statistics.num_documents == 5
    assert statistics.num_characters == sum(map(len, documents.values()))
    assert statistics.characters_by_package["fruit"] > statistics.characters_by_package["nuts"] > 0
    assert sources_below(packages, package="python")[0].package == "python"


@pytest.mark.skipif(sys.platform != "linux", reason="processes are copied on Linux only")
def test_several_processes_extract_the_same(packages, monkeypatch):
    expected, statistics = list(extract(sources_below(packages), statistics=Statistics())), Statistics()
    monkeypatch.setattr(builtin_corpus, "FILES_FOR_SEVERAL_PROCESSES", 1)
    monkeypatch.setattr(builtin_corpus, "FILES_AT_ONCE", 1)
    monkeypatch.setattr(builtin_corpus, "_num_cores", lambda: 2)
    assert list(extract(sources_below(packages), statistics=statistics)) == expected
    assert (statistics.num_files, statistics.num_short, statistics.num_duplicates) == (5, 1, 1)
    assert not multiprocessing.active_children()


def test_repeated_paragraphs_are_dropped(tmp_path):
    shared = "This paragraph is the same in each of the many files of the package that was generated."
    for number in range(5):
        (tmp_path / f"m{number}.py").write_text(f'"""{sentences(number * 20, 8)}\n\n{shared}\n"""\n')
    sources = [Source("pkg", f"m{number}", tmp_path / f"m{number}.py") for number in range(5)]
    documents = dict(extract(sources, statistics=Statistics()))
    assert [shared in text for text in documents.values()] == [True, True, False, False, False]


def test_builtin_is_extracted_once_and_cached(packages, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(datasets.config, "HF_CACHE_HOME", str(tmp_path / "cache"))
    calls = []

    def few_sources():
        calls.append(1)
        return sources_below(packages)

    monkeypatch.setattr(builtin_corpus, "installed_sources", few_sources)
    with caplog.at_level(logging.INFO, logger="hf_minibert"):
        corpus = open_corpus(["builtin"])
    assert "documents with" in caplog.text
    documents = list(corpus)
    assert documents[0] == ("fruit/fruit:", sentences(0).replace("\n", " "))
    assert any(name.startswith("python/pydoc_data.topics:") for name, _ in documents)
    assert len({name for name, _ in documents}) == len(documents) > 50
    assert corpus.name == "builtin"
    assert corpus.bytes_read == corpus.num_bytes
    assert "what is called so here" not in caplog.text
    (tmp_path / "builtin").mkdir()
    monkeypatch.chdir(tmp_path)
    again = open_corpus(["builtin"])
    assert "what is called so here is ./builtin" in caplog.text
    assert list(again) == documents
    assert again.fingerprint == corpus.fingerprint
    assert len(calls) == 1
    (file,) = (tmp_path / "cache" / "hf_minibert").iterdir()
    assert file.name == f"builtin-{builtin_corpus.builtin_fingerprint()}.jsonl.zst"
    (tmp_path / "any").touch()
    assert file.stat().st_mode == (tmp_path / "any").stat().st_mode, "others who share the cache may read it"


def test_interrupted_extraction_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_CACHE_HOME", tmp_path)

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(builtin_corpus, "installed_sources", lambda: [Source("a", "a", tmp_path / "a.py")])
    monkeypatch.setattr(builtin_corpus, "_documented", interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_corpus(["builtin"])
    assert list((tmp_path / "hf_minibert").iterdir()) == []


def test_installed_sources_are_found_without_this_package():
    sources = builtin_corpus.installed_sources()
    packages = {source.package for source in sources}
    assert {"numpy", "datasets", "python"} <= packages
    assert "hf_minibert" not in packages
    assert len(sources) == len(set(sources))


def test_builtin_fingerprint_depends_on_versions(monkeypatch):
    before = builtin_corpus.builtin_fingerprint()
    monkeypatch.setattr(metadata.Distribution, "version", "0")
    assert builtin_corpus.builtin_fingerprint() != before


def test_reader_version_is_part_of_the_fingerprint(folder, monkeypatch):
    before = open_corpus([str(folder)]).fingerprint
    monkeypatch.setattr(corpus_module, "READER_VERSION", 10**6)
    assert open_corpus([str(folder)]).fingerprint != before
