"""How probable a language model finds texts: in come texts, out come log-probabilities of their tokens, in nats.

A causal model predicts each token from those before it. A masked model predicts one token at a time, hidden behind
``[MASK]``, from all others: their sum is the pseudo-log-likelihood (Salazar et al. 2020, arXiv:1910.14659). A hybrid
model reads the hidden token one place before it, and its texts have no end (as GPT-BERT is measured: Charpentier and
Samuel 2024, arXiv:2410.24159). The conventions are those of the BabyLM evaluation pipeline of 2025.

Every hidden token makes a row of its own, so rows are many. They are sorted by length and cut into batches of about the
same number of tokens, mostly without padding, and only the states of asked tokens go through the head.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from hf_minibert.data.tables import shown
from hf_minibert.errors import UserError
from hf_minibert.evaluation.opening import NOT_NUMBERS, LanguageModel

TOKENS_PER_BATCH = {"cpu": 4_096, "cuda": 65_536}

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Spelt:
    """A text as a model reads it."""

    ids: Integers
    """(tokens,), special ones included."""
    places: Integers
    """(scored,), where its scored tokens are."""
    word_ends: Integers
    """(scored,), where the word of each scored token ends: the place behind its last token."""

    @property
    def num_rows(self) -> int:
        """Scored tokens, each of which a masked model reads in a row of its own."""
        return len(self.places)


def spell(model: LanguageModel, texts: Sequence[str], *, begins: Sequence[int] | None = None) -> list[Spelt]:
    """Tokens of texts, with the special ones that the model expects, and which of them are scored.

    Args:
        model: says which special tokens there are.
        texts: the texts.
        begins: the character of each text from which on tokens are scored; default, all of the text.

    Raises:
        UserError: a text has more tokens than the model reads.
    """
    tokenizer = model.tokenizer
    before, behind = special_ids(model)
    encoded = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast, verbose=False)
    spelt = []
    for index, ids in enumerate(encoded.input_ids):
        begin = begins[index] if begins is not None else 0
        words = encoded.encodings[index].word_ids if tokenizer.is_fast else list(range(len(ids)))
        if not begin:  # whatever the offsets say: those of spaces may be empty
            scored = np.arange(len(ids))
        elif tokenizer.is_fast:
            scored = np.flatnonzero(np.array([end for _, end in encoded.offset_mapping[index]], dtype=np.int64) > begin)
        else:
            raise UserError(f"the tokenizer of {model.name} does not tell where tokens are; it needs a tokenizer.json")
        if not before and model.backend != "mlm":
            scored = scored[scored > 0]  # nothing leads to the first token
        tokens = np.array([*before, *ids, *behind], dtype=np.int64)
        if model.max_length is not None and len(tokens) > model.max_length:
            raise UserError(
                f"a text has {len(tokens):,} tokens, but {model.name} reads at most {model.max_length:,}: "
                f"{shown(texts[index])!r}; shorten it"
            )
        spelt.append(Spelt(tokens, scored + len(before), _word_ends(words)[scored] + len(before)))
    return spelt


def special_ids(model: LanguageModel) -> tuple[list[int], list[int]]:
    """The tokens before and behind a text: beginning and end for a masked model, else the beginning alone."""
    tokenizer = model.tokenizer
    if model.backend == "causal":
        begin, end = tokenizer.bos_token_id, None
    else:
        begin = tokenizer.bos_token_id if tokenizer.cls_token_id is None else tokenizer.cls_token_id
        end = tokenizer.eos_token_id if tokenizer.sep_token_id is None else tokenizer.sep_token_id
    return ([] if begin is None else [begin]), ([end] if end is not None and model.backend == "mlm" else [])


def _word_ends(words: Sequence[int | None]) -> Integers:
    """For each token, the place behind the last token of its word."""
    ends = np.arange(1, len(words) + 1)
    for place in range(len(words) - 2, -1, -1):
        if words[place] is not None and words[place] == words[place + 1]:
            ends[place] = ends[place + 1]
    return ends


def text_scores(
    model: LanguageModel,
    texts: Sequence[str],
    *,
    within_word: bool = False,
    batch_tokens: int | None = None,
    words: str | None = None,
) -> NDArray[np.float64]:
    """The log-probability of each text, (texts,), in nats: the sum over its tokens, without any normalisation.

    Args:
        model: a masked or a causal one.
        texts: texts; equal ones are computed once, and so have equal scores.
        within_word: see `token_scores`.
        batch_tokens: see `token_scores`.
        words: see `token_scores`.

    Raises:
        UserError: a text has more tokens than the model reads.
    """
    distinct = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    spelt = spell(model, list(distinct))
    scores, _ = token_scores(model, spelt, within_word=within_word, batch_tokens=batch_tokens, words=words)
    sums = np.array([each.sum(dtype=np.float64) for each in scores])
    return sums[[distinct[text] for text in texts]]


def token_scores(
    model: LanguageModel,
    spelt: Sequence[Spelt],
    *,
    within_word: bool = False,
    batch_tokens: int | None = None,
    words: str | None = None,
) -> tuple[list[NDArray[np.float32]], list[NDArray[np.bool_]]]:
    """The log-probabilities of the scored tokens of each text, (scored,), in nats, and whether each is the likeliest.

    Args:
        model: a masked or a causal one.
        spelt: texts, from `spell`.
        within_word: whether a masked model also hides the rest of a hidden token's word (Kauf and Ivanova 2023,
            arXiv:2305.10588).
        batch_tokens: tokens that are computed at once; default, by the device.
        words: what the progress bar says; None: no bar.

    Raises:
        UserError: a score is no number.
    """
    is_masked = model.backend != "causal"
    limit = tokens_at_once(model, batch_tokens, all_logits=not model.reads_states)
    scores = [np.empty(text.num_rows, dtype=np.float32) for text in spelt]
    best = [np.empty(text.num_rows, dtype=np.bool_) for text in spelt]
    total = sum(len(text.ids) * (text.num_rows if is_masked else 1) for text in spelt)
    with tqdm(total=total, desc=words, unit=" tokens", unit_scale=True, disable=None if words else True) as bar:
        for batch in _batches(spelt, limit, is_masked):
            found, are_best = _score(model, spelt, batch, within_word=within_word)
            if np.isnan(found).any():
                raise UserError(NOT_NUMBERS.format(model.name))
            start = 0
            for text, first, last in batch:
                scores[text][first:last] = found[start : start + last - first]
                best[text][first:last] = are_best[start : start + last - first]
                start += last - first
            bar.update(sum(len(spelt[text].ids) * (last - first if is_masked else 1) for text, first, last in batch))
    return scores, best


def tokens_at_once(model: LanguageModel, batch_tokens: int | None, *, all_logits: bool) -> int:
    """The tokens of a batch: as asked for, or by the device; fewer if the logits of all must fit into memory."""
    limit = batch_tokens or TOKENS_PER_BATCH.get(model.device.type, TOKENS_PER_BATCH["cpu"])
    return min(limit, max(1, (1 << 27) // model.vocab_size)) if all_logits else limit


Piece = tuple[int, int, int]
"""A text, and the first and the last of those of its scored tokens that a batch reads."""


def _batches(spelt: Sequence[Spelt], limit: int, is_masked: bool) -> Iterator[list[Piece]]:
    """Pieces of texts whose rows have about `limit` tokens; the longest first, since they take most memory."""
    order = sorted(
        (index for index, text in enumerate(spelt) if text.num_rows), key=lambda index: -len(spelt[index].ids)
    )
    batch: list[Piece] = []
    rows = width = 0
    for index in order:
        length, done = len(spelt[index].ids), 0
        while done < spelt[index].num_rows:
            is_shorter = length < width and 2 * rows * width >= limit  # a batch worth computing needs no padding
            if batch and (is_shorter or (rows + 1) * width > limit):
                yield batch
                batch, rows = [], 0
            if not batch:
                width = length
            room = max(1, limit // width - rows)
            last = min(spelt[index].num_rows, done + room) if is_masked else spelt[index].num_rows
            batch.append((index, done, last))
            rows += last - done if is_masked else 1
            done = last
    if batch:
        yield batch


def _score(
    model: LanguageModel, spelt: Sequence[Spelt], batch: Sequence[Piece], *, within_word: bool
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The log-probability of each scored token of a batch, one text behind another, and whether it is the likeliest."""
    is_masked = model.backend != "causal"
    width = len(spelt[batch[0][0]].ids)
    lengths: list[int] = []
    rows, columns, targets, inputs = list[Integers](), list[Integers](), list[Integers](), list[Integers]()
    for index, first, last in batch:
        text = spelt[index]
        places, count = text.places[first:last], last - first
        block = np.full((count if is_masked else 1, width), model.pad_id, dtype=np.int64)
        block[:, : len(text.ids)] = text.ids
        row = np.arange(count) if is_masked else np.zeros(count, dtype=np.int64)
        if is_masked and within_word:
            inside = np.arange(width) < text.word_ends[first:last, None]
            block[(np.arange(width) >= places[:, None]) & inside] = model.tokenizer.mask_token_id
        elif is_masked:
            block[row, places] = model.tokenizer.mask_token_id
        rows.append(row + len(lengths))
        columns.append(places)
        targets.append(text.ids[places])
        inputs.append(block)
        lengths += [len(text.ids)] * len(block)
    mask = None
    if min(lengths) < width:
        mask = torch.from_numpy((np.arange(width) < np.array(lengths)[:, None]).astype(np.int64))
    found, are_best = model.predict(
        torch.from_numpy(np.concatenate(inputs)),
        mask,
        *(torch.from_numpy(np.concatenate(parts)) for parts in (rows, columns, targets)),
    )
    return found.numpy(), are_best.numpy()
