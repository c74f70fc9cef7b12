"""What a demo's tabs say, without their page: it must be what the models say."""

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from commands import BLOCKER
from tokenizers import Tokenizer, models
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from hf_minibert import (
    MiniBertForQuestionAnswering,
    MiniBertForSequenceClassification,
    MiniBertForTokenClassification,
    MiniEncoderDecoderConfig,
    MiniEncoderDecoderModel,
)
from hf_minibert.assets import model_folder
from hf_minibert.demo import page, serve
from hf_minibert.errors import UserError
from hf_minibert.models.answering import answers

TEXT = "Ada Lovelace met Charles Babbage in London."


def opened(name: str) -> page.Checkpoint:
    return page.open_checkpoint(name, answers, trust_remote_code=False)


@pytest.fixture(scope="module")
def encoder() -> page.Checkpoint:
    return opened(model_folder("minibert-tiny"))


@pytest.fixture(scope="module")
def decoder() -> page.Checkpoint:
    return opened(model_folder("minigpt-tiny"))


def titles(checkpoint: page.Checkpoint) -> list[str]:
    return [
        ability.title
        for ability in page.ABILITIES
        if not ability.auto_classes or checkpoint.auto_class in ability.auto_classes
    ]


def headed(head: type, encoder: page.Checkpoint, folder: Path, **fields: object) -> page.Checkpoint:
    """The tiny encoder with a head that has learned nothing, saved and opened as a demo opens it."""
    torch.manual_seed(0)
    model = head.from_pretrained(model_folder("minibert-tiny"), dtype=torch.float32, **fields)
    model.save_pretrained(folder)
    encoder.tokenizer.save_pretrained(folder)
    return opened(str(folder))


def test_words_are_filled_in_with_their_probabilities(encoder: page.Checkpoint):
    rows = page.fill(encoder, "He opened the [MASK] and went into the [MASK].")
    assert [number for number, _, _ in rows] == [1] * 5 + [2] * 5
    assert rows[0][1] == "door"
    assert all(0 < share < 100 for _, _, share in rows)
    assert [share for number, _, share in rows if number == 1] == sorted((r[2] for r in rows[:5]), reverse=True)
    with pytest.raises(ValueError, match=r"Write \[MASK\] where"):
        page.fill(encoder, "No mask.")
    with pytest.raises(ValueError, match="The text has 604 tokens, and the model reads 512 at most"):
        page.fill(encoder, "word " * 600 + "[MASK]")
    with pytest.raises(ValueError, match="Write some text first"):
        page.fill(encoder, "  ")
    assert titles(encoder) == ["Fill in words", "Attention", "Nearest sentences"]


def test_a_text_goes_on_bit_by_bit(decoder: page.Checkpoint):
    seen = list(page.go_on(decoder, "The history of", 12, 0))
    assert seen[0] == "The history of"
    assert all(later.startswith(earlier) for earlier, later in zip(seen, seen[1:], strict=False))
    assert len(seen) > 4
    row = decoder.tokenizer("The history of", return_tensors="pt")
    whole = decoder.model.generate(**row, max_new_tokens=12, do_sample=False, repetition_penalty=1.1)
    assert seen[-1] == decoder.tokenizer.decode(whole[0], skip_special_tokens=True)
    assert titles(decoder) == ["Go on with a text", "Attention", "Nearest sentences"]


def test_who_waits_for_a_text_is_told_why_there_is_none(decoder: page.Checkpoint, monkeypatch: pytest.MonkeyPatch):
    def fail(**_: object) -> None:
        raise IndexError("position 513 of 512")

    monkeypatch.setattr(decoder.model, "generate", fail)
    with pytest.raises(ValueError, match="cannot go on: position 513 of 512"):
        list(page.go_on(decoder, "The history of", 12, 0))


