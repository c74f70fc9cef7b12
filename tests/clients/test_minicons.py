"""minicons: what a sentence scores, by masking each token in turn or from left to right."""

from typing import Any

import pytest
from opening import Place, run

PAIR = ["He went into the house.", "He went into the of."]


def job(place: Place) -> dict[str, Any]:
    import torch
    from minicons import scorer
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    options = {"trust_remote_code": place.trust, "dtype": torch.float32}
    decoder = AutoModelForCausalLM.from_pretrained(place.decoder, **options).eval()
    encoder = AutoModelForMaskedLM.from_pretrained(place.encoder, **options).eval()
    tokens, masks = AutoTokenizer.from_pretrained(place.decoder), AutoTokenizer.from_pretrained(place.encoder)
    # minicons 0.3.39 calls a method that transformers 5 has taken from every tokenizer
    for kind in {type(tokens), type(masks)}:
        kind.batch_encode_plus = kind.__call__
    causal = scorer.IncrementalLMScorer(decoder, device="cpu", tokenizer=tokens)
    masked = scorer.MaskedLMScorer(encoder, device="cpu", tokenizer=masks)
    row = tokens(PAIR[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        log = decoder(row).logits.log_softmax(-1)[0, :-1]
    own = log.gather(1, row[0, 1:, None]).mean()
    return {
        "causal": causal.sequence_score(PAIR),
        "masked": masked.sequence_score(PAIR),
        "words": [word for word, _ in causal.token_score(PAIR[0])[0]],
        "own": float(own),
    }


def test_minicons(mode: str):
    found, expected = run(job, mode), run(job, "native")
    assert found["causal"][0] > found["causal"][1]
    assert found["masked"][0] > found["masked"][1]
    assert found["causal"] == pytest.approx(expected["causal"], abs=1e-3)
    assert found["masked"] == pytest.approx(expected["masked"], abs=1e-3)
    assert found["causal"][0] == pytest.approx(found["own"], abs=1e-3)
