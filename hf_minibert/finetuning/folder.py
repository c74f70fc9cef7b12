"""The folder of a fine-tuning: who may use it, and whether it holds an unfinished or a finished fine-tuning."""

import json
import logging
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

from hf_minibert.errors import UserError
from hf_minibert.files import MANIFEST, Manifest, damage, disk_errors
from hf_minibert.finetuning.arguments import FinetuneArguments
from hf_minibert.finetuning.run import Run, fingerprint, read
from hf_minibert.finetuning.unfinished import (
    ARGUMENTS,
    RESULTS,
    SOURCES,
    Unfinished,
    changed_arguments,
    changed_sources,
    refuse_changes,
    saved_arguments,
)
from hf_minibert.output_folder import kept_folder, refuse_links, settle

logger = logging.getLogger(__name__)

VERB = "finetune"

READ = (*SOURCES, "decoder_name_or_path")
"""Arguments that name what is read."""


def folder_rules(arguments: FinetuneArguments) -> dict[str, Any]:
    """The rules for a fine-tuning's folder, as arguments of `check_folder` and `kept_folder`.

    Raises:
        UserError: it holds an unfinished fine-tuning, and the arguments do not say what to do about that.
    """
    unfinished = Unfinished(arguments.output_dir)
    goes_on = arguments.resume and unfinished.begun() is not None
    if not (arguments.resume or arguments.overwrite_output_dir) and (progress := unfinished.progress()):
        raise UserError(
            f"output_dir {arguments.output_dir} holds an unfinished fine-tuning ({progress}); go on with "
            "--resume, or forget it with --overwrite_output_dir"
        )
    return {
        "output_dir": arguments.output_dir,
        "verb": VERB,
        "kind": "an earlier fine-tuning",
        "replaces": arguments.overwrite_output_dir or goes_on,
        "remedy": "give another, or --overwrite_output_dir to replace what an earlier fine-tuning wrote there",
        "inputs": [each for name in READ if (each := getattr(arguments, name)) is not None],
    }


def is_finished(arguments: FinetuneArguments) -> bool:
    """Whether --resume has nothing to do: the folder holds the result that the arguments ask for.

    Raises:
        UserError: it holds the result of other arguments, or a damaged one.
    """
    folder = Path(arguments.output_dir)
    if not arguments.resume or not folder.is_dir():
        return False
    refuse_links(folder)
    settle(folder)
    has_result = all((folder / name).exists() for name in (ARGUMENTS, RESULTS, "config.json"))
    if Unfinished(folder).begun() is not None or not has_result:
        return False
    with damage(folder / ARGUMENTS, "replace it with --overwrite_output_dir"):
        before = dict(json.loads((folder / ARGUMENTS).read_text(encoding="utf-8")))
    now = saved_arguments(arguments)
    for name in ("mixed_precision", "num_train_epochs"):  # which the machine and the data decide
        if getattr(arguments, name) is None:
            now[name] = before.get(name)
    remedy = "give another output_dir, or --overwrite_output_dir in place of --resume"
    if changes := changed_arguments(before, now):
        raise UserError(f"{folder} holds a finished fine-tuning with other arguments: {changes}; {remedy}")
    if changes := _changed_inputs(arguments, before, now):
        raise UserError(f"{folder} holds a finished fine-tuning with {changes}; {remedy}")
    logger.info("%s is already finished", folder)
    return True


def _changed_inputs(arguments: FinetuneArguments, before: dict[str, Any], now: dict[str, Any]) -> str:
    """Which of data, tokenizer and model are not what the result in the folder was made from, in words.

    They are compared by content; for a result of an earlier version, which noted none, by place.
    """
    path = Path(arguments.output_dir) / RESULTS
    with damage(path, "replace it with --overwrite_output_dir"):
        noted = json.loads(path.read_text(encoding="utf-8")).get("inputs")
    if not isinstance(noted, dict):
        return changed_sources(before, now)
    found = fingerprint(read(arguments))
    return ", ".join(f"another {name}" for name in noted if found.get(name) != noted[name])


def claim_folder(run: Run, held: ExitStack) -> Unfinished:
    """Lock the folder until `held` is closed, and note in it what is asked for. Returns the place for checkpoints."""
    arguments, processes = run.arguments, run.processes
    unfinished = Unfinished(arguments.output_dir)
    asked = fingerprint(run)
    before = unfinished.begun() if arguments.resume else None
    if before is not None:
        refuse_changes(before, asked, arguments.output_dir)
    processes.wait_for_everyone()  # all have found the folder as it was
    if processes.is_main_process:
        folder = held.enter_context(kept_folder(**folder_rules(arguments)))
        held.enter_context(disk_errors(f"output_dir {folder} could not be written", "make room on the disk"))
        held.callback(forget_what_is_no_use, unfinished)
        if Manifest.read(folder) is None:
            Manifest(folder, VERB, {}).write()
        if before is None or unfinished.progress() is None:
            unfinished.begin(asked)
            if arguments.resume:
                logger.info("there is no checkpoint to go on from in %s, so the fine-tuning begins anew", folder)
    processes.wait_for_everyone()
    return unfinished


def left_by_a_seed(run: Run, place: Unfinished) -> tuple[dict[str, Any] | None, Path | None]:
    """The outcome of a seed, if it is finished, or the checkpoint to go on from; the first process's answer for all."""
    left: list[Any] = [None, None]
    if run.processes.is_main_process:
        left = [place.outcome() if len(run.seeds) > 1 else None, place.checkpoint()]
    broadcast_object_list(left)
    return left[0], left[1]


def forget_what_is_no_use(unfinished: Unfinished) -> None:
    """Delete an unfinished fine-tuning without a whole checkpoint, and an empty list of files."""
    if unfinished.folder.exists() and unfinished.progress() is None:
        unfinished.forget()
    folder = unfinished.folder.parent
    manifest = Manifest.read(folder)
    if not unfinished.folder.exists() and manifest is not None and not manifest.files:
        (folder / MANIFEST).unlink()
