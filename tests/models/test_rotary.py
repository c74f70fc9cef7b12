"""Rotary positions, plain and rescaled for longer texts: those of Llama, without anything to load or to round."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from hf_minibert import MiniBertModel, MiniGPTConfig, MiniGPTModel
from hf_minibert.export.stock import from_stock, to_stock

ROTARY = pytest.mark.parametrize("architecture", ["modern"])  # the other has learned positions
SHAPE = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
LENGTH = 64  # max_position_embeddings
ROPES = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "yarn": {"factor": 4.0},
    "longrope": {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 2.0, 3.0, 4.0], "factor": 4.0},
    "llama3": {
        **{"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        "original_max_position_embeddings": 32,
    },
}


@pytest.fixture(params=ROPES)
def rope(request):
    return {"rope_type": request.param, "rope_theta": 500.0, **ROPES[request.param]}


@ROTARY
@pytest.mark.parametrize("length", [12, 2 * LENGTH])
def test_angles(make_config, rope, length):
    config = make_config("MiniGPTConfig", rope_parameters=rope)
    llama = LlamaConfig(**SHAPE, max_position_embeddings=LENGTH, rope_parameters=dict(rope))
    position_ids = torch.arange(length).expand(2, -1)
    ours = MiniGPTModel(config).rotary_emb(position_ids, torch.float32)
    expected = LlamaRotaryEmbedding(llama)(torch.zeros(1), position_ids)
    for actual, stock in zip(ours, expected, strict=True):
        torch.testing.assert_close(actual[:, 0], stock, rtol=0, atol=1e-6)


def test_a_rescaled_llama_becomes_ours_and_back(rope):
    torch.manual_seed(0)
    config = LlamaConfig(**SHAPE, intermediate_size=48, max_position_embeddings=LENGTH, rope_parameters=rope)
    stock = LlamaForCausalLM(config).eval()
    ours = from_stock(stock)
    tokens = torch.randint(5, 99, (2, 2 * LENGTH))
    torch.testing.assert_close(ours(tokens).logits, stock(tokens).logits, rtol=0, atol=1e-5)
    assert to_stock(ours).config.rope_parameters == stock.config.rope_parameters


@ROTARY
def test_saving_and_loading(make_model, tmp_path, rope):
    model = make_model("MiniBertModel", rope_parameters=rope)
    model.save_pretrained(tmp_path)
    again = MiniBertModel.from_pretrained(tmp_path)
    assert again.config.rope_parameters == model.config.rope_parameters
    tokens = torch.randint(5, 99, (2, 2 * LENGTH))
    assert torch.equal(again(tokens).last_hidden_state, model(tokens).last_hidden_state)


def test_an_older_configuration_has_the_base_alone():
    saved = MiniGPTConfig.modern(rope_theta=500).to_dict()
    del saved["rope_parameters"]
    assert MiniGPTConfig.from_dict(saved | {"rope_theta": 500}).rope_parameters["rope_theta"] == 500


@ROTARY
def test_angles_stay_precise_in_half_precision(make_model):
    model = make_model("MiniGPTModel")
    position_ids = torch.tensor([[LENGTH - 1]])
    expected = model.rotary_emb(position_ids, torch.float32)
    for angle, before in zip(model.bfloat16().rotary_emb(position_ids, torch.float32), expected, strict=True):
        assert torch.equal(angle, before)
