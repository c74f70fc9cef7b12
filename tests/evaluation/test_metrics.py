import socket
import tracemalloc
from typing import NoReturn

import evaluate
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from hf_minibert.evaluation.metrics import ClassificationMetrics, RegressionMetrics


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    def refuse(*_) -> NoReturn:
        raise AssertionError("a metric must not need the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def expected(references, predictions) -> dict[str, float]:
    return {
        "accuracy": accuracy_score(references, predictions),
        "macro_f1": f1_score(references, predictions, average="macro"),
        "matthews_correlation": matthews_corrcoef(references, predictions),
    }


@pytest.mark.parametrize("num_labels", [2, 5])
def test_equals_scikit_learn(num_labels):
    generator = np.random.default_rng(num_labels)
    references = generator.integers(0, num_labels, 200)
    predictions = np.where(generator.random(200) < 0.6, references, generator.integers(0, num_labels, 200))
    found = ClassificationMetrics().compute(predictions=predictions, references=references, num_labels=num_labels)
    positive = {"positive_f1": f1_score(references, predictions)} if num_labels == 2 else {}
    assert found == pytest.approx(expected(references, predictions) | positive)
    assert all(type(value) is float for value in found.values()), "so that it can be written as JSON"


def test_by_hand():
    found = ClassificationMetrics().compute(predictions=[0, 0, 1, 1], references=[0, 1, 1, 1], num_labels=2)
    assert found == pytest.approx(
        {
            "accuracy": 3 / 4,
            "macro_f1": (2 / 3 + 4 / 5) / 2,
            "positive_f1": 4 / 5,
            "matthews_correlation": 2 / (2 * 2 * 1 * 3) ** 0.5,
        }
    )


def test_f1_of_the_positive_label_is_there_for_two_labels_whichever_were_met():
    two = ClassificationMetrics().compute(predictions=[0, 0], references=[0, 0], num_labels=2)
    assert two == {"accuracy": 1, "macro_f1": 1, "positive_f1": 0, "matthews_correlation": 0}
    three = ClassificationMetrics().compute(predictions=[0, 1], references=[0, 1], num_labels=3)
    assert "positive_f1" not in three


def test_metrics_are_combined_without_telling_the_number_of_labels():
    """Which other metrics would not take."""
    both = evaluate.combine([ClassificationMetrics(), RegressionMetrics()])
    found = both.compute(predictions=[0, 1, 1], references=[0, 1, 0])
    assert found["positive_f1"] == pytest.approx(2 / 3)
    assert found["mse"] == pytest.approx(1 / 3)
    assert "positive_f1" not in ClassificationMetrics().compute(predictions=[0, 1, 2], references=[0, 1, 0])


def test_ten_thousand_labels_take_no_matrix_of_them():
    references = np.arange(20_000) % 10_000
    predictions = np.where(np.arange(20_000) % 3 == 0, references, (references + 1) % 10_000)
    tracemalloc.start()
    found = ClassificationMetrics().compute(predictions=predictions, references=references, num_labels=10_000)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 10_000**2 / 10
    assert found["matthews_correlation"] == pytest.approx(1 / 3, abs=1e-3)


def test_batches_add_up_and_nothing_is_kept():
    metric = ClassificationMetrics()
    predictions, references = [0, 1, 2, 2, 1, 0, 1], [0, 1, 2, 1, 1, 2, 0]
    for _ in range(2):
        for begin in (0, 3, 6):
            metric.add_batch(predictions=predictions[begin : begin + 3], references=references[begin : begin + 3])
        assert metric.compute() == pytest.approx(expected(references, predictions))


def test_a_label_that_is_never_predicted_counts_as_zero_without_a_warning():
    found = ClassificationMetrics().compute(predictions=[0, 0, 0], references=[0, 1, 2])
    assert found == pytest.approx({"accuracy": 1 / 3, "macro_f1": 1 / 6, "matthews_correlation": 0.0})
