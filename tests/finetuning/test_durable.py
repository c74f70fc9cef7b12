"""A fine-tuning that is stopped, killed or diverges: what is there before, after and when it goes on."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import REPOSITORY, call, flags, write_corpus
from test_inputs import ROWS, arguments_of, write
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSequenceClassification

from hf_minibert.errors import UserError
from hf_minibert.files import Manifest, write_json, write_text
from hf_minibert.finetuning.arguments import FinetuneArguments, TaskName
from hf_minibert.finetuning.durable import Watch
from hf_minibert.finetuning.finetune import finetune
from hf_minibert.finetuning.tasks import TASKS
from hf_minibert.hub.publish import prepare_upload
from hf_minibert.output_folder import UNFINISHED
from hf_minibert.presets import build_config
from hf_minibert.tokenization import load_tokenizer

TIMES = ("runtime", "per_second")


@pytest.fixture(name="inputs", scope="module")
def _inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pre-trained models, and labelled texts."""
    folder = tmp_path_factory.mktemp("inputs")
    for name, model_class in (("minibert", AutoModelForMaskedLM), ("minigpt", AutoModelForCausalLM)):
        model_class.from_config(build_config(f"{name}-tiny", "modern")).save_pretrained(folder / name)
        load_tokenizer(REPOSITORY / "tokenizer").save_pretrained(folder / name)
    write_corpus(folder / "texts.jsonl", documents=60)
    return folder


def asked(inputs: Path, output_dir: Path, **others: Any) -> FinetuneArguments:
    """Two epochs of fourteen steps each, of which every third is logged."""
    settings = {
        "model_name_or_path": str(inputs / "minibert"),
        "dataset": str(inputs / "texts.jsonl"),
        "output_dir": str(output_dir),
        "max_seq_length": 16,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
    }
    return FinetuneArguments(**(settings | others))


@pytest.fixture(name="signalled")
def _signalled() -> Callable[..., None]:
    """Has this process get a signal when a step is done, or at the first batch of the evaluation after all steps."""

    def plan(step: int | None, number: int = signal.SIGTERM) -> None:
        with_signal = pytest.MonkeyPatch()
        end, predict = Watch.on_step_end, Watch.on_prediction_step

        def on_step_end(self: Watch, *event: Any, **more: Any) -> None:
            if event[1].global_step == step:
                os.kill(os.getpid(), number)
                with_signal.undo()
            end(self, *event, **more)

        def on_prediction_step(self: Watch, *event: Any, **more: Any) -> None:
            if step is None and not self.trainer.is_in_train:
                os.kill(os.getpid(), number)
                with_signal.undo()
            predict(self, *event, **more)

        with_signal.setattr(Watch, "on_step_end", on_step_end)
        with_signal.setattr(Watch, "on_prediction_step", on_prediction_step)

    return plan


