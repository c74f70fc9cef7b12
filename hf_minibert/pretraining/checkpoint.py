"""Checkpoints: folders that `from_pretrained` opens and a run resumes from. Each appears whole or not at all."""

import io
import json
import logging
import math
import os
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model
from torch import Tensor

from hf_minibert.errors import UserError
from hf_minibert.files import (
    DAMAGED,
    Manifest,
    damage,
    digest,
    files_below,
    is_plain_file,
    set_aside,
    share,
    sync,
    temporary_path,
    write_json,
)
from hf_minibert.presets import PretrainingModel
from hf_minibert.pretraining.backend import Backend, generator_file, generator_state, restore_generator

logger = logging.getLogger(__name__)

CHECKSUMS = "checksums.json"
STATE = "train_state.json"
WEIGHTS = "model.safetensors"
MOMENTS = "optimizer.pt"


@dataclass
class TrainState:
    """How far a run is: all that decides its next step, except weights, moments and dropout's generator."""

    step: int = 0
    rows: int = 0
    """Rows read so far: the place in the data."""
    rows_per_step: int = 0
    """Rows of the newest step, over all processes."""
    tokens: int = 0
    """Tokens read so far, without padding."""
    seconds: float = 0.0
    training_seconds: float = 0.0
    """The part of `seconds` without evaluations and saving."""
    compile_seconds: float = 0.0
    """The part of `seconds` in which the model was compiled; the schedule leaves it out."""
    evaluated_step: int = 0
    """The step of the newest evaluation."""
    skipped_steps: int = 0
    """Steps in a row, up to this one, whose gradient was not finite."""
    skipped_steps_in_all: int = 0
    first_loss: float | None = None
    """The loss of the first step for which it was finite."""
    decayed_for: tuple[float | None, int | None, int | None] | None = None
    """The end (seconds, steps, tokens) towards which the rate of `warmup_stable_decay` has begun to fall."""
    data: str = ""
    """Fingerprint of the token store."""
    samples_before: list[dict[str, Any]] = field(default_factory=list)
    """What the untrained model predicted, for the comparison at the end."""


def write_tensors(path: Path, content: Any) -> None:
    """Write tensors as `torch.load(weights_only=True)` reads them; a full disk is an OSError, as for other files."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.write_bytes(buffer.getbuffer())


def save(
    output_dir: Path,
    state: TrainState,
    backend: Backend,
    settings: Mapping[str, Any],
    write_model: Callable[[Path, dict[str, Tensor]], None],
) -> None:
    """Make a checkpoint of a run; all processes take part, since each may hold a part.

    Args:
        output_dir: the run's folder.
        state: how far it is.
        backend: has the weights and the moments.
        settings: JSON that a resumed run starts from, by file name.
        write_model: writes into a folder, from the weights, what `from_pretrained` opens.

    Raises:
        UserError: see `save_checkpoint`.
    """
    accelerator = backend.accelerator
    generators = accelerator.gather(generator_state(accelerator)[None])
    weights, moments = backend.weights(), backend.moments()
    if accelerator.is_main_process:

        def write(folder: Path) -> None:
            write_model(folder, weights)
            write_tensors(folder / MOMENTS, moments)
            for rank, generator in enumerate(generators.cpu()):
                write_tensors(folder / generator_file(accelerator, rank), generator.clone())
            for name, content in settings.items():
                write_json(folder / name, content)

        save_checkpoint(output_dir, state, write)
    accelerator.wait_for_everyone()


def restore(checkpoint: Path, model: PretrainingModel, backend: Backend, prepare: Callable[[], None]) -> None:
    """Restore the weights, the moments and this process's generator from a checkpoint that `save` made.

    Args:
        checkpoint: a whole one.
        model: the run's model, with new weights.
        backend: the run's back end, which does not have the model yet.
        prepare: gives the back end the model and the optimizers.

    Raises:
        UserError: a file is not what it should be, or not of this model.
    """
    load_weights(model, checkpoint)
    prepare()
    moments = read_tensors(checkpoint / MOMENTS)
    refuse_other_moments(moments, backend.shapes, checkpoint / MOMENTS)
    backend.restore_moments(moments)
    if not backend.is_finite():
        raise UserError(
            f"weights or moments of {checkpoint} are not finite, so nothing can go on from it; delete it to go on from "
            "the one before"
        )
    accelerator = backend.accelerator
    generator = checkpoint / generator_file(accelerator, accelerator.process_index)
    if generator.exists():  # else there were fewer processes, or another kind of device
        try:
            restore_generator(read_tensors(generator), accelerator)
        except (RuntimeError, TypeError) as error:
            raise UserError(f"{generator} is not the state of a generator; delete {checkpoint}") from error
    accelerator.wait_for_everyone()


def load_weights(model: PretrainingModel, checkpoint: Path) -> None:
    """Copy weights into the model's own memory: used from a mapped file, they would change how CPU sums are rounded.

    Raises:
        UserError: the file is damaged, or of a model of another shape.
    """
    try:
        load_model(model, checkpoint / WEIGHTS)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{checkpoint} does not fit the model that the arguments describe: {reason}") from error
    except (SafetensorError, OSError) as error:
        raise UserError(f"{checkpoint / WEIGHTS} holds no weights ({error}); delete {checkpoint}") from error


def read_tensors(path: Path) -> Any:
    """Read what `write_tensors` wrote; code that may hide in the file does not run.

    Raises:
        UserError: the file is damaged, or holds something else.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # what is odd about the file is said below
            return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # each kind of damage has an exception of its own
        reason = (str(error).strip().splitlines() or ["empty"])[0][:200]
        raise UserError(
            f"{path} is not as a run wrote it ({reason}); delete {path.parent} to go on from the checkpoint before"
        ) from error


