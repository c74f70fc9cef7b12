"""One more token a row: fewer calls and no copied cache, the same result, and everything that watches or changes it."""

import copy
import pickle

import pytest
import torch
from torch import nn
from transformers import DynamicCache

from hf_minibert.models.caches import CACHE_NAME, GrowingLayer, let_grow
from hf_minibert.models.modeling_transformer import Attention, TransformerLayer

SHAPES = {
    "as it is": {},
    "normalised queries and keys": {"qk_norm": True},
    "norms after the sums": {"norm_placement": "post"},
    "one layer's head is narrow": {"head_dim": 8, "use_bias": True},
}


def continue_texts(model, tokens, mask=None):
    """Logits of the last four tokens of each row, one at a time."""
    cache = DynamicCache(config=model.config)
    mask = torch.ones_like(tokens) if mask is None else mask
    found = []
    with torch.no_grad():
        for begin, end in ((0, 8), (8, 9), (9, 10), (10, 11), (11, 12)):
            found.append(model(tokens[:, begin:end], attention_mask=mask[:, :end], past_key_values=cache).logits)
    return torch.cat(found[1:], dim=1)


@pytest.fixture
def decoded(monkeypatch):
    """The layers that decoded with fewer calls."""
    layers, decode = [], TransformerLayer.decode
    monkeypatch.setattr(TransformerLayer, "decode", lambda self, *given: layers.append(self) or decode(self, *given))
    return layers


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("is_padded", [False, True])
def test_a_token_is_decoded_as_by_the_layers(make_model, tokens, decoded, shape, is_padded):
    model = make_model("MiniGPTForCausalLM", **shape)
    mask = (torch.arange(12) >= torch.tensor([[0], [3], [5]])).long() if is_padded else None
    found = continue_texts(model, tokens, mask)
    assert len(decoded) == 4 * model.config.num_hidden_layers
    model.model.layers[-1].self_attn.register_forward_hook(lambda *_: None)
    expected = continue_texts(model, tokens, mask)
    assert len(decoded) == 4 * model.config.num_hidden_layers, "a layer with a hook is called"
    assert torch.equal(found, expected)


def half(_module, _given, output):
    return (output[0] / 2, *output[1:]) if isinstance(output, tuple) else output / 2


class Halved(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, states):
        return self.layer(states) / 2


def replace(module, name):
    setattr(module, name, Halved(getattr(module, name)))


def patch(module, forward):
    module.forward = lambda *given, **named: half(module, given, forward(*given, **named))


def train(module):
    module.p = 0.9
    module.train()


