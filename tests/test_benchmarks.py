"""The comparisons of recipes and objectives, at a size at which they say nothing but run."""

import ast
import importlib
import itertools
import json
import lzma
import os
import shlex
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from graphlib import TopologicalSorter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from commands import REPOSITORY, environment, write_corpus
from datasets import Dataset
from scipy.sparse import csr_matrix

from hf_minibert import MiniBertForMaskedLM, MiniGPTForCausalLM
from hf_minibert.command_line import parse
from hf_minibert.errors import UserError
from hf_minibert.finetuning import trainer
from hf_minibert.presets import FAMILIES, build_config
from hf_minibert.pretraining.arguments import PretrainArguments
from hf_minibert.pretraining.data import read_data
from hf_minibert.pretraining.plan import make_plan
from hf_minibert.tokenization import load_tokenizer


@pytest.fixture(autouse=True)
def _forget_state() -> None:
    """What an earlier test in this process asked Accelerate for would be refused another precision."""
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(name="results")
def _results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    for name, value in environment(tmp_path / "cache").items():
        monkeypatch.setenv(name, value)
    (tmp_path / "results").mkdir()
    return tmp_path / "results"


def ticks(seconds: float) -> SimpleNamespace:
    """In place of the module `time`: a clock that goes on when it is read, however slow the machine is."""
    return SimpleNamespace(perf_counter=itertools.count(0, seconds).__next__)


def test_no_benchmark_imports_another_in_a_circle() -> None:
    """And none imports `render`, which calls them all."""
    files = {path.stem: path for path in (REPOSITORY / "benchmarks").glob("*.py")}
    imports: dict[str, set[str]] = {}
    for name, path in files.items():
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        imports[name] = (plain | {node.module for node in nodes if isinstance(node, ast.ImportFrom)}) & set(files)
    assert not any("render" in imported for imported in imports.values())
    order = list(TopologicalSorter(imports).static_order())
    assert order.index("peers") < order.index("learning_efficiency")


