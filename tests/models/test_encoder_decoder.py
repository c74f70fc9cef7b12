"""MiniBERT encodes and MiniGPT decodes: the original Transformer, in transformers' `EncoderDecoderModel`."""

import pytest
import torch
from transformers import DynamicCache, EncoderDecoderCache, EncoderDecoderModel

from hf_minibert import MiniGPTForCausalLM

pytestmark = pytest.mark.filterwarnings("ignore:Version v4.12.0 introduces a better way to train:FutureWarning")


@pytest.fixture
def decoder(make_model, attention):
    return make_model("MiniGPTForCausalLM", attention, add_cross_attention=True)


@pytest.fixture
def translator(make_model, attention):
    clear = {"attention": attention, "initializer_range": 0.3}  # so that its choices depend on the text
    encoder = make_model("MiniBertModel", **clear)
    decoder = make_model("MiniGPTForCausalLM", **clear, add_cross_attention=True, eos_token_id=None)
    model = EncoderDecoderModel(encoder=encoder, decoder=decoder).eval()
    model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = 2
    model.config.pad_token_id = model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = None
    return model


@pytest.fixture
def encoded():
    """States of an encoder for three rows, of which 9, 7 and 4 are real."""
    states = torch.randn(3, 9, 32, generator=torch.Generator().manual_seed(3))
    return states, (torch.arange(9) < torch.tensor([[9], [7], [4]])).long()


def test_every_token_sees_what_was_encoded_and_nothing_that_is_padding(decoder, tokens, encoded):
    states, mask = encoded
    states.requires_grad_()
    logits = decoder(tokens, encoder_hidden_states=states, encoder_attention_mask=mask).logits
    (logits[:, 0] * torch.randn(3, 99)).sum().backward()
    assert torch.equal(states.grad.abs().sum(dim=2) > 0, mask.bool())
    for row, length in enumerate((9, 7, 4)):
        alone = decoder(tokens[row, None], encoder_hidden_states=states[row, None, :length]).logits[0]
        torch.testing.assert_close(logits[row], alone, rtol=0, atol=1e-5)


def test_later_tokens_stay_unseen(decoder, tokens, encoded):
    states, mask = encoded
    edited = tokens.clone()
    edited[:, 4] = 98
    before, after = (
        decoder(ids, encoder_hidden_states=states, encoder_attention_mask=mask).logits for ids in (tokens, edited)
    )
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.equal(before[:, 4:], after[:, 4:])


def test_the_cache_equals_the_full_pass(decoder, tokens, encoded):
    states, mask = encoded
    options = {"encoder_hidden_states": states, "encoder_attention_mask": mask}
    full = decoder(tokens, use_cache=False, **options)
    assert full.past_key_values is None
    for cache in (None, DynamicCache(config=decoder.config)):
        rest = []
        for chunk in tokens.split((5, 1, 3, 3), dim=1):
            step = decoder(chunk, past_key_values=cache, use_cache=True, **options)
            cache = step.past_key_values
            rest.append(step.logits)
        assert isinstance(cache, EncoderDecoderCache)
        assert (cache.get_seq_length(), cache.cross_attention_cache.get_seq_length()) == (12, 9)
        torch.testing.assert_close(torch.cat(rest, dim=1), full.logits, rtol=0, atol=1e-5)


def test_without_an_encoder_it_is_a_decoder_alone(make_model, decoder, tokens):
    alone = make_model("MiniGPTForCausalLM", add_cross_attention=False)
    alone.load_state_dict({name: weight for name, weight in decoder.state_dict().items() if "cross" not in name})
    torch.testing.assert_close(decoder(tokens).logits, alone(tokens).logits, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="add_cross_attention=True"):
        alone(tokens, encoder_hidden_states=torch.zeros(3, 9, 32))


