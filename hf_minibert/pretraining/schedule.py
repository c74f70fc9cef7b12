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
from hf_minibert.pretraining.backend import Backend
from hf_minibert.pretraining.checkpoint import TrainState, load_state, stable_checkpoint

logger = logging.getLogger(__name__)

DEFAULT_BUDGET = "5m"
LEAST_WARMUP_STEPS = 40
"""Of a warm-up given as a share of the run: a short run that peaked after one or two steps would diverge."""
DECAY_SHARE = 0.2
"""The share of a run with `warmup_stable_decay` in which the rate falls."""
EVALUATIONS = 8
STEPS_BETWEEN_EVALUATIONS = 20
SHARE_OF_PAUSES = 0.05
"""With a --budget, no evaluation begins while evaluations and checkpoints have taken more of the time so far."""


@dataclass(frozen=True)
class End:
    """When a run is over: after some seconds, steps or tokens, whichever comes first."""

    seconds: float | None
    steps: int | None
    tokens: int | None

    @classmethod
    def of(cls, arguments: PretrainArguments) -> "End":
        """The end that the arguments ask for; `DEFAULT_BUDGET` if they ask for none."""
        endless = arguments.budget is None and arguments.max_steps is None and arguments.max_tokens is None
        budget = DEFAULT_BUDGET if endless else arguments.budget
        seconds = None if budget is None else parse_duration(budget)
        return cls(seconds, arguments.max_steps, arguments.max_tokens)

    def last_row(self, state: TrainState, rows_per_step: int, tokens_per_step: int | None) -> int | None:
        """How many rows the run will have read at most; None if that is not known.

        Args:
            state: how far the run is.
            rows_per_step: rows of a step.
            tokens_per_step: tokens of a step; None where rows are padded, so that steps differ.
        """
        steps = [self.steps - state.step] if self.steps is not None else []
        if self.tokens is not None and tokens_per_step is not None:
            steps.append(-((state.tokens - self.tokens) // tokens_per_step))
        return state.rows + max(0, min(steps)) * rows_per_step if steps else None

    def progress(self, state: TrainState) -> float:
        """How much of the run is done, 0 to 1. Time in which the model was compiled does not count."""
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
    # The run's number of steps may be unknown, so take the lower of the rates that the two warm-ups allow.
    return min(factor, (step + 1) / LEAST_WARMUP_STEPS)


def _factor(kind: str, warmup_steps: float, step: int, progress: float) -> float:
    """`learning_rate_factor` without a least warm-up."""
    if warmup_steps >= 1:
        if step < warmup_steps:
            return min(1.0, (step + 1) / warmup_steps)
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
    """Whether it is time to evaluate or save: every so many steps, or if `every` is None, as `otherwise` says."""
    return otherwise if every is None else step % every == 0


def ends_part(state: TrainState, before: float, progress: float) -> bool:
    """Whether the step from `before` to `progress` ends an eighth of the run, and the last evaluation is not recent."""
    crosses = int(before * EVALUATIONS) != int(progress * EVALUATIONS)
    return crosses and state.step - state.evaluated_step >= STEPS_BETWEEN_EVALUATIONS


def has_time_to_pause(state: TrainState, end: End) -> bool:
    """Whether pauses have taken at most `SHARE_OF_PAUSES` of the time so far; always, for a run without a budget."""
    return end.seconds is None or state.seconds - state.training_seconds <= SHARE_OF_PAUSES * state.seconds


class Clock:
    """Measures the time of a run, and the losses and speed since the last line of the log."""

    def __init__(self, state: TrainState) -> None:
        now = time.perf_counter()
        self._begin, self._training_begin = now - state.seconds, now - state.training_seconds
        self._tokens = state.tokens
        self._start_line()

    def _start_line(self) -> None:
        self._line_begin, self._steps, self._sums = time.perf_counter(), 0, dict[str, Tensor]()

    def seconds(self) -> float:
        """Seconds since the run began, with those before a resume."""
        return time.perf_counter() - self._begin

    def training_seconds(self) -> float:
        """Seconds spent training, without evaluations and checkpoints."""
        return time.perf_counter() - self._training_begin

    def add(self, losses: dict[str, Tensor]) -> None:
        """Add a step's losses; keep its gradient norm and learning rate."""
        self._steps += 1
        self._sums = {name: loss + self._sums.get(name, 0.0) for name, loss in losses.items()}
        self._sums |= {name: losses[name] for name in ("grad_norm", "learning_rate")}

    def line(self, tokens: int, accelerator: Accelerator) -> dict[str, float]:
        """Mean losses and speed since the last line, over all processes, and the newest gradient norm and rate.

        `tokens`: how many all processes have read so far.
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


def share_seconds(clock: Clock, backend: Backend) -> tuple[float, float]:
    """Seconds of the run and of its training, by the first process's clock: all processes must decide alike."""
    seconds = (clock.seconds(), clock.training_seconds()) if backend.accelerator.is_main_process else (0.0, 0.0)
    total, training = backend.sum_on_cpu(torch.tensor(seconds, dtype=torch.float64)).tolist()
    return total, training


def resume_point(newest: Path, end: End) -> Path:
    """The checkpoint to go on from: the newest; if its rate falls towards another end, the newest before that fall."""
    decayed_for = load_state(newest).decayed_for
    if decayed_for is None or tuple(decayed_for) == dataclasses.astuple(end):
        return newest
    stable = stable_checkpoint(newest.parent)
    logger.info("the learning rate had begun to fall for the earlier end; going on from %s, before that", stable)
    return stable
