"""How well a model predicts any text: bits per byte and perplexity, or masked tokens, and the order of segments.

A causal model reads long texts in windows that overlap; each token is predicted once, with as much before it as the
stride leaves, so every byte counts once and nothing is dropped. Bits per byte compare models with different tokenizers;
perplexities per token do not. A masked model is asked for the same 15% of the tokens every time, as in pre-training. A
model with BERT's second head is also asked whether segment B follows segment A.
"""

import logging
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm
from transformers import AutoModelForPreTraining

from hf_minibert.assets import model_folder
from hf_minibert.data.corpus import FileCorpus, open_corpus
from hf_minibert.data.documents import Corpus, Document
from hf_minibert.data.rows import Masking, NextSentenceRows, SentenceOrderRows
from hf_minibert.data.sources import TEXT_FORMATS, suffix_of
from hf_minibert.data.token_store import Documents
from hf_minibert.errors import UserError
from hf_minibert.evaluation.arguments import EvaluateArguments
from hf_minibert.evaluation.opening import NOT_NUMBERS, LanguageModel, open_config, open_language_model
from hf_minibert.evaluation.scores import Spelt, special_ids, token_scores, tokens_at_once
from hf_minibert.evaluation.suites import Result
from hf_minibert.models.losses import IGNORE_INDEX
from hf_minibert.presets import load_pretrained

logger = logging.getLogger(__name__)

LONGEST_WINDOW = 1_024
"""The default window of models that read more, or anything."""
MASKED = 0.15
SEED = 0
"""Of the masks and the pairs, which are the same for every model with the same tokenizer and window."""

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Spelling:
    """The tokens of some texts, and what they keep of them."""

    ids: list[Integers]
    """Of each text, without special tokens."""
    num_bytes: int
    num_words: int
    """Of the texts as they are written, not as the tokenizer changes them; words are counted as lm-eval does."""
    restored: int
    """Texts that their tokens give back."""
    unknown: int
    """Tokens that stand for what the tokenizer does not know."""


def read(arguments: EvaluateArguments) -> tuple[list[str], list[Path]]:
    """The documents, and the files that hold them.

    Raises:
        UserError: a source cannot be read, or there is no text.
    """
    corpus = open_corpus(arguments.dataset or [], text_column=arguments.text_column, document=arguments.document)
    files = corpus.files if isinstance(corpus, FileCorpus) else []
    if isinstance(corpus, FileCorpus) and corpus.skipped:
        logger.warning("%s", corpus.skipped)
    whole = {
        label for label, path in files if suffix_of(path).startswith(TEXT_FORMATS) and arguments.document == "file"
    }
    texts = list(islice(_texts(corpus, whole), arguments.max_documents))
    return texts, [path for _, path in files]


def _texts(corpus: Corpus, whole: set[str]) -> Iterator[str]:
    """The documents of a corpus, in which the pieces of a file with one of these labels are one document."""
    numbers = count()

    def unit(document: Document) -> str | int:
        label = document.id.rpartition("#")[0]
        return label if label in whole else next(numbers)

    for _, pieces in groupby(corpus, unit):
        yield "".join(piece.text for piece in pieces)


def measure(name: str, texts: list[str], arguments: EvaluateArguments) -> Result:
    """Predict the texts.

    Raises:
        UserError: the model cannot tell probabilities of text, or the window does not suit it.
    """
    model = open_language_model(name, backend=arguments.backend, trust_remote_code=arguments.trust_remote_code)
    if arguments.stride is not None and model.backend != "causal" and arguments.compare is None:
        raise UserError(
            f"stride is for causal models, and the windows of {name}, a masked one, do not overlap; leave it out"
        )
    window, stride = window_of(model, arguments.window, arguments.stride)
    spelling = spell_texts(model, texts)
    figures: dict[str, Any] = {
        "backend": model.backend,
        "documents": len(texts),
        "bytes": spelling.num_bytes,
        "tokens": sum(map(len, spelling.ids)),
        "unknown_tokens": spelling.unknown,
        "restored_documents": spelling.restored,
        "window": window,
    }
    rows: dict[str, float | None]
    if model.backend == "causal":
        found = causal_figures(model, spelling, window, stride, arguments.batch_tokens)
        rows = {
            "bits per byte": found["bits_per_byte"],
            "perplexity per word": found["word_perplexity"],
            "perplexity per token of its own": found["perplexity"],
        }
        figures |= {"stride": stride}
        bars = {"bits per byte": found["bits_per_byte"]}
    else:
        found = masked_figures(model, spelling, window, arguments.batch_tokens)
        rows = {
            "masked-LM loss, nats per token of its own": found["masked_lm_loss"],
            "masked-LM accuracy, percent": found["masked_lm_accuracy"],
        }
        bars = {"masked-LM loss (nats)": found["masked_lm_loss"]}
        order = order_figures(
            model, spelling, window, arguments.batch_tokens, trust_remote_code=arguments.trust_remote_code
        )
        rows |= {f"{name.replace('_', ' ')}, percent": value for name, value in order.items()}
        found |= order
    rows["texts that the tokenizer restores, percent"] = 100 * spelling.restored / len(texts)
    return Result(figures=figures | found, rows=rows, bars=bars, axis="lower is better", digits=3)