def test_attentions(make_model, tokens, encoded):
    decoder = make_model("MiniGPTForCausalLM", "eager", add_cross_attention=True)
    states, mask = encoded
    outputs = decoder(tokens, encoder_hidden_states=states, encoder_attention_mask=mask, output_attentions=True)
    assert [tuple(each.shape) for each in outputs.attentions] == [(3, 4, 12, 12)] * 2
    assert [tuple(each.shape) for each in outputs.cross_attentions] == [(3, 4, 12, 9)] * 2
    for weights in outputs.cross_attentions:
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(3, 4, 12))
        assert (weights.masked_select(mask[:, None, None] == 0) == 0).all()
    assert decoder(tokens).cross_attentions is None


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
@pytest.mark.parametrize("is_reentrant", [False, True])
def test_gradient_checkpointing_changes_no_gradient(decoder, tokens, is_reentrant, encoded):
    states, mask = encoded
    decoder.train()
    found = []
    for is_saving in (False, True):
        if is_saving:
            decoder.gradient_checkpointing_enable({"use_reentrant": is_reentrant})
        own = states.clone().requires_grad_()
        decoder.zero_grad()
        decoder(tokens, labels=tokens, encoder_hidden_states=own, encoder_attention_mask=mask).loss.backward()
        gradients = {name: parameter.grad.clone() for name, parameter in decoder.named_parameters()}
        found.append(gradients | {"encoder": own.grad})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=0, atol=1e-6)


def test_greedy_generation_is_the_most_likely_token_each_time(translator, tokens):
    mask = (torch.arange(12) < torch.tensor([[12], [9], [5]])).long()
    expected = torch.full((3, 1), 2)
    for _ in range(8):
        logits = translator(tokens, mask, expected, use_cache=False).logits[:, -1]
        expected = torch.cat((expected, logits.argmax(dim=-1)[:, None]), dim=1)
    assert len({tuple(row) for row in expected.tolist()}) == 3  # each says something else
    for use_cache in (True, False):
        generated = translator.generate(
            tokens, attention_mask=mask, max_new_tokens=8, do_sample=False, use_cache=use_cache
        )
        assert torch.equal(generated, expected)


def test_beam_search_is_the_same_with_a_cache(translator, tokens):
    mask = (torch.arange(12) < torch.tensor([[12], [9], [5]])).long()
    options = {"attention_mask": mask, "max_new_tokens": 8, "do_sample": False, "num_beams": 4}
    generated = translator.generate(tokens, num_return_sequences=2, use_cache=True, **options)
    assert generated.shape == (6, 9)
    assert torch.equal(generated, translator.generate(tokens, num_return_sequences=2, use_cache=False, **options))
    for row in range(3):  # the beams of a batch stay with their own text
        length = int(mask[row].sum())
        alone = translator.generate(tokens[row, None, :length], **options | {"attention_mask": None})
        assert torch.equal(alone[0], generated[2 * row])


def test_saving_and_loading_changes_nothing(translator, tokens, tmp_path):
    translator.save_pretrained(tmp_path)
    again, info = EncoderDecoderModel.from_pretrained(
        tmp_path, output_loading_info=True, attn_implementation=translator.decoder.config._attn_implementation
    )
    assert not any(info.values())
    expected = translator(tokens, decoder_input_ids=tokens).logits
    assert torch.equal(again(tokens, decoder_input_ids=tokens).logits, expected)
    assert again.decoder.lm_head.weight is again.decoder.get_input_embeddings().weight
    assert again.config.decoder.add_cross_attention


def test_two_checkpoints_make_one_model(make_model, tokens, tmp_path):
    """The decoder learned without an encoder: its cross-attention is new, all else is kept; widths may differ."""
    make_model("MiniBertForMaskedLM", hidden_size=48).save_pretrained(tmp_path / "encoder")
    decoder = make_model("MiniGPTForCausalLM")
    decoder.save_pretrained(tmp_path / "decoder")
    model = EncoderDecoderModel.from_encoder_decoder_pretrained(tmp_path / "encoder", tmp_path / "decoder")
    assert isinstance(model.decoder, MiniGPTForCausalLM)
    kept = model.decoder.state_dict()
    assert all(torch.equal(kept[name], weight) for name, weight in decoder.state_dict().items())
    assert {name.split(".")[3] for name in kept.keys() - decoder.state_dict().keys()} == {
        "cross_attn",
        "cross_attention_norm",
    }
    assert model(tokens, decoder_input_ids=tokens[:, :5]).logits.shape == (3, 5, 99)


@pytest.mark.parametrize("attention", ["sdpa"])
def test_it_learns_to_copy(translator):
    """What to write stands in the source alone, so the loss falls only through cross-attention."""
    torch.manual_seed(0)
    source = torch.randint(5, 25, (16, 5))
    translator.train()
    optimizer = torch.optim.AdamW(translator.parameters(), lr=3e-3)
    for _ in range(150):
        loss = translator(source, labels=source).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert translator.encoder.embed_tokens.weight.grad.abs().sum() > 0
    copied = translator.eval().generate(source, max_new_tokens=5, do_sample=False)[:, 1:]
    assert (copied == source).float().mean() > 0.95
