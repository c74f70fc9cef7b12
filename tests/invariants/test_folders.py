"""Nobody's files are lost: what a verb may replace in its folder, and what it must leave alone, for all the verbs."""

import errno
import hashlib
import itertools
import json
import os
import re
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import SCRIPTS, TINY_RUN, call, flags, write_corpus
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from hf_minibert import exchange, output_folder
from hf_minibert.card_parts import assembled
from hf_minibert.errors import UserError
from hf_minibert.exchange import NEXT
from hf_minibert.files import MANIFEST, Manifest, append_text, write_json
from hf_minibert.finetuning.unfinished import Unfinished
from hf_minibert.hub.publish import prepare_upload
from hf_minibert.output_folder import (
    LOCK,
    UNFINISHED,
    check_folder,
    held_folder,
    kept_folder,
    locked,
    move_into,
    replace_files,
    replaced_folder,
    settle,
    staged_folder,
)
from hf_minibert.pretraining import checkpoint
from hf_minibert.pretraining.checkpoint import TrainState, prune_checkpoints, save_checkpoint
from hf_minibert.signals import STATUSES, TERMINATED

Call = Callable[..., int]
SMALLEST = "num_hidden_layers=1,hidden_size=32,num_attention_heads=2"
PRETRAIN = TINY_RUN | {"max_steps": 2, "max_eval_samples": 4, "config_overrides": SMALLEST}


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


