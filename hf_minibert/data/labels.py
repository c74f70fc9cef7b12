"""Labels as people write them: each is its text, and the same in every file.

A whole number is 1, whether a .csv has 1, JSON 1, "1" or 1.0, or Parquet a column of floats; 007 in a .csv is 007;
white space around a label does not count. A number is a class id only where the column's type says so.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from hf_minibert.data.tables import Table, shown
from hf_minibert.errors import UserError

SECRET_LABEL = "-1"
"""Stands in place of labels that are kept secret, as in GLUE's test splits."""
Written = str | tuple[str, ...] | None
"""A label as text, or several; None where there is none."""


def require_different(names: Sequence[str]) -> None:
    """Check the names of labels that the user gives.

    Raises:
        UserError: one is empty, or given twice.
    """
    for name, count in Counter(names).items():
        if count > 1 or not name:
            raise UserError(f"--label_names gives the name {name!r}{' twice' * (count > 1)}; name each label once")


def label_of(table: Table, column: str, index: int, value: Any) -> str | None:
    """One label as text; None if it is missing."""
    names = table.class_names.get(column)
    label = _label_text(value)
    if label is None and not _is_missing(value):
        raise UserError(
            f"{table.where(index)}: the label is a {type(value).__name__} ({shown(value)}), not a text or a "
            "number; choose another --label_column"
        )
    if names is not None and label not in (None, SECRET_LABEL):
        if not isinstance(value, int) or not 0 <= value < len(names):
            raise UserError(f"{table.where(index)}: the class id {shown(value)} is not one of 0 to {len(names) - 1}")
        label = names[value]
    return label


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


def checked_labels(table: Table, labels: Sequence[Written], column: str) -> list[str | tuple[str, ...]]:
    """The same labels; raises a UserError if a row has none."""
    secret = SECRET_LABEL if column in table.class_names else None  # elsewhere it is a label like any other
    for index, label in enumerate(labels):
        if label is None or label == secret:
            raise UserError(
                f"{table.where(index)} has no label in the column {column!r}; give it one, or take the row away"
            )
    return [label for label in labels if label is not None]
