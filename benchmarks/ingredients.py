"""Ingredients that the package does not have, which `recipe.py` tries.

Each function changes the code of the process that calls it. An ingredient that helps moves into the package, and its
function is deleted. One that does not help stays here, so that its row of the table can be repeated.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hf_minibert.data.rows import Batch, MaskedRows
from hf_minibert.models import losses, modeling_minibert, modeling_minigpt
from hf_minibert.models.losses import IGNORE_INDEX
from hf_minibert.pretraining import loop
from hf_minibert.pretraining.hybrid import HybridRows
from hf_minibert.pretraining.loop import Pretraining
from hf_minibert.pretraining.optimization import build_optimizers
from hf_minibert.runs import muon


def before_each_step(change: Callable[[Pretraining, float], None]) -> None:
    """Call `change(pretraining, progress)` before every step."""
    step = Pretraining.step

    def changed(self: Pretraining, batches: Any, progress: float, stop: Any) -> dict[str, Tensor]:
        change(self, progress)
        return step(self, batches, progress, stop)

    Pretraining.step = changed  # type: ignore[method-assign]


def shorter_rows_first(parts: int, share: float) -> None:
    """Cut every row into ``parts`` for a share of the run (BERT, Devlin et al. 2019, began with 128 of 512 tokens)."""
    forward = Pretraining.forward

    def changed(self: Pretraining, batch: Batch, counts: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.end.progress(self.state) < share:
            length = self.arguments.max_seq_length // parts
            # Places of predictions are numbered through all rows, and stay.
            batch = {name: tensor.reshape(-1, length) if tensor.ndim == 2 else tensor for name, tensor in batch.items()}
        return forward(self, batch, counts)

    Pretraining.forward = changed  # type: ignore[method-assign]


def masking_falls(first: float, last: float) -> None:
    """Lower the share of masked tokens linearly from first to last (GPT-BERT)."""

    def change(run: Pretraining, progress: float) -> None:
        assert isinstance(run.data.train, MaskedRows)
        run.data.train._masking.probability = first + (last - first) * progress

    before_each_step(change)


def batch_grows(first: int, last: int) -> None:
    """Grow the batches of a step linearly from first to last; the caller makes each smaller (Smith et al. 2018)."""

    def change(run: Pretraining, progress: float) -> None:
        wanted = round(first + (last - first) * progress)
        if wanted != run.accelerator.gradient_accumulation_steps or run.state.step == 0:
            run.accelerator.gradient_accumulation_steps = run.arguments.gradient_accumulation_steps = wanted
            run.accelerator.step = 0
            run.rows_per_step = run.arguments.per_device_train_batch_size * wanted

    before_each_step(change)


def averaged_weights(decay: float) -> None:
    """Evaluate a moving average of the weights of all steps (Polyak and Juditsky 1992)."""
    step, measure = Pretraining.step, Pretraining.measure
    averages: list[Tensor] = []

    def changed(self: Pretraining, *arguments: Any) -> dict[str, Tensor]:
        found = step(self, *arguments)
        weights = [parameter.detach() for parameter in self.model.parameters()]
        if not averages:
            averages.extend(weight.clone() for weight in weights)
        torch._foreach_lerp_(averages, weights, 1 - min(decay, self.state.step / (self.state.step + 10)))
        return found

    def measured(self: Pretraining) -> dict[str, float]:
        weights = [parameter.detach() for parameter in self.model.parameters()]
        kept = [weight.clone() for weight in weights]
        torch._foreach_copy_(weights, averages)
        metrics = measure(self)
        torch._foreach_copy_(weights, kept)
        return metrics

    Pretraining.step, Pretraining.measure = changed, measured  # type: ignore[method-assign, assignment]


def directions_kept(steps: int) -> None:
    """Orthogonalise once in so many steps; in those between, Muon goes on in the same directions."""
    orthogonalize, kept = muon.orthogonalize, dict[torch.Size, tuple[int, Tensor]]()

    def changed(matrices: Tensor) -> Tensor:
        age, update = kept.get(matrices.shape, (steps, matrices))
        age, update = (1, orthogonalize(matrices)) if age == steps else (age + 1, update)
        kept[matrices.shape] = age, update
        return update

    muon.orthogonalize = changed


def quintics(*coefficients: tuple[float, float, float]) -> None:
    """Orthogonalise with other polynomials, or with fewer of them."""
    muon.COEFFICIENTS = coefficients  # type: ignore[assignment]


def normalised_rows(decay: float) -> None:
    """Divide the rows of Muon's steps by their usual size, and keep the step's whole (NorMuon: arXiv:2510.05491)."""
    orthogonalize, means = muon.orthogonalize, dict[torch.Size, Tensor]()

    def changed(matrices: Tensor) -> Tensor:
        update = orthogonalize(matrices).float()
        squares = update.square().mean(dim=2, keepdim=True)
        mean = means.setdefault(matrices.shape, squares.clone()).lerp_(squares, 1 - decay)
        even = update / mean.sqrt().clamp(min=1e-8)
        sizes: Tensor = update.norm(dim=(1, 2), keepdim=True) / even.norm(dim=(1, 2), keepdim=True).clamp(min=1e-8)
        return (even * sizes).to(matrices.dtype)

    muon.orthogonalize = changed


def rate_falls(share: float, end: float) -> None:
    """Hold the peak of the rate after the warm-up, and lower it over the last share of the run to a part of it."""
    plain = loop.learning_rate_factor  # type: ignore[attr-defined]

    def changed(kind: str, warmup_steps: float, step: int, progress: float) -> float:
        falling = end + (1 - end) * min(1.0, (1 - progress) / share)
        return min(falling, plain(kind, warmup_steps, step, min(progress, 0.5)))  # by then it has warmed up

    loop.learning_rate_factor = changed  # type: ignore[attr-defined]


def norms_without_weights() -> None:
    """Freeze the weights of the norms at 1."""

    def changed(model: nn.Module, *arguments: Any) -> list[torch.optim.Optimizer]:
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.ndim > 1)
        return build_optimizers(model, *arguments)

    loop.build_optimizers = changed  # type: ignore[assignment, attr-defined]


def z_loss(weight: float) -> None:
    """In training, keep the logarithm of the softmax's denominator small (PaLM, Chowdhery et al. 2022)."""
    plain = losses.vocabulary_cross_entropy

    def changed(
        states: Tensor, decoder: nn.Linear, labels: Tensor, num_items_in_batch: Tensor | int | None = None, *rest: Any
    ) -> Tensor:
        loss = plain(states, decoder, labels, num_items_in_batch, *rest)
        if not torch.is_grad_enabled():
            return loss
        is_predicted = labels != IGNORE_INDEX
        size = decoder(states[is_predicted]).float().logsumexp(dim=1).square().sum()
        total: Tensor = loss + weight * size / losses.item_count(labels, num_items_in_batch)
        return total

    for module in (modeling_minibert, modeling_minigpt):
        module.vocabulary_cross_entropy = changed  # type: ignore[attr-defined]


def causal_first(share: float) -> None:
    """In hybrid pre-training, take only causal rows for a share of the run, and then only masked ones."""

    def change(run: Pretraining, progress: float) -> None:
        assert isinstance(run.data.train, HybridRows)
        run.arguments.masked_share = run.data.train.masked_share = float(progress >= share)

    before_each_step(change)
