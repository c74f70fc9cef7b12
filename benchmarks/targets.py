"""What was asked of this package, beside what the result files say of either kind of CPU."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import inference_speed
from learning_efficiency import time_to_loss
from runs import RESULTS, mean

Figures = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """A figure that was asked for."""

    what: str
    asked: str
    file: str | tuple[str, ...]
    """The result file that has it, or several, of which the first that is there counts. A CPU without bfloat16 has a
    file of this name and `-fp32`, a GPU one of this name and `-cuda`; without a file, or where no command writes one
    yet, the cell is empty."""
    read: Callable[[Figures], str]
    """The cell of the table, out of that file."""


def rows_by_precision(figures: Figures, model: str, length: int, variant: str) -> dict[str, dict[str, Any]]:
    """The rows of a variant of training steps: one for each precision, and one compiled."""
    (table,) = (one for one in figures["tables"] if (one["model"], one["sequence_length"]) == (model, length))
    rows = [(row["variant"].removeprefix(variant), row) for row in table["rows"]]
    return {row["precision"] + rest: row for rest, row in rows if rest in ("", ", compiled")}


def step_column(figures: Figures, *, model: str, length: int, variant: str, column: str, digits: str) -> str:
    """A column of a variant's rows."""
    rows = rows_by_precision(figures, model, length, variant)
    return "; ".join(f"{precision} {row[column]:{digits}}" for precision, row in rows.items())


def times_as_fast(
    figures: Figures, *, model: str, length: int, variant: str, than: str, digits: str = ".2f", less: int = 0
) -> str:
    """How many times as fast a variant's step is as another's in the same precision, less a number."""
    ours, others = (rows_by_precision(figures, model, length, name) for name in (variant, than))
    both = {name: row["ratio"] / others[name]["ratio"] - less for name, row in ours.items() if name in others}
    return "; ".join(f"{precision} {ratio:{digits}}" for precision, ratio in both.items())


def preparation(figures: Figures) -> str:
    """The ratios of preparing text, by the number of processes."""
    return ", ".join(f"{row['ratio']:.1f}" for row in figures["preparation_megabytes_per_second"])


def slowest_loader(figures: Figures) -> str:
    """Million tokens a second."""
    return f"{min(figures['loader_tokens_per_second'].values()) / 1e6:.1f}"


def memory(figures: Figures) -> str:
    """Megabytes."""
    return f"{figures['memory']['resident_megabytes']:,}"


def seeds(figures: Figures) -> str:
    """The number of runs behind a mean."""
    where = ", one core" if figures["hardware"] == "1 CPU core" else ""
    return f"{len(figures['runs'])} seed{'s' if len(figures['runs']) > 1 else ''}{where}"


def nats_below(figures: Figures, peer: str) -> str:
    """The loss of a peer less ours; empty if it was not measured beside ours."""
    if peer not in figures["peers"]:
        return ""
    return f"{mean(figures, peer) - mean(figures, 'ours'):.2f} ({seeds(figures)})"


def share_below(figures: Figures, peer: str) -> str:
    """The same as a share of a peer's loss."""
    if peer not in figures["peers"]:
        return ""
    return f"{1 - mean(figures, 'ours') / mean(figures, peer):.1%} ({seeds(figures)})"


def times_to_loss(figures: Figures, peer: str) -> str:
    """Of each seed, the time to a peer's loss; empty if it was not measured beside ours."""
    return ", ".join(time_to_loss(one, peer) for one in figures["runs"]) if peer in figures["peers"] else ""


def reached(figures: Figures, digits: str = ".2f") -> str:
    """The loss of ours, in the measure of the file."""
    return f"{mean(figures, 'ours'):{digits}} ({seeds(figures)})"


def lowest(figures: Figures) -> str:
    """Nats per character of ours, of each seed."""
    return ", ".join(f"{one['ours']['loss']:.3f}" for one in figures["runs"])


def cold_start(figures: Figures) -> str:
    """The CPU time of a first prediction, as a share of stock BERT's."""
    ratios = [table["rows"][-1]["ratio"] for table in figures["tables"] if table["kind"] == "cold start"]
    return ", ".join(f"{1 / ratio:.2f}" for ratio in ratios)


def whole_way(figures: Figures) -> str:
    """Seconds of all steps."""
    return f"{sum(step['seconds'] for step in figures['steps'].values()):.0f}"


