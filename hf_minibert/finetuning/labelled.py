"""Text classification: from the columns of a table to texts, labels and their names.

In: the builtin labels, or what `hf_minibert.data.tables` reads. Out: train, evaluation and perhaps test splits with the
columns `text` and `label` (a class id), and the labels' names. A label is what is written, as text, and the same in
every file: 1, "1" and 1.0 in JSON are the label "1"; 007 in a .csv is "007"; white space around it does not count. A
number is a class id only where the column's type or `label_names` says so.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from hf_minibert.data.corpus import open_corpus
from hf_minibert.data.documents import document_hash, is_held_out
from hf_minibert.data.splits import Source, read_source, read_test_file, table_of
from hf_minibert.data.tables import Table, listed, shown
from hf_minibert.errors import UserError

EVAL_FRACTION = 0.1
BUILTIN_LABELS = 8
BUILTIN_PER_LABEL = 1_000
LABELS_SHOWN = 20
SECRET_LABEL = "-1"
"""Stands in place of labels that are kept secret, as in GLUE's test splits."""


@dataclass(frozen=True)
class LabelledData:
    """Splits with the columns `text` and `label`, and the name of every class id."""

    name: str
    hub_id: str | None
    """The data set's name on the Hub, if it came from there."""
    train: Dataset
    eval: Dataset
    test: Dataset | None
    labels: list[str]
    notes: list[str]
    """Lines that tell the user what was left out."""


def load_labelled(
    source: str,
    *,
    test_source: str | None = None,
    text_column: str = "text",
    label_column: str = "label",
    label_names: list[str] | None = None,
) -> LabelledData:
    """Read labelled text. Without an evaluation split, a tenth of the training split, chosen by hash, becomes it.

    Args:
        source: `builtin`, a file (.jsonl .json .csv .tsv .parquet, also compressed), a folder with files named after
            their splits, or a Hub name.
        test_source: a file for the test split.
        text_column: the column of the text.
        label_column: the column of the label.
        label_names: the labels, in the order of their class ids; or what the class ids 0, 1, ... in the column mean.

    Raises:
        UserError: a file, column or label is missing, unreadable or not acceptable.
    """
    columns = {"text_column": text_column, "label_column": label_column}
    if text_column == label_column:
        raise UserError(f"text_column and label_column are both {text_column!r}; a text and its label are two columns")
    if source == "builtin":
        read = Source({"train": table_of(_builtin(), "the builtin data", columns)}, None, [])
        if test_source is not None:
            read.tables["test"] = read_test_file(test_source, columns)
    else:
        read = read_source(source, columns, test_source=test_source)
    notes = [f"not read: {listed(read.not_read)}"] if read.not_read else []
    tables = dict(read.tables)
    written = {split: _written_labels(table, label_column) for split, table in tables.items()}
    if "test" in tables and set(written["test"]) <= {SECRET_LABEL, None} and SECRET_LABEL not in written["train"]:
        if test_source is not None:
            raise UserError(f"test_dataset {test_source} has no labels, only -1 or none in every row; leave it out")
        notes.append(f"not measured: {tables['test'].name}, which has no labels, only -1 or none in every row")
        del tables["test"]
    labels = {split: _checked(table, written[split], label_column) for split, table in tables.items()}
    names, ids = _label_ids(
        set(labels["train"]), tables["train"].class_names.get(label_column), label_column, label_names
    )
    examples = {
        split: _examples(table, split, text_column, labels[split], names, ids) for split, table in tables.items()
    }
    if "eval" not in examples:
        # By hash, so that copies of a text are on one side.
        sides: dict[bool, list[tuple[str, int]]] = {False: [], True: []}
        for text, class_id in examples["train"]:
            sides[is_held_out(text, EVAL_FRACTION)].append((text, class_id))
        if not all(sides.values()):
            different = len({text for text, _ in examples["train"]})
            raise UserError(
                f"{source} has {len(examples['train']):,} texts, {different:,} of them different: too few different "
                "ones to hold some out (copies of a text stay together); give an evaluation split"
            )
        examples |= {"train": sides[False], "eval": sides[True]}
    splits = {split: _dataset(rows) for split, rows in examples.items()}
    return LabelledData(source, read.hub_id, splits["train"], splits["eval"], splits.get("test"), names, notes)


def label_counts(labels: list[str], splits: dict[str, Dataset]) -> list[str]:
    """Lines for a person: how many texts of each split have each label; of many labels, the first ones."""
    counts = {split: Counter(rows["label"]) for split, rows in splits.items()}
    first = [shown(label) for label in labels[:LABELS_SHOWN]]
    width = max(map(len, ["label", *first]))
    lines = [f"{'label':{width}}" + "".join(f"{split:>10}" for split in splits)]
    for class_id, name in enumerate(first):
        lines.append(f"{name:{width}}" + "".join(f"{counts[split][class_id]:>10,}" for split in splits))
    if len(labels) > LABELS_SHOWN:
        lines.append(f"and {len(labels) - LABELS_SHOWN:,} more labels")
    return lines


def _builtin() -> Dataset:
    """The documentation of the packages that have most of it, labelled by package."""
    by_package: dict[str, list[str]] = {}
    for document in open_corpus(["builtin"]):
        by_package.setdefault(document.id.split("/")[0], []).append(document.text)
    largest = sorted(by_package, key=lambda package: (-len(by_package[package]), package))[:BUILTIN_LABELS]
    rows = [
        {"text": text, "label": package}
        for package in largest
        for text in sorted(by_package[package], key=document_hash)[:BUILTIN_PER_LABEL]
    ]
    rows.sort(key=lambda row: document_hash(row["text"]))
    return Dataset.from_list(rows)


