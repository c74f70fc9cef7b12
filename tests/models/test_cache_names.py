"""The cache goes by two names, `cache` since transformers 5.24 and `past_key_values` before; both work in all."""

import pytest
import torch
from transformers import DynamicCache, EncoderDecoderCache, GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from hf_minibert.models.caches import CACHE_NAME, NAMES

GENERATIVE = ("MiniGPTModel", "MiniGPTForCausalLM", "MiniGPTForSequenceClassification")
WITH_CACHE = (*GENERATIVE, "MiniGPTForTokenClassification", "MiniGPTForQuestionAnswering")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("class_name", WITH_CACHE)
def test_earlier_tokens_are_remembered_under_either_name(make_model, tokens, class_name, name):
    model = make_model(class_name)
    cache = DynamicCache(config=model.config)
    mask = torch.ones_like(tokens)
    model(tokens[:, :8], attention_mask=mask[:, :8], use_cache=True, **{name: cache})
    assert cache.get_seq_length() == 8
    rest = model(tokens[:, 8:], attention_mask=mask, use_cache=True, **{name: cache})[0]
    full = model(tokens, attention_mask=mask, use_cache=False)[0]
    expected = full if class_name.endswith("SequenceClassification") else full[:, 8:]
    torch.testing.assert_close(rest, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("class_name", GENERATIVE)
def test_outputs_have_the_cache_under_either_name(make_model, tokens, class_name):
    output = make_model(class_name)(tokens, use_cache=True)
    assert output.cache.get_seq_length() == 12
    assert CACHE_NAME in output.keys()  # noqa: SIM118 # which has the name of the installed version alone
    for name in NAMES:
        assert name in output
        assert output[name] is output.get(name) is output.cache
    assert output.cache is output.past_key_values
    without = make_model(class_name)(tokens, use_cache=False)
    assert without.cache is without.past_key_values is None
    assert not any(name in without for name in NAMES)


def test_two_different_caches_are_refused(make_model, tokens):
    model = make_model("MiniGPTForCausalLM")
    one, another = (DynamicCache(config=model.config) for _ in range(2))
    with pytest.raises(ValueError, match="cache and past_key_values"):
        model(tokens, past_key_values=one, cache=another)
    assert model(tokens, past_key_values=one, cache=one).cache is one


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_and_cross_attention_take_either_name(make_model, name):
    model = make_model("MiniGPTModel", add_cross_attention=True)
    (layer, *_), states = model.layers, torch.randn(3, 4, 32, generator=torch.Generator().manual_seed(0))
    rotation = None if model.rotary_emb is None else model.rotary_emb(torch.arange(4)[None], states.dtype)
    cache = EncoderDecoderCache(DynamicCache(config=model.config), DynamicCache(config=model.config))
    encoded = torch.randn(3, 9, 32, generator=torch.Generator().manual_seed(1))
    layer(states, None, rotation, encoded, **{name: cache})
    assert (cache.get_seq_length(), cache.cross_attention_cache.get_seq_length()) == (4, 9)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")  # since 5.24
@pytest.mark.parametrize("name", NAMES)
def test_checkpointed_gradients_beside_a_cache(make_model, tokens, name):
    """A layer that runs twice must not fill it twice."""
    gradients = []
    for checkpointed in (False, True):
        model = make_model("MiniGPTForCausalLM").train()
        if checkpointed:
            model.gradient_checkpointing_enable()
        cache = DynamicCache(config=model.config)
        model(tokens, labels=tokens, use_cache=True, **{name: cache}).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
        assert cache.get_seq_length() == (0 if checkpointed else 12)
    torch.testing.assert_close(*gradients)


@pytest.mark.filterwarnings("ignore")  # of what the batches' manager itself uses
def test_continuous_batching_generates_what_each_prompt_does_alone(make_model, attention):
    model = make_model("MiniGPTForCausalLM", attention, eos_token_id=None, initializer_range=0.3)
    prompts = [[5, 6, 7, 8], [9, 10], [11, 12, 13, 14, 15, 16, 17]]
    alone = [model.generate(torch.tensor([prompt]), max_new_tokens=5, do_sample=False)[0] for prompt in prompts]
    together = model.generate_batch(
        inputs=prompts,
        generation_config=GenerationConfig(max_new_tokens=5, do_sample=False, eos_token_id=-1, pad_token_id=0),
        continuous_batching_config=ContinuousBatchingConfig(num_blocks=16, max_batch_tokens=32, block_size=4),
    )
    assert [prompt + each.generated_tokens for prompt, each in zip(prompts, together.values(), strict=True)] == [
        each.tolist() for each in alone
    ]
