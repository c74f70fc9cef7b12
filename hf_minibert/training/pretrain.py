"""The pre-training loop: batches in, a checkpoint that `from_pretrained` opens out.

Read `pretrain` first: build, resume, and for every step forward, backward, clip, step, and now and then evaluate, log
and save. Everything that it calls is a small function below or in a sibling.
"""

import dataclasses
import json
import logging
import os
import platform
import shutil
import signal
import sys
import time
from datetime import timedelta
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, set_seed
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar

from hf_minibert.data.corpus import open_corpus
from hf_minibert.data.loader import evaluation_batches, training_batches
from hf_minibert.data.objectives import (
    IGNORE_INDEX,
    Batch,
    CausalLM,
    MaskedLM,
    Masking,
    NextSentencePrediction,
    Objective,
)
from hf_minibert.data.token_store import Documents, TokenStore, open_token_store
from hf_minibert.errors import UserError
from hf_minibert.hub.card import write_card
from hf_minibert.models.configuration_minibert import MiniBertConfig
from hf_minibert.presets import (
    LEARNING_RATES,
    ObjectiveName,
    PretrainingModel,
    build_config,
    family_of,
    parse_overrides,
)
from hf_minibert.tokenization import adapt_tokenizer, load_tokenizer
from hf_minibert.training.arguments import PretrainArguments
from hf_minibert.training.checkpoint import (
    TrainState,
    latest_checkpoint,
    load_state,
    prune_checkpoints,
    save_checkpoint,
    write_json,
)
from hf_minibert.training.curves import plot_curves
from hf_minibert.training.evaluation import evaluate, frequency_baselines, predicted_tokens, token_lengths
from hf_minibert.training.optimization import End, build_optimizer, learning_rate_factor
from hf_minibert.training.samples import held_out_sentences, predictions

logger = logging.getLogger(__name__)

ARGUMENTS = "arguments.json"
METRICS = "metrics.jsonl"
CURVES = "curves.png"
RESULTS = "results.json"
TOKENS_PER_BATCH = 2_048
EVALUATIONS = 5
EVALUATION_SEED = 0
EVALUATION_MASKING = 0.15
MAX_SKIPPED_STEPS = 10
TERMINATED = 143


def resolve(arguments: PretrainArguments) -> PretrainArguments:
    """The arguments with every default that depends on another argument filled in.

    Raises:
        UserError: unknown model, or an objective or length that the model does not have.
    """
    family = family_of(arguments.model)
    default, *_ = family.objectives
    objective = arguments.objective or default
    if objective not in family.objectives:
        raise UserError(
            f"{arguments.model} cannot be trained for {objective}; its objectives are {', '.join(family.objectives)}"
        )
    length = arguments.max_seq_length or family.max_seq_length
    return dataclasses.replace(
        arguments,
        objective=objective,
        max_seq_length=length,
        per_device_train_batch_size=arguments.per_device_train_batch_size or max(1, TOKENS_PER_BATCH // length),
        learning_rate=arguments.learning_rate or LEARNING_RATES[arguments.architecture],
    )


def build_objective(
    arguments: PretrainArguments, documents: Documents, tokenizer: PreTrainedTokenizerFast, *, for_evaluation: bool
) -> Objective:
    """What the arguments train for, over some documents; evaluation has fixed masks of its own."""
    assert arguments.max_seq_length is not None
    seed = EVALUATION_SEED if for_evaluation else arguments.seed
    shape: dict[str, Any] = {
        "length": arguments.max_seq_length,
        "cls_id": tokenizer.cls_token_id,
        "sep_id": tokenizer.sep_token_id,
        "seed": seed,
    }
    if arguments.objective == "clm":
        return CausalLM(documents, **shape)
    masking = Masking(
        probability=EVALUATION_MASKING if for_evaluation else arguments.mlm_probability,
        mask_id=tokenizer.mask_token_id,
        special_ids=tokenizer.all_special_ids,
        vocab_size=len(tokenizer),
        seed=seed,
    )
    if arguments.objective == "mlm":
        return MaskedLM(documents, masking=masking, **shape)
    return NextSentencePrediction(documents, masking=masking, pad_id=tokenizer.pad_token_id, **shape)


def prepare_output_dir(arguments: PretrainArguments) -> Path:
    """The run's folder, empty unless the run goes on.

    Raises:
        UserError: the path is a file, or holds an earlier run that nobody said to delete.
    """
    folder = Path(arguments.output_dir)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"output_dir {folder} is a file; give a folder")
    if arguments.resume:
        latest_checkpoint(folder)
        return folder
    if folder.exists() and any(folder.iterdir()):
        if not arguments.overwrite_output_dir:
            raise UserError(
                f"output_dir {folder} is not empty; give another, or --resume to go on with its run, or "
                "--overwrite_output_dir to delete it"
            )
        if not (folder / ARGUMENTS).exists():
            raise UserError(f"output_dir {folder} holds no earlier run (no {ARGUMENTS}), so it is not deleted")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class StopSignal:
    """Remembers that the process was asked to stop, so that the step at hand can end and be saved."""

    def __init__(self) -> None:
        self.received = False
        signal.signal(signal.SIGTERM, self._receive)

    def _receive(self, _number: int, _frame: FrameType | None) -> None:
        self.received = True


