"""Tokens a second of a whole pre-training on a GPU, beside stock `Trainer`, and how long the GPU waits.

::

    python benchmarks/throughput.py --corpus wikipedia_en/train.jsonl.xz
    python benchmarks/throughput.py --models minibert-tiny --max_steps 20 --profiled_steps 2      (to try it on a CPU)

Each model is a run of `hf-minibert pretrain` with its defaults, but compiled, as a user starts it: with its loader, its
optimizer, clipping and logging. Its speed is that of the second half of its steps. Each run has a process of its own,
since what one compiles or sets would change the next.
`Trainer` trains BERT or GPT-2 of the same shape on rows of the same length, as many tokens a step, in bfloat16 where
the device computes in it, compiled, with fused AdamW and two processes that load; its speed is that of the second half
of its steps. In a second run of ours, the profiler notes in some steps when the GPU computes: what is left of the time
between its first and its last kernel, it waits. `--peak_tflops` is the arithmetic of the data sheet, of an H100 or H200
in dense bfloat16 by default.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.profiler import ProfilerActivity, profile
from transformers import DataCollatorForLanguageModeling, Trainer, TrainerCallback, TrainingArguments, set_seed

from hf_minibert.command_line import invocation, run
from hf_minibert.errors import UserError
from hf_minibert.presets import FAMILIES
from hf_minibert.pretraining.arguments import PretrainArguments
from hf_minibert.pretraining.data import read_data
from hf_minibert.pretraining.loop import Pretraining
from hf_minibert.pretraining.plan import build_model, make_plan
from hf_minibert.runs.hardware import computes_in_bfloat16, flops_per_token, hardware, now
from peers import peer_model, stock_rows
from runs import Benchmark, device, environment, last_two_parts, log_of, machine, pretrain_alone, write_results

SEED = 42
LOGGING_STEPS = PretrainArguments(output_dir="").logging_steps
COMPILED = True


@dataclass(kw_only=True)
class Arguments(Benchmark):
    """Measure whole pre-training runs beside stock `Trainer`."""

    models: list[str] = field(default_factory=lambda: ["minibert-mini", "minigpt-mini", "minibert-medium"])
    """Families and sizes."""
    corpus: list[str] = field(default_factory=lambda: ["builtin"])
    """Text to train on."""
    max_steps: int = 200
    """Steps of each run."""
    profiled_steps: int = 20
    """Steps that the profiler watches."""
    peak_tflops: float = 990.0
    """Arithmetic of the device by its data sheet, in 10^12 operations a second."""


class Clock(TrainerCallback):
    """Notes the time after each step of `Trainer`."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.middle = 0

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Another step is done."""
        self.times.append(now(device()) if len(self.times) in (0, self.middle - 1) else time.perf_counter())

    def on_train_begin(self, *event: Any, **_: Any) -> None:
        """How many there will be."""
        _, state, _ = event
        self.middle = int(state.max_steps) // 2

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """The last one is done when the device is."""
        self.times[-1] = now(device())

    def seconds_a_step(self) -> float:
        """The mean of the second half."""
        return (self.times[-1] - self.times[self.middle - 1]) / (len(self.times) - self.middle)


def arguments_of(model: str, arguments: Arguments, folder: Path, steps: int) -> PretrainArguments:
    """A run without pauses between its steps."""
    return PretrainArguments(
        model=model,
        corpus=arguments.corpus,
        max_steps=steps,
        eval_steps=steps,
        save_steps=steps,
        compile=COMPILED,
        report_to=["none"],
        seed=SEED,
        output_dir=str(folder),
    )


def trained(settings: PretrainArguments) -> Path:
    """The folder of a run that has ended.

    Raises:
        UserError: it was stopped.
    """
    if pretrain_alone(settings):
        raise UserError("the run was stopped; nothing is measured")
    return Path(settings.output_dir)


def alone(function: Callable[..., float | None], *given: Any) -> float | None:
    """What a function returns in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *given).result()


