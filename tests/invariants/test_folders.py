"""Nobody's files are lost: what a verb may replace in its folder, and what it must leave alone, for all the verbs."""

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import SCRIPTS, TINY_RUN, call, flags, write_corpus

from hf_minibert.files import MANIFEST, Manifest, append_text, write_json
from hf_minibert.output_folder import LOCK, held_folder, locked, move_into, replaced_folder, staged_folder
from hf_minibert.pretraining import checkpoint
from hf_minibert.pretraining.checkpoint import TrainState, prune_checkpoints, save_checkpoint

Call = Callable[..., int]
PRETRAIN = TINY_RUN | {"max_steps": 2, "max_eval_samples": 4}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, and a model that was trained on it."""
    folder = tmp_path_factory.mktemp("inputs")
    corpus = write_corpus(folder / "corpus.jsonl", documents=60)
    with pytest.MonkeyPatch.context() as monkeypatch:
        words = flags(PRETRAIN | {"corpus": corpus, "output_dir": folder / "model"})
        assert call("pretrain.py", monkeypatch, *words) == 0
    return folder


def settings(inputs: Path) -> dict[str, dict[str, Any]]:
    """What each verb is told, beside its folder."""
    corpus = inputs / "corpus.jsonl"
    return {
        "pretrain": PRETRAIN | {"corpus": corpus, "overwrite_output_dir": True},
        "finetune": {
            "model_name_or_path": inputs / "model",
            "dataset": corpus,
            "num_train_epochs": 1,
            "max_seq_length": 16,
            "overwrite_output_dir": True,
        },
        "export": {"model_name_or_path": inputs / "model"},
        "train_tokenizer": {"corpus": corpus, "vocab_size": 700},
        "prepare_data": {"corpus": corpus, "max_tokens": 500},
    }


VERBS = ["pretrain", "finetune", "export", "train_tokenizer", "prepare_data"]


@pytest.fixture(params=VERBS)
def verb(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def fill(verb: str, inputs: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Have the verb fill a folder; returns its status."""

    def run(output_dir: Path | str, **others: Any) -> int:
        options = settings(inputs)[verb] | {"output_dir": output_dir} | others
        return call(f"{verb}.py", monkeypatch, *flags({name: value for name, value in options.items() if value}))

    return run


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_all_that_a_verb_wrote_is_on_its_list(verb: str, fill: Call, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    assert fill(folder) == 0
    manifest = Manifest.read(folder)
    assert manifest is not None
    assert manifest.verb == verb
    assert set(content(folder)) == {*manifest.files, MANIFEST}
    assert all(manifest.fitting(name) for name in manifest.files)
    assert {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()} == {0o644}


def test_what_is_not_a_verbs_own_outlives_it(
    verb: str, fill: Call, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "out"
    assert fill(folder) == 0
    theirs = ["notes.md", ".git/HEAD", "checkpoint-of-my-thesis/thesis.tex", "checkpoint-77", "sub/config.json"]
    theirs += ["two\nlines"]
    for name in theirs:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("precious")
    edited = "store.json" if verb == "prepare_data" else "README.md"
    if verb == "prepare_data":  # it never replaces anything
        assert fill(folder) == 0
    else:
        (folder / edited).write_text("My own words.")
        caplog.clear()
        assert fill(folder) == 0
        said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("kept in")]
        assert len(said) == 1, said
        assert all(word in said[0] for word in ("notes.md", ".git/", "README.md (edited)", "'two\\nlines'"))
        assert "\n" not in said[0]
        assert (folder / edited).read_text() == "My own words."
        assert (folder / "README.generated.md").read_text().startswith(("---", "# "))
    assert all((folder / name).read_text() == "precious" for name in theirs)


def test_without_a_list_nothing_is_replaced(fill: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "arguments.json").write_text(json.dumps({"objective": "mlm", "task": "text-classification"}))
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref")
    before = content(folder)
    assert fill(folder) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "holds something other than" in error
    assert "delete this one by hand" in error
    assert content(folder) == before


def test_another_verbs_folder_is_left_alone(fill: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "results.json").write_text("{}")
    Manifest(folder, "somebody_elses", {}).write()
    before = content(folder)
    assert fill(folder) == 2
    assert "somebody_elses wrote it" in capsys.readouterr().err
    assert content(folder) == before


LINKS = ["arguments.json", "config.json", "model.safetensors", "README.md", "logs", "decoder", "checkpoint-2"]
LINKS += [".arguments.json.tmp", ".model.tmp", ".hf_minibert.json", ".hf_minibert.lock", "metrics.jsonl"]


def test_no_link_is_followed(fill: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / ".bashrc").write_text("precious")
    for number, name in enumerate(LINKS):
        folder = tmp_path / f"out-{number}"
        folder.mkdir()
        is_folder = "." not in name or name == ".model.tmp"
        (folder / name).symlink_to(home if is_folder else home / ".bashrc")
        assert fill(folder) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert f"{folder / name} is a link where a file of ours belongs" in error
        assert os.listdir(folder) == [name]
    assert content(home) == {".bashrc": b"precious"}


@pytest.mark.parametrize("name", [*LINKS, "logs/hf_minibert", "checkpoint-2/model.safetensors"])
def test_a_strangers_run_with_a_link_is_not_resumed(
    name: str, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    precious = tmp_path / "home"
    precious.mkdir()
    (precious / ".bashrc").write_text("precious")
    run = tmp_path / "run"
    shutil.copytree(inputs / "model", run)
    is_folder = (run / name).is_dir() or name in ("decoder", ".model.tmp")
    if (run / name).is_dir():
        shutil.rmtree(run / name)
    else:
        (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(precious if is_folder else precious / ".bashrc")
    saved = json.loads((inputs / "model" / "arguments.json").read_text()) | {"text_column": "$(touch pwned)"}
    words = [] if name == "arguments.json" else ["--resume"]
    if words:
        (run / "arguments.json").write_text(json.dumps(saved))
    words += flags({"output_dir": run, "max_steps": 4, "text_column": "text"})
    assert call("pretrain.py", monkeypatch, *words) == 2
    assert f"{run / name} is a link where a file of ours belongs" in capsys.readouterr().err
    assert content(precious) == {".bashrc": b"precious"}


def test_what_is_read_is_not_in_the_folder_that_is_written(
    verb: str, fill: Call, inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    assert fill(folder) == 0
    if verb == "prepare_data":  # which finds its tokens there and reads nothing
        (folder / "store.json").unlink()
    shutil.copytree(inputs / "model", folder / "model")
    shutil.copy(inputs / "corpus.jsonl", folder / "corpus.jsonl")
    (tmp_path / "link").symlink_to(folder / "model")
    (tmp_path / "link.jsonl").symlink_to(folder / "corpus.jsonl")
    before = content(folder)
    option, *names = {
        "pretrain": ("corpus", "out/corpus.jsonl", "link.jsonl", "out/*.jsonl"),
        "finetune": ("dataset", "out/corpus.jsonl", "link.jsonl"),
        "export": ("model_name_or_path", "out/model", "link"),
        "train_tokenizer": ("corpus", "out/corpus.jsonl", "out/*.jsonl"),
        "prepare_data": ("corpus", "out/corpus.jsonl", "out/*.jsonl"),
    }[verb]
    for name in names:
        assert fill(folder, **{option: tmp_path / name}) == 2
        assert "is read and lies in output_dir" in capsys.readouterr().err
        assert content(folder) == before


def test_the_folder_itself_is_neither_made_anew_nor_removed(
    verb: str, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be a volume, or the folder where one is: what is in it comes and goes."""
    (tmp_path / "out" / "lost+found").mkdir(parents=True)
    number = (tmp_path / "out").stat().st_ino
    (tmp_path / "link").symlink_to(tmp_path / "out")
    for name in (".", "../link"):
        words = flags(settings(inputs)[verb] | {"output_dir": name})
        script = str(SCRIPTS / f"{verb}.py")
        with monkeypatch.context() as there:
            there.setattr(sys, "argv", [script, *words])
            there.chdir(tmp_path / "out")
            with pytest.raises(SystemExit) as ended:
                runpy.run_path(script, run_name="__main__")
        assert not ended.value.code
    assert (tmp_path / "out").stat().st_ino == number
    assert (tmp_path / "out" / "lost+found").is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "out"]


def test_two_at_once_are_one_and_a_clear_error(fill: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    with locked(folder):
        assert fill(folder) == 2
        assert "another process is writing in output_dir" in capsys.readouterr().err.splitlines()[-1]
        assert os.listdir(folder) == [LOCK]
    assert fill(folder) == 0


def test_the_system_lets_go_of_the_lock_of_a_killed_process(tmp_path: Path) -> None:
    script = (
        "import os, sys, time\nfrom pathlib import Path\nfrom hf_minibert.output_folder import locked\n"
        "with locked(Path(sys.argv[1])):\n"
        "    if os.fork() == 0:\n        time.sleep(60)\n        os._exit(0)\n"
        "    print('locked', flush=True)\n    time.sleep(60)\n"
    )
    words = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        process.kill()
        process.wait()
        try:
            with locked(tmp_path):  # though its child lives
                pass
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_what_a_killed_verb_left_is_swept_up(fill: Call, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    half = folder / ".hf_minibert-0123456789abcdef"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_text("half")
    (folder / ".hf_minibert-fedcba9876543210").write_text("half")
    (folder / LOCK).write_text("")
    assert fill(folder) == 0
    assert not [name for name in os.listdir(folder) if name.startswith(".") and name != MANIFEST]


CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "open")


def killed_at(change: int, work: Callable[[], None]) -> bool:
    """Do some work in a process that dies before so many changes of files; whether it came to the end before."""
    child = os.fork()
    if child == 0:
        seen = 0

        def count(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal seen
            writes = event in CHANGES and (event != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR))
            seen += bool(writes)
            if seen > change:
                os._exit(9)

        sys.addaudithook(count)
        work()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9)
    return status == 0


def run_in(folder: Path, number: int) -> None:
    """The way a run writes: growing logs, checkpoints that come and go, the model, figures and a card."""
    rules: dict[str, Any] = {"kind": "a run", "replaces": True, "remedy": "", "inputs": []}
    with held_folder(str(folder), "pretrain", **rules):
        write_json(folder / "arguments.json", {"run": number})
        manifest = Manifest.read(folder)
        assert manifest is not None
        manifest.grow(["metrics.jsonl"])
        for step in range(2):
            append_text(folder / "metrics.jsonl", json.dumps({"step": step, "run": number}) + "\n")
            save_checkpoint(folder, TrainState(step=step, tokens=number), lambda _: None)
            prune_checkpoints(folder, 1)
        with staged_folder(folder) as staged:
            for name in ("config.json", "model.safetensors"):
                (staged / name).write_text(str(number))
            move_into(staged, folder, last="config.json")
        write_json(folder / "results.json", {"run": number})


def convert_in(folder: Path, number: int) -> None:
    """The way an export writes: all at once, over an earlier one."""
    with replaced_folder(str(folder), "export", "an export", inputs=[], last="config.json") as staged:
        for name in ("config.json", "model.safetensors", f"shard-{number}.safetensors"):
            (staged / name).write_text(str(number))


@pytest.mark.parametrize("work", [run_in, convert_in])
def test_killed_at_any_change_of_files_the_next_one_replaces_what_was_written(
    work: Callable[[Path, int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "_sync", lambda _: None)  # slow, and no process's death needs it
    change, ended = 0, False
    while not ended:
        folder = tmp_path / str(change)
        work(folder, 1)
        (folder / "notes.md").write_text("precious")
        ended = killed_at(change, lambda folder=folder: work(folder, 2))  # type: ignore[misc]
        left = content(folder)
        assert left["notes.md"] == b"precious"
        if "config.json" in left:
            assert left["config.json"] == left["model.safetensors"], "nobody takes a mixture for a model"
        work(folder, 3)
        after = content(folder)
        assert after.pop("notes.md") == b"precious"
        manifest = Manifest.read(folder)
        assert manifest is not None
        assert set(after) == {*manifest.files, MANIFEST}, f"killed at change {change}"
        assert after["config.json"] == after["model.safetensors"] == b"3"
        change += 1
    assert change > 10


def test_a_run_from_before_there_were_lists_is_resumed_and_not_overwritten(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(inputs / "model", tmp_path / "run"))
    (run / MANIFEST).unlink()
    words = flags(PRETRAIN | {"corpus": inputs / "corpus.jsonl", "output_dir": run, "overwrite_output_dir": True})
    before = content(run)
    assert call("pretrain.py", monkeypatch, *words) == 2
    assert "delete this one by hand" in capsys.readouterr().err
    assert content(run) == before
    assert call("pretrain.py", monkeypatch, "--resume", *flags({"output_dir": run, "max_steps": 3})) == 0
    manifest = Manifest.read(run)
    assert manifest is not None
    assert {"checkpoint-3/model.safetensors", "model.safetensors", "README.md"} <= set(manifest.files)
    assert not list(run.glob("*.kept"))
