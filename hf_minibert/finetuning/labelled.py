"""Labelled text for classification: the builtin labels, files, folders, or a data set on the Hub.

Out come train, evaluation and perhaps test splits with the columns `text` and `label` (a class id), and the labels'
names.
"""

from collections import Counter
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path
from typing import Any

import datasets
from datasets import ClassLabel, Dataset, DatasetDict
from zstandard import ZstdError

from hf_minibert.data.corpus import document_hash, is_held_out, open_corpus
from hf_minibert.errors import UserError

SPLITS = {"train": ("train",), "eval": ("validation", "valid", "dev", "val"), "test": ("test",)}
BUILDERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}
COMPRESSIONS = (".gz", ".xz", ".zst")
EVAL_FRACTION = 0.1
MAX_LABELS = 100_000
BUILTIN_LABELS = 8
BUILTIN_PER_LABEL = 1_000


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


def load_labelled(
    source: str,
    *,
    test_source: str | None = None,
    text_column: str = "text",
    label_column: str = "label",
    label_names: list[str] | None = None,
) -> LabelledData:
    """Read labelled text. Where there is no evaluation split, a tenth of the training split becomes it, by hash.

    Args:
        source: `builtin`, a file (.jsonl .json .csv .tsv .parquet, also compressed), a folder with files named after
            their splits, or a Hub name.
        test_source: a file for the test split.
        text_column: the column of the text.
        label_column: the column of the label, a class id or a name.
        label_names: what class ids 0, 1, ... mean; of labels that are names, their order.

    Raises:
        UserError: something is missing, unreadable, or not what it must be.
    """
    hub_id = None
    if source == "builtin":
        splits = {"train": _builtin()}
    elif Path(source).exists():
        splits = _read_files(_split_files(Path(source)))
    elif Path(source).suffix in (*BUILDERS, *COMPRESSIONS):
        raise UserError(f"dataset {source} does not exist")
    else:
        splits, hub_id = _read_hub(source), source.partition(":")[0]
    if test_source is not None:
        path = Path(test_source)
        if not path.is_file():
            raise UserError(f"test_dataset {path} is not a file")
        splits["test"] = _read_files({"test": path})["test"]
    if "test" in splits and label_column in (test := splits["test"]).column_names and set(test[label_column]) == {-1}:
        del splits["test"]  # its labels are kept secret, as GLUE's are
    for split, rows in splits.items():
        for column in (text_column, label_column):
            if column not in rows.column_names:
                raise UserError(
                    f"the {split} split of {source} has no column {column!r}; it has {', '.join(rows.column_names)} "
                    "(name yours with --text_column and --label_column)"
                )
        if len(rows) == 0:
            raise UserError(f"the {split} split of {source} is empty")
    names = _label_names(splits["train"], label_column, label_names)
    ids = {name: index for index, name in enumerate(names)}
    tidy = {split: _tidy(rows, split, text_column, label_column, ids) for split, rows in splits.items()}
    train = tidy["train"]
    if "eval" not in tidy:
        # By hash, so that copies of a text are on one side.
        is_eval = [is_held_out(text, EVAL_FRACTION) for text in train["text"]]
        tidy["eval"] = train.select([row for row, held_out in enumerate(is_eval) if held_out])
        train = train.select([row for row, held_out in enumerate(is_eval) if not held_out])
        if len(tidy["eval"]) == 0 or len(train) == 0:
            raise UserError(f"{source} has {len(is_eval)} examples, too few to hold some out; give an evaluation split")
    return LabelledData(source, hub_id, train, tidy["eval"], tidy.get("test"), names)


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


def _split_files(source: Path) -> dict[str, Path]:
    """The file of each split: by the names in a folder, or one file for training."""
    if source.is_file():
        return {"train": source}
    found = {
        split: path
        for path in sorted(source.iterdir())
        for split, names in SPLITS.items()
        if path.name.split(".")[0] in names and _builder(path) is not None
    }
    if "train" not in found:
        raise UserError(f"the folder {source} has no training file (train.jsonl, train.csv, ...)")
    return found


