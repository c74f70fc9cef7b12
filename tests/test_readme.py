"""The pages tell the truth: commands and snippets run, links lead somewhere, the map is the tree."""

import importlib
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from commands import REPOSITORY, SCRIPTS, TINY_RUN, environment, forked, write_corpus
from forked import Forked
from transformers import PreTrainedTokenizerFast

from hf_minibert import (
    MiniBertForQuestionAnswering,
    MiniBertForSequenceClassification,
    MiniEncoderDecoderConfig,
    MiniEncoderDecoderModel,
)
from hf_minibert.cli import VERBS
from hf_minibert.command_line import parse
from hf_minibert.presets import build_config

README = REPOSITORY / "README.md"
PAGES = [README, REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
TEXTS = {path.relative_to(REPOSITORY).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def shell_lines(text: str) -> list[str]:
    """What the `bash` blocks of a page tell a user to type, long lines joined."""
    return "".join(blocks("bash", text)).replace("\\\n", " ").splitlines()


def verb_and_flags(line: str) -> tuple[str, list[str]]:
    """The verb that a command runs, in whichever of its forms, and the words behind it; no verb if it runs none."""
    words = shlex.split(line, comments=True)
    for place, word in enumerate(words):
        if word == "hf-minibert" or words[place : place + 2] == ["-m", "hf_minibert"]:
            verb = place + (1 if word == "hf-minibert" else 2)
            return words[verb], words[verb + 1 :]
        if (script := REPOSITORY / word).parent == SCRIPTS:
            return verb_of(script), words[place + 1 :]
    return "", []


def verb_of(script: Path) -> str:
    return re.findall(r'main\("([\w-]+)"\)', script.read_text(encoding="utf-8"))[0]


COMMANDS = list(dict.fromkeys(line for text in TEXTS.values() for line in shell_lines(text) if verb_and_flags(line)[0]))


def test_the_pages_show_every_verb_and_the_readme_the_short_form() -> None:
    assert {verb_and_flags(line)[0] for line in COMMANDS} == set(VERBS)
    readme = [line for line in shell_lines(TEXTS["README.md"]) if verb_and_flags(line)[0]]
    assert all(line.startswith("hf-minibert ") for line in readme)


def test_every_verb_has_a_script() -> None:
    assert {verb_of(path) for path in SCRIPTS.glob("*.py")} == set(VERBS)


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_has_flags_that_its_verb_takes(line: str) -> None:
    verb, words = verb_and_flags(line)
    parse(importlib.import_module(f"hf_minibert.verbs.{verb.replace('-', '_')}").Arguments, words)


def test_the_four_commands_to_a_browser_tab_are_those_that_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    part = TEXTS["docs/sharing.md"].partition("## A model in a browser tab")[2].partition("\n## ")[0]
    assert shell_lines(part) == list(importlib.import_module("browser_tab").COMMANDS.values())


def test_every_benchmark_has_the_flags_that_a_page_gives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    lines = [line for text in TEXTS.values() for line in shell_lines(text) if "python benchmarks/" in line]
    assert lines
    for line in lines:
        _, script, *words = shlex.split(line, comments=True)
        parse(importlib.import_module(Path(script).stem).Arguments, words)


@pytest.mark.parametrize("page", TEXTS)
def test_what_a_page_names_is_there(page: str) -> None:
    """Files that commands run or read from the repository, links, and the headings that links point to."""
    folder, text = (REPOSITORY / page).parent, TEXTS[page]
    named = re.findall(r"(?:scripts|benchmarks|docs)/[\w/.]+", "\n".join(shell_lines(text)))
    assert all((REPOSITORY / name).is_file() for name in named), named
    for link in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text):
        target, _, heading = (link[0] or link[1]).partition("#")
        if target.startswith("http"):
            continue
        path = folder / target if target else REPOSITORY / page
        assert path.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert heading in {re.sub(r"[^\w\- ]", "", each).lower().replace(" ", "-") for each in headings}, heading


def test_the_readme_links_every_page_and_is_short() -> None:
    text = TEXTS["README.md"]
    assert set(re.findall(r"\((docs/\w+\.md)\)", text)) == {page for page in TEXTS if page.startswith("docs/")}
    assert len(text.splitlines()) <= 150


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE))
    named = {
        target for text in TEXTS.values() for each in re.findall(r"`make ([a-z -]+)`", text) for target in each.split()
    }
    assert named
    assert named <= targets


