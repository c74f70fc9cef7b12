"""Find the tables for training, evaluation and test in a file, in a folder or on the Hub.

In: what the user names, and the columns that a task asks for. Out: a `Table` for every split, and what was not read.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import datasets
from datasets import ClassLabel, Dataset

from hf_minibert.data.corpus import DECOMPRESSORS
from hf_minibert.data.tables import SUFFIXES, Table, format_of, listed, missing_column, read_file, shown
from hf_minibert.errors import UserError

SPLITS = {"train": ("train",), "eval": ("validation", "valid", "dev", "val"), "test": ("test",)}
"""The names of each split: of its file in a folder, without suffixes and in any case, or on the Hub."""
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?(:[\w.+-]+)?")


@dataclass(frozen=True)
class Source:
    """What the user named, read: a table for `train` and perhaps for `eval` and `test`."""

    tables: dict[str, Table]
    hub_id: str | None
    """The data set's name on the Hub, if it came from there."""
    not_read: list[str]
    """Files or splits beside those that were read."""


def read_source(source: str, columns: Mapping[str, str], *, test_source: str | None = None) -> Source:
    """Read the columns of every split.

    Args:
        source: a file (.jsonl .json .csv .tsv .parquet, also compressed), a folder with files named after their splits,
            or the name of a data set on the Hub, as NAME or NAME:CONFIG.
        columns: the columns, each under the name of the option that the user names it with.
        test_source: a file for the test split, in place of the source's own.

    Raises:
        UserError: something is missing, unreadable, or not a table with these columns.
    """
    path, hub_id, not_read = Path(source), None, list[str]()
    test = None if test_source is None else read_test_file(test_source, columns)
    if _is_there(path):
        files = {"train": path}
        if path.is_dir():
            files, not_read = _split_files(path)
        if test is not None and "test" in files:
            not_read.append(files.pop("test").name)
        tables = {split: read_file(file, columns) for split, file in files.items()}
    elif path.suffix.lower() in (*SUFFIXES, *DECOMPRESSORS) or not _HUB_NAME.fullmatch(source):
        raise UserError(f"dataset {source} does not exist; give a file, a folder, or the name of a data set on the Hub")
    else:
        hub_id = source.partition(":")[0]
        tables, not_read = _read_hub(source, columns)
        if test is not None and tables.pop("test", None) is not None:
            not_read.append("test")
    if test is not None:
        tables["test"] = test
    return Source(tables, hub_id, not_read)


def read_test_file(source: str, columns: Mapping[str, str]) -> Table:
    """Read the columns of a file that is named beside the source.

    Raises:
        UserError: it is no file, unreadable, or not a table with these columns.
    """
    if not (_is_there(Path(source)) and Path(source).is_file()):
        raise UserError(f"test_dataset {source} is not a file")
    return read_file(Path(source), columns)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # a name that is too long, a folder that is closed
        raise UserError(f"cannot read {shown(path)}: {error.strerror}; check the path") from error


def table_of(rows: Dataset, name: str, columns: Mapping[str, str]) -> Table:
    """The columns of a data set that `datasets` has opened."""
    for option, column in columns.items():
        if column not in rows.column_names:
            raise missing_column(name, option, column, rows.column_names)
    if not len(rows):
        raise UserError(f"{name} has no rows")
    features = {column: rows.features[column] for column in columns.values()}
    names = {column: feature.names for column, feature in features.items() if isinstance(feature, ClassLabel)}
    values = {column: list(rows[column]) for column in columns.values()}
    return Table(name, values, range(1, len(rows) + 1), class_names=names)


def _split_of(name: str) -> str | None:
    return next((split for split, names in SPLITS.items() if name.lower() in names), None)


def _split_files(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """The file of each split, by its name, and the names of all others."""
    files, not_read = dict[str, Path](), list[str]()
    for path in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
        stem, suffix = format_of(path)
        split = _split_of(stem)
        if suffix is None or split is None or path.is_dir():
            not_read.append(path.name + "/" * path.is_dir())
        elif split in files:
            raise UserError(
                f"{folder} has two files for one split, {files[split].name} and {path.name}; take one away or rename it"
            )
        else:
            files[split] = path
    if "train" not in files:
        raise UserError(
            f"the folder {folder} has no training file (train.jsonl, train.csv, ...); beside that, it has "
            f"{listed([*not_read, *(path.name for path in files.values())])}"
        )
    return files, not_read


def _read_hub(name: str, columns: Mapping[str, str]) -> tuple[dict[str, Table], list[str]]:
    path, _, config = name.partition(":")
    try:
        loaded = datasets.load_dataset(path, config or None)
    except Exception as error:  # no common base: not found, no such config, HTTP of two libraries
        reason = " ".join(str(error).split())
        raise UserError(f"dataset {name!r} is neither a path nor a data set that the Hub gives: {reason}") from error
    found, not_read = dict[str, str](), list[str]()
    for each in loaded:
        split = _split_of(each)
        if split is None:
            not_read.append(each)
        elif split in found:
            raise UserError(f"dataset {name!r} has two splits for one, {found[split]} and {each}; save one as a file")
        else:
            found[split] = each
    if "train" not in found:
        raise UserError(f"dataset {name!r} has no train split; it has {listed(loaded)}")
    tables = {split: table_of(loaded[own], f"the {own} split of {name}", columns) for split, own in found.items()}
    return tables, not_read
