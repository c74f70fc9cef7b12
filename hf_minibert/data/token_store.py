"""The token store: a corpus tokenised once, memory-mapped, one Arrow row a document.

In come documents and a tokenizer; out come arrays of token ids from which any sequence length and any objective is
cut by index arithmetic. The store records its corpus and tokenizer, so a second run reuses it.
"""

import dataclasses
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow
from datasets import Dataset, Features, List, Value
from datasets.arrow_writer import ArrowWriter
from datasets.config import HF_CACHE_HOME
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from hf_minibert.data.documents import Corpus, Document, document_hash
from hf_minibert.document_encoder import DocumentEncoder
from hf_minibert.errors import UserError

TOKENS_FILE = "tokens.arrow"
ABOUT_FILE = "store.json"
FORMAT_VERSION = 2
UNFINISHED = ".unfinished-tokens-"
LOCK_FILE = "lock"
DOCUMENTS_PER_BATCH = 1_000
CHARACTERS_PER_BATCH = 4_000_000
BATCHES_ALONE = 2
MOST_PROCESSES = 8
HELD_OUT_FRACTION = 0.02


@dataclass(frozen=True, kw_only=True)
class StoreInfo:
    """What a store is made from: the content of `store.json`, beside the tokens."""

    corpus: str
    fingerprint: str
    tokenizer: str
    vocab_size: int
    documents: int
    tokens: int
    bytes: int
    token_counts: list[int]
    """How often each token id occurs in the training documents, (vocab_size,)."""
    held_out_below: int | None = None
    """Documents with smaller hashes are held out; None: the store holds out a share of its own."""
    empty_documents: int = 0
    """How many empty texts of the corpus were left out."""


class Documents:
    """Some documents of a store: their lengths, their tokens, and how many bytes of text they stand for."""

    def __init__(self, chunks: Sequence[NDArray[np.unsignedinteger]], places: NDArray[np.int64]) -> None:
        """`chunks`: runs of token ids; `places`: (documents, 3): chunk, first token in it, length."""
        self._chunks = chunks
        self._places = places
        self.lengths: NDArray[np.int64] = places[:, 2]

    def __len__(self) -> int:
        return len(self._places)

    def tokens(self, document: int, begin: int = 0, end: int | None = None) -> NDArray[np.unsignedinteger]:
        """Token ids `begin` to `end` of one document, without specials; a view, not a copy."""
        chunk, first, length = self._places[document]
        stop = length if end is None else min(end, length)
        tokens: NDArray[np.unsignedinteger] = self._chunks[chunk][first + begin : first + stop]
        return tokens

    def token_counts(self, vocab_size: int) -> NDArray[np.int64]:
        """How often each token id occurs, (vocab_size,)."""
        counts = np.zeros(vocab_size, dtype=np.int64)
        for first in range(0, len(self), 1_000):
            some = [self.tokens(document) for document in range(first, min(first + 1_000, len(self)))]
            counts += np.bincount(np.concatenate(some), minlength=vocab_size)
        return counts


class StoredDocuments(Documents):
    """A part of a store. Sent to another process, it is mapped there from the file, not copied."""

    def __init__(
        self,
        origin: tuple[Path, int | None, str],
        chunks: Sequence[NDArray[np.unsignedinteger]],
        places: NDArray[np.int64],
    ) -> None:
        super().__init__(chunks, places)
        self._origin = origin

    def __reduce__(self) -> tuple[Callable[[Path, int | None, str], Documents], tuple[Path, int | None, str]]:
        return _open_part, self._origin


def _open_part(folder: Path, held_out_below: int | None, part: str) -> Documents:
    documents: Documents = _open_parts(folder, held_out_below)[part]
    return documents


def _open_parts(folder: Path, held_out_below: int | None) -> dict[str, Documents]:
    """The documents of the file in a store's folder: `train` and `held_out`."""
    return _parts(Dataset.from_file(str(folder / TOKENS_FILE)).data, folder, held_out_below)


