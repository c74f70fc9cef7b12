"""Export to ONNX: onnxruntime computes what the checkpoint does, at any batch and length, and writes the same text."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from commands import call
from transformers import AutoConfig, AutoTokenizer

from hf_minibert.errors import UserError
from hf_minibert.export import browser
from hf_minibert.export import onnx as onnx_export
from hf_minibert.export.onnx import FILE, QUANTIZED_FILE, SHAPES, export

TEXTS = ["The cat sat on the [MASK].", "[MASK] naïve 漢字 and so on, for a while"]


def run(folder: Path, inputs: dict[str, torch.Tensor], file: str = FILE) -> dict[str, torch.Tensor]:
    """The outputs of the graph in an export, by name."""
    session = onnxruntime.InferenceSession(folder / file, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    given = {one.name: inputs[one.name].numpy() for one in session.get_inputs()}
    return dict(zip(names, map(torch.from_numpy, session.run(None, given)), strict=True))


def generate(folder: Path, ids: list[int], length: int) -> list[int]:
    """Greedy text by the graph alone, one token at a time."""
    session = onnxruntime.InferenceSession(folder / FILE, providers=["CPUExecutionProvider"])
    past = {
        one.name: np.zeros((1, one.shape[1], 0, one.shape[3]), np.float32)
        for one in session.get_inputs()
        if one.name.startswith("past")
    }
    new, written = ids, list(ids)
    for _ in range(length):
        seen = len(written)
        given = {
            "input_ids": np.array([new]),
            "attention_mask": np.ones((1, seen), np.int64),
            "position_ids": np.arange(seen - len(new), seen)[None],
        }
        logits, *cache = session.run(None, given | past)
        past = dict(zip(past, cache, strict=True))
        new = [int(logits[0, -1].argmax())]
        written += new
    return written


@pytest.mark.parametrize(("architecture", "stock"), [("modern", "EuroBert"), ("classic", "Bert")])
def test_an_encoder_computes_the_same_and_so_does_its_quantized_form_nearly(save, architecture, stock, tmp_path):
    model, folder = save("MiniBertForMaskedLM", architecture)
    out = tmp_path / "out"
    record = export(str(folder), str(out), quantize="int8")
    assert record["largest_difference"] <= 1e-4
    assert AutoConfig.from_pretrained(out).architectures == [f"{stock}ForMaskedLM"]
    tokenizer = AutoTokenizer.from_pretrained(out)
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    assert ("token_type_ids" in record["inputs"]) == (architecture == "classic")
    with torch.no_grad():
        expected = model(**inputs).logits
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(run(out, inputs)["logits"][real], expected[real], rtol=0, atol=1e-4)
    nearly = run(out, inputs, QUANTIZED_FILE)["logits"][real]
    difference = (nearly - expected[real]).abs().max() / expected[real].abs().max()
    assert 1e-4 < difference < 0.2, "8-bit numbers"
    assert (out / QUANTIZED_FILE).stat().st_size < 0.6 * (out / FILE).stat().st_size


@pytest.mark.parametrize(
    ("architecture", "fields", "model_type"),
    [
        ("modern", {}, "llama"),
        pytest.param("modern", {"qk_norm": True}, "qwen3", marks=pytest.mark.slow),
        pytest.param("modern", {"gated_mlp": False, "hidden_act": "relu2"}, "arcee", marks=pytest.mark.slow),
        pytest.param("classic", {}, "gpt2", marks=pytest.mark.slow),
    ],
)
def test_a_decoder_writes_the_same_text_with_its_cache(save, architecture, fields, model_type, tmp_path):
    model, folder = save("MiniGPTForCausalLM", architecture, **fields)
    out = tmp_path / "out"
    assert export(str(folder), str(out))["largest_difference"] <= 1e-4
    assert AutoConfig.from_pretrained(out).model_type == model_type
    assert AutoConfig.from_pretrained(out).architectures[0] in browser.CLASSES, "so it has a page"
    assert {earlier for *_, earlier in SHAPES} > {0}, "with and without earlier tokens"
    ids = AutoTokenizer.from_pretrained(out)("The cat").input_ids
    expected = model.generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False, eos_token_id=None)
    assert generate(out, ids, 12) == expected[0].tolist()


@pytest.mark.parametrize(
    ("name", "architecture", "outputs"),
    [
        ("MiniBertForSequenceClassification", "modern", ["logits"]),
        ("MiniBertForQuestionAnswering", "classic", ["start_logits", "end_logits"]),
    ],
)
def test_heads_have_the_names_that_runtimes_know(save, name, architecture, outputs, tmp_path):
    fields = {"classifier_pooling": "mean", "num_labels": 3} if name.endswith("SequenceClassification") else {}
    model, folder = save(name, architecture, **fields)
    record = export(str(folder), str(tmp_path / "out"))
    assert record["outputs"] == outputs
    inputs = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs)
    found = run(tmp_path / "out", inputs)
    real = inputs["attention_mask"].bool() if outputs != ["logits"] else slice(None)
    for output in outputs:
        torch.testing.assert_close(found[output][real], expected[output][real], rtol=0, atol=1e-4)


@pytest.mark.parametrize("pooling", ["pair", "siamese"])
def test_a_classifier_of_pairs_compares_them_in_its_graph(save, tmp_path, pooling):
    """Though no stock class pools as it does."""
    model, folder = save("MiniBertForSequenceClassification", classifier_pooling=pooling, num_labels=3)
    record = export(str(folder), str(tmp_path / "out"))
    assert "text_pair" in onnx_export.opening(record, '"."'), "the card opens it with two texts"
    inputs = AutoTokenizer.from_pretrained(tmp_path / "out")(TEXTS, TEXTS[::-1], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs).logits
    torch.testing.assert_close(run(tmp_path / "out", inputs)["logits"], expected, rtol=0, atol=1e-4)
    assert AutoConfig.from_pretrained(tmp_path / "out").architectures == ["EuroBertForSequenceClassification"]
    data = tmp_path / "pairs.csv"
    pairs = (("The cat sat.", "A dog ran away from the house."), ("It rains, and how.", "It rains."))
    rows = [(*pair, model.config.id2label[label]) for pair in pairs for label in range(3)]
    data.write_text("\n".join(["text,text_pair,label", *(",".join(f'"{cell}"' for cell in row) for row in rows)]))
    measured = export(str(folder), str(tmp_path / "out"), quantize="int8", measure_on=str(data))["int8"]["fp32"]
    with torch.no_grad():
        alone = [model(**AutoTokenizer.from_pretrained(folder)(*row[:2], return_tensors="pt")).logits for row in rows]
    losses = [-float(one.log_softmax(dim=-1)[0, place % 3]) for place, one in enumerate(alone)]
    assert measured["loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-5)


def test_a_number_is_read_as_one(save, tmp_path):
    """transformers.js would make a share of 100% of it."""
    _, folder = save("MiniBertForSequenceClassification", num_labels=1)
    record = export(str(folder), str(tmp_path / "out"))
    assert record["gives_a_number"]
    assert "logits" in (opened := onnx_export.opening(record, '"."'))
    assert "text_pair" not in opened
    with pytest.raises(UserError, match="gives a number, which the page would show as a share"):
        onnx_export.fill(tmp_path, str(folder), classes=("EuroBertForSequenceClassification",))
    _, folder = save("MiniBertForSequenceClassification", num_labels=1, problem_type="multi_label_classification")
    assert "pipeline(" in onnx_export.opening(export(str(folder), str(tmp_path / "several")), '"."')


def test_a_model_of_few_positions_is_compared_with_as_many(save, tmp_path):
    for name in ("MiniBertForMaskedLM", "MiniGPTForCausalLM"):
        _, folder = save(name, "classic", max_position_embeddings=16)
        assert export(str(folder), str(tmp_path / name))["largest_difference"] < 1e-4


@pytest.mark.parametrize("card", [b"---\nlicense: mit\nlicense_name: foo: bar\n---\n", b"\xff\xfe broken"])
def test_a_card_that_cannot_be_read_stands_in_nobodys_way(save, tmp_path, card):
    _, folder = save("MiniBertForMaskedLM")
    (folder / "README.md").write_bytes(card)
    export(str(folder), str(tmp_path / "out"))
    assert "license" not in (tmp_path / "out" / "README.md").read_text().split("---")[1]


def test_the_cost_of_8_bits_is_measured_on_the_users_file(save, tmp_path, monkeypatch, capsys):
    """As a loop over the file does it, with the graph that was written."""
    _, folder = save("MiniBertForSequenceClassification", id2label={0: "bad", 1: "good"})
    rows = [(f"a {word} film", label) for word in ("good", "bad", "dull", "fine") for label in ("good", "bad")]
    data = tmp_path / "reviews.csv"
    data.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    flags = ["--model_name_or_path", folder, "--to", "onnx", "--quantize", "int8", "--measure_on", data]
    assert call("export.py", monkeypatch, *flags, "--output_dir", tmp_path / "out") == 0
    record = json.loads((tmp_path / "out/export.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    for file, form in ((FILE, "fp32"), (QUANTIZED_FILE, "int8")):
        logits = [run(tmp_path / "out", tokenizer(text, return_tensors="pt"), file)["logits"] for text, _ in rows]
        labels = torch.tensor([["bad", "good"].index(label) for _, label in rows])
        loss = torch.nn.functional.cross_entropy(torch.cat(logits), labels)
        assert record["int8"][form]["accuracy"] == 0.5, "each text stands there with both labels"
        assert record["int8"][form]["loss"] == pytest.approx(float(loss), abs=1e-5)
    printed = capsys.readouterr().out
    assert "On 8 predictions in reviews.csv: accuracy 50.00% in place of 50.00%" in printed
    data.write_text("text,label\nx,ugly\n")
    assert call("export.py", monkeypatch, *flags, "--output_dir", tmp_path / "other") == 2
    assert "line 2: the model knows no label 'ugly', only bad, good" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_graph_that_computes_something_else_is_not_written(save, tmp_path, monkeypatch):
    _, folder = save("MiniBertForMaskedLM")
    write = onnx_export.write_graph

    def write_and_spoil(graph: onnx_export.Graph, path: Path) -> None:
        write(graph, path)
        with torch.no_grad():
            graph.model.model.layers[0].mlp.down_proj.weight *= 1.01

    monkeypatch.setattr(onnx_export, "write_graph", write_and_spoil)
    with pytest.raises(UserError, match="nothing was written"):
        export(str(folder), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


REFUSALS = {
    "what ONNX does not have": ("MiniBertForMultipleChoice", [], "its input is choices; export its encoder"),
    "a measure of nothing": ("MiniBertForMaskedLM", ["--measure_on", "a.txt"], "give that, too"),
    "a measure of spans": (
        "MiniBertForQuestionAnswering",
        ["--measure_on", "a.txt", "--quantize", "int8"],
        "not for a MiniBertForQuestionAnswering",
    ),
    "another target's flag": ("MiniBertForMaskedLM", ["--pooling", "cls"], "sentence-transformers or gguf only"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_is_refused(case, save, tmp_path, monkeypatch, capsys):
    name, words, message = REFUSALS[case]
    _, folder = save(name, "classic")
    flags = ["--model_name_or_path", folder, "--to", "onnx", "--output_dir", tmp_path / "out", *words]
    assert call("export.py", monkeypatch, *flags) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("module", ["onnx", "onnxruntime", "onnxscript"])
def test_nothing_is_written_without_the_libraries(module, save, tmp_path, monkeypatch):
    _, folder = save("MiniBertForMaskedLM")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=r"pip install 'hf_minibert\[onnx\]'"):
        export(str(folder), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
