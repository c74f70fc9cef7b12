"""The cache and `generate` of MiniGPT."""

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import CompileConfig, GenerationConfig, QuantizedCache
from transformers.integrations.executorch import TorchExportableModuleWithStaticCache, convert_and_export_with_cache


@pytest.fixture
def model(make_model, attention):
    return make_model("MiniGPTForCausalLM", attention, eos_token_id=None)


def test_the_cache_equals_the_full_pass(model, tokens):
    full = model(tokens, use_cache=False)
    assert full.past_key_values is None
    start = model(tokens[:, :5], use_cache=True)
    rest = [start.logits]
    cache = start.past_key_values
    for chunk in (tokens[:, 5:6], tokens[:, 6:9], tokens[:, 9:]):
        step = model(chunk, past_key_values=cache, use_cache=True)
        rest.append(step.logits)
        cache = step.past_key_values
    assert cache.get_seq_length() == 12
    torch.testing.assert_close(torch.cat(rest, dim=1), full.logits, rtol=0, atol=1e-5)


def test_greedy_generation_is_the_most_likely_token_each_time(model, tokens):
    expected = tokens
    for _ in range(6):
        best = model(expected, use_cache=False).logits[:, -1].argmax(dim=-1)
        expected = torch.cat((expected, best[:, None]), dim=1)
    for use_cache in (True, False):
        generated = model.generate(tokens, max_new_tokens=6, do_sample=False, use_cache=use_cache)
        assert torch.equal(generated, expected)


def test_a_left_padded_batch_generates_what_its_rows_do(model, tokens):
    real = (torch.arange(12) < torch.tensor([[12], [9], [5]])).flip(1)
    options = {"max_new_tokens": 6, "do_sample": False}
    together = model.generate(tokens.masked_fill(~real, 0), attention_mask=real.long(), **options)
    for row, is_real in enumerate(real):
        alone = model.generate(tokens[row, is_real][None], **options)
        assert torch.equal(together[row, 12:], alone[0, int(is_real.sum()) :])


def test_sampling_repeats_with_its_seed(model, tokens):
    def sample(seed):
        torch.manual_seed(seed)
        return model.generate(tokens, max_new_tokens=12, do_sample=True, top_k=50, temperature=1.2)

    assert torch.equal(sample(0), sample(0))
    assert not torch.equal(sample(0), sample(1))


def test_beam_search_finds_no_less_likely_a_text_than_greedy(model, tokens):
    def score(ids):
        logits = model(ids, use_cache=False).logits[:, 11:-1].log_softmax(dim=-1)
        return logits.gather(2, ids[:, 12:, None]).sum(dim=(1, 2))

    options = {"max_new_tokens": 2, "do_sample": False}
    exhaustive = model.generate(tokens, num_beams=50, **options)
    greedy = model.generate(tokens, **options)
    assert exhaustive.shape == greedy.shape == (3, 14)
    assert (score(exhaustive) >= score(greedy) - 1e-5).all()


def test_generation_ends_with_the_end_token(make_model, tokens):
    model = make_model("MiniGPTForCausalLM")
    with torch.no_grad():
        model.lm_head.weight[3] = model.model(tokens).last_hidden_state[0, -1] * 100
    assert model.generate(tokens[:1], max_new_tokens=6, do_sample=False)[0, 12:].tolist() == [3]


def test_logits_to_keep(model, tokens):
    full = model(tokens).logits
    torch.testing.assert_close(model(tokens, logits_to_keep=2).logits, full[:, -2:], rtol=0, atol=1e-6)
    kept = torch.tensor([0, 7])
    torch.testing.assert_close(model(tokens, logits_to_keep=kept).logits, full[:, kept], rtol=0, atol=1e-6)


def test_a_smaller_model_drafts_without_a_word_changed(make_model, model, tokens):
    draft = make_model(
        "MiniGPTForCausalLM", num_hidden_layers=1, hidden_size=16, intermediate_size=24, eos_token_id=None
    )
    options = {"max_new_tokens": 20, "do_sample": False}
    expected = model.generate(tokens[:1], **options)
    assert torch.equal(model.generate(tokens[:1], assistant_model=draft, **options), expected)


def test_a_draft_that_leaves_early_changes_no_word(model, tokens):
    options = {"max_new_tokens": 12, "do_sample": False}
    expected = model.generate(tokens[:1], **options)
    assert torch.equal(model.generate(tokens[:1], assistant_early_exit=1, **options), expected)
    assert torch.equal(model.generate(tokens[:1], **options), expected)


@pytest.mark.parametrize("padding", [0, 3])
def test_a_compiled_step_writes_the_same(make_model, tokens, padding):
    """On a CPU, too; the graph is made once, for prompts of any length that fit into the cache."""
    torch.compiler.reset()
    model, graphs = make_model("MiniGPTForCausalLM", eos_token_id=None), list[torch.fx.GraphModule]()
    real = (torch.arange(12) >= torch.tensor([[padding], [0], [0]])).long()

    def compiler(graph: torch.fx.GraphModule, _: list[torch.Tensor], mode: str) -> torch.fx.GraphModule:
        del mode
        graphs.append(graph)
        return graph

    for length in (12, 7):
        inputs = {"inputs": tokens[:, -length:], "attention_mask": real[:, -length:], "max_new_tokens": 6}
        settings = CompileConfig(backend=compiler, fullgraph=True)
        said = model.generate(**inputs, do_sample=False, cache_implementation="static", compile_config=settings)
        assert torch.equal(said, model.generate(**inputs, do_sample=False))
        assert len(graphs) == 1


@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects:UserWarning")
def test_an_exported_program_with_a_static_cache_generates_the_same(make_model, tokens):
    model = make_model("MiniGPTForCausalLM", eos_token_id=None)
    expected = model.generate(tokens[:1], max_new_tokens=6, do_sample=False)
    model.generation_config = GenerationConfig(
        use_cache=True,
        cache_implementation="static",
        cache_config={"batch_size": 1, "max_cache_len": 32},
        max_length=32,
    )
    program = convert_and_export_with_cache(
        model, example_input_ids=tokens[:1, :1], example_cache_position=torch.tensor([0])
    )
    said = TorchExportableModuleWithStaticCache.generate(program, prompt_token_ids=tokens[:1], max_new_tokens=6)
    assert torch.equal(said[:, :18], expected)


@pytest.mark.skipif(Version(transformers.__version__) < Version("5.23"), reason="transformers has no such cache yet")
def test_a_quantised_cache(model, tokens):
    """In eight bits, which need no other package."""
    cache = QuantizedCache("fp8", model.config)
    first, rest = tokens.split((8, 4), dim=1)
    with torch.no_grad():
        steps = [model(part, past_key_values=cache).logits for part in (first, *rest.split(1, dim=1))]
        expected = model(tokens).logits
    torch.testing.assert_close(steps[0], expected[:, :8], rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.cat(steps, dim=1), expected, rtol=0, atol=0.2)
    options = {"cache_implementation": "quantized", "cache_config": {"backend": "fp8"}}
    assert model.generate(tokens, max_new_tokens=6, do_sample=False, **options).shape == (3, 18)
