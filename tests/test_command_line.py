import dataclasses
import errno
import importlib
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import pytest
import torch
import yaml
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

import hf_minibert
from hf_minibert.cli import VERBS
from hf_minibert.command_line import field_docstrings, invocation, parse, run
from hf_minibert.errors import UserError
from hf_minibert.finetuning.arguments import TaskName
from hf_minibert.finetuning.tasks import TASKS
from hf_minibert.pretraining.arguments import PretrainArguments

REPOSITORY = Path(__file__).parents[1]


@dataclass(kw_only=True)
class Base:
    """What all have."""

    output_dir: str
    """Where it goes,
    on two lines."""


@dataclass(kw_only=True)
class Example(Base):
    """An example of arguments."""

    rate: float = 0.5
    """Share of it: 100% at most."""
    steps: int | None = None
    """How many."""
    shape: Literal["round", "square"] = "round"
    """Its form."""
    corpus: list[str] = field(default_factory=lambda: ["builtin"])
    """Sources."""
    resume: bool = False
    """Go on."""
    compile: bool | None = None
    """Faster; default, where it pays."""

    def __post_init__(self) -> None:
        if self.rate > 1:
            raise UserError(f"rate must be at most 1,\n  got {self.rate}")


def failure(capsys, *argv: str) -> str:
    """The one line, and nothing else, that a rejected command line gives."""
    with pytest.raises(SystemExit) as stopped:
        parse(Example, ["--output_dir", "x", *argv])
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize("argv", [["--rate", "2"], ["--rat", "1"]])
def test_torchrun_quotes_the_line_that_ends_a_process(argv, capsys, monkeypatch, tmp_path):
    reply = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(reply))
    monkeypatch.setattr(sys, "argv", ["example.py", "--output_dir", "x", *argv])
    with pytest.raises(SystemExit) as stopped:
        run(Example, lambda _: 0)
    assert stopped.value.code == 2
    line = capsys.readouterr().err.strip()
    assert line.startswith("example.py: error: ")
    report = ChildFailedError("example.py", {0: ProcessFailure(0, 1, 2, str(reply))}).format_msg()
    assert report.splitlines()[-2].endswith(line)


# ---------------------------------------------------------------- help


def test_help_is_made_of_docstrings_and_defaults(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(Example, ["--help"])
    assert stopped.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "An example of arguments." in shown
    assert "Where it goes, on two lines." in shown
    assert "Share of it: 100% at most. (default: 0.5)" in shown
    assert "--shape {round,square} Its form. (default: round)" in shown
    assert "A YAML or JSON file" in shown


def test_docstrings_of_fields_and_of_inherited_ones():
    assert field_docstrings(Example) == {
        "output_dir": "Where it goes, on two lines.",
        "rate": "Share of it: 100% at most.",
        "steps": "How many.",
        "shape": "Its form.",
        "corpus": "Sources.",
        "resume": "Go on.",
        "compile": "Faster; default, where it pays.",
    }


def argument_classes() -> list[type]:
    """The dataclass of arguments of every verb."""
    return [importlib.import_module(f"hf_minibert.verbs.{verb.replace('-', '_')}").Arguments for verb in VERBS]


@pytest.mark.parametrize("arguments_class", argument_classes(), ids=list(VERBS))
def test_every_flag_says_what_it_is(arguments_class, capsys):
    docstrings = field_docstrings(arguments_class)
    names = {each.name for each in dataclasses.fields(arguments_class)}
    assert set(docstrings) == names
    assert all(text.endswith((".", "`")) or text.endswith(".)") for text in docstrings.values()), "sentences"
    with pytest.raises(SystemExit):
        parse(arguments_class, ["--help"])
    shown = "".join(capsys.readouterr().out.split())
    for name, text in docstrings.items():
        assert f"--{name}" in shown
        assert "".join(text.split()) in shown


def test_the_flag_of_the_task_takes_what_the_table_has():
    assert tuple(TASKS) == get_args(TaskName)


def test_saved_values_are_read_as_they_were_written():
    saved = {"output_dir": "-x", "rate": 0.25, "shape": "square", "corpus": [], "resume": False}
    assert parse(Example, [], defaults=saved) == Example(output_dir="-x", rate=0.25, shape="square")


def test_every_verb_is_a_script_too():
    scripts = [path.read_text() for path in (REPOSITORY / "scripts").glob("*.py")]
    called = [verb for script in scripts for verb in re.findall(r'^    main\("(.*)"\)$', script, flags=re.MULTILINE)]
    assert sorted(called) == sorted(VERBS)
    assert len(scripts) == len(VERBS)
    assert {path.stem for path in (REPOSITORY / "scripts").glob("*.py")} == set(hf_minibert.SCRIPTS)


def test_a_script_does_not_stand_in_the_way_of_the_library_of_its_name():
    script = REPOSITORY / "scripts" / "evaluate.py"
    code = (
        "import contextlib, runpy, sys\n"
        f"sys.argv, sys.path[0] = [{str(script)!r}, '--help'], {str(script.parent)!r}\n"
        "with contextlib.suppress(SystemExit):\n"
        "    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "import importlib.util\n"
        "print(importlib.util.find_spec('evaluate').origin)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert Path(done.stdout.splitlines()[-1]).parent.name == "evaluate"


# ---------------------------------------------------------------- flags


def test_flags_become_a_dataclass():
    assert parse(Example, ["--output_dir", "x"]) == Example(output_dir="x")
    flags = ["--output_dir=x", "--rate", "1e-1", "--steps", "3", "--corpus", "a", "b", "--resume", "--shape", "square"]
    assert parse(Example, flags) == Example(
        output_dir="x", rate=0.1, steps=3, corpus=["a", "b"], resume=True, shape="square"
    )


def test_flags_are_read_from_the_process(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["script.py", "--output_dir", "from argv"])
    assert parse(Example).output_dir == "from argv"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--stepps", "3"], "unknown argument --stepps; did you mean --steps?"),
        (["--shap=round"], "unknown argument --shap; did you mean --shape?"),
        (["--zzz"], "unknown argument --zzz; see --help"),
        (["stray"], "unknown argument stray; see --help"),
        (["--out", "y"], "unknown argument --out"),
        (["--steps", "many"], "argument --steps: invalid int value: 'many'"),
        (["--steps"], "argument --steps: expected one argument"),
        (["--rate", "x"], "argument --rate: invalid float value: 'x'"),
        (["--shape", "oval"], "argument --shape: invalid choice: 'oval'"),
        (["--resume", "perhaps"], "argument --resume"),
        (["--output_dir", ""], "argument --output_dir: must not be empty"),
        (["--output_dir="], "argument --output_dir: must not be empty"),
        (["--output_dir", "caf\udce9"], "argument --output_dir: must be UTF-8, got 'caf\\udce9'"),
        (["--corpus", "a", ""], "argument --corpus: must not be empty"),
        (["--corpus", "a", "--corpus", "b"], "argument --corpus: given twice"),
        (["--corpus=a", "--steps", "3", "--corpus", "b"], "argument --corpus: given twice"),
    ],
)
def test_wrong_flags_are_one_line_and_status_2(capsys, argv, message):
    assert f": error: {message}" in failure(capsys, *argv)


