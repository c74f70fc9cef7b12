import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from hf_minibert.data import corpus as corpus_module
from hf_minibert.data import labelled
from hf_minibert.data.corpus import document_hash
from hf_minibert.errors import UserError
from hf_minibert.finetuning.labelled import load_labelled

ROWS = [{"text": f"Satz {number}, größer\tals „so“.", "label": ["no", "yes"][number % 2]} for number in range(60)]


def as_json_lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_table(rows: list[dict], delimiter: str) -> bytes:
    file = io.StringIO()
    writer = csv.DictWriter(file, rows[0].keys(), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def as_parquet(rows: list[dict]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


FORMATS: dict[str, Callable[[list[dict]], bytes]] = {
    ".jsonl": as_json_lines,
    ".json": lambda rows: json.dumps(rows).encode(),
    ".csv": lambda rows: as_table(rows, ","),
    ".tsv": lambda rows: as_table(rows, "\t"),
    ".parquet": as_parquet,
}
COMPRESS = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard.ZstdCompressor().compress}


def write(path: Path, rows: list[dict]) -> str:
    end = path.suffix if path.suffix in COMPRESS else ""
    kind = Path(path.name.removesuffix(end)).suffix
    path.write_bytes(COMPRESS[end](FORMATS[kind](rows)))
    return str(path)


def rows_of(*splits: Dataset) -> list[tuple[str, int]]:
    return sorted((row["text"], row["label"]) for split in splits for row in split)


def error_of(source: str | Path, **options) -> str:
    with pytest.raises(UserError) as caught:
        load_labelled(str(source), **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---------------------------------------------------------------- files


@pytest.mark.parametrize(
    "suffix", [*FORMATS, *(kind + end for kind in (".jsonl", ".csv", ".tsv") for end in (".gz", ".xz", ".zst"))]
)
def test_every_format(tmp_path, suffix):
    data = load_labelled(write(tmp_path / f"rows{suffix}", ROWS))
    assert data.labels == ["no", "yes"]
    assert data.test is None
    assert data.train.column_names == data.eval.column_names == ["text", "label"]
    assert rows_of(data.train, data.eval) == sorted((row["text"], int(row["label"] == "yes")) for row in ROWS)


def test_evaluation_split_is_a_tenth_by_hash_and_copies_are_on_one_side(tmp_path):
    rows = [{"text": f"text {number % 1_000}", "label": number % 2} for number in range(2_000)]
    data = load_labelled(write(tmp_path / "rows.jsonl", rows))
    train, held_out = set(data.train["text"]), set(data.eval["text"])
    assert not train & held_out
    assert held_out == {row["text"] for row in rows if document_hash(row["text"]) < 2**64 // 10}
    assert 70 < len(held_out) < 130
    assert len(data.train) + len(data.eval) == 2_000
    more = load_labelled(write(tmp_path / "more.jsonl", [*rows, {"text": "one more", "label": 0}]))
    assert held_out <= set(more.eval["text"]), "also when there are more of them"


@pytest.mark.parametrize("name", ["dev.csv", "validation.jsonl.gz", "val.parquet", "valid.tsv"])
def test_folder_with_splits(tmp_path, name):
    write(tmp_path / "train.jsonl", ROWS[:40])
    write(tmp_path / name, ROWS[40:50])
    write(tmp_path / "test.json", ROWS[50:])
    (tmp_path / "README.md").write_text("not data")
    (tmp_path / "train.txt").write_text("not data")
    data = load_labelled(str(tmp_path))
    assert [len(split) for split in (data.train, data.eval, data.test)] == [40, 10, 10]
    assert data.eval["text"] == [row["text"] for row in ROWS[40:50]]
    assert data.test["text"] == [row["text"] for row in ROWS[50:]]


def test_folder_without_evaluation_split(tmp_path):
    write(tmp_path / "train.jsonl", ROWS)
    data = load_labelled(str(tmp_path))
    assert data.test is None
    assert rows_of(data.train, data.eval) == sorted((row["text"], int(row["label"] == "yes")) for row in ROWS)


def test_a_file_for_the_test_split(tmp_path):
    source = write(tmp_path / "train.jsonl", ROWS)
    data = load_labelled(source, test_source=write(tmp_path / "other.csv", ROWS[:5]))
    assert rows_of(data.test) == sorted((row["text"], int(row["label"] == "yes")) for row in ROWS[:5])


def test_columns_can_be_named(tmp_path):
    rows = [{"review": row["text"], "stars": row["label"], "text": "no", "label": 7} for row in ROWS]
    data = load_labelled(write(tmp_path / "rows.jsonl", rows), text_column="review", label_column="stars")
    assert rows_of(data.train, data.eval) == sorted((row["text"], int(row["label"] == "yes")) for row in ROWS)


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_words_that_pandas_takes_for_missing(tmp_path, suffix):
    rows = [{"text": f"{word} {number}", "label": word} for number in range(40) for word in ("NA", "None", "null")]
    rows += [{"text": "NA", "label": "NA"}, {"text": "null", "label": "null"}]
    data = load_labelled(write(tmp_path / f"rows{suffix}", rows))
    assert data.labels == ["NA", "None", "null"]
    assert {"NA", "null"} <= {*data.train["text"], *data.eval["text"]}


# ---------------------------------------------------------------- what labels are called


def labelled_rows(labels: list) -> list[dict]:
    return [{"text": f"text {number}", "label": labels[number % len(labels)]} for number in range(60)]


@pytest.mark.parametrize(
    ("labels", "given", "expected", "first"),
    [
        ([2, 0], None, ["0", "1", "2"], 2),
        ([1, 0], ["bad", "good"], ["bad", "good"], 1),
        ([True, False], None, ["0", "1"], 1),
        (["b", "a", "c"], None, ["a", "b", "c"], 1),
        (["b", "a", "c"], ["c", "b", "a"], ["c", "b", "a"], 1),
    ],
)
def test_names_of_labels(tmp_path, labels, given, expected, first):
    data = load_labelled(write(tmp_path / "rows.jsonl", labelled_rows(labels)), label_names=given)
    assert data.labels == expected
    assert dict(rows_of(data.train, data.eval))["text 0"] == first


@pytest.fixture
def hub(monkeypatch):
    """What the Hub is asked for, and a data set to give."""
    asked = []

    def give(**splits: list[dict]) -> list[tuple[str, str | None]]:
        features = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})
        made = DatasetDict({name: Dataset.from_list(rows, features=features) for name, rows in splits.items()})

        def load_dataset(path: str, config: str | None) -> DatasetDict:
            asked.append((path, config))
            return made

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return asked

    return give


def test_hub_data_set_with_class_labels(hub):
    asked = hub(train=labelled_rows([1, 0]), validation=labelled_rows([0, 1])[:4], test=labelled_rows([1])[:3])
    data = load_labelled("glue:sst2")
    assert asked == [("glue", "sst2")]
    assert data.labels == ["neg", "pos"]
    assert (len(data.train), len(data.eval), len(data.test)) == (60, 4, 3)
    assert data.test["label"] == [1, 1, 1]
    assert load_labelled("glue", label_names=["bad", "good"]).labels == ["bad", "good"]
    assert asked[-1] == ("glue", None)


def test_a_test_split_with_secret_labels_is_left_out(hub):
    hub(train=labelled_rows([1, 0]), test=labelled_rows([-1]))
    assert load_labelled("glue:sst2").test is None


def test_hub_data_set_without_training_split(hub):
    hub(unsupervised=labelled_rows([0]))
    assert "no train split; it has unsupervised" in error_of("some/thing")


@pytest.mark.parametrize("kind", [ConnectionError, datasets.exceptions.DatasetGenerationError, RuntimeError])
def test_unreachable_hub(monkeypatch, kind):
    def load_dataset(*_) -> None:
        raise kind("no\nnetwork")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert error_of("imdb") == "dataset 'imdb' is neither a path nor a data set that the Hub gives: no network"


# ---------------------------------------------------------------- the builtin labels


def test_builtin_labels(monkeypatch, tmp_path):
    """The packages with most documents, as many of each as the limit says, divided by hash."""
    documents = [
        {"id": f"{package}/module:f{number}", "text": f"Documentation of {package}, part {number}."}
        for package, count in (("torch", 50), ("numpy", 70), ("rich", 30), ("tiny", 3))
        for number in range(count)
    ]
    path = tmp_path / "builtin.jsonl"
    path.write_bytes(as_json_lines(documents))
    monkeypatch.setattr(corpus_module, "prepare_builtin_corpus", lambda _: path)
    monkeypatch.setattr(corpus_module, "builtin_fingerprint", lambda: "fixed")
    monkeypatch.setattr(labelled, "BUILTIN_LABELS", 3)
    monkeypatch.setattr(labelled, "BUILTIN_PER_LABEL", 40)
    data = load_labelled("builtin")
    assert data.labels == ["numpy", "rich", "torch"]
    rows = rows_of(data.train, data.eval)
    assert len(rows) == 40 + 30 + 40
    assert all(data.labels[label] in text for text, label in rows)
    again = load_labelled("builtin")
    assert (again.train["text"], again.eval["text"]) == (data.train["text"], data.eval["text"])
    assert data.train["label"] != sorted(data.train["label"]), "mixed"


# ---------------------------------------------------------------- mistakes


def test_missing_sources(tmp_path):
    assert error_of(tmp_path / "no.csv.gz").endswith("no.csv.gz does not exist")
    (tmp_path / "text.txt").write_text("text")
    assert "text.txt is none of .jsonl, .json, .csv, .tsv, .parquet" in error_of(tmp_path / "text.txt")
    assert "has no training file" in error_of(tmp_path)
    source = write(tmp_path / "rows.jsonl", ROWS)
    assert "test_dataset" in error_of(source, test_source=str(tmp_path / "none.csv"))
    assert "test_dataset" in error_of(source, test_source=str(tmp_path))


def test_missing_columns_are_named(tmp_path):
    source = write(tmp_path / "rows.jsonl", ROWS)
    message = error_of(source, label_column="class")
    assert "the train split" in message
    assert "has no column 'class'; it has text, label" in message
    assert "--label_column" in message
    other = write(tmp_path / "test.jsonl", [{"sentence": "a", "label": "no"}])
    assert "the test split" in error_of(source, test_source=other)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.xz", ".jsonl.zst", ".json", ".parquet"])
def test_unreadable_files(tmp_path, suffix):
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(b"\x01{nonsense")
    assert error_of(path).startswith(f"cannot read {path}: ")
    path.write_bytes(b"")
    assert error_of(path) == f"{path} is empty"


@pytest.mark.parametrize("end", [".gz", ".xz"])
def test_truncated_and_empty_compressed_files(tmp_path, end):
    path = tmp_path / f"rows.jsonl{end}"
    path.write_bytes(COMPRESS[end](as_json_lines(ROWS) * 50)[:-20])
    assert error_of(path).startswith(f"cannot read {path}: ")
    path.write_bytes(COMPRESS[end](b""))
    assert error_of(path) == f"{path} is empty once decompressed"


def test_tables_without_rows_and_without_utf8(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(b"text,label\n")
    assert error_of(path).startswith(f"cannot read {path}: ")
    path.write_bytes("text,label\ngroß,ö\n".encode("latin-1"))
    assert "utf-8" in error_of(path)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([["a"], ["b"]], "must hold one label for every text"),
        ([{"a": 1}, {"a": 2}], "must hold one label for every text"),
        (["a", None], "must hold one label for every text"),
        ([0.5, 1.5], "must hold class ids or names"),
        ([-1, 0], "must be 0 or more, but column 'label' holds -1"),
        ([0, 5_000_000_000], "holds 5,000,000,000"),
        (["same"], r"holds one label only (same)"),
        ([0], "holds one label only (0)"),
    ],
)
def test_labels_that_are_none(tmp_path, labels, message):
    assert message in error_of(write(tmp_path / "rows.jsonl", labelled_rows(labels)))


