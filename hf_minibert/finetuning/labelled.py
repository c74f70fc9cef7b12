"""Text classification: from the columns of a table to texts, labels and their names.

In: the builtin labels, or what `hf_minibert.data.tables` reads. Out: train, evaluation and perhaps test splits with the
columns `text`, perhaps `text_pair`, `label` (a class id, a list of them, or a number) and `row` (the place in its
table); and the labels' names. A label is what is written, as text, and the same in every file: 1, "1" and 1.0 in JSON
are the label "1"; 007 in a .csv is "007"; white space around it does not count. A number is a class id only where the
column's type or `label_names` says so.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from hf_minibert.data.corpus import open_corpus
from hf_minibert.data.documents import document_hash
from hf_minibert.data.labels import SECRET_LABEL, Written, checked_labels, label_of, require_different
from hf_minibert.data.splits import (
    Choice,
    Source,
    choose_column,
    different_columns,
    held_out,
    named,
    read_extra_file,
    read_source,
    table_of,
)
from hf_minibert.data.tables import Table, listed, missing_column, shown
from hf_minibert.errors import UserError
from hf_minibert.finetuning.arguments import ProblemType

BUILTIN_LABELS = 8
BUILTIN_PER_LABEL = 1_000
LABELS_SHOWN = 20
TEXT_COLUMNS = ("text", "sentence", "review", "content", "document", "tweet", "comment", "utterance")
LABEL_COLUMNS = ("label", "labels", "score", "class", "category", "target", "answer")
"""What columns of texts and of labels are called; the first name goes before the others."""
PAIRS = (
    ("text", "text_pair"),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "passage"),
    ("text_a", "text_b"),
)
"""What two columns of texts are called that belong together."""
MANY_NUMBERS = 20
"""A column of JSON or Parquet with more different numbers than this, not all of them whole, holds scores."""


@dataclass(frozen=True, kw_only=True)
class LabelledData:
    """Splits with the columns `text`, perhaps `text_pair`, and `label`; and the name of every class id."""

    name: str
    hub_id: str | None
    """The data set's name on the Hub, if it came from there."""
    train: Dataset
    eval: Dataset
    test: Dataset | None
    problem_type: ProblemType
    labels: list[str]
    """Empty where labels are numbers to predict."""
    notes: list[str]
    """Lines that tell the user which columns are read, and what was left out."""


