"""Stand-in: what `generate` must do with every model that can.

Left out: compilation, which takes minutes on a CPU, and the strategies that transformers 5 fetches from the Hub
(contrastive, group beam and constrained beam search).
"""

import copy
from typing import Any

import torch
from parameterized import parameterized
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, StaticCache, set_seed
from transformers.generation import GenerateBeamDecoderOnlyOutput, GenerateDecoderOnlyOutput

NEW_TOKENS = 6
GREEDY = {"do_sample": False}
SAMPLE = {"do_sample": True, "top_k": 20, "temperature": 1.3}
BEAM = {"do_sample": False, "num_beams": 3, "num_return_sequences": 2}
BEAM_SAMPLE = {"do_sample": True, "num_beams": 3}
STRATEGIES = {"greedy": GREEDY, "sample": SAMPLE, "beam": BEAM, "beam_sample": BEAM_SAMPLE}
EVERYTHING = {
    "return_dict_in_generate": True,
    "output_scores": True,
    "output_logits": True,
    "output_attentions": True,
    "output_hidden_states": True,
}


class GenerationTesterMixin:
    """For a class that is a `ModelTesterMixin` as well. Each check runs on `all_generative_model_classes`."""

    def generators(self, attention: str = "eager") -> list[PreTrainedModel]:
        """One model of each class, whose choices are clear (large weights) and whose texts do not end."""
        config, _ = self.model_tester.prepare_config_and_inputs_for_common()
        config.initializer_range = 0.2
        config.eos_token_id = None
        config.pad_token_id = 0
        config._attn_implementation = attention
        models = []
        for model_class in self.all_generative_model_classes:
            set_seed(0)
            models.append(model_class(copy.deepcopy(config)).eval())
        return models

    def prompt(self, length: int = 7) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randint(5, self.model_tester.get_config().vocab_size, (2, length), generator=generator)

    def generate(self, model: PreTrainedModel, prompt: Tensor | None, **options: Any) -> Any:
        set_seed(0)
        if prompt is not None and "attention_mask" not in options:
            options["attention_mask"] = torch.ones_like(prompt)
        return model.generate(prompt, **{"max_new_tokens": NEW_TOKENS} | options)

    @parameterized.expand(STRATEGIES)
    def test_generate_outputs(self, name: str) -> None:
        """Scores, logits, attentions and states have the right count and shapes, with a cache and without."""
        options = STRATEGIES[name]
        for model in self.generators():
            config, prompt = model.config, self.prompt()
            plain = self.generate(model, prompt, **options)
            rows = len(prompt) * options.get("num_beams", 1)
            for use_cache in (True, False):
                out = self.generate(model, prompt, use_cache=use_cache, **options, **EVERYTHING)
                kind = GenerateBeamDecoderOnlyOutput if "beam" in name else GenerateDecoderOnlyOutput
                assert isinstance(out, kind)
                assert torch.equal(out.sequences, plain)
                assert out.sequences.shape == (2 * options.get("num_return_sequences", 1), 7 + NEW_TOKENS)
                assert [tuple(scores.shape) for scores in out.scores] == [(rows, config.vocab_size)] * NEW_TOKENS
                assert [tuple(logits.shape) for logits in out.logits] == [(rows, config.vocab_size)] * NEW_TOKENS
                assert (out.past_key_values is not None) == use_cache
                for step, (attentions, states) in enumerate(zip(out.attentions, out.hidden_states, strict=True)):
                    seen = 7 + step
                    new = 1 if use_cache and step else seen
                    assert len(attentions) == config.num_hidden_layers
                    assert len(states) == config.num_hidden_layers + 1
                    expected = (rows, config.num_attention_heads, new, seen)
                    assert {tuple(weights.shape) for weights in attentions} == {expected}
                    assert {tuple(state.shape) for state in states} == {(rows, new, config.hidden_size)}

    def test_cache_is_filled(self) -> None:
        for model in self.generators():
            cache = self.generate(model, self.prompt(), return_dict_in_generate=True, **GREEDY).past_key_values
            width = model.config.hidden_size // model.config.num_attention_heads
            assert isinstance(cache, DynamicCache)
            assert len(cache.layers) == model.config.num_hidden_layers
            for layer in cache.layers:  # the last token was not fed back
                heads = layer.keys.shape[1]
                assert layer.keys.shape == layer.values.shape == (2, heads, 7 + NEW_TOKENS - 1, width)

    @parameterized.expand(STRATEGIES)
    def test_caches_are_equal(self, name: str) -> None:
        """Without a cache, with a growing one and with one of fixed length."""
        options = STRATEGIES[name]
        for model in self.generators("sdpa"):
            prompt = self.prompt()
            dynamic = self.generate(model, prompt, **options)
            assert torch.equal(dynamic, self.generate(model, prompt, use_cache=False, **options))
            static = self.generate(
                model,
                prompt,
                cache_implementation="static",
                disable_compile=True,
                return_dict_in_generate=True,
                **options,
            )
            assert isinstance(static.past_key_values, StaticCache)
            assert torch.equal(dynamic, static.sequences)

    def test_attention_implementations_are_equal(self) -> None:
        for eager, sdpa in zip(self.generators("eager"), self.generators("sdpa"), strict=True):
            expected = self.generate(eager, self.prompt(), **GREEDY)
            assert torch.equal(self.generate(sdpa, self.prompt(), **GREEDY), expected)

    @parameterized.expand(["eager", "sdpa"])
    def test_left_padding(self, attention: str) -> None:
        for model in self.generators(attention):
            prompt = self.prompt()
            padded = torch.cat((torch.zeros(2, 5, dtype=torch.long), prompt), dim=1)
            mask = (torch.arange(12) >= 5).long().expand(2, -1)
            positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
            logits = model(padded, attention_mask=mask, position_ids=positions).logits[:, 5:]
            torch.testing.assert_close(logits, model(prompt).logits, rtol=0, atol=1e-5)
            expected = self.generate(model, prompt, **GREEDY)
            assert torch.equal(self.generate(model, padded, attention_mask=mask, **GREEDY)[:, 5:], expected)

    def test_continue_from_past_key_values(self) -> None:
        for model in self.generators():
            whole = self.generate(model, self.prompt(), **GREEDY)
            first = self.generate(model, self.prompt(), max_new_tokens=2, return_dict_in_generate=True, **GREEDY)
            rest = self.generate(
                model, first.sequences, past_key_values=first.past_key_values, max_new_tokens=NEW_TOKENS - 2, **GREEDY
            )
            assert torch.equal(rest, whole)

    def test_prefill_in_chunks(self) -> None:
        for model in self.generators():
            whole = self.generate(model, self.prompt(), **GREEDY)
            assert torch.equal(self.generate(model, self.prompt(), prefill_chunk_size=3, **GREEDY), whole)

    def test_cache_can_be_cropped(self) -> None:
        for model in self.generators():
            out = model(self.prompt(), use_cache=True)
            out.past_key_values.crop(-3)
            again = model(self.prompt()[:, 4:], past_key_values=out.past_key_values)
            torch.testing.assert_close(again.logits, out.logits[:, 4:], rtol=0, atol=1e-5)

    @parameterized.expand(["greedy", "beam"])
    def test_generate_from_inputs_embeds(self, name: str) -> None:
        """Embeddings alone give the new tokens; beside ids they give the same text as the ids."""
        options = STRATEGIES[name]
        for model in self.generators():
            prompt = self.prompt()
            expected = self.generate(model, prompt, **options)
            embeds = model.get_input_embeddings()(prompt)
            mask = torch.ones_like(prompt)
            alone = self.generate(model, None, inputs_embeds=embeds, attention_mask=mask, **options)
            assert torch.equal(alone, expected[:, 7:])
            assert torch.equal(self.generate(model, prompt, inputs_embeds=embeds, **options), expected)
            assert not torch.equal(self.generate(model, prompt, inputs_embeds=embeds * 0, **options), expected)

    @parameterized.expand(["same", "other"])
    def test_assisted_decoding(self, weights: str) -> None:
        """An assistant, good or bad, changes the speed and not the text."""
        for model in self.generators():
            prompt = self.prompt()[:1]
            assistant = copy.deepcopy(model)
            if weights == "other":
                set_seed(1)
                assistant = type(model)(model.config).eval()
            assistant.generation_config.num_assistant_tokens = 3
            assistant.generation_config.num_assistant_tokens_schedule = "constant"
            expected = self.generate(model, prompt, **GREEDY)
            assert torch.equal(self.generate(model, prompt, assistant_model=assistant, **GREEDY), expected)
            sampled = self.generate(model, prompt, assistant_model=assistant, **SAMPLE)
            assert sampled.shape == expected.shape

    def test_prompt_lookup(self) -> None:
        for model in self.generators():
            prompt = self.prompt()[:1].repeat(1, 3)
            expected = self.generate(model, prompt, **GREEDY)
            assert torch.equal(self.generate(model, prompt, prompt_lookup_num_tokens=2, **GREEDY), expected)

    def test_logits_to_keep(self) -> None:
        for model in self.generators():
            prompt = self.prompt()
            full = model(prompt).logits
            for keep, chosen in (
                (0, slice(None)),
                (1, slice(-1, None)),
                (3, slice(-3, None)),
                (torch.tensor([1, 4]),) * 2,
            ):
                kept = model(prompt, logits_to_keep=keep).logits
                torch.testing.assert_close(kept, full[:, chosen], rtol=0, atol=1e-6)

    def test_own_4d_mask(self) -> None:
        """Two continuations share one prefix in one row: a tree, as speculative decoding makes it."""
        for model in self.generators("sdpa"):
            row = self.prompt()[0]
            first, second = row[:5], torch.cat((row[:3], row[5:]))
            positions = torch.tensor([[0, 1, 2, 3, 4, 3, 4]])
            mask = torch.ones(7, 7, dtype=torch.bool).tril()
            mask[5:, 3:5] = False
            logits = model(row[None], attention_mask=mask[None, None], position_ids=positions, use_cache=False).logits[
                0
            ]
            torch.testing.assert_close(logits[:5], model(first[None]).logits[0], rtol=0, atol=1e-5)
            torch.testing.assert_close(logits[5:], model(second[None]).logits[0, 3:], rtol=0, atol=1e-5)

    def test_generation_ends(self) -> None:
        """A row that is done is filled with padding until all are."""
        for model in self.generators():
            prompt = self.prompt()
            endless = self.generate(model, prompt, **GREEDY)
            end = int(endless[0, 8])
            ended = self.generate(model, prompt, eos_token_id=end, **GREEDY)
            for row, expected in zip(ended[:, 7:].tolist(), endless[:, 7:].tolist(), strict=True):
                stop = expected.index(end) + 1 if end in expected else NEW_TOKENS
                assert row[:stop] == expected[:stop]
                assert set(row[stop:]) <= {0}

    def test_half_precision(self) -> None:
        for model in self.generators("sdpa"):
            assert self.generate(model.to(torch.bfloat16), self.prompt(), **GREEDY).shape == (2, 7 + NEW_TOKENS)
