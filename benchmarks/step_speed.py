"""How fast a training step is: our models beside the stock ones of the same shape, in one run.

::

    python benchmarks/step_speed.py                              (CPU: mini)
    python benchmarks/step_speed.py --sizes medium --compile     (GPU)

A step is forward, backward, clipping and optimizer on a batch in memory. Each variant has a process of its own, as in
life: what one keeps or frees is not another's. All of a table take turns, one step each, and who begins changes, so
that other work on the machine slows all of them alike. A variant's speed is that of its median step. Ours, and
compiled peers, keep the memory of a step for the next one, as pre-training does on a CPU. BERT and GPT-2 train as
`Trainer` does by default: dropout 0.1, SDPA, fused AdamW, float32. EuroBERT, ModernBERT and Llama have no dropout, as
in `peers.py`, whose nanoGPT is beside them. With `--compile`, the best of the stock parts are compiled, too: they are
what ours is compared with. Ours train as `scripts/pretrain.py` does, on packed rows whose documents do not attend to
each other; they use AdamW, and the script's default Muon only where a variant says so.

Utilisation is the model's arithmetic per second, as a share of that of a feed-forward layer's matrix product alone, the
median over the same run and precision. It counts 6 floating-point operations per weight and token, attention, and the
head where it is computed.
"""

import itertools
import statistics
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

import runs
from hf_minibert import MiniBertForMaskedLM, MiniGPTForCausalLM
from hf_minibert.command_line import invocation, run
from hf_minibert.data.rows import Batch, CausalRows, MaskedRows, Masking
from hf_minibert.data.token_store import Documents
from hf_minibert.models.losses import IGNORE_INDEX
from hf_minibert.presets import SIZES, build_config
from hf_minibert.pretraining.arguments import PretrainArguments
from hf_minibert.pretraining.optimization import build_optimizers
from hf_minibert.runs.hardware import (
    computes_in_bfloat16,
    fastest_attention,
    flops_per_token,
    hardware,
    keep_memory,
    matrix_product_rate,
    now,
    tokens_per_batch,
)
from peers import attend_fast, peer_model
from runs import Benchmark, environment, machine, unless_usual, write_results

