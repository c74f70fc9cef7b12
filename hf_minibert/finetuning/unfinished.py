"""A fine-tuning that has not come to its end: what it was asked for, and its checkpoints.

They lie in a folder of their own inside output_dir, which nothing else opens, while an earlier result stays beside it.
A checkpoint is one of `Trainer`'s that has a list of its files' checksums; without it, the checkpoint is not whole.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hf_minibert.errors import UserError
from hf_minibert.files import digest, files_below, write_json
from hf_minibert.finetuning.arguments import FinetuneArguments
from hf_minibert.output_folder import UNFINISHED, discard

BEGUN = "begun.json"
PROGRESS = "progress.json"
FREE = ("output_dir", "resume", "overwrite_output_dir", "model_name_or_path", "dataset", "test_dataset")
"""Arguments that another process may give otherwise; what the last three name is compared by content."""
DAMAGED = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)


class Unfinished:
    """The folder of an unfinished fine-tuning inside output_dir; perhaps it is not there."""

    def __init__(self, output_dir: str | Path) -> None:
        self.folder = Path(output_dir) / UNFINISHED

    def begun(self) -> dict[str, Any] | None:
        """What was asked for, if a fine-tuning was begun: its `arguments`, and what tells the rest of its inputs.

        Raises:
            UserError: it is not as it was written.
        """
        path = self.folder / BEGUN
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return dict(content) | {"arguments": dict(content["arguments"])}
        except FileNotFoundError:
            return None
        except DAMAGED as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{path}, which says what was asked for, is damaged ({reason}); begin anew with --overwrite_output_dir"
            ) from error

    def begin(self, asked: dict[str, Any]) -> None:
        """Note what is asked for; of what was there before, nothing stays."""
        discard(self.folder)
        self.folder.mkdir()
        write_json(self.folder / BEGUN, asked)

    def checkpoint(self) -> Path | None:
        """The newest that is whole, as is the best one, which the end needs."""
        found = sorted(self.folder.glob("checkpoint-*"), key=_step, reverse=True)
        return next(filter(self._is_whole, found), None)

    def _is_whole(self, checkpoint: Path) -> bool:
        try:
            progress = read_progress(checkpoint)
            places = [checkpoint] + ([self.folder / progress["best"]] if progress["best"] is not None else [])
            checksums = [read_progress(place)["checksums"] for place in places]
            return all(
                names and all(digest(place / name) == checksum for name, checksum in names.items())
                for place, names in zip(places, checksums, strict=True)
            )
        except DAMAGED:
            return False

    def seal(self, checkpoint: Path, progress: dict[str, Any]) -> None:
        """Declare a checkpoint whole, with the name of the `best` in its progress; then forget all but these two."""
        checksums = {name: digest(checkpoint / name) for name in files_below(checkpoint)}
        write_json(checkpoint / PROGRESS, progress | {"checksums": checksums})
        for other in self.folder.glob("checkpoint-*"):
            if other.name not in (checkpoint.name, progress["best"]):
                discard(other)

    def forget(self) -> None:
        """Delete it."""
        discard(self.folder)


def _step(checkpoint: Path) -> int:
    number = checkpoint.name.removeprefix("checkpoint-")
    return int(number) if number.isdecimal() else -1


def read_progress(checkpoint: Path) -> dict[str, Any]:
    """What `seal` noted."""
    progress: dict[str, Any] = json.loads((checkpoint / PROGRESS).read_text(encoding="utf-8"))
    return progress


def content_hash(parts: Iterable[Any]) -> str:
    """The SHA-256 of JSON values, or of bytes."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part if isinstance(part, bytes) else json.dumps(part).encode())
        found.update(b"\n")
    return found.hexdigest()


def refuse_changes(before: dict[str, Any], now: dict[str, Any], folder: str) -> None:
    """Refuse to go on with something else than what was begun.

    Args:
        before: what was begun, as `Unfinished.begun` returns it.
        now: the same of what is asked for.
        folder: what the message calls it.

    Raises:
        UserError: one of them is not the same.
    """
    remedy = "restore it to go on, or begin anew with --overwrite_output_dir"
    if changes := changed_arguments(before["arguments"], now["arguments"]):
        raise UserError(f"the fine-tuning in {folder} was begun with other arguments: {changes}; {remedy}")
    for name in now.keys() - {"arguments"}:
        if before.get(name) != now[name]:
            was = f" ({before.get(name)}, now {now[name]})" if isinstance(now[name], int) else ""
            raise UserError(f"the fine-tuning in {folder} was begun with another {name}{was}; {remedy}")


def changed_arguments(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The arguments that matter and are not the same, for a message; empty if there are none."""
    names = [name for name in now if name not in FREE and before.get(name) != now[name]]
    return ", ".join(f"{name} was {before.get(name)}, now {now[name]}" for name in names)


def saved_arguments(arguments: FinetuneArguments) -> dict[str, Any]:
    """Arguments as they are kept: without what says how a process was started."""
    return asdict(arguments) | {"resume": False, "overwrite_output_dir": False}
