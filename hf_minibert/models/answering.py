# Copyright 2026 The hf_minibert authors.
"""Answers to questions, found in a text of any length by a model with a head for spans.

In: a question, a text, and a model of ours or a stock one. The text is read in overlapping windows, each behind the
question; out come the likeliest spans of all windows. Fine-tuning makes its windows here, too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

DOC_STRIDE = 128
"""Tokens of a window that the next one reads again."""
MAX_ANSWER_LENGTH = 30
"""The longest answer, in tokens, as in BERT's run_squad.py."""
_BATCH = 16
_FEWEST_CONTEXT_TOKENS = 4
_TEXTS_AT_ONCE = 256


@dataclass(frozen=True)
class Answer:
    """A part of a text that answers a question, or the finding that there is no answer: `text` is ""."""

    text: str
    start: int
    """The place of its first character in the text; 0 for no answer."""
    end: int
    """The place behind its last character; 0 for no answer."""
    score: float
    """Its probability among the candidates that were compared, all windows together."""


@dataclass(frozen=True)
class Window:
    """A question and a part of a text, as a model reads them."""

    input_ids: list[int]
    begin: int
    """Where the text's tokens begin in `input_ids`."""
    offsets: list[tuple[int, int]]
    """The characters of the text that each of its tokens here stands for."""
    none: int
    """The token that stands for "no answer": the first, [CLS], as in BERT; where tokens see no later ones, the last."""

    def inputs(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
        """What the model takes: ids, mask and, where the model has them, token types (1 for the text)."""
        inputs = {"input_ids": self.input_ids, "attention_mask": [1] * len(self.input_ids)}
        if "token_type_ids" in tokenizer.model_input_names:
            inputs["token_type_ids"] = [int(place >= self.begin) for place in range(len(self.input_ids))]
        return inputs

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The places of the first and the last token of characters; both `none` if the window lacks some of them."""
        inside = [place for place, (first, last) in enumerate(self.offsets) if first < end and last > start]
        if not inside or self.offsets[0][0] > start or self.offsets[-1][1] < end:
            return self.none, self.none
        return self.begin + inside[0], self.begin + inside[-1]


def windows(
    questions: Sequence[str],
    contexts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    doc_stride: int | None = None,
) -> Iterator[list[Window]]:
    """The windows of each question and its text, as ``[CLS] question [SEP] text [SEP]``.

    A question that is longer than half a window is cut to that.

    Args:
        questions: the questions.
        contexts: the text of each.
        tokenizer: a fast one.
        max_length: tokens of a window.
        doc_stride: tokens of a text that two neighbouring windows share. Default: `DOC_STRIDE`, or a quarter of
            `max_length`, if that is less; more than a quarter would hardly move on behind a long question.

    Raises:
        ValueError: the tokenizer has no tokens for beginnings and ends, the window is too short, or `doc_stride` is
            negative or too large.
    """
    if doc_stride is None:
        doc_stride = min(DOC_STRIDE, max_length // 4)
    if not 0 <= doc_stride <= max_length // 4:
        raise ValueError(
            f"doc_stride must lie between 0 and {max_length // 4}, a quarter of the windows of {max_length} tokens; "
            f"got {doc_stride}"
        )
    begin, end = tokenizer.cls_token_id, tokenizer.sep_token_id
    begin, end = (tokenizer.bos_token_id if begin is None else begin), (tokenizer.eos_token_id if end is None else end)
    if begin is None or end is None:
        raise ValueError("the tokenizer has no [CLS] and [SEP], nor other tokens that begin and end a text")
    specials = tokenizer.num_special_tokens_to_add(pair=True)
    is_encoder = specials >= 3  # [CLS], [SEP] and [SEP]; RoBERTa ends the question twice
    between = [end] * max(1, specials - 2)
    longest_question = max_length // 2 - 2
    if longest_question < 1 or max_length - longest_question - 3 < _FEWEST_CONTEXT_TOKENS:
        raise ValueError(f"max_length {max_length} is too short for a question and a text; give 16 or more")
    for first in range(0, len(questions), _TEXTS_AT_ONCE):
        some = slice(first, first + _TEXTS_AT_ONCE)
        asked = _encode(tokenizer, [question.strip() for question in questions[some]])["input_ids"]
        read = _encode(tokenizer, list(contexts[some]))
        for question, ids, offsets in zip(asked, read["input_ids"], read["offset_mapping"], strict=True):
            head = [begin, *question[:longest_question], *between]
            room = max_length - len(head) - 1
            step = room - min(doc_stride, room - 1)
            found = []
            for start in range(0, max(1, len(ids) - room + step), step):
                part = [*head, *ids[start : start + room], end]
                none = 0 if is_encoder else len(part) - 1
                found.append(Window(part, len(head), offsets[start : start + room], none))
            yield found


def _encode(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> Any:
    """Token ids and offsets of texts, as they are written: nothing added or cut, and "[MASK]" is six characters."""
    return tokenizer(
        texts,
        add_special_tokens=False,
        split_special_tokens=True,
        return_offsets_mapping=True,
        truncation=False,
        verbose=False,  # it would warn of texts that are longer than the model
    )


@dataclass(frozen=True)
class Candidates:
    """The likeliest spans of a text, and how likely it is that it has no answer."""

    spans: list[tuple[float, int, int]]
    """Score (the logits of start and end, added), first character and the one behind the last; the best first."""
    none: float
    """The score of "no answer": that of the window that says so least (BERT, Devlin et al. 2019, section 4.3)."""

    @property
    def excess(self) -> float:
        """How much higher "no answer" scores than the best span; infinite without any."""
        return self.none - self.spans[0][0] if self.spans else float("inf")


def candidates(
    context: str,
    parts: Sequence[Window],
    start_logits: Sequence[NDArray[np.floating[Any]]],
    end_logits: Sequence[NDArray[np.floating[Any]]],
    *,
    top_k: int = 20,
    max_answer_length: int = MAX_ANSWER_LENGTH,
) -> Candidates:
    """Compare all spans of all windows.

    Args:
        context: the text.
        parts: its windows.
        start_logits: those of each window, (sequence,) or longer.
        end_logits: likewise.
        top_k: how many spans to keep.
        max_answer_length: the most tokens that one has.
    """
    best: dict[tuple[int, int], float] = {}
    none = float("inf")
    for window, starts, ends in zip(parts, start_logits, end_logits, strict=True):
        none = min(none, float(starts[window.none]) + float(ends[window.none]))
        size = len(window.offsets)
        text = slice(window.begin, window.begin + size)
        if not size:
            continue
        padded = np.concatenate([ends[text], np.full(max_answer_length - 1, -np.inf)])
        scores = starts[text][:, None] + np.lib.stride_tricks.sliding_window_view(padded, max_answer_length)
        ranked = scores.ravel()
        most = min(4 * top_k, len(ranked))  # more than asked, since some are the same characters
        for place in np.argpartition(-ranked, most - 1)[:most]:
            first, more = divmod(int(place), max_answer_length)
            if first + more >= size:
                continue
            start, end = window.offsets[first][0], window.offsets[first + more][1]
            inside = context[start:end]
            start, end = start + len(inside) - len(inside.lstrip()), end - len(inside) + len(inside.rstrip())
            if start < end:
                best[start, end] = max(best.get((start, end), -np.inf), float(ranked[place]))
    spans = sorted(((score, *span) for span, score in best.items()), key=lambda one: (-one[0], one[1:]))
    return Candidates(spans[:top_k], none)


def answers(
    question: str,
    context: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    top_k: int = 5,
    max_answer_length: int = MAX_ANSWER_LENGTH,
    doc_stride: int | None = None,
    max_length: int | None = None,
) -> list[Answer]:
    """The likeliest answers to a question in a text, the best first; transformers 5 has no pipeline for it.

    A model that was trained on questions without an answer may give "" among them: it scores by how far its logits lie
    above `config.no_answer_threshold`.

    Args:
        question: the question. One that is longer than half a window is cut to that.
        context: the text, of any length.
        model: one with `start_logits` and `end_logits`: ours, or a stock one.
        tokenizer: its tokenizer.
        top_k: how many answers to give.
        max_answer_length: the most tokens of an answer.
        doc_stride: tokens that two neighbouring windows share; see `windows`.
        max_length: tokens of a window; default, as many as the tokenizer says that the model reads.

    Raises:
        ValueError: the question or the text is empty, or a number is not possible.
    """
    for name, text in (("question", question), ("context", context)):
        if not text.strip():
            raise ValueError(f"the {name} is empty; give some text")
    for name, value in (("top_k", top_k), ("max_answer_length", max_answer_length)):
        if value < 1:
            raise ValueError(f"{name} must be positive, got {value}")
    positions = model.config.max_position_embeddings
    longest = min(positions, tokenizer.model_max_length or positions) if max_length is None else max_length
    (parts,) = windows([question], [context], tokenizer, max_length=longest, doc_stride=doc_stride)
    starts, ends = list[NDArray[np.floating[Any]]](), list[NDArray[np.floating[Any]]]()
    was_training = model.training
    model.eval()
    for first in range(0, len(parts), _BATCH):
        with torch.no_grad():
            outputs = model(**_batch(parts[first : first + _BATCH], tokenizer, model.device))
        starts += list(outputs.start_logits.float().cpu().numpy())
        ends += list(outputs.end_logits.float().cpu().numpy())
    model.train(was_training)
    found = candidates(context, parts, starts, ends, top_k=max(top_k, 20), max_answer_length=max_answer_length)
    spans = list(found.spans)
    threshold = model.config.to_dict().get("no_answer_threshold")  # which stock configurations do not declare
    if threshold is not None:
        spans = sorted([*spans, (found.none - threshold, 0, 0)], key=lambda one: (-one[0], one[1:]))
    if not spans:
        raise ValueError("no part of the context can be an answer: it has no token that stands for something visible")
    scores = np.array([score for score, _, _ in spans])
    probabilities = np.exp(scores - scores.max())
    probabilities /= probabilities.sum()
    return [
        Answer(context[start:end], start, end, float(probability))
        for (_, start, end), probability in zip(spans[:top_k], probabilities, strict=False)
    ]


def _batch(
    parts: Sequence[Window], tokenizer: PreTrainedTokenizerBase, device: torch.device
) -> dict[str, torch.Tensor]:
    """Windows as one batch, padded on the right."""
    rows = [window.inputs(tokenizer) for window in parts]
    padding = {"input_ids": tokenizer.pad_token_id or 0}
    return {
        name: pad_sequence(
            [torch.tensor(row[name]) for row in rows], batch_first=True, padding_value=padding.get(name, 0)
        ).to(device)
        for name in rows[0]
    }


def answer(
    question: str,
    context: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_answer_length: int = MAX_ANSWER_LENGTH,
    doc_stride: int | None = None,
    max_length: int | None = None,
) -> Answer:
    """The best of `answers`, whose arguments it takes."""
    (best,) = answers(
        question,
        context,
        model,
        tokenizer,
        top_k=1,
        max_answer_length=max_answer_length,
        doc_stride=doc_stride,
        max_length=max_length,
    )
    return best
