"""Read columns of a table file, exactly as they are written there.

In: a file's path and the columns. Out: a `Table`. A cell of .csv and .tsv is text, whatever it looks like; values of
JSON and Parquet keep their types. No type is guessed, no row is left out, and nothing is cached: a row that does not
fit is an error that names its line.
"""

import io
import json
import logging
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from hf_minibert.data.bounded import (
    DECOMPRESSORS,
    MAX_ROW_BYTES,
    Expansion,
    check_row,
    damaged,
    decompressed,
    parquet_chunks,
    rows_at_once,
)
from hf_minibert.data.corpus import unique_keys
from hf_minibert.errors import UserError

logger = logging.getLogger(__name__)

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")

ROW_BYTES = 100
"""What a row takes in memory besides its values."""

_PIECE_BYTES = 1 << 20
_PARQUET_ROWS = 1_000


class MayLack(str):
    """The name of a column that a table need not have, but if it has, in every row; else the values are None."""


@dataclass(frozen=True)
class Table:
    """Columns of one split, as they are written."""

    name: str
    """The table's name in messages."""
    columns: Mapping[str, Sequence[Any]]
    numbers: Sequence[int]
    """The place of each row: its line in a text file, its number elsewhere."""
    unit: str = "row"
    """What `place` counts, in messages: `line` or `row`."""
    class_names: dict[str, list[str]] = field(default_factory=dict)
    """The class names of each column whose type says that it holds class ids."""

    def __len__(self) -> int:
        return len(self.numbers)

    def where(self, index: int) -> str:
        """The place of a row, for a message."""
        return f"{self.name}, {self.unit} {self.numbers[index]}"


def shown(value: Any) -> str:
    """A name as a message shows it: in one line, at most 60 characters, no control characters."""
    text = "".join(mark if mark.isprintable() else repr(mark)[1:-1] for mark in str(value)[:61])
    return text if len(text) <= 60 else f"{text[:59]}…"


def listed(names: Iterable[Any], limit: int = 10) -> str:
    """Names as a message lists them: the first ones, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - limit:,} more" if len(every) > limit else ""
    return (", ".join(map(shown, every[:limit])) or "none") + more


def read_file(path: Path, columns: Mapping[str, str]) -> Table:
    """Read the columns of one file.

    Raises:
        UserError: it is unreadable, or not a table with these columns; the message names the line.
    """
    with _reading(path) as suffix:
        reader = {".jsonl": _read_json, ".json": _read_json, ".parquet": _read_parquet}.get(suffix, _read_delimited)
        table = reader(path, columns, Expansion(path))
    if not len(table):
        raise UserError(f"{path} has no rows")
    return table


def column_names(path: Path) -> list[str]:
    """The names of a file's columns; of JSON, those of its first row.

    Raises:
        UserError: it is unreadable, or no table.
    """
    with _reading(path) as suffix:
        expansion = Expansion(path)
        if suffix == ".parquet":
            with _parquet(path, expansion) as source, pyarrow.parquet.ParquetFile(source) as file:
                return list(file.schema_arrow.names)
        if suffix in (".jsonl", ".json"):
            return list(next(_objects(path, expansion), (0, dict[str, Any]()))[1])
        records = _csv_records(path, expansion) if suffix == ".csv" else _tsv_records(path, expansion)
        return [cell.strip() for cell in next((cells for _, cells in records if cells), [])]


def table_files(sources: Sequence[str]) -> list[Path]:
    """The files that the user named, one by one or by a pattern, and those of a folder, by name; each once.

    Raises:
        UserError: there is no such file or folder, or none of its files is a table.
    """
    files: list[Path] = []
    for source in sources:
        path = Path(source)
        if not path.exists() and (matches := sorted(map(Path, glob(source, recursive=True)))):
            files += matches
            continue
        if not path.exists():
            raise UserError(f"dataset {source} does not exist; give a file or a folder of files")
        if path.is_dir():
            visible = (each for each in path.iterdir() if not each.name.startswith("."))
            found = sorted(each for each in visible if each.is_file() and format_of(each)[1] is not None)
            if not found:
                raise UserError(
                    f"the folder {source} has no table ({', '.join(SUFFIXES)}); it has "
                    f"{listed(sorted(each.name for each in path.iterdir()))}"
                )
            files += found
        else:
            files.append(path)
    return list({path.resolve(): path for path in files}.values())


def require_texts(table: Table, option: str, column: str, *, blank: bool = True) -> None:
    """Check that a column holds texts.

    Args:
        table: what holds it.
        option: the flag that names the column.
        column: its name.
        blank: whether a text may be empty, or spaces only.

    Raises:
        UserError: a cell is something else; it is named.
    """
    for index, value in enumerate(table.columns[column]):
        if not isinstance(value, str) or not (blank or value.strip()):
            what = "empty" if value is None or isinstance(value, str) else f"a {type(value).__name__}"
            raise UserError(f"{table.where(index)}: {column} is {what}, but must be text ({option})")


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The number and the text of each line of a file, which may be compressed.

    Raises:
        UserError: it is unreadable, empty, or not text in UTF-8.
    """
    with _file_errors(path):
        yield from _lines(path, Expansion(path))


