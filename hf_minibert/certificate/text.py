"""Whether a tokenizer restores text, and says where in it its tokens stand."""

import re
from typing import Any

from transformers import PreTrainedTokenizerFast

from hf_minibert.certificate.attention import Failed
from hf_minibert.certificate.checkpoint import Checkpoint, NotApplicable
from hf_minibert.certificate.hard_strings import hard_strings
from hf_minibert.tokenization import is_byte_level, token_bytes

SHOWN = 60


def restores_strings(checkpoint: Checkpoint) -> str:
    """Hard strings come back from their tokens."""
    tokenizer, texts = fast_tokenizer(checkpoint), hard_strings()
    ids = encoding(tokenizer, texts)["input_ids"]
    restored = tokenizer.batch_decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    lost = [(text, back) for text, back in zip(texts, restored, strict=True) if text != back]
    reason = "that is not byte-level" if not is_byte_level(tokenizer) else ""
    if not checkpoint.is_ours and tokenizer.backend_tokenizer.normalizer is not None:
        reason = reason or "that normalises text"
    if lost and reason:
        raise NotApplicable(
            f"a {type(tokenizer).__name__} {reason} does not promise it; of {len(texts):,} hard strings "
            f"{len(texts) - len(lost):,} come back"
        )
    if lost:
        text, back = lost[0]
        raise Failed(
            f"{len(lost):,} of {len(texts):,} hard strings come back as others: {ascii(text[:SHOWN])} as "
            f"{ascii(back[:SHOWN])}"
        )
    return f"all of {len(texts):,} hard strings"


def offsets_point_at_words(checkpoint: Checkpoint) -> str:
    """The offsets of a token are those of its characters, and every visible character has a token."""
    tokenizer, texts = fast_tokenizer(checkpoint), hard_strings()
    spelt = token_bytes(tokenizer) if is_byte_level(tokenizer) else None
    normalizer = tokenizer.backend_tokenizer.normalizer
    count = 0
    encoded = encoding(tokenizer, texts)
    for text, ids, offsets in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        seen = bytearray(len(text))
        is_changed = normalizer is not None and normalizer.normalize_str(text) != text  # so its bytes are others
        for token, (start, end) in zip(ids, offsets, strict=True):
            if not 0 <= start <= end <= len(text):
                raise Failed(
                    f"in {ascii(text[:SHOWN])}, a token has the offsets {start} to {end} of {len(text)} characters"
                )
            seen[start:end] = b"\x01" * (end - start)
            there = text[start:end]
            if spelt is not None:
                is_right = is_changed or spelt[token].strip(b" ") in f" {there}".encode() or not there.strip()
            else:
                surface = str(tokenizer.convert_ids_to_tokens(token)).removeprefix("##").lstrip("\u2581")
                is_told = surface.isalnum() and surface.isascii() and there.isascii()  # else accents may have gone
                is_right = not is_told or folded(surface) == folded(there)
            if not is_right:
                name = ascii(tokenizer.convert_ids_to_tokens(token))
                raise Failed(f"in {ascii(text[:SHOWN])}, the offsets of the token {name} are those of {ascii(there)}")
            count += 1
        words = re.finditer(r"[A-Za-z0-9]+", text)
        if missed := next((word for word in words if not all(seen[word.start() : word.end()])), None):
            raise Failed(f"in {ascii(text[:SHOWN])}, no token has the offsets of the word {missed[0][:SHOWN]!r}")
    return f"{count:,} tokens of {len(texts):,} hard strings"


def fast_tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerFast:
    """The tokenizer.

    Raises:
        NotApplicable: it is written in Python, and knows no offsets.
    """
    tokenizer = checkpoint.tokenizer
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise NotApplicable(f"a {type(tokenizer).__name__} has no tokenizer.json, and knows no offsets")
    return tokenizer


def encoding(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Any:
    """The tokens of texts and their offsets; what looks like a special token is text."""
    return tokenizer(
        texts, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True, verbose=False
    )


def folded(text: str) -> str:
    """What of a word an uncased tokenizer keeps."""
    return text.strip().casefold()
