# Copyright 2026 The hf_minibert authors.
"""The configuration of MiniBERT and MiniGPT as one model, which reads one text and writes another."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import EncoderDecoderConfig
from transformers.configuration_utils import SubConfigSpec

from .configuration_minibert import MiniBertConfig
from .configuration_minigpt import MiniGPTConfig

HEADS = {"AutoModelForSeq2SeqLM": "MiniEncoderDecoderModel"}


@strict
class MiniEncoderDecoderConfig(EncoderDecoderConfig):
    """Shape of the original Transformer (Vaswani et al. 2017, arXiv:1706.03762): MiniBERT encodes, MiniGPT decodes.

    transformers' `EncoderDecoderConfig`, whose two parts are ours. So the code of both can travel with a checkpoint,
    which it cannot with `EncoderDecoderConfig` itself: that one opens only parts that transformers already knows.
    """

    model_type = "mini-encoder-decoder"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "encoder": SubConfigSpec(MiniBertConfig),
        "decoder": SubConfigSpec(MiniGPTConfig, init_kwargs={"add_cross_attention": True}),
    }

    tie_word_embeddings: bool = False
    """Whether the encoder has the decoder's embeddings, for one vocabulary of both languages ("three-way tying": Press
    and Wolf 2017, arXiv:1608.05859). Whether the decoder's output has them, too, is the decoder's own setting."""
    eos_token_id: int | list[int] | None = None
    auto_map: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        modeling = {head: f"modeling_encoder_decoder.{name}" for head, name in HEADS.items()}
        own = {"AutoConfig": "configuration_encoder_decoder.MiniEncoderDecoderConfig", **modeling}
        self.auto_map = own | (self.auto_map or {})
        super().__post_init__(**kwargs)

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
