"""Pre-train a MiniBERT or MiniGPT.

On a laptop, in three minutes::

    accelerate launch scripts/pretrain.py --model minibert-mini --corpus builtin --output_dir runs/minibert --budget 3m

On several processes, ``torchrun --nproc_per_node 2 scripts/pretrain.py ...`` or ``accelerate launch`` as configured.
Go on with a run: ``accelerate launch scripts/pretrain.py --output_dir runs/minibert --resume``.
"""

import sys
from pathlib import Path

from hf_minibert.command_line import parse, run
from hf_minibert.errors import UserError
from hf_minibert.training.arguments import PretrainArguments
from hf_minibert.training.inputs import ARGUMENTS
from hf_minibert.training.pretrain import pretrain


def main(arguments: PretrainArguments) -> int:
    """Train; with --resume, the arguments of the run come first and flags override them."""
    if arguments.resume:
        saved = Path(arguments.output_dir) / ARGUMENTS
        if not saved.is_file():
            raise UserError(f"nothing to resume: {saved} is missing; start the run without --resume")
        arguments = parse(PretrainArguments, [str(saved), *sys.argv[1:]])
    return pretrain(arguments)


if __name__ == "__main__":
    run(PretrainArguments, main)
