"""No keyword vanishes: a model takes it, its attention function takes it, or it is an error that names it."""

import pytest
import torch
from examples import MODELS, labels, shaped
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


@pytest.mark.parametrize("keyword", ["attention_masks", "label", "temperature", "cache_params", "scaling", "query"])
@pytest.mark.parametrize("name", MODELS)
def test_an_unknown_keyword_is_an_error_that_names_it(make_model, tokens, attention, name, keyword):
    model = make_model(name, attention)
    with pytest.raises(TypeError, match=f"'{keyword}'"):
        model(shaped(name, tokens), **{keyword: torch.ones(3)})


@pytest.mark.parametrize("name", MODELS)
def test_what_transformers_passes_to_every_model_is_taken(make_model, tokens, attention, name):
    model = make_model(name, attention)
    rows, bounds = shaped(name, tokens), torch.tensor([0, 12, 24, 36], dtype=torch.int32)
    passed = {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": 12, "max_length_k": 12}
    expected = model(rows)[0]
    flags = {"output_attentions": False, "output_hidden_states": False, "use_cache": False}
    assert torch.equal(model(rows, return_dict=True, **flags, **passed)[0], expected)
    assert torch.equal(model(rows, token_type_ids=torch.zeros_like(rows))[0], expected)


@pytest.mark.parametrize("name", [name for name in MODELS if not name.endswith("Model")])
def test_what_trainer_counts_is_taken_by_every_head(make_model, tokens, name):
    model, given = make_model(name), labels(name, tokens)
    assert model(shaped(name, tokens), num_items_in_batch=5, **given).loss is not None


def test_labels_that_are_shifted_already_are_for_the_language_model_alone(make_model, tokens):
    assert make_model("MiniGPTForCausalLM")(tokens, shift_labels=tokens).loss > 0
    for name in ("MiniGPTModel", "MiniGPTForSequenceClassification", "MiniBertForMaskedLM"):
        with pytest.raises(TypeError, match="'shift_labels'"):
            make_model(name)(tokens, shift_labels=tokens)


def test_an_encoder_is_not_made_a_decoder_by_a_keyword(make_model, tokens, attention):
    model = make_model("MiniBertModel", attention)
    assert torch.equal(model(tokens, is_causal=False)[0], model(tokens)[0])
    with pytest.raises(ValueError, match="is_causal"):
        model(tokens, is_causal=True)


def test_a_decoder_may_be_made_an_encoder(make_model, tokens, attention):
    model = make_model("MiniGPTModel", attention)
    states = model(tokens, is_causal=False)[0]
    changed = model(tokens.index_fill(1, torch.tensor([11]), 7), is_causal=False)[0]
    assert (states[:, 0] - changed[:, 0]).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["MiniBertForMaskedLM", "MiniGPTForCausalLM"])
def test_an_attention_function_of_ones_own_gets_what_it_names_and_no_other(make_model, tokens, name):
    lent = []

    def attend(module, query, key, value, attention_mask, scaling, dropout, position_ids, pages=None):
        lent.append(pages)
        options = {"scaling": scaling, "dropout": dropout, "position_ids": position_ids}
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, **options)

    AttentionInterface.register("particular", attend)
    model = make_model(name, "particular")
    model(tokens, pages="seven")
    assert lent == ["seven"] * 2
    with pytest.raises(TypeError, match="'page'"):
        model(tokens, page="seven")
