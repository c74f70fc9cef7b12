"""Each model as the stock transformers model with equal outputs, and back: weights and configuration.

One `Family` for each cell of the table mask x architecture: BERT, EuroBERT, GPT-2, Llama.
"""

import copy
from collections import defaultdict
from dataclasses import dataclass, field, fields
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForSequenceClassification,
    BertModel,
    EuroBertConfig,
    EuroBertForMaskedLM,
    EuroBertForSequenceClassification,
    EuroBertModel,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaModel,
    PreTrainedConfig,
    PreTrainedModel,
)

from hf_minibert.errors import UserError
from hf_minibert.models.configuration_minibert import MiniBertConfig
from hf_minibert.models.configuration_minigpt import MiniGPTConfig
from hf_minibert.models.configuration_transformer import TransformerConfig
from hf_minibert.models.modeling_minibert import (
    MiniBertForMaskedLM,
    MiniBertForNextSentencePrediction,
    MiniBertForPreTraining,
    MiniBertForSequenceClassification,
    MiniBertModel,
)
from hf_minibert.models.modeling_minigpt import MiniGPTForCausalLM, MiniGPTForSequenceClassification, MiniGPTModel

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Family:
    """A stock architecture and what of ours it is equal to. Pairs are (our name, stock name)."""

    config: type[TransformerConfig]
    stock_config: type[PreTrainedConfig]
    heads: dict[type[PreTrainedModel], type[PreTrainedModel]]
    always: dict[str, Any]
    """Our fields that the stock architecture does not have, with what it does."""
    always_pooled: dict[str, Any] = field(default_factory=dict)
    """The same, for models that pool."""
    stock_always: dict[str, Any]
    """Stock fields that ours does not have, with what ours does."""
    fields: Pairs
    """Beside `SAME_FIELDS`."""
    words: dict[str, dict[Any, Any]] = field(default_factory=dict)
    """Our field to our value to the stock value, where the values have other names."""
    weights: Pairs
    """Parts of names, replaced in this order. Several weights of ours with one stock name lie side by side there."""
    transposed: tuple[str, ...] = ()
    """Stock layers that store (in, out)."""


SAME_FIELDS = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings"),
    *("initializer_range", "pad_token_id", "bos_token_id", "eos_token_id", "tie_word_embeddings"),
    *("id2label", "label2id", "problem_type"),
)
PRE_LAYER_NORM = {"norm_type": "layer_norm", "norm_placement": "pre", "position_embedding_type": "absolute"}
CLASSIC = PRE_LAYER_NORM | {"gated_mlp": False, "use_bias": True}
MODERN = {"norm_type": "rms_norm", "norm_placement": "pre", "position_embedding_type": "rotary", "gated_mlp": True}
LLAMA_FIELDS = (
    ("intermediate_size", "intermediate_size"),
    ("hidden_act", "hidden_act"),
    ("norm_eps", "rms_norm_eps"),
    ("rope_theta", "rope_parameters.rope_theta"),
    ("use_bias", "attention_bias"),
    ("use_bias", "mlp_bias"),
    ("attention_probs_dropout_prob", "attention_dropout"),
    ("num_attention_heads", "num_key_value_heads"),
    ("head_dim", "head_dim"),
)
LLAMA_WEIGHTS = (("attention_norm.", "input_layernorm."), ("mlp_norm.", "post_attention_layernorm."))

BERT = Family(
    config=MiniBertConfig,
    stock_config=BertConfig,
    heads={
        MiniBertModel: BertModel,
        MiniBertForPreTraining: BertForPreTraining,
        MiniBertForMaskedLM: BertForMaskedLM,
        MiniBertForNextSentencePrediction: BertForNextSentencePrediction,
        MiniBertForSequenceClassification: BertForSequenceClassification,
    },
    always=CLASSIC | {"norm_placement": "post", "mlm_head_transform": True},
    always_pooled={"classifier_pooling": "cls", "classifier_activation": "tanh"},
    stock_always={"is_decoder": False, "add_cross_attention": False},
    fields=(
        ("intermediate_size", "intermediate_size"),
        ("hidden_act", "hidden_act"),
        ("norm_eps", "layer_norm_eps"),
        ("type_vocab_size", "type_vocab_size"),
        ("hidden_dropout_prob", "hidden_dropout_prob"),
        ("attention_probs_dropout_prob", "attention_probs_dropout_prob"),
        ("classifier_dropout", "classifier_dropout"),
    ),
    weights=(
        ("model.", "bert."),
        ("embed_tokens.", "embeddings.word_embeddings."),
        ("embed_positions.", "embeddings.position_embeddings."),
        ("embed_types.", "embeddings.token_type_embeddings."),
        ("embedding_norm.", "embeddings.LayerNorm."),
        ("layers.", "encoder.layer."),
        ("self_attn.q_proj.", "attention.self.query."),
        ("self_attn.k_proj.", "attention.self.key."),
        ("self_attn.v_proj.", "attention.self.value."),
        ("self_attn.o_proj.", "attention.output.dense."),
        ("attention_norm.", "attention.output.LayerNorm."),
        ("mlp.up_proj.", "intermediate.dense."),
        ("mlp.down_proj.", "output.dense."),
        ("mlp_norm.", "output.LayerNorm."),
        ("lm_head.dense.", "cls.predictions.transform.dense."),
        ("lm_head.norm.", "cls.predictions.transform.LayerNorm."),
        ("lm_head.decoder.", "cls.predictions.decoder."),
        ("nsp_head.", "cls.seq_relationship."),
    ),
)

