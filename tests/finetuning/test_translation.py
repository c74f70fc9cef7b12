"""Translation: from pairs of texts to a model that others open."""

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from commands import TWO_PROCESSES, command
from torch.nn import functional as F
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedTokenizerFast

import hf_minibert
from hf_minibert.assets import model_folder
from hf_minibert.errors import UserError
from hf_minibert.evaluation.translate import longest_translation
from hf_minibert.export.stock import to_stock
from hf_minibert.finetuning.arguments import FinetuneArguments
from hf_minibert.finetuning.finetune import build_trainer, finetune
from hf_minibert.finetuning.folder import folder_rules
from hf_minibert.finetuning.run import Run, fingerprint, read
from hf_minibert.finetuning.translation import Translation
from hf_minibert.finetuning.unfinished import Unfinished
from hf_minibert.presets import LEARNING_RATES
from hf_minibert.runs.stopping import StopSignal
from hf_minibert.tokenization import train_wordpiece

WORDS = {"a": "ein", "man": "Mann", "dog": "Hund", "house": "Haus", "red": "rotes", "sees": "sieht", "and": "und"}


@pytest.fixture(name="sacrebleu", scope="module")
def _sacrebleu() -> ModuleType:
    """Imported here, so that other tests are collected without it."""
    return importlib.import_module("sacrebleu")


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """English and German, word for word."""
    folder = tmp_path_factory.mktemp("pairs")
    draw = torch.Generator().manual_seed(0)
    for split, count in (("train", 96), ("dev", 7), ("test", 5)):
        rows = [torch.randint(len(WORDS), (2 + row % 4,), generator=draw).tolist() for row in range(count)]
        for language, words in (("en", list(WORDS)), ("de", list(WORDS.values()))):
            text = "".join(" ".join(words[index] for index in row) + "\n" for row in rows)
            (folder / f"{split}.{language}").write_text(text)
    return folder


def arguments(folder: Path, output: Path, **more: Any) -> FinetuneArguments:
    settings: dict[str, Any] = {
        "task": "translation",
        "dataset": str(folder),
        "source_lang": "en",
        "output_dir": str(output),
        "mixed_precision": "no",
        "num_beams": 2,
        "max_seq_length": 64,
    }
    if "model_name_or_path" not in more:
        settings["model"] = "minibert-tiny"
    return FinetuneArguments(**settings | more)


