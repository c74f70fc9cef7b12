"""Entities and answers, counted as the field's scripts count them."""

import string
import sys
from itertools import groupby

import evaluate
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_minibert.errors import UserError
from hf_minibert.evaluation.spans import (
    AnswerMetrics,
    EntityMetrics,
    answer_scores,
    best_no_answer_threshold,
    entity_table,
    normalized_answer,
    score_answer,
    sum_of_types,
)

TRUE = [["B-PER", "I-PER", "O", "B-LOC"], ["B-ORG", "B-ORG", "O"], ["O", "O"]]
SAID = [["B-PER", "I-PER", "O", "B-ORG"], ["B-ORG", "I-ORG", "O"], ["I-LOC", "O"]]


def test_entities_by_hand() -> None:
    table = entity_table(TRUE, SAID)
    assert {kind: [row[name] for name in ("support", "predicted", "right")] for kind, row in table.items()} == {
        "LOC": [1, 1, 0],  # what begins with I- is an entity, too
        "ORG": [2, 2, 0],  # one entity of two words is not two of one
        "PER": [1, 1, 1],
    }
    assert sum_of_types(table)["f1"] == pytest.approx(2 * 1 / (4 + 4))
    found = EntityMetrics().compute(predictions=SAID, references=TRUE)
    assert found == pytest.approx({"precision": 1 / 4, "recall": 1 / 4, "f1": 1 / 4, "accuracy": 6 / 9})


def test_entities_equal_seqeval_on_random_tags() -> None:
    from seqeval.metrics import f1_score, precision_score, recall_score

    generator = np.random.default_rng(0)
    tags = ["O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    true, said = ([list(generator.choice(tags, 8)) for _ in range(60)] for _ in range(2))
    found = EntityMetrics().compute(predictions=said, references=true)
    assert found["f1"] == pytest.approx(f1_score(true, said))
    assert found["precision"] == pytest.approx(precision_score(true, said))
    assert found["recall"] == pytest.approx(recall_score(true, said))


def test_no_entity_anywhere_is_no_division_by_zero() -> None:
    nothing = [["O", "O"]]
    expected = {"precision": 0.0, "recall": 0.0, "f1": 0.0, "accuracy": 1.0}
    assert EntityMetrics().compute(predictions=nothing, references=nothing) == expected


def test_without_seqeval_a_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "seqeval", None)
    with pytest.raises(UserError, match=r"pip install 'hf_minibert\[token-classification\]'"):
        entity_table(TRUE, SAID)


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("The Denver Broncos!", "denver broncos"),
        ("a  cat, an\tAPPLE; the end", "cat apple end"),
        ("theatre", "theatre"),
        ("24–10", "24–10"),  # only ASCII punctuation goes
        ("“Les Misérables”", "“les misérables”"),
        ("U.S.", "us"),
        ("a", ""),
        ("ﬁve", "ﬁve"),  # no Unicode normalisation
    ],
)
def test_answers_are_normalized_as_in_the_official_scripts(text: str, normalized: str) -> None:
    assert normalized_answer(text) == normalized


@pytest.mark.parametrize(
    ("said", "true", "exact", "f1"),
    [
        ("Denver Broncos", ["Denver Broncos", "The Broncos"], 1, 1),
        ("the Denver Broncos.", ["Denver Broncos"], 1, 1),
        ("Broncos of Denver", ["Denver Broncos"], 0, 2 * (2 / 3) * 1 / (2 / 3 + 1)),
        ("cat cat", ["cat"], 0, 2 * 0.5 * 1 / 1.5),  # a word counts as often as both have it
        ("dog", ["cat"], 0, 0),
        ("", ["cat"], 0, 0),
    ],
)
@pytest.mark.parametrize("may_lack", [False, True])
def test_scores_by_hand(said: str, true: list[str], exact: float, f1: float, may_lack: bool) -> None:
    assert score_answer(said, true, may_lack=may_lack) == (exact, pytest.approx(f1))


def plain_words(text: str) -> list[str]:
    """The words that are compared, found letter by letter; there is no article within a word."""
    kept = "".join(mark for mark in text.lower() if mark not in set(string.punctuation))
    runs = ("".join(marks) for _, marks in groupby(kept, key=lambda mark: mark.isalnum()))
    return "".join(" " if run in ("a", "an", "the") else run for run in runs).split()


