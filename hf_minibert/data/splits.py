"""Find the tables for training, evaluation and test in a file, in a folder or on the Hub.

In: what the user names, and the columns that a task asks for. Out: a `Table` for every split, and what was not read.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import datasets
from datasets import ClassLabel, Dataset

from hf_minibert.data.bounded import DECOMPRESSORS
from hf_minibert.data.documents import is_held_out
from hf_minibert.data.sources import as_path
from hf_minibert.data.tables import (
    SUFFIXES,
    Table,
    column_names,
    format_of,
    listed,
    missing_column,
    read_file,
    shortest,
)
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
    columns: Mapping[str, str] = field(default_factory=dict)
    """The columns, each under the name of the option that names it."""


Choice = Callable[[Sequence[str], str], Mapping[str, str]]
"""Chooses columns, each for the option that names it, from those of a table, whose name it takes for messages."""


def choose_column(there: Sequence[str], where: str, option: str, usual: Sequence[str]) -> str:
    """The column that a user need not name: the usual one, or else the only one with another usual name.

    Args:
        there: the columns of the table.
        where: its name, for messages.
        option: the option that would name the column.
        usual: what such columns are called, in any case; the first name goes before the others.

    Raises:
        UserError: there is none, or more than one.
    """
    named = [name for name in there if name.lower() in usual]
    first = [name for name in named if name.lower() == usual[0]]
    found = first or named
    if not found:
        raise missing_column(where, option, usual[0], there)
    if len(found) > 1 and len(set(found)) == 1:
        raise UserError(f"{where} has two columns {found[0]!r}; rename one")
    if len(found) > 1:
        raise UserError(f"{where} has the columns {listed(found)}; say which one with --{option}")
    return found[0]


def held_out(texts: Sequence[str], source: str, *, fraction: float = 0.1) -> list[bool]:
    """Which examples to hold out where there is no evaluation split: by the hash of a text, so copies stay together.

    Raises:
        UserError: all or none would be; the message names `source`.
    """
    chosen = [is_held_out(text, fraction) for text in texts]
    if all(chosen) or not any(chosen):
        raise UserError(
            f"{source} has {len(texts):,} texts, {len(set(texts)):,} of them different: too few different ones to hold "
            "some out (copies of a text stay together); give an evaluation split"
        )
    return chosen


def read_source(
    source: str,
    columns: Mapping[str, str] | Choice,
    *,
    eval_source: str | None = None,
    test_source: str | None = None,
) -> Source:
    """Read the columns of every split.

    Args:
        source: a file (.jsonl .json .csv .tsv .parquet, also compressed), a folder with files named after their splits,
            or the name of a data set on the Hub, as NAME or NAME:CONFIG.
        columns: the columns, each under the name of the option that the user names it with; or what chooses them.
        eval_source: a file for the evaluation split, in place of the source's own.
        test_source: a file for the test split, in place of the source's own.

    Raises:
        UserError: something is missing, unreadable, or not a table with these columns.
    """
    path, hub_id, not_read = as_path(source), None, list[str]()
    given = named(eval_source, test_source)
    if path.exists():
        files = {"train": path}
        if path.is_dir():
            files, not_read = split_files(path)
        if callable(columns):
            columns = columns(column_names(files["train"]), str(files["train"]))
        not_read += [files.pop(split).name for split in given if split in files]
        tables = {split: read_file(file, columns) for split, file in files.items()}
    elif path.suffix.lower() in (*SUFFIXES, *DECOMPRESSORS) or not _HUB_NAME.fullmatch(source):
        raise UserError(f"dataset {source} does not exist; give a file, a folder, or the name of a data set on the Hub")
    else:
        hub_id = source.partition(":")[0]
        loaded, not_read = read_hub(source)
        if callable(columns):
            own, rows = loaded["train"]
            columns = columns(rows.column_names, f"the {own} split of {source}")
        not_read += [loaded.pop(split)[0] for split in given if split in loaded]
        tables = {
            split: table_of(rows, f"the {own} split of {source}", columns) for split, (own, rows) in loaded.items()
        }
    for split, file in given.items():
        tables[split] = read_extra_file(file, columns, f"{split}_dataset")
    return Source(tables, hub_id, not_read, columns)


def named(eval_source: str | None, test_source: str | None) -> dict[str, str]:
    """What the user names beside the source, by its split."""
    return {split: file for split, file in (("eval", eval_source), ("test", test_source)) if file is not None}


def read_extra_file(source: str, columns: Mapping[str, str], option: str) -> Table:
    """Read the columns of a file that is named beside the source, by an option.

    Raises:
        UserError: it is no file, unreadable, or not a table with these columns.
    """
    path = as_path(source)
    if not path.is_file():
        raise UserError(f"{option} {source} is not a file")
    return read_file(path, columns)


def table_of(rows: Dataset, name: str, columns: Mapping[str, str]) -> Table:
    """The columns of a data set that `datasets` has opened."""
    for option, column in columns.items():
        if column not in rows.column_names:
            raise missing_column(name, option, column, rows.column_names)
    if not len(rows):
        raise UserError(f"{name} has no rows")
    features = {column: rows.features[column] for column in columns.values()}
    items = {column: getattr(feature, "feature", feature) for column, feature in features.items()}  # of lists
    names = {column: item.names for column, item in items.items() if isinstance(item, ClassLabel)}
    kinds = rows.features.arrow_schema
    values = {column: shortest(list(rows[column]), kinds.field(column).type) for column in columns.values()}
    return Table(name, values, range(1, len(rows) + 1), class_names=names)


def _split_of(name: str) -> str | None:
    return next((split for split, names in SPLITS.items() if name.lower() in names), None)


def split_files(folder: Path, suffixes: Sequence[str] = SUFFIXES) -> tuple[dict[str, Path], list[str]]:
    """The file of each split, by its name, and the names of all others.

    Args:
        folder: to look in.
        suffixes: those of the files that count, without that of a compression.

    Raises:
        UserError: there are two files for a split, or none for training.
    """
    files, not_read = dict[str, Path](), list[str]()
    for path in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
        stem, suffix = format_of(path, suffixes)
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
        named = ", ".join(f"train{suffix}" for suffix in suffixes[:3:2])
        raise UserError(
            f"the folder {folder} has no training file ({named}, ...); beside that, it "
            f"has {listed([*not_read, *(path.name for path in files.values())])}"
        )
    return files, not_read


def read_hub(name: str) -> tuple[dict[str, tuple[str, Dataset]], list[str]]:
    """The splits of a data set on the Hub, each with its own name, and the names of all others.

    Raises:
        UserError: there is no such data set, or it has two splits for one, or none for training.
    """
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
    return {split: (own, loaded[own]) for split, own in found.items()}, not_read