@pytest.fixture(name="result", scope="module")
def _result(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("translation") / "out"
    assert (
        finetune(
            arguments(
                folder,
                output,
                learning_rate=3e-3,
                num_train_epochs=8,
                per_device_train_batch_size=8,
                early_stopping_patience=8,
            )
        )
        == 0
    )
    return output


def test_it_learns_and_the_files_say_how_well(sacrebleu: ModuleType, result: Path) -> None:
    results = json.loads((result / "results.json").read_text())
    assert set(results["metrics"]) >= {"eval_bleu", "eval_lowercase_bleu", "eval_chrf", "test_bleu", "eval_loss"}
    assert results["metrics"]["eval_chrf"] > 25  # a model of noise has below 5
    assert f"version:{sacrebleu.__version__}" in results["headline"]
    card = (result / "README.md").read_text()
    assert "attention.png" in card
    assert "pipeline_tag: translation" in card
    assert (result / "attention.png").stat().st_size > 1_000
    lines = [json.loads(line) for line in (result / "metrics.jsonl").read_text().splitlines()]
    assert len([line for line in lines if "eval_bleu" in line]) == 8


def test_what_was_saved_translates_as_measured(sacrebleu: ModuleType, result: Path, folder: Path) -> None:
    tokenizer, model = AutoTokenizer.from_pretrained(result), AutoModelForSeq2SeqLM.from_pretrained(result)
    sources, targets = ((folder / f"test.{language}").read_text().splitlines() for language in ("en", "de"))
    said = hf_minibert.translate(sources, model, tokenizer)
    measured = json.loads((result / "results.json").read_text())["metrics"]
    assert sacrebleu.corpus_bleu(said, [targets]).score == pytest.approx(measured["test_bleu"], abs=1e-6)
    assert sacrebleu.corpus_chrf(said, [targets]).score == pytest.approx(measured["test_chrf"], abs=1e-6)
    assert model.generation_config.num_beams == 2
    tokens = tokenizer(sources[0], return_tensors="pt")
    elsewhere = tokenizer.decode(model.generate(**tokens)[0], skip_special_tokens=True)
    assert elsewhere == said[0]


def test_translate(result: Path) -> None:
    tokenizer, model = AutoTokenizer.from_pretrained(result), AutoModelForSeq2SeqLM.from_pretrained(result)
    model.train()
    texts = ["a dog sees a man", "", "red", " \n", "house and house and house"]
    said = hf_minibert.translate(texts, model, tokenizer, batch_size=2)
    assert [bool(text) for text in said] == [True, False, True, False, True]
    assert model.training, "it is left as it was"
    assert said == [hf_minibert.translate(text, model, tokenizer) for text in texts]
    one_beam = model.eval().generate(**tokenizer(texts[4], return_tensors="pt"), num_beams=1, max_length=30)
    expected = tokenizer.decode(one_beam[0], skip_special_tokens=True).strip()
    assert hf_minibert.translate(texts[4], model, tokenizer, num_beams=1) == expected
    with pytest.raises(ValueError, match=r"has \d+ tokens, and the model reads 512"):
        hf_minibert.translate("dog " * 600, model, tokenizer)
    assert longest_translation(0) > 0


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_translation_does_not_depend_on_its_batch(folder: Path, tmp_path: Path, num_beams: int) -> None:
    """A model that has learned nothing ends no text; each ends where its own source bounds it."""
    run = built(folder, tmp_path)
    run.model.generation_config.suppress_tokens = run.tokenizer.all_special_ids  # type: ignore[union-attr]
    texts = ["dog", "red house", "a man and a dog", "a man sees a red house and a dog and a man " * 3]
    said = [
        hf_minibert.translate(texts, run.model, run.tokenizer, batch_size=size, num_beams=num_beams) for size in (1, 4)
    ]
    assert said[0] == said[1]
    lengths = [len(run.tokenizer(text, add_special_tokens=False).input_ids) for text in said[1]]
    assert lengths[0] < lengths[-1], "the longest does not bound all"


def built(folder: Path, output: Path, **more: Any) -> Run:
    return read(arguments(folder, output, **more))


def test_from_scratch_both_sides_share_their_embeddings(folder: Path, tmp_path: Path) -> None:
    run = built(folder, tmp_path)
    model = run.model
    assert model.encoder.embed_tokens.weight is model.decoder.lm_head.weight
    assert run.new_weights == set(), "all are new, and learn alike"
    assert model.decoder.config.num_hidden_layers == model.encoder.config.num_hidden_layers == 2
    assert "token_type_ids" not in run.tokenizer.model_input_names


def test_two_checkpoints_keep_what_they_know(folder: Path, tmp_path: Path) -> None:
    parts = {"model_name_or_path": model_folder("minibert-tiny"), "decoder_name_or_path": model_folder("minigpt-tiny")}
    run = built(folder, tmp_path, **parts)
    kept = hf_minibert.MiniBertModel.from_pretrained(parts["model_name_or_path"]).state_dict()
    assert all(torch.equal(run.model.encoder.state_dict()[name], kept[name]) for name in kept)
    kept = hf_minibert.MiniGPTForCausalLM.from_pretrained(parts["decoder_name_or_path"]).state_dict()
    assert all(torch.equal(run.model.decoder.state_dict()[name], kept[name]) for name in kept)
    assert run.new_weights
    assert all(".cross_att" in name for name in run.new_weights)
    assert run.model.encoder.embed_tokens.weight is not run.model.decoder.lm_head.weight
    assert run.new_weights <= {name for name, _ in run.model.named_parameters()}


def test_the_folder_of_the_decoder_is_read_and_not_written_over(folder: Path, tmp_path: Path) -> None:
    asked = arguments(folder, tmp_path / "out", decoder_name_or_path="letters")
    assert folder_rules(asked)["inputs"] == [str(folder), "letters"]


def test_a_new_decoder_takes_over_the_encoders_embeddings(folder: Path, tmp_path: Path) -> None:
    encoder = model_folder("minibert-tiny")
    run = built(folder, tmp_path, model_name_or_path=encoder)
    embeddings = hf_minibert.MiniBertModel.from_pretrained(encoder).embed_tokens.weight
    assert torch.equal(run.model.decoder.lm_head.weight, embeddings)
    names = {name for name, _ in run.model.named_parameters()}
    assert run.new_weights == {name for name in names if name.startswith("decoder.")}


def test_a_new_encoder_beside_a_pretrained_decoder_learns_as_new(folder: Path, tmp_path: Path) -> None:
    run = built(folder, tmp_path, decoder_name_or_path=model_folder("minigpt-tiny"))
    names = {name for name, _ in run.model.named_parameters()}
    assert run.new_weights == {name for name in names if "cross" in name or not name.startswith("decoder.")}


@pytest.mark.parametrize("is_stock", [False, True])
def test_each_side_may_have_its_own_tokenizer(folder: Path, tmp_path: Path, is_stock: bool) -> None:
    decoder: Any = hf_minibert.MiniGPTForCausalLM.from_pretrained(model_folder("minigpt-tiny"))
    tokenizer: Any = train_wordpiece([(folder / "train.de").read_text()], vocab_size=540)
    decoder.resize_token_embeddings(len(tokenizer))
    if is_stock:  # texts of these begin and end with other tokens than BERT's
        decoder = to_stock(decoder, mask_token_id=None)
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer.backend_tokenizer, bos_token="[CLS]", eos_token="[SEP]"
        )
    decoder.save_pretrained(tmp_path / "decoder")
    tokenizer.save_pretrained(tmp_path / "decoder")
    parts = {"model_name_or_path": model_folder("minibert-tiny"), "decoder_name_or_path": str(tmp_path / "decoder")}
    asked = arguments(folder, tmp_path / "out", **parts, num_train_epochs=1, max_train_samples=40)
    assert finetune(asked) == 0
    run = read(asked)
    before = fingerprint(run)
    assert isinstance(run.task, Translation)
    run.task.tokenizers = run.tokenizer, run.tokenizer
    assert [name for name, value in fingerprint(run).items() if value != before[name]] == ["tokenizer"]
    own = AutoTokenizer.from_pretrained(tmp_path / "out", subfolder="target_tokenizer")
    assert len(own) == len(tokenizer)
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) > len(own)
    assert 'subfolder="target_tokenizer"' in (tmp_path / "out" / "README.md").read_text()


