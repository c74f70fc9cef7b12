"""Fine-tuning: which weights learn how fast, and several processes."""

import json
import re
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from commands import REPOSITORY, write_corpus
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    TrainingArguments,
)

from hf_minibert.errors import UserError
from hf_minibert.export.stock import to_stock
from hf_minibert.finetuning.arguments import FinetuneArguments
from hf_minibert.finetuning.finetune import finetune
from hf_minibert.finetuning.labelled import load_labelled
from hf_minibert.finetuning.trainer import NEW_WEIGHTS_RATE, USUAL_RMS, OneBar, ProportionateTrainer
from hf_minibert.presets import build_config
from hf_minibert.tokenization import load_tokenizer


class Model(nn.Module):
    """An embedding as large as Muon makes it, a matrix as large as usual, what is no matrix, and a new classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 30)
        self.layer = nn.Linear(30, 20)
        self.norm = nn.LayerNorm(20)
        self.classifier = nn.Linear(20, 2)
        nn.init.constant_(self.embed.weight, 10 * USUAL_RMS)
        nn.init.constant_(self.layer.weight, 0.5 * USUAL_RMS)
        nn.init.constant_(self.layer.bias, 1.0)


@pytest.fixture(name="trainer")
def _trainer(tmp_path) -> ProportionateTrainer:
    settings = TrainingArguments(str(tmp_path), learning_rate=1e-3, weight_decay=0.01, use_cpu=True, report_to="none")
    return ProportionateTrainer(new_weights={"classifier.weight", "classifier.bias"}, model=Model(), args=settings)


def test_matrices_learn_in_proportion_to_their_size(trainer: ProportionateTrainer) -> None:
    optimizer = trainer.create_optimizer()
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    of = {names[id(parameter)]: group for group in optimizer.param_groups for parameter in group["params"]}
    assert set(of) == set(names.values()), "each once"
    rates = dict.fromkeys(of, 1e-3) | {"embed.weight": pytest.approx(1e-2)}
    rates |= dict.fromkeys(("classifier.weight", "classifier.bias"), NEW_WEIGHTS_RATE * 1e-3)
    assert {name: of[name]["lr"] for name in of} == rates
    biases = {"layer.bias", "norm.weight", "norm.bias", "classifier.bias"}
    assert {name for name in of if of[name]["weight_decay"] == 0} == biases
    decays = {of[name]["lr"] * of[name]["weight_decay"] for name in set(of) - biases}
    assert all(decay == pytest.approx(1e-5) for decay in decays), "as fast as all others"

    schedule = trainer.create_scheduler(num_training_steps=10, optimizer=optimizer)
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    for parameter in trainer.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    schedule.step()
    after = {name: parameter.detach() for name, parameter in trainer.model.named_parameters()}
    moved = {name: float((after[name] - before[name]).abs().max()) for name in after}
    assert moved["embed.weight"] == pytest.approx(1e-2, rel=0.05)
    assert moved["layer.weight"] == pytest.approx(1e-3, rel=0.05)
    assert moved["classifier.weight"] == pytest.approx(NEW_WEIGHTS_RATE * 1e-3, rel=0.05)
    assert schedule.get_last_lr()[0] == pytest.approx(0.9e-3)


@pytest.fixture(name="pretrained", scope="module")
def _pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Either model, saved in bfloat16, each in a folder of its name."""
    folder = tmp_path_factory.mktemp("pretrained")
    for name, model_class in (("minibert", AutoModelForMaskedLM), ("minigpt", AutoModelForCausalLM)):
        model_class.from_config(build_config(f"{name}-tiny", "modern")).bfloat16().save_pretrained(folder / name)
        load_tokenizer(REPOSITORY / "tokenizer").save_pretrained(folder / name)
    return folder


