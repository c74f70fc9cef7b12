"""Train, load, adapt and apply the WordPiece vocabulary that MiniBERT and MiniGPT share.

The default tokenizer is *lossless*: ``decode(encode(text)) == text`` for every string that UTF-8 can hold, and
``[UNK]`` never occurs. It is made of stock ``tokenizers`` parts, so ``AutoTokenizer`` opens it without this package:

* One regular expression cuts text into words, as GPT-2's does (Radford et al. 2019): a word takes the single space
  before it, no word is longer than `MAX_WORD_CHARACTERS`, and ``#`` is always a word of its own.
* Each word is spelt in the 256 byte characters of GPT-2, so no character is unknown. All of them are in the
  vocabulary, alone and behind ``##``, but for ``###``, which cannot occur since ``#`` never continues a word. So a
  leading ``##`` is always ours, and the decoder may strip it.
* WordPiece (Schuster and Nakajima 2012; Devlin et al. 2019) spells a word greedily by its longest known pieces. Its
  search is worse than quadratic in the length of a word; the limit on that length keeps time linear in the text.

Raw text may contain the characters of a special token, such as ``[MASK]``. The Transformers tokenizer reads them as
the token, so that prompts can be written. `hf_minibert.document_encoder` and `train_wordpiece` read them as plain text,
so that a corpus cannot inject tokens that mean something to the model; ``tokenizer(text, split_special_tokens=True)``
does the same for one call. ``[MASK]`` takes the white space before it, so that ``the cat [MASK] on`` looks as it did in
pre-training; that space, before a ``[MASK]`` that is read as the token, is the only thing decoding does not restore.
"""

import copy
import heapq
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from hf_minibert.assets import asset, require_tokenizer
from hf_minibert.errors import UserError

logger = logging.getLogger(__name__)

OWN_TOKENIZER = asset("tokenizer")
"""The tokenizer that comes with the package."""

SPECIAL_TOKENS: dict[str, int] = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}
SPECIAL_ROLES: dict[str, str] = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}

PREFIX = "##"
MAX_WORD_CHARACTERS = 32
_MAX_WORD_BYTES = 4 * (MAX_WORD_CHARACTERS + 1)  # a character has at most 4 bytes; one more for the space before a word
_WORD = (
    r"#"
    r"|'(?:s|t|re|ve|m|ll|d)"
    r"| ?\p{L}{1,N}"
    r"| ?\p{N}{1,N}"
    r"| ?[^\s\p{L}\p{N}#]{1,N}"
    r"|\s{1,N}(?!\S)"  # leaves the last space of a run to the word behind it
    r"|\s{1,N}"
).replace("1,N", f"1,{MAX_WORD_CHARACTERS}")

_SPACES_IN_TOKENS = ("\u0120", "\u2581")  # as byte-level tokenizers and SentencePiece write it

_CLASSIC_ALPHABET = 1_000  # BERT's own limit; a writing with more characters gets more
_CLASSIC_COVERAGE = 0.9999  # of all characters of the corpus; the rest, and the words they stand in, become [UNK]
MOST_GROWTH = 100
"""A normalizer may make a text this many times as long; the worst that Unicode does is 18 times."""
# What a call of transformers leaves behind in the settings that it saves, and means nothing elsewhere.
_SETTINGS_OF_A_CALL = ("is_local", "local_files_only", "trust_remote_code", "name_or_path", "tokenizer_file")
_SETTINGS_OF_A_MOMENT = ("fast_tokenizer_files",)  # while a folder's files are exchanged
_CODE_OF_OTHERS = ("auto_map",)  # with which a tokenizer that needs none was once published
_SAMPLE_PIECE_CHARACTERS = 65_536
_MAX_USES_PER_TEXT = 8  # when pieces are ranked: the name of one novel's hero is not a common word


@dataclass(frozen=True)
class TextSample:
    """The texts that `sample_texts` kept, and how much it chose from."""

    texts: list[str]
    num_bytes: int
    seen_documents: int
    seen_bytes: int


