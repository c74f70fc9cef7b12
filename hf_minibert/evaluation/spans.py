"""Metrics of spans in a text, for `evaluate` and offline: named entities by `seqeval`, and answers by SQuAD's rules."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np

from hf_minibert.errors import needs_extra
from hf_minibert.evaluation.metrics import OfflineMetric

Tags = Sequence[Sequence[str]]
"""The tags of the words of each sentence, in IOB2: ``B-PER``, ``I-PER``, ``O``."""

# ---------------------------------------------------------------- entities


class EntityMetrics(OfflineMetric):
    """Precision, recall and F1 of whole entities, as CoNLL's script counts them, and accuracy of single tags.

    An entity is found if its type, its first and its last word are right. `seqeval` (Nakayama 2018) counts.
    """

    columns = {name: datasets.Sequence(datasets.Value("string")) for name in ("predictions", "references")}
    inputs = "predictions and references: the IOB2 tags of the words of each sentence"

    def _compute(self, predictions: Tags, references: Tags) -> dict[str, float]:
        table = entity_table(references, predictions)
        pairs = [
            pair
            for sentence in zip(references, predictions, strict=True)
            for pair in zip(*sentence, strict=True)  # as many tags as words
        ]
        return {
            **{name: sum_of_types(table)[name] for name in ("precision", "recall", "f1")},
            "accuracy": sum(true == said for true, said in pairs) / max(1, len(pairs)),
        }


def entity_table(references: Tags, predictions: Tags) -> dict[str, dict[str, float]]:
    """Precision, recall, F1, and the numbers of true and of predicted entities that these are made of, by type.

    Raises:
        UserError: `seqeval` is not installed.
    """
    require_seqeval()
    from seqeval.metrics.sequence_labeling import get_entities

    found: dict[str, Counter[str]] = {}
    for true, said in zip(references, predictions, strict=True):
        of_reference, of_prediction = set(get_entities(list(true))), set(get_entities(list(said)))
        for name, entities in (
            ("support", of_reference),
            ("predicted", of_prediction),
            ("right", of_reference & of_prediction),
        ):
            for kind, _, _ in entities:
                found.setdefault(kind, Counter())[name] += 1
    return {kind: _scores(found[kind]) for kind in sorted(found)}


def sum_of_types(table: dict[str, dict[str, float]]) -> dict[str, float]:
    """The scores of all entities together, whatever their type (micro-averaged)."""
    return _scores(sum((Counter({name: row[name] for name in _COUNTS}) for row in table.values()), Counter()))


_COUNTS = ("support", "predicted", "right")


def _scores(counts: Counter[str]) -> dict[str, float]:
    support, predicted, right = (counts[name] for name in _COUNTS)
    return {
        "precision": right / max(1, predicted),
        "recall": right / max(1, support),
        "f1": 2 * right / max(1, predicted + support),
        **{name: counts[name] for name in _COUNTS},
    }


def require_seqeval() -> None:
    """Check that `seqeval` is installed, before anything is trained.

    Raises:
        UserError: it is not.
    """
    with needs_extra("token-classification"):
        import seqeval  # noqa: F401


# ---------------------------------------------------------------- answers

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class AnswerMetrics(OfflineMetric):
    """Exact match and F1 of answers by the rules of SQuAD's official scripts, as shares of one (theirs: of a hundred).

    Before comparing, case, ASCII punctuation, English articles and white space are taken out; the best of several true
    answers counts. Where questions may have no answer (SQuAD 2.0, Rajpurkar et al. 2018, arXiv:1806.03822), "" is the
    right one for those, and the two kinds of question are also scored alone. Otherwise the rules are those of 1.1
    (Rajpurkar et al. 2016, arXiv:1606.05250), which differ for answers that are nothing but articles and punctuation.
    """

    columns = {
        "predictions": {"id": datasets.Value("string"), "prediction_text": datasets.Value("string")},
        "references": {
            "id": datasets.Value("string"),
            "answers": datasets.Sequence({"text": datasets.Value("string"), "answer_start": datasets.Value("int32")}),
        },
    }
    inputs = "predictions: {id, prediction_text}; references: {id, answers: {text, answer_start}}"

    def _compute(
        self, predictions: list[dict[str, Any]], references: list[dict[str, Any]], may_lack: bool | None = None
    ) -> dict[str, float]:
        said = {row["id"]: row["prediction_text"] for row in predictions}
        if missing := [row["id"] for row in references if row["id"] not in said]:
            raise ValueError(f"{len(missing):,} questions have no prediction, the first is {missing[0]!r}")
        texts = [row["answers"]["text"] for row in references]
        return answer_scores([said[row["id"]] for row in references], texts, may_lack=may_lack)


def answer_scores(
    predictions: Sequence[str], references: Sequence[Sequence[str]], *, may_lack: bool | None = None
) -> dict[str, float]:
    """The scores of `AnswerMetrics`.

    Args:
        predictions: an answer to each question; "" for none.
        references: all true answers to each question; [] where there is none.
        may_lack: whether the rules are those of SQuAD 2.0. Default: if a question here has no answer.
    """
    may_lack = not all(references) if may_lack is None else may_lack
    exact, f1 = np.array(
        [score_answer(said, true, may_lack=may_lack) for said, true in zip(predictions, references, strict=True)]
    ).T
    found = {"exact_match": float(exact.mean()), "f1": float(f1.mean())}
    if may_lack:
        has_answer = np.array([bool(true) for true in references])
        if has_answer.any():
            found["answerable_exact_match"] = float(exact[has_answer].mean())
            found["answerable_f1"] = float(f1[has_answer].mean())
        if not has_answer.all():
            found["unanswerable_accuracy"] = float(exact[~has_answer].mean())
    return found


def score_answer(prediction: str, references: Sequence[str], *, may_lack: bool) -> tuple[float, float]:
    """Exact match and F1 of one answer: with `may_lack`, by the rules of SQuAD 2.0, otherwise by those of 1.1."""
    if may_lack:
        references = [text for text in references if normalized_answer(text)] or [""]
    return (
        max(float(normalized_answer(prediction) == normalized_answer(text)) for text in references),
        max(_token_f1(prediction, text, may_lack=may_lack) for text in references),
    )


def normalized_answer(text: str) -> str:
    """An answer as the official scripts compare it: without case, punctuation, articles and extra white space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _token_f1(prediction: str, reference: str, *, may_lack: bool) -> float:
    said, true = (normalized_answer(text).split() for text in (prediction, reference))
    if may_lack and not (said and true):
        return float(said == true)
    shared = sum((Counter(said) & Counter(true)).values())
    return 2 * shared / (len(said) + len(true)) if shared else 0.0


