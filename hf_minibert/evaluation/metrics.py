"""Metrics that `evaluate.load` would fetch from the Hub, here as classes that work offline."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, hamming_loss, mean_squared_error

RESAMPLES = 1_000
DRAWS_AT_ONCE = 50


class OfflineMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate publishes no types
    """A metric of `evaluate` that needs no download: a subclass says what it takes, and computes."""

    columns: ClassVar[dict[str, Any]]
    """The types of predictions and references."""
    inputs: ClassVar[str]
    """What they are, for people."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            inputs_description=self.inputs,
            features=datasets.Features(self.columns),
        )


class ClassificationMetrics(OfflineMetric):
    """Accuracy, F1 and Matthews correlation of class ids; used as any metric of `evaluate`.

    `macro_f1` is the mean of the labels' F1. Of two labels it also gives `positive_f1`, the F1 of class id 1, which is
    what benchmarks of two labels call F1. There are two if `num_labels` says so or, without it, no class id is above 1.
    """

    columns = {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
    inputs = "predictions and references: class ids, (examples,)"

    def _compute(
        self, predictions: Sequence[int], references: Sequence[int], num_labels: int | None = None
    ) -> dict[str, float]:
        return classification_scores(references, predictions, num_labels=num_labels)


class MultiLabelMetrics(OfflineMetric):
    """F1 and accuracy of texts that may have several labels; used as any metric of `evaluate`.

    `micro_f1` counts all pairs of a text and a label alike, `macro_f1` is the mean of the labels' F1, `exact_match` the
    share of texts of which all labels are right, and `hamming_loss` the share of pairs that are wrong.
    """

    columns = {name: datasets.Sequence(datasets.Value("int64")) for name in ("predictions", "references")}
    inputs = "predictions and references: 1 where a text has a label, else 0, (examples, labels)"

    def _compute(self, predictions: Sequence[Sequence[int]], references: Sequence[Sequence[int]]) -> dict[str, float]:
        return multi_label_scores(references, predictions)


class RegressionMetrics(OfflineMetric):
    """Pearson and Spearman correlation and mean squared error of numbers; used as any metric of `evaluate`.

    A correlation with numbers that are all alike is 0.
    """

    columns = {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}
    inputs = "predictions and references: numbers, (examples,)"

    def _compute(self, predictions: Sequence[float], references: Sequence[float]) -> dict[str, float]:
        return regression_scores(references, predictions)


def classification_scores(
    references: ArrayLike, predictions: ArrayLike, *, num_labels: int | None = None
) -> dict[str, float]:
    """The figures of `ClassificationMetrics`."""
    found = {
        "accuracy": float(accuracy_score(references, predictions)),
        "macro_f1": float(f1_score(references, predictions, average="macro", zero_division=0)),
    }
    if num_labels == 2 or (num_labels is None and max(np.max(references), np.max(predictions)) <= 1):
        found["positive_f1"] = float(f1_score(references, predictions, zero_division=0))
    return found | {"matthews_correlation": matthews_correlation(references, predictions)}


def matthews_correlation(references: ArrayLike, predictions: ArrayLike) -> float:
    """Gorodkin's (2004) coefficient from the labels' counts alone; scikit-learn's makes a matrix of all label pairs."""
    true, said = np.asarray(references), np.asarray(predictions)
    return float(_correlation(*_label_counts(true, said, np.ones((1, len(true)))))[0])


def _label_counts(
    true: NDArray[Any], said: NDArray[Any], weights: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """How often each label is (true, said, both), in each draw: (draws, labels) three times."""
    size = int(max(true.max(), said.max())) + 1

    def counts(ids: NDArray[Any], chosen: NDArray[Any]) -> NDArray[Any]:
        return np.stack([np.bincount(ids, draw, minlength=size) for draw in chosen])

    return counts(true, weights), counts(said, weights), counts(true, weights * (true == said))


def _correlation(of_true: NDArray[Any], of_said: NDArray[Any], of_both: NDArray[Any]) -> NDArray[Any]:
    """The Matthews correlation of each draw; 0 where all labels are alike."""
    total, right = of_true.sum(axis=1), of_both.sum(axis=1)
    spread = (total**2 - (of_true**2).sum(axis=1)) * (total**2 - (of_said**2).sum(axis=1))
    together = right * total - (of_true * of_said).sum(axis=1)
    found: NDArray[Any] = np.divide(together, np.sqrt(spread), out=np.zeros_like(total), where=spread > 0)
    return found


def classification_draws(
    references: NDArray[Any], predictions: NDArray[Any], weights: NDArray[Any]
) -> dict[str, NDArray[Any]]:
    """The figures of `ClassificationMetrics` in every draw, for `confidence_intervals`."""
    of_true, of_said, of_both = _label_counts(references, predictions, weights)
    either = of_true + of_said
    f1 = np.divide(2 * of_both, either, out=np.zeros_like(of_both), where=either > 0)
    return {
        "accuracy": of_both.sum(axis=1) / of_true.sum(axis=1),
        "macro_f1": f1.sum(axis=1) / (either > 0).sum(axis=1),
        "positive_f1": f1[:, 1] if f1.shape[1] > 1 else np.zeros(len(f1)),
        "matthews_correlation": _correlation(of_true, of_said, of_both),
    }


def multi_label_scores(references: ArrayLike, predictions: ArrayLike) -> dict[str, float]:
    """The figures of `MultiLabelMetrics`."""
    true, said = np.asarray(references), np.asarray(predictions)
    return {
        "micro_f1": float(f1_score(true, said, average="micro", zero_division=0)),
        "macro_f1": float(f1_score(true, said, average="macro", zero_division=0)),
        "exact_match": float(accuracy_score(true, said)),
        "hamming_loss": float(hamming_loss(true, said)),
    }


def multi_label_draws(
    references: NDArray[Any], predictions: NDArray[Any], weights: NDArray[Any]
) -> dict[str, NDArray[Any]]:
    """The figures of `MultiLabelMetrics` in every draw, for `confidence_intervals`."""
    both, either = weights @ (references & predictions), weights @ (references + predictions)
    f1 = np.divide(2 * both, either, out=np.zeros(both.shape), where=either > 0)
    micro, total = either.sum(axis=1), weights.sum(axis=1)
    wrong = references != predictions
    return {
        "micro_f1": np.divide(2 * both.sum(axis=1), micro, out=np.zeros(len(micro)), where=micro > 0),
        "macro_f1": f1.mean(axis=1),
        "exact_match": weights @ ~wrong.any(axis=1) / total,
        "hamming_loss": weights @ wrong.mean(axis=1) / total,
    }


def regression_scores(references: ArrayLike, predictions: ArrayLike) -> dict[str, float]:
    """The figures of `RegressionMetrics`."""
    true, said = np.asarray(references, float), np.asarray(predictions, float)
    is_level = len(true) < 2 or bool(np.all(true == true[0]) or np.all(said == said[0]))
    return {
        "pearson": 0.0 if is_level else float(pearsonr(true, said).statistic),
        "spearman": 0.0 if is_level else float(spearmanr(true, said).statistic),
        "mse": float(mean_squared_error(true, said)),
    }


def regression_draws(
    references: NDArray[Any], predictions: NDArray[Any], weights: NDArray[Any]
) -> dict[str, NDArray[Any]]:
    """The figures of `RegressionMetrics` in every draw, for `confidence_intervals`."""
    places = np.arange(len(references))
    drawn = [np.repeat(places, draw) for draw in weights]
    figures = [regression_scores(references[chosen], predictions[chosen]) for chosen in drawn]
    return {name: np.array([each[name] for each in figures]) for name in figures[0]}


def confidence_intervals(
    statistic: Callable[[NDArray[np.int64]], dict[str, NDArray[Any]]], counts: ArrayLike, *, seed: int
) -> dict[str, tuple[float, float]]:
    """95% intervals of figures by the percentile bootstrap (Efron 1979), from `RESAMPLES` draws of as many examples.

    Args:
        statistic: the figures of some draws, (draws,) each, given how often each draw has each example,
            (draws, examples).
        counts: how many examples of each kind there are; ones, if each is of its own kind.
        seed: of the draws.
    """
    there = np.asarray(counts)
    numbers = np.random.default_rng(seed)
    total = int(there.sum())
    parts = [
        statistic(numbers.multinomial(total, there / total, size=DRAWS_AT_ONCE))
        for _ in range(RESAMPLES // DRAWS_AT_ONCE)
    ]
    found = {}
    for name in parts[0]:
        low, high = np.percentile(np.concatenate([part[name] for part in parts]), (2.5, 97.5))
        found[name] = (float(low), float(high))
    return found
