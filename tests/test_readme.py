"""The README tells the truth: its commands run, its map is the tree, its figures are those of the files."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from commands import REPOSITORY, SCRIPTS, TINY_RUN, command, environment, write_corpus

from hf_minibert.command_line import parse

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def script_lines() -> list[str]:
    return [line for block in blocks("bash") for line in block.splitlines() if "scripts/" in line]


def test_the_readme_names_every_script() -> None:
    named = {re.search(r"scripts/(\w+\.py)", line)[1] for line in script_lines()}  # type: ignore[index]
    assert named == {path.name for path in SCRIPTS.glob("*.py")}


@pytest.mark.parametrize("line", script_lines())
def test_every_command_has_flags_that_its_script_takes(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(line, comments=True)
    place = next(index for index, word in enumerate(words) if word.startswith("scripts/"))
    path = REPOSITORY / words[place]
    spec = importlib.util.spec_from_file_location(f"readme_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    (arguments,) = {value for name, value in vars(module).items() if name.endswith("Arguments")}
    parse(arguments, words[place + 1 :])


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE))
    named = {target for block in blocks("bash") for target in re.findall(r"^make ([a-z-]+)", block, flags=re.MULTILINE)}
    assert named
    assert named <= targets


def test_the_snippet_runs(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus.jsonl", documents=40)
    (tmp_path / "runs").mkdir()
    done = command("pretrain.py", tmp_path / "cache", **TINY_RUN, corpus=corpus, output_dir=tmp_path / "runs/minibert")
    assert done.returncode == 0, done.stderr
    (snippet,) = blocks("python")
    ran = subprocess.run(
        [sys.executable, "-c", snippet],
        cwd=tmp_path,
        env=environment(tmp_path / "cache"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "This function returns the" in ran.stdout


def test_the_map_is_the_tree() -> None:
    block = re.search(r"```\n(hf_minibert/\n.*?)```", README, flags=re.DOTALL)[1]  # type: ignore[index]
    named = set(re.findall(r"[\w/]+\.py", block))
    named = {Path(name).name for name in named}
    real = {path.name for path in (REPOSITORY / "hf_minibert").rglob("*.py")} - {"__init__.py"}
    assert named == real
    folders = set(re.findall(r"^(\w+)/", block, flags=re.MULTILINE))
    assert all((REPOSITORY / folder).is_dir() for folder in folders)


def test_figures_are_those_of_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    module = importlib.import_module("render")
    quoted = set()
    for document in module.DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        assert module.render(text) == text
        quoted |= {name for _, name, _ in module.BLOCK.findall(text)}
    files = {path.stem for path in module.RESULTS.glob("*.json")}
    assert quoted
    assert quoted <= files | set(module.OVERVIEWS), "every figure quoted has its file"
