"""An unfinished fine-tuning: what was asked for, and its checkpoints.

Both lie in a folder of their own inside output_dir, which nothing else opens; an earlier result stays beside it.
A checkpoint is `Trainer`'s, with a list of its files' checksums; without that list it is not whole.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from hf_minibert.errors import UserError
from hf_minibert.files import DAMAGED, damage, digest, files_below, write_json
from hf_minibert.finetuning.arguments import FinetuneArguments
from hf_minibert.hub.arguments import SHARING
from hf_minibert.output_folder import UNFINISHED, discard, settle

ARGUMENTS = "arguments.json"
RESULTS = "results.json"
BEGUN = "begun.json"
PROGRESS = "progress.json"
OUTCOME = "outcome.json"
SOURCES = ("model_name_or_path", "tokenizer_name_or_path", "dataset", "eval_dataset", "test_dataset")
FREE = ("output_dir", "resume", "overwrite_output_dir", "per_device_eval_batch_size", *SHARING, *SOURCES)
"""Arguments that may differ when a fine-tuning is resumed; what `SOURCES` name is compared by content."""


class Unfinished:
    """The folder of an unfinished fine-tuning inside output_dir; it need not exist."""

    def __init__(self, output_dir: str | Path) -> None:
        self.folder = Path(output_dir) / UNFINISHED

    def of_seed(self, seed: int) -> "Unfinished":
        """The folder of one of several seeds, inside this one."""
        place = Unfinished(self.folder.parent)
        place.folder = self.folder / f"seed-{seed}"
        return place

    def seeds(self) -> list["Unfinished"]:
        """The folders of all seeds that were begun."""
        numbers = (path.name.removeprefix("seed-") for path in self.folder.glob("seed-*") if path.is_dir())
        return [self.of_seed(int(number)) for number in numbers if number.isdecimal()]

    def outcome(self) -> dict[str, Any] | None:
        """What `finish` noted of a seed; None if it is not finished, or its best weights are not whole any more."""
        try:
            found = dict(json.loads((self.folder / OUTCOME).read_text(encoding="utf-8")))
            return found if self._is_whole(self.folder / found["best"]) else None
        except DAMAGED:
            return None

    def finish(self, outcome: dict[str, Any]) -> None:
        """Note what a seed gave, under `best` the checkpoint with its best weights, and delete the other ones."""
        self.folder.mkdir(exist_ok=True)
        write_json(self.folder / OUTCOME, outcome)
        for checkpoint in self.folder.glob("checkpoint-*"):
            if checkpoint.name != outcome["best"]:
                discard(checkpoint)

    def progress(self) -> str | None:
        """What there is to go on from, in a word; None if there is nothing."""
        if (checkpoint := self.checkpoint()) is not None:
            return checkpoint.name
        places = [place for place in self.seeds() if place.outcome() or place.checkpoint()]
        return ", ".join(sorted(place.folder.name for place in places)) or None

    def begun(self) -> dict[str, Any] | None:
        """What `begin` noted: the `arguments`, and hashes of the other inputs; None if nothing was begun.

        Raises:
            UserError: the file is damaged.
        """
        path = self.folder / BEGUN
        if not path.exists():
            return None
        with damage(f"{path}, which says what was asked for,", "begin anew with --overwrite_output_dir"):
            content = json.loads(path.read_text(encoding="utf-8"))
            return dict(content) | {"arguments": dict(content["arguments"])}

    def begin(self, asked: dict[str, Any]) -> None:
        """Empty the folder, and note what is asked for."""
        discard(self.folder)
        self.folder.mkdir()
        write_json(self.folder / BEGUN, asked)

    def checkpoint(self) -> Path | None:
        """The newest whole checkpoint whose best checkpoint, which the end needs, is whole, too; else None."""
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
        """Declare a checkpoint whole; then delete all others but the one that `progress` names as the best."""
        checksums = {name: digest(checkpoint / name) for name in files_below(checkpoint)}
        write_json(checkpoint / PROGRESS, progress | {"checksums": checksums})
        for other in self.folder.glob("checkpoint-*"):
            if other.name not in (checkpoint.name, progress["best"]):
                discard(other)

    def forget(self) -> None:
        """Delete the folder."""
        discard(self.folder)


def _step(checkpoint: Path) -> int:
    number = checkpoint.name.removeprefix("checkpoint-")
    return int(number) if number.isdecimal() else -1


def read_progress(checkpoint: Path) -> dict[str, Any]:
    """Read what `seal` noted in a checkpoint."""
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
    """Refuse to resume with other inputs than the fine-tuning was begun with.

    Args:
        before: what was begun, as `Unfinished.begun` returns it.
        now: what is asked for now, in the same form.
        folder: the name of the folder, for the message.

    Raises:
        UserError: an argument or an input differs.
    """
    remedy = "restore it to go on, or begin anew with --overwrite_output_dir"
    if changes := changed_arguments(before["arguments"], now["arguments"]):
        raise UserError(f"the fine-tuning in {folder} was begun with other arguments: {changes}; {remedy}")
    for name in now.keys() - {"arguments"}:
        if before.get(name) != now[name]:
            was = f" ({before.get(name)}, now {now[name]})" if isinstance(now[name], int) else ""
            raise UserError(f"the fine-tuning in {folder} was begun with another {name}{was}; {remedy}")


def changed_arguments(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The arguments that differ, except those in `FREE`, as words for a message; empty if there are none."""
    names = [name for name in now if name not in FREE and before.get(name) != now[name]]
    return ", ".join(f"{name} was {before.get(name)}, now {now[name]}" for name in names)


def changed_sources(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The arguments in `SOURCES` that name another place, as words for a message; empty if there are none."""

    def place(name: Any) -> Any:
        return str(Path(name).resolve()) if isinstance(name, str) and Path(name).exists() else name

    names = [name for name in SOURCES if place(before.get(name)) != place(now[name])]
    return ", ".join(f"{name} was {before.get(name)}, now {now[name]}" for name in names)


def earlier_arguments(output_dir: str | Path) -> dict[str, Any] | None:
    """The arguments of the fine-tuning in a folder, unfinished or finished; None if there is none to be read.

    Raises:
        UserError: see `Unfinished.begun`.
    """
    begun = Unfinished(output_dir).begun()
    if begun is not None:
        return dict(begun["arguments"])
    folder = Path(output_dir)
    settle(folder)
    try:
        if not (folder / RESULTS).is_file():
            return None
        saved = dict(json.loads((folder / ARGUMENTS).read_text(encoding="utf-8")))
    except DAMAGED:  # which the fine-tuning itself says
        return None
    known = {field.name for field in fields(FinetuneArguments)}
    return {name: value for name, value in saved.items() if name in known}


def saved_arguments(arguments: FinetuneArguments) -> dict[str, Any]:
    """Arguments as they are saved: with the two flags that say how to begin, such as --resume, turned off."""
    return asdict(arguments) | {"resume": False, "overwrite_output_dir": False}
