"""Likelihood of texts: every byte counts once, whatever the tokenizer, the window and the stride."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import call
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    AlbertConfig,
    AlbertForPreTraining,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    ElectraConfig,
    ElectraForMaskedLM,
    PreTrainedTokenizerFast,
)

from hf_minibert import MiniBertConfig, MiniBertForPreTraining
from hf_minibert.data.corpus import DOCUMENT_CHARACTERS
from hf_minibert.errors import UserError
from hf_minibert.evaluation.arguments import EvaluateArguments
from hf_minibert.evaluation.likelihood import (
    causal_figures,
    masked_figures,
    order_figures,
    read,
    spell_texts,
    window_of,
    windows,
)
from hf_minibert.evaluation.opening import open_language_model
from hf_minibert.evaluation.report import evaluate
from hf_minibert.evaluation.suites import SUITES, Result, Suite, choose_suite
from hf_minibert.files import digest
from hf_minibert.tokenization import adapt_tokenizer

Folder = Callable[[str], Path]
TEXTS = ["The cats see a dog in the park. " * 12, "", "Zoë’s\ncat  [MASK]", "a"]


@given(st.integers(0, 80), st.integers(3, 20), st.data(), st.booleans())
def test_windows_score_every_token_once(length: int, window: int, data: st.DataObject, has_begin: bool) -> None:
    stride = data.draw(st.integers(1, window - 1))
    ids = np.arange(100, 100 + length)
    pieces = list(windows(ids, 7 if has_begin else None, window, stride))
    scored = [token for piece in pieces for token in piece.ids[piece.places].tolist()]
    assert scored == ids[0 if has_begin else 1 :].tolist()
    assert all(len(piece.ids) == min(window, length + has_begin) and piece.places[0] >= 1 for piece in pieces)
    assert all(piece.places[0] >= window - stride for piece in pieces[1:])


@pytest.mark.parametrize("name", ["minigpt", "gpt2", "llama"])
def test_bits_per_byte_are_those_of_one_pass_where_a_window_holds_the_text(name: str, model_folder: Folder) -> None:
    folder, texts = model_folder(name), ["The cat saw a dog.", "a"]
    model = open_language_model(str(folder))
    found = causal_figures(model, spell_texts(model, texts), *window_of(model, None, None), None)
    tokenizer, stock = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    begin = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    bits = 0.0
    for text in texts:
        ids = [begin, *tokenizer(text, add_special_tokens=False).input_ids]
        with torch.no_grad():
            likely = stock(torch.tensor([ids])).logits[0].float().log_softmax(dim=1)
        bits -= sum(float(likely[place - 1, ids[place]]) for place in range(1, len(ids))) / math.log(2)
    assert found["bits_per_byte"] == pytest.approx(bits / sum(len(text.encode()) for text in texts), rel=1e-5)


def test_a_model_that_knows_nothing_needs_the_same_bits_in_every_window(model_folder: Folder) -> None:
    """Its bits are the logarithm of the vocabulary's size for every token, so none is lost and none counted twice."""
    model = open_language_model(str(model_folder("minigpt")))
    model.model.lm_head.weight.data.zero_()
    spelling = spell_texts(model, TEXTS)
    tokens, num_bytes = sum(map(len, spelling.ids)), sum(len(text.encode()) for text in TEXTS)
    for window, stride in ((64, 32), (10, 9), (5, 1)):
        found = causal_figures(model, spelling, window, stride, None)
        assert found["bits_per_byte"] == pytest.approx(13 * tokens / num_bytes)
        assert found["perplexity"] == pytest.approx(8192)


def test_a_tokenizer_that_changes_text_is_found_out(model_folder: Folder) -> None:
    ours, theirs = (open_language_model(str(model_folder(name))) for name in ("minigpt", "bert"))
    assert spell_texts(ours, TEXTS).restored == 4
    spelling = spell_texts(theirs, TEXTS)
    assert spelling.restored == 2  # the empty text, and one letter
    assert spelling.unknown > 0
    assert spelling.num_bytes == sum(len(text.encode()) for text in TEXTS)


def test_words_are_counted_as_lm_eval_does(model_folder: Folder) -> None:
    """Its `count_words` is `len(re.split(r"\\s+", doc))`, which also counts what is before and behind all spaces."""
    model = open_language_model(str(model_folder("minigpt")))
    assert [spell_texts(model, [text]).num_words for text in ("a  b\nc", " a b\n", "")] == [3, 4, 1]


def arguments(dataset: Path, **others: Any) -> EvaluateArguments:
    return EvaluateArguments(suite="likelihood", model_name_or_path="", output_dir="", dataset=[str(dataset)], **others)


