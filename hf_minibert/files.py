"""Files that are written whole or not at all, and the list in a folder of what we have written there.

A folder that one of the verbs fills has such a list, ``.hf_minibert.json``: names and checksums. A verb may
replace and delete what is on the list and unchanged. Everything else is the user's and stays, under another name if the
verb needs its name.
"""

import errno
import hashlib
import json
import logging
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any

from hf_minibert.errors import UserError

logger = logging.getLogger(__name__)

DECODER = "decoder"
"""The subfolder of a hybrid run (whose own folder is the encoder) with the same weights as a causal model."""
TARGET_TOKENIZER = "target_tokenizer"
"""The subfolder of a translator with the tokenizer that it writes with, where it is another than it reads with."""
MANIFEST = ".hf_minibert.json"
TEMPORARY = re.compile(r"\.hf_minibert-[0-9a-f]{16}")
BUILTIN = "builtin"
"""The name of the corpus that is made from installed packages."""
CARD, GENERATED_CARD = "README.md", "README.generated.md"
_DISK_IN_WORDS = re.compile(
    r"\(os error \d+\)|PytorchStreamWriter|inline_container|unexpected pos|\d+ requested and \d+ written"
)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_LINK = os.O_NOFOLLOW if sys.platform != "win32" else 0

DAMAGED = (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""What it can raise to read JSON that anybody may have changed, and to use it as what we once wrote."""

Stamp = dict[str, Any]
"""A file as it was written: its `sha256`; with `first_bytes`, only that of so many bytes, since the file grows."""


def temporary_path(folder: Path) -> Path:
    """An unpredictable name in a folder. The caller must create the file or folder and fail if it exists."""
    return folder / f".hf_minibert-{secrets.token_hex(8)}"


@contextmanager
def replaced_file(path: Path, *, is_listed: bool = True) -> Iterator[Path]:
    """A file to write, which takes the name of ``path`` when the block ends well, and vanishes otherwise.

    A link at ``path`` is replaced, never followed. A file that is not to be `is_listed` holds words of the user: it is
    not put on the folder's list, whose files may be deleted.
    """
    unfinished = temporary_path(path.parent)
    unfinished.open("x").close()
    try:
        yield unfinished
        manifest = Manifest.read(path.parent) if is_listed and path.name != MANIFEST else None
        if manifest is not None:
            manifest.make_way({path.name: digest(unfinished)})
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file so that it is never seen half-written."""
    with replaced_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file so that it is never seen half-written."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def append_text(path: Path, text: str) -> None:
    """Add to the end of a file; a link in its place is an error."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | _NO_LINK, 0o666)
    with os.fdopen(descriptor, "a", encoding="utf-8", newline="\n") as file:
        file.write(text)


@contextmanager
def disk_errors(what: str, remedy: str) -> Iterator[None]:
    """Turn a failed write into a UserError, also those of libraries, each with its own error.

    Raises:
        UserError: says what could not be done, why, and what to do.
    """
    try:
        yield
    except Exception as error:  # tokenizers raise nothing narrower
        words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        reason = " ".join(words.split())
        is_full = isinstance(error, OSError) and error.errno in _FULL
        if isinstance(error, UserError) or not (is_full or _DISK_IN_WORDS.search(reason)):
            raise
        raise UserError(f"{what} ({reason}); {remedy}") from error


@contextmanager
def damage(what: object, remedy: str) -> Iterator[None]:
    """A block that reads a file of ours: whatever is wrong with it becomes an error for people.

    Raises:
        UserError: says what is damaged, how, and what to do.
    """
    try:
        yield
    except UserError:
        raise
    except DAMAGED as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{what} is damaged ({reason}); {remedy}") from error


def digest(path: Path, first_bytes: int | None = None) -> str:
    """The SHA-256 of a file, or of its beginning."""
    with path.open("rb") as file:
        if first_bytes is None:
            return hashlib.file_digest(file, "sha256").hexdigest()
        return hashlib.sha256(file.read(first_bytes)).hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """The files of weights in a folder."""
    return sorted(folder.glob("*.safetensors"))


def weights_digest(folder: Path) -> str:
    """The SHA-256 of a folder's file of weights; of several, that of their checksums one behind another."""
    digests = [digest(path) for path in weight_files(folder)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk. Does nothing on Windows, which syncs no folder or read-only file."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_plain_file(path: Path) -> bool:
    """Whether a path is that of a file: not of a link, a folder or a device."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def files_below(folder: Path) -> list[str]:
    """The names of all files in a folder and its subfolders, relative to it."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if is_plain_file(path))


def shown(name: str) -> str:
    """A file's name for a message: on one line, whatever characters it has."""
    return name if name.isprintable() else ascii(name)


def set_aside(path: Path) -> Path:
    """Give what is at a path another name, so that it is kept although its name is needed."""
    for number in count(1):
        kept = path.with_name(f"{path.name}.kept" + ("" if number == 1 else f"-{number}"))
        if not os.path.lexists(kept):
            path.rename(kept)
            logger.warning("%s is not as hf_minibert wrote it; it is kept as %s", shown(str(path)), shown(kept.name))
            return kept
    raise AssertionError("numbers do not end")


def share(folder: Path) -> None:
    """Let others read what is in a folder as far as the umask allows; safetensors lets only the owner."""
    probe = temporary_path(folder)
    probe.open("x").close()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for name in files_below(folder):
        (folder / name).chmod(mode)


class Manifest:
    """The list of what a verb has written in a folder."""

    def __init__(
        self, folder: Path, verb: str, files: dict[str, list[Stamp]], cards: dict[str, str] | None = None
    ) -> None:
        """`files`: the stamps of each file, by relative name: one, or an old and a new one during a replacement.

        `cards`: the checksum of the card that was last published to each repository, by its address.
        """
        self.folder, self.verb, self.files, self.cards = folder, verb, files, cards or {}

    @classmethod
    def read(cls, folder: Path) -> "Manifest | None":
        """The list of a folder; None if it has none.

        Raises:
            UserError: there is one, but not as it was written.
        """
        path = folder / MANIFEST
        if not os.path.lexists(path):
            return None
        remedy = "give another folder, or delete this file, after which nothing else in the folder is replaced"
        with damage(f"{path}, the list of what was written there,", remedy):
            if not is_plain_file(path):
                raise ValueError("not a file")
            content = json.loads(path.read_text(encoding="utf-8"))
            verb, files, cards = content["verb"], content["files"], content.get("cards", {})
            is_sound = (
                isinstance(verb, str)
                and isinstance(cards, dict)
                and all(
                    isinstance(stamp["sha256"], str) and isinstance(stamp.get("first_bytes", 0), int)
                    for stamps in files.values()
                    for stamp in stamps
                )
            )
            if not is_sound:
                raise ValueError("it lists something else")
        return cls(folder, verb, files, cards)

    def write(self) -> None:
        """Put the list into its folder."""
        content = {"verb": self.verb, "files": self.files} | ({"cards": self.cards} if self.cards else {})
        with replaced_file(self.folder / MANIFEST) as unfinished:
            unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def path(self, name: str) -> Path | None:
        """Where a listed file is; None if that is not inside the folder, or in a repository's own folder."""
        parts = PurePosixPath(name).parts
        if not parts or parts[0] == "/" or "\\" in name or ":" in name or "\0" in name:
            return None
        if any(part == ".." or part.lower() == ".git" for part in parts):
            return None
        if any(self.folder.joinpath(*parts[:depth]).is_symlink() for depth in range(1, len(parts))):
            return None
        return self.folder / name

    def fitting(self, name: str) -> list[Stamp]:
        """The stamps that fit the file as it is now: none if it is gone, or if somebody has changed it."""
        path = self.path(name)
        if path is None or not is_plain_file(path):
            return []
        return [stamp for stamp in self.files.get(name, []) if _fits(path, stamp)]

    def make_way(self, coming: Mapping[str, str]) -> None:
        """List files that are about to be written, by checksum; a user's file with such a name gets another name."""
        for name, checksum in coming.items():
            for parent in [*PurePosixPath(name).parents][-2::-1]:
                folder = self.folder / parent
                if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir()):
                    set_aside(folder)
            path, fitting = self.folder / name, self.fitting(name)
            if os.path.lexists(path) and not fitting and not (is_plain_file(path) and digest(path) == checksum):
                set_aside(path)
            self.files[name] = [*fitting, {"sha256": checksum}]
        self.write()

    def grow(self, names: list[str]) -> None:
        """List growing files (logs) at their present length; other listed files keep their stamps."""
        for name in names:
            path = self.folder / name
            size = path.stat().st_size if path.exists() else 0
            checksum = digest(path, size) if size else hashlib.sha256().hexdigest()
            self.files[name] = [{"sha256": checksum, "first_bytes": size}]
        self.write()

    def note_growth(self, *, is_over: bool) -> None:
        """Update the stamps of growing files that nobody has changed; if growth `is_over`, make them final."""
        growing = [name for name, stamps in self.files.items() if any("first_bytes" in stamp for stamp in stamps)]
        self.grow([name for name in growing if self.fitting(name)])
        if is_over:
            for name in growing:
                self.files[name] = [{"sha256": stamp["sha256"]} for stamp in self.files[name]]
            self.write()

    def expect_folder(self, folder: str, checksums: Mapping[str, str]) -> None:
        """List the files of a subfolder that is about to appear, or to take the place of another."""
        for name, checksum in checksums.items():
            before = self.files.get(f"{folder}/{name}", [])
            self.files[f"{folder}/{name}"] = [*before[-1:], {"sha256": checksum}]
        self.write()

    def below(self, folder: str) -> list[str]:
        """The listed files of a subfolder."""
        return [name for name in self.files if name.startswith(f"{folder}/")]

    def remove_folder(self, folder: str) -> None:
        """Delete the listed files of a subfolder, and take them off the list; what somebody has changed stays."""
        names = self.below(folder)
        if changed := self.remove(names):
            logger.warning(
                "kept, since it was changed: %s", ", ".join(shown(str(self.folder / name)) for name in changed)
            )
        for name in names:
            del self.files[name]
        self.write()

    def remove(self, names: list[str]) -> list[str]:
        """Delete listed files that are as they were written, and folders that are empty then.

        Returns:
            The names of those that somebody has changed, which stay.
        """
        changed = []
        for name in names:
            path = self.path(name)
            if path is None or not os.path.lexists(path):
                continue
            if self.fitting(name):
                path.unlink()
            else:
                changed.append(name)
        self.remove_empty_folders(names)
        return changed

    def remove_empty_folders(self, names: list[str]) -> None:
        """Delete those in which files of these names were, if they hold nothing else."""
        folders = {parent.as_posix() for name in names for parent in PurePosixPath(name).parents} - {"."}
        for name in sorted(folders, key=len, reverse=True):
            folder = self.path(name)
            if folder is not None and folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
                folder.rmdir()


def _fits(path: Path, stamp: Stamp) -> bool:
    """Whether a file is as its stamp says. What grew on after it was noted must be of its kind: lines of a log."""
    size = stamp.get("first_bytes")
    if size is None:
        return bool(digest(path) == stamp["sha256"])
    if path.stat().st_size < size or digest(path, size) != stamp["sha256"]:
        return False
    if path.suffix != ".jsonl":
        return True
    with path.open("rb") as file:
        file.seek(size)
        *lines, last = file.read().split(b"\n")
    return all(line.startswith(b'{"step": ') and line.endswith(b"}") for line in lines) and b'{"step": '.startswith(
        last[:9]
    )
