"""What a run shows to people: its progress, its figures, and what it learned."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from tqdm import tqdm

from hf_minibert.data.corpus import HubCorpus
from hf_minibert.data.loader import evaluation_batches
from hf_minibert.data.sources import BUILTIN
from hf_minibert.data.streamed import StreamedRows
from hf_minibert.files import DAMAGED, Manifest, append_text, write_text
from hf_minibert.presets import PretrainingModel
from hf_minibert.pretraining.checkpoint import TrainState
from hf_minibert.pretraining.data import RunData
from hf_minibert.pretraining.objectives import Objective, real_tokens
from hf_minibert.pretraining.plan import Plan
from hf_minibert.pretraining.schedule import DEFAULT_BUDGET
from hf_minibert.runs.hardware import hardware
from hf_minibert.runs.results import changed_settings, environment
from hf_minibert.tokenization import OWN_TOKENIZER

METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
CURVES = "curves.png"
RESULTS = "results.json"


class MetricsLog:
    """Writes `metrics.jsonl`, `samples.jsonl` and to the trackers, one line at a time.

    A resumed run first drops the lines from after its checkpoint.
    """

    def __init__(self, folder: Path, accelerator: Accelerator, state: TrainState) -> None:
        self.path, self._accelerator = folder / METRICS, accelerator
        for path in (self.path, folder / SAMPLES) if accelerator.is_main_process else ():
            if path.exists():
                lines = path.read_bytes().split(b"\n")  # what else ends lines for Python may stand in a sample
                kept = [line.decode() for line in lines if _step(line, has_numbers=path == self.path) <= state.step]
                write_text(path, "".join(f"{line}\n" for line in kept))
        manifest = Manifest.read(folder) if accelerator.is_main_process else None
        if manifest is not None:
            manifest.grow([METRICS, SAMPLES])

    def write(self, state: TrainState, metrics: dict[str, float]) -> None:
        """Add a line, which also says how far the run is. Values that are not finite become null: JSON has none."""
        if self._accelerator.is_main_process:
            place = {"step": state.step, "tokens": state.tokens, "seconds": round(state.seconds, 3)}
            values = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
            append_text(self.path, json.dumps(place | values) + "\n")
        self._accelerator.log(metrics, step=state.step)

    def write_samples(self, state: TrainState, samples: list[dict[str, Any]]) -> None:
        """Add the model's newest predictions for a few held-out texts to `samples.jsonl`."""
        if self._accelerator.is_main_process:
            line = json.dumps({"step": state.step, "samples": samples}, ensure_ascii=False)
            append_text(self.path.with_name(SAMPLES), line + "\n")


def _step(line: bytes, *, has_numbers: bool) -> float:
    """The step of a line; infinite for a line that is damaged, or was cut off when the run was killed."""
    try:
        content = json.loads(line.decode())
        if has_numbers and not all(value is None or isinstance(value, int | float) for value in content.values()):
            return math.inf
        step = content["step"]
    except DAMAGED:
        return math.inf
    return float(step) if isinstance(step, int) else math.inf


def steps_told(folder: Path) -> int | None:
    """The step that `results.json` is of; None if the file is missing or damaged."""
    try:
        return int(json.loads((folder / RESULTS).read_text(encoding="utf-8"))["training"]["steps"])
    except DAMAGED:
        return None


class ProgressBar(tqdm):  # type: ignore[misc]  # tqdm publishes no types
    """One bar for the whole run, in percent of the time, steps or tokens until its end."""

    def __init__(self, progress: float, *, is_shown: bool) -> None:
        super().__init__(
            total=100.0,
            initial=round(100 * progress, 3),
            desc="training",
            bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
            mininterval=0.5,
            disable=not is_shown,
        )

    def show(self, progress: float, state: TrainState, line: dict[str, float], held_out: dict[str, float]) -> None:
        """Move on; `line` and `held_out` are the newest metrics of training and evaluation."""
        text = f"step {state.step}, loss {line['loss']:.3f}, {line['tokens_per_second']:,.0f} tokens/s"
        if state.skipped_steps_in_all:
            text += f", {state.skipped_steps_in_all} skipped"
        if held_out:
            text += f", held-out {held_out['eval_loss']:.3f}"
        self.set_postfix_str(text, refresh=False)
        self.update(100 * progress - self.n)


def precision(plan: Plan) -> str:
    """The number format of the large products."""
    return "fp32" if plan.arguments.mixed_precision == "no" else str(plan.arguments.mixed_precision)


def announcement(plan: Plan, model: PretrainingModel, accelerator: Accelerator) -> str:
    """What is about to run, in one line."""
    arguments, processes = plan.arguments, accelerator.num_processes
    ends = [arguments.budget] if arguments.budget else []
    ends += [f"{arguments.max_steps:,} steps"] if arguments.max_steps else []
    ends += [f"{arguments.max_tokens:,} tokens"] if arguments.max_tokens else []
    compiled = ", compiled" if arguments.compile else ""
    several = f", {processes} processes," if processes > 1 else ""
    return (
        f"training {arguments.model} ({arguments.architecture}, {model.num_parameters() / 1e6:.1f}M parameters) for "
        f"{arguments.objective} on {hardware(accelerator.device)}{several} "
        f"in {precision(plan)}{compiled}, until {' or '.join(ends) or f'{DEFAULT_BUDGET} (the default)'}"
    )