def test_long_training_pairs_are_left_out_and_said(folder: Path, tmp_path: Path) -> None:
    for split in ("train", "dev"):
        for language in ("en", "de"):
            content = (folder / f"{split}.{language}").read_text()
            (tmp_path / f"{split}.{language}").write_text(content + "and " * 50 + "\n")
    run = built(tmp_path, tmp_path / "out", max_seq_length=16)
    assert len(run.rows["train"]) == 96
    assert max(map(len, run.rows["eval"]["input_ids"])) == 16
    assert run.task.notes == [
        "1 training pairs of more than 16 tokens are left out",
        "1 eval pairs of more than 16 tokens are cut",
    ]


def test_the_loss_is_smoothed_and_training_needs_no_logits(folder: Path, tmp_path: Path) -> None:
    run = built(folder, tmp_path, label_smoothing_factor=0.2)
    batch = run.task.collator(run.tokenizer)([run.rows["train"][place] for place in range(3)])
    batch.pop("length")
    assert (batch["labels"] == -100).any()
    outputs = run.model.eval()(**batch)
    expected = F.cross_entropy(outputs.logits.flatten(0, 1), batch["labels"].flatten(), label_smoothing=0.2)
    torch.testing.assert_close(outputs.loss, expected, rtol=0, atol=1e-5)
    assert run.model.train()(**batch).logits is None


@pytest.mark.parametrize("is_new", [True, False])
def test_muon_trains_new_models_only(folder: Path, tmp_path: Path, is_new: bool) -> None:
    run = built(folder, tmp_path, **({} if is_new else {"model_name_or_path": model_folder("minibert-tiny")}))
    trainer, _ = build_trainer(run, Unfinished(str(tmp_path)), StopSignal())
    optimizer = trainer.create_optimizer()
    of_muon = [group for group in optimizer.param_groups if "momentum" in group]
    assert [group["lr"] for group in of_muon] == [6e-3] * is_new
    for group in of_muon:
        own = {id(parameter) for parameter in group["params"]}
        names = {name for name, parameter in run.model.named_parameters() if id(parameter) in own}
        assert names == {name for name, weight in run.model.named_parameters() if "_proj" in name and weight.ndim == 2}
    every = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert len(every) == len({id(parameter) for parameter in every}) == len(list(run.model.parameters()))