def _parts(table: pyarrow.Table, folder: Path, held_out_below: int | None) -> dict[str, Documents]:
    chunks, places = [], []
    for index, column in enumerate(table.column("input_ids").chunks):
        chunks.append(column.values.to_numpy())
        offsets = column.offsets.to_numpy().astype(np.int64)
        places.append(np.stack((np.full(len(column), index), offsets[:-1], np.diff(offsets)), axis=1))
    all_places = np.concatenate(places) if places else np.empty((0, 3), dtype=np.int64)
    hashes = table.column("hash").to_numpy()
    held_out = hashes < np.uint64(_threshold(hashes) if held_out_below is None else held_out_below)
    return {
        "train": StoredDocuments((folder, held_out_below, "train"), chunks, all_places[~held_out]),
        "held_out": StoredDocuments((folder, held_out_below, "held_out"), chunks, all_places[held_out]),
    }


class TokenStore:
    """A folder of token ids, opened without reading them; `train` and `held_out` are disjoint sets of documents.

    Attributes:
        identity: a hash of the documents' texts in their order, and of the tokenizer. It does not depend on where or
            how the text was stored.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            about = json.loads((self.folder / ABOUT_FILE).read_text(encoding="utf-8"))
            self.info = StoreInfo(**about)
            table = Dataset.from_file(str(self.folder / TOKENS_FILE)).data
            parts = _parts(table, self.folder, self.info.held_out_below)
        except (OSError, KeyError, TypeError, ValueError, pyarrow.ArrowException) as error:
            raise UserError(
                f"{self.folder} is not a whole token store ({error}); delete it, and it will be built again"
            ) from error
        self.train, self.held_out = parts["train"], parts["held_out"]
        documents = len(self.train) + len(self.held_out)
        if (documents, self.train.lengths.sum() + self.held_out.lengths.sum()) != (
            self.info.documents,
            self.info.tokens,
        ):
            raise UserError(
                f"{self.folder} holds {documents:,} documents, but {self.info.documents:,} were written; "
                "delete it, and it will be built again"
            )
        digest = hashlib.sha256(f"{self.info.tokenizer}\0".encode())
        for hashes in table.column("hash").chunks:
            digest.update(hashes.to_numpy().astype("<u8").data)
        self.identity = digest.hexdigest()[:32]


def _threshold(hashes: NDArray[np.uint64]) -> int:
    """Documents with smaller hashes are held out, so that equal texts are on one side; never none, never all."""
    threshold = int(HELD_OUT_FRACTION * 2**64)
    if not len(hashes):
        return threshold
    return min(max(threshold, int(hashes.min()) + 1), int(hashes.max()))


def held_out_threshold(folder: Path) -> int:
    """The hash below which a store's documents, and copies of them elsewhere, are held out."""
    return _threshold(Dataset.from_file(str(folder / TOKENS_FILE)).data.column("hash").to_numpy())


def _batches(corpus: Corpus) -> Iterator[list[Document]]:
    """Lists of documents, bounded in number and size."""
    batch: list[Document] = []
    characters = 0
    for document in corpus:
        batch.append(document)
        characters += len(document.text)
        if len(batch) == DOCUMENTS_PER_BATCH or characters >= CHARACTERS_PER_BATCH:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


class EncodedDocuments(NamedTuple):
    """Some documents as the store keeps them."""

    tokens: NDArray[np.unsignedinteger]
    """The token ids of all documents, end to end."""
    lengths: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    sizes: NDArray[np.int64]
    """Bytes of text."""

    def first(self, count: int) -> "EncodedDocuments":
        """The first `count` documents."""
        lengths = self.lengths[:count]
        return EncodedDocuments(self.tokens[: lengths.sum()], lengths, self.hashes[:count], self.sizes[:count])


def _encode(encoder: DocumentEncoder, texts: list[str]) -> EncodedDocuments:
    tokens, lengths = encoder(texts)
    hashes = np.fromiter(map(document_hash, texts), np.uint64, len(texts))
    return EncodedDocuments(tokens, lengths, hashes, np.array([len(text.encode()) for text in texts]))