def below_nanogpt(figures: Figures) -> str:
    """Nats per character, of each seed."""
    return ", ".join(f"{one['nanogpt']['loss'] - one['ours']['loss']:.2f}" for one in figures["runs"])


def step_targets(model: str, length: int, asked: str) -> list[Target]:
    """The three targets of a training step."""
    adamw = f"{model.partition('-')[0]} modern"
    step: dict[str, Any] = {"model": model, "length": length, "variant": adamw}
    speed = partial(step_column, **step, column="ratio", digits=".2f")
    utilisation = partial(step_column, **step, column="utilisation", digits=".0%")
    surcharge = partial(times_as_fast, **step, than=f"{adamw}, Muon", digits=".0%", less=1)
    what = f"`{model}`, {length} tokens a row"
    return [
        Target(f"{what}: speed of a step with AdamW, stock in fp32 = 1", f"≥ {asked}", "step_speed", speed),
        Target("its utilisation", "≥ 70%", "step_speed", utilisation),
        Target("extra time with Muon", "≤ 15%", "step_speed", surcharge),
    ]


def whole_step(figures: Figures, model: str, length: int) -> str:
    """How many times as fast as the fastest of the stock parts our whole step is, all compiled, ours with Muon."""
    (table,) = (one for one in figures["tables"] if (one["model"], one["sequence_length"]) == (model, length))
    ratios = {row["variant"]: row["ratio"] for row in table["rows"] if row["variant"].endswith(", compiled")}
    stock = [ratio for name, ratio in ratios.items() if name.startswith("stock ")]
    ours = ratios.get(f"{model.partition('-')[0]} modern, Muon, compiled")
    return f"{ours / max(stock):.2f}" if stock and ours is not None else ""


def in_eight_bits(figures: Figures) -> str:
    """How many times as fast as torch in float32 onnxruntime is with 8-bit matrices."""
    (table,) = (one for one in figures["tables"] if one["kind"] == "int8")
    return f"{next(row['ratio'] for row in table['rows'] if row['variant'].endswith('int8')):.2f}"


def generates_as_fast(figures: Figures, batch: int) -> str:
    """How many times as fast as stock Llama MiniGPT generates with a cache, and on how many threads."""
    found = [one for one in figures["tables"] if one["kind"] == "generation" and one["batch"] == batch]
    ratios = {row["variant"]: row["ratio"] for one in found for row in one["rows"]}
    names = {"MiniGPTForCausalLM": "", inference_speed.COMPILED: "compiled "}
    shown = "; ".join(f"{words}{ratios[name]:.2f}" for name, words in names.items() if name in ratios)
    threads = f"{figures['threads']} thread{'s' if figures['threads'] > 1 else ''}"
    return f"{shown} ({threads})" if shown else ""


def throughput(
    figures: Figures,
    column: str = "tokens_per_second",
    size: str = "",
    digits: Callable[[float], str] = "{:.0%}".format,
) -> str:
    """A column of whole runs, of all models or of a size."""
    rows = [row for row in figures["rows"] if row["model"].endswith(size) and row[column] is not None]
    return "; ".join(f"`{row['model']}` {digits(row[column])}" for row in rows)


def millions(number: float) -> str:
    """A number in millions."""
    return f"{number / 1e6:.2f}"


