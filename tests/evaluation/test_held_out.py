"""What an evaluation compares with."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from hf_minibert.evaluation.held_out import frequency_baselines


@pytest.mark.parametrize("is_causal", [False, True])
def test_frequencies_are_those_of_what_is_predicted(tokenizer: PreTrainedTokenizerFast, is_causal: bool) -> None:
    """Only a causal model predicts where a document ends; nobody predicts padding or masks."""
    counts = np.zeros(len(tokenizer), dtype=np.int64)
    counts[[10, 11]] = 30, 70
    store: Any = SimpleNamespace(info=SimpleNamespace(token_counts=counts.tolist()), train=range(50))
    targets = np.array([10, 11, 11])
    total = 100 + len(tokenizer) - 5 + (50 + 2 if is_causal else 0)
    expected = -(np.log(31 / total) + 2 * np.log(71 / total)) / 3
    assert frequency_baselines(store, targets, tokenizer, of_bytes=is_causal)["unigram_loss"] == pytest.approx(expected)
    if is_causal:
        ends = frequency_baselines(store, np.array([tokenizer.sep_token_id]), tokenizer, of_bytes=is_causal)
        assert ends["unigram_loss"] == pytest.approx(-np.log(51 / total))
