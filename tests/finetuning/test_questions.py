"""Questions, their texts and answers, in every form in which SQuAD is written."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from hf_minibert.errors import UserError
from hf_minibert.finetuning.questions import load_questions

Question = dict[str, Any]


def question(name: str, context: str, answer: str | None, **more: Any) -> Question:
    """A question as the flat form has it."""
    start = None if answer is None else context.index(answer)
    answers = {"text": [], "answer_start": []} if answer is None else {"text": [answer], "answer_start": [start]}
    return {"id": name, "title": "T", "context": context, "question": f"What of {name}?", "answers": answers} | more


ONE, TWO = "The 👩‍👩‍👧 of José́ lives in Zürich.", "Oslo is north of Paris. The Oslo fjord is cold."
QUESTIONS = [
    question("a", ONE, "Zürich"),
    question("b", ONE, "José́"),
    question("c", TWO, "Oslo fjord"),
    question("d", TWO, None),
    *(question(f"e{number}", f"Text {number} says yes.", "yes") for number in range(40)),
]


def nested(rows: list[Question]) -> dict[str, Any]:
    """The same as SQuAD's own files have it, with an article a text."""
    by_context: dict[str, list[Question]] = {}
    for row in rows:
        texts = zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True)
        answers = [{"text": text, "answer_start": start} for text, start in texts]
        # What version 2.0 writes beside a question without an answer.
        plausible = [] if answers else [{"text": "cold", "answer_start": 42}]
        one = {"id": row["id"], "question": row["question"], "answers": answers, "is_impossible": not answers}
        by_context.setdefault(row["context"], []).append(one | {"plausible_answers": plausible})
    paragraphs = [{"context": context, "qas": qas} for context, qas in by_context.items()]
    return {"version": "v2.0", "data": [{"title": "T", "paragraphs": [one]} for one in paragraphs]}


def write(path: Path, rows: list[Question] = QUESTIONS) -> Path:
    """Questions in the form of the file's name."""
    if "nested" in str(path):
        text = json.dumps(nested(rows), indent=1)
    elif ".jsonl" in path.name:
        text = "".join(json.dumps(row) + "\n" for row in rows)
    elif path.name.endswith(".json"):
        text = json.dumps(rows)
    else:
        Dataset.from_list(rows).to_parquet(path)
        return path
    path.write_bytes(gzip.compress(text.encode()) if path.name.endswith(".gz") else text.encode())
    return path