def load_labelled(
    source: str,
    *,
    eval_source: str | None = None,
    test_source: str | None = None,
    text_column: str | None = None,
    text_pair_column: str | None = None,
    label_column: str | None = None,
    label_names: list[str] | None = None,
    label_separator: str | None = None,
    problem_type: ProblemType | None = None,
) -> LabelledData:
    """Read labelled text. Without an evaluation split, a tenth of the training split, chosen by hash, becomes it.

    Args:
        source: `builtin`, a file (.jsonl .json .csv .tsv .parquet, also compressed), a folder with files named after
            their splits, or a Hub name.
        eval_source: a file for the evaluation split.
        test_source: a file for the test split.
        text_column: the column of the text, or a sentence with columns in braces. Default: the one with a usual name.
        text_pair_column: the column of a second text. Default: beside its usual partner, the one with a usual name.
        label_column: the column of the label. Default: the one with a usual name.
        label_names: the labels, in the order of their class ids; or what the class ids 0, 1, ... in the column mean.
        label_separator: what stands between the labels of a text that has several.
        problem_type: what labels are. Default: several of a text where they are lists, numbers to predict where they
            are many and not all whole, else one of a text.

    Raises:
        UserError: a file, column or label is missing, unreadable or not acceptable.
    """
    given = {"text_column": text_column, "text_pair_column": text_pair_column, "label_column": label_column}

    def choose(there: Sequence[str], where: str) -> dict[str, str]:
        return choose_columns(there, where, given)

    read = _read(source, eval_source, test_source, choose)
    tables, columns = dict(read.tables), read.columns
    column = columns["label_column"]
    plain = {"text_column": TEXT_COLUMNS[0], "label_column": LABEL_COLUMNS[0]}
    is_news = any(name not in (given[option], plain.get(option)) for option, name in columns.items() if option in given)
    notes = [_which_columns(columns)] if is_news else []
    notes += [f"not read: {listed(read.not_read)}"] if read.not_read else []
    kind = problem_type or _problem_type(tables["train"], column, label_separator)
    if kind == "regression" and label_names is not None:
        raise UserError("--label_names names classes, but the labels are numbers to predict (regression)")
    if label_separator is not None and kind != "multi_label_classification":
        raise UserError(f"--label_separator parts the labels of a text that has several, but this is {kind}")
    if problem_type is None and kind != "single_label_classification":
        words = "lists: a text may have several labels" if kind.startswith("multi") else "fractions: regression"
        notes.append(f"the column {column!r} holds {words} (--problem_type says otherwise)")
    written = {split: _written(table, column, kind, label_separator) for split, table in tables.items()}
    secret = {SECRET_LABEL, (SECRET_LABEL,)}
    known = set() if "test" not in tables else set(written["test"])
    if known == {None} or (known and known <= {*secret, None} and not secret & set(written["train"])):
        if test_source is not None:
            raise UserError(f"test_dataset {test_source} has no labels, only -1 or none in every row; leave it out")
        notes.append(f"not measured: {tables['test'].name}, which has no labels in {column!r}, only -1 or none")
        del tables["test"]
    names = list[str]()
    values: dict[str, list[Any]] = {}
    if kind == "regression":
        values = {split: _scores(table, written[split], column) for split, table in tables.items()}
    else:
        labels = {split: checked_labels(table, written[split], column) for split, table in tables.items()}
        there = {label for some in labels["train"] for label in (some if isinstance(some, tuple) else (some,))}
        if not there:
            raise UserError(f"no text of {tables['train'].name} has a label in the column {column!r}")
        if kind.startswith("multi") and len(set(map(frozenset, labels["train"]))) == 1:
            raise UserError(
                f"all texts of {tables['train'].name} have the same labels ({listed(sorted(there))}); write the labels "
                "that a text has, not 0 or 1 for each"
            )
        names, ids = _label_ids(there, tables["train"].class_names.get(column), column, label_names)
        values = {split: _class_ids(table, split, labels[split], names, ids) for split, table in tables.items()}
        notes += _look_alikes(names)
    splits = {
        split: Dataset.from_dict(
            {**_texts(table, columns, given), "label": values[split], "row": [int(number) for number in table.numbers]}
        )
        for split, table in tables.items()
    }
    if "eval" not in splits:
        train = splits["train"]
        columns_of_text = [train[name][:] for name in train.column_names if name.startswith("text")]
        texts = ["\n".join(parts) for parts in zip(*columns_of_text, strict=True)]
        out = held_out(texts, source)
        for split, side in (("eval", True), ("train", False)):
            splits[split] = train.select([place for place, is_out in enumerate(out) if is_out is side])
        notes.append(
            f"no evaluation split: {len(splits['eval']):,} of {len(train):,} texts are held out, by their hash"
        )
    return LabelledData(
        name=source,
        hub_id=read.hub_id,
        train=splits["train"],
        eval=splits["eval"],
        test=splits.get("test"),
        problem_type=kind,
        labels=names,
        notes=notes,
    )


def _read(source: str, eval_source: str | None, test_source: str | None, choose: Choice) -> Source:
    if source != "builtin":
        return read_source(source, choose, eval_source=eval_source, test_source=test_source)
    rows = _builtin()
    columns = choose(rows.column_names, "the builtin data")
    tables = {"train": table_of(rows, "the builtin data", columns)}
    for split, file in named(eval_source, test_source).items():
        tables[split] = read_extra_file(file, columns, f"{split}_dataset")
    return Source(tables, None, [], columns)


