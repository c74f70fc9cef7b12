"""How large the pages of a Parquet file are once unpacked.

pyarrow shows what the end of a file says of its columns. It unpacks as much as each page's own header says, which may
be more. The headers are in Thrift's compact protocol (https://github.com/apache/thrift, thrift-compact-protocol.md);
their fields are in parquet.thrift of https://github.com/apache/parquet-format.
"""

from typing import Any, BinaryIO

from pyarrow import ArrowInvalid

_UNPACKED, _PACKED, _VALUES = 2, 3, 1  # numbers of fields: of a page header, and of the header of its values
_DATA, _DICTIONARY, _DATA_V2 = 5, 7, 8
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 12
_INTEGERS = (4, 5, 6)
_DEEPEST, _MOST_ITEMS, _MOST_BYTES = 8, 1_000, 1 << 31


def unpacked_size(file: BinaryIO, chunk: Any) -> int:
    """The bytes that the pages of a column's piece take once unpacked, by their headers.

    Args:
        file: the file, in which this moves around.
        chunk: a `pyarrow.parquet.ColumnChunkMetaData` of it.

    Raises:
        ArrowInvalid: a header is damaged.
    """
    start = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < start:
        start = chunk.dictionary_page_offset
    if start < 0:
        raise ArrowInvalid("a page before the start of the file")
    file.seek(start)
    size, values = 0, 0
    while values < chunk.num_values and file.tell() < start + chunk.total_compressed_size:
        header = _struct(file)
        unpacked, packed = header.get(_UNPACKED), header.get(_PACKED)
        if not (isinstance(unpacked, int) and isinstance(packed, int) and unpacked >= 0 and packed >= 0):
            raise ArrowInvalid("a page without a size")
        size += unpacked
        for field in (_DATA, _DATA_V2):
            if isinstance(described := header.get(field), dict):
                values += int(described.get(_VALUES) or 0)
        if isinstance(described := header.get(_DICTIONARY), dict):
            size += 8 * int(described.get(_VALUES) or 0)
        _skip(file, packed)
    return size


def _skip(file: BinaryIO, num_bytes: int) -> None:
    if num_bytes > _MOST_BYTES:
        raise ArrowInvalid("a page that is longer than a page can be")
    file.seek(num_bytes, 1)


def _struct(file: BinaryIO, depth: int = 0) -> dict[int, Any]:
    """The fields of a struct, by their numbers: whole numbers and structs as they are, other values as None."""
    if depth > _DEEPEST:
        raise ArrowInvalid("a page header that is nested too deep")
    fields, number = dict[int, Any](), 0
    while first := _byte(file):
        number = number + (first >> 4) if first >> 4 else _integer(file)
        fields[number] = _value(file, first & 15, depth)
    return fields


def _value(file: BinaryIO, kind: int, depth: int) -> Any:
    if kind in _INTEGERS:
        return _integer(file)
    if kind == _STRUCT:
        return _struct(file, depth + 1)
    if kind in (_LIST, _SET):
        first = _byte(file)
        length = first >> 4 if first >> 4 < 15 else _natural(file)
        if length > _MOST_ITEMS:
            raise ArrowInvalid("a page header with a list that is too long")
        for _ in range(length):
            _value(file, _BYTE if first & 15 in (_TRUE, _FALSE) else first & 15, depth + 1)
    elif kind in (_BYTE, _DOUBLE, _BINARY):
        _skip(file, {_BYTE: 1, _DOUBLE: 8}.get(kind) or _natural(file))
    elif kind not in (_TRUE, _FALSE):
        raise ArrowInvalid("a page header that is none")
    return None


def _integer(file: BinaryIO) -> int:
    number = _natural(file)
    return (number >> 1) ^ -(number & 1)


def _natural(file: BinaryIO) -> int:
    number = 0
    for shift in range(0, 70, 7):
        byte = _byte(file)
        number |= (byte & 127) << shift
        if byte < 128:
            return number
    raise ArrowInvalid("a number in a page header that does not end")


def _byte(file: BinaryIO) -> int:
    if not (byte := file.read(1)):
        raise ArrowInvalid("it ends in a page header")
    return byte[0]
