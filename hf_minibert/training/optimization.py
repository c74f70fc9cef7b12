"""The optimizer, the end of a run, and the learning rate on the way there."""

import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel

from hf_minibert.training.arguments import PretrainArguments, parse_duration
from hf_minibert.training.checkpoint import TrainState
from hf_minibert.training.muon import Muon

DEFAULT_BUDGET = "5m"
EMBEDDINGS_RATE = 8.0
"""Beside Muon, AdamW learns so many times as fast: embeddings, norms and biases (benchmarks/README.md)."""
DECAY_SHARE = 0.2
"""The share of a run with `warmup_stable_decay` in which the rate falls."""


def build_optimizers(
    model: nn.Module, arguments: PretrainArguments, learning_rate: float
) -> list[torch.optim.Optimizer]:
    """What updates the weights: Muon the matrices of the layers, AdamW all else; or AdamW everything.

    The learning rate is that of the matrices; each group of parameters keeps its own as ``initial_lr``. AdamW:
    Loshchilov and Hutter 2019, arXiv:1711.05101. Norms, biases and embeddings do not decay; a head over the vocabulary
    counts as embeddings, also where it has weights of its own.
    """
    tables: list[nn.Module | None] = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    tables += [model.get_output_embeddings()] if isinstance(model, PreTrainedModel) else []
    embeddings = {id(table.weight) for table in tables if table is not None}
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in parameters if parameter.ndim == 2 and id(parameter) not in embeddings]
    others = [parameter for parameter in parameters if parameter.ndim != 2 or id(parameter) in embeddings]
    decay = arguments.weight_decay
    assert decay is not None, "a plan decides"
    groups = [{"params": others, "weight_decay": 0.0}]
    optimizers: list[torch.optim.Optimizer] = []
    rate = learning_rate
    if arguments.optimizer == "muon":
        optimizers.append(Muon(matrices, lr=learning_rate, weight_decay=decay))
        rate *= EMBEDDINGS_RATE
    else:
        groups.append({"params": matrices, "weight_decay": decay})
    betas = (arguments.adam_beta1, arguments.adam_beta2)
    optimizers.append(torch.optim.AdamW(groups, lr=rate, betas=betas, eps=arguments.adam_epsilon, fused=True))
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["initial_lr"] = group["lr"]
    return optimizers


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

    def last_row(self, state: TrainState, rows_per_step: int, tokens_per_step: int) -> int | None:
        """How many rows the run will have read; None if time alone decides."""
        steps = [self.steps - state.step] if self.steps is not None else []
        steps += [-((state.tokens - self.tokens) // tokens_per_step)] if self.tokens is not None else []
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
        warmup_steps: steps of linear warm-up, or their share of the run if below 1.
        step: steps done.
        progress: how much of the run is done, 0 to 1.
    """
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
