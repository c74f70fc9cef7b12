"""Escape text for Markdown, so that it shows as it is written and never breaks out of its place on the page."""

import re

_BACKSLASH = "\\"
_SPECIAL = re.compile(r"([\\`*_\[\]<>&|~#!$])")


def plain(text: object) -> str:
    """Escape words for a title, a sentence or a table: one line, in which nothing is markup."""
    return re.sub(r"(?<=\w)\\_(?=\w)", "_", _SPECIAL.sub(r"\\\1", _line(text)))  # within a word it is none


def code(text: object) -> str:
    """A code span on one line, which survives a table."""
    # An odd number of backslashes keeps a bar from ending a table's cell.
    line = re.sub(r"(\\*)\|", lambda found: f"{found[1]}{_BACKSLASH * (1 + len(found[1]) % 2)}|", _line(text))
    fence = "`" * (max((len(run) for run in re.findall("`+", line)), default=0) + 1)
    padding = " " if line.startswith("`") or line.endswith("`") or not line else ""
    return f"{fence}{padding}{line}{padding}{fence}"


def block(text: str, language: str = "") -> str:
    """Lines of code in a fence longer than any in them."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 3)
    return f"{fence}{language}\n{text}\n{fence}"


def _line(text: object) -> str:
    return " ".join(str(text).split())
