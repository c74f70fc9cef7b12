# Copyright 2026 The hf_minibert authors.
"""MiniBERT: the Transformer in which every token sees every other, and what it is trained to predict."""

from dataclasses import dataclass
from typing import Unpack

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_outputs import (
    BaseModelOutputWithPooling,
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    NextSentencePredictorOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.utils.generic import ModelOutput, can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_minibert import MiniBertConfig
from .heads import MultipleChoiceMixin, QuestionAnsweringMixin, TokenClassificationMixin, make_classifier_dropout
from .losses import IGNORE_INDEX, classification_loss, infer_problem_type, item_count, vocabulary_cross_entropy
from .masks import bidirectional_mask
from .modeling_transformer import ForwardKwargs, TransformerBackbone, TransformerPreTrainedModel, make_norm


class PoolerProjection(nn.Linear):
    """The dense layer of the pooler. A new one starts with the same numbers in every process.

    An adapter neither trains nor saves the pooler (PEFT saves only `classifier` and `score`), so whoever opens the
    adapter must get the same pooler that it was trained with.
    """

    starts_alike: bool


class MiniBertPreTrainedModel(TransformerPreTrainedModel):
    """The common base of all MiniBERT classes."""

    config: MiniBertConfig

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise as all models do, except for a `PoolerProjection`."""
        super()._init_weights(module)  # draws for the pooler, too, so that other weights start as they would without it
        if isinstance(module, PoolerProjection) and module.starts_alike:
            # This generator of numpy's gives the same numbers in all its versions; torch's need not.
            numbers = np.random.RandomState(0).standard_normal(module.weight.shape) * self.config.initializer_range
            init.copy_(module.weight, torch.from_numpy(numbers).to(module.weight))


class MiniBertModelKwargs(ForwardKwargs, total=False):
    """What `MiniBertModel.forward` takes beside its arguments."""

    is_causal: bool
    """Must not be True: an encoder sees later tokens."""
    use_cache: bool
    """Ignored: an encoder keeps no cache. Trainer and servers set it for every model."""


class Pooler(nn.Module):
    """One vector for a sequence: a token or an average, through a dense layer and an activation (BERT's pooler).

    `pair` and `siamese` are for two texts. They put the means of both, their difference without its sign and their
    product beside each other (InferSent: Conneau et al. 2017, arXiv:1705.02364). In `pair` both texts are read
    together, in `siamese` neither sees the other (SBERT: Reimers and Gurevych 2019, arXiv:1908.10084). A short
    pre-training does not teach attention to compare texts, and a few thousand pairs do not either.
    """

    def __init__(self, config: MiniBertConfig, starts_alike: bool) -> None:
        super().__init__()
        self.pooling = config.classifier_pooling
        self.end_id = config.eos_token_id
        width = config.hidden_size
        self.compares_texts = config.compares_texts
        if self.compares_texts:  # by a name of its own, or a pooler of another width would load here
            self.compare = PoolerProjection(4 * width, width)
        else:
            self.dense = PoolerProjection(width, width)
        self.project.starts_alike = starts_alike
        self.activation = ACT2FN[config.classifier_activation]

    @property
    def project(self) -> PoolerProjection:
        """The dense layer."""
        return self.compare if self.compares_texts else self.dense

    def is_second(self, input_ids: Tensor | None, attention_mask: Tensor | None) -> Tensor:
        """Which tokens are the second text's, (batch, sequence): those behind the first one's end.

        Padding (0 in a 2-D mask) ends no text: some tokenizers pad with the token that does.

        Raises:
            ValueError: there are no (batch, sequence) `input_ids`.
        """
        if input_ids is None:
            raise ValueError(f"{self.pooling} pooling needs input_ids, which say where the first text ends")
        assert isinstance(self.end_id, int)  # or the configuration would not hold
        is_end = torch.eq(input_ids, self.end_id)
        if attention_mask is not None and attention_mask.ndim == 2:
            is_end = is_end & attention_mask.bool()
        is_end = is_end.int()
        return is_end.cumsum(dim=1) > is_end

    def forward(self, hidden_states: Tensor, attention_mask: Tensor | None, input_ids: Tensor | None = None) -> Tensor:
        """(batch, sequence, hidden) -> (batch, hidden); padding (0 in the 2-D mask) does not count.

        Raises:
            ValueError: the mask does not say what is padding; or a pair has no (batch, sequence) `input_ids`.
        """
        if self.pooling == "cls":
            return self.activation(self.project(hidden_states[:, 0]))
        if attention_mask is not None and attention_mask.ndim != 2:
            raise ValueError(
                f"{self.pooling} pooling needs an attention_mask of (batch, sequence) to know what is padding, got "
                f"{tuple(attention_mask.shape)}"
            )
        if attention_mask is None:
            attention_mask = torch.ones(hidden_states.shape[:2], device=hidden_states.device)
        real = attention_mask.to(hidden_states.dtype)
        if self.pooling == "mean":
            pooled = weighted_mean(hidden_states, real)
        elif self.pooling == "max":
            lowest = torch.finfo(hidden_states.dtype).min
            pooled = hidden_states.masked_fill(real[..., None] == 0, lowest).amax(dim=1)
            pooled = pooled * (real != 0).any(dim=1, keepdim=True)  # as the others, 0 where nothing is real
        else:
            is_second = self.is_second(input_ids, attention_mask)
            first = weighted_mean(hidden_states, real * ~is_second)
            second = weighted_mean(hidden_states, real * is_second)
            pooled = torch.cat((first, second, (first - second).abs(), first * second), dim=-1)
        return self.activation(self.project(pooled))


def weighted_mean(states: Tensor, weights: Tensor) -> Tensor:
    """(batch, sequence, hidden) -> (batch, hidden) by (batch, sequence) weights of 0 and 1; 0 where none is 1."""
    return (states * weights[..., None]).sum(dim=1) / weights.sum(dim=1, keepdim=True).clamp(min=1)


class MiniBertModel(MiniBertPreTrainedModel, TransformerBackbone):
    """The encoder: token ids in, one state per token out."""

    is_causal = False

    def __init__(
        self, config: MiniBertConfig, add_pooling_layer: bool | None = None, pooler_starts_alike: bool = True
    ) -> None:
        super().__init__(config, type_vocab_size=config.type_vocab_size)
        has_pooler = config.use_pooler if add_pooling_layer is None else add_pooling_layer
        self.pooler = Pooler(config, pooler_starts_alike) if has_pooler else None
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        causal_rows: Tensor | None = None,
        **kwargs: Unpack[MiniBertModelKwargs],
    ) -> BaseModelOutputWithPooling:
        """Encode.

        Args:
            input_ids: (batch, sequence).
            attention_mask: (batch, sequence), 0 for padding; or (batch, 1, sequence, sequence).
            token_type_ids: (batch, sequence); not used if `config.type_vocab_size` is 0.
            position_ids: (batch, sequence). Positions that restart within a row, given without an attention mask,
                pack several documents into it: none sees another.
            inputs_embeds: (batch, sequence, hidden), in place of `input_ids`.
            causal_rows: (batch,), true for rows in which no token sees a later one, as in hybrid pre-training.
                FlashAttention, which takes no mask, cannot do that.
            kwargs: `output_hidden_states`, `output_attentions`, `return_dict`, and what attention functions take.

        Raises:
            ValueError: `is_causal=True`.
            TypeError: a keyword that nothing takes.
        """
        if kwargs.pop("is_causal", False):
            raise ValueError("is_causal=True: MiniBERT sees later tokens; give causal_rows, or use MiniGPT")
        kwargs.pop("use_cache", None)
        self.refuse_unknown(kwargs)
        self.take_documents(kwargs, position_ids, inputs_embeds if input_ids is None else input_ids)
        packed = position_ids if attention_mask is None else None
        texts = None
        if self.pooler is not None and self.pooler.pooling == "siamese":
            texts = self.pooler.is_second(input_ids, attention_mask).long()
        counted = self.positions(input_ids, inputs_embeds, position_ids)
        if texts is not None and position_ids is None:  # each text has a first position
            counted = counted - texts * (1 - texts).sum(dim=1, keepdim=True)
        position_ids = counted
        hidden_states = self.embed(input_ids, inputs_embeds, position_ids, token_type_ids)
        mask = bidirectional_mask(self.config, hidden_states, attention_mask, packed, causal_rows, texts)
        hidden_states = self.transform(hidden_states, mask, position_ids, packed=packed, **kwargs)
        pooled = None if self.pooler is None else self.pooler(hidden_states, attention_mask, input_ids)
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=pooled)


class MaskedLMHead(nn.Module):
    """States to logits over the vocabulary; with BERT's transform if the configuration says so."""

    def __init__(self, config: MiniBertConfig) -> None:
        super().__init__()
        self.predicts_next = config.shifted_predictions
        transform = config.mlm_head_transform
        self.dense = nn.Linear(config.hidden_size, config.hidden_size) if transform else nn.Identity()
        self.activation = ACT2FN[config.hidden_act] if transform else nn.Identity()
        self.norm = make_norm(config) if transform else nn.Identity()
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size, bias=config.use_bias)

    def transform(self, hidden_states: Tensor) -> Tensor:
        """What enters the decoder, (..., hidden) in and out."""
        return self.norm(self.activation(self.dense(hidden_states)))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(..., hidden) -> (..., vocabulary)."""
        return self.decoder(self.transform(hidden_states))


class MaskedLMMixin:
    """The masked-LM head, tied to the embeddings, and its loss, which only predicted positions enter."""

    _tied_weights_keys = {"lm_head.decoder.weight": "model.embed_tokens.weight"}
    lm_head: MaskedLMHead
    training: bool

    def get_output_embeddings(self) -> nn.Linear:
        """The decoder, which shares its weight with the token embeddings."""
        return self.lm_head.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the decoder (for `resize_token_embeddings`)."""
        self.lm_head.decoder = new_embeddings

    def predict_masked(
        self,
        hidden_states: Tensor,
        labels: Tensor | None,
        num_items_in_batch: Tensor | int | None,
        full_logits: bool | None,
        predicted_places: Tensor | None = None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Loss and logits. In training only the predicted positions go through the head (see `forward`)."""
        loss = None
        if self.lm_head.predicts_next:
            hidden_states = F.pad(hidden_states[:, :-1], (0, 0, 1, 0))
        if labels is not None:
            labels = labels.flatten()
            predicted = labels != IGNORE_INDEX if predicted_places is None else predicted_places
            hidden_at_predicted = self.lm_head.transform(hidden_states.flatten(0, 1)[predicted])
            loss = vocabulary_cross_entropy(
                hidden_at_predicted, self.lm_head.decoder, labels[predicted], num_items_in_batch
            )
            if full_logits is None and self.training:
                return loss, None
            if full_logits is False:
                with torch.no_grad():
                    return loss, self.lm_head.decoder(hidden_at_predicted)
        return loss, self.lm_head(hidden_states)


class MiniBertForMaskedLM(MaskedLMMixin, MiniBertPreTrainedModel):
    """MiniBERT that fills in masked tokens."""

    def __init__(self, config: MiniBertConfig) -> None:
        super().__init__(config)
        self.model = MiniBertModel(config, add_pooling_layer=False)
        self.lm_head = MaskedLMHead(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        full_logits: bool | None = None,
        predicted_places: Tensor | None = None,
        **kwargs: Unpack[MiniBertModelKwargs],
    ) -> MaskedLMOutput:
        """Predict masked tokens; see `MiniBertModel.forward` for the other arguments.

        Args:
            labels: (batch, sequence); -100 where nothing is predicted.
            num_items_in_batch: predicted tokens over all accumulation steps; default, this batch's own.
            full_logits: True: logits (batch, sequence, vocabulary); False: (predicted tokens, vocabulary), without
                gradient, which saves most of the head's work. Default: no logits in training with labels, else True.
            predicted_places: (predicted tokens,), where the labels that are not -100 stand in `labels.flatten()`.
                Default: they are looked for; on a GPU, the computer then waits to learn how many there are.
            kwargs: for `MiniBertModel.forward`.
        """
        outputs = self.model(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, return_dict=True, **kwargs
        )
        loss, logits = self.predict_masked(
            outputs.last_hidden_state, labels, num_items_in_batch, full_logits, predicted_places
        )
        return MaskedLMOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


@dataclass
class MiniBertForPreTrainingOutput(ModelOutput):
    """Output of `MiniBertForPreTraining`: the losses, in nats, and the logits of both heads."""

    loss: Tensor | None = None
    prediction_logits: Tensor | None = None
    seq_relationship_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    mlm_loss: Tensor | None = None
    nsp_loss: Tensor | None = None


class MiniBertForPreTraining(MaskedLMMixin, MiniBertPreTrainedModel):
    """MiniBERT with both of BERT's objectives: masked tokens, and whether segment B follows segment A."""

    accepts_loss_kwargs = True

    def __init__(self, config: MiniBertConfig) -> None:
        super().__init__(config)
        # Pre-training trains this pooler, so its weights are drawn with the run's seed.
        self.model = MiniBertModel(config, add_pooling_layer=True, pooler_starts_alike=False)
        self.lm_head = MaskedLMHead(config)
        self.nsp_head = nn.Linear(config.hidden_size, 2)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        next_sentence_label: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        num_sentences_in_batch: Tensor | int | None = None,
        full_logits: bool | None = None,
        predicted_places: Tensor | None = None,
        **kwargs: Unpack[MiniBertModelKwargs],
    ) -> MiniBertForPreTrainingOutput:
        """Predict masked tokens and the order of segments; see `MiniBertModel.forward` for the other arguments.

        Args:
            labels: (batch, sequence); -100 where nothing is predicted.
            next_sentence_label: (batch,); 0: B follows A, 1: B is from elsewhere (BERT's convention).
            num_items_in_batch: predicted tokens over all accumulation steps; default, this batch's own.
            num_sentences_in_batch: pairs over all accumulation steps. Default, this batch's own, weighted by its
                share of `num_items_in_batch` where only that is known (as in `Trainer`).
            full_logits: see `MiniBertForMaskedLM.forward`.
            predicted_places: see `MiniBertForMaskedLM.forward`.
            kwargs: for `MiniBertModel.forward`.

        Raises:
            ValueError: only one of the two kinds of labels is given.
        """
        if (labels is None) != (next_sentence_label is None):
            raise ValueError("give both labels and next_sentence_label, or neither")
        outputs = self.model(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, return_dict=True, **kwargs
        )
        mlm_loss, logits = self.predict_masked(
            outputs.last_hidden_state, labels, num_items_in_batch, full_logits, predicted_places
        )
        nsp_logits = self.nsp_head(outputs.pooler_output)
        loss = nsp_loss = None
        if labels is not None and next_sentence_label is not None and mlm_loss is not None:
            nsp_total = F.cross_entropy(nsp_logits.float(), next_sentence_label.flatten(), reduction="sum")
            if num_sentences_in_batch is None:
                share = item_count(labels, None) / item_count(labels, num_items_in_batch)
                nsp_loss = nsp_total / item_count(next_sentence_label, None) * share
            else:
                nsp_loss = nsp_total / item_count(next_sentence_label, num_sentences_in_batch)
            loss = mlm_loss + nsp_loss
        return MiniBertForPreTrainingOutput(
            loss=loss,
            prediction_logits=logits,
            seq_relationship_logits=nsp_logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            mlm_loss=mlm_loss,
            nsp_loss=nsp_loss,
        )


# sentence-transformers reads this annotation of `forward` to know the kind of output.
ClassifierOutput = SequenceClassifierOutput | TokenClassifierOutput | NextSentencePredictorOutput


class MiniBertClassifier(MiniBertPreTrainedModel):
    """The base of heads with one kind of labels: it runs the encoder, and a subclass classifies the output."""

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Unpack[MiniBertModelKwargs],
    ) -> ClassifierOutput:
        """Classify; see `MiniBertModel.forward` for the other arguments.

        Args:
            labels: see `classify`.
            num_items_in_batch: labels over all accumulation steps; default, this batch's own.
            kwargs: for `MiniBertModel.forward`.
        """
        outputs = self.model(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, return_dict=True, **kwargs
        )
        return self.classify(outputs, labels, num_items_in_batch)

    def classify(
        self, outputs: BaseModelOutputWithPooling, labels: Tensor | None, num_items_in_batch: Tensor | int | None
    ) -> ClassifierOutput:
        """Turn the encoder's outputs into logits, and a loss if there are labels."""
        raise NotImplementedError