@contextmanager
def _reading(path: Path) -> Iterator[str]:
    """The suffix of a file's format, in a block whose failures to read it become errors for people."""
    suffix = format_of(path)[1]
    if suffix is None:
        raise UserError(
            f"{path} is none of {', '.join(SUFFIXES)} (also compressed: {', '.join(DECOMPRESSORS)}); write it as one"
        )
    with _file_errors(path):
        yield suffix


@contextmanager
def _file_errors(path: Path) -> Iterator[None]:
    """A block whose failures to read a file become errors for people."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is not a regular file; save it to disk first")
    try:
        if path.stat().st_size == 0:
            raise UserError(f"{path} is empty")
        yield
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or shown(error)}") from error


def format_of(path: Path, suffixes: Sequence[str] = SUFFIXES) -> tuple[str, str | None]:
    """A file's name without the suffixes that say how to read it, and that of its format; None for an unknown one."""
    name = path.name.lower()
    name = name.removesuffix(next((end for end in DECOMPRESSORS if name.endswith(end)), ""))
    for suffix in suffixes:
        if name.endswith(suffix):
            return name.removesuffix(suffix), suffix
    return name, None


def missing_column(where: str, option: str, column: str, columns: Iterable[str], place: str = "") -> UserError:
    """The error for a column that is not there."""
    there_are = listed(name or "(no name)" for name in columns)
    return UserError(
        f"{where} has no column {column!r}; it has {there_are}{place} (name yours with --{option.partition(':')[0]})"
    )


# ---------------------------------------------------------------- files


class _Columns:
    """Gathers the asked columns row by row."""

    def __init__(self, path: Path, columns: Mapping[str, str], expansion: Expansion) -> None:
        self._path, self._expansion = path, expansion
        self._options = {name: option for option, name in columns.items()}
        self._values: dict[str, list[Any]] = {name: [] for name in self._options}
        self._lines = array("q")
        self._lacks: set[str] | None = None
        self._places: list[int | None] | None = None

    def add_object(self, line: int, row: dict[str, Any]) -> None:
        """Add a row that has names."""
        if self._lacks is None:
            self._lacks = {name for name in self._values if isinstance(name, MayLack) and name not in row}
        for name, values in self._values.items():
            if isinstance(name, MayLack) and (name in row) == (name in self._lacks):
                has, other = ("has", "lacks") if name in row else ("lacks", "has")
                raise UserError(
                    f"{self._path}, line {line} {has} {name!r}, which the first row {other}; give it to each, as null "
                    "where there is nothing to say, or to none"
                )
            if name not in row and name not in self._lacks:
                raise missing_column(f"{self._path}, line {line}", self._options[name], name, row)
            values.append(row.get(name))
        self._lines.append(line)
        self._expansion.add(ROW_BYTES)

    def add_cells(self, line: int, cells: list[str]) -> None:
        """Add a row of cells; the first one names the columns."""
        if self._places is None:
            names = [cell.strip() for cell in cells]
            for name, option in self._options.items():
                if name not in names and not isinstance(name, MayLack):
                    raise missing_column(str(self._path), option, name, names, " in its first line, which names them")
                if names.count(name) > 1:
                    raise UserError(f"{self._path} has two columns {name!r}; rename one in its first line")
            self._places = [names.index(name) if name in names else None for name in self._values]
            return
        for values, place in zip(self._values.values(), self._places, strict=True):
            values.append(None if place is None else cells[place])
        self._lines.append(line)
        self._expansion.add(ROW_BYTES)

    def table(self) -> Table:
        """All rows so far."""
        return Table(str(self._path), self._values, self._lines, "line")


