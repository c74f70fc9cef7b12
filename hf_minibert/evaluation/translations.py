"""How good translations are: BLEU and chrF as sacreBLEU computes them."""

from collections.abc import Sequence
from typing import Any

import datasets
import numpy as np

from hf_minibert.errors import needs_extra
from hf_minibert.evaluation.metrics import OfflineMetric


class TranslationMetrics(OfflineMetric):
    """BLEU (Papineni et al. 2002) and chrF (Popović 2015) of whole texts; used as any metric of `evaluate`.

    Both are what sacreBLEU (Post 2018, arXiv:1804.08771) gives, from 0 to 100. `lowercase_bleu` does not tell capital
    letters from small ones.
    """

    columns = {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
    inputs = "predictions and references: one text each, (examples,)"

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        return {
            name: float(metric.corpus_score(list(predictions), [list(references)]).score)
            for name, metric in scorers().items()
        }


def scorers() -> dict[str, Any]:
    """SacreBLEU's own metrics, by our names.

    Raises:
        UserError: sacreBLEU is not installed.
    """
    with needs_extra("translation"):
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
    return {"bleu": BLEU(), "lowercase_bleu": BLEU(lowercase=True), "chrf": CHRF()}


def signatures(num_references: int = 1) -> dict[str, str]:
    """What sacreBLEU calls the settings that a figure was computed with, by the name of the metric."""
    found = {}
    for name, metric in scorers().items():
        metric.num_refs = num_references
        found[name] = str(metric.get_signature())
    return found


def intervals(
    predictions: Sequence[str], references: Sequence[str], *, samples: int = 1_000, seed: int = 42
) -> dict[str, tuple[float, float]]:
    """95% confidence intervals by the name of the metric, by drawing texts anew (bootstrap: Koehn 2004).

    sacreBLEU has a bootstrap of its own, which fails where some samples have no match at all.
    """
    draw = np.random.default_rng(seed)
    places = draw.integers(len(predictions), size=(samples, len(predictions)))
    found = {}
    for name, metric in scorers().items():
        counts = np.array(metric._extract_corpus_statistics(list(predictions), [list(references)]), dtype=np.float64)
        scores = [metric._compute_score_from_stats(counts[row].sum(axis=0).tolist()).score for row in places]
        low, high = np.percentile(scores, [2.5, 97.5])
        found[name] = (float(low), float(high))
    return found
