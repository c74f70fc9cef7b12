"""Question answering: the rows of windows, what is measured of them, and models that answer anywhere."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import REPOSITORY, elsewhere
from peft import PeftModel
from test_questions import QUESTIONS, Question, question, write
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    BertTokenizer,
    EvalPrediction,
    PreTrainedTokenizerFast,
)

from hf_minibert import MiniBertConfig, MiniBertForQuestionAnswering, answer
from hf_minibert.errors import UserError
from hf_minibert.evaluation.spans import answer_scores
from hf_minibert.export.convert import export
from hf_minibert.finetuning.answers import OTHER, QuestionAnswering, kind_of_question, likest_sentence
from hf_minibert.finetuning.arguments import FinetuneArguments
from hf_minibert.finetuning.finetune import finetune
from hf_minibert.tokenization import load_tokenizer

LONG = "Nothing is said here. " * 12
CITIES = [
    question("ann", f"{LONG}Ann lives in Oslo now.", "Oslo", question="Where does Ann live?"),
    question("bob", "Bob lives in 👩‍👩‍👧 Zürich now.", "Zürich", question="Where does Bob live?"),
    question("eve", f"Eve lives in José́ Ñandú now. {LONG}", "José́ Ñandú", question="Where does Eve live?"),
    question("sun", "The sun is hot.", None, question="Where does Max live?"),
    question("sea", f"The sea is deep. {LONG}", None, question="Where does Ida live?"),
]


def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    return load_tokenizer(REPOSITORY / "checkpoints" / f"{kind}-tiny")


def task_of(folder: Path, rows: list[Question] = CITIES, **more: Any) -> QuestionAnswering:
    for name in ("train", "dev"):
        write(folder / f"{name}.jsonl", rows)
    arguments = {"task": "question-answering", "model": "minibert-tiny", "dataset": str(folder), "output_dir": "none"}
    return QuestionAnswering(FinetuneArguments(**arguments | more))


def test_a_text_in_which_nothing_can_be_seen_has_no_answer() -> None:
    words = {word: place for place, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "who", "?"])}
    tokenizer = BertTokenizer(vocab=words, do_lower_case=True)
    config = MiniBertConfig(vocab_size=7, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    with pytest.raises(ValueError, match="no part of the context can be an answer"):
        answer("Who?", "\u200b", MiniBertForQuestionAnswering(config), tokenizer)


@pytest.mark.parametrize("metric", ["unanswerable_accuracy", "answerable_f1"])
def test_a_metric_of_questions_that_are_not_measured_is_refused_at_once(tmp_path: Path, metric: str) -> None:
    task, kind = task_of(tmp_path, best_metric=metric), metric.partition("_")[0]
    rows = [row for row in CITIES if bool(row["answers"]["text"]) is (kind == "unanswerable")]
    write(tmp_path / "dev.jsonl", rows)
    with pytest.raises(UserError, match=f"best_metric {metric} is of {kind} questions, and none of the {len(rows)} "):
        task.encode(task.read().splits["eval"], "eval", tokenizer_of("minibert"), 48)


@pytest.mark.parametrize("kind", ["minibert", "minigpt"])
def test_rows_point_at_the_answer_or_at_none(tmp_path: Path, kind: str) -> None:
    task, tokenizer = task_of(tmp_path), tokenizer_of(kind)
    rows = task.encode(task.read().splits["eval"], "eval", tokenizer, 48)
    parts = [window for some in task._windows["eval"] for window in some]
    assert len(rows) == len(parts) > 5
    assert max(map(len, rows["input_ids"])) == 48
    assert task.notes == [f"eval: 3 of 5 questions have a text that is longer than 48 tokens: {len(rows)} windows"]
    assert tokenizer.model_max_length == 48, "so that later windows are as long"
    said: dict[int, set[str]] = {}
    number = [at for at, some in enumerate(task._windows["eval"]) for _ in some]
    for at, window, row in zip(number, parts, rows, strict=True):
        start, end = row["start_positions"], row["end_positions"]
        assert start <= end
        if start == window.none:
            assert end == window.none
            continue
        (first, _), (_, last) = (window.offsets[place - window.begin] for place in (start, end))
        said.setdefault(at, set()).add(CITIES[at]["context"][first:last].strip())
    assert said == {0: {"Oslo"}, 1: {"Zürich"}, 2: {"José́ Ñandú"}}


def logits_of(task: QuestionAnswering, rows: Any, none: float) -> list[Any]:
    """Logits that point at the right tokens, and "no answer" scores `none` everywhere."""
    width = max(map(len, rows["input_ids"]))
    both = []
    for column in ("start_positions", "end_positions"):
        logits = np.full((len(rows), width), -5.0)
        for at, (place, window) in enumerate(
            zip(rows[column], [w for some in task._windows["eval"] for w in some], strict=True)
        ):
            logits[at, place] = 4.0
            logits[at, window.none] = none / 2
        both.append(torch.from_numpy(logits))
    return both


@pytest.mark.parametrize("size", [1, 3, 100])
def test_what_is_measured_does_not_depend_on_batches(tmp_path: Path, size: int) -> None:
    task = task_of(tmp_path)
    data = task.read()
    task._model = AutoModelForQuestionAnswering.from_pretrained(REPOSITORY / "checkpoints" / "minibert-tiny")
    rows = task.encode(data.splits["eval"], "eval", tokenizer_of("minibert"), 48)
    starts, ends = logits_of(task, rows, none=3.0)  # above nothing at -10, and below an answer at 8
    for _ in range(2):
        for first in range(0, len(rows), size):
            batch = (starts[first : first + size], ends[first : first + size])
            is_last = first + size >= len(rows)
            found = task.measure(EvalPrediction(batch, batch), "eval", compute_result=is_last)
            assert bool(found) == is_last
        assert found == {
            "exact_match": 1.0,
            "f1": 1.0,
            "answerable_exact_match": 1.0,
            "answerable_f1": 1.0,
            "unanswerable_accuracy": 1.0,
        }
    assert -5 < task._model.config.no_answer_threshold < 13
    assert task.official_predictions("eval") == {
        "ann": "Oslo",
        "bob": "Zürich",
        "eve": "José́ Ñandú",
        "sun": "",
        "sea": "",
    }
    lines = list(task.predictions("eval"))
    assert lines[0]["n_best"][0] == {"text": "Oslo", "score": 8.0, "start": len(LONG) + 13, "end": len(LONG) + 17}
    assert lines[0]["no_answer_excess"] == -5.0
    assert lines[3]["no_answer_excess"] == 13.0
    assert set(task.intervals("eval").values()) == {(1.0, 1.0)}, "also of the kinds that a draw may lack"
    assert task.baselines(data.splits) == {"no_answer_f1": 0.4}


def test_the_test_split_is_measured_with_the_threshold_of_the_evaluation_split(tmp_path: Path) -> None:
    task = task_of(tmp_path)
    data = task.read()
    task._model = AutoModelForQuestionAnswering.from_pretrained(REPOSITORY / "checkpoints" / "minibert-tiny")
    rows = {split: task.encode(data.splits["eval"], split, tokenizer_of("minibert"), 48) for split in ("eval", "test")}
    task.measure(EvalPrediction(tuple(logits_of(task, rows["eval"], none=3.0)), ()), "eval")
    threshold = task._model.config.no_answer_threshold
    found = task.measure(EvalPrediction(tuple(logits_of(task, rows["test"], none=50.0)), ()), "test")
    assert (found["answerable_f1"], found["unanswerable_accuracy"]) == (0.0, 1.0), "none scores above all answers"
    assert task._model.config.no_answer_threshold == threshold


def test_without_missing_answers_there_is_no_threshold(tmp_path: Path) -> None:
    task = task_of(tmp_path, CITIES[:3])
    data = task.read()
    assert task.metrics == ("f1", "exact_match")
    assert task.config_fields(None, data)["no_answer_threshold"] is None  # type: ignore[arg-type]
    said = [("Ann lives in Oslo now.", "Oslo"), (CITIES[1]["context"], "Zürich"), (CITIES[2]["context"], "José́ Ñandú")]
    parts = [(likest_sentence(row["question"], row["context"]), *pair) for row, pair in zip(CITIES, said, strict=False)]
    assert [sentence for sentence, *_ in parts[:2]] == [said[0][0], said[1][0]]
    assert parts[2][0] == "Eve lives in José́ Ñandú now."
    expected = answer_scores([sentence for sentence, *_ in parts], [[answer] for *_, answer in parts])["f1"]
    assert task.baselines(data.splits) == {"sentence_f1": pytest.approx(expected)}
    rows = task.encode(data.splits["eval"], "eval", tokenizer_of("minibert"), 48)
    found = task.measure(EvalPrediction(tuple(logits_of(task, rows, none=50.0)), ()), "eval")
    assert found == {"exact_match": 1.0, "f1": 1.0}, "none is not compared"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"doc_stride": 13}, "doc_stride must lie between 0 and 12, a quarter of the windows of 48 tokens; got 13"),
        ({"doc_stride": -1}, "doc_stride must lie between 0 and 12"),
    ],
)
def test_a_stride_that_cannot_be(tmp_path: Path, more: Any, message: str) -> None:
    def try_it() -> None:
        task = task_of(tmp_path, **more)
        task.encode(task.read().splits["eval"], "eval", tokenizer_of("minibert"), 48)

    with pytest.raises(UserError, match=message):
        try_it()


READER = """
import json, sys
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

