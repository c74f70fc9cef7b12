"""The folder that a verb fills: its lock, the files that it replaces, and how new files get there."""

import errno
import logging
import os
import re
import shutil
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from glob import glob
from pathlib import Path

from hf_minibert.card_parts import merged
from hf_minibert.errors import UserError
from hf_minibert.exchange import NEXT, exchange, finish
from hf_minibert.files import (
    CARD,
    GENERATED_CARD,
    MANIFEST,
    TEMPORARY,
    Manifest,
    digest,
    disk_errors,
    files_below,
    is_plain_file,
    replaced_file,
    share,
    shown,
    temporary_path,
)
from hf_minibert.signals import half_written

if sys.platform == "win32":
    from filelock import FileLock, Timeout
else:
    import fcntl

logger = logging.getLogger(__name__)

LOCK = ".hf_minibert.lock"
UNFINISHED = ".hf_minibert-unfinished"
"""The subfolder for what a run resumes from while an earlier result stays beside it."""
SECONDS_TO_WAIT = 2.0
"""For the lock: a process that was killed a moment ago, or one that only looks, lets go of it soon."""
NAMES_SHOWN = 12
RESULTS = ("results.json", "export.json", "training.json", "store.json")
"""A folder with one of these, or with a checkpoint, is worth something."""
_FOLDERS = re.compile(
    rf"logs|decoder|onnx|model|library|\d_(Pooling|Normalize)|checkpoint-\d+|{re.escape(UNFINISHED)}|{re.escape(NEXT)}"
)
_OURS = re.compile(
    r"(arguments|results|config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab"
    r"|settings|certificate|export|training|store|model\.safetensors\.index|modules|sentence_bert_config"
    r"|config_sentence_transformers)\.json|(metrics|samples)\.jsonl|(curves|chart)\.png|index\.html|page\.(css|js)"
    r"|README(\.generated)?\.md|.*\.safetensors|tokens\.arrow|(vocab|merges)\.txt|\w+\.(py|jinja)"
    rf"|{_FOLDERS.pattern}|\.hf_minibert.*|\..*\.tmp"
)
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EBADF, errno.EINVAL)


def check_folder(
    output_dir: str, verb: str, kind: str, *, replaces: bool, resumes: bool = False, remedy: str, inputs: Iterable[str]
) -> None:
    """Whether a verb may fill a folder; nothing is written, unless a killed process has left an exchange half done.

    Args:
        output_dir: the folder, or its name if it is not there.
        verb: the verb's name, which is on the list of what it writes.
        kind: what the folder will hold, in words.
        replaces: whether an earlier such thing may be replaced.
        resumes: whether the verb goes on with what is there.
        remedy: what to do about a folder that is not empty.
        inputs: names of what the verb reads: files, folders, globs, names on the Hub.

    Raises:
        UserError: the path is no folder, another process writes there, it holds something else or what the verb reads,
            or links lie where files belong.
    """
    _check(output_dir, verb, kind, replaces=replaces, resumes=resumes, remedy=remedy, inputs=inputs, is_locked=False)


def _check(
    output_dir: str,
    verb: str,
    kind: str,
    *,
    replaces: bool,
    resumes: bool,
    remedy: str,
    inputs: Iterable[str],
    is_locked: bool,
) -> None:
    """As `check_folder`, also for whoever has the lock."""
    if not output_dir:
        raise UserError("output_dir is empty; name a folder, as . does the working directory")
    folder = Path(output_dir)
    if os.path.lexists(folder) and not folder.is_dir():
        what = "a link to nothing" if folder.is_symlink() and not folder.exists() else "a file"
        raise UserError(f"output_dir {folder} is {what}; give a folder")
    if not resumes:
        _refuse_unwritable(folder)
    if not folder.exists():
        return
    refuse_links(folder)
    if is_locked:
        finish(folder)
    else:
        _look_at_lock(folder)
        settle(folder)
    if (folder / UNFINISHED).exists():
        _refuse_others(folder, verb, kind)
    if resumes or is_empty(folder):
        return
    if not replaces and not _came_to_nothing(folder, verb):
        raise UserError(f"output_dir {folder} is not empty; {remedy}")
    _refuse_others(folder, verb, kind)
    refuse_inputs(folder, inputs)


