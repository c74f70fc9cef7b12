"""Several seeds, the metric that chooses, and an early end."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import REPOSITORY
from transformers import AutoModelForMaskedLM

from hf_minibert.errors import UserError
from hf_minibert.finetuning import finetune as finetune_module
from hf_minibert.finetuning.arguments import FinetuneArguments
from hf_minibert.finetuning.durable import Watch
from hf_minibert.finetuning.finetune import finetune
from hf_minibert.finetuning.text import TextClassification
from hf_minibert.output_folder import UNFINISHED
from hf_minibert.presets import build_config
from hf_minibert.tokenization import load_tokenizer


@pytest.fixture(name="arguments")
def _arguments(tmp_path: Path) -> FinetuneArguments:
    """Two epochs of five steps on texts whose labels have no reason."""
    tokenizer = load_tokenizer(REPOSITORY / "tokenizer")
    sizes = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2}
    config = build_config("minibert-tiny", "modern", vocab_size=len(tokenizer), **sizes)
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [{"text": f"text {number} {number**2}", "label": "ab"[number * 7 % 5 % 2]} for number in range(60)]
    (tmp_path / "data").mkdir()
    for name, some in (("train", rows[:40]), ("dev", rows[40:51]), ("test", rows[51:])):
        (tmp_path / "data" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    return FinetuneArguments(
        model_name_or_path=str(tmp_path / "model"),
        dataset=str(tmp_path / "data"),
        output_dir=str(tmp_path / "out"),
        num_train_epochs=2,
        per_device_train_batch_size=8,
        mixed_precision="no",
    )


def stop_at(step: int, which: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send a signal when this step is done for the `which`-th time."""
    end, times = Watch.on_step_end, [0]

    def on_step_end(self: Watch, *event: Any, **more: Any) -> None:
        times[0] += event[1].global_step == step
        if event[1].global_step == step and times[0] == which:
            os.kill(os.getpid(), signal.SIGTERM)
        end(self, *event, **more)

    monkeypatch.setattr(Watch, "on_step_end", on_step_end)


def test_several_seeds_stopped_between_and_within(
    arguments: FinetuneArguments, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    many = replace(arguments, seeds=3, best_metric="loss")
    held, train_seed = list[Any](), finetune_module.train_seed

    def watched(*given: Any) -> Any:
        held.append(outcome := train_seed(*given))
        return outcome

    monkeypatch.setattr(finetune_module, "train_seed", watched)
    with pytest.MonkeyPatch.context() as patch:
        stop_at(7, 2, patch)
        assert finetune(many) == 143
    folder = Path(arguments.output_dir)
    left = {path.name for path in (folder / UNFINISHED).iterdir()}
    assert left == {"begun.json", "seed-42", "seed-43"}
    with pytest.raises(UserError, match=r"holds an unfinished fine-tuning \(seed-42, seed-43\); go on with --resume"):
        finetune(many)
    capsys.readouterr()
    assert finetune(replace(many, resume=True)) == 0
    said = capsys.readouterr().out
    assert "going on from checkpoint-7" in said
    assert "seed 42, 1 of 3" not in said
    assert "seed 44, 3 of 3" in said
    assert len(held) == 4
    assert all(outcome.trainer is None for outcome in held), "one model at a time is in memory"
    results = json.loads((folder / "results.json").read_text())
    seeds = results["seeds"]
    assert seeds["seeds"] == [42, 43, 44]
    losses = seeds["metrics"]["eval_loss"]["values"]
    kept = seeds["kept"]
    assert losses[kept - 42] == min(losses) == results["metrics"]["eval_loss"]
    assert len(set(losses)) == 3
    figures = seeds["metrics"]["test_accuracy"]
    assert figures["mean"] == pytest.approx(sum(figures["values"]) / 3)
    assert "3 seeds, mean and standard deviation (kept: seed" in said
    assert f"| held-out loss (nats) | {sum(losses) / 3:.4f} |" in (folder / "README.md").read_text()
    assert not (folder / UNFINISHED).exists()

    alone = replace(arguments, seed=kept, best_metric="loss", output_dir=f"{arguments.output_dir} alone")
    assert finetune(alone) == 0
    assert (folder / "model.safetensors").read_bytes() == (Path(alone.output_dir) / "model.safetensors").read_bytes()


def test_a_seed_whose_weights_were_damaged_is_trained_again(
    arguments: FinetuneArguments, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    many = replace(arguments, seeds=2, best_metric="loss")
    with pytest.MonkeyPatch.context() as patch:
        stop_at(7, 2, patch)
        assert finetune(many) == 143
    (weights,) = (tmp_path / "out" / UNFINISHED / "seed-42").glob("checkpoint-*/model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 64
    weights.write_bytes(content)
    capsys.readouterr()
    assert finetune(replace(many, resume=True)) == 0
    assert "seed 42, 1 of 2" in capsys.readouterr().out
    whole = replace(many, output_dir=str(tmp_path / "whole"))
    assert finetune(whole) == 0
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("out", "whole")]
    assert results[0]["seeds"] == results[1]["seeds"]


def test_it_ends_early_and_keeps_the_best(arguments: FinetuneArguments, tmp_path: Path) -> None:
    """At a rate that overfits, the loss is best after some epochs; none of the later ones counts."""
    eager = replace(arguments, best_metric="loss", learning_rate=3e-3, num_train_epochs=30, early_stopping_patience=2)
    assert finetune(eager) == 0
    folder = Path(arguments.output_dir)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [line["eval_loss"] for line in lines if "eval_loss" in line]
    results = json.loads((folder / "results.json").read_text())
    assert len(losses) < 30
    assert losses.index(min(losses)) == len(losses) - 3
    assert results["metrics"]["eval_loss"] == pytest.approx(min(losses), rel=1e-4)
    assert results["training"]["epochs"] == len(losses)

    stopped = replace(eager, output_dir=str(tmp_path / "stopped"))
    with pytest.MonkeyPatch.context() as patch:
        stop_at(5 * len(losses), 1, patch)
        assert finetune(stopped) == 143
    assert finetune(replace(stopped, resume=True)) == 0
    assert (tmp_path / "stopped" / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_a_metric_that_has_not_risen_yet_ends_nothing(
    arguments: FinetuneArguments, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four epochs no better than the commonest label, then a good one, then two that are worse."""
    measure, accuracies = TextClassification.measure, iter([0.1, 0.1, 0.2, 0.1, 0.9, 0.8, 0.7])

    def scripted(self: TextClassification, *given: Any, **more: Any) -> dict[str, float]:
        return measure(self, *given, **more) | {"accuracy": next(accuracies, 0.9)}

    monkeypatch.setattr(TextClassification, "measure", scripted)
    assert finetune(replace(arguments, num_train_epochs=20, early_stopping_patience=2)) == 0
    training = json.loads((Path(arguments.output_dir) / "results.json").read_text())["training"]
    assert training["epochs"] == 7


def test_a_metric_that_the_task_has_not(arguments: FinetuneArguments) -> None:
    with pytest.raises(UserError, match="best_metric bleu is no metric of this task; it has loss, accuracy, macro_f1"):
        finetune(replace(arguments, best_metric="bleu"))
    assert not Path(arguments.output_dir).exists()
