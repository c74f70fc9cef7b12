"""Runs here are of steps, files and figures."""

from collections.abc import Iterator

import pytest

from hf_minibert.pretraining.loop import Pretraining


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_certified() -> Iterator[None]:
    """It takes a third of a short run; tests/scripts/test_pretrain.py and tests/certificate look at certificates."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(Pretraining, "_certify", lambda _: None)
        yield
