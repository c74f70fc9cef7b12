# Copyright 2026 The hf_minibert authors.
"""MiniBERT and MiniGPT as one model, which reads one text and writes another: the original Transformer."""

from typing import Any

from torch import Tensor
from transformers import EncoderDecoderModel
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput
from transformers.utils.generic import can_return_tuple

from .caches import CACHE_NAME, AnyCache, one_cache
from .configuration_encoder_decoder import MiniEncoderDecoderConfig
from .modeling_minibert import MiniBertModel
from .modeling_minigpt import MiniGPTForCausalLM

DECODERS = "decoder_"
"""What begins the names of the keywords that are for the decoder."""


class MiniEncoderDecoderModel(EncoderDecoderModel):
    """transformers' `EncoderDecoderModel` of a MiniBERT and a MiniGPT, whose code travels with its checkpoints.

    It differs in three ways: its loss can be split over batches and smoothed, without logits; it opens without this
    package; and its parts may share their embeddings.
    """

    config_class = MiniEncoderDecoderConfig
    config: MiniEncoderDecoderConfig
    _tied_weights_keys = {"encoder.embed_tokens.weight": "decoder.model.embed_tokens.weight"}

    def __init__(
        self,
        config: Any = None,
        encoder: MiniBertModel | None = None,
        decoder: MiniGPTForCausalLM | None = None,
    ) -> None:
        if config is None or config.model_type != MiniEncoderDecoderConfig.model_type:
            if encoder is None or decoder is None:
                raise ValueError("give a MiniEncoderDecoderConfig, or an encoder and a decoder")
            attention = [part.config._attn_implementation for part in (encoder, decoder)]
            config = MiniEncoderDecoderConfig(encoder=encoder.config, decoder=decoder.config)  # which the parts keep
            encoder.config._attn_implementation, decoder.config._attn_implementation = attention  # which it forgot
        self.config_class = type(config)  # loaded from a checkpoint's code, it is another copy of the class
        super().__init__(
            config,
            MiniBertModel(config.encoder) if encoder is None else encoder,
            MiniGPTForCausalLM(config.decoder) if decoder is None else decoder,
        )

    def generate(self, inputs: Tensor | None = None, *settings: Any, **kwargs: Any) -> Any:
        """Write texts. See `GenerationMixin.generate`; `labels`, which `Seq2SeqTrainer` gives, change nothing."""
        kwargs.pop("labels", None)  # which it would hand on to the encoder
        return super().generate(inputs, *settings, **kwargs)  # type: ignore[misc]  # typed for a protocol of its own

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        encoder_outputs: Any = None,
        past_key_values: AnyCache | None = None,
        inputs_embeds: Tensor | None = None,
        decoder_inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        cache: AnyCache | None = None,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput:
        """Read one text, and predict every token of another.

        Args:
            input_ids: (batch, source) of the text to read.
            attention_mask: (batch, source), 0 for padding.
            decoder_input_ids: (batch, target): what was written so far. Default: `labels`, moved one to the right
                behind `config.decoder_start_token_id`.
            decoder_attention_mask: (batch, target), 0 for padding; not needed where padding is on the right.
            encoder_outputs: what the encoder made of the text, in place of `input_ids`.
            past_key_values: keys and values of earlier tokens.
            inputs_embeds: (batch, source, encoder's hidden), in place of `input_ids`.
            decoder_inputs_embeds: (batch, target, decoder's hidden), in place of `decoder_input_ids`.
            labels: (batch, target), each at the place that predicts it; -100: not predicted.
            use_cache: whether to return keys and values for the next call; never in training.
            num_items_in_batch: predicted tokens over all accumulation steps; default, this batch's own.
            cache: another name of `past_key_values`.
            kwargs: for the encoder; or, behind `decoder_`, for the decoder. Both get `output_attentions` and
                `output_hidden_states`.

        Returns:
            The loss, if there are labels, smoothed by `config.label_smoothing`; the logits, (batch, target,
            vocabulary), but not in training with labels; and the rest, as transformers calls it.
        """
        if labels is not None and decoder_input_ids is None and decoder_inputs_embeds is None:
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        shared = {name: kwargs[name] for name in ("output_attentions", "output_hidden_states") if name in kwargs}
        own = {name: value for name, value in kwargs.items() if not name.startswith(DECODERS) and name != "return_dict"}
        decoders = {name.removeprefix(DECODERS): value for name, value in kwargs.items() if name.startswith(DECODERS)}
        if encoder_outputs is None:
            encoder_outputs = self.encoder(input_ids, attention_mask, inputs_embeds=inputs_embeds, **own)
        elif isinstance(encoder_outputs, tuple):
            encoder_outputs = BaseModelOutput(*encoder_outputs)
        states = encoder_outputs.last_hidden_state
        if self.encoder.config.hidden_size != self.decoder.config.hidden_size:
            states = self.enc_to_dec_proj(states)
        if labels is not None:
            decoders |= {"shift_labels": labels, "label_smoothing": self.config.label_smoothing}
        outputs = self.decoder(
            decoder_input_ids,
            decoder_attention_mask,
            inputs_embeds=decoder_inputs_embeds,
            encoder_hidden_states=states,
            encoder_attention_mask=attention_mask,
            num_items_in_batch=num_items_in_batch,
            use_cache=False if self.training else use_cache,
            **{CACHE_NAME: one_cache(past_key_values, cache)},
            **decoders | shared,
        )
        return Seq2SeqLMOutput(
            loss=outputs.loss,
            logits=outputs.logits,
            decoder_hidden_states=outputs.hidden_states,
            decoder_attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
            encoder_last_hidden_state=encoder_outputs.last_hidden_state,
            encoder_hidden_states=encoder_outputs.hidden_states,
            encoder_attentions=encoder_outputs.attentions,
            **{CACHE_NAME: outputs.cache},
        )
