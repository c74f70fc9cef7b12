"""Convert a checkpoint to the form that other tools open, or a stock checkpoint to one of ours.

The outputs of both are compared before the folder is written.
"""

import textwrap
from dataclasses import MISSING, dataclass, fields
from typing import Literal

from hf_minibert.assets import model_folder
from hf_minibert.errors import UserError
from hf_minibert.export.targets import DEFAULT, TARGETS, Target


@dataclass(kw_only=True)
class Arguments:
    """Convert a checkpoint to the stock class that computes the same, to another format, or back."""

    model_name_or_path: str
    """Folder or Hub name of a MiniBERT or MiniGPT (also `minibert-tiny` and `minigpt-tiny`, which travel with the
    package), or of a BERT, EuroBERT, GPT-2, Llama, Qwen3, Arcee or Apertus."""
    output_dir: str
    """Folder to write. Of an earlier export there, what nobody has changed is replaced, and the rest kept."""
    to: str | None = None
    """What to convert to: bert (from a classic MiniBERT), eurobert (modern), gpt2 (classic MiniGPT), llama (modern),
    qwen3 (with qk_norm), arcee (without gated_mlp), apertus (both); or back from these: minibert, minigpt; or
    sentence-transformers, onnx or gguf. Default: the stock class that fits."""
    pooling: Literal["cls", "mean", "max", "lasttoken"] | None = None
    """For sentence-transformers and gguf: how the states of a text's tokens become one vector. Default: as the
    checkpoint's classifier does, or their mean."""
    normalize: bool = True
    """For sentence-transformers: whether vectors get length 1."""
    quantize: Literal["int8"] | None = None
    """For onnx: also write a graph whose matrices are 8-bit numbers."""
    measure_on: str | None = None
    """For onnx with quantize: a file on which to measure the accuracy of both graphs. For a language model, any text;
    for a classifier, a table with the columns text and label, and for pairs text_pair."""

    def __post_init__(self) -> None:
        if self.to is not None and self.to not in TARGETS:
            raise UserError(f"to must be one of {', '.join(TARGETS)}, got {self.to!r}")
        for field in fields(self):
            takers = [name for name, target in TARGETS.items() if field.name in target.options]
            assert takers or field.default is MISSING or field.name == "to", f"no target takes {field.name}"
            if takers and self.to not in takers and getattr(self, field.name) != field.default:
                raise UserError(f"{field.name} is for --to {' or '.join(takers)} only; leave it out")

    @property
    def target(self) -> Target:
        """The row of the table."""
        return DEFAULT if self.to is None else TARGETS[self.to]


def main(arguments: Arguments) -> int:
    """Convert, compare the outputs, and print the code that opens the result."""
    folder = model_folder(arguments.model_name_or_path)
    from hf_minibert.export.folder import checked

    module = arguments.target.load()
    options = {name: getattr(arguments, name) for name in arguments.target.options}
    done = module.export(folder, arguments.output_dir, to=arguments.to, **options)
    print(f"wrote {arguments.output_dir}: the {done['from']} {arguments.model_name_or_path} as a {done['to']}")
    for line in done.get("notes", []):
        print(line)
    print(f"{checked(done)} Open it with\n")
    print(textwrap.indent(module.opening(done, repr(arguments.output_dir)), "    "), end="")
    return 0