model = AutoModelForQuestionAnswering.from_pretrained(sys.argv[1], trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
rows = json.loads(sys.argv[2])
print(json.dumps({row["id"]: model.answers(row["question"], row["context"], tokenizer)[0].text for row in rows}))
"""


@pytest.fixture(name="trained", scope="module", params=["minibert", "minigpt"])
def _trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learned five answers by heart."""
    folder = tmp_path_factory.mktemp(request.param)
    for name in ("train", "dev", "test"):
        write(folder / f"{name}.jsonl", CITIES)
    write(folder / "train.jsonl", [row | {"id": f"{row['id']}{copy}"} for copy in range(4) for row in CITIES])
    arguments = FinetuneArguments(
        task="question-answering",
        model_name_or_path=str(REPOSITORY / "checkpoints" / f"{request.param}-tiny"),
        dataset=str(folder),
        max_seq_length=64,
        num_train_epochs=15,
        per_device_train_batch_size=8,
        learning_rate=1e-3,
        hidden_dropout_prob=0.0,
        write_predictions=True,
        output_dir=str(folder / "out"),
    )
    assert finetune(arguments) == 0
    return folder / "out"


def test_a_model_learns_to_answer_and_opens_anywhere(trained: Path, tmp_path: Path) -> None:
    metrics = json.loads((trained / "results.json").read_text())["metrics"]
    assert metrics["eval_f1"] >= 0.8
    assert metrics["test_f1"] == metrics["eval_f1"]
    assert metrics["no_answer_f1"] == 0.4
    said = json.loads((trained / "predictions_eval.json").read_text())
    references = [row["answers"]["text"] for row in CITIES]
    assert answer_scores([said[row["id"]] for row in CITIES], references)["f1"] == pytest.approx(metrics["eval_f1"])
    card = (trained / "README.md").read_text()
    assert "model.answers(" in card
    assert "no answer" in card or '"no answer"' in card
    assert "Exact match and F1 of the test questions by their question word" in card
    assert (trained / "predictions.png").stat().st_size > 1_000
    model, tokenizer = AutoModelForQuestionAnswering.from_pretrained(trained), AutoTokenizer.from_pretrained(trained)
    assert model.config.no_answer_threshold is not None
    assert tokenizer.model_max_length == 64
    stride = {"doc_stride": 16}
    assert {
        row["id"]: answer(row["question"], row["context"], model, tokenizer, **stride).text for row in CITIES
    } == said
    if "minibert" in str(trained):
        rows = json.dumps([{name: row[name] for name in ("id", "question", "context")} for row in CITIES])
        assert json.loads(elsewhere(READER, tmp_path, trained, rows)) == said


def test_the_functions_take_a_stock_model(trained: Path, tmp_path: Path) -> None:
    if "minibert" in str(trained):
        pytest.skip("a modern encoder with this head has no stock class")
    export(str(trained), str(tmp_path / "stock"))
    said = json.loads((trained / "predictions_eval.json").read_text())
    model = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "stock")
    assert type(model).__name__ == "LlamaForQuestionAnswering"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "stock")
    found = {row["id"]: answer(row["question"], row["context"], model, tokenizer).text for row in CITIES}
    assert found == said


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT's own call
def test_adapters_keep_the_threshold(tmp_path: Path) -> None:
    """What was measured is what is said by the adapters that were saved, opened as their card says."""
    for name in ("train", "dev"):
        write(tmp_path / f"{name}.jsonl", CITIES)
    base, out = REPOSITORY / "checkpoints" / "minibert-tiny", tmp_path / "out"
    arguments = FinetuneArguments(
        task="question-answering",
        model_name_or_path=str(base),
        dataset=str(tmp_path),
        max_seq_length=64,
        num_train_epochs=2,
        lora_rank=2,
        write_predictions=True,
        output_dir=str(out),
    )
    assert finetune(arguments) == 0
    config = AutoConfig.from_pretrained(out)
    assert config.no_answer_threshold not in (None, 0.0)
    model = PeftModel.from_pretrained(AutoModelForQuestionAnswering.from_pretrained(base, config=config), out).eval()
    tokenizer = AutoTokenizer.from_pretrained(out)
    said = {row["id"]: model.answers(row["question"], row["context"], tokenizer)[0].text for row in CITIES}
    assert said == json.loads((out / "predictions_eval.json").read_text())


def test_questions_are_sorted_by_their_question_word() -> None:
    asked = {"Where is it?": "where", "In which town?": "which", "Is it there?": OTHER, "WHO's that?": OTHER, "": OTHER}
    assert {question: kind_of_question(question) for question in asked} == asked


@pytest.mark.parametrize("form", ["nested/train.json", "flat/train.jsonl.gz", "flat/train.parquet"])
def test_every_form_is_a_fine_tuning(tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / form
    path.parent.mkdir()
    arguments = FinetuneArguments(
        task="question-answering",
        model="minibert-tiny",
        dataset=str(write(path)),
        max_train_samples=5,
        max_seq_length=64,
        num_train_epochs=1,
        output_dir=str(tmp_path / "out"),
    )
    assert finetune(arguments) == 0
    said = capsys.readouterr().out
    assert 'always "no answer"' in said
    assert f"of {len(QUESTIONS)} questions are held out" in said
    assert "exact match of questions that have an answer" in said
    assert "accuracy of questions that have no answer" not in said, "none is held out"
    assert (tmp_path / "out" / "README.md").exists()
