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
from hf_minibert.data.documents import document_hash
from hf_minibert.errors import UserError
from hf_minibert.finetuning import labelled
from hf_minibert.finetuning.labelled import LABELS_SHOWN, label_counts, load_labelled

ROWS = [{"text": f"Satz {number}, größer als „so“.", "label": ["no", "yes"][number % 2]} for number in range(60)]


def as_json_lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_table(rows: list[dict], delimiter: str, **options) -> bytes:
    file = io.StringIO()
    writer = csv.DictWriter(file, rows[0].keys(), delimiter=delimiter, **options)
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
    ".tsv": lambda rows: "".join(
        "\t".join(map(str, row)) + "\n" for row in (rows[0], *map(dict.values, rows))
    ).encode(),
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
    assert data.train.column_names == data.eval.column_names == ["text", "label", "row"]
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


# ---------------------------------------------------------------- what labels are called


def labelled_rows(labels: list) -> list[dict]:
    return [{"text": f"text {number}", "label": labels[number % len(labels)]} for number in range(60)]


def labels_of(rows: list[dict], path: Path, **options) -> tuple[list[str], list[str]]:
    """The labels' names, and that of each row, in the order of the rows."""
    data = load_labelled(write(path, rows), **options)
    by_text = dict(rows_of(data.train, data.eval))
    return data.labels, [data.labels[by_text[row["text"]]] for row in rows]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["1", "2", "other"], ["1", "2", "other"]),
        (["007", "010", "002"], ["002", "007", "010"]),
        (["5", "4", "3", "2", "1"], ["1", "2", "3", "4", "5"]),
        (["10", "9", "-1", "1.5", "b", "10 a"], ["-1", "1.5", "9", "10", "10 a", "b"]),
        (["1.0", "1", "0"], ["0", "1", "1.0"]),
        (["NA", "None", "null", "nan"], ["NA", "None", "nan", "null"]),
        (["True", "False"], ["False", "True"]),
        (["1e3", "1000", "١"], ["1000", "1e3", "١"]),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_a_label_is_what_the_user_wrote(tmp_path, suffix, labels, names):
    path = tmp_path / f"rows{suffix}"
    rows = labelled_rows(labels)
    assert labels_of(rows, path) == (names, [row["label"] for row in rows])


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([2, 0], ["0", "2"]),
        ([1, "1", 1.0, "two"], ["1", "two"]),
        ([True, False, "true"], ["false", "true"]),
        ([0.5, 1.5], ["0.5", "1.5"]),
        ([5_000_000_000, -1], ["-1", "5000000000"]),
        ([" good", "good ", "\tbad"], ["bad", "good"]),
    ],
)
def test_a_label_of_json_is_its_text(tmp_path, labels, names):
    assert labels_of(labelled_rows(labels), tmp_path / "rows.jsonl")[0] == names


def test_labels_that_look_alike_are_named(tmp_path):
    labels = ["Yes", "yes", "no", "caf\xe9", "cafe\u0301", "n\u200bo"]
    rows = [{"text": f"{label} {number}", "label": label} for label in labels for number in range(20)]
    data = load_labelled(write(tmp_path / "rows.jsonl", rows))
    assert len(data.labels) == 6
    alike = [r"'Yes' and 'yes'", r"'caf\xe9' and 'cafe\u0301'", r"'no' and 'n\u200bo'"]
    assert all(pair in data.notes[0] or " and ".join(pair.split(" and ")[::-1]) in data.notes[0] for pair in alike)


def test_a_label_is_the_same_in_every_file(tmp_path):
    """Also where a file has some of the labels only, and where its format has another type for them."""
    train = [1, 2, "other"]
    write(tmp_path / "train.jsonl", labelled_rows(train))
    (tmp_path / "dev.csv").write_text("text,label\na,1\nb,2\n")
    with_gap = pa.table({"text": ["a", "b"], "label": pa.array([2.0, 1.0])})
    pq.write_table(with_gap, tmp_path / "test.parquet")
    data = load_labelled(str(tmp_path))
    assert data.labels == ["1", "2", "other"]
    assert data.eval["label"] == [0, 1]
    assert data.test["label"] == [1, 0]


