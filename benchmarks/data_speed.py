"""How fast text becomes batches: our token store beside the tokenise-and-group of the stock scripts, on the same text.

::

    python benchmarks/data_speed.py
    python benchmarks/data_speed.py --corpus 'texts/*.jsonl' --memory_megabytes 1000

The peer does what transformers' `run_mlm.py` and `run_clm.py` do: one `datasets.map` tokenises, another joins and cuts
into rows, in as many processes as ours has threads. Every measurement is a process of its own with empty caches. The
command also measures the tokens per second of one loader process for each objective, and (on Linux) the most memory
that the processes together hold while they build the store of a large corpus; shared pages count once.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch

from hf_minibert.command_line import invocation, run
from hf_minibert.data.corpus import open_corpus
from hf_minibert.data.loader import training_batches
from hf_minibert.data.rows import CausalRows, MaskedRows, Masking, NextSentenceRows, Rows
from hf_minibert.data.token_store import open_token_store
from hf_minibert.runs.hardware import cores, hardware
from hf_minibert.tokenization import load_tokenizer
from runs import REPOSITORY, Benchmark, environment, machine, write_results

LENGTH = 128
ROUNDS = 3
WAYS = ("ours", "tokenise-and-group")


@dataclass(kw_only=True)
class Arguments(Benchmark):
    """Measure the preparation of data."""

    corpus: list[str] = field(default_factory=lambda: ["builtin"])
    """Text to measure on, as in `scripts/pretrain.py`."""
    megabytes: int = 48
    """How much of it."""
    memory_megabytes: int = 0
    """Also build a store of so much text (the same, repeated), and report the memory it took."""
    way: str | None = None
    """For the measurements' own processes: which of them this is."""
    file: str | None = None
    """For the measurements' own processes: the text, a JSON object a line."""
    processes: int = 1
    """For the measurements' own processes: threads or processes that tokenise."""


def write_text_file(corpus: list[str], path: Path, megabytes: int) -> int:
    """The first documents of a corpus, and the first again if it is smaller; returns bytes of text."""
    size = 0
    with path.open("w", encoding="utf-8") as file:
        while size < megabytes * 1_000_000:
            for document in open_corpus(corpus):
                text = f"{size:x} {document.text}"  # no two documents alike
                file.write(json.dumps({"text": text}) + "\n")
                size += len(text.encode())
                if size >= megabytes * 1_000_000:
                    break
    return size


def prepare_ours(file: Path, folder: Path) -> None:
    """A token store, as `scripts/pretrain.py` makes it."""
    open_token_store(open_corpus([str(file)]), load_tokenizer("tokenizer"), folder=folder)


def prepare_like_the_stock_scripts(file: Path, folder: Path, processes: int) -> None:
    """Rows of a data set: tokenised by one `map`, joined and cut by another."""
    import datasets  # noqa: PLC0415  # so that ours is measured without

    tokenizer = load_tokenizer("tokenizer")
    rows = datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=str(folder))
    assert isinstance(rows, datasets.Dataset)
    workers = None if processes == 1 else processes

    def group(batch: dict[str, list[list[int]]]) -> dict[str, list[list[int]]]:
        joined = {name: [token for tokens in column for token in tokens] for name, column in batch.items()}
        total = len(joined["input_ids"]) // LENGTH * LENGTH
        return {name: [flat[i : i + LENGTH] for i in range(0, total, LENGTH)] for name, flat in joined.items()}

    rows = rows.map(
        lambda batch: tokenizer(batch["text"], return_special_tokens_mask=True),
        batched=True,
        num_proc=workers,
        remove_columns=["text"],
    )
    rows.map(group, batched=True, num_proc=workers)


def in_a_process(way: str, file: Path, processes: int, *, measures_memory: bool = False) -> dict[str, float]:
    """Measure in a process of its own, which reports its seconds on its last line."""
    with tempfile.TemporaryDirectory() as cache:
        threads = str(processes) if way == "ours" else "1"
        settings = {"HF_HOME": cache, "RAYON_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, __file__, "--way", way, "--file", str(file), "--processes", str(processes)]
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=os.environ | settings, stdout=subprocess.PIPE, text=True
        )
        most = 0
        while measures_memory and process.poll() is None:
            most = max(most, resident_bytes(process.pid))
            time.sleep(0.5)
        output, _ = process.communicate()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return {"seconds": float(output.splitlines()[-1]), "resident_megabytes": most / 1e6}


def resident_bytes(pid: int) -> int:
    """Memory of a process and of those it has started; a page that they share counts once."""
    total = 0
    with suppress(psutil.NoSuchProcess):  # ended since
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            total += process.memory_full_info().pss
    return total