@pytest.mark.parametrize("suffix", ["txt", "md"])
def test_a_file_is_one_document_however_long(suffix: str, tmp_path: Path) -> None:
    """Its likelihood is that of the same text in a row of a table."""
    long = "A line of a long text.\n\n" * (3 * DOCUMENT_CHARACTERS // 24) + "The end."
    rows = [{"text": "a"}, {"text": "b", "id": "one"}, {"text": "c", "id": "one"}]
    (tmp_path / f"long.{suffix}").write_text(long)
    (tmp_path / f"short.{suffix}").write_text("Short.")
    (tmp_path / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"text": long}]))
    assert read(arguments(tmp_path))[0] == [long, "Short.", "a", "b", "c", long]
    assert len(read(arguments(tmp_path, document="blank-line"))[0]) > 1_000


def test_no_more_documents_are_read_than_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "table.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b"}\n{"text": "c"}\nbroken')
    assert read(arguments(path, max_documents=2))[0] == ["a", "b"]
    with pytest.raises(UserError, match="is not valid JSON"):
        read(arguments(path, max_documents=4))


@pytest.mark.parametrize("name", ["minibert", "hybrid", "bert"])
def test_masked_loss_is_that_of_the_model_on_the_same_masks(name: str, model_folder: Folder) -> None:
    """However the rows are cut into batches; a hybrid model's logits stand at the hidden token."""
    model = open_language_model(str(model_folder(name)))
    spelling = spell_texts(model, [text.replace("[MASK]", "") for text in TEXTS])
    found = masked_figures(model, spelling, 32, None)
    assert found == pytest.approx(masked_figures(model, spelling, 32, 40), rel=1e-4)
    assert 0 <= found["masked_lm_accuracy"] <= 100
    assert found["masked_tokens"] > 5
    stock = AutoModelForMaskedLM.from_pretrained(model_folder(name), dtype=torch.float32).eval()
    asked: list[float] = []

    def spy(input_ids, attention_mask, rows, columns, targets):  # noqa: ANN001
        with torch.no_grad():
            likely = stock(input_ids=input_ids, attention_mask=attention_mask).logits.log_softmax(dim=2)
        asked.extend(likely[rows, columns, targets].tolist())
        return likely[rows, columns, targets], torch.zeros(len(rows))

    object.__setattr__(model, "predict", spy)
    masked_figures(model, spelling, 32, None)
    assert found["masked_lm_loss"] == pytest.approx(-sum(asked) / len(asked), rel=1e-4)


