# Copyright 2026 The hf_minibert authors.
"""MiniGPT: the Transformer in which a token sees only those before it, and what it is trained to predict."""

import inspect
from dataclasses import dataclass
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.generation.configuration_utils import GenerationConfig
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.generation.utils import GenerationMixin
from transformers.modeling_outputs import (
    BaseModelOutputWithPastAndCrossAttentions,
    CausalLMOutputWithCrossAttentions,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutputWithPast,
    TokenClassifierOutput,
)
from transformers.models.auto import modeling_auto
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .caches import CACHE_NAME, AnyCache, EitherCacheName, let_grow, one_cache
from .configuration_minigpt import MiniGPTConfig
from .heads import MultipleChoiceMixin, QuestionAnsweringMixin, TokenClassificationMixin, make_classifier_dropout
from .losses import (
    IGNORE_INDEX,
    classification_loss,
    infer_problem_type,
    is_counted,
    item_count,
    next_token_labels,
    vocabulary_cross_entropy,
)
from .masks import Mask, causal_mask, cross_mask
from .modeling_transformer import (
    Attention,
    ForwardKwargs,
    TransformerBackbone,
    TransformerLayer,
    TransformerPreTrainedModel,
)


class MiniGPTPreTrainedModel(TransformerPreTrainedModel):
    """The common base of all MiniGPT classes."""

    config: MiniGPTConfig
    _can_record_outputs = {
        "hidden_states": TransformerLayer,
        "attentions": OutputRecorder(Attention, index=1, layer_name="self_attn"),
        "cross_attentions": OutputRecorder(Attention, index=1, layer_name="cross_attn"),
    }

    def real_tokens(self, input_ids: Tensor | None, attention_mask: Tensor | None, hidden_states: Tensor) -> Tensor:
        """Which of the (batch, sequence) tokens are not padding: by the mask, else by the padding id.

        Raises:
            ValueError: neither tells, or the mask has other dimensions.
        """
        if attention_mask is not None and attention_mask.ndim != 2:
            raise ValueError(
                "a classifier needs an attention_mask of (batch, sequence) to know where each row ends, got "
                f"{tuple(attention_mask.shape)}"
            )
        if attention_mask is not None:
            return attention_mask[:, -hidden_states.shape[1] :].bool()
        if input_ids is not None and self.config.pad_token_id is not None:
            return input_ids != self.config.pad_token_id
        if len(hidden_states) > 1 and input_ids is not None:
            raise ValueError("several rows need an attention_mask or config.pad_token_id to tell where each ends")
        return torch.ones(hidden_states.shape[:2], dtype=torch.bool, device=hidden_states.device)


def last_states(hidden_states: Tensor, real: Tensor) -> Tensor:
    """The state of each row's last token that is no padding, (batch, hidden).

    Args:
        hidden_states: (batch, sequence, hidden).
        real: (batch, sequence), False for padding.
    """
    places = torch.arange(hidden_states.shape[1], device=hidden_states.device)
    last = (places * real).argmax(dim=1)
    return hidden_states[torch.arange(hidden_states.shape[0], device=hidden_states.device), last]


class MiniGPTModelKwargs(ForwardKwargs, total=False):
    """What `MiniGPTModel.forward` takes beside its arguments."""

    is_causal: bool
    """False makes the decoder an encoder: tokens also see later ones, and transformers picks the mask."""
    token_type_ids: Tensor
    """Ignored: MiniGPT has no token types, but tokenizers made for BERT give them to every model."""


class MiniGPTForCausalLMKwargs(MiniGPTModelKwargs, total=False):
    """What `MiniGPTForCausalLM.forward` takes beside its arguments."""

    shift_labels: Tensor
    label_smoothing: float


@dataclass
class MiniGPTModelOutput(EitherCacheName, BaseModelOutputWithPastAndCrossAttentions):
    """Output of `MiniGPTModel`."""