def test_a_required_flag_is_missing(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(Example, [])
    assert stopped.value.code == 2
    assert "required: --output_dir" in capsys.readouterr().err


# ---------------------------------------------------------------- files in their place


@pytest.mark.parametrize(
    ("flags", "value"), [([], None), (["--compile"], True), (["--compile", "true"], True), (["--compile", "no"], False)]
)
def test_a_flag_whose_default_is_neither_yes_nor_no(flags, value):
    assert parse(Example, ["--output_dir", "x", *flags, "--rate", "0.1"]).compile is value


SETTINGS = {"output_dir": "x", "rate": 0.25, "corpus": ["a", "b"], "resume": True, "steps": None}


@pytest.fixture(params=[".yaml", ".yml", ".json"])
def settings_file(request, tmp_path) -> Path:
    path = tmp_path / f"settings{request.param}"
    path.write_text(json.dumps(SETTINGS) if request.param == ".json" else yaml.safe_dump(SETTINGS))
    return path


def test_a_file_stands_for_flags_and_flags_override_it(settings_file):
    assert parse(Example, [str(settings_file)]) == Example(**SETTINGS)
    flags = ["--rate", "0.75", "--corpus", "c", "--resume", "False", "--steps", "9"]
    assert parse(Example, [str(settings_file), *flags]) == Example(
        output_dir="x", rate=0.75, corpus=["c"], resume=False, steps=9
    )


def test_what_a_run_writes_can_be_read_again(tmp_path):
    arguments = PretrainArguments(output_dir="x", max_steps=7, learning_rate=1e-5, corpus=["a b.txt", "c.txt"])
    path = tmp_path / "arguments.json"
    path.write_text(json.dumps(dataclasses.asdict(arguments) | {"num_processes": 2}))
    assert parse(PretrainArguments, [str(path)]) == arguments


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.yaml", "stepps: 3", "unknown key 'stepps' in .*; did you mean 'steps'"),
        ("a.json", '{"zzz": 3}', "unknown key 'zzz' in .*; see --help for the names"),
        ("a.yaml", "7: 3", "unknown key 7 in "),
        ("a.json", '{"steps": ', "cannot read the settings file .*a.json: Expecting value"),
        ("a.yaml", "a: [1, 2", "cannot read the settings file .*a.yaml: "),
        ("a.yaml", "- 1\n- 2", "must hold a mapping"),
        ("a.yaml", "", "must hold a mapping"),
        ("a.json", '"steps"', "must hold a mapping"),
        ("a.yaml", b"\xff\xfe\x00", "cannot read the settings file"),
        ("none.yaml", None, "cannot read the settings file .*No such file"),
    ],
)
def test_broken_files(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as caught:
        parse(Example, [str(path), "--output_dir", "x"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["steps: many", "rate: [1, 2]", "shape: oval", "resume: perhaps"])
def test_wrong_values_in_a_file(tmp_path, capsys, content):
    path = tmp_path / "settings.yaml"
    path.write_text(f"output_dir: x\n{content}")
    with pytest.raises(SystemExit) as stopped:
        parse(Example, [str(path)])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


# ---------------------------------------------------------------- the whole script


def ending(monkeypatch, main, *argv: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["folder/script.py", *argv])
    with pytest.raises(SystemExit) as stopped:
        run(Example, main)
    return stopped.value.code


def test_the_status_is_that_of_main(monkeypatch):
    assert ending(monkeypatch, lambda arguments: len(arguments.output_dir), "--output_dir", "abc") == 3


def test_mistakes_end_in_one_line_and_status_2(monkeypatch, capsys):
    def missing(_: Example) -> int:
        raise FileNotFoundError(2, "No such file", "there")

    def full(_: Example) -> int:
        raise OSError(errno.EFBIG, "File too large")

    def too_long(_: Example) -> int:
        return Path("x" * 5_000).stat().st_size

    def steering(_: Example) -> int:
        raise UserError("there is no a\x1b[31m\nb.csv")

    assert ending(monkeypatch, lambda _: 0, "--output_dir", "x", "--rate", "3") == 2
    assert capsys.readouterr().err == "script.py: error: rate must be at most 1, got 3.0\n"
    assert ending(monkeypatch, missing, "--output_dir", "x") == 2
    assert capsys.readouterr().err == "script.py: error: No such file: there; check this path and its permissions\n"
    assert ending(monkeypatch, full, "--output_dir", "x") == 2
    assert capsys.readouterr().err == "script.py: error: File too large; make room on the disk\n"
    assert ending(monkeypatch, too_long, "--output_dir", "x") == 2
    assert (
        capsys.readouterr().err
        == f"script.py: error: File name too long: {'x' * 60}...; check this path and its permissions\n"
    )
    assert ending(monkeypatch, steering, "--output_dir", "x") == 2
    assert capsys.readouterr().err == "script.py: error: there is no a\\x1b[31m b.csv\n"
    assert ending(monkeypatch, lambda _: 0, "nowhere.yaml") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_batch_that_memory_cannot_hold_is_one_line(monkeypatch, capsys):
    def enormous(_: Example) -> int:
        return len(torch.empty(2**55, dtype=torch.uint8))

    assert ending(monkeypatch, enormous, "--output_dir", "x") == 2
    said = capsys.readouterr().err
    assert "error: memory does not suffice (" in said
    assert "--gradient_accumulation_steps" in said
    assert said.count("\n") == 1


def test_our_own_mistakes_keep_their_traceback(monkeypatch):
    def broken(_: Example) -> int:
        raise ValueError("not the user's")

    monkeypatch.setattr(sys, "argv", ["script.py", "--output_dir", "x"])
    with pytest.raises(ValueError, match="not the user's"):
        run(Example, broken)


def test_a_command_is_told_without_the_folders_of_its_machine(monkeypatch):
    words = ["--corpus", "/home/me/texts/a b.jsonl", "*.txt", "../data/c.txt", "--budget", "10m"]
    monkeypatch.setattr(sys, "argv", ["/here/benchmarks/speed.py", *words])
    assert invocation() == "python benchmarks/speed.py --corpus 'texts/a b.jsonl' '*.txt' data/c.txt --budget 10m"


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e999", "NaN"])
def test_a_number_is_finite(capsys, number):
    assert f"must be a finite number, got '{number}'" in failure(capsys, f"--rate={number}")


PRINTS = """
import sys, logging
from dataclasses import dataclass
from pathlib import Path
from hf_minibert.command_line import run

@dataclass
class Arguments:
    done: str
    "A file."

def main(arguments):
    for _ in range(3):
        print("größer " * 10_000)
        sys.stderr.write("größer " * 10_000)
        sys.stderr.flush()
    logging.getLogger("hf_minibert").warning("größer")
    Path(arguments.done).write_text("done")
    return 0

run(Arguments, main)
"""


@pytest.mark.parametrize(
    "output", [">&- 2>&-", "2>&-", ">/dev/full 2>/dev/full", "2>/dev/full | true", ">/dev/null 2>/dev/null"]
)
@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_no_work_is_lost_with_the_terminal(tmp_path, output, encoding):
    program = tmp_path / "hf-minibert"  # by whose name it does not load the models
    program.write_text(PRINTS)
    words = f'set -o pipefail; "{sys.executable}" "{program}" --done "{tmp_path / "done"}" {output}'
    variables = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(["bash", "-c", words], env=variables, check=False, capture_output=True)
    assert (done.returncode, (tmp_path / "done").read_text()) == (0, "done")
