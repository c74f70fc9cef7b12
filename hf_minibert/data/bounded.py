"""Read files in bounded pieces: a few bytes can be made to fill the memory, and no text is packed so well.

The bounds are the same for a corpus and for a labelled table.
"""

import io
import lzma
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from hf_minibert.data.pages import unpacked_size
from hf_minibert.errors import UserError
from hf_minibert.files import shown

MAX_ROW_BYTES = 64 << 20
"""The largest row or line, since memory holds whole rows; a thick book has 5 MB."""
MAX_EXPANSION = 100
MAX_EXPANDED_BYTES = 256 << 20
"""A file that holds more than this, and more than so many times its own size, is refused; compressed, what people write
keeps a tenth of its size or more."""

READ_BYTES = 1 << 16
DECOMPRESSED_BYTES = 1 << 20
COMPRESSED_STEP = 1 << 10
"""Bytes that a decompressor gets at a time: zstd makes up to 32 MB of them, the others less."""

DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    ".gz": lambda: zlib.decompressobj(wbits=31),
    ".xz": lambda: lzma.LZMADecompressor(),
    ".zst": lambda: zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj(),
}
_DELTAS = {"DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY"}


class Expansion:
    """Counts the bytes that a file turns into, and refuses what no text would."""

    def __init__(self, path: Path) -> None:
        self.path, self.taken = path, 0
        self.limit = max(MAX_EXPANDED_BYTES, MAX_EXPANSION * path.stat().st_size)

    def add(self, num_bytes: int) -> None:
        """Count bytes.

        Raises:
            UserError: that is too much.
        """
        self.taken += num_bytes
        if self.taken > self.limit:
            raise UserError(
                f"{self.path} expands to more than {self.limit >> 20:,} MiB, over {MAX_EXPANSION} times its size; no "
                "text does, so it is not read on. If it is one, decompress it or write it as .jsonl"
            )


def check_row(where: str, num_bytes: int) -> None:
    """Refuse a row that is too long.

    Raises:
        UserError: it is.
    """
    if num_bytes > MAX_ROW_BYTES:
        raise UserError(f"{where} is longer than {MAX_ROW_BYTES >> 20} MiB, the most for a row; cut it into several")


def damaged(path: Path, error: Exception) -> UserError:
    """The error for a file that its format's library does not understand."""
    reason = shown(" ".join(str(error).split())[:200]) or type(error).__name__
    return UserError(f"{path} is damaged or not what its suffix says ({reason}); fetch or write it again")


def decompressed(path: Path, expansion: Expansion, count: Callable[[int], None] = lambda _: None) -> Iterator[bytes]:
    """A file's bytes, decompressed as its suffix says, in pieces; ``count`` is told how many were read from disk.

    Raises:
        UserError: a compressed file is damaged, ends in the middle, or holds more than it may.
    """
    with path.open("rb") as file:
        for block in _decompressed(path, file, count):
            expansion.add(len(block))
            if block:
                yield block


def _decompressed(path: Path, file: BinaryIO, count: Callable[[int], None]) -> Iterator[bytes]:
    make = DECOMPRESSORS.get(path.suffix.lower())
    if make is None:
        while data := file.read(READ_BYTES):
            count(len(data))
            yield data
        return
    decompressor, parts, waiting = make(), list[bytes](), 0
    while data := file.read(READ_BYTES):
        count(len(data))
        for start in range(0, len(data), COMPRESSED_STEP):
            step = data[start : start + COMPRESSED_STEP]
            while step:
                if decompressor.eof:  # several streams in a row are one file; zeros between them are padding
                    step = step.lstrip(b"\0")
                    if not step:
                        break
                    decompressor = make()
                try:
                    parts.append(decompressor.decompress(step))
                except (zlib.error, lzma.LZMAError, zstandard.ZstdError) as error:
                    raise damaged(path, error) from error
                waiting += len(parts[-1])
                step = decompressor.unused_data if decompressor.eof else b""
            if waiting >= DECOMPRESSED_BYTES:
                yield b"".join(parts)
                parts, waiting = [], 0
        yield b"".join(parts)
        parts, waiting = [], 0
    if not decompressor.eof:
        raise damaged(path, EOFError("it ends in the middle"))


# ---------------------------------------------------------------- Parquet


@dataclass(frozen=True)
class Chunk:
    """A stored piece of a column."""

    column: str
    num_bytes: int
    """What it takes unpacked: by the file's list of pieces or by the pieces themselves, whichever says more."""
    repeats: bool
    """Whether few stored bytes stand for many long values."""
    is_delta: bool
    """Whether texts are stored as what is new since the text before, so that each may be as long as the whole piece."""


def parquet_chunks(source: Path | io.BytesIO, metadata: Any, names: Sequence[str]) -> list[Chunk]:
    """The pieces of some columns of a Parquet file.

    Args:
        source: the file.
        metadata: what `pyarrow.parquet.ParquetFile` says of it.
        names: the columns.

    Raises:
        ArrowInvalid: it is damaged.
    """
    chunks = []
    file = source.open("rb") if isinstance(source, Path) else source
    try:
        for group in range(metadata.num_row_groups):
            for index in range(metadata.num_columns):
                stored = metadata.row_group(group).column(index)
                if (name := stored.path_in_schema.split(".")[0]) in names:
                    size = max(stored.total_uncompressed_size, 8 * stored.num_values, unpacked_size(file, stored))
                    repeats = size > 100 * stored.total_compressed_size
                    chunks.append(Chunk(name, size, repeats, bool(_DELTAS & set(stored.encodings))))
    finally:
        if isinstance(source, Path):
            file.close()
    return chunks


def rows_at_once(chunks: Sequence[Chunk], most: int) -> int:
    """How many rows a batch may have, so that texts stored in deltas fit the bound."""
    largest = max((chunk.num_bytes for chunk in chunks if chunk.is_delta), default=1)
    return max(1, min(most, MAX_EXPANDED_BYTES // max(largest, 1)))