def test_categories_and_integers_of_parquet(tmp_path):
    texts = [f"text {number}" for number in range(40)]
    for values, names in (
        (pa.array(["b", "a"] * 20).dictionary_encode(), ["a", "b"]),
        (pa.array([3, 12] * 20, pa.int8()).dictionary_encode(), ["3", "12"]),
        (pa.array([3, 12] * 20, pa.uint16()), ["3", "12"]),
        (pa.array([True, False] * 20), ["false", "true"]),
        (pa.array(["b", "a"] * 20, pa.large_string()), ["a", "b"]),
    ):
        pq.write_table(pa.table({"text": texts, "label": values}), tmp_path / "rows.parquet")
        assert load_labelled(str(tmp_path / "rows.parquet")).labels == names


@pytest.mark.parametrize(
    ("labels", "given", "first"),
    [
        ([1, 0], ["bad", "good"], "good"),
        (["1", "0"], ["bad", "good"], "good"),
        ([2, 0, 1], ["1", "2", "3"], "3"),  # what class ids mean may be a number
        ([2, 1, 3], ["3", "2", "1"], "2"),  # these are the labels themselves
        (["b", "a", "c"], ["c", "b", "a"], "b"),
    ],
)
def test_given_names_are_the_labels_in_order_or_what_class_ids_mean(tmp_path, labels, given, first):
    rows = labelled_rows(labels)
    names, of_rows = labels_of(rows, tmp_path / "rows.jsonl", label_names=given)
    assert names == given
    assert of_rows[0] == first


def test_given_names_are_read_alike_in_every_file(tmp_path):
    write(tmp_path / "train.jsonl", labelled_rows([0, 1, 2]))
    (tmp_path / "dev.csv").write_text("text,label\na,1\nb,2\n")
    data = load_labelled(str(tmp_path), label_names=["1", "2", "3"])
    assert data.eval["label"] == [1, 2]
    (tmp_path / "dev.csv").write_text("text,label\na,two\nb,2\n")
    assert load_labelled(str(tmp_path), label_names=["one", "two", "three"]).eval["label"] == [1, 2]


def with_class_ids(path: Path, labels: list[int | None], names: list[str]) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    rows = {"text": [f"text {number}" for number in range(len(labels))], "label": labels}
    Dataset.from_dict(rows, features=features).to_parquet(path)


def test_class_ids_of_parquet_have_the_names_that_its_schema_has(tmp_path):
    with_class_ids(tmp_path / "train.parquet", [0, 1] * 20, ["neg", "pos"])
    with_class_ids(tmp_path / "dev.parquet", [0, 1], ["pos", "neg"])
    (tmp_path / "test.csv").write_text("text,label\na,pos\n")
    data = load_labelled(str(tmp_path))
    assert data.labels == ["neg", "pos"]
    assert (data.eval["label"], data.test["label"]) == ([1, 0], [1])
    data = load_labelled(str(tmp_path), label_names=["pos", "neg"])
    assert (data.train["label"][:2], data.eval["label"], data.test["label"]) == ([1, 0], [0, 1], [0])
    data = load_labelled(str(tmp_path), label_names=["bad", "good"])
    assert data.labels == ["bad", "good"]
    assert (data.eval["label"], data.test["label"]) == ([1, 0], [1])
    assert "'pos' is class id 1" in error_of(tmp_path, label_names=["pos", "x"]).replace("pos is", "'pos' is")
    with_class_ids(tmp_path / "dev.parquet", [0, -1], ["pos", "neg"])
    assert "dev.parquet, row 2 has no label" in error_of(tmp_path)


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


@pytest.mark.parametrize("secret", [-1, None])
def test_a_test_split_with_secret_labels_is_left_out_and_that_is_said(hub, secret):
    hub(train=labelled_rows([1, 0]), test=labelled_rows([secret]))
    data = load_labelled("glue:sst2")
    assert data.test is None
    assert "not measured: the test split of glue:sst2, which has no labels" in data.notes[0]
    assert data.notes[1:] == [f"no evaluation split: {len(data.eval)} of 60 texts are held out, by their hash"]


def test_a_test_file_without_labels_is_refused_and_minus_one_can_be_a_label(tmp_path):
    source = write(tmp_path / "train.jsonl", labelled_rows(["a", "b"]))
    test = write(tmp_path / "test.jsonl", labelled_rows([-1]))
    assert f"test_dataset {test} has no labels, only -1" in error_of(source, test_source=test)
    write(tmp_path / "train.jsonl", labelled_rows([-1, 0, 1]))
    data = load_labelled(source, test_source=test)
    assert data.labels == ["-1", "0", "1"]
    assert set(data.test["label"]) == {0}


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
    assert "no.csv.gz does not exist" in error_of(tmp_path / "no.csv.gz")
    (tmp_path / "text.txt").write_text("text")
    assert "text.txt is none of .jsonl, .json, .csv, .tsv, .parquet" in error_of(tmp_path / "text.txt")
    assert "has no training file" in error_of(tmp_path)
    source = write(tmp_path / "rows.jsonl", ROWS)
    assert "test_dataset" in error_of(source, test_source=str(tmp_path / "none.csv"))
    assert "test_dataset" in error_of(source, test_source=str(tmp_path))


