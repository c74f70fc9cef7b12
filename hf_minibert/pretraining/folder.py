"""The folder of a pre-training run: its lock, and the list of what the run wrote into it."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from hf_minibert.card_parts import is_generated
from hf_minibert.files import CARD, Manifest, digest, files_below
from hf_minibert.output_folder import check_folder, held_folder
from hf_minibert.pretraining.arguments import PretrainArguments
from hf_minibert.pretraining.checkpoint import CHECKSUMS, checkpoints, is_whole, latest_checkpoint
from hf_minibert.pretraining.saved_arguments import ARGUMENTS

logger = logging.getLogger(__name__)

WRITTEN = {
    ARGUMENTS,
    CARD,
    "config.json",
    "curves.png",
    "generation_config.json",
    "metrics.jsonl",
    "model.safetensors",
    "results.json",
    "samples.jsonl",
    "tokenizer.json",
    "tokenizer_config.json",
}
"""Files that runs wrote, besides checkpoints and code, before runs kept a list of their files."""


def folder_rules(arguments: PretrainArguments) -> dict[str, Any]:
    """The rules for the run's folder, as arguments of `check_folder` and `held_folder`."""
    return {
        "output_dir": arguments.output_dir,
        "verb": "pretrain",
        "kind": "an earlier run of pre-training",
        "replaces": arguments.overwrite_output_dir,
        "resumes": arguments.resume,
        "remedy": "give another, or --resume to go on with its run, or --overwrite_output_dir to replace it",
        "inputs": [*arguments.corpus, *([arguments.tokenizer] if arguments.tokenizer else [])],
    }


def check_run_folder(arguments: PretrainArguments) -> None:
    """Check that the run may have its folder; write nothing.

    Raises:
        UserError: it may not.
    """
    check_folder(**folder_rules(arguments))


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run to resume; None if the run was stopped before it made one.

    Raises:
        UserError: it made some, but none is whole.
    """
    made = [path.name for path in checkpoints(folder)]
    made += [name for name in ("results.json", "model.safetensors") if (folder / name).exists()]
    manifest = Manifest.read(folder)
    if manifest is not None:  # what an earlier run left there, and a user has changed, is not the run's
        made = [name for name in made if any(f"{listed}/".startswith(f"{name}/") for listed in manifest.files)]
    if made:
        return latest_checkpoint(folder)
    logger.info("the run in %s was stopped before its first checkpoint; it begins anew", folder)
    return None


@contextmanager
def run_folder(arguments: PretrainArguments) -> Iterator[None]:
    """Make the run's folder, and lock it until the block ends; an earlier run in it goes, unless that is resumed.

    Raises:
        UserError: as `check_run_folder`: the folder may have changed since that was called.
    """
    is_listed = Manifest.read(Path(arguments.output_dir)) is not None
    with held_folder(**folder_rules(arguments)) as folder:
        if arguments.resume and not is_listed:
            list_earlier_files(folder)
        yield


def list_earlier_files(folder: Path) -> None:
    """Make the list of files for a run of an earlier version, which kept none, from the files known to be its own."""
    manifest = Manifest(folder, "pretrain", {})
    for name in filter(WRITTEN.__contains__, files_below(folder)):
        if name != CARD or is_generated((folder / CARD).read_text(encoding="utf-8", errors="replace")):
            manifest.files[name] = [{"sha256": digest(folder / name)}]
    for checkpoint in filter(is_whole, checkpoints(folder)):
        checksums = json.loads((checkpoint / CHECKSUMS).read_text(encoding="utf-8"))
        manifest.expect_folder(checkpoint.name, checksums | {CHECKSUMS: digest(checkpoint / CHECKSUMS)})
    manifest.write()


@contextmanager
def listed_logs(folder: Path, accelerator: Accelerator) -> Iterator[None]:
    """Put the files below logs/ that trackers write in the block on the run's list, as files that keep growing."""

    def times() -> dict[str, int]:
        return {name: (folder / name).stat().st_mtime_ns for name in files_below(folder) if name.startswith("logs/")}

    before = times() if accelerator.is_main_process else {}
    yield
    manifest = Manifest.read(folder) if accelerator.is_main_process else None
    if manifest is not None:
        manifest.grow([name for name, time_ in times().items() if before.get(name) != time_])
