# Copyright 2026 The hf_minibert authors.
"""The losses: computed only where a token is predicted, and normalised so that batches can be split."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

IGNORE_INDEX = -100


def vocabulary_cross_entropy(
    hidden_states: Tensor,
    decoder: nn.Linear,
    labels: Tensor,
    num_items_in_batch: Tensor | int | None = None,
    label_smoothing: float = 0.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Cross-entropy per predicted token, in nats, straight from the states that enter the decoder.

    The logits of all tokens never exist at once: see `FusedCrossEntropy`. A decoder that is
    offloaded, quantised or adapted, or in float16 (whose gradients need a scale first), cannot use it: then backward
    computes each chunk of logits again. A compiler gets all logits in one piece, and may keep them.

    Args:
        hidden_states: (tokens, hidden).
        decoder: hidden -> vocabulary.
        labels: (tokens,); IGNORE_INDEX marks tokens that are not predicted.
        num_items_in_batch: predicted tokens over all accumulation steps and processes; default, this batch's own.
        label_smoothing: the share of the target's probability that is spread over the vocabulary (Szegedy et al. 2016,
            arXiv:1512.00567).
        weights: (tokens,), by which each token's loss is multiplied; default, 1.
    """
    device = hidden_states.device.type
    is_autocast = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if is_autocast else hidden_states.dtype
    if torch.compiler.is_compiling() or not is_plain(decoder) or dtype == torch.float16:
        losses = chunked_losses(hidden_states, decoder, labels, label_smoothing)
        total = (losses if weights is None else losses * weights).sum()
    else:
        given: list[Tensor | None] = [hidden_states, decoder.weight, decoder.bias]
        if not torch.is_grad_enabled():  # which a function cannot see by itself
            given = [None if one is None else one.detach() for one in given]
        total = FusedCrossEntropy.apply(*given, labels, dtype, label_smoothing, weights)
    return total / item_count(labels, num_items_in_batch)


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer is an ordinary linear one, on one device, without hooks and with no other `forward`."""
    if type(layer) is not nn.Linear or type(layer.weight) not in (nn.Parameter, Tensor):  # one device has a part
        return False
    hooks = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    return not hooks and not hasattr(layer, "_hf_hook") and "forward" not in layer.__dict__


def chunk_size(hidden_states: Tensor, vocabulary: int) -> int:
    """How many tokens' logits are made at once: few enough for a CPU's caches, or enough to keep a GPU busy.

    A GPU gets at most about 2^27 logits, which take a gigabyte with their gradients.
    """
    return 512 if hidden_states.device.type == "cpu" else min(16_384, max(1_024, 2**27 // vocabulary))


class FusedCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy. Forward also computes the gradients, chunk by chunk: logits are made once and never kept.

    Like Liger's fused linear cross-entropy (Hsu et al. 2024, arXiv:2410.10989). Products are in the requested type,
    sums in float32. It has no second derivative.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        dtype: torch.dtype,
        label_smoothing: float,
        weights: Tensor | None,
    ) -> Tensor:
        """States (tokens, hidden), weight (vocabulary, hidden), bias (vocabulary,) and labels (tokens,) to a number."""
        needs_states, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        total = hidden_states.new_zeros((), dtype=torch.float32)
        of_states = torch.empty_like(hidden_states) if needs_states else None
        of_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        of_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and needs_bias else None
        matrix, offset = weight.to(dtype), None if bias is None else bias.to(dtype)
        spread = label_smoothing / len(weight)
        with torch.autocast(hidden_states.device.type, enabled=False):
            size = chunk_size(hidden_states, len(weight))
            for start in range(0, len(hidden_states), size):
                chunk = slice(start, start + size)
                counts = (labels[chunk] != IGNORE_INDEX)[:, None]
                if weights is not None:
                    counts = counts * weights[chunk, None].float()
                states, targets = hidden_states[chunk].to(dtype), _without_ignored(labels[chunk])[:, None]
                logits = F.linear(states, matrix, offset)
                log_probabilities = F.log_softmax(logits, dim=1, dtype=torch.float32)
                total -= (1 - label_smoothing) * (log_probabilities.gather(1, targets) * counts).sum()
                if label_smoothing:
                    total -= spread * (log_probabilities.sum(dim=1, keepdim=True) * counts).sum()
                if of_states is None and of_weight is None and of_bias is None:
                    continue
                gradient = log_probabilities.exp_().scatter_add_(
                    1, targets, torch.full_like(targets, label_smoothing - 1, dtype=torch.float32)
                )
                gradient = (gradient.sub_(spread) if label_smoothing else gradient).to(dtype)
                if of_states is not None:
                    of_states[chunk] = (gradient @ matrix) * counts
                if of_weight is not None:
                    of_weight += gradient.T @ (states * counts).to(dtype)
                if of_bias is not None:
                    of_bias += (gradient.T @ counts.to(dtype))[:, 0]
        ctx.save_for_backward(of_states, of_weight, of_bias)
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients that `forward` saved, scaled by the incoming gradient."""
        of_states, *others = ctx.saved_tensors
        scaled = (None if one is None else (one * gradient).to(ctx.weight_dtype) for one in others)
        return None if of_states is None else of_states * gradient, *scaled, None, None, None, None


