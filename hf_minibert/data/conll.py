"""Read sentences whose words and tags stand in columns, one word a line: the form of CoNLL's shared tasks.

In: a file's path and which columns hold words and tags. Out: a `Table` with a list of words and a list of tags a
sentence, and the line where each begins. A blank line ends a sentence, and so does a line of ``-DOCSTART-``, which is
no word; nor is a comment before a sentence, as ``# id = 5`` or ``# id 5 domain=news``.
"""

import re
from array import array
from collections.abc import Mapping
from pathlib import Path

from hf_minibert.data.bounded import DECOMPRESSORS
from hf_minibert.data.tables import Table, text_lines
from hf_minibert.errors import UserError

SUFFIXES = (".conll", ".conll03", ".conll2003", ".bio", ".iob", ".iob2", ".bioes", ".txt", ".tsv")
WORDS, TAGS = "1", "last"
"""The columns by default: the first and the last one. Others are named by their number."""
DOCUMENT_START = "-DOCSTART-"
_HEADER = {"word", "words", "token", "tokens", "form", "tag", "tags", "ner", "ner_tag", "ner_tags", "label", "labels"}
_COMMENT = re.compile(r"# [^=\t]*\w *=")


def is_conll(path: Path) -> bool:
    """Whether a file's name says that it has a word a line; it may be compressed."""
    name = path.name.lower()
    return name.removesuffix(next((end for end in DECOMPRESSORS if name.endswith(end)), "")).endswith(SUFFIXES)


def read_conll(path: Path, columns: Mapping[str, str]) -> Table:
    """Read the columns of one file, which tabs part, or, where there are none, spaces.

    Args:
        path: the file.
        columns: the columns as numbers from 1 on, or `last`, each under the name of the option that names it.

    Raises:
        UserError: it is unreadable, a line has too few or more columns than the first, or there is no sentence.
    """
    places = {name: _place(option, name) for option, name in columns.items()}
    sentences: dict[str, list[list[str]]] = {name: [] for name in places}
    numbers, has_tabs, width, is_within = array("q"), False, 0, False
    for number, line in text_lines(path):
        line = line.removesuffix("\r")
        if "\r" in line:  # else all words would be cells of one
            raise UserError(f"{path}, line {number} has a carriage return within; end each line with a line feed")
        if not line.strip(" \t") or line.split()[:1] == [DOCUMENT_START]:
            is_within = False
            continue
        if not width:
            has_tabs = "\t" in line
        # Not at other spaces: a word may have one that keeps it together, as 10 000.
        cells = [cell.strip(" ") for cell in line.split("\t")] if has_tabs else re.split("[ \t]+", line.strip(" \t"))
        if not is_within and _COMMENT.match(line) and _is_apart(cells, width):
            continue
        if not width:
            width = len(cells)
            if {cells[0].lower(), cells[-1].lower()} <= _HEADER:
                raise UserError(f"{path}, line {number} looks like the names of the columns, not a word; take it out")
            _check_width(path, number, width, places, columns)
        if len(cells) != width:
            raise UserError(
                f"{path}, line {number} has {len(cells)} column{'s' * (len(cells) > 1)}, the first word {width}; give "
                "each word as many, parted by tabs or spaces, and a blank line after each sentence"
            )
        if not is_within:
            numbers.append(number)
            for words in sentences.values():
                words.append([])
            is_within = True
        for name, place in places.items():
            if not cells[place]:
                raise UserError(f"{path}, line {number} has nothing in column {name}; fill it in")
            sentences[name][-1].append(cells[place])
    if not len(numbers):
        raise UserError(f"{path} has no words")
    return Table(str(path), sentences, numbers, "line")


def _is_apart(cells: list[str], width: int) -> bool:
    """Whether cells that look like a comment cannot be those of the word ``#``, which may have features, too."""
    return "=" in cells[-1] or (len(cells) != width if width else "=" in cells)


def _place(option: str, name: str) -> int:
    if name == TAGS:
        return -1
    if not name.isascii() or not name.isdigit() or name == "0":
        raise UserError(f"--{option} {name}: the columns of a CoNLL file have no names; give a number, 1 for the first")
    return int(name) - 1


def _check_width(path: Path, number: int, width: int, places: Mapping[str, int], columns: Mapping[str, str]) -> None:
    if width < 2:
        raise UserError(
            f"{path}, line {number} has 1 column; give each word its tag behind it, parted by a tab or a space"
        )
    for option, name in columns.items():
        if places[name] >= width:
            raise UserError(f"{path}, line {number} has {width} columns, so there is no column {name} (--{option})")