def test_given_names_that_do_not_fit(tmp_path):
    numbers = write(tmp_path / "numbers.jsonl", labelled_rows([0, 1]))
    assert "gives 3 names, but there are 2 labels" in error_of(numbers, label_names=["a", "b", "c"])
    names = write(tmp_path / "names.jsonl", labelled_rows(["neg", "pos"]))
    message = error_of(names, label_names=["negative", "positive"])
    assert "gives ['negative', 'positive'], but column 'label' holds the names ['neg', 'pos']" in message


@pytest.mark.parametrize(
    ("train", "test"), [([0, 1], 2), ([0, 1], "x"), (["a", "b"], "c"), ([0, 1], 0.5), ([0, 1], None)]
)
def test_other_splits_have_the_labels_of_the_training_split(tmp_path, train, test):
    source = write(tmp_path / "train.jsonl", labelled_rows(train))
    other = write(tmp_path / "test.jsonl", [{"text": "b", "label": test}])
    message = error_of(source, test_source=other)
    assert f"the test split has the label {test!r}, which the training split does not have" in message


@pytest.mark.parametrize("text", [None, 7, ["a"]])
def test_texts_that_are_none(tmp_path, text):
    rows = [{"text": text, "label": number % 2} for number in range(40)]
    assert "column 'text' of the train split must hold text" in error_of(write(tmp_path / "rows.jsonl", rows))


def test_too_few_to_hold_some_out(tmp_path):
    texts = [text for text in (f"text {number}" for number in range(50)) if document_hash(text) > 2**64 // 10][:2]
    rows = [{"text": text, "label": label} for label, text in enumerate(texts)]
    assert "has 2 examples, too few to hold some out" in error_of(write(tmp_path / "rows.jsonl", rows))
