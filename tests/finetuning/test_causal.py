"""Causal language modelling: every token of a text is predicted once, and figures are of the whole text."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from hf_minibert.assets import model_folder
from hf_minibert.errors import UserError
from hf_minibert.finetuning.arguments import FinetuneArguments
from hf_minibert.finetuning.causal import LanguageModelling, RowCollator
from hf_minibert.finetuning.finetune import finetune
from hf_minibert.models.losses import IGNORE_INDEX
from hf_minibert.tokenization import ends_of_text, load_tokenizer

TEXTS = [f"The {word} is number {number}, and naïve 🙂 people count it." for number, word in enumerate("abcdefghij")]
LONG = " ".join(TEXTS * 3)


def arguments(dataset: Any, output: Path, **more: Any) -> FinetuneArguments:
    settings: dict[str, Any] = {
        "task": "causal-lm",
        "model_name_or_path": model_folder("minigpt-tiny"),
        "dataset": str(dataset),
        "output_dir": str(output),
        "mixed_precision": "no",
        "max_seq_length": 32,
        "num_train_epochs": 1,
        "hidden_dropout_prob": 0.0,
    }
    return FinetuneArguments(**settings | more)


def encoded(split: str, length: int, **more: Any) -> tuple[list[list[int]], Dataset]:
    """Documents as they are read, and their rows."""
    tokenizer = load_tokenizer(model_folder("minigpt-tiny"))
    texts = [*TEXTS[:4], "x", LONG]
    rows = LanguageModelling(arguments("x.txt", Path("out"), **more)).encode(
        Dataset.from_dict({"text": texts, "row": range(1, 7)}), split, tokenizer, length
    )
    documents = [[2, *tokenizer(text, split_special_tokens=True).input_ids, 3] for text in texts]
    return documents, rows


def test_rows_are_filled_up_with_what_nothing_predicts() -> None:
    collator = RowCollator(9)
    collator.pad_to_multiple_of = 4
    rows = [{"input_ids": [2] * n, "position_ids": list(range(n)), "labels": [2] * n} for n in (3, 6)]
    batch = collator(rows)
    assert batch["input_ids"].tolist() == [[2] * 3 + [9] * 5, [2] * 6 + [9] * 2]
    assert batch["position_ids"].tolist() == [[0, 1, 2] + [0] * 5, [0, 1, 2, 3, 4, 5, 0, 0]]
    assert (batch["labels"] == IGNORE_INDEX).sum(1).tolist() == [5, 2]


def predicted(rows: Dataset) -> list[int]:
    return [label for row in rows["labels"] for label in row if label != IGNORE_INDEX]


@pytest.mark.parametrize("length", [8, 33, 512])
def test_evaluation_predicts_each_token_once(length: int) -> None:
    documents, rows = encoded("eval", length)
    assert predicted(rows) == [token for document in documents for token in document[1:]]
    assert max(rows["length"]) <= length
    assert sum(rows["num_bytes"]) == sum(len(text.encode()) for text in [*TEXTS[:4], "x", LONG])
    for row in rows:
        first = next(place for place, label in enumerate(row["labels"]) if label != IGNORE_INDEX)
        assert first == 1 or first >= length // 2, "half of a window is known"
        assert row["position_ids"] == list(range(row["length"]))


def test_rows_of_one_document_predict_each_token_once() -> None:
    documents, rows = encoded("train", 16, one_document_per_row=True)
    assert predicted(rows) == [token for document in documents for token in document[1:]]


def test_packed_rows_are_full_and_predict_no_beginning() -> None:
    documents, rows = encoded("train", 16)
    assert [token for row in rows["input_ids"] for token in row] == [token for each in documents for token in each]
    assert set(rows["length"][:-1]) == {16}
    for row in rows:
        begins = [place for place, token in enumerate(row["input_ids"]) if token == 2 or place == 0]
        assert [place for place, position in enumerate(row["position_ids"]) if position == 0] == begins
        assert [place for place, label in enumerate(row["labels"]) if label == IGNORE_INDEX] == begins


def test_figures_are_those_of_the_text_itself(tmp_path: Path) -> None:
    """Perplexity and bits per byte of the saved model, computed document by document."""
    texts = {"train": TEXTS * 2, "dev": [TEXTS[0], "x", TEXTS[1][:20], TEXTS[2]], "test": [TEXTS[3]]}
    for split, each in texts.items():
        rows = [{"text": " "}, *({"text": text} for text in each)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = tmp_path / "out"
    assert (
        finetune(arguments(tmp_path, output, per_device_eval_batch_size=3, max_seq_length=64, write_predictions=True))
        == 0
    )
    results = json.loads((output / "results.json").read_text())
    metrics = results["metrics"]
    assert results["intervals"]["test_bits_per_byte"] == pytest.approx([metrics["test_bits_per_byte"]] * 2), "one text"
    assert results["pictures"] == {"predictions.png": "Bits per byte of the test documents"}
    model, tokenizer = AutoModelForCausalLM.from_pretrained(output), AutoTokenizer.from_pretrained(output)
    for name, split in (("eval", "dev"), ("test", "test")):
        nats, tokens = 0.0, 0
        lines = [json.loads(line) for line in (output / f"predictions_{name}.jsonl").read_text().splitlines()]
        assert [line["row"] for line in lines] == list(range(2, 2 + len(texts[split]))), "as in the file, from 1"
        for text, line in zip(texts[split], lines, strict=True):
            ids = torch.tensor([[2, *tokenizer(text).input_ids, 3]])
            with torch.no_grad():
                own = float(model(ids, labels=ids).loss) * (ids.shape[1] - 1)
            assert line["nats"] == pytest.approx(own, rel=1e-5)
            assert line["tokens"] == ids.shape[1] - 1
            nats += own
            tokens += ids.shape[1] - 1
        num_bytes = sum(len(text.encode()) for text in texts[split])
        assert metrics[f"{name}_loss"] == pytest.approx(nats / tokens, rel=1e-5)
        assert metrics[f"{name}_perplexity"] == pytest.approx(np.exp(nats / tokens), rel=1e-5)
        assert metrics[f"{name}_bits_per_byte"] == pytest.approx(nats / np.log(2) / num_bytes, rel=1e-5)
    counts = np.ones(len(tokenizer))
    for text in texts["train"]:
        np.add.at(counts, [*tokenizer(text).input_ids, 3], 1)
    targets = [token for text in texts["dev"] for token in (*tokenizer(text).input_ids, 3)]
    assert metrics["unigram_loss"] == pytest.approx(-np.log(counts / counts.sum())[targets].mean(), rel=1e-5)
    assert "pipeline_tag: text-generation" in (output / "README.md").read_text()


def test_an_interval_is_of_draws_of_documents(tmp_path: Path) -> None:
    task = LanguageModelling(arguments(tmp_path, tmp_path / "out"))
    task._sums["eval"] = np.array([[8.0, 4, 10], [2, 2, 5], [1, 1, 5], [30, 10, 20]])
    task._document_of_row["eval"] = [0, 0, 1, 2]  # the first text has two windows
    nats, tokens, sizes = np.array([[10.0, 6, 15], [1, 1, 5], [30, 10, 20]]).T
    draws = np.random.default_rng(0).integers(3, size=(4_000, 3))
    for name, expected in (
        ("bits_per_byte", nats[draws].sum(1) / np.log(2) / sizes[draws].sum(1)),
        ("perplexity", np.exp(nats[draws].sum(1) / tokens[draws].sum(1))),
    ):
        assert task.intervals("eval")[name] == pytest.approx(np.percentile(expected, (2.5, 97.5)), rel=0.02)


@pytest.mark.parametrize(
    ("files", "more", "message"),
    [
        ({"train.jsonl": '{"body": "a"}\n'}, {}, "no column"),
        ({"train.jsonl": '{"text": 7}\n'}, {}, "text is 7, not a text"),
        ({"train.jsonl": '{"text": " "}\n'}, {}, "every text in it is empty"),
        ({"train.txt": "a"}, {}, "too few different ones to hold some out"),
        ({"train.txt": "a", "dev.txt": "b"}, {"text_column": "body"}, "names a column"),
        ({"train.txt": "a", "dev.txt": ""}, {}, "dev.txt is empty"),
        ({"train.txt": b"\xff\xfe", "dev.txt": "b"}, {}, "is not UTF-8"),
        ({"train.txt": "a", "dev.txt": "b"}, {"model_name_or_path": "minibert-tiny"}, "give a MiniGPT"),
        ({"train.txt": "a", "dev.txt": "b"}, {"num_beams": 3}, "--num_beams is a flag of translation"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, files: dict[str, Any], more: dict[str, Any], message: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        finetune(arguments(tmp_path, tmp_path / "out", **more))
    assert not (tmp_path / "out").exists()


def test_rows_without_a_text_are_counted(tmp_path: Path) -> None:
    rows = [None, *(f"{n} {LONG}" for n in range(40)), " "]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    data = LanguageModelling(arguments(tmp_path / "rows.jsonl", tmp_path / "out")).read()
    assert "train: 2 rows without a text are left out" in data.notes
    for rows_of_split in data.splits.values():
        assert all(one["text"].startswith(f"{one['row'] - 2} ") for one in rows_of_split)


def test_a_stock_decoder_learns_a_text(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(model_folder("minigpt-tiny"))
    sizes = {"vocab_size": len(tokenizer), "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64}
    GPT2LMHeadModel(GPT2Config(**sizes)).save_pretrained(tmp_path / "gpt2")
    ends = {"bos_token": "[SEP]", "eos_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **ends).save_pretrained(tmp_path / "gpt2")
    (tmp_path / "data").mkdir()
    for split in ("train", "dev"):
        (tmp_path / "data" / f"{split}.txt").write_text(LONG)
    output = tmp_path / "out"
    assert finetune(arguments(tmp_path / "data", output, model_name_or_path=str(tmp_path / "gpt2"))) == 0
    assert json.loads((output / "results.json").read_text())["metrics"]["eval_loss"] > 0
    nothing = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(UserError, match="no .* tokens that begin and end a text"):
        ends_of_text(nothing)


def test_a_text_file_or_a_column(tmp_path: Path) -> None:
    rows = "".join(f"{text},{index}\n" for index, text in enumerate(str(n) for n in range(50)))
    (tmp_path / "texts.csv").write_text("content,id\n" + rows)
    data = LanguageModelling(arguments(tmp_path / "texts.csv", tmp_path / "out")).read()
    held_out = len(data.splits["eval"])
    assert data.notes == [
        "text column: content",
        f"no evaluation split: {held_out} of 50 documents are held out, by their hash",
    ]
    assert not set(data.splits["train"]["text"]) & set(data.splits["eval"]["text"])
    (tmp_path / "book.txt").write_text("\n\n".join(f"{number}. {LONG}" for number in range(99)))
    data = LanguageModelling(arguments(tmp_path / "book.txt", tmp_path / "out")).read()
    assert "".join(data.splits["train"]["text"])
    assert len(data.splits["eval"])