class MetricsLog:
    """`metrics.jsonl` and TensorBoard: a line a time. Resuming first forgets what came after the checkpoint."""

    def __init__(self, folder: Path, accelerator: Accelerator, state: TrainState) -> None:
        self.path, self._accelerator = folder / METRICS, accelerator
        if accelerator.is_main_process:
            lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
            kept = [line for line in lines if json.loads(line)["step"] <= state.step]
            self.path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def write(self, state: TrainState, metrics: dict[str, float]) -> None:
        """Add a line, which also says how far the run is."""
        if self._accelerator.is_main_process:
            place = {"step": state.step, "tokens": state.tokens, "seconds": round(state.seconds, 3)}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(place | metrics) + "\n")
        self._accelerator.log(metrics, step=state.step)


def pretrain(arguments: PretrainArguments) -> int:
    """Run to the end, or until SIGTERM. Returns the exit status: 0, or 143 after a SIGTERM and a checkpoint.

    Raises:
        UserError: the arguments ask for something that cannot be.
    """
    arguments = resolve(arguments)
    assert arguments.max_seq_length is not None
    assert arguments.per_device_train_batch_size is not None
    assert arguments.learning_rate is not None
    assert arguments.objective is not None
    name = arguments.objective
    disable_progress_bar()  # of saving and loading, which are short and would break ours
    torch.set_flush_denormal(True)  # AdamW on subnormal moments is many times slower on CPUs
    tokenizer = load_tokenizer(arguments.tokenizer)
    config = build_config(
        arguments.model,
        arguments.architecture,
        **{
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.cls_token_id,
            "eos_token_id": tokenizer.sep_token_id,
        }
        | parse_overrides(arguments.config_overrides),
    )
    if config.vocab_size < len(tokenizer):
        raise UserError(f"vocab_size {config.vocab_size} is smaller than the tokenizer's {len(tokenizer)} entries")
    if arguments.max_seq_length > config.max_position_embeddings:
        raise UserError(
            f"max_seq_length {arguments.max_seq_length} is more than the model's {config.max_position_embeddings} "
            f"positions; make it smaller, or add --config_overrides max_position_embeddings={arguments.max_seq_length}"
        )
    corpus = open_corpus(arguments.corpus, text_column=arguments.text_column, streaming=arguments.streaming)
    if int(os.environ.get("RANK", "0")) == 0:
        prepare_output_dir(arguments)
    folder = Path(arguments.output_dir)

    accelerator = Accelerator(
        gradient_accumulation_steps=arguments.gradient_accumulation_steps,
        log_with="tensorboard",
        project_dir=str(folder),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=12))],  # rank 0 may build a store that long
    )
    use_all_cores(accelerator)
    accelerator.init_trackers("logs")
    with accelerator.main_process_first():
        store = open_token_store(corpus, tokenizer, max_tokens=arguments.max_tokens if arguments.streaming else None)
    tokenizer = adapt_tokenizer(
        tokenizer,
        model_type="minibert" if isinstance(config, MiniBertConfig) else "minigpt",
        uses_token_types=isinstance(config, MiniBertConfig) and config.type_vocab_size > 0,
        model_max_length=config.max_position_embeddings,
    )
    objective = build_objective(arguments, store.train, tokenizer, for_evaluation=False)
    held_out = build_objective(arguments, store.held_out, tokenizer, for_evaluation=True)
    # The first rows of the held-out text, in an order of their own, stand for all of it.
    rows: dict[str, int] = {"batch_size": arguments.per_device_eval_batch_size, "max_rows": arguments.max_eval_samples}
    targets = torch.cat([predicted_tokens(batch, name) for batch in evaluation_batches(held_out, **rows)])
    baselines = frequency_baselines(store.train, targets.numpy(), tokenizer, name)
    lengths = token_lengths(tokenizer)
    sentences = held_out_sentences(store.held_out, tokenizer, count=3)

    # ---------------------------------------------------------------- build and resume
    set_seed(arguments.seed)
    model_class: Any = family_of(arguments.model).objectives[name]
    resumed = latest_checkpoint(folder) if arguments.resume else None
    model: PretrainingModel = model_class(config) if resumed is None else model_class.from_pretrained(resumed)
    optimizer = build_optimizer(model, arguments, arguments.learning_rate)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    if resumed is None:
        state = TrainState()
        if accelerator.is_main_process:
            state.samples_before = predictions(model, tokenizer, sentences, name)
    else:
        state = load_state(resumed)
        optimizer.load_state_dict(torch.load(resumed / "optimizer.pt", weights_only=True, map_location="cpu"))
        generators = resumed / f"generator-{accelerator.process_index}.pt"
        if generators.exists():  # a process that was not there before has dropout of its own
            restore_generators(torch.load(generators, weights_only=True))
        accelerator.print(f"resuming from {resumed} at step {state.step}")
    if accelerator.is_main_process:
        write_json(folder / ARGUMENTS, dataclasses.asdict(arguments) | {"resume": False, "overwrite_output_dir": False})
    batches = training_batches(
        objective,
        batch_size=arguments.per_device_train_batch_size,
        accumulation=arguments.gradient_accumulation_steps,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        first_step=state.step,
        num_workers=arguments.dataloader_num_workers,
    )
    log = MetricsLog(folder, accelerator, state)
    rows |= {"rank": accelerator.process_index, "world_size": accelerator.num_processes}
    tokens_per_step = (
        arguments.per_device_train_batch_size
        * arguments.gradient_accumulation_steps
        * accelerator.num_processes
        * arguments.max_seq_length
    )

    def measure() -> dict[str, float]:
        metrics = evaluate(model, evaluation_batches(held_out, **rows), name, accelerator, lengths)
        log.write(state, metrics)
        if accelerator.is_main_process:
            plot_curves(log.path, folder / CURVES, baselines=baselines)
        return metrics

    def save() -> None:
        generator_state = accelerator.gather(generators_to_save(accelerator))
        if accelerator.is_main_process:

            def write(checkpoint: Path) -> None:
                write_model(checkpoint, model, tokenizer)
                torch.save(optimizer.state_dict(), checkpoint / "optimizer.pt")
                for rank, one in enumerate(generator_state.reshape(accelerator.num_processes, -1).cpu()):
                    torch.save(one, checkpoint / f"generator-{rank}.pt")

            save_checkpoint(folder, state, write)
            prune_checkpoints(folder, arguments.save_total_limit)
        accelerator.wait_for_everyone()

    # ---------------------------------------------------------------- train
    end = End.of(arguments)
    stop = StopSignal()
    begin = time.perf_counter() - state.seconds
    progress = end.progress(state)
    logged: dict[str, Tensor] = {}
    logged_at = (state.step, time.perf_counter())
    metrics: dict[str, float] = {}
    stopped = False
    model.train()
    with progress_bar(accelerator, progress) as bar:
        while progress < 1 and not stopped:
            micro_batches = [
                {key: tensor.to(accelerator.device) for key, tensor in batch.items()}
                for batch in islice(batches, arguments.gradient_accumulation_steps)
            ]
            counts, stopped = share_counts(micro_batches, stop.received, accelerator)
            for batch in micro_batches:
                with accelerator.accumulate(wrapped):
                    losses = forward(wrapped, batch, counts, name)
                    # Each loss is already this batch's part of the step's mean; undo the averaging that follows.
                    scale = arguments.gradient_accumulation_steps * accelerator.num_processes
                    accelerator.backward(losses["loss"] * scale)
                for key, loss in losses.items():
                    logged[key] = logged.get(key, torch.zeros_like(loss)) + loss.detach()
            factor = learning_rate_factor(arguments.lr_scheduler_type, arguments.warmup_steps, state.step, progress)
            for group in optimizer.param_groups:
                group["lr"] = arguments.learning_rate * factor
            grad_norm = accelerator.clip_grad_norm_(wrapped.parameters(), arguments.max_grad_norm)
            if torch.isfinite(grad_norm):
                optimizer.step()
                state.skipped_steps = 0
            else:
                state.skipped_steps += 1
            optimizer.zero_grad()

            state.step += 1
            state.tokens += tokens_per_step
            state.seconds = share_seconds(time.perf_counter() - begin, accelerator, end)
            before, progress = progress, end.progress(state)
            if state.skipped_steps > MAX_SKIPPED_STEPS:
                raise UserError(
                    f"the gradient was not finite in {state.skipped_steps} steps in a row, the last of them step "
                    f"{state.step}; resume from the checkpoint before with a smaller --learning_rate"
                )
            if state.step == 1 or state.step % arguments.logging_steps == 0 or progress >= 1:
                done = state.step - logged_at[0]
                line = mean_losses(logged, done, accelerator) | {
                    "learning_rate": arguments.learning_rate * factor,
                    "grad_norm": float(grad_norm),
                    "tokens_per_second": done * tokens_per_step / (time.perf_counter() - logged_at[1]),
                }
                log.write(state, line)
                bar.set_postfix_str(
                    f"step {state.step}, loss {line['loss']:.3f}, {line['tokens_per_second']:,.0f} tokens/s"
                    + (f", held-out {metrics['eval_loss']:.3f}" if metrics else ""),
                    refresh=False,
                )
                logged, logged_at = {}, (state.step, time.perf_counter())
            bar.update(100 * progress - bar.n)
            paused = time.perf_counter()
            is_due = int(before * EVALUATIONS) != int(progress * EVALUATIONS)
            if progress < 1 and (state.step % arguments.eval_steps == 0 if arguments.eval_steps else is_due):
                metrics = measure()
            if stopped or progress >= 1 or (state.step % arguments.save_steps == 0 if arguments.save_steps else is_due):
                save()
            logged_at = (logged_at[0], logged_at[1] + time.perf_counter() - paused)
    if stopped and progress < 1:
        accelerator.print(f"stopped by SIGTERM at step {state.step}; go on with --resume")
        accelerator.end_training()
        return TERMINATED

    # ---------------------------------------------------------------- finish
    metrics = measure()
    if accelerator.is_main_process:
        publish_model(folder, model, tokenizer)
        after = predictions(model, tokenizer, sentences, name)
        results = summary(arguments, model, store, state, metrics | baselines, after, accelerator)
        write_json(folder / RESULTS, results)
        card = write_card(folder)
        print_report(results, folder, card)
    accelerator.end_training()
    return 0


