"""Text classification end to end: pairs, several labels, numbers, weights of labels, and where models come from."""

import itertools
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import REPOSITORY, TWO_PROCESSES, command, write_corpus
from sklearn.metrics import accuracy_score, recall_score
from tokenizers import processors
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    EvalPrediction,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    Trainer,
    pipeline,
)

from hf_minibert.command_line import parse
from hf_minibert.errors import UserError
from hf_minibert.evaluation import metrics
from hf_minibert.finetuning import arguments as arguments_module
from hf_minibert.finetuning import finetune as finetune_module
from hf_minibert.finetuning import run as run_module
from hf_minibert.finetuning.arguments import FinetuneArguments
from hf_minibert.finetuning.finetune import finetune
from hf_minibert.finetuning.pictures import draw_confusion
from hf_minibert.finetuning.run import usual_epochs
from hf_minibert.finetuning.start import from_checkpoint, from_preset, pooling_fields
from hf_minibert.finetuning.task import TaskData
from hf_minibert.finetuning.tasks import TASKS
from hf_minibert.finetuning.text import TextClassification, WeightedTrainer
from hf_minibert.finetuning.trainer import ProportionateTrainer
from hf_minibert.models import modeling_minibert
from hf_minibert.presets import build_config
from hf_minibert.tokenization import load_tokenizer

SMALL = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2}


@pytest.fixture(name="models", scope="module")
def _models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Either model, small and random, each in a folder of its name."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = load_tokenizer(REPOSITORY / "tokenizer")
    for name, model_class in (("minibert", AutoModelForMaskedLM), ("minigpt", AutoModelForCausalLM)):
        config = build_config(
            f"{name}-tiny", "modern", vocab_size=len(tokenizer), bos_token_id=2, eos_token_id=3, **SMALL
        )
        model_class.from_config(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def asked(models: Path, tmp_path: Path, rows: list[dict[str, Any]], **others: Any) -> FinetuneArguments:
    """An epoch on 40 rows; the other rows are the dev and the test split."""
    data = tmp_path / "data"
    data.mkdir(exist_ok=True)
    for name, some in (("train", rows[:40]), ("dev", rows[40:51]), ("test", rows[51:])):
        write(data / f"{name}.jsonl", some)
    settings = {
        "model_name_or_path": str(models / "minibert"),
        "dataset": str(data),
        "output_dir": str(tmp_path / "out"),
        "num_train_epochs": 1,
        "per_device_eval_batch_size": 4,
        "write_predictions": True,
    }
    return FinetuneArguments(**(settings | others))


def lines_of(folder: Path, split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"predictions_{split}.jsonl").read_text().splitlines()]


COLORS = ["red", "green", "blue"]
TEXTS = [f"text {'and more ' * (number % 5)}{number}" for number in range(60)]
KINDS: dict[str, list[dict[str, Any]]] = {
    "single": [{"text": text, "label": COLORS[place % 3]} for place, text in enumerate(TEXTS)],
    "several": [{"text": text, "labels": COLORS[: place % 4]} for place, text in enumerate(TEXTS)],
    "number": [{"sentence1": text, "sentence2": text[::-1], "score": place / 7} for place, text in enumerate(TEXTS)],
}


