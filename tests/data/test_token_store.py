import gzip
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from hf_minibert.data import token_store
from hf_minibert.data.corpus import open_corpus
from hf_minibert.data.documents import Corpus, Document, document_hash, is_held_out
from hf_minibert.data.token_store import Documents, TokenStore, open_token_store, store_fingerprint
from hf_minibert.document_encoder import DocumentEncoder
from hf_minibert.errors import UserError
from hf_minibert.tokenization import train_wordpiece

TEXTS = [f"Document {number} says “größer” {number % 7} times.\n\tAnd [MASK] is text. 🤗" for number in range(600)]


class ListCorpus(Corpus):
    """Texts in memory that counts how often, and how far, it is read."""

    def __init__(self, texts: list[str], fingerprint: str = "list") -> None:
        super().__init__("list", fingerprint, sum(len(text.encode()) for text in texts))
        self.texts = texts
        self.documents_read = 0

    def _documents(self) -> Iterator[Document]:
        for number, text in enumerate(self.texts):
            self.documents_read += 1
            self.bytes_read += len(text.encode())
            yield Document(str(number), text)


class BrokenCorpus(ListCorpus):
    def _documents(self) -> Iterator[Document]:
        yield from super()._documents()
        raise OSError("the disk is gone")


def tokens_of(documents: Documents) -> list[list[int]]:
    return [documents.tokens(document).tolist() for document in range(len(documents))]


def decoded(documents: Documents, tokenizer) -> list[str]:
    return [tokenizer.decode(tokens) for tokens in tokens_of(documents)]


# ---------------------------------------------------------------- what is in it


def test_tokens_decode_to_the_texts_in_their_order(tokenizer, tmp_path):
    store = open_token_store(ListCorpus(TEXTS), tokenizer, folder=tmp_path / "store")
    assert decoded(store.train, tokenizer) == [text for text in TEXTS if not is_held_out(text)]
    assert decoded(store.held_out, tokenizer) == [text for text in TEXTS if is_held_out(text)]
    special = set(tokenizer.all_special_ids)
    assert not any(special & set(tokens) for tokens in tokens_of(store.train)), "[MASK] in a text is six characters"


def test_part_of_a_document_and_counts(tokenizer, tmp_path):
    store = open_token_store(ListCorpus(TEXTS), tokenizer, folder=tmp_path / "store")
    train = store.train
    whole = train.tokens(3).tolist()
    assert train.lengths[3] == len(whole)
    assert train.tokens(3, 2, 5).tolist() == whole[2:5]
    assert train.tokens(3, 4).tolist() == whole[4:]
    assert train.tokens(3, 2, 10_000).tolist() == whole[2:], "and nothing of the next document"
    expected = np.bincount(np.concatenate(tokens_of(train)), minlength=len(tokenizer))
    assert train.token_counts(len(tokenizer)).tolist() == expected.tolist()