CHANGES = {
    "a hook of a layer": lambda layer, _: layer.register_forward_hook(half),
    "a hook of its attention": lambda layer, _: layer.self_attn.register_forward_hook(half),
    "a hook of its feed-forward": lambda layer, _: layer.mlp.register_forward_hook(half),
    "a hook of a matrix": lambda layer, _: layer.self_attn.v_proj.register_forward_hook(half),
    "a hook of a norm": lambda layer, _: layer.attention_norm.register_forward_hook(half),
    "a matrix in another's place": lambda layer, _: replace(layer.self_attn, "o_proj"),
    "another forward of attention": lambda layer, _: patch(layer.self_attn, layer.self_attn.forward),
    "another forward of all attention": lambda _, monkeypatch: monkeypatch.setattr(
        Attention,
        "forward",
        lambda *given, forward=Attention.forward, **named: half(None, (), forward(*given, **named)),
    ),
    "dropout that goes on": lambda layer, _: train(layer.dropout),
    "other weights": lambda layer, _: layer.self_attn.k_proj.weight.data.mul_(-3),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_to_a_part_changes_what_is_decoded(make_model, tokens, change, monkeypatch):
    """As it changes what is computed with gradients, which the layers always do."""
    model = make_model("MiniGPTForCausalLM")
    before = continue_texts(model, tokens)
    change(model.model.layers[0], monkeypatch)
    torch.manual_seed(0)
    after = continue_texts(model, tokens)
    assert not torch.allclose(after, before, rtol=0, atol=1e-3)
    if not model.model.layers[0].dropout.training:
        full = model(tokens, use_cache=False).logits[:, 8:]
        torch.testing.assert_close(after, full, rtol=0, atol=1e-5)


def random(length, rows=2):
    return torch.randn(rows, 4, length, 8), torch.randn(rows, 4, length, 8)


def grown(lengths):
    """A layer that grew by so many tokens each time, what it held each time, and what a stock layer holds."""
    stock, cache = DynamicCache(), DynamicCache()
    let_grow(cache)
    held = []
    with torch.no_grad():
        for length in lengths:
            states = random(length)
            stock.update(*states, 0)
            held.append(cache.update(*states, 0))
    return cache, stock, held


def assert_same(cache, stock):
    (ours,), (theirs,) = cache.layers, stock.layers
    assert isinstance(ours, GrowingLayer)
    assert torch.equal(ours.keys, theirs.keys)
    assert torch.equal(ours.values, theirs.values)


@torch.no_grad()
def test_a_growing_cache_holds_what_a_stock_one_does():
    cache, stock, held = grown([5, *[1] * 150, 3, 1])
    assert_same(cache, stock)
    assert cache.get_seq_length() == 159
    (layer,) = cache.layers
    assert layer.keys.data_ptr() == held[-2][0].data_ptr(), "there was room"
    for keys, values in held:
        assert torch.equal(keys, layer.keys[:, :, : keys.shape[2]]), "what was returned stays as it was"
        assert torch.equal(values, layer.values[:, :, : values.shape[2]])


EDITS = {
    "another order": lambda cache: cache.reorder_cache(torch.tensor([1, 0])),
    "cut": lambda cache: cache.crop(-3),
    "repeated": lambda cache: cache.batch_repeat_interleave(2),
    "one row": lambda cache: cache.batch_select_indices(torch.tensor([-1])),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
@torch.no_grad()
def test_what_generate_does_to_a_cache_it_can_do_to_a_growing_one(edit):
    cache, stock, _ = grown([5, 1, 1])
    for _ in range(2):
        for one in (cache, stock):
            edit(one)
        for _ in range(2):
            states = random(1, rows=len(stock.layers[0].keys))
            for one in (cache, stock):
                one.update(*states, 0)
        assert_same(cache, stock)


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer)), copy.copy],
    ids=["deep", "file", "not"],
)
@torch.no_grad()
def test_two_texts_go_on_from_a_copy_of_a_cache(duplicate):
    cache, stock, _ = grown([5, 1, 1])
    (layer,), (plain,) = cache.layers, stock.layers
    other = duplicate(layer)
    expected = {}
    for one in (layer, other):
        states = random(1)
        one.update(*states)
        expected[one] = torch.cat((plain.keys, states[0]), dim=2)
    for one, keys in expected.items():
        assert torch.equal(one.keys, keys)


def test_a_growing_cache_goes_on_in_and_out_of_inference_mode():
    cache, stock, _ = grown([5, 1])
    for mode in (torch.inference_mode, torch.no_grad, torch.inference_mode):
        with mode():
            states = random(1)
            for one in (cache, stock):
                one.update(*states, 0)
    assert_same(cache, stock)
    states = [one.requires_grad_() for one in random(1)]
    keys, values = grown([5, 1])[0].update(*states, 0)
    (keys.sum() + values.sum()).backward()
    assert all((one.grad == 1).all() for one in states)


@torch.no_grad()
def test_a_growing_cache_refuses_other_rows():
    cache, _, _ = grown([5, 1])
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        cache.update(*random(1, rows=1), 0)


class Wrapper(nn.Module):
    """What hands on its layer's attributes, as FSDP and `torch.compile` do, but computes in its own way."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def __getattr__(self, name):
        found = vars(self)["_modules"]["layer"]
        return found if name == "layer" else getattr(found, name)

    def forward(self, *given, **named):
        return self.layer(*given, **named) / 2


def test_a_wrapped_layer_is_called(make_model, tokens):
    model = make_model("MiniGPTForCausalLM")
    model.model.layers[0] = Wrapper(model.model.layers[0])
    full = model(tokens, use_cache=False).logits[:, 8:]
    torch.testing.assert_close(continue_texts(model, tokens), full, rtol=0, atol=1e-5)


def test_generate_returns_a_cache_that_does_not_copy(make_model, tokens, decoded):
    """And that the next call goes on with, as with a stock cache."""
    model = make_model("MiniGPTForCausalLM", eos_token_id=None)
    options = {"do_sample": False, "return_dict_in_generate": True}
    first = model.generate(tokens, max_new_tokens=4, **options)
    assert len(decoded) == 3 * model.config.num_hidden_layers
    assert {type(layer) for layer in first.past_key_values.layers} == {GrowingLayer}
    options[CACHE_NAME] = first.past_key_values
    more = model.generate(first.sequences, max_new_tokens=4, **options)
    del options[CACHE_NAME]
    whole = model.generate(tokens, max_new_tokens=8, use_cache=False, **options)
    assert torch.equal(more.sequences, whole.sequences)
