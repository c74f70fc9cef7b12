"""Every task, in every form of input, with files for each split; and what is wrong in them, as one line."""

import csv
import gzip
import io
import json
import lzma
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from hf_minibert.errors import UserError
from hf_minibert.finetuning.arguments import FinetuneArguments, TaskName
from hf_minibert.finetuning.finetune import finetune
from hf_minibert.finetuning.tasks import TASKS

Row = dict[str, Any]

WORDS = ["Ann", "met", "Bob", "in", "Rome"]
ROWS: dict[TaskName, list[Row]] = {
    "text-classification": [{"text": f"a text of {word}", "label": "ab"[at % 2]} for at, word in enumerate(WORDS)],
    "token-classification": [
        {"tokens": ["Hello", word, "!"], "tags": ["O", "B-LOC" if at % 2 else "B-PER", "O"]}
        for at, word in enumerate(WORDS)
    ],
    "question-answering": [
        {
            "id": f"q{at}",
            "question": "Who came?",
            "context": f"Here comes {word}.",
            "answers": {"text": [word], "answer_start": [11]},
        }
        for at, word in enumerate(WORDS)
    ],
    "multiple-choice": [
        {"question": f"Who is {word}?", "choices": ["a man", "a town", "a dog"][: 2 + at % 2], "label": at % 2}
        for at, word in enumerate(WORDS)
    ],
    "causal-lm": [{"text": f"a text of {word}"} for word in WORDS],
    "translation": [{"en": f"the {word}", "de": f"das {word}"} for word in WORDS],
}
FORMS: dict[TaskName, tuple[str, ...]] = {
    "text-classification": ("csv", "tsv", "json", "jsonl", "parquet", "csv.gz", "tsv.xz"),
    "token-classification": ("json", "jsonl", "parquet", "conll", "conll.xz", "jsonl.gz"),
    "question-answering": ("json", "jsonl", "parquet", "json.gz", "nested.json"),
    "multiple-choice": ("csv", "tsv", "json", "jsonl", "parquet", "jsonl.xz"),
    "causal-lm": ("csv", "tsv", "json", "jsonl", "parquet", "txt", "txt.gz", "jsonl.gz"),
    "translation": ("csv", "tsv", "json", "jsonl", "parquet", "text", "text.gz", "tsv.gz"),
}
FAMILY = {"causal-lm": "minigpt-tiny"}


def save(path: Path, content: bytes) -> None:
    opened = {".gz": gzip.compress, ".xz": lzma.compress}.get(path.suffix)
    path.write_bytes(opened(content) if opened else content)


def write(folder: Path, name: str, form: str, rows: list[Row]) -> str:
    """Rows in a file of a form. Returns what a user names."""
    path, kind = folder / f"{name}.{form}", form.split(".")[0]
    if kind == "text":
        for language in ("en", "de"):
            lines = "".join(row[language] + "\n" for row in rows)
            save(folder / f"{name}.{language}{form.removeprefix('text')}", lines.encode())
        return str(folder / name)
    if kind == "parquet":
        Dataset.from_list(rows).to_parquet(path)
        return str(path)
    if kind == "conll":
        sentences = ["".join(f"{w} {t}\n" for w, t in zip(row["tokens"], row["tags"], strict=True)) for row in rows]
        text = "\n".join(sentences)
    elif kind == "txt":
        text = "\n\n".join(row["text"] for row in rows) + "\n"
    elif kind == "nested":
        path = folder / f"{name}.json"
        paragraphs = [
            {
                "context": row["context"],
                "qas": [
                    {
                        "id": row["id"],
                        "question": row["question"],
                        "answers": [{"text": row["answers"]["text"][0], "answer_start": 11}],
                    }
                ],
            }
            for row in rows
        ]
        text = json.dumps({"version": "1.1", "data": [{"title": "x", "paragraphs": paragraphs}]})
    elif kind in ("csv", "tsv"):
        written, flat = io.StringIO(), [flattened(row) for row in rows]
        table = csv.DictWriter(
            written, max(flat, key=len), restval="", delimiter="," if kind == "csv" else "\t", lineterminator="\n"
        )
        table.writeheader()
        table.writerows(flat)
        text = written.getvalue()
    elif kind == "json":
        text = json.dumps(rows)
    else:
        text = "".join(json.dumps(row) + "\n" for row in rows)
    save(path, text.encode())
    return str(path)