def use_all_cores(accelerator: Accelerator) -> None:
    """Share a machine's cores between its processes on CPU: launchers leave each with one thread."""
    if accelerator.device.type == "cpu":
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def forward(model: torch.nn.Module, batch: Batch, counts: Tensor, objective: str) -> dict[str, Tensor]:
    """One batch's part of the step's mean loss, in all and by objective."""
    if objective == "clm":
        outputs = model(**batch, use_cache=False, num_items_in_batch=counts[0])
        return {"loss": outputs.loss}
    if objective == "mlm":
        return {"loss": model(**batch, num_items_in_batch=counts[0]).loss}
    outputs = model(**batch, num_items_in_batch=counts[0], num_sentences_in_batch=counts[1])
    return {"loss": outputs.loss, "mlm_loss": outputs.mlm_loss, "nsp_loss": outputs.nsp_loss}


def share_counts(micro_batches: list[Batch], stop: bool, accelerator: Accelerator) -> tuple[Tensor, bool]:
    """Predicted tokens and rows of the step over all processes, (2,), and whether any process was told to stop."""
    tokens = sum((batch["labels"] != IGNORE_INDEX).sum() for batch in micro_batches)
    rows = sum(len(batch["labels"]) for batch in micro_batches)
    counts = torch.tensor([int(tokens), rows, int(stop)], dtype=torch.float32, device=accelerator.device)
    if accelerator.num_processes > 1:
        counts = accelerator.reduce(counts, reduction="sum")
    return counts[:2].clamp(min=1), bool(counts[2] > 0)


