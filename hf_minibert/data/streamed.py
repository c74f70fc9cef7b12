"""Training while the text is read: a stream as a sequence of token stores, its parts.

Epoch e trains on part e, while another process makes the next part. After the end of the stream, the parts come again.
The cache keeps each part with the stream's position behind it, so neither another run nor a resumed one reads anything
twice.
"""

import hashlib
import json
import multiprocessing
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from filelock import FileLock
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from hf_minibert.data.corpus import HubStream
from hf_minibert.data.documents import Corpus, Document
from hf_minibert.data.rows import Batch, Integers, Rows
from hf_minibert.data.token_store import (
    TokenStore,
    build_store,
    cached_store,
    end_with_parent,
    held_out_threshold,
    store_fingerprint,
    unfinished_folder,
)
from hf_minibert.errors import UserError
from hf_minibert.files import write_text
from hf_minibert.signals import call_pickled, withheld_from_children

PART_BYTES = 2**26
"""A part ends with the document that reaches so much text, some 16 million tokens. Counted in bytes and not in tokens,
it is known while reading, so that the position of the stream is exact and nothing is read that belongs to another."""
POSITION_FILE = "position.json"
LOCK_FILE = "lock"
END_FILE = "end.json"
STOPPED = "a signal stopped the run while it waited for the next part of its stream"
SECONDS_BETWEEN_LOOKS = 0.05


class StreamError(UserError):
    """A stream broke off."""


class StreamStoppedError(StreamError):
    """A signal stopped the run while it waited for a part."""


@dataclass(frozen=True)
class Stream:
    """A streamed corpus and its parts in the cache; it can be sent to another process."""

    corpus: HubStream
    tokenizer: PreTrainedTokenizerFast
    folder: Path
    part_bytes: int
    run: str
    """The name of the run whose processes read together; other runs may share the cache."""

    def part(self, number: int) -> Path:
        """The folder of a part; if it exists, the part is whole."""
        return self.folder / f"part-{number:05d}"

    def error_file(self, number: int) -> Path:
        """The file that says why a part could not be made."""
        return self.folder / f"part-{number:05d}-{self.run}.error"

    def identity(self, first: TokenStore) -> str:
        """A hash of the first part's texts and of the stream's folder, whose name stands for the parts that follow."""
        return hashlib.sha256(f"{first.identity}\0{self.folder.name}".encode()).hexdigest()[:32]

    def num_parts(self) -> int | None:
        """How many parts there are; None until the end of the stream is reached."""
        try:
            return int(json.loads((self.folder / END_FILE).read_text(encoding="utf-8"))["parts"])
        except FileNotFoundError:
            return None

    def part_of(self, epoch: int) -> int | None:
        """The number of the part that an epoch reads; None if the part is not made yet."""
        if self.part(epoch).is_dir():
            return epoch
        number = self.num_parts()
        return None if number is None or epoch < number else epoch % number


def open_stream(corpus: HubStream, tokenizer: PreTrainedTokenizerFast, run: str = "run") -> Stream:
    """The stream with its first part, which is made now unless it is there; `run` names those who read it together.

    Raises:
        UserError: the connection broke off, or the stream has fewer than two different documents.
    """
    folder = cached_store(store_fingerprint(corpus, tokenizer, f"parts of {PART_BYTES} bytes"))
    stream = Stream(corpus, tokenizer, folder, PART_BYTES, run)
    PartMaker(stream).make(0, is_shown=True)
    for stale in folder.glob(f"*-{run}.error"):  # of an earlier start
        stale.unlink(missing_ok=True)
    return stream


class _PartOfStream(Corpus):
    """Documents up to the one that reaches a size."""

    def __init__(self, name: str, documents: Iterator[Document], size: int) -> None:
        super().__init__(name, "", None)
        self._source, self._size = documents, size

    def _documents(self) -> Iterator[Document]:
        for document in self._source:
            self.bytes_read += len(document.text.encode()) if document.has_text else 0
            yield document
            if self.bytes_read >= self._size:
                return