class MiniGPTModel(MiniGPTPreTrainedModel, TransformerBackbone):
    """The decoder: token ids in, one state per token out."""

    is_causal = True

    def __init__(self, config: MiniGPTConfig) -> None:
        super().__init__(config, has_cross_attention=config.add_cross_attention)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: AnyCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        cache: AnyCache | None = None,
        **kwargs: Unpack[MiniGPTModelKwargs],
    ) -> MiniGPTModelOutput:
        """Decode.

        Args:
            input_ids: (batch, sequence); with a cache, only the tokens that are not in it.
            attention_mask: (batch, cached + sequence), 0 for padding.
            position_ids: (batch, sequence). Positions that restart within a row, given without an attention mask and
                without a cache, pack several documents into it: none sees another.
            past_key_values: keys and values of earlier tokens.
            inputs_embeds: (batch, sequence, hidden), in place of `input_ids`.
            use_cache: whether to return keys and values for the next call.
            encoder_hidden_states: (batch, encoder's sequence, hidden), which every token sees too, if
                `config.add_cross_attention`.
            encoder_attention_mask: (batch, encoder's sequence), 0 for padding.
            cache: another name of `past_key_values`.
            kwargs: `output_hidden_states`, `output_attentions`, `return_dict`, and what attention functions take.

        Raises:
            ValueError: states of an encoder, for a model without cross-attention.
            TypeError: a keyword that nothing takes.
        """
        memory: Any = one_cache(past_key_values, cache)
        is_paged = isinstance(memory, PagedAttentionCache)  # of continuous batching
        if not is_paged:  # which has words of its own for its attention functions
            kwargs.pop("token_type_ids", None)
            self.refuse_unknown(kwargs, MiniGPTModelKwargs)
            self.take_documents(kwargs, position_ids, inputs_embeds if input_ids is None else input_ids)
        if input_ids is not None and input_ids.shape[1] == 0 and memory is None:
            input_ids, attention_mask = with_beginnings(input_ids, attention_mask, self.config.bos_token_id)
        if encoder_hidden_states is not None and not self.config.add_cross_attention:
            raise ValueError("encoder_hidden_states need a model with config.add_cross_attention=True")
        packed = position_ids if attention_mask is None and memory is None else None
        seen = 0 if memory is None or position_ids is not None else memory.get_seq_length()
        position_ids = self.positions(input_ids, inputs_embeds, position_ids, seen)
        hidden_states = self.embed(input_ids, inputs_embeds, position_ids)
        mask: Mask = attention_mask  # where tokens of several texts are in one row: continuous batching makes it
        if not is_paged:
            mask = causal_mask(self.config, hidden_states, attention_mask, packed, memory)
        encoder_mask = None
        if encoder_hidden_states is not None:
            encoder_mask = cross_mask(self.config, hidden_states, encoder_attention_mask, encoder_hidden_states)
        if use_cache and memory is None:  # after the mask: where there is a cache, none looks for documents
            memory = DynamicCache(config=self.config)
        if encoder_hidden_states is not None and memory is not None and not isinstance(memory, EncoderDecoderCache):
            memory = EncoderDecoderCache(memory, DynamicCache(config=self.config))
        if not torch.compiler.is_compiling():
            let_grow(memory)
        hidden_states = self.transform(
            hidden_states, mask, position_ids, memory, packed, encoder_hidden_states, encoder_mask, **kwargs
        )
        returned: dict[str, Any] = {CACHE_NAME: memory if use_cache else None}
        return MiniGPTModelOutput(last_hidden_state=hidden_states, **returned)


@dataclass
class MiniGPTCausalLMOutput(EitherCacheName, CausalLMOutputWithCrossAttentions):
    """Output of `MiniGPTForCausalLM`."""