VOCABULARY = 8192
SEED = 0
BATCHES = 4
"""Different ones, which take turns: in training no step masks as many tokens as the one before."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Step = Callable[[], torch.Tensor]


@dataclass(kw_only=True)
class Arguments(Benchmark):
    """Measure training steps of our models and the stock ones, interleaved."""

    sizes: list[str] = field(default_factory=lambda: ["mini"])
    """Shapes: tiny, mini, small, medium."""
    families: list[str] = field(default_factory=lambda: ["minibert", "minigpt"])
    """minibert, minigpt or both."""
    tokens_per_step: int = field(default_factory=tokens_per_batch)
    """Tokens of a batch. Default: as in pre-training on this device."""
    rounds: int = 15
    """Measured steps of each variant."""
    compile: bool = False
    """Also measure our models and the best stock ones compiled."""


@dataclass(frozen=True)
class Variant:
    """One way to train a model."""

    name: str
    model: Callable[[], nn.Module]
    is_ours: bool
    is_sparse: bool = False
    """Whether only predicted tokens get logits."""
    optimizer: Literal["muon", "adamw"] = "adamw"
    precision: str = "fp32"
    compiled: bool = False


def variants(family: str, size: str, length: int, *, with_compile: bool) -> list[Variant]:
    """The variants of a table; the first is the baseline."""
    if family == "minibert":
        ours: type[nn.Module] = MiniBertForMaskedLM
        peers = {
            "stock": "stock BertForMaskedLM",
            "best-stock": "stock EuroBertForMaskedLM",
            "modernbert": "stock ModernBertForMaskedLM",
        }
    else:
        ours = MiniGPTForCausalLM
        peers = {"stock": "stock GPT2LMHeadModel", "best-stock": "stock LlamaForCausalLM", "nanogpt": "nanoGPT"}

    def build(architecture: str, attention: str) -> Callable[[], nn.Module]:
        def make() -> nn.Module:
            model: Any = ours(build_config(f"{family}-{size}", architecture))
            model.set_attn_implementation(attention)
            return cast(nn.Module, model)

        return make

    other = {"eager": "sdpa", "sdpa": "eager"}[fastest_attention(length)]

    precisions = ["fp32", "bf16"] if computes_in_bfloat16() else ["fp32"]
    best = precisions[-1]

    def of_peer(peer: str, **settings: Any) -> Variant:
        def make() -> nn.Module:
            model = peer_model(peer, family, size, VOCABULARY)
            return attend_fast(model, length) if settings.get("compiled") else model

        return Variant(peers[peer], make, is_ours=False, is_sparse=peer == "modernbert", **settings)

    def of_ours(words: str, architecture: str, attention: str | None = None, **settings: Any) -> Variant:
        fastest_of_it = fastest_attention(length, is_compiled=bool(settings.get("compiled")))
        model = build(architecture, attention or fastest_of_it)
        return Variant(f"{family} {words}", model, is_ours=True, is_sparse=family == "minibert", **settings)

    found = [of_peer(peer, precision=precision) for peer in peers for precision in precisions]
    found += [of_ours("modern", "modern", precision=precision) for precision in precisions]
    found.append(of_ours(f"modern, {other}", "modern", other, precision=best))
    found.append(of_ours("classic", "classic", precision=best))
    found.append(of_ours("modern, Muon", "modern", optimizer="muon", precision=best))
    if with_compile:
        best_peers = [of_peer(peer, precision=best, compiled=True) for peer in peers if peer != "stock"]
        found += [replace(variant, name=f"{variant.name}, compiled") for variant in best_peers]
        found.append(of_ours("modern, compiled", "modern", precision=best, compiled=True))
        found.append(of_ours("modern, Muon, compiled", "modern", optimizer="muon", precision=best, compiled=True))
    return found


def make_batches(family: str, tokens_per_step: int, length: int) -> list[Batch]:
    """Steps of rows as the pre-training loop reads them; the numbers of masked tokens differ.

    They are random tokens in documents with a median of 110 tokens.
    """
    random = np.random.default_rng(SEED)
    lengths = np.clip(random.lognormal(np.log(110), 1.2, size=2_000), 1, 4_000).astype(np.int64)
    tokens = random.integers(5, VOCABULARY, size=lengths.sum()).astype(np.uint16)
    places = np.stack((np.zeros_like(lengths), np.cumsum(lengths) - lengths, lengths), axis=1)
    documents = Documents([tokens], places)
    shape: dict[str, Any] = {"length": length, "cls_id": 2, "sep_id": 3, "seed": SEED}
    count = tokens_per_step // length
    steps = [np.arange(start, start + count) for start in range(0, BATCHES * count, count)]
    if family == "minigpt":
        return [CausalRows(documents, **shape).batch(0, rows) for rows in steps]
    share = PretrainArguments(output_dir="").mlm_probability
    masking = Masking(probability=share, mask_id=4, special_ids=[0, 1, 2, 3, 4], vocab_size=VOCABULARY, seed=SEED)
    return [MaskedRows(documents, masking=masking, **shape).batch(0, rows) for rows in steps]


def make_step(variant: Variant, batches: list[Batch], device: torch.device) -> Step:
    """A closure that takes one training step, of each batch in turn, and returns its loss."""
    torch.manual_seed(SEED)
    model = variant.model().to(device).train()
    each = [{name: tensor.to(device) for name, tensor in batch.items()} for batch in batches]
    optimizers: list[torch.optim.Optimizer]
    if variant.is_ours:
        settings = PretrainArguments(output_dir="", optimizer=variant.optimizer, weight_decay=0.1)
        optimizers = build_optimizers(model, settings, 1e-4)
        if isinstance(model, MiniBertForMaskedLM):  # as the loader and the loop do
            for inputs in each:
                places = (inputs["labels"].flatten() != IGNORE_INDEX).nonzero()[:, 0]
                torch._dynamo.maybe_mark_dynamic(places, 0)
                inputs["predicted_places"] = places
    else:
        for inputs in each:
            del inputs["position_ids"]  # the stock scripts let documents see each other
        optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)]
    config: Any = model.config
    config.use_cache = False
    if variant.compiled:
        model.compile(fullgraph=variant.is_ours)
    precision: AbstractContextManager[Any] = nullcontext()
    if variant.precision == "bf16":
        precision = torch.autocast(device.type, torch.bfloat16)
    turns = itertools.cycle(each)

    def step() -> torch.Tensor:
        with precision:
            loss: torch.Tensor = model(**next(turns)).loss
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        for optimizer in optimizers:
            optimizer.zero_grad()
        return loss.detach()

    return step


def profile(step: Step, device: torch.device) -> dict[str, float]:
    """The operations that take most of a step, with their shares of the time."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profiler:
        for _ in range(3):
            step()
        now(device)
    on_gpu = device.type == "cuda"
    key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    times = {
        event.key: float(getattr(event, key))
        for event in profiler.key_averages()
        if not on_gpu or (event.device_type.name == "CUDA" and not event.is_user_annotation)  # kernels, each once
    }
    total = sum(times.values())
    first = sorted(times, key=lambda name: -times[name])[:10]
    return {name: round(times[name] / total, 3) for name in first}


def work(connection: Connection, family: str, size: str, length: int, arguments: Arguments, index: int) -> None:
    """The process of a variant, where its memory is its own: answer "step" with a step's seconds, until "end"."""
    torch.set_flush_denormal(True)
    device = runs.device()
    variant = variants(family, size, length, with_compile=arguments.compile)[index]
    if variant.is_ours or variant.compiled:  # who compiles also knows how to keep memory
        keep_memory(device)
    step = make_step(variant, make_batches(family, arguments.tokens_per_step, length), device)
    for _ in range(BATCHES):  # a peer that compiles for each number of tokens first, has then done so
        step()
    connection.send("ready")
    with suppress(EOFError):  # whoever asks was stopped
        while (wish := connection.recv()) != "end":
            if wish == "profile":
                connection.send(profile(step, device))
                continue
            begin = now(device)
            step()
            connection.send(now(device) - begin)