class MiniBertForNextSentencePrediction(MiniBertClassifier):
    """MiniBERT that tells whether segment B follows segment A."""

    def __init__(self, config: MiniBertConfig) -> None:
        super().__init__(config)
        self.model = MiniBertModel(config, add_pooling_layer=True)
        self.nsp_head = nn.Linear(config.hidden_size, 2)
        self.post_init()

    def classify(
        self, outputs: BaseModelOutputWithPooling, labels: Tensor | None, num_items_in_batch: Tensor | int | None
    ) -> NextSentencePredictorOutput:
        """Logits (batch, 2) and their loss; `labels`: (batch,), 0: B follows A, 1: it does not."""
        logits = self.nsp_head(outputs.pooler_output)
        loss = None
        if labels is not None:
            loss = classification_loss(logits, labels, 2, "single_label_classification", num_items_in_batch)
        return NextSentencePredictorOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class MiniBertForSequenceClassification(MiniBertClassifier):
    """MiniBERT with a classifier on the pooled sequence (`config.classifier_pooling`)."""

    def __init__(self, config: MiniBertConfig) -> None:
        super().__init__(config)
        assert config.num_labels is not None
        self.num_labels = config.num_labels
        self.model = MiniBertModel(config, add_pooling_layer=True)
        self.dropout = make_classifier_dropout(config)
        self.classifier = nn.Linear(config.hidden_size, self.num_labels)
        self.post_init()

    def classify(
        self, outputs: BaseModelOutputWithPooling, labels: Tensor | None, num_items_in_batch: Tensor | int | None
    ) -> SequenceClassifierOutput:
        """Logits (batch, num_labels) and their loss; `labels`: see `classification_loss`."""
        logits = self.classifier(self.dropout(outputs.pooler_output))
        loss = None
        if labels is not None:
            if self.config.problem_type is None:  # which pipelines need to know
                self.config.problem_type = infer_problem_type(labels, self.num_labels)
            loss = classification_loss(logits, labels, self.num_labels, self.config.problem_type, num_items_in_batch)
        return SequenceClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class MiniBertForTokenClassification(TokenClassificationMixin, MiniBertClassifier):
    """MiniBERT with a classifier on every token."""

    def __init__(self, config: MiniBertConfig) -> None:
        super().__init__(config)
        self.model = MiniBertModel(config, add_pooling_layer=False)
        self.add_classifier(config)
        self.post_init()