def sample_texts(texts: Iterable[str], *, max_bytes: int, seed: int) -> TextSample:
    """Keep a uniform sample of at most ``max_bytes`` in one pass, holding no more than that in memory.

    Every piece of a document draws a number from ``seed``, and the pieces with the smallest numbers stay, in their
    order: the same texts and seed give the same sample. Long documents are sampled in pieces, so that a few whole books
    do not stand for a library; a piece may begin or end inside a word, which a vocabulary's counts do not notice.

    Raises:
        UserError: a text holds half of a surrogate pair.
    """
    random = Random(seed)
    piece_characters = max(1, min(_SAMPLE_PIECE_CHARACTERS, max_bytes // 64))
    kept: list[tuple[float, int, str, int]] = []  # a heap with the largest number on top
    kept_bytes = seen_documents = seen_bytes = pieces = 0
    limit = 1.0
    for document, text in enumerate(texts):
        seen_documents += 1
        for start in range(0, len(text), piece_characters):
            piece, number = text[start : start + piece_characters], random.random()
            num_bytes = count_bytes(piece, document)
            seen_bytes += num_bytes
            pieces += 1
            if number < limit:
                heapq.heappush(kept, (-number, pieces, piece, num_bytes))
                kept_bytes += num_bytes
            while kept_bytes > max_bytes:
                negative, _, _, dropped_bytes = heapq.heappop(kept)
                kept_bytes -= dropped_bytes
                limit = -negative  # later pieces must do better, or small ones would slip in
    kept.sort(key=lambda entry: entry[1])
    return TextSample([piece for _, _, piece, _ in kept], kept_bytes, seen_documents, seen_bytes)


def count_bytes(text: str, index: int) -> int:
    """The length of a text in UTF-8; `index` names the text in the error.

    Raises:
        UserError: the text holds half of a surrogate pair, which UTF-8 cannot write.
    """
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise UserError(f"text {index} is not valid Unicode ({error}); repair or drop it") from error


def train_wordpiece(
    texts: Iterable[str], *, vocab_size: int = 8192, lowercase: bool = False, show_progress: bool = False
) -> PreTrainedTokenizerFast:
    """Train a vocabulary on all of ``texts`` and return MiniBERT's variant of the tokenizer.

    The same texts give the same vocabulary.

    Args:
        texts: the documents, held in memory since they are read more than once; see `sample_texts`.
        vocab_size: entries of the vocabulary, special tokens included.
        lowercase: train a classic uncased BERT WordPiece instead, which loads as `BertTokenizer`. It is not lossless.
        show_progress: draw the trainer's own progress bars.

    Raises:
        UserError: ``vocab_size`` is too small for the alphabet or larger than the texts support, or a text is not
            valid Unicode.
    """
    texts = list(texts)
    for index, text in enumerate(texts):
        count_bytes(text, index)
    build = _classic_pipeline if lowercase else lossless_pipeline
    if lowercase:
        alphabet, continuing = _frequent_characters(texts, vocab_size)
    else:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        continuing = [character for character in alphabet if character != "#"]
    vocabulary = _learn_vocabulary(build, texts, alphabet, continuing, vocab_size, show_progress=show_progress)
    if lowercase:
        return BertTokenizer(vocab=vocabulary, do_lower_case=True)
    mask = AddedToken("[MASK]", lstrip=True, special=True)
    roles = {role: mask if token == "[MASK]" else token for role, token in SPECIAL_ROLES.items()}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=build(vocabulary), **roles)
    return adapt_tokenizer(tokenizer, model_type="minibert", uses_token_types=True, model_max_length=None)


def lossless_pipeline(vocabulary: dict[str, int]) -> Tokenizer:
    """The `tokenizers` pipeline that the module's docstring describes, without a post-processor."""
    backend = Tokenizer(
        models.WordPiece(
            vocabulary, unk_token="[UNK]", continuing_subword_prefix=PREFIX, max_input_chars_per_word=_MAX_WORD_BYTES
        )
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORD), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.Sequence([decoders.Replace(Regex("^" + PREFIX), ""), decoders.ByteLevel()])
    return backend


def _classic_pipeline(vocabulary: dict[str, int]) -> Tokenizer:
    return BertTokenizer(vocab=vocabulary, do_lower_case=True).backend_tokenizer


def _frequent_characters(texts: Sequence[str], vocab_size: int) -> tuple[list[str], list[str]]:
    """The characters that the classic vocabulary spells words with, and those that can go on with a word.

    Each in a fixed order. Chinese characters and punctuation are always words of their own, so they need no ``##``.
    """
    pipeline = _classic_pipeline(SPECIAL_TOKENS)
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(pipeline.normalizer.normalize_str(text))
    ranked = sorted((-count, character) for character, count in counts.items() if not character.isspace())
    wanted = sum(negative for negative, _ in ranked) * _CLASSIC_COVERAGE
    alphabet, continuing, covered = list[str](), list[str](), 0
    for negative, character in ranked:
        within = pipeline.normalizer.normalize_str(f"a{character}a")
        continues = len(pipeline.pre_tokenizer.pre_tokenize_str(within)) == 1
        if len(alphabet) >= _CLASSIC_ALPHABET:
            num_fixed = len(SPECIAL_TOKENS) + len(alphabet) + len(continuing) + 1 + continues
            if covered <= wanted or num_fixed > vocab_size:
                break
        alphabet.append(character)
        covered += negative
        if continues:
            continuing.append(character)
    return sorted(alphabet), sorted(continuing)


def _learn_vocabulary(
    build: Callable[[dict[str, int]], Tokenizer],
    texts: Sequence[str],
    alphabet: list[str],
    continuing: list[str],
    vocab_size: int,
    *,
    show_progress: bool,
) -> dict[str, int]:
    """Special tokens, characters, continuing characters, then merged pieces in the order in which they were learnt.

    `tokenizers` learns a WordPiece as byte-pair merges, whose stepping stones ("Massachuse") a greedy search seldom
    uses. So a quarter more is learnt than was asked for, and the pieces that the texts use least are dropped: 1% more
    bytes a token on held-out text.
    """
    fixed = [*SPECIAL_TOKENS, *alphabet, *(PREFIX + character for character in continuing)]
    if vocab_size < len(fixed):
        raise UserError(
            f"vocab_size {vocab_size} is too small: special tokens and alphabet alone take {len(fixed)} entries; "
            f"give at least that many"
        )
    trainer = trainers.WordPieceTrainer(
        vocab_size=max(vocab_size, len(fixed) + (vocab_size - len(fixed)) * 5 // 4),
        min_frequency=2,
        # Special to the trainer only, which never looks for them in the text. It numbers them first; characters that it
        # meets by itself it numbers in the order of a hash table, and it breaks ties between equal counts by number.
        special_tokens=fixed,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        continuing_subword_prefix=PREFIX,
        show_progress=show_progress,
    )
    pipeline = build(SPECIAL_TOKENS)
    pipeline.train_from_iterator(texts, trainer)
    learnt = pipeline.get_vocab(with_added_tokens=False)
    if len(learnt) < vocab_size:
        raise UserError(
            f"the corpus supports only {len(learnt)} entries, fewer than vocab_size {vocab_size}; "
            f"give --vocab_size {len(learnt)}, or text with more words of several letters"
        )
    pieces = sorted(learnt, key=learnt.__getitem__)
    unknown = learnt["[UNK]"]
    uses = np.zeros(len(pieces), dtype=np.int64)
    num_tokens = num_unknown = 0
    pipeline = build(learnt)
    for start in range(0, len(texts), 64):
        for encoding in pipeline.encode_batch_fast(texts[start : start + 64], add_special_tokens=False):
            counts = np.bincount(encoding.ids, minlength=len(pieces))
            num_tokens, num_unknown = num_tokens + len(encoding.ids), num_unknown + int(counts[unknown])
            uses += np.minimum(counts, _MAX_USES_PER_TEXT)
    if num_unknown:
        logger.warning(
            "%.2g%% of the corpus's tokens become [UNK]: words with characters for which there is no room, or too long",
            100 * num_unknown / num_tokens,
        )
    uses[: len(fixed)] = np.iinfo(np.int64).max
    kept = np.sort(np.argsort(-uses, kind="stable")[:vocab_size])
    return {pieces[index]: position for position, index in enumerate(kept)}


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerFast:
    """Open a tokenizer folder, a checkpoint's folder, or a tokenizer of the Hub named ``owner/name``.

    Raises:
        UserError: there is no tokenizer, it is damaged, or it lacks a special token that the objectives need.
    """
    require_tokenizer(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
    except Exception as error:  # `tokenizers` raises plain Exception for a damaged file
        reason = " ".join(str(error).split())[:200]
        trouble = (
            "cannot open the tokenizer" if Path(path).is_dir() else "no folder here and no tokenizer on the Hub is"
        )
        raise UserError(f"{trouble} {path} ({reason}); train one with hf-minibert train-tokenizer") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(
            f"the tokenizer {path} is a {type(tokenizer).__name__}, which has no tokenizer.json; convert it"
        )
    missing = [role for role in SPECIAL_ROLES if tokenizer.special_tokens_map.get(role) is None]
    if missing:
        raise UserError(
            f"the tokenizer {path} lacks {', '.join(missing)}, which training needs; "
            f"add them or train one with hf-minibert train-tokenizer"
        )
    numbers = sorted(tokenizer.get_vocab().values())
    gap = next((index for index, number in enumerate(numbers) if number != index), None)
    if gap is not None:
        raise UserError(
            f"the tokenizer {path} has {len(numbers):,} entries whose ids are not 0 to {len(numbers) - 1:,}: where "
            f"{gap} is due stands {numbers[gap]}; number them without holes, or train one with "
            "scripts/train_tokenizer.py"
        )
    growth = _growth(json.loads(tokenizer.backend_tokenizer.to_str())["normalizer"])
    if growth > MOST_GROWTH:
        raise UserError(
            f"the normalizer of the tokenizer {path} can make a text {growth:,.0f} times as long, more than "
            f"{MOST_GROWTH} times; take its long replacements out of tokenizer.json, or train another"
        )
    return tokenizer


def _growth(normalizer: dict[str, Any] | None) -> float:
    """How many times as long a normalizer, as `tokenizer.json` has it, can make a text."""
    steps = [] if normalizer is None else [normalizer]
    grows, decomposes = 1.0, 1.0
    while steps:
        step = steps.pop(0)
        kind = step["type"]
        if kind == "Sequence":
            steps = [*step["normalizers"], *steps]
        elif kind == "Replace":  # an expression may match the nothing beside every character
            replaced = step["pattern"].get("String")
            longest = len(step["content"])
            grows *= max(1.0, longest / len(replaced)) if replaced else 1.0 + longest
        elif kind == "Prepend":
            grows *= 1.0 + len(step["prepend"])
        elif kind in ("NFKC", "NFKD", "Precompiled", "NFC", "NFD", "Lowercase"):  # the second decomposes nothing more
            decomposes = max(decomposes, 18.0 if kind in ("NFKC", "NFKD", "Precompiled") else 4.0)
        elif kind not in ("Strip", "StripAccents"):
            grows *= 4.0
    return grows * decomposes


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: str | Path) -> None:
    """Write a tokenizer so that it opens alike everywhere, without the settings of earlier calls, and without code.

    `tokenizer.json` neither cuts nor pads, and its class has the name that transformers 4 also opens.
    """
    clean = copy.deepcopy(tokenizer)
    if isinstance(clean, PreTrainedTokenizerFast):  # others have no state to forget
        clean.backend_tokenizer.no_truncation()
        clean.backend_tokenizer.no_padding()
    clean.save_pretrained(folder)
    path = Path(folder) / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    for name in (*_SETTINGS_OF_A_CALL, *_SETTINGS_OF_A_MOMENT, *_CODE_OF_OTHERS):
        settings.pop(name, None)
    if settings["tokenizer_class"] == "TokenizersBackend":  # its name since transformers 5, which knows both
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def adapt_tokenizer(
    tokenizer: PreTrainedTokenizerFast,
    *,
    model_type: Literal["minibert", "minigpt"],
    uses_token_types: bool,
    model_max_length: int | None,
) -> PreTrainedTokenizerFast:
    """A new tokenizer with the same vocabulary, for one kind of model; the one given is left as it was.

    MiniBERT's adds ``[CLS] A [SEP]`` or ``[CLS] A [SEP] B [SEP]``. MiniGPT's adds nothing to the text and never gives
    token types; documents begin with ``[CLS]`` as its ``bos_token`` and end with ``[SEP]`` as its ``eos_token``. Both
    pad on the right, as GPT-2's does: a batch of prompts for `generate` needs ``padding_side="left"`` in the call.

    Args:
        tokenizer: one with the special tokens of `load_tokenizer`.
        model_type: the kind of model.
        uses_token_types: whether the model reads ``token_type_ids``; ignored for MiniGPT.
        model_max_length: tokens to which ``truncation=True`` cuts; None, no limit.
    """
    is_encoder = model_type == "minibert"
    input_names = ["input_ids", "token_type_ids", "attention_mask"]
    if not (is_encoder and uses_token_types):
        input_names.remove("token_type_ids")
    roles = {role: tokenizer.special_tokens_map[role] for role in SPECIAL_ROLES}
    if is_encoder and isinstance(tokenizer, BertTokenizer):  # keeps its class, so that it also opens as a stock one
        adapted = BertTokenizer(
            vocab=tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False),
            do_lower_case=tokenizer.do_lower_case,
            tokenize_chinese_chars=tokenizer.tokenize_chinese_chars,
            strip_accents=tokenizer.strip_accents,
            model_input_names=input_names,
            model_max_length=model_max_length,
            **roles,
        )
        added = sorted(tokenizer.added_tokens_decoder.items())
        adapted.add_tokens([token for _, token in added if token.content not in roles.values()])
        if adapted.get_vocab() == tokenizer.get_vocab():
            return adapted
    backend = plain_backend(tokenizer)
    steps: list[processors.PostProcessor] = []
    if _is_byte_level(backend):
        steps.append(processors.ByteLevel(trim_offsets=True))  # a word's offsets leave out the space before it
    if is_encoder:
        cls, sep = roles["cls_token"], roles["sep_token"]
        steps.append(
            processors.TemplateProcessing(
                single=f"{cls}:0 $A:0 {sep}:0",
                pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
                special_tokens=[(cls, tokenizer.cls_token_id), (sep, tokenizer.sep_token_id)],
            )
        )
    else:
        roles |= {"bos_token": roles["cls_token"], "eos_token": roles["sep_token"]}
    backend.post_processor = processors.Sequence(steps)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_input_names=input_names,
        model_max_length=model_max_length,
        padding_side="right",
        clean_up_tokenization_spaces=False,
        **roles,
    )


