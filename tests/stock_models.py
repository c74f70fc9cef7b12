"""Tiny models of the stock classes, and batches for each of their heads."""

import pytest
import torch
from transformers import ApertusConfig, ArceeConfig, BertConfig, EuroBertConfig, GPT2Config, LlamaConfig, Qwen3Config

from hf_minibert import MiniBertConfig, MiniGPTConfig
from hf_minibert.export.stock import COUNTERPARTS

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
        **{"eos_token_id": 3, "intermediate_size": 48, "hidden_act": "gelu", "rms_norm_eps": 1e-3, "head_dim": 12},
        rope_parameters={"rope_type": "default", "rope_theta": 123.0},
    ),
    "qwen3": lambda: Qwen3Config(
        **SHAPE,
        **{"eos_token_id": 3, "intermediate_size": 48, "rms_norm_eps": 1e-3, "head_dim": 12, "num_key_value_heads": 4},
        rope_parameters={"rope_type": "default", "rope_theta": 123.0},
    ),
    "arcee": lambda: ArceeConfig(
        **SHAPE,
        **{"eos_token_id": 3, "intermediate_size": 48, "rms_norm_eps": 1e-3, "mlp_bias": True, "attention_bias": True},
        rope_parameters={"rope_type": "default", "rope_theta": 123.0},
    ),
    "apertus": lambda: ApertusConfig(
        **SHAPE,
        **{"eos_token_id": 3, "intermediate_size": 48, "rms_norm_eps": 1e-3},  # its activation has weights, too
        rope_parameters={"rope_type": "default", "rope_theta": 123.0},
    ),
}
# What makes our modern block the counterpart's.
INGREDIENTS = {
    "qwen3": {"qk_norm": True},
    "arcee": {"gated_mlp": False, "hidden_act": "relu2"},
    "apertus": {"gated_mlp": False, "qk_norm": True, "hidden_act": "gelu"},
}
DROPOUTS = (
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"),
    *("resid_pdrop", "embd_pdrop", "attn_pdrop"),
)
HEADS = [
    pytest.param(counterpart.name, theirs, ours, id=theirs.__name__)
    for counterpart in COUNTERPARTS
    for ours, theirs in counterpart.heads.items()
]


def make_stock(counterpart, stock_class, *, has_dropout=True):
    """A stock model with weights that differ from those that any class starts with."""
    config = STOCK_CONFIGS[counterpart]()
    if not has_dropout:
        config.update(dict.fromkeys(DROPOUTS, 0.0))
    if stock_class.__name__.endswith("QuestionAnswering"):
        config.num_labels = 2  # BERT's head has so many outputs, which must be the start and the end
    return stir(stock_class(config))


def make_ours(counterpart, our_class):
    """The same of ours, in the counterpart's architecture."""
    is_bert = our_class.__name__.startswith("MiniBert")
    config_class = MiniBertConfig if is_bert else MiniGPTConfig
    make = config_class.classic if counterpart in ("bert", "gpt2") else config_class.modern
    fields = SHAPE | ({"intermediate_size": 48} if is_bert else {"lm_loss_weight": 0})
    fields |= INGREDIENTS.get(counterpart, {})
    if our_class.__name__.endswith("QuestionAnswering"):
        fields |= {"num_labels": 2}
    return stir(our_class(make(**fields)))


def stir(model):
    """Move every parameter, so that no bias is zero and no norm one; in evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn(parameter.shape, generator=generator) * 0.1
    return model.eval()


def example(model_class, side="right", seed=1):
    """A batch with the labels that the head takes, padded on one side."""
    name = model_class.__name__
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 99, (3, 12), generator=generator)
    # A span may begin in padding as far as the loss knows, and GPT-2 would train its padding's embedding.
    lengths = [12, 12, 12] if name.endswith("QuestionAnswering") else [12, 9, 5]
    real = torch.arange(12) < torch.tensor(lengths)[:, None]
    real = real if side == "right" else real.flip(1)
    ids = ids.masked_fill(~real, 0)
    batch = {"input_ids": ids, "attention_mask": real.long()}
    # Padding predicts nothing, not even the first token to its right: GPT-2 would train its padding's embedding.
    token_labels = ids.masked_fill(~real | ~real.roll(1, dims=1), -100)
    if name.endswith(("MaskedLM", "PreTraining")):
        batch["labels"] = token_labels.masked_fill(torch.arange(12) % 3 == 0, -100)
    elif name.endswith(("CausalLM", "LMHeadModel")):
        batch["labels"] = token_labels
    elif name.endswith("SequenceClassification"):
        batch["labels"] = torch.tensor([2, 0, 1])
    elif name.endswith("TokenClassification"):
        batch["labels"] = (ids % 3).masked_fill(~real, -100)
    elif name.endswith("QuestionAnswering"):
        batch |= {"start_positions": torch.tensor([0, 3, 11]), "end_positions": torch.tensor([5, 3, 11])}
    elif name.endswith("MultipleChoice"):
        batch = {field: torch.stack((value, value.roll(1, dims=0)), dim=1) for field, value in batch.items()}
        batch["labels"] = torch.tensor([0, 1, 1])
    elif name.endswith("NextSentencePrediction"):
        batch["labels"] = torch.tensor([0, 1, 1])
    if name.endswith("PreTraining"):
        batch["next_sentence_label"] = torch.tensor([0, 1, 1])
    return batch