def with_beginnings(
    input_ids: Tensor, attention_mask: Tensor | None, bos_token_id: int | None, *, place: int = 0
) -> tuple[Tensor, Tensor | None]:
    """Put the token that begins every document into each empty text, so that the model can read it.

    Args:
        input_ids: (batch, sequence); the sequence may be empty.
        attention_mask: (batch, sequence), 0 for padding; an empty text is a row of zeros.
        bos_token_id: the token; None: nothing changes.
        place: the token's place in a row of padding; -1 for the end, from which `generate` continues.

    Returns:
        The new `input_ids` and `attention_mask`.
    """
    if bos_token_id is None:
        return input_ids, attention_mask
    if input_ids.shape[1] == 0:  # of any type: tokenizers give floats where there is no number
        beginnings = torch.full((len(input_ids), 1), bos_token_id, dtype=torch.long, device=input_ids.device)
        return beginnings, torch.ones_like(beginnings)
    if attention_mask is None or attention_mask.ndim != 2 or attention_mask.shape != input_ids.shape:
        return input_ids, attention_mask
    places = torch.arange(input_ids.shape[1], device=input_ids.device)
    begins = (places == place % input_ids.shape[1]) & (attention_mask == 0).all(dim=1, keepdim=True)
    return torch.where(begins, bos_token_id, input_ids), attention_mask.masked_fill(begins, 1)