def choose_columns(there: Sequence[str], where: str, given: dict[str, str | None]) -> dict[str, str]:
    """The columns to read, by the options that name them: the given ones, and of the others the unmistakable ones.

    Raises:
        UserError: a column is not there, or is named twice, or there are several to choose from.
    """
    chosen, in_sentences = dict[str, str](), dict[str, str]()
    for option, column in given.items():
        if column is not None and column not in there and is_sentence(column) and option != "label_column":
            in_sentences |= {f"{option}:{name}": name for name in _IN_BRACES.findall(column)}
        elif column is not None:
            chosen[option] = column
    for option, column in in_sentences.items():
        if column not in there:
            raise missing_column(where, option, column, there)
    taken = {*chosen.values(), *in_sentences.values()}
    if "label_column" not in chosen:
        others = [name for name in there if name not in taken]  # a label that the text holds would teach nothing
        chosen["label_column"] = choose_column(others, where, "label_column", LABEL_COLUMNS)
    elif chosen["label_column"] in in_sentences.values():
        raise UserError(f"label_column {chosen['label_column']!r} also stands in the text; take it out of the sentence")
    free = [name for name in there if name not in chosen.values()]
    is_named = chosen.keys() | {option.partition(":")[0] for option in in_sentences}
    if not is_named & {"text_column", "text_pair_column"}:
        own = {name.lower(): name for name in free}
        pairs = [pair for pair in PAIRS if own.keys() >= set(pair)]
        if TEXT_COLUMNS[0] in own:  # then other pairs are no news
            pairs = [pair for pair in pairs if TEXT_COLUMNS[0] in pair]
        if len(pairs) == 1:
            chosen |= {"text_column": own[pairs[0][0]], "text_pair_column": own[pairs[0][1]]}
    if "text_column" not in is_named | chosen.keys():
        chosen["text_column"] = choose_column(there, where, "text_column", TEXT_COLUMNS)
    return different_columns(chosen) | in_sentences


_IN_BRACES = re.compile(r"\{([^{}]+)\}")


def is_sentence(column: str) -> bool:
    """Whether what stands for a column is a sentence with columns in braces."""
    return _IN_BRACES.search(column) is not None


def _which_columns(columns: Mapping[str, str]) -> str:
    """A line that says which columns are read."""
    words = {"text_column": "text", "text_pair_column": "second text", "label_column": "label"}
    return "columns: " + ", ".join(f"{word} {shown(columns[name])}" for name, word in words.items() if name in columns)


def _problem_type(table: Table, column: str, label_separator: str | None) -> ProblemType:
    """What a column's values are, where nobody has said it."""
    values = [value for value in table.columns[column] if value is not None]
    if label_separator is not None or (values and all(isinstance(value, list) for value in values)):
        return "multi_label_classification"
    if values and all(isinstance(value, str) and _NUMBER.fullmatch(value.strip()) for value in values):
        values = [float(value) for value in values]  # of a file in which all is text
    numbers = {value for value in values if isinstance(value, float) and math.isfinite(value)}
    are_numbers = all(isinstance(value, float | int) and not isinstance(value, bool) for value in values)
    if are_numbers and len(numbers) > MANY_NUMBERS and not all(number.is_integer() for number in numbers):
        return "regression"
    return "single_label_classification"


def label_counts(labels: list[str], splits: dict[str, Dataset]) -> list[str]:
    """Lines for a person: how many texts of each split have each label; of many labels, the first ones."""
    counts = {split: Counter(each_id(rows)) for split, rows in splits.items()}
    first = [shown(label) for label in labels[:LABELS_SHOWN]]
    width = max(map(len, ["label", *first]))
    lines = [f"{'label':{width}}" + "".join(f"{split:>10}" for split in splits)]
    for class_id, name in enumerate(first):
        lines.append(f"{name:{width}}" + "".join(f"{counts[split][class_id]:>10,}" for split in splits))
    if len(labels) > LABELS_SHOWN:
        lines.append(f"and {len(labels) - LABELS_SHOWN:,} more labels")
    return lines


def each_id(rows: Dataset) -> list[int]:
    """The class ids of all texts, one after another."""
    return [one for label in rows["label"] for one in (label if isinstance(label, list) else [label])]


def score_summary(splits: dict[str, Dataset]) -> list[str]:
    """Lines for a person: the number, mean and range of each split's scores."""
    lines = [f"{'split':6}{'texts':>10}{'mean':>10}{'least':>10}{'most':>10}"]
    for split, rows in splits.items():
        scores = rows["label"][:]
        numbers = (sum(scores) / len(scores), min(scores), max(scores))
        lines.append(f"{split:6}{len(scores):>10,}" + "".join(f"{number:>10.4g}" for number in numbers))
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


