r"""Train the two reference checkpoints that travel with the package, by the default recipe.

    python benchmarks/references.py --output_dir checkpoints \
        --corpus wikipedia_en/train.jsonl.xz books_en/train.jsonl.xz

Each is a run of `hf-minibert pretrain` that ends after so many tokens, of which the folder keeps what opens the model
and what its card is made from. Weights are stored in bfloat16, to take half the space.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from hf_minibert.command_line import run
from hf_minibert.pretraining.arguments import PretrainArguments
from hf_minibert.pretraining.loop import pretrain

MODELS = ("minibert-tiny", "minigpt-tiny")
KEPT = ("*.json", "*.md", "*.py", "*.png", "*.safetensors")
LEFT_OUT = ("checksums.json", "train_state.json")


@dataclass(kw_only=True)
class Arguments:
    """Train the reference checkpoints."""

    corpus: list[str]
    """Files of general English."""
    output_dir: str
    """Folder for a folder of each model."""
    max_tokens: int = 30_000_000
    """Tokens that each model reads."""


def main(arguments: Arguments) -> int:
    """Train both, and keep what opens them."""
    for model in MODELS:
        with TemporaryDirectory() as temporary:
            run_folder = Path(temporary) / model
            settings: dict[str, Any] = {
                "corpus": arguments.corpus,
                "max_tokens": arguments.max_tokens,
                "report_to": ["none"],
            }
            status = pretrain(PretrainArguments(model=model, output_dir=str(run_folder), **settings))
            if status:
                return status
            keep(run_folder, Path(arguments.output_dir) / model)
    return 0


def keep(run_folder: Path, folder: Path) -> None:
    """Copy a finished run without its checkpoints and logs, its weights in bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in KEPT:
        for path in run_folder.glob(pattern):
            if path.name not in LEFT_OUT and not path.name.startswith("."):
                shutil.copyfile(path, folder / path.name)
    weights = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | {"dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(Arguments, main)