def best_no_answer_threshold(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    no_answer_scores: Sequence[float],
) -> float:
    """The threshold on the score of "no answer" above which leaving the answer out gives the highest F1.

    It lies between two scores, as SQuAD 2.0's script searches it, or beyond the last one.

    Args:
        predictions: the best answer to each question, never left out.
        references: all true answers to each question; [] where there is none.
        no_answer_scores: how much more likely than that answer none is.
    """
    scores = np.asarray(no_answer_scores, dtype=float)
    order = np.argsort(scores, kind="stable")
    kept = np.array(
        [score_answer(said, true, may_lack=True)[1] for said, true in zip(predictions, references, strict=True)]
    )
    left_out = np.array([score_answer("", true, may_lack=True)[1] for true in references])
    # With the i lowest scores answered: their F1, and that of "" for all others.
    totals = np.concatenate(([0.0], np.cumsum(kept[order]))) + left_out.sum()
    totals -= np.concatenate(([0.0], np.cumsum(left_out[order])))
    ranked = scores[order]
    is_cut = np.concatenate(([True], ranked[1:] > ranked[:-1], [True]))  # equal scores are answered together
    best = int(np.where(is_cut, totals, -np.inf).argmax())
    if best == 0:
        return float(ranked[0]) - 1.0
    return float(ranked[best - 1]) if best == len(ranked) else float(ranked[best - 1] + ranked[best]) / 2
