"""The tour tells the truth: its code is the package's, its numbers are measured, its files are as long as it says."""

import ast
import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from commands import REPOSITORY

FOLDER = REPOSITORY / "docs" / "from_scratch"
PAGE = (REPOSITORY / "docs" / "from_scratch.md").read_text(encoding="utf-8")
# `function` in [file](link), the rest of that paragraph, and the lines that are shown below it.
PLACE = r"`([\w.]+)`\s+in\s+\[(hf_minibert/[\w/]+\.py)\]\(\.\./\2\).*\n(?:.+\n)*\n?(```python\n(?:.*\n)*?```)?"
PLACES = re.findall(PLACE, PAGE)
FIGURES = json.loads((FOLDER / "figures.json").read_text(encoding="utf-8"))


@pytest.fixture(name="make", scope="module")
def _make() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tour", FOLDER / "make.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tour"] = module
    spec.loader.exec_module(module)
    return module


def source_of(name: str, file: str) -> str:
    """The source of a function, or of a method of a class, by its name."""
    text = (REPOSITORY / file).read_text(encoding="utf-8")
    found: ast.AST = ast.parse(text)
    for part in name.split("."):
        (found,) = (
            node
            for node in ast.iter_child_nodes(found)
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == part
        )
    return ast.get_source_segment(text, found) or ""  # type: ignore[arg-type]


def plain(code: str) -> str:
    return " ".join(code.split())


def test_every_stop_names_its_code_and_shows_a_figure() -> None:
    stops = re.split(r"^### \d+\. ", PAGE, flags=re.MULTILINE)[1:]
    assert len(stops) == 13
    for stop in stops:
        assert stop.count("\n> ") == 1, "one formula"
        assert "```python\n" in stop
        assert "<!-- tour:" in stop


def test_every_snippet_has_a_place() -> None:
    assert sum(bool(code) for _, _, code in PLACES) == PAGE.count("```python\n")


@pytest.mark.parametrize(("name", "file", "code"), PLACES)
def test_the_lines_that_are_shown_are_the_codes(name: str, file: str, code: str) -> None:
    source = plain(source_of(name, file))
    place = 0
    for piece in code.removeprefix("```python\n").removesuffix("```").split("...\n"):
        found = source.find(plain(piece), place)
        assert found >= 0, f"{file}: {name} has no longer {piece}"
        place = found + len(plain(piece))


def test_files_are_about_as_long_as_the_page_says(make: ModuleType) -> None:
    for file, (_, length) in zip(make.FILES, FIGURES["files"]["rows"], strict=True):
        now = len((REPOSITORY / "hf_minibert" / file).read_text(encoding="utf-8").splitlines())
        assert length == pytest.approx(now, rel=0.15), f"{file}: python docs/from_scratch/make.py"


def test_the_numbers_are_those_of_the_file(make: ModuleType) -> None:
    assert make.render(PAGE, FIGURES) == PAGE
    assert {name for _, name, _ in make.PLACE.findall(PAGE)} == set(FIGURES) == set(make.MEASUREMENTS)
    pictures = set(re.findall(r"\(from_scratch/(\w+\.png)\)", PAGE))
    assert pictures == {path.name for path in FOLDER.glob("*.png")}


@pytest.mark.parametrize("name", [name for name in FIGURES if name not in ("files", "sampling")])
def test_the_numbers_are_measured_again(make: ModuleType, name: str) -> None:
    """On another machine they differ by rounding alone; what is rounding itself is below a ten-thousandth."""
    again = make.measure(name)
    for now, before in zip(again["rows"], FIGURES[name]["rows"], strict=True):
        for value, earlier in zip(now, before, strict=True):
            assert value == (pytest.approx(earlier, rel=0.02, abs=1e-4) if isinstance(earlier, float) else earlier)


def test_what_the_page_claims_of_them() -> None:
    rows = {name: found["rows"] for name, found in FIGURES.items()}
    spread = [row[1] for row in rows["scaling"]]
    assert spread == pytest.approx([row[0] ** 0.5 for row in rows["scaling"]], rel=0.1), "dot products spread like √d"
    assert rows["masks"][0][1] > 0.1
    assert rows["masks"][1][1] == 0
    unordered, ordered, moved = (change for _, change in rows["positions"])
    assert unordered < 1e-4 < ordered
    assert moved < 1e-4
    assert rows["losses"][2][1] == pytest.approx(rows["losses"][1][1] + 0.5 * rows["losses"][0][1], rel=1e-3)
    assert [row[1] for row in rows["masking"]] == pytest.approx([0.15, 0.8, 0.1, 0.1], abs=0.01)


def test_the_pictures_are_drawn(make: ModuleType, tmp_path: Path) -> None:
    make.draw_masks(tmp_path / "masks.png")
    make.draw_rotation(tmp_path / "rotation.png")
    assert all((tmp_path / name).stat().st_size > 1_000 for name in ("masks.png", "rotation.png"))
