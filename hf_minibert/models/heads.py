# Copyright 2026 The hf_minibert authors.
"""The heads that MiniBERT and MiniGPT have in common: a label for each token, the span of an answer, and a choice."""

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.modeling_outputs import (
    BaseModelOutputWithPastAndCrossAttentions,
    BaseModelOutputWithPooling,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    TokenClassifierOutput,
)

from .answering import Answer, answers
from .configuration_transformer import TransformerConfig
from .losses import classification_loss, span_loss

BaseModelOutput = BaseModelOutputWithPooling | BaseModelOutputWithPastAndCrossAttentions


def make_classifier_dropout(config: TransformerConfig) -> nn.Dropout:
    """The dropout before a classifier: `classifier_dropout`, by default that of the layers (BERT)."""
    return nn.Dropout(config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout)


class TokenClassificationMixin:
    """A classifier on the state of every token."""

    dropout: nn.Dropout
    token_classifier: nn.Linear
    """Not named `classifier`, or a sequence classifier's weights, perhaps of another width, would load here."""

    def add_classifier(self, config: TransformerConfig) -> None:
        """Make the layers of the head."""
        assert config.num_labels is not None
        self.dropout = make_classifier_dropout(config)
        self.token_classifier = nn.Linear(config.hidden_size, config.num_labels)

    def classify(
        self, outputs: BaseModelOutput, labels: Tensor | None, num_items_in_batch: Tensor | int | None
    ) -> TokenClassifierOutput:
        """Logits (batch, sequence, num_labels) and their loss; `labels`: (batch, sequence), -100: not predicted."""
        logits = self.token_classifier(self.dropout(outputs.last_hidden_state))
        loss = None
        if labels is not None:
            kind = "single_label_classification"
            loss = classification_loss(logits.flatten(0, 1), labels, logits.shape[-1], kind, num_items_in_batch)
        return TokenClassifierOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class MultipleChoiceMixin:
    """A score of each of several continuations of a text, each read with it (BERT, section 4.4; GPT, figure 1)."""

    def as_rows(self, *inputs: Tensor | None) -> tuple[int, list[Tensor | None]]:
        """How many choices an example has, and the choices of all examples one behind another.

        Args:
            inputs: `input_ids` first and `inputs_embeds` last, (batch, choices, sequence, ...).

        Raises:
            ValueError: there is no dimension of choices.
        """
        tokens = inputs[0] if inputs[-1] is None else inputs[-1][..., 0]
        if tokens is None or tokens.ndim != 3:
            raise ValueError("give input_ids (batch, choices, sequence), or inputs_embeds with one dimension more")
        return tokens.shape[1], [None if each is None else each.flatten(0, 1) for each in inputs]

    def choose(
        self,
        scores: Tensor,
        outputs: BaseModelOutput,
        num_choices: int,
        attention_mask: Tensor | None,
        labels: Tensor | None,
        num_items_in_batch: Tensor | int | None,
    ) -> MultipleChoiceModelOutput:
        """Logits (batch, choices) and their loss.

        Args:
            scores: of each choice, (batch * choices, 1).
            outputs: those of the model, for the hidden states and attentions.
            num_choices: of an example.
            attention_mask: (batch, choices, sequence); a choice of zeros alone is none, and its logit is -inf.
            labels: (batch,), which of the choices is right.
            num_items_in_batch: labels over all accumulation steps; default, this batch's own.
        """
        logits = scores.view(-1, num_choices)
        if attention_mask is not None:
            is_there = attention_mask.bool().any(dim=-1)
            is_empty = ~is_there.any(dim=-1, keepdim=True)  # the choices of an empty question are all alike
            logits = logits.masked_fill(~(is_there | is_empty), float("-inf"))
        loss = None
        if labels is not None:
            kind = "single_label_classification"
            loss = classification_loss(logits, labels, num_choices, kind, num_items_in_batch)
        return MultipleChoiceModelOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class QuestionAnsweringMixin:
    """Where in the sequence the answer starts, and where it ends."""

    qa_outputs: nn.Linear

    def add_span(self, config: TransformerConfig) -> None:
        """Make the layer of the head."""
        self.qa_outputs = nn.Linear(config.hidden_size, 2)

    def answers(
        self, question: str, context: str, tokenizer: PreTrainedTokenizerBase, *, top_k: int = 5
    ) -> list[Answer]:
        """The likeliest answers to a question in a text: `answering.answers`, also where this package is not there."""
        return answers(question, context, self, tokenizer, top_k=top_k)  # type: ignore[arg-type]  # a mixin of models

    def find_span(
        self,
        outputs: BaseModelOutput,
        start_positions: Tensor | None,
        end_positions: Tensor | None,
        num_items_in_batch: Tensor | int | None,
    ) -> QuestionAnsweringModelOutput:
        """Logits of starts and of ends, each (batch, sequence), and their loss (see `span_loss`).

        Raises:
            ValueError: only one of the two positions is given.
        """
        if (start_positions is None) != (end_positions is None):
            raise ValueError("give both start_positions and end_positions, or neither")
        start_logits, end_logits = self.qa_outputs(outputs.last_hidden_state).movedim(-1, 0).contiguous()
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = span_loss(start_logits, end_logits, start_positions, end_positions, num_items_in_batch)
        return QuestionAnsweringModelOutput(
            loss=loss,
            start_logits=start_logits,
            end_logits=end_logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