def test_missing_columns_are_named(tmp_path):
    source = write(tmp_path / "rows.jsonl", ROWS)
    message = error_of(source, label_column="class")
    assert "rows.jsonl, line 1 has no column 'class'; it has text, label (name yours with --label_column)" in message
    other = write(tmp_path / "test.jsonl", [{"sentence": "a", "label": "no"}])
    assert "test.jsonl, line 1 has no column 'text'" in error_of(source, test_source=other)
    assert "are both 'text'" in error_of(source, label_column="text")


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (["a"], "rows.jsonl, line 2: the label is a list (['a']), not a text or a number"),
        ({"a": 1}, "rows.jsonl, line 2: the label is a dict"),
        (float("inf"), "rows.jsonl, line 2: the label is a float (inf)"),
        (None, "rows.jsonl, line 2 has no label in the column 'label'"),
        (float("nan"), "rows.jsonl, line 2 has no label"),
        ("", "rows.jsonl, line 2 has no label"),
        (" \t", "rows.jsonl, line 2 has no label"),
    ],
)
def test_labels_that_are_none(tmp_path, label, message):
    rows = labelled_rows(["a", "b"])
    rows[1]["label"] = label
    assert message in error_of(write(tmp_path / "rows.jsonl", rows))


def test_a_missing_label_is_told_by_its_line(tmp_path):
    (tmp_path / "rows.csv").write_text('text,label\n"two\nlines",a\nb,\n')
    assert "rows.csv, line 4 has no label" in error_of(tmp_path / "rows.csv")
    pq.write_table(pa.table({"text": ["a", "b"], "label": pa.array([1.0, None])}), tmp_path / "rows.parquet")
    assert "rows.parquet, row 2 has no label" in error_of(tmp_path / "rows.parquet")


@pytest.mark.parametrize("label", ["same", 0])
def test_one_label_is_too_few(tmp_path, label):
    assert f"holds one label only ({label})" in error_of(write(tmp_path / "rows.jsonl", labelled_rows([label])))


def test_given_names_that_do_not_fit(tmp_path):
    numbers = write(tmp_path / "numbers.jsonl", labelled_rows([0, 1]))
    message = error_of(numbers, label_names=["a", "b", "c"])
    assert "gives 3 names (a, b, c), but there are 2 labels: no training text has the label c" in message
    assert "the column 'label' holds 0, 1;" in error_of(numbers, label_names=["a"])
    assert "gives the name 'a' twice" in error_of(numbers, label_names=["a", "a"])
    assert "gives the name ''" in error_of(numbers, label_names=["a", " "])
    names = write(tmp_path / "names.jsonl", labelled_rows(["neg", "pos"]))
    message = error_of(names, label_names=["negative", "positive"])
    assert "gives 2 names (negative, positive), but the column 'label' holds neg, pos" in message
    mixed = write(tmp_path / "mixed.jsonl", labelled_rows(["neg", "1"]))
    assert "holds 1, neg;" in error_of(mixed, label_names=["neg", "pos"])


@pytest.mark.parametrize(("train", "test"), [([0, 1], 2), ([0, 1], "x"), (["a", "b"], "c"), ([0, 1], 0.5)])
def test_a_label_that_the_training_split_lacks_is_told_with_its_place(tmp_path, train, test):
    source = write(tmp_path / "train.jsonl", labelled_rows(train))
    other = write(tmp_path / "test.jsonl", [{"text": "a", "label": train[0]}, {"text": "b", "label": test}])
    message = error_of(source, test_source=other)
    assert f"the test split has the label '{test}' ({other}, line 2), which the training split does not have" in message


@pytest.mark.parametrize(("text", "kind"), [(None, "missing value"), (7, "int"), (["a"], "list")])
def test_texts_that_are_none(tmp_path, text, kind):
    rows = labelled_rows(["a", "b"])
    rows[2]["text"] = text
    message = error_of(write(tmp_path / "rows.jsonl", rows))
    assert f"rows.jsonl, line 3: the column 'text' must hold text, but it holds a {kind}" in message


