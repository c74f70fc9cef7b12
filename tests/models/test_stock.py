"""Every cell of the table equals its stock class: outputs, losses and gradients, both ways."""

import dataclasses
import warnings

import pytest
import torch
import transformers
from stock_models import HEADS, SHAPE, STOCK_CONFIGS, example, make_ours, make_stock, stir
from transformers import BertConfig, LlamaConfig, PreTrainedConfig

from hf_minibert import (
    MiniBertConfig,
    MiniBertForMaskedLM,
    MiniBertModel,
    MiniGPTConfig,
    MiniGPTForCausalLM,
    MiniGPTForTokenClassification,
)
from hf_minibert.errors import UserError
from hf_minibert.export.stock import COUNTERPARTS, from_stock, to_stock


def tensors(outputs):
    """The tensors that the two outputs can be compared by."""
    fields = ("loss", "logits", "start_logits", "end_logits", "prediction_logits", "seq_relationship_logits")
    fields += ("last_hidden_state", "pooler_output")
    return {field: outputs[field] for field in fields if field in outputs}


def gradients(model, outputs, real):
    """What reaches each parameter, from the loss or else from the states of the real tokens."""
    (outputs.loss if "loss" in outputs else (outputs[0][real] ** 2).mean()).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def assert_equal_models(ours, stock, batch):
    batch = dict(batch)
    real = batch["attention_mask"].bool()
    expected, actual = stock(**batch), ours(**batch)
    assert tensors(actual).keys() == tensors(expected).keys()
    for field, value in tensors(expected).items():
        per_token = value.shape[:2] == real.shape
        pair = (tensors(actual)[field], value)
        pair = tuple(tensor[real] for tensor in pair) if per_token else pair
        torch.testing.assert_close(*pair, rtol=0, atol=1e-5, msg=lambda text, field=field: f"{field}: {text}")
    stock_gradients = gradients(stock, expected, real)
    # The gradients of our weights, under the stock names and in the stock layout.
    gradients(ours, actual, real)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    converted = dict(to_stock(ours).named_parameters())
    assert stock_gradients
    for name, gradient in stock_gradients.items():
        torch.testing.assert_close(converted[name], gradient, rtol=0, atol=1e-5, msg=lambda t, n=name: f"{n}: {t}")


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(("counterpart", "stock_class", "our_class"), HEADS)
def test_a_stock_model_becomes_ours(counterpart, stock_class, our_class, side):
    stock = make_stock(counterpart, stock_class)
    ours = from_stock(stock)
    assert type(ours) is our_class
    assert not ours.training
    assert_equal_models(ours, stock, example(stock_class, side))


@pytest.mark.parametrize(("counterpart", "stock_class", "our_class"), HEADS)
def test_ours_becomes_a_stock_model(counterpart, stock_class, our_class):
    ours = make_ours(counterpart, our_class)
    stock = to_stock(ours)
    assert type(stock) is stock_class
    assert_equal_models(ours, stock, example(stock_class))


@pytest.mark.parametrize(("counterpart", "stock_class", "our_class"), HEADS)
def test_the_round_trip_changes_no_bit(counterpart, stock_class, our_class, tmp_path):
    stock = make_stock(counterpart, stock_class).to(torch.bfloat16)
    ours = from_stock(stock)
    ours.save_pretrained(tmp_path)
    again = to_stock(our_class.from_pretrained(tmp_path))
    assert again.dtype == torch.bfloat16
    assert again.state_dict().keys() == stock.state_dict().keys()
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in stock.state_dict().items())
    again.save_pretrained(tmp_path / "stock")
    loaded, info = stock_class.from_pretrained(tmp_path / "stock", output_loading_info=True)
    assert not any(info.values())
    assert all(torch.equal(weight, loaded.state_dict()[name]) for name, weight in stock.state_dict().items())

    before, after = stock.config.to_dict(), again.config.to_dict()
    incidental = {"dtype", "architectures", "_name_or_path", "transformers_version", "tie_word_embeddings"}
    lost = {"classifier_pooling", "mask_token_id"}  # EuroBERT's, where no head uses them
    different = {key for key in before if before[key] != after[key]} - incidental - lost
    assert not different