def test_a_folder_that_cannot_be_made_is_refused_before_anything_is_read(
    fill: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "closed").mkdir()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "closed" and access(path, mode))
    reads = {name: tmp_path / "nowhere" for name in ("corpus", "dataset", "model_name_or_path")}
    for name, said in (
        ("file/out", "is no folder"),
        ("closed", "is read-only"),
        ("closed/a/b", "is read-only"),
        ("x" * 300, "File name too long"),
    ):
        with pytest.raises(UserError, match=said):
            check_folder(str(tmp_path / name), "export", "x", replaces=True, remedy="", inputs=map(str, reads.values()))
        assert fill(tmp_path / name) == 2
        assert said in capsys.readouterr().err.splitlines()[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["closed", "file"]
    assert not list((tmp_path / "closed").iterdir())


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


@pytest.mark.parametrize("verb", ["export", "train_tokenizer"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_leaves_nothing_of_a_verb_that_writes_its_result(
    number: signal.Signals, fill: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(staged: Path, *_: Any, **_words: Any) -> None:
        assert any(staged.iterdir())
        os.kill(os.getpid(), number)
        time.sleep(60)

    monkeypatch.setattr("hf_minibert.output_folder.replace_files", interrupted)
    assert fill(tmp_path / "out") == STATUSES.get(number.name, TERMINATED)
    assert not list(tmp_path.iterdir())


CHANGES = ("os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "open")


def killed_at(change: int, work: Callable[[], None]) -> bool:
    """Do some work in a process that dies before so many changes of files; whether it came to the end before."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads that a child lacks; none is needed there
        child = os.fork()
    if child == 0:
        seen = 0

        def count(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal seen
            writes = event in CHANGES and (event != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR))
            seen += bool(writes)
            if seen > change:
                os._exit(9)

        try:
            sys.addaudithook(count)
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9)
    return status == 0


def write_model(folder: Path, number: int) -> None:
    (folder / "config.json").write_text(json.dumps({"number": number}))
    (folder / "model.safetensors").write_text(str(number))


def model_in(folder: Path) -> tuple[int, int] | None:
    """What `from_pretrained` finds: the numbers of the configuration and of the weights; None if it finds nothing."""
    if not (folder / "config.json").exists():
        return None
    config = json.loads((folder / "config.json").read_text())
    return config["number"], int((folder / config.get("transformers_weights", "model.safetensors")).read_text())


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
            write_model(staged, number)
            move_into(staged, folder, last="config.json")
        write_json(folder / "results.json", {"run": number})


def fail(error: Exception) -> None:
    raise error


def convert_in(folder: Path, number: int) -> None:
    """The way an export writes: all at once, over an earlier one."""
    with replaced_folder(str(folder), "export", "an export", inputs=[], last="config.json") as staged:
        write_model(staged, number)
        (staged / f"shard-{number}.safetensors").write_text(str(number))


def finetune_in(folder: Path, number: int) -> None:
    """The way a fine-tuning writes: checkpoints in a folder of their own, then all at once, over an earlier one."""
    rules: dict[str, Any] = {"kind": "a fine-tuning", "replaces": True, "remedy": "", "inputs": []}
    with kept_folder(str(folder), "finetune", **rules):
        if Manifest.read(folder) is None:
            Manifest(folder, "finetune", {}).write()
        unfinished = Unfinished(folder)
        unfinished.begin({"arguments": {"seed": number}})
        for step in range(3):
            checkpoint = unfinished.folder / f"checkpoint-{step}"
            checkpoint.mkdir()
            for name in ("model.safetensors", "optimizer.pt"):
                (checkpoint / name).write_text(f"{number}, step {step}")
            unfinished.seal(checkpoint, {"best": "checkpoint-0"})
        with staged_folder(folder) as staged:
            write_model(staged, number)
            for name in (f"shard-{number}.safetensors", "results.json", "decoder/results.json"):
                (staged / name).parent.mkdir(exist_ok=True)
                (staged / name).write_text(str(number))
            write_model(staged / "decoder", number)
            replace_files(staged, folder, "finetune", last="config.json")
        unfinished.forget()


@pytest.mark.parametrize("is_listed", [False, True])
def test_defaults_of_generation_that_a_person_wrote_are_kept(tmp_path: Path, is_listed: bool) -> None:
    convert_in(tmp_path, 1)
    name = "generation_config.json"
    if is_listed:  # written by an earlier export, and edited since
        with replaced_folder(str(tmp_path), "export", "an export", inputs=[], last="config.json") as staged:
            write_model(staged, 1)
            (staged / name).write_text("{}")
    (tmp_path / name).write_text('{"mine": 1}')
    convert_in(tmp_path, 2)
    assert model_in(tmp_path) == (2, 2)
    assert (tmp_path / f"{name}.kept").read_text() == '{"mine": 1}'
    assert not (tmp_path / name).exists(), "a model without a decoder would be opened with it"


def test_a_card_with_own_words_stays_if_the_exchange_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or its new figures would stand beside the old model."""

    def write(layers: int) -> None:
        with replaced_folder(str(tmp_path), "export", "an export", inputs=[], last="config.json") as staged:
            write_model(staged, layers)
            (staged / "README.md").write_text(assembled("license: mit", f"It has {layers} layers."))

    write(1)
    card = (tmp_path / "README.md").read_text() + "\nTo all, thanks.\n"
    (tmp_path / "README.md").write_text(card)
    with monkeypatch.context() as broken:
        broken.setattr(output_folder, "exchange", lambda *_, **__: fail(OSError(errno.ENOSPC, "No space left")))
        with pytest.raises(UserError, match="No space left"):
            write(2)
    assert (tmp_path / "README.md").read_text() == card
    write(2)
    assert "It has 2 layers." in (renewed := (tmp_path / "README.md").read_text())
    assert renewed.endswith("To all, thanks.\n")


@pytest.mark.parametrize("work", [run_in, convert_in, finetune_in])
def test_killed_at_any_change_of_files_the_next_one_replaces_what_was_written(
    work: Callable[[Path, int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (checkpoint, exchange):
        monkeypatch.setattr(module, "sync", lambda _: None)  # slow, and no process's death needs it
    change, ended, seen = 0, False, set[int]()
    while not ended:
        folder = tmp_path / str(change)
        work(folder, 1)
        (folder / "notes.md").write_text("precious")
        ended = killed_at(change, lambda folder=folder: work(folder, 2))  # type: ignore[misc]
        left = content(folder)
        assert left["notes.md"] == b"precious"
        models = [model_in(folder), *([model_in(folder / "decoder")] if work is finetune_in else [])]
        assert set(models) <= {(1, 1), (2, 2)} | ({None} if work is run_in else set()), "old or new, and no mixture"
        settle(folder)
        if work is not run_in:
            left = {name: value for name, value in content(folder).items() if not name.startswith(".")}
            del left["notes.md"]
            found = {json.loads(value)["number"] if "config" in name else int(value) for name, value in left.items()}
            assert len(found) == 1, "all is old or all is new"
            seen |= found
        if (folder / UNFINISHED).exists():
            steps = [int(path.parent.name[-1]) for path in (folder / UNFINISHED).glob("checkpoint-*/progress.json")]
            newest = Unfinished(folder).checkpoint()
            assert (newest and newest.name) == (f"checkpoint-{max(steps)}" if steps else None)
        work(folder, 3)
        after = content(folder)
        assert after.pop("notes.md") == b"precious"
        manifest = Manifest.read(folder)
        assert manifest is not None
        assert set(after) == {*manifest.files, MANIFEST}, f"killed at change {change}"
        assert model_in(folder) == (3, 3)
        change += 1
    assert seen == ({1, 2} if work is not run_in else set())
    assert change > 10


def test_killed_at_any_change_of_files_a_last_file_that_stays_as_it_was_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `modules.json` of sentence-transformers, or `index.html` of a page, where only the weights are new."""
    monkeypatch.setattr(exchange, "sync", lambda _: None)

    def fill(folder: Path, number: int) -> None:
        with replaced_folder(str(folder), "export", "an export", inputs=[], last="modules.json") as staged:
            (staged / "modules.json").write_text("[]")
            (staged / "weights").write_text(str(number))

    change, ended, seen = 0, False, set[bytes]()
    while not ended:
        folder = tmp_path / str(change)
        fill(folder, 1)
        ended = killed_at(change, lambda folder=folder: fill(folder, 2))  # type: ignore[misc]
        settle(folder)
        left = content(folder)
        assert left.keys() - {name for name in left if name.startswith(".")} == {"modules.json", "weights"}
        assert left["modules.json"] == b"[]"
        seen.add(left["weights"])
        change += 1
    assert seen == {b"1", b"2"}


def test_a_list_that_somebody_edited_leads_nowhere(tmp_path: Path) -> None:
    folder, checksum = tmp_path / "out", hashlib.sha256(b"precious").hexdigest()
    convert_in(folder, 1)
    (folder / ".git").mkdir()
    (folder / "up").symlink_to("..")
    theirs = [tmp_path / "precious.txt", folder / ".git" / "HEAD"]
    for path in theirs:
        path.write_text("precious")
    names = ["../precious.txt", str(theirs[0]), ".git/HEAD", "up/precious.txt", "a/../../precious.txt"]
    manifest = Manifest.read(folder)
    assert manifest is not None
    manifest.files |= {name: [{"sha256": checksum}] for name in names}
    manifest.write()
    convert_in(folder, 2)
    assert model_in(folder) == (2, 2)
    assert all(path.read_text() == "precious" for path in theirs)
    after = Manifest.read(folder)
    assert after is not None
    assert not set(names) & after.files.keys()


CHANGED: dict[str, dict[str, Any]] = {
    "finetune": {"seed": 7},
    "export": {"model_name_or_path": "other"},
    "train_tokenizer": {"vocab_size": 750},
}
"""What a second call of a verb is told otherwise."""


@pytest.mark.parametrize("every", [83, pytest.param(4, marks=[pytest.mark.slow, pytest.mark.timeout(3_600)])])
@pytest.mark.parametrize("verb", list(CHANGED))
@pytest.mark.usefixtures("alone")
def test_a_verb_killed_at_any_change_of_files_leaves_the_old_result_or_the_new(
    every: int, verb: str, fill: Call, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = dict(CHANGED[verb])
    if verb == "export":
        changed["model_name_or_path"] = Path(shutil.copytree(inputs / "model", tmp_path / "other"))
        words = flags(PRETRAIN | {"corpus": inputs / "corpus.jsonl", "seed": 7, "overwrite_output_dir": True})
        assert call("pretrain.py", monkeypatch, *words, "--output_dir", str(tmp_path / "other")) == 0
    folder = tmp_path / "out"
    assert fill(folder, **changed) == 0
    new, new_opened = shown(folder), opened(folder)
    shutil.rmtree(folder)
    assert fill(folder) == 0
    old, old_opened = shown(folder), opened(folder)
    assert old_opened != new_opened
    shutil.copytree(folder, tmp_path / "old")
    differing = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)} - {"README.md"}
    assert len(differing) >= {"finetune": 4, "export": 1, "train_tokenizer": 2}[verb]
    change, ended, seen = 3, False, set()
    while not ended:
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "old", folder)
        ended = killed_at(change, lambda: fill(folder, **changed))
        assert opened(folder) in (old_opened, new_opened), f"killed at change {change}"
        if verb == "finetune" and (folder / NEXT).exists():
            with pytest.raises(UserError, match="is half done"):
                prepare_upload(folder, "me/model")
        settle(folder)
        left = shown(folder)
        seen.add("old" if left == old else "new")
        if left != old:
            assert left.keys() == new.keys(), f"killed at change {change}"
            assert not [name for name in differing if left.get(name) == old.get(name)], "a mixture"
            assert opened(folder) == new_opened
        goes_on = verb == "finetune" and Unfinished(folder).begun() is not None
        assert fill(folder, **changed, **({"resume": True, "overwrite_output_dir": False} if goes_on else {})) == 0
        manifest = Manifest.read(folder)
        assert manifest is not None
        assert set(content(folder)) == {*manifest.files, MANIFEST}, f"killed at change {change}"
        for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "arguments.json"):
            assert shown(folder).get(name) == new.get(name), f"killed at change {change}"
        change += every
    assert seen == {"old", "new"}


def opened(folder: Path) -> dict[str, Any]:
    """What transformers finds in a folder: the tokenizer and, if there is one, the model."""
    with warnings.catch_warnings(action="ignore"):  # `AutoModel` has no use for heads
        found = {"tokenizer": AutoTokenizer.from_pretrained(folder).backend_tokenizer.to_str()}
        if (folder / "results.json").exists() or (folder / "export.json").exists():
            model = AutoModel.from_pretrained(folder)
            found |= {"weights": digest_of(model), "labels": model.config.id2label}
    return found


def digest_of(model: PreTrainedModel) -> str:
    weights = {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}
    return hashlib.sha256(repr(sorted(weights.items())).encode()).hexdigest()


def test_where_model_and_tokenizer_change_nobody_gets_one_with_the_others(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps of an exchange one by one: the model is always old or new, the tokenizer fits or does not open."""
    before, after = tmp_path / "before", tmp_path / "after"
    other = tmp_path / "tokenizer"
    words = flags({"corpus": inputs / "corpus.jsonl", "vocab_size": 700, "output_dir": other})
    assert call("train_tokenizer.py", monkeypatch, *words) == 0
    for name, more in ((before, {}), (after, {"tokenizer": other})):
        words = flags(PRETRAIN | more | {"corpus": inputs / "corpus.jsonl", "model": "minigpt-tiny"})
        assert call("pretrain.py", monkeypatch, *words, "--output_dir", str(tmp_path / "model")) == 0
        words = flags({"model_name_or_path": tmp_path / "model", "output_dir": name})
        assert call("export.py", monkeypatch, *words) == 0
        shutil.rmtree(tmp_path / "model")
    old, new = opened(before), opened(after)
    assert old["tokenizer"] != new["tokenizer"]
    old_size = AutoConfig.from_pretrained(before).vocab_size
    take, states = exchange._take, list[Any]()
    folder = Path(shutil.copytree(before, tmp_path / "out"))

    def look() -> None:
        with warnings.catch_warnings(action="ignore"):
            model = AutoModelForCausalLM.from_pretrained(folder)
        assert model.generation_config.eos_token_id == model.config.eos_token_id
        is_new = model.config.vocab_size != old_size
        assert digest_of(model.base_model) == (new if is_new else old)["weights"]
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder).backend_tokenizer.to_str()
            assert tokenizer == (new if is_new else old)["tokenizer"]
            states.append(is_new)
        except ValueError:
            states.append(None)

    def watched(*step: Any) -> None:
        look()
        take(*step)
        look()

    monkeypatch.setattr(exchange, "_take", watched)
    with staged_folder(folder) as staged:
        for path in after.iterdir():
            if path.name != MANIFEST:
                shutil.copy(path, staged)
        replace_files(staged, folder, "export", last="config.json")
    assert opened(folder) == new
    assert [state for state, _ in itertools.groupby(states)] == [False, None, True]
    assert states.count(None) == 4, "before and after the one step that changes the model"


@pytest.fixture(name="alone")
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread, since a process that is forked from several has only one of them."""
    monkeypatch.setattr("hf_minibert.finetuning.run.use_all_cores", lambda _: None)
    monkeypatch.setattr("hf_minibert.pretraining.backend.use_all_cores", lambda _: None)


def shown(folder: Path) -> dict[str, bytes]:
    """The files of a folder that are not hidden."""
    return {name: value for name, value in content(folder).items() if not name.startswith(".")}


@pytest.mark.parametrize("verb", ["export", "train_tokenizer"])
def test_a_full_disk_is_one_line_and_changes_nothing(
    fill: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    assert fill(folder) == 0
    before = content(folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in (0, 500, 3_000, max(map(len, before.values())) - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            status = fill(folder)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert status == 2
        assert re.search(r"error: .*File too large", capsys.readouterr().err.splitlines()[-1])
        assert content(folder) == before


def test_a_disk_that_is_full_at_the_end_of_a_run_is_one_line_and_resuming_ends_it(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, words = tmp_path / "run", flags(PRETRAIN | {"corpus": inputs / "corpus.jsonl", "output_dir": tmp_path / "run"})

    def full(*_: Any, **_words: Any) -> None:
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr("hf_minibert.pretraining.loop.move_into", full)
        assert call("pretrain.py", monkeypatch, *words) == 2
    assert "make room on the disk, and --resume ends the run" in capsys.readouterr().err.splitlines()[-1]
    assert not (run / "config.json").exists()
    assert call("pretrain.py", monkeypatch, "--resume", "--output_dir", run) == 0
    assert (run / "model.safetensors").read_bytes() == (inputs / "model" / "model.safetensors").read_bytes()


def test_a_run_from_before_there_were_lists_is_resumed_and_not_overwritten(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(inputs / "model", tmp_path / "run"))
    (run / MANIFEST).unlink()
    (run / "certificate.json").unlink()  # there was none then
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
