"""Captum: which tokens a label or a next word comes from; attributions add up to what they explain."""

from typing import Any

import pytest
from opening import Place, run


def job(place: Place) -> dict[str, Any]:
    import torch
    from captum.attr import IntegratedGradients, LayerIntegratedGradients
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    options = {"trust_remote_code": place.trust, "dtype": torch.float32}
    tokenizer = AutoTokenizer.from_pretrained(place.classifier)
    model = AutoModelForSequenceClassification.from_pretrained(place.classifier, **options).eval()
    row = tokenizer("He went into the house.", return_tensors="pt")["input_ids"]
    nothing = row.clone()
    nothing[:, 1:-1] = tokenizer.pad_token_id

    def label(ids: Any) -> Any:
        return model(input_ids=ids).logits[:, 0]

    explain = LayerIntegratedGradients(label, model.get_input_embeddings())
    by_token = explain.attribute(row, nothing, n_steps=200, internal_batch_size=50).sum(-1)[0]
    with torch.no_grad():
        change = (label(row) - label(nothing)).item()

    decoder = AutoModelForCausalLM.from_pretrained(place.decoder, **options).eval()
    words = AutoTokenizer.from_pretrained(place.decoder)("The history of the", return_tensors="pt")["input_ids"]
    vectors = decoder.get_input_embeddings()(words).detach()

    def next_word(embeddings: Any) -> Any:
        return decoder(inputs_embeds=embeddings).logits[:, -1].max(dim=-1).values

    with torch.no_grad():
        expected = (next_word(vectors) - next_word(vectors * 0.5)).item()
    explained = IntegratedGradients(next_word).attribute(vectors, vectors * 0.5, n_steps=200, internal_batch_size=50)
    return {
        "by_token": by_token.tolist(),
        "missing": [float(by_token.sum()) - change, float(explained.sum()) - expected],
        "change": [change, expected],
    }


def test_captum(mode: str):
    found, expected = run(job, mode), run(job, "native")
    for missing, change in zip(found["missing"], found["change"], strict=True):
        assert abs(missing) < 0.02 * abs(change) + 1e-3
    assert found["by_token"] == pytest.approx(expected["by_token"], abs=2e-3)