@pytest.mark.parametrize(("counterpart", "stock_class", "our_class"), HEADS)
def test_the_round_trip_of_ours_changes_no_bit(counterpart, stock_class, our_class):
    ours = make_ours(counterpart, our_class)
    again = from_stock(to_stock(ours))
    assert type(again) is our_class
    assert again.state_dict().keys() == ours.state_dict().keys()
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in ours.state_dict().items())
    assert type(to_stock(ours, to=counterpart)) is stock_class


@pytest.mark.parametrize("counterpart", ["gpt2", "llama", "qwen3", "arcee", "apertus"])
def test_both_generate_the_same(counterpart):
    (stock_class,) = (each.heads[MiniGPTForCausalLM] for each in COUNTERPARTS if each.name == counterpart)
    batch = example(stock_class, side="left")
    del batch["labels"]
    options = {"max_new_tokens": 20, "do_sample": False}
    stock, ours = make_stock(counterpart, stock_class), make_ours(counterpart, MiniGPTForCausalLM)
    assert torch.equal(stock.generate(**batch, **options), from_stock(stock).generate(**batch, **options))
    assert torch.equal(ours.generate(**batch, **options), to_stock(ours).generate(**batch, **options))


def test_untied_models_keep_both_weights():
    for stock in (
        transformers.LlamaForCausalLM(LlamaConfig(**SHAPE, eos_token_id=3, tie_word_embeddings=False)),
        transformers.BertForMaskedLM(BertConfig(**SHAPE, tie_word_embeddings=False)),
    ):
        ours = from_stock(stir(stock))
        assert not torch.equal(ours.get_input_embeddings().weight, ours.get_output_embeddings().weight)
        assert_equal_models(ours, stock, example(type(stock)))


def test_a_base_model_without_pooler_stays_without():
    stock = transformers.BertModel(STOCK_CONFIGS["bert"](), add_pooling_layer=False)
    ours = from_stock(stir(stock))
    assert ours.pooler is None
    assert to_stock(ours).pooler is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_equal_models(ours, stock, example(type(stock)))


@pytest.mark.parametrize("counterpart", ["gpt2", "llama"])
def test_the_dropout_before_a_token_classifier_is_the_same(counterpart):
    stock_class = {"gpt2": transformers.GPT2ForTokenClassification, "llama": transformers.LlamaForTokenClassification}
    stock = stock_class[counterpart](STOCK_CONFIGS[counterpart]())
    assert from_stock(stock).dropout.p == stock.dropout.p == 0.1
    ours = make_ours(counterpart, MiniGPTForTokenClassification)
    assert to_stock(ours).dropout.p == ours.dropout.p == 0.0


def test_generation_settings_come_along():
    ours = MiniGPTForCausalLM(MiniGPTConfig.modern(**SHAPE))
    ours.generation_config.repetition_penalty = 1.3
    assert to_stock(ours).generation_config.repetition_penalty == 1.3


