"""Export to sentence-transformers: what is written opens without this package, computes the same, trains and saves."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from transformers import AutoTokenizer

from hf_minibert.errors import UserError
from hf_minibert.export.sentence_transformers import export

TEXTS = ["The cat sat on the mat.", "", "naïve [MASK] \n\n  and a longer sentence 漢字"]
READER = """
import json, sys
sys.modules["hf_minibert"] = None
from sentence_transformers import SentenceTransformer

found = []
for folder in sys.argv[2:]:
    model = SentenceTransformer(folder, device="cpu")
    found.append([type(model[0].auto_model).__name__, model.encode(json.loads(sys.argv[1])).tolist()])
print(json.dumps(found))
"""


def embed(model: torch.nn.Module, ids: list[int], pooling: str) -> torch.Tensor:
    """By the checkpoint's own code."""
    with torch.no_grad():
        (states,) = model.base_model(torch.tensor([ids])).last_hidden_state
    return {"cls": states[0], "lasttoken": states[-1], "mean": states.mean(0), "max": states.amax(0)}[pooling]


CELLS = [
    ("MiniBertForMaskedLM", "classic", "BertModel"),
    ("MiniBertForMaskedLM", "modern", "EuroBertModel"),
    ("MiniGPTForCausalLM", "classic", "GPT2Model"),
    ("MiniGPTForCausalLM", "modern", "LlamaModel"),
]


def test_it_opens_without_the_package_and_computes_the_same(save, tmp_path: Path):
    models = {}
    for name, architecture, stock_name in CELLS:
        models[stock_name], folder = save(name, architecture)
        record = export(str(folder), str(tmp_path / stock_name), pooling="mean")
        assert record["to"] == f"SentenceTransformer of a {stock_name}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON"))}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    words = [sys.executable, "-P", "-c", READER, json.dumps(TEXTS), *(str(tmp_path / name) for name in models)]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for stock_name, (found, vectors) in zip(models, json.loads(done.stdout), strict=True):
        assert found == stock_name
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / stock_name)
        for text, vector in zip(TEXTS, vectors, strict=True):
            ids = tokenizer(text)["input_ids"]
            assert ids[0] == 2, "every text begins as documents do"
            expected = torch.nn.functional.normalize(embed(models[stock_name], ids, "mean"), dim=0)
            torch.testing.assert_close(torch.tensor(vector), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "fields", "pooling"),
    [
        ("MiniBertForSequenceClassification", {"classifier_pooling": "cls"}, "cls"),
        ("MiniBertForSequenceClassification", {"classifier_pooling": "mean"}, "mean"),
        ("MiniBertForSequenceClassification", {"classifier_pooling": "pair"}, "mean"),
        ("MiniBertForSequenceClassification", {"classifier_pooling": "siamese"}, "mean"),
        ("MiniGPTForSequenceClassification", {}, "lasttoken"),
        ("MiniBertForMaskedLM", {}, "mean"),
    ],
)
def test_the_default_is_the_pooling_of_the_classifier(save, name: str, fields: dict, pooling: str, tmp_path: Path):
    model, folder = save(name, **fields)
    record = export(str(folder), str(tmp_path / "out"), normalize=False)
    assert record["pooling"] == pooling
    opened = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    expected = embed(model, opened.tokenizer(TEXTS[2])["input_ids"], pooling)
    torch.testing.assert_close(torch.tensor(opened.encode(TEXTS[2])), expected, rtol=0, atol=1e-5)
    assert abs(float(expected.norm()) - 1) > 0.1, "not normalised"


def test_it_trains_and_saves(save, tmp_path: Path):
    """Two of three sentences become near each other, and stay so in what was saved."""
    model, folder = save("MiniBertForMaskedLM")
    model.to(torch.bfloat16).save_pretrained(folder)
    export(str(folder), str(tmp_path / "out"))
    opened = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    assert opened.dtype == torch.float32, "it would train in the type in which it opens"
    pairs = Dataset.from_dict({"anchor": ["a cat", "red"] * 8, "positive": ["one dog", "blue"] * 8})
    arguments = SentenceTransformerTrainingArguments(
        str(tmp_path / "run"),
        max_steps=8,
        learning_rate=1e-2,
        per_device_train_batch_size=2,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = SentenceTransformerTrainer(opened, arguments, pairs, loss=MultipleNegativesRankingLoss(opened))
    before = opened.similarity(*opened.encode(["a cat", "one dog"])[:, None]).item()
    trainer.train()
    vectors = opened.encode(["a cat", "one dog"])
    assert opened.similarity(*vectors[:, None]).item() > before
    opened.save(str(tmp_path / "trained"))
    again = SentenceTransformer(str(tmp_path / "trained"), device="cpu").encode(["a cat", "one dog"])
    torch.testing.assert_close(torch.tensor(again), torch.tensor(vectors))


def test_nothing_is_written_without_the_library(save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _, folder = save("MiniBertForMaskedLM")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(UserError, match=r"pip install 'hf_minibert\[sentence-transformers\]'"):
        export(str(folder), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