@pytest.mark.parametrize(
    ("kind", "model"), [("single", "minigpt"), ("several", "minibert"), ("several", "minigpt"), ("number", "minibert")]
)
def test_each_kind_of_label(
    kind: str, model: str, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = asked(models, tmp_path, KINDS[kind], model_name_or_path=str(models / model))
    assert finetune(arguments) == 0
    said = capsys.readouterr().out
    folder = tmp_path / "out"
    results = json.loads((folder / "results.json").read_text())
    found = results["metrics"]
    lines = {split: lines_of(folder, split) for split in ("eval", "test")}
    assert [line["row"] for line in lines["eval"]] == list(range(1, 12)), "in the order of the table"
    column = {"single": "label", "several": "labels", "number": "score"}[kind]
    for split, rows in (("eval", KINDS[kind][40:51]), ("test", KINDS[kind][51:])):
        right = [line["label"] for line in lines[split]]
        mine = [line["prediction"] for line in lines[split]]
        assert right == [sorted(row[column]) if kind == "several" else pytest.approx(row[column]) for row in rows]
        if kind == "single":
            assert accuracy_score(right, mine) == pytest.approx(found[f"{split}_accuracy"])
            best = [max(line["scores"], key=line["scores"].get) for line in lines[split]]
            assert best == mine
        elif kind == "several":
            names = results["dataset"]["labels"]
            true, chosen = ([[int(name in each) for name in names] for each in some] for some in (right, mine))
            expected = metrics.MultiLabelMetrics().compute(predictions=chosen, references=true)
            assert {name: found[f"{split}_{name}"] for name in expected} == pytest.approx(expected)
        else:
            expected = metrics.RegressionMetrics().compute(predictions=mine, references=right)
            assert {name: found[f"{split}_{name}"] for name in expected} == pytest.approx(expected, abs=1e-4)
            assert "columns: text sentence1, second text sentence2, label score" in said
            assert json.loads((folder / "config.json").read_text())["classifier_pooling"] == "siamese"
    for name, (low, high) in results["intervals"].items():
        assert name.startswith("test_")
        assert low <= high
    card = (folder / "README.md").read_text()
    assert "](predictions.png)" in card
    assert (folder / "predictions.png").read_bytes().startswith(b"\x89PNG")
    code = card.split("```python\n")[1].split("```")[0]
    outputs: list[Any] = []
    exec(code.replace("print(", "outputs.append("), {"outputs": outputs})  # noqa: S102  # what the card says works
    answers = outputs[0] if isinstance(outputs[0], list) else [outputs[0]]
    answers = answers[0] if isinstance(answers[0], list) else answers
    assert {answer["label"] for answer in answers} <= {*COLORS, "LABEL_0"}
    assert len(answers) == (3 if kind == "several" else 1)


@pytest.mark.parametrize("pooling", ["pair", "siamese"])
def test_one_text_is_no_pair(models: Path, tmp_path: Path, pooling: str) -> None:
    single = asked(models, tmp_path, KINDS["single"], classifier_pooling=pooling)
    with pytest.raises(UserError, match=rf"{pooling} is for two texts; .* second one's column \(--text_pair_column\)"):
        finetune(single)
    with pytest.raises(UserError, match="--lm_loss_weight is for MiniGPT, which goes on learning to write"):
        finetune(asked(models, tmp_path, KINDS["single"], lm_loss_weight=2.0))
    assert not (tmp_path / "out").exists()


def test_numbers_that_look_like_no_label_are_counted(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a batch that holds many would have many times its loss."""
    counted = list[tuple[int, float]]()
    loss_of = modeling_minibert.classification_loss

    def noted(logits: Any, labels: Any, *rest: Any) -> Any:
        counted.append((labels.numel(), float(rest[-1] if rest[-1] is not None else labels.numel())))
        return loss_of(logits, labels, *rest)

    monkeypatch.setattr(modeling_minibert, "classification_loss", noted)
    rows = [{"text": text, "label": -100 if place % 2 else place / 7} for place, text in enumerate(TEXTS)]
    assert finetune(asked(models, tmp_path, rows, problem_type="regression", write_predictions=False)) == 0
    assert len(counted) > 2
    assert all(there == taken for there, taken in counted)


def test_a_tokenizer_that_parts_no_texts_gives_no_pairs() -> None:
    """A pooling that finds the end of the first text nowhere would compare it with nothing."""
    start = from_preset("minibert-tiny")
    arguments = FinetuneArguments(output_dir="x", model="minibert-tiny")
    assert pooling_fields(arguments, start, is_pair=True) == {"classifier_pooling": "siamese"}
    ends = [("[CLS]", start.tokenizer.cls_token_id), ("[SEP]", start.tokenizer.sep_token_id)]
    start.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A $B [SEP]", special_tokens=ends
    )
    assert pooling_fields(arguments, start, is_pair=True) == {"classifier_pooling": "mean"}
    with pytest.raises(UserError, match="needs a tokenizer that ends the first text .* minibert-tiny does not"):
        pooling_fields(replace(arguments, classifier_pooling="pair"), start, is_pair=True)


@pytest.mark.parametrize("pooling", ["pair", "siamese"])
def test_a_model_that_compared_texts_does_not_compare_one_with_nothing(pooling: str) -> None:
    start = from_preset("minibert-tiny")
    start.config.architectures, start.config.classifier_pooling = ["MiniBertForSequenceClassification"], pooling
    arguments = FinetuneArguments(output_dir="x", model="minibert-tiny")
    assert pooling_fields(arguments, start, is_pair=True) == {"classifier_pooling": pooling}
    assert pooling_fields(arguments, start, is_pair=False) == {"classifier_pooling": "mean"}


@pytest.mark.parametrize(("column", "notes"), [("text", 1), ("text_pair", 0)])
def test_an_end_of_text_in_the_first_of_two_texts_is_said(tmp_path: Path, column: str, notes: int) -> None:
    rows = [{"text": "red", "text_pair": "blue", "label": "ab"[at % 2]} for at in range(4)]
    rows[1][column] = "red [SEP] green"
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = FinetuneArguments(
        output_dir=str(tmp_path / "out"), model="minibert-tiny", dataset=str(path), eval_dataset=str(path)
    )
    task, start = TextClassification(arguments), from_preset("minibert-tiny")
    data = task.read()
    assert "columns: text text, second text text_pair, label label" in data.notes
    assert task.config_fields(start, data)["classifier_pooling"] == "siamese"
    task.encode(data.splits["train"], "train", start.tokenizer, 64)
    assert len(task.notes) == notes
    assert all("train: 1 first texts hold [SEP], which ends a text" in note for note in task.notes)


def test_a_tokenizer_with_tokens_around_two_texts_but_none_between_is_refused() -> None:
    start = from_preset("minigpt-tiny")
    start.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", pair="[CLS] $A $B", special_tokens=[("[CLS]", start.tokenizer.cls_token_id)]
    )
    with pytest.raises(UserError, match="of minigpt-tiny puts tokens around two texts, but none between them"):
        start.keep_pairs_apart()


def test_labels_with_a_separator(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(
        "text,label\n" + "".join(f"{text},{';'.join(COLORS[: 1 + n % 3])}\n" for n, text in enumerate(TEXTS))
    )
    task = TextClassification(
        FinetuneArguments(model="minibert-tiny", output_dir="x", dataset=str(file), label_separator=";")
    )
    data = task.read()
    assert data.labels == sorted(COLORS)
    assert {tuple(label) for label in data.splits["train"]["label"]} <= {(2,), (2, 1), (2, 1, 0)}
    assert task.metrics[0] == "micro_f1"


def test_rare_labels_count_as_much_as_common_ones(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"text": text, "label": "rare" if place % 8 == 0 else "common"} for place, text in enumerate(TEXTS)]
    seen: list[tuple[Any, ...]] = []
    compute = WeightedTrainer.compute_loss

    def look(self: WeightedTrainer, model: Any, inputs: Any, return_outputs: bool = False, **more: Any) -> Any:
        loss, outputs = compute(self, model, inputs, True, **more)
        seen.append((loss.detach(), outputs["logits"].detach().float(), inputs["labels"], *more.values()))
        return (loss, outputs) if return_outputs else loss

    monkeypatch.setattr(WeightedTrainer, "compute_loss", look)
    arguments = asked(models, tmp_path, rows, class_weights="balanced", per_device_train_batch_size=6)
    assert finetune(replace(arguments, gradient_accumulation_steps=2, mixed_precision="no")) == 0
    counts = torch.tensor([35.0, 5.0])
    weights = 40 / (2 * counts)
    assert len(seen) == 7 + 3 + 3 + 3
    for loss, logits, labels, *(items,) in [(*one, None)[:4] for one in seen]:
        total = F.cross_entropy(logits, labels, weight=weights, reduction="sum")
        torch.testing.assert_close(loss, total / (len(labels) if items is None else items), rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="class_weights is for labels, but these are numbers"):
        TextClassification(replace(asked(models, tmp_path, KINDS["number"]), class_weights="balanced")).read()


def test_texts_with_a_label_count_as_much_as_those_without(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the texts that are trained on, which may be fewer than the file has."""
    rows = [{"text": text, "label": ["a", "b"] if place % 8 == 0 else ["a"]} for place, text in enumerate(TEXTS)]
    built: list[WeightedTrainer] = []
    begin = WeightedTrainer.__init__
    monkeypatch.setattr(WeightedTrainer, "__init__", lambda self, **more: (begin(self, **more), built.append(self))[0])
    assert finetune(asked(models, tmp_path, rows, class_weights="balanced", max_train_samples=24)) == 0
    (trainer,) = built
    counts = torch.tensor([row["labels"] for row in trainer.train_dataset]).sum(dim=0)
    assert len(trainer.train_dataset) == 24
    assert counts[0] == 24
    assert 0 < counts[1] < 24
    balanced = [24 / (2 * (24 - counts[1])), 24 / (2 * counts[1])]
    weights = torch.tensor([[1.0, balanced[0]], [0.5, balanced[1]]])  # training meets no text without the first label
    torch.testing.assert_close(trainer._class_weights.cpu(), weights)
    logits, labels = torch.randn(3, 2), torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    plain = F.binary_cross_entropy_with_logits(logits, labels)
    monkeypatch.setattr(Trainer, "compute_loss", lambda *_: (plain, {"logits": logits}))
    loss = WeightedTrainer.compute_loss(trainer, trainer.model, {"labels": labels})
    each = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    torch.testing.assert_close(loss, (torch.where(labels > 0, weights[1], weights[0]) * each).mean())


def test_figures_of_draws_are_those_of_what_was_drawn() -> None:
    numbers = np.random.default_rng(0)
    true, said = numbers.integers(0, 4, 50), numbers.integers(0, 4, 50)
    draws = numbers.multinomial(50, np.full(50, 0.02), size=20)
    places = [np.repeat(np.arange(50), draw) for draw in draws]
    cases: list[tuple[Any, Any, Any, Any]] = [
        (metrics.classification_draws, metrics.classification_scores, true, said),
        (metrics.classification_draws, metrics.classification_scores, true % 2, said % 2),
        (
            metrics.multi_label_draws,
            metrics.multi_label_scores,
            numbers.integers(0, 2, (50, 3)),
            np.eye(3, dtype=int)[said % 3],
        ),
        (metrics.regression_draws, metrics.regression_scores, true * 0.5, said + 0.1 * true),
    ]
    for in_draws, scores, right, mine in cases:
        figures = in_draws(right, mine, draws)
        for number, place in enumerate(places):
            options = {"num_labels": 2} if right.ndim == 1 and right.max() == 1 else {}
            expected = scores(right[place], mine[place], **options)
            assert {name: figures[name][number] for name in expected} == pytest.approx(expected)


def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Of 200 samples of 100 coins of .7, the 95% interval holds .7 in about 190."""
    numbers = np.random.default_rng(1)
    hits = 0
    for seed in range(200):
        right = (numbers.random(100) < 0.7).astype(int)
        (low, high) = metrics.confidence_intervals(
            lambda draws, right=right: {"accuracy": draws @ right / 100}, np.ones(100, int), seed=seed
        )["accuracy"]
        hits += low <= 0.7 <= high
    assert 176 <= hits <= 198


def test_new_weights_and_stock_models(tmp_path: Path, models: Path) -> None:
    """A named model is new; a stock one computes what it did."""
    tokenizer = load_tokenizer(REPOSITORY / "tokenizer")
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert = BertForMaskedLM(BertConfig(intermediate_size=64, hidden_act="gelu", **sizes)).eval()
    bert.save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    start = from_checkpoint(str(tmp_path / "bert"))
    ours, new = start.model(AutoModelForMaskedLM)
    assert not new
    assert start.name == "bert"
    batch = tokenizer(["a text", "another one, longer"], padding=True, return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(**batch).logits, bert(**batch).logits, rtol=0, atol=1e-5)

    gpt = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2, n_positions=64))
    gpt.save_pretrained(tmp_path / "gpt")
    ends = {"bos_token": "[SEP]", "eos_token": "[SEP]", "padding_side": "left"}
    as_in_gpt2 = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **ends)
    as_in_gpt2.save_pretrained(tmp_path / "gpt")
    opened = from_checkpoint(str(tmp_path / "gpt")).tokenizer
    assert opened.padding_side == "right", "the places of answers are counted from the left"
    shutil.copytree(models / "minigpt", tmp_path / "left")
    AutoTokenizer.from_pretrained(tmp_path / "left", padding_side="left").save_pretrained(tmp_path / "left")
    assert from_checkpoint(str(tmp_path / "left")).tokenizer.padding_side == "right"
    arguments = asked(models, tmp_path, KINDS["single"], model_name_or_path=str(tmp_path / "gpt"))
    assert finetune(arguments) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (results["base_model"], results["model_type"], results["from_scratch"]) == ("gpt", "minigpt", False)
    classify = pipeline("text-classification", model=str(tmp_path / "out"))
    assert {answer["label"] for answer in classify(["a", "a longer one"], batch_size=2)} <= set(COLORS)

    arguments = asked(models, tmp_path, KINDS["single"], model_name_or_path=None, model="minibert-tiny")
    assert finetune(replace(arguments, output_dir=str(tmp_path / "new"))) == 0
    results = json.loads((tmp_path / "new" / "results.json").read_text())
    assert (results["base_model"], results["from_scratch"]) == ("minibert-tiny", True)
    assert "trained from new weights for" in (tmp_path / "new" / "README.md").read_text()


def test_numbers_that_are_all_alike_choose_no_epoch_by_a_correlation(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": text, "score": place / 7 if place < 40 else 2.5} for place, text in enumerate(TEXTS)]
    arguments = asked(models, tmp_path, rows, problem_type="regression", num_train_epochs=2)
    with pytest.raises(UserError, match="best_metric pearson: the numbers of the evaluation split are all alike"):
        finetune(replace(arguments, best_metric="pearson"))
    assert finetune(arguments) == 0
    assert "are all alike, so that correlations with them are 0: the mean squared error" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    errors = [line["eval_mse"] for line in lines if "eval_mse" in line]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["metrics"]["eval_mse"] == pytest.approx(min(errors), rel=1e-4)
    assert "no epoch was better" not in capsys.readouterr().out


def test_the_best_constant_labels_are_found_by_counting(models: Path, tmp_path: Path) -> None:
    task = TextClassification(asked(models, tmp_path, KINDS["several"]))
    data = task.read()
    true = np.array([[one in labels for one in range(3)] for labels in data.splits["eval"]["label"]], dtype=int)
    tried = [
        metrics.multi_label_scores(true, np.tile(said, (len(true), 1)))["micro_f1"]
        for said in itertools.product((0, 1), repeat=3)
    ]
    assert task.baselines(data.splits) == {"constant_micro_f1": pytest.approx(max(tried))}


def test_the_picture_of_very_many_labels_needs_little_memory(tmp_path: Path) -> None:
    """A matrix of all labels would take 80 GB."""
    labels = [f"label {number}" for number in range(100_000)]
    true = np.arange(200) % 50
    for said in (true * 1_000, np.full(200, 99_999)):  # all of the latter are beyond what is drawn
        draw_confusion(tmp_path / "picture.png", true, said, labels)
        assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_a_stock_classifier_that_does_not_say_its_kind_goes_on(models: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(REPOSITORY / "tokenizer")
    shape = {"vocab_size": len(tokenizer), "intermediate_size": 64, "hidden_act": "gelu", **SMALL}
    bert = BertForSequenceClassification(BertConfig(**shape, id2label=dict(enumerate(sorted(COLORS)))))
    assert bert.config.problem_type is None
    bert.save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    assert finetune(asked(models, tmp_path, KINDS["single"], model_name_or_path=str(tmp_path / "bert"))) == 0
    with pytest.raises(UserError, match="tells blue, green, red apart already, but the data has numbers to predict"):
        finetune(
            asked(models, tmp_path, KINDS["number"], model_name_or_path=str(tmp_path / "bert"), output_dir="elsewhere")
        )


def test_decoders_read_two_texts_with_an_end_between_them() -> None:
    for model in ("minigpt-tiny", "minibert-tiny"):
        start = from_preset(model)
        alone, before = start.tokenizer("A b").input_ids, start.tokenizer("A b", "C").input_ids
        for _ in range(2):
            start.keep_pairs_apart()
        assert start.tokenizer("A b").input_ids == alone
        ids = start.tokenizer("A b", "C").input_ids
        if model == "minibert-tiny":
            assert ids == before
        else:
            assert ids == [*alone, start.tokenizer.sep_token_id, *start.tokenizer("C").input_ids]
            assert start.tokenizer("A b", "C", return_offsets_mapping=True).offset_mapping[-1] == (0, 1)


@pytest.mark.parametrize("size", [5, 1])
def test_processes_count_every_text_once(models: Path, tmp_path: Path, size: int) -> None:
    """Also where the last batch is shorter, and where one process has none of it."""
    arguments = asked(models, tmp_path, KINDS["single"])
    settings = {
        name: getattr(arguments, name)
        for name in ("model_name_or_path", "dataset", "output_dir", "num_train_epochs", "write_predictions")
    }
    batches = {"per_device_train_batch_size": 4, "per_device_eval_batch_size": size}
    done = command("finetune.py", tmp_path / "cache", launcher=TWO_PROCESSES, **settings, **batches)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("fine-tuning ") == 1
    training = json.loads((tmp_path / "out" / "results.json").read_text())["training"]
    assert (training["num_processes"], training["global_batch_size"]) == (2, 8)
    folder = tmp_path / "out"
    lines = lines_of(folder, "eval")
    assert [line["row"] for line in lines] == list(range(1, 12))
    assert [line["label"] for line in lines] == [row["label"] for row in KINDS["single"][40:51]]
    classify = pipeline("text-classification", model=str(folder), dtype="float32")
    answers = classify([row["text"] for row in KINDS["single"][40:51]])
    assert [line["scores"][answer["label"]] for line, answer in zip(lines, answers, strict=True)] == pytest.approx(
        [answer["score"] for answer in answers], abs=0.03
    )
    found = json.loads((folder / "results.json").read_text())["metrics"]
    right = np.mean([line["label"] == line["prediction"] for line in lines])
    assert found["eval_accuracy"] == pytest.approx(right)
    nats = -np.log([line["scores"][line["label"]] for line in lines]).mean()
    assert found["eval_loss"] == pytest.approx(nats, abs=1e-3)


@pytest.mark.parametrize("path", sorted((REPOSITORY / "scripts/configs/babylm").iterdir()), ids=lambda path: path.stem)
def test_settings_of_the_babylm_suite_are_read(path: Path, tmp_path: Path) -> None:
    """Every settings file names columns that its data has, and a metric that its task has."""
    columns = {
        "boolq": ("question", "passage"),
        "multirc": ("question", "answer", "paragraph"),
        "wsc": ("span1_text", "span2_text", "text"),
        "mnli": ("premise", "hypothesis"),
        "qqp": ("question1", "question2"),
    }.get(path.stem, ("sentence1", "sentence2"))
    rows = [{name: f"{name} {number}" for name in columns} | {"label": number % 2} for number in range(20)]
    file = write(tmp_path / "rows.jsonl", rows)
    words = [str(path), "--model", "minibert-tiny", "--output_dir", "x", "--dataset", file, "--eval_dataset", file]
    arguments = parse(FinetuneArguments, words)
    task = TextClassification(arguments)
    data = task.read()
    for name in columns:
        assert f"{name} 3" in data.splits["eval"]["text"][3] + " " + data.splits["eval"]["text_pair"][3]
    assert arguments.best_metric in task.metrics
    assert (arguments.learning_rate, arguments.max_seq_length) == (3e-5, 512)


class _WithRecall(TextClassification):
    """As CONTRIBUTING shows: a task that is near another, and chooses its epoch by a metric of its own."""

    def read(self) -> TaskData:
        data = super().read()
        self.metrics, self.best_metric = (*self.metrics, "mean_recall"), "mean_recall"
        return data

    def measure(self, prediction: EvalPrediction, split: str, *, compute_result: bool = True) -> dict[str, float]:
        figures = super().measure(prediction, split, compute_result=compute_result)
        said, true = self._answers(split)
        return figures | {"mean_recall": float(recall_score(true, said, average="macro", zero_division=0))}


def test_a_task_that_is_near_another_may_have_a_metric_of_its_own(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TASKS, "text-classification", _WithRecall)
    assert finetune(asked(models, tmp_path, KINDS["single"])) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {"eval_mean_recall", "test_mean_recall", "test_accuracy"} <= set(results["metrics"])
    assert set(results["intervals"]) == {"test_accuracy", "test_macro_f1", "test_matthews_correlation"}
    assert "mean recall" in (tmp_path / "out" / "README.md").read_text()


def test_a_flag_that_the_task_does_not_use_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = FinetuneArguments.__dataclass_fields__
    assert set(arguments_module.TASK_FLAGS) == set(TASKS)
    assert {name for names in arguments_module.TASK_FLAGS.values() for name in names} <= set(fields)
    monkeypatch.setitem(arguments_module.TASK_FLAGS, "text-classification", ())
    with pytest.raises(
        UserError, match="--label_names is a flag of token-classification; the task text-class.* no use"
    ):
        FinetuneArguments(model="minibert-tiny", output_dir="x", label_names=["a", "b"])
    for both in ({}, {"model": "minibert-tiny", "model_name_or_path": "x"}):
        with pytest.raises(UserError, match="give either --model_name_or_path, .* or --model,"):
            FinetuneArguments(output_dir="x", **both)


def test_long_texts_are_cut_at_the_positions_and_that_is_said(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": "word " * (600 if place == 3 else 40), "label": COLORS[place % 2]} for place in range(60)]
    assert finetune(asked(models, tmp_path, rows)) == 0
    said = capsys.readouterr().out
    assert re.search(
        r"train: 1 of 40 texts are longer than 512 tokens, and cut there \(--max_seq_length; the longest has 6\d\d\)",
        said,
    )
    training = json.loads((tmp_path / "out" / "results.json").read_text())["training"]
    assert training["max_seq_length"] == 512


def test_batches_have_few_lengths(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": "word " * (3 * place + 1), "label": COLORS[place % 2]} for place in range(60)]
    seen = []
    prepare = ProportionateTrainer._prepare_inputs

    def look(self: ProportionateTrainer, inputs: dict[str, Any]) -> dict[str, Any]:
        seen.append(inputs["input_ids"].shape[1])
        return prepare(self, inputs)

    monkeypatch.setattr(ProportionateTrainer, "_prepare_inputs", look)
    kept = {}
    for most in (8, 1_000):
        monkeypatch.setattr(finetune_module, "MOST_LENGTHS", most)
        more = {"per_device_train_batch_size": 2, "hidden_dropout_prob": 0.0, "output_dir": str(tmp_path / f"{most}")}
        assert finetune(asked(models, tmp_path, rows, **more)) == 0
        kept[most] = lines_of(tmp_path / f"{most}", "test")
        lengths = set(seen)
        assert (len(lengths) <= 8 and all(length % 32 == 0 for length in lengths)) == (most == 8)
        seen.clear()
    for one, other in zip(*kept.values(), strict=True):
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-2), "padding changes roundings alone"


def test_rotary_positions_take_longer_texts_where_asked(models: Path, tmp_path: Path) -> None:
    rows = [{"text": "word " * (600 if place % 2 else 40), "label": COLORS[place % 2]} for place in range(60)]
    assert finetune(asked(models, tmp_path, rows, max_seq_length=630)) == 0
    opened = pipeline("text-classification", str(tmp_path / "out"))
    assert (opened.model.config.max_position_embeddings, opened.tokenizer.model_max_length) == (640, 630)
    assert len(opened.tokenizer(rows[1]["text"], truncation=True).input_ids) > 600
    written = lines_of(tmp_path / "out", "test")
    said = opened([row["text"] for row in rows[51:]], top_k=None)
    for one, line in zip(said, written, strict=True):
        assert {each["label"]: each["score"] for each in one} == pytest.approx(line["scores"], abs=1e-2)

    learnt = build_config("minibert-tiny", "modern", **SMALL, position_embedding_type="absolute")
    AutoModelForMaskedLM.from_config(learnt).save_pretrained(tmp_path / "learnt")
    load_tokenizer(models / "minibert").save_pretrained(tmp_path / "learnt")
    more = {"model_name_or_path": str(tmp_path / "learnt"), "overwrite_output_dir": True}
    with pytest.raises(UserError, match="max_seq_length 640 is more than the model's 512 positions; make it smaller"):
        finetune(asked(models, tmp_path, rows, max_seq_length=640, **more))


def test_few_examples_are_passed_more_often(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [usual_epochs(steps, 2_500) for steps in (1, 78, 200, 439, 2_105)] == [20, 20, 13, 6, 3]
    assert usual_epochs(439, TASKS["token-classification"].usual_steps) == 10, "small models learn names slowly"
    monkeypatch.setattr(run_module, "MOST_EPOCHS", 2)
    monkeypatch.setattr(run_module, "FEWEST_EPOCHS", 1)
    arguments = asked(models, tmp_path, KINDS["single"], num_train_epochs=None)
    assert finetune(arguments) == 0
    written = (tmp_path / "out" / "arguments.json").read_text()
    assert json.loads(written)["num_train_epochs"] == 2
    assert json.loads((tmp_path / "out" / "results.json").read_text())["training"]["epochs"] == 2
    assert finetune(replace(arguments, resume=True)) == 0, "it is finished"


def test_a_corpus_without_dev_split_says_what_it_holds_out(tmp_path: Path) -> None:
    task = TextClassification(
        FinetuneArguments(
            model="minibert-tiny", output_dir="x", dataset=str(write_corpus(tmp_path / "c.jsonl", documents=60))
        )
    )
    data = task.read()
    held = len(data.splits["eval"])
    assert data.notes == [f"no evaluation split: {held} of 60 texts are held out, by their hash"]