EUROBERT = Family(
    config=MiniBertConfig,
    stock_config=EuroBertConfig,
    heads={
        MiniBertModel: EuroBertModel,
        MiniBertForMaskedLM: EuroBertForMaskedLM,
        MiniBertForSequenceClassification: EuroBertForSequenceClassification,
    },
    always=MODERN | {"type_vocab_size": 0, "mlm_head_transform": False, "use_pooler": False},
    always_pooled={"classifier_activation": "gelu"},
    stock_always={"rope_parameters.rope_type": "default"},
    fields=(*LLAMA_FIELDS, ("classifier_pooling", "classifier_pooling")),
    words={"classifier_pooling": {"cls": "bos", "mean": "mean"}},
    weights=(*LLAMA_WEIGHTS, ("lm_head.decoder.", "lm_head."), ("model.pooler.dense.", "dense.")),
)

GPT2 = Family(
    config=MiniGPTConfig,
    stock_config=GPT2Config,
    heads={
        MiniGPTModel: GPT2Model,
        MiniGPTForCausalLM: GPT2LMHeadModel,
        MiniGPTForSequenceClassification: GPT2ForSequenceClassification,
    },
    always=CLASSIC,
    stock_always={
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    },
    fields=(
        ("intermediate_size", "n_inner"),
        ("hidden_act", "activation_function"),
        ("norm_eps", "layer_norm_epsilon"),
        ("hidden_dropout_prob", "resid_pdrop"),
        ("hidden_dropout_prob", "embd_pdrop"),
        ("attention_probs_dropout_prob", "attn_pdrop"),
        ("use_cache", "use_cache"),
    ),
    weights=(
        ("model.norm.", "transformer.ln_f."),
        ("model.", "transformer."),
        ("embed_tokens.", "wte."),
        ("embed_positions.", "wpe."),
        ("layers.", "h."),
        ("attention_norm.", "ln_1."),
        ("mlp_norm.", "ln_2."),
        ("self_attn.q_proj.", "attn.c_attn."),
        ("self_attn.k_proj.", "attn.c_attn."),
        ("self_attn.v_proj.", "attn.c_attn."),
        ("self_attn.o_proj.", "attn.c_proj."),
        ("mlp.up_proj.", "mlp.c_fc."),
        ("mlp.down_proj.", "mlp.c_proj."),
    ),
    transposed=("c_attn.weight", "c_proj.weight", "c_fc.weight"),
)

LLAMA = Family(
    config=MiniGPTConfig,
    stock_config=LlamaConfig,
    heads={
        MiniGPTModel: LlamaModel,
        MiniGPTForCausalLM: LlamaForCausalLM,
        MiniGPTForSequenceClassification: LlamaForSequenceClassification,
    },
    always=MODERN,
    stock_always={"rope_parameters.rope_type": "default"},
    fields=(*LLAMA_FIELDS, ("use_cache", "use_cache")),
    weights=LLAMA_WEIGHTS,
)

FAMILIES = (BERT, EUROBERT, GPT2, LLAMA)


def to_stock(model: PreTrainedModel) -> PreTrainedModel:
    """The stock model that computes what `model` computes.

    What only training uses and the stock class lacks stays behind: dropouts, and MiniGPT's language-model loss beside
    the classifier's.

    Raises:
        UserError: no stock class computes the same; says which field of the configuration stands in the way.
    """
    differences = {family.stock_config: differing_fields(model, family) for family in FAMILIES}
    family = min(
        (family for family in FAMILIES if isinstance(model.config, family.config)),
        key=lambda family: len(differences[family.stock_config]),
        default=None,
    )
    if family is None:
        raise UserError(f"{type(model).__name__} is not one of our models; give a MiniBERT or a MiniGPT")
    if differences[family.stock_config]:
        reasons = "; ".join(differences[family.stock_config])
        raise UserError(f"no stock class computes the same: {family.stock_config.model_type} is nearest, but {reasons}")
    head = family.heads.get(type(model))
    if head is None:
        known = ", ".join(ours.__name__ for ours in family.heads)
        raise UserError(f"{family.stock_config.model_type} has no such head as {type(model).__name__}; only {known}")
    ...
