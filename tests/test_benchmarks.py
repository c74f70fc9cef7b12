"""The comparisons of recipes and objectives, at a size at which they say nothing but run."""

import importlib
import json
import shutil
import threading
from pathlib import Path

import pytest
import torch
from commands import REPOSITORY, environment, write_corpus

from hf_minibert import MiniBertForMaskedLM, MiniGPTForCausalLM
from hf_minibert.errors import UserError
from hf_minibert.presets import FAMILIES, build_config
from hf_minibert.pretraining import finetune
from hf_minibert.tokenization import load_tokenizer


@pytest.fixture(name="results")
def _results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    for name, value in environment(tmp_path / "cache").items():
        monkeypatch.setenv(name, value)
    (tmp_path / "results").mkdir()
    return tmp_path / "results"


@pytest.mark.parametrize("size", ["mini", "small", "medium"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.usefixtures("results")
def test_peers_have_as_many_weights(family: str, size: str) -> None:
    """Within 5%."""
    module = importlib.import_module("learning_efficiency")
    config = build_config(f"{family}-{size}", "modern")
    with torch.device("meta"):
        ours = {"minibert": MiniBertForMaskedLM, "minigpt": MiniGPTForCausalLM}[family](config)
        for peer in module.PEERS[family]:
            model = module.peer_model(peer, family, size, config.vocab_size)
            count = sum(parameter.numel() for parameter in model.parameters())
            assert count == pytest.approx(ours.num_parameters(), rel=0.05)


def test_charts_are_drawn_from_what_is_kept(results: Path) -> None:
    kept = REPOSITORY / "benchmarks" / "results"
    shutil.copytree(kept, results, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.png"))
    charts = importlib.import_module("charts")
    for file in results.glob("*.json"):
        charts.draw(file)
    drawn = {path.name for path in results.glob("*.png")}
    assert drawn == {path.name for path in kept.glob("*.png")}
    assert {"learning_efficiency-minigpt-mini.png", "objectives-mini.png"} <= drawn


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
    module, render = (importlib.import_module(name) for name in ("learning_efficiency", "render"))
    arguments = module.Arguments(
        family="minigpt",
        size="tiny",
        corpus=[str(write_corpus(tmp_path / "corpus.jsonl"))],
        test_corpus=[str(write_corpus(tmp_path / "test.jsonl", documents=60))],
        results_dir=str(results),
        budget="3s",
        search_budget="1s",
        learning_rates=[1e-3],
        seeds=[1],
        output_dir=str(tmp_path / "runs"),
    )
    assert module.main(arguments) == 0
    (file,) = results.glob("learning_efficiency-minigpt-tiny-3s*.json")
    first = json.loads(file.read_text(encoding="utf-8"))
    arguments.seeds = [1, 2]
    assert module.main(arguments) == 0
    figures = json.loads(file.read_text(encoding="utf-8"))
    assert [one["seed"] for one in figures["runs"]] == [1, 2]
    assert (figures["runs"][0], figures["peers"]) == (first["runs"][0], first["peers"])
    assert len(list((results / "runs").glob("*/*/metrics.jsonl"))) == 2 * 3
    for one in figures["runs"]:
        for who in ("ours", "stock", "nanogpt"):
            assert one[who]["metrics"]["test_loss"] != one[who]["metrics"]["eval_loss"]
    table = "\n".join(render.learning_efficiency(figures))
    assert f"| seed 2 | **{figures['runs'][1]['ours']['metrics']['test_bits_per_byte']:.3f}**" in table
    assert "test.jsonl" in table
    assert file.with_suffix(".png").stat().st_size > 0
    arguments.search_budget = "2s"
    with pytest.raises(UserError, match="made with another search"):
        module.main(arguments)
    arguments.corpus = ["builtin"]
    with pytest.raises(UserError, match="made with another corpus"):
        module.main(arguments)


def test_ways_to_finetune(results: Path, tmp_path: Path) -> None:
    """Each is another one; what is there is not run again; a test split is none to choose by."""
    module, render = (importlib.import_module(name) for name in ("finetuning", "render"))
    assert {name: getattr(finetune, name) for name in module.BOTH} == module.BOTH, "which is the default"
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
    assert len(render.finetuning(figures)) == len(figures["rows"]) + 4
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


@pytest.mark.slow
def test_objectives(results: Path, tmp_path: Path) -> None:
    module, render = (importlib.import_module(name) for name in ("objectives", "render"))
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
    assert len(render.objectives(figures)) == len(module.OBJECTIVES) + 5


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
    (one,) = json.loads((results / "shakespeare.json").read_text(encoding="utf-8"))["runs"]
    for who in ("ours", "nanogpt"):
        assert one[who]["loss"] < 1.0, who  # of 28 characters alike, 3.3
    assert one["ours"]["num_parameters"] == pytest.approx(one["nanogpt"]["num_parameters"], rel=0.05)
