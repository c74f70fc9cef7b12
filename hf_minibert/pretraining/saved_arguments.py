"""The arguments that a run saves in its folder; `--resume` and `replay` read them."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_minibert.command_line import parse
from hf_minibert.errors import UserError
from hf_minibert.output_folder import is_empty
from hf_minibert.pretraining.arguments import PretrainArguments

logger = logging.getLogger(__name__)

ARGUMENTS = "arguments.json"
ENDS = ("budget", "max_steps", "max_tokens")
NUM_PROCESSES = "num_processes"


def of_run(folder: str) -> PretrainArguments:
    """The arguments of an earlier run, with `folder`, where it lies now, as its `output_dir`.

    Raises:
        UserError: the folder holds none, or those of a fine-tuning.
    """
    return parse(PretrainArguments, ["--output_dir", folder], defaults=_current(folder, "replay"))


def resumed(arguments: PretrainArguments) -> PretrainArguments:
    """The arguments of the run to resume, overridden by flags of the command line; one new end replaces all ends.

    Where nothing is, not even a folder, a job was stopped while it read its text: the run begins anew.

    Raises:
        UserError: the folder holds something, but no run.
    """
    folder = Path(arguments.output_dir)
    if not folder.exists() or (folder.is_dir() and is_empty(folder)):
        logger.info("there is no run in %s to resume, so one begins anew", folder)
        return replace(arguments, resume=False)
    settings = _current(arguments.output_dir, "resume")
    if any(vars(arguments)[end] is not None for end in ENDS):
        settings = {name: value for name, value in settings.items() if name not in ENDS}
    found, saved = parse(PretrainArguments, defaults=settings), settings.get("corpus") or []
    if found.corpus == [name.partition("@")[0] for name in saved]:
        return replace(found, corpus=saved)  # of a stream, the revision that the run began with
    return found


def _current(folder: str, verb: str) -> dict[str, Any]:
    """The saved arguments of the run in a folder, without what stands beside them."""
    if not (Path(folder) / ARGUMENTS).is_file() and not any(Path(folder).glob(f"checkpoint-*/{ARGUMENTS}")):
        missing = Path(folder) / ARGUMENTS
        raise UserError(
            f"nothing to {verb}: {missing} is missing; output_dir must be the folder of an earlier pre-training"
        )
    saved = read_arguments(Path(folder))
    return {name: value for name, value in saved.items() if name not in PretrainArguments.not_flags}


def read_arguments(folder: Path) -> dict[str, Any]:
    """The content of a run's `arguments.json`; if that is damaged, of the copy in the newest whole checkpoint.

    Raises:
        UserError: it is damaged, and there is no such copy.
    """
    try:
        return _read(folder / ARGUMENTS)
    except (OSError, ValueError, RecursionError) as error:
        from hf_minibert.pretraining.checkpoint import checkpoints, is_whole  # loads torch

        reason = " ".join(str(error).split())[:200]
        for checkpoint in checkpoints(folder):
            if (checkpoint / ARGUMENTS).exists() and is_whole(checkpoint):
                logger.warning("%s is damaged (%s); taking the copy in %s", folder / ARGUMENTS, reason, checkpoint.name)
                return _read(checkpoint / ARGUMENTS)
        raise UserError(
            f"{folder / ARGUMENTS} is damaged ({reason}), and no checkpoint has a copy; give another output_dir, or "
            "--overwrite_output_dir to begin anew"
        ) from error


def _read(path: Path) -> dict[str, Any]:
    settings = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(settings, dict) and "dataset" in settings and "optimizer" not in settings:
        raise UserError(
            f"{path.parent} holds a fine-tuning, not a pre-training; only pre-training can be replayed, and a "
            "fine-tuning goes on with `finetune --resume`"
        )
    if not isinstance(settings, dict) or not isinstance(settings.get("optimizer"), str):
        raise ValueError("not the arguments of a run")
    return settings