@pytest.mark.parametrize(
    ("name", "make", "fields", "reason"),
    [
        ("MiniBertForMaskedLM", "classic", {"mlm_head_transform": False}, "mlm_head_transform=False"),
        ("MiniBertForMaskedLM", "classic", {"norm_placement": "pre"}, "norm_placement='pre'"),
        ("MiniBertForMaskedLM", "classic", {"type_vocab_size": 0}, "type_vocab_size=0"),
        ("MiniBertForMaskedLM", "classic", {"gated_mlp": True}, "gated_mlp=True"),
        ("MiniBertForSequenceClassification", "classic", {"classifier_pooling": "mean"}, "classifier_pooling='mean'"),
        ("MiniBertForSequenceClassification", "classic", {"classifier_activation": "gelu"}, "classifier_activation"),
        ("MiniBertForMaskedLM", "modern", {"norm_type": "layer_norm"}, "norm_type='layer_norm'"),
        ("MiniBertForMaskedLM", "modern", {"type_vocab_size": 2}, "type_vocab_size=2"),
        ("MiniBertModel", "modern", {"use_pooler": True}, "use_pooler=True"),
        ("MiniBertForSequenceClassification", "modern", {"classifier_pooling": "max"}, "classifier_pooling='max'"),
        ("MiniBertForSequenceClassification", "modern", {"classifier_activation": "tanh"}, "classifier_activation"),
        ("MiniBertForPreTraining", "modern", {}, "BertForPreTraining does not compute the same: norm_type='rms_norm'"),
        ("MiniGPTForCausalLM", "classic", {"norm_placement": "post"}, "norm_placement='post'"),
        ("MiniGPTForCausalLM", "classic", {"use_bias": False}, "use_bias=False"),
        ("MiniGPTForCausalLM", "classic", {"head_dim": 16}, "head_dim=16"),
        ("MiniBertForQuestionAnswering", "classic", {"num_labels": 3}, "num_labels=3 where it has 2"),
        ("MiniBertForQuestionAnswering", "modern", {}, "BertForQuestionAnswering does not compute the same"),
        ("MiniBertForMultipleChoice", "classic", {"classifier_pooling": "max"}, "classifier_pooling='max'"),
        ("MiniGPTModel", "modern", {"add_cross_attention": True}, "add_cross_attention=True"),
        ("MiniGPTForCausalLM", "classic", {"qk_norm": True}, "qk_norm=True"),
        ("MiniGPTForCausalLM", "modern", {"qk_norm": True, "use_bias": True}, "qk_norm=True"),
        ("MiniBertForMaskedLM", "modern", {"qk_norm": True}, "qk_norm=True"),
        ("MiniBertForMaskedLM", "modern", {"gated_mlp": False}, "gated_mlp=False"),
        ("MiniGPTForCausalLM", "modern", {"position_embedding_type": "absolute"}, "position_embedding_type='absolute'"),
    ],
)
def test_what_no_stock_class_computes_is_refused_by_name(name, make, fields, reason):
    import hf_minibert

    config_class = MiniBertConfig if name.startswith("MiniBert") else MiniGPTConfig
    config = {"classic": config_class.classic, "modern": config_class.modern}[make](**SHAPE | fields)
    with pytest.raises(UserError, match="does not compute the same: .* with its own code") as error:
        to_stock(vars(hf_minibert)[name](config))
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("stock_class", "counterpart", "changes", "field"),
    [
        (transformers.BertModel, "bert", {"is_decoder": True}, "BertConfig.is_decoder=True"),
        (transformers.EuroBertModel, "eurobert", {"num_key_value_heads": 2}, "num_key_value_heads=2"),
        (transformers.EuroBertForMaskedLM, "eurobert", {"mlp_bias": False}, "mlp_bias=False"),
        (
            transformers.EuroBertForSequenceClassification,
            "eurobert",
            {"classifier_pooling": "late"},
            "classifier_pooling='late'",
        ),
        (transformers.GPT2Model, "gpt2", {"scale_attn_weights": False}, "scale_attn_weights=False"),
        (transformers.GPT2Model, "gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        (transformers.GPT2Model, "gpt2", {"embd_pdrop": 0.3}, "embd_pdrop=0.3"),
        (transformers.BertForQuestionAnswering, "bert", {"num_labels": 3}, "num_labels=3"),
        (transformers.Qwen3Model, "qwen3", {"attention_bias": True}, "attention_bias=True"),
        (transformers.Qwen3Model, "qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        (transformers.LlamaModel, "llama", {"is_causal": False}, "is_causal=False"),
        (transformers.ApertusModel, "apertus", {"num_key_value_heads": 2}, "num_key_value_heads=2"),
    ],
)
def test_what_ours_cannot_express_is_refused_by_name(stock_class, counterpart, changes, field):
    config = STOCK_CONFIGS[counterpart]()
    config = type(config)(**config.to_dict() | changes)
    with pytest.raises(UserError, match="no counterpart") as error:
        from_stock(stock_class(config))
    assert field in str(error.value)


def test_what_fits_is_named():
    with pytest.raises(UserError, match="EuroBertForMaskedLM does not compute the same: .*; it may become bert"):
        to_stock(MiniBertForMaskedLM(MiniBertConfig.classic(**SHAPE)), to="eurobert")
    with pytest.raises(UserError, match="MiniBertForMaskedLM has no llama class; it may become bert or eurobert"):
        to_stock(MiniBertForMaskedLM(MiniBertConfig.classic(**SHAPE)), to="llama")


def test_values_that_our_configuration_does_not_take_are_refused():
    config = LlamaConfig(**SHAPE | {"num_attention_heads": 32}, head_dim=1)
    with pytest.raises(UserError, match="this LlamaConfig has no counterpart here: rotary positions turn pairs"):
        from_stock(transformers.LlamaModel(config))


def test_a_special_token_that_the_vocabulary_lacks_is_none():
    stock = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=99, n_embd=32, n_layer=1, n_head=2))
    assert stock.config.bos_token_id == 50256
    ours = from_stock(stock)
    assert (ours.config.bos_token_id, ours.config.eos_token_id) == (None, None)


