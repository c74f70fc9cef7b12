"""What a checkpoint can be exported to: one row of `TARGETS` each. Importing this loads no torch."""

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Target:
    """Something that a checkpoint can become."""

    words: str
    """What people call it."""
    module: str
    """The module that writes it: `export(name_or_path, output_dir, to=...)` returns a record of what was written, with
    `from`, `to`, and `checked` or `largest_difference`; `opening(record, folder)` returns the code that opens it."""
    options: tuple[str, ...] = ()
    """The flags of the verb that `export` takes as keywords; it refuses the others."""

    def load(self) -> Any:
        """The module."""
        return importlib.import_module(self.module)


_STOCK = "hf_minibert.export.convert"
TARGETS: dict[str, Target] = {
    "bert": Target("stock BERT, from a classic MiniBERT", _STOCK),
    "eurobert": Target("stock EuroBERT, from a modern MiniBERT", _STOCK),
    "gpt2": Target("stock GPT-2, from a classic MiniGPT", _STOCK),
    "llama": Target("stock Llama, from a modern MiniGPT", _STOCK),
    "qwen3": Target("stock Qwen3, from a MiniGPT with qk_norm", _STOCK),
    "arcee": Target("stock Arcee, from a MiniGPT without gated_mlp", _STOCK),
    "apertus": Target("stock Apertus, from a MiniGPT with qk_norm and without gated_mlp", _STOCK),
    "minibert": Target("MiniBERT, from a stock BERT or EuroBERT", _STOCK),
    "minigpt": Target("MiniGPT, from a stock GPT-2, Llama, Qwen3, Arcee or Apertus", _STOCK),
    "sentence-transformers": Target(
        "a sentence-transformers model with the stock class inside",
        "hf_minibert.export.sentence_transformers",
        options=("pooling", "normalize"),
    ),
    "onnx": Target(
        "an ONNX graph, checked by onnxruntime, in the layout of transformers.js",
        "hf_minibert.export.onnx",
        options=("quantize", "measure_on"),
    ),
    "gguf": Target("a GGUF file for llama.cpp, with its tokenizer", "hf_minibert.export.gguf", options=("pooling",)),
}
DEFAULT = Target("the stock class that computes the same, or ours from a stock one", _STOCK)
