"""Which attention function a model uses, while it stands in memory."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from transformers import PreTrainedConfig


def configurations(model: nn.Module) -> list[PreTrainedConfig]:
    """The configurations that the modules of a model read, each once.

    `set_attn_implementation` does not reach all modules of an encoder and a decoder that were made one model, since
    each keeps the configuration that it was made with.
    """
    own = (vars(module).get("config") for module in model.modules())
    return list({id(config): config for config in own if isinstance(config, PreTrainedConfig)}.values())


@contextmanager
def attention_function(model: nn.Module, implementation: str) -> Iterator[None]:
    """The block runs a model with another attention function."""
    configs = configurations(model)
    before = [config._attn_implementation for config in configs]
    try:
        for config in configs:
            config._attn_implementation = implementation
        yield
    finally:
        for config, earlier in zip(configs, before, strict=True):
            config._attn_implementation = earlier
