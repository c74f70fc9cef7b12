"""How a fine-tuning ends early, and how it goes on from a checkpoint.

A loss, gradient, weight or metric that is not finite ends it for good. A signal ends it with a checkpoint; resumed
from there, it gives the result that it would have given.
"""

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from accelerate.utils import broadcast_object_list, gather_object
from datasets import Dataset
from safetensors.torch import load_model
from torch import Tensor, nn
from transformers import EvalPrediction, TrainerCallback, TrainerState
from transformers.trainer_pt_utils import LengthGroupedSampler, get_length_grouped_indices
from transformers.trainer_utils import EvalLoopOutput

from hf_minibert.errors import UserError
from hf_minibert.files import disk_errors
from hf_minibert.finetuning.lora import is_adapted, take_adapters
from hf_minibert.finetuning.trainer import ProportionateTrainer
from hf_minibert.finetuning.unfinished import Unfinished, read_progress
from hf_minibert.models.losses import IGNORE_INDEX
from hf_minibert.runs.stopping import StopSignal


class DurableTrainer(ProportionateTrainer):
    """`Trainer` that stops at values that are not finite, and whose checkpoints (in `unfinished`) hold all its state.

    `Trainer` restores weights, moments, rates and the generators of dropout. It forgets what `progress.json` holds: the
    order of the epoch at hand, the losses since the last line of the log, and the time.
    """

    def __init__(self, *, unfinished: Unfinished, patience: int, floor: float | None, **arguments: Any) -> None:
        """`patience`: end after so many epochs without a better one, once one is above the `floor` of its metric."""
        super().__init__(**arguments)
        self.unfinished = unfinished
        self._floor = floor
        self._patience = patience
        self.split = "eval"
        """The split of the evaluation at hand."""
        self.seconds = 0.0
        self._begin = 0.0
        self._losses: list[Tensor] = []
        """Of the evaluation at hand: for each batch of this process, the sum of its losses and its labels, (2,)."""
        self._loss_is_finite = torch.tensor(True)
        self._progress: dict[str, Any] | None = None

    def train_from(self, checkpoint: Path | None) -> None:
        """Train to the end, from a checkpoint on if there is one, and load the best weights.

        Raises:
            UserError: loss, gradient, weights or metrics are not finite, or a checkpoint cannot be written.
            Stopped: a signal asked for it, and a checkpoint is saved.
        """
        self._begin = time.perf_counter()
        if checkpoint is None:
            self.train()
        else:
            self._progress = read_progress(checkpoint)
            self._begin -= self._progress["seconds"]
            if self._progress["is_last"]:
                self._take_best(checkpoint)
            else:
                self.train(resume_from_checkpoint=str(checkpoint))
        self.seconds = time.perf_counter() - self._begin

    def _take_best(self, checkpoint: Path) -> None:
        """Load the state and the best weights, as `train` would at its end; no step is left."""
        assert self._progress is not None
        self.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        self.take_weights(self.unfinished.folder / self._progress["best"])
        self.callback_handler.on_train_begin(self.args, self.state, self.control)

    def is_out_of_patience(self) -> bool:
        """Whether too many epochs have passed since the best one; it is read off the log, which checkpoints hold.

        A metric that starts flat, such as BLEU at 0, may still rise: before it does, no epoch counts.
        """
        best = self.state.best_global_step
        if self._floor is not None and not (self.state.best_metric or 0.0) > self._floor:
            return False
        later = {
            entry["step"] for entry in self.state.log_history if "eval_loss" in entry and entry["step"] > (best or 0)
        }
        return best is not None and len(later) >= self._patience

    def take_weights(self, checkpoint: Path) -> None:
        """Load the weights of a checkpoint."""
        assert self.model is not None
        if is_adapted(self.model):
            take_adapters(self.model, checkpoint)
        else:
            load_model(self.model, checkpoint / "model.safetensors")

    def restore_progress(self) -> None:
        """Restore what `Trainer` forgets; call it once `Trainer` has restored the rest."""
        if self._progress is not None and not self._progress["is_last"]:
            self._tr_loss.fill_(self._progress["loss_sums"][self.args.process_index])
            self._globalstep_last_logged = self._progress["logged_step"]
        if self.state.best_global_step is not None:  # the folder may lie elsewhere now
            self.state.best_model_checkpoint = str(self.unfinished.folder / f"checkpoint-{self.state.best_global_step}")

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        """As `Trainer`, but -100 is a number as any other where labels are numbers."""
        counted = [dict(batch) for batch in batch_samples]
        for batch in counted:
            if isinstance(labels := batch.get("labels"), torch.Tensor) and labels.is_floating_point():
                batch["labels"] = torch.zeros_like(labels)
        return super()._get_num_items_in_batch(counted, device)

    def _remove_unused_columns(self, dataset: Any, description: str | None = None) -> Any:
        """As `Trainer`, and note how long rows are, for the samplers: the model takes no column that says it."""
        self._lengths = row_lengths(dataset)
        return super()._remove_unused_columns(dataset, description)

    def _get_train_sampler(self, *_arguments: Any, **_more: Any) -> torch.utils.data.Sampler[int] | None:
        begin = self._progress["order"] if self._progress and not self._progress["is_epoch_end"] else None
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps
        self._order = KnownOrder(batch, self._lengths, begin)
        return self._order

    def _get_eval_sampler(self, eval_dataset: Any) -> torch.utils.data.Sampler[int] | None:
        """Rows of one length beside each other, so that little is padded; `in_order` undoes it."""
        if self.args.batch_eval_metrics:
            return torch.utils.data.SequentialSampler(eval_dataset)
        lengths = self._lengths
        self._eval_order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
        return FixedOrder(self._eval_order)

    def in_order(self, prediction: EvalPrediction) -> EvalPrediction:
        """Predictions in the order of the rows that were evaluated last."""
        if self.args.batch_eval_metrics:
            return prediction
        places = np.argsort(self._eval_order)

        def ordered(values: Any) -> Any:
            if isinstance(values, tuple | list):
                return type(values)(map(ordered, values))
            return values[places] if isinstance(values, np.ndarray) and len(values) == len(places) else values

        return EvalPrediction(
            ordered(prediction.predictions), ordered(prediction.label_ids), ordered(prediction.inputs)
        )

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """As `Trainer`, and note which split it is, for what measures it.

        The loss is that of all labels together, on all processes. `Trainer`'s is the mean over batches, so that the
        tokens of a batch with few of them would count for more.
        """
        self.split, self._losses = metric_key_prefix, list[Tensor]()
        found = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        own = torch.stack(self._losses).cpu().double().sum(dim=0).tolist() if self._losses else [0.0, 0.0]
        total, count = np.sum(gather_object([own]), axis=0)
        if count:
            assert found.metrics is not None
            found.metrics[f"{metric_key_prefix}_loss"] = float(total / count)
        return found

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
        **settings: Any,
    ) -> tuple[Any, Any, Any]:
        """As `Trainer`, and note the sum of the losses of this process's rows, and how many labels they have.

        Several processes fill up their last batches with rows that were evaluated before. `Trainer` drops their
        predictions, but not their losses.
        """
        counts_items, self.model_accepts_loss_kwargs = self.model_accepts_loss_kwargs, False  # of all processes
        try:
            loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys, **settings)
            size, filled = self.args.eval_batch_size, self.accelerator.gradient_state
            remainder = filled.remainder if filled.end_of_dataloader else 0
            own_loss, own = loss, inputs
            rows = remainder - size * self.args.process_index  # of the last batches; the others are fillers
            if self.args.world_size > 1 and remainder > 0 and rows < size:
                own = {name: value[: max(1, rows)] for name, value in inputs.items()}
                own_loss = super().prediction_step(model, own, True, ignore_keys)[0] if rows > 0 else None
        finally:
            self.model_accepts_loss_kwargs = counts_items
        if own_loss is not None:
            count = num_labels(own[self.label_names[0]])
            self._losses.append(torch.stack((own_loss.float() * count, count.to(own_loss.device))))
        return loss, logits, labels

    def training_step(self, *arguments: Any, **more: Any) -> Tensor:
        """As `Trainer`, and note whether the loss is finite."""
        loss = super().training_step(*arguments, **more)
        self._loss_is_finite = torch.isfinite(loss) & self._loss_is_finite.to(loss.device)
        return loss

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        """As `Trainer`; end the training if loss or gradient (already that of all processes) are not finite."""
        norm = super()._clip_grad_norm(model)  # type: ignore[no-untyped-call]
        if not (torch.isfinite(torch.as_tensor(norm)) & self._loss_is_finite):
            self.diverge("its loss or gradient is", self.state.global_step + 1)
        return norm

    def diverge(self, what: str, step: int) -> NoReturn:
        """Delete the checkpoints and raise a UserError: with the same arguments they would diverge again."""
        if self.args.should_save:
            self.unfinished.forget()
        raise UserError(
            f"the fine-tuning diverged: in step {step} of {self.state.max_steps} {what} not finite; nothing of it is "
            f"kept. Begin anew with a smaller --learning_rate (it was {self.args.learning_rate:g})"
        )

    def check_weights(self) -> None:
        """Raises a UserError if a weight is not finite."""
        assert self.model is not None
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self.model.parameters()):
            self.diverge("a weight is", self.state.global_step)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save as `Trainer` does, add what it forgets, and only then declare the checkpoint whole."""
        step = self.state.global_step
        with disk_errors(
            f"the checkpoint of step {step} could not be written",
            "make room on the disk, and go on with --resume, or begin anew",
        ):
            super()._save_checkpoint(model, trial)
            loss_sums = gather_object([float(self._tr_loss)])
            self.accelerator.wait_for_everyone()  # all have written their generators
            if self.args.should_save:
                best = self.state.best_global_step
                progress = {
                    "seconds": time.perf_counter() - self._begin,
                    "is_epoch_end": is_epoch_end(self.state),
                    "is_last": step >= self.state.max_steps or self.is_out_of_patience(),
                    "best": None if best is None else f"checkpoint-{best}",
                    "order": self._order.begin,
                    "loss_sums": loss_sums,
                    "logged_step": self._globalstep_last_logged,
                }
                self.unfinished.seal(self.unfinished.folder / f"checkpoint-{step}", progress)
            self.accelerator.wait_for_everyone()


def num_labels(labels: Tensor) -> Tensor:
    """How many labels are predicted: those of class ids that are not -100, or else the rows."""
    if labels.is_floating_point():
        return torch.tensor(float(len(labels)))
    return (labels != IGNORE_INDEX).sum().float()


def is_epoch_end(state: TrainerState) -> bool:
    """Whether the step at hand is the last of its epoch, or of all."""
    return float(state.epoch or 0).is_integer() or state.global_step >= state.max_steps


def row_lengths(rows: Dataset) -> list[int]:
    """The length of each row in tokens: its column `length`, or else the number of its `input_ids`."""
    if "length" in rows.column_names:
        return list(rows["length"])
    return [len(row) for row in rows["input_ids"]]


class FixedOrder(torch.utils.data.Sampler[int]):
    """An order that is given."""

    def __init__(self, order: list[int]) -> None:
        self._order = order

    def __iter__(self) -> Iterator[int]:
        """All places, in their order."""
        return iter(self._order)

    def __len__(self) -> int:
        return len(self._order)


class KnownOrder(LengthGroupedSampler):
    """`Trainer`'s order by length, the same on all processes; `begin`, saved in a checkpoint, gives it again."""

    def __init__(self, batch_size: int, lengths: list[int], begin: str | None) -> None:
        """`begin`: the generator's state before the first order, in hexadecimal; None takes the present state."""
        super().__init__(batch_size, lengths=lengths)
        self.begin = begin
        self._is_known = begin is not None

    def __iter__(self) -> Iterator[int]:
        """Draw an order from the first process's generator: dropout has moved each process's to another state."""
        begin = [self.begin if self._is_known else torch.get_rng_state().numpy().tobytes().hex()]
        broadcast_object_list(begin)
        self.begin, self._is_known = begin[0], False
        assert self.begin is not None
        torch.set_rng_state(torch.frombuffer(bytearray.fromhex(self.begin), dtype=torch.uint8))
        return iter(get_length_grouped_indices(self.lengths, self.batch_size))


