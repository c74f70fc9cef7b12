"""`torch.compile` and `torch.export`: one graph, the same numbers."""

import pytest
import torch
import transformers
from packaging.version import Version

from hf_minibert.pretraining.hybrid import MiniBertForHybridPreTraining

WITH_DECODER = ("MiniBertForMaskedLM", "MiniBertForPreTraining", "MiniGPTForCausalLM")
GRAPH = {"backend": "eager", "fullgraph": True}  # refuses a graph break, and makes no kernels


@pytest.fixture(autouse=True)
def _nothing_compiled_before():
    torch.compiler.reset()


def example(name, tokens):
    """A batch with padding, and labels if the head has any."""
    real = torch.arange(12) < torch.tensor([[12], [9], [5]])
    batch = {"input_ids": tokens.masked_fill(~real, 0), "attention_mask": real.long()}
    if name.endswith(("MaskedLM", "PreTraining", "CausalLM")):
        batch["labels"] = tokens.masked_fill(~real, -100)
    elif "For" in name:
        batch["labels"] = torch.tensor([0, 1, 1])
    if name.endswith("PreTraining"):
        batch["next_sentence_label"] = torch.tensor([0, 1, 1])
    return batch


@pytest.mark.parametrize("name", ["MiniBertModel", "MiniGPTModel"])
def test_a_forward_pass_is_one_graph(make_model, tokens, name):
    model = make_model(name)
    with torch.no_grad():
        actual, expected = torch.compile(model, **GRAPH)(tokens), model(tokens)
    torch.testing.assert_close(actual.last_hidden_state, expected.last_hidden_state, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", [*WITH_DECODER, "MiniGPTForSequenceClassification"])
def test_a_training_step_is_one_graph(make_model, tokens, name):
    model = make_model(name).train()
    batch = example(name, tokens)
    results = []
    for forward in (model, torch.compile(model, **GRAPH)):
        model.zero_grad()
        loss = forward(**batch).loss
        loss.backward()
        results.append((loss.detach(), [parameter.grad.clone() for parameter in model.parameters()]))
    torch.testing.assert_close(*results, rtol=0, atol=1e-5)


def test_the_rotation_is_computed_once_in_a_compiled_model(make_model, tokens):
    """And a model that is not compiled has no such views: exports need none."""
    views = []

    def keep(graph, _):
        views.append(sum("as_strided" in str(node.target) for node in graph.graph.nodes))
        return graph.forward

    model = make_model("MiniBertModel", position_embedding_type="rotary")
    torch.compile(model, backend=keep, fullgraph=True)(tokens)
    assert views == [2], "one of cosines, one of sines"
    program = torch.export.export(model, (tokens,), strict=False)
    assert not any("as_strided" in str(node.target) for node in program.graph.nodes)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch 2.13 does, for masks
@pytest.mark.parametrize("is_hybrid", [False, True])
def test_one_graph_takes_any_number_of_predicted_tokens(make_model, tokens, is_hybrid):
    model = make_model("MiniBertForMaskedLM", shifted_predictions=is_hybrid)
    model = (MiniBertForHybridPreTraining(model.config) if is_hybrid else model).train()
    graph = torch.compile(model, **GRAPH)
    positions = torch.arange(12).expand(3, 12) % 7  # two documents in a row
    rows = torch.tensor([False, True, True])
    for wanted in ("some", "some", "none", "some", "causal alone"):
        labels = tokens.masked_fill(torch.arange(12) % 3 != 0, -100)
        if wanted != "some":
            labels[~rows if wanted == "causal alone" else slice(None)] = -100
        batch = {"position_ids": positions, "labels": labels, "num_items_in_batch": torch.tensor(7)}
        if is_hybrid:
            batch |= {"causal_rows": rows, "num_causal_items_in_batch": torch.tensor(5)}
        losses = []
        for forward in (model, graph):
            model.zero_grad()
            losses.append(forward(tokens, **batch).loss)
            losses[-1].backward()
        torch.testing.assert_close(*losses, rtol=0, atol=1e-5)


@pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.23"),
    reason="5.17 makes a mask in a graph, which costs time and changes nothing",
)
def test_no_mask_is_made_that_is_not_needed(make_model, tokens):
    """Else a compiled model would never take the fast path of causal attention."""
    model = make_model("MiniGPTModel")
    graphs = []

    def look(graph, _):
        graphs.append(graph)
        return graph.forward

    torch.compile(model, backend=look, fullgraph=True)(tokens, use_cache=False)
    attentions = [node for node in graphs[0].graph.nodes if "scaled_dot_product" in str(node.target)]
    assert [node.kwargs["is_causal"] for node in attentions] == [True, True]
    assert [node.kwargs["attn_mask"] for node in attentions] == [None, None]


@pytest.mark.parametrize("name", ["MiniBertForMaskedLM", "MiniGPTForCausalLM"])
def test_ties_survive(make_model, tokens, tmp_path, name):
    model = make_model(name).train()
    compiled = torch.compile(model, **GRAPH)
    compiled(tokens, labels=tokens).loss.backward()
    torch.optim.SGD(compiled.parameters(), lr=0.1).step()
    compiled.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    for each in (model, again):
        assert each.get_output_embeddings().weight is each.get_input_embeddings().weight
    assert torch.equal(again.eval()(tokens).logits, model.eval()(tokens).logits)


@pytest.mark.parametrize(
    "name",
    [
        *WITH_DECODER,
        "MiniGPTForSequenceClassification",
        pytest.param("MiniBertForSequenceClassification", marks=pytest.mark.slow),
    ],
)
def test_export(make_model, tokens, name):
    """Of any batch size, and any length that the model knows."""
    model = make_model(name, use_cache=False) if name.startswith("MiniGPT") else make_model(name)
    example_inputs = {key: example(name, tokens)[key] for key in ("input_ids", "attention_mask")}
    sizes = {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("sequence", min=2, max=64)}
    program = torch.export.export(model, (), example_inputs, dynamic_shapes=dict.fromkeys(example_inputs, sizes))
    other = torch.randint(5, 99, (2, 40), generator=torch.Generator().manual_seed(2))
    inputs = {"input_ids": other, "attention_mask": (torch.arange(40) < torch.tensor([[40], [21]])).long()}
    torch.testing.assert_close(program.module()(**inputs)[0], model(**inputs)[0], rtol=0, atol=1e-5)
