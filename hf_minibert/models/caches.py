# Copyright 2026 The hf_minibert authors.
"""The cache of keys and values, which transformers calls `cache` since 5.24 and `past_key_values` before."""

from dataclasses import fields
from typing import Any

from transformers.cache_utils import Cache
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
