"""Runs here are of steps, files and figures."""

import pytest

from hf_minibert.pretraining.loop import Pretraining


@pytest.fixture(autouse=True)
def _nothing_is_certified(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a third of a short run; tests/scripts/test_pretrain.py and tests/certificate look at certificates."""
    monkeypatch.setattr(Pretraining, "_certify", lambda _: None)
