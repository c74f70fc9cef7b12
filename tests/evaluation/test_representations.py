"""Vectors of texts: packed or padded, sorted or not, they are those of each text alone."""

import logging

import numpy as np
import pytest
import torch
import transformers
from stock_models import stir
from transformers import EncoderDecoderModel

import hf_minibert
from hf_minibert.assets import asset
from hf_minibert.errors import UserError
from hf_minibert.evaluation.representations import (
    POOLINGS,
    Encoder,
    attend_within_documents,
    batches_by_length,
    encode,
    normalized,
)

TEXTS = [
    "A cat sat on the mat.",
    "",
    "One of the longest texts of these. " * 5,
    "x",
    "A cat sat on the mat. ",
    "日本語 🙂",
]
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
SMALL |= {"max_position_embeddings": 80, "vocab_size": 8192, "initializer_range": 0.1}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 80, "vocab_size": 8192, "initializer_range": 0.1}
IDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
STOCK = {  # the class, its configuration, and whether it can pack
    "Bert": (SMALL, True),
    "Roberta": (SMALL, False),
    "ModernBert": (SMALL | IDS, False),
    "EuroBert": (SMALL | IDS | {"mask_token_id": 4}, True),
    "GPT2": (GPT2 | {"bos_token_id": 2, "eos_token_id": 3}, True),
    "Llama": (SMALL | {"num_key_value_heads": 2}, True),
    "Mistral": (SMALL | {"num_key_value_heads": 2}, False),
}


def ours(make_model, name):
    return make_model(name, vocab_size=8192, max_position_embeddings=80)


def stock(name):
    torch.manual_seed(0)
    fields, _ = STOCK[name]
    return stir(getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**fields)))


@torch.no_grad()
def one_by_one(model, tokenizer, texts, pooling, layer=None, max_length=80):
    """The plain way: a text, a row."""
    vectors = []
    for text in texts:
        ids = tokenizer(text, truncation=True, max_length=max_length).input_ids or [2]
        outputs = model(torch.tensor([ids]), output_hidden_states=True)
        if layer == "average":
            states = torch.stack(outputs.hidden_states).mean(dim=0)[0]
        else:
            states = (outputs.last_hidden_state if layer is None else outputs.hidden_states[layer])[0]
        pooled = {"mean": states.mean(0), "cls": states[0], "max": states.amax(0), "last": states[-1]}
        vectors.append(pooled[pooling])
    return torch.stack(vectors).numpy()


@pytest.mark.parametrize("name", ["MiniBertModel", "MiniGPTModel"])
def test_packed_vectors_are_those_of_each_text_alone(make_model, tokenizer, name):
    model = ours(make_model, name)
    encoder = Encoder(model, tokenizer, batch_tokens=64)
    ways = [(pooling, layer) for pooling in POOLINGS for layer in (None, 0, 1, -1, "average")]
    if name == "MiniGPTModel":
        ways = [way for way in ways if way[0] != "cls"]
    for (pooling, layer), vectors in zip(ways, encoder.pooled(TEXTS, ways), strict=True):
        np.testing.assert_allclose(vectors, one_by_one(model, tokenizer, TEXTS, pooling, layer), rtol=0, atol=1e-5)


def test_a_classifier_of_two_texts_gives_the_vectors_of_its_encoder(make_model, tokenizer):
    settings = {"classifier_pooling": "siamese", "eos_token_id": tokenizer.eos_token_id or tokenizer.sep_token_id}
    model = make_model("MiniBertForSequenceClassification", vocab_size=len(tokenizer), **settings).model
    expected = one_by_one(model, tokenizer, TEXTS, "mean", None)
    (vectors,) = Encoder(model, tokenizer, batch_tokens=64).pooled(TEXTS, [("mean", None)])
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", STOCK)
def test_stock_models_too_packed_where_that_is_the_same(tokenizer, name):
    model = stock(name)
    encoder = Encoder(model, tokenizer, batch_tokens=64)
    assert encoder._packs == STOCK[name][1]
    (vectors,) = encoder.pooled(TEXTS, [("mean", None)])
    np.testing.assert_allclose(vectors, one_by_one(model, tokenizer, TEXTS, "mean"), rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch_tokens", [1, 16, 10_000])
def test_batches_change_nothing(make_model, tokenizer, batch_tokens):
    model = ours(make_model, "MiniBertModel").train()
    expected = encode(TEXTS, model, tokenizer)
    shuffled = [4, 2, 0, 5, 1, 3]
    found = encode([TEXTS[place] for place in shuffled], model, tokenizer, batch_tokens=batch_tokens)
    np.testing.assert_allclose(found, expected[shuffled], rtol=0, atol=1e-5)
    assert model.training
    assert model.config._attn_implementation == "sdpa"


def test_a_folder_is_opened_whatever_head_it_was_saved_with(tokenizer):
    vectors = hf_minibert.encode(TEXTS, "minibert-tiny", normalize=True)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    model = transformers.AutoModelForMaskedLM.from_pretrained(asset("checkpoints") / "minibert-tiny").float()
    np.testing.assert_allclose(encode(TEXTS, model, tokenizer, normalize=True), vectors, rtol=0, atol=1e-5)


def test_an_encoder_with_a_decoder_gives_its_encoder(make_model, tokenizer):
    encoder = ours(make_model, "MiniBertModel")
    expected = one_by_one(encoder, tokenizer, TEXTS, "mean")
    decoder = make_model("MiniGPTForCausalLM", add_cross_attention=True)
    found = encode(TEXTS, EncoderDecoderModel(encoder=encoder, decoder=decoder), tokenizer)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_a_given_model_is_moved_as_a_whole(make_model, tokenizer):
    model = make_model("MiniBertForSequenceClassification", vocab_size=8192, max_position_embeddings=80)
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):  # which holds no numbers to compute with
        encode(["a"], model, tokenizer, device="meta")
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_vectors_that_are_no_numbers_are_refused(make_model, tokenizer):
    model = ours(make_model, "MiniBertModel")
    torch.nn.init.constant_(model.layers[0].mlp.down_proj.weight, float("nan"))
    with pytest.raises(UserError, match="is no number"):
        encode(["a"], model, tokenizer)