def _without_ignored(labels: Tensor) -> Tensor:
    """Labels with class 0 in place of IGNORE_INDEX. Any other label out of bounds stays, so that torch refuses it."""
    return labels.masked_fill(labels == IGNORE_INDEX, 0)


def chunked_losses(hidden_states: Tensor, decoder: nn.Linear, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """`token_losses`, chunk by chunk; for a compiler, in one piece."""
    size = chunk_size(hidden_states, decoder.out_features)
    if torch.compiler.is_compiling() or len(hidden_states) <= size:
        return token_losses(hidden_states, decoder, labels, label_smoothing)
    parts = zip(hidden_states.split(size), labels.split(size), strict=True)
    return torch.cat(
        [
            checkpoint(
                token_losses, states, decoder, some, label_smoothing, use_reentrant=False, preserve_rng_state=False
            )
            for states, some in parts
        ]
    )


def token_losses(hidden_states: Tensor, decoder: nn.Linear, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of each token, (tokens,), in float32; 0 where nothing is predicted."""
    logits = decoder(hidden_states).float()
    return F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="none", label_smoothing=label_smoothing)


def is_counted(labels: Tensor) -> Tensor:
    """Which labels enter a loss: of class ids those that are not IGNORE_INDEX, and of numbers all."""
    return labels != IGNORE_INDEX if not labels.is_floating_point() else torch.ones_like(labels, dtype=torch.bool)


def item_count(labels: Tensor, num_items_in_batch: Tensor | int | None) -> Tensor | int:
    """The divisor of a summed loss: the caller's count, else the number of labels that are predicted here.

    At least 1: a step without anything to predict has a loss of 0, and so have its gradients.
    """
    if num_items_in_batch is None:
        num_items_in_batch = is_counted(labels).sum()
    if isinstance(num_items_in_batch, Tensor):
        return num_items_in_batch.to(labels.device).clamp(min=1)
    return max(1, num_items_in_batch)


def infer_problem_type(
    labels: Tensor, num_labels: int
) -> Literal["regression", "single_label_classification", "multi_label_classification"]:
    """The problem type that the labels imply, by transformers' name."""
    if num_labels == 1:
        return "regression"
    return "multi_label_classification" if labels.is_floating_point() else "single_label_classification"


def classification_loss(
    logits: Tensor,
    labels: Tensor,
    num_labels: int,
    problem_type: str | None,
    num_items_in_batch: Tensor | int | None = None,
) -> Tensor:
    """The loss of a classifier. `problem_type` chooses which; without it, the kind of labels does.

    Args:
        logits: (batch, num_labels).
        labels: (batch,) class ids (IGNORE_INDEX: not predicted) or numbers; or (batch, num_labels) of numbers, or of
            0.0/1.0 for several labels.
        num_labels: 1 means regression.
        problem_type: transformers' names: regression, single_label_classification, multi_label_classification.
        num_items_in_batch: labels (elements, as `Trainer` counts) over all accumulation steps and processes; default,
            this batch's own.
    """
    problem_type = problem_type or infer_problem_type(labels, num_labels)
    logits = logits.float()
    if problem_type == "single_label_classification":
        total = F.cross_entropy(logits, labels.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")
        return total / item_count(labels, num_items_in_batch)
    items = item_count(labels.float(), num_items_in_batch)
    if problem_type == "regression":
        return F.mse_loss(logits.flatten(), labels.float().flatten(), reduction="sum") / items
    if problem_type == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="sum") / items
    raise ValueError(
        f"problem_type {problem_type!r} is unknown; use regression, single_label_classification or "
        "multi_label_classification"
    )


def span_loss(
    start_logits: Tensor,
    end_logits: Tensor,
    start_positions: Tensor,
    end_positions: Tensor,
    num_items_in_batch: Tensor | int | None = None,
) -> Tensor:
    """Cross-entropy of where answers start and of where they end, averaged (BERT, Devlin et al. 2019, section 4.2).

    Args:
        start_logits: (batch, sequence).
        end_logits: (batch, sequence).
        start_positions: (batch,); one beyond the sequence (the answer was cut off) is not predicted.
        end_positions: (batch,), likewise.
        num_items_in_batch: examples over all accumulation steps and processes; default, those predicted here.
    """
    losses = []
    for logits, positions in ((start_logits, start_positions), (end_logits, end_positions)):
        labels = positions.flatten().clamp(min=0)
        labels = labels.masked_fill(labels >= logits.shape[1], IGNORE_INDEX)
        total = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE_INDEX, reduction="sum")
        losses.append(total / item_count(labels, num_items_in_batch))
    return torch.stack(losses).mean()


def next_token_labels(labels: Tensor) -> Tensor:
    """Shift labels left by one: each position gets the label of the next token, and the last gets IGNORE_INDEX."""
    return torch.cat((labels[:, 1:], torch.full_like(labels[:, :1], IGNORE_INDEX)), dim=1)
