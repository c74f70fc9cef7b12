"""Pre-train a MiniBERT or MiniGPT.

On a laptop, in three minutes::

    accelerate launch scripts/pretrain.py --model minibert-mini --corpus builtin --output_dir runs/minibert --budget 3m

On several processes, ``torchrun --nproc_per_node 2 scripts/pretrain.py ...`` or ``accelerate launch`` as configured.
Go on with a run: ``accelerate launch scripts/pretrain.py --output_dir runs/minibert --resume``.
"""

import json
from pathlib import Path

from hf_minibert.command_line import parse, run
from hf_minibert.errors import UserError
from hf_minibert.training.arguments import PretrainArguments
from hf_minibert.training.inputs import ARGUMENTS
from hf_minibert.training.pretrain import pretrain

ENDS = ("budget", "max_steps", "max_tokens")


def main(arguments: PretrainArguments) -> int:
    """Train; with --resume, the arguments of the run come first and flags override them; a new end replaces the old."""
    if arguments.resume:
        saved = Path(arguments.output_dir) / ARGUMENTS
        if not saved.is_file():
            raise UserError(f"nothing to resume: {saved} is missing; start the run without --resume")
        settings = json.loads(saved.read_text(encoding="utf-8"))
        if any(vars(arguments)[end] is not None for end in ENDS):
            settings = {name: value for name, value in settings.items() if name not in ENDS}
        arguments = parse(PretrainArguments, defaults=settings)
    return pretrain(arguments)


if __name__ == "__main__":
    run(PretrainArguments, main)