def test_every_label_has_its_probability(encoder: page.Checkpoint, tmp_path: Path):
    labels = {0: "<b>good</b>", 1: "bad", 2: "neither"}
    checkpoint = headed(MiniBertForSequenceClassification, encoder, tmp_path, id2label=labels)
    found = page.classify(checkpoint, TEXT)
    assert set(found) == set(labels.values())
    assert sum(found.values()) == pytest.approx(1, abs=1e-5)
    checkpoint.model.config.problem_type = "multi_label_classification"
    with torch.no_grad():
        logits = checkpoint.model(**checkpoint.tokenizer(TEXT, return_tensors="pt")).logits[0]
    assert list(page.classify(checkpoint, TEXT).values()) == pytest.approx(logits.sigmoid().tolist())
    with torch.no_grad():
        logits = checkpoint.model(**checkpoint.tokenizer(TEXT, "another", return_tensors="pt")).logits[0]
    assert list(page.classify(checkpoint, TEXT, "another").values()) == pytest.approx(logits.sigmoid().tolist())


def test_a_number_is_shown_as_it_is(encoder: page.Checkpoint, tmp_path: Path):
    checkpoint = headed(MiniBertForSequenceClassification, encoder, tmp_path, num_labels=1, problem_type="regression")
    with torch.no_grad():
        (number,) = checkpoint.model(**checkpoint.tokenizer(TEXT, return_tensors="pt")).logits[0].tolist()
    assert page.classify(checkpoint, TEXT) == f"{number:.3f}"


def test_entities_are_marked_and_no_letter_is_lost(encoder: page.Checkpoint, tmp_path: Path):
    checkpoint = headed(
        MiniBertForTokenClassification, encoder, tmp_path, id2label={0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC"}
    )
    offsets = checkpoint.tokenizer(TEXT, return_offsets_mapping=True)["offset_mapping"]
    words = {"Ada": 1, "Lovelace": 2, "Charles": 1, "Babbage": 2, "London": 3}
    logits = torch.zeros(1, len(offsets), 4)
    for place, (start, end) in enumerate(offsets):
        word = next(
            (word for word in words if word in TEXT and TEXT.index(word) <= end - 1 < TEXT.index(word) + len(word)),
            None,
        )
        logits[0, place, words[word] if word and start != end else 0] = 9.0
    checkpoint.model.forward = lambda **_: SimpleNamespace(logits=logits)
    pieces = page.mark(checkpoint, TEXT)
    assert "".join(piece for piece, _ in pieces) == TEXT
    assert [(piece.strip(), kind) for piece, kind in pieces if kind] == [
        ("Ada Lovelace", "PER"),
        ("Charles Babbage", "PER"),
        ("London", "LOC"),
    ]


def test_an_answer_stands_in_its_text(encoder: page.Checkpoint, tmp_path: Path):
    checkpoint = headed(MiniBertForQuestionAnswering, encoder, tmp_path)
    marked, found = page.answer(checkpoint, "Who met Babbage?", TEXT)
    assert "".join(piece for piece, _ in marked) == TEXT
    (best,) = [piece for piece, kind in marked if kind == "answer"]
    assert best == max(found, key=found.get)
    with pytest.raises(ValueError, match="the question is empty"):
        page.answer(checkpoint, " ", TEXT)


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_attention_is_a_picture_of_every_head(kind: str, request: pytest.FixtureRequest):
    checkpoint = request.getfixturevalue(kind)
    figure = page.attention(checkpoint, "It costs $5 and $6.", 2)
    assert len(figure.axes) == checkpoint.model.config.num_attention_heads
    row = checkpoint.tokenizer("It costs $5 and $6.", return_tensors="pt")
    with torch.no_grad():
        attention = checkpoint.model(**row, output_attentions=True).attentions[1][0]
    for axes, head in zip(figure.axes, attention, strict=True):
        torch.testing.assert_close(torch.from_numpy(axes.images[0].get_array().data.copy()), head)
    figure.savefig(os.devnull, format="png")


def test_the_nearest_sentence_comes_first(encoder: page.Checkpoint):
    rows = page.nearest(encoder, "A ship sails on the sea.", "She drinks hot tea.\n\nA ship sails on the sea.")
    assert rows[0] == [pytest.approx(1, abs=1e-3), "A ship sails on the sea."]
    assert rows[1][0] < 0.99
    with pytest.raises(ValueError, match="others to compare"):
        page.nearest(encoder, "A ship.", "\n")


def test_a_stock_checkpoint_opens(encoder: page.Checkpoint, tmp_path: Path):
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertForMaskedLM(BertConfig(vocab_size=len(encoder.tokenizer), **shape)).save_pretrained(tmp_path)
    encoder.tokenizer.save_pretrained(tmp_path)
    assert not serve.may_run_code(str(tmp_path), trusts=False)
    assert len(page.fill(opened(str(tmp_path)), "A [MASK].")) == 5


def test_a_translator_writes_with_the_tokenizer_of_its_target(
    encoder: page.Checkpoint, decoder: page.Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    given, space = tmp_path / "translator", tmp_path / "space"
    parts = (copy.deepcopy(part.model.config) for part in (encoder, decoder))
    ids = {"decoder_start_token_id": 2, "pad_token_id": 0, "eos_token_id": 3}
    config = MiniEncoderDecoderConfig.from_encoder_decoder_configs(*parts, **ids)
    MiniEncoderDecoderModel(config).save_pretrained(given)
    encoder.tokenizer.save_pretrained(given)
    assert opened(str(given)).target_tokenizer is None
    vocabulary = {f"word{index}": index for index in range(len(encoder.tokenizer))}
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="word1")))
    words.save_pretrained(given / page.TARGET_TOKENIZER)
    path = given / page.TARGET_TOKENIZER / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | {"auto_map": {"AutoTokenizer": [None, "x/y--z.T"]}}
    path.write_text(json.dumps(settings))
    monkeypatch.setattr(serve, "version", lambda _: "1.0")
    serve.write_space(str(given), str(space), trust_remote_code=False)
    assert all("x/y" not in path.read_text() for path in space.rglob("*.json"))
    for folder in (given, space / "model"):
        checkpoint = opened(str(folder))
        checkpoint.model.generate = lambda **_: torch.tensor([[7, 8]])
        assert page.translate(checkpoint, "A ship.") == "word7 word8"


