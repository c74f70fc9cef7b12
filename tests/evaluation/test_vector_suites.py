"""The suites on vectors: similarity, a linear probe and neighbours, against the plain way to compute them."""

import json

import numpy as np
import pytest
import torch
from commands import call
from datasets import ClassLabel, Dataset, Features, Value
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from stock_models import stir
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model

from hf_minibert.errors import UserError
from hf_minibert.evaluation import probe, sts
from hf_minibert.evaluation.arguments import EvaluateArguments
from hf_minibert.evaluation.representations import encode
from hf_minibert.tokenization import adapt_tokenizer, save_tokenizer

SENTENCES = [
    *("A man plays a guitar.", "A man is playing music.", "The cat sleeps.", "A dog runs in the park.", "Snow falls."),
    *("Two children read a book.", "The market fell sharply today.", "Nobody came to the party.", "He cooks rice."),
]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module", name="pairs")
def _pairs(tmp_path_factory):
    """Pairs with scores; the score column is text in one row, as CSV files have it."""
    random = np.random.default_rng(0)
    rows = [
        {"sentence1": one, "sentence2": other, "score": round(float(random.uniform(0, 5)), 2)}
        for one in SENTENCES
        for other in SENTENCES[::2]
        if one != other and (one < other or one not in SENTENCES[::2])  # a pair both ways is a tie, but for rounding
    ]
    rows[3]["score"] = str(rows[3]["score"])
    return write(tmp_path_factory.mktemp("sts") / "pairs.jsonl", rows), rows


@pytest.fixture(scope="module", name="labelled")
def _labelled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    rows = [
        {"text": f"{one} {other}", "label": number % 2} for one in SENTENCES for number, other in enumerate(SENTENCES)
    ]
    write(folder / "train.jsonl", rows[:60])
    write(folder / "dev.jsonl", rows[60:])
    write(folder / "test.jsonl", rows[10:30])
    return folder, rows


@pytest.fixture(scope="module", name="stock", params=["bert", "gpt2"])
def _stock(request, tmp_path_factory, tokenizer):
    torch.manual_seed(0)
    if request.param == "bert":
        fields = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
        model = BertModel(BertConfig(vocab_size=8192, initializer_range=0.1, **fields))
    else:
        model = GPT2Model(GPT2Config(vocab_size=8192, n_embd=32, n_layer=2, n_head=4, bos_token_id=2, eos_token_id=3))
    folder = tmp_path_factory.mktemp(request.param)
    stir(model).save_pretrained(folder)
    kind = "minibert" if request.param == "bert" else "minigpt"
    save_tokenizer(adapt_tokenizer(tokenizer, model_type=kind, uses_token_types=False, model_max_length=512), folder)
    return folder


def evaluated(monkeypatch, output, *words):
    assert call("evaluate.py", monkeypatch, *words, "--output_dir", output) == 0
    return json.loads((output / "results.json").read_text())


