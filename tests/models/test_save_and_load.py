"""Checkpoints: ties, other heads, other vocabularies; and gradient checkpointing."""

import json

import pytest
import torch
import transformers
from examples import MODELS, labels, shaped
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel
from transformers.testing_utils import CaptureLogger

import hf_minibert
from hf_minibert import MiniBertConfig
from hf_minibert.models import configuration_minibert, configuration_minigpt

WITH_DECODER = [
    "MiniBertForMaskedLM",
    "MiniBertForPreTraining",
    "MiniGPTForCausalLM",
    "MiniGPTForSequenceClassification",
]


def decoder(model):
    return model.lm_head if isinstance(model.lm_head, torch.nn.Linear) else model.lm_head.decoder


@pytest.mark.parametrize("name", MODELS)
def test_saving_and_loading_changes_nothing(make_model, tokens, tmp_path, name):
    model = make_model(name)
    model.save_pretrained(tmp_path)
    again, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert again.config.to_dict() | {"_name_or_path": ""} == model.config.to_dict() | {"_name_or_path": ""}
    for weight, other in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(weight, other)
    rows = shaped(name, tokens)
    # Not bit for bit: a product with one column depends on where in memory it lies.
    torch.testing.assert_close(model(rows)[0], again(rows)[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", WITH_DECODER)
def test_ties_survive(make_model, tmp_path, name):
    model = make_model(name)
    model.save_pretrained(tmp_path)
    assert not any(
        "decoder.weight" in key or key == "lm_head.weight" for key in load_file(tmp_path / "model.safetensors")
    )
    for each in (model, type(model).from_pretrained(tmp_path)):
        assert decoder(each).weight is each.get_input_embeddings().weight


@pytest.mark.parametrize("name", WITH_DECODER)
def test_untied_weights_stay_apart(make_model, tmp_path, name):
    model = make_model(name, tie_word_embeddings=False)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert not torch.equal(decoder(again).weight, again.get_input_embeddings().weight)
    assert torch.equal(decoder(again).weight, decoder(model).weight)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", WITH_DECODER)
def test_a_larger_vocabulary_keeps_the_old_rows(make_model, tokens, tmp_path, name, tied):
    model = make_model(name, tie_word_embeddings=tied)
    before = model(tokens)[0]
    weight, bias = decoder(model).weight.clone(), decoder(model).bias
    bias = None if bias is None else bias.clone()
    model.resize_token_embeddings(120, mean_resizing=False)
    assert model.config.vocab_size == 120
    after = model(tokens)[0]
    torch.testing.assert_close(after[..., : before.shape[-1]], before, rtol=0, atol=1e-6)
    assert model.get_input_embeddings().weight.shape == (120, 32)
    assert decoder(model).weight.shape == (120, 32)
    assert torch.equal(decoder(model).weight[:99], weight)
    assert (decoder(model).weight is model.get_input_embeddings().weight) == tied
    if bias is not None:
        assert torch.equal(decoder(model).bias, torch.cat((bias, torch.zeros(21))))
    model.save_pretrained(tmp_path)
    assert torch.equal(type(model).from_pretrained(tmp_path)(tokens)[0], after)


@pytest.mark.parametrize("source", MODELS)
def test_every_checkpoint_opens_with_every_head(make_model, tokens, tmp_path, source):
    model = make_model(source)
    model.save_pretrained(tmp_path)
    family = "MiniBert" if source.startswith("MiniBert") else "MiniGPT"
    states = model.base_model(tokens).last_hidden_state
    for name in MODELS:
        if name.startswith(family):
            other, info = vars(hf_minibert)[name].from_pretrained(tmp_path, output_loading_info=True)
            assert not info["mismatched_keys"]
            assert torch.equal(other.base_model(tokens).last_hidden_state, states)
            # Nothing but heads is new.
            assert not any(
                key.startswith(("model.layers", "layers", "model.embed", "embed")) for key in info["missing_keys"]
            )


@pytest.mark.parametrize(
    ("source", "heads", "new"),
    [
        ("MiniBertForMaskedLM", configuration_minibert.HEADS, {"TokenClassification": {"token_classifier"}}),
        (
            "MiniBertForSequenceClassification",
            configuration_minibert.HEADS,
            {"TokenClassification": {"token_classifier"}},
        ),
        ("MiniBertForMaskedLM", configuration_minibert.HEADS, {"QuestionAnswering": {"qa_outputs"}}),
        ("MiniBertForPreTraining", configuration_minibert.HEADS, {"MultipleChoice": {"score"}}),
        ("MiniGPTForCausalLM", configuration_minigpt.HEADS, {"TokenClassification": {"token_classifier"}}),
        ("MiniGPTForCausalLM", configuration_minigpt.HEADS, {"QuestionAnswering": {"qa_outputs"}}),
        ("MiniGPTForCausalLM", configuration_minigpt.HEADS, {"SequenceClassification": {"score"}}),
        ("MiniGPTForCausalLM", configuration_minigpt.HEADS, {"MultipleChoice": {"classifier"}}),
    ],
)
def test_an_auto_class_adds_its_head_and_says_so(make_model, tmp_path, source, heads, new):
    make_model(source).save_pretrained(tmp_path)
    ((task, modules),) = new.items()
    with CaptureLogger(transformers.logging.get_logger("transformers.modeling_utils")) as log:
        model, info = getattr(transformers, f"AutoModelFor{task}").from_pretrained(tmp_path, output_loading_info=True)
    assert type(model).__name__ == heads[f"AutoModelFor{task}"]
    assert {key.rsplit(".", 1)[0] for key in info["missing_keys"]} == modules
    assert "LOAD REPORT" in log.out
    for key in info["missing_keys"]:
        assert f"{key} " in log.out
    assert "newly initialized" in log.out


# transformers 5.23 renames the method; 5.17 has only this name.
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
@pytest.mark.parametrize("is_reentrant", [False, True])
@pytest.mark.parametrize("name", [name for name in MODELS if "For" in name])
def test_gradient_checkpointing_changes_no_gradient(make_model, attention, tokens, name, is_reentrant):
    batch = labels(name, tokens)
    gradients = []
    for is_saving in (False, True):
        model = make_model(name, attention, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1).train()
        if is_saving:
            model.gradient_checkpointing_enable({"use_reentrant": is_reentrant})
            model.enable_input_require_grads()
        torch.manual_seed(1)
        model(shaped(name, tokens), **batch).loss.backward()
        gradients.append({key: parameter.grad for key, parameter in model.named_parameters()})
    assert gradients[0].keys() == gradients[1].keys()
    for key, gradient in gradients[0].items():
        assert (gradient is None) == (gradients[1][key] is None)
        if gradient is not None:
            torch.testing.assert_close(gradient, gradients[1][key], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in MODELS if "For" in name])
def test_every_parameter_is_trained(make_model, tokens, name):
    batch = labels(name, tokens)
    model = make_model(name).train()
    model(shaped(name, tokens), **batch).loss.backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []


def test_the_auto_classes_know_ours(make_model, tmp_path):
    make_model("MiniGPTForCausalLM").save_pretrained(tmp_path)
    assert type(AutoModel.from_pretrained(tmp_path)) is hf_minibert.MiniGPTModel
    assert type(AutoConfig.from_pretrained(tmp_path)) is hf_minibert.MiniGPTConfig


def test_a_checkpoint_names_every_head(make_model, tmp_path):
    make_model("MiniBertForMaskedLM").save_pretrained(tmp_path)
    auto_map = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert {entry.split(".")[1] for entry in auto_map.values()} == {
        "MiniBertConfig",
        *(name for name in MODELS if name.startswith("MiniBert")),
    }
    assert MiniBertConfig.from_pretrained(tmp_path).auto_map == auto_map


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["MiniBertForMaskedLM", "MiniGPTForCausalLM"])
def test_half_precision(make_model, tokens, attention, name, dtype):
    model = make_model(name, attention)
    expected = model(tokens, labels=tokens)
    outputs = model.to(dtype)(tokens, labels=tokens)
    assert outputs.logits.dtype == dtype
    torch.testing.assert_close(outputs.logits.float(), expected.logits, rtol=0.1, atol=0.2)
    torch.testing.assert_close(outputs.loss.float(), expected.loss, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("device_map", ["auto", "cpu", {"": "cpu"}])
@pytest.mark.parametrize("name", ["MiniBertForMaskedLM", "MiniGPTForCausalLM"])
def test_a_map_of_devices(make_model, tokens, tmp_path, name, device_map):
    model = make_model(name)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path, device_map=device_map)
    assert decoder(again).weight is again.get_input_embeddings().weight
    assert torch.equal(again(tokens.to(again.device)).logits.cpu(), model(tokens).logits)


@pytest.mark.parametrize("name", ["MiniBertForMaskedLM", "MiniGPTForCausalLM"])
def test_the_loss_of_a_model_on_the_disk(make_model, tokens, tmp_path, name):
    model = make_model(name)
    model.save_pretrained(tmp_path)
    offloaded = type(model).from_pretrained(tmp_path, device_map={"": "disk"}, offload_folder=tmp_path / "weights")
    with torch.no_grad():
        torch.testing.assert_close(offloaded(tokens, labels=tokens).loss, model(tokens, labels=tokens).loss)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_without_memory_lacks_nothing_but_its_checkpoint(make_model, tokens, name):
    """Built on the meta device, it takes a state dictionary as it is: there are no buffers that are not in it."""
    model = make_model(name)
    with torch.device("meta"):
        empty = type(model)(model.config)
    empty.load_state_dict(model.state_dict(), assign=True)
    empty.tie_weights()
    rows = shaped(name, tokens)
    assert torch.equal(empty.eval()(rows)[0], model(rows)[0])
