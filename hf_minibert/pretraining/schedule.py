"""The schedule of a run: when it ends, the learning rate on the way there, and when to log, evaluate and save."""

import dataclasses
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from hf_minibert.pretraining.arguments import PretrainArguments, parse_duration
from hf_minibert.pretraining.checkpoint import TrainState, load_state, stable_checkpoint

logger = logging.getLogger(__name__)

DEFAULT_BUDGET = "5m"
LEAST_WARMUP_STEPS = 40
"""Where the warm-up is a share of a run. A short run that reached the peak in one or two steps would diverge."""
DECAY_SHARE = 0.2
"""The share of a run with `warmup_stable_decay` in which the rate falls."""
EVALUATIONS = 8
STEPS_BETWEEN_EVALUATIONS = 20
SHARE_OF_PAUSES = 0.05
"""Of a --budget: while evaluations and checkpoints have taken more of the time so far, there is no evaluation."""


@dataclass(frozen=True)
class End:
    """When a run is over: after some seconds, steps or tokens, whichever comes first."""

    seconds: float | None
    steps: int | None
    tokens: int | None

    @classmethod
    def of(cls, arguments: PretrainArguments) -> "End":
        """The end that the arguments ask for; five minutes, if for none."""
        endless = arguments.budget is None and arguments.max_steps is None and arguments.max_tokens is None
        budget = DEFAULT_BUDGET if endless else arguments.budget
        seconds = None if budget is None else parse_duration(budget)
        return cls(seconds, arguments.max_steps, arguments.max_tokens)

    def last_row(self, state: TrainState, rows_per_step: int, tokens_per_step: int | None) -> int | None:
        """How many rows the run will have read at most; None if that is not known.

        Args:
            state: how far the run is.
            rows_per_step: rows of a step.
            tokens_per_step: tokens of a step; None where rows are padded, each as its text is.
        """
        steps = [self.steps - state.step] if self.steps is not None else []
        if self.tokens is not None and tokens_per_step is not None:
            steps.append(-((state.tokens - self.tokens) // tokens_per_step))
        return state.rows + max(0, min(steps)) * rows_per_step if steps else None

    def progress(self, state: TrainState) -> float:
        """How much of the run is done, 0 to 1; while a model is compiled, also after a resume, nothing is."""
        seconds = None if self.seconds is None else max(self.seconds - state.compile_seconds, 1e-9)
        done = (state.seconds - state.compile_seconds, state.step, state.tokens)
        parts = [
            part / end for part, end in zip(done, (seconds, self.steps, self.tokens), strict=True) if end is not None
        ]
        return min(1.0, max(parts))


def learning_rate_factor(kind: str, warmup_steps: float, step: int, progress: float) -> float:
    """The learning rate of the next step as a share of its peak.

    Args:
        kind: linear, cosine or warmup_stable_decay.
        warmup_steps: steps of linear warm-up, or their share of the run if below 1: then `LEAST_WARMUP_STEPS` at least.
        step: steps done.
        progress: how much of the run is done, 0 to 1.
    """
    factor = _factor(kind, warmup_steps, step, progress)
    if not 0 < warmup_steps < 1:
        return factor
    # The steps of the run need not be known: while so few are done, the rate is what either warm-up allows.
    return min(factor, (step + 1) / LEAST_WARMUP_STEPS)


def _factor(kind: str, warmup_steps: float, step: int, progress: float) -> float:
    """The same without a least warm-up."""
    if warmup_steps >= 1:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        warmup = warmup_steps * progress / step  # the share of the run that it took, if steps are alike
    else:
        warmup = warmup_steps
        if progress < warmup:
            return max(progress / warmup, 0.01)  # the first step already moves
    remaining = (1 - progress) / (1 - warmup) if progress < 1 else 0.0
    if kind == "linear":
        return remaining
    if kind == "cosine":
        return 0.5 * (1 - math.cos(math.pi * remaining))
    return min(1.0, (1 - progress) / DECAY_SHARE)


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


class Clock:
    """The time of a run, and the losses since the last line of the log with the time that their steps took."""

    def __init__(self, state: TrainState) -> None:
        now = time.perf_counter()
        self._begin, self._training_begin = now - state.seconds, now - state.training_seconds
        self._tokens = state.tokens
        self._start_line()

    def _start_line(self) -> None:
        self._line_begin, self._steps, self._sums = time.perf_counter(), 0, dict[str, Tensor]()

    def seconds(self) -> float:
        """Since the run began, with the time before it was resumed."""
        return time.perf_counter() - self._begin

    def training_seconds(self) -> float:
        """Seconds spent training, without evaluations and checkpoints."""
        return time.perf_counter() - self._training_begin

    def add(self, losses: dict[str, Tensor]) -> None:
        """Count a step."""
        self._steps += 1
        self._sums = {name: loss + self._sums.get(name, 0.0) for name, loss in losses.items()}
        self._sums |= {name: losses[name] for name in ("grad_norm", "learning_rate")}

    def line(self, tokens: int, accelerator: Accelerator) -> dict[str, float]:
        """Mean losses and speed since the last line, over all processes, and the newest gradient norm and rate.

        `tokens`: that all processes have read so far.
        """
        latest = {name: float(self._sums.pop(name)) for name in ("grad_norm", "learning_rate")}
        values = torch.stack(list(self._sums.values())) / self._steps
        if accelerator.num_processes > 1:
            values = accelerator.reduce(values, reduction="sum")
        speed = (tokens - self._tokens) / (time.perf_counter() - self._line_begin)
        line = dict(zip(self._sums, values.tolist(), strict=True)) | latest | {"tokens_per_second": speed}
        self._tokens = tokens
        self._start_line()
        return line

    def pause(self) -> None:
        """Pause the training clock."""
        self._paused = time.perf_counter()

    def go_on(self) -> None:
        """Resume the training clock."""
        pause = time.perf_counter() - self._paused
        self._line_begin += pause
        self._training_begin += pause


def share_seconds(clock: Clock, accelerator: Accelerator) -> tuple[float, float]:
    """Seconds of the run and of its training, by the first process's clock: all processes must decide alike."""
    seconds = (clock.seconds(), clock.training_seconds())
    if accelerator.num_processes == 1:
        return seconds
    mine = torch.tensor(seconds if accelerator.is_main_process else (0.0, 0.0), device=accelerator.device)
    total, training = accelerator.reduce(mine, reduction="sum").tolist()
    return total, training


def resume_point(newest: Path, end: End) -> Path:
    """The checkpoint to go on from: the newest, but where it has decayed for another end, the newest before that."""
    decayed_for = load_state(newest).decayed_for
    if decayed_for is None or tuple(decayed_for) == dataclasses.astuple(end):
        return newest
    stable = stable_checkpoint(newest.parent)
    logger.info("the learning rate had begun to fall for the earlier end; going on from %s, before that", stable)
    return stable
