"""Choices, in every form in which they are written, and a model that learns to choose."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import REPOSITORY, elsewhere
from datasets import Dataset
from transformers import EvalPrediction

from hf_minibert.errors import UserError
from hf_minibert.finetuning import durable
from hf_minibert.finetuning.arguments import FinetuneArguments
from hf_minibert.finetuning.choices import ChoicesCollator, MultipleChoice
from hf_minibert.finetuning.finetune import finetune
from hf_minibert.finetuning.start import from_preset
from hf_minibert.tokenization import load_tokenizer

ASKED = [
    ("Where do fish live?", ["water", "a tree", "the moon"], 0),
    ("What is red?", ["grass", "blood", "snow"], 1),
    ("Who flies?", ["a stone", "a cow", "a bird"], 2),
    ("What is cold?", ["fire", "ice", "tea"], 1),
]


def common_sense(question: str, choices: list[str], right: int) -> dict[str, Any]:
    each = [{"label": "ABC"[at], "text": text} for at, text in enumerate(choices)]
    return {
        "answerKey": "ABC"[right],
        "id": question,
        "question": {"question_concept": "x", "choices": each, "stem": question},
    }


def on_the_hub(question: str, choices: list[str], right: int) -> dict[str, Any]:
    names = ["A", "B", "C"]
    return {
        "id": question,
        "question": question,
        "choices": {"label": names, "text": choices},
        "answerKey": names[right],
    }


def swag(question: str, choices: list[str], right: int) -> dict[str, Any]:
    endings = {f"ending{at}": text for at, text in enumerate(choices)}
    return {"sent1": question, "sent2": "It is", "gold-source": "gold", **endings, "label": right}


def plain(question: str, choices: list[str], right: int) -> dict[str, Any]:
    return {"question": question, "options": choices, "answer": choices[right]}


def from_one(question: str, choices: list[str], right: int) -> dict[str, Any]:
    letters = {f"answer{'ABC'[at]}": text for at, text in enumerate(choices)}
    return {"context": "Think.", "question": question, **letters, "label": str(right + 1)}


FORMS = {
    "common_sense.jsonl": (common_sense, "columns: question question, label answerKey, choices within the question"),
    "on_the_hub.parquet": (on_the_hub, "columns: question question, label answerKey, choices choices"),
    "swag.csv": (swag, "columns: context sent1, question sent2, label label, choices ending0, ending1, ending2"),
    "plain.json": (plain, "columns: question question, label answer, choices options"),
    "from_one.tsv": (
        from_one,
        "columns: context context, question question, label label, choices answerA, answerB, answerC; labels count "
        "from 1",
    ),
}


def write(path: Path, form: Any, asked: list[tuple[str, list[str], int]] = ASKED) -> Path:
    rows = [form(*one) for one in asked]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(path)
    else:
        mark = "," if path.suffix == ".csv" else "\t"
        lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
        path.write_text("".join(mark.join(line) + "\n" for line in lines))
    return path


def task_of(folder: Path, **more: Any) -> MultipleChoice:
    arguments = {"task": "multiple-choice", "model": "minibert-tiny", "dataset": str(folder), "output_dir": "none"}
    return MultipleChoice(FinetuneArguments(**arguments | more))


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_read_alike(tmp_path: Path, name: str) -> None:
    form, words = FORMS[name]
    suffix = Path(name).suffix
    for split in ("train", "dev"):
        write(tmp_path / f"{split}{suffix}", form)
    data = task_of(tmp_path).read()
    assert data.notes == [words]
    for own, (question, choices, right) in zip(data.splits["eval"], ASKED, strict=True):
        assert (own["choices"], own["label"]) == (choices, right)
        pairs = {swag: (question, "It is"), from_one: ("Think.", question)}
        assert (own["first"], own["second"]) == pairs.get(form, (question, None))


@pytest.mark.parametrize("label", [0, "0", 0.0, "0.0", "A", "a", "water"])
def test_a_label_is_a_number_a_letter_or_the_choice(tmp_path: Path, label: Any) -> None:
    for split in ("train", "dev"):
        write(
            tmp_path / f"{split}.jsonl",
            lambda question, choices, _: plain(question, choices, 0) | {"answer": label},
            ASKED[:1],
        )
    assert task_of(tmp_path).read().splits["eval"]["label"][:] == [0]


@pytest.mark.parametrize("label", ["{}", "{}.0"])
def test_numbers_from_one_on_are_so_also_as_a_table_of_floats_writes_them(tmp_path: Path, label: str) -> None:
    for split in ("train", "dev"):
        write(
            tmp_path / f"{split}.jsonl",
            lambda question, choices, right: plain(question, choices, right) | {"answer": label.format(right + 1)},
        )
    data = task_of(tmp_path).read()
    assert data.splits["eval"]["label"][:] == [right for _, _, right in ASKED]
    assert "labels count from 1" in data.notes[0]


def test_labels_that_are_choices_are_no_numbers_of_others(tmp_path: Path) -> None:
    """Also where some of them could be: of 1, 2, 3 the label "2" is the second."""
    asked = [("3 - 1", ["1", "2", "3"], "2"), ("6 * 7", ["40", "41", "42"], "42"), ("1 - 1", ["1", "b", "0"], "b")]

    def rows(label: Any = None) -> str:
        each = ({"question": q, "choices": c, "label": right if label is None else label} for q, c, right in asked)
        return "".join(json.dumps(row) + "\n" for row in each)

    for split in ("train", "dev"):
        (tmp_path / f"{split}.jsonl").write_text(rows())
    assert task_of(tmp_path).read().splits["eval"]["label"][:] == [1, 2, 1]
    del asked[1:]
    (tmp_path / "train.jsonl").write_text(rows())
    with pytest.raises(UserError, match="labels as '2' are choices themselves, and could be the numbers or letters of"):
        task_of(tmp_path).read()
    (tmp_path / "train.jsonl").write_text(rows(2))
    (tmp_path / "dev.jsonl").write_text(rows("2"))
    assert task_of(tmp_path).read().splits["eval"]["label"][:] == [2]


def test_columns_by_name_and_a_context(tmp_path: Path) -> None:
    rows = [{"story": "It rains.", "ask": "So?", "x": "wet", "y": "dry", "right": 0}]
    for split in ("train", "dev"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    named = {
        "question_column": "ask",
        "context_column": "story",
        "choices_columns": ["x", "y"],
        "label_column": "right",
    }
    task = task_of(tmp_path, **named)
    data = task.read()
    assert data.splits["train"][0]["choices"] == ["wet", "dry"]
    tokenizer = load_tokenizer(REPOSITORY / "checkpoints" / "minibert-tiny")
    rows = task.encode(data.splits["train"], "train", tokenizer, 64)
    expected = [tokenizer("It rains.", f"So? {choice}").input_ids for choice in ("wet", "dry")]
    assert rows[0]["input_ids"] == expected
    assert rows[0]["length"] == max(map(len, expected))
    short = task.encode(data.splits["train"], "train", tokenizer, 8)
    assert all(len(row) == 8 for row in short[0]["input_ids"])
    assert task.notes == ["train: 1 of 1 questions fill 8 tokens; what is more is cut"]


def test_a_test_split_whose_labels_are_secret_is_not_measured(tmp_path: Path) -> None:
    for split in ("train", "dev"):
        write(tmp_path / f"{split}.jsonl", on_the_hub)
    secret = write(tmp_path / "test.jsonl", lambda *one: on_the_hub(*one) | {"answerKey": ""})
    data = task_of(tmp_path).read()
    assert "test" not in data.splits
    assert data.notes[1] == f"not measured: {secret}, which has no labels"


def test_what_a_question_is_about_is_read_unless_the_question_alone_is_named(tmp_path: Path) -> None:
    """COPA's form, whose question is one word."""
    rows = [{"premise": "It rained.", "question": "effect", "choice1": "wet", "choice2": "dry", "label": 0}]
    for split in ("train", "dev"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = task_of(tmp_path).read().splits["eval"][0]
    assert (own["first"], own["second"], own["choices"]) == ("It rained.", "effect", ["wet", "dry"])
    named = task_of(tmp_path, question_column="premise").read().splits["eval"][0]
    assert (named["first"], named["second"]) == ("It rained.", None)


def row(**more: Any) -> str:
    return json.dumps(plain(*ASKED[0]) | more) + "\n"


WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "no label": (
        json.dumps({"question": "a", "choices": ["b", "c"]}),
        {},
        r"has no column 'label'; it has question, choices",
    ),
    "no question": (json.dumps({"ask": "a", "choices": ["b", "c"], "label": 0}), {}, "--question_column"),
    "no choices": (json.dumps({"question": "a", "label": 0}), {}, "there is no column of choices; give lists"),
    "no such column": (row(), {"choices_columns": ["x", "y"]}, "has no column 'x'"),
    "two families": (
        json.dumps({"question": "a", "choice1": "b", "choice2": "c", "sol1": "d", "sol2": "e", "label": 0}),
        {},
        "choice1, choice2, sol1, sol2; say which hold choices",
    ),
    "one column twice": (row(), {"choices_columns": ["question"]}, "are not all different"),
    "one choice": (row(options=["water"]), {}, "line 1 has 1 choices; give at least two"),
    "choice is no text": (row(options=["water", 3, "x"]), {}, "line 1: the choice is 3; give a text"),
    "question is no text": (row(question=None), {}, "line 1: the question is None; give a text"),
    "label beyond": (row(answer=7), {}, "the label 7 is none of the 3 choices"),
    "label unknown": (row(answer="Z"), {}, "the label 'Z' is none of the 3 choices"),
    "label of a choice that is not there": (
        json.dumps(
            {"question": "a", "choices": {"text": ["b", "c", "d", ""], "label": list("KLMN")}, "answerKey": "N"}
        ),
        {},
        "the label 'N' is none of the 3 choices",
    ),
    "label is no number": (row(answer=float("nan")), {}, "the label nan is none of the 3 choices"),
    "one column for two": (row(), {"question_column": "answer"}, "label_column and question_column are both 'answer'"),
    "label missing": (row(answer=None), {}, "the label None is none of the 3 choices"),
    "builtin": ("", {"dataset": "builtin"}, "no builtin data with choices"),
    "too few": (row(), {}, "too few different"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_line(tmp_path: Path, case: str) -> None:
    text, settings, message = WRONG[case]
    (tmp_path / "train.jsonl").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        task_of(tmp_path, **settings).read()
    assert "\n" not in str(caught.value)


def test_what_is_measured(tmp_path: Path) -> None:
    for split in ("train", "dev"):
        write(tmp_path / f"{split}.jsonl", plain)
    task = task_of(tmp_path)
    data = task.read()
    task.encode(data.splits["eval"], "eval", load_tokenizer(REPOSITORY / "tokenizer"), 64)
    logits = np.array([[3.0, 1, 2], [1, 2, 3], [1, 2, 3], [0, 0, 9]])
    assert task.measure(EvalPrediction(logits, np.array([0, 1, 2, 1])), "eval") == {"accuracy": 0.5}
    assert task.baselines(data.splits) == {"chance_accuracy": 1 / 3}
    assert [line["prediction"] for line in task.predictions("eval")] == ["water", "snow", "a bird", "tea"]
    low, high = task.intervals("eval")["accuracy"]
    assert 0 <= low < 0.5 < high <= 1


READER = """
import json, sys
from transformers import AutoModelForMultipleChoice, AutoTokenizer

model = AutoModelForMultipleChoice.from_pretrained(sys.argv[1], trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
found = []
for question, choices, _ in json.loads(sys.argv[2]):
    pairs = tokenizer([question] * len(choices), choices, padding=True, return_tensors="pt")
    logits = model(**{name: rows[None] for name, rows in pairs.items()}).logits
    found.append(int(logits.argmax()))
print(json.dumps(found))
"""


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    for split in ("train", "dev", "test"):
        write(tmp_path / f"{split}.jsonl", common_sense, ASKED * (6 if split == "train" else 1))
    return tmp_path


def test_it_learns_to_choose_and_opens_anywhere(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = FinetuneArguments(
        task="multiple-choice",
        model_name_or_path=str(REPOSITORY / "checkpoints" / "minibert-tiny"),
        dataset=str(folder),
        num_train_epochs=12,
        per_device_train_batch_size=4,
        hidden_dropout_prob=0.0,
        classifier_pooling="cls",
        write_predictions=True,
        output_dir=str(folder / "out"),
    )
    assert finetune(arguments) == 0
    said = capsys.readouterr().out
    assert "questions of 3 choices: train 24, eval 4, test 4" in said.replace("dev", "eval")
    assert "accuracy 100.0%; guessing 33.3%" in said
    assert "AutoModelForMultipleChoice" in (folder / "out" / "README.md").read_text()
    assert len((folder / "out" / "predictions_test.jsonl").read_text().splitlines()) == 4
    asked = json.dumps(ASKED)
    assert json.loads(elsewhere(READER, folder, folder / "out", asked)) == [right for *_, right in ASKED]


@pytest.mark.parametrize("name", ["swag.csv", "plain.json", "on_the_hub.parquet"])
def test_every_form_is_a_fine_tuning(tmp_path: Path, name: str) -> None:
    form, _ = FORMS[name]
    asked = [(f"{question} {number}", choices, right) for number in range(10) for question, choices, right in ASKED]
    arguments = FinetuneArguments(
        task="multiple-choice",
        model="minibert-tiny",
        dataset=str(write(tmp_path / f"train{Path(name).suffix}", form, asked)),
        max_train_samples=5,
        num_train_epochs=1,
        output_dir=str(tmp_path / "out"),
    )
    assert finetune(arguments) == 0
    assert (tmp_path / "out" / "README.md").exists()


UNLIKE = [
    ("Where do fish live?", ["water", "a tree"], 0),
    ("What is red?", ["grass", "blood", "snow", "milk"], 1),
    ("Who flies?", ["a stone", "a cow", "a bird"], 2),
]


@pytest.mark.parametrize("name", ["plain.json", "swag.csv", "common_sense.jsonl", "from_one.tsv"])
def test_questions_may_have_different_numbers_of_choices(tmp_path: Path, name: str) -> None:
    form, suffix = FORMS[name][0], Path(name).suffix
    for split in ("train", "dev"):
        path = tmp_path / f"{split}{suffix}"
        if suffix in (".csv", ".tsv"):  # whose cells are empty where there is no choice
            filled = [(question, choices + [""] * (4 - len(choices)), right) for question, choices, right in UNLIKE]
            write(path, form if name != "from_one.tsv" else of_four, filled)
        else:
            write(path, form if name != "common_sense.jsonl" else of_four_letters, UNLIKE)
    task = task_of(tmp_path)
    data = task.read()
    examples = data.splits["eval"]
    assert list(zip(examples["choices"], examples["label"], strict=True)) == [(c, right) for _, c, right in UNLIKE]
    assert task.describe(data, data.splits) == ["questions of 2 to 4 choices: train 3, eval 3"]
    task.encode(examples, "eval", load_tokenizer(REPOSITORY / "tokenizer"), 64)
    padded = np.array([[0.0, 1, -100, -100], [1, 2, 3, 4], [-200, -300, -150, -100]])  # as `Trainer` pads
    assert task.measure(EvalPrediction(padded, np.array([0, 1, 2])), "eval") == {"accuracy": 1 / 3}
    assert [line["prediction"] for line in task.predictions("eval")] == ["a tree", "milk", "a bird"]
    assert [len(line["scores"]) for line in task.predictions("eval")] == [2, 4, 3]
    assert task.baselines(data.splits) == {"chance_accuracy": pytest.approx((1 / 2 + 1 / 4 + 1 / 3) / 3)}


def of_four(question: str, choices: list[str], right: int) -> dict[str, Any]:
    letters = {f"answer{'ABCD'[at]}": text for at, text in enumerate(choices)}
    return {"context": "Think.", "question": question, **letters, "label": str(right + 1)}


def of_four_letters(question: str, choices: list[str], right: int) -> dict[str, Any]:
    each = [{"label": "ABCD"[at], "text": text} for at, text in enumerate(choices)]
    return {"answerKey": "ABCD"[right], "question": {"choices": each, "stem": question}}


@pytest.mark.parametrize("name", ["minibert-tiny", "minigpt-tiny"])
def test_a_choice_that_is_not_there_changes_nothing(tmp_path: Path, name: str) -> None:
    """Logits, loss and gradients of questions padded to one number of choices are those of each alone."""
    write(tmp_path / "train.jsonl", plain, UNLIKE)
    write(tmp_path / "dev.jsonl", plain, UNLIKE)
    task = task_of(tmp_path, model=name, hidden_dropout_prob=0.0)
    data, start = task.read(), from_preset(name)
    rows = [
        {key: value for key, value in row.items() if key != "length"}
        for row in task.encode(data.splits["train"], "train", start.tokenizer, 32)
    ]
    torch.manual_seed(0)
    model, _ = task.build_model(start, data, hidden_dropout_prob=0.0)
    collate = task.collator(start.tokenizer)
    together, alone = model(**collate(rows)), [model(**collate([row])) for row in rows]
    assert together.logits.shape == (3, 4)
    for logits, one, (_, choices, _) in zip(together.logits, alone, UNLIKE, strict=True):
        torch.testing.assert_close(logits[: len(choices)], one.logits[0], rtol=0, atol=1e-5)
        assert logits[len(choices) :].eq(-torch.inf).all()
    own = torch.stack([one.loss for one in alone]).mean()
    torch.testing.assert_close(together.loss, own)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for one, other in zip(
        *(torch.autograd.grad(loss, weights, allow_unused=True) for loss in (together.loss, own)), strict=True
    ):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one, other, atol=1e-5)


def test_batches_have_questions_of_one_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [
        (f"Which {'long ' * (number % 9)}one?", ["a", f"b{' b' * (number % 7)}"], number % 2) for number in range(40)
    ]
    for split in ("train", "dev"):
        write(tmp_path / f"{split}.jsonl", plain, asked)
    seen, waste = list[list[int]](), list[float]()
    group, collate = durable.get_length_grouped_indices, ChoicesCollator.__call__

    def grouped(lengths: list[int], *rest: Any) -> list[int]:
        seen.append(lengths)
        return group(lengths, *rest)

    def collated(self: ChoicesCollator, rows: list[dict[str, Any]]) -> Any:
        batch = collate(self, rows)
        waste.append(1 - float(batch["attention_mask"].float().mean()))
        return batch

    monkeypatch.setattr(durable, "get_length_grouped_indices", grouped)
    monkeypatch.setattr(ChoicesCollator, "__call__", collated)
    model = {"model": "minibert-tiny", "per_device_train_batch_size": 4, "per_device_eval_batch_size": 4}
    arguments = {"task": "multiple-choice", "dataset": str(tmp_path), "num_train_epochs": 1.0}
    assert finetune(FinetuneArguments(**arguments, **model, output_dir=str(tmp_path / "out"))) == 0
    assert len(set(seen[0])) > 8, "of questions, and not of how many choices they have"
    assert sum(waste[10:]) / len(waste[10:]) < 0.3, "the evaluation's batches have little padding"


def test_minigpt_learns_to_choose_and_opens_anywhere(tmp_path: Path) -> None:
    for split in ("train", "dev"):
        write(tmp_path / f"{split}.jsonl", plain, UNLIKE * (8 if split == "train" else 1))
    arguments = FinetuneArguments(
        task="multiple-choice",
        model_name_or_path=str(REPOSITORY / "checkpoints" / "minigpt-tiny"),
        dataset=str(tmp_path),
        num_train_epochs=10,
        per_device_train_batch_size=4,
        hidden_dropout_prob=0.0,
        output_dir=str(tmp_path / "out"),
    )
    assert finetune(arguments) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["metrics"]["eval_accuracy"] == 1
    assert set(results["pictures"]) == {"predictions.png"}
    asked = json.dumps(UNLIKE)
    assert json.loads(elsewhere(READER, tmp_path, tmp_path / "out", asked)) == [right for *_, right in UNLIKE]