def corpus_name(sources: Sequence[str]) -> str:
    """What a card calls the files of a corpus: by their names, and by their folders', too, where two are alike."""
    paths = [Path(source) for source in sources]
    are_apart = len({path.name for path in paths}) == len(paths)
    return " ".join(path.name if are_apart else "/".join(path.parts[-2:]) for path in paths)


def trained_seconds(state: TrainState) -> float:
    """The seconds of all steps but the one that was compiled; of a run that has only that, all of it."""
    rest = state.training_seconds - state.compile_seconds
    return rest if rest > 1e-3 else state.training_seconds


def summary(
    plan: Plan,
    data: RunData,
    model: PretrainingModel,
    state: TrainState,
    metrics: dict[str, float],
    predicted: list[dict[str, Any]],
    accelerator: Accelerator,
) -> dict[str, Any]:
    """The content of `results.json`: the run in figures, from which cards and tables are rendered."""
    arguments, train, held_out = plan.arguments, data.store.train, data.store.held_out
    processes = accelerator.num_processes
    length, rows = arguments.max_seq_length, arguments.per_device_train_batch_size
    evaluated = evaluation_batches(data.held_out[0], batch_size=64, max_rows=arguments.max_eval_samples)
    hub_id = data.corpus.hub_id if isinstance(data.corpus, HubCorpus) else None
    tokenizer = Path(arguments.tokenizer or OWN_TOKENIZER)
    is_streamed = isinstance(data.train, StreamedRows)
    return {
        "kind": "pretrain",
        "model_type": model.config.model_type,
        "architecture": arguments.architecture,
        "objective": arguments.objective,
        "objective_words": plan.objective.words,
        "preset": arguments.model,
        "num_parameters": model.num_parameters(),
        "corpus": {
            "name": hub_id or corpus_name(arguments.corpus),
            "hub_id": hub_id,
            "licenses": arguments.corpus_license,
            "is_builtin": data.store.info.corpus == BUILTIN,  # a name may be anybody's
            "documents": len(train),
            "held_out_documents": len(held_out),
            "tokens": int(train.lengths.sum()),
            "held_out_tokens": int(held_out.lengths.sum()),
            "evaluated_tokens": sum(map(real_tokens, evaluated)),
            "bytes": data.store.info.bytes,
        }
        | ({"is_first_part": True} if is_streamed else {}),
        "tokenizer": {
            "name": tokenizer.resolve().name if tokenizer.is_dir() else arguments.tokenizer,
            "hub_id": None if tokenizer.is_dir() else arguments.tokenizer,
            "vocab_size": len(plan.tokenizer),
        },
        "training": {
            "steps": state.step,
            "skipped_steps": state.skipped_steps_in_all,
            "tokens_seen": state.tokens,
            "seconds": round(state.seconds, 1),
            **({} if is_streamed else {"epochs": state.rows / data.train.num_rows}),
            "tokens_per_second": state.tokens / trained_seconds(state),
            "global_batch_size": rows * arguments.gradient_accumulation_steps * processes,
            "max_seq_length": length,
            "num_processes": processes,
            "hardware": hardware(accelerator.device),
            "precision": precision(plan),
        },
        "metrics": metrics | data.baselines,
        "samples": [
            {"text": after["text"], "before": before["predictions"], "after": after["predictions"]}
            for before, after in zip(state.samples_before, predicted, strict=True)
        ],
        "changed_settings": changed_settings(arguments),
        "environment": environment(),
    }


def print_report(results: dict[str, Any], objective: Objective, folder: Path, card: Path) -> None:
    """Print what the model has learned, and where it is."""
    metrics, training = results["metrics"], results["training"]
    out = tqdm.write
    out(
        f"\n{results['preset']} ({results['num_parameters'] / 1e6:.1f}M parameters) after {training['steps']:,} steps, "
        f"{training['tokens_seen']:,} tokens. On held-out documents:"
    )
    if training["skipped_steps"]:
        out(f"  warning: {training['skipped_steps']:,} steps were left out, as loss or gradient were not finite")
    for reading in objective.readings:
        is_first = reading is objective.readings[0]
        loss = metrics.get(f"eval_{reading.name}_loss", metrics["eval_loss"])
        baseline = metrics["unigram_loss" if is_first else f"{reading.name}_unigram_loss"]
        out(f"  {reading.words} loss {loss:.3f} nats per token; by frequencies alone {baseline:.3f}")
        if is_first:
            out(f"  accuracy {metrics['eval_accuracy']:.1%}")
    if "eval_nsp_accuracy" in metrics:
        out(f"  next sentence: {metrics['eval_nsp_accuracy']:.1%} of pairs are told right")
    if "eval_bits_per_byte" in metrics:
        bits = metrics["byte_unigram_bits_per_byte"]
        out(f"  {metrics['eval_bits_per_byte']:.3f} bits per byte; by frequencies of bytes alone {bits:.3f}")
    for sample in results["samples"]:
        out(f"\n  {sample['text']}")
        for when in ("before", "after"):
            said = ", ".join(" ".join(prediction.split()) for prediction in sample[when])
            out(f"    {when + ':':8}{said}")
    out(f"\ncheckpoint  {folder}")
    out(f"curve       {folder / CURVES}")
    out(f"model card  {card}")