def _pieces(path: Path, expansion: Expansion) -> Iterator[bytes]:
    """A file's bytes, decompressed, a bounded piece a time."""
    is_empty = True
    for block in decompressed(path, expansion):
        is_empty = False
        for start in range(0, len(block), _PIECE_BYTES):
            yield block[start : start + _PIECE_BYTES]
    if is_empty:
        raise UserError(f"{path} is empty once decompressed")


def _lines(path: Path, expansion: Expansion, *, end: bytes = b"\n") -> Iterator[tuple[int, str]]:
    """Each line's number and its text, without its end."""
    number, offset, size, parts = 1, 0, 0, list[bytes]()
    for piece in _pieces(path, expansion):
        *finished, rest = piece.split(end)
        for part in finished:
            parts.append(part)
            line = b"".join(parts)
            check_row(f"{path}, line {number}", len(line))
            yield number, _decode(path, line, offset, number)
            number, offset, size = number + 1, offset + len(line) + 1, 0
            parts.clear()
        parts.append(rest)
        size += len(rest)
        check_row(f"{path}, line {number}", size)
    if any(parts):
        yield number, _decode(path, b"".join(parts), offset, number)


def _decode(path: Path, block: bytes, offset: int, number: int) -> str:
    """The text of a block that begins at a byte and a line, and ends with a line."""
    place = block.find(b"\0")
    try:
        text = block.decode()
    except UnicodeDecodeError as error:
        number += block.count(b"\n", 0, error.start)
        raise UserError(
            f"{path}, line {number} is not UTF-8 at byte {offset + error.start:,} of the file "
            f"(0x{block[error.start]:02x}); convert it, for example with iconv -t UTF-8"
        ) from error
    if place >= 0:
        number += block.count(b"\n", 0, place)
        raise UserError(
            f"{path}, line {number} has a NUL at byte {offset + place:,} of the file, so it is not text in UTF-8; "
            "convert it, for example with iconv -t UTF-8"
        )
    return text.removeprefix("\ufeff") if offset == 0 else text


# ---------------------------------------------------------------- .csv and .tsv


def _read_delimited(path: Path, columns: Mapping[str, str], expansion: Expansion) -> Table:
    """Read cells as text: .csv as RFC 4180 says, .tsv without quoting."""
    is_csv = format_of(path)[1] == ".csv"
    gathered, header, blank = _Columns(path, columns, expansion), 0, 0
    for number, cells in _csv_records(path, expansion) if is_csv else _tsv_records(path, expansion):
        if not cells:
            blank = blank or number  # at the end of the file they are no rows
            continue
        if blank:
            raise UserError(f"{path}, line {blank} is blank; take it away, or quote a text that has line breaks")
        header = header or len(cells)
        if len(cells) != header:
            remedy = (
                "quote the text or use .tsv or .jsonl" if is_csv else "a .tsv has no quoting, so use .csv or .jsonl"
            )
            fields = "1 field" if len(cells) == 1 else f"{len(cells)} fields"
            raise UserError(f"{path}, line {number} has {fields}, the header {header}; {remedy}")
        gathered.add_cells(number, cells)
    if not header:
        raise UserError(f"{path} has blank lines only")
    return gathered.table()


def _line_end(path: Path) -> bytes:
    """What ends the first line: a line feed, perhaps after a carriage return, or a carriage return alone."""
    start = b""
    for piece in _pieces(path, Expansion(path)):
        start += piece
        if (found := re.search(rb"\n|\r(?!\n|\Z)", start)) or len(start) > MAX_ROW_BYTES:
            return found.group() if found else b"\n"
    return b"\n"


