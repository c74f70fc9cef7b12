"""Checkpoints: folders that `from_pretrained` opens and that a run resumes from, each whole or not there at all."""

import io
import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from hf_minibert.errors import UserError
from hf_minibert.files import Manifest, digest, files_below, set_aside, share, temporary_path, write_json

logger = logging.getLogger(__name__)

CHECKSUMS = "checksums.json"
STATE = "train_state.json"


@dataclass
class TrainState:
    """How far a run is. All that decides what the next step does, but for weights, moments and dropout's generator."""

    step: int = 0
    rows: int = 0
    rows_per_step: int = 0
    """Of the newest step, over all processes."""
    tokens: int = 0
    seconds: float = 0.0
    training_seconds: float = 0.0
    """The part of them that was neither evaluation nor saving."""
    compile_seconds: float = 0.0
    """The part of them in which the model was compiled; the schedule leaves it out."""
    evaluated_step: int = 0
    """The step of the newest evaluation."""
    skipped_steps: int = 0
    """Steps in a row, up to this one, whose gradient was not finite."""
    skipped_steps_in_all: int = 0
    decayed_for: tuple[float | None, int | None, int | None] | None = None
    """The end (seconds, steps, tokens) for which the last fall of `warmup_stable_decay` has begun."""
    data: str = ""
    """Fingerprint of the token store."""
    samples_before: list[dict[str, Any]] = field(default_factory=list)
    """What the untrained model predicted, for the comparison at the end."""


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk; Windows does not open folders, nor sync what is open for reading."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_tensors(path: Path, content: Any) -> None:
    """Write tensors as `torch.load(weights_only=True)` reads them; a full disk is an OSError, as for other files."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.write_bytes(buffer.getbuffer())


def save_checkpoint(output_dir: Path, state: TrainState, write: Callable[[Path], None]) -> Path:
    """Make `checkpoint-<step>`: `write` fills a folder of another name, which then takes its place.

    The last file written holds the checksums of the others, and the folder is renamed when all is on the disk.

    Raises:
        UserError: the disk does not take it; earlier checkpoints are as they were.
    """
    folder = output_dir / f"checkpoint-{state.step}"
    temporary, replaced = temporary_path(output_dir), temporary_path(output_dir)
    temporary.mkdir()
    try:
        write(temporary)
        write_json(temporary / STATE, asdict(state))
        share(temporary)
        checksums = {name: digest(temporary / name) for name in files_below(temporary)}
        write_json(temporary / CHECKSUMS, checksums)
        for name in (*checksums, CHECKSUMS, "."):
            _sync(temporary / name)
        manifest = Manifest.read(output_dir)
        if manifest is not None:
            _keep_what_is_not_listed(folder, manifest)
            manifest.expect_folder(folder.name, checksums | {CHECKSUMS: digest(temporary / CHECKSUMS)})
            manifest.note_growth(is_over=False)
        if folder.exists():
            folder.rename(replaced)
        temporary.rename(folder)
        _sync(output_dir)
    except (OSError, SafetensorError) as error:
        whole = next((path.name for path in checkpoints(output_dir)), "none")
        raise UserError(
            f"the checkpoint of step {state.step} could not be written ({' '.join(str(error).split())}); the newest "
            f"one is {whole}. Make room on the disk and go on with --resume"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
    return folder


def _keep_what_is_not_listed(folder: Path, manifest: Manifest) -> None:
    """Give a file, or a folder with files that the run did not write, another name if it has that of a checkpoint."""
    if not os.path.lexists(folder):
        return
    is_folder = folder.is_dir() and not folder.is_symlink()
    if not is_folder or {f"{folder.name}/{name}" for name in files_below(folder)} - set(manifest.files):
        set_aside(folder)


def remove_checkpoint(checkpoint: Path) -> None:
    """Delete what the run wrote there; where it lists its files, all else stays."""
    manifest = Manifest.read(checkpoint.parent)
    if manifest is None:
        shutil.rmtree(checkpoint)
    else:
        manifest.remove_folder(checkpoint.name)


def checkpoints(output_dir: Path) -> list[Path]:
    """The folders named as checkpoints, newest first."""
    found = [(int(match[1]), path) for path in output_dir.glob("checkpoint-*") if (match := _name(path)) is not None]
    return [path for _, path in sorted(found, reverse=True)]


def _name(path: Path) -> re.Match[str] | None:
    return re.fullmatch(r"checkpoint-(\d+)", path.name) if path.is_dir() and not path.is_symlink() else None


def is_whole(checkpoint: Path) -> bool:
    """Whether every file is there and as it was written."""
    try:
        checksums = json.loads((checkpoint / CHECKSUMS).read_text(encoding="utf-8"))
        return bool(checksums) and all(digest(checkpoint / name) == one for name, one in checksums.items())
    except (OSError, ValueError, AttributeError):  # AttributeError: JSON, but no mapping
        return False


def latest_checkpoint(output_dir: Path) -> Path:
    """The newest checkpoint that is whole; damaged ones are passed over, saying so.

    Raises:
        UserError: there is none.
    """
    for checkpoint in checkpoints(output_dir):
        if is_whole(checkpoint):
            return checkpoint
        logger.warning("%s is damaged; looking for the one before", checkpoint)
    raise UserError(f"nothing to resume: {output_dir} has no whole checkpoint; start the run without --resume")


def load_state(checkpoint: Path) -> TrainState:
    """The state that a checkpoint was made in."""
    return TrainState(**json.loads((checkpoint / STATE).read_text(encoding="utf-8")))


def _newest_stable(output_dir: Path) -> Path | None:
    found = checkpoints(output_dir)
    return next((one for one in found if is_whole(one) and load_state(one).decayed_for is None), None)


def stable_checkpoint(output_dir: Path) -> Path:
    """The newest whole checkpoint from before the learning rate fell for good.

    Raises:
        UserError: there is none.
    """
    if stable := _newest_stable(output_dir):
        return stable
    raise UserError(
        f"the learning rate has fallen in all checkpoints of {output_dir}, so the run cannot grow from them"
    )


def forget_checkpoints_after(output_dir: Path, step: int) -> None:
    """Delete checkpoints of later steps, which a resumed run makes again: they were damaged, or passed over."""
    for checkpoint in checkpoints(output_dir):
        if int(checkpoint.name.removeprefix("checkpoint-")) > step:
            remove_checkpoint(checkpoint)


def prune_checkpoints(output_dir: Path, keep: int) -> None:
    """Delete all but the newest, and the newest from before the learning rate fell for good."""
    found = checkpoints(output_dir)
    has_decayed = bool(found) and load_state(found[0]).decayed_for is not None
    stable = _newest_stable(output_dir) if has_decayed else None
    for checkpoint in found[keep:]:
        if checkpoint != stable:
            remove_checkpoint(checkpoint)
