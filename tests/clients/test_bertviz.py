"""bertviz: attention of an encoder and a decoder as a page, which holds the numbers of the model."""

import json
import re
from typing import Any

import pytest
from opening import Place, run

TEXT = "He went into the house."


def job(place: Place) -> dict[str, Any]:
    import torch
    from bertviz import head_view, model_view
    from transformers import AutoModel, AutoTokenizer

    pages = {}
    for name in ("encoder", "decoder"):
        folder = getattr(place, name)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        options = {"trust_remote_code": place.trust, "attn_implementation": "eager", "dtype": torch.float32}
        model = AutoModel.from_pretrained(folder, **options).eval()
        row = tokenizer(TEXT, return_tensors="pt")
        with torch.no_grad():
            attention = model(**row, output_attentions=True).attentions
        tokens = tokenizer.convert_ids_to_tokens(row["input_ids"][0])
        page = head_view(attention, tokens, html_action="return").data
        assert '"attn"' in model_view(attention, tokens, html_action="return").data
        numbers = json.loads(re.search(r'"attn":\s*(\[\[\[\[.*?\]\]\]\])', page)[1])
        found = torch.tensor(numbers)
        pages[name] = {
            "shape": list(found.shape),
            "difference": float((found - torch.cat(attention)).abs().max()),
            "sums": float((found.sum(-1) - 1).abs().max()),
            "later": float(found.triu(1).max()),
            "first": found[0, 0, -1].tolist(),
        }
    return pages


def test_bertviz(mode: str):
    found, expected = run(job, mode), run(job, "native")
    for name in ("encoder", "decoder"):
        assert found[name]["shape"] == expected[name]["shape"]
        assert found[name]["difference"] < 1e-5
        assert found[name]["sums"] < 1e-4
        assert found[name]["first"] == pytest.approx(expected[name]["first"], abs=1e-4)
    assert found["encoder"]["later"] > 0.01
    assert found["decoder"]["later"] == 0, "a decoder sees no later token"
