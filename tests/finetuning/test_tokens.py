"""Labels of words: which token carries which, what is measured, and where a pipeline finds entities again."""

import json
import re
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import REPOSITORY, elsewhere
from test_tagged import write
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertTokenizer,
    EvalPrediction,
    PreTrainedTokenizerFast,
    pipeline,
)

from hf_minibert.evaluation.spans import EntityMetrics
from hf_minibert.export.convert import export
from hf_minibert.finetuning.arguments import FinetuneArguments
from hf_minibert.finetuning.finetune import finetune
from hf_minibert.finetuning.tokens import TokenClassification, encode_words, windows
from hf_minibert.models.losses import IGNORE_INDEX
from hf_minibert.tokenization import adapt_tokenizer, load_tokenizer, train_wordpiece

WORDS = ["👩‍👩‍👧", "José́", "#", "[MASK]", "Ñandú", "́", "U.S.", "don't", "10 000", "."]
"""With characters of several tokens, marks that combine, and what the tokenizer cuts or reads as a token."""


@pytest.fixture(name="tokenizers", scope="module")
def _tokenizers() -> dict[str, PreTrainedTokenizerFast]:
    own = load_tokenizer(REPOSITORY / "tokenizer")
    text = " ".join(WORDS) + " moves many mountains and waters in a world of words, while others were walking"
    bert = train_wordpiece([text] * 20, vocab_size=60, lowercase=True)
    assert isinstance(bert, BertTokenizer)
    kinds = {
        kind: adapt_tokenizer(own, model_type=kind, uses_token_types=False, model_max_length=None)
        for kind in ("minibert", "minigpt")
    }
    return kinds | {"bert": bert}


@pytest.mark.parametrize("kind", ["minibert", "minigpt", "bert"])
def test_every_token_belongs_to_the_word_in_which_it_begins(tokenizers: Any, kind: str) -> None:
    tokenizer = tokenizers[kind]
    (ids,), (places,) = encode_words([WORDS], tokenizer)
    assert places == sorted(places)
    without = {5} if kind == "bert" else set()  # it strips accents, so nothing is left of the word that is one
    assert set(places) == set(range(len(WORDS))) - without
    if kind == "bert":
        return
    for place, word in enumerate(WORDS):
        own = tokenizer.decode([one for one, at in zip(ids, places, strict=True) if at == place])
        assert own.strip() == word