class MiniGPTForCausalLM(MiniGPTPreTrainedModel, GenerationMixin):
    """MiniGPT that continues text."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: MiniGPTConfig) -> None:
        super().__init__(config)
        self.model = MiniGPTModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def generate(self, inputs: Tensor | None = None, *settings: Any, **kwargs: Any) -> Any:
        """Continue texts; an empty one starts with `bos_token_id`. See `GenerationMixin.generate` for the rest."""
        if kwargs.get("inputs_embeds") is None:
            inputs = kwargs.pop("input_ids", None) if inputs is None else inputs
            if inputs is not None:
                mask = kwargs.get("attention_mask")
                inputs, mask = with_beginnings(inputs, mask, self.config.bos_token_id, place=-1)
                kwargs["attention_mask"] = mask
        return super().generate(inputs, *settings, **kwargs)  # type: ignore[misc]  # typed for a protocol of its own

    def _valid_auto_compile_criteria(self, model_kwargs: dict[str, Any], generation_config: GenerationConfig) -> bool:
        """Whether `generate` compiles a step: with a `compile_config` on a CPU, too, where transformers ignores it."""
        if generation_config.compile_config is not None:
            generation_config.compile_config._compile_all_devices = True
        return super()._valid_auto_compile_criteria(model_kwargs, generation_config)  # type: ignore[misc] # as above

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: AnyCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | int | None = None,
        full_logits: bool | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        cache: AnyCache | None = None,
        **kwargs: Unpack[MiniGPTForCausalLMKwargs],
    ) -> MiniGPTCausalLMOutput:
        """Predict the next token at every position; see `MiniGPTModel.forward` for the other arguments.

        Args:
            labels: (batch, sequence), not shifted: the label of a position is the token there. -100: not predicted.
            logits_to_keep: logits of only the last so many positions (0: all), or of these positions.
            num_items_in_batch: predicted tokens over all accumulation steps; default, this batch's own.
            full_logits: True: logits (batch, sequence, vocabulary); False: (predicted tokens, vocabulary), without
                gradient. Default: no logits in training with labels, else True.
            kwargs: for `MiniGPTModel.forward`; and `shift_labels`, (batch, sequence), labels that are shifted already,
                as where a sequence is split over devices. (Not an argument, which `Trainer` would ask data for.) And
                `label_smoothing`: see `vocabulary_cross_entropy`.
        """
        label_smoothing = kwargs.pop("label_smoothing", 0.0)
        targets: Tensor | None = kwargs.pop("shift_labels", None)
        if targets is None and labels is not None:
            if labels.shape[1] == 0:  # empty texts have nothing to predict
                labels = torch.full((len(labels), 1), IGNORE_INDEX, dtype=torch.long, device=labels.device)
            targets = next_token_labels(labels)
        outputs = self.model(
            input_ids,
            attention_mask,
            position_ids,
            past_key_values,
            inputs_embeds,
            use_cache=use_cache,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            cache=cache,
            return_dict=True,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        loss = None
        if targets is not None:
            states = hidden_states.flatten(0, 1)
            loss = vocabulary_cross_entropy(
                states, self.lm_head, targets.flatten(), num_items_in_batch, label_smoothing
            )
        logits = None
        if full_logits is False and targets is not None:
            with torch.no_grad():
                logits = self.lm_head(hidden_states[targets != IGNORE_INDEX])
        elif full_logits or targets is None or not self.training:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self.lm_head(hidden_states[:, kept])
        returned = {CACHE_NAME: outputs.cache}
        return MiniGPTCausalLMOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions or None,
            **returned,
        )


# `generate` asks for it with each token.
MiniGPTForCausalLM.forward.__signature__ = inspect.signature(MiniGPTForCausalLM.forward)


@dataclass
class MiniGPTSequenceClassifierOutput(EitherCacheName, SequenceClassifierOutputWithPast):
    """Output of `MiniGPTForSequenceClassification`; `loss` = `classification_loss` + weight x `lm_loss`."""

    classification_loss: Tensor | None = None
    lm_loss: Tensor | None = None


class MiniGPTForSequenceClassification(MiniGPTPreTrainedModel):
    """MiniGPT with a classifier on the last token, fine-tuned beside its language-model loss.

    L3 = L2 + `config.lm_loss_weight` x L1 (Radford et al. 2018, section 3.2), where L2 is the classifier's loss and L1
    the mean over examples of the loss per token, so that batches of examples can be split freely.
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: MiniGPTConfig) -> None:
        super().__init__(config)
        assert config.num_labels is not None
        self.num_labels = config.num_labels
        self.model = MiniGPTModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.dropout = make_classifier_dropout(config)
        self.score = nn.Linear(config.hidden_size, self.num_labels, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: AnyCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        cache: AnyCache | None = None,
        **kwargs: Unpack[MiniGPTModelKwargs],
    ) -> MiniGPTSequenceClassifierOutput:
        """Classify; see `MiniGPTModel.forward` for the other arguments.

        Args:
            labels: see `classification_loss`.
            num_items_in_batch: labels over all accumulation steps; default, this batch's own.
            kwargs: for `MiniGPTModel.forward`.

        Raises:
            ValueError: several rows without a mask and without a padding token to tell where each ends.
        """
        if input_ids is not None and past_key_values is None:
            input_ids, attention_mask = with_beginnings(input_ids, attention_mask, self.config.bos_token_id)
        outputs = self.model(
            input_ids,
            attention_mask,
            position_ids,
            past_key_values,
            inputs_embeds,
            use_cache=use_cache,
            cache=cache,
            return_dict=True,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        real = self.real_tokens(input_ids, attention_mask, hidden_states)
        logits = self.score(self.dropout(last_states(hidden_states, real)))

        loss = class_loss = lm_loss = None
        if labels is not None:
            if self.config.problem_type is None:  # which pipelines need to know
                self.config.problem_type = infer_problem_type(labels, self.num_labels)
            loss = class_loss = classification_loss(
                logits, labels, self.num_labels, self.config.problem_type, num_items_in_batch
            )
            if self.config.lm_loss_weight and input_ids is not None:
                targets = next_token_labels(input_ids.masked_fill(~real, IGNORE_INDEX)).masked_fill(~real, IGNORE_INDEX)
                share = is_counted(labels).sum() / item_count(labels, num_items_in_batch)
                is_labelled = is_counted(labels.reshape(len(labels), -1)[:, 0])
                weights = is_labelled / (targets != IGNORE_INDEX).sum(dim=1).clamp(min=1)  # each row's mean counts
                lm_loss = share * vocabulary_cross_entropy(
                    hidden_states.flatten(0, 1),
                    self.lm_head,
                    targets.flatten(),
                    num_items_in_batch=is_labelled.sum().clamp(min=1),
                    weights=weights[:, None].expand_as(targets).flatten(),
                )
                loss = class_loss + self.config.lm_loss_weight * lm_loss
        returned = {CACHE_NAME: outputs.cache}
        return MiniGPTSequenceClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            classification_loss=class_loss,
            lm_loss=lm_loss,
            **returned,
        )