def _refuse_unwritable(folder: Path) -> None:
    """Raises a UserError if the folder, or the nearest one above it that is there, cannot be written."""
    try:
        place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    except OSError as error:
        raise UserError(f"output_dir {str(folder)[:60]!a} cannot be made ({error.strerror}); give another") from error
    if place != folder and not place.is_dir():
        raise UserError(f"output_dir {folder} cannot be made, since {place} is no folder; give another")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"output_dir {folder} cannot be written: {place} is read-only; give another")


def _refuse_others(folder: Path, verb: str, kind: str) -> None:
    """Raises a UserError if the folder's list is missing, or is another verb's."""
    manifest = Manifest.read(folder)
    if manifest is None:
        raise UserError(
            f"output_dir {folder} holds something other than {kind}: it has no {MANIFEST}, which lists what may be "
            "replaced; name another folder, or delete this one by hand"
        )
    if manifest.verb != verb:
        raise UserError(
            f"output_dir {folder} holds something other than {kind}: {shown(manifest.verb)} wrote it; name "
            "another folder"
        )


def is_empty(folder: Path) -> bool:
    """Whether nothing is in a folder but what a file system or a killed process leaves there."""
    return not any(_entries(folder))


def _entries(folder: Path) -> list[Path]:
    own = {"lost+found", LOCK, MANIFEST, UNFINISHED, NEXT}
    return sorted(path for path in folder.iterdir() if path.name not in own and not TEMPORARY.fullmatch(path.name))


def _came_to_nothing(folder: Path, verb: str) -> bool:
    """Whether all that is there is what the verb wrote before it had a result, and nobody has changed it."""
    manifest = Manifest.read(folder)
    if manifest is None or manifest.verb != verb:
        return False
    names = set(files_below(folder)) - {MANIFEST, LOCK}
    names = {name for name in names if not TEMPORARY.fullmatch(top := name.split("/")[0]) and top != UNFINISHED}
    has_result = any(name in RESULTS or name.startswith("checkpoint-") for name in names)
    return not has_result and all(manifest.fitting(name) for name in names)


def refuse_links(folder: Path) -> None:
    """Refuse a folder in which a link, a pipe or a device lies where a file or a folder of ours belongs.

    Raises:
        UserError: there is one.
    """
    for path in sorted(folder.iterdir()):
        if not _OURS.fullmatch(path.name):
            continue
        below = path.rglob("*") if _FOLDERS.fullmatch(path.name) and not path.is_symlink() else ()
        for one in (path, *below):
            mode = one.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                what = "a link" if stat.S_ISLNK(mode) else "no ordinary file"
                raise UserError(
                    f"{shown(str(one))} is {what} where a file of ours belongs; it is not followed: remove it, or put "
                    "the file itself there"
                )


def refuse_inputs(folder: Path, inputs: Iterable[str]) -> None:
    """Refuse to fill a folder that holds what the verb reads.

    Raises:
        UserError: it does.
    """
    place = folder.resolve()
    for name in map(os.path.expanduser, inputs):
        for path in (name, *glob(name, recursive=True)):
            if os.path.lexists(path) and Path(path).resolve().is_relative_to(place):
                raise UserError(
                    f"{shown(path)} is read and lies in output_dir {folder}, which is written; move it, or give "
                    "another output_dir"
                )


# ---------------------------------------------------------------- the lock


def _look_at_lock(folder: Path) -> None:
    """Raise a UserError if another process holds the lock. Looking does not block anybody."""
    if sys.platform == "win32" or not (folder / LOCK).exists():
        return
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:  # it has just ended
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _taken(folder) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    finally:
        os.close(descriptor)