def learned(folder: Path) -> dict[str, Any]:
    """The weights as they lie in their file, and all figures but times."""

    def timeless(figures: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in figures.items() if not name.endswith(TIMES) and "_per_" not in name}

    results = json.loads((folder / "results.json").read_text())
    results["training"].pop("seconds")
    lines = [timeless(json.loads(line)) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {"weights": (folder / "model.safetensors").read_bytes(), "lines": lines, "results": results}


@pytest.fixture(name="whole", scope="module")
def _whole(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of a fine-tuning that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    assert finetune(asked(inputs, folder)) == 0
    return folder


@pytest.mark.parametrize(
    ("steps", "number", "status"),
    [
        ([2, 10, 22], signal.SIGTERM, 143),
        ([14, 28], signal.SIGUSR1, 143),
        ([None], signal.SIGINT, 130),
    ],
    ids=["within epochs", "at their ends", "when all is trained"],
)
def test_stopped_and_resumed_it_ends_as_if_nothing_had_happened(
    steps: list[int | None],
    number: int,
    status: int,
    inputs: Path,
    whole: Path,
    tmp_path: Path,
    signalled: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "hf_minibert")
    arguments = asked(inputs, tmp_path / "out")
    for step in steps:
        signalled(step, number)
        assert finetune(arguments) == status
        assert f"stopped by a signal at step {step or 28}; go on with" in caplog.text
        assert set(os.listdir(arguments.output_dir)) == {".hf_minibert.json", UNFINISHED}
        moved = shutil.move(arguments.output_dir, tmp_path / f"moved {step}")
        arguments = replace(arguments, resume=True, output_dir=str(moved))
    assert finetune(arguments) == 0
    assert learned(moved) == learned(whole)
    assert sorted(os.listdir(moved)) == sorted(os.listdir(whole))


@pytest.mark.parametrize("task", [task for task in TASKS if task != "text-classification"])
def test_every_task_goes_on_where_it_was(task: TaskName, tmp_path: Path, signalled: Callable[..., None]) -> None:
    """Stopped within an epoch, and while the best one is measured."""
    for name in ("train", "dev", "test"):
        write(tmp_path, name, "jsonl", ROWS[task])
    more = {"causal-lm": {"one_document_per_row": True}, "translation": {"num_beams": 1}}.get(task, {})
    settings = {"dataset": str(tmp_path), "num_train_epochs": 2, "per_device_train_batch_size": 2} | more
    assert finetune(arguments_of(task, tmp_path / "whole", **settings)) == 0
    arguments = arguments_of(task, tmp_path / "stopped", **settings)
    for step in (2, None):
        signalled(step)
        assert finetune(arguments) == 143
        arguments = replace(arguments, resume=True)
    assert finetune(arguments) == 0
    assert learned(tmp_path / "stopped" / "out") == learned(tmp_path / "whole" / "out")


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_earlier_result_stays_whole_until_the_new_one_is(
    inputs: Path, whole: Path, tmp_path: Path, signalled: Callable[..., None]
) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "out"))
    write_text(folder / "shard.safetensors", "of the earlier one")
    (folder / "notes.md").write_text("precious")
    before = content(folder)
    arguments = asked(inputs, folder, seed=1, overwrite_output_dir=True)
    signalled(5)
    assert finetune(arguments) == 143
    after = content(folder)
    manifest_name = ".hf_minibert.json"
    assert {name: after[name] for name in before if name != manifest_name} == {
        name: before[name] for name in before if name != manifest_name
    }
    assert {name.split("/")[0] for name in set(after) - set(before)} == {UNFINISHED}
    assert not [name for name in prepare_upload(folder, "me/model") if UNFINISHED in name]
    with pytest.raises(UserError, match=r"holds an unfinished fine-tuning \(checkpoint-5\); go on with --resume, or"):
        finetune(asked(inputs, folder, seed=1))

    assert finetune(asked(inputs, folder, seed=1, resume=True)) == 0
    assert (folder / "notes.md").read_text() == "precious"
    assert json.loads((folder / "arguments.json").read_text())["seed"] == 1
    assert (folder / "model.safetensors").read_bytes() != before["model.safetensors"]
    manifest = Manifest.read(folder)
    assert manifest is not None
    assert set(content(folder)) == {*manifest.files, manifest_name, "notes.md"}
    assert AutoModelForSequenceClassification.from_pretrained(folder).config.num_labels == 2