def refuse_other_moments(moments: Any, shapes: Mapping[str, torch.Size], path: Path) -> None:
    """Refuse moments whose names or shapes are not those of the model's parameters.

    Raises:
        UserError: names or shapes differ, or `moments` are something else.
    """
    try:
        remembered = {
            name: {value.shape for value in values.values() if isinstance(value, Tensor) and value.ndim}
            for name, values in moments["state"].items()
        }
        listed = {name for group in moments["param_groups"] for name in group["params"]}
    except (TypeError, LookupError, AttributeError) as error:
        raise UserError(f"{path} holds no moments; delete {path.parent} to go on from the checkpoint before") from error
    wrong = [name for name, found in remembered.items() if found - {shapes.get(name)}]
    wrong += sorted(set(shapes) ^ listed) + sorted(set(remembered) - listed)
    if wrong or not remembered:
        what = f"{wrong[0]} is wrong" if wrong else "they are empty"
        raise UserError(
            f"the moments in {path} are those of another model ({what}); delete {path.parent} to go on from the "
            "checkpoint before"
        )


def save_checkpoint(output_dir: Path, state: TrainState, write: Callable[[Path], None]) -> Path:
    """Make `checkpoint-<step>`: `write` fills a temporary folder, which then gets that name.

    The checksums of all files are written last; the folder is renamed once everything is on the disk.

    Raises:
        UserError: it cannot be written; earlier checkpoints stay as they were.
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
            sync(temporary / name)
        manifest = Manifest.read(output_dir)
        if manifest is not None:
            _keep_what_is_not_listed(folder, manifest)
            manifest.expect_folder(folder.name, checksums | {CHECKSUMS: digest(temporary / CHECKSUMS)})
            manifest.note_growth(is_over=False)
        if folder.exists():
            folder.rename(replaced)
        temporary.rename(folder)
        sync(output_dir)
    except (OSError, SafetensorError) as error:
        whole = next((path.name for path in checkpoints(output_dir)), "none")
        raise UserError(
            f"the checkpoint of step {state.step} could not be written ({' '.join(str(error).split())}); the newest "
            f"one is {whole}. Make room on the disk and go on with --resume"
        ) from error
    finally:
        if replaced.exists() and not folder.exists():
            replaced.rename(folder)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
    return folder


def _keep_what_is_not_listed(folder: Path, manifest: Manifest) -> None:
    """Rename what stands in a checkpoint's place, if it is no folder or has files that the run did not write."""
    if not os.path.lexists(folder):
        return
    is_folder = folder.is_dir() and not folder.is_symlink()
    if not is_folder or {f"{folder.name}/{name}" for name in files_below(folder)} - set(manifest.files):
        set_aside(folder)


def remove_checkpoint(checkpoint: Path) -> None:
    """Delete a checkpoint: only the files on the run's list, or the whole folder if the run has no list."""
    manifest = Manifest.read(checkpoint.parent)
    if manifest is None:
        shutil.rmtree(checkpoint)
    else:
        manifest.remove_folder(checkpoint.name)