@pytest.mark.parametrize("size", ["mini", "small", "medium"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.usefixtures("results")
def test_peers_have_as_many_weights(family: str, size: str) -> None:
    """Within 5%."""
    peers, module = (importlib.import_module(name) for name in ("peers", "learning_efficiency"))
    config = build_config(f"{family}-{size}", "modern")
    with torch.device("meta"):
        ours = {"minibert": MiniBertForMaskedLM, "minigpt": MiniGPTForCausalLM}[family](config)
        for peer in module.PEERS[family]:
            model = peers.peer_model(peer, family, size, config.vocab_size)
            count = sum(parameter.numel() for parameter in model.parameters())
            assert count == pytest.approx(ours.num_parameters(), rel=0.05)


def test_a_peer_stops_in_time_and_logs_when(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peers, runs = (importlib.import_module(name) for name in ("peers", "runs"))
    monkeypatch.setattr(peers, "time", ticks(0.1))
    arguments = PretrainArguments(
        model="minigpt-tiny",
        corpus=[str(write_corpus(tmp_path / "corpus.jsonl", documents=60))],
        budget="4s",
        max_seq_length=16,
        output_dir=str(results / "run"),
    )
    plan = make_plan(arguments)
    data = read_data(plan, Accelerator(cpu=not torch.accelerator.is_available()))
    model, training = peers.train_peer("nanogpt", plan, data, seconds=4.0, learning_rate=1e-3, folder=results)
    log = runs.log_of(results)
    assert isinstance(model, peers.PlainGPT)
    assert 0 < training["steps"] == log[-1]["step"]
    seconds = [line["seconds"] for line in log]
    assert seconds == sorted(seconds)
    assert seconds[-1] >= 4.0
    assert log[-1]["tokens"] == log[-1]["step"] * 8 * 16


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # which the compiler calls
@pytest.mark.parametrize(
    ("peer", "family"), [("best-stock", "minibert"), ("modernbert", "minibert"), ("best-stock", "minigpt")]
)
def test_stock_parts_learn_on_our_rows(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, peer: str, family: str
) -> None:
    peers, runs = (importlib.import_module(name) for name in ("peers", "runs"))
    monkeypatch.setattr(peers, "time", ticks(0.015))
    arguments = PretrainArguments(
        model=f"{family}-tiny",
        corpus=[str(write_corpus(tmp_path / "corpus.jsonl", documents=60))],
        budget="3s",
        max_seq_length=16,
        per_device_train_batch_size=16,
        output_dir=str(results / "run"),
    )
    plan = make_plan(arguments)
    data = read_data(plan, Accelerator(cpu=not torch.accelerator.is_available()))
    with torch.compiler.set_stance("force_eager"):
        _, training = peers.train_peer(peer, plan, data, seconds=3.0, learning_rate=3e-3, folder=results)
    log = runs.log_of(results)
    assert 0 < training["steps"] == log[-1]["step"]
    assert log[-1]["seconds"] >= 3.0
    assert log[-1]["tokens"] == log[-1]["step"] * plan.arguments.per_device_train_batch_size * 16
    assert 0 < log[-1]["loss"] < 8.5, "that of equal chances is 9.0"


def test_charts_are_drawn_from_result_files_alone(results: Path) -> None:
    kept = REPOSITORY / "benchmarks" / "results"
    render = importlib.import_module("render")
    for file in kept.glob("*.json"):
        render.draw(Path(shutil.copy(file, results)))
    drawn = {path.name for path in results.glob("*.png")}
    assert drawn == {path.name for path in kept.glob("*.png")}
    assert {"learning_efficiency-minigpt-mini.png", "objectives-mini.png"} <= drawn


@pytest.mark.usefixtures("results")
def test_a_curve_has_the_mean_of_every_fifty_steps_and_every_evaluation() -> None:
    def line(step: int, **losses: float | None) -> dict[str, float | None]:
        return {"step": step, "tokens": 2 * step, "seconds": step / 10, **losses}

    logged = [line(step, loss=9.0, mlm_loss=step / 10) for step in range(10, 120, 10)]
    evaluated = [line(60, eval_loss=7.0, eval_mlm_loss=6.0), line(110, eval_loss=5.00004)]
    found = importlib.import_module("runs").curves([*logged, *evaluated])
    assert found == {
        "training": [[50, 100, 5.0, 3.0], [100, 200, 10.0, 8.0]],  # the last ten steps are no fifty
        "held_out": [[60, 120, 6.0, 6.0], [110, 220, 11.0, 5.0]],
    }


@pytest.mark.usefixtures("results")
def test_a_run_that_diverged_has_a_curve_with_a_gap() -> None:
    lines = [{"step": step, "tokens": step, "seconds": step, "loss": None if step > 50 else 1.0} for step in (50, 100)]
    assert importlib.import_module("runs").curves(lines)["training"] == [[50, 50, 50, 1.0], [100, 100, 100, None]]


def test_a_result_file_has_a_row_of_numbers_on_one_line(results: Path) -> None:
    figures = {"rows": [[1, 2.5, None], [-3, 4e-9, 5]], "names": ["a", "[1,\n2]"], "none": [], "nested": [{"one": [1]}]}
    importlib.import_module("runs").write_results(results / "one.json", figures)
    text = (results / "one.json").read_text(encoding="utf-8")
    assert json.loads(text) == figures
    assert "    [1, 2.5, null],\n    [-3, 4e-09, 5]\n" in text


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_rates_are_tried_at_once_on_a_gpu(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    module = importlib.import_module("learning_efficiency")
    running, most = set[float](), 0
    everyone = threading.Barrier(3 if kind == "cuda" else 1)

    def run_peer(*_: object, learning_rate: float, **__: object) -> dict[str, dict[str, float]]:
        nonlocal most
        running.add(learning_rate)
        everyone.wait(timeout=30)
        most = max(most, len(running))
        everyone.wait(timeout=30)
        running.remove(learning_rate)
        return {"metrics": {"eval_loss": 10 * learning_rate}}

    monkeypatch.setattr(module, "run_peer", run_peer)
    monkeypatch.setattr(module, "device", lambda: torch.device(kind))
    corpus = [str(write_corpus(tmp_path / "corpus.jsonl"))]
    arguments = module.Arguments(corpus=corpus, learning_rates=[0.1, 0.2, 0.3], results_dir=str(results))
    assert module.search(arguments, "stock", tmp_path) == {"0.1": 1.0, "0.2": 2.0, "0.3": 3.0}
    assert most == (3 if kind == "cuda" else 1)


@pytest.mark.slow
def test_learning_efficiency(results: Path, tmp_path: Path) -> None:
    """Another seed adds to what is there; another corpus does not, nor another search; a test text is the measure."""
    module = importlib.import_module("learning_efficiency")
    arguments = module.Arguments(
        family="minigpt",
        size="tiny",
        corpus=[str(write_corpus(tmp_path / "corpus.jsonl"))],
        test_corpus=[str(write_corpus(tmp_path / "test.jsonl", documents=60))],
        results_dir=str(results),
        budget="3s",
        search_budget="1s",
        learning_rates=[1e-3],
        blimp=[str(tmp_path / "pairs.jsonl")],
        seeds=[1],
        output_dir=str(tmp_path / "runs"),
    )
    pairs = [{"sentence_good": f"{word} cat sleeps.", "sentence_bad": f"{word} cat sleep."} for word in ("A", "The")]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    assert module.main(arguments) == 0
    (file,) = results.glob("learning_efficiency-minigpt-tiny-3s*.json")
    first = json.loads(file.read_text(encoding="utf-8"))
    arguments.seeds = [1, 2]
    assert module.main(arguments) == 0
    figures = json.loads(file.read_text(encoding="utf-8"))
    assert [one["seed"] for one in figures["runs"]] == [1, 2]
    assert (figures["runs"][0], figures["peers"]) == (first["runs"][0], first["peers"])
    for one in figures["runs"]:
        for who in ("ours", "stock", "best-stock", "nanogpt"):
            assert one[who]["metrics"]["test_loss"] != one[who]["metrics"]["eval_loss"]
            assert one[who].get("blimp") in ((None,) if who == "nanogpt" else (0.0, 50.0, 100.0))
        step, tokens, _, loss = one["ours"]["curves"]["held_out"][-1]
        assert (step, tokens) == tuple(one["ours"]["training"][key] for key in ("steps", "tokens_seen"))
        assert loss == pytest.approx(one["ours"]["metrics"]["eval_loss"], abs=0.01)
    table = "\n".join(module.table(figures))
    assert f"| seed 2 | **{figures['runs'][1]['ours']['metrics']['test_bits_per_byte']:.3f}**" in table
    assert "test.jsonl" in table
    assert file.with_suffix(".png").stat().st_size > 0
    arguments.search_budget = "2s"
    with pytest.raises(UserError, match="made with another search"):
        module.main(arguments)
    arguments.corpus = ["builtin"]
    with pytest.raises(UserError, match="made with another corpus"):
        module.main(arguments)


def test_runs_that_lack_a_peer_are_refused_before_time_is_spent(results: Path) -> None:
    """Rates that are spelled out may be those of today."""
    module = importlib.import_module("learning_efficiency")
    file, arguments = results / "kept.json", module.Arguments(search_budget="2m")
    peers = {"stock": {str(rate): 5.0 for rate in module.RATES["stock"]}}
    search = {"budget": "2m", "learning_rates": module.RATES["stock"]}
    figures: dict[str, Any] = {"family": "minibert", "search": search, "peers": peers, "runs": []}
    file.write_text(json.dumps(figures))
    assert module.kept_results(file, {"family": "minibert"}, arguments) == figures
    file.write_text(json.dumps(figures | {"runs": [{"ours": {}, "stock": {}}]}))
    with pytest.raises(UserError, match=r"kept.json has runs without best-stock, modernbert, .* another --results_dir"):
        module.kept_results(file, {"family": "minibert"}, arguments)
    arguments.learning_rates = [1e-3]
    with pytest.raises(UserError, match="made with another search"):
        module.kept_results(file, {"family": "minibert"}, arguments)


def test_ways_to_finetune(results: Path, tmp_path: Path) -> None:
    """Each is another one; what is there is not run again; a test split is none to choose by."""
    module = importlib.import_module("finetuning")
    assert {name: getattr(trainer, name) for name in module.BOTH} == module.BOTH, "which is the default"
    model = MiniBertForMaskedLM(build_config("minibert-tiny", "modern"))
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=1.0)  # as large as Muon makes them
    model.save_pretrained(tmp_path / "pretrained")
    load_tokenizer(REPOSITORY / "tokenizer").save_pretrained(tmp_path / "pretrained")
    data = tmp_path / "data"
    data.mkdir()
    corpus = write_corpus(data / "train.jsonl", documents=60)
    arguments = module.Arguments(
        model_name_or_path=str(tmp_path / "pretrained"),
        name="tiny",
        dataset=str(corpus),
        max_seq_length=32,
        results_dir=str(results),
        output_dir=str(tmp_path / "runs"),
    )
    assert module.main(arguments) == 0
    (file,) = results.glob("finetuning-tiny*.json")
    figures = json.loads(file.read_text(encoding="utf-8"))
    assert [row["variant"] for row in figures["rows"]] == list(module.VARIANTS)
    losses = {row["metrics"]["eval_loss"] for row in figures["rows"]}
    assert len(losses) == len(figures["rows"])
    assert len(module.table(figures)) == len(figures["rows"]) + 4
    figures["rows"] = figures["rows"][:1]
    file.write_text(json.dumps(figures), encoding="utf-8")
    arguments.variants = [figures["rows"][0]["variant"]]
    assert module.main(arguments) == 0
    assert json.loads(file.read_text(encoding="utf-8")) == figures
    arguments.variants, arguments.dataset = ["Mion"], str(data)
    with pytest.raises(UserError, match="unknown variant 'Mion'; there is 'one rate for all', "):
        module.main(arguments)
    write_corpus(data / "test.jsonl", documents=10)
    arguments.variants, arguments.name = ["Muon"], "tested"
    with pytest.raises(UserError, match="has a test split"):
        module.main(arguments)


@pytest.mark.usefixtures("results")
def test_the_grus_look_at_words_only_and_search_finds_what_is_likeliest() -> None:
    """Padding gets no attention and changes nothing; one beam takes the likeliest token each time."""
    torch.manual_seed(0)
    model = (
        importlib.import_module("plain_rnn")
        .PlainRNN(vocab_size=30, width=16, dropout=0.1, begin_id=1, end_id=2, pad_id=0)
        .eval()
    )
    source = torch.randint(3, 30, (3, 6))
    source[1, 4:] = source[2, 2:] = 0
    target = torch.randint(3, 30, (3, 5))
    logits, attention = model(source, target)
    torch.testing.assert_close(attention.sum(dim=2), torch.ones(3, 5))
    assert (attention.transpose(1, 2)[source == 0] == 0).all()
    torch.testing.assert_close(model(source[2:, :2], target[2:])[0], logits[2:])
    greedy = torch.empty(3, 0, dtype=torch.long)
    for _ in range(5):
        padded = torch.cat((greedy, torch.zeros(3, 1, dtype=torch.long)), dim=1)
        greedy = torch.cat((greedy, model(source, padded)[0][:, -1:].argmax(dim=2)), dim=1)
    for found, expected in zip(model.translate(source, 1, 5), greedy.tolist(), strict=True):
        end = expected.index(2) + 1 if 2 in expected else 5
        assert found[:end] == expected[:end]

    def score(row: int, tokens: list[int]) -> float:
        end = tokens.index(2) + 1 if 2 in tokens else len(tokens)
        steps = model(source[row : row + 1], torch.tensor([tokens[:end]]))[0][0].log_softmax(dim=1)
        return float(steps.detach()[range(end), tokens[:end]].mean())

    for row, (wide, narrow) in enumerate(
        zip(model.translate(source, 30, 5), model.translate(source, 1, 5), strict=True)
    ):
        assert score(row, wide) >= score(row, narrow) - 1e-6


def test_the_grus_count_a_part_of_an_epoch_as_a_part(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("translation")
    monkeypatch.setattr(module, "translated", lambda *_: [])
    monkeypatch.setattr(module, "measured", lambda *_: {"eval_bleu": 1.0})
    monkeypatch.setattr(module, "time", ticks(1.0))
    rows = Dataset.from_dict({"input_ids": [[2, 5, 3]] * 8, "labels": [[5, 3]] * 8, "length": [3] * 8})
    tokenizer = load_tokenizer(REPOSITORY / "tokenizer")
    arguments = module.Arguments(data="", batch_size=2, results_dir=str(results))
    _, found = module.train_rnn(arguments, None, {"train": rows, "eval": rows}, tokenizer, 14.0)  # two ticks a step
    assert (found["training"]["steps"], found["training"]["epochs"]) == (6, 1.5)


@pytest.mark.usefixtures("results")
def test_a_tokenizer_of_other_settings_is_refused(tmp_path: Path) -> None:
    module = importlib.import_module("translation")
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="made with another model: None, not minibert-tiny; give another --output_dir"):
        module.read(module.Arguments(data=str(tmp_path), output_dir=str(tmp_path)))


def test_imdb_says_how_a_given_model_was_made_and_a_trial_sees_no_test_review(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("imdb")
    given, called = tmp_path / "given", list[dict[str, Any]]()
    for name in ("train", "test", "unsup"):
        (tmp_path / f"{name}.jsonl.xz").write_bytes(lzma.compress(json.dumps({"text": name, "label": 0}).encode()))

    def script(_: str, *, output_dir: Path, **flags: Any) -> None:
        called.append(flags)
        output_dir.mkdir(parents=True, exist_ok=True)
        corpus = {"documents": 7, "tokens": 70}
        of_both = dict.fromkeys(("preset", "architecture", "num_parameters", "metrics", "dataset"))
        found = {**of_both, "corpus": corpus, "training": {"seconds": 1.0}}
        (output_dir / "results.json").write_text(json.dumps(found))
        made = {"seed": 1, "budget": flags.get("budget"), "corpus": [str(flags.get("corpus"))]}
        (output_dir / "arguments.json").write_text(json.dumps(made))
        (output_dir / "metrics.jsonl").write_text("")

    monkeypatch.setattr(module, "script", script)
    arguments = module.Arguments(data=str(tmp_path), output_dir=str(tmp_path / "out"), results_dir=str(results))
    arguments.total = "1h"
    found = module.pretrained(arguments)
    assert found["pretraining_text"] == {"documents": 7, "tokens": 70, "reviews": 2, "left_out": 0}
    assert [Path(call["dataset"]).name for call in called if "dataset" in call] == ["train.jsonl.xz", tmp_path.name]
    script("pretrain.py", output_dir=given, budget="30m", corpus="/data/elsewhere/reviews.jsonl")
    arguments.pretrained = str(given)
    found = module.pretrained(arguments)
    assert (found["pretraining"]["budget"], found["pretraining"]["corpus"]) == ("30m", ["elsewhere/reviews.jsonl"])
    assert found["pretraining_text"] == {"documents": 7, "tokens": 70}


def test_imdb_without_pretraining(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The linear models find the words that tell, and new weights learn with a pooling."""
    module = importlib.import_module("imdb")
    words = {0: "dull boring film", 1: "lovely clever film"}
    for split, count in (("train", 60), ("test", 20)):
        rows = [json.dumps({"text": f"{words[at % 2]} {at}", "label": at % 2}) + "\n" for at in range(count)]
        (tmp_path / f"{split}.jsonl.xz").write_bytes(lzma.compress("".join(rows).encode()))
    given = {"data": str(tmp_path), "results_dir": str(results), "output_dir": str(tmp_path / "out")}
    assert module.main(module.Arguments(**given, way="linear")) == 0
    figures = json.loads((results / "imdb-linear.json").read_text())
    assert [row["test_accuracy"] for row in figures["rows"]] == [1.0, 1.0]
    assert [row["name"].split(",")[0] for row in figures["rows"]] == ["logistic regression on TF-IDF", "NB-SVM"]
    small = {"model": "minibert-tiny", "max_train_samples": 16, "max_eval_samples": 4, "num_train_epochs": 1.0}
    monkeypatch.setattr(module, "POOLINGS", ("max",))
    assert module.main(module.Arguments(**given, **small, way="scratch", finetune_max_seq_length=16)) == 0
    figures = json.loads((results / "imdb-scratch.json").read_text())
    assert [row["name"].rsplit(" ")[-1] for row in figures["rows"]] == ["`max`"]
    assert "| `minibert-tiny` without pre-training, pooling `max` |" in "\n".join(module.table(figures))


@pytest.mark.usefixtures("results")
def test_nb_svm_by_hand() -> None:
    """The log-count ratios are those of the counts, one added to each (Wang and Manning 2012, section 2.1)."""
    module = importlib.import_module("imdb")
    numbers = csr_matrix(np.array([[1, 0, 1], [1, 0, 0], [0, 1, 1], [0, 1, 0]]))
    predict = module.nb_svm(numbers, np.array([1, 1, 0, 0]), 1.0)
    assert predict(numbers).tolist() == [1, 1, 0, 0]
    assert predict(csr_matrix(np.array([[3, 0, 9], [0, 3, 9]]))).tolist() == [1, 0], "the third word tells nothing"


def test_tasks(results: Path, tmp_path: Path) -> None:
    """The table has both models and the average of GLUE."""
    module = importlib.import_module("tasks")
    (tmp_path / "squad").mkdir()
    assert module.files_of(tmp_path, module.ROWS["squad"]) == {"dataset": tmp_path / "squad"}
    with pytest.raises(UserError, match="is missing; --data names"):
        module.files_of(tmp_path, module.ROWS["rte"])
    with pytest.raises(UserError, match="tasks are sst2, .*, got imdb"):
        module.main(module.Arguments(data=str(tmp_path), tasks=["imdb"], results_dir=str(results)))
    training = {"training": {"hardware": "2 CPU cores"}}
    both = {"ours": {"values": [0.8, 0.9]} | training, "stock": {"values": [0.7]} | training}
    runs = dict.fromkeys(module.GLUE, both)
    figures = {"model": "minibert-mini", "budget": "1h", "seeds": 2, "corpus": ["text"], "command": "it", "runs": runs}
    figures |= {"max_train_samples": 9_000, "max_eval_samples": None}
    table = module.table(figures)
    assert table[-1] == "(2 CPU cores; seeds: 2; at most 9,000 examples to train on; text: text; `it`)"
    assert "| `rte` | eval accuracy | 85.0 ± 7.1 | 70.0 |  |" in table
    assert table[0].startswith("| `minibert-mini` after 1h, then fine-tuned |")
    assert module.table(figures | {"model": None})[0].startswith("| a given checkpoint, then fine-tuned |")
    assert "| average of the 5 of glue | | 85.0 | 70.0 | 5 above stock |" in table
    figures["runs"] |= {
        name: {"ours": {"values": [value]} | training} for name, value in (("babylm-rte", 0.5), ("babylm-wsc", 0.7))
    }
    assert "| average of the 2 of babylm's 7 | | 60.0 |  | 63.8 (GPT-2), 70.4 (the best) |" in module.table(figures)


def test_models_of_other_settings_are_not_taken(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither from the folder of runs nor for the rows of a result file; ours is not trained before stock is known."""
    module = importlib.import_module("tasks")
    ours, stock = tmp_path / "ours", tmp_path / "stock"
    arguments = module.Arguments(corpus=["/a/text/train.jsonl"], results_dir=str(results))
    made = {"model": "minibert-mini", "corpus": ["text/train.jsonl"], "budget": "1h", "seed": 42}
    stock.with_suffix(".json").write_text(json.dumps(made | {"learning_rate": 1e-3}))
    with pytest.raises(UserError, match=r"stock was made with another learning_rate: 0.001, .* another --output_dir"):
        module.pretrain_both(arguments, ours, stock)
    arguments.stock_learning_rate = 1e-3
    shutil.copytree(REPOSITORY / "checkpoints" / "minibert-tiny", ours)
    settings = made | {"corpus": ["/b/text/train.jsonl"]}
    (ours / "arguments.json").write_text(json.dumps(settings))
    monkeypatch.setattr(module, "script", None)  # nothing is left to do
    module.pretrain_both(arguments, ours, stock)
    arguments.budget = "2h"
    with pytest.raises(UserError, match="another budget: 1h, not 2h"):
        module.pretrain_both(arguments, ours, tmp_path / "no_stock")
    arguments.pretrained = [str(ours)]
    given = module.settings_of(arguments, [ours])
    results_of_it = json.loads((ours / "results.json").read_text())
    assert (given["model"], given["corpus"]) == ("minibert-tiny", ["text/train.jsonl"])
    assert float(given["budget"].removesuffix("m")) == pytest.approx(results_of_it["training"]["seconds"] / 60, abs=0.1)
    (ours / "results.json").unlink()
    with (ours / "model.safetensors").open("ab") as file:
        file.write(b" ")
    other = module.settings_of(arguments, [ours])
    assert (other["model"], other["corpus"]) == (None, ["not known"])
    assert other["weights"] != given["weights"]


def test_a_task_of_babylms_suite(results: Path, tmp_path: Path) -> None:
    """Its own settings and files, and one model; each metric is the one by which its settings choose the epoch."""
    module = importlib.import_module("tasks")
    folder = tmp_path / "babylm_finetune"
    folder.mkdir()
    rows = [
        json.dumps({"sentence1": f"a {at}", "sentence2": f"b {at}", "label": at % 2, "idx": at}) + "\n"
        for at in range(4)
    ]
    (folder / "rte.train.jsonl.xz").write_bytes(lzma.compress("".join(rows).encode()))
    (folder / "rte.valid.jsonl").write_text("".join(rows))
    arguments = {"data": str(tmp_path), "seeds": 1, "results_dir": str(results), "output_dir": str(tmp_path / "out")}
    tiny = str(REPOSITORY / "checkpoints" / "minibert-tiny")
    assert (
        module.main(module.Arguments(**arguments, tasks=["babylm"], pretrained=[tiny])) == 0
    )  # the others are not there
    (file,) = results.glob("tasks-*.json")
    (run,) = json.loads(file.read_text())["runs"].values()
    assert list(run) == ["ours"]
    assert run["ours"]["training"]["max_seq_length"] == 512
    with pytest.raises(UserError, match=r"has no wsc.train.jsonl, also not compressed; leave it out"):
        module.main(module.Arguments(**arguments, tasks=["babylm-wsc"], pretrained=[tiny]))
    for name, row in module.ROWS.items():
        if row.suite_task is not None:
            text = (REPOSITORY / "scripts" / "configs" / "babylm" / f"{row.suite_task}.yaml").read_text()
            assert f"best_metric: {row.metric.removeprefix('eval_')}" in text, name


@pytest.mark.slow
def test_objectives(results: Path, tmp_path: Path) -> None:
    module = importlib.import_module("objectives")
    labelled = tmp_path / "labelled.jsonl"
    lines = [{"sentence": f"This is sentence {index}.", "label": index % 2} for index in range(40)]
    labelled.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    arguments = module.Arguments(
        size="tiny",
        corpus=[str(write_corpus(tmp_path / "corpus.jsonl"))],
        budget="2s",
        max_seq_length=32,
        datasets=[f"{labelled}:sentence"],
        results_dir=str(results),
        output_dir=str(tmp_path / "runs"),
    )
    assert module.main(arguments) == 0
    figures = json.loads((results / "objectives-tiny.json").read_text(encoding="utf-8"))
    assert [one["objective"] for one in figures["runs"]] == list(module.OBJECTIVES)
    assert (results / "objectives-tiny.png").stat().st_size > 0
    assert len(module.table(figures)) == len(module.OBJECTIVES) + 5


@pytest.mark.slow
@pytest.mark.skipif(torch.accelerator.is_available(), reason="the comparison is of CPUs, and refuses a GPU")
def test_shakespeare(results: Path, tmp_path: Path) -> None:
    """Both learn a text of which almost every character follows from the one before."""
    module = importlib.import_module("shakespeare")
    text = tmp_path / "text.txt"
    text.write_text("abcdefghij klmnopqrst uvwxyz\n\n" * 3_000, encoding="utf-8")
    arguments = module.Arguments(
        text=str(text), budget="15s", seeds=[1], output_dir=str(tmp_path / "runs"), results_dir=str(results)
    )
    assert module.main(arguments) == 0
    (file,) = results.glob("shakespeare*.json")
    (one,) = json.loads(file.read_text(encoding="utf-8"))["runs"]
    for who in ("ours", "nanogpt"):
        assert one[who]["loss"] < 1.0, who  # of 28 characters alike, 3.3
    assert one["ours"]["num_parameters"] == pytest.approx(one["nanogpt"]["num_parameters"], rel=0.05)


@pytest.mark.parametrize("architecture", ["classic", "modern"])
def test_the_speed_of_answers_is_that_of_equal_answers(
    results: Path, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("inference_speed")
    monkeypatch.setattr(module, "CompileConfig", partial(module.CompileConfig, backend="eager"))  # which takes no time
    texts = ["A cat sat on the mat.", "Snow.", "The old man walked to the sea, and the children followed him."] * 4
    arguments = module.Arguments(results_dir=str(results), rounds=2)
    at = torch.device("cpu")
    vectors = module.encoding("tiny", architecture, texts, arguments, at)
    assert vectors["largest_difference"] < 1e-5
    assert (vectors["texts"], len(vectors["rows"])) == (12, 4)
    written = module.generation("tiny", 2, arguments, at)
    figures = {"tables": [vectors, written], "hardware": "a CPU", "rounds": 2, "threads": 1, "command": "x"}
    lines = module.table(figures)
    assert sum(line.startswith(("| stock", "| Mini")) for line in lines) == 8
    for table in figures["tables"]:
        assert table["rows"][0]["ratio"] == 1
        assert all(row["seconds"] > 0 for row in table["rows"])


def test_other_answers_are_not_timed(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("inference_speed")
    arguments, at = module.Arguments(results_dir=str(results)), torch.device("cpu")
    monkeypatch.setattr(module.hf_minibert, "encode", lambda *_: np.zeros((2, 128), dtype=np.float32))
    with pytest.raises(RuntimeError, match=r"vectors of minibert-tiny, modern, differ by .*: nothing was timed"):
        module.encoding("tiny", "modern", ["A cat.", "Snow."], arguments, at)
    monkeypatch.setattr(module, "CompileConfig", partial(module.CompileConfig, backend="eager"))
    stock = SimpleNamespace(generate=lambda prompts, **_: prompts)
    monkeypatch.setattr(module, "to_stock", lambda *_, **__: stock)
    with pytest.raises(RuntimeError, match="write other tokens, 1 at a time: nothing was timed"):
        module.generation("tiny", 1, arguments, at)


def test_the_kept_results_have_the_names_that_their_commands_write(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the speed of answers; `-fp32` is the machine's."""
    module = importlib.import_module("inference_speed")

    def nothing(*_: object) -> list[Any]:
        return []

    monkeypatch.setattr(module, "KINDS", dict.fromkeys(module.KINDS, nothing))
    monkeypatch.setattr(module, "machine", list)
    monkeypatch.setattr(torch, "set_num_threads", nothing)
    kept = [*(REPOSITORY / "benchmarks" / "results").glob("inference_speed*.json")]
    assert kept
    for file in kept:
        command = shlex.split(json.loads(file.read_text())["command"])
        arguments = parse(module.Arguments, command[2:])
        arguments.results_dir = str(results / file.stem)
        assert module.main(arguments) == 0
        assert [path.stem for path in (results / file.stem).iterdir()] == [file.stem.removesuffix("-fp32")]


@pytest.mark.usefixtures("results")
def test_reference_runs_go_on_where_they_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("references")
    done, is_broken = list[str](), [True]

    def finetune(_settings: Any, row: Any, *_: Any) -> dict[str, Any]:
        name = next(name for name, one in module.ROWS.items() if one is row)
        if name == "rte" and is_broken:
            raise RuntimeError("the power is gone")
        done.append(name)
        return {"values": [0.5, 0.7]}

    monkeypatch.setattr(module, "minimal_pairs", lambda *_: done.append("BLiMP") or 0.61)
    monkeypatch.setattr(module.tasks, "finetune", finetune)
    monkeypatch.setattr(module.tasks, "files_of", lambda data, *_: {"dataset": data})
    arguments = module.Arguments(
        models=["minibert-tiny"],
        corpus=[str(write_corpus(tmp_path / "corpus.jsonl", documents=40))],
        max_tokens=4_096,
        seeds=2,
        data=str(tmp_path),
        tasks=["BLiMP", "cola", "rte"],
        work_dir=str(tmp_path / "work"),
        output_dir=str(tmp_path / "references"),
        cards_dir=str(tmp_path / "cards"),
    )
    with pytest.raises(RuntimeError):
        module.main(arguments)
    weights = (tmp_path / "work" / "minibert-tiny" / "model.safetensors").stat().st_mtime_ns
    is_broken.clear()
    assert module.main(arguments) == 0
    assert done == ["BLiMP", "cola", "rte"]
    assert (tmp_path / "work" / "minibert-tiny" / "model.safetensors").stat().st_mtime_ns == weights
    card = (tmp_path / "cards" / "minibert-tiny.md").read_text(encoding="utf-8")
    assert "| BLiMP | accuracy | 0.6100 | – | 1 |" in card
    assert "| rte | held-out accuracy | 0.6000 | 0.1414 | 2 |" in card
    arguments.max_train_samples = 9
    assert module.main(arguments) == 0
    assert done == ["BLiMP", "cola", "rte", "cola", "rte"], "a trial's figures are others, but BLiMP trains nothing"
    rows = json.loads((tmp_path / "work" / "minibert-tiny" / "results.json").read_text())["evaluations"]
    card = (tmp_path / "cards" / "minibert-tiny.md").read_text(encoding="utf-8")
    assert "| rte, at most 9 to train on | held-out accuracy | 0.6000 | 0.1414 | 2 |" in card
    assert [(row["name"], row.get("max_train_samples")) for row in rows] == [("BLiMP", None), ("cola", 9), ("rte", 9)]
    arguments.max_tokens = 8_192
    with pytest.raises(UserError, match="made with another max_tokens: 4096, not 8192; give another --work_dir"):
        module.main(arguments)
    assert "no code but that of this package" in card or "safetensors only, and no unknown code" in card
    with pytest.raises(UserError, match="tasks must be of BLiMP, sst2"):
        module.main(module.Arguments(corpus=["x"], output_dir="x", tasks=["blimp"]))


def test_eight_bits_are_timed_on_the_rows_of_the_model_and_their_cost_is_shown(results: Path, tmp_path: Path) -> None:
    module = importlib.import_module("inference_speed")
    texts, held_out = tmp_path / "texts.txt", tmp_path / "held_out.txt"
    texts.write_text("A cat sat on the mat.\nSnow.\nThe old man walked to the sea.\n")
    held_out.write_text("The old man walked to the sea, and the children followed him down to the boats.\n" * 3)
    arguments = module.Arguments(
        texts=str(texts),
        num_texts=3,
        encoder=str(REPOSITORY / "checkpoints" / "minibert-tiny"),
        measure_on=str(held_out),
        results_dir=str(results),
        rounds=1,
    )
    (table,) = module.KINDS["int8"]("tiny", arguments, torch.device("cpu"))
    assert table["least_cosine"]["onnxruntime, fp32"] == pytest.approx(1, abs=1e-4)
    assert 0.9 < table["least_cosine"]["onnxruntime, int8"] < 1
    assert table["bytes"]["int8"] < 0.4 * table["bytes"]["fp32"]
    figures = {"tables": [table], "hardware": "a CPU", "rounds": 1, "threads": 1, "command": "x"}
    assert any(
        f"of {table['cost']['examples']} masked tokens in held_out.txt" in line for line in module.table(figures)
    )


def test_the_reference_checkpoints_are_measured_with_each_suite_once(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("evaluation")
    pairs = [{"sentence_good": "The cats see.", "sentence_bad": "The cats sees.", "UID": "agreement"}] * 2
    scored = [{"sentence1": f"cat {number}", "sentence2": "a cat", "score": number} for number in range(3)]
    for name, rows in {"pairs": pairs, "scored": scored}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    models = ["minibert-tiny", "minigpt-tiny"]
    data = {"blimp": [str(tmp_path / "pairs.jsonl")], "sts": [str(tmp_path / "scored.jsonl")]}
    arguments = module.Arguments(models=models, max_pairs=1, results_dir=str(results), **data)
    assert module.main(arguments) == 0
    figures = json.loads((results / "evaluation.json").read_text())
    assert [(row["data"], row["model"]) for row in figures["rows"]] == [
        (each, one) for each in ("sts", "blimp") for one in models
    ]
    assert figures["rows"][-1]["figures"]["pairs"] == 1
    lines = module.table(figures)
    assert lines[0] == "| | `minibert-tiny` | `minigpt-tiny` |"
    assert any("right pairs, the mean of 1 paradigms (%) |" in line for line in lines)
    monkeypatch.setattr(module, "measured", None)  # nothing is left to do
    assert module.main(arguments) == 0


def test_figures_of_two_kinds_of_cpu_are_no_seeds_of_one_measurement(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = importlib.import_module("runs")
    file = results / "figures.json"
    runs.write_results(file, {"budget": "1s", "environment": runs.environment()})
    assert runs.results_so_far(file, {"budget": "1s"}, is_timed=True)["budget"] == "1s"
    monkeypatch.setattr(runs, "instructions", lambda: "AVX512 AMX")
    with pytest.raises(UserError, match=r"figures.json was made with another cpu: .*, not AVX512 AMX; move it away"):
        runs.results_so_far(file, {"budget": "1s"}, is_timed=True)
    assert runs.results_so_far(file, {"budget": "1s"}), "what does not depend on speed"
    runs.write_results(file, {"budget": "1s", "environment": {"python": "3.11"}})
    assert runs.results_so_far(file, {"budget": "1s"}, is_timed=True), "an earlier file, which does not say it"


@pytest.mark.usefixtures("results")
def test_a_cpu_is_the_device_where_torch_could_use_a_gpu_and_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a build for CUDA does on a machine without a GPU, or with CUDA_VISIBLE_DEVICES empty."""
    runs = importlib.import_module("runs")

    def current_accelerator(*, check_available: bool = False) -> torch.device | None:
        return None if check_available else torch.device("cuda")

    monkeypatch.setattr(torch.accelerator, "current_accelerator", current_accelerator)
    assert runs.device() == torch.device("cpu")


@pytest.mark.usefixtures("results")
def test_a_seed_without_a_baseline_has_nothing_beside_it() -> None:
    recipe = importlib.import_module("recipe")
    rows = [
        {"variant": variant, "seed": seed, "metrics": {"eval_loss": loss, "eval_bits_per_byte": loss}}
        for variant, seed, loss in (("baseline", 1, 2.0), ("QK-norm", 1, 1.5), ("QK-norm", 2, 1.25))
    ]
    figures = {"family": "minigpt", "size": "tiny", "end": {"max_tokens": 1_000_000}, "corpus": ["text"], "rows": rows}
    assert recipe.table(figures)[2:5] == [
        "| QK-norm | 2 | 1.250 |  |",
        "| QK-norm | 1 | 1.500 | -0.500 |",
        "| baseline | 1 | 2.000 | +0.000 |",
    ]


def test_the_throughput_of_whole_runs(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, uncompiled: that each figure comes from where it should."""
    module = importlib.import_module("throughput")
    monkeypatch.setattr(module, "COMPILED", False)
    assert module.alone(os.getpid) != os.getpid()
    monkeypatch.setattr(module, "alone", lambda function, *given: function(*given))  # where it is patched
    assert module.waiting_share([]) is None
    assert module.waiting_share([(0, 2), (1, 3), (5, 6), (5.5, 5.6)]) == pytest.approx(1 / 3)
    spans = [(5.0, 10.0), (0.0, 4.0)]
    events = [
        SimpleNamespace(device_type=SimpleNamespace(name="CUDA"), time_range=SimpleNamespace(start=begin, end=end))
        for begin, end in spans
    ]
    seen: list[int] = []
    watched = module.watched

    @contextmanager
    def with_kernels(first: int, steps: int) -> Iterator[Any]:
        with watched(first, steps) as profiler:
            seen.append(steps)
            yield SimpleNamespace(events=lambda: [*events, *profiler.events()])

    monkeypatch.setattr(module, "watched", with_kernels)
    corpus = write_corpus(tmp_path / "texts.jsonl", documents=200)
    given = {"models": ["minigpt-tiny"], "corpus": [str(corpus)], "max_steps": 20, "profiled_steps": 2}
    arguments = module.Arguments(results_dir=str(results), **given)
    assert module.main(arguments) == 0
    (file,) = results.glob("throughput*.json")
    (row,) = json.loads(file.read_text())["rows"]
    assert row["tokens_per_second"] > 0
    assert row["ratio"] == pytest.approx(row["tokens_per_second"] / row["trainer_tokens_per_second"], abs=0.01)
    assert row["waiting_share"] == pytest.approx(0.1)
    assert seen == [2]
    with pytest.raises(UserError, match="max_steps must be at least 20"):
        module.main(module.Arguments(results_dir=str(results), max_steps=4))
    with pytest.raises(UserError, match="models are of minibert, minigpt, such as minibert-mini; got bert-base"):
        module.main(module.Arguments(results_dir=str(results), models=["bert-base"]))