def stranger(folder: Path) -> Path:
    config = {
        "model_type": "stranger",
        "auto_map": {"AutoModel": "me/x--modeling_x.Model", "AutoConfig": "conf_x.Conf"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_foreign_code_is_named_and_asked_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder, questions = str(stranger(tmp_path)), []
    for place, module in ((tmp_path, "token_x"), (tmp_path / "target_tokenizer", "token_y")):
        place.mkdir(exist_ok=True)
        auto_map = {"AutoTokenizer": [None, f"{module}.Tokens"]}
        (place / "tokenizer_config.json").write_text(json.dumps({"auto_map": auto_map}))

    def say(words: str):
        return lambda question: questions.append(question) or words

    with pytest.raises(
        UserError,
        match=r"conf_x.py, modeling_x.py of me/x, token_x.py, token_y.py.*give --trust_remote_code if you agree",
    ):
        serve.may_run_code(folder, trusts=False, ask=say("y"))
    assert not questions, "nobody is there to be asked"
    assert serve.may_run_code(folder, trusts=True, ask=say("n"))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert serve.may_run_code(folder, trusts=False, ask=say("y"))
    assert (
        "conf_x.py, modeling_x.py of me/x, token_x.py, token_y.py, and what these import. Run it? [y/N]" in questions[0]
    )
    for words in ("", "n", "maybe"):
        with pytest.raises(UserError, match="was not agreed to"):
            serve.may_run_code(folder, trusts=False, ask=say(words))


def test_ours_needs_no_code_and_nothing_is_no_model(encoder: page.Checkpoint, tmp_path: Path):
    encoder.model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"]
    assert not serve.may_run_code(str(tmp_path), trusts=False)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match="holds no model"):
        serve.may_run_code(str(tmp_path), trusts=False)


def test_without_gradio_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=r"pip install 'hf_minibert\[demo\]'"):
        serve.require_gradio()


OPEN = (
    BLOCKER
    + """
import page

page.build_page = lambda checkpoint: print(page.fill(checkpoint, "He opened the [MASK] and went.")[0][1]) or sys.exit(0)
exec(open("app.py").read())
"""
)


