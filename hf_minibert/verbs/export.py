"""Convert a checkpoint to the stock class that computes the same, which needs no code of ours; or back.

    python scripts/export.py --model_name_or_path runs/minibert --to eurobert --output_dir exported
    python scripts/export.py --model_name_or_path google-bert/bert-base-uncased --to minibert --output_dir runs/bert

Takes seconds on a CPU. The outputs of the two are compared on a sample text before anything takes its place.
"""

import textwrap
from dataclasses import dataclass
from typing import Literal

from transformers.utils.logging import disable_progress_bar

from hf_minibert.command_line import run
from hf_minibert.export.convert import export, opening


@dataclass(frozen=True, kw_only=True)
class ExportArguments:
    """Convert a checkpoint to the stock class that computes the same, or back."""

    model_name_or_path: str
    """Folder or Hub name of a MiniBERT or MiniGPT, or of a BERT, EuroBERT, GPT-2 or Llama."""
    output_dir: str
    """Folder to write. Of an earlier export there, what nobody has changed is replaced, and the rest kept."""
    to: Literal["bert", "eurobert", "gpt2", "llama", "minibert", "minigpt"] | None = None
    """What to convert to. Default, what fits: bert for a classic and eurobert for a modern MiniBERT, gpt2 and llama for
    a MiniGPT; from these back, minibert or minigpt."""


def main(arguments: ExportArguments) -> int:
    """Convert, compare, and say how to open it."""
    disable_progress_bar()
    done = export(arguments.model_name_or_path, arguments.output_dir, to=arguments.to)
    print(f"wrote {arguments.output_dir}: the {done['from']} {arguments.model_name_or_path} as a {done['to']}")
    print(f"On a sample text their outputs differ by {done['largest_difference']:.1e}. Open it with\n")
    print(textwrap.indent(opening(done, repr(arguments.output_dir)), "    "), end="")
    return 0


if __name__ == "__main__":
    run(ExportArguments, main)
