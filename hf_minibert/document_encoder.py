"""Encode the documents of a corpus fast: most pieces of text were met before, and are looked up.

In come texts as they are; out come the token ids of all of them, end to end. For the tokenizer of
`hf_minibert.tokenization` this gives what `tokenizers` gives; for others, `tokenizers` does the work.
"""

import json
import re
from collections.abc import Sequence
from itertools import chain, compress, count

import numpy as np
import pyarrow
import pyarrow.compute
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from hf_minibert.tokenization import SPECIAL_TOKENS, count_bytes, lossless_pipeline, plain_backend

Tokens = NDArray[np.unsignedinteger]
Lengths = NDArray[np.int64]

_MARK = "\x1a"
_BEGIN = _MARK + "^"  # of a piece that has no space before it
# Where else two words always part: between a letter or digit and these, and before the last line break of some.
_OTHER_CUTS = {"pattern": r"([0-9A-Za-z])([,.;:)\"])|(\n[!-~])", "replacement": rf"\1 {_BEGIN}\2\3"}
_SPACES = re.compile(r" \s")
_NO_CUT = re.compile(rf"{_MARK}| (?=\s|\Z)")
_PIECES_PER_TEXT = 4096
_MAX_REMEMBERED_TOKENS = 1 << 21


class DocumentEncoder:
    """Encodes raw text fast: nothing added, nothing cut, and the characters ``[MASK]`` are six characters of text.

    Our pre-tokenizer never joins what stands on the two sides of a space before a visible character, and of some other
    places. So text is cut there, pieces that were met before are looked up, as most are, and only new ones are spelt.
    Other tokenizers spell every text anew. Give many documents at once, which the threads of `tokenizers` share, but
    not more than a few megabytes: while it works, it holds about a hundred bytes a token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._backend = plain_backend(tokenizer)
        self._backend.post_processor = None
        self._backend.encode_special_tokens = True
        self._dtype = np.min_scalar_type(len(tokenizer) - 1)
        self._hash_id = self._backend.token_to_id("#")
        self._is_cut_at_spaces = self._hash_id is not None and _is_cut_at_spaces(self._backend)
        self._forget()

    def _forget(self) -> None:
        """Start the table of pieces: the number of each, and where its tokens are among those of all."""
        self._numbers: dict[str, int] = {}
        self._tokens: Tokens = np.empty(0, self._dtype)
        self._begins, self._lengths = np.empty((2, 0), np.int32)

    def __call__(self, texts: Sequence[str]) -> tuple[Tokens, Lengths]:
        """Token ids of some documents.

        Returns:
            The ids of all documents end to end, in the smallest unsigned type that holds the vocabulary, and the
            number of tokens of each document.

        Raises:
            UserError: a text holds half of a surrogate pair, which no tokenizer can represent.
        """
        try:
            return self._look_up(texts) if self._is_cut_at_spaces and texts else self._spell(texts)
        except (TypeError, UnicodeEncodeError):  # what `tokenizers` and Arrow raise for half a surrogate pair
            for index, text in enumerate(texts):
                count_bytes(text, index)
            raise

    def _look_up(self, texts: Sequence[str]) -> tuple[Tokens, Lengths]:
        """Tokens of texts, from the table, after what is new in them was added to it."""
        if len(self._tokens) > _MAX_REMEMBERED_TOKENS:
            self._forget()
        marked = pyarrow.array([_BEGIN + _mark_spaces(text) for text in texts], pyarrow.large_string())
        cut = pyarrow.compute.replace_substring_regex(marked, **_OTHER_CUTS)
        pieces = pyarrow.compute.split_pattern(cut, " ")
        distinct = pieces.values.dictionary_encode()
        names = distinct.dictionary.to_pylist()
        self._learn([name for name in names if name not in self._numbers])
        numbers = np.fromiter(map(self._numbers.__getitem__, names), np.int64, len(names))
        numbers = numbers[distinct.indices.to_numpy()]
        lengths = self._lengths[numbers]
        shifts = np.repeat(self._begins[numbers] - np.cumsum(lengths, dtype=np.int32) + lengths, lengths)
        tokens = self._tokens[shifts + np.arange(len(shifts), dtype=np.int32)]
        return tokens, np.add.reduceat(lengths, pieces.offsets.to_numpy()[:-1], dtype=np.int64)

    def _learn(self, names: list[str]) -> None:
        """Add pieces to the table. Most are spelt as one text, with ``#``, which is always a word, before each."""
        pieces = [_unescape(name) if _MARK in name else " " + name for name in names]
        is_odd = np.array(["#" in piece or piece[-1:].isspace() for piece in pieces], np.bool_)  # reads as another
        plain, odd = list(compress(pieces, ~is_odd)), list(compress(pieces, is_odd))
        starts = range(0, len(plain), _PIECES_PER_TEXT)
        tokens, _ = self._spell(["#" + "#".join(plain[start : start + _PIECES_PER_TEXT]) for start in starts])
        odd_tokens, odd_lengths = self._spell(odd)
        hashes = np.flatnonzero(tokens == self._hash_id)
        begins, lengths = np.empty((2, len(pieces)), np.int32)
        begins[~is_odd], lengths[~is_odd] = hashes + 1, np.diff(hashes, append=len(tokens)) - 1
        begins[is_odd], lengths[is_odd] = len(tokens) + np.cumsum(odd_lengths) - odd_lengths, odd_lengths
        self._numbers.update(zip(names, count(len(self._numbers)), strict=False))
        self._begins = np.append(self._begins, len(self._tokens) + begins)
        self._lengths = np.append(self._lengths, lengths)
        self._tokens = np.concatenate((self._tokens, tokens, odd_tokens))

    def _spell(self, texts: Sequence[str]) -> tuple[Tokens, Lengths]:
        """Tokens of texts, from `tokenizers`."""
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        lengths = np.fromiter((len(encoding) for encoding in encodings), np.int64, len(encodings))
        ids = chain.from_iterable(encoding.ids for encoding in encodings)
        return np.fromiter(ids, self._dtype, int(lengths.sum())), lengths


def _mark_spaces(text: str) -> str:
    """A text in which every space that is left is a cut."""
    has_others = _MARK in text or text.endswith(" ") or _SPACES.search(text)  # quickly said of most texts
    return _NO_CUT.sub(_escape, text) if has_others else text


def _escape(found: re.Match[str]) -> str:
    """What stands for a space that is no cut, and for the character that marks it."""
    return _MARK + ("_" if found[0] == " " else "-")


def _unescape(name: str) -> str:
    """The text of a piece."""
    space = "" if name.startswith(_BEGIN) else " "
    return space + name.removeprefix(_BEGIN).replace(_MARK + "_", " ").replace(_MARK + "-", _MARK)


def _is_cut_at_spaces(backend: Tokenizer) -> bool:
    """Whether a space before a visible character always begins a word."""
    parts, ours = (json.loads(one.to_str()) for one in (backend, lossless_pipeline(SPECIAL_TOKENS)))
    has_own_words = any(not token["special"] for token in parts["added_tokens"])
    return parts["normalizer"] is None and parts["pre_tokenizer"] == ours["pre_tokenizer"] and not has_own_words