def ends_of_text(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """The ids of the tokens that begin and end a text: ours and BERT's, or else those of GPT-2 and Llama.

    Raises:
        UserError: the tokenizer has none.
    """
    begin, end = (
        next((found for name in names if (found := getattr(tokenizer, name)) is not None), None)
        for names in (("cls_token_id", "bos_token_id"), ("sep_token_id", "eos_token_id"))
    )
    if begin is None or end is None:
        raise UserError(
            "the tokenizer has no [CLS] and [SEP], nor other tokens that begin and end a text; give another"
        )
    return begin, end


def plain_backend(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """A copy of the backend that neither cuts nor pads, whatever the last call of the tokenizer asked for."""
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    backend.no_truncation()
    backend.no_padding()
    return backend


def is_byte_level(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether tokens say which bytes of text they stand for."""
    return _is_byte_level(tokenizer.backend_tokenizer)


def token_bytes(tokenizer: PreTrainedTokenizerFast) -> list[bytes]:
    """The bytes that each id stands for, so that those of ``encode(text)`` join to ``text.encode()``; specials, none.

    Raises:
        UserError: the tokenizer is not byte-level, so its tokens do not say what the text was.
    """
    if not _is_byte_level(tokenizer.backend_tokenizer):
        raise UserError("only a byte-level tokenizer knows the bytes of its tokens; train one without --lowercase")
    byte_of = {character: byte for byte, character in enumerate(_byte_characters())}
    prefix = _continuing_prefix(tokenizer)
    added_tokens = tokenizer.added_tokens_decoder
    spelt = [b""] * len(tokenizer)
    for token, index in tokenizer.get_vocab().items():
        if index not in added_tokens:
            characters = token.removeprefix(prefix)  # one that is no byte's is in the vocabulary, but never in a text
            spelt[index] = bytes(byte_of[character] for character in characters if character in byte_of)
        elif not added_tokens[index].special:
            spelt[index] = token.encode()
    return spelt


def word_starts(tokenizer: PreTrainedTokenizerFast) -> NDArray[np.bool_]:
    """For each id, whether the token starts a word; special tokens count as words.

    In a WordPiece vocabulary, tokens without ``##`` start words. Byte-pair and Unigram tokenizers mark the space before
    a word; if one marks nothing, all tokens count.
    """
    prefix = _continuing_prefix(tokenizer)
    vocabulary = tokenizer.get_vocab()
    starts = np.ones(len(tokenizer), dtype=np.bool_)
    for token, index in vocabulary.items():
        starts[index] = not token.startswith(prefix) if prefix else token.startswith(_SPACES_IN_TOKENS)
    if not prefix:
        starts[tokenizer.all_special_ids] = True
    return starts if prefix or starts.sum() > len(set(tokenizer.all_special_ids)) else np.ones_like(starts)


def _continuing_prefix(tokenizer: PreTrainedTokenizerFast) -> str:
    model = tokenizer.backend_tokenizer.model
    return str(model.continuing_subword_prefix) if isinstance(model, models.WordPiece) else ""


def _is_byte_level(backend: Tokenizer) -> bool:
    return "ByteLevel(" in str(backend.pre_tokenizer)


def _byte_characters() -> list[str]:
    """GPT-2's character for each byte: itself if it is printable Latin-1, else the next one from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]