def _tsv_records(path: Path, expansion: Expansion) -> Iterator[tuple[int, list[str]]]:
    ending, quoted = "", 0
    for number, line in _lines(path, expansion, end=_line_end(path)):
        if number == 1 and line.endswith("\r"):
            ending = "\r"
        cells = line.removesuffix(ending).split("\t") if line.strip(" \r") else []
        quoted += sum(map(_is_quoted, cells)) if '"' in line else 0
        yield number, cells
    if quoted:
        logger.warning(
            "%s: %s look as pandas and Excel write quotes, around a text and doubled within it; in a .tsv file they "
            "count as text, as GLUE's files need it; if they are none, save the table as .csv or .jsonl",
            shown(path.name),
            "1 cell" if quoted == 1 else f"{quoted:,} cells",
        )


def _is_quoted(cell: str) -> bool:
    inner = cell[1:-1]
    return len(cell) > 3 and cell[0] == cell[-1] == '"' and '""' in inner and '"' not in inner.replace('""', "")


def _csv_records(path: Path, expansion: Expansion) -> Iterator[tuple[int, list[str]]]:
    """Cells of every record, none of a blank line, and the line where it begins.

    Rows end as the first line does, so that a carriage return in a text stays there, where what wrote the table has not
    quoted it.
    """
    end, ending = _line_end(path), ""
    lines = _lines(path, expansion, end=end)
    for number, line in lines:
        if number == 1 and line.endswith("\r"):
            ending = "\r"
        if '"' not in line:
            yield number, line.removesuffix(ending).split(",") if line.strip(" \r") else []
        else:
            yield number, _quoted_cells(path, number, line, lines, end.decode(), ending)


def _quoted_cells(
    path: Path, number: int, line: str, lines: Iterator[tuple[int, str]], end: str, ending: str
) -> list[str]:
    """The cells of a record with quotes, which goes on in the next lines where a quoted cell has line breaks."""
    cells, place, begins = list[str](), 0, number
    while True:
        if not line.startswith('"', place):
            comma = line.find(",", place)
            cell = line[place:comma] if comma >= 0 else line[place:].removesuffix(ending)
            if cell.lstrip().startswith('"'):
                raise UserError(
                    f"{path}, line {number} has a space before a quote; a quoted cell begins with its quote"
                )
            cells.append(cell)
            if comma < 0:
                return cells
            place = comma + 1
            continue
        opened, parts, size = number, list[str](), 0
        place += 1
        while True:
            close = line.find('"', place)
            if close >= 0:
                parts.append(line[place:close])
                place = close + 1
                if not line.startswith('"', place):
                    break
                parts.append('"')
                place += 1
                continue
            parts += (line[place:], end)
            size += len(parts[-2]) + 1
            check_row(f"{path}, line {begins}, where a quote begins on line {opened},", size)
            number, line = next(lines, (0, ""))
            if not number:
                raise UserError(f"{path}, line {opened} begins a quote that nothing ends; add the missing quote")
            place = 0
        cells.append("".join(parts))
        if line[place:] in ("", "\r"):
            return cells
        if line[place] != ",":
            raise UserError(
                f"{path}, line {number} has text after the quote that ends a cell; double a quote within quoted text"
            )
        place += 1


# ---------------------------------------------------------------- .jsonl and .json


def _read_json(path: Path, columns: Mapping[str, str], expansion: Expansion) -> Table:
    """Read an object a line or, of a .json, one list of objects, which may be the `data` of one object."""
    gathered = _Columns(path, columns, expansion)
    for line, row in _objects(path, expansion):
        gathered.add_object(line, row)
    return gathered.table()


def _objects(path: Path, expansion: Expansion) -> Iterator[tuple[int, dict[str, Any]]]:
    if format_of(path)[1] == ".jsonl":
        return _line_objects(path, _lines(path, expansion))
    text = _decode(path, b"".join(_pieces(path, expansion)), 0, 1)  # all of it at once, since a list may be one line
    if text.lstrip().startswith("["):
        return _list_items(path, text)
    if (place := _place_of_data(path, text)) is not None:
        return _list_items(path, text, place, is_part=True)
    return _line_objects(path, enumerate(text.split("\n"), start=1))


_SPACE = re.compile(r"[ \t\r\n]*")