def share_seconds(seconds: float, accelerator: Accelerator, end: End) -> float:
    """The time as the first process has it, since the schedule of all hangs on it."""
    if accelerator.num_processes == 1 or end.seconds is None:
        return seconds
    mine = torch.tensor([seconds if accelerator.is_main_process else 0.0], device=accelerator.device)
    return float(accelerator.reduce(mine, reduction="sum"))


def mean_losses(sums: dict[str, Tensor], steps: int, accelerator: Accelerator) -> dict[str, float]:
    """Losses per step since the last line, over all processes."""
    values = torch.stack(list(sums.values()))
    if accelerator.num_processes > 1:
        values = accelerator.reduce(values, reduction="sum")
    return dict(zip(sums, (values / steps).tolist(), strict=True))


def generators_to_save(accelerator: Accelerator) -> Tensor:
    """The state of the generator that this process's dropout draws from, as bytes."""
    on_cuda = accelerator.device.type == "cuda"
    return (torch.cuda.get_rng_state() if on_cuda else torch.get_rng_state()).to(accelerator.device)


def restore_generators(state: Tensor) -> None:
    """Put back what `generators_to_save` took."""
    if torch.cuda.is_available():
        torch.cuda.set_rng_state(state)
    else:
        torch.set_rng_state(state)


