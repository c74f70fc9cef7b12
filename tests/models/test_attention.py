"""The attention backends compute the same, packed rows included, and a function of one's own gets what it needs."""

import pytest
import torch
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, modeling_flash_attention_utils
from transformers.masking_utils import (
    and_masks,
    create_bidirectional_mask,
    packed_sequence_mask_function,
    sdpa_mask,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from hf_minibert.models.masks import causal_rows_mask_function, documents_of, mask_by_index

BASES = ("MiniBertModel", "MiniGPTModel")
PACKED = ((5, 4, 3), (1, 11), (12,))  # the lengths of the documents in each row

# torch 2.13's compiler imports what it has deprecated, and transformers 5.23 calls it with a flag that is; torch 2.11's
# looks at gradients that are not kept.
FLEX = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:The .grad attribute of a Tensor")


def flash(query, key, value, dropout_p=0.0, softmax_scale=None, causal=False):
    """What `flash_attn_func` computes, in plain torch: (batch, sequence, heads, width), the last tokens aligned."""
    query, key, value = (states.transpose(1, 2) for states in (query, key, value))
    new, seen = query.shape[2], key.shape[2]
    mask = torch.ones(new, seen, dtype=torch.bool).tril(seen - new) if causal else None
    attended = F.scaled_dot_product_attention(query, key, value, mask, dropout_p, scale=softmax_scale)
    return attended.transpose(1, 2)


def flash_varlen(query, key, value, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, **options):
    """What `flash_attn_varlen_func` computes: sequences one behind another, (tokens, heads, width)."""
    new, seen = cu_seqlens_q.diff().tolist(), cu_seqlens_k.diff().tolist()
    assert (max(new), max(seen)) == (max_seqlen_q, max_seqlen_k)
    sequences = zip(query.split(new), key.split(seen), value.split(seen), strict=True)
    return torch.cat([flash(*(states[None] for states in sequence), **options)[0] for sequence in sequences])


@pytest.fixture(params=["eager", "sdpa", "flash_attention_2"])
def backend(request, monkeypatch):
    """An attention implementation. FlashAttention is transformers' own, but for the kernels that only a GPU has."""
    if request.param == "flash_attention_2":
        utils = modeling_flash_attention_utils
        kernels = (flash, flash_varlen, None, utils._pad_input, utils._unpad_input)
        monkeypatch.setattr(utils, "_lazy_imports", lambda *_, **__: kernels)
        monkeypatch.setattr(utils, "_loaded_implementation", None)
    return request.param


def use(model, backend):
    """The model with another attention; not by `set_attn_implementation`, which looks for the package."""
    model.config._attn_implementation = backend
    return model


def restarting(lengths):
    return torch.cat([torch.arange(length) for length in lengths])


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def assert_strangers(packed, model, tokens):
    """Each document of packed rows has the states that it has alone."""
    for row, lengths in enumerate(PACKED):
        alone = [model(document[None]).last_hidden_state[0] for document in tokens[row].split(lengths)]
        torch.testing.assert_close(packed[row], torch.cat(alone), rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", [None, "left", "right"])
@pytest.mark.parametrize("name", BASES)
def test_backends_agree(make_model, tokens, backend, name, side):
    real = torch.arange(12) < torch.tensor([[12], [9], [5]])
    real = {None: torch.ones_like(real), "left": real.flip(1), "right": real}[side]
    results = []
    for implementation in ("eager", backend):
        model = use(make_model(name), implementation)
        states = model(tokens, attention_mask=real.long()).last_hidden_state[real]
        results.append((states, gradients(model, (states**2).mean())))
    torch.testing.assert_close(*results, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", BASES)
def test_a_mask_of_ones_own_may_be_boolean(make_model, tokens, name):
    sees = torch.rand(3, 1, 12, 12, generator=torch.Generator().manual_seed(1)) < 0.5
    sees |= torch.eye(12, dtype=torch.bool)
    states = [make_model(name, each)(tokens, attention_mask=sees).last_hidden_state for each in ("eager", "sdpa")]
    torch.testing.assert_close(*states, rtol=0, atol=1e-5)


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("name", BASES)
def test_with_qk_norm_the_size_of_queries_and_keys_does_not_matter(make_model, tokens, name, normalised):
    model = make_model(name, qk_norm=normalised)
    before = model(tokens).last_hidden_state
    with torch.no_grad():
        for layer in model.layers:
            for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj):
                for parameter in projection.parameters():
                    parameter *= 3
    difference = (model(tokens).last_hidden_state - before).abs().max()
    assert (difference < 1e-3) == normalised


@pytest.mark.parametrize("name", BASES)
def test_packed_documents_are_strangers(make_model, tokens, backend, name):
    model = use(make_model(name), backend)
    position_ids = torch.stack([restarting(lengths) for lengths in PACKED])
    embeddings = model.get_input_embeddings()(tokens).detach().requires_grad_()
    packed = model(inputs_embeds=embeddings, position_ids=position_ids).last_hidden_state
    assert_strangers(packed, model, tokens)

    (packed[0, 5:9] * torch.randn(4, 32)).sum().backward()
    reached = torch.zeros(3, 12, dtype=torch.bool)
    reached[0, 5:9] = True
    assert torch.equal(embeddings.grad.abs().sum(dim=2) > 0, reached)


class OnGpu:
    """Positions that say that they are on a GPU."""

    device = torch.device("cuda")

    def __init__(self, positions):
        self.positions, self.diff = positions, positions.diff

    def __getitem__(self, place):
        return self.positions[place]


def test_packed_documents_are_strangers_to_a_decoder_that_sees_later_tokens(make_model, tokens, backend):
    model = use(make_model("MiniGPTModel"), backend)
    position_ids = torch.stack([restarting(lengths) for lengths in PACKED])
    packed = model(tokens, position_ids=position_ids, is_causal=False).last_hidden_state
    alone = model(tokens[:1, 5:9], is_causal=False).last_hidden_state
    torch.testing.assert_close(packed[:1, 5:9], alone, rtol=0, atol=1e-5)
    assert (alone - model(tokens[:1, 5:9]).last_hidden_state).abs().max() > 1e-3, "its first token sees the others"


@pytest.mark.parametrize("lengths", PACKED)
def test_documents_on_a_device_are_those_that_transformers_finds(lengths):
    positions = restarting(lengths)[None]
    found = documents_of(OnGpu(positions))
    expected = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))[None]
    assert torch.equal(found, expected)
    on_cpu = documents_of(positions)
    assert on_cpu is None if len(lengths) == 1 else torch.equal(on_cpu, expected)