def _place_of_data(path: Path, text: str) -> int | None:
    """Where the rows begin in a .json that is one object, as SQuAD's files are: the list under its own key `data`.

    None if it is something else; it is then read by line, which says what is wrong.
    """

    def after_space(place: int) -> int:
        found = _SPACE.match(text, place)
        assert found is not None  # it matches nothing, too
        return found.end()

    decode, places = json.JSONDecoder().raw_decode, list[tuple[Any, int]]()
    place, mark = after_space(0), "{"
    try:
        while text[place] == mark:
            name, place = decode(text, after_space(place + 1))
            if text[place := after_space(place)] != ":":
                return None
            places.append((name, after_space(place + 1)))
            place, mark = after_space(decode(text, places[-1][1])[1]), ","
        is_whole = text[place] == "}" and after_space(place + 1) == len(text)
    except (IndexError, ValueError, RecursionError):
        return None
    found = [at for name, at in places if name == "data" and text[at] == "["]
    if len(found) > 1:
        raise UserError(f"{path} has the key 'data' twice; take one away")
    return found[0] if found and is_whole else None


def _line_objects(path: Path, lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, dict[str, Any]]]:
    decoder = _Decoder(path, "write one object a line")
    for number, line in lines:
        text = line.strip()
        if text:
            row, end = decoder.object_at(text, 0, number)
            if end != len(text):
                raise decoder.wrong(number, f"more after the object, at column {end + 1}")
            yield number, row


_BETWEEN = re.compile(r"[ \t\r\n]*([\[\],]?)[ \t\r\n]*")