ON_A_GPU = "throughput"
BERT, GPT = "learning_efficiency-minibert-mini", "learning_efficiency-minigpt-mini"
beside_nanogpt = partial(times_as_fast, model="minigpt-mini", length=256, variant="minigpt modern", than="nanoGPT")
TARGETS = [
    *step_targets("minibert-mini", 128, "2.0"),
    *step_targets("minibert-mini", 512, "2.0"),
    *step_targets("minigpt-mini", 256, "1.7"),
    Target(
        "`minigpt-mini`: speed of a step with AdamW, nanoGPT in the same precision = 1",
        "≥ 1.0",
        "step_speed",
        beside_nanogpt,
    ),
    *(
        Target(
            f"`{model}`, {length} tokens a row: speed of a compiled step with Muon, the fastest stock parts = 1",
            asked,
            "step_speed",
            partial(whole_step, model=model, length=length),
        )
        for model, length, asked in (
            ("minibert-mini", 128, "≥ 1.4"),
            ("minibert-mini", 512, "≥ 1.4"),
            ("minigpt-mini", 256, "≥ 1.15"),
        )
    ),
    *(
        Target(
            f"`minigpt-mini`: speed of generation, {batch} at a time, stock Llama with its default cache = 1",
            asked,
            ("inference_speed-generation", "inference_speed"),
            partial(generates_as_fast, batch=batch),
        )
        for batch, asked in ((1, "≥ 1.35"), (8, "≥ 1.2"))
    ),
    Target(
        "`minibert-mini`: vectors of sentences by onnxruntime in 8 bits, torch in fp32 = 1",
        "≥ 2.0",
        "inference_speed-int8",
        in_eight_bits,
    ),
    Target("speed of preparing text, tokenise-and-group = 1, in 1 and 2 processes", "≥ 5", "data_speed", preparation),
    Target(
        "million tokens a second of a loader process, the slowest of mlm, mlm+nsp and clm",
        "≥ 5",
        "data_speed",
        slowest_loader,
    ),
    Target("resident MB while 1 GB of text is prepared", "≤ 1,500", "data_speed", memory),
    Target("masked LM, 10 minutes: nats below stock BERT", "≥ 1.5", BERT, partial(nats_below, peer="stock")),
    Target(
        "the same below the best stock parts", "≥ 0.6", f"{BERT}-modernbert", partial(nats_below, peer="modernbert")
    ),
    Target("time to their loss", "≤ 50%", f"{BERT}-modernbert", partial(times_to_loss, peer="modernbert")),
    Target("masked LM, 60 minutes: time to stock's loss", "≤ 25%", f"{BERT}-60m", partial(times_to_loss, peer="stock")),
    Target("causal LM, 10 minutes: fewer bits per byte than GPT-2", "≥ 13%", GPT, partial(share_below, peer="stock")),
    Target(
        "causal LM, 10 minutes: fewer bits per byte than nanoGPT", "≥ 13%", GPT, partial(share_below, peer="nanogpt")
    ),
    Target("causal LM, 10 minutes: time to GPT-2's loss", "≤ 33%", GPT, partial(times_to_loss, peer="stock")),
    Target(
        "causal LM, 10 minutes: fewer bits per byte than the best stock parts",
        "≥ 9%",
        f"{GPT}-best-stock",
        partial(share_below, peer="best-stock"),
    ),
    Target("time to their loss", "≤ 50%", f"{GPT}-best-stock", partial(times_to_loss, peer="best-stock")),
    Target("Shakespeare by character: nats below nanoGPT", "≥ 0.2", "shakespeare", below_nanogpt),
    Target("the same on a slower CPU", "≥ 0.2", "shakespeare-slower-cpu", below_nanogpt),
    Target("masked LM, 10 minutes: nats per masked token", "≤ 3.60", BERT, reached),
    Target("causal LM, 10 minutes: bits per byte", "≤ 1.68", GPT, partial(reached, digits=".3f")),
    Target("Shakespeare by character, 10 minutes: nats", "≤ 1.4697", "shakespeare-10m", lowest),
    Target("first prediction of a new process: its CPU time, stock BERT = 1", "≤ 1.0", "inference_speed", cold_start),
    Target("seconds from an empty machine to a model in a tab, in four commands", "≤ 300", "browser_tab", whole_way),
    Target(
        "`mini` on a GPU: million tokens a second", "≥ 2", ON_A_GPU, partial(throughput, size="mini", digits=millions)
    ),
    Target(
        "`medium` on a GPU: share of the peak of 990 TFLOP/s",
        "≥ 40%",
        ON_A_GPU,
        partial(throughput, size="medium", column="share_of_peak"),
    ),
    Target(
        "speed on a GPU, stock `Trainer` in bf16, compiled = 1",
        "≥ 3",
        ON_A_GPU,
        partial(throughput, column="ratio", digits="{:.2f}".format),
    ),
    Target("share of time in which the GPU waits", "≤ 5%", ON_A_GPU, partial(throughput, column="waiting_share")),
]


def table() -> list[str]:
    """All targets; a cell is empty where nothing was measured."""

    def cell(target: Target, suffix: str) -> str:
        names = (target.file,) if isinstance(target.file, str) else target.file
        paths = [RESULTS / f"{name}{suffix}.json" for name in names]
        there = [path for path in paths if path.exists()]
        return target.read(json.loads(there[0].read_text(encoding="utf-8"))) if there else ""

    suffixes = ("", "-fp32", "-cuda")
    rows = (f"| {one.what} | {one.asked} | {' | '.join(cell(one, suffix) for suffix in suffixes)} |" for one in TARGETS)
    return ["| | asked | CPU with bfloat16 | CPU without | GPU |", "|---|---:|---:|---:|---:|", *rows]