# ---------------------------------------------------------------- what is written


def _written_labels(table: Table, column: str) -> list[str | None]:
    """The label of every row as text; None where there is none."""
    names = table.class_names.get(column)
    labels = list[str | None]()
    for index, value in enumerate(table.columns[column]):
        label = _label_text(value)
        if label is None and not _is_missing(value):
            raise UserError(
                f"{table.where(index)}: the label is a {type(value).__name__} ({shown(value)}), not a text or a "
                "number; choose another --label_column"
            )
        if names is not None and label not in (None, SECRET_LABEL):
            if not isinstance(value, int) or not 0 <= value < len(names):
                raise UserError(
                    f"{table.where(index)}: the class id {shown(value)} is not one of 0 to {len(names) - 1}"
                )
            label = names[value]
        labels.append(label)
    return labels


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value)) or (isinstance(value, str))


def _label_text(value: Any) -> str | None:
    """A label as text. A whole number is 1, not 1.0, also where a gap has made its column one of floats."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return (str(int(value)) if value.is_integer() else repr(value)) if math.isfinite(value) else None
    if isinstance(value, int):
        return str(value)
    return value.strip() or None if isinstance(value, str) else None


def _checked(table: Table, labels: list[str | None], column: str) -> list[str]:
    """The same labels; raises a UserError if a row has none."""
    secret = SECRET_LABEL if column in table.class_names else None  # elsewhere it is a label like any other
    for index, label in enumerate(labels):
        if label is None or label == secret:
            raise UserError(
                f"{table.where(index)} has no label in the column {column!r}; give it one, or take the row away"
            )
    return [label for label in labels if label is not None]


# ---------------------------------------------------------------- from labels to class ids


_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")


def _order(label: str) -> tuple[bool, float, str]:
    """A sort key: numbers first, by their value; then names, as text."""
    is_number = _NUMBER.fullmatch(label) is not None
    return (not is_number, float(label) if is_number else 0.0, label)


def _label_ids(
    there: set[str], own_names: list[str] | None, column: str, given: list[str] | None
) -> tuple[list[str], dict[str, int]]:
    """The labels in the order of their class ids, and the class id of everything that may be written for a label.

    Args:
        there: the labels of the training split.
        own_names: the labels that the column's type lists, if it does.
        column: its name, for messages.
        given: the labels that the user gives, if any.
    """
    if given is None:
        names = own_names or sorted(there, key=_order)
        ids = _numbered(names)
    else:
        names = [name.strip() for name in given]
        ids = _given_ids(there, own_names, column, names)
    if len(names) < 2:
        raise UserError(f"column {column!r} holds one label only ({shown(names[0])}); a classifier needs two")
    return names, ids


def _given_ids(there: set[str], own_names: list[str] | None, column: str, given: list[str]) -> dict[str, int]:
    """The class ids of `_label_ids` where the user gives the labels: the written ones, or names for class ids."""
    for name, count in Counter(given).items():
        if count > 1 or not name:
            raise UserError(f"--label_names gives the name {name!r}{' twice' * (count > 1)}; name each label once")
    begin = f"--label_names gives {len(given)} names ({listed(given)}), but"
    by_name, by_number = _numbered(given), _numbered(map(str, range(len(given))))
    ids = by_name if by_name.keys() & by_number.keys() else by_name | by_number  # a name that is a number is a name
    if own_names is not None:
        if len(given) != len(own_names):
            raise UserError(f"{begin} there are {len(own_names)} labels ({listed(own_names)})")
        own_ids = _numbered(own_names)
        if set(given) == set(own_names):
            return ids
        for name in given:  # they replace the own names
            if own_ids.get(name, by_name[name]) != by_name[name]:
                raise UserError(f"{begin} {shown(name)} is class id {own_ids[name]} of {listed(own_names)}")
        return ids | own_ids
    if not there <= by_name.keys():
        if not there <= by_number.keys():
            raise UserError(
                f"{begin} the column {column!r} holds {listed(sorted(there, key=_order))}; give the labels themselves, "
                "or a name for each of the class ids 0, 1, ..."
            )
        if ids is by_name:
            ids = by_number
    used = {ids[label] for label in there}
    for name in given:
        if by_name[name] not in used:
            raise UserError(f"{begin} there are {len(there)} labels: no training text has the label {shown(name)}")
    return ids


def _numbered(names: Iterable[str]) -> dict[str, int]:
    return {name: class_id for class_id, name in enumerate(names)}


def _examples(
    table: Table, split: str, text_column: str, labels: list[str], names: list[str], ids: dict[str, int]
) -> list[tuple[str, int]]:
    """Texts and the class ids of their labels."""
    texts = table.columns[text_column]
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(
                f"{table.where(index)}: the column {text_column!r} must hold text, but it holds a "
                f"{'missing value' if text is None else type(text).__name__}; choose another --text_column, or mend it"
            )
    class_ids = list[int]()
    for index, label in enumerate(labels):
        class_id = ids.get(label)
        if class_id is None:
            raise UserError(
                f"the {split} split has the label {shown(repr(label))} ({table.where(index)}), which the training "
                f"split does not have; it has {listed(names)}"
            )
        class_ids.append(class_id)
    return list(zip(texts, class_ids, strict=True))


def _dataset(rows: list[tuple[str, int]]) -> Dataset:
    return Dataset.from_dict({"text": [text for text, _ in rows], "label": [class_id for _, class_id in rows]})