def test_rotations_that_depend_on_a_longer_text_are_those_of_each_text_alone(make_model, tokenizer):
    model = ours(make_model, "MiniBertModel")
    if model.config.position_embedding_type != "rotary":
        return  # which has no rotations
    half = model.config.head_dim // 2
    factors = {"short_factor": [1.0] * half, "long_factor": [4.0] * half}
    rope = {"rope_type": "longrope", "rope_theta": 10_000.0, "original_max_position_embeddings": 12} | factors
    model = make_model("MiniBertModel", vocab_size=8192, max_position_embeddings=80, rope_parameters=rope)
    (vectors,) = Encoder(model, tokenizer).pooled(TEXTS, [("mean", None)])
    np.testing.assert_allclose(vectors, one_by_one(model, tokenizer, TEXTS, "mean"), rtol=0, atol=1e-5)


def test_what_is_cut_is_counted_and_said(make_model, tokenizer, caplog):
    model = ours(make_model, "MiniBertModel")
    with caplog.at_level(logging.WARNING):
        cut = encode(["word " * 200, "word " * 300, "word"], model, tokenizer)
        assert caplog.messages == ["2 of 3 texts are longer than 80 tokens and were cut"]
        caplog.clear()
        encode(TEXTS, model, tokenizer)
        assert not caplog.messages
    np.testing.assert_array_equal(cut[0], cut[1])
    short, expected = (
        encode(TEXTS, model, tokenizer, max_length=10),
        one_by_one(model, tokenizer, TEXTS, "mean", max_length=10),
    )
    np.testing.assert_allclose(short, expected, rtol=0, atol=1e-5)


def test_no_texts_are_no_vectors(make_model, tokenizer):
    assert encode([], ours(make_model, "MiniBertModel"), tokenizer).shape == (0, 32)


def test_zeros_have_no_direction():
    assert normalized(np.zeros((2, 3), np.float32)).tolist() == [[0, 0, 0]] * 2


@pytest.mark.parametrize("is_packed", [True, False])
def test_batches_hold_as_many_tokens_as_they_may(is_packed):
    lengths = [3, 9, 1, 5, 4, 2, 30]
    batches = list(batches_by_length(lengths, 12, is_packed=is_packed))
    assert sorted(place for batch in batches for place in batch) == list(range(7))
    assert [len(batch) for batch in batches] == ([1, 1, 3, 2] if is_packed else [1, 1, 2, 3])
    assert batches[0] == [6]
    for batch in batches[1:]:
        held = [lengths[place] for place in batch]
        assert (sum(held) if is_packed else max(held) * len(held)) <= 12


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pooling": "sum"}, "pooling must be one of mean, cls, max, last, got 'sum'"),
        ({"layer": 3}, "layer must be from 0 (embeddings) to 2, or negative from the end, or average, got 3"),
        ({"layer": -4}, "got -4"),
        ({"max_length": 2}, "max_length must be 3 or more, special tokens and one of a text, got 2"),
        ({"batch_tokens": -1}, "batch_tokens must be positive, got -1"),
    ],
)
def test_bad_settings_are_refused(make_model, tokenizer, settings, message):
    with pytest.raises(UserError) as caught:
        encode(TEXTS, ours(make_model, "MiniBertModel"), tokenizer, **settings)
    assert message in str(caught.value)


def test_other_mistakes_are_refused(make_model, tokenizer, tmp_path):
    model = ours(make_model, "MiniBertModel")
    with pytest.raises(UserError, match="takes a list of texts"):
        encode("a text", model, tokenizer)
    with pytest.raises(UserError, match="without its tokenizer"):
        encode(TEXTS, model)
    with pytest.raises(UserError, match="sees no other"):
        encode(TEXTS, ours(make_model, "MiniGPTModel"), tokenizer, pooling="cls")
    with pytest.raises(UserError, match="there is no folder nowhere"):
        encode(TEXTS, "nowhere")
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has no tokenizer that opens"):
        encode(TEXTS, str(tmp_path))


def test_what_packed_rows_cannot_do_is_an_error():
    states = torch.ones(1, 1, 2, 4)
    module = torch.nn.Module()
    for settings in ({"sliding_window": 4}, {"softcap": 1.0}):
        with pytest.raises(TypeError, match="packed rows have no"):
            attend_within_documents(module, states, states, states, None, [(1, 2)], is_causal=False, **settings)
    with pytest.raises(TypeError, match="attention_mask"):
        attend_within_documents(module, states, states, states, torch.ones(1, 1, 2, 2), [(1, 2)])
