"""Each model as the stock transformers model with equal outputs, and back: weights and configuration.

One `Counterpart` for each cell of the table mask x architecture: BERT, EuroBERT, GPT-2, Llama; and for Llama's block
with normalised queries and keys (Qwen3), without a gate (Arcee), and both (Apertus).
"""

import copy
import dataclasses
import functools
import re
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_minibert import (
    MiniBertConfig,
    MiniBertForMaskedLM,
    MiniBertForMultipleChoice,
    MiniBertForNextSentencePrediction,
    MiniBertForPreTraining,
    MiniBertForQuestionAnswering,
    MiniBertForSequenceClassification,
    MiniBertForTokenClassification,
    MiniBertModel,
    MiniGPTConfig,
    MiniGPTForCausalLM,
    MiniGPTForQuestionAnswering,
    MiniGPTForSequenceClassification,
    MiniGPTForTokenClassification,
    MiniGPTModel,
)
from hf_minibert.errors import UserError
from hf_minibert.models.configuration_transformer import TransformerConfig

Pairs = tuple[tuple[str, str], ...]


def pairs(text: str) -> Pairs:
    """Pairs (ours, stock) of names, from words `ours=stock`; a name alone stands for both."""
    return tuple((pair.split("=")[0], pair.split("=")[-1]) for pair in text.split())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counterpart:
    """A stock architecture, and which of our models are equal to it."""

    config: type[TransformerConfig]
    stock_config: type[PreTrainedConfig]
    heads: dict[type[PreTrainedModel], type[PreTrainedModel]]
    fields: Pairs
    """Pairs of configuration fields that mean the same; a field may be in several pairs."""
    always: dict[str, Any]
    """Our fields that the stock model lacks, with the values that it implicitly uses."""
    always_pooled: dict[str, Any] = dataclasses.field(default_factory=dict)
    """More of `always`, for models with a pooler."""
    stock_always: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Stock fields that our model lacks, with the values that it implicitly uses."""
    weights: Pairs
    """Parts of weight names, replaced in this order; our weights with the same stock name are joined into one."""
    transposed: tuple[str, ...] = ()
    """Stock weights that are stored (in, out)."""

    @property
    def name(self) -> str:
        """What the Hub calls it."""
        return self.stock_config.model_type


SHAPE = """vocab_size hidden_size num_hidden_layers num_attention_heads max_position_embeddings initializer_range
    pad_token_id bos_token_id eos_token_id tie_word_embeddings id2label label2id problem_type """
CLASSIC = {
    **{"norm_type": "layer_norm", "norm_placement": "pre", "position_embedding_type": "absolute"},
    **{"gated_mlp": False, "use_bias": True, "qk_norm": False},
}
MODERN = {
    **{"norm_type": "rms_norm", "norm_placement": "pre", "position_embedding_type": "rotary"},
    **{"gated_mlp": True, "qk_norm": False},
}
BLOCK_FIELDS = """intermediate_size hidden_act norm_eps=rms_norm_eps rope_parameters
    attention_probs_dropout_prob=attention_dropout num_attention_heads=num_key_value_heads """
LLAMA_FIELDS = BLOCK_FIELDS + "use_bias=attention_bias use_bias=mlp_bias head_dim "
LLAMA_WEIGHTS = "attention_norm=input_layernorm mlp_norm=post_attention_layernorm "
POOLING = {"cls": "bos", "mean": "mean"}  # of ours, and as EuroBERT calls them

BERT = Counterpart(
    config=MiniBertConfig,
    stock_config=transformers.BertConfig,
    heads={
        MiniBertModel: transformers.BertModel,
        MiniBertForPreTraining: transformers.BertForPreTraining,
        MiniBertForMaskedLM: transformers.BertForMaskedLM,
        MiniBertForNextSentencePrediction: transformers.BertForNextSentencePrediction,
        MiniBertForSequenceClassification: transformers.BertForSequenceClassification,
        MiniBertForTokenClassification: transformers.BertForTokenClassification,
        MiniBertForQuestionAnswering: transformers.BertForQuestionAnswering,
        MiniBertForMultipleChoice: transformers.BertForMultipleChoice,
    },
    fields=pairs(
        SHAPE
        + """intermediate_size hidden_act norm_eps=layer_norm_eps type_vocab_size hidden_dropout_prob
        attention_probs_dropout_prob classifier_dropout"""
    ),
    always=CLASSIC | {"norm_placement": "post", "mlm_head_transform": True},
    always_pooled={"classifier_pooling": "cls", "classifier_activation": "tanh"},
    stock_always={"is_decoder": False, "add_cross_attention": False},
    weights=pairs(
        """embed_tokens=embeddings.word_embeddings embed_positions=embeddings.position_embeddings
        embed_types=embeddings.token_type_embeddings embedding_norm=embeddings.LayerNorm layers.=encoder.layer.
        self_attn.q_proj=attention.self.query self_attn.k_proj=attention.self.key
        self_attn.v_proj=attention.self.value self_attn.o_proj=attention.output.dense
        attention_norm=attention.output.LayerNorm mlp.up_proj=intermediate.dense mlp.down_proj=output.dense
        mlp_norm=output.LayerNorm lm_head.dense=cls.predictions.transform.dense
        lm_head.norm=cls.predictions.transform.LayerNorm lm_head.decoder=cls.predictions.decoder
        nsp_head=cls.seq_relationship token_classifier=classifier score=classifier"""
    ),
)
EUROBERT = Counterpart(
    config=MiniBertConfig,
    stock_config=transformers.EuroBertConfig,
    heads={
        MiniBertModel: transformers.EuroBertModel,
        MiniBertForMaskedLM: transformers.EuroBertForMaskedLM,
        MiniBertForSequenceClassification: transformers.EuroBertForSequenceClassification,
        MiniBertForTokenClassification: transformers.EuroBertForTokenClassification,
    },
    fields=pairs(SHAPE + LLAMA_FIELDS),
    always=MODERN | {"type_vocab_size": 0, "mlm_head_transform": False, "use_pooler": False},
    always_pooled={"classifier_activation": "gelu"},
    weights=pairs(LLAMA_WEIGHTS + "lm_head.decoder=lm_head model.pooler.dense=dense token_classifier=classifier"),
)
GPT2 = Counterpart(
    config=MiniGPTConfig,
    stock_config=transformers.GPT2Config,
    heads={
        MiniGPTModel: transformers.GPT2Model,
        MiniGPTForCausalLM: transformers.GPT2LMHeadModel,
        MiniGPTForSequenceClassification: transformers.GPT2ForSequenceClassification,
        MiniGPTForTokenClassification: transformers.GPT2ForTokenClassification,
        MiniGPTForQuestionAnswering: transformers.GPT2ForQuestionAnswering,
    },
    fields=pairs(
        SHAPE
        + """intermediate_size=n_inner hidden_act=activation_function norm_eps=layer_norm_epsilon use_cache
        hidden_dropout_prob=resid_pdrop hidden_dropout_prob=embd_pdrop attention_probs_dropout_prob=attn_pdrop"""
    ),
    always=CLASSIC | {"add_cross_attention": False},
    stock_always={"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
    weights=pairs(
        """model.norm=model.ln_f embed_tokens=wte embed_positions=wpe layers.=h.
        attention_norm=ln_1 mlp_norm=ln_2 self_attn.q_proj=attn.c_attn self_attn.k_proj=attn.c_attn
        self_attn.v_proj=attn.c_attn self_attn.o_proj=attn.c_proj mlp.up_proj=mlp.c_fc mlp.down_proj=mlp.c_proj
        token_classifier=classifier"""
    ),
    transposed=("c_attn.weight", "c_proj.weight", "c_fc.weight"),
)
LLAMA = Counterpart(
    config=MiniGPTConfig,
    stock_config=transformers.LlamaConfig,
    heads={
        MiniGPTModel: transformers.LlamaModel,
        MiniGPTForCausalLM: transformers.LlamaForCausalLM,
        MiniGPTForSequenceClassification: transformers.LlamaForSequenceClassification,
        MiniGPTForTokenClassification: transformers.LlamaForTokenClassification,
        MiniGPTForQuestionAnswering: transformers.LlamaForQuestionAnswering,
    },
    fields=pairs(SHAPE + LLAMA_FIELDS + "use_cache"),
    always=MODERN | {"add_cross_attention": False},
    weights=pairs(LLAMA_WEIGHTS + "token_classifier=score"),
)
QWEN3 = Counterpart(
    config=MiniGPTConfig,
    stock_config=transformers.Qwen3Config,
    heads={
        MiniGPTModel: transformers.Qwen3Model,
        MiniGPTForCausalLM: transformers.Qwen3ForCausalLM,
        MiniGPTForSequenceClassification: transformers.Qwen3ForSequenceClassification,
        MiniGPTForTokenClassification: transformers.Qwen3ForTokenClassification,
        MiniGPTForQuestionAnswering: transformers.Qwen3ForQuestionAnswering,
    },
    fields=pairs(SHAPE + BLOCK_FIELDS + "head_dim use_cache"),
    always=MODERN | {"qk_norm": True, "use_bias": False, "add_cross_attention": False},
    stock_always={"attention_bias": False, "use_sliding_window": False},
    weights=pairs(LLAMA_WEIGHTS + "token_classifier=score"),
)
ARCEE = Counterpart(
    config=MiniGPTConfig,
    stock_config=transformers.ArceeConfig,
    heads={
        MiniGPTModel: transformers.ArceeModel,
        MiniGPTForCausalLM: transformers.ArceeForCausalLM,
        MiniGPTForSequenceClassification: transformers.ArceeForSequenceClassification,
        MiniGPTForTokenClassification: transformers.ArceeForTokenClassification,
        MiniGPTForQuestionAnswering: transformers.ArceeForQuestionAnswering,
    },
    fields=pairs(SHAPE + LLAMA_FIELDS + "use_cache"),
    always=MODERN | {"gated_mlp": False, "add_cross_attention": False},
    weights=pairs(LLAMA_WEIGHTS + "token_classifier=score"),
)
APERTUS = Counterpart(
    config=MiniGPTConfig,
    stock_config=transformers.ApertusConfig,
    heads={
        MiniGPTModel: transformers.ApertusModel,
        MiniGPTForCausalLM: transformers.ApertusForCausalLM,
        MiniGPTForTokenClassification: transformers.ApertusForTokenClassification,
    },
    fields=pairs(SHAPE + BLOCK_FIELDS + "use_cache"),
    always=MODERN | {"gated_mlp": False, "qk_norm": True, "use_bias": False, "add_cross_attention": False},
    stock_always={"attention_bias": False},
    weights=pairs(
        """attention_norm=attention_layernorm mlp_norm=feedforward_layernorm mlp.activation=mlp.act_fn
        token_classifier=score"""
    ),
)
COUNTERPARTS = (BERT, EUROBERT, GPT2, LLAMA, QWEN3, ARCEE, APERTUS)
# These read `classifier_dropout`, which their configurations do not declare; without it they drop out a tenth.
WITH_UNDECLARED_DROPOUT = (
    transformers.GPT2ForTokenClassification,
    transformers.LlamaForTokenClassification,
    transformers.Qwen3ForTokenClassification,
    transformers.ArceeForTokenClassification,
    transformers.ApertusForTokenClassification,
)
UNDECLARED_DROPOUT = 0.1


def to_stock(model: PreTrainedModel, to: str | None = None, *, mask_token_id: int | None = None) -> PreTrainedModel:
    """The stock model that computes what `model` computes.

    Lost is what only training uses and the stock class lacks: some dropouts, the scaled start of residual
    projections, and the language-model loss and head beside MiniGPT's classifier.

    Args:
        model: one of ours.
        to: the name of the counterpart; default, the one that fits.
        mask_token_id: the tokenizer's, which EuroBERT keeps in its configuration; default, the padding token's.

    Raises:
        UserError: no stock class computes the same; says which field of the configuration stands in the way.
    """
    counterparts = [counterpart for counterpart in COUNTERPARTS if type(model) in counterpart.heads]
    if not counterparts:
        known = dict.fromkeys(ours.__name__ for counterpart in COUNTERPARTS for ours in counterpart.heads)
        raise UserError(f"{type(model).__name__} has no stock class; these have: {', '.join(known)}")
    config = model.config
    found = {counterpart.name: obstacles(model, counterpart) for counterpart in counterparts}
    if to is not None and to not in found:
        raise UserError(f"{type(model).__name__} has no {to} class; it may become {' or '.join(found)}")
    name = to or min(found, key=lambda candidate: len(found[candidate]))
    (counterpart,) = (candidate for candidate in counterparts if candidate.name == name)
    stock_class = counterpart.heads[type(model)]
    if found[name]:
        fitting = [other for other in found if not found[other]]
        raise UserError(
            f"{stock_class.__name__} does not compute the same: {'; '.join(found[name])}; "
            + (
                f"it may become {fitting[0]}"
                if fitting
                else "share the checkpoint with its own code (trust_remote_code)"
            )
        )
    is_pooled = has_pooler(model)

    values: dict[str, Any] = {theirs: copy.deepcopy(getattr(config, ours)) for ours, theirs in counterpart.fields}
    if counterpart is EUROBERT:  # whose default is an entry of its own vocabulary
        values["mask_token_id"] = config.pad_token_id or 0 if mask_token_id is None else mask_token_id
    if counterpart is EUROBERT and is_pooled:
        values["classifier_pooling"] = POOLING[config.classifier_pooling]
    elif stock_class in WITH_UNDECLARED_DROPOUT:
        own = config.classifier_dropout
        values["classifier_dropout"] = config.hidden_dropout_prob if own is None else own
    if config.no_answer_threshold is not None:  # no stock field, but `hf_minibert.answers` reads it
        values["no_answer_threshold"] = config.no_answer_threshold
    stock_config = counterpart.stock_config(**values)
    options = {"add_pooling_layer": is_pooled} if stock_class is transformers.BertModel else {}
    stock = stock_class(stock_config, **options)

    expected = stock.state_dict().keys()
    weights: dict[str, Tensor] = {}
    ours_to_theirs = stock_names(model, stock, counterpart)
    for name, weight in model.state_dict().items():
        theirs = ours_to_theirs[name]
        part = weight.T if theirs.endswith(counterpart.transposed) else weight
        weights[theirs] = torch.cat((weights[theirs], part), dim=-1) if theirs in weights else part
    if "lm_head.weight" not in expected:  # MiniGPT's classifier has one
        weights.pop("lm_head.weight", None)
    if "cls.predictions.bias" in expected:  # BERT has the decoder's bias under two names
        weights["cls.predictions.bias"] = weights["cls.predictions.decoder.bias"]
    return load(stock, weights, like=model)


def from_stock(stock: PreTrainedModel) -> PreTrainedModel:
    """Our model that computes what `stock` computes.

    A classifier made of a stock decoder has `lm_loss_weight` 0, since the stock class has no such loss.

    Raises:
        UserError: the stock class, or a field of its configuration, has no counterpart here.
    """
    heads = {theirs: (counterpart, ours) for counterpart in COUNTERPARTS for ours, theirs in counterpart.heads.items()}
    if type(stock) not in heads:
        known = ", ".join(theirs.__name__ for theirs in heads)
        raise UserError(f"{type(stock).__name__} has no counterpart here; these have: {known}")
    counterpart, our_class = heads[type(stock)]
    theirs = stock.config
    if type(stock) is transformers.BertForQuestionAnswering and theirs.num_labels != 2:
        raise UserError(f"BertConfig.num_labels={theirs.num_labels} has no counterpart; a span has 2, start and end")
    values = {ours: getattr(theirs, name) for ours, name in reversed(counterpart.fields)}
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        if isinstance(values[name], int) and values[name] >= values["vocab_size"]:
            values[name] = None  # GPT2Config's default, left as it was beside another vocabulary
    values |= counterpart.always | counterpart.always_pooled
    values["no_answer_threshold"] = theirs.to_dict().get("no_answer_threshold")
    if counterpart is BERT:
        values["use_pooler"] = stock.base_model.pooler is not None
    elif our_class is MiniBertForSequenceClassification:
        words = {word: pooling for pooling, word in POOLING.items()}
        if theirs.classifier_pooling not in words:
            raise UserError(
                f"{type(theirs).__name__}.classifier_pooling={theirs.classifier_pooling!r} has no counterpart here, "
                f"only {' and '.join(words)} have; use {type(stock).__name__} itself"
            )
        values["classifier_pooling"] = words[theirs.classifier_pooling]
    elif our_class is MiniGPTForSequenceClassification:  # the stock class has no decoder beside the embedding
        values |= {"lm_loss_weight": 0.0, "tie_word_embeddings": True}
    elif type(stock) in WITH_UNDECLARED_DROPOUT:
        own = theirs.to_dict().get("classifier_dropout")
        values["classifier_dropout"] = UNDECLARED_DROPOUT if own is None else own
    try:
        config = counterpart.config(**values)
    except StrictDataclassError as error:
        raise UserError(
            f"this {type(theirs).__name__} has no counterpart here: {error.__cause__ or error}; "
            f"use {type(stock).__name__} itself"
        ) from error

    if counterpart.config is MiniGPTConfig and getattr(theirs, "is_causal", True) is False:
        raise UserError(
            f"{type(theirs).__name__}.is_causal=False has no counterpart, since no token sees a later one here; "
            f"use {type(stock).__name__} itself"
        )
    if set(getattr(theirs, "layer_types", None) or ()) - {"full_attention"}:
        raise UserError(
            f"{type(theirs).__name__}.layer_types has no counterpart, since each token sees all before it here; "
            f"use {type(stock).__name__} itself"
        )
    always = {**counterpart.stock_always, **{name: getattr(config, ours) for ours, name in counterpart.fields}}
    for name, value in always.items():
        their_value = getattr(theirs, name)
        is_checked = name != "tie_word_embeddings" and not name.endswith("_token_id")
        if their_value not in (value, None) and is_checked:
            raise UserError(
                f"{type(theirs).__name__}.{name}={their_value!r} has no counterpart; it is {value!r} here; "
                f"use {type(stock).__name__} itself"
            )

    model = our_class(config)
    ours_to_theirs = stock_names(model, stock, counterpart)
    # What the stock class lacks is the decoder beside MiniGPT's classifier: the embedding itself.
    their_weights = {"lm_head.weight": stock.get_input_embeddings().weight, **stock.state_dict()}
    weights = {}
    for stock_name in dict.fromkeys(ours_to_theirs.values()):
        names = [name for name, theirs_ in ours_to_theirs.items() if theirs_ == stock_name]
        whole = their_weights[stock_name]
        parts = whole.chunk(len(names), dim=-1) if len(names) > 1 else (whole,)
        for name, part in zip(names, parts, strict=True):
            weights[name] = part.T if stock_name.endswith(counterpart.transposed) else part
    return load(model, weights, like=stock)


def has_pooler(model: PreTrainedModel) -> bool:
    """Whether the model pools a sequence into one vector."""
    return any("pooler." in name for name in model.state_dict())


def obstacles(model: PreTrainedModel, counterpart: Counterpart) -> list[str]:
    """The reasons, in words, why our model cannot become one of this counterpart; empty if it can."""
    config, is_pooled = model.config, has_pooler(model)
    rules = counterpart.always | (counterpart.always_pooled if is_pooled else {})
    values = {name: getattr(config, name) for name in rules}
    found = [f"{name}={values[name]!r} where it has {rule!r}" for name, rule in rules.items() if values[name] != rule]
    if counterpart.config is MiniGPTConfig and getattr(config, "is_causal", True) is False:
        found.append("is_causal=False where no token sees a later one")
    if counterpart is BERT and not config.type_vocab_size:
        found.append("type_vocab_size=0 where it needs at least one token type")
    if counterpart is BERT and type(model) is MiniBertForQuestionAnswering and config.num_labels != 2:
        found.append(f"num_labels={config.num_labels} where it has 2, a start and an end, as config.json should say")
    if (
        "head_dim" not in dict(counterpart.fields)
        and config.head_dim * config.num_attention_heads != config.hidden_size
    ):
        found.append(f"head_dim={config.head_dim} where it has hidden_size / num_attention_heads")
    if counterpart.config is MiniBertConfig and config.shifted_predictions and isinstance(model, MiniBertForMaskedLM):
        found.append("shifted_predictions=True where a token is predicted from its own state")
    if counterpart is EUROBERT and is_pooled and config.classifier_pooling not in POOLING:
        found.append(f"classifier_pooling={config.classifier_pooling!r} where it has only {' and '.join(POOLING)}")
    return found


def stock_names(model: PreTrainedModel, stock: PreTrainedModel, counterpart: Counterpart) -> dict[str, str]:
    """The stock name of each of our weights."""
    is_base = model.base_model is model
    prefix = "" if is_base else f"{stock.base_model_prefix}."
    names = {}
    for name in model.state_dict():
        whole = f"model.{name}" if is_base else name
        theirs = functools.reduce(lambda text, pair: text.replace(*pair), counterpart.weights, whole)
        names[name] = re.sub(r"^model\.", prefix, theirs)
    return names


def load(model: PreTrainedModel, weights: dict[str, Tensor], like: PreTrainedModel) -> PreTrainedModel:
    """Load all `weights` into `model`, and give it the dtype, device and mode of `like`. Returns `model`."""
    model.load_state_dict(weights)
    if like.can_generate():
        model.generation_config = copy.deepcopy(like.generation_config)
    nn.Module.to(model, device=like.device, dtype=like.dtype)
    model.train(like.training)
    return model