def _taken(folder: Path) -> UserError:
    return UserError(f"another process is writing in output_dir {folder}; wait for its end, or give another folder")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep others from writing in a folder. The system lets go of the lock when the process ends, however it ends.

    Raises:
        UserError: another process has it.
    """
    if sys.platform == "win32":
        try:
            with FileLock(folder / LOCK, timeout=SECONDS_TO_WAIT):
                yield
        except Timeout:
            raise _taken(folder) from None
        return
    descriptor = _take_lock(folder)
    _HELD.add(descriptor)
    try:
        with half_written(folder):
            yield
    finally:
        if descriptor in _HELD:
            _HELD.remove(descriptor)
            (folder / LOCK).unlink(missing_ok=True)
            os.close(descriptor)


def _take_lock(folder: Path) -> int:
    deadline = time.monotonic() + SECONDS_TO_WAIT
    while True:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), (folder / LOCK).stat()):
                return descriptor
        except (BlockingIOError, FileNotFoundError):  # the second: whoever had it has just removed it
            pass
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            logger.warning("%s cannot be locked (%s): never start two runs there", folder, error.strerror)
            return descriptor
        os.close(descriptor)
        if time.monotonic() > deadline:
            raise _taken(folder)
        time.sleep(0.02)


_HELD: set[int] = set()


def _let_go_in_child() -> None:
    """Release the lock in a forked process, which would else hold it longer than its parent."""
    while _HELD:
        os.close(_HELD.pop())


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_let_go_in_child)


# ---------------------------------------------------------------- filling it


@contextmanager
def held_folder(
    output_dir: str,
    verb: str,
    kind: str,
    *,
    replaces: bool,
    resumes: bool = False,
    remedy: str,
    inputs: Iterable[str],
) -> Iterator[Path]:
    """Make a run's folder if need be, and lock it until the block ends; arguments as `check_folder`.

    This deletes half-written files of killed processes. Unless the verb resumes, it also deletes an earlier run's files
    that nobody has changed; it keeps and names the rest.

    Raises:
        UserError: as `check_folder`.
    """
    inputs = list(inputs)
    check_folder(output_dir, verb, kind, replaces=replaces, resumes=resumes, remedy=remedy, inputs=inputs)
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        _check(output_dir, verb, kind, replaces=replaces, resumes=resumes, remedy=remedy, inputs=inputs, is_locked=True)
        _sweep(folder)
        manifest = Manifest.read(folder)
        if not resumes:
            changed = manifest.remove(list(manifest.files)) if manifest is not None else []
            _tell_kept(folder, set(manifest.files) if manifest is not None else set(), changed)
            manifest = None
        if manifest is None:
            Manifest(folder, verb, {}).write()
        yield folder


@contextmanager
def replaced_folder(output_dir: str, verb: str, kind: str, *, inputs: Iterable[str], last: str) -> Iterator[Path]:
    """An empty folder whose files move into ``output_dir`` if the block succeeds; else nothing changes there.

    They replace the verb's earlier files that nobody has changed; the rest is kept.

    Args:
        output_dir: the folder to fill.
        verb: see `check_folder`, as for `kind` and `inputs`.
        kind: what it will hold, in words.
        inputs: names of what the verb reads.
        last: the file without which nothing opens the folder; see `move_into`.

    Raises:
        UserError: as `check_folder`, or the disk does not take the files.
    """
    with (
        kept_folder(output_dir, verb, kind, replaces=True, remedy="", inputs=inputs) as folder,
        disk_errors(f"output_dir {folder} could not be written", "make room on the disk, and try again"),
        staged_folder(folder) as staged,
    ):
        yield staged
        replace_files(staged, folder, verb, last=last)


@contextmanager
def kept_folder(
    output_dir: str,
    verb: str,
    kind: str,
    *,
    replaces: bool,
    resumes: bool = False,
    remedy: str,
    inputs: Iterable[str],
) -> Iterator[Path]:
    """Like `held_folder`, but earlier files stay until `replace_files`; a new folder that stays empty is deleted.

    Raises:
        UserError: as `check_folder`.
    """
    inputs = list(inputs)
    check_folder(output_dir, verb, kind, replaces=replaces, resumes=resumes, remedy=remedy, inputs=inputs)
    folder = Path(output_dir)
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder):
            _check(
                output_dir, verb, kind, replaces=replaces, resumes=resumes, remedy=remedy, inputs=inputs, is_locked=True
            )
            _sweep(folder)
            yield folder
    finally:
        if is_new and not any(folder.iterdir()):
            folder.rmdir()


def replace_files(staged: Path, folder: Path, verb: str, *, last: str) -> None:
    """Replace all listed files of a folder by new ones; if this is cut short, the next who uses the folder ends it.

    Files that somebody has changed are kept and named.
    """
    before = Manifest.read(folder) or Manifest(folder, verb, {})
    before.write()
    coming = move_into(staged, folder, last=last, replaces=True)
    changed = [name for name in before.files if name not in coming and os.path.lexists(folder / name)]
    _tell_kept(folder, set(before.files), changed, written=coming)


def discard(path: Path) -> None:
    """Delete a folder of ours so that nobody sees half of it; if this is killed, a later run deletes the rest."""
    if path.exists():
        doomed = temporary_path(path.parent)
        path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


@contextmanager
def staged_folder(folder: Path) -> Iterator[Path]:
    """A folder inside another, on the same disk, in which to make what `move_into` moves; it vanishes at the end."""
    staged = temporary_path(folder)
    staged.mkdir()
    try:
        yield staged
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def move_into(staged: Path, folder: Path, *, last: str, replaces: bool = False) -> set[str]:
    """Exchange a folder's files for those in another, and list them; a card that somebody has edited stays as it is.

    See `exchange` for what opens meanwhile. With ``replaces``, this also deletes everything else on the list.

    Returns:
        The names of the files.
    """
    share(staged)
    manifest = Manifest.read(folder)
    assert manifest is not None, "a folder is filled by whoever holds it"
    with ExitStack() as until_exchanged:
        if (staged / CARD).exists() and os.path.lexists(folder / CARD) and not manifest.fitting(CARD):
            _keep_own_words(staged, folder, until_exchanged)
        coming = {name: digest(staged / name) for name in files_below(staged)}
        earlier = list(manifest.files) if replaces else []
        manifest.make_way(coming)
        exchange(staged, folder, coming=coming, gone=earlier, last=last)
    return set(coming)


def _keep_own_words(staged: Path, folder: Path, until_exchanged: ExitStack) -> None:
    """Make a staged card one with the words that a person wrote into the card that is there; or set it beside it.

    The one card takes the other's place when `until_exchanged` ends without an error: not before the model does.
    """
    card = folder / CARD
    earlier = card.read_text(encoding="utf-8", errors="replace") if is_plain_file(card) else ""
    renewed = merged(earlier, (staged / CARD).read_text(encoding="utf-8"))
    if renewed is None:
        (staged / CARD).replace(staged / GENERATED_CARD)
        logger.warning("%s was edited by hand and is kept; the new one is %s", card, GENERATED_CARD)
        return
    unfinished = until_exchanged.enter_context(replaced_file(card, is_listed=False))
    unfinished.write_text(renewed, encoding="utf-8", newline="\n")
    (staged / CARD).unlink()


def settle(folder: Path) -> None:
    """End the exchange of files that a killed process has left half done, if there is one.

    Where nothing can be written it stays as it is, with a warning: what opens there is whole.

    Raises:
        UserError: it is damaged, or another process is at work there.
    """
    if not (folder / NEXT).exists():
        return
    try:
        with locked(folder):
            finish(folder)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        logger.warning("the exchange of files in %s is half done, and cannot be ended (%s)", folder, error.strerror)


def _sweep(folder: Path) -> None:
    """Delete what killed processes left half-written; whoever has the lock knows that nobody writes there."""
    for path in folder.iterdir():
        if TEMPORARY.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _tell_kept(folder: Path, listed: set[str], changed: list[str], written: Iterable[str] = ()) -> None:
    """Name on one line what was neither deleted nor replaced."""
    written = set(written)
    own = {name.split("/")[0] for name in listed | written}
    names = []
    for path in _entries(folder):
        if not path.is_dir() or path.is_symlink():
            names.append(path.name)
        elif path.name in own:
            names += [f"{path.name}/{name}" for name in files_below(path)]
        else:
            names.append(f"{path.name}/")
    words = [shown(name) + (" (edited)" if name in changed else "") for name in names if name not in written]
    if words:
        more = f" and {len(words) - NAMES_SHOWN} more" if len(words) > NAMES_SHOWN else ""
        logger.warning("kept in %s: %s%s", folder, ", ".join(words[:NAMES_SHOWN]), more)