FORMS = (
    "nested/train.json",
    "nested/train.json.gz",
    "flat/train.jsonl",
    "flat/train.jsonl.gz",
    "flat/train.json",
    "flat/train.parquet",
)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read_alike(tmp_path: Path, form: str) -> None:
    path = tmp_path / form
    path.parent.mkdir()
    data = load_questions(str(write(path)), test_source=str(write(path.with_name(path.name.replace("train", "test")))))
    assert data.may_lack
    read = {row["id"]: row for row in data.splits["test"]}
    assert list(read) == [row["id"] for row in QUESTIONS]
    for row in QUESTIONS:
        own, (start, *_) = read[row["id"]], [*row["answers"]["answer_start"], None]
        assert (own["question"], own["context"], own["answers"]) == (
            row["question"],
            row["context"],
            row["answers"]["text"],
        )
        assert own["start"] == start
    train, held = (set(data.splits[split]["context"]) for split in ("train", "eval"))
    assert train | held == {row["context"] for row in QUESTIONS}
    assert not train & held, "all questions of a text are on one side"
    assert any("held out, by the hash of their text" in note for note in data.notes)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (
            [{"text": "Zürich", "answer_start": 28}, {"text": "in Zürich", "answer_start": 25}],
            (["Zürich", "in Zürich"], 28),
        ),
        ({"text": ["Zürich"], "answer_start": [28]}, (["Zürich"], 28)),
        (["Zürich"], (["Zürich"], 28)),  # places are looked for
        ("Zürich", (["Zürich"], 28)),
        ({"text": ["Zürich"]}, (["Zürich"], 28)),
        ([], ([], None)),
        (None, ([], None)),
        ({"text": [], "answer_start": []}, ([], None)),
    ],
)
def test_answers_as_they_may_be_written(tmp_path: Path, answers: Any, expected: tuple[list[str], int | None]) -> None:
    rows = [question("a", ONE, "Zürich"), question("b", ONE, None) | {"answers": answers}]
    assert ONE.index("Zürich") == 28
    for name in ("train", "dev"):
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in [*rows, question("c", ONE, None)])
        )
    own = load_questions(str(tmp_path)).splits["eval"][1]
    assert (own["answers"], own["start"]) == expected


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_place_in_a_column_of_its_own_is_where_the_answer_is(tmp_path: Path, suffix: str) -> None:
    context = "The king saw the king."
    rows = [{"question": f"Who {at}?", "context": context, "answer": "the king", "answer_start": 13} for at in range(2)]
    rows.append({"question": "Who?", "context": context, "answer": "king", "answer_start": 17.0})  # as beside nulls
    for name in ("train", "dev"):
        if suffix == "jsonl":
            text = "".join(json.dumps(row) + "\n" for row in rows)
        else:
            text = "\n".join([",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)])
        (tmp_path / f"{name}.{suffix}").write_text(text)
    assert load_questions(str(tmp_path)).splits["train"]["start"][:] == [13, 13, 17]


@pytest.mark.parametrize(("suffix", "marks"), [("jsonl", [False, True, None]), ("csv", ["False", "True", ""])])
def test_a_question_of_a_table_may_be_marked_as_one_without_an_answer(
    tmp_path: Path, suffix: str, marks: list[Any]
) -> None:
    """As in SQuAD 2.0, where what stands beside it is only plausible."""
    rows = [
        {"question": f"Who {at}?", "context": "The king saw it.", "answer": "king", "is_impossible": mark}
        for at, mark in enumerate(marks)
    ]
    for name in ("train", "dev"):
        lines = [json.dumps(row) for row in rows]
        if suffix == "csv":
            lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
        (tmp_path / f"{name}.{suffix}").write_text("\n".join(lines) + "\n")
    data = load_questions(str(tmp_path))
    assert data.splits["eval"]["answers"][:] == [["king"], [], ["king"]]
    assert data.may_lack
    (tmp_path / f"train.{suffix}").write_text((tmp_path / f"train.{suffix}").read_text().replace("rue", "ruly"))
    if suffix == "csv":
        with pytest.raises(UserError, match="is_impossible is 'Truly'; give true or false"):
            load_questions(str(tmp_path))


@pytest.mark.parametrize("place", ["", ",answer_start"])
def test_an_empty_cell_is_no_answer(tmp_path: Path, place: str) -> None:
    gap = "," if place else ""
    rows = [
        f"question,context,answer{place}",
        f"Who?,The king saw it.,king{gap and ',4'}",
        f"Who else?,The king.,{gap}",
    ]
    for name in ("train", "dev"):
        (tmp_path / f"{name}.csv").write_text("\n".join(rows) + "\n")
    data = load_questions(str(tmp_path))
    assert data.splits["eval"]["answers"][:] == [["king"], []]
    assert data.may_lack


def test_other_columns_and_no_ids(tmp_path: Path) -> None:
    rows = [{"query": "Where?", "passage": ONE, "answer": "Zürich", "nr": number} for number in range(2)]
    for name in ("train", "dev"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = load_questions(str(tmp_path))
    assert data.notes == ["columns: question query, context passage, answers answer"]
    assert data.splits["eval"]["id"][:] == ["1", "2"]
    assert not data.may_lack
    named = load_questions(str(tmp_path), question_column="query", context_column="passage", answers_column="answer")
    assert named.notes == []


def test_answers_that_are_not_where_they_should_be_are_left_out_and_said(tmp_path: Path) -> None:
    """Up to one in a hundred; more are a fault of the file, also of one that is only measured."""
    wrong = question("wrong", ONE, "Zürich", answers={"text": ["Zürich"], "answer_start": [3]})
    gone = question("gone", ONE, None, answers=["Bern"])
    many = [*QUESTIONS, *(question(f"f{number}", f"Text {number} says no.", "no") for number in range(60))]
    write(tmp_path / "train.jsonl", [wrong, gone, *many])
    write(tmp_path / "dev.jsonl", [wrong, gone, *many])
    data = load_questions(str(tmp_path))
    assert data.splits["train"]["id"][:] == [row["id"] for row in many]
    assert data.splits["eval"]["id"][:2] == ["wrong", "gone"], "what counts there is the answer, not its place"
    there = "the first is wrong: the answer is 'Zürich', but at 3 stands ' 👩\\u200d👩\\u200d👧'"
    assert data.notes == [
        f"train: 1 of 105 questions are left out, since their answer is not where answer_start says; {there}",
        "train: 1 of 105 questions are left out, since their answer is no part of the context; the first is gone: the "
        "answer is 'Bern', but it is nowhere in the context",
        f"eval: 1 of 105 questions are kept, though their answer is not where answer_start says; {there}",
    ]
    write(tmp_path / "dev.jsonl", [wrong, wrong | {"id": "more"}, *many])
    with pytest.raises(UserError, match="dev.jsonl: 2 of 105 answers are not where answer_start says"):
        load_questions(str(tmp_path))


def test_what_a_split_may_lack_may_be_in_another_alone(tmp_path: Path) -> None:
    """Such as the ids of the questions, which the official script needs of the measured ones."""
    train = [{name: row[name] for name in ("question", "context", "answers")} for row in QUESTIONS]
    write(tmp_path / "train.jsonl", [row | {"is_impossible": not row["answers"]["text"]} for row in train])
    write(tmp_path / "dev.jsonl")
    Dataset.from_list(train).to_parquet(tmp_path / "test.parquet")
    data = load_questions(str(tmp_path))
    assert data.splits["train"]["id"][:3] == ["1", "2", "3"]
    assert data.splits["eval"]["id"][:3] == ["a", "b", "c"]
    assert data.splits["test"]["answers"][:] == data.splits["train"]["answers"][:]


def test_a_test_split_whose_answers_are_secret_is_not_measured(tmp_path: Path) -> None:
    for name in ("train", "dev"):
        write(tmp_path / f"{name}.jsonl")
    secret = write(tmp_path / "test.jsonl", [row | {"answers": {"text": [], "answer_start": []}} for row in QUESTIONS])
    data = load_questions(str(tmp_path))
    assert "test" not in data.splits
    assert data.notes == [f"not measured: {secret}, no question of which has an answer"]


WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no context": ({"train.jsonl": [{"question": "a", "answers": []}]}, {}, "has no column 'context'"),
    "named column": ({"train.jsonl": QUESTIONS}, {"question_column": "ask"}, "has no column 'ask'"),
    "empty question": (
        {"train.jsonl": [QUESTIONS[0] | {"question": " "}]},
        {},
        "line 1: the question is ' '; give a text",
    ),
    "context is no text": ({"train.jsonl": [QUESTIONS[0] | {"context": ["a"]}]}, {}, r"the context is \['a'\]"),
    "answers are a number": ({"train.jsonl": [QUESTIONS[0] | {"answers": 7}]}, {}, "the answers are 7; write {text"),
    "empty answer": (
        {"train.jsonl": [QUESTIONS[0] | {"answers": {"text": [""], "answer_start": [0]}}]},
        {},
        "an answer is an empty text",
    ),
    "not as many places": (
        {"train.jsonl": [QUESTIONS[0] | {"answers": {"text": ["Zürich"], "answer_start": [1, 2]}}]},
        {},
        r"answer_start is \[1, 2\]; give the place of each answer's first character",
    ),
    "a place that no text has": (
        {"train.jsonl": [QUESTIONS[0] | {"answers": {"text": ["Zürich"], "answer_start": [10**30]}}]},
        {},
        "answer_start is .*; give the place of each answer's first character",
    ),
    "most do not match": (
        {"train.jsonl": [row | {"answers": {"text": ["x"], "answer_start": [0]}} for row in QUESTIONS]},
        {},
        f"{len(QUESTIONS)} of {len(QUESTIONS)} answers are not where answer_start says .*counts characters",
    ),
    "one does not match": (
        {"train.jsonl": [*QUESTIONS, QUESTIONS[0] | {"id": "z", "answers": {"text": ["x"], "answer_start": [0]}}]},
        {},
        f"1 of {len(QUESTIONS)} answers are not where answer_start says .*the first is z",
    ),
    "most are nowhere": (
        {"train.jsonl": [row | {"answers": "nowhere to be found"} for row in QUESTIONS]},
        {},
        f"{len(QUESTIONS)} of {len(QUESTIONS)} answers are no part of the context .*the first is a",
    ),
    "a column that some rows lack": (
        {"train.jsonl": [QUESTIONS[0] | {"is_impossible": False}, QUESTIONS[1]]},
        {},
        "line 2 lacks 'is_impossible', which the first row has; give it to each, as null",
    ),
    "a column that some rows have": (
        {"train.jsonl": [QUESTIONS[0], QUESTIONS[1] | {"answer_start": 4}]},
        {},
        "line 2 has 'answer_start', which the first row lacks; give it to each, as null",
    ),
    "one id twice": ({"train.jsonl": [QUESTIONS[0], QUESTIONS[0]]}, {}, "line 2 has the id a, as .*line 1 has"),
    "no answers at all": (
        {"train.jsonl": [QUESTIONS[3]], "dev.jsonl": [QUESTIONS[3]]},
        {},
        "no question of .* has an answer",
    ),
    "lacks only in eval": (
        {"train.jsonl": [QUESTIONS[0]], "dev.jsonl": [QUESTIONS[3]]},
        {},
        r"the eval split has a question without an answer \(d\), but all training questions have one",
    ),
    "builtin": ({}, {"source": "builtin"}, "no builtin data with questions"),
    "broken nesting": (
        {"nested": '{"data": [{"paragraphs": [{"context": "a", "qas": 3}]}]}'},
        {},
        "qas must be a list of objects",
    ),
    "a text for true or false": (
        {"nested": '{"data": [{"paragraphs": [{"context": "a", "qas": [{"is_impossible": "false"}]}]}]}'},
        {},
        "question 1: is_impossible is 'false'; give true or false",
    ),
    "no questions": ({"nested": '{"data": [{"paragraphs": []}]}'}, {}, "has no questions"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_line(tmp_path: Path, case: str) -> None:
    files, settings, message = WRONG[case]
    for name, rows in files.items():
        if name == "nested":
            (tmp_path / "train.json").write_text(rows)
        else:
            write(tmp_path / name, rows)
    settings = {"source": str(tmp_path)} | settings
    with pytest.raises(UserError, match=message) as caught:
        load_questions(settings.pop("source"), **settings)
    assert "\n" not in str(caught.value)
