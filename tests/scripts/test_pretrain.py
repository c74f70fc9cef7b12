"""The main job, as a user runs it: pre-train, open the result anywhere, generate, fine-tune, prepare data."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import LAUNCH, call, command, elsewhere, environment, forked, metrics, write_corpus
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, pipeline

import hf_minibert
from hf_minibert.files import MANIFEST
from hf_minibert.pretraining.checkpoint import is_whole

SMALL: dict[str, Any] = {
    "max_seq_length": 64,
    "per_device_train_batch_size": 8,
    "max_eval_samples": 16,
    "logging_steps": 2,
    "max_steps": 10,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrain")
    write_corpus(folder / "corpus.jsonl")
    return folder


def pretrain(
    folder: Path, model: str, *, is_launched: bool = False, **options: Any
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    output = folder / "-".join([model, *(f"{name}={value}" for name, value in options.items())])
    flags = SMALL | {"model": model, "corpus": folder / "corpus.jsonl", "output_dir": output} | options
    if is_launched:
        done = command("pretrain.py", folder / "cache", launcher=LAUNCH, **flags)
    else:
        done = forked("pretrain.py", folder / "cache", **flags)
    assert done.returncode == 0, done.stderr
    return output, done


@pytest.fixture(scope="module")
def minibert(folder: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    return pretrain(folder, "minibert-tiny", is_launched=True)


@pytest.fixture(scope="module")
def minigpt(folder: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    return pretrain(folder, "minigpt-tiny")


def test_a_run_leaves_everything_that_it_promises(minibert: tuple[Path, Any]) -> None:
    run, done = minibert
    for name in ("config.json", "model.safetensors", "tokenizer.json", "arguments.json", "README.md"):
        assert (run / name).stat().st_size > 0
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    certificate = json.loads((run / "certificate.json").read_text())
    assert certificate["holds"], certificate
    assert certificate["sha256"] in (run / "README.md").read_text()
    assert {path.name for path in run.glob("*.py")} == {
        "answering.py",
        "caches.py",
        "compiling.py",
        "masks.py",
        "configuration_minibert.py",
        "configuration_transformer.py",
        "heads.py",
        "losses.py",
        "modeling_minibert.py",
        "modeling_transformer.py",
    }
    assert [path.name for path in run.glob(".*")] == [MANIFEST]
    assert is_whole(run / "checkpoint-10")
    assert len(list(run.glob("checkpoint-*"))) == 1
    assert any((run / "logs").rglob("events.out.tfevents.*"))
    losses = metrics(run)
    assert list(losses) == [1, 2, 4, 6, 8, 10]
    assert losses[10] < losses[1]
    assert list(metrics(run, "eval_loss")) == [10]
    results = json.loads((run / "results.json").read_text())
    assert results["metrics"]["eval_loss"] == metrics(run, "eval_loss")[10]
    assert results["training"]["tokens_seen"] == 10 * 8 * 64
    assert len(results["samples"]) == 3
    for sample in results["samples"]:
        assert sample["text"].count("[MASK]") == 1
        assert len(sample["before"]) == len(sample["after"]) == 5
        assert sample["text"] in done.stdout
    assert f"masked-LM loss {results['metrics']['eval_loss']:.3f}" in done.stdout
    assert f"by frequencies alone {results['metrics']['unigram_loss']:.3f}" in done.stdout
    begin = r"training minibert-tiny \(modern, \d\.\dM parameters\) for mlm on \d+ CPU cores? in \w+, until 10 steps"
    assert re.search(begin, done.stdout)
    bar = done.stderr.split("training 100%")[-1]
    assert re.search(rf"step 10, loss .* tokens/s, held-out {results['metrics']['eval_loss']:.3f}", bar)


def test_the_first_loss_is_that_of_chance(minibert: tuple[Path, Any]) -> None:
    """ln 8192; but layers that start as nothing let the tenth of the tokens that is not hidden be seen, which is worth
    2.6 nats: the product of an embedding (128 entries of size 0.02) with itself, brought to size 1."""
    assert metrics(minibert[0])[1] == pytest.approx(9.01 - 0.1 * 2.6, abs=0.15)


EXACT: dict[str, Any] = {
    "mixed_precision": "no",
    "optimizer": "adamw",  # Muon computes in bfloat16, where the smallest difference shows
    "adam_epsilon": 1e-3,  # else the sign of a gradient near zero is a whole step
}


@pytest.fixture(scope="module")
def in_float32(folder: Path) -> Path:
    return pretrain(folder, "minibert-tiny", attn_implementation="eager", **EXACT)[0]


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_checkpointing": True},
        {"attn_implementation": "sdpa"},
        pytest.param({"compile": True}, marks=pytest.mark.slow),
        pytest.param({"compile": True, "gradient_checkpointing": True}, marks=pytest.mark.slow),
    ],
)
def test_how_steps_are_computed_does_not_matter(folder: Path, in_float32: Path, options: dict[str, Any]) -> None:
    losses = metrics(pretrain(folder, "minibert-tiny", **EXACT, **options)[0])
    for step, loss in metrics(in_float32).items():
        assert losses[step] == pytest.approx(loss, abs=1e-3)


def test_a_hybrid_opens_as_an_encoder_and_as_a_decoder(folder: Path) -> None:
    run, done = pretrain(folder, "minibert-tiny", objective="hybrid", save_steps=5)
    results = json.loads((run / "results.json").read_text())["metrics"]
    mixed = (results["eval_mlm_loss"] + results["eval_clm_loss"]) / 2
    assert results["eval_loss"] == pytest.approx(mixed)
    assert results["eval_bits_per_byte"] < 8
    assert f"next-token loss {results['eval_clm_loss']:.3f}" in done.stdout
    for folder_ in (run, run / "checkpoint-5"):
        encoder = AutoModelForMaskedLM.from_pretrained(folder_)
        assert encoder.config.architectures == ["MiniBertForMaskedLM"]
        decoder = AutoModelForCausalLM.from_pretrained(folder_ / "decoder")
        for name, weight in decoder.model.state_dict().items():
            assert weight.equal(encoder.model.state_dict()[name])
    assert len(pipeline("fill-mask", str(run))("the [MASK] of")) == 5
    assert pipeline("text-generation", str(run / "decoder"))("the", max_new_tokens=3)
    tokenizer = AutoTokenizer.from_pretrained(run / "decoder")
    assert tokenizer.eos_token == "[SEP]"
    done = forked("pretrain.py", folder / "cache", output_dir=run, resume=True, max_steps=12)
    assert done.returncode == 0, done.stderr
    card = (run / "README.md").read_text()
    assert 'subfolder="decoder"' in card
    for folder_, line in ((run, "bidirectional"), (run / "decoder", "causal")):
        certificate = json.loads((folder_ / "certificate.json").read_text())
        assert certificate["holds"]
        assert line in [each["name"] for each in certificate["lines"] if each["status"] == "ok"]
        assert certificate["sha256"] in card
    done = forked("push_to_hub.py", folder / "cache", model_name_or_path=run, repo_id="me/hybrid", dry_run=True)
    assert done.returncode == 0, done.stderr
    for name in ("model.safetensors", "decoder/certificate.json", "decoder/tokenizer.json", "modeling_minigpt.py"):
        assert re.search(rf" {re.escape(name)}$", done.stdout, flags=re.MULTILINE), name
    snippet = (  # without the package
        "from transformers import AutoModelForCausalLM as Auto\n"
        f"print(type(Auto.from_pretrained({str(run)!r}, subfolder='decoder', trust_remote_code=True)).__name__)"
    )
    assert elsewhere(snippet, folder).strip() == "MiniGPTForCausalLM"


def test_objectives_and_architectures(folder: Path) -> None:
    run, _ = pretrain(folder, "minibert-tiny", objective="mlm+nsp", architecture="classic")
    assert metrics(run, "loss").keys() == metrics(run, "nsp_loss").keys()
    for step, loss in metrics(run, "loss").items():
        assert loss == pytest.approx(metrics(run, "mlm_loss")[step] + metrics(run, "nsp_loss")[step], abs=1e-4)
    results = json.loads((run / "results.json").read_text())
    assert 0 <= results["metrics"]["eval_nsp_accuracy"] <= 1
    tokenizer = AutoTokenizer.from_pretrained(run)
    assert "token_type_ids" in tokenizer("a", "b")
    model, report = hf_minibert.MiniBertForPreTraining.from_pretrained(run, output_loading_info=True)
    assert not any(report.values())
    assert model.config.type_vocab_size == 2


def test_opens_with_the_package(minibert: tuple[Path, Any], minigpt: tuple[Path, Any]) -> None:
    model = AutoModelForMaskedLM.from_pretrained(minibert[0])
    assert type(model) is hf_minibert.MiniBertForMaskedLM
    assert type(AutoModel.from_pretrained(minigpt[0])) is hf_minibert.MiniGPTModel
    fill = pipeline("fill-mask", model=str(minibert[0]))
    assert len(fill("The [MASK] returns a value.")) == 5
    generate = pipeline("text-generation", model=str(minigpt[0]))
    text = generate("The function", max_new_tokens=4, do_sample=False)[0]["generated_text"]
    assert text.startswith("The function")


def test_opens_without_the_package(folder: Path, minibert: tuple[Path, Any], minigpt: tuple[Path, Any]) -> None:
    program = f"""
