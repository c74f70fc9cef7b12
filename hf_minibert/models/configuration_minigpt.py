# Copyright 2026 The hf_minibert authors.
"""The configuration of MiniGPT."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import Qwen3Config

from .configuration_transformer import TransformerConfig

HEADS = {
    "AutoModel": "MiniGPTModel",
    "AutoModelForCausalLM": "MiniGPTForCausalLM",
    "AutoModelForSequenceClassification": "MiniGPTForSequenceClassification",
    "AutoModelForTokenClassification": "MiniGPTForTokenClassification",
    "AutoModelForQuestionAnswering": "MiniGPTForQuestionAnswering",
    "AutoModelForMultipleChoice": "MiniGPTForMultipleChoice",
}


# How transformers and vLLM split the matrices of Llama's block, the one that `modern` has, over devices; without a
# gate, one is missing.
TENSOR_PARALLEL = {
    **{f"layers.*.self_attn.{name}_proj": "colwise" for name in "qkv"},
    "layers.*.self_attn.o_proj": "rowwise",
    "layers.*.mlp.gate_proj": "colwise",
    "layers.*.mlp.up_proj": "colwise",
    "layers.*.mlp.down_proj": "rowwise",
}
# And with `qk_norm`, Qwen3's norms of queries and keys, in the words of the transformers at hand.
NORMS_TENSOR_PARALLEL = {
    name: how for name, how in (Qwen3Config.base_model_tp_plan or {}).items() if name.endswith("_norm")
}


@strict
class MiniGPTConfig(TransformerConfig):
    """Shape of a MiniGPT: the causal Transformer.

    ``MiniGPTConfig.modern()`` has the block of Llama, and with `qk_norm` that of Qwen3; ``MiniGPTConfig.classic()`` has
    that of GPT-2 (Radford et al. 2019), weight for weight.
    """

    model_type = "minigpt"
    keys_to_ignore_at_inference = ["past_key_values", "cache", "classification_loss", "lm_loss"]

    use_cache: bool = True
    add_cross_attention: bool = False
    """Whether each layer also attends to the states of an encoder, as in `EncoderDecoderModel`."""
    is_decoder: bool = True
    """Must be True. It is a field because `EncoderDecoderModel` sets it."""
    lm_loss_weight: float | int = 0.5
    """The weight of the language-model loss in fine-tuning, L3 = L2 + weight x L1 (GPT, Radford et al. 2018, uses 0.5).

    In that paper it helped large data sets and hurt small ones: set 0 below about ten thousand examples.
    """

    def __post_init__(self, **kwargs: Any) -> None:
        modeling = {head: f"modeling_minigpt.{name}" for head, name in HEADS.items()}
        self.auto_map = {"AutoConfig": "configuration_minigpt.MiniGPTConfig", **modeling, **(self.auto_map or {})}
        if not self.use_bias:
            plan = TENSOR_PARALLEL | (NORMS_TENSOR_PARALLEL if self.qk_norm else {})
            has_part = {name: how for name, how in plan.items() if self.gated_mlp or "gate_proj" not in name}
            vars(self)["base_model_tp_plan"] = has_part  # which `config.json` leaves out
        super().__post_init__(**kwargs)

    def validate_causality(self) -> None:
        """Check that `is_decoder` is True: MiniGPT always has the causal mask."""
        if not self.is_decoder:
            raise ValueError("is_decoder=False: MiniGPT sees no later tokens; the encoder is MiniBERT")

    def validate_lm_loss_weight(self) -> None:
        """Check that the weight is not negative."""
        if not self.lm_loss_weight >= 0:
            raise ValueError(f"lm_loss_weight must not be negative, got {self.lm_loss_weight}")

    @classmethod
    def modern(cls, **fields: Any) -> "MiniGPTConfig":
        """Llama's block: RMSNorm first, rotary positions, gated feed-forward, no biases (arXiv:2302.13971)."""
        return cls(**fields)

    @classmethod
    def classic(cls, **fields: Any) -> "MiniGPTConfig":
        """GPT-2's block: LayerNorm first, learned positions, biases, GELU (tanh form), scaled residual projections."""
        gpt2: dict[str, Any] = {
            "norm_type": "layer_norm",
            "position_embedding_type": "absolute",
            "gated_mlp": False,
            "hidden_act": "gelu_new",
            "use_bias": True,
            "residual_init": "scaled",
        }
        return cls(**gpt2 | fields)
