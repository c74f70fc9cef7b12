"""Rows of tokens, and what to predict in them, as pure functions of (seed, epoch, row).

In come documents of token ids; out come batches of tensors. A row of an epoch is always the same, whatever batch,
process or worker it is made in: every random choice is a hash of where it is made.
"""

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hf_minibert.data.token_store import Documents
from hf_minibert.errors import UserError
from hf_minibert.models.losses import IGNORE_INDEX

Integers = NDArray[np.int64]
Tokens = NDArray[np.unsignedinteger]
Batch = dict[str, Tensor]


class NextSentence(IntEnum):
    """BERT's labels of segment B; in sentence order prediction, RANDOM means that A and B are swapped."""

    FOLLOWS = 0
    RANDOM = 1


class Draw(IntEnum):
    """What a random number is for; no two uses share their numbers."""

    DOCUMENT_ORDER = 0
    ROW_ORDER = 1
    SELECT = 2
    REPLACE = 3
    TOKEN = 4
    SPLIT = 5
    IS_RANDOM = 6
    OTHER_DOCUMENT = 7
    OTHER_START = 8
    KIND = 9


def uniform(seed: int, epoch: int, draw: Draw, rows: Integers, columns: Integers) -> NDArray[np.float64]:
    """Numbers in [0, 1), each a hash of the arguments at its place (splitmix64: Steele, Lea and Flood 2014).

    `rows` and `columns` are broadcast: (rows, 1) and (columns,) give a table; two lists of equal length give a list.
    """

    def mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return bits ^ (bits >> np.uint64(31))

    step, one = np.uint64(0x9E3779B97F4A7C15), np.uint64(1)
    state = np.zeros(1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for key in (seed, epoch, int(draw)):
            state = mix(state + step * np.uint64(key + 1))
        row_states = mix(state + step * (rows.astype(np.uint64) + one))
        bits = mix(row_states + step * (columns.astype(np.uint64) + one))
    return (bits >> np.uint64(11)).astype(np.float64) / 2**53


@lru_cache(maxsize=4)  # the order of documents and of rows, for training and for evaluation
def permutation(seed: int, epoch: int, draw: Draw, size: int) -> Integers:
    """The numbers below `size` in an order that depends on seed and epoch alone."""
    return np.argsort(uniform(seed, epoch, draw, np.zeros(1, dtype=np.int64), np.arange(size)), kind="stable")


class Rows(Protocol):
    """An objective's rows, as the loader needs them: how many an epoch has, and any of them as tensors."""

    num_rows: int

    def batch(self, epoch: int, rows: Integers) -> Batch:
        """Rows of an epoch, in its order; a dictionary of tensors that the model's `forward` takes."""
        ...


@dataclass(frozen=True, kw_only=True)
class RowSettings:
    """How documents become rows: the settings of every objective."""

    length: int
    """Tokens in a row."""
    cls_id: int
    sep_id: int
    pad_id: int
    seed: int
    masking: "Masking"
    masked_share: float
    """The share of rows that are masked, in hybrid training; the others are causal."""

    @property
    def frame(self) -> dict[str, int]:
        """What all makers of rows take."""
        return {"length": self.length, "cls_id": self.cls_id, "sep_id": self.sep_id, "seed": self.seed}


class TokenStream:
    """Documents as ``[CLS] tokens [SEP]``, one behind another in a new order every epoch, cut into rows.

    Nothing is padded, and less than a row is lost at the end. Positions restart with every document, which tells the
    model to keep documents apart.
    """

    def __init__(self, documents: Documents, *, length: int, cls_id: int, sep_id: int, seed: int) -> None:
        self.documents, self.length, self.seed = documents, length, seed
        self.cls_id, self.sep_id = cls_id, sep_id
        self.num_rows = int(documents.lengths.sum() + 2 * len(documents)) // length
        if self.num_rows == 0:
            raise UserError(
                f"{len(documents)} document(s) with {int(documents.lengths.sum())} tokens do not fill one row of "
                f"max_seq_length {length}; give more text (2% of it is held out) or a smaller max_seq_length"
            )
        self._epoch: tuple[int, Integers, Integers, Integers] | None = None

    def _plan(self, epoch: int) -> tuple[Integers, Integers, Integers]:
        """The order of documents, where each begins in the stream, and the order of rows."""
        if self._epoch is None or self._epoch[0] != epoch:
            order = permutation(self.seed, epoch, Draw.DOCUMENT_ORDER, len(self.documents))
            begins = np.concatenate(([0], np.cumsum(self.documents.lengths[order] + 2)))
            rows = permutation(self.seed, epoch, Draw.ROW_ORDER, self.num_rows)
            self._epoch = (epoch, order, begins, rows)
        return self._epoch[1:]

    def read(self, epoch: int, rows: Integers) -> tuple[Integers, Integers]:
        """Token ids and positions within the document's piece, each (rows, length)."""
        order, begins, row_order = self._plan(epoch)
        starts = row_order[rows] * self.length
        first = np.searchsorted(begins, starts, side="right") - 1
        last = np.searchsorted(begins, starts + self.length, side="left")
        input_ids = np.empty((len(rows), self.length), dtype=np.int64)
        position_ids = np.empty_like(input_ids)
        places = np.arange(self.length)
        for row, start in enumerate(starts):
            for place in range(first[row], last[row]):
                # From here on, offsets within the document, where 0 is its [CLS].
                begin = max(start - begins[place], 0)
                end = min(start + self.length, begins[place + 1]) - begins[place]
                column = begins[place] + begin - start
                width = end - begin
                piece = input_ids[row, column : column + width]
                document = order[place]
                has_cls = int(begin == 0)
                has_sep = int(begins[place] + end == begins[place + 1])
                piece[has_cls : width - has_sep] = self.documents.tokens(
                    document, begin + has_cls - 1, end - has_sep - 1
                )
                if has_cls:
                    piece[0] = self.cls_id
                if has_sep:
                    piece[-1] = self.sep_id
                position_ids[row, column : column + width] = places[:width]
        return input_ids, position_ids


class CausalRows:
    """`clm`: predict every next token. The start of a document is not predicted: nothing leads to it."""

    def __init__(self, documents: Documents, *, length: int, cls_id: int, sep_id: int, seed: int) -> None:
        self._stream = TokenStream(documents, length=length, cls_id=cls_id, sep_id=sep_id, seed=seed)
        self.num_rows = self._stream.num_rows

    def batch(self, epoch: int, rows: Integers) -> Batch:
        """`input_ids`, `position_ids` and `labels` (not shifted, as transformers' causal models take them)."""
        input_ids, position_ids = self._stream.read(epoch, rows)
        labels = np.where(position_ids == 0, IGNORE_INDEX, input_ids)
        return _tensors(input_ids=input_ids, position_ids=position_ids, labels=labels)


class Masking:
    """BERT's noise (Devlin et al. 2019): some tokens are chosen anew in every epoch, and most of them hidden.

    80% of the chosen become ``[MASK]``; 10% another token, so that the model cannot trust what it sees; 10% stay, so
    that it cannot distrust it. Special tokens are never chosen and never put in.
    """

    def __init__(self, *, probability: float, mask_id: int, special_ids: list[int], vocab_size: int, seed: int) -> None:
        self.probability, self.mask_id, self.seed = probability, mask_id, seed
        self.special_ids = special_ids
        self.ordinary_ids = np.setdiff1d(np.arange(vocab_size), special_ids)

    def apply(self, epoch: int, rows: Integers, input_ids: Integers) -> tuple[Integers, Integers]:
        """Noisy input ids and labels, each (rows, length); `rows` say which random numbers are theirs."""
        columns = np.arange(input_ids.shape[1])
        chosen = uniform(self.seed, epoch, Draw.SELECT, rows[:, None], columns) < self.probability
        chosen[chosen] = ~np.isin(input_ids[chosen], self.special_ids)
        at_row, at_column = np.nonzero(chosen)
        fate, tokens = (
            uniform(self.seed, epoch, draw, rows[at_row], columns[at_column]) for draw in (Draw.REPLACE, Draw.TOKEN)
        )
        hidden = input_ids[chosen]
        others = self.ordinary_ids[(tokens * len(self.ordinary_ids)).astype(np.int64)]
        noisy, labels = input_ids.copy(), np.full_like(input_ids, IGNORE_INDEX)
        noisy[chosen] = np.select([fate < 0.8, fate < 0.9], [self.mask_id, others], hidden)
        labels[chosen] = hidden
        return noisy, labels


class MaskedRows:
    """`mlm`: restore masked tokens, in full rows of documents that do not see each other."""

    def __init__(
        self, documents: Documents, *, length: int, cls_id: int, sep_id: int, seed: int, masking: Masking
    ) -> None:
        self._stream = TokenStream(documents, length=length, cls_id=cls_id, sep_id=sep_id, seed=seed)
        self.num_rows = self._stream.num_rows
        self._masking = masking

    def batch(self, epoch: int, rows: Integers) -> Batch:
        """`input_ids`, `position_ids` and `labels`."""
        input_ids, position_ids = self._stream.read(epoch, rows)
        # A row may begin or end inside a document; every piece reads as a whole text, as at inference.
        input_ids[:, 0], input_ids[:, -1] = self._stream.cls_id, self._stream.sep_id
        input_ids, labels = self._masking.apply(epoch, rows, input_ids)
        return _tensors(input_ids=input_ids, position_ids=position_ids, labels=labels)


class NextSentenceRows:
    """`mlm+nsp`: masked tokens in ``[CLS] A [SEP] B [SEP]``, and whether B follows A.

    Segments are as long as the row allows, since pairs of single sentences cost accuracy (Liu et al. 2019,
    arXiv:1907.11692, table 2). Half of the time B follows A. Else it comes from another document, since a segment of
    the same one might well follow; it has the right segment's length, or the length would give it away.
    """

    def __init__(
        self, documents: Documents, *, length: int, cls_id: int, sep_id: int, seed: int, masking: Masking, pad_id: int
    ) -> None:
        self.documents, self.length, self.seed, self._masking = documents, length, seed, masking
        self.cls_id, self.sep_id, self.pad_id = cls_id, sep_id, pad_id
        self._usable = np.flatnonzero(documents.lengths >= 2)
        if len(self._usable) < 2:
            raise UserError(
                f"next-sentence prediction takes B from another document, but only {len(self._usable)} document(s) "
                "with two tokens or more are there; give more documents (2% are held out) or another objective"
            )
        # A document is cut into equal chunks that each fill a row, and a chunk into A and B.
        lengths = documents.lengths[self._usable]
        chunks = -(-lengths // (length - 3))
        self._chunk_document = np.repeat(np.arange(len(self._usable)), chunks)
        self._chunk_index = np.arange(len(self._chunk_document)) - np.repeat(np.cumsum(chunks) - chunks, chunks)
        self._chunks = chunks
        self._by_length = np.argsort(lengths, kind="stable")
        self._sorted_lengths, self._rank = lengths[self._by_length], np.argsort(self._by_length)
        self.num_rows = len(self._chunk_document)

    def _stranger(self, place: int, length: int, number: float) -> int:
        """A document other than that at `place`, with `length` tokens if there is one; `number` in [0, 1) chooses."""
        first = int(np.searchsorted(self._sorted_lengths, length))
        if len(self._usable) - first < 2:
            first = 0
        others = self._by_length[first:]
        skip = 1 + int(number * (len(others) - 1))
        return int(self._usable[others[(self._rank[place] - first + skip) % len(others)]])

    def _wrong_pair(
        self, place: int, first: Tokens, second: Tokens, other: float, other_start: float
    ) -> tuple[Tokens, Tokens]:
        """A and what does not follow it; the numbers, in [0, 1), choose a document and where to begin in it."""
        stranger = self._stranger(place, len(second), other)
        room = max(self.documents.lengths[stranger] - len(second), 0)
        start = int(other_start * (room + 1))
        return first, self.documents.tokens(stranger, start, start + len(second))

    def batch(self, epoch: int, rows: Integers) -> Batch:
        """`input_ids`, `token_type_ids`, `attention_mask`, `labels` and `next_sentence_label`."""
        row_order = permutation(self.seed, epoch, Draw.ROW_ORDER, self.num_rows)[rows]
        split, is_random, other, other_start = (
            uniform(self.seed, epoch, draw, rows, np.zeros_like(rows))
            for draw in (Draw.SPLIT, Draw.IS_RANDOM, Draw.OTHER_DOCUMENT, Draw.OTHER_START)
        )
        input_ids = np.full((len(rows), self.length), self.pad_id, dtype=np.int64)
        token_type_ids, attention_mask = np.zeros_like(input_ids), np.zeros_like(input_ids)
        for row, chunk in enumerate(row_order):
            place, index = self._chunk_document[chunk], self._chunk_index[chunk]
            document = self._usable[place]
            total = self.documents.lengths[document]
            begin, end = index * total // self._chunks[place], (index + 1) * total // self._chunks[place]
            middle = begin + 1 + int(split[row] * (end - begin - 1)) if end - begin > 1 else end
            first = self.documents.tokens(document, begin, middle)
            second = self.documents.tokens(document, middle, end)
            if is_random[row] < 0.5:
                first, second = self._wrong_pair(place, first, second, other[row], other_start[row])
            boundary = len(first) + 2
            width = boundary + len(second) + 1
            input_ids[row, 0], input_ids[row, boundary - 1], input_ids[row, width - 1] = (
                self.cls_id,
                self.sep_id,
                self.sep_id,
            )
            input_ids[row, 1 : boundary - 1], input_ids[row, boundary : width - 1] = first, second
            token_type_ids[row, boundary:width] = 1
            attention_mask[row, :width] = 1
        input_ids, labels = self._masking.apply(epoch, rows, input_ids)
        labels[attention_mask == 0] = IGNORE_INDEX
        return _tensors(
            input_ids=input_ids,
            token_type_ids=token_type_ids,
            attention_mask=attention_mask,
            labels=labels,
            next_sentence_label=np.where(is_random < 0.5, int(NextSentence.RANDOM), int(NextSentence.FOLLOWS)),
        )


class SentenceOrderRows(NextSentenceRows):
    """`mlm+sop`: masked tokens, and whether A and B are in their order (ALBERT, Lan et al. 2020, arXiv:1909.11942).

    This is harder than next-sentence prediction, where a change of topic gives the answer away.
    """

    def _wrong_pair(
        self, place: int, first: Tokens, second: Tokens, other: float, other_start: float
    ) -> tuple[Tokens, Tokens]:
        """The same two segments, swapped."""
        del place, other, other_start
        return second, first


def _tensors(**arrays: Integers) -> Batch:
    return {name: torch.from_numpy(array.astype(np.int64, copy=False)) for name, array in arrays.items()}
