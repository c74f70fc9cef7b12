"""Tiny checkpoints to export."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import hf_minibert
from hf_minibert.tokenization import adapt_tokenizer

SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "initializer_range": 0.1,  # so that differences show
}


@pytest.fixture
def save(tokenizer, tmp_path: Path) -> Callable[..., tuple[Any, Path]]:
    """Saves a tiny checkpoint of the class so named, with the repository's tokenizer; returns both."""

    def saved(name: str, architecture: str = "modern", **fields: Any) -> tuple[Any, Path]:
        torch.manual_seed(0)
        config_class = vars(hf_minibert)[f"{name.split('For')[0]}Config"]
        make = {"classic": config_class.classic, "modern": config_class.modern}[architecture]
        config = make(**SHAPE | {"vocab_size": len(tokenizer)} | fields)
        model, folder = vars(hf_minibert)[name](config).eval(), tmp_path / f"{architecture}-{name}"
        model.save_pretrained(folder)
        types = getattr(config, "type_vocab_size", 0) > 0
        own = adapt_tokenizer(tokenizer, model_type=config.model_type, uses_token_types=types, model_max_length=64)
        own.save_pretrained(folder)
        return model, folder

    return saved