def _list_items(
    path: Path, text: str, place: int = 0, *, is_part: bool = False
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a list, one a time, and the line that each begins on; `is_part`: more follows the list."""
    decoder = _Decoder(path, "a .json file is one list of objects, or one object a line")
    line, expected = 1 + text.count("\n", 0, place), "["
    while expected:
        between = _BETWEEN.match(text, place)
        assert between is not None  # it matches nothing, too
        line += text.count("\n", place, between.end())
        place, mark = between.end(), between[1]
        if not mark or mark not in expected:
            found = repr(mark or text[place]) if mark or place < len(text) else "the end"
            raise decoder.wrong(line, f"{found} where {' or '.join(expected)} is due")
        if mark == "]":
            expected = ""
        elif mark == "[" and text.startswith("]", place):
            expected = "]"
        else:
            row, end = decoder.object_at(text, place, line)
            yield line, row
            line, place, expected = line + text.count("\n", place, end), end, ",]"
    if place < len(text) and not is_part:
        raise decoder.wrong(line, "more after the list")


class _Decoder:
    """Decodes objects, of which a key twice, and half a character, are mistakes."""

    def __init__(self, path: Path, rule: str) -> None:
        self._path, self._rule = path, rule
        self._decode = json.JSONDecoder(object_pairs_hook=unique_keys).raw_decode

    def wrong(self, line: int, reason: str) -> UserError:
        return UserError(f"{self._path}, line {line} is not valid JSON ({reason}); {self._rule}")

    def object_at(self, text: str, place: int, line: int) -> tuple[dict[str, Any], int]:
        """The object that begins at a place, and where it ends."""
        try:
            row, end = self._decode(text, place)
        except RecursionError as error:
            raise self.wrong(line, "it is nested too deep") from error
        except json.JSONDecodeError as error:
            more = text.count("\n", place, error.pos)
            raise self.wrong(line + more, f"{error.msg.removesuffix(' at')} at column {error.colno}") from error
        except ValueError as error:  # a key twice, a number of thousands of digits
            raise self.wrong(line, shown(error)) from error
        if not isinstance(row, dict):
            raise UserError(f"{self._path}, line {line} is a {type(row).__name__}, not an object; {self._rule}")
        if re.search(r"\\u[dD][89a-fA-F]", text[place:end]):
            _check_surrogates(row, f"{self._path}, line {line}")
        return row, end


def _check_surrogates(row: dict[str, Any], where: str) -> None:
    for name, value in row.items():
        try:
            json.dumps([name, value], ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(error.object[error.start]):04x}"
            raise UserError(
                f"{where}: {shown(ascii(name))} has {half}, half of a character that takes two; remove it"
            ) from error


# ---------------------------------------------------------------- .parquet


def _read_parquet(path: Path, columns: Mapping[str, str], expansion: Expansion) -> Table:
    with _parquet(path, expansion) as source:
        with pyarrow.parquet.ParquetFile(source) as file:
            schema = file.schema_arrow
            lacks = {name for name in columns.values() if name not in schema.names and isinstance(name, MayLack)}
            names = [name for name in dict.fromkeys(columns.values()) if name not in lacks]
            chunks = parquet_chunks(source, file.metadata, names)
        for option, column in columns.items():
            if column not in schema.names and column not in lacks:
                raise missing_column(str(path), option, column, schema.names)
            if schema.names.count(column) > 1:
                raise UserError(f"{path} has two columns {column!r}; rename one")
        # As dictionaries, so that a text that stands in many rows is in memory once; pyarrow makes none of deltas.
        deltas = {chunk.column for chunk in chunks if chunk.is_delta}
        texts = [name for name in names if _is_bytes(schema.field(name).type) and name not in deltas]
        with pyarrow.parquet.ParquetFile(source, read_dictionary=texts) as file:
            metadata = file.metadata
            Expansion(path).add(metadata.num_rows * ROW_BYTES + sum(chunk.num_bytes for chunk in chunks))
            values: dict[str, list[Any]] = {name: [] for name in names}
            for batch in file.iter_batches(batch_size=rows_at_once(chunks, _PARQUET_ROWS), columns=names):
                for name in names:
                    values[name] += _values_of(batch.column(name), expansion)
                expansion.add(ROW_BYTES * batch.num_rows)
    values |= {name: [None] * metadata.num_rows for name in lacks}
    class_names = _class_names(path, schema, names)
    return Table(str(path), values, range(1, metadata.num_rows + 1), class_names=class_names)


@contextmanager
def _parquet(path: Path, expansion: Expansion) -> Iterator[Path | io.BytesIO]:
    """What pyarrow opens, in a block whose failures to understand it become errors for people."""
    is_compressed = path.suffix.lower() in DECOMPRESSORS
    try:
        yield io.BytesIO(b"".join(_pieces(path, expansion))) if is_compressed else path
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise damaged(path, error) from error


def _is_bytes(kind: pyarrow.DataType) -> bool:
    """Whether values are of any length, which Parquet can hold as a dictionary."""
    return kind in (pyarrow.string(), pyarrow.large_string(), pyarrow.binary(), pyarrow.large_binary())


def _values_of(column: pyarrow.Array, expansion: Expansion) -> list[Any]:
    """A batch's values as Python has them."""
    if not pyarrow.types.is_dictionary(column.type):
        expansion.add(column.nbytes)
        return shortest(list(column.to_pylist()), column.type)
    used = column.indices.unique()  # the dictionary is that of many batches
    values = dict(zip(used.to_pylist(), column.dictionary.take(used).to_pylist(), strict=True))
    batch = [values[place] for place in column.indices.to_pylist()]
    expansion.add(sum(len(value) if isinstance(value, str | bytes) else 8 for value in batch))
    return batch


def shortest(values: list[Any], kind: pyarrow.DataType) -> list[Any]:
    """Numbers of half or single precision in the fewest digits that name them: 0.1, not 0.10000000149."""
    if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind) or pyarrow.types.is_fixed_size_list(kind):
        return [value if value is None else shortest(value, kind.value_type) for value in values]
    precision = {pyarrow.float16(): np.float16, pyarrow.float32(): np.float32}.get(kind)
    if precision is None:
        return values
    return [value if value is None else float(str(precision(value))) for value in values]


def _class_names(path: Path, schema: pyarrow.Schema, names: list[str]) -> dict[str, list[str]]:
    """What class ids mean, as `datasets` writes it beside a schema."""
    written = (schema.metadata or {}).get(b"huggingface")
    if written is None:
        return {}
    try:
        features = json.loads(written)["info"]["features"]
        described = {name: features[name] for name in names if name in features}
        # Of a list of class ids, those of its items.
        items = {
            name: feature.get("feature", feature) if isinstance(feature, dict) else feature
            for name, feature in described.items()
        }
        found = {
            name: feature["names"]
            for name, feature in items.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
        for labels in found.values():
            if not all(isinstance(label, str) for label in labels):
                raise TypeError(f"names {labels!r}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path} says of its columns what `datasets` does not write ({shown(repr(error))}); write it again"
        ) from error
    return found