class MiniGPTForMultipleChoice(MultipleChoiceMixin, MiniGPTPreTrainedModel):
    """MiniGPT that chooses among several continuations of a text, by the state of each one's last token."""

    def __init__(self, config: MiniGPTConfig) -> None:
        super().__init__(config)
        self.model = MiniGPTModel(config)
        self.dropout = make_classifier_dropout(config)
        self.classifier = nn.Linear(config.hidden_size, 1)  # not `score`: one of another width opens as this head too
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = False,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Unpack[MiniGPTModelKwargs],
    ) -> MultipleChoiceModelOutput:
        """Choose. The inputs are those of `MiniGPTModel.forward`, with a dimension of choices after the batch's.

        Args:
            input_ids: (batch, choices, sequence).
            attention_mask: (batch, choices, sequence), 0 for padding; a choice of zeros alone is none.
            position_ids: (batch, choices, sequence).
            inputs_embeds: (batch, choices, sequence, hidden), in place of `input_ids`.
            labels: (batch,), which of the choices is right.
            use_cache: whether keys and values are kept, which nothing here reads.
            num_items_in_batch: labels over all accumulation steps; default, this batch's own.
            kwargs: for `MiniGPTModel.forward`.

        Raises:
            ValueError: there is no dimension of choices, or neither a mask nor a padding token to tell where each ends.
        """
        kwargs.pop("token_type_ids", None)  # which have a dimension of choices, too
        num_choices, rows = self.as_rows(input_ids, attention_mask, position_ids, inputs_embeds)
        ids, mask, positions, embeds = rows
        if ids is not None:
            ids, mask = with_beginnings(ids, mask, self.config.bos_token_id)
        outputs = self.model(ids, mask, positions, None, embeds, use_cache=use_cache, return_dict=True, **kwargs)
        pooled = last_states(outputs.last_hidden_state, self.real_tokens(ids, mask, outputs.last_hidden_state))
        scores = self.classifier(self.dropout(pooled))
        return self.choose(scores, outputs, num_choices, attention_mask, labels, num_items_in_batch)


class MiniGPTForTokenClassification(TokenClassificationMixin, MiniGPTPreTrainedModel):
    """MiniGPT with a classifier on every token, which sees only the text up to that token."""

    def __init__(self, config: MiniGPTConfig) -> None:
        super().__init__(config)
        self.model = MiniGPTModel(config)
        self.add_classifier(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: AnyCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        cache: AnyCache | None = None,
        **kwargs: Unpack[MiniGPTModelKwargs],
    ) -> TokenClassifierOutput:
        """Classify; see `MiniGPTModel.forward` for the other arguments.

        Args:
            labels: (batch, sequence); -100 where nothing is predicted.
            num_items_in_batch: labels over all accumulation steps; default, this batch's own.
            kwargs: for `MiniGPTModel.forward`.
        """
        outputs = self.model(
            input_ids,
            attention_mask,
            position_ids,
            past_key_values,
            inputs_embeds,
            use_cache=use_cache,
            cache=cache,
            return_dict=True,
            **kwargs,
        )
        if input_ids is not None and input_ids.shape[1] == 0:  # an empty text was read as its beginning, no token of it
            outputs.last_hidden_state = outputs.last_hidden_state[:, :0]
        return self.classify(outputs, labels, num_items_in_batch)


class MiniGPTForQuestionAnswering(QuestionAnsweringMixin, MiniGPTPreTrainedModel):
    """MiniGPT that finds, in a text, the answer to a question before it."""

    def __init__(self, config: MiniGPTConfig) -> None:
        super().__init__(config)
        self.model = MiniGPTModel(config)
        self.add_span(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: AnyCache | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        cache: AnyCache | None = None,
        **kwargs: Unpack[MiniGPTModelKwargs],
    ) -> QuestionAnsweringModelOutput:
        """Find the answer; see `MiniGPTModel.forward` for the other arguments.

        Args:
            start_positions: (batch,), the answer's first token; see `span_loss`.
            end_positions: (batch,), its last.
            num_items_in_batch: examples over all accumulation steps; default, this batch's own.
            kwargs: for `MiniGPTModel.forward`.
        """
        outputs = self.model(
            input_ids,
            attention_mask,
            position_ids,
            past_key_values,
            inputs_embeds,
            cache=cache,
            return_dict=True,
            **kwargs,
        )
        return self.find_span(outputs, start_positions, end_positions, num_items_in_batch)


# `Trainer` looks in this table by name for the models whose labels it must shift when it smooths them.
modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["minigpt"] = MiniGPTForCausalLM.__name__
