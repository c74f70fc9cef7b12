"""Minimal pairs: every score is that of a slow and obvious scorer, and the figures are those of the field."""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.colors
import matplotlib.image
import numpy as np
import pytest
import torch
from commands import call
from language_models import MAKERS, MASKED
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, XLNetConfig, XLNetLMHeadModel

from hf_minibert.errors import UserError
from hf_minibert.evaluation import minimal_pairs
from hf_minibert.evaluation.arguments import EvaluateArguments
from hf_minibert.evaluation.chart import COLORS, plot_bars
from hf_minibert.evaluation.minimal_pairs import read_pairs, result
from hf_minibert.evaluation.opening import open_language_model
from hf_minibert.evaluation.scores import spell, text_scores, token_scores

Folder = Callable[[str], Path]
SENTENCES = [
    "the cats see a dog in the park.",
    "the cats sees a dog in the park.",
    "a",
    "the dog which runs and runs and runs saw the cats in the park.",
    "Zoë’s cat is running, isn't she?",
    "  the cats in the park.",
    "the cats see a dog in the park.",
]


@cache
def opened(folder: Path, is_masked: bool) -> tuple[Any, Any]:
    auto = AutoModelForMaskedLM if is_masked else AutoModelForCausalLM
    return AutoTokenizer.from_pretrained(folder), auto.from_pretrained(folder, dtype=torch.float32).eval()


def slow_score(
    folder: Path, sentence: str, *, is_masked: bool, reads_before: bool = False, within_word: bool = False
) -> float:
    """One sentence, one mask at a time, all logits."""
    tokenizer, model = opened(folder, is_masked)
    encoded = tokenizer(sentence, add_special_tokens=False)
    ids, words, total = encoded.input_ids, encoded.word_ids(), 0.0
    if not is_masked:
        start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        with torch.no_grad():
            likely = model(torch.tensor([[*start, *ids]])).logits[0].log_softmax(dim=1)
        places = range(0 if start else 1, len(ids))
        return sum(float(likely[place + len(start) - 1, ids[place]]) for place in places)
    for place, token in enumerate(ids):
        hidden = list(ids)
        hidden[place] = tokenizer.mask_token_id
        for later in range(place + 1, len(ids)):
            if within_word and words[later] == words[place]:
                hidden[later] = tokenizer.mask_token_id
        end = [] if reads_before else [tokenizer.sep_token_id]
        with torch.no_grad():
            # Logits of ours stand at their own token's place, also where the state before it has made them.
            likely = model(torch.tensor([[tokenizer.cls_token_id, *hidden, *end]])).logits[0].log_softmax(dim=1)
        total += float(likely[place + 1, token])
    return total


@pytest.mark.parametrize("batch_tokens", [None, 40])
@pytest.mark.parametrize("name", MAKERS)
def test_scores_equal_a_slow_and_obvious_scorer(name: str, model_folder: Folder, batch_tokens: int | None) -> None:
    """Within 1e-4 a sentence, however the batches are cut; 40 tokens are fewer than one sentence has rows."""
    folder = model_folder(name)
    model = open_language_model(str(folder))
    assert model.reads_states
    found = text_scores(model, SENTENCES, batch_tokens=batch_tokens)
    expected = [
        slow_score(folder, sentence, is_masked=name in MASKED, reads_before=name == "hybrid") for sentence in SENTENCES
    ]
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
    assert found[0] == found[-1]
    assert len(set(found)) == len(set(SENTENCES))
    changed = [module for module in model.model.modules() if "forward" in vars(module)]
    assert not changed  # though the last layer was computed at the hidden tokens only


@pytest.mark.parametrize("name", ["minibert", "hybrid", "roberta"])
def test_the_rest_of_a_word_is_hidden_too(name: str, model_folder: Folder) -> None:
    folder = model_folder(name)
    model = open_language_model(str(folder))
    found = text_scores(model, SENTENCES, within_word=True)
    expected = [
        slow_score(folder, sentence, is_masked=True, reads_before=name == "hybrid", within_word=True)
        for sentence in SENTENCES
    ]
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
    assert not np.allclose(found, text_scores(model, SENTENCES))


