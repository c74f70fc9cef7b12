"""The pre-training loop: batches in, a checkpoint that `from_pretrained` opens out.

Read `Pretraining.run` first: for every step forward, backward, clip, step, and now and then log, evaluate and save.
"""

import dataclasses
import logging
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from hf_minibert.certificate.certificate import CERTIFICATE, certify, checkpoints_in
from hf_minibert.data.corpus import HubStream
from hf_minibert.data.loader import evaluation_batches, training_batches
from hf_minibert.data.rows import Batch
from hf_minibert.data.streamed import StreamError, StreamStoppedError
from hf_minibert.errors import UserError
from hf_minibert.evaluation.held_out import evaluate
from hf_minibert.files import CARD, Manifest, disk_errors, write_json
from hf_minibert.hub.card import write_card
from hf_minibert.models.losses import IGNORE_INDEX
from hf_minibert.models.modeling_transformer import document_bounds
from hf_minibert.output_folder import move_into, staged_folder
from hf_minibert.presets import PretrainingModel
from hf_minibert.pretraining.arguments import PretrainArguments
from hf_minibert.pretraining.backend import build_backend
from hf_minibert.pretraining.checkpoint import (
    TrainState,
    forget_checkpoints_after,
    load_state,
    prune_checkpoints,
    remove_checkpoint,
    restore,
    save,
    whole_checkpoints,
)
from hf_minibert.pretraining.data import RunData, check_same_data, read_data
from hf_minibert.pretraining.folder import check_run_folder, listed_logs, newest_checkpoint, run_folder
from hf_minibert.pretraining.objectives import combined, real_tokens
from hf_minibert.pretraining.optimization import build_optimizers
from hf_minibert.pretraining.plan import Plan, build_model, make_plan, refuse_idle
from hf_minibert.pretraining.report import (
    CURVES,
    RESULTS,
    MetricsLog,
    ProgressBar,
    announcement,
    print_report,
    steps_told,
    summary,
)
from hf_minibert.pretraining.saved_arguments import ARGUMENTS, NUM_PROCESSES, read_arguments
from hf_minibert.pretraining.schedule import (
    DECAY_SHARE,
    Clock,
    End,
    ends_part,
    has_time_to_pause,
    is_due,
    learning_rate_factor,
    resume_point,
    share_seconds,
)
from hf_minibert.runs.curves import plot_curves
from hf_minibert.runs.hardware import flops_per_token, keep_memory, matrix_product_rate, now
from hf_minibert.runs.stopping import StopSignal
from hf_minibert.tokenization import save_tokenizer

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_SAVES = 1800
MAX_SKIPPED_STEPS = 10
WORSE = 0.5
"""Nats by which one step may raise the loss of its own batch, or the end of a run lie above the first loss."""
MUCH_WORSE = 2.0
"""Nats by which a step's loss may lie above the first loss before the end: small batches differ."""


def pretrain(arguments: PretrainArguments, stop: StopSignal) -> int:
    """Run to the end, or until a signal. Returns the exit status: 0, or after a signal that of `stop`.

    Raises:
        UserError: the arguments ask for something impossible, or the run diverges.
    """
    disable_progress_bar()  # of saving and loading, which are short and would break ours
    torch.set_flush_denormal(True)  # AdamW on subnormal moments is many times slower on CPUs
    check_run_folder(arguments)
    folder, end = Path(arguments.output_dir), End.of(arguments)
    checkpoint = newest_checkpoint(folder) if arguments.resume else None
    if checkpoint is not None and is_finished(checkpoint, end):
        if not (folder / CARD).exists():
            logger.info("%s was finished, but for its model card, which is now %s", folder, write_card(folder))
        logger.info("%s is already finished; to go on, give a later --budget, --max_steps or --max_tokens", folder)
        return 0
    if checkpoint is not None:
        checkpoint = resume_point(checkpoint, end)
    plan = make_plan(arguments)
    if not arguments.resume:
        refuse_idle(plan)
    with ExitStack() as held:
        return Pretraining(plan, held, checkpoint).run(stop)


def is_finished(checkpoint: Path, end: End) -> bool:
    """Whether the run with this newest checkpoint has reached its end and written `results.json`."""
    state = load_state(checkpoint)
    return steps_told(checkpoint.parent) == state.step and end.progress(state) >= 1