def test_smoothed_loss_does_not_depend_on_accumulation(folder: Path, tmp_path: Path) -> None:
    """The mean over all predicted tokens, however they are split over batches."""
    losses = []
    for name, size, steps in (("one", 96, 1), ("three", 32, 3)):
        more = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps, "max_eval_samples": 1}
        still = {"hidden_dropout_prob": 0.0, "learning_rate": 1e-9, "num_train_epochs": 1}
        assert finetune(arguments(folder, tmp_path / name, **more, **still)) == 0
        losses.append(json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0])["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"model": "minigpt-tiny"}, "minigpt-tiny is a minigpt, but in translation a MiniBERT reads"),
        ({"decoder_name_or_path": "minibert-tiny"}, "is a minibert, but a MiniGPT writes"),
        ({"dataset": "builtin"}, "translation needs --dataset"),
        ({"text_column": "body"}, "--text_column is a flag of"),
        ({"num_beams": 0}, "num_beams must be positive"),
        ({"label_smoothing_factor": 1.0}, r"label_smoothing_factor must be in \[0, 1\)"),
        ({"max_seq_length": 8, "source_lang": "xx"}, "has nothing in source_lang xx"),
    ],
)
def test_bad_input_is_one_line(folder: Path, tmp_path: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        finetune(arguments(folder, tmp_path / "out", **more))
    assert not (tmp_path / "out").exists()


def test_the_default_rate_is_higher_where_all_weights_are_new(folder: Path, tmp_path: Path) -> None:
    pretrained = {"model_name_or_path": "minibert-tiny", "decoder_name_or_path": "minigpt-tiny"}
    for size, rate in LEARNING_RATES["muon"]["modern"].items():
        assert arguments(folder, tmp_path, model=f"minibert-{size}").learning_rate == rate, "that of pre-training"
    of_another_task = {"task": "text-classification", "source_lang": None, "num_beams": 5}
    assert arguments(folder, tmp_path, **of_another_task).learning_rate == 1e-3
    assert arguments(folder, tmp_path, **pretrained).learning_rate == 3e-4
    assert arguments(folder, tmp_path, decoder_name_or_path="minigpt-tiny").learning_rate == 3e-4
    assert arguments(folder, tmp_path, learning_rate=2e-5).learning_rate == 2e-5


def test_flags_of_translation_are_no_flags_of_others(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--num_beams is a flag of translation"):
        FinetuneArguments(model="minibert-tiny", output_dir=str(tmp_path), num_beams=3)


@pytest.mark.slow
def test_two_processes_measure_each_pair_once(
    sacrebleu: ModuleType, folder: Path, tmp_path: Path, cache_home: Path
) -> None:
    """Seven pairs, in batches of two for each of two processes: what fills up the last batch does not count."""
    options = {
        **{"task": "translation", "model": "minibert-tiny", "dataset": folder, "source_lang": "en", "num_beams": 1},
        **{"write_predictions": True},
        **{"per_device_train_batch_size": 4, "per_device_eval_batch_size": 2, "mixed_precision": "no"},
        **{"num_train_epochs": 1, "max_train_samples": 16, "max_seq_length": 64},
    }
    output = tmp_path / "out"
    done = command("finetune.py", cache_home, launcher=TWO_PROCESSES, output_dir=output, **options)
    assert done.returncode == 0, done.stderr
    tokenizer, model = AutoTokenizer.from_pretrained(output), AutoModelForSeq2SeqLM.from_pretrained(output)
    sources, targets = ((folder / f"dev.{language}").read_text().splitlines() for language in ("en", "de"))
    lines = [json.loads(line) for line in (output / "predictions_eval.jsonl").read_text().splitlines()]
    assert [line["source"] for line in lines] == sources
    said = [line["prediction"] for line in lines]
    measured = json.loads((output / "results.json").read_text())["metrics"]["eval_chrf"]
    assert sacrebleu.corpus_chrf(said, [targets]).score == pytest.approx(measured, abs=1e-6)
    assert said == hf_minibert.translate(sources, model, tokenizer)
