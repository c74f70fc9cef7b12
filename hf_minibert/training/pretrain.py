"""The pre-training loop: batches in, a checkpoint that `from_pretrained` opens out.

Read `Pretraining.run` first: for every step forward, backward, clip, step, and now and then log, evaluate and save.
"""

import dataclasses
import json
import logging
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from safetensors.torch import load_model
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor
from transformers.utils.logging import disable_progress_bar

from hf_minibert.data.loader import evaluation_batches, training_batches
from hf_minibert.data.objectives import Batch, Objective
from hf_minibert.errors import UserError
from hf_minibert.files import DECODER, write_json
from hf_minibert.hub.card import write_card
from hf_minibert.interop.decoder import decoder_config, decoder_weights
from hf_minibert.models.configuration_minibert import MiniBertConfig
from hf_minibert.models.losses import IGNORE_INDEX
from hf_minibert.models.modeling_minibert import MiniBertForMaskedLM
from hf_minibert.models.modeling_minigpt import MiniGPTForCausalLM
from hf_minibert.models.modeling_transformer import TransformerLayer
from hf_minibert.presets import PretrainingModel
from hf_minibert.tokenization import adapt_tokenizer, save_tokenizer
from hf_minibert.training.arguments import PretrainArguments
from hf_minibert.training.checkpoint import (
    TrainState,
    forget_checkpoints_after,
    latest_checkpoint,
    load_state,
    prune_checkpoints,
    save_checkpoint,
    stable_checkpoint,
    write_tensors,
)
from hf_minibert.training.curves import plot_curves
from hf_minibert.training.device import build_accelerator, flops_per_token, matrix_product_rate
from hf_minibert.training.evaluation import evaluate
from hf_minibert.training.inputs import (
    ARGUMENTS,
    Plan,
    build_model,
    check_folder,
    check_same_data,
    make_folder,
    make_plan,
    read_data,
)
from hf_minibert.training.optimization import DECAY_SHARE, End, build_optimizers, learning_rate_factor
from hf_minibert.training.report import (
    CURVES,
    RESULTS,
    MetricsLog,
    ProgressBar,
    announcement,
    print_report,
    summary,
)
from hf_minibert.training.samples import predictions
from hf_minibert.training.zero import autocast_forward, get_moments, make_moments, set_moments, uses_zero

logger = logging.getLogger(__name__)

EVALUATIONS = 8
STEPS_BETWEEN_EVALUATIONS = 20
SHARE_OF_PAUSES = 0.05
"""Of a --budget: while evaluations and checkpoints have taken more of the time so far, there is no evaluation."""
SECONDS_BETWEEN_SAVES = 1800
MAX_SKIPPED_STEPS = 10
TERMINATED = 143
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
"""How weights and moments are kept: by name and undivided, so that any number of processes may go on with them."""


def pretrain(arguments: PretrainArguments) -> int:
    """Run to the end, or until SIGTERM. Returns the exit status: 0, or 143 after a SIGTERM and a checkpoint.

    Raises:
        UserError: the arguments ask for something that cannot be.
    """
    disable_progress_bar()  # of saving and loading, which are short and would break ours
    torch.set_flush_denormal(True)  # AdamW on subnormal moments is many times slower on CPUs
    check_folder(arguments)
    if arguments.resume and is_finished(arguments):
        logger.info(
            "%s is already finished; to go on, give a later --budget, --max_steps or --max_tokens",
            arguments.output_dir,
        )
        return 0
    return Pretraining(make_plan(arguments)).run()


def is_finished(arguments: PretrainArguments) -> bool:
    """Whether the run in a folder came to the end that the arguments ask for, and told what was learned."""
    folder = Path(arguments.output_dir)
    if not (folder / RESULTS).exists():
        return False
    state = load_state(latest_checkpoint(folder))
    told = json.loads((folder / RESULTS).read_text(encoding="utf-8"))["training"]["steps"]
    return bool(told == state.step and End.of(arguments).progress(state) >= 1)


