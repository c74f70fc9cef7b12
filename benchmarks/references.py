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
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from hf_minibert.command_line import run
from hf_minibert.files import write_json
from hf_minibert.hub.card import render_card
from hf_minibert.presets import load_config
from hf_minibert.pretraining.arguments import PretrainArguments
from hf_minibert.tokenization import load_tokenizer, save_tokenizer
from runs import pretrain_alone

MODELS = ("minibert-tiny", "minigpt-tiny")
RECORD = ("arguments.json", "results.json", "curves.png")


@dataclass(kw_only=True)
class Arguments:
    """Train the reference checkpoints."""

    corpus: list[str]
    """Files of general English."""
    output_dir: str
    """Folder for a folder of each model."""
    max_tokens: int = 10_000_000
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
            status = pretrain_alone(PretrainArguments(model=model, output_dir=str(run_folder), **settings))
            if status:
                return status
            keep(run_folder, Path(arguments.output_dir) / model)
    return 0


def keep(run_folder: Path, folder: Path) -> None:
    """Write a finished run without its checkpoints and logs, its weights in bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in RECORD:
        shutil.copyfile(run_folder / name, folder / name)
    auto_classes = {"minibert": AutoModelForMaskedLM, "minigpt": AutoModelForCausalLM}
    auto_class = auto_classes[load_config(str(run_folder)).model_type]
    auto_class.from_pretrained(run_folder, dtype=torch.bfloat16).save_pretrained(folder)
    save_tokenizer(load_tokenizer(run_folder), folder)
    (folder / "model.safetensors").chmod(0o644)  # as git keeps it
    for code in folder.glob("*.py"):  # which the package that they travel with has
        code.unlink()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.pop("auto_map", None)
    write_json(folder / "config.json", config)
    card = render_card(folder, place=Path("checkpoints") / folder.name)
    (folder / "README.md").write_text(card, encoding="utf-8")


if __name__ == "__main__":
    run(Arguments, main)