def plain_score(said: str, true: list[str], *, may_lack: bool) -> tuple[float, float]:
    """Exact match and F1 as the papers define them, with lists in place of counters."""
    answers = [plain_words(text) for text in true]
    if may_lack:
        answers = [words for words in answers if words] or [[]]
    mine, best = plain_words(said), [0.0, 0.0]
    for words in answers:
        left, shared = list(words), 0
        for word in mine:
            if word in left:
                left.remove(word)
                shared += 1
        if may_lack and not (mine and words):
            f1 = float(mine == words)
        elif shared == 0:
            f1 = 0.0
        else:
            precision, recall = shared / len(mine), shared / len(words)
            f1 = 2 * precision * recall / (precision + recall)
        best = [max(best[0], float(mine == words)), max(best[1], f1)]
    return best[0], best[1]


ANSWERS = st.lists(
    st.sampled_from(["the", "The", "a", "an", "A", "cat", "Cat's", "dog", "the-", "(an)", "—the—", "ﬁve", "24–10", "ä"])
    | st.text(max_size=4),
    max_size=5,
).map(" ".join)


@given(said=ANSWERS, true=st.lists(ANSWERS, min_size=1, max_size=3), may_lack=st.booleans())
def test_scores_are_those_of_the_plain_definition(said: str, true: list[str], may_lack: bool) -> None:
    assert score_answer(said, true, may_lack=may_lack) == pytest.approx(plain_score(said, true, may_lack=may_lack))


def test_the_two_scripts_differ_where_nothing_is_left_of_an_answer() -> None:
    assert score_answer("the", ["a"], may_lack=False) == (1, 0)
    assert score_answer("the", ["a"], may_lack=True) == (1, 1)
    assert score_answer("", ["a", "cat"], may_lack=True) == (0, 0), "the true answer that is left is cat"


def test_questions_without_an_answer() -> None:
    found = answer_scores(["", "cat", "dog"], [[], [], ["big dog"]])
    assert found == pytest.approx(
        {
            "exact_match": 1 / 3,
            "f1": (1 + 0 + 2 / 3) / 3,
            "answerable_exact_match": 0,
            "answerable_f1": 2 / 3,
            "unanswerable_accuracy": 1 / 2,
        }
    )
    assert set(answer_scores(["dog"], [["dog"]])) == {"exact_match", "f1"}


def test_answers_as_a_metric_of_evaluate() -> None:
    said = [{"id": "1", "prediction_text": "cats"}, {"id": "2", "prediction_text": "a dog"}]
    true = [
        {"id": "2", "answers": {"text": ["dog"], "answer_start": [3]}},
        {"id": "1", "answers": {"text": ["cat", "cats"], "answer_start": [0, 0]}},
    ]
    assert AnswerMetrics().compute(predictions=said, references=true) == {"exact_match": 1.0, "f1": 1.0}
    both = evaluate.combine([AnswerMetrics(), AnswerMetrics()])
    assert "f1" in str(both.compute(predictions=said, references=true))
    with pytest.raises(ValueError, match="1 questions have no prediction, the first is '3'"):
        AnswerMetrics().compute(predictions=said, references=[true[0], {**true[1], "id": "3"}])


def test_the_threshold_gives_the_best_f1_of_all() -> None:
    generator = np.random.default_rng(1)
    true = [[] if lacks else ["cat"] for lacks in generator.random(200) < 0.5]
    said = list(generator.choice(["cat", "dog"], 200))
    scores = [round(float(generator.normal(0 if answers else 1)), 1) for answers in true]

    def f1(threshold: float) -> float:
        kept = ["" if score > threshold else text for text, score in zip(said, scores, strict=True)]
        return answer_scores(kept, true)["f1"]

    found = f1(best_no_answer_threshold(said, true, scores))
    assert found == pytest.approx(max(f1(threshold) for threshold in [min(scores) - 1, *scores]))
    assert found > max(f1(float("inf")), f1(-float("inf")))


@pytest.mark.parametrize(("true", "left_out"), [([[], []], True), ([["cat"], ["cat"]], False)])
def test_the_threshold_where_one_side_is_always_right(true: list[list[str]], left_out: bool) -> None:
    scores = [0.5, 2.0]
    threshold = best_no_answer_threshold(["cat", "cat"], true, scores)
    assert [score > threshold for score in scores] == [left_out] * 2