def write_model(folder: Path, model: PretrainingModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """What `from_pretrained` opens: weights, config, code and tokenizer."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def publish_model(folder: Path, model: PretrainingModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Put the model into the run's folder, each file at once."""
    temporary = folder / ".model.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    write_model(temporary, model, tokenizer)
    for path in temporary.iterdir():
        path.replace(folder / path.name)
    temporary.rmdir()


def progress_bar(accelerator: Accelerator, progress: float) -> Any:
    """One bar for the whole run, in percent of its end, whatever that is measured in."""
    return tqdm(
        total=100.0,
        initial=round(100 * progress, 3),
        desc="training",
        bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}",
        mininterval=0.5,
        disable=not accelerator.is_main_process,
    )


def summary(
    arguments: PretrainArguments,
    model: PretrainingModel,
    store: TokenStore,
    state: TrainState,
    metrics: dict[str, float],
    after: list[dict[str, Any]],
    accelerator: Accelerator,
) -> dict[str, Any]:
    """The run in figures, `results.json`: what cards and tables are rendered from."""
    assert arguments.per_device_train_batch_size is not None
    cuda = accelerator.device.type == "cuda"
    return {
        "kind": "pretrain",
        "model_type": model.config.model_type,
        "architecture": arguments.architecture,
        "objective": arguments.objective,
        "preset": arguments.model,
        "num_parameters": model.num_parameters(),
        "corpus": {
            "name": " ".join(Path(source).name for source in arguments.corpus),
            "documents": len(store.train),
            "held_out_documents": len(store.held_out),
            "tokens": int(store.train.lengths.sum()),
            "held_out_tokens": int(store.held_out.lengths.sum()),
            "bytes": store.info.bytes,
        },
        "tokenizer": {"name": Path(arguments.tokenizer).name, "vocab_size": model.config.vocab_size},
        "training": {
            "steps": state.step,
            "tokens_seen": state.tokens,
            "seconds": round(state.seconds, 1),
            "epochs": state.tokens / int(store.train.lengths.sum()),
            "tokens_per_second": state.tokens / state.seconds,
            "global_batch_size": arguments.per_device_train_batch_size
            * arguments.gradient_accumulation_steps
            * accelerator.num_processes,
            "max_seq_length": arguments.max_seq_length,
            "num_processes": accelerator.num_processes,
            "hardware": torch.cuda.get_device_name() if cuda else f"{os.cpu_count()} CPU cores",
            "precision": accelerator.mixed_precision if accelerator.mixed_precision != "no" else "fp32",
        },
        "metrics": metrics,
        "samples": [
            {"text": one["text"], "before": was["predictions"], "after": one["predictions"]}
            for was, one in zip(state.samples_before, after, strict=True)
        ],
        "environment": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "transformers", "accelerate", "datasets", "tokenizers")}
        | {"hf_minibert": version("hf_minibert")},
    }


def print_report(results: dict[str, Any], folder: Path, card: Path) -> None:
    """What was learned, for the person who waited for it."""
    metrics, training = results["metrics"], results["training"]
    out = tqdm.write
    out("")
    out(
        f"{results['preset']} ({results['num_parameters'] / 1e6:.1f}M parameters) after {training['steps']:,} steps, "
        f"{training['tokens_seen']:,} tokens. On held-out documents:"
    )
    kind = "next-token" if results["objective"] == "clm" else "masked-LM"
    loss = metrics.get("eval_mlm_loss", metrics["eval_loss"])
    out(f"  {kind} loss {loss:.3f} nats per token; by frequencies alone {metrics['unigram_loss']:.3f}")
    out(f"  accuracy {metrics['eval_accuracy']:.1%}")
    if "eval_nsp_accuracy" in metrics:
        out(f"  next sentence: accuracy {metrics['eval_nsp_accuracy']:.1%} of pairs")
    if "eval_bits_per_byte" in metrics:
        bits = metrics["byte_unigram_bits_per_byte"]
        out(f"  {metrics['eval_bits_per_byte']:.3f} bits per byte; by frequencies of bytes alone {bits:.3f}")
    for sample in results["samples"]:
        out(f"\n  {sample['text']}")
        out(f"    before: {', '.join(sample['before'])}")
        out(f"    after:  {', '.join(sample['after'])}")
    out(f"\ncheckpoint  {folder}")
    out(f"curve       {folder / CURVES}")
    out(f"model card  {card}")