def spearman(name, rows, pooling, layer):
    first, second = (
        encode([row[key] for row in rows], name, pooling=pooling, layer=layer) for key in ("sentence1", "sentence2")
    )
    cosines = (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    return 100 * spearmanr(cosines, [float(row["score"]) for row in rows]).statistic


def test_similarity_is_the_correlation_of_cosines_for_each_pooling_and_layer(pairs, tmp_path, monkeypatch, capsys):
    path, rows = pairs
    found = evaluated(
        monkeypatch, tmp_path / "out", "--suite", "sts", "--dataset", path, "--model_name_or_path", "minibert-tiny"
    )
    assert found["pairs"] == len(rows)
    assert set(found["by_layer"]) == {"mean", "cls", "max"}
    assert list(found["by_layer"]["mean"]) == ["0", "1", "2", "average"]
    assert list(found["by_layer"]["cls"]) == ["1", "2", "average"]  # the embedding of [CLS] is the same for all
    assert found["spearman"] == found["by_layer"]["mean"]["2"]
    for pooling, layer in (("mean", 2), ("mean", 0), ("cls", 1), ("max", 2), ("mean", "average")):
        expected = spearman("minibert-tiny", rows, pooling, layer)
        assert found["by_layer"][pooling][str(layer)] == pytest.approx(expected, abs=0.5)
    assert f"{found['spearman']:.2f}" in capsys.readouterr().out
    assert (tmp_path / "out" / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_files_count_once_and_secret_scores_not_at_all(pairs, tmp_path):
    path, rows = pairs
    folder = tmp_path / "stsb"
    (folder / "deeper" / "still").mkdir(parents=True)
    for place, some in (("train", rows[:3]), ("deeper/still/dev", rows[3:])):
        write(folder / f"{place}.jsonl", some)
    write(folder / "deeper" / "test.jsonl", [row | {"score": -1} for row in rows])
    named = [str(folder / "train.jsonl"), str(folder / "**" / "*.jsonl"), str(folder)]
    arguments = EvaluateArguments(suite="sts", model_name_or_path="x", dataset=named, output_dir="x")
    found, files = sts.read(arguments)
    assert sorted(found.scores.tolist()) == sorted(float(row["score"]) for row in rows)
    assert sorted(path.name for path in files) == ["dev.jsonl", "train.jsonl"]


def test_the_headline_is_that_of_the_flags_and_models_stand_side_by_side(pairs, stock, tmp_path, monkeypatch):
    path, _ = pairs
    words = ["--suite", "sts", "--dataset", path, "--pooling", "max", "--layer", "1"]
    found = evaluated(monkeypatch, tmp_path / "out", *words, "--compare", stock, "minigpt-tiny")
    for each in found["models"]:
        assert each["spearman"] == each["by_layer"]["max"]["1"]
    assert "last" in found["models"][1]["by_layer"]
    assert ("cls" in found["models"][0]["by_layer"]) == stock.name.startswith("bert")


def test_a_probe_is_a_regression_on_the_vectors(labelled, stock, tmp_path, monkeypatch):
    folder, rows = labelled
    words = ["--suite", "probe", "--dataset", folder, "--model_name_or_path", stock]
    found = evaluated(monkeypatch, tmp_path / "out", *words)
    assert found["examples"] == {"train": 60, "eval": 21, "test": 20}
    assert found["test_accuracy"] > 90  # those texts were trained on
    vectors = encode([row["text"] for row in rows], str(stock))
    mean, spread = vectors[:60].mean(0), vectors[:60].std(0)
    scaled = (vectors - mean) / spread
    plain = LogisticRegression(max_iter=2_000).fit(scaled[:60], [row["label"] for row in rows[:60]])
    expected = 100 * plain.score(scaled[60:], [row["label"] for row in rows[60:]])
    assert found["eval_accuracy"] == pytest.approx(expected, abs=5)
    commonest = max((0, 1), key=[row["label"] for row in rows[:60]].count)
    assert found["eval_majority_accuracy"] == pytest.approx(
        100 * np.mean([row["label"] == commonest for row in rows[60:]])
    )


def test_of_one_file_copies_are_on_one_side_and_each_label_is_trained_on(tmp_path):
    texts = [f"a good day {number % 30}" if number % 2 else f"bad news, {number % 30}" for number in range(60)]
    rows = [{"text": text, "label": int("good" in text)} for text in texts]

    def read(rows):
        file = write(tmp_path / "rows.jsonl", rows)
        return probe.read(EvaluateArguments(suite="probe", dataset=[str(file)], output_dir="x", model_name_or_path="x"))

    data, _ = read(rows)
    assert not set(data.texts["train"]) & set(data.texts["eval"])
    assert len(data.texts["train"]) + len(data.texts["eval"]) == 60
    alone = {"text": min(data.texts["eval"]), "label": "rare"}
    with pytest.raises(UserError, match=r"the eval split has the label 'rare' \(.*rows.jsonl, line 61\)"):
        read([row for row in rows if row["text"] != alone["text"]] + [{"text": "x", "label": 1}] * 2 + [alone])


def test_labels_of_a_probe_are_what_is_written_in_every_file(tmp_path, monkeypatch):
    """As in fine-tuning: numbers of JSON, floats, spaces and class ids in another order are the same labels."""
    texts = [f"a good day {number}" if number % 2 else f"bad news, {number}" for number in range(40)]
    labels = [number % 2 for number in range(40)]
    rows = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]

    def found(name, train, dev):
        folder = tmp_path / name
        folder.mkdir()
        for split, (features, rows) in {"train": train, "dev": dev}.items():
            if features is None:
                write(folder / f"{split}.jsonl", rows)
            else:
                Dataset.from_list(rows, features=features).to_parquet(folder / f"{split}.parquet")
        write(folder / "test.jsonl", [{"text": "a", "label": -1}])
        words = ["--suite", "probe", "--dataset", folder, "--model_name_or_path", "minibert-tiny"]
        return evaluated(monkeypatch, tmp_path / f"{name}-out", *words)

    def named(*names):
        return Features({"text": Value("string"), "label": ClassLabel(names=list(names))})

    plain = found("plain", (None, rows), (None, rows))
    assert plain["eval_accuracy"] > 90
    assert plain["examples"] == {"train": 40, "eval": 40}, "a split whose labels are secret is not measured"
    as_floats = [row | {"label": float(row["label"])} for row in rows]
    assert found("floats", (None, rows), (None, as_floats))["eval_accuracy"] == plain["eval_accuracy"]
    spaced = [row | {"label": f" {row['label']} "} for row in rows]
    assert found("spaces", (None, rows), (None, spaced))["eval_accuracy"] == plain["eval_accuracy"]
    turned = [row | {"label": 1 - row["label"]} for row in rows]
    by_name = found("names", (named("bad", "good"), rows), (named("good", "bad"), turned))
    assert by_name["eval_accuracy"] == plain["eval_accuracy"]


def test_one_file_is_divided(labelled, tmp_path, monkeypatch):
    folder, _ = labelled
    words = ["--suite", "probe", "--dataset", folder / "train.jsonl", "--model_name_or_path", "minibert-tiny"]
    found = evaluated(monkeypatch, tmp_path / "out", *words)
    assert sum(found["examples"].values()) == 60
    assert 6 <= found["examples"]["eval"] <= 18


def test_neighbours_are_the_texts_with_the_largest_cosines(tmp_path, monkeypatch, capsys):
    texts = [*SENTENCES, SENTENCES[0], "It costs $5 or $6."]
    path = write(tmp_path / "texts.jsonl", [{"text": text} for text in texts])
    words = [
        "--suite",
        "neighbours",
        "--dataset",
        path,
        "--model_name_or_path",
        "minibert-tiny",
        "--num_neighbours",
        "3",
    ]
    found = evaluated(monkeypatch, tmp_path / "out", *words, "--text", "A man plays a guitar.", "Money: $7")
    assert found["texts"] == len(SENTENCES) + 1  # each text once
    distinct = [*SENTENCES, "It costs $5 or $6."]
    vectors = encode(distinct, "minibert-tiny", normalize=True)
    for each in found["found"]:
        cosines = vectors @ encode([each["text"]], "minibert-tiny", normalize=True)[0]
        best = np.argsort(-cosines)[:3]
        assert [one["text"] for one in each["neighbours"]] == [
            [*SENTENCES, "It costs $5 or $6."][place] for place in best
        ]
        np.testing.assert_allclose([one["cosine"] for one in each["neighbours"]], cosines[best], atol=1e-5)
    nearest = found["found"][0]["neighbours"][0]
    assert nearest["text"] == "A man plays a guitar."
    assert nearest["cosine"] == pytest.approx(1, abs=1e-5)
    assert "1. A man plays a guitar." in capsys.readouterr().out


def test_mistakes_are_one_line(pairs, labelled, tmp_path, monkeypatch, capsys):
    path, _ = pairs
    folder, rows = labelled
    level = write(tmp_path / "level.jsonl", [{"sentence1": "a", "sentence2": "b", "score": 1}] * 3)
    words_for_scores = write(tmp_path / "words.jsonl", [{"sentence1": "a", "sentence2": "b", "score": "high"}])
    no_text = write(tmp_path / "no.jsonl", [{"sentence1": "a", "sentence2": 5, "score": 1}])
    one_label = write(tmp_path / "one.jsonl", [row | {"label": 1} for row in rows])
    strange = tmp_path / "strange"
    strange.mkdir()
    write(strange / "train.jsonl", rows)
    write(strange / "dev.jsonl", [*rows, {"text": "a", "label": 2}])
    unlabelled = write(tmp_path / "un.jsonl", [{"text": "a", "label": None}] * 9)
    cases = [
        (("sts", level), "all 3 scores are 1.0"),
        (("sts", words_for_scores), "score is 'high', but must be a number"),
        (("sts", no_text), "sentence2 is a int, but must be text (second_column)"),
        (("sts", path, "--first_column", "nothing"), "nothing"),
        (("sts", path, "--layer", "7"), "layer must be from 0 (embeddings) to 2"),
        (("sts", path, "--layer", "top"), "layer must be a number or average, got 'top'"),
        (("probe", one_label), "have only the label '1'"),
        (("probe", unlabelled), "line 1 has no label in the column 'label'"),
        (("probe", strange), "the eval split has the label '2'"),
        (("probe", folder / "train.jsonl", folder / "dev.jsonl"), "suite probe takes one dataset"),
        (("neighbours", folder / "dev.jsonl"), 'suite neighbours needs --text "..."'),
        (
            ("neighbours", folder / "dev.jsonl", "--text", "a", "--num_neighbours", "0"),
            "num_neighbours must be 1 or more",
        ),
        (("probe", folder, "--score_column", "x"), "score_column is for suite sts, not for probe"),
    ]
    for (suite, *words), message in cases:
        words = ["--suite", suite, "--model_name_or_path", "minibert-tiny", "--dataset", *words]
        assert call("evaluate.py", monkeypatch, *words, "--output_dir", tmp_path / "none") == 2
        error = capsys.readouterr().err
        assert message in error, error
        assert not (tmp_path / "none").exists()
    words = ["--suite", "sts", "--model_name_or_path", "minigpt-tiny", "--dataset", path, "--pooling", "cls"]
    assert call("evaluate.py", monkeypatch, *words, "--output_dir", tmp_path / "none") == 2
    assert "sees no other" in capsys.readouterr().err
