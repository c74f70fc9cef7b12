"""Who sees whom: the difference between MiniBERT and MiniGPT, and padding."""

import pytest
import torch

BASES = ("MiniBertModel", "MiniGPTModel")


def with_padding(tokens, side):
    """Rows of 12, 9 and 5 real tokens, and their mask."""
    real = torch.arange(12) < torch.tensor([[12], [9], [5]])
    mask = real if side == "right" else real.flip(1)
    return tokens.masked_fill(~mask, 0), mask.long()


@pytest.mark.parametrize("padded", [False, True])
def test_a_later_token_changes_what_minibert_saw_before_it_and_never_what_minigpt_did(
    make_model, tokens, attention, padded
):
    mask = None
    if padded:
        tokens, mask = with_padding(tokens, "right")
    edited = tokens.clone()
    edited[:, 4] = 98
    changes = {}
    for name in BASES:
        model = make_model(name, attention)
        with torch.no_grad():
            before, after = (model(ids, attention_mask=mask).last_hidden_state[:, :4] for ids in (tokens, edited))
        changes[name] = (before - after).abs().amax(dim=(1, 2))
    assert (changes["MiniBertModel"] > 1e-3).all()
    assert (changes["MiniGPTModel"] == 0).all()


@pytest.mark.parametrize("name", BASES)
def test_an_earlier_token_changes_what_follows(make_model, tokens, attention, name):
    model = make_model(name, attention)
    edited = tokens.clone()
    edited[:, 4] = 98
    difference = model(tokens).last_hidden_state - model(edited).last_hidden_state
    assert (difference[:, 5:].abs().amax(dim=2) > 1e-4).all()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", BASES)
def test_padding_changes_nothing(make_model, tokens, attention, name, side):
    model = make_model(name, attention)
    padded, mask = with_padding(tokens, side)
    position_ids = (mask.cumsum(dim=1) - 1).clamp(min=0)
    together = model(padded, attention_mask=mask, position_ids=position_ids).last_hidden_state
    assert together.isfinite().all()
    for row, real in enumerate(mask.bool()):
        alone = model(padded[row, real][None]).last_hidden_state[0]
        torch.testing.assert_close(together[row, real], alone, rtol=0, atol=1e-5)


def test_minibert_takes_a_mask_of_its_own(make_model, tokens, attention):
    model = make_model("MiniBertModel", attention)
    _, mask = with_padding(tokens, "right")
    square = mask[:, None, None, :].expand(-1, 1, 12, -1).bool()
    if attention == "eager":  # adds its mask
        square = torch.zeros(square.shape).masked_fill(~square, torch.finfo(torch.float32).min)
    expected = model(tokens, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(model(tokens, attention_mask=square).last_hidden_state, expected, rtol=0, atol=1e-5)


def test_token_types_matter_only_where_there_are_any(make_model, architecture, tokens):
    model = make_model("MiniBertModel")
    types = torch.ones_like(tokens)
    changed = not torch.equal(model(tokens).last_hidden_state, model(tokens, token_type_ids=types).last_hidden_state)
    assert changed == (architecture == "classic")


@pytest.mark.parametrize("name", BASES)
def test_too_long_a_sequence_is_refused_only_if_positions_are_learned(make_model, architecture, name):
    model = make_model(name)
    long = torch.full((1, 65), 7)
    if architecture == "modern":
        assert model(long).last_hidden_state.shape == (1, 65, 32)
    else:
        with pytest.raises(ValueError, match="65 tokens.*max_position_embeddings = 64.*truncate"):
            model(long)


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("wrong", [99, -1])
def test_a_token_outside_the_vocabulary_is_named(make_model, tokens, name, wrong):
    tokens[1, 3] = wrong
    with pytest.raises(ValueError, match=rf"input_ids must be from 0 to 98, got {tokens.min()} to {tokens.max()}"):
        make_model(name)(tokens)


@pytest.mark.parametrize("architecture", ["classic"])
def test_a_type_or_a_position_that_does_not_exist_is_named(make_model, tokens):
    model = make_model("MiniBertModel")
    with pytest.raises(ValueError, match="token_type_ids must be from 0 to 1, got 2 to 2"):
        model(tokens, token_type_ids=torch.full_like(tokens, 2))
    with pytest.raises(ValueError, match="position_ids must be from 0 to 63, got 60 to 71"):
        model(tokens, position_ids=torch.arange(60, 72).expand(3, -1))


@pytest.mark.parametrize("name", BASES)
def test_heads_of_another_width(make_model, tokens, attention, name):
    model = make_model(name, attention, head_dim=16)
    assert model.layers[0].self_attn.q_proj.weight.shape == (64, 32)
    assert model.layers[0].self_attn.o_proj.weight.shape == (32, 64)
    assert model(tokens).last_hidden_state.shape == (3, 12, 32)


@pytest.mark.parametrize("name", BASES)
def test_exactly_one_kind_of_input(make_model, tokens, name):
    model = make_model(name)
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        model()
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        model(tokens, inputs_embeds=model.get_input_embeddings()(tokens))