def test_a_document_longer_than_a_batch_and_many_batches(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(token_store, "DOCUMENTS_PER_BATCH", 7)
    monkeypatch.setattr(token_store, "CHARACTERS_PER_BATCH", 300)
    texts = [*TEXTS[:20], "long " * 500, *TEXTS[20:40]]
    store = open_token_store(ListCorpus(texts), tokenizer, folder=tmp_path / "store")
    assert sorted(decoded(store.train, tokenizer) + decoded(store.held_out, tokenizer)) == sorted(texts)


def test_the_store_says_what_it_is_made_of(tokenizer, tmp_path):
    store = open_token_store(ListCorpus(TEXTS), tokenizer, folder=tmp_path / "store")
    info = store.info
    assert (info.corpus, info.documents, info.vocab_size) == ("list", len(TEXTS), len(tokenizer))
    assert info.tokens == store.train.lengths.sum() + store.held_out.lengths.sum()
    assert info.bytes == sum(len(text.encode()) for text in TEXTS)


def test_frequencies_are_counted_once(tokenizer, tmp_path, monkeypatch):
    store = open_token_store(ListCorpus(TEXTS), tokenizer, folder=tmp_path / "store")
    expected = store.train.token_counts(len(tokenizer)).tolist()
    monkeypatch.delattr(Documents, "token_counts")
    assert open_token_store(ListCorpus(TEXTS), tokenizer, folder=tmp_path / "store").info.token_counts == expected


def test_another_process_opens_the_file_and_gets_no_copy(tokenizer, tmp_path):
    store = open_token_store(ListCorpus(TEXTS), tokenizer, folder=tmp_path / "store")
    for documents in (store.train, store.held_out):
        sent = pickle.dumps(documents)
        assert len(sent) < 500
        assert tokens_of(pickle.loads(sent)) == tokens_of(documents)


@pytest.mark.parametrize(("size", "dtype"), [(2**16, np.uint16), (2**16 + 1, np.uint32)])
def test_smallest_integer_type_that_holds_the_vocabulary(tokenizer, tmp_path, monkeypatch, size, dtype):
    def encode(texts):
        lengths = np.full(len(texts), 2)
        return np.tile(np.array([size - 1, 0], dtype=np.uint32), len(texts)), lengths

    monkeypatch.setattr(token_store, "DocumentEncoder", lambda _: encode)
    large = type("Large", (), {"__len__": lambda _: size, "backend_tokenizer": tokenizer.backend_tokenizer})()
    store = open_token_store(ListCorpus(TEXTS), large, folder=tmp_path / "store")
    assert store.train.tokens(0).dtype == dtype
    assert store.train.tokens(0).tolist() == [size - 1, 0]


# ---------------------------------------------------------------- training and held-out text


def test_splits_are_disjoint_by_text_and_copies_are_on_one_side(tokenizer, tmp_path):
    texts = [f"text {number % 150}" for number in range(300)]
    store = open_token_store(ListCorpus(texts), tokenizer, folder=tmp_path / "store")
    train, held_out = decoded(store.train, tokenizer), decoded(store.held_out, tokenizer)
    assert sorted(train + held_out) == sorted(texts)
    assert not set(train) & set(held_out)
    assert all(held_out.count(text) == 2 for text in held_out)


def test_a_text_stays_on_its_side_when_the_corpus_grows(tokenizer, tmp_path):
    before = open_token_store(ListCorpus(TEXTS), tokenizer, folder=tmp_path / "before")
    more = [f"More: {number}." for number in range(100)] + TEXTS
    after = open_token_store(ListCorpus(more, "grown"), tokenizer, folder=tmp_path / "after")
    assert set(decoded(before.held_out, tokenizer)) <= set(decoded(after.held_out, tokenizer))
    assert set(decoded(before.train, tokenizer)) <= set(decoded(after.train, tokenizer))


@pytest.mark.parametrize("is_low", [True, False])
def test_neither_split_is_ever_empty(tokenizer, tmp_path, is_low):
    """Two texts that both fall on the same side are divided; their copies follow."""
    texts = [text for text in (f"candidate {number}" for number in range(1_000)) if is_held_out(text) == is_low][:2]
    store = open_token_store(ListCorpus(texts * 2), tokenizer, folder=tmp_path / "store")
    low, high = sorted(texts, key=document_hash)
    assert decoded(store.held_out, tokenizer) == [low] * 2
    assert decoded(store.train, tokenizer) == [high] * 2


@pytest.mark.parametrize("texts", [["alone"], ["the same", "the same"]])
def test_one_document_is_refused(tokenizer, tmp_path, texts):
    with pytest.raises(UserError, match="at least 2 different"):
        open_token_store(ListCorpus(texts), tokenizer, folder=tmp_path / "store")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- reuse


def test_a_second_run_reuses_the_store(tokenizer, cache_home):
    corpus = ListCorpus(TEXTS)
    first = open_token_store(corpus, tokenizer)
    assert corpus.documents_read == len(TEXTS)
    assert first.folder.is_relative_to(cache_home)
    written = (first.folder / token_store.TOKENS_FILE).stat()
    second = open_token_store(corpus, tokenizer)
    assert corpus.documents_read == len(TEXTS), "nothing was read again"
    assert (second.folder / token_store.TOKENS_FILE).stat() == written
    assert tokens_of(second.train) == tokens_of(first.train)


def test_fingerprint_changes_with_what_decides_the_tokens(tokenizer):
    other = train_wordpiece(TEXTS, vocab_size=560, show_progress=False)
    corpus = ListCorpus(TEXTS)
    fingerprints = {
        store_fingerprint(corpus, tokenizer),
        store_fingerprint(ListCorpus(TEXTS, "other"), tokenizer),
        store_fingerprint(corpus, other),
        store_fingerprint(corpus, tokenizer, 100),
        store_fingerprint(corpus, tokenizer, 101),
    }
    assert len(fingerprints) == 5
    assert store_fingerprint(ListCorpus(TEXTS), tokenizer) in fingerprints


def test_a_changed_file_gets_another_store(tokenizer, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    first = open_token_store(open_corpus([str(path)]), tokenizer)
    with path.open("a") as file:
        file.write(json.dumps({"text": "one more"}) + "\n")
    second = open_token_store(open_corpus([str(path)]), tokenizer)
    assert second.folder != first.folder
    assert second.info.documents == first.info.documents + 1


def test_identity_is_the_text_and_the_tokenizer_however_the_text_is_kept(tokenizer, tmp_path):
    rows = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    names = ("rows.jsonl", "copy.jsonl", "packed.jsonl.gz", "padded.jsonl", "swapped.jsonl", "other.jsonl")
    plain, copied, packed, padded, swapped, other = (tmp_path / name for name in names)
    for path in (plain, copied):
        path.write_text(rows)
    packed.write_bytes(gzip.compress(rows.encode()))
    padded.write_text('{"text": ""}\n' + rows)
    swapped.write_text("\n".join([*rows.splitlines()[1:], rows.splitlines()[0]]))
    other.write_text(rows.replace("Document 17 ", "Document 71 "))

    def open_store(path: Path, name: str = "tokenizer") -> TokenStore:
        return open_token_store(open_corpus([str(path)]), {"tokenizer": tokenizer, "small": small}[name])

    small = train_wordpiece(TEXTS, vocab_size=560, show_progress=False)
    first = open_store(plain)
    assert open_store(copied).folder == first.folder, "which is not even made anew"
    assert open_store(packed).identity == open_store(padded).identity == first.identity
    assert (open_store(padded).info.empty_documents, first.info.empty_documents) == (1, 0)
    others = {open_store(swapped).identity, open_store(other).identity, open_store(plain, "small").identity}
    assert len(others - {first.identity}) == 3


def test_max_tokens_stops_reading(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(token_store, "DOCUMENTS_PER_BATCH", 10)
    corpus = ListCorpus(TEXTS)
    store = open_token_store(corpus, tokenizer, folder=tmp_path / "store", max_tokens=500)
    _, lengths = DocumentEncoder(tokenizer)(TEXTS)
    enough = int(np.searchsorted(np.cumsum(lengths), 500)) + 1
    assert store.info.documents == enough, "up to the document that reaches the limit, and none skipped"
    assert store.info.tokens == sum(lengths[:enough])
    assert corpus.documents_read == -(-enough // 10) * 10, "nor is a batch read that is not needed"


# ---------------------------------------------------------------- several processes


@pytest.fixture
def _large_for_its_size(monkeypatch):
    """A corpus of a few hundred documents is shared between processes."""
    monkeypatch.setattr(token_store, "encoding_processes", lambda: 2)
    monkeypatch.setattr(token_store, "DOCUMENTS_PER_BATCH", 20)
    monkeypatch.setattr(token_store, "BATCHES_ALONE", 2)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere one process encodes")
@pytest.mark.usefixtures("_large_for_its_size")
@pytest.mark.parametrize("max_tokens", [None, 7_000])
def test_several_processes_make_the_store_that_one_makes(tokenizer, tmp_path, monkeypatch, max_tokens):
    def encode(encoder, texts):
        processes.append(os.getpid())
        return real(encoder, texts)

    processes: list[int] = []
    real = token_store._encode
    monkeypatch.setattr(token_store, "_encode", encode)
    many = open_token_store(ListCorpus(TEXTS), tokenizer, folder=tmp_path / "many", max_tokens=max_tokens)
    assert processes == [os.getpid()] * 2, "only the first batches are encoded here"
    monkeypatch.setattr(token_store, "encoding_processes", lambda: 1)
    one = open_token_store(ListCorpus(TEXTS), tokenizer, folder=tmp_path / "one", max_tokens=max_tokens)
    assert many.info == one.info
    assert (many.folder / token_store.TOKENS_FILE).read_bytes() == (one.folder / token_store.TOKENS_FILE).read_bytes()
    assert multiprocessing.active_children() == []


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere one process encodes")
@pytest.mark.usefixtures("_large_for_its_size")
@pytest.mark.parametrize(
    ("failure", "message"),
    [("refused", "text 7 is not valid Unicode"), ("killed", "was killed, perhaps since memory ran out; RAYON_NUM_T")],
)
def test_what_goes_wrong_in_another_process_is_told_here(tokenizer, tmp_path, monkeypatch, failure, message):
    def encode(encoder, texts):
        if os.getpid() != parent:
            if failure == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise UserError("text 7 is not valid Unicode")
        return real(encoder, texts)

    parent, real = os.getpid(), token_store._encode
    monkeypatch.setattr(token_store, "_encode", encode)
    with pytest.raises(UserError, match=message):
        open_token_store(ListCorpus(TEXTS), tokenizer, folder=tmp_path / "store")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "processes"),
    [
        ({"RAYON_NUM_THREADS": "3"}, 3),
        ({"RAYON_NUM_THREADS": "30"}, 8),
        ({"RAYON_NUM_THREADS": "3", "TOKENIZERS_PARALLELISM": "false"}, 1),
    ],
)
def test_as_many_processes_encode_as_the_environment_allows(monkeypatch, settings, processes):
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", "linux")
    assert token_store.encoding_processes() == processes
    monkeypatch.setattr(sys, "platform", "darwin")
    assert token_store.encoding_processes() == 1


# ---------------------------------------------------------------- what can go wrong


def test_an_interrupted_build_leaves_nothing(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(token_store, "DOCUMENTS_PER_BATCH", 10)
    with pytest.raises(OSError, match="the disk is gone"):
        open_token_store(BrokenCorpus(TEXTS), tokenizer, folder=tmp_path / "store")
    assert list(tmp_path.iterdir()) == []
    store = open_token_store(ListCorpus(TEXTS), tokenizer, folder=tmp_path / "store")
    assert store.info.documents == len(TEXTS)


KILLED = """
import sys, time
from pathlib import Path
from hf_minibert.data import token_store
from hf_minibert.data.documents import Corpus, Document
from hf_minibert.tokenization import load_tokenizer

class Endless(Corpus):
    def _documents(self):
        for number in range(10**9):
            if number == 50:
                print("some are written", flush=True)
            if number > 50:
                time.sleep(60)
            yield Document(str(number), f"text {number}")

token_store.DOCUMENTS_PER_BATCH = 10
token_store.BATCHES_ALONE = 2
token_store.encoding_processes = lambda: 2
tokenizer, folder = sys.argv[1:]
token_store.open_token_store(Endless("list", "list", None), load_tokenizer(tokenizer), folder=Path(folder))
"""


def test_a_killed_build_leaves_nothing_that_opens(tokenizer, tmp_path):
    folder = tmp_path / "store"
    repository = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(repository / "tokenizer"), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=repository,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "some are written\n"
        workers = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGKILL)
    assert len(workers) == (2 if sys.platform == "linux" else 0)
    assert psutil.wait_procs(workers, timeout=20)[1] == [], "they end with their parent"
    (left,) = tmp_path.iterdir()
    assert (left / "store" / token_store.TOKENS_FILE).exists(), "it was in the middle of writing"
    with pytest.raises(UserError, match="not a whole token store"):
        TokenStore(left / "store")
    store = open_token_store(ListCorpus(TEXTS), tokenizer, folder=folder)
    assert store.info.documents == len(TEXTS)
    assert list(tmp_path.iterdir()) == [folder], "and what it left is cleared away by the next"


def test_a_build_does_not_clear_away_another_that_is_at_work(tokenizer, tmp_path):
    class Interrupting(ListCorpus):
        def _documents(self) -> Iterator[Document]:
            yield from super()._documents()
            open_token_store(ListCorpus(TEXTS[:300], "half"), tokenizer, folder=tmp_path / "half")

    assert open_token_store(Interrupting(TEXTS), tokenizer, folder=tmp_path / "whole").info.documents == len(TEXTS)
    assert {path.name for path in tmp_path.iterdir()} == {"half", "whole"}


def test_an_empty_folder_is_taken(tokenizer, tmp_path):
    folder = tmp_path / "made" / "store"
    folder.mkdir(parents=True)
    assert open_token_store(ListCorpus(TEXTS), tokenizer, folder=folder).info.documents == len(TEXTS)


def test_another_process_may_be_first(tokenizer, tmp_path):
    """Both build; the second finds the place taken by the same store, uses it, and clears up."""
    folder = tmp_path / "store"

    class Racing(ListCorpus):
        def _documents(self) -> Iterator[Document]:
            yield from super()._documents()
            open_token_store(ListCorpus(TEXTS), tokenizer, folder=folder)

    assert open_token_store(Racing(TEXTS), tokenizer, folder=folder).info.documents == len(TEXTS)
    assert list(tmp_path.iterdir()) == [folder]


def test_a_foreign_folder_is_refused_and_left_alone(tokenizer, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="is not a token store"):
        open_token_store(ListCorpus(TEXTS), tokenizer, folder=tmp_path)
    with pytest.raises(UserError, match="is not a token store"):
        open_token_store(ListCorpus(TEXTS), tokenizer, folder=tmp_path / "thesis.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_the_store_of_another_corpus_is_refused(tokenizer, tmp_path):
    open_token_store(ListCorpus(TEXTS), tokenizer, folder=tmp_path / "store")
    with pytest.raises(UserError, match="another corpus or tokenizer"):
        open_token_store(ListCorpus(TEXTS, "other"), tokenizer, folder=tmp_path / "store")


@pytest.mark.parametrize("damage", ["truncated", "cut in the middle", "missing", "not json", "other keys", "emptied"])
def test_a_corrupt_store_is_refused(tokenizer, tmp_path, monkeypatch, damage):
    monkeypatch.setattr(token_store, "DOCUMENTS_PER_BATCH", 10)
    folder = tmp_path / "store"
    open_token_store(ListCorpus(TEXTS), tokenizer, folder=folder)
    tokens, about = folder / token_store.TOKENS_FILE, folder / token_store.ABOUT_FILE
    content = tokens.read_bytes()
    if damage == "truncated":
        tokens.write_bytes(content[: len(content) // 2])
    elif damage == "cut in the middle":  # at the end of a record batch, where an Arrow stream may end
        whole = content.split(b"\xff\xff\xff\xff")
        tokens.write_bytes(b"\xff\xff\xff\xff".join(whole[:5]))
    elif damage == "missing":
        tokens.unlink()
    elif damage == "not json":
        about.write_text("{")
    elif damage == "other keys":
        about.write_text('{"version": 1}')
    else:
        tokens.write_bytes(b"")
    with pytest.raises(UserError, match="delete it, and it will be built again"):
        open_token_store(ListCorpus(TEXTS), tokenizer, folder=folder)


def test_progress_is_shown(tokenizer, tmp_path, capsys):
    open_token_store(ListCorpus(TEXTS), tokenizer, folder=tmp_path / "store")
    shown = capsys.readouterr().err
    assert "tokenizing list: 100%" in shown
    assert f"documents={len(TEXTS)}" in shown