class Stopped(Exception):  # noqa: N818  # no error: it goes on from there
    """A signal asked the fine-tuning to stop; it can go on from a checkpoint."""

    def __init__(self, status: int, step: int) -> None:
        super().__init__(f"stopped by a signal at step {step}")
        self.status, self.step = status, step


class Watch(TrainerCallback):
    """Ends a fine-tuning that a signal stops, or in which something is not finite."""

    def __init__(self, stop: StopSignal) -> None:
        self.trainer: DurableTrainer
        self._stop = stop

    def _status(self) -> int:
        """The exit status that a signal to any of the processes asks for, or 0."""
        mine = self._stop.status if self._stop.received else 0
        if self.trainer.args.world_size == 1:
            return mine
        statuses = torch.tensor(mine, device=self.trainer.args.device)
        torch.distributed.all_reduce(statuses, torch.distributed.ReduceOp.MAX)
        return int(statuses)

    def on_train_begin(self, *_event: Any, **_: Any) -> None:
        """Restore the rest of the checkpoint, which `Trainer` forgets."""
        self.trainer.restore_progress()

    def on_step_end(self, *event: Any, **_: Any) -> None:
        """Ask for a checkpoint if a signal came; at the end of an epoch there is one anyway."""
        _, state, control = event
        if self._status() and not is_epoch_end(state):
            self.trainer.check_weights()
            control.should_save = True

    def on_evaluate(self, *event: Any, **kwargs: Any) -> None:
        """Check that metrics and weights are finite, before a checkpoint is saved."""
        _, state, _ = event
        if not all(math.isfinite(value) for value in kwargs["metrics"].values()):
            self.trainer.diverge("a figure of its evaluation is", state.global_step)
        self.trainer.check_weights()

    def on_save(self, *event: Any, **_: Any) -> None:
        """Stop if a signal came, now that a checkpoint is saved; end after too many epochs without a better one."""
        _, state, control = event
        self._end(state.global_step)
        if self.trainer.is_out_of_patience():
            control.should_training_stop = True

    def on_prediction_step(self, *event: Any, **_: Any) -> None:
        """After training, stop at once if a signal came: everything is saved."""
        if not self.trainer.is_in_train:
            self._end(event[1].global_step)

    def _end(self, step: int) -> None:
        if status := self._status():
            raise Stopped(status, step)