def test_windows_label_each_token_once_with_others_around_it() -> None:
    generator = np.random.default_rng(0)
    for size, room in ((5, 5), (6, 5), (40, 8), (1_000, 30), (300, 6)):
        is_first = (generator.random(size) < 0.5).tolist()
        is_first[0] = True
        found = windows(is_first, room)
        assert list(chain.from_iterable(range(one.first, one.last) for one in found)) == list(range(size))
        for one in found:
            assert one.begin <= one.first < one.last <= one.end <= one.begin + room
        inner = [one for one in found if one.begin and one.end < size]
        assert all(one.end - one.last >= room // 4 and one.first - one.begin == room // 4 for one in inner)
    parts = windows([True, *[False] * 99], 10)
    assert len(parts) > 1, "a word that is longer than a window"
    words = windows([True, False] * 50, 10)
    assert all(one.first % 2 == 0 for one in words), "otherwise they part between words"


def task_of(path: Path, **more: Any) -> TokenClassification:
    arguments = {"task": "token-classification", "model": "minibert-tiny", "dataset": str(path), "output_dir": "none"}
    return TokenClassification(FinetuneArguments(**arguments | more))


@pytest.mark.parametrize("kind", ["minibert", "minigpt"])
@pytest.mark.parametrize("max_length", [12, 512])
def test_labels_of_rows_are_those_of_words(tmp_path: Path, tokenizers: Any, kind: str, max_length: int) -> None:
    tags = ["O", "B-PER", "O", "B-ORG", "I-ORG", "I-ORG", "B-LOC", "O", "B-ORG", "O"]
    for name in ("train", "dev"):
        write(tmp_path / f"{name}.jsonl", [(WORDS, tags), (["a"], ["O"])])
    task, tokenizer = task_of(tmp_path), tokenizers[kind]
    data = task.read()
    rows = {split: task.encode(some, split, tokenizer, max_length) for split, some in data.splits.items()}
    ids, labels = tokenizer(" ".join(WORDS), split_special_tokens=True).input_ids, data.labels
    assert max(map(len, rows["eval"]["input_ids"])) <= max_length
    if max_length == 512:
        assert rows["eval"]["input_ids"][0] == ids, "what a pipeline reads"
        assert len(rows["eval"]) == 2
        assert not task.notes
    else:
        assert len(rows["eval"]) > 2
        assert "eval: 1 of 2 sentences are longer than 12 tokens, and read in overlapping windows" in task.notes
    said = [labels[one] for one in chain.from_iterable(rows["eval"]["labels"]) if one != IGNORE_INDEX]
    assert said == [*tags, "O"]
    all_tokens = [labels[one] for one in chain.from_iterable(rows["train"]["labels"]) if one != IGNORE_INDEX]
    (places,) = encode_words([WORDS], tokenizer)[1]
    expected = [
        tags[place] if before != place else tags[place].replace("B-", "I-")
        for before, place in zip([-1, *places], places, strict=False)
    ]
    assert all_tokens == [*expected, "O"]


def test_the_held_out_loss_is_that_of_all_labels_together(tmp_path: Path) -> None:
    """Whatever the batches: here one long sentence is one of them, and two short ones are another."""
    sentences = [(["Ann", "met", "Bob"] * 12, ["B-PER", "O", "B-PER"] * 12), (["Rome"], ["B-LOC"]), (["no"], ["O"])]
    for name in ("train", "dev"):
        write(tmp_path / f"{name}.jsonl", sentences)
    more = {
        "output_dir": str(tmp_path / "out"),
        "num_train_epochs": 1,
        "per_device_eval_batch_size": 2,
        "mixed_precision": "no",
    }
    task = task_of(tmp_path, **more)
    assert finetune(task.arguments) == 0
    data, tokenizer = task.read(), AutoTokenizer.from_pretrained(tmp_path / "out")
    rows = task.encode(data.splits["eval"], "eval", tokenizer, 512)
    model = AutoModelForTokenClassification.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        whole = model(**task.collator(tokenizer)(list(rows))).loss
    metrics = json.loads((tmp_path / "out" / "results.json").read_text())["metrics"]
    assert metrics["eval_loss"] == pytest.approx(float(whole), rel=1e-4)


def test_what_is_measured_is_words(tmp_path: Path, tokenizers: Any) -> None:
    sentences = [
        (WORDS, ["O", "B-PER", "O", *["B-ORG"] * 3, "I-ORG", "O", "O", "O"]),
        (["Paris", "now"], ["B-LOC", "O"]),
    ]
    for name in ("train", "dev"):
        write(tmp_path / f"{name}.jsonl", sentences)
    task = task_of(tmp_path)
    data = task.read()
    rows = task.encode(data.splits["eval"], "eval", tokenizers["minibert"], 12)
    width = max(map(len, rows["labels"]))
    references = np.array([[*row, *[IGNORE_INDEX] * (width - len(row))] for row in rows["labels"]])
    generator = np.random.default_rng(3)
    outputs = np.where(generator.random(references.shape) < 0.7, references, generator.integers(0, 7, references.shape))
    found = task.measure(EvalPrediction(outputs, references), "eval")
    said = [data.labels[one] for one in outputs[references != IGNORE_INDEX]]
    true = [tag for _, tags in sentences for tag in tags]
    cut = len(WORDS)
    expected = EntityMetrics().compute(predictions=[said[:cut], said[cut:]], references=[true[:cut], true[cut:]])
    assert found == pytest.approx(expected)
    assert 0 < found["f1"] < 1
    assert [line["prediction"] for line in task.predictions("eval")] == [said[:cut], said[cut:]]
    low, high = task.intervals("eval")["f1"]
    assert low <= found["f1"] <= high


def test_a_word_without_a_token_is_said_and_counts_as_outside(tmp_path: Path, tokenizers: Any) -> None:
    for name in ("train", "dev"):
        write(tmp_path / f"{name}.jsonl", [(["a", "́", "u.s."], ["O", "B-LOC", "B-LOC"])])
    task = task_of(tmp_path)
    data = task.read()
    rows = task.encode(data.splits["eval"], "eval", tokenizers["bert"], 64)
    assert task.notes == ["eval: the tokenizer has no token for 1 words, which nothing can label"]
    references = np.array(rows["labels"])
    assert task.measure(EvalPrediction(references, references), "eval")["recall"] == 0.5


def test_the_baseline_is_the_commonest_tag_of_each_word(tmp_path: Path) -> None:
    write(
        tmp_path / "train.jsonl",
        [(["Paris", "is", "Paris"], ["B-LOC", "O", "B-LOC"]), (["Paris", "a", "b"], ["B-PER", "O", "O"])],
    )
    write(tmp_path / "dev.jsonl", [(["Paris", "loves", "Paris"], ["B-LOC", "O", "B-PER"])])
    task = task_of(tmp_path)
    assert task.baselines(task.read().splits) == {"word_f1": 0.5}


TOY = [
    (
        ["👩‍👩‍👧", "José́", "Ñandú", "met", "Ann", "in", "Zürich", "#", "7"],
        ["O", "B-PER", "I-PER", "O", "B-PER", "O", "B-LOC", "O", "O"],
    ),
    (["Ann", "likes", "Paris", "and", "🏳️‍🌈", "Oslo"], ["B-PER", "O", "B-LOC", "O", "O", "B-LOC"]),
    (["Nothing", "here", "."], ["O", "O", "O"]),
]


@pytest.fixture(name="trained", scope="module")
def _trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learned three sentences by heart."""
    folder = tmp_path_factory.mktemp("minibert")
    for name in ("train", "dev", "test"):
        write(folder / f"{name}.conll", TOY * (6 if name == "train" else 1))
    arguments = FinetuneArguments(
        task="token-classification",
        model_name_or_path=str(REPOSITORY / "checkpoints" / "minibert-tiny"),
        dataset=str(folder),
        num_train_epochs=15,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        hidden_dropout_prob=0.0,
        write_predictions=True,
        output_dir=str(folder / "out"),
    )
    assert finetune(arguments) == 0
    return folder / "out"


FOUND = {(kind, text) for kind, text in (("PER", "José́ Ñandú"), ("PER", "Ann"), ("LOC", "Zürich"))}


def test_a_pipeline_finds_words_where_they_stand(trained: Path) -> None:
    results = json.loads((trained / "results.json").read_text())
    assert results["metrics"]["eval_f1"] == 1.0
    assert results["metrics"]["test_f1"] == results["metrics"]["eval_f1"]
    assert results["metrics"]["word_f1"] == 1.0
    lines = [json.loads(line) for line in (trained / "predictions_test.jsonl").read_text().splitlines()]
    assert [line["words"] for line in lines] == [words for words, _ in TOY]
    assert "predictions.png" in (trained / "README.md").read_text()
    text = " ".join(TOY[0][0])
    tag = pipeline("token-classification", model=str(trained), aggregation_strategy="simple")
    found = {(one["entity_group"], text[one["start"] : one["end"]]) for one in tag(text)}
    assert found == FOUND
    assert tag("") == []


READER = """
import json, sys
from transformers import pipeline

text, *folders = sys.argv[1:]
found = []
for folder in folders:
    tag = pipeline("token-classification", model=folder, aggregation_strategy="simple", trust_remote_code=True)
    found.append([[one["entity_group"], text[one["start"] : one["end"]]] for one in tag(text)])
print(json.dumps(found))
"""


def test_it_opens_where_the_package_is_not_and_as_a_stock_model(trained: Path, tmp_path: Path) -> None:
    text = " ".join(TOY[0][0])
    export(str(trained), str(tmp_path / "stock"))
    assert not list((tmp_path / "stock").glob("*.py"))
    found = json.loads(elsewhere(READER, tmp_path, text, trained, tmp_path / "stock"))
    assert [{tuple(pair) for pair in one} for one in found] == [FOUND, FOUND]


@pytest.mark.parametrize("form", ["train.conll.xz", "train.jsonl", "train.json", "train.parquet"])
def test_every_form_is_a_fine_tuning(tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = FinetuneArguments(
        task="token-classification",
        model="minibert-tiny",
        dataset=str(write(tmp_path / form, [(["Ann", f"sees{at}"], ["B-PER", "O"]) for at in range(20)])),
        max_train_samples=5,
        num_train_epochs=1,
        output_dir=str(tmp_path / "out"),
    )
    assert finetune(arguments) == 0
    said = capsys.readouterr().out
    assert "tags: IOB2, entities: PER" in said
    assert re.search(r"entity F1 \d+\.\d%; each word's commonest tag in training \d+\.\d%", said)
    card = (tmp_path / "out" / "README.md").read_text()
    assert 'pipeline("token-classification", model=' in card
    assert "1 type of entities: PER" in card


def test_plain_tags_are_measured_by_their_accuracy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = FinetuneArguments(
        task="token-classification",
        model="minigpt-tiny",
        dataset=str(write(tmp_path / "train.jsonl", [([f"w{at}", "runs"], ["NOUN", "VERB"]) for at in range(20)])),
        num_train_epochs=1,
        output_dir=str(tmp_path / "out"),
    )
    assert finetune(arguments) == 0
    metrics = json.loads((tmp_path / "out" / "results.json").read_text())["metrics"]
    assert metrics.keys() == {"eval_loss", "eval_accuracy", "eval_macro_f1", "word_accuracy"}
    assert "2 tags:" in capsys.readouterr().out