def test_a_foreign_hybrid_model_is_read_one_place_before(model_folder: Folder) -> None:
    """Logits of a stock model stand where they are made."""
    folder = model_folder("bert")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForMaskedLM.from_pretrained(folder).eval()
    sentence, expected = SENTENCES[0], 0.0
    ids = [tokenizer.cls_token_id, *tokenizer(sentence, add_special_tokens=False).input_ids]
    for place in range(1, len(ids)):
        hidden = [*ids[:place], tokenizer.mask_token_id, *ids[place + 1 :]]
        with torch.no_grad():
            expected += float(model(torch.tensor([hidden])).logits[0, place - 1].log_softmax(dim=0)[ids[place]])
    found = text_scores(open_language_model(str(folder), backend="mntp"), [sentence])
    assert found[0] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_an_encoder_read_from_left_to_right_sees_no_later_token(name: str, model_folder: Folder) -> None:
    model = open_language_model(str(model_folder(name)), backend="causal")
    (one, other), _ = token_scores(model, spell(model, ["the dog sees the cat", "the dog sees the dog"]))
    shared = min(len(one), len(other)) - 3
    np.testing.assert_allclose(one[:shared], other[:shared], atol=1e-5)


def test_a_head_that_needs_more_than_states_is_given_all_of_the_text(
    model_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = text_scores(open_language_model(str(model_folder("bert"))), SENTENCES)
    monkeypatch.setattr("hf_minibert.evaluation.opening.reads_states", lambda _: False)
    model = open_language_model(str(model_folder("bert")))
    assert not model.reads_states
    np.testing.assert_allclose(text_scores(model, SENTENCES), expected, atol=1e-4)


# ---------------------------------------------------------------- figures


PAIRS = [
    {
        "sentence_good": "the cats see a dog.",
        "sentence_bad": "the cats sees a dog.",
        "UID": "agreement",
        "field": "syntax",
    },
    {
        "sentence_good": "the dog sees a cat.",
        "sentence_bad": "the dog see a cat.",
        "UID": "agreement",
        "field": "syntax",
    },
    {"sentence_good": "the dog runs.", "sentence_bad": "the dog runs.", "UID": "agreement", "field": "syntax"},
    {"sentence_good": "who saw the cat", "sentence_bad": "which saw the cat", "UID": "who", "field": "syntax"},
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    return call("evaluate.py", monkeypatch, "--suite", "blimp", *words)


def test_results_hold_the_mean_over_paradigms_and_ties(
    tmp_path: Path, model_folder: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, data, output = model_folder("minibert"), write(tmp_path / "pairs.jsonl", PAIRS), tmp_path / "out"
    assert run(monkeypatch, "--model_name_or_path", folder, "--dataset", data, "--output_dir", output) == 0
    results = json.loads((output / "results.json").read_text())
    right = [
        slow_score(folder, pair["sentence_good"], is_masked=True)
        >= slow_score(folder, pair["sentence_bad"], is_masked=True)
        for pair in PAIRS
    ]
    agreement, who = 100 * sum(right[:3]) / 3, 100.0 * right[3]
    assert results["paradigms"] == {"agreement": pytest.approx(agreement), "who": who}
    assert results["accuracy"] == pytest.approx((agreement + who) / 2)
    assert results["accuracy_ties_half"] == pytest.approx((agreement - 100 / 6 + who) / 2)
    assert results["ties"] == 1
    assert results["pairs"] == 4
    assert results["field"] == {"syntax": 100 * sum(right) / 4}
    assert results["backend"] == "mlm"
    (predictions,) = output.rglob("predictions.json")
    assert predictions.relative_to(output).as_posix() == "minibert/main/zero_shot/mlm/blimp/pairs/predictions.json"
    chosen = json.loads(predictions.read_text())
    assert [each["id"] for each in chosen["agreement"]["predictions"]] == [f"agreement_{i}" for i in range(3)]
    assert chosen["who"]["predictions"][0]["pred"] == PAIRS[3]["sentence_good" if right[3] else "sentence_bad"]
    assert (output / "chart.png").read_bytes().startswith(b"\x89PNG")
    captured = capsys.readouterr()
    assert f"{results['accuracy']:.2f}" in captured.out
    assert "kept in" not in captured.err


def test_a_folder_has_a_paradigm_a_file_and_models_stand_side_by_side(
    tmp_path: Path, model_folder: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "supplement").mkdir()
    plain = [{name: pair[name] for name in ("sentence_good", "sentence_bad")} for pair in PAIRS]
    for name, rows in {"hypernym": plain[:2], "turn_taking": plain[2:]}.items():
        write(tmp_path / "supplement" / f"{name}.jsonl", rows)
    models, output = [model_folder("minigpt"), model_folder("bert")], tmp_path / "out"
    for _ in range(2):  # the second time replaces the first
        words = ("--compare", *models, "--dataset", tmp_path / "supplement", "--output_dir", output, "--max_pairs", "1")
        assert run(monkeypatch, *words) == 0
    first, second = json.loads((output / "results.json").read_text())["models"]
    assert list(first["paradigms"]) == ["hypernym", "turn_taking"]
    assert (first["pairs"], first["backend"], second["backend"]) == (2, "causal", "mlm")
    header = capsys.readouterr().out.splitlines()[0].split()
    assert header == ["minigpt", "bert"]


def test_models_of_one_name_and_a_model_here_keep_their_files_apart(
    tmp_path: Path, model_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, output = write(tmp_path / "pairs.jsonl", PAIRS), tmp_path / "out"
    shutil.copytree(model_folder("bert"), tmp_path / "other" / "bert")
    words = ["--compare", model_folder("bert"), tmp_path / "other" / "bert", "--dataset", data, "--output_dir", output]
    assert run(monkeypatch, *words) == 0
    assert len(list(output.rglob("predictions.json"))) == 2
    monkeypatch.chdir(tmp_path / "other" / "bert")
    name = open_language_model(".")
    found = result(
        name, read_pairs([str(data)], good_column="sentence_good", bad_column="sentence_bad"), *np.zeros((2, 4))
    )
    assert all(path.startswith("bert/main/") for path in found.files)
    assert found.figures["accuracy"] == 100
    assert (found.figures["ties"], found.figures["accuracy_ties_half"]) == (4, 50)


def test_predictions_are_the_bytes_that_the_pipeline_writes_where_it_looks_for_them(
    tmp_path: Path, model_folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes what stands behind the last dot for a suffix, and two spellings of a group for one."""
    data, model, output = tmp_path / "blimp.part-1", tmp_path / "bert-1.5", tmp_path / "out"
    shutil.copytree(model_folder("bert"), model)
    data.mkdir()
    fields = ["syntax_semantics", "syntax/semantics"] * 2
    pairs = [pair | {"field": field} for pair, field in zip(PAIRS, fields, strict=True)]
    pairs[0] = pairs[0] | {"sentence_good": "the caf\u00e9 sees a dog."}
    write(data / "pairs.jsonl", pairs)
    assert run(monkeypatch, "--model_name_or_path", model, "--dataset", data, "--output_dir", output) == 0
    written = (output / "bert-1/main/zero_shot/mlm/blimp/blimp/predictions.json").read_text()
    assert written == json.dumps(json.loads(written))
    assert list(json.loads((output / "results.json").read_text())["field"]) == ["syntax/semantics"]


def test_a_pattern_is_named_after_its_first_file_and_columns_of_groups_may_lack(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [PAIRS[0] | {"field": "syntax"}, PAIRS[1]])
    write(tmp_path / "b.jsonl", [PAIRS[2] | {"field": "syntax"}])
    given: dict[str, Any] = {"good_column": "sentence_good", "bad_column": "sentence_bad"}
    assert read_pairs([str(tmp_path / "*.jsonl")], **given).name == "a"
    assert len(read_pairs([str(tmp_path / "*.jsonl")], **given)) == 3


def test_scores_that_are_no_numbers_are_refused(tmp_path: Path, model_folder: Folder) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folder("minigpt"))
    torch.nn.init.constant_(model.model.layers[0].mlp.down_proj.weight, float("nan"))
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(model_folder("minigpt")).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is no number"):
        text_scores(open_language_model(str(tmp_path)), SENTENCES)


BAD = {
    "no pairs": ("", "pairs.jsonl is empty"),
    "an empty sentence": ('{"sentence_good": "a", "sentence_bad": " "}', "line 1: sentence_bad is empty"),
    "a number": ('{"sentence_good": "a", "sentence_bad": 3}', "line 1: sentence_bad is a int"),
    "unequal columns": ('{"sentence_good": "a", "sentence_bad": "b"}\n{"sentence_good": "a"}', "line 2 has no column"),
    "a sentence too long": (
        json.dumps({"sentence_good": "a b " * 40, "sentence_bad": "a"}),
        "reads at most 64",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_pairs_are_one_clear_line(
    case: str, tmp_path: Path, model_folder: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content, message = BAD[case]
    (tmp_path / "pairs.jsonl").write_text(content)
    words = ["--model_name_or_path", model_folder("minigpt"), "--dataset", tmp_path / "pairs.jsonl"]
    assert run(monkeypatch, *words, "--output_dir", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", {"hidden_size": "64"}, "holds no model: Field 'hidden_size' expected int"),
        ("config.json", {"model_type": ["a"]}, "holds no model: "),
        ("tokenizer.json", {"version": "9"}, "has no tokenizer that opens: "),
    ],
)
def test_a_damaged_folder_is_one_clear_line(
    file: str, content: dict[str, Any], message: str, tmp_path: Path, model_folder: Folder
) -> None:
    folder = shutil.copytree(model_folder("minibert"), tmp_path / "model")
    (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | content))
    with pytest.raises(UserError) as caught:
        open_language_model(str(folder))
    assert str(caught.value).startswith(f"{folder} {message}")
    assert "\n" not in str(caught.value)


def test_only_a_hybrid_model_of_ours_is_read_one_place_before(model_folder: Folder) -> None:
    assert open_language_model(str(model_folder("hybrid")), backend="mntp").offset == 1
    with pytest.raises(UserError, match="backend mntp is for hybrid models, but .*minibert was made to predict"):
        open_language_model(str(model_folder("minibert")), backend="mntp")


def test_a_model_without_its_head_is_refused(tmp_path: Path, model_folder: Folder) -> None:
    AutoModelForMaskedLM.from_pretrained(model_folder("bert")).base_model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(model_folder("bert")).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no trained head of a masked language model"):
        open_language_model(str(tmp_path))
    with pytest.raises(UserError, match="has no masked language model; try --backend causal"):
        open_language_model(str(model_folder("gpt2")), backend="mlm")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model_name_or_path", "nowhere"], "there is no folder nowhere"),
        (["--model_name_or_path", "minibert-tiny", "--compare", "minigpt-tiny"], "give one of"),
        (["--compare", "minibert-tiny", "minibert-tiny"], "twice"),
        (["--model_name_or_path", "minigpt-tiny", "--dataset", "nowhere.jsonl"], "nowhere.jsonl does not exist"),
        (["--model_name_or_path", "minigpt-tiny", "--within_word"], "within_word is for masked models"),
    ],
)
def test_wrong_flags_are_one_clear_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "pairs.jsonl", PAIRS)
    words = [*words, *([] if "--dataset" in words else ["--dataset", str(data)])]
    assert run(monkeypatch, "--output_dir", tmp_path / "out", *words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_one_file_of_many_paradigms_is_read_in_every_format(tmp_path: Path) -> None:
    columns = {"good_column": "sentence_good", "bad_column": "sentence_bad"}
    expected = read_pairs([str(write(tmp_path / "pairs.jsonl", PAIRS))], **columns)
    assert expected.paradigms == ["agreement"] * 3 + ["who"]
    names = list(PAIRS[0])
    rows = [names, *([pair[name] for name in names] for pair in PAIRS)]
    (tmp_path / "pairs.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    (tmp_path / "pairs.json").write_text(json.dumps(PAIRS))
    for suffix in ("tsv", "json", "*l"):
        assert read_pairs([str(tmp_path / f"pairs.{suffix}")], **columns).good == expected.good


def test_words_that_a_tokenizer_does_not_tell_cannot_be_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    model = SimpleNamespace(backend="mlm", tokenizer=SimpleNamespace(is_fast=False))
    monkeypatch.setattr(minimal_pairs, "open_language_model", lambda *_, **__: model)
    arguments = EvaluateArguments(suite="blimp", model_name_or_path="x", output_dir="x", within_word=True)
    with pytest.raises(
        UserError, match="within_word needs a tokenizer that tells words|within_word needs to know words"
    ):
        minimal_pairs.measure("x", SimpleNamespace(), arguments)  # type: ignore[arg-type]


def test_a_dollar_in_a_name_is_no_formula(tmp_path: Path) -> None:
    plot_bars({"a$b$": {"costs_$5_vs_$6": 50.0}}, tmp_path / "c.png", axis="%", baseline=("$^$", 40.0))
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_a_model_whose_tokens_see_later_ones_is_not_causal(tmp_path: Path, tokenizer: Any) -> None:
    torch.manual_seed(0)
    xlnet = XLNetLMHeadModel(XLNetConfig(vocab_size=len(tokenizer), d_model=32, n_layer=1, n_head=2, d_inner=32))
    xlnet.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="a xlnet, see later ones, so it knows what it should predict"):
        open_language_model(str(tmp_path))


def test_the_chart_shows_every_model_where_their_figures_are_equal(tmp_path: Path) -> None:
    plot_bars({name: {"wh_island": 50.0, "passive": 75.0} for name in ("a", "b", "c")}, tmp_path / "c.png", axis="%")
    pixels = matplotlib.image.imread(tmp_path / "c.png")[..., :3]
    legend = pixels.shape[0] // 4
    for color in COLORS[:3]:
        near = np.abs(pixels[legend:] - np.array(matplotlib.colors.to_rgb(color))).max(axis=-1) < 0.02
        assert near.sum() > 40  # two points of some 50 pixels
