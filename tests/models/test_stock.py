"""Every cell of the table equals its stock class: outputs, losses and gradients, both ways."""

import warnings

import pytest
import torch
import transformers
from transformers import BertConfig, EuroBertConfig, GPT2Config, LlamaConfig

from hf_minibert import MiniBertConfig, MiniBertForMaskedLM, MiniBertModel, MiniGPTConfig, MiniGPTForCausalLM
from hf_minibert.errors import UserError
from hf_minibert.interop.stock import FAMILIES, from_stock, to_stock

SMALL = {"vocab_size": 99, "num_labels": 3, "initializer_range": 0.1, "pad_token_id": 0, "bos_token_id": 2}
SHAPE = SMALL | {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}
STOCK_CONFIGS = {
    "bert": lambda: BertConfig(**SHAPE, intermediate_size=48, hidden_act="relu", layer_norm_eps=1e-3),
    "eurobert": lambda: EuroBertConfig(
        **SHAPE,
        **{"eos_token_id": 3, "intermediate_size": 48, "rms_norm_eps": 1e-3, "mlp_bias": True, "attention_bias": True},
        **{"rope_parameters": {"rope_type": "default", "rope_theta": 123.0}, "classifier_pooling": "mean"},
    ),
    "gpt2": lambda: GPT2Config(
        **SMALL,
        **{"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "n_inner": 48, "eos_token_id": 3},
        layer_norm_epsilon=1e-3,
    ),
    "llama": lambda: LlamaConfig(
        **SHAPE,
        **{"eos_token_id": 3, "intermediate_size": 48, "hidden_act": "gelu", "rms_norm_eps": 1e-3},
        rope_parameters={"rope_type": "default", "rope_theta": 123.0},
    ),
}
HEADS = [
    pytest.param(family.stock_config.model_type, theirs, ours, id=theirs.__name__)
    for family in FAMILIES
    for ours, theirs in family.heads.items()
]


def stir(model):
    """Move every parameter, so that no bias is zero and no norm one."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn(parameter.shape, generator=generator) * 0.1
    return model.eval()


def example(model_class, side="right"):
    """A batch with padding and the labels that the head takes."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 99, (3, 12), generator=generator)
    real = torch.arange(12) < torch.tensor([[12], [9], [5]])
    real = real if side == "right" else real.flip(1)
    ids = ids.masked_fill(~real, 0)
    batch = {"input_ids": ids, "attention_mask": real.long()}
    # Padding predicts nothing, not even the first token to its right: GPT-2 would train its padding's embedding.
    token_labels = ids.masked_fill(~real | ~real.roll(1, dims=1), -100)
    name = model_class.__name__
    if name.endswith(("MaskedLM", "PreTraining")):
        batch["labels"] = token_labels.masked_fill(torch.arange(12) % 3 == 0, -100)
    elif name.endswith(("CausalLM", "LMHeadModel")):
        batch["labels"] = token_labels
    elif name.endswith("SequenceClassification"):
        batch["labels"] = torch.tensor([2, 0, 1])
    if name.endswith("PreTraining"):
        batch["next_sentence_label"] = torch.tensor([0, 1, 1])
    if name.endswith("NextSentencePrediction"):
        batch["labels"] = torch.tensor([0, 1, 1])
    return batch


def tensors(outputs):
    """The tensors that the two outputs can be compared by."""
    fields = ("loss", "logits", "prediction_logits", "seq_relationship_logits", "last_hidden_state", "pooler_output")
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
@pytest.mark.parametrize(("family", "stock_class", "our_class"), HEADS)
def test_a_stock_model_becomes_ours(family, stock_class, our_class, side):
    stock = stir(stock_class(STOCK_CONFIGS[family]()))
    ours = from_stock(stock)
    assert type(ours) is our_class
    assert not ours.training
    assert_equal_models(ours, stock, example(stock_class, side))


@pytest.mark.parametrize(("family", "stock_class", "our_class"), HEADS)
def test_ours_becomes_a_stock_model(family, stock_class, our_class):
    is_bert = our_class.__name__.startswith("MiniBert")
    config_class = MiniBertConfig if is_bert else MiniGPTConfig
    make = config_class.classic if family in ("bert", "gpt2") else config_class.modern
    ours = stir(our_class(make(**SHAPE, intermediate_size=48) if is_bert else make(**SHAPE, lm_loss_weight=0)))
    stock = to_stock(ours)
    assert type(stock) is stock_class
    assert_equal_models(ours, stock, example(stock_class))


@pytest.mark.parametrize(("family", "stock_class", "our_class"), HEADS)
def test_the_round_trip_changes_no_bit(family, stock_class, our_class, tmp_path):
    stock = stir(stock_class(STOCK_CONFIGS[family]())).to(torch.bfloat16)
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


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_both_generate_the_same(family):
    stock_class = {"gpt2": transformers.GPT2LMHeadModel, "llama": transformers.LlamaForCausalLM}[family]
    stock = stir(stock_class(STOCK_CONFIGS[family]()))
    batch = example(stock_class, side="left")
    del batch["labels"]
    options = {"max_new_tokens": 20, "do_sample": False}
    assert torch.equal(stock.generate(**batch, **options), from_stock(stock).generate(**batch, **options))


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
        ("MiniBertForPreTraining", "modern", {}, "nearest is BertForPreTraining, but norm_type='rms_norm'"),
        ("MiniGPTForCausalLM", "classic", {"norm_placement": "post"}, "norm_placement='post'"),
        ("MiniGPTForCausalLM", "classic", {"use_bias": False}, "use_bias=False"),
        ("MiniGPTForCausalLM", "modern", {"gated_mlp": False}, "gated_mlp=False"),
        ("MiniGPTForCausalLM", "modern", {"position_embedding_type": "absolute"}, "position_embedding_type='absolute'"),
    ],
)
def test_what_no_stock_class_computes_is_refused_by_name(name, make, fields, reason):
    import hf_minibert

    config_class = MiniBertConfig if name.startswith("MiniBert") else MiniGPTConfig
    config = {"classic": config_class.classic, "modern": config_class.modern}[make](**SHAPE | fields)
    with pytest.raises(UserError, match="no stock class computes the same") as error:
        to_stock(vars(hf_minibert)[name](config))
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("stock_class", "family", "changes", "field"),
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
        (transformers.LlamaModel, "llama", {"head_dim": 16}, "head_dim=16"),
    ],
)
def test_what_ours_cannot_express_is_refused_by_name(stock_class, family, changes, field):
    config = STOCK_CONFIGS[family]()
    config = type(config)(**config.to_dict() | changes)
    with pytest.raises(UserError, match="no counterpart") as error:
        from_stock(stock_class(config))
    assert field in str(error.value)


def test_other_classes_are_refused():
    with pytest.raises(UserError, match="BertForTokenClassification has no counterpart here; these have: BertModel"):
        from_stock(transformers.BertForTokenClassification(STOCK_CONFIGS["bert"]()))
    with pytest.raises(UserError, match="BertModel has no stock class; these have: MiniBertModel"):
        to_stock(transformers.BertModel(STOCK_CONFIGS["bert"]()))


def test_our_models_are_not_changed_by_a_conversion():
    ours = stir(MiniBertForMaskedLM(MiniBertConfig.classic(**SHAPE)))
    before = {name: weight.clone() for name, weight in ours.state_dict().items()}
    stir(to_stock(ours))
    assert all(torch.equal(weight, before[name]) for name, weight in ours.state_dict().items())
    assert isinstance(ours.base_model, MiniBertModel)
