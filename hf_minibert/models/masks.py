# Copyright 2026 The hf_minibert authors.
"""The masks: which tokens see which. BERT and GPT differ here, and in what they are trained to predict.

`bidirectional_mask` is MiniBERT's, `causal_mask` MiniGPT's. Both keep apart documents that are packed into one row,
and hide padding. `cross_mask` is for a decoder that attends to an encoder.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from transformers.cache_utils import Cache
from transformers.masking_utils import (
    and_masks,
    causal_mask_function,
    create_bidirectional_mask,
    create_causal_mask,
    find_packed_sequence_indices,
    packed_sequence_mask_function,
)
from transformers.utils.generic import is_flash_attention_requested

from .configuration_transformer import TransformerConfig

BY_INDEX = ("eager", "sdpa")
"""Attention functions that take a mask of booleans as it is."""
LIMITED = (*BY_INDEX, "flex_attention")
"""Those for which transformers makes any mask that a function describes."""
Mask = Tensor | BlockMask | None
"""What an attention function takes: numbers to add, booleans, a block mask, or nothing where every token is seen."""


def bidirectional_mask(
    config: TransformerConfig,
    hidden_states: Tensor,
    attention_mask: Tensor | None,
    packed: Tensor | None = None,
    causal_rows: Tensor | None = None,
    texts: Tensor | None = None,
) -> Mask:
    """Every token sees every other.

    Args:
        config: says which attention function the mask is for.
        hidden_states: (batch, sequence, hidden).
        attention_mask: (batch, sequence), 0 for padding; or (batch, 1, sequence, sequence).
        packed: (batch, sequence), positions that restart with every document of a row, if rows may hold several.
        causal_rows: (batch,), true for rows in which no token sees a later one, as in hybrid pre-training.
        texts: (batch, sequence), a number for each text of a row; none sees another.

    Raises:
        ValueError: the attention function, or a whole mask that is given, cannot show `causal_rows` or `texts`.
    """
    limits = []
    if packed is not None:
        documents = documents_of(packed.expand(hidden_states.shape[0], -1))
        if documents is not None:
            limits.append(packed_sequence_mask_function(documents))
    if causal_rows is not None:
        limits.append(causal_rows_mask_function(causal_rows))
    if texts is not None:
        limits.append(packed_sequence_mask_function(texts))
    if causal_rows is not None or texts is not None:
        what = "siamese pooling" if causal_rows is None else "a mask with causal_rows"
        if config._attn_implementation not in LIMITED:
            raise ValueError(
                f"{what} needs attn_implementation {', '.join(LIMITED)}, got {config._attn_implementation!r}"
            )
        if attention_mask is not None and attention_mask.ndim != 2:
            raise ValueError(
                f"{what} needs an attention_mask of (batch, sequence) or none, got {tuple(attention_mask.shape)}"
            )
    limit = and_masks(*limits) if limits else None
    if limit is not None and attention_mask is None and config._attn_implementation in BY_INDEX:
        return mask_by_index(limit, hidden_states)
    # transformers looks whether a mask hides anything, which in training would make the computer wait for a GPU.
    would_wait = hidden_states.device.type != "cpu" and torch.is_grad_enabled()
    if would_wait and limit is None and attention_mask is not None and config._attn_implementation in BY_INDEX:
        return attention_mask.bool()[:, None, None] if attention_mask.ndim == 2 else attention_mask
    return create_bidirectional_mask(config, hidden_states, attention_mask, and_mask_function=limit)


def causal_mask(
    config: TransformerConfig,
    hidden_states: Tensor,
    attention_mask: Tensor | None,
    packed: Tensor | None = None,
    cache: Cache | None = None,
) -> Mask:
    """A token sees itself and those before it.

    Args:
        config: says which attention function the mask is for.
        hidden_states: (batch, sequence, hidden).
        attention_mask: (batch, cached + sequence), 0 for padding.
        packed: (batch, sequence), positions that restart with every document of a row, if rows may hold several.
        cache: keys and values of earlier tokens, which all tokens see.
    """
    if packed is not None and not getattr(config, "is_causal", True):  # a decoder that is asked to see later tokens
        return bidirectional_mask(config, hidden_states, attention_mask, packed)
    if packed is not None and attention_mask is None and cache is None:  # transformers would wait for a GPU
        if is_flash_attention_requested(config):
            return None  # it is told where documents end
        documents = documents_of(packed.expand(hidden_states.shape[0], -1))
        limit = None if documents is None else packed_sequence_mask_function(documents)
        if limit is not None and config._attn_implementation in BY_INDEX:
            return mask_by_index(and_masks(causal_mask_function, limit), hidden_states)
        return create_causal_mask(config, hidden_states, None, None, None, and_mask_function=limit)
    return create_causal_mask(config, hidden_states, attention_mask, cache, packed)


def documents_of(positions: Tensor) -> Tensor | None:
    """The number of each token's document in its row, (batch, sequence), where positions restart with each document.

    None: there is one document in each row, so that no mask is needed. To find that out on a GPU, the computer would
    wait for it, longer than a mask takes.
    """
    if positions.device.type == "cpu":
        return find_packed_sequence_indices(positions)
    return (positions.diff(prepend=positions[:, :1] - 1) != 1).cumsum(-1)


def cross_mask(
    config: TransformerConfig,
    hidden_states: Tensor,
    encoder_attention_mask: Tensor | None,
    encoder_hidden_states: Tensor,
) -> Mask:
    """A decoder's token sees every token of the encoder.

    Args:
        config: says which attention function the mask is for.
        hidden_states: (batch, sequence, hidden), of the decoder.
        encoder_attention_mask: (batch, encoder's sequence), 0 for padding.
        encoder_hidden_states: (batch, encoder's sequence, hidden).
    """
    return create_bidirectional_mask(config, hidden_states, encoder_attention_mask, encoder_hidden_states)


def mask_by_index(limit: Callable[..., Tensor], hidden_states: Tensor) -> Tensor:
    """Which tokens see which, (batch, 1, sequence, sequence), of (batch, sequence, hidden) states without padding.

    `create_bidirectional_mask` makes the same mask, but slowly: it calls a custom limit under vmap. For eager attention
    it makes numbers to add, where this makes booleans; our eager attention takes either.
    """
    batch, length = (torch.arange(size, device=hidden_states.device) for size in hidden_states.shape[:2])
    return limit(batch[:, None, None, None], batch.new_zeros(()), length[:, None], length)


def causal_rows_mask_function(causal_rows: Tensor) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """A limit for transformers' masks: in rows where `causal_rows`, (batch,), is true, no token sees a later one."""
    causal_rows = causal_rows.bool()

    def sees(batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return ~causal_rows[batch] | (key <= query)

    return sees