def speed(settings: PretrainArguments) -> float:
    """Tokens a second of our run, from the second half of what it has logged, in lines of as many steps."""
    logged: list[float] = [
        line["tokens_per_second"] for line in log_of(trained(settings)) if "tokens_per_second" in line
    ]
    return statistics.harmonic_mean(logged[len(logged) // 2 :])


def trainer_speed(settings: PretrainArguments, folder: Path) -> float:
    """Tokens a second of `Trainer` with the stock class, on as many rows of the same text a step."""
    plan = make_plan(settings)
    data = read_data(plan, Accelerator(cpu=not torch.accelerator.is_available()))
    family, _, size = settings.model.partition("-")
    rows, length = plan.arguments.per_device_train_batch_size, plan.arguments.max_seq_length
    tokenizer, clock = plan.tokenizer, Clock()
    set_seed(SEED)
    trainer = Trainer(
        model=peer_model("stock", family, size, plan.config.vocab_size),
        args=TrainingArguments(
            output_dir=str(folder),
            max_steps=int(settings.max_steps or 0),
            per_device_train_batch_size=rows,
            dataloader_num_workers=2 if device().type == "cuda" else 0,
            bf16=computes_in_bfloat16(),
            torch_compile=COMPILED,
            optim="adamw_torch_fused",
            save_strategy="no",
            logging_steps=50,
            use_cpu=not torch.accelerator.is_available(),
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=stock_rows(data.store.train, length, int(tokenizer.cls_token_id), int(tokenizer.sep_token_id)),
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=family == "minibert"),
        callbacks=[clock],
    )
    trainer.train()
    return float(rows * length / clock.seconds_a_step())


@contextmanager
def watched(first: int, steps: int) -> Iterator[profile]:
    """A profiler of the device that runs from a step of the loop on, for so many."""
    kinds = [ProfilerActivity.CUDA] if device().type == "cuda" else [ProfilerActivity.CPU]
    profiler, step, done = profile(activities=kinds), Pretraining.step, 0

    def counted(self: Pretraining, *given: Any) -> Any:
        nonlocal done
        if done == first:
            now(device())
            profiler.start()
        losses = step(self, *given)
        done += 1
        if done == first + steps:
            now(device())
            profiler.stop()
        return losses

    Pretraining.step = counted  # type: ignore[method-assign, assignment]
    try:
        yield profiler
    finally:
        Pretraining.step = step  # type: ignore[method-assign]


def waiting_share(kernels: Iterable[tuple[float, float]]) -> float | None:
    """The share of the time from the first beginning to the last end in which no kernel runs; None without any.

    `kernels`: when each begins and ends; they may overlap.
    """
    spans = sorted(kernels)
    if not spans:
        return None
    busy, until = 0.0, spans[0][0]
    for begin, end in spans:
        busy += max(0.0, end - max(begin, until))
        until = max(until, end)
    return 1 - busy / (until - spans[0][0])


def waiting(settings: PretrainArguments, first: int, steps: int) -> float | None:
    """The `waiting_share` of so many steps of our run, from a first one on."""
    with watched(first, steps) as profiler:
        trained(settings)
    return waiting_share(
        (event.time_range.start, event.time_range.end)
        for event in profiler.events() or ()  # type: ignore[no-untyped-call]
        if event.device_type.name == "CUDA"
    )


def measured(model: str, arguments: Arguments, folder: Path) -> dict[str, Any]:
    """The figures of a model."""
    settings = arguments_of(model, arguments, folder / "ours", arguments.max_steps)
    ours, stock = alone(speed, settings), alone(trainer_speed, settings, folder / "stock")
    assert ours is not None
    assert stock is not None
    begin, steps = arguments.max_steps // 4, arguments.profiled_steps  # beyond what is made at the start
    share = alone(waiting, arguments_of(model, arguments, folder / "profiled", begin + steps), begin, steps)
    plan = make_plan(settings)
    length = plan.arguments.max_seq_length
    with torch.device("meta"):
        shape = build_model(plan)
    is_masked = model.partition("-")[0] == "minibert"
    flops = flops_per_token(shape, length, head_share=plan.arguments.mlm_probability if is_masked else 1.0)
    return {
        "model": model,
        "sequence_length": length,
        "rows": plan.arguments.per_device_train_batch_size,
        "tokens_per_second": round(ours),
        "trainer_tokens_per_second": round(stock),
        "ratio": round(ours / stock, 2),
        "share_of_peak": round(ours * flops / arguments.peak_tflops / 1e12, 4),
        "waiting_share": None if share is None else round(share, 4),
    }


def table(figures: dict[str, Any]) -> list[str]:
    """Speeds, and how well the device is used."""
    lines = [
        "| | tokens a second | stock `Trainer`, compiled | times as fast | of the peak | waiting |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in figures["rows"]:
        waits = "" if row["waiting_share"] is None else f"{row['waiting_share']:.1%}"
        lines.append(
            f"| `{row['model']}`, {row['rows']} rows of {row['sequence_length']} | {row['tokens_per_second']:,} | "
            f"{row['trainer_tokens_per_second']:,} | {row['ratio']:.2f} | {row['share_of_peak']:.1%} | {waits} |"
        )
    words = (figures["hardware"], f"peak {figures['peak_tflops']:g} TFLOP/s", f"{figures['max_steps']} steps")
    return [*lines, "", f"({', '.join(words)}; `{figures['command']}`)"]


def main(arguments: Arguments) -> int:
    """Measure each, and write the table."""
    for model in arguments.models:
        if model.partition("-")[0] not in FAMILIES:
            raise UserError(f"models are of {', '.join(FAMILIES)}, such as minibert-mini; got {model}")
    if arguments.max_steps < 2 * LOGGING_STEPS or arguments.profiled_steps < 1:
        raise UserError(f"max_steps must be at least {2 * LOGGING_STEPS}, and profiled_steps at least 1")
    file = arguments.results / ("-".join(["throughput", *machine()]) + ".json")
    figures: dict[str, Any] = {
        "command": invocation(),
        "hardware": hardware(device()),
        "corpus": [last_two_parts(source) for source in arguments.corpus],
        "max_steps": arguments.max_steps,
        "peak_tflops": arguments.peak_tflops,
        "seed": SEED,
        "rows": [],
        "environment": environment(),
    }
    for model in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            figures["rows"].append(measured(model, arguments, Path(folder)))
        write_results(file, figures)
    print("\n".join(table(figures)))
    return 0


if __name__ == "__main__":
    run(Arguments, main)
