"""Where text comes from: files, folders, a data set on the Hub, or the documentation of the installed packages.

In: what the user names. Out: a `Corpus`, which yields documents in a fixed order, as often as it is asked to, and holds
one document (of a text file: a piece of it) in memory at a time. Nothing later knows where text came from.
"""

import codecs
import glob
import hashlib
import io
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pyarrow
import pyarrow.parquet
from tqdm import tqdm

from hf_minibert.data.bounded import (
    DECOMPRESSED_BYTES,
    DECOMPRESSORS,
    Expansion,
    check_row,
    damaged,
    decompressed,
    parquet_chunks,
    rows_at_once,
)
from hf_minibert.data.builtin_corpus import builtin_fingerprint, prepare_builtin_corpus
from hf_minibert.data.documents import Corpus, Document
from hf_minibert.data.sources import (
    BUILTIN,
    KNOWN_SUFFIXES,
    TEXT_COLUMN,
    TEXT_FORMATS,
    DocumentUnit,
    expanded,
    suffix_of,
)
from hf_minibert.errors import UserError
from hf_minibert.files import MANIFEST

logger = logging.getLogger("hf_minibert")

READER_VERSION = 1
"""The version of reading, part of the fingerprint. Raise it when the same file would yield other documents."""

DOCUMENT_CHARACTERS = 10_000
"""A text file is cut at the first blank line after this many characters, or by twice as many at the latest."""

PARQUET_ROWS = 4
SECONDS_BEFORE_BAR = 5.0

_HIDDEN, _ELSEWHERE, _UNREADABLE = "hidden", "links that lead elsewhere", "unreadable"
_WRITTEN = "written by a verb"
_MOST_KINDS = 8
_PLAIN_SUFFIX = re.compile(r"(\.[a-z0-9_+-]{1,12}){1,2}")
_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n)+")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?(:[\w.+-]+)?(@[\w./+-]+)?")


def open_corpus(
    sources: Sequence[str], *, text_column: str = TEXT_COLUMN, streaming: bool = False, document: DocumentUnit = "file"
) -> Corpus:
    """The corpus that the sources name: ``builtin``, files, globs and folders, or one data set on the Hub.

    Args:
        sources: as a user writes them. A Hub name is ``name`` or ``name:config``; its ``train`` split is read.
        text_column: which field of a JSON row, or column of a Parquet file or Hub data set, is the text.
        streaming: read a Hub data set without storing it; what is on this machine is refused.
        document: what is one document of a ``.txt`` or ``.md`` file: the whole file, the text between blank lines, or
            a line. Those longer than `DOCUMENT_CHARACTERS` are cut. Other files have one document a row.

    Raises:
        UserError: a source does not exist or cannot be read. This checks a file's first row only; iterating raises
            faults that lie further on.
    """
    if not sources:
        raise UserError(
            f"no corpus given; name 'builtin', files ({', '.join(KNOWN_SUFFIXES)}), a folder or a Hub data set"
        )
    for source in sources:
        try:
            source.encode()
        except UnicodeEncodeError as error:  # a name may be any bytes, but what tells of a run is UTF-8
            raise UserError(f"the name {source!a} is not UTF-8; rename the file or folder") from error
    others = [source for source in sources if source == BUILTIN or not _is_file_source(source)]
    if others and len(sources) > 1:
        raise UserError(f"{others[0]!r} cannot be combined with other sources; only files, globs and folders can")
    if streaming and others in ([], [BUILTIN]):
        raise UserError(f"streaming reads a data set on the Hub, but {' '.join(sources)} is here already; leave it out")
    corpus: Corpus
    if others == [BUILTIN]:
        if Path(BUILTIN).exists():
            logger.warning("%s is the corpus of this package; what is called so here is ./%s", BUILTIN, BUILTIN)
        paths = [prepare_builtin_corpus(builtin_fingerprint())]
        corpus = FileCorpus(BUILTIN, [("", paths[0])], "text")
    elif others:
        paths = []
        corpus = _open_hub_corpus(sources[0], text_column=text_column, streaming=streaming)
    else:
        skipped: Counter[str] = Counter()
        by_target: dict[Path, Path] = {}
        for path in (path for source in sources for path in _find_files(source, skipped)):
            by_target.setdefault(path.resolve(), path)  # overlapping globs name a file twice, it is read once
        paths = list(by_target.values())
        corpus = FileCorpus(" ".join(sources), list(zip(_labels(paths), paths, strict=True)), text_column, document)
        corpus.skipped = _tell(skipped)
    formats = {_format(path) for path in paths}
    if document != "file" and not formats & {*TEXT_FORMATS}:
        raise UserError(
            f"--document {document} says what a document of a {' or '.join(TEXT_FORMATS)} file is, but "
            f"{corpus.name} has none: there, every row is a document; leave it out"
        )
    if text_column != TEXT_COLUMN and (others == [BUILTIN] or (paths and not formats - {*TEXT_FORMATS})):
        raise UserError(
            f"--text_column {text_column} names a column of a table, but {corpus.name} has none; leave it out"
        )
    return corpus


