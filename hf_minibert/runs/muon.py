"""Muon, with all matrices of one shape orthogonalised together; alone, and beside AdamW."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate
from transformers import PreTrainedModel

from hf_minibert.runs.hardware import computes_in_bfloat16

# Three quintics draw all singular values towards 1 (Polar Express: Amsel et al. 2025, arXiv:2505.16932). A step with
# them teaches as much as with five of Jordan's, at three fifths of the cost (benchmarks/README.md).
COEFFICIENTS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
)
RMS_OF_ADAMW = 0.2
EMBEDDINGS_RATE = 8.0
"""Beside Muon, AdamW's rate for embeddings, norms and biases is this many times Muon's (benchmarks/README.md)."""


def matrices_and_others(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """The matrices of a model's layers, for Muon, and all else that learns, for AdamW.

    A head over the vocabulary counts as embeddings, also where it has weights of its own.
    """
    tables: list[nn.Module | None] = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    tables += [model.get_output_embeddings()] if isinstance(model, PreTrainedModel) else []
    embeddings = {id(table.weight) for table in tables if table is not None}
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices, others = list[Tensor](), list[Tensor]()
    for parameter in parameters:
        (matrices if parameter.ndim == 2 and id(parameter) not in embeddings else others).append(parameter)
    return matrices, others


class Muon(torch.optim.Optimizer):
    """Muon steps equally far in all directions of a matrix (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

    As `torch.optim.Muon` with ``adjust_lr_fn="match_rms_adamw"``, which scales steps to the size of AdamW's (Liu et al.
    2025, arXiv:2502.16982), so that rates and decay mean the same to both. torch's takes the matrices one by one,
    always in bfloat16, and repeats one quintic; this one takes all matrices of a shape together, computes in float32
    where the device has no instructions for bfloat16, and has another quintic for each repetition.

    Args:
        params: matrices.
        lr: step size.
        weight_decay: decoupled decay, as in AdamW.
        momentum: memory of the mean gradient (Nesterov's).
    """

    def __init__(self, params: Any, *, lr: float, weight_decay: float = 0.1, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim != 2:
                    raise ValueError(f"Muon is for matrices, but got a parameter of shape {tuple(parameter.shape)}")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make one step; matrices without a gradient stay as they are. Returns the closure's loss, if there is one.

        As for torch's fused optimizers, an attribute `found_inf` that is a tensor of 1 leaves the step out.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            step_together(group, self.state, getattr(self, "found_inf", None))
        return loss


@torch.no_grad()
def step_together(group: dict[str, Any], state: dict[Tensor, Any], found_inf: Tensor | None = None) -> None:
    """One step of Muon for a group of matrices, all of a shape together.

    Args:
        group: `params`, `lr`, `weight_decay` and `momentum`.
        state: the optimizer's, which keeps a `momentum_buffer` for each parameter.
        found_inf: 1 where the gradients are not finite: then nothing changes, and nobody waits to know it.
    """
    by_shape: dict[torch.Size, list[Tensor]] = {}
    for parameter in group["params"]:
        if parameter.grad is not None:
            by_shape.setdefault(parameter.shape, []).append(parameter)
    for shape, parameters in by_shape.items():
        momenta = _momenta(parameters, state, group["momentum"], found_inf)
        dtype = torch.bfloat16 if computes_in_bfloat16() else parameters[0].dtype
        whole = torch.empty(len(parameters), *shape, dtype=dtype, device=parameters[0].device)
        gathered = [gather(part, parameter) for part, parameter in zip(momenta, parameters, strict=True)]
        torch._foreach_copy_(list(whole.unbind()), gathered)
        updates = orthogonalize(whole)
        parts = [shard(update, parameter) for update, parameter in zip(updates, parameters, strict=True)]
        weights = [local(parameter) for parameter in parameters]
        decay: Any = 1 - group["lr"] * group["weight_decay"]
        if found_inf is not None:
            decay = torch.where(found_inf == 1, 1.0, decay)
            parts = [part.masked_fill(found_inf == 1, 0.0) for part in parts]
        torch._foreach_mul_(weights, decay)
        torch._foreach_add_(weights, parts, alpha=-group["lr"] * RMS_OF_ADAMW * max(shape) ** 0.5)


def _momenta(
    parameters: list[Tensor], state: dict[Tensor, Any], momentum: float, found_inf: Tensor | None
) -> list[Tensor]:
    """Update the momenta. Returns this process's part of each gradient, with Nesterov's momentum."""
    for parameter in parameters:
        if not state[parameter]:
            state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    gradients = [local(parameter.grad) for parameter in parameters if parameter.grad is not None]
    buffers = [local(state[parameter]["momentum_buffer"]) for parameter in parameters]
    if found_inf is not None:  # a mean with itself stays what it is
        pairs = zip(gradients, buffers, strict=True)
        gradients = [torch.where(found_inf == 1, buffer, gradient) for gradient, buffer in pairs]
    torch._foreach_lerp_(buffers, gradients, 1 - momentum)
    return list(torch._foreach_lerp(gradients, buffers, momentum))


class MuonWithAdamW(torch.optim.AdamW):
    """Muon for the matrices of the layers and AdamW for all else, as one optimizer, as `Trainer` needs it.

    Args:
        matrices: for Muon.
        others: embeddings, norms and biases, for AdamW; they do not decay.
        lr: step size of the matrices.
        others_lr: step size of the others.
        weight_decay: of the matrices.
        betas: AdamW's.
        momentum: Muon's.
    """

    def __init__(
        self,
        matrices: list[Tensor],
        others: list[Tensor],
        *,
        lr: float,
        others_lr: float,
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.999),
        momentum: float = 0.95,
    ) -> None:
        groups: list[dict[str, Any]] = [
            {"params": matrices, "weight_decay": weight_decay, "momentum": momentum},
            {"params": others, "weight_decay": 0.0, "lr": others_lr},
        ]
        super().__init__(groups, lr=lr, betas=betas, fused=True)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As every optimizer: AdamW's would look for its own moments at the matrices."""
        torch.optim.Optimizer.__setstate__(self, state)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Make one step. Returns the closure's loss, if there is one."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if "momentum" not in group]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if "momentum" in group:
                step_together(group, self.state, getattr(self, "found_inf", None))
        return loss


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor that FSDP may have split; shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def gather(part: Tensor, like: Tensor) -> Tensor:
    """The whole tensor, from each process's part of it; it is split as `like` is."""
    if not isinstance(like, DTensor):
        return part
    split = DTensor.from_local(part, like.device_mesh, like.placements, shape=like.shape, stride=like.stride())
    return split.full_tensor()


def shard(whole: Tensor, like: Tensor) -> Tensor:
    """This process's part of a whole tensor, split as `like` is."""
    if not isinstance(like, DTensor):
        return whole
    replicated = DTensor.from_local(whole, like.device_mesh, [Replicate()] * like.device_mesh.ndim)
    return replicated.redistribute(placements=like.placements).to_local()


def orthogonalize(matrices: Tensor) -> Tensor:
    """The nearest (semi-)orthogonal matrices, roughly: singular values end between 0.2 and 1.9. Keeps the dtype.

    Args:
        matrices: (count, rows, columns).
    """
    is_tall = matrices.shape[1] > matrices.shape[2]
    wide = matrices.mT.contiguous() if is_tall else matrices  # a CPU multiplies what is contiguous twice as fast
    wide = wide / wide.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for first, third, fifth in COEFFICIENTS:
        gram = wide @ wide.mT
        wide = torch.baddbmm(wide, torch.baddbmm(gram, gram, gram, beta=third, alpha=fifth), wide, beta=first)
    return wide.mT.contiguous() if is_tall else wide
