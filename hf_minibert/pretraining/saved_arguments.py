"""The arguments that a run saves in its folder; `--resume` and `replay` read them."""

import json
from pathlib import Path
from typing import Any

from hf_minibert.command_line import parse
from hf_minibert.errors import UserError
from hf_minibert.pretraining.arguments import PretrainArguments

ARGUMENTS = "arguments.json"
ENDS = ("budget", "max_steps", "max_tokens")
RETIRED = ("replay",)
"""Names that arguments of earlier versions have, and that no longer decide anything."""


def of_run(folder: str) -> PretrainArguments:
    """The arguments of an earlier run, with the folder where it lies now.

    Raises:
        UserError: the folder holds none.
    """
    return parse(PretrainArguments, ["--output_dir", folder], defaults=_read(folder, "replay"))


def resumed(arguments: PretrainArguments) -> PretrainArguments:
    """The arguments of an earlier run, replaced by what the command line says; a new end replaces all ends.

    Raises:
        UserError: the folder holds none.
    """
    settings = _read(arguments.output_dir, "resume")
    if any(vars(arguments)[end] is not None for end in ENDS):
        settings = {name: value for name, value in settings.items() if name not in ENDS}
    return parse(PretrainArguments, defaults=settings)


def _read(folder: str, verb: str) -> dict[str, Any]:
    saved = Path(folder) / ARGUMENTS
    if not saved.is_file():
        raise UserError(f"nothing to {verb}: {saved} is missing; output_dir must be the folder of an earlier run")
    settings: dict[str, Any] = json.loads(saved.read_text(encoding="utf-8"))
    return {name: value for name, value in settings.items() if name not in RETIRED}