def test_an_empty_text_is_a_text(tmp_path):
    rows = [*labelled_rows(["a", "b"]), {"text": "", "label": "a"}]
    for suffix in (".csv", ".tsv", ".jsonl"):
        data = load_labelled(write(tmp_path / f"rows{suffix}", rows))
        assert ("", 0) in rows_of(data.train, data.eval)


def test_of_a_few_texts_one_is_held_out_with_its_copies(tmp_path):
    texts = [text for text in (f"text {number}" for number in range(50)) if document_hash(text) > 2**64 // 10][:5]
    rows = [{"text": text, "label": "ab"[number % 2]} for number, text in enumerate(texts)]
    data = load_labelled(write(tmp_path / "rows.jsonl", rows * 2))
    assert data.eval["text"][:] == [min(texts, key=document_hash)] * 2
    assert len(data.train) == 8
    data = load_labelled(write(tmp_path / "rows.jsonl", [*rows * 2, *rows[:4] * 3]))
    assert data.eval["text"][:] == [texts[4]] * 2, "the one with the fewest copies"
    message = error_of(write(tmp_path / "rows.jsonl", rows[:2] * 1_000))
    assert "has 2,000 texts, 2 of them different: too few different ones to hold some out" in message


def test_a_test_file_without_a_column_of_labels_is_not_measured(tmp_path):
    for split in ("train", "eval"):
        write(tmp_path / f"{split}.csv", labelled_rows(["a", "b"]))
    (tmp_path / "test.csv").write_text("text\none\ntwo\n")
    data = load_labelled(str(tmp_path))
    assert data.test is None
    assert len(data.eval) == len(data.train)
    assert f"not measured: {tmp_path / 'test.csv'}, which has no labels" in data.notes[0]
    named = error_of(str(tmp_path), test_source=str(tmp_path / "test.csv"))
    assert "test.csv has no column 'label'" in named
    write(tmp_path / "dev.csv", labelled_rows(["a", "b"])[:4])
    assert len(load_labelled(str(tmp_path)).eval) == 4, "eval.csv is the evaluation split where no other is"
    (tmp_path / "dev.csv").unlink()
    for split in ("train", "eval"):
        write(tmp_path / f"{split}.csv", labelled_rows([-1, 1]))
    assert load_labelled(str(tmp_path)).test is None


def test_a_column_in_the_text_is_no_label(tmp_path):
    rows = [{"question": f"Who {n}?", "answer": f"me {n % 3}", "is_right": n % 2} for n in range(40)]
    source = write(tmp_path / "rows.jsonl", rows)
    asked = {"eval_source": source, "text_column": "{question} {answer}"}
    assert "has no column 'label'; it has is_right" in error_of(source, **asked)
    assert "label_column 'answer' also stands in the text" in error_of(source, label_column="answer", **asked)
    assert load_labelled(source, label_column="is_right", **asked).labels == ["0", "1"]


# ---------------------------------------------------------------- what a person sees


def test_counts_of_labels():
    def split(labels: list[int]) -> Dataset:
        return Dataset.from_dict({"label": labels})

    lines = label_counts(["bad", "very good"], {"train": split([0] * 1_200 + [1]), "eval": split([1])})
    assert lines == [
        "label         train      eval",
        "bad           1,200         0",
        "very good         1         1",
    ]
    lines = label_counts([f"label {number}\n" for number in range(10_000)], {"train": split(list(range(10_000)))})
    assert len(lines) == 1 + LABELS_SHOWN + 1
    assert lines[1].startswith("label 0\\n ")
    assert lines[-1] == "and 9,980 more labels"


@pytest.mark.parametrize(
    ("columns", "text", "pair", "label"),
    [
        (["id", "sentence", "label"], "sentence", None, "label"),
        (["Text", "sentence", "Label"], "Text", None, "Label"),
        (["idx", "sentence1", "sentence2", "score"], "sentence1", "sentence2", "score"),
        (["premise", "hypothesis", "label", "idx"], "premise", "hypothesis", "label"),
        (["question", "title", "answer", "passage"], "question", "passage", "answer"),
        (["text", "sentence1", "sentence2", "label"], "text", None, "label"),
        (["Text", "text_pair", "label"], "Text", "text_pair", "label"),
    ],
)
def test_columns_with_usual_names_are_found(columns, text, pair, label):
    given = dict.fromkeys(["text_column", "text_pair_column", "label_column"])
    expected = {"text_column": text, "label_column": label} | ({"text_pair_column": pair} if pair else {})
    assert labelled.choose_columns(columns, "t.csv", given) == expected


def test_a_label_is_a_column_and_no_sentence(tmp_path):
    (tmp_path / "t.csv").write_text("text,stars,label\na,1,x\nb,2,y\n")
    with pytest.raises(UserError, match=r"no column '\{stars\}'"):
        labelled.load_labelled(str(tmp_path / "t.csv"), label_column="{stars}")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["sentence", "review", "label"], "t.csv has the columns sentence, review; say which one with --text_column"),
        (["text", "score", "class"], "t.csv has the columns score, class; say which one with --label_column"),
        (["text", "label", "text"], "t.csv has two columns 'text'; rename one"),
        (["words", "label"], "t.csv has no column 'text'; it has words, label (name yours with --text_column)"),
        (["text", "mood"], "t.csv has no column 'label'; it has text, mood (name yours with --label_column)"),
    ],
)
def test_columns_that_could_be_several_or_none(columns, message):
    given = dict.fromkeys(["text_column", "text_pair_column", "label_column"])
    with pytest.raises(UserError) as caught:
        labelled.choose_columns(columns, "t.csv", given)
    assert str(caught.value) == message


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_many_fractions_are_scores_in_every_format(tmp_path, suffix):
    rows = [{"text": f"Text {n}", "label": n / 7 if n else 5e-05} for n in range(60)]
    source = write(tmp_path / f"rows.{suffix}", rows)
    assert load_labelled(source, eval_source=source).problem_type == "regression"
    few = write(tmp_path / f"few.{suffix}", [{"text": f"Text {n}", "label": n % 5} for n in range(60)])
    assert load_labelled(few, eval_source=few).problem_type == "single_label_classification"


