"""Convert a checkpoint to the form that other tools open, or a stock checkpoint to one of ours.

The outputs of both are compared on a sample text before the folder is written.
"""

import textwrap
from dataclasses import dataclass

from hf_minibert.assets import model_folder
from hf_minibert.errors import UserError
from hf_minibert.export.targets import DEFAULT, TARGETS


@dataclass(kw_only=True)
class Arguments:
    """Convert a checkpoint to the stock class that computes the same, or back."""

    model_name_or_path: str
    """Folder or Hub name of a MiniBERT or MiniGPT, or of a BERT, EuroBERT, GPT-2 or Llama."""
    output_dir: str
    """Folder to write. Of an earlier export there, what nobody has changed is replaced, and the rest kept."""
    to: str | None = None
    """What to convert to: bert (from a classic MiniBERT), eurobert (modern), gpt2 (classic MiniGPT), llama (modern); or
    back from these: minibert, minigpt. Default: the one that fits."""

    def __post_init__(self) -> None:
        if self.to is not None and self.to not in TARGETS:
            raise UserError(f"to must be one of {', '.join(TARGETS)}, got {self.to!r}")


def main(arguments: Arguments) -> int:
    """Convert, compare the outputs, and print the code that opens the result."""
    folder = model_folder(arguments.model_name_or_path)
    target = DEFAULT if arguments.to is None else TARGETS[arguments.to]
    module = target.load()
    done = module.export(folder, arguments.output_dir, to=arguments.to)
    print(f"wrote {arguments.output_dir}: the {done['from']} {arguments.model_name_or_path} as a {done['to']}")
    print(f"On a sample text their outputs differ by {done['largest_difference']:.1e}. Open it with\n")
    print(textwrap.indent(module.opening(done, repr(arguments.output_dir)), "    "), end="")
    return 0
