"""Find the tables for training, evaluation and test in a file, in a folder or on the Hub.

In: what the user names, and the columns that a task asks for. Out: a `Table` for every split, and what was not read.
"""

import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import datasets
from datasets import ClassLabel, Dataset

from hf_minibert.data.bounded import DECOMPRESSORS
from hf_minibert.data.documents import document_hash, is_held_out
from hf_minibert.data.sources import as_path
from hf_minibert.data.tables import (
    SUFFIXES,
    MayLack,
    Table,
    column_names,
    format_of,
    listed,
    missing_column,
    read_file,
    shortest,
)
from hf_minibert.errors import UserError

logger = logging.getLogger(__name__)

SPLITS = {"train": ("train",), "eval": ("validation", "valid", "dev", "val", "eval"), "test": ("test",)}
"""The names of each split: of its file in a folder, without suffixes and in any case, or on the Hub."""
SPARE = "eval"
"""The name that counts only where a split has no other."""
SECRET = ("label_column", "answers_column")
"""The options of columns that test splits often come without."""
_PART = re.compile(r"(.*[._-])(?:part(?:[._-]\w+|\d+)|\d+-of-(\d+))")
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
    files: list[Path] = field(default_factory=list)
    """The files that hold the tables, unless they come from the Hub."""


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

    Of a few texts, of which that would choose none or all, it is the one with the fewest copies.

    Raises:
        UserError: that would be half of them or more; the message names `source`.
    """
    chosen = [is_held_out(text, fraction) for text in texts]
    if all(chosen) or not any(chosen):
        counts = Counter(texts)
        rarest = min(counts, key=lambda text: (counts[text], document_hash(text)))
        chosen = [text == rarest for text in texts]
        if 2 * sum(chosen) >= len(texts):
            raise UserError(
                f"{source} has {len(texts):,} texts, {len(counts):,} of them different: too few different ones to hold "
                "some out (copies of a text stay together); give an evaluation split"
            )
    return chosen


def different_columns(chosen: dict[str, str]) -> dict[str, str]:
    """The same columns.

    Raises:
        UserError: two options name one column.
    """
    for option, column in chosen.items():
        if (other := next(each for each in chosen if chosen[each] == column)) != option:
            raise UserError(f"{other} and {option} are both {column!r}; they are two columns")
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
    path, hub_id, not_read, read = as_path(source), None, list[str](), list[Path]()
    given = named(eval_source, test_source)
    if path.exists():
        files = {"train": [path]}
        if path.is_dir():
            files, not_read = split_files(path, beside=given, takes_parts=True)
            tell_files(files)
        if callable(columns):
            columns = columns(column_names(files["train"][0]), str(files["train"][0]))
        tables = {split: _read_parts(parts, columns_of(split, columns)) for split, parts in files.items()}
        read = [path for parts in files.values() for path in parts]
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
            split: table_of(rows, f"the {own} split of {source}", columns_of(split, columns))
            for split, (own, rows) in loaded.items()
        }
    for split, file in given.items():
        tables[split] = read_extra_file(file, columns, f"{split}_dataset")
    return Source(tables, hub_id, not_read, columns, [*read, *map(Path, given.values())])


def columns_of(split: str, columns: Mapping[str, str]) -> Mapping[str, str]:
    """The columns to read of a split of a folder or of the Hub: a test split may lack what is kept secret there."""
    if split != "test":
        return columns
    return {option: MayLack(column) if option in SECRET else column for option, column in columns.items()}


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
    lacks = {one for one in columns.values() if one not in rows.column_names and isinstance(one, MayLack)}
    for option, column in columns.items():
        if column not in rows.column_names and column not in lacks:
            raise missing_column(name, option, column, rows.column_names)
    if not len(rows):
        raise UserError(f"{name} has no rows")
    features = {column: rows.features[column] for column in columns.values() if column not in lacks}
    items = {column: getattr(feature, "feature", feature) for column, feature in features.items()}  # of lists
    names = {column: item.names for column, item in items.items() if isinstance(item, ClassLabel)}
    kinds = rows.features.arrow_schema
    values = {column: shortest(list(rows[column]), kinds.field(column).type) for column in features}
    values |= {column: [None] * len(rows) for column in lacks}
    return Table(name, values, range(1, len(rows) + 1), class_names=names)


def split_of(name: str) -> str | None:
    """The split that a file's name, without its suffixes, or the Hub's name of a split means; None if none."""
    return next((split for split, names in SPLITS.items() if name.lower() in names), None)


def is_spare(name: str) -> bool:
    """Whether a name of a split counts only where there is no other."""
    return re.split(r"[._-]", name.lower())[0] == SPARE


def split_files(
    folder: Path, suffixes: Sequence[str] = SUFFIXES, *, beside: Collection[str] = (), takes_parts: bool = False
) -> tuple[dict[str, list[Path]], list[str]]:
    """The file of each split, or its parts in order, and the names of all others.

    Where no file is just called `train`, names that go on count, too, as `train-v1.1` and `dev-v1.1`.

    Args:
        folder: to look in.
        suffixes: those of the files that count, without that of a compression.
        beside: splits that are named beside the folder, whose files there do not count.
        takes_parts: whether a split may be in parts, as `train-00000-of-00002` or `train_part_a`.

    Raises:
        UserError: there are several files for a split, which are no parts, or none for training.
    """
    found, others = dict[str, list[tuple[str, Path]]](), list[Path]()
    for path in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
        stem, suffix = format_of(path, suffixes)
        split = split_of(re.split(r"[._-]", stem)[0])
        if suffix is None or split is None or split in beside or path.is_dir():
            others.append(path)
        else:
            found.setdefault(split, []).append((stem, path))
    goes_on = not any(split_of(stem) for stem, _ in found.get("train", []))
    files = dict[str, list[Path]]()
    for split, candidates in found.items():
        usual = [one for one in candidates if not is_spare(one[0])] or candidates
        chosen = [one for one in usual if split_of(one[0])] or (usual if goes_on else [])
        others += [path for one, path in candidates if (one, path) not in chosen]
        wholes = {None if (part := _PART.fullmatch(stem)) is None else part[1] for stem, _ in chosen}
        if len(chosen) > 1 and (not takes_parts or None in wholes or len(wholes) > 1):
            raise UserError(
                f"{folder} has several files for {split}: {listed(path.name for _, path in chosen)}; take all but one "
                "away" + (f", or name one with --{split}_dataset" if split != "train" else "")
            )
        if chosen and (part := _PART.fullmatch(chosen[0][0])) and int(part[2] or 0) not in (0, len(chosen)):
            raise UserError(f"{folder} has {len(chosen)} of the {int(part[2])} parts of {split}; get the others, too")
        if chosen:
            files[split] = [path for _, path in chosen]
    not_read = [path.name + "/" * path.is_dir() for path in sorted(others)]
    if "train" not in files:
        named = ", ".join(f"train{suffix}" for suffix in suffixes[:3:2])
        there = [*not_read, *(path.name for each in files.values() for path in each)]
        raise UserError(f"the folder {folder} has no training file ({named}, ...); beside that, it has {listed(there)}")
    return files, not_read


def tell_files(files: Mapping[str, Sequence[Path]]) -> None:
    """Say which files are read for the splits whose names go on."""
    for split, parts in files.items():
        if not split_of(parts[0].name.partition(".")[0]):
            logger.info("%s: %s", split, listed(path.name for path in parts))


def _read_parts(parts: Sequence[Path], columns: Mapping[str, str]) -> Table:
    """One table of a file, or of several, one behind another."""
    tables = [read_file(path, columns) for path in parts]
    if len(tables) == 1:
        return tables[0]
    joined = {name: [value for table in tables for value in table.columns[name]] for name in tables[0].columns}
    names = [table.class_names for table in tables]
    if any(one != names[0] for one in names):
        raise UserError(f"{parts[0]} and its other parts name their classes differently; write them alike")
    numbers = range(1, sum(map(len, tables)) + 1)
    return Table(f"{parts[0]} and {len(parts) - 1} more", joined, numbers, class_names=names[0])


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
    has_other = any(split_of(each) == "eval" and not is_spare(each) for each in loaded)
    for each in loaded:
        split = split_of(each)
        if split is None or (has_other and is_spare(each)):
            not_read.append(each)
        elif split in found:
            raise UserError(f"dataset {name!r} has two splits for one, {found[split]} and {each}; save one as a file")
        else:
            found[split] = each
    if "train" not in found:
        raise UserError(f"dataset {name!r} has no train split; it has {listed(loaded)}")
    return {split: (own, loaded[own]) for split, own in found.items()}, not_read
