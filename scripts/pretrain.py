"""Pre-train a MiniBERT or MiniGPT.

On a laptop, in three minutes::

    accelerate launch scripts/pretrain.py --model minibert-mini --corpus builtin --output_dir runs/minibert --budget 3m

On several processes, ``torchrun --nproc_per_node 2 scripts/pretrain.py ...`` or ``accelerate launch`` as configured.
Go on with a run: ``accelerate launch scripts/pretrain.py --output_dir runs/minibert --resume``. Look at one of its
steps, row by row: ``python scripts/pretrain.py --output_dir runs/minibert --replay 1234``.
"""

import json
from pathlib import Path

from hf_minibert.command_line import parse, run
from hf_minibert.errors import UserError
from hf_minibert.pretraining.arguments import PretrainArguments
from hf_minibert.pretraining.loop import pretrain
from hf_minibert.pretraining.plan import ARGUMENTS, make_plan
from hf_minibert.pretraining.replay import replay

ENDS = ("budget", "max_steps", "max_tokens")


def main(arguments: PretrainArguments) -> int:
    """Train; with --resume, the arguments of the run come first and flags override them; a new end replaces the old."""
    if arguments.resume or arguments.replay:
        saved = Path(arguments.output_dir) / ARGUMENTS
        if not saved.is_file():
            verb, flag = ("resume", "--resume") if arguments.resume else ("replay", "--replay")
            raise UserError(f"nothing to {verb}: {saved} is missing; start the run without {flag}")
        settings = json.loads(saved.read_text(encoding="utf-8"))
        if any(vars(arguments)[end] is not None for end in ENDS):
            settings = {name: value for name, value in settings.items() if name not in ENDS}
        arguments = parse(PretrainArguments, defaults=settings)
    return pretrain(arguments) if arguments.replay is None else replay(make_plan(arguments), arguments.replay)


if __name__ == "__main__":
    run(PretrainArguments, main)