class Pretraining:
    """One run: everything that it is built from, and the steps."""

    def __init__(self, plan: Plan, held: ExitStack, checkpoint: Path | None) -> None:
        """Begin, or go on from a checkpoint; `held` keeps the run's folder from others until it is closed."""
        self.plan, self.arguments, self.folder = plan, plan.arguments, plan.folder
        self.backend = build_backend(self.arguments, self.folder)
        self.accelerator = self.backend.accelerator
        self.data = read_data(plan, self.accelerator)
        if self.accelerator.is_main_process:
            held.enter_context(run_folder(self.arguments))  # not before the corpus was read without a mistake
            if checkpoint is None:  # a resumed run is checked against its checkpoint first
                write_json(self.folder / ARGUMENTS, self._saved_arguments())
        self.accelerator.wait_for_everyone()
        named = {"name": self.folder.resolve().name}
        settings = {
            name: value for name, value in self._saved_arguments().items() if isinstance(value, int | float | str)
        }
        with listed_logs(self.folder, self.accelerator):
            self.accelerator.init_trackers("hf_minibert", settings, {"trackio": named, "wandb": named})
        self.end = End.of(self.arguments)
        self.rows_per_step = (
            self.arguments.per_device_train_batch_size
            * self.arguments.gradient_accumulation_steps
            * self.accelerator.num_processes
        )
        self.newest: tuple[Batch, dict[str, Tensor], Tensor]
        """The last batch of the newest step, what the step counted, and the batch's part of its loss."""
        self.step_loss: Tensor
        """This process's part of the loss of the newest step."""
        self.unproven: Path | None = None
        """The newest checkpoint made since the process started, until a step after it goes well."""
        self.unsettled: list[tuple[int, int, Tensor]] = []
        """Steps, with the rows read by then, of which nobody has asked yet whether their gradients were finite."""
        self._build_or_resume(checkpoint)
        self.tokens_per_second_limit = speed_limit(plan, self.model, self.data, self.accelerator)
        self.log = MetricsLog(self.folder, self.accelerator, self.state)

    def _build_or_resume(self, checkpoint: Path | None) -> None:
        """Set the model, the optimizers and the state: new, or from a checkpoint."""
        set_seed(self.arguments.seed)
        self.model = build_model(self.plan)
        if checkpoint is None:
            self._prepare()
            self.state = TrainState(data=self.data.fingerprint, samples_before=self._predict())
            return
        self.state = load_state(checkpoint)
        check_same_data(self.state.data, self.data)
        self.state.data = self.data.fingerprint
        before = {NUM_PROCESSES: self.accelerator.num_processes} | read_arguments(self.folder)
        if self.arguments.optimizer != before["optimizer"]:
            raise UserError(
                f"the run's moments are those of {before['optimizer']}, so it cannot go on with --optimizer "
                f"{self.arguments.optimizer}; leave the flag out"
            )
        restore(checkpoint, self.model, self.backend, self._prepare)  # waits: all have read the arguments
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

    def _prepare(self) -> None:
        """Give the model and its optimizers to the back end."""
        if self.arguments.gradient_checkpointing:
            self.model.gradient_checkpointing_enable()  # type: ignore[no-untyped-call]
        if self.arguments.compile:
            self.backend.compile(self.model)
        self.backend.prepare(self.model, build_optimizers(self.model, self.arguments, self.arguments.learning_rate))
        torch.manual_seed(self.arguments.seed + self.accelerator.process_index)  # dropout of its own for each

    def _saved_arguments(self) -> dict[str, Any]:
        """The arguments that a resumed run starts from; of a stream, with the revision that this one reads."""
        settled: dict[str, Any] = {"resume": False, "overwrite_output_dir": False}
        settled[NUM_PROCESSES] = self.accelerator.num_processes
        if isinstance(self.data.corpus, HubStream):
            settled["corpus"] = [self.data.corpus.pinned]
        return dataclasses.asdict(self.arguments) | settled

    def run(self, stop: StopSignal) -> int:
        """The loop. Returns the exit status.

        Raises:
            UserError: the run diverges; a checkpoint to go on from stays, if one was made.
        """
        arguments, accelerator, state = self.arguments, self.accelerator, self.state
        accelerator.print(announcement(self.plan, self.model, accelerator))
        batches = training_batches(
            self.data.train,
            batch_size=arguments.per_device_train_batch_size,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            first_row=state.rows,
            last_row=self.end.last_row(
                state,
                self.rows_per_step,
                None if self.plan.objective.is_padded else self.rows_per_step * arguments.max_seq_length,
            ),
            num_workers=arguments.dataloader_num_workers,
            places=self.plan.objective.places,
            is_stopped=lambda: stop.received,
        )
        keep_memory(accelerator.device)
        clock = Clock(state)
        progress, saved, is_first = self.end.progress(state), state.seconds, True
        line, held_out = dict[str, float](), dict[str, float]()
        is_trapezoid = arguments.lr_scheduler_type == "warmup_stable_decay"
        self.model.train()
        stop.wait_for_steps()
        with closing(batches), ProgressBar(progress, is_shown=accelerator.is_main_process) as bar:
            if arguments.compile:
                bar.set_postfix_str("compiling")
            while progress < 1 and not stop.agreed:
                try:
                    losses = self.step(batches, progress, stop)
                except StreamError as error:  # in all processes, before anything is computed
                    is_saved = self.unproven is not None and self.unproven.name == f"checkpoint-{state.step}"
                    if not (is_first or is_saved):
                        self.save(None)
                    if isinstance(error, StreamStoppedError):
                        break
                    raise
                begin = state.seconds
                state.seconds, state.training_seconds = share_seconds(clock, self.backend)
                if arguments.compile and is_first:
                    state.compile_seconds += state.seconds - begin
                is_first = False
                before, progress = progress, self.end.progress(state)
                clock.add(losses)
                if progress >= 1:
                    self.settle(waits=True)
                    state.seconds, state.training_seconds = share_seconds(clock, self.backend)
                if not line or state.step % arguments.logging_steps == 0 or progress >= 1:
                    self.settle()
                    line = clock.line(state.tokens, accelerator)
                    line["utilisation"] = line["tokens_per_second"] / self.tokens_per_second_limit
                    line["skipped_steps"] = state.skipped_steps_in_all
                    self.log.write(state, line)
                bar.show(progress, state, line, held_out)
                is_milestone = is_due(state.step, arguments.eval_steps, ends_part(state, before, progress))
                may_pause = arguments.eval_steps is not None or has_time_to_pause(state, self.end)
                measures = (is_milestone and may_pause) or progress >= 1
                is_late = state.seconds - saved >= SECONDS_BETWEEN_SAVES
                is_last = stop.agreed or progress >= 1
                falls_next = is_trapezoid and before < 1 - DECAY_SHARE <= progress
                saves = is_due(state.step, arguments.save_steps, is_milestone or is_late) or falls_next or is_last
                if measures or saves:  # else steps that the device has yet to do would be part of the pause
                    self.settle(waits=True)
                clock.pause()
                if measures:
                    held_out = self.measure()
                    bar.show(progress, state, line, held_out)
                if saves:
                    self.save(held_out["eval_loss"] if progress >= 1 else None)
                    saved = state.seconds
                clock.go_on()
        if progress < 1:
            accelerator.print(f"stopped by a signal at step {state.step}; go on with --resume")
        else:
            held_out = held_out or self.measure()
            if not math.isfinite(held_out["eval_loss"]):
                raise self.divergence("the held-out loss is not finite")
            self.finish(held_out)
            self._prune()
        accelerator.wait_for_everyone()
        self.backend.close()
        if accelerator.is_main_process and (manifest := Manifest.read(self.folder)) is not None:
            manifest.note_growth(is_over=True)
        return 0 if progress >= 1 else stop.status

    def step(self, batches: Iterator[Batch], progress: float, stop: StopSignal) -> dict[str, Tensor]:
        """One optimizer step. Returns this process's part of the mean losses, and what else the log shows."""
        arguments, accelerator, state = self.arguments, self.accelerator, self.state
        micro_batches, broken = list[Batch](), None
        try:
            micro_batches += islice(batches, arguments.gradient_accumulation_steps)
        except StreamError as error:
            broken = error
        counts, tokens = self.count(micro_batches, stop, broken)  # on the CPU: a GPU would have to be waited for
        factor = learning_rate_factor(arguments.lr_scheduler_type, arguments.warmup_steps, state.step, progress)
        for optimizer in self.backend.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
        sums: dict[str, Tensor] = {}
        for on_host in micro_batches:
            batch: Batch = {name: tensor.to(accelerator.device, non_blocking=True) for name, tensor in on_host.items()}
            if arguments.attn_implementation == "flash_attention_2" and "position_ids" in on_host:
                bounds = document_bounds(on_host["position_ids"])  # here, since a GPU would have to be waited for
                ends = bounds["cu_seq_lens_q"].to(accelerator.device, non_blocking=True)
                batch |= bounds | {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends}
            if arguments.compile:
                for name in self.plan.objective.places:  # or their second number would be compiled anew
                    torch._dynamo.maybe_mark_dynamic(batch[name], 0)
            with accelerator.accumulate(self.backend.wrapped):
                losses = self.forward(batch, counts)
                # Each loss is this batch's part of the step's mean already; undo the averaging that follows.
                accelerator.backward(losses["loss"] * (len(micro_batches) * accelerator.num_processes))
            sums = {name: loss.detach() + sums.get(name, 0.0) for name, loss in losses.items()}
            self.newest = batch, counts, losses["loss"].detach()
        self.step_loss = sums["loss"]
        grad_norm = self.backend.clip_gradients(arguments.max_grad_norm)
        decays = arguments.lr_scheduler_type == "warmup_stable_decay" and progress >= 1 - DECAY_SHARE
        if decays:
            state.decayed_for = dataclasses.astuple(self.end)
        state.step += 1
        state.rows, state.rows_per_step = state.rows + self.rows_per_step, self.rows_per_step
        state.tokens += tokens
        if state.first_loss is None:
            loss = float(accelerator.reduce(sums["loss"], reduction="sum"))
            state.first_loss = loss if math.isfinite(loss) else None
        is_finite = torch.isfinite(grad_norm)
        self.backend.step(is_finite)
        self.unsettled.append((state.step, state.rows, is_finite))
        if not self.backend.decides_on_device(is_finite):
            self.settle()
        for optimizer in self.backend.optimizers:
            optimizer.zero_grad()
        return sums | {"grad_norm": grad_norm, "learning_rate": torch.tensor(arguments.learning_rate * factor)}

    def settle(self, *, waits: bool = False) -> None:
        """Count the steps that were left out since this was last called. Waits for their gradients.

        `waits`: also for all else that the device was asked for.

        Raises:
            UserError: too many in a row.
        """
        state, unsettled = self.state, self.unsettled
        self.unsettled = []
        if waits:
            now(self.accelerator.device)
        settled = torch.stack([is_finite for _, _, is_finite in unsettled]).tolist() if unsettled else []
        for (step, rows, _), is_finite in zip(unsettled, settled, strict=True):
            if is_finite:
                state.skipped_steps = 0
                self._prune()
            else:
                state.skipped_steps += 1
                state.skipped_steps_in_all += 1
            if state.skipped_steps > MAX_SKIPPED_STEPS:
                raise self.divergence(
                    f"loss or gradient were not finite in {state.skipped_steps} steps in a row, up to step {step} "
                    f"(rows {rows - self.rows_per_step:,} to {rows - 1:,}; hf-minibert replay --output_dir "
                    f"{self.folder} --step {step} looks at them)"
                )

    def count(
        self, micro_batches: list[Batch], stop: StopSignal, broken: StreamError | None = None
    ) -> tuple[dict[str, Tensor], int]:
        """A step's counts over all batches and processes, by `forward`'s arguments, and its tokens without padding.

        Sets `stop.agreed` on all processes if any of them has received a signal. `broken`: why this one has no batches.

        Raises:
            StreamError: in all processes, if one of them has no batches.
        """
        counts = self.plan.objective.counts
        totals = [sum(int(count(batch)) for batch in micro_batches) for count in counts.values()]
        is_stopped = isinstance(broken, StreamStoppedError)
        own = [sum(map(real_tokens, micro_batches)), stop.received, is_stopped, broken is not None and not is_stopped]
        mine = torch.tensor([*totals, *map(int, own)], pin_memory=torch.cuda.is_available())
        everyones = self.backend.sum_on_cpu(mine)
        tokens, stops, stopped, broke = everyones[len(totals) :].tolist()
        stop.agreed = stops > 0
        if broke:
            elsewhere = StreamError("another process could not read the stream; its message says why")
            raise elsewhere if broken is None or is_stopped else broken
        if stopped:
            raise broken or StreamStoppedError("another process was stopped while it waited for the stream")
        shared = everyones.to(self.accelerator.device, non_blocking=True)
        return dict(zip(counts, shared[: len(totals)].clamp(min=1), strict=True)), tokens

    def forward(self, batch: Batch, counts: dict[str, Tensor]) -> dict[str, Tensor]:
        """One batch's share of the step's mean loss, and of its parts by name; `counts` comes from `count`."""
        objective = self.plan.objective
        outputs = self.backend.wrapped(**batch, **counts, **objective.forward_settings(self.arguments))
        return {name: outputs[name] for name in ("loss", *objective.losses)}

    def measure(self) -> dict[str, float]:
        """Evaluate on the held-out rows; log it and draw the curves."""
        objective, arguments = self.plan.objective, self.arguments
        measured = []
        for reading, rows in zip(objective.readings, self.data.held_out, strict=True):
            batches = evaluation_batches(
                rows,
                batch_size=arguments.per_device_eval_batch_size,
                max_rows=arguments.max_eval_samples,
                rank=self.accelerator.process_index,
                world_size=self.accelerator.num_processes,
            )
            with self._uncompiled():
                metrics = evaluate(
                    self.model,
                    batches,
                    self.accelerator,
                    targets=reading.targets,
                    logits=objective.logits,
                    settings=objective.forward_settings(arguments),
                    token_lengths=self.data.token_lengths if reading.predicts_all else None,
                )
            measured.append(metrics)
        metrics = combined(objective, measured, arguments)
        self.state.evaluated_step = self.state.step
        self.log.write(self.state, metrics)
        self.log.write_samples(self.state, self._predict())
        if self.accelerator.is_main_process:
            by_frequencies = {"by frequencies alone": self.data.baselines["unigram_loss"]}
            plot_curves(self.log.path, self.folder / CURVES, baselines=by_frequencies)
        return metrics

    def save(self, held_out: float | None) -> None:
        """Make a checkpoint, unless the run is astray; older ones go once a step after it has gone well.

        `held_out`: the held-out loss at the end of the run; None before.

        Raises:
            UserError: weights or moments are not finite, or the run ends astray.
        """
        state = self.state
        self.settle()
        if not self.backend.is_finite():
            raise self.divergence(f"weights or moments are not finite after step {state.step}")
        if state.skipped_steps:
            reason = "loss or gradient were not finite"
        elif astray := self.astray(held_out):
            reason = astray
        else:
            arguments = {ARGUMENTS: self._saved_arguments()}
            save(self.folder, state, self.backend, arguments, self._write_model)
            self.unproven = self.folder / f"checkpoint-{state.step}"
            return
        if held_out is not None:
            raise self.divergence(f"the run ends at step {state.step} astray: {reason}")
        if self.accelerator.is_main_process:
            logger.warning("step %d is not saved, and no checkpoint goes: %s", state.step, reason)

    def astray(self, held_out: float | None) -> str | None:
        """What is wrong with the weights after the newest step, in words; None if nothing is. `held_out`: see `save`.

        Computes the newest batch's loss again: the step's own loss is that of the weights before it. Before the end,
        held-out loss does not count: it may rise while a run learns.
        """
        batch, counts, before = self.newest
        self.model.train(False)
        self.model.training = True  # for the head alone, which makes a loss then, without logits of all tokens
        with torch.no_grad(), self._uncompiled():
            now = self.model(**batch, **counts, **self.plan.objective.forward_settings(self.arguments))["loss"]
        self.model.train()
        losses = self.accelerator.reduce(torch.stack((self.step_loss, before, now)).float(), reduction="sum")
        loss, before, now = losses.tolist()
        rise = (now - before) * self.arguments.gradient_accumulation_steps
        if not math.isfinite(rise):
            return "its loss is not finite"
        if held_out is not None and not math.isfinite(held_out):
            return "the held-out loss is not finite"
        if rise > WORSE:
            return f"a step made the loss of its own batch worse by {rise:.3f}"
        first = loss if self.state.first_loss is None else self.state.first_loss
        least, most = (loss, MUCH_WORSE) if held_out is None else (min(loss, held_out), WORSE)
        return f"the loss is {least:.3f}, and was {first:.3f} when the run began" if least - first > most else None

    def _prune(self) -> None:
        """Delete the oldest checkpoints; called once a step after the newest has gone well."""
        if self.unproven is not None and self.accelerator.is_main_process:
            prune_checkpoints(self.folder, self.arguments.save_total_limit)
        self.unproven = None

    def divergence(self, reason: str) -> UserError:
        """The error that ends a diverged run. Deletes `unproven`, if there is another checkpoint to go on from."""
        left = [one for one in whole_checkpoints(self.folder) if one != self.unproven]
        self.accelerator.wait_for_everyone()  # all have listed them
        if left and self.unproven is not None and self.accelerator.is_main_process:
            remove_checkpoint(self.unproven)
        kept = left or ([self.unproven] if self.unproven is not None else [])
        where = f"go on from {kept[0].name}" if kept else "begin anew"
        return UserError(
            f"{reason}; {where} with --resume and a --learning_rate below {self.arguments.learning_rate:g}"
        )

    def finish(self, metrics: dict[str, float]) -> None:
        """Write the model, `results.json` and the card into the run's folder, and print the report."""
        weights, predicted = self.backend.weights(), self._predict()
        if not self.accelerator.is_main_process:
            return
        remedy = "make room on the disk, and --resume ends the run from its last checkpoint"
        with disk_errors(f"the result of {self.folder} could not be written", remedy):
            with staged_folder(self.folder) as staged:
                self._write_model(staged, weights)
                move_into(staged, self.folder, last="config.json")
            results = summary(self.plan, self.data, self.model, self.state, metrics, predicted, self.accelerator)
            write_json(self.folder / RESULTS, results)
            self._certify()
            print_report(results, self.plan.objective, self.folder, write_card(self.folder))

    def _certify(self) -> None:
        """Write the certificates of what the run has written, and say which of their lines fail."""
        for folder in checkpoints_in(self.folder):
            try:
                certificate = certify(folder)
            except UserError as error:  # the card and the report need none
                logger.warning("there is no %s: %s", CERTIFICATE, error)
                continue
            write_json(folder / CERTIFICATE, certificate)
            for line in certificate["lines"]:
                if line["status"] == "failed":
                    logger.warning("%s, %s: not so (%s)", certificate["class"], line["words"], line["measured"])

    def _predict(self) -> list[dict[str, Any]]:
        with self._uncompiled():
            return self.plan.objective.samples(self.model, self.plan.tokenizer, self.data.sentences)

    def _uncompiled(self) -> AbstractContextManager[None]:
        """Run the model uncompiled in the block: it is not worth compiling for batches of other shapes."""
        return torch.compiler.set_stance("force_eager") if self.arguments.compile else nullcontext()

    def _write_model(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """Write what `from_pretrained` opens: weights, config, code and tokenizer."""
        objective, config = self.plan.objective, self.plan.config
        if objective.write_beside is not None:
            objective.write_beside(folder, config, weights, self.plan.tokenizer)
        saved_class: Any = objective.saved_class or objective.model_class
        with torch.device("meta"):  # a shell to save: FSDP has made the model an instance of a class of its own
            shell = saved_class(config)
        shell.save_pretrained(folder, state_dict=weights)
        save_tokenizer(self.plan.tokenizer, folder)


def speed_limit(plan: Plan, model: PretrainingModel, data: RunData, accelerator: Accelerator) -> float:
    """Tokens per second if all processes only computed the model's matrix products, at one large product's speed."""
    arguments = plan.arguments
    labels = data.train.batch(0, np.arange(min(8, data.train.num_rows)))["labels"]
    share = float((labels != IGNORE_INDEX).float().mean())
    arithmetic = flops_per_token(model, arguments.max_seq_length, head_share=share)
    dtype = torch.bfloat16 if arguments.mixed_precision == "bf16" else torch.float32
    rows = arguments.per_device_train_batch_size * arguments.max_seq_length
    rate = matrix_product_rate(accelerator.device, dtype, rows, plan.config.hidden_size)
    return float(accelerator.num_processes * rate / arithmetic)
