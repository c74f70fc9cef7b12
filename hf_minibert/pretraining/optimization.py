"""The optimizers: Muon for the matrices of the layers, AdamW for the rest."""

import torch
from torch import nn

from hf_minibert.pretraining.arguments import PretrainArguments
from hf_minibert.runs.muon import EMBEDDINGS_RATE as EMBEDDINGS_RATE
from hf_minibert.runs.muon import Muon, matrices_and_others


def build_optimizers(
    model: nn.Module, arguments: PretrainArguments, learning_rate: float
) -> list[torch.optim.Optimizer]:
    """Make the optimizers: Muon for the matrices of the layers and AdamW for all else; or AdamW for everything.

    `learning_rate` is that of the matrices; each group of parameters keeps its own as ``initial_lr``. AdamW:
    Loshchilov and Hutter 2019, arXiv:1711.05101. Norms, biases and embeddings do not decay.
    """
    matrices, others = matrices_and_others(model)
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