def _builder(path: Path) -> str | None:
    suffixes = [suffix for suffix in path.suffixes if suffix not in COMPRESSIONS]
    return BUILDERS.get(suffixes[-1]) if suffixes else None


def _read_files(files: dict[str, Path]) -> dict[str, Dataset]:
    splits = {}
    for split, path in files.items():
        builder = _builder(path)
        if builder is None:
            raise UserError(f"{path} is none of {', '.join(BUILDERS)} (also {', '.join(COMPRESSIONS)})")
        if path.stat().st_size == 0:
            raise UserError(f"{path} is empty")
        options: dict[str, Any] = {}
        if builder == "csv":  # only an empty cell is missing: NA and None are words
            options = {"sep": "\t" if ".tsv" in path.suffixes else ",", "keep_default_na": False, "na_values": [""]}
        try:
            splits[split] = datasets.load_dataset(builder, data_files={split: str(path)}, split=split, **options)
        except StopIteration as error:
            raise UserError(f"{path} is empty once decompressed") from error
        except (
            datasets.exceptions.DatasetGenerationError,
            ValueError,
            OSError,
            EOFError,
            LZMAError,
            ZstdError,
        ) as error:
            reason = " ".join(str(error.__cause__ or error).split())
            raise UserError(f"cannot read {path}: {reason}") from error
    return splits


def _read_hub(name: str) -> dict[str, Dataset]:
    path, _, config = name.partition(":")
    try:
        loaded = datasets.load_dataset(path, config or None)
    except Exception as error:  # no common base: not found, no such config, HTTP of two libraries
        reason = " ".join(str(error).split())
        raise UserError(f"dataset {name!r} is neither a path nor a data set that the Hub gives: {reason}") from error
    assert isinstance(loaded, DatasetDict)
    splits = {split: loaded[found] for split, names in SPLITS.items() for found in names if found in loaded}
    if "train" not in splits:
        raise UserError(f"dataset {name!r} has no train split; it has {', '.join(loaded)}")
    return splits


def _label_names(train: Dataset, column: str, given: list[str] | None) -> list[str]:
    """What class ids mean: as given, as the data set says, or as its values sort."""
    feature = train.features[column]
    if any(value is None or isinstance(value, (list, dict)) for value in train[column]):
        raise UserError(f"column {column!r} must hold one label for every text, but it holds {train[:3][column]}")
    values = train.unique(column)
    if isinstance(feature, ClassLabel):
        names = list(feature.names)
    elif all(isinstance(value, int) for value in values):
        if min(values) < 0:
            raise UserError(f"class ids must be 0 or more, but column {column!r} holds {min(values)}")
        if max(values) >= MAX_LABELS:
            raise UserError(f"class ids must be below {MAX_LABELS:,}, but column {column!r} holds {max(values):,}")
        names = [str(value) for value in range(max(values) + 1)]
    elif all(isinstance(value, str) for value in values):
        names = sorted(values)
        if given is not None and sorted(given) != names:
            raise UserError(f"--label_names gives {given}, but column {column!r} holds the names {names[:10]}")
    else:
        raise UserError(f"column {column!r} must hold class ids or names, but it holds {values[:3]}")
    if given is not None:
        if len(given) != len(names):
            raise UserError(f"--label_names gives {len(given)} names, but there are {len(names)} labels")
        names = given
    if len(names) < 2:
        raise UserError(f"column {column!r} holds one label only ({names[0]}); a classifier needs two")
    return names


def _tidy(rows: Dataset, split: str, text_column: str, label_column: str, ids: dict[str, int]) -> Dataset:
    """Only the columns `text` and `label`, the label as a class id."""
    texts, labels = rows[text_column], rows[label_column]
    counts = Counter(type(text).__name__ for text in texts)
    if set(counts) != {"str"}:
        raise UserError(f"column {text_column!r} of the {split} split must hold text, but it holds {dict(counts)}")
    class_ids = []
    for label in labels:
        class_id = ids.get(label) if isinstance(label, str) else label
        if not isinstance(class_id, int) or not 0 <= class_id < len(ids):
            raise UserError(f"the {split} split has the label {label!r}, which the training split does not have")
        class_ids.append(int(class_id))
    return Dataset.from_dict({"text": list(texts), "label": class_ids})
