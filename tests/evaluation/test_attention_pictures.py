"""Pictures of attention: the weights are those that the model computes, for all its kinds."""

import json
import re

import matplotlib.image
import numpy as np
import pytest
import torch
from commands import call
from stock_models import stir
from transformers import BertConfig, BertModel, EncoderDecoderModel, LlamaConfig, LlamaForCausalLM

from hf_minibert import MiniEncoderDecoderModel
from hf_minibert.errors import UserError
from hf_minibert.evaluation.attention import AttentionMap, attention_map, draw, summary
from hf_minibert.tokenization import adapt_tokenizer, save_tokenizer, train_wordpiece

TEXT = "The cat sat on the mat."
SHAPE = {"vocab_size": 8192, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPE |= {"intermediate_size": 48, "max_position_embeddings": 64, "initializer_range": 0.3}


def stock(name):
    torch.manual_seed(0)
    if name == "bert":
        return stir(BertModel(BertConfig(**SHAPE)))
    return stir(LlamaForCausalLM(LlamaConfig(**SHAPE, bos_token_id=2, eos_token_id=3)))


@pytest.fixture(name="translator")
def _translator(make_model):
    encoder = make_model("MiniBertModel", **SHAPE)
    decoder = make_model("MiniGPTForCausalLM", add_cross_attention=True, **SHAPE)
    model = EncoderDecoderModel(encoder=encoder, decoder=decoder).eval()
    model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = 2
    model.generation_config.pad_token_id = model.config.pad_token_id = 0
    return model


@pytest.mark.parametrize("name", ["MiniBertForMaskedLM", "MiniGPTForCausalLM", "bert", "llama"])
def test_the_weights_are_those_of_the_model_and_of_its_kind(make_model, tokenizer, name):
    model = make_model(name, **SHAPE) if name.startswith("Mini") else stock(name)
    before = model.config._attn_implementation
    found = attention_map(model, tokenizer, TEXT)
    assert model.config._attn_implementation == before
    length = len(tokenizer(TEXT).input_ids)
    assert found.weights.shape == (2, 4, length, length)
    assert found.queries == found.keys
    assert "\u00b7cat" in found.keys
    np.testing.assert_allclose(found.weights.sum(axis=-1), 1, atol=1e-5)
    later = np.triu(np.ones((length, length)), 1).astype(bool)
    is_decoder = name in ("MiniGPTForCausalLM", "llama")
    assert (found.weights[..., later] == 0).all() == is_decoder
    body = model.base_model
    states = body(torch.tensor([tokenizer(TEXT).input_ids])).last_hidden_state
    assert states.shape[1] == length  # the model computes as before


def test_a_translators_three_kinds(translator, tokenizer):
    source, target = len(tokenizer(TEXT).input_ids), len(tokenizer("Die Katze.").input_ids) + 1
    shapes = {
        "encoder": (source, source),
        "decoder": (target, target),
        "cross": (target, source),
        None: (target, source),
    }
    for kind, shape in shapes.items():
        found = attention_map(translator, tokenizer, TEXT, target="Die Katze.", kind=kind)
        assert found.weights.shape == (2, 4, *shape)
        np.testing.assert_allclose(found.weights.sum(axis=-1), 1, atol=1e-5)
    written = attention_map(translator, tokenizer, TEXT)
    assert written.weights.shape[3] == source
    assert len(written.queries) == written.weights.shape[2] > 1
    assert set(summary(written)) == {"entropy", "first"}


def test_a_translator_of_ours_reads_its_target_as_it_was_taught(translator, tokenizer):
    ours = MiniEncoderDecoderModel(encoder=translator.encoder, decoder=translator.decoder).eval()
    ours.config.decoder_start_token_id = ours.generation_config.decoder_start_token_id = 2
    found = attention_map(ours, tokenizer, TEXT, target="Die Katze.")
    assert found.queries == ["[CLS]", *(shown(tokenizer, "Die Katze."))]
    other = train_wordpiece(["die Katze sitzt da"] * 9, vocab_size=529)
    found = attention_map(ours, tokenizer, TEXT, target="Die Katze.", target_tokenizer=other)
    assert found.queries == ["[CLS]", *(shown(other, "Die Katze."))]
    assert found.keys == shown(tokenizer, TEXT, add_special_tokens=True)


def shown(tokenizer, text, **options):
    ids = tokenizer(text, **{"add_special_tokens": False} | options).input_ids
    return [tokenizer.decode([token]).replace(" ", "\u00b7") for token in ids]


def test_a_text_of_more_tokens_than_positions_is_refused(make_model, tokenizer):
    model = make_model("MiniBertModel", **SHAPE | {"max_position_embeddings": 8})
    with pytest.raises(UserError, match="a picture takes 1 to 8"):
        attention_map(model, tokenizer, "a " * 12)


def test_pictures_show_all_heads_or_one(make_model, tokenizer, tmp_path):
    found = attention_map(make_model("MiniBertModel", **SHAPE), tokenizer, TEXT)
    sizes = []
    for number, settings in enumerate(({}, {"layer": 0}, {"layer": 1, "head": 2})):
        path = tmp_path / f"{number}.png"
        path.write_bytes(draw(found, **settings))
        sizes.append(matplotlib.image.imread(path).shape)
    assert sizes[0] == sizes[1]
    assert sizes[2][1] < sizes[0][1]
    assert (tmp_path / "0.png").read_bytes() != (tmp_path / "1.png").read_bytes()
    for settings, message in (({"layer": 2}, "layer must be from 0 to 1"), ({"head": 4}, "head must be from 0 to 3")):
        with pytest.raises(UserError, match=message):
            draw(found, **settings)


def test_what_heads_do_is_told_in_numbers():
    itself, before, even = np.eye(4), np.eye(4, k=-1), np.full((4, 4), 0.25)
    before[0, 0] = 1
    weights = np.stack((itself, before, even))[None].astype(np.float32)
    told = summary(AttentionMap(weights, list("abcd"), list("abcd")))
    assert told["entropy"][0] == pytest.approx([0, 0, 2])
    assert told["itself"][0] == pytest.approx([1, 0.25, 0.25])
    assert told["before"][0] == pytest.approx([0, 1, 0.25])
    assert told["first"][0] == pytest.approx([0.25, 0.5, 0.25])


def test_the_suite_writes_a_picture_for_each_text(tmp_path, monkeypatch, capsys):
    words = ["--suite", "attention", "--model_name_or_path", "minibert-tiny", "--text", TEXT, "It costs $5.\n\u65e5"]
    assert call("evaluate.py", monkeypatch, *words, "--output_dir", tmp_path / "out", "--attention_layer", "0") == 0
    for number in (1, 2):
        assert matplotlib.image.imread(tmp_path / "out" / f"attention-{number}.png").size
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [each["text"] for each in results["texts"]] == [TEXT, "It costs $5.\n\u65e5"]
    said = capsys.readouterr().out
    assert "text 2, layer 0, head 1: entropy (bits)" in said
    assert re.findall(r"^picture  .*(attention-\d)\.png$", said, re.MULTILINE) == ["attention-1", "attention-2"]


def test_a_translator_from_its_folder(translator, tokenizer, tmp_path, monkeypatch):
    translator.save_pretrained(tmp_path / "model")
    save_tokenizer(
        adapt_tokenizer(tokenizer, model_type="minibert", uses_token_types=False, model_max_length=64),
        tmp_path / "model",
    )
    words = [
        "--suite",
        "attention",
        "--model_name_or_path",
        tmp_path / "model",
        "--text",
        TEXT,
        "--target",
        "Eine Katze.",
    ]
    words += ["--attention_kind", "cross", "--attention_head", "1", "--output_dir", tmp_path / "out"]
    assert call("evaluate.py", monkeypatch, *words) == 0
    (each,) = json.loads((tmp_path / "out" / "results.json").read_text())["texts"]
    assert len(each["queries"]) != len(each["keys"])


def test_mistakes_are_one_line(make_model, tokenizer, tmp_path, monkeypatch, capsys):
    encoder = make_model("MiniBertModel", **SHAPE)
    with pytest.raises(UserError, match="has one kind of attention"):
        attention_map(encoder, tokenizer, TEXT, kind="cross")
    with pytest.raises(UserError, match="has no decoder beside an encoder"):
        attention_map(encoder, tokenizer, TEXT, target="x")
    with pytest.raises(UserError, match="a picture takes 1 to 64"):
        attention_map(encoder, tokenizer, "word " * 100)
    for words, message in (
        ([], "suite attention needs --text"),
        (["--text", "a", "b", "--target", "c"], "target belongs to one text"),
        (["--text", "a", "--attention_layer", "5"], "layer must be from 0 to 1"),
        (["--text", "a", "--dataset", __file__], "takes no dataset; leave it out"),
        (["--text", "a", "--batch_tokens", "64"], "takes no batch_tokens; leave it out"),
    ):
        base = ["--suite", "attention", "--model_name_or_path", "minibert-tiny", "--output_dir", tmp_path / "none"]
        assert call("evaluate.py", monkeypatch, *base, *words) == 2
        assert message in capsys.readouterr().err
    words = ["--suite", "attention", "--compare", "minibert-tiny", "minigpt-tiny", "--text", "a"]
    assert call("evaluate.py", monkeypatch, *words, "--output_dir", tmp_path / "none") == 2
    assert "draws one model" in capsys.readouterr().err