def test_every_field_is_converted_or_refused_or_for_training_only():
    """A field that is added to one of the configurations must be thought of here."""
    training_only = {"residual_init", "lm_loss_weight", "classifier_dropout", "hidden_dropout_prob"}
    not_of_shape = {"auto_map", "use_cache", "is_decoder", "no_answer_threshold"}  # MiniGPT always is one
    without_effect = {
        *("use_cache", "pretraining_tp", "mask_token_id", "reorder_and_upcast_attn", "summary_type"),
        *("sliding_window", "max_window_layers", "layer_types"),  # another than full attention is refused
        *("summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout"),
    }
    common = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    for counterpart in COUNTERPARTS:
        ours = {name for name, _ in counterpart.fields} | {*counterpart.always, *counterpart.always_pooled}
        handled = (
            {"type_vocab_size", "classifier_pooling", "use_pooler", "shifted_predictions"}
            if counterpart.config is MiniBertConfig
            else set()
        )
        if counterpart.always["position_embedding_type"] == "absolute":
            handled |= {"rope_theta", "rope_parameters"}
        if "head_dim" not in dict(counterpart.fields):  # `obstacles` knows
            handled |= {"head_dim"}
        fields = {field.name for field in dataclasses.fields(counterpart.config)} - common
        assert fields - ours - handled <= training_only | not_of_shape, counterpart.name

        theirs = {name.split(".")[0] for _, name in counterpart.fields} | {
            name.split(".")[0] for name in counterpart.stock_always
        }
        theirs = {counterpart.stock_config.attribute_map.get(name, name) for name in theirs} | {"classifier_pooling"}
        fields = {field.name for field in dataclasses.fields(counterpart.stock_config)} - common
        assert fields - theirs <= without_effect, counterpart.name


def test_other_classes_are_refused():
    with pytest.raises(UserError, match="BertLMHeadModel has no counterpart here; these have: BertModel"):
        from_stock(transformers.BertLMHeadModel(STOCK_CONFIGS["bert"]()))
    with pytest.raises(UserError, match="BertModel has no stock class; these have: MiniBertModel"):
        to_stock(transformers.BertModel(STOCK_CONFIGS["bert"]()))


def test_our_models_are_not_changed_by_a_conversion():
    ours = stir(MiniBertForMaskedLM(MiniBertConfig.classic(**SHAPE)))
    before = {name: weight.clone() for name, weight in ours.state_dict().items()}
    stir(to_stock(ours))
    assert all(torch.equal(weight, before[name]) for name, weight in ours.state_dict().items())
    assert isinstance(ours.base_model, MiniBertModel)