def checkpoints(output_dir: Path) -> list[Path]:
    """The folders named as checkpoints, newest first."""
    found = [(int(match[1]), path) for path in output_dir.glob("checkpoint-*") if (match := _name(path)) is not None]
    return [path for _, path in sorted(found, reverse=True)]


def whole_checkpoints(output_dir: Path) -> list[Path]:
    """The checkpoints that a run can go on from, newest first."""
    return [checkpoint for checkpoint in checkpoints(output_dir) if is_whole(checkpoint)]


def _name(path: Path) -> re.Match[str] | None:
    return re.fullmatch(r"checkpoint-(\d+)", path.name) if path.is_dir() and not path.is_symlink() else None


def is_whole(checkpoint: Path) -> bool:
    """Whether every file is there and unchanged. Anything but a plain file inside the folder counts as damage."""
    inside = Manifest(checkpoint, "", {})
    try:
        if not is_plain_file(checkpoint / CHECKSUMS):
            return False
        checksums = json.loads((checkpoint / CHECKSUMS).read_text(encoding="utf-8"))
        paths = {name: inside.path(name) for name in checksums}
        if STATE not in paths or not all(path is not None and is_plain_file(path) for path in paths.values()):
            return False
        # Weights and moments without a checksum are never used.
        if any((checkpoint / name).exists() and name not in paths for name in (WEIGHTS, MOMENTS)):
            return False
        return all(digest(checkpoint / name) == one for name, one in checksums.items())
    except DAMAGED:
        return False


def latest_checkpoint(output_dir: Path) -> Path:
    """The newest whole checkpoint; a warning names each newer one that is damaged.

    Raises:
        UserError: there is none.
    """
    for checkpoint in checkpoints(output_dir):
        if is_whole(checkpoint):
            return checkpoint
        logger.warning("%s is damaged; looking for the one before", checkpoint)
    raise UserError(f"nothing to resume: {output_dir} has no whole checkpoint; start the run without --resume")


def load_state(checkpoint: Path) -> TrainState:
    """Read how far the run was when it made the checkpoint.

    Raises:
        UserError: the file is damaged, or has names or values that this version does not know.
    """
    path, kinds = checkpoint / STATE, get_type_hints(TrainState)
    remedy = f"a newer hf_minibert may have written it, else delete {checkpoint} to go on from the checkpoint before"
    with damage(f"{path}, which says how far a run is,", remedy):
        content = json.loads(path.read_text(encoding="utf-8"))
        unknown = [name for name in content if name not in kinds]
        wrong = [name for name, value in content.items() if name in kinds and not _is_a(value, kinds[name])]
        if unknown or wrong or f"checkpoint-{content['step']}" != checkpoint.name:
            what = f"unknown key {unknown[0]!r}" if unknown else f"not a value of {wrong[0] if wrong else 'step'}"
            raise ValueError(what)
    return TrainState(**content)


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a JSON value has the type of a field; numbers must also be finite and not negative."""
    if get_origin(kind) is UnionType:
        return any(_is_a(value, one) for one in get_args(kind))
    if kind is NoneType:
        return value is None
    if kind in (int, float):
        numbers = (int,) if kind is int else (int, float)
        return isinstance(value, numbers) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    if get_origin(kind) is tuple:
        return isinstance(value, list) and len(value) == 3 and all(_is_a(one, float | None) for one in value)
    if get_origin(kind) is list:
        return isinstance(value, list) and all(isinstance(one, dict) for one in value)
    return isinstance(value, str)


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
    """Delete the checkpoints after `step`, damaged or not taken to resume from: the resumed run makes them again."""
    for checkpoint in checkpoints(output_dir):
        if int(checkpoint.name.removeprefix("checkpoint-")) > step:
            remove_checkpoint(checkpoint)


def prune_checkpoints(output_dir: Path, keep: int) -> None:
    """Delete all but the `keep` newest; once the rate falls for good, also keep the newest from before that."""
    if len(checkpoints(output_dir)) <= keep:
        return
    found = whole_checkpoints(output_dir)  # others are nothing to go on from: damaged, or what a user keeps there
    has_decayed = bool(found) and load_state(found[0]).decayed_for is not None
    stable = _newest_stable(output_dir) if has_decayed else None
    for checkpoint in found[keep:]:
        if checkpoint != stable:
            remove_checkpoint(checkpoint)
