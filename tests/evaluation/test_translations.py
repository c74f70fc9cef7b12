"""BLEU and chrF are sacreBLEU's."""

import importlib
from types import ModuleType

import evaluate
import pytest

from hf_minibert.evaluation.translations import TranslationMetrics, intervals, signatures

SAID = ["Ein Mann fährt Rad .", "the dog runs away quickly now", "zwei Hunde", ""]
TRUE = ["Ein Mann fährt ein Rad.", "The dog runs away quickly.", "zwei junge Hunde spielen", "nichts"]


@pytest.fixture(name="sacrebleu", scope="module")
def _sacrebleu() -> ModuleType:
    """Imported here, so that other tests are collected without it."""
    return importlib.import_module("sacrebleu")


def test_figures_are_those_of_sacrebleu(sacrebleu: ModuleType) -> None:
    found = TranslationMetrics().compute(predictions=SAID, references=TRUE)
    assert found["bleu"] == sacrebleu.corpus_bleu(SAID, [TRUE]).score > 1
    assert found["lowercase_bleu"] == sacrebleu.corpus_bleu(SAID, [TRUE], lowercase=True).score > found["bleu"]
    assert found["chrf"] == sacrebleu.corpus_chrf(SAID, [TRUE]).score
    assert TranslationMetrics().compute(predictions=TRUE, references=TRUE)["bleu"] == pytest.approx(100)


def test_signatures_say_how(sacrebleu: ModuleType) -> None:
    found = signatures()
    assert found["bleu"] == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{sacrebleu.__version__}"
    assert "case:lc" in found["lowercase_bleu"]
    assert found["chrf"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no")


def test_an_interval_holds_the_figure() -> None:
    said, true = SAID[:3] * 30, TRUE[:3] * 30
    figures = TranslationMetrics().compute(predictions=said, references=true)
    found = intervals(said, true, samples=100)
    assert found == intervals(said, true, samples=100), "the same each time"
    for name, value in figures.items():
        low, high = found[name]
        assert low < value < high


def test_an_interval_where_nothing_matches() -> None:
    found = intervals(["x"] * 4 + ["ein Mann fährt ein Rad"], ["y"] * 4 + ["ein Mann fährt ein Rad"], samples=50)
    assert found["bleu"][0] == 0 < found["bleu"][1]


def test_a_batch_at_a_time_is_all_at_once() -> None:
    metric = TranslationMetrics()
    for said, true in zip(SAID, TRUE, strict=True):
        metric.add_batch(predictions=[said], references=[true])
    assert metric.compute() == TranslationMetrics().compute(predictions=SAID, references=TRUE)
    assert isinstance(evaluate.combine([TranslationMetrics(), TranslationMetrics()]), evaluate.CombinedEvaluations)
