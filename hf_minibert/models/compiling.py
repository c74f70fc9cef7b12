# Copyright 2026 The hf_minibert authors.
"""What a compiler is told."""

import torch
from torch import Tensor


def in_memory(tensor: Tensor) -> Tensor:
    """The same tensor, which a compiler for a CPU computes once, and not anew wherever it is used.

    torch's compiler takes the cosines of positions for cheap, and repeats them in each layer, forward and backward. On
    a CPU they are not. A mask of packed rows is, and is better repeated.
    """
    if torch.compiler.is_compiling() and not torch.compiler.is_exporting() and tensor.device.type == "cpu":
        return tensor.as_strided(tensor.shape, tensor.stride())  # a view, which needs memory behind it
    return tensor