def test_columns_in_a_sentence(tmp_path):
    rows = [{"text": f"He saw {n}.", "one": "He", "two": f"{n}", "label": n % 2} for n in range(40)]
    source = write(tmp_path / "rows.jsonl", rows)
    asked = {"text_column": 'Is "{one}" the same as {two}?', "text_pair_column": "text"}
    data = load_labelled(source, eval_source=source, **asked)
    assert data.eval["text"][3] == 'Is "He" the same as 3?'
    assert data.eval["text_pair"][3] == "He saw 3."
    named = write(tmp_path / "braces.jsonl", [{"{text}": f"He saw {n}.", "label": n % 2} for n in range(40)])
    assert load_labelled(named, eval_source=named, text_column="{text}").eval["text"][3] == "He saw 3."
    message = error_of(source, text_column="{one} and {three}")
    assert message.endswith(
        "rows.jsonl has no column 'three'; it has text, one, two, label (name yours with --text_column)"
    )


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (labelled_rows([["a"], ["b"]]), {"label_names": ["a", "c"]}, "the column 'label' holds a, b"),
        (labelled_rows([["a"], ["b", None]]), {}, "line 2: one of the labels in the column 'label' is missing"),
        (labelled_rows([[]]), {}, "no text of"),
        (labelled_rows(["3", "x"]), {"problem_type": "regression"}, "line 2: 'x' in the column 'label' is no number"),
        (labelled_rows(["3", "1_0"]), {"problem_type": "regression"}, "line 2: '1_0' in the column 'label' is no num"),
        (labelled_rows([1.5, None]), {"problem_type": "regression"}, "line 2: a missing value in the column"),
        (labelled_rows(["a", "b"]), {"problem_type": "multi_label_classification"}, "'a' is no list of labels"),
        (labelled_rows([[0, 1, 0], [1, 1, 0]]), {}, "[0, 1, 0] has a number twice; write the labels that the text has"),
        (labelled_rows([["0", "1", "0"], ["1", "1", "0"]]), {}, "has a number twice; write the labels that the text"),
        (labelled_rows(["0;1;0", "1;1;0"]), {"label_separator": ";"}, "has a number twice; write the labels that the"),
        (labelled_rows([[0, 1], [1, 0]]), {}, "have the same labels (0, 1); write the labels that a text has"),
        (labelled_rows([0.5, 1.5]), {"problem_type": "regression", "label_names": ["a"]}, "names classes, but"),
        (labelled_rows(["a", "b"]), {"label_separator": ";", "problem_type": "regression"}, "parts the labels of"),
    ],
)
def test_labels_that_are_not_what_the_problem_needs(tmp_path, rows, options, message):
    assert message in error_of(write(tmp_path / "rows.jsonl", rows), **options)
