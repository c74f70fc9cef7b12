"""Pre-train compact Transformers from scratch: MiniBERT and MiniGPT.

Importing this package makes transformers' Auto classes know both; its names are those of `hf_minibert.models`, and
`encode`, which turns texts into vectors, and `translate`.
"""

import importlib
import itertools
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_minibert.evaluation.representations import encode as encode
    from hf_minibert.evaluation.translate import translate as translate
    from hf_minibert.models import *  # noqa: F403

__version__ = version("hf_minibert")
SCRIPTS = ["pretrain", "replay", "generate", "check", "finetune", "train_tokenizer", "prepare_data", "export", "demo"]
SCRIPTS += ["evaluate", "push_to_hub"]
"""The verbs as files of scripts/."""
FUNCTIONS = {
    "encode": "hf_minibert.evaluation.representations",
    "translate": "hf_minibert.evaluation.translate",
}
"""Functions that are loaded when they are asked for, and where they are."""


def __getattr__(name: str) -> Any:
    """Load the models when the first of them is asked for, and a function when it is."""
    if name in FUNCTIONS:
        return getattr(importlib.import_module(FUNCTIONS[name]), name)
    models = importlib.import_module("hf_minibert.models")
    if name == "__all__":
        return models.__all__
    if name not in models.__all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(models, name)


def _starts_command() -> bool:
    """Whether this process is a command of ours: it answers `--help` before it loads torch, and the models later."""
    program = Path(sys.argv[0])
    words = list(itertools.takewhile(lambda word: word.startswith("-") and word != "-m", sys.orig_argv[1:]))
    is_module = sys.orig_argv[len(words) + 1 :][:2] == ["-m", __name__]
    is_script = program.stem in SCRIPTS and program.resolve().parent == Path(__file__).resolve().parents[1] / "scripts"
    return is_module or is_script or program.stem == "hf-minibert"


if not _starts_command():
    __all__ = __getattr__("__all__")
    globals().update({name: __getattr__(name) for name in __all__})