def window_of(model: LanguageModel, window: int | None, stride: int | None) -> tuple[int, int]:
    """The tokens of a window, special ones included, and how far one begins behind another.

    Raises:
        UserError: the model does not read so many, or tokens between two windows would be lost.
    """
    before, behind = special_ids(model)
    longest = model.max_length or LONGEST_WINDOW
    window = min(longest, LONGEST_WINDOW) if window is None else window
    if model.max_length is not None and window > model.max_length:
        raise UserError(f"window {window:,} is longer than {model.name} reads, {model.max_length:,} tokens; shorten it")
    if window < len(before) + len(behind) + 2:
        raise UserError(f"window must hold at least {len(before) + len(behind) + 2} tokens, got {window}")
    stride = max(1, window // 2) if stride is None else stride
    if stride > window - 1:
        raise UserError(f"stride must be at most window - 1, which is {window - 1}, or tokens are lost; got {stride}")
    return window, stride


def spell_texts(model: LanguageModel, texts: list[str]) -> Spelling:
    """Tokens of texts, in which the characters of special tokens are characters."""
    tokenizer = model.tokenizer
    encoded = tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False).input_ids
    restored = sum(
        tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
        for ids, text in zip(encoded, texts, strict=True)
    )
    ids = [np.array(each, dtype=np.int64) for each in encoded]
    unknown = 0 if tokenizer.unk_token_id is None else sum(int((each == tokenizer.unk_token_id).sum()) for each in ids)
    words = sum(len(re.split(r"\s+", text)) for text in texts)
    return Spelling(ids, sum(len(text.encode()) for text in texts), words, restored, unknown)


def windows(ids: Integers, begin: int | None, window: int, stride: int) -> Iterator[Spelt]:
    """Windows over a text in which each token is scored once.

    With a stride of window - 1 they are those of lm-eval's rolling log-likelihood with a max_length of window - 1.

    Args:
        ids: the tokens of a text.
        begin: the token before it, which is not scored; None: there is none, so the first of `ids` is not, either.
        window: tokens in a window, at most.
        stride: how far a window begins behind the one before it, less than `window`; the last one begins earlier.
    """
    tokens = ids if begin is None else np.concatenate(([begin], ids))
    scored, start = 1, 0
    while scored < len(tokens):
        start = max(0, min(start, len(tokens) - window))  # the last one is as long as the others
        piece = tokens[start : start + window]
        places = np.arange(scored - start, len(piece))
        yield Spelt(piece, places, places + 1)
        scored = start + len(piece)
        start += stride


def causal_figures(
    model: LanguageModel, spelling: Spelling, window: int, stride: int, batch_tokens: int | None
) -> dict[str, float]:
    """Bits per byte, and perplexities, from left to right.

    Where a tokenizer has neither a beginning nor an end of text to begin with, the first token of a text cannot be
    predicted; it costs what it costs one who knows nothing, the logarithm of the vocabulary's size.
    """
    ids = (model.tokenizer.bos_token_id, model.tokenizer.eos_token_id)
    begin = next((number for number in ids if number is not None), None)
    spelt = [piece for text in spelling.ids for piece in windows(text, begin, window, stride)]
    scores, _ = token_scores(model, spelt, batch_tokens=batch_tokens, words=model.name)
    nats = -sum(float(each.sum(dtype=np.float64)) for each in scores)
    if begin is None:
        nats += math.log(model.vocab_size) * sum(len(text) > 0 for text in spelling.ids)
    tokens = sum(map(len, spelling.ids))
    if not tokens:
        raise UserError(f"the tokenizer of {model.name} has no token for these texts; give others")
    return {
        "bits_per_byte": nats / math.log(2) / spelling.num_bytes,
        "nats_per_token": nats / tokens,
        "perplexity": math.exp(min(nats / tokens, 700.0)),
        "word_perplexity": math.exp(min(nats / spelling.num_words, 700.0)),
    }