def test_rows_that_cannot_be_made_causal_are_refused(make_model, tokens):
    rows, whole = torch.tensor([True, False, True]), torch.ones(3, 1, 12, 12, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"causal_rows needs .* \(batch, sequence\) or none, got \(3, 1, 12, 12\)"):
        make_model("MiniBertModel")(tokens, attention_mask=whole, causal_rows=rows)
    model = make_model("MiniBertModel")
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="causal_rows needs attn_implementation eager, sdpa, flex_attention"):
        model(tokens, causal_rows=rows)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_rows_may_be_made_causal_by_numbers(make_model, tokens, attention):
    model, rows = make_model("MiniBertModel", attention), torch.tensor([1, 0, 1])
    found, expected = (model(tokens, causal_rows=each).last_hidden_state for each in (rows, rows.bool()))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_mask_by_index_is_the_one_that_transformers_makes(make_model, attention):
    model = make_model("MiniBertModel", attention)
    documents = torch.stack([torch.arange(len(each)).repeat_interleave(torch.tensor(each)) for each in PACKED])
    causal = causal_rows_mask_function(torch.tensor([False, True, False]))
    limit, states = and_masks(packed_sequence_mask_function(documents), causal), torch.zeros(3, 12, 32)
    expected = create_bidirectional_mask(model.config, states, None, and_mask_function=limit)
    assert torch.equal(mask_by_index(limit, states), expected == 0 if attention == "eager" else expected)


