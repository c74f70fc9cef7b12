"""The tokenizer: lossless, deterministic, linear in time, and opened by stock classes."""

import copy
import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, BertTokenizer, PreTrainedTokenizerFast

from hf_minibert import document_encoder, tokenization
from hf_minibert.data.token_store import tokenizer_fingerprint
from hf_minibert.document_encoder import DocumentEncoder
from hf_minibert.errors import UserError
from hf_minibert.tokenization import (
    MAX_WORD_CHARACTERS,
    SPECIAL_TOKENS,
    adapt_tokenizer,
    load_tokenizer,
    sample_texts,
    save_tokenizer,
    token_bytes,
    train_wordpiece,
    word_starts,
)
from hf_minibert.verbs import train_tokenizer as verb

REPOSITORY = Path(__file__).parents[1]
SCRIPT = REPOSITORY / "scripts" / "train_tokenizer.py"
WORDS = [
    "walking",
    "walked",
    "talking",
    "talked",
    "the",
    "cat",
    "on",
    "a",
    "mat",
    "sitting",
    "hitting",
    "quickly",
    "slowly",
]

code_points = st.characters(exclude_categories=["Cs"])
hard_pieces = st.sampled_from(
    ["\x1a", "\x1a_", "\x1am", "\x1a^",
     "#", "##", "###", " #", "##a", "a##", "[MASK]", "[CLS]x", "[PAD", "[UNK]", " [SEP] ", " ", "  ", "\n\n\n", "\t",
     "\r\n", "\x00", "\x7f", "\u00a0", "\u2028", "\u200d", "\ufeff", "\U0001f468\u200d\U0001f469", "\U0001f1e9",
     "e\u0301", "\u00c4", "\u0120", "\u010a", "don't", "I'LL", "x" * 70, "-" * 40, " " * 70, "9" * 40, "\U0010ffff"]
)  # fmt: skip
any_text = st.one_of(
    st.text(code_points, max_size=200),
    st.text(st.characters(categories=["Cc", "Zs", "Zl", "Zp", "Cf"]), max_size=80),
    st.binary(max_size=200).map(lambda data: data.decode("latin-1")),
    st.lists(st.one_of(hard_pieces, st.text(code_points, max_size=5)), max_size=40).map("".join),
    st.text("ab1Z,.;:)\"'# \n\t\r\x1a^_-\x85\u2028\xe9\xa0\xbd\xb2\u5b57\x1c", max_size=60),  # where text is cut
)


def make_texts(num_texts: int = 60, seed: int = 0) -> list[str]:
    generator = random.Random(seed)
    return [" ".join(generator.choices(WORDS, k=80)) + ". #1" for _ in range(num_texts)]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return load_tokenizer(REPOSITORY / "tokenizer")


@pytest.fixture(scope="module")
def spelt(tokenizer: PreTrainedTokenizerFast) -> list[bytes]:
    return token_bytes(tokenizer)


@pytest.fixture(scope="module")
def encoder(tokenizer: PreTrainedTokenizerFast) -> DocumentEncoder:
    """One that remembers what it was given before."""
    return DocumentEncoder(tokenizer)


# ---------------------------------------------------------------- lossless


@settings(max_examples=600, deadline=None)
@given(text=any_text)
def test_every_text_is_restored_from_its_tokens(
    tokenizer: PreTrainedTokenizerFast, spelt: list[bytes], encoder: DocumentEncoder, text: str
) -> None:
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert all(index >= len(SPECIAL_TOKENS) for index in ids)
    assert b"".join(spelt[index] for index in ids) == text.encode()
    values, lengths = encoder([text, "a", text])
    assert values[: lengths[0]].tolist() == ids == values[lengths[0] + lengths[1] :].tolist()


