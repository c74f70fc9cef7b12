"""The parts of `results.json` that both kinds of run share."""

import dataclasses
import platform
from importlib.metadata import version
from typing import Any

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "hf_minibert")


def environment() -> dict[str, str]:
    """The versions that a result depends on."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def changed_settings(arguments: Any) -> list[str]:
    """The names of the fields of a dataclass instance that do not have their default value."""
    defaults = {
        field.name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        for field in dataclasses.fields(arguments)
    }
    return [name for name, value in vars(arguments).items() if value != defaults[name]]