@pytest.mark.parametrize("name", BASES)
def test_the_same_positions_may_pack_every_row(make_model, tokens, backend, name):
    model = use(make_model(name), backend)
    position_ids = restarting(PACKED[0])[None]
    packed = model(tokens, position_ids=position_ids).last_hidden_state
    expected = model(tokens, position_ids=position_ids.expand(3, -1)).last_hidden_state
    torch.testing.assert_close(packed, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(packed[:, :5], model(tokens[:, :5]).last_hidden_state, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["MiniBertForMaskedLM", "MiniGPTForCausalLM"])
def test_one_packed_row_trains_as_its_documents_do(make_model, tokens, backend, name):
    model = use(make_model(name), backend).train()
    row, lengths = tokens[:1], PACKED[0]
    labels = row.clone()
    labels[:, [0, 5, 9]] = -100  # the first token of a document does not follow the last of another
    loss = model(row, position_ids=restarting(lengths)[None], labels=labels).loss
    separate = sum(
        model(ids, labels=own, num_items_in_batch=9).loss
        for ids, own in zip(row.split(lengths, dim=1), labels.split(lengths, dim=1), strict=True)
    )
    torch.testing.assert_close(loss, separate, rtol=0, atol=1e-5)
    torch.testing.assert_close(gradients(model, loss), gradients(model, separate), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", BASES)
def test_a_packed_row_may_be_longer_than_the_positions_known(make_model, backend, name):
    model = use(make_model(name), backend)
    tokens = torch.randint(5, 99, (1, 100), generator=torch.Generator().manual_seed(2))
    lengths = (60, 40)
    packed = model(tokens, position_ids=restarting(lengths)[None]).last_hidden_state
    separate = [model(document).last_hidden_state for document in tokens.split(lengths, dim=1)]
    torch.testing.assert_close(packed, torch.cat(separate, dim=1), rtol=0, atol=1e-5)


def test_bounds_of_ones_own_are_kept(make_model, tokens, monkeypatch):
    seen = []

    def attend(module, query, key, value, attention_mask, **options):
        seen.append((attention_mask, options["cu_seq_lens_q"], options["max_length_q"]))
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, **options)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "flash_attention_2", attend)
    model = use(make_model("MiniBertModel"), "flash_attention_2")
    position_ids = torch.stack([restarting(lengths) for lengths in PACKED])
    model(tokens, position_ids=position_ids)
    bounds = torch.tensor([0, 12, 24, 36], dtype=torch.int32)
    own = {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": 12, "max_length_k": 12}
    model(tokens, position_ids=position_ids, **own)
    (mask, found, longest), (_, given, _) = seen[0], seen[2]
    assert mask is None  # nothing of sequence x sequence
    assert (found.tolist(), longest) == ([0, 5, 9, 12, 13, 24, 36], 12)
    assert given is bounds


@pytest.mark.parametrize("name", [*BASES, "MiniBertForMaskedLM", "MiniGPTForCausalLM"])
def test_a_function_of_ones_own_gets_our_arguments(make_model, tokens, name):
    calls = []

    def attend(module, query, key, value, attention_mask, **options):
        calls.append((module, query.shape, attention_mask, options))
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, **options)

    AttentionInterface.register("recorded", attend)
    AttentionMaskInterface.register("recorded", sdpa_mask)
    real = torch.arange(12) < torch.tensor([[12], [9], [5]])
    model = make_model(name, "recorded", attention_probs_dropout_prob=0.25)
    outputs = model(tokens, attention_mask=real.long(), temperature=2.0)[0]
    expected = make_model(name, "sdpa")(tokens, attention_mask=real.long())[0]
    torch.testing.assert_close(outputs[real], expected[real], rtol=0, atol=1e-6)
    assert [module.layer_idx for module, *_ in calls] == [0, 1]
    for module, shape, mask, options in calls:
        assert module.is_causal == name.startswith("MiniGPT")
        assert shape == (3, 4, 12, 8)
        assert mask.shape == (3, 1, 12, 12)
        assert (options["scaling"], options["dropout"], options["temperature"]) == (8**-0.5, 0.0, 2.0)

    calls.clear()
    model.train()(tokens)
    assert [(mask, options["dropout"]) for *_, mask, options in calls] == [(None, 0.25)] * 2