@settings(max_examples=300, deadline=None)
@given(text=any_text.filter(lambda text: "[MASK]" not in text))
def test_text_that_is_parsed_for_special_tokens_is_restored_too(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text
    if "[UNK]" not in text:
        assert tokenizer.unk_token_id not in ids


def test_each_code_point_is_restored(tokenizer: PreTrainedTokenizerFast) -> None:
    code_points = [chr(point) for point in range(0, 0x110000, 7) if not 0xD800 <= point < 0xE000]
    texts = ["".join(code_points[start : start + 500]) for start in range(0, len(code_points), 500)]
    values, lengths = DocumentEncoder(tokenizer)(texts)
    ends = lengths.cumsum()
    assert tokenizer.batch_decode([values[end - n : end] for end, n in zip(ends, lengths, strict=True)]) == texts
    assert values.min() >= len(SPECIAL_TOKENS)


def test_half_a_surrogate_pair_is_refused_by_name(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match="text 1 is not valid Unicode"):
        DocumentEncoder(tokenizer)(["good", "\ud800"])
    with pytest.raises(UserError, match="text 1 is not valid Unicode"):
        sample_texts(["good", "\ud800"], max_bytes=1000, seed=0)
    for lowercase in (False, True):
        with pytest.raises(UserError, match="text 0 is not valid Unicode"):
            train_wordpiece(["\ud800"], vocab_size=600, lowercase=lowercase)


# ---------------------------------------------------------------- special tokens


def test_special_tokens_have_fixed_ids(tokenizer: PreTrainedTokenizerFast) -> None:
    assert list(SPECIAL_TOKENS.values()) == [0, 1, 2, 3, 4]
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [0, 1, 2, 3, 4]
    ids = (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id)
    assert (*ids, tokenizer.mask_token_id) == (0, 1, 2, 3, 4)


def test_the_alphabet_is_in_the_vocabulary(tokenizer: PreTrainedTokenizerFast) -> None:
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = set(tokenizer.get_vocab())
    assert alphabet <= vocabulary
    assert {"##" + character for character in alphabet - {"#"}} <= vocabulary
    assert not {"##", "###"} & vocabulary


def test_a_special_token_in_a_prompt_is_the_token_and_in_a_corpus_is_text(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "the cat [MASK] on[CLS]"
    assert tokenizer.mask_token_id in tokenizer(text)["input_ids"]
    values, _ = DocumentEncoder(tokenizer)([text])
    assert not set(values.tolist()) & set(SPECIAL_TOKENS.values())
    assert tokenizer.decode(values) == text
    assert tokenizer.mask_token_id in tokenizer(text)["input_ids"]  # the encoder changed nothing


def test_the_mask_takes_the_space_before_it(tokenizer: PreTrainedTokenizerFast) -> None:
    masked = tokenizer("A cat [MASK] on the mat", add_special_tokens=False)["input_ids"]
    whole = tokenizer("A cat sat on the mat", add_special_tokens=False)["input_ids"]
    at = masked.index(tokenizer.mask_token_id)
    assert masked[:at] == whole[:at]
    assert masked[at + 1 :] == whole[-len(masked[at + 1 :]) :]


# ---------------------------------------------------------------- variants


def test_minibert_adds_special_tokens_and_token_types(tokenizer: PreTrainedTokenizerFast) -> None:
    pair = tokenizer("a", "a a")
    a, space_a = tokenizer.encode("a a", add_special_tokens=False)
    assert pair["input_ids"] == [2, a, 3, a, space_a, 3]
    assert pair["token_type_ids"] == [0, 0, 0, 1, 1, 1]
    assert pair["attention_mask"] == [1] * 6
    assert tokenizer("a")["input_ids"] == [2, a, 3]


def test_token_types_are_left_out_where_the_model_has_none(tokenizer: PreTrainedTokenizerFast) -> None:
    adapted = adapt_tokenizer(tokenizer, model_type="minibert", uses_token_types=False, model_max_length=8)
    assert list(adapted("a", "b")) == ["input_ids", "attention_mask"]
    assert adapted("a", "b")["input_ids"] == tokenizer("a", "b")["input_ids"]
    assert len(adapted("a " * 20, truncation=True)["input_ids"]) == 8
    assert tokenizer.model_input_names == ["input_ids", "token_type_ids", "attention_mask"]


@pytest.mark.parametrize("uses_token_types", [False, True])
def test_minigpt_adds_nothing(tokenizer: PreTrainedTokenizerFast, uses_token_types: bool) -> None:
    adapted = adapt_tokenizer(tokenizer, model_type="minigpt", uses_token_types=uses_token_types, model_max_length=128)
    encoded = adapted("The cat sat.")
    assert list(encoded) == ["input_ids", "attention_mask"]
    assert encoded["input_ids"] == tokenizer.encode("The cat sat.", add_special_tokens=False)
    assert (adapted.bos_token, adapted.eos_token, adapted.pad_token) == ("[CLS]", "[SEP]", "[PAD]")
    assert adapted.padding_side == "right"
    assert adapted.model_max_length == 128


def test_adapting_there_and_back_changes_nothing(tokenizer: PreTrainedTokenizerFast) -> None:
    there = adapt_tokenizer(tokenizer, model_type="minigpt", uses_token_types=False, model_max_length=128)
    back = adapt_tokenizer(there, model_type="minibert", uses_token_types=True, model_max_length=None)
    assert back.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert back("a [MASK]", "b") == tokenizer("a [MASK]", "b")


def test_an_adapted_tokenizer_forgets_earlier_truncation_and_padding(tokenizer: PreTrainedTokenizerFast) -> None:
    copy = adapt_tokenizer(tokenizer, model_type="minibert", uses_token_types=True, model_max_length=None)
    copy(["a b c d", "a"], truncation=True, max_length=4, padding="max_length")
    assert DocumentEncoder(copy)(["a b c d", "a"])[1].tolist() == [4, 1]
    adapted = adapt_tokenizer(copy, model_type="minigpt", uses_token_types=False, model_max_length=None)
    assert len(adapted.backend_tokenizer.encode("a b c d e f").ids) == 6


@pytest.mark.parametrize("model_type", ["minibert", "minigpt"])
def test_a_saved_variant_opens_with_auto_tokenizer(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, model_type: str
) -> None:
    adapted = adapt_tokenizer(tokenizer, model_type=model_type, uses_token_types=True, model_max_length=64)
    save_tokenizer(adapted, tmp_path)
    opened = AutoTokenizer.from_pretrained(tmp_path)
    texts = ["The cat [MASK] on ##the mat.", "don't  stop\n\n#x", "\U0001f600" * 3]
    assert opened(texts, texts, truncation=True) == adapted(texts, texts, truncation=True)
    assert opened.get_vocab() == adapted.get_vocab()
    assert opened.special_tokens_map == adapted.special_tokens_map
    assert opened.model_input_names == adapted.model_input_names
    assert opened.model_max_length == 64


def test_offsets_leave_out_the_space_before_a_word(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer("a the", return_offsets_mapping=True)["offset_mapping"] == [(0, 0), (0, 1), (2, 5), (0, 0)]


# ---------------------------------------------------------------- DocumentEncoder, token_bytes, word_starts


def test_documents_are_encoded_as_the_tokenizer_does(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = [*make_texts(5), "", "caf\u00e9", "  two  spaces"]
    values, lengths = DocumentEncoder(tokenizer)(texts)
    expected = tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert values.dtype == np.uint16
    assert lengths.dtype == np.int64
    assert lengths.tolist() == [len(ids) for ids in expected]
    assert values.tolist() == [index for ids in expected for index in ids]
    assert DocumentEncoder(tokenizer)([])[0].shape == (0,)


def test_the_encoder_forgets_what_is_too_much(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document_encoder, "_MAX_REMEMBERED_TOKENS", 40)
    encode = DocumentEncoder(tokenizer)
    for start in range(0, 400, 20):
        texts = [f"{start} number {number}" for number in range(start, start + 20)]
        values, lengths = encode(texts)
        expected = tokenizer(texts, add_special_tokens=False)["input_ids"]
        assert values.tolist() == [index for ids in expected for index in ids]
        assert lengths.tolist() == [len(ids) for ids in expected]
        assert 0 < len(encode._tokens) <= 100 + len(values)


def test_the_encoder_goes_on_after_a_text_that_it_refuses(tokenizer: PreTrainedTokenizerFast) -> None:
    encode = DocumentEncoder(tokenizer)
    with pytest.raises(UserError, match="text 1 is not valid Unicode"):
        encode(["one two", "three \ud800"])
    assert encode(["two three"])[0].tolist() == tokenizer.encode("two three", add_special_tokens=False)


def test_words_of_a_tokenizer_s_own_are_not_cut(tokenizer: PreTrainedTokenizerFast) -> None:
    grown = copy.deepcopy(tokenizer)
    grown.add_tokens(["the cat"])
    assert DocumentEncoder(grown)(["on the cat"])[0].tolist()[-1] == len(tokenizer)


@pytest.mark.parametrize("model_type", ["minibert", "minigpt", "classic"])
def test_a_saved_tokenizer_holds_no_call_s_settings_and_names_a_class_that_transformers_4_knows(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, model_type: str
) -> None:
    if model_type == "classic":
        saved = train_wordpiece(make_texts(), vocab_size=60, lowercase=True)
    else:
        saved = adapt_tokenizer(tokenizer, model_type=model_type, uses_token_types=True, model_max_length=64)
    save_tokenizer(saved, tmp_path / "first")
    opened = AutoTokenizer.from_pretrained(tmp_path / "first", local_files_only=True, trust_remote_code=False)
    opened(["a cat", "a"], truncation=True, max_length=2, padding="max_length")
    save_tokenizer(opened, tmp_path / "second")
    first, second = ((tmp_path / name / "tokenizer.json").read_bytes() for name in ("first", "second"))
    assert first == second
    assert (json.loads(first)["truncation"], json.loads(first)["padding"]) == (None, None)
    settings = json.loads((tmp_path / "second" / "tokenizer_config.json").read_text())
    assert settings == json.loads((tmp_path / "first" / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == ("BertTokenizer" if model_type == "classic" else "PreTrainedTokenizerFast")
    assert len(opened("a cat and a mat", truncation=True, max_length=2)["input_ids"]) == 2, "but goes on to cut"


@pytest.mark.parametrize("kind", ["byte-pair", "unigram", "characters"])
def test_tokenizers_of_other_kinds_say_where_words_start_too(kind: str) -> None:
    opened = other_tokenizer(kind)
    starts = word_starts(opened)
    ids = opened.encode("walking cat", add_special_tokens=False)
    if kind == "characters":
        assert starts.all(), "nothing is marked, so every token may be a word"
        return
    tokens = opened.convert_ids_to_tokens(ids)
    assert starts[ids].tolist() == [token[0] in "\u0120\u2581" for token in tokens]
    assert not starts.all()
    assert starts[opened.all_special_ids].all()
    if kind == "byte-pair":
        assert b"".join(token_bytes(opened)[index] for index in ids) == b"walking cat"


def other_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A small tokenizer that is no WordPiece."""
    options: dict[str, Any] = {"vocab_size": 300, "special_tokens": list(SPECIAL_TOKENS), "show_progress": False}
    if kind == "unigram":
        backend = Tokenizer(models.Unigram())
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer: Any = trainers.UnigramTrainer(unk_token="[UNK]", **options | {"vocab_size": 60})
    else:
        backend = Tokenizer(models.BPE())
        is_byte_level = kind == "byte-pair"
        backend.pre_tokenizer = (
            pre_tokenizers.ByteLevel(add_prefix_space=False) if is_byte_level else pre_tokenizers.Split("", "isolated")
        )
        alphabet = pre_tokenizers.ByteLevel.alphabet() if is_byte_level else []
        trainer = trainers.BpeTrainer(initial_alphabet=alphabet, **options)
    backend.train_from_iterator(make_texts(), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **tokenization.SPECIAL_ROLES)


def test_a_word_starts_where_there_is_no_prefix(tokenizer: PreTrainedTokenizerFast) -> None:
    starts = word_starts(tokenizer)
    ids = tokenizer.encode(" unquestionableness #x", add_special_tokens=False)
    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert "".join(tokens).replace("##", "") == "\u0120unquestionableness\u0120#x"
    assert starts[ids].tolist() == [not token.startswith("##") for token in tokens]
    assert 0 < starts[ids].sum() < len(ids)


def test_special_tokens_stand_for_no_bytes(spelt: list[bytes]) -> None:
    assert spelt[:5] == [b""] * 5
    assert all(spelt[5:])


# ---------------------------------------------------------------- training


def test_the_same_texts_give_the_same_vocabulary_in_another_process() -> None:
    program = (
        "import json, sys; from hf_minibert.tokenization import train_wordpiece\n"
        "trained = train_wordpiece(json.load(sys.stdin), vocab_size=570)\n"
        "sys.stdout.write(trained.backend_tokenizer.to_str())"
    )
    texts = [*make_texts(), *["abcdefghijklmnopqrstuvwxyz" * 2] * 2]  # many pairs are equally frequent
    other = subprocess.run([sys.executable, "-c", program], input=json.dumps(texts), capture_output=True, text=True)
    trained = train_wordpiece(texts, vocab_size=570)
    assert other.stdout == trained.backend_tokenizer.to_str(), other.stderr
    assert len(trained) == 570


def test_special_tokens_in_the_texts_are_trained_as_text() -> None:
    trained = train_wordpiece(["[MASK] [MASK]"] * 9, vocab_size=518)
    ids = trained("[MASK]", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert "[UNK]" not in trained.convert_ids_to_tokens(ids)
    assert 4 not in ids
    assert trained.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [0, 1, 2, 3, 4]


def test_impossible_vocabulary_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="vocab_size 515 is too small: .* take 516 entries"):
        train_wordpiece(make_texts(), vocab_size=515)
    assert len(train_wordpiece(make_texts(), vocab_size=516)) == 516
    with pytest.raises(UserError, match=r"supports only \d+ entries, fewer than vocab_size 8192"):
        train_wordpiece(make_texts())


@pytest.mark.parametrize("is_special", [False, True])
def test_words_that_were_added_to_a_bert_tokenizer_stay(is_special: bool, tmp_path: Path) -> None:
    tokenizer = train_wordpiece(make_texts(), vocab_size=60, lowercase=True)
    tokenizer.add_tokens(["[E1]", "<b>"], special_tokens=is_special)
    save_tokenizer(tokenizer, tmp_path)
    expected = tokenizer("the [E1] cat <b>mat")
    assert {60, 61} <= set(expected["input_ids"])
    opened = load_tokenizer(tmp_path)
    for made in (opened, adapt_tokenizer(opened, model_type="minibert", uses_token_types=True, model_max_length=16)):
        assert type(made) is BertTokenizer
        assert made.get_vocab() == tokenizer.get_vocab()
        assert made("the [E1] cat <b>mat") == expected
        assert tokenizer_fingerprint(made) == tokenizer_fingerprint(opened)


def test_a_classic_vocabulary_opens_as_bert_tokenizer(tmp_path: Path) -> None:
    trained = train_wordpiece(make_texts(), vocab_size=60, lowercase=True)
    save_tokenizer(trained, tmp_path)
    opened = load_tokenizer(tmp_path)
    assert type(opened) is BertTokenizer
    assert len(opened) == 60
    assert opened("The CAT", "mat") == trained("the cat", "mat")
    ids = opened("The", "cat")["input_ids"]
    first_end = ids.index(opened.sep_token_id)
    assert (ids[0], ids[-1]) == (opened.cls_token_id, opened.sep_token_id)
    assert opened("The", "cat")["token_type_ids"] == [0] * (first_end + 1) + [1] * (len(ids) - first_end - 1)
    assert opened.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [0, 1, 2, 3, 4]
    assert DocumentEncoder(opened)(["The [MASK]"])[0].dtype == np.uint8
    assert opened.mask_token_id not in DocumentEncoder(opened)(["The [MASK]"])[0]
    adapted = adapt_tokenizer(opened, model_type="minibert", uses_token_types=False, model_max_length=16)
    assert type(adapted) is BertTokenizer
    assert list(adapted("the", "cat")) == ["input_ids", "attention_mask"]
    generative = adapt_tokenizer(opened, model_type="minigpt", uses_token_types=False, model_max_length=16)
    assert generative("The cat")["input_ids"] == opened("the cat", add_special_tokens=False)["input_ids"]
    with pytest.raises(UserError, match="byte-level"):
        token_bytes(opened)


def test_a_classic_vocabulary_knows_the_characters_of_a_large_writing_or_says_what_it_does_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Chinese has thousands of characters, each of which is a word."""
    generator = random.Random(0)
    characters = [chr(0x4E00 + number) for number in range(1_500)]
    texts = ["".join(generator.choices(characters, k=500)) for _ in range(60)]
    with pytest.raises(
        UserError, match=r"supports only 15\d\d entries.* give --vocab_size 15\d\d, or text with"
    ) as caught:
        train_wordpiece(texts, vocab_size=8192, lowercase=True)
    size = int(re.findall(r"--vocab_size (\d+)", str(caught.value))[0])
    caplog.clear()
    trained = train_wordpiece(texts, vocab_size=size, lowercase=True)
    assert len(trained) == size
    ids = trained("".join(texts))["input_ids"]
    assert ids.count(trained.unk_token_id) <= len(ids) * 0.0002
    caplog.clear()
    small = train_wordpiece(texts, vocab_size=1_200, lowercase=True)
    share = 100 * np.mean(np.array(small("".join(texts), add_special_tokens=False)["input_ids"]) == small.unk_token_id)
    assert share > 5
    assert f"{share:.2g}% of the corpus's tokens become [UNK]" in caplog.text


def cpu_seconds(work: Callable[[], Any]) -> float:
    """Of this process alone: others may be busy."""
    start = time.process_time()
    work()
    return time.process_time() - start


@pytest.mark.parametrize("letters", ["abcdefgh", "\U0001f600", " "])
def test_time_is_linear_in_text_without_spaces(letters: str, tokenizer: PreTrainedTokenizerFast) -> None:
    """Eight times the text takes about 8 times as long; were it quadratic, 64 times."""
    short, long = (letters * (length // len(letters)) for length in (5_000, 40_000))
    values, _ = DocumentEncoder(tokenizer)([short])
    assert len(values) >= len(short) / MAX_WORD_CHARACTERS
    once = cpu_seconds(lambda: DocumentEncoder(tokenizer)([short]))
    assert cpu_seconds(lambda: DocumentEncoder(tokenizer)([long])) < 24 * once


def test_training_is_linear_in_text_without_spaces() -> None:
    generator = random.Random(0)
    text = "".join(generator.choices("abcdefgh", k=80_000))
    once = cpu_seconds(lambda: train_wordpiece([text[:10_000]], vocab_size=700))
    assert cpu_seconds(lambda: train_wordpiece([text], vocab_size=700)) < 24 * once


# ---------------------------------------------------------------- sampling


def test_a_sample_keeps_to_its_bytes_and_to_its_seed() -> None:
    texts = [f"{number:05d}" * 20 for number in range(500)]
    whole = sample_texts(texts, max_bytes=10**6, seed=0)
    assert whole.texts == texts
    assert (whole.seen_documents, whole.seen_bytes, whole.num_bytes) == (500, 50_000, 50_000)
    sample = sample_texts(iter(texts), max_bytes=10_000, seed=0)
    assert 9_000 <= sample.num_bytes == sum(map(len, sample.texts)) <= 10_000
    assert sample.texts == sorted(sample.texts)
    assert sample == sample_texts(texts, max_bytes=10_000, seed=0)
    assert sample != sample_texts(texts, max_bytes=10_000, seed=1)
    assert 150 < np.mean([int(text[:5]) for text in sample.texts]) < 350  # from all over, not from one end


def test_a_document_larger_than_the_sample_is_sampled_in_pieces() -> None:
    sample = sample_texts(["\u00e9" * 100_000], max_bytes=6_400, seed=0)
    assert 6_000 <= sample.num_bytes <= 6_400
    assert sample.seen_bytes == 200_000


# ---------------------------------------------------------------- loading


def test_a_missing_or_damaged_or_unfit_tokenizer_is_a_user_error(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"no tokenizer folder at .*hf-minibert train-tokenizer"):
        load_tokenizer(tmp_path / "missing")
    with pytest.raises(UserError, match="no tokenizer folder at missing"):
        load_tokenizer("missing")
    with monkeypatch.context() as patch:
        patch.setattr(AutoTokenizer, "from_pretrained", lambda name: (_ for _ in ()).throw(OSError(f"no {name}")))
        with pytest.raises(UserError, match="no folder here and no tokenizer on the Hub is me/mistyped"):
            load_tokenizer("me/mistyped")
    with pytest.raises(UserError, match="cannot open the tokenizer"):
        load_tokenizer(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="cannot open the tokenizer"):
        load_tokenizer(tmp_path)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, pad_token="[PAD]").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="lacks unk_token, cls_token, sep_token, mask_token"):
        load_tokenizer(tmp_path)


def test_a_vocabulary_with_holes_is_refused(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    save_tokenizer(tokenizer, tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    last = max(content["model"]["vocab"], key=content["model"]["vocab"].__getitem__)
    for number in (90_000, 8190):
        content["model"]["vocab"][last] = number
        (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(UserError, match=r"8,192 entries whose ids are not 0 to 8,191: where 8191 is due"):
            load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("normalizer", "is_refused"),
    [
        (normalizers.Replace("a", "b" * 1_000), True),
        (normalizers.Replace(Regex("."), "b" * 1_000), True),
        (normalizers.Prepend("b" * 1_000), True),
        (normalizers.Sequence([normalizers.Replace("a", "a" * 20)] * 3), True),
        (normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.StripAccents()][:2]), False),
        (normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]), False),
        (normalizers.BertNormalizer(), False),
        (  # as ALBERT's and XLNet's
            normalizers.Sequence(
                [
                    normalizers.Replace("``", '"'),
                    normalizers.NFKD(),
                    normalizers.StripAccents(),
                    normalizers.Lowercase(),
                    normalizers.NFKC(),
                ]
            ),
            False,
        ),
        (normalizers.Sequence([normalizers.NFKC(), *[normalizers.ByteLevel()] * 2]), True),
    ],
)
def test_a_normalizer_that_blows_up_a_text_is_refused(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, normalizer: Any, is_refused: bool
) -> None:
    bomb = copy.deepcopy(tokenizer)
    bomb.backend_tokenizer.normalizer = normalizer
    save_tokenizer(bomb, tmp_path)
    if not is_refused:
        load_tokenizer(tmp_path)
        return
    with pytest.raises(UserError, match=r"can make a text [\d,]+ times as long, more than 100 times"):
        load_tokenizer(tmp_path)


# ---------------------------------------------------------------- the script and the folder it wrote


def run_script(*flags: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *flags], capture_output=True, text=True, check=False)


def test_the_committed_folder_is_what_its_record_says(tokenizer: PreTrainedTokenizerFast) -> None:
    folder = REPOSITORY / "tokenizer"
    training = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    assert len(tokenizer) == training["arguments"]["vocab_size"] == 8192
    assert (folder / "README.md").read_text(encoding="utf-8") == verb.render_readme(training)
    assert all(3.5 < measured["bytes_per_token"] < 4.3 for measured in training["validation"].values())


def test_the_script_writes_a_tokenizer_and_replaces_it(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n\n".join(make_texts(200)), encoding="utf-8")
    folder = tmp_path / "new" / "tokenizer"
    flags = ["--corpus", corpus, "--output_dir", folder, "--validation_corpus", corpus]
    first = run_script(*flags, "--vocab_size", "530")
    assert (first.returncode, first.stdout) == (0, f"wrote a tokenizer of 530 entries to {folder}\n")
    assert len(load_tokenizer(folder)) == 530
    assert sorted(path.name for path in folder.iterdir()) == [
        ".hf_minibert.json",
        "README.md",
        "tokenizer.json",
        "tokenizer_config.json",
        "training.json",
    ]
    second = run_script(*flags, "--vocab_size", "60", "--lowercase", "--max_bytes", "20000", "--seed", "3")
    assert second.returncode == 0, second.stderr
    assert "a sample of 0.0 of 0.1 MB, by --max_bytes 20000" in second.stderr
    assert type(load_tokenizer(folder)) is BertTokenizer
    training = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    assert training["sources"][0]["sampled_bytes"] <= 20_000 < training["sources"][0]["bytes"]
    assert training["validation"][corpus.name]["bytes_per_token"] > 1
    assert str(tmp_path) not in (folder / "README.md").read_text(encoding="utf-8"), "nobody's folders are published"
    assert str(tmp_path) not in (folder / "training.json").read_text(encoding="utf-8")
    assert "--corpus corpus.txt" in (folder / "README.md").read_text(encoding="utf-8")
    assert "--lowercase --seed 3" in (folder / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in folder.parent.iterdir()] == ["tokenizer"]  # nothing half-made is left


def test_the_script_refuses_and_leaves_files_alone(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(json.dumps({"body": " ".join(make_texts())}) + "\n", encoding="utf-8")
    unrelated = tmp_path / "unrelated"
    unrelated.mkdir()
    (unrelated / "tokenizer.json").write_text("{}", encoding="utf-8")
    (unrelated / "model.safetensors").write_text("mine", encoding="utf-8")
    good = {"corpus": [str(corpus)], "text_column": "body", "vocab_size": 530, "output_dir": str(tmp_path / "out")}
    for wrong, message in (
        ({"output_dir": str(corpus)}, "is a file"),
        ({"output_dir": str(unrelated)}, "holds something other than a tokenizer"),
        ({"vocab_size": 100}, "vocab_size 100 is too small"),
        ({"vocab_size": 0}, "vocab_size must be positive, got 0"),
        ({"max_bytes": -1}, "max_bytes must be positive, got -1"),
        ({"corpus": []}, "corpus names no source"),
        ({"text_column": "text"}, "no column 'text'"),
        ({"validation_corpus": [str(tmp_path / "missing.txt")]}, "there is no file"),
    ):
        with pytest.raises(UserError, match=message):
            verb.main(verb.Arguments(**(good | wrong)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.jsonl", "unrelated"]
    assert (unrelated / "model.safetensors").read_text(encoding="utf-8") == "mine"


def test_the_script_says_a_mistake_in_one_line(tmp_path: Path) -> None:
    done = run_script("--corpus", tmp_path / "missing.txt", "--output_dir", tmp_path / "out")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("train_tokenizer.py: error: there is no file")
    assert list(tmp_path.iterdir()) == []
