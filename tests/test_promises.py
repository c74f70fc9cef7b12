"""The table of promises names tests that exist, with so many cases."""

import re
import subprocess
import sys
from collections import Counter

import pytest
from commands import COLLECTED, REPOSITORY

PAGE = (REPOSITORY / "docs" / "promises.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (.+) \| (.+) \| (\d+) \|$", PAGE, flags=re.MULTILINE)


def held_by(cell: str) -> list[tuple[str, list[str]]]:
    """The files of a row, and the tests named of each; no names stand for all of a file."""
    found = []
    for part in cell.split("; "):
        ((file, link),) = re.findall(r"\[`([\w/.]+)`\]\(\.\./tests/([\w/.]+)\)", part)
        assert file == link
        found.append((file, re.findall(r"`(\w+)`", part.partition(": ")[2])))
    return found


def collected(files: list[str]) -> str:
    """The names of the tests in these files, a line each."""
    words = ["-m", "pytest", "--collect-only", "--quiet", "-p", "no:xdist", *(f"tests/{file}" for file in files)]
    return subprocess.run([sys.executable, *words], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout


def test_every_promise_is_held_by_tests_with_so_many_cases(request: pytest.FixtureRequest) -> None:
    files = sorted({file for _, cell, _ in ROWS for file, _ in held_by(cell)})
    names = request.config.stash[COLLECTED]
    if not all(f"tests/{file}::" in names for file in files):  # this run is of a few files only
        names = collected(files)
    cases = Counter(re.findall(r"^tests/(.*\.py)::test_(\w+)", names, flags=re.MULTILINE))
    for promise, cell, number in ROWS:
        count = 0
        for file, names in held_by(cell):
            assert not (missing := [name for name in names if not cases[file, name]]), f"{file}: {missing}"
            count += sum(
                many for (where, name), many in cases.items() if where == file and (not names or name in names)
            )
        assert count >= int(number) > 0, promise


def test_the_sums_are_those_of_the_rows() -> None:
    assert f"{len(ROWS)} promises and {sum(int(number) for *_, number in ROWS):,} cases" in PAGE
