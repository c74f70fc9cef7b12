"""Metrics that `evaluate.load` would fetch from the Hub, here as classes that work offline."""

from collections.abc import Sequence

import datasets
import evaluate
import numpy as np
from sklearn.metrics import accuracy_score, f1_score


class ClassificationMetrics(evaluate.Metric):  # type: ignore[misc]  # evaluate publishes no types
    """Accuracy, F1 and Matthews correlation of class ids; used as any metric of `evaluate`.

    `macro_f1` is the mean of the labels' F1. Told that there are two labels (`num_labels=2`), it also gives
    `positive_f1`, the F1 of class id 1, which is what benchmarks of two labels call F1.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="predictions and references: class ids, (examples,)",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _compute(
        self, predictions: Sequence[int], references: Sequence[int], num_labels: int | None = None
    ) -> dict[str, float]:
        found = {
            "accuracy": float(accuracy_score(references, predictions)),
            "macro_f1": float(f1_score(references, predictions, average="macro", zero_division=0)),
        }
        if num_labels == 2:
            found["positive_f1"] = float(f1_score(references, predictions, zero_division=0))
        return found | {"matthews_correlation": matthews_correlation(references, predictions)}


def matthews_correlation(references: Sequence[int], predictions: Sequence[int]) -> float:
    """Gorodkin's (2004) coefficient from the labels' counts alone; scikit-learn's makes a matrix of all label pairs."""
    size = max(*references, *predictions) + 1
    true, said = (np.bincount(ids, minlength=size).astype(float) for ids in (references, predictions))
    total, right = float(len(references)), float(np.equal(references, predictions).sum())
    spread = (total**2 - true @ true) * (total**2 - said @ said)
    return float((right * total - true @ said) / spread**0.5) if spread > 0 else 0.0
