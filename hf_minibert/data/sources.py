"""Check the names of sources before anything is read. This imports quickly, so that a mistake shows at once."""

from pathlib import Path
from typing import Literal

from hf_minibert.errors import UserError
from hf_minibert.files import BUILTIN as BUILTIN

DocumentUnit = Literal["file", "blank-line", "line"]
"""What counts as one document of a text file."""
TEXT_COLUMN = "text"
"""The column of a table that is the text, unless told."""

COMPRESSIONS = (".gz", ".xz", ".zst")
TEXT_FORMATS = (".txt", ".md")
TABLE_FORMATS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
KNOWN_SUFFIXES = (*(form + end for form in (*TEXT_FORMATS, ".jsonl") for end in ("", *COMPRESSIONS)), ".parquet")
"""The suffixes of files that a corpus can read."""


def suffix_of(path: Path) -> str:
    """The known suffix of a name, in lower case: ``.txt``, ``.jsonl.gz`` ...; "" if it has none."""
    return next((suffix for suffix in KNOWN_SUFFIXES if path.name[-len(suffix) :].lower() == suffix), "")


def expanded(source: str) -> Path:
    """A source as a path, in which ``~`` at the start is the user's home folder.

    Raises:
        UserError: it is empty, or the home folder is nobody's, or the name is none that a file can have.
    """
    if not source:
        raise UserError("the name of a source is empty; give a file, a folder, `builtin` or a name on the Hub")
    try:
        return as_path(str(Path(source).expanduser()))
    except RuntimeError as error:
        raise UserError(f"there is no {source}: {error}") from error


def as_path(source: str) -> Path:
    """A source as a path, which need not exist.

    Raises:
        UserError: it can be none, since it is too long, or in a folder that is closed.
    """
    path = Path(source)
    try:
        path.exists()
    except OSError as error:
        raise UserError(f"cannot read {source[:60]!a}: {error.strerror}; check the path") from error
    return path


def require_corpus(sources: list[str]) -> None:
    """Check that each source with a corpus file's name exists; globs and names on the Hub are not checked.

    Raises:
        UserError: a file is not there.
    """
    for source in sources:
        path = expanded(source)
        if suffix_of(path) and not path.exists() and not any(mark in source for mark in "*?["):
            raise UserError(f"there is no file {source}; check the path, relative to {Path.cwd()}")


def require_table(source: str) -> None:
    """Check that a source with a table file's name exists; a name on the Hub is not checked.

    Raises:
        UserError: it is not there.
    """
    if not source:
        raise UserError("dataset is empty; give a file, a folder, or the name of a data set on the Hub")
    path = as_path(source)
    if path.suffix.lower() in (*TABLE_FORMATS, *COMPRESSIONS) and not path.exists():
        raise UserError(f"dataset {source} does not exist; give a file, a folder, or the name of a data set on the Hub")