@pytest.mark.parametrize("kind", ["stock", "own"])
def test_a_space_runs_no_code_that_nobody_agreed_to(
    encoder: page.Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
):
    monkeypatch.setattr(serve, "version", lambda _: "1.0")
    given, folder = tmp_path / "model", tmp_path / "space"
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    stock = BertForMaskedLM(BertConfig(vocab_size=len(encoder.tokenizer), **shape))
    (stock if kind == "stock" else encoder.model).save_pretrained(given)
    encoder.tokenizer.save_pretrained(given)
    foreign = {
        "config.json": {"AutoConfig": "x/y--z.C"},
        "tokenizer_config.json": {"AutoTokenizer": [None, "x/y--z.T"]},
    }
    for name, auto_map in foreign.items():
        settings = json.loads((given / name).read_text())
        (given / name).write_text(json.dumps(settings | {"auto_map": auto_map}))
    serve.write_space(str(given), str(folder), trust_remote_code=False)
    assert all("x/y" not in path.read_text() for path in folder.rglob("*.json"))
    assert f"trust_remote_code={kind == 'own'})" in (folder / "app.py").read_text()


def test_a_space_opens_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(serve, "version", lambda package: "6.0.0" if package == "gradio" else "1.0+cpu")
    folder = tmp_path / "space"
    serve.write_space(model_folder("minibert-tiny"), str(folder), trust_remote_code=False)
    front = (folder / "README.md").read_text().split("---\n")[1]
    assert front == 'title: "minibert-tiny"\nsdk: "gradio"\nsdk_version: "6.0.0"\napp_file: "app.py"\n'
    assert "torch==1.0\n" in (folder / "requirements.txt").read_text()
    ours = ("HF_", "PYTHON", "TRANSFORMERS_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(folder)}
    command = [sys.executable, "-P", "-c", OPEN]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "door"
    (folder / "notes.txt").write_text("mine")
    serve.write_space(model_folder("minigpt-tiny"), str(folder), trust_remote_code=False)
    assert (folder / "notes.txt").read_text() == "mine"
    shutil.rmtree(folder)


def test_what_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model_folder("minibert-tiny"), tmp_path / "model"))
    os.truncate(folder / "model.safetensors", 1_000)
    with pytest.raises(UserError, match="cannot open .*model"):
        serve.write_space(str(folder), str(tmp_path / "space"), trust_remote_code=False)
    assert not (tmp_path / "space").exists()


def test_a_script_without_spaces_has_words_within_a_run(encoder: page.Checkpoint, tmp_path: Path) -> None:
    checkpoint = headed(MiniBertForTokenClassification, encoder, tmp_path, id2label={0: "O", 1: "B-LOC", 2: "I-LOC"})
    text = "我在北京工作"
    offsets = checkpoint.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    logits = torch.zeros(1, len(offsets), 3)
    for place, (start, end) in enumerate(offsets):
        logits[0, place, 0 if start == end or start not in (2, 3) else start - 1] = 9.0
    checkpoint.model.forward = lambda **_: SimpleNamespace(logits=logits)
    assert page.mark(checkpoint, text) == [("我在", None), ("北京", "LOC"), ("工作", None)]


def test_a_picture_of_many_tokens_is_refused(encoder: page.Checkpoint) -> None:
    with pytest.raises(ValueError, match="A picture takes up to 64 tokens, and this text has 103; shorten it"):
        page.attention(encoder, "the " * 100, 1)


def test_the_code_of_old_tokenizers_is_named() -> None:
    assert serve.code_files({"auto_map": ["a.B", None]}, {"auto_map": {"AutoModel": "me/x--c.D"}}) == [
        "a.py",
        "c.py of me/x",
    ]


def test_a_text_that_is_too_long_is_said_and_not_cut(encoder: page.Checkpoint, decoder: page.Checkpoint) -> None:
    long = "a word " * 600
    for attempt in (
        lambda: list(page.go_on(decoder, long, 10, 0)),
        lambda: page.mark(encoder, long),
        lambda: page.nearest(encoder, long, "a"),
    ):
        with pytest.raises(ValueError, match="and the model reads 512 at most"):
            attempt()