def masked_figures(model: LanguageModel, spelling: Spelling, window: int, batch_tokens: int | None) -> dict[str, float]:
    """Loss in nats and accuracy in percent on 15% of the tokens, hidden as in pre-training.

    Raises:
        UserError: the text is so short that no token is chosen.
    """
    before, behind = special_ids(model)
    size = window - len(before) - len(behind)
    pieces = [text[start : start + size] for text in spelling.ids for start in range(0, len(text), size)]
    masking = _masking(model)
    limit = max(1, (batch_tokens or 4_096) // window)
    total = correct = count = 0.0
    pad = model.pad_id
    for first in tqdm(range(0, len(pieces), limit), desc=model.name, unit=" batches", disable=None):
        some = pieces[first : first + limit]
        width = max(map(len, some)) + len(before) + len(behind)
        clear = np.full((len(some), width), pad, dtype=np.int64)
        real = np.zeros((len(some), width), dtype=np.bool_)
        for row, piece in enumerate(some):
            line = [*before, *piece, *behind]
            clear[row, : len(line)], real[row, : len(line)] = line, True
        noisy, labels = masking.apply(0, np.arange(first, first + len(some)), clear)
        rows, columns = np.nonzero((labels != IGNORE_INDEX) & real)
        if not len(rows):
            continue
        found, is_best = model.predict(
            torch.from_numpy(noisy),
            None if real.all() else torch.from_numpy(real.astype(np.int64)),
            torch.from_numpy(rows),
            torch.from_numpy(columns),
            torch.from_numpy(labels[rows, columns]),
        )
        total -= float(found.double().sum())
        correct += float(is_best.sum())
        count += len(rows)
    if not count:
        raise UserError("the text is so short that none of its tokens is hidden; give more text")
    if math.isnan(total):
        raise UserError(NOT_NUMBERS.format(model.name))
    return {"masked_lm_loss": total / count, "masked_lm_accuracy": 100 * correct / count, "masked_tokens": count}


def _masking(model: LanguageModel) -> Masking:
    tokenizer = model.tokenizer
    return Masking(
        probability=MASKED,
        mask_id=tokenizer.mask_token_id,
        special_ids=sorted({*tokenizer.all_special_ids, model.pad_id}),
        vocab_size=len(tokenizer),
        seed=SEED,
    )


@torch.inference_mode()
def order_figures(
    model: LanguageModel, spelling: Spelling, window: int, batch_tokens: int | None, *, trust_remote_code: bool
) -> dict[str, float]:
    """The accuracy, in percent, of a second head that tells whether B follows A; nothing if there is no such head.

    In next-sentence prediction B is from another document, in sentence-order prediction A and B are swapped. A model
    was trained for one of them, and is asked both.
    """
    config = open_config(model.name, trust_remote_code=trust_remote_code)
    usable = [ids for ids in spelling.ids if len(ids) >= 2]
    if not any(name.endswith("ForPreTraining") for name in config.architectures or []) or len(usable) < 2:
        return {}
    paired, missing = load_pretrained(
        AutoModelForPreTraining,
        model_folder(model.name),
        trust_remote_code=trust_remote_code,
        config=config,
        dtype=torch.float32,
    )
    if missing:  # its second head would be one that nobody has trained
        return {}
    paired.eval().to(model.device)
    lengths = np.array([len(ids) for ids in usable])
    places = np.stack((np.zeros_like(lengths), np.cumsum(lengths) - lengths, lengths), axis=1)
    documents = Documents([np.concatenate(usable)], places)
    figures, limit = {}, max(1, tokens_at_once(model, batch_tokens, all_logits=True) // window)
    for name, kind in (("next_sentence_accuracy", NextSentenceRows), ("sentence_order_accuracy", SentenceOrderRows)):
        made = kind(
            documents,
            length=window,
            cls_id=model.tokenizer.cls_token_id,
            sep_id=model.tokenizer.sep_token_id,
            seed=SEED,
            masking=_masking(model),
            pad_id=model.pad_id,
        )
        correct = 0
        for first in range(0, made.num_rows, limit):
            rows = np.arange(first, min(first + limit, made.num_rows))
            batch = {key: value.to(model.device) for key, value in made.batch(0, rows).items()}
            labels = batch.pop("next_sentence_label")
            batch.pop("labels")
            if not getattr(config, "type_vocab_size", 1):
                batch.pop("token_type_ids")
            outputs = paired(**batch)
            answers = outputs.get("seq_relationship_logits", outputs.get("sop_logits"))  # the latter is ALBERT's
            if answers is None:  # its second head tells something else, as ELECTRA's
                return {}
            correct += int((answers.argmax(dim=1) == labels).sum())
        figures[name] = 100 * correct / made.num_rows
    return figures
