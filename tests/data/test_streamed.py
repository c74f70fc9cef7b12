"""A stream in parts: what is in them, who makes them, and in which order they are read."""

import json
import multiprocessing
import os
import signal
import time
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import datasets
import huggingface_hub
import numpy as np
import psutil
import pytest
import streamed_hub
import torch
from commands import environment
from forked import server

from hf_minibert.data import streamed
from hf_minibert.data.corpus import HubStream, open_corpus
from hf_minibert.data.documents import document_hash, is_held_out
from hf_minibert.data.loader import training_batches
from hf_minibert.data.rows import Batch
from hf_minibert.data.streamed import PartMaker, Stream, StreamedRows, open_stream
from hf_minibert.data.token_store import TokenStore
from hf_minibert.errors import UserError

TEXTS = [f"Document {number:03} of the stream." for number in range(200)]
SIZE = len(TEXTS[0])
PER_PART = 60

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker:UserWarning"),  # a test has one core
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


class Whole:
    """An objective with a document a row, in their order; too small without any."""

    def __init__(self, store: TokenStore) -> None:
        self.documents = store.train
        self.num_rows = len(store.train)
        if self.num_rows == 0:
            raise UserError("no rows")

    def batch(self, epoch: int, rows: np.ndarray) -> Batch:
        ids = torch.zeros((len(rows), 32), dtype=torch.int64)
        for place, row in enumerate(rows):
            tokens = self.documents.tokens(int(row)).astype(np.int64)
            ids[place, : len(tokens)] = torch.from_numpy(tokens)
        return {"input_ids": ids, "epoch": torch.full((len(rows),), epoch)}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of the rows of a Hub data set in two files; every test has a data set of its own."""
    monkeypatch.setattr(streamed, "PART_BYTES", PER_PART * SIZE)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: SimpleNamespace(sha=str(tmp_path)))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_arguments, **_options: streamed_hub.stream(tmp_path))
    # As spawned, but sooner; tests/invariants/test_streaming.py spawns.
    context, soon = multiprocessing.get_context, server(environment(tmp_path / "cache"))
    monkeypatch.setattr(multiprocessing, "get_context", lambda kind=None: soon if kind == "spawn" else context(kind))
    write(tmp_path, TEXTS)
    return tmp_path


def write(folder: Path, texts: list[str]) -> None:
    for name, some in (("a", texts[:100]), ("b", texts[100:])):
        lines = [json.dumps({"text": text, "number": number}) + "\n" for number, text in enumerate(some)]
        (folder / f"{name}.jsonl").write_text("".join(lines))


def open_hub() -> HubStream:
    corpus = open_corpus(["me/texts"], streaming=True)
    assert isinstance(corpus, HubStream)
    return corpus


def objective(stream: Stream, *, makes_parts: bool = True) -> StreamedRows:
    return StreamedRows(stream, Whole, Whole(TokenStore(stream.part(0))), makes_parts=makes_parts)


def texts_of(batches: list[Batch], tokenizer) -> list[str]:
    return [tokenizer.decode(row[row != 0]) for batch in batches for row in batch["input_ids"]]


def parts_there(stream: Stream) -> list[str]:
    return sorted(path.name for path in stream.folder.glob("part-*") if path.is_dir())


TRAINED = [text for text in TEXTS if not is_held_out(text)]


def test_texts_without_words_are_left_out_and_counted(tokenizer, folder):
    write(folder, [" ", *TEXTS[:PER_PART], "", " \n", *TEXTS[PER_PART:]])
    stream = open_stream(open_hub(), tokenizer)
    PartMaker(stream).make(1, is_shown=False)
    for number, left_out in enumerate((1, 2)):
        info = TokenStore(stream.part(number)).info
        assert (info.documents, info.empty_documents) == (PER_PART, left_out)


def test_every_document_once_a_pass_in_the_same_order_however_the_work_is_divided(tokenizer, folder):
    stream = open_stream(open_hub(), tokenizer)
    assert parts_there(stream) == ["part-00000"]
    assert len(streamed_hub.rows_read(folder)) == PER_PART, "nothing is read that belongs to another part"
    steps = 2 * len(TRAINED) // 8
    found = {}
    for workers in (0, 2):
        for world_size in (1, 2):
            by_rank = [
                list(
                    training_batches(
                        objective(stream, makes_parts=rank == 0),
                        batch_size=8 // world_size,
                        rank=rank,
                        world_size=world_size,
                        last_row=steps * 8,
                        num_workers=workers,
                    )
                )
                for rank in range(world_size)
            ]
            assert {len(batches) for batches in by_rank} == {steps}
            in_order = [batches[step] for step in range(steps) for batches in by_rank]
            found[workers, world_size] = texts_of(in_order, tokenizer)
    alone = found[0, 1]
    assert alone[: len(TRAINED)] == TRAINED
    assert alone[len(TRAINED) :] == TRAINED[: len(alone) - len(TRAINED)], "the stream's parts come again"
    assert all(texts == alone for texts in found.values())
    assert parts_there(stream) == [f"part-{number:05}" for number in range(4)]
    expected = [
        f"a.jsonl:{number}" for number in (*range(PER_PART), *range(100))
    ]  # `datasets` finds a row in a file so
    expected += [f"b.jsonl:{number}" for number in range(100)]
    assert streamed_hub.rows_read(folder) == expected, "one process reads on and on"


@pytest.mark.usefixtures("folder")
def test_the_first_row_decides_the_rest(tokenizer):
    stream = open_stream(open_hub(), tokenizer)
    through = texts_of(list(training_batches(objective(stream), batch_size=8, last_row=400)), tokenizer)
    for first in (0, 56, 64, 200, 392):
        resumed = list(training_batches(objective(stream), batch_size=8, first_row=first, last_row=400))
        assert texts_of(resumed, tokenizer) == through[first:]


def test_no_part_is_made_that_the_run_cannot_reach_and_only_one_ahead(tokenizer, folder):
    stream = open_stream(open_hub(), tokenizer)
    rows = objective(stream).num_rows
    list(training_batches(objective(stream), batch_size=1, last_row=rows, num_workers=2))
    assert parts_there(stream) == ["part-00000"]
    batches = training_batches(objective(stream), batch_size=1, last_row=10 * rows)
    next(batches)
    deadline = time.monotonic() + 60
    while len(parts_there(stream)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    assert parts_there(stream) == ["part-00000", "part-00001"]
    assert streamed_hub.rows_read(folder)[-1] == "b.jsonl:19"
    (maker,) = multiprocessing.active_children()
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        os.kill(maker.pid, number)
    time.sleep(0.2)
    assert maker.is_alive()
    batches.close()
    assert not psutil.pid_exists(maker.pid)


def test_a_maker_that_is_killed_is_one_clear_error(tokenizer, folder, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_arguments, **_options: streamed_hub.stream(folder, 0.05))
    stream = open_stream(open_hub(), tokenizer)
    batches = training_batches(objective(stream), batch_size=1, last_row=1000)
    next(batches)
    (maker,) = multiprocessing.active_children()
    maker.kill()
    with pytest.raises(UserError, match="was killed. The run goes on from its last checkpoint with --resume"):
        list(batches)


def test_a_stream_that_breaks_off_is_one_clear_error_for_everyone(tokenizer, folder):
    stream = open_stream(open_hub(), tokenizer)
    (folder / "broken").write_text("a.jsonl:80")
    for makes_parts, workers in ((True, 2), (False, 0)):
        source = objective(stream, makes_parts=makes_parts)
        with pytest.raises(UserError, match="me/texts broke off at row 81 .ConnectionError.*dead.*--resume") as caught:
            list(training_batches(source, batch_size=8, last_row=1000, num_workers=workers))
        assert "\n" not in str(caught.value)
    (folder / "broken").unlink()
    stream = open_stream(open_hub(), tokenizer)
    found = texts_of(list(training_batches(objective(stream), batch_size=1, last_row=len(TRAINED))), tokenizer)
    assert found == TRAINED


def test_held_out_text_and_its_copies_are_in_no_later_part(tokenizer, folder):
    """Also where the first part has none below the usual threshold, and holds out the lowest."""
    first = [text for text in TEXTS if not is_held_out(text, 0.3)][:PER_PART]
    held_out = min(first, key=document_hash)
    write(folder, [*first, *(text for text in TEXTS if text not in first), held_out, *first[:20]])
    stream = open_stream(open_hub(), tokenizer)
    maker = PartMaker(stream)
    for number in range(1, 5):
        maker.make(number, is_shown=False)
    parts = [TokenStore(stream.part(number)) for number in range(stream.num_parts() or 0)]
    assert [tokenizer.decode(parts[0].held_out.tokens(0))] == [held_out]
    trained = {tokenizer.decode(part.train.tokens(n)) for part in parts for n in range(len(part.train))}
    assert trained == {text for text in TEXTS if document_hash(text) > document_hash(held_out)}


def test_a_part_without_a_row_is_passed_over(tokenizer, folder):
    low = next(
        text for text in (f"{n} candidate of {SIZE}..........." for n in range(10_000)) if is_held_out(text * 200)
    )
    after = TEXTS[PER_PART : PER_PART + 5]
    write(folder, [*TEXTS[:PER_PART], low * 200, *after])
    copies, after = ([text for text in some if not is_held_out(text)] for some in (TEXTS[:PER_PART], after))
    stream = open_stream(open_hub(), tokenizer)
    trained = objective(stream)
    last_row = len(copies) + len(after)
    found = texts_of(list(training_batches(trained, batch_size=1, last_row=last_row)), tokenizer)
    assert sorted(found) == sorted([*copies, *after])
    assert trained.count_rows(1) == 0


@pytest.mark.parametrize("kind", ["json", "parquet"])
def test_reading_goes_on_exactly_where_it_stopped(tmp_path, monkeypatch, kind):
    """As `datasets` reads files, over their ends, and with columns that are left out."""
    for shard in range(3):
        table = datasets.Dataset.from_list([{"text": f"{shard} {n}", "other": n} for n in range(25)])
        if kind == "json":
            table.to_json(tmp_path / f"{shard}.json")
        else:
            table.to_parquet(tmp_path / f"{shard}.parquet", batch_size=10)
    load = datasets.load_dataset
    files = sorted(map(str, tmp_path.iterdir()))
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *_, **__: load(kind, data_files=files, split="train", streaming=True)
    )
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: SimpleNamespace(sha="x"))
    whole = list(open_hub())
    assert len(whole) == 75
    for place in (1, 9, 25, 26, 40, 74, 75):
        corpus = open_hub()
        list(islice(corpus.documents_after(None), place))
        position = json.loads(json.dumps(corpus.position()))
        assert list(open_hub().documents_after(position)) == whole[place:]


@pytest.mark.usefixtures("folder")
def test_the_size_of_parts_is_part_of_the_fingerprint(tokenizer, monkeypatch):
    one = open_stream(open_hub(), tokenizer)
    monkeypatch.setattr(streamed, "PART_BYTES", 70 * SIZE)
    assert open_stream(open_hub(), tokenizer).folder != one.folder