def test_it_does_not_go_on_with_something_else(
    inputs: Path,
    tmp_path: Path,
    signalled: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    texts = Path(shutil.copy(inputs / "texts.jsonl", tmp_path / "texts.jsonl"))
    model = Path(shutil.copytree(inputs / "minibert", tmp_path / "model"))
    arguments = asked(inputs, tmp_path / "out", dataset=str(texts), model_name_or_path=str(model))
    signalled(1)
    assert finetune(arguments) == 143
    before = content(tmp_path / "out")
    resumed = replace(arguments, resume=True)
    with pytest.raises(UserError, match="begun with other arguments: learning_rate was 0.0003, now 0.1; restore it"):
        finetune(replace(resumed, learning_rate=0.1))
    config = json.loads((model / "config.json").read_text())
    write_json(model / "config.json", config | {"norm_eps": 0.1, "transformers_version": "5.0"})
    with pytest.raises(UserError, match="begun with another configuration; restore it"):
        finetune(resumed)
    write_json(model / "config.json", config | {"transformers_version": "5.0"})
    lines = texts.read_text().splitlines()
    texts.write_text("\n".join([lines[1], lines[0], *lines[2:]]))
    with pytest.raises(UserError, match="begun with another data; restore it"):
        finetune(resumed)
    texts.write_text("\n".join(lines) + "\n\n")
    AutoModelForMaskedLM.from_config(build_config("minibert-tiny", "modern")).save_pretrained(model)
    with pytest.raises(UserError, match="begun with another model; restore it"):
        finetune(resumed)
    assert content(tmp_path / "out") == before

    # On the command line, what is not said is as it was; where the inputs lie does not matter.
    words = {"model_name_or_path": inputs / "minibert", "output_dir": tmp_path / "out", "resume": True}
    more = {"per_device_eval_batch_size": 3}  # which decides nothing
    assert call("finetune.py", monkeypatch, *flags(words | {"seed": 7})) == 2
    assert "seed was 42, now 7; restore it to go on" in capsys.readouterr().err.splitlines()[-1]
    assert call("finetune.py", monkeypatch, *flags(words | {"dataset": inputs / "texts.jsonl", **more})) == 0
    assert not (tmp_path / "out" / UNFINISHED).exists()
    assert call("finetune.py", monkeypatch, *flags(words | {"dataset": inputs / "texts.jsonl", "seed": 7})) == 2
    assert "holds a finished fine-tuning with other arguments: " in capsys.readouterr().err.splitlines()[-1]
    assert call("finetune.py", monkeypatch, *flags(words)) == 0, "what the command that went on said is enough"
    other = tmp_path / "other.jsonl"
    other.write_text((inputs / "texts.jsonl").read_text())
    assert call("finetune.py", monkeypatch, *flags(words | {"dataset": other})) == 0, "the same text in another place"
    other.write_text((inputs / "texts.jsonl").read_text().replace("0}", "1}", 1))
    assert call("finetune.py", monkeypatch, *flags(words | {"dataset": other})) == 2
    assert "holds a finished fine-tuning with another data; give" in capsys.readouterr().err.splitlines()[-1]
    assert call("finetune.py", monkeypatch, *flags(words | {"model_name_or_path": model})) == 2
    assert "holds a finished fine-tuning with another model; give" in capsys.readouterr().err.splitlines()[-1]


def test_resume_where_nothing_was_saved_begins_anew(
    inputs: Path, whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "hf_minibert")
    assert finetune(asked(inputs, tmp_path / "out", resume=True)) == 0
    assert "so the fine-tuning begins anew" in caplog.text
    assert learned(tmp_path / "out") == learned(whole)
    before = content(tmp_path / "out")
    assert finetune(asked(inputs, tmp_path / "out", resume=True)) == 0
    assert f"{tmp_path / 'out'} is already finished" in caplog.text
    assert content(tmp_path / "out") == before


@pytest.mark.parametrize("damage", ["cut", "gone", "begun", "link"])
def test_a_damaged_checkpoint_is_not_gone_on_from(
    damage: str, inputs: Path, whole: Path, tmp_path: Path, signalled: Callable[..., None]
) -> None:
    arguments = asked(inputs, tmp_path / "out")
    signalled(17)
    assert finetune(arguments) == 143
    unfinished = tmp_path / "out" / UNFINISHED
    assert {path.name for path in unfinished.iterdir()} == {"begun.json", "checkpoint-14", "checkpoint-17"}
    moments = unfinished / "checkpoint-17" / "optimizer.pt"
    arguments = replace(arguments, resume=True)
    if damage == "begun":
        (unfinished / "begun.json").write_text("[" * 100_000)
        with pytest.raises(UserError, match=r"begun\.json, which says what was asked for, is damaged"):
            finetune(arguments)
        assert finetune(replace(arguments, resume=False, overwrite_output_dir=True)) == 0
    elif damage == "link":
        moments.rename(tmp_path / "moments")
        moments.symlink_to(tmp_path / "moments")
        with pytest.raises(UserError, match="is a link where a file of ours belongs"):
            finetune(arguments)
        return
    else:
        moments.write_bytes(moments.read_bytes()[:-9]) if damage == "cut" else moments.unlink()
        assert finetune(arguments) == 0
    assert learned(tmp_path / "out") == learned(whole)


@pytest.mark.parametrize("learning_rate", [1e30, 3e38])
def test_a_diverging_one_stops_at_once_and_leaves_nothing(
    learning_rate: float, inputs: Path, whole: Path, tmp_path: Path
) -> None:
    arguments = asked(inputs, tmp_path / "new", learning_rate=learning_rate, num_train_epochs=9)
    with pytest.raises(UserError, match=r"diverged: in step \d+ of 126 .* not finite; .* smaller --learning_rate"):
        finetune(arguments)
    assert not (tmp_path / "new").exists()
    folder = Path(shutil.copytree(whole, tmp_path / "old"))
    with pytest.raises(UserError, match="diverged"):
        finetune(replace(arguments, output_dir=str(folder), overwrite_output_dir=True))
    assert content(folder) == content(whole)


def test_weights_that_are_not_finite_are_never_saved(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though no text uses them, so that loss and gradient are what they should be."""
    step_end = Watch.on_step_end

    def spoil(self: Watch, *event: Any, **more: Any) -> None:
        with torch.no_grad():
            more["model"].get_input_embeddings().weight[-1] = torch.inf
        step_end(self, *event, **more)

    monkeypatch.setattr(Watch, "on_step_end", spoil)
    with pytest.raises(UserError, match="in step 14 of 28 a weight is not finite"):
        finetune(asked(inputs, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_an_epoch_no_better_than_no_learning_is_said(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, labels in (("train", "01"), ("dev", "0")):  # what is always right cannot be surpassed
        rows = [{"text": f"text {number}", "label": labels[number % len(labels)]} for number in range(20)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert finetune(asked(inputs, tmp_path / "out", dataset=str(tmp_path), num_train_epochs=1)) == 0
    assert "no epoch was better than always the commonest label: give more text" in capsys.readouterr().out


def test_an_empty_text_is_a_text(inputs: Path, tmp_path: Path) -> None:
    rows = [{"text": "" if number % 3 else f"text {number}", "label": f"{number % 2}"} for number in range(40)]
    for name in ("train", "dev", "test"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert finetune(asked(inputs, tmp_path / "out", dataset=str(tmp_path), num_train_epochs=1)) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [results["dataset"][f"{split}_examples"] for split in ("train", "eval", "test")] == [40] * 3


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_numbers_are_finite(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["learning_rate", "num_train_epochs", "warmup_steps", "weight_decay", "lm_loss_weight"]
    for name in [*names, "hidden_dropout_prob"]:
        words = ["--model_name_or_path", "x", "--output_dir", str(tmp_path / "out"), f"--{name}={value}"]
        assert call("finetune.py", monkeypatch, *words) == 2
        assert capsys.readouterr().err.endswith(f"argument --{name}: must be a finite number, got {value!r}\n")
        with pytest.raises(UserError, match=f"{name} must be a finite number, got {value}"):
            FinetuneArguments(model_name_or_path="x", output_dir="y", **{name: float(value)})
