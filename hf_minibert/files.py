"""Files and folders that are written whole or not at all."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hf_minibert.errors import UserError

DECODER = "decoder"
"""Where the folder of a hybrid run, which is that of the encoder, keeps the same weights as a causal model."""


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """A path to write, which takes the place of ``path`` when the block ends well, and vanishes otherwise."""
    unfinished = path.with_name(f".{path.name}.tmp")
    try:
        yield unfinished
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


@contextmanager
def replaced_folder(output_dir: str, kind: str, *, is_own: Callable[[Path], bool]) -> Iterator[Path]:
    """An empty folder that takes the place of ``output_dir`` when the block ends well, and vanishes otherwise.

    Args:
        output_dir: the folder to make.
        kind: what it will hold, in words.
        is_own: whether a folder that is not empty holds such a thing and nothing else, so that it may be replaced.

    Raises:
        UserError: something else is there.
    """
    target = Path(output_dir).resolve()
    if target.exists():
        if not target.is_dir():
            raise UserError(f"output_dir {output_dir} is a file; name a folder")
        if any(target.iterdir()) and not is_own(target):
            raise UserError(f"output_dir {output_dir} holds something other than {kind}; name another folder")
    staged = target.with_name(f".{target.name}.partial-{os.getpid()}")
    staged.mkdir(parents=True)
    replaced = target.with_name(f".{target.name}.replaced-{os.getpid()}")
    try:
        yield staged
        if target.exists():
            target.rename(replaced)
        staged.rename(target)
    finally:
        if replaced.exists() and not target.exists():
            replaced.rename(target)
        shutil.rmtree(staged, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