def flattened(row: Row) -> Row:
    """Lists in columns of their own, choice0, choice1, ..."""
    choices = {f"choice{at}": choice for at, choice in enumerate(row.get("choices", []))}
    rest = {name: value for name, value in row.items() if name not in ("choices", "label")}
    return rest | choices | ({"label": row["label"]} if "label" in row else {})


def arguments_of(task: TaskName, folder: Path, **given: Any) -> FinetuneArguments:
    more = {"source_lang": "en"} if task == "translation" else {}
    model = FAMILY.get(task, "minibert-tiny")
    return FinetuneArguments(task=task, model=model, output_dir=str(folder / "out"), **more | given)


@pytest.mark.parametrize(("task", "form"), [(task, form) for task, forms in FORMS.items() for form in forms])
def test_files_of_splits_are_those_of_a_folder(task: TaskName, form: str, tmp_path: Path) -> None:
    rows = ROWS[task]
    parts = {"train": rows, "dev": rows[1:], "test": rows[2:]}
    places = {name: write(tmp_path, name, form, some) for name, some in parts.items()}
    named = TASKS[task](
        arguments_of(task, tmp_path, dataset=places["train"], eval_dataset=places["dev"], test_dataset=places["test"])
    ).read()
    together = TASKS[task](arguments_of(task, tmp_path, dataset=str(tmp_path))).read()
    sizes = {split: len(some) for split, some in named.splits.items()}
    assert sizes == dict.fromkeys(sizes, 1) if form.startswith("txt") else {"train": 5, "eval": 4, "test": 3}
    for split, some in together.splits.items():
        assert some.to_list() == named.splits[split].to_list()


@pytest.mark.parametrize("task", TASKS)
def test_a_file_of_a_split_replaces_that_of_the_folder(task: TaskName, tmp_path: Path) -> None:
    rows = ROWS[task]
    (tmp_path / "data").mkdir()
    for name in ("train", "dev", "test"):
        write(tmp_path / "data", name, "jsonl", rows)
    other = write(tmp_path, "other", "jsonl", rows[3:])
    data = TASKS[task](arguments_of(task, tmp_path, dataset=str(tmp_path / "data"), eval_dataset=other)).read()
    assert [len(data.splits[split]) for split in ("train", "eval", "test")] == [5, 2, 5]
    assert any("not read: dev.jsonl" in note for note in data.notes)


def changed(task: TaskName, **fields: Any) -> list[Row]:
    """The rows of a task, the last one with other values; a value of None takes the column away from all of them."""
    gone = {name for name, value in fields.items() if value is None}
    rows = [{name: value for name, value in row.items() if name not in gone} for row in ROWS[task]]
    rows[-1] = rows[-1] | {name: value for name, value in fields.items() if value is not None}
    return rows


def alike(task: TaskName, **fields: Any) -> list[Row]:
    return [row | fields for row in ROWS[task]]


def squad(**answers: Any) -> Row:
    return {"answers": {"text": ["Rome"], "answer_start": [11]} | answers}