def measure(family: str, size: str, length: int, arguments: Arguments, device: torch.device) -> dict[str, Any]:
    """One table: all variants of a family at a sequence length."""
    batches = make_batches(family, arguments.tokens_per_step, length)
    found = variants(family, size, length, with_compile=arguments.compile)
    workers = list[Connection]()
    for index in tqdm(range(len(found)), desc=f"{family}-{size}, {length} tokens a row: warm-up"):
        here, there = get_context("spawn").Pipe()
        what = (family, size, length, arguments, index)
        get_context("spawn").Process(target=work, args=(there, *what), daemon=True).start()
        there.close()
        here.recv()
        workers.append(here)
    width = SIZES[size]["hidden_size"]
    times: list[list[float]] = [[] for _ in found]
    rates: dict[str, list[float]] = {variant.precision: [] for variant in found}
    for number in tqdm(range(arguments.rounds), desc=f"{family}-{size}, {length} tokens a row"):
        for precision, measured in rates.items():
            measured.append(matrix_product_rate(device, DTYPES[precision], arguments.tokens_per_step, width))
        for index in rotated(range(len(found)), number):
            workers[index].send("step")
            times[index].append(workers[index].recv())
    default = next(index for index, variant in enumerate(found) if "Muon" in variant.name)
    workers[default].send("profile")
    shares = workers[default].recv()
    for worker in workers:
        worker.send("end")
    speeds = [arguments.tokens_per_step / statistics.median(some) for some in times]
    predicted = float(torch.stack([batch["labels"] != IGNORE_INDEX for batch in batches]).float().mean())
    rows = []
    for variant, speed, some in zip(found, speeds, times, strict=True):
        share = predicted if variant.is_sparse else 1.0
        arithmetic = flops_per_token(variant.model(), length, head_share=share)
        rate = statistics.median(rates[variant.precision])
        rows.append(
            {
                "variant": variant.name,
                "precision": variant.precision,
                "tokens_per_second": round(speed),
                "ratio": round(speed / speeds[0], 2),
                "utilisation": round(speed * arithmetic / rate, 3),
                "spread": round((max(some) - min(some)) / statistics.median(some), 2),
            }
        )
    return {
        "model": f"{family}-{size}",
        "sequence_length": length,
        "rows": rows,
        "matrix_product_gflops": {kind: round(statistics.median(some) / 1e9) for kind, some in rates.items()},
        "profile": {found[default].name: shares},
    }


def rotated(items: Iterable[int], places: int) -> list[int]:
    """The items in turn, beginning at another place each time."""
    order = list(items)
    start = places % len(order)
    return order[start:] + order[:start]


def table(figures: dict[str, Any]) -> list[str]:
    """Tokens per second as ratios to the stock model in the same run."""
    lines = []
    for table in figures["tables"]:
        lines += [
            f"| {table['model']}, {table['sequence_length']} tokens a row, {figures['hardware']} | precision | speed "
            "against the first | utilisation | spread |",
            "|---|---|---:|---:|---:|",
        ]
        lines += [
            f"| {row['variant']} | {row['precision']} | {row['ratio']:.2f} | {row['utilisation']:.0%} "
            f"| {row['spread']:.0%} |"
            for row in table["rows"]
        ]
        for name, shares in table["profile"].items():
            top = ", ".join(f"`{operation}` {share:.0%}" for operation, share in list(shares.items())[:5])
            lines += ["", f"Where a step of {name} goes: {top}.", ""]
    command = f"`{figures['command']}`"
    return [*lines, f"({figures['tokens_per_step']:,} tokens a step, median of {figures['rounds']}; {command})"]


def main(arguments: Arguments) -> int:
    """All tables, printed and written."""
    torch.set_flush_denormal(True)
    device = runs.device()
    lengths = {"minibert": (128, 512), "minigpt": (256,)}
    tables = [
        measure(family, size, length, arguments, device)
        for size in arguments.sizes
        for family in arguments.families
        for length in lengths[family]
    ]
    for table in tables:
        tqdm.write(f"\n{table['model']}, {table['sequence_length']} tokens a row", file=sys.stdout)
        for row in table["rows"]:
            tqdm.write(
                f"  {row['variant']:<34} {row['precision']}  {row['tokens_per_second']:>9,} tokens/s  "
                f"{row['ratio']:.2f}x  utilisation {row['utilisation']:.0%}  spread {row['spread']:.0%}",
                file=sys.stdout,
            )
    what = unless_usual(arguments, "sizes", "families")
    write_results(
        arguments.results / f"{'-'.join(('step_speed', *what, *machine()))}.json",
        {
            "command": invocation(),
            "hardware": hardware(device),
            "tokens_per_step": arguments.tokens_per_step,
            "rounds": arguments.rounds,
            "seed": SEED,
            "tables": tables,
            "environment": environment(),
        },
    )
    return 0


if __name__ == "__main__":
    run(Arguments, main)
