# Copyright 2026 The hf_minibert authors.
"""The configuration of MiniBERT."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers.activations import ACT2FN

from .configuration_transformer import TransformerConfig

COMPARING = ("pair", "siamese")
"""Those that compare two texts."""
POOLINGS = ("cls", "mean", "max", *COMPARING)

HEADS = {
    "AutoModel": "MiniBertModel",
    "AutoModelForPreTraining": "MiniBertForPreTraining",
    "AutoModelForMaskedLM": "MiniBertForMaskedLM",
    "AutoModelForNextSentencePrediction": "MiniBertForNextSentencePrediction",
    "AutoModelForSequenceClassification": "MiniBertForSequenceClassification",
    "AutoModelForTokenClassification": "MiniBertForTokenClassification",
    "AutoModelForQuestionAnswering": "MiniBertForQuestionAnswering",
    "AutoModelForMultipleChoice": "MiniBertForMultipleChoice",
}


@strict
class MiniBertConfig(TransformerConfig):
    """Shape of a MiniBERT: the bidirectional Transformer.

    ``MiniBertConfig.modern()`` has the block of EuroBERT and ``MiniBertConfig.classic()`` that of BERT (Devlin et al.
    2019, arXiv:1810.04805), weight for weight.
    """

    model_type = "minibert"
    keys_to_ignore_at_inference = ["mlm_loss", "nsp_loss"]

    type_vocab_size: int = 0
    """Token types (BERT's segments A and B). 0: none, and ``token_type_ids`` are not used."""
    use_pooler: bool = False
    """Whether the base model ends in BERT's pooler; the heads that need one always have it."""
    mlm_head_transform: bool = False
    """Whether the masked-LM head has BERT's dense layer, activation and norm before the decoder."""
    shifted_predictions: bool = False
    """Whether a masked token is predicted from the state before it, as a causal model does (masked next-token
    prediction: GPT-BERT, Charpentier and Samuel 2024, arXiv:2410.24159), not from its own."""
    classifier_pooling: str = "cls"
    """How a sequence becomes one vector: the first token's state, the mean or maximum over its tokens, or, for a pair
    of texts, the means of both, compared (see `Pooler`): in `pair` the texts are read together, in `siamese` alone."""
    classifier_activation: str = "gelu"

    def __post_init__(self, **kwargs: Any) -> None:
        modeling = {head: f"modeling_minibert.{name}" for head, name in HEADS.items()}
        self.auto_map = {"AutoConfig": "configuration_minibert.MiniBertConfig", **modeling, **(self.auto_map or {})}
        super().__post_init__(**kwargs)

    def validate_heads(self) -> None:
        """Check that pooling and activation exist, that pairs can be told apart, and that token types are a number."""
        if self.classifier_pooling not in POOLINGS:
            raise ValueError(
                f"classifier_pooling must be one of {', '.join(POOLINGS)}; got {self.classifier_pooling!r}"
            )
        if self.compares_texts and not isinstance(self.eos_token_id, int):
            raise ValueError(
                f"classifier_pooling {self.classifier_pooling!r} needs an eos_token_id, the token that ends the first "
                f"text (the tokenizer's sep_token_id); got {self.eos_token_id}"
            )
        if self.classifier_activation not in ACT2FN:
            known = ", ".join(sorted(ACT2FN))
            raise ValueError(
                f"classifier_activation {self.classifier_activation!r} is unknown; transformers has {known}"
            )
        if self.type_vocab_size < 0:
            raise ValueError(f"type_vocab_size must not be negative, got {self.type_vocab_size}")

    @property
    def compares_texts(self) -> bool:
        """Whether a classifier compares two texts."""
        return self.classifier_pooling in COMPARING

    @classmethod
    def modern(cls, **fields: Any) -> "MiniBertConfig":
        """EuroBERT's block: RMSNorm first, rotary positions, gated feed-forward, no biases (arXiv:2503.05500)."""
        return cls(**fields)

    @classmethod
    def classic(cls, **fields: Any) -> "MiniBertConfig":
        """BERT's block: LayerNorm last, learned positions, biases, GELU, token types, pooler."""
        bert: dict[str, Any] = {
            "norm_type": "layer_norm",
            "norm_placement": "post",
            "norm_eps": 1e-12,
            "position_embedding_type": "absolute",
            "gated_mlp": False,
            "hidden_act": "gelu",
            "use_bias": True,
            "type_vocab_size": 2,
            "use_pooler": True,
            "mlm_head_transform": True,
            "classifier_activation": "tanh",
        }
        return cls(**bert | fields)