WRONG: dict[str, tuple[TaskName, dict[str, list[Row]], dict[str, Any], str]] = {
    "text: wrong column": ("text-classification", {}, {"text_column": "body"}, "has no column 'body'"),
    "text: no label": ("text-classification", {"train": changed("text-classification", label="")}, {}, "line 5 has no"),
    "text: unseen": (
        "text-classification",
        {"dev": changed("text-classification", label="c")},
        {},
        r"the eval split has the label 'c' \(.*dev.jsonl, line 5\), which the training split does not have",
    ),
    "text: no text": ("text-classification", {"train": changed("text-classification", text=7)}, {}, "must hold text"),
    "text: one class": ("text-classification", {"train": alike("text-classification", label="a")}, {}, "one label"),
    "tags: wrong column": ("token-classification", {}, {"label_column": "ner"}, "has no column 'ner'"),
    "tags: missing": (
        "token-classification",
        {"train": changed("token-classification", tags=["O"])},
        {},
        "line 5 has 3 words and 1 tags; give every word one tag",
    ),
    "tags: unseen": (
        "token-classification",
        {"test": changed("token-classification", tags=["O", "B-ORG", "O"])},
        {},
        r"the test split has entities of type ORG \(.*line 5\), which the training split does not have",
    ),
    "tags: no words": (
        "token-classification",
        {"train": changed("token-classification", tokens=["Hello", 7, "!"])},
        {},
        "line 5 has the word 7; a word is a visible text",
    ),
    "tags: one class": (
        "token-classification",
        {"train": alike("token-classification", tags=["O", "O", "O"])},
        {},
        "all words of .*train.jsonl have the tag O; give others, too",
    ),
    "answers: wrong column": ("question-answering", {}, {"context_column": "body"}, "has no column 'body'"),
    "answers: missing": (
        "question-answering",
        {"dev": changed("question-answering", answers=[])},
        {},
        "the eval split has a question without an answer",
    ),
    "answers: none at all": (
        "question-answering",
        {name: alike("question-answering", answers=[]) for name in ("train", "dev", "test")},
        {},
        "no question of .*train.jsonl has an answer",
    ),
    "answers: spans that do not match": (
        "question-answering",
        {"train": alike("question-answering", **squad(answer_start=[3]))},
        {},
        "5 of 5 answers are not where answer_start says .*at 3 stands",
    ),
    "answers: a span that is none": (
        "question-answering",
        {"train": changed("question-answering", **squad(answer_start=[-1]))},
        {},
        r"answer_start is \[-1\]; give the place",
    ),
    "answers: no text": (
        "question-answering",
        {"train": changed("question-answering", context=7)},
        {},
        "line 5: the context is 7; give a text",
    ),
    "choices: wrong column": ("multiple-choice", {}, {"question_column": "body"}, "has no column 'body'"),
    "choices: no label": ("multiple-choice", {"train": changed("multiple-choice", label="")}, {}, "the label ''"),
    "choices: unseen": (
        "multiple-choice",
        {"dev": changed("multiple-choice", label=7)},
        {},
        "dev.jsonl, line 5: the label 7 is none of the 2 choices",
    ),
    "choices: no text": (
        "multiple-choice",
        {"train": changed("multiple-choice", choices=["a", 7])},
        {},
        "line 5: the choice is 7; give a text",
    ),
    "choices: one": ("multiple-choice", {"train": changed("multiple-choice", choices=["a"])}, {}, "give at least two"),
    "documents: wrong column": ("causal-lm", {}, {"text_column": "body"}, "has no column 'body'"),
    "documents: no text": ("causal-lm", {"dev": changed("causal-lm", text=7)}, {}, "line 5: text is 7, not a text"),
    "documents: empty texts": ("causal-lm", {"test": alike("causal-lm", text=" ")}, {}, "every text in it is empty"),
    "pairs: wrong column": ("translation", {}, {"target_lang": "fr"}, "has nothing in target_lang fr; it has en, de"),
    "pairs: missing": ("translation", {"dev": changed("translation", de=None)}, {}, "has no column 'de'"),
    "pairs: no text": ("translation", {"test": changed("translation", de=7)}, {}, "line 5: de is 7, not a text"),
    "pairs: empty texts": ("translation", {"train": alike("translation", de="")}, {}, "no pair with text on both"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_line_and_nothing_is_written(case: str, tmp_path: Path) -> None:
    task, others, given, message = WRONG[case]
    (tmp_path / "data").mkdir()
    for name in ("train", "dev", "test"):
        write(tmp_path / "data", name, "jsonl", others.get(name, ROWS[task]))
    refused(arguments_of(task, tmp_path, dataset=str(tmp_path / "data"), **given), message)


def refused(arguments: FinetuneArguments, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        finetune(arguments)
    assert "\n" not in str(error.value)
    assert not Path(arguments.output_dir).exists()


@pytest.mark.parametrize("option", ["dataset", "eval_dataset", "test_dataset"])
@pytest.mark.parametrize("task", TASKS)
def test_an_empty_file_and_one_that_is_missing(task: TaskName, option: str, tmp_path: Path) -> None:
    good = write(tmp_path, "good", "jsonl", ROWS[task])
    (tmp_path / "empty.jsonl").write_text("")
    for name, message in (("empty.jsonl", "empty.jsonl is empty"), ("nowhere.jsonl", "nowhere.jsonl")):
        refused(arguments_of(task, tmp_path, **{"dataset": good} | {option: str(tmp_path / name)}), message)