class Pretraining:
    """One run: everything that it is built from, and the steps."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.arguments, self.folder = plan, plan.arguments, plan.folder
        self.accelerator = build_accelerator(self.arguments, self.folder)
        self.data = read_data(plan, self.accelerator)
        if self.accelerator.is_main_process:
            make_folder(self.arguments)  # not before the corpus was read without a mistake
            if not self.arguments.resume:  # a resumed run is checked against its checkpoint first
                write_json(self.folder / ARGUMENTS, self._saved_arguments())
        self.accelerator.wait_for_everyone()
        named = {"name": self.folder.resolve().name}
        settings = {
            name: value for name, value in self._saved_arguments().items() if isinstance(value, int | float | str)
        }
        self.accelerator.init_trackers("hf_minibert", settings, {"trackio": named, "wandb": named})
        self.end = End.of(self.arguments)
        self.rows_per_step = (
            plan.batch_size * self.arguments.gradient_accumulation_steps * self.accelerator.num_processes
        )
        self.tokens_per_step = self.rows_per_step * plan.max_seq_length
        self._build_or_resume()
        self.tokens_per_second_limit = speed_limit(self.plan, self.model, self.data.train, self.accelerator)
        self.log = MetricsLog(self.folder, self.accelerator, self.state)

    def _build_or_resume(self) -> None:
        """The model, the optimizer and how far they are."""
        set_seed(self.arguments.seed)
        checkpoint = resume_point(self.folder, self.end) if self.arguments.resume else None
        self.model = build_model(self.plan)
        if checkpoint is not None:
            load_weights(self.model, checkpoint)
        if self.arguments.gradient_checkpointing:
            self.model.gradient_checkpointing_enable()  # type: ignore[no-untyped-call]
        if self.arguments.compile:
            self._compile()
        optimizers = build_optimizers(self.model, self.arguments, self.plan.learning_rate)
        if uses_zero(self.accelerator) and self.arguments.mixed_precision == "bf16":
            autocast_forward(self.model, self.accelerator.device)
        self.wrapped, *self.optimizers = self.accelerator.prepare(self.model, *optimizers)
        inner = [optimizer.optimizer for optimizer in self.optimizers]
        if uses_zero(self.accelerator):
            make_moments(inner[0])
        if checkpoint is None:
            self.state = TrainState(data=self.data.fingerprint, samples_before=self._predict())
            torch.manual_seed(self.arguments.seed + self.accelerator.process_index)  # dropout of its own for each
            return
        self.state = load_state(checkpoint)
        check_same_data(self.state.data, self.data)
        self.state.data = self.data.fingerprint
        before = json.loads((self.folder / ARGUMENTS).read_text(encoding="utf-8"))
        if self.arguments.optimizer != before["optimizer"]:
            raise UserError(
                f"the run's moments are those of {before['optimizer']}, so it cannot go on with --optimizer "
                f"{self.arguments.optimizer}; leave the flag out"
            )
        options = [
            [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
            for optimizer in inner
        ]
        moments = torch.load(checkpoint / "optimizer.pt", weights_only=True, map_location="cpu")
        if uses_zero(self.accelerator):
            set_moments(self.model, inner[0], moments)
        else:
            set_optimizer_state_dict(self.model, inner, optim_state_dict=moments, options=WHOLE)
        for optimizer, groups in zip(inner, options, strict=True):
            for group, own in zip(optimizer.param_groups, groups, strict=True):
                group |= own  # what the arguments say, not what they said when the checkpoint was made
        torch.manual_seed(self.arguments.seed + self.accelerator.process_index)
        generator = checkpoint / generator_file(self.accelerator, self.accelerator.process_index)
        if generator.exists():  # else there were fewer processes, or another kind of device
            restore_generator(torch.load(generator, weights_only=True), self.accelerator)
        self.accelerator.wait_for_everyone()  # all have read the arguments
        if self.accelerator.is_main_process:
            changes = [
                f"{name} {before.get(name)} -> {value}"
                for name, value in self._saved_arguments().items()
                if value != before.get(name)
            ]
            write_json(self.folder / ARGUMENTS, self._saved_arguments())
            forget_checkpoints_after(self.folder, self.state.step)
            changed = f"; changed: {', '.join(changes)}" if changes else ""
            self.accelerator.print(f"resuming from {checkpoint}, step {self.state.step}{changed}")

    def _saved_arguments(self) -> dict[str, Any]:
        """What a resumed run starts from."""
        how = {"resume": False, "overwrite_output_dir": False, "replay": None}
        return dataclasses.asdict(self.arguments) | how

    def run(self) -> int:
        """The loop. Returns the exit status."""
        arguments, accelerator, state = self.arguments, self.accelerator, self.state
        accelerator.print(announcement(self.plan, self.model, accelerator))
        stop = StopSignal()  # before there are workers
        batches = training_batches(
            self.data.train,
            batch_size=self.plan.batch_size,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            first_row=state.rows,
            last_row=self.end.last_row(state, self.rows_per_step, self.tokens_per_step),
            num_workers=arguments.dataloader_num_workers,
        )
        clock = Clock(state)
        progress, saved, is_first = self.end.progress(state), state.seconds, True
        line, held_out = dict[str, float](), dict[str, float]()
        is_trapezoid = arguments.lr_scheduler_type == "warmup_stable_decay"
        self.model.train()
        with closing(batches), ProgressBar(progress, is_shown=accelerator.is_main_process) as bar:
            if arguments.compile:
                bar.set_postfix_str("compiling")
            while progress < 1 and not stop.agreed:
                losses = self.step(batches, progress, stop)
                begin = state.seconds
                state.seconds, state.training_seconds = share_seconds(clock, accelerator)
                if arguments.compile and is_first:
                    state.compile_seconds += state.seconds - begin
                is_first = False
                before, progress = progress, self.end.progress(state)
                clock.add(losses)
                if not line or state.step % arguments.logging_steps == 0 or progress >= 1:
                    line = clock.line(self.tokens_per_step, accelerator)
                    line["utilisation"] = line["tokens_per_second"] / self.tokens_per_second_limit
                    self.log.write(state, line)
                bar.show(progress, state, line, held_out)
                clock.pause()
                is_milestone = is_due(state.step, arguments.eval_steps, ends_part(state, before, progress))
                may_pause = arguments.eval_steps is not None or has_time_to_pause(state, self.end)
                if (is_milestone and may_pause) or progress >= 1:
                    held_out = self.measure()
                    bar.show(progress, state, line, held_out)
                is_late = state.seconds - saved >= SECONDS_BETWEEN_SAVES
                is_last = stop.agreed or progress >= 1
                falls_next = is_trapezoid and before < 1 - DECAY_SHARE <= progress
                if is_due(state.step, arguments.save_steps, is_milestone or is_late) or falls_next or is_last:
                    self.save()
                    saved = state.seconds
                clock.go_on()
        if progress < 1:
            accelerator.print(f"stopped by a signal at step {state.step}; go on with --resume")
        else:
            self.finish(held_out or self.measure())
        accelerator.wait_for_everyone()
        # Before the process group: if the gradient reducer is the last to hold it, both can wait for each other.
        self.wrapped, *self.optimizers = accelerator.free_memory(self.wrapped, *self.optimizers)
        accelerator.end_training()
        return 0 if progress >= 1 else TERMINATED

    def step(self, batches: Iterator[Batch], progress: float, stop: "StopSignal") -> dict[str, Tensor]:
        """One optimizer step. Returns this process's part of the mean losses, and what else the log shows."""
        arguments, accelerator, state = self.arguments, self.accelerator, self.state
        micro_batches = list(islice(batches, arguments.gradient_accumulation_steps))
        counts = share_counts(micro_batches, stop, accelerator)  # before they are on a device that one would wait for
        factor = learning_rate_factor(arguments.lr_scheduler_type, arguments.warmup_steps, state.step, progress)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
        sums: dict[str, Tensor] = {}
        for on_host in micro_batches:
            batch = {name: tensor.to(accelerator.device, non_blocking=True) for name, tensor in on_host.items()}
            with accelerator.accumulate(self.wrapped):
                losses = self.forward(batch, counts)
                # Each loss is this batch's part of the step's mean already; undo the averaging that follows.
                accelerator.backward(losses["loss"] * (len(micro_batches) * accelerator.num_processes))
            sums = {name: loss.detach() + sums.get(name, 0.0) for name, loss in losses.items()}
        grad_norm = accelerator.clip_grad_norm_(self.wrapped.parameters(), arguments.max_grad_norm)
        # FSDP gives a part of it; ZeRO, which took the step in `backward` unless it is not finite, a plain number.
        grad_norm = grad_norm.full_tensor() if isinstance(grad_norm, DTensor) else torch.as_tensor(grad_norm)
        decays = arguments.lr_scheduler_type == "warmup_stable_decay" and progress >= 1 - DECAY_SHARE
        if decays:
            state.decayed_for = dataclasses.astuple(self.end)
        state.step += 1
        state.rows, state.rows_per_step = state.rows + self.rows_per_step, self.rows_per_step
        state.tokens += self.tokens_per_step
        if torch.isfinite(grad_norm):
            for optimizer in self.optimizers:
                optimizer.step()
            state.skipped_steps = 0
        else:
            state.skipped_steps += 1
            state.skipped_steps_in_all += 1
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        if state.skipped_steps > MAX_SKIPPED_STEPS:
            raise UserError(
                f"loss or gradient were not finite in {state.skipped_steps} steps in a row, up to step {state.step} "
                f"(rows {state.rows - self.rows_per_step:,} to {state.rows - 1:,}); look at it with --replay "
                f"{state.step}, and resume from the checkpoint before with a smaller --learning_rate"
            )
        return sums | {"grad_norm": grad_norm, "learning_rate": torch.tensor(self.plan.learning_rate * factor)}

    def forward(self, batch: Batch, counts: Tensor) -> dict[str, Tensor]:
        """One batch's part of the step's mean loss, in all and by objective; `counts`: see `share_counts`."""
        tokens, causal_tokens, rows = counts
        if self.plan.objective == "clm":
            return {"loss": self.wrapped(**batch, use_cache=False, num_items_in_batch=tokens).loss}
        if self.plan.objective == "mlm":
            return {"loss": self.wrapped(**batch, num_items_in_batch=tokens).loss}
        if self.plan.objective == "hybrid":
            share = self.arguments.masked_share
            items = {"num_items_in_batch": tokens, "num_causal_items_in_batch": causal_tokens}
            outputs = self.wrapped(**batch, **items, masked_share=share)
            return {"loss": outputs.loss, "mlm_loss": outputs.mlm_loss, "clm_loss": outputs.clm_loss}
        outputs = self.wrapped(**batch, num_items_in_batch=tokens, num_sentences_in_batch=rows)
        return {"loss": outputs.loss, "mlm_loss": outputs.mlm_loss, "nsp_loss": outputs.nsp_loss}

    def measure(self) -> dict[str, float]:
        """Evaluate on the held-out rows; log it and draw the curves."""
        if self.data.held_out_causal is None:
            metrics = self._measure(self.data.held_out, self.data.token_lengths)
        else:
            share = self.arguments.masked_share
            masked = self._measure(self.data.held_out, None)
            causal = self._measure(self.data.held_out_causal, self.data.token_lengths)
            metrics = masked | {"eval_mlm_loss": masked["eval_loss"], "eval_clm_loss": causal["eval_loss"]}
            metrics |= {name: value for name, value in causal.items() if name == "eval_bits_per_byte"}
            metrics["eval_loss"] = share * metrics["eval_mlm_loss"] + (1 - share) * metrics["eval_clm_loss"]
        self.state.evaluated_step = self.state.step
        self.log.write(self.state, metrics)
        self.log.write_samples(self.state, self._predict())
        if self.accelerator.is_main_process:
            by_frequencies = {"by frequencies alone": self.data.baselines["unigram_loss"]}
            plot_curves(self.log.path, self.folder / CURVES, baselines=by_frequencies)
        return metrics

    def _measure(self, held_out: Objective, token_lengths: Tensor | None) -> dict[str, float]:
        """Loss on held-out rows of one kind."""
        batches = evaluation_batches(
            held_out,
            batch_size=self.arguments.per_device_eval_batch_size,
            max_rows=self.plan.max_eval_samples,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
        )
        with self._uncompiled():
            return evaluate(self.model, batches, self.plan.objective, self.accelerator, token_lengths)

    def save(self) -> None:
        """Make a checkpoint; then forget the oldest. All processes take part, since each may hold a part."""
        generators = self.accelerator.gather(generator_state(self.accelerator)[None])
        weights = self._weights()
        inner = [optimizer.optimizer for optimizer in self.optimizers]
        if uses_zero(self.accelerator):
            moments = get_moments(self.model, inner[0])
        else:
            moments = get_optimizer_state_dict(self.model, inner, options=WHOLE)
        if self.accelerator.is_main_process:

            def write(checkpoint: Path) -> None:
                self._write_model(checkpoint, weights)
                write_tensors(checkpoint / "optimizer.pt", moments)
                for rank, state in enumerate(generators.cpu()):
                    write_tensors(checkpoint / generator_file(self.accelerator, rank), state.clone())

            save_checkpoint(self.folder, self.state, write)
            prune_checkpoints(self.folder, self.arguments.save_total_limit)
        self.accelerator.wait_for_everyone()

    def finish(self, metrics: dict[str, float]) -> None:
        """Put the model into the run's folder, and tell what was learned."""
        weights, predicted = self._weights(), self._predict()
        if not self.accelerator.is_main_process:
            return
        temporary = self.folder / ".model.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        self._write_model(temporary, weights)
        for path in temporary.iterdir():
            if path.is_dir():
                shutil.rmtree(self.folder / path.name, ignore_errors=True)
            path.replace(self.folder / path.name)
        temporary.rmdir()
        results = summary(self.plan, self.data, self.model, self.state, metrics, predicted, self.accelerator)
        write_json(self.folder / RESULTS, results)
        print_report(results, self.folder, write_card(self.folder))

    def _predict(self) -> list[dict[str, Any]]:
        with self._uncompiled():
            return predictions(self.model, self.plan.tokenizer, self.data.sentences, self.plan.objective)

    def _compile(self) -> None:
        """Compile the model in one graph, whatever number of tokens is predicted; or what FSDP leaves whole of it."""
        if not self.accelerator.is_fsdp2:
            self.model.compile(fullgraph=True)
            return
        for module in self.model.modules():
            if isinstance(module, TransformerLayer):
                module.compile()

    def _uncompiled(self) -> AbstractContextManager[None]:
        """Batches of other shapes are not worth compiling for."""
        return torch.compiler.set_stance("force_eager") if self.arguments.compile else nullcontext()

    def _weights(self) -> dict[str, Tensor]:
        """The model's, whole, on the first process; tied ones once, of which FSDP's gathering makes two."""
        weights: dict[str, Any] = get_model_state_dict(self.model, options=WHOLE)
        tied = self.model._tied_weights_keys if self.plan.config.tie_word_embeddings else {}
        return {name: weight for name, weight in weights.items() if name not in tied}

    def _write_model(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """What `from_pretrained` opens: weights, config, code and tokenizer."""
        config = self.plan.config
        with torch.device("meta"):  # FSDP has made the model an instance of a class of its own
            shell = build_model(self.plan)
        if self.plan.objective == "hybrid":
            assert isinstance(config, MiniBertConfig)
            self._write_decoder(folder, config, weights)
            with torch.device("meta"):
                shell = MiniBertForMaskedLM(config)
        shell.save_pretrained(folder, state_dict=weights)
        save_tokenizer(self.plan.tokenizer, folder)

    def _write_decoder(self, folder: Path, config: MiniBertConfig, weights: dict[str, Tensor]) -> None:
        """The decoder of a hybrid, in a folder of its own, with its code beside the encoder's as transformers wants."""
        with torch.device("meta"):
            decoder = MiniGPTForCausalLM(decoder_config(config))
        decoder.save_pretrained(folder / DECODER, state_dict=decoder_weights(weights))
        for code in (folder / DECODER).glob("*.py"):
            shutil.copyfile(code, folder / code.name)
        tokenizer = adapt_tokenizer(
            self.plan.tokenizer,
            model_type="minigpt",
            uses_token_types=False,
            model_max_length=config.max_position_embeddings,
        )
        save_tokenizer(tokenizer, folder / DECODER)


def speed_limit(plan: Plan, model: PretrainingModel, objective: Objective, accelerator: Accelerator) -> float:
    """Tokens per second if all processes did nothing but the model's matrix products, as fast as one product goes."""
    batch = objective.batch(0, np.arange(min(8, objective.num_rows)))
    share = 1.0 if plan.objective == "clm" else float((batch["labels"] != IGNORE_INDEX).float().mean())
    arithmetic = flops_per_token(model, plan.max_seq_length, head_share=share)
    dtype = torch.bfloat16 if plan.arguments.mixed_precision == "bf16" else torch.float32
    rows = plan.batch_size * plan.max_seq_length
    rate = matrix_product_rate(accelerator.device, dtype, rows, plan.config.hidden_size)
    return float(accelerator.num_processes * rate / arithmetic)


class StopSignal:
    """Remembers that a process was asked to stop, so that the step at hand can end and be saved."""

    def __init__(self) -> None:
        self.received = False
        self.agreed = False
        """Whether all processes know of it."""
        signal.signal(signal.SIGTERM, self._receive)
        if sys.platform != "win32":
            signal.signal(signal.SIGUSR1, self._receive)  # how schedulers such as Slurm warn of the end

    def _receive(self, _number: int, _frame: FrameType | None) -> None:
        self.received = True


class Clock:
    """The time of a run, and the losses since the last line of the log with the time that their steps took."""

    def __init__(self, state: TrainState) -> None:
        now = time.perf_counter()
        self._begin, self._training_begin = now - state.seconds, now - state.training_seconds
        self._start_line()

    def _start_line(self) -> None:
        self._line_begin, self._steps, self._sums = time.perf_counter(), 0, dict[str, Tensor]()

    def seconds(self) -> float:
        """Since the run began, with the time before it was resumed."""
        return time.perf_counter() - self._begin

    def training_seconds(self) -> float:
        """Those of them that were no pause."""
        return time.perf_counter() - self._training_begin

    def add(self, losses: dict[str, Tensor]) -> None:
        """Count a step."""
        self._steps += 1
        self._sums = {name: loss + self._sums.get(name, 0.0) for name, loss in losses.items()}
        self._sums |= {name: losses[name] for name in ("grad_norm", "learning_rate")}

    def line(self, tokens_per_step: int, accelerator: Accelerator) -> dict[str, float]:
        """Mean losses and speed since the last line, over all processes, and the newest gradient norm and rate."""
        latest = {name: float(self._sums.pop(name)) for name in ("grad_norm", "learning_rate")}
        values = torch.stack(list(self._sums.values())) / self._steps
        if accelerator.num_processes > 1:
            values = accelerator.reduce(values, reduction="sum")
        speed = self._steps * tokens_per_step / (time.perf_counter() - self._line_begin)
        line = dict(zip(self._sums, values.tolist(), strict=True)) | latest | {"tokens_per_second": speed}
        self._start_line()
        return line

    def pause(self) -> None:
        """What comes now is not training."""
        self._paused = time.perf_counter()

    def go_on(self) -> None:
        """What comes now is."""
        pause = time.perf_counter() - self._paused
        self._line_begin += pause
        self._training_begin += pause


def resume_point(folder: Path, end: End) -> Path:
    """The checkpoint to go on from: the newest, but where it has decayed for another end, the newest before that."""
    newest = latest_checkpoint(folder)
    decayed_for = load_state(newest).decayed_for
    if decayed_for is None or tuple(decayed_for) == dataclasses.astuple(end):
        return newest
    stable = stable_checkpoint(folder)
    logger.info("the learning rate had begun to fall for the earlier end; going on from %s, before that", stable)
    return stable


def is_due(step: int, every: int | None, otherwise: bool) -> bool:
    """Whether it is time, by a number of steps, or else by the share of the run that is done."""
    return otherwise if every is None else step % every == 0


def ends_part(state: TrainState, before: float, progress: float) -> bool:
    """Whether the step from one progress to the next ends a part of the run, not too soon after an evaluation."""
    crosses = int(before * EVALUATIONS) != int(progress * EVALUATIONS)
    return crosses and state.step - state.evaluated_step >= STEPS_BETWEEN_EVALUATIONS


def has_time_to_pause(state: TrainState, end: End) -> bool:
    """Whether a budget is spent on training, but for a small part, so far: on a slow machine an evaluation is long."""
    return end.seconds is None or state.seconds - state.training_seconds <= SHARE_OF_PAUSES * state.seconds


def load_weights(model: PretrainingModel, checkpoint: Path) -> None:
    """Copy weights into a model's own memory: where they lie in a mapped file decides how sums on CPU are rounded.

    Raises:
        UserError: the checkpoint is of a model of another shape.
    """
    try:
        load_model(model, checkpoint / "model.safetensors")
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{checkpoint} does not fit the model that the arguments describe: {reason}") from error


def share_counts(micro_batches: list[Batch], stop: StopSignal, accelerator: Accelerator) -> Tensor:
    """Predicted tokens, those of them in the causal rows of hybrid pre-training (which the first leaves out), and rows.

    Of the step, over all processes, (3,); and all learn whether one was told to stop.
    """
    tokens = causal_tokens = rows = 0
    for batch in micro_batches:
        predicted = (batch["labels"] != IGNORE_INDEX).sum(dim=1)
        is_causal = batch.get("causal_rows", torch.zeros_like(predicted, dtype=torch.bool))
        tokens += int(predicted[~is_causal].sum())
        causal_tokens += int(predicted[is_causal].sum())
        rows += len(predicted)
    counts = torch.tensor([tokens, causal_tokens, rows, int(stop.received)], device=accelerator.device)
    stop.agreed = stop.received
    if accelerator.num_processes > 1:
        counts = accelerator.reduce(counts, reduction="sum")
        stop.agreed = bool(counts[3] > 0)
    return counts[:3].clamp(min=1)


def share_seconds(clock: Clock, accelerator: Accelerator) -> tuple[float, float]:
    """The time as the first process has it, since what all do hangs on it; and the part of it that was training."""
    seconds = (clock.seconds(), clock.training_seconds())
    if accelerator.num_processes == 1:
        return seconds
    mine = torch.tensor(seconds if accelerator.is_main_process else (0.0, 0.0), device=accelerator.device)
    total, training = accelerator.reduce(mine, reduction="sum").tolist()
    return total, training


def generator_state(accelerator: Accelerator) -> Tensor:
    """The state of the generator that this process's dropout draws from, as bytes."""
    state = torch.cuda.get_rng_state() if accelerator.device.type == "cuda" else torch.get_rng_state()
    return state.to(accelerator.device)


def generator_file(accelerator: Accelerator, rank: int) -> str:
    """Where a checkpoint keeps it; the generators of two kinds of device have nothing in common."""
    return f"generator-{accelerator.device.type}-{rank}.pt"


def restore_generator(state: Tensor, accelerator: Accelerator) -> None:
    """Put back what `generator_state` took."""
    if accelerator.device.type == "cuda":
        torch.cuda.set_rng_state(state)
    else:
        torch.set_rng_state(state)