class MiniBertForMultipleChoice(MultipleChoiceMixin, MiniBertPreTrainedModel):
    """MiniBERT that chooses among several continuations of a text, each encoded with it (BERT, section 4.4)."""

    def __init__(self, config: MiniBertConfig) -> None:
        super().__init__(config)
        self.model = MiniBertModel(config, add_pooling_layer=True)
        self.dropout = make_classifier_dropout(config)
        self.score = nn.Linear(config.hidden_size, 1)  # not `classifier`: one of another width opens as this head too
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Unpack[MiniBertModelKwargs],
    ) -> MultipleChoiceModelOutput:
        """Choose. The inputs are those of `MiniBertModel.forward`, with a dimension of choices after the batch's.

        Args:
            input_ids: (batch, choices, sequence).
            attention_mask: (batch, choices, sequence), 0 for padding; a choice of zeros alone is none.
            token_type_ids: (batch, choices, sequence).
            position_ids: (batch, choices, sequence).
            inputs_embeds: (batch, choices, sequence, hidden), in place of `input_ids`.
            labels: (batch,), which of the choices is right.
            num_items_in_batch: labels over all accumulation steps; default, this batch's own.
            kwargs: for `MiniBertModel.forward`.

        Raises:
            ValueError: there is no dimension of choices.
        """
        num_choices, rows = self.as_rows(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        outputs = self.model(*rows, return_dict=True, **kwargs)
        scores = self.score(self.dropout(outputs.pooler_output))
        return self.choose(scores, outputs, num_choices, attention_mask, labels, num_items_in_batch)


class MiniBertForQuestionAnswering(QuestionAnsweringMixin, MiniBertPreTrainedModel):
    """MiniBERT that finds the answer to a question in the text beside it."""

    def __init__(self, config: MiniBertConfig) -> None:
        super().__init__(config)
        self.model = MiniBertModel(config, add_pooling_layer=False)
        self.add_span(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Unpack[MiniBertModelKwargs],
    ) -> QuestionAnsweringModelOutput:
        """Find the answer; see `MiniBertModel.forward` for the other arguments.

        Args:
            start_positions: (batch,), the answer's first token; see `span_loss`.
            end_positions: (batch,), its last.
            num_items_in_batch: examples over all accumulation steps; default, this batch's own.
            kwargs: for `MiniBertModel.forward`.
        """
        outputs = self.model(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, return_dict=True, **kwargs
        )
        return self.find_span(outputs, start_positions, end_positions, num_items_in_batch)