def _written(table: Table, column: str, kind: ProblemType, separator: str | None) -> list[Written]:
    """The label of every row, or its labels, as text."""
    found = list[Written]()
    for index, value in enumerate(table.columns[column]):
        if kind != "multi_label_classification":
            found.append(label_of(table, column, index, value))
            continue
        if separator is not None and isinstance(value, str):
            value = [part for part in value.split(separator) if part.strip()]
        if value is not None and not isinstance(value, list):
            raise UserError(
                f"{table.where(index)}: the label {shown(repr(value))} is no list of labels; write lists (.jsonl, "
                ".parquet), or say with --label_separator what stands between labels"
            )
        several = None if value is None else [label_of(table, column, index, one) for one in value]
        if several is not None and None in several:
            raise UserError(f"{table.where(index)}: one of the labels in the column {column!r} is missing")
        if (
            several is not None
            and len(set(several)) < len(several)
            and (set(several) <= {"0", "1"} or not any(isinstance(one, str) for one in value or ()))
        ):
            raise UserError(
                f"{table.where(index)}: the label {shown(repr(value))} has a number twice; write the labels that the "
                "text has, not 0 or 1 for each"
            )
        found.append(None if several is None else tuple(dict.fromkeys(one for one in several if one is not None)))
    return found


def _look_alikes(labels: Iterable[str]) -> list[str]:
    """A line for labels that differ in case, in how their letters are composed, or in marks that nobody sees."""
    groups: dict[str, list[str]] = {}
    for label in labels:
        seen = (mark for mark in unicodedata.normalize("NFKC", label) if unicodedata.category(mark) != "Cf")
        groups.setdefault(" ".join("".join(seen).casefold().split()), []).append(label)
    alike = [" and ".join(map(ascii, group)) for group in groups.values() if len(group) > 1]
    return [f"different labels, though they look alike: {listed(alike)}"] if alike else []


# ---------------------------------------------------------------- from labels to class ids


_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")


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
    require_different(given)
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


def _class_ids(
    table: Table, split: str, labels: list[str | tuple[str, ...]], names: list[str], ids: dict[str, int]
) -> list[int | list[int]]:
    """The class id of every row's label, or the class ids of its labels."""
    found = list[int | list[int]]()
    for index, label in enumerate(labels):
        several = label if isinstance(label, tuple) else (label,)
        for one in several:
            if one not in ids:
                raise UserError(
                    f"the {split} split has the label {shown(repr(one))} ({table.where(index)}), which the training "
                    f"split does not have; it has {listed(names)}"
                )
        found.append([ids[one] for one in several] if isinstance(label, tuple) else ids[label])
    return found


def _scores(table: Table, written: list[Written], column: str) -> list[float]:
    """The numbers that are written."""
    scores = list[float]()
    for index, text in enumerate(written):
        try:
            scores.append(math.nan if "_" in str(text) else float(str(text)))  # 1_000 is a number in Python alone
        except ValueError:
            scores.append(math.nan)
        if not math.isfinite(scores[-1]):
            raise UserError(
                f"{table.where(index)}: {'a missing value' if text is None else shown(repr(text))} in the column "
                f"{column!r} is no number, which regression needs; mend it, or choose another --label_column"
            )
    return scores


def _texts(table: Table, columns: Mapping[str, str], given: Mapping[str, str | None]) -> dict[str, list[str]]:
    """The texts of every row, and the second ones if there are any; what stands in a sentence is put in its place."""
    found = {}
    for option, name in (("text_column", "text"), ("text_pair_column", "text_pair")):
        if option in columns:
            found[name] = _texts_of(table, columns[option], option)
        elif any(key.startswith(f"{option}:") for key in columns):
            sentence = str(given[option])
            parts = {column: _texts_of(table, column, option) for column in _IN_BRACES.findall(sentence)}
            found[name] = [_filled(sentence, parts, row) for row in range(len(table))]
    return found


def _filled(sentence: str, parts: Mapping[str, list[str]], row: int) -> str:
    """A sentence with a row's texts in place of the columns in braces."""
    return _IN_BRACES.sub(lambda match: parts[match[1]][row], sentence)


def _texts_of(table: Table, column: str, option: str) -> list[str]:
    """A column that must hold text."""
    for index, text in enumerate(table.columns[column]):
        if not isinstance(text, str):
            raise UserError(
                f"{table.where(index)}: the column {column!r} must hold text, but it holds a "
                f"{'missing value' if text is None else type(text).__name__}; choose another --{option}, or mend it"
            )
    return list(table.columns[column])