def end_with_parent() -> None:
    """End this process when its parent ends, however that happens."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class _Worker:
    """A process that encodes. It begins with the pieces of text that its parent has met, and ends with its parent."""

    encoder: DocumentEncoder

    @classmethod
    def start(cls, encoder: DocumentEncoder) -> None:
        """Set up the new process, before it encodes."""
        cls.encoder = encoder
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the threads stayed behind
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent sees to it
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # by which a pool ends the others if one is killed
        end_with_parent()

    @classmethod
    def encode(cls, texts: list[str]) -> EncodedDocuments:
        return _encode(cls.encoder, texts)


def encoding_processes() -> int:
    """How many processes may encode: as many as `tokenizers` would use threads. Only Linux starts them quickly."""
    if sys.platform != "linux" or os.environ.get("TOKENIZERS_PARALLELISM", "true").lower() in ("false", "0", "off"):
        return 1
    asked = os.environ.get("RAYON_NUM_THREADS", "")
    threads = int(asked) if asked.isdecimal() and int(asked) else len(os.sched_getaffinity(0))
    return min(threads, MOST_PROCESSES)


def _encoded(corpus: Corpus, tokenizer: PreTrainedTokenizerFast) -> Generator[EncodedDocuments]:
    """The corpus in tokens, in order. Once it proves to be large, several processes share the work.

    Raises:
        UserError: a text cannot be encoded, or a process was killed.
    """
    encoder = DocumentEncoder(tokenizer)
    texts = ([document.text for document in batch] for batch in _batches(corpus))
    processes = encoding_processes()
    for some in islice(texts, BATCHES_ALONE) if processes > 1 else texts:
        yield _encode(encoder, some)
    following = next(texts, None)
    if following is None:
        return
    fork = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(processes, mp_context=fork, initializer=_Worker.start, initargs=(encoder,))
    try:
        begun: deque[Future[EncodedDocuments]] = deque([pool.submit(_Worker.encode, following)])
        for some in texts:
            begun.append(pool.submit(_Worker.encode, some))
            if len(begun) > 2 * processes:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(
            "a process that tokenises was killed, perhaps since memory ran out; RAYON_NUM_THREADS=1 tokenises in one"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """A hash that changes when a text's tokens would. Tokens around it do not count, so models share a store."""
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    kept = {name: part for name, part in parts.items() if name not in ("post_processor", "truncation", "padding")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def store_fingerprint(corpus: Corpus, tokenizer: PreTrainedTokenizerFast, limit: int | str | None = None) -> str:
    """A hash that changes with the corpus, the tokenizer, the limit, or the format of the store."""
    parts = (corpus.fingerprint, tokenizer_fingerprint(tokenizer), str(limit), str(FORMAT_VERSION))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def cached_store(fingerprint: str) -> Path:
    """Where the store with a fingerprint lies in the Hugging Face cache."""
    return Path(HF_CACHE_HOME) / "hf_minibert" / "stores" / fingerprint


def is_token_store(folder: Path) -> bool:
    """Whether a folder is a store, as `prepare_data.py` makes one."""
    return (folder / ABOUT_FILE).is_file()


def open_prepared_store(folder: Path, tokenizer: PreTrainedTokenizerFast) -> TokenStore:
    """Open a store that was made before, from any corpus.

    Raises:
        UserError: it was made with another tokenizer.
    """
    store = TokenStore(folder)
    if store.info.tokenizer != tokenizer_fingerprint(tokenizer):
        raise UserError(
            f"{folder} was tokenised with another tokenizer (vocabulary {store.info.vocab_size}, here "
            f"{len(tokenizer)}); give that one with --tokenizer, or prepare the data again"
        )
    return store


def open_token_store(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerFast,
    *,
    folder: Path | None = None,
    max_tokens: int | None = None,
) -> TokenStore:
    """Open the store of a corpus; if there is none, build it, with a progress bar.

    Args:
        corpus: where the documents come from.
        tokenizer: how they are cut; its special tokens are not recognised in the text.
        folder: where the store lies; default, a folder named by the fingerprint in the Hugging Face cache.
        max_tokens: stop reading the corpus at the end of the document that reaches this many tokens.

    Raises:
        UserError: the folder holds something else, or the corpus has fewer than two different documents.
    """
    fingerprint = store_fingerprint(corpus, tokenizer, max_tokens)
    if folder is None:
        folder = cached_store(fingerprint)
    if is_token_store(folder):
        store = TokenStore(folder)
        if store.info.fingerprint == fingerprint:
            return store
        raise UserError(
            f"{folder} holds the tokens of another corpus or tokenizer ({store.info.corpus}), or of an earlier version "
            "of this program; give another folder"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not a token store; give another folder")
    with unfinished_folder(folder.parent) as unfinished:
        build_store(corpus, tokenizer, unfinished, fingerprint=fingerprint, max_tokens=max_tokens)
        try:
            if folder.exists():
                folder.rmdir()
            unfinished.rename(folder)
        except OSError:
            if not is_token_store(folder):  # else another process was first with the same store
                raise
    return TokenStore(folder)


@contextmanager
def unfinished_folder(parent: Path) -> Iterator[Path]:
    """A folder to build a store in. Unless it is renamed it is deleted; so are the folders of killed builds.

    Each holds a lock, which the system releases when the process that builds in it ends, however it ends.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for lock_file in parent.glob(f"{UNFINISHED}*/{LOCK_FILE}"):
        try:
            with FileLock(lock_file, timeout=0):
                shutil.rmtree(lock_file.parent, ignore_errors=True)
        except Timeout:
            continue  # somebody builds there
    temporary = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=parent))
    try:
        with FileLock(temporary / LOCK_FILE):
            store = temporary / "store"
            store.mkdir()
            yield store
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def build_store(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    *,
    fingerprint: str,
    max_tokens: int | None = None,
    held_out_below: int | None = None,
    is_shown: bool = True,
) -> None:
    """Write the tokens, then `store.json`; `held_out_below`: see `StoreInfo`."""
    vocab_size = len(tokenizer)
    dtype = np.uint16 if vocab_size <= 2**16 else np.uint32
    features = Features({"input_ids": List(Value(np.dtype(dtype).name)), "hash": Value("uint64")})
    documents = tokens = text_bytes = 0
    different: set[int] = set()
    writer = ArrowWriter(path=str(folder / TOKENS_FILE), features=features)
    with (
        tqdm(
            desc=f"tokenizing {corpus.name}",
            total=corpus.num_bytes,
            unit="B",
            unit_scale=True,
            unit_divisor=1000,
            disable=not is_shown,
        ) as bar,
        closing(_encoded(corpus, tokenizer)) as batches,
    ):
        for batch in batches:
            if max_tokens is not None:
                batch = batch.first(int(np.searchsorted(np.cumsum(batch.lengths), max_tokens - tokens)) + 1)
            offsets = np.concatenate(([0], np.cumsum(batch.lengths))).astype(np.int32)
            lists = pyarrow.ListArray.from_arrays(pyarrow.array(offsets), pyarrow.array(batch.tokens.astype(dtype)))
            table = pyarrow.Table.from_arrays([lists, pyarrow.array(batch.hashes)], schema=features.arrow_schema)
            writer.write_table(table)
            if len(different) < 2:
                different.update(batch.hashes.tolist())
            documents, tokens = documents + len(batch.lengths), tokens + len(batch.tokens)
            text_bytes += int(batch.sizes.sum())
            bar.update(corpus.bytes_read - bar.n)
            bar.set_postfix(documents=f"{documents:,}", tokens=f"{tokens:,}", refresh=False)
            if max_tokens is not None and tokens >= max_tokens:
                break
    writer.finalize()
    if len(different) < 2 and held_out_below is None:
        raise UserError(
            f"the corpus {corpus.name} has {documents} document(s), but at least 2 different ones are needed: one is "
            "held out to measure what was learned"
        )
    token_counts = _open_parts(folder, held_out_below)["train"].token_counts(vocab_size)
    about = StoreInfo(
        corpus=corpus.name,
        fingerprint=fingerprint,
        tokenizer=tokenizer_fingerprint(tokenizer),
        vocab_size=vocab_size,
        documents=documents,
        tokens=tokens,
        bytes=text_bytes,
        token_counts=token_counts.tolist(),
        held_out_below=held_out_below,
        empty_documents=corpus.empty_documents,
    )
    (folder / ABOUT_FILE).write_text(json.dumps(dataclasses.asdict(about)) + "\n", encoding="utf-8")