def test_the_order_of_segments_is_asked_of_a_model_that_has_learnt_it(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head that always says FOLLOWS is right as often as B follows; both rows have labels of both kinds."""
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    paired = MiniBertForPreTraining(MiniBertConfig.modern(vocab_size=8192, max_position_embeddings=64, **shape))
    with torch.no_grad():
        paired.nsp_head.weight.zero_()
        paired.nsp_head.bias.copy_(torch.tensor([1.0, 0.0]))
    paired.save_pretrained(tmp_path)
    adapted = adapt_tokenizer(tokenizer, model_type="minibert", uses_token_types=False, model_max_length=64)
    adapted.save_pretrained(tmp_path)
    model = open_language_model(str(tmp_path))
    sizes, forward = set(), MiniBertForPreTraining.forward

    def spy(self, input_ids, **inputs):  # noqa: ANN001, ANN003
        sizes.add(input_ids.numel())
        return forward(self, input_ids, **inputs)

    monkeypatch.setattr(MiniBertForPreTraining, "forward", spy)
    spelling = spell_texts(model, TEXTS * 8)
    figures = order_figures(model, spelling, 32, None, trust_remote_code=False)
    assert set(figures) == {"next_sentence_accuracy", "sentence_order_accuracy"}
    assert all(20 < value < 80 for value in figures.values())
    assert max(sizes) > 100
    sizes.clear()
    assert order_figures(model, spelling, 32, 100, trust_remote_code=False) == figures
    assert max(sizes) == 96  # three rows


@pytest.mark.parametrize(
    ("model_class", "config", "names"),
    [
        (AlbertForPreTraining, AlbertConfig, {"next_sentence_accuracy", "sentence_order_accuracy"}),
        (ElectraForMaskedLM, ElectraConfig, set()),
    ],
)
def test_a_stock_model_is_asked_for_the_order_if_it_tells_it(
    model_class: type, config: type, names: set[str], tmp_path: Path, model_folder: Folder
) -> None:
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    stock = model_class(config(vocab_size=24, embedding_size=32, max_position_embeddings=64, **shape))
    stock.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    name = model_class.__name__.replace("MaskedLM", "PreTraining")
    (tmp_path / "config.json").write_text(json.dumps(written | {"architectures": [name]}))
    AutoTokenizer.from_pretrained(model_folder("bert")).save_pretrained(tmp_path)
    model = open_language_model(str(tmp_path))
    assert set(order_figures(model, spell_texts(model, TEXTS * 2), 32, None, trust_remote_code=False)) == names


def test_the_verb_compares_models_of_both_kinds(
    tmp_path: Path, model_folder: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text(TEXTS[0])
    words = ["--suite", "likelihood", "--dataset", tmp_path / "text.txt", "--output_dir", tmp_path / "out"]
    names = [model_folder("minigpt"), model_folder("gpt2"), model_folder("minibert")]
    assert call("evaluate.py", monkeypatch, *words, "--compare", *names) == 0
    one, other, masked = json.loads((tmp_path / "out" / "results.json").read_text())["models"]
    assert one["bits_per_byte"] != other["bits_per_byte"] > 0
    assert one["bytes"] == other["bytes"] == len(TEXTS[0])
    assert masked["masked_lm_loss"] > 0
    table = capsys.readouterr().out
    assert f"{one['bits_per_byte']:.3f}" in table
    assert f"{masked['masked_lm_loss']:.3f}" in table


def test_a_group_of_flags_need_not_keep_its_annotations_in_its_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    """In Python 3.14 no class does."""
    lazy = type("Lazy", (type,), {"__annotations__": property(lambda _: {"window": int})})("Group", (), {})
    monkeypatch.setitem(SUITES, "likelihood", Suite("likelihood", "", flags=(lazy,)))
    choose_suite(arguments(Path("a.txt"), window=8))
    with pytest.raises(UserError, match="stride is for suite"):
        choose_suite(arguments(Path("a.txt"), stride=8))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--window", "100"], "window 100 is longer than"),
        (["--window", "2"], "window must hold at least 3"),
        (["--stride", "64"], "stride must be at most window - 1, which is 63"),
        (["--stride", "0"], "stride must be 1 or more"),
        (["--max_pairs", "2"], "max_pairs is for suite blimp, not for likelihood"),
        (["--dataset", "{}/empty.txt"], "empty"),
    ],
)
def test_bad_input_is_one_clear_line(
    words: list[str],
    message: str,
    tmp_path: Path,
    model_folder: Folder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "text.txt").write_text(TEXTS[0])
    (tmp_path / "empty.txt").write_text("")
    flags = ["--suite", "likelihood", "--model_name_or_path", model_folder("minigpt"), "--output_dir", tmp_path / "out"]
    flags += [] if "--dataset" in words else ["--dataset", tmp_path / "text.txt"]
    assert call("evaluate.py", monkeypatch, *flags, *(word.format(tmp_path) for word in words)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert message in error


def test_a_stride_without_overlapping_windows_is_refused(
    tmp_path: Path, model_folder: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text(TEXTS[0])
    words = ["--suite", "likelihood", "--dataset", tmp_path / "text.txt", "--output_dir", tmp_path / "out"]
    words += ["--model_name_or_path", model_folder("minibert"), "--stride", "8"]
    assert call("evaluate.py", monkeypatch, *words) == 2
    assert "stride is for causal models" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("suite", "sources", "names"),
    [
        ("likelihood", ["texts"], {"a/train.jsonl", "b/rows.jsonl", "b/c/one.txt"}),
        ("likelihood", ["texts/**/*.jsonl"], {"a/train.jsonl", "b/rows.jsonl"}),
        ("neighbours", ["texts/a", "texts/b"], {"a/train.jsonl", "b/rows.jsonl"}),
        ("probe", ["texts/a"], {"train.jsonl"}),
    ],
)
def test_results_name_every_file_that_was_read_and_no_other(
    suite: str, sources: list[str], names: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    row = '{"text": "The cat %d.", "label": %d}\n'
    files = {
        "a/train.jsonl": "".join(row % (number, number % 2) for number in range(12)),
        "b/rows.jsonl": row % (12, 0),
        "b/c/one.txt": "One.",
        "b/d.png": "",
    }
    for name, content in files.items():
        (tmp_path / "texts" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "texts" / name).write_text(content)
    SUITES[suite].load()
    monkeypatch.setattr(
        f"{SUITES[suite].module}.measure", lambda *_: Result(figures={}, rows={"a": 1.0}, bars={"a": 1.0}, axis="")
    )
    text = ["A cat."] if suite == "neighbours" else None
    evaluate(EvaluateArguments(suite=suite, model_name_or_path="any", dataset=sources, text=text, output_dir="out"))
    found = json.loads(Path("out/results.json").read_text())["dataset"]
    place = Path(sources[0] if suite == "probe" else "texts")
    assert found == {name: digest(place / name) for name in names}


def test_a_text_without_a_hidden_token_is_refused(model_folder: Folder) -> None:
    model = open_language_model(str(model_folder("minibert")))
    with pytest.raises(UserError, match="so short that none of its tokens is hidden"):
        masked_figures(model, spell_texts(model, [""]), 32, None)