@pytest.fixture(name="working_directory", scope="module")
def _working_directory(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """Where the models lie that snippets open: a folder of a name comes before a reference checkpoint of it."""
    folder = tmp_path_factory.mktemp("readme")
    corpus = write_corpus(folder / "corpus.jsonl", documents=40)
    (folder / "runs").mkdir()
    done = forked("pretrain.py", folder / "cache", **TINY_RUN, corpus=corpus, output_dir=folder / "runs/minibert")
    assert done.returncode == 0, done.stderr
    shutil.copytree(folder / "runs/minibert", folder / "minibert-tiny")
    embedder = {"to": "sentence-transformers", "output_dir": folder / "embedder"}
    done = forked("export.py", folder / "cache", model_name_or_path=folder / "runs/minibert", **embedder)
    assert done.returncode == 0, done.stderr
    MiniBertForSequenceClassification(build_config("minibert-tiny", "modern")).save_pretrained(folder / "runs/reviews")
    MiniBertForQuestionAnswering(build_config("minibert-tiny", "modern")).save_pretrained(folder / "runs/answers")
    parts = (build_config(name, "modern") for name in ("minibert-tiny", "minigpt-tiny"))
    ids = {"decoder_start_token_id": 2, "pad_token_id": 0, "eos_token_id": 3}
    MiniEncoderDecoderModel(MiniEncoderDecoderConfig.from_encoder_decoder_configs(*parts, **ids)).save_pretrained(
        folder / "runs/translator"
    )
    for name in ("reviews", "answers", "translator"):
        tokenizer.save_pretrained(folder / "runs" / name)
    return folder


SNIPPETS = [
    (page, snippet)
    for page, text in TEXTS.items()
    if page != "docs/from_scratch.md"  # which shows lines of the package
    for snippet in blocks("python", text)
]


@pytest.mark.parametrize(("page", "snippet"), SNIPPETS)
def test_every_snippet_runs_and_prints(page: str, snippet: str, working_directory: Path) -> None:
    (working_directory / "snippet.py").write_text(snippet, encoding="utf-8")
    ran = Forked(["snippet.py"], working_directory, environment(working_directory / "cache"))
    assert ran.wait(timeout=300) == 0, f"{page}: {ran.printed('stderr')}"
    assert ran.printed("stdout").strip()


def test_the_map_is_the_tree() -> None:
    page = TEXTS["docs/how_it_is_built.md"]
    block = re.search(r"```\n(hf_minibert/\n.*?)```", page, flags=re.DOTALL)[1]  # type: ignore[index]
    named = {Path(name).name for name in re.findall(r"[\w/]+\.py", block)}
    real = {path.name for path in (REPOSITORY / "hf_minibert").rglob("*.py")} - {"__init__.py"}
    assert named == real
    folders = set(re.findall(r"^(\w+)/", block, flags=re.MULTILINE))
    assert all((REPOSITORY / folder).is_dir() for folder in folders)


def test_the_first_screen_is_the_end_of_a_measured_run() -> None:
    """`benchmarks/quickstart.py` runs the command that the README begins with, and keeps what it gave."""
    figures = json.loads((REPOSITORY / "benchmarks/results/quickstart.json").read_text(encoding="utf-8"))
    run = figures["runs"]["minibert-mini"]
    printed = blocks("text", TEXTS["README.md"])[0]
    for number in (
        f"{run['training']['steps']:,} steps, {run['training']['tokens_seen']:,} tokens",
        f"{run['metrics']['eval_loss']:.3f} nats per token; by frequencies alone {run['metrics']['unigram_loss']:.3f}",
        f"accuracy {run['metrics']['eval_accuracy']:.1%}",
    ):
        assert number in printed


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
