"""What transformers' own tests expect of any model's outputs."""

import pytest
import torch
from examples import MODELS, shaped


@pytest.mark.parametrize("name", MODELS)
def test_attentions(make_model, tokens, name):
    model = make_model(name, "eager")
    rows = shaped(name, tokens)
    weights = model(rows, output_attentions=True).attentions
    assert [tuple(each.shape) for each in weights] == [(3, 4, 12, 12)] * 2
    for each in weights:
        torch.testing.assert_close(each.sum(dim=-1), torch.ones(3, 4, 12))
        above = each.triu(diagonal=1)
        assert (above == 0).all() if name.startswith("MiniGPT") else (above.sum() > 0)
    assert model(rows).attentions is None


@pytest.mark.parametrize("name", MODELS)
def test_hidden_states(make_model, tokens, name):
    model = make_model(name)
    rows = shaped(name, tokens)
    outputs = model(rows, output_hidden_states=True)
    assert [tuple(each.shape) for each in outputs.hidden_states] == [(3, 12, 32)] * 3
    assert torch.equal(outputs.hidden_states[-1], model.base_model(tokens).last_hidden_state)
    model.config.output_hidden_states = True
    assert len(model(rows).hidden_states) == 3


@pytest.mark.parametrize("name", MODELS)
def test_a_tuple_if_asked_for(make_model, tokens, name):
    model = make_model(name)
    rows = shaped(name, tokens)
    outputs = model(rows, output_hidden_states=True)
    as_tuple = model(rows, output_hidden_states=True, return_dict=False)
    assert isinstance(as_tuple, tuple)
    assert len(as_tuple) == len(outputs.to_tuple())
    assert torch.equal(as_tuple[0], outputs[0])


@pytest.mark.parametrize("name", MODELS)
def test_embeddings_instead_of_tokens(make_model, tokens, name):
    model = make_model(name)
    rows = shaped(name, tokens)
    embeddings = model.get_input_embeddings()(rows)
    torch.testing.assert_close(model(inputs_embeds=embeddings)[0], model(rows)[0])