def open_each(sources: Sequence[str], *, text_column: str, document: DocumentUnit) -> list[Corpus]:
    """A corpus for each source; a setting that is only for text files, or only for tables, is for those that have some.

    Raises:
        UserError: see `open_corpus`; or a setting is for none of the sources.
    """
    held = {source: _holds(source) for source in sources}
    with_text = [source for source, (has_text, _) in held.items() if has_text] or sources
    with_rows = [source for source, (_, has_rows) in held.items() if has_rows] or sources
    return [
        open_corpus(
            [source],
            text_column=text_column if source in with_rows else TEXT_COLUMN,
            document=document if source in with_text else "file",
        )
        for source in sources
    ]


def _holds(source: str) -> tuple[bool, bool]:
    """Whether a source has text files, and whether it has rows, of which `text_column` is the text."""
    if source == BUILTIN or not _is_file_source(source):
        return False, source != BUILTIN
    formats = {_format(path) for path in _find_files(source, Counter())}
    return bool(formats & {*TEXT_FORMATS}), bool(formats - {*TEXT_FORMATS})


# ---------------------------------------------------------------- files


class FileCorpus(Corpus):
    """Text, JSON-lines and Parquet files, one after the other, each with the label its documents' ids begin with."""

    def __init__(
        self, name: str, files: Sequence[tuple[str, Path]], text_column: str, document: DocumentUnit = "file"
    ) -> None:
        super().__init__(name, "", sum(path.stat().st_size for _, path in files))
        self.files = files
        self._text_column = text_column
        self._document = document
        for label, path in files:
            self._check_start(label, path)
        self.bytes_read = 0
        self._states = [_state(path) for _, path in files]
        self.fingerprint = self._digest()

    def _digest(self) -> str:
        """A hash of how the files are read and of their bytes: sizes and times can be those of another text."""
        digest = hashlib.sha256(f"reader {READER_VERSION}\0{self._text_column}\0{self._document}".encode())
        with tqdm(
            total=self.num_bytes, desc=f"checking {self.name}", unit="B", unit_scale=True, delay=SECONDS_BEFORE_BAR
        ) as bar:
            for _, path in self.files:
                of_file = hashlib.sha256()
                with path.open("rb") as file:
                    while block := file.read(DECOMPRESSED_BYTES):
                        of_file.update(block)
                        bar.update(len(block))
                digest.update(f"\0{suffix_of(path)}\0{of_file.hexdigest()}".encode())
        return digest.hexdigest()[:32]

    def _check_start(self, label: str, path: Path) -> None:
        """Raise what can be seen without reading a file to its end."""
        if path.stat().st_size == 0:
            raise UserError(f"{path} is empty; remove it from the corpus")
        if _format(path) == ".parquet":
            _open_parquet(path, self._text_column).close()
        elif next(_blocks(path, self._count), None) is None:
            raise UserError(f"{path} is empty once decompressed; remove it from the corpus")
        elif _format(path) == ".jsonl":
            next(self._read_json_lines(label, path), None)

    def _documents(self) -> Iterator[Document]:
        before = 0
        for (label, path), state in zip(self.files, self._states, strict=True):
            self.bytes_read = before
            try:
                yield from self._read(label, path)
                is_changed = _state(path) != state
            except UserError:
                if _state(path) == state:
                    raise
                is_changed = True
            except OSError as error:
                raise UserError(f"cannot read {path}: {error.strerror or error}; it was there before") from error
            if is_changed:
                raise UserError(f"{path} was written to while it was read; start again when it is complete")
            before += state[0]
        self.bytes_read = before

    def _read(self, label: str, path: Path) -> Iterator[Document]:
        reader = {".jsonl": self._read_json_lines, ".parquet": self._read_parquet}.get(_format(path), self._read_text)
        return reader(label, path)

    def _count(self, num_bytes: int) -> None:
        self.bytes_read += num_bytes

    def _read_text(self, label: str, path: Path) -> Iterator[Document]:
        parts = _decoded(path, self._count)
        pieces = _pieces(parts) if self._document == "file" else _units(parts, self._document)
        for number, piece in enumerate(pieces, start=1):
            yield Document(f"{label}#{number}", piece)

    def _read_json_lines(self, label: str, path: Path) -> Iterator[Document]:
        for number, (offset, line) in enumerate(_lines(path, self._count), start=1):
            if not line or line.isspace():
                continue
            where = f"{path}:{number}"
            try:
                row = _decode_json(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                raise _not_utf8(path, offset + error.start) from error
            except (ValueError, RecursionError) as error:
                raise UserError(f"{where} is not valid JSON ({error}); a .jsonl file has one object a line") from error
            if not isinstance(row, dict):
                raise UserError(f"{where} is a {type(row).__name__}, not an object; write one object a line")
            yield _row_document(row, label, number, where, self._text_column)

    def _read_parquet(self, label: str, path: Path) -> Iterator[Document]:
        size, number, expansion = path.stat().st_size, 0, Expansion(path)
        try:
            with _open_parquet(path, self._text_column) as file:
                columns = [name for name in ("id", self._text_column) if name in file.schema_arrow.names]
                num_rows = max(1, file.metadata.num_rows)
                chunks = parquet_chunks(path, file.metadata, columns)
                for chunk in chunks:
                    Expansion(path).add(chunk.num_bytes)
                at_once = 1 if any(chunk.repeats for chunk in chunks) else rows_at_once(chunks, PARQUET_ROWS)
                for batch in file.iter_batches(batch_size=at_once, columns=columns):
                    self._count(size * (number + batch.num_rows) // num_rows - size * number // num_rows)
                    for row in batch.to_pylist():
                        number += 1
                        document = _row_document(row, label, number, f"{path}, row {number}", self._text_column)
                        expansion.add(len(document.text))
                        yield document
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise damaged(path, error) from error


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, for `object_pairs_hook`; of a key that stands twice, one value would be lost.

    Raises:
        ValueError: a key stands twice.
    """
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} twice")
    return row


_decode_json = json.JSONDecoder(object_pairs_hook=unique_keys).decode


def _row_document(row: dict[str, Any], label: str, number: int, where: str, text_column: str) -> Document:
    """One row's document. A missing value counts as empty; a missing column is a mistake."""
    if text_column not in row:
        raise _missing_column(where, text_column, row)
    text = row[text_column]
    if text is not None and not isinstance(text, str):
        raise UserError(
            f"{where}: {text_column!r} is a {type(text).__name__}, not a string; choose another --text_column"
        )
    check_row(where, len(text or ""))
    if text and not text.isascii():
        text = text.encode(errors="replace").decode()  # half a surrogate pair, which JSON can spell, is not text
    identifier = row.get("id")
    if isinstance(identifier, str | int):
        return Document(f"{label}/{identifier}" if label else str(identifier), text or "")
    return Document(f"{label}#{number}", text or "")


def _missing_column(where: str, text_column: str, columns: Any) -> UserError:
    there_are = ", ".join(map(repr, columns)) or "none"
    return UserError(f"{where} has no column {text_column!r}; choose a --text_column among {there_are}")


def _state(path: Path) -> tuple[int, int]:
    """What changes when a file is written to while it is read."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _not_utf8(path: Path, offset: int) -> UserError:
    return UserError(f"{path} is not UTF-8 at byte {offset:,}; convert it, for example with iconv -t UTF-8")


def _open_parquet(path: Path, text_column: str) -> pyarrow.parquet.ParquetFile:
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise damaged(path, error) from error
    schema = file.schema_arrow
    if text_column not in schema.names:
        raise _missing_column(str(path), text_column, schema.names)
    if schema.names.count(text_column) > 1:
        raise UserError(f"{path} has two columns {text_column!r}, and only one can be the text; rename one")
    kind = schema.field(text_column).type
    if pyarrow.types.is_dictionary(kind):
        kind = kind.value_type
    if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind) or pyarrow.types.is_string_view(kind)):
        raise UserError(f"{path}: column {text_column!r} is of type {kind}, not string; choose another --text_column")
    return file


def _blocks(path: Path, count: Callable[[int], None]) -> Iterator[bytes]:
    """A file's bytes, decompressed; ``count`` is told how many were read from disk."""
    offset = 0
    for block in decompressed(path, Expansion(path), count):
        position = block.find(b"\0")
        if position >= 0:
            raise UserError(f"{path} is binary (a NUL at byte {offset + position:,}); a corpus file is UTF-8 text")
        offset += len(block)
        yield block


def _lines(path: Path, count: Callable[[int], None]) -> Iterator[tuple[int, bytes]]:
    """Each line's offset in bytes, and its bytes."""
    offset, parts, waiting = 0, list[bytes](), 0
    for block in _blocks(path, count):
        *finished, rest = block.split(b"\n")
        for line in finished:
            parts.append(line)
            whole = b"".join(parts)
            yield offset, whole
            offset += len(whole) + 1
            parts.clear()
        parts.append(rest)
        waiting = len(rest) if finished else waiting + len(rest)
        check_row(f"{path}: the line at byte {offset:,}", waiting)
    if any(parts):
        yield offset, b"".join(parts)


def _decoded(path: Path, count: Callable[[int], None]) -> Iterator[str]:
    """A file's text, without byte-order mark and with line feeds alone at line ends."""
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8-sig")(), translate=True)
    offset = 0
    try:
        for block in _blocks(path, count):
            offset += len(block)
            yield decoder.decode(block)
        yield decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise _not_utf8(path, offset - len(error.object) + error.start) from error


def _pieces(parts: Iterator[str]) -> Iterator[str]:
    """Cut text of any length into documents; joined, they are the text without the blank lines around it."""
    buffer, is_start = "", True
    for part in parts:
        buffer += part
        if is_start:
            buffer = buffer.lstrip("\n")
            is_start = not buffer
        start = 0
        while len(buffer) - start > 2 * DOCUMENT_CHARACTERS:
            end = _cut(buffer, start + DOCUMENT_CHARACTERS, start + 2 * DOCUMENT_CHARACTERS)
            yield buffer[start:end]
            start = end
        buffer = buffer[start:]
    yield buffer.rstrip("\n")


def _units(parts: Iterator[str], document: DocumentUnit) -> Iterator[str]:
    """The lines of a text, or what stands between its blank lines; what is too long for a document, in pieces."""
    unit, is_blank = "", True
    for part in parts:
        *ended, rest = part.split("\n")
        for fragment, is_end in (*((text, True) for text in ended), (rest, False)):
            unit += fragment
            is_blank = is_blank and (not fragment or fragment.isspace())
            while len(unit) > 2 * DOCUMENT_CHARACTERS:
                end = _cut(unit, DOCUMENT_CHARACTERS, 2 * DOCUMENT_CHARACTERS)
                yield unit[:end]
                unit = unit[end:]
            if is_end and document == "line":
                yield unit
                unit = ""
            elif is_end and is_blank:
                if before := unit.rpartition("\n")[0]:
                    yield before
                unit = ""
            elif is_end:
                unit += "\n"
            is_blank = is_blank or is_end
    if last := unit.rpartition("\n")[0] if is_blank else unit:
        yield last


def _cut(text: str, earliest: int, latest: int) -> int:
    """Where to cut: after blank lines, else after a line, else after a space, else at ``latest``."""
    blank = _BLANK_LINES.search(text, earliest, latest)
    if blank:
        return blank.end()
    return text.find("\n", earliest, latest) + 1 or text.find(" ", earliest, latest) + 1 or latest


# ---------------------------------------------------------------- from a source to its files


def _format(path: Path) -> str:
    """The suffix that says how to read it: ``.txt``, ``.md``, ``.jsonl``, ``.parquet``; "" for an unknown one."""
    suffix = suffix_of(path)
    return "." + suffix.split(".")[1] if suffix else ""


def _is_file_source(source: str) -> bool:
    path = expanded(source)
    return path.exists() or any(mark in source for mark in "*?[") or _format(path) != ""


def _find_files(source: str, skipped: Counter[str]) -> list[Path]:
    """The files of one source, as absolute paths in a fixed order; `skipped` counts what is not read, by kind."""
    path = expanded(source)
    known = ", ".join(KNOWN_SUFFIXES)
    here: Counter[str] = Counter()
    if path.is_dir():
        found = _files_below(path, here)
        if not found:
            raise UserError(
                f"the folder {source} has no file to read below it{_told(here)}; known suffixes are {known}"
            )
    elif path.exists():
        found = [path]
    elif any(mark in source for mark in "*?["):
        found = _files_that_match(path, here)
        if not found:
            raise UserError(
                f"no file matches {source!r}{_told(here)}; check the pattern and the working directory {Path.cwd()}"
            )
    else:
        raise UserError(f"there is no file {source}; check the path, relative to {Path.cwd()}")
    skipped.update(here)
    for file in found:
        if not _format(file):
            raise UserError(f"{file} has an unknown suffix; known are {known}")
        if not file.is_file():
            raise UserError(f"{file} is not a regular file; save it to disk first")
        if not os.access(file, os.R_OK):
            raise UserError(f"{file} cannot be read; check its permissions")
    return sorted(Path(os.path.abspath(file)) for file in found)  # not resolved: a link's name has the suffix


def _files_below(folder: Path, skipped: Counter[str]) -> list[Path]:
    """What a folder holds, at any depth, but for the results of verbs: a run among its texts must not change them.

    A link that leads out of it must be named itself: it may be anybody's.
    """

    def count_unreadable(_error: OSError) -> None:
        skipped[_UNREADABLE] += 1

    found = []
    for parent, folders, names in os.walk(folder, onerror=count_unreadable):
        if MANIFEST in names and Path(parent) != folder:
            skipped[_WRITTEN] += sum(len(below) for _, _, below in os.walk(parent))
            folders.clear()
            continue
        is_hidden = any(part.startswith(".") for part in Path(parent).relative_to(folder).parts)
        for name in folders:  # walked through, but for links
            if Path(parent, name).is_symlink() and not _is_below(Path(parent, name), folder):
                skipped[_ELSEWHERE] += 1
        for name in names:
            file = Path(parent, name)
            if is_hidden or name.startswith("."):
                skipped[_HIDDEN] += 1
            elif file.is_symlink() and not _is_below(file, folder):
                skipped[_ELSEWHERE] += 1
            elif not _format(file):
                skipped[_unknown_kind(file)] += 1
            elif not file.is_file() or not os.access(file, os.R_OK):
                skipped[_UNREADABLE] += 1
            else:
                found.append(file)
    return found


def _files_that_match(pattern: Path, skipped: Counter[str]) -> list[Path]:
    """What a glob names. Folders that are there as they are written are no patterns, whatever their names hold."""
    folder = Path(pattern.anchor)
    parts = list(pattern.parts[1:] if pattern.anchor else pattern.parts)
    while len(parts) > 1 and (folder / parts[0]).is_dir():
        folder /= parts.pop(0)
    found = []
    for name in glob.glob(os.path.join(glob.escape(str(folder)), *parts), recursive=True):
        match = Path(name)
        if match.is_dir():
            if "**" not in parts:
                skipped["folders"] += 1
        elif not _is_below(match.parent, folder):
            skipped[_ELSEWHERE] += 1
        elif "**" in parts and any((above / MANIFEST).exists() for above in _between(match, folder)):
            skipped[_WRITTEN] += 1
        else:
            found.append(match)
    return found


def _between(path: Path, folder: Path) -> Iterator[Path]:
    """The folders that a path lies in, up to a folder, which is left out."""
    return takewhile(lambda above: above != folder, path.parents)


def _is_below(path: Path, folder: Path) -> bool:
    """Whether a path leads into a folder, or to it, once links are followed."""
    target, inside = os.path.realpath(path), os.path.realpath(folder)
    return target == inside or target.startswith(os.path.join(inside, ""))


def _unknown_kind(file: Path) -> str:
    """What to call a file that is not read, by its suffix; a name can hold anything, a message should not."""
    end = "".join(file.suffixes[-2:] if file.suffix.lower() in DECOMPRESSORS else file.suffixes[-1:]).lower()
    return end if _PLAIN_SUFFIX.fullmatch(end) else "without suffix" if not end else "other suffixes"


def _tell(skipped: Counter[str]) -> str:
    """One line about what is not read, the commonest first."""
    ranked = sorted(skipped.items(), key=lambda kind: (-kind[1], kind[0]))
    kinds = [f"{kind} {number:,}" for kind, number in ranked[:_MOST_KINDS]]
    if len(ranked) > _MOST_KINDS:
        kinds.append(f"others {sum(number for _, number in ranked[_MOST_KINDS:]):,}")
    total = skipped.total()
    return f"{total:,} file{'s' if total > 1 else ''} skipped: {', '.join(kinds)}" if total else ""


def _told(skipped: Counter[str]) -> str:
    return f" ({_tell(skipped)})" if skipped else ""


def _labels(paths: Sequence[Path]) -> list[str]:
    """What a file's document ids begin with: its stem; where two are equal, the path below a common folder."""
    stems = [path.name[: -len(suffix_of(path))] for path in paths]
    if max(Counter(stems).values()) > 1:
        common = os.path.commonpath([path.parent for path in paths])
        stems = [path.relative_to(common).as_posix() for path in paths]
    return [stem.encode(errors="surrogateescape").decode(errors="backslashreplace") for stem in stems]


# ---------------------------------------------------------------- the Hub


class HubCorpus(Corpus):
    """The train split of a data set that ``datasets`` has opened."""

    def __init__(self, name: str, rows: Any, text_column: str, *, fingerprint: str) -> None:
        super().__init__(name, fingerprint, None)
        self.hub_id = name.partition(":")[0]
        self._rows_read = 0
        self._rows = rows
        self._text_column = text_column

    def _documents(self) -> Iterator[Document]:
        return self._read(0)

    def _read(self, rows_before: int) -> Iterator[Document]:
        """The documents of the rows, numbered after those before them."""
        rows = iter(self._rows)
        for number in count(rows_before + 1):
            try:
                row = next(rows, None)
            except Exception as error:  # no common base, as when it is opened
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
                raise UserError(
                    f"the data set {self.name} broke off at row {number:,} ({reason}); check the connection and retry"
                ) from error
            if row is None:
                return
            document = _row_document(row, self.name, number, f"{self.name}, row {number}", self._text_column)
            self.bytes_read += len(document.text.encode())
            self._rows_read = number
            yield document


class HubStream(HubCorpus):
    """A data set that is read without storing it; reading can continue from a position."""

    def __init__(self, name: str, rows: Any, text_column: str, *, fingerprint: str, pinned: str) -> None:
        """`pinned`: its name with the revision that is read, as `open_corpus` takes it."""
        super().__init__(name, rows, text_column, fingerprint=fingerprint)
        self.pinned = pinned

    def _documents(self) -> Iterator[Document]:
        return self.documents_after(None)

    def documents_after(self, position: dict[str, Any] | None) -> Iterator[Document]:
        """The documents after a position, also those without text; None is the start."""
        before = position or {"rows": 0, "state": None}
        self._rows.load_state_dict(before["state"])
        return self._read(before["rows"])

    def position(self) -> dict[str, Any]:
        """The place behind the document that was read last, as JSON can hold it."""
        return {"rows": self._rows_read, "state": self._rows.state_dict()}


def _open_hub_corpus(source: str, *, text_column: str, streaming: bool) -> HubCorpus:
    if not _HUB_NAME.fullmatch(source):
        raise UserError(
            f"{source!r} is neither a file or folder that exists nor the name of a Hub data set; check the path"
        )
    whole, _, asked = source.partition("@")
    name, _, config = whole.partition(":")
    revision = asked or None
    try:
        # A stream has no fingerprint of its own: the revision that the Hub names now is pinned, and stands for it.
        if streaming:
            revision = huggingface_hub.HfApi().dataset_info(name, revision=revision).sha
        rows = datasets.load_dataset(name, config or None, split="train", revision=revision, streaming=streaming)
    except (
        Exception
    ) as error:  # no common base: not found, gated, offline, no such config or split, HTTP of two libraries
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise UserError(
            f"{source!r} is neither a file or folder that exists nor a data set with a train split that can be reached "
            f"on the Hub ({reason}); check the name, the connection and HF_TOKEN, or give a file"
        ) from error
    columns = rows.column_names
    if columns is not None:  # some streams learn them from their rows
        if text_column not in columns:
            raise _missing_column(f"the data set {source}", text_column, columns)
        rows = rows.select_columns([column for column in columns if column in ("id", text_column)])
    origin = f"reader {READER_VERSION}\0{whole}\0{text_column}\0{revision if streaming else rows._fingerprint}"
    fingerprint = hashlib.blake2b(origin.encode(), digest_size=16).hexdigest()
    if streaming:
        return HubStream(whole, rows, text_column, fingerprint=fingerprint, pinned=f"{whole}@{revision}")
    return HubCorpus(whole, rows, text_column, fingerprint=fingerprint)
