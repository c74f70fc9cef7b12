"""Metrics that `evaluate.load` would fetch from the Hub, here as classes that work offline."""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef


class ClassificationMetrics(evaluate.Metric):  # type: ignore[misc]  # evaluate publishes no types
    """Accuracy, macro-averaged F1 and Matthews correlation of class ids; used as any metric of `evaluate`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description="predictions and references: class ids, (examples,)",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions: Sequence[int], references: Sequence[int], **_: Any) -> dict[str, float]:
        return {
            "accuracy": float(accuracy_score(references, predictions)),
            "f1": float(f1_score(references, predictions, average="macro", zero_division=0)),
            "matthews_correlation": float(matthews_corrcoef(references, predictions)),
        }