@pytest.fixture(name="offline")
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that is asked fails the test."""

    def refuse(*_: object) -> NoReturn:
        raise AssertionError("nobody named a host")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


NEW = {
    "minibert": {"model.pooler.dense.weight", "model.pooler.dense.bias", "classifier.weight", "classifier.bias"},
    "minigpt": {"score.weight"},
}


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", NEW)
def test_what_is_not_pretrained_learns_faster(
    name: str, pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begin = OneBar.on_train_begin
    rates: dict[str, float] = {}

    def look(self: OneBar, *event: Any, model: nn.Module, optimizer: torch.optim.Optimizer, **more: Any) -> None:
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        for group in optimizer.param_groups:
            rates.update({names[id(parameter)]: group["initial_lr"] for parameter in group["params"]})
        begin(self, *event, **more)

    monkeypatch.setattr(OneBar, "on_train_begin", look)
    corpus = write_corpus(tmp_path / "corpus.jsonl", documents=40)
    arguments = FinetuneArguments(
        model_name_or_path=str(pretrained / name),
        dataset=str(corpus),
        learning_rate=1e-3,
        max_seq_length=32,
        num_train_epochs=1,
        output_dir=str(tmp_path / "classifier"),
    )
    assert finetune(arguments) == 0
    said = capsys.readouterr().out
    data = load_labelled(str(corpus))
    counts = [(data.train["label"][:].count(label), data.eval["label"][:].count(label)) for label in (0, 1)]
    table = [" ".join(line.split()) for line in said.partition("fine-tuning")[0].splitlines()]
    held = counts[0][1] + counts[1][1]
    assert table.pop(0) == f"no evaluation split: {held} of 40 texts are held out, by their hash"
    cut = [line for line in table if "are longer than 32 tokens, and cut there (" in line]
    table = [line for line in table if line not in cut]
    assert len(cut) == 2
    assert table == ["label train eval", *(f"{label} {train} {held}" for label, (train, held) in enumerate(counts))]
    assert re.search(
        r"F1 \d+\.\d% as the mean over all labels \(macro\)\n  F1 \d+\.\d% of the positive label, 1\n", said
    )
    kept = json.loads((tmp_path / "classifier" / "results.json").read_text())["metrics"]
    assert {"eval_macro_f1", "eval_positive_f1"} <= set(kept)
    assert {name for name in rates if rates[name] == NEW_WEIGHTS_RATE * 1e-3} == NEW[name]
    assert {rates[name] for name in set(rates) - NEW[name]} == {1e-3}, "as small as they were made"

    rates.clear()
    assert (
        finetune(replace(arguments, model_name_or_path=arguments.output_dir, output_dir=str(tmp_path / "again"))) == 0
    )
    assert set(rates.values()) == {1e-3}, "nothing is new"
    for names in (["good", "bad"], ["one", "two", "three"]):
        rows = [{"text": f"text {number}", "label": names[number % len(names)]} for number in range(40)]
        corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
        again = replace(arguments, model_name_or_path=arguments.output_dir, output_dir=str(tmp_path / "others"))
        with pytest.raises(UserError, match=f"tells 0, 1 apart already, but .* {', '.join(sorted(names))};"):
            finetune(again)
        assert not (tmp_path / "others").exists()


def test_a_classic_model_finetuned_by_default_is_a_bert(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(REPOSITORY / "tokenizer")
    for architecture, pooling in (("classic", "cls"), ("modern", "mean")):
        pretrained = tmp_path / architecture
        AutoModelForMaskedLM.from_config(build_config("minibert-tiny", architecture)).save_pretrained(pretrained)
        tokenizer.save_pretrained(pretrained)
        arguments = FinetuneArguments(
            model_name_or_path=str(pretrained),
            dataset=str(write_corpus(tmp_path / "corpus.jsonl", documents=40)),
            max_seq_length=32,
            num_train_epochs=1,
            output_dir=str(tmp_path / f"{architecture} classifier"),
        )
        assert finetune(arguments) == 0
        model = AutoModelForSequenceClassification.from_pretrained(arguments.output_dir)
        assert model.config.classifier_pooling == pooling
        stock = to_stock(model)
        assert type(stock).__name__.removesuffix("ForSequenceClassification") in ("Bert", "EuroBert")
        batch = tokenizer(["a text", "another, which is longer"], padding=True, return_tensors="pt")
        with torch.no_grad():
            torch.testing.assert_close(stock(**batch).logits, model(**batch).logits, rtol=0, atol=1e-5)
    assert finetune(replace(arguments, classifier_pooling="max", output_dir=str(tmp_path / "max"))) == 0
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "max").config.classifier_pooling == "max"
