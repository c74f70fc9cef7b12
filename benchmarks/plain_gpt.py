"""A GPT as fast plain torch has it: the peer that nanoGPT is, written anew from its description.

GPT-2's block without biases or dropout; one product for queries, keys and values; fused causal attention; smaller
weights at the ends of residual branches; logits of all positions at once. See Karpathy 2022,
github.com/karpathy/nanoGPT.
"""

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import CausalLMOutput


class Block(nn.Module):
    """Attention and feed-forward, each with its norm before."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        """(batch, sequence, width) in and out."""
        batch, length, width = states.shape
        parts = self.qkv(self.attention_norm(states)).view(batch, length, 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        states = states + self.out(attended.transpose(1, 2).reshape(batch, length, width))
        raised: Tensor = self.down(F.gelu(self.up(self.mlp_norm(states))))
        return states + raised


class PlainGPT(nn.Module):
    """Called as transformers' models are, as far as the benchmarks need it."""

    def __init__(self, *, vocab_size: int, hidden_size: int, num_layers: int, num_heads: int, length: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab_size, hidden_size), nn.Embedding(length, hidden_size)
        self.blocks = nn.ModuleList(Block(hidden_size, num_heads) for _ in range(num_layers))
        self.norm = nn.LayerNorm(hidden_size, bias=False)
        self.head = nn.Linear(hidden_size, vocab_size, bias=False)
        self.head.weight = self.tokens.weight
        self.config = SimpleNamespace(
            vocab_size=vocab_size, hidden_size=hidden_size, num_hidden_layers=num_layers, use_cache=False
        )
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                ends_branch = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * num_layers) if ends_branch else 0.02)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None, **_: Any) -> CausalLMOutput:
        """`logits`, and with `labels` (not shifted; -100 is left out) the `loss`."""
        states = self.tokens(input_ids) + self.positions(torch.arange(input_ids.shape[1], device=input_ids.device))
        for block in self.blocks:
            states = block(states)
        logits = self.head(self.norm(states))
        if labels is None:
            return CausalLMOutput(logits=logits)
        shifted = F.pad(labels[:, 1:], (0, 1), value=-100)
        return CausalLMOutput(F.cross_entropy(logits.flatten(0, 1), shifted.flatten()), logits)


def optimizer(model: nn.Module, learning_rate: float, beta2: float = 0.95) -> torch.optim.Optimizer:
    """AdamW as nanoGPT sets it: decay 0.1 for matrices and embeddings, none for norms."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, beta2), fused=True)


def schedule(warmed_up: float, progress: float) -> float:
    """The learning rate as a share of its peak: linear warm-up, by how much of it is over, then a cosine to a tenth."""
    return min(warmed_up, 0.1 + 0.45 * (1 + math.cos(math.pi * progress)))