import sys
sys.modules["hf_minibert"] = None
from transformers import AutoConfig, AutoTokenizer, pipeline
import transformers
for folder in {[str(minibert[0]), str(minigpt[0])]!r}:
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    for auto_class in config.auto_map:
        if auto_class != "AutoConfig":
            model = vars(transformers)[auto_class].from_pretrained(folder, trust_remote_code=True)
            print(auto_class, type(model).__name__)
print(pipeline("fill-mask", model={str(minibert[0])!r}, trust_remote_code=True)("A [MASK].")[0]["token_str"])
print(pipeline("text-generation", model={str(minigpt[0])!r}, trust_remote_code=True)("A", max_new_tokens=2))
"""
    program = program.replace("vars(transformers)[auto_class]", "getattr(transformers, auto_class)")
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=environment(folder / "empty-cache"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for name in ("AutoModelForMaskedLM MiniBertForMaskedLM", "AutoModelForCausalLM MiniGPTForCausalLM"):
        assert name in done.stdout


def test_generate_is_seeded_and_begins_with_the_prompt(
    minigpt: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = []
    for seed in ("1", "1", "2"):
        words = ["--model_name_or_path", minigpt[0], "--prompt", "The function", "--max_new_tokens", "12"]
        assert call("generate.py", monkeypatch, *words, "--seed", seed, "--temperature", "1.5") == 0
        texts.append(capsys.readouterr().out)
    assert texts[0].startswith("The function")
    assert texts[0] == texts[1] != texts[2]


def test_greedy_generation_is_that_of_the_model(
    minigpt: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model_name_or_path", minigpt[0], "--temperature", "0", "--repetition_penalty", "1"]
    assert call("generate.py", monkeypatch, *words, "--prompt", "A", "--max_new_tokens", "5") == 0
    tokenizer = AutoTokenizer.from_pretrained(minigpt[0])
    model = AutoModelForCausalLM.from_pretrained(minigpt[0]).eval()
    ids = tokenizer("A", return_tensors="pt").input_ids
    with torch.no_grad():
        for _ in range(5):
            ids = torch.cat((ids, model(ids).logits[:, -1:].argmax(-1)), dim=1)
    assert capsys.readouterr().out.strip() == tokenizer.decode(ids[0], skip_special_tokens=True).strip()


def test_prepared_data_gives_the_same_run(
    folder: Path, minibert: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = folder / "prepared"
    words = ["--corpus", folder / "corpus.jsonl", "--output_dir", store]
    assert call("prepare_data.py", monkeypatch, *words) == 0
    assert "160 documents" in capsys.readouterr().out
    output = folder / "from-prepared"
    done = forked("pretrain.py", folder / "cache", **SMALL, model="minibert-tiny", corpus=store, output_dir=output)
    assert done.returncode == 0, done.stderr
    assert "tokenizing" not in done.stderr
    assert metrics(output) == metrics(minibert[0])
    words = ["--corpus", store, "--streaming", "--output_dir", folder / "streamed"]
    assert call("pretrain.py", monkeypatch, *words) == 2
    assert "is here already; leave it out" in capsys.readouterr().err


def test_finetuned_models_classify_in_a_pipeline(
    folder: Path,
    minibert: tuple[Path, Any],
    minigpt: tuple[Path, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [
        {"review": f"{'lovely fine great' if good else 'awful bad boring'} {number}", "stars": int(good)}
        for number in range(60)
        for good in (True, False)
    ]
    (folder / "reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for run, _ in (minibert, minigpt):
        output = folder / f"{run.name}-classifier"
        words = ["--model_name_or_path", run, "--dataset", folder / "reviews.jsonl", "--output_dir", output]
        words += ["--text_column", "review", "--label_column", "stars", "--label_names", "bad", "good"]
        words += ["--num_train_epochs", "4", "--per_device_train_batch_size", "8", "--learning_rate", "2e-3"]
        assert call("finetune.py", monkeypatch, *map(str, words)) == 0
        said = capsys.readouterr()
        assert re.search(r"fine-tuning \d\.\dM parameters on \d+ examples, \d+ held out, on ", said.out)
        assert re.search(r"done: 100%.*loss=\d\.\d+, held-out accuracy=100\.0%", said.err.splitlines()[-1])
        assert "accuracy 100.0%; always the commonest label" in said.out
        assert "{'" not in said.out + said.err
        classify = pipeline("text-classification", model=str(output))
        assert classify("lovely fine great 999")[0]["label"] == "good"
        assert classify("awful bad boring 999")[0]["label"] == "bad"
        results = json.loads((output / "results.json").read_text())
        assert results["metrics"]["eval_accuracy"] == 1
        lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
        assert [line["epoch"] for line in lines if "eval_loss" in line] == [1, 2, 3, 4]
        assert (output / "README.md").exists()
        assert not list(output.glob("*.bin"))
        assert not list(output.glob("checkpoint-*"))