class PartMaker:
    """Makes parts one after another, with the stream open between them."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._position: dict[str, Any] | None = None
        self._documents: Iterator[Document] | None = None

    def make(self, number: int, *, is_shown: bool) -> None:
        """Make a part, unless it exists or the stream ended before it.

        Raises:
            UserError: the connection broke off, or the first part is too small.
        """
        stream = self._stream
        stream.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(stream.folder / LOCK_FILE):  # of the runs that share the cache, one reads
            if stream.part_of(number) is not None:
                return
            stream.error_file(number).unlink(missing_ok=True)
            position = below = None
            if number > 0:
                position = json.loads((stream.part(number - 1) / POSITION_FILE).read_text(encoding="utf-8"))
                below = held_out_threshold(stream.part(0))
            documents = self._documents_after(position)
            head = list[Document]()
            while not (head and head[-1].has_text) and (one := next(documents, None)) is not None:
                head.append(one)
            if not (head and head[-1].has_text) and number > 0:
                write_text(stream.folder / END_FILE, json.dumps({"parts": number}))
                return
            part = _PartOfStream(stream.corpus.name, chain(head, documents), stream.part_bytes)
            with unfinished_folder(stream.folder) as unfinished:
                build_store(
                    part,
                    stream.tokenizer,
                    unfinished,
                    fingerprint=stream.folder.name,
                    held_out_below=below,
                    is_shown=is_shown,
                )
                position_file = unfinished / POSITION_FILE
                position_file.write_text(json.dumps(stream.corpus.position()), encoding="utf-8")
                self._position = json.loads(position_file.read_text(encoding="utf-8"))  # as it is read again
                unfinished.rename(stream.part(number))

    def _documents_after(self, position: dict[str, Any] | None) -> Iterator[Document]:
        """Read on; or from elsewhere, if that is where the part before ended."""
        if self._documents is None or position != self._position:
            self._documents = self._stream.corpus.documents_after(position)
        return self._documents


def _make_parts(stream: Stream, requests: Connection) -> None:
    """What the process that makes parts does: a part for each number that it is sent."""
    end_with_parent()
    tqdm.set_lock(threading.RLock())  # not one of the system, which is left behind when this process is killed
    maker = PartMaker(stream)
    while True:
        try:
            number = requests.recv()
        except EOFError:
            return
        try:
            maker.make(number, is_shown=False)
        except Exception as error:  # whatever it is, those who wait must hear of it
            reason = " ".join(str(error).split()) or type(error).__name__
            write_text(stream.error_file(number), reason)
            return


class Order(Protocol):
    """The order of the endless list of examples: it tells which row of which epoch each one is."""

    def locate(self, examples: Integers, *, until: int) -> tuple[Integers, Integers]:
        """Epochs and rows of examples. Waits, in every process alike, until all examples below `until` are there."""
        ...

    def close(self) -> None:
        """Release what the order holds; nobody asks again."""
        ...


class StreamedRows:
    """An objective over the parts of a stream. `num_rows` is that of the first."""

    def __init__(self, stream: Stream, build: Callable[[TokenStore], Rows], first: Rows, *, makes_parts: bool) -> None:
        """`build` an objective on a part; `makes_parts`: whether this process sees to it that parts are made."""
        self.stream, self.makes_parts, self.num_rows = stream, makes_parts, first.num_rows
        self._build = build
        self._opened: tuple[int, Rows] = (0, first)

    def batch(self, epoch: int, rows: Integers) -> Batch:
        """Rows of an epoch; its part must exist."""
        part = self.stream.part_of(epoch)
        assert part is not None
        if part != self._opened[0]:
            self._opened = (part, self._build(TokenStore(self.stream.part(part))))
        return self._opened[1].batch(epoch, rows)

    def count_rows(self, part: int) -> int:
        """Count the rows of a part, in a few milliseconds; 0 if it is too small for one."""
        if part == 0:
            return self.num_rows
        store = TokenStore(self.stream.part(part))
        try:
            return self._build(store).num_rows
        except UserError:
            return 0

    def order(self, last_row: int | None, is_stopped: Callable[[], bool]) -> "StreamedOrder":
        """The order for a run that ends after `last_row` rows (None if that is not known), or when `is_stopped`."""
        return StreamedOrder(self, last_row, is_stopped)


class StreamedOrder:
    """Counts through the parts. While one is read it has the next one made, and waits for it if it is late."""

    def __init__(self, objective: StreamedRows, last_row: int | None, is_stopped: Callable[[], bool]) -> None:
        self._objective, self._stream, self._last_row = objective, objective.stream, last_row
        self._is_stopped = is_stopped
        self._begins = [0]
        """The first example of each known epoch, and of the next."""
        self._rows_of_part: dict[int, int] = {}
        self._asked = 0
        self._process: multiprocessing.process.BaseProcess | None = None
        self._requests: Connection | None = None

    def locate(self, examples: Integers, *, until: int) -> tuple[Integers, Integers]:
        """See `Order`.

        Raises:
            StreamError: a part could not be made, or the run is stopped meanwhile.
        """
        while self._begins[-1] < until:
            self._add_epoch()
        begins = np.array(self._begins)
        epochs = np.searchsorted(begins, examples, side="right") - 1
        return epochs, examples - begins[epochs]

    def _add_epoch(self) -> None:
        epoch = len(self._begins) - 1
        part = self._wait_for(epoch)
        if part not in self._rows_of_part:
            self._rows_of_part[part] = self._objective.count_rows(part)
        self._begins.append(self._begins[-1] + self._rows_of_part[part])
        if self._last_row is None or self._begins[-1] < self._last_row:
            self._ask_for(epoch + 1)

    def _ask_for(self, epoch: int) -> None:
        """Have the part of an epoch made, unless it is there."""
        if not self._objective.makes_parts or self._stream.part_of(epoch) is not None or self._asked >= epoch:
            return
        self._asked = epoch
        if self._process is None or not self._process.is_alive():
            spawn = multiprocessing.get_context("spawn")  # a thread or a fork would share what the steps need
            theirs, self._requests = spawn.Pipe(duplex=False)
            self._process = spawn.Process(
                target=call_pickled, args=(pickle.dumps(partial(_make_parts, self._stream)), theirs)
            )
            with withheld_from_children():
                self._process.start()
            theirs.close()
        assert self._requests is not None
        with suppress(BrokenPipeError):  # it was killed just now, as the wait will find
            self._requests.send(epoch)

    def _wait_for(self, epoch: int) -> int:
        self._ask_for(epoch)
        stream = self._stream
        while (part := stream.part_of(epoch)) is None:
            if self._process is not None and not self._process.is_alive() and not stream.error_file(epoch).exists():
                if stream.part_of(epoch) is not None:
                    continue
                write_text(stream.error_file(epoch), "the process that reads the stream was killed")  # tell all
            if self._is_stopped() and not stream.error_file(epoch).exists():
                write_text(stream.error_file(epoch), STOPPED)
            if stream.error_file(epoch).exists():
                reason = stream.error_file(epoch).read_text(encoding="utf-8")
                kind = StreamStoppedError if reason == STOPPED else StreamError
                raise kind(f"{reason}. The run goes on from its last checkpoint with --resume")
            time.sleep(SECONDS_BETWEEN_LOOKS)
        return part

    def close(self) -> None:
        """End the process that makes parts; the next one deletes what it leaves unfinished."""
        if self._process is not None and self._requests is not None:
            self._requests.close()
            self._process.join(timeout=0.5)  # if it has nothing to do, it ends by itself
            self._process.kill()
            self._process.join()
