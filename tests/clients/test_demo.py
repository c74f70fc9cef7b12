"""`hf-minibert demo` in a real browser: type, click, read. `DEMO_PICTURES` names a folder for what it looked like."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from browser import Browser, browser
from opening import folders

import hf_minibert
from hf_minibert.assets import model_folder
from hf_minibert.models.answering import answers
from hf_minibert.tokenization import load_tokenizer

PICTURES = os.environ.get("DEMO_PICTURES")


@contextmanager
def served(command: list[str], cwd: Path) -> Iterator[str]:
    """The address of a page that a process shows until the block ends."""
    log = cwd / "demo.log"
    settings = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "GRADIO_ANALYTICS_ENABLED": "0"}
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=cwd, env=os.environ | settings, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 600
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield found[0]
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def page() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


def demo(name: str, tmp_path: Path):
    return served([sys.executable, "-m", "hf_minibert", "demo", "--model_name_or_path", name], tmp_path)


def picture(page: Browser, name: str) -> None:
    if PICTURES:
        page.picture(Path(PICTURES, f"{name}.png"))


def test_an_encoder(page: Browser, tmp_path: Path):
    with demo("minibert-tiny", tmp_path) as url:
        page.open(url)
        assert page.tabs() == ["Fill in words", "Attention", "Nearest sentences"]
        assert "minibert-tiny: MiniBertForMaskedLM, 1.4 million parameters" in page.text()
        page.write("Text", "He opened the [MASK] and went into the house.")
        page.press("Fill in")
        assert "%" in page.reads("door")
        picture(page, "demo-fill")
        page.write("Text", "No mask here")
        page.press("Fill in")
        page.reads("Write [MASK] where a word is to be filled in.")
        page.tab("Attention")
        page.press("Show attention")
        page.wait(lambda: [image for image in page.shown("//img[@src]") if image.size["width"] > 300])  # no icon is
        picture(page, "demo-attention")
        page.tab("Nearest sentences")
        page.write("Sentence", "A ship sails on the sea.")
        page.press("Compare")
        text = page.reads("The nearest first\ncosine")
        assert text.index("A boat is on the water.") < text.index("She drinks hot tea.")


def test_a_decoder(page: Browser, tmp_path: Path):
    with demo("minigpt-tiny", tmp_path) as url:
        page.open(url)
        assert page.tabs() == ["Go on with a text", "Attention", "Nearest sentences"]
        page.write("Beginning", "The king of")
        page.press("Go on")
        lengths = []
        deadline = time.monotonic() + 60
        while len(set(lengths)) < 4 and time.monotonic() < deadline:  # it grows while one looks
            boxes = [box.get_attribute("value") or "" for box in page.shown("//textarea")]
            lengths.append(len(boxes[-1]))
            time.sleep(0.02)
        assert len(set(lengths)) >= 4
        assert lengths == sorted(lengths)
        page.wait(lambda: (page.shown("//textarea")[-1].get_attribute("value") or "").startswith("The king of "))
        picture(page, "demo-generate")


def test_labels_and_entities(page: Browser, tmp_path: Path):
    with demo(folders("native")["classifier"], tmp_path) as url:
        page.open(url)
        page.write("Text", "A fine day.")
        page.press("Classify")
        text = page.reads("%")
        assert all(label in text for label in ("entailment", "neutral", "contradiction"))
        assert sum(map(int, re.findall(r"(\d+)%", text))) in (99, 100, 101)
        picture(page, "demo-classify")
    with demo(folders("native")["tagger"], tmp_path) as url:
        page.open(url)
        page.tab("Mark entities")
        page.write("Text", "Ada Lovelace met Charles Babbage.")
        page.press("Mark")
        page.reads("contradiction")  # a label of this head's, which stands in no box
        picture(page, "demo-entities")


def test_answers(page: Browser, tmp_path: Path):
    place, text = tmp_path / "answerer", "Ada Lovelace met Charles Babbage in London."
    torch.manual_seed(0)
    source = model_folder("minibert-tiny")
    model = hf_minibert.MiniBertForQuestionAnswering.from_pretrained(source, dtype=torch.float32).eval()
    tokenizer = load_tokenizer(source)
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    question = "Who met Babbage?"
    best = answers(question, text, model, tokenizer)[0]
    with demo(str(place), tmp_path) as url:
        page.open(url)
        assert page.tabs() == ["Answer questions", "Attention", "Nearest sentences"]
        page.write("Text", text)
        page.write("Question", question)
        page.press("Answer")
        page.reads(f"{100 * best.score:.0f}%")
        body = page.driver.find_element("tag name", "body").text  # without what was typed
        assert re.search(rf"^{re.escape(best.text)}\n{100 * best.score:.0f}%$", body, re.MULTILINE)
        picture(page, "demo-answer")


def test_a_translation(page: Browser, tmp_path: Path):
    place = tmp_path / "translator"
    torch.manual_seed(0)
    encoder = hf_minibert.MiniBertModel.from_pretrained(model_folder("minibert-tiny"), dtype=torch.float32)
    decoder = hf_minibert.MiniGPTForCausalLM.from_pretrained(
        model_folder("minigpt-tiny"), dtype=torch.float32, add_cross_attention=True
    )
    ids = {"decoder_start_token_id": 2, "pad_token_id": 0, "eos_token_id": 3}
    config = hf_minibert.MiniEncoderDecoderConfig.from_encoder_decoder_configs(encoder.config, decoder.config, **ids)
    model = hf_minibert.MiniEncoderDecoderModel(config, encoder, decoder).eval()
    tokenizer = load_tokenizer(model_folder("minibert-tiny"))
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    text = "Ein Mann liest."
    tokens = model.generate(**tokenizer(text, return_tensors="pt"), max_new_tokens=128)
    wanted = tokenizer.decode(tokens[0], skip_special_tokens=True).strip()
    assert wanted
    with demo(str(place), tmp_path) as url:
        page.open(url)
        assert page.tabs() == ["Translate", "Attention", "Nearest sentences"]
        page.write("Text", text)
        page.press("Translate")
        page.reads(wanted)
        picture(page, "demo-translate")


def test_a_space(page: Browser, tmp_path: Path):
    """It runs as Spaces run it: its own folder, no package of ours."""
    space = tmp_path / "space"
    words = [
        sys.executable,
        "-m",
        "hf_minibert",
        "demo",
        "--model_name_or_path",
        "minibert-tiny",
        "--space",
        str(space),
    ]
    subprocess.run(words, check=True, cwd=tmp_path, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    assert not list(space.rglob("hf_minibert*"))
    with served([sys.executable, "app.py"], space) as url:
        page.open(url)
        page.press("Fill in")
        page.reads("door")