def measure_one(arguments: Arguments) -> float:
    """The seconds of one measurement, in its own process."""
    assert arguments.file is not None
    file = Path(arguments.file)
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        if arguments.way == "ours":
            prepare_ours(file, Path(folder) / "store")
        else:
            prepare_like_the_stock_scripts(file, Path(folder), arguments.processes)
        return time.perf_counter() - begin


def loader_speeds(file: Path) -> dict[str, int]:
    """Tokens per second of one loader process, by objective."""
    tokenizer = load_tokenizer("tokenizer")
    with tempfile.TemporaryDirectory() as folder:
        documents = open_token_store(open_corpus([str(file)]), tokenizer, folder=Path(folder) / "store").train
        shape: dict[str, Any] = {"length": LENGTH, "cls_id": 2, "sep_id": 3, "seed": 0}
        masking = Masking(probability=0.15, mask_id=4, special_ids=[0, 1, 2, 3, 4], vocab_size=len(tokenizer), seed=0)
        objectives: dict[str, Rows] = {
            "mlm": MaskedRows(documents, masking=masking, **shape),
            "mlm+nsp": NextSentenceRows(documents, masking=masking, pad_id=0, **shape),
            "clm": CausalRows(documents, **shape),
        }
        speeds = {}
        for name, objective in objectives.items():
            batches = training_batches(objective, batch_size=64, rank=0, world_size=1, first_row=0, num_workers=0)
            for _ in range(5):
                next(batches)
            begin, count = time.perf_counter(), 200
            for _ in range(count):
                next(batches)
            speeds[name] = round(count * 64 * LENGTH / (time.perf_counter() - begin))
    return speeds


def table(figures: dict[str, Any]) -> list[str]:
    """The speed of preparation beside the stock scripts', the speed of the loader, and the memory."""
    lines = [
        f"| preparing text, {figures['hardware']} | ours | tokenise-and-group | ratio |",
        "|---|---:|---:|---:|",
    ]
    lines += [
        f"| {row['processes']} process{'es' if row['processes'] > 1 else ''}, MB/s | {row['ours']:.2f} "
        f"| {row['tokenise-and-group']:.2f} | **{row['ratio']:.1f}** |"
        for row in figures["preparation_megabytes_per_second"]
    ]
    speeds = figures["loader_tokens_per_second"]
    lines += ["", "| one loader process | million tokens per second |", "|---|---:|"]
    lines += [f"| {name} | {speed / 1e6:.1f} |" for name, speed in speeds.items()]
    if "memory" in figures:
        memory = figures["memory"]
        lines += [
            "",
            f"A store of {memory['megabytes_of_text']:,} MB of text was built within {memory['resident_megabytes']:,} "
            "MB of resident memory.",
        ]
    return [*lines, "", f"(`{figures['command']}`)"]


def main(arguments: Arguments) -> int:
    """All measurements, or the one of this process."""
    if arguments.way is not None:
        print(measure_one(arguments))
        return 0
    processors = cores()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "text.jsonl"
        size = write_text_file(arguments.corpus, file, arguments.megabytes)
        table = []
        for processes in sorted({1, processors}):
            seconds: dict[str, list[float]] = {way: [] for way in WAYS}
            for number in range(ROUNDS):
                for way in WAYS if number % 2 == 0 else reversed(WAYS):
                    seconds[way].append(in_a_process(way, file, processes)["seconds"])
            rates = {way: size / 1e6 / statistics.median(some) for way, some in seconds.items()}
            table.append(
                {"processes": processes}
                | {way: round(rate, 2) for way, rate in rates.items()}
                | {"ratio": round(rates[WAYS[0]] / rates[WAYS[1]], 2)}
            )
        figures: dict[str, Any] = {
            "command": invocation(),
            "hardware": hardware(torch.device("cpu")),
            "megabytes": round(size / 1e6, 1),
            "preparation_megabytes_per_second": table,
            "loader_tokens_per_second": loader_speeds(file),
        }
        if arguments.memory_megabytes:
            size = write_text_file(arguments.corpus, file, arguments.memory_megabytes)
            one = in_a_process("ours", file, processors, measures_memory=True)
            figures["memory"] = {
                "megabytes_of_text": round(size / 1e6),
                "resident_megabytes": round(one["resident_megabytes"]),
                "megabytes_per_second": round(size / 1e6 / one["seconds"], 2),
            }
    file = arguments.results / f"{'-'.join(('data_speed', *machine()))}.json"
    write_results(file, figures | {"environment": environment()})
    print(json.dumps(figures, indent=2))  # noqa: T201
    return 0


if __name__ == "__main__":
    run(Arguments, main)
