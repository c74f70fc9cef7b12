# Copyright 2026 The hf_minibert authors.
"""The cache of keys and values, which transformers calls `cache` since 5.24 and `past_key_values` before."""

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, EncoderDecoderCache
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.modeling_outputs import BaseModelOutputWithPast

AnyCache = Cache | PagedAttentionCache
NAMES = ("cache", "past_key_values")
CACHE_NAME = next(name for name in NAMES if name in {field.name for field in fields(BaseModelOutputWithPast)})
"""The cache's name in the installed transformers."""


def one_cache(past_key_values: AnyCache | None, cache: AnyCache | None) -> Any:
    """Return the cache that was given under either name; None if neither was.

    Raises:
        ValueError: two caches are given.
    """
    if past_key_values is not None and cache is not None and past_key_values is not cache:
        raise ValueError("cache and past_key_values are two names of one argument; give one of them")
    return past_key_values if cache is None else cache


def is_watched() -> bool:
    """Whether gradients are kept, or a compiler or tracer reads along: then nothing may be written in place."""
    is_traced: bool = torch.jit.is_tracing()  # type: ignore[attr-defined] # it is public
    return torch.is_grad_enabled() or torch.compiler.is_compiling() or is_traced


class Room:
    """A tensor, (batch, heads, sequence, head_dim), with room behind it, into which it grows without being copied."""

    LEAST = 64

    def __init__(self) -> None:
        self.tensor: Tensor | None = None
        self.shown: Tensor | None = None

    def __reduce__(self) -> tuple[type["Room"], tuple[()]]:
        return Room, ()  # a copy of a cache begins with a room of its own

    def append(self, states: Tensor, new: Tensor) -> Tensor:
        """What `torch.cat` makes of both along the sequence; a view, if nothing but `append` has changed `states`.

        Only what was returned last grows in place. All else is copied: states that beam search has put into another
        order, those of a text that was cut, and of an earlier time. So no tensor that was returned ever changes.
        """
        if states.shape[:-2] != new.shape[:-2] or states.dtype != new.dtype or states.device != new.device:
            return torch.cat([states, new], dim=-2)  # which says what is wrong
        length, total = states.shape[-2], states.shape[-2] + new.shape[-2]
        room = self.tensor if states is self.shown else None
        if room is None or total > room.shape[-2] or room.is_inference() != torch.is_inference_mode_enabled():
            shape = list(new.shape)
            shape[-2] = total + max(total // 2, self.LEAST)
            self.tensor = room = new.new_empty(shape)
            room[..., :length, :] = states
        room[..., length:total, :] = new
        self.shown = room[..., :total, :]
        return self.shown


class GrowingLayer(DynamicLayer):
    """A layer of a `DynamicCache` that copies only the new keys and values, not all earlier ones with each token.

    With gradients, and where a compiler or tracer watches, it computes as its base class does.
    """

    rooms: tuple[Room, Room] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append (batch, heads, sequence, head_dim) keys and values; return all, as `DynamicLayer` does."""
        if is_watched() or not self.is_initialized:
            return super().update(key_states, value_states, *args, **kwargs)
        if self.rooms is None:
            self.rooms = Room(), Room()
        keys, values = self.keys, self.values
        assert keys is not None
        assert values is not None
        self.keys = keys = self.rooms[0].append(keys, key_states)
        self.values = values = self.rooms[1].append(values, value_states)
        return keys, values


def let_grow(cache: Cache | None) -> None:
    """Make the layers of a `DynamicCache` that has nothing in it yet `GrowingLayer`s; leave any other as it is."""
    if isinstance(cache, EncoderDecoderCache):
        cache = cache.self_attention_cache
    if type(cache) is not DynamicCache or cache.offloading:
        return
    if cache.layer_class_to_replicate is DynamicLayer:
        cache.layer_class_to_replicate = GrowingLayer
    for layer in cache.layers:
        if type(layer) is DynamicLayer and not layer.is_initialized:
            layer.__class__ = GrowingLayer


class EitherCacheName:
    """A model output whose cache can be read under both names, though its field has one.

    Since 5.24 transformers does this itself, and this class adds nothing.
    """

    if CACHE_NAME == "past_key_values":
        past_key_values: Any

        @property
        def cache(self) -> Any:
            """The cache, under the name that newer versions use."""
            return self.past_key_values

        def __getitem__(self, key: Any) -> Any:
            return super().__getitem__(_old_name(key))  # type: ignore[misc] # of the output beside this class

        def __contains__(self, key: Any) -> bool:
            return super().__contains__(_old_name(key))  # type: ignore[misc]

        def get(self, key: Any, default: Any = None) -> Any:
            """The item of that name, or the default if there is none."""
            return super().get(_old_name(key), default)  # type: ignore[misc]


def _old_name(key: Any) -> Any:
    return "past_key_values" if isinstance(key, str) and key == "cache" else key