@FLEX
@pytest.mark.slow
@pytest.mark.parametrize("name", BASES)
def test_flex_attention_on_a_cpu(make_model, tokens, name):
    """The forward pass only: torch has no backward there."""
    model, eager = make_model(name, "flex_attention"), make_model(name, "eager")
    real = torch.arange(12) < torch.tensor([[12], [9], [5]])
    position_ids = torch.stack([restarting(lengths) for lengths in PACKED])
    with torch.no_grad():
        padded = [each(tokens, attention_mask=real.long()).last_hidden_state[real] for each in (model, eager)]
        torch.testing.assert_close(*padded, rtol=0, atol=1e-5)
        assert_strangers(model(tokens, position_ids=position_ids).last_hidden_state, eager, tokens)


@FLEX
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("implementation", ["flex_attention", "flash_attention_2"])
def test_packed_rows_on_a_gpu(make_model, name, implementation):
    """Forward and backward, in less memory than one mask of sequence x sequence takes."""
    if implementation == "flash_attention_2":
        pytest.importorskip("flash_attn")
    dtype = torch.bfloat16 if implementation == "flash_attention_2" else torch.float32
    shape = {"hidden_size": 64, "max_position_embeddings": 512}
    model, eager = (make_model(name, each, **shape).to("cuda", dtype) for each in (implementation, "eager"))
    tokens = torch.randint(5, 99, (2, 20_000), generator=torch.Generator().manual_seed(2)).cuda()
    position_ids = restarting([500] * 40)[None].expand(2, -1).cuda()
    torch.cuda.reset_peak_memory_stats()
    packed = model(tokens, position_ids=position_ids).last_hidden_state
    packed_gradients = gradients(model, (packed**2).mean())
    assert torch.cuda.max_memory_allocated() < 20_000**2
    separate = eager(tokens.view(-1, 500)).last_hidden_state.view_as(packed)
    tolerance = 0.1 if dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(packed, separate, rtol=0, atol=tolerance)
    expected = gradients(eager, (separate**2).mean())
    torch.testing.assert_close(packed_gradients, expected, rtol=0.1, atol=tolerance)


@pytest.mark.parametrize("name", BASES)
def test_layers_that_read_the_same_states_are_one_product_in_training(make_model, tokens, monkeypatch, name):
    """With the same states and gradients as one by one, as where a layer has a hook or another `forward`; then those
    are called."""
    model = make_model(name, use_bias=True).train()
    products, linear = [], F.linear

    def count(states, weight, bias=None):
        products.append(len(weight))
        return linear(states, weight, bias)

    monkeypatch.setattr(F, "linear", count)
    shape = model.config
    inner, wide, ends = shape.num_attention_heads * shape.head_dim, shape.intermediate_size, [shape.hidden_size]
    raising = [wide] * (1 + shape.gated_mlp)
    joint = model(tokens).last_hidden_state
    expected_products = ([3 * inner] + ends + [sum(raising)] + ends) * shape.num_hidden_layers
    assert products[: len(expected_products)] == expected_products, "a pooler may follow"
    expected = gradients(model, joint.square().sum())

    products.clear()
    heard = []
    for layer in model.layers:
        layer.self_attn.k_proj.register_forward_hook(lambda *_: heard.append(1))
        up = layer.mlp.up_proj
        up.forward = lambda states, own=up.forward: heard.append(1) or own(states)
    apart = model(tokens).last_hidden_state
    expected_products = ([inner] * 3 + ends + raising + ends) * shape.num_hidden_layers
    assert products[: len(expected_products)] == expected_products
    assert len(heard) == 2 * shape.num_hidden_layers
    torch.testing.assert_close(apart, joint, rtol=0, atol=1e-5)
    torch.testing.assert_close(gradients(model, apart.square().sum()), expected, rtol=1e-4, atol=1e-4)
