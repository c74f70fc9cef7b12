# Copyright 2026 The hf_minibert authors.
"""The configuration of MiniBERT and MiniGPT as one model, which reads one text and writes another."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import EncoderDecoderConfig, PreTrainedConfig, configuration_utils

from .configuration_minibert import MiniBertConfig
from .configuration_minigpt import MiniGPTConfig

SubConfigSpec: Any = vars(configuration_utils).get("SubConfigSpec")  # None before transformers 5.23
PARTS: dict[str, Any] = {"encoder": (MiniBertConfig, {}), "decoder": (MiniGPTConfig, {"add_cross_attention": True})}
"""The class of each part, and what its fields are unless told."""
HEADS = {"AutoModelForSeq2SeqLM": "MiniEncoderDecoderModel"}


@strict
class MiniEncoderDecoderConfig(EncoderDecoderConfig):
    """Shape of the original Transformer (Vaswani et al. 2017, arXiv:1706.03762): MiniBERT encodes, MiniGPT decodes.

    transformers' `EncoderDecoderConfig`, whose two parts are ours. So the code of both can travel with a checkpoint,
    which it cannot with `EncoderDecoderConfig` itself: that one opens only parts that transformers already knows.
    """

    model_type = "mini-encoder-decoder"
    if SubConfigSpec is not None:
        sub_configs_defaults: ClassVar[dict[str, Any]] = {
            part: SubConfigSpec(kind, init_kwargs=fields) for part, (kind, fields) in PARTS.items()
        }
    else:
        sub_configs: ClassVar[dict[str, Any]] = {part: kind for part, (kind, _) in PARTS.items()}
        encoder: PreTrainedConfig | dict[str, Any] | None = None
        decoder: PreTrainedConfig | dict[str, Any] | None = None

    tie_word_embeddings: bool = False
    """Whether the encoder has the decoder's embeddings, for one vocabulary of both languages ("three-way tying": Press
    and Wolf 2017, arXiv:1608.05859). Whether the decoder's output has them, too, is the decoder's own setting."""
    label_smoothing: float | int = 0.0
    """The share of the target's probability that is spread over the vocabulary, in the loss (Szegedy et al. 2016,
    arXiv:1512.00567)."""
    eos_token_id: int | list[int] | None = None
    auto_map: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        modeling = {head: f"modeling_encoder_decoder.{name}" for head, name in HEADS.items()}
        own = {"AutoConfig": "configuration_encoder_decoder.MiniEncoderDecoderConfig", **modeling}
        self.auto_map = own | (self.auto_map or {})
        if SubConfigSpec is not None:
            super().__post_init__(**kwargs)
            return
        for part, (kind, fields) in PARTS.items():
            given = getattr(self, part)
            setattr(self, part, given if isinstance(given, kind) else kind(**fields | (given or {})))
        PreTrainedConfig.__post_init__(self, **kwargs)

    def validate_label_smoothing(self) -> None:
        """Check that some probability is left for the target."""
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {self.label_smoothing}")

    def validate_parts(self) -> None:
        """Check that the decoder sees the encoder, and that tied embeddings have one shape."""
        encoder: Any = self.encoder
        decoder: Any = self.decoder
        if not decoder.add_cross_attention:
            raise ValueError("the decoder has add_cross_attention=False, so it would never see what the encoder reads")
        if self.tie_word_embeddings and (
            (encoder.vocab_size, encoder.hidden_size) != (decoder.vocab_size, decoder.hidden_size)
        ):
            raise ValueError(
                f"tie_word_embeddings needs one shape of embeddings, but the encoder has {encoder.vocab_size} of "
                f"width {encoder.hidden_size}, the decoder {decoder.vocab_size} of width {decoder.hidden_size}"
            )
