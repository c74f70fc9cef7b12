"""transformers.js on our exports: the same tokens and predictions in node, and a page in a real browser tab."""

import importlib.util
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, pipeline

from hf_minibert import (
    MiniBertForQuestionAnswering,
    MiniBertForSequenceClassification,
    MiniBertForTokenClassification,
)
from hf_minibert.assets import model_folder
from hf_minibert.export import browser, onnx
from hf_minibert.presets import build_config

pytestmark = pytest.mark.client
ROOT = Path(__file__).parents[2]
TEXT = "He opened the [MASK] and went into the house."
PROMPT = "The history of"
STRANGE = [
    *("[MASK]", "[SEP]", " [MASK] ", "\u0085", "\ufeff", "\u200b", "\u00a0", "\u3000", "\u2028", "\u1680", "\u180e"),
    *(" ", "  ", "\n", "\t", "\r\n", "#", "##", "###", "can't", "'S", "''", "naïve", "e\u0301", "\u0300" * 40),
    *("漢字", "日本語", "한국어", "العربية", "עברית", "हिन्दी", "🙂", "👩\u200d👩\u200d👧", "🇩🇪", "𝔘𝔫𝔦", "𓀀"),
    *("\x00", "\x07", "\x7f", "\ud7ff", "\U0010ffff", "1234567890" * 5, "a" * 100, "!" * 70, "½", "Ⅷ", "٣", "x²"),
    *("ǅ", "ß", "ſ", "İ", "ı", "ﬁ", "\U0001fae8", "\u0870", "\U00011f02", "\u1c89", "def f(x): return x"),
    *("the", "house", " of", " and", "ing", " 12", "_", "…", "—", "<|endoftext|>"),
]
READER = """
import { env, AutoTokenizer, pipeline } from "@huggingface/transformers";
import fs from "fs";

const [encoder, decoder, texts, text, prompt] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = "/";
const tokenizer = await AutoTokenizer.from_pretrained(encoder);
const strings = JSON.parse(fs.readFileSync(texts));
const fill = await pipeline("fill-mask", encoder, { dtype: "fp32" });
const write = await pipeline("text-generation", decoder, { dtype: "fp32" });
console.log(JSON.stringify({
  ids: strings.map((string) => tokenizer.encode(string)),
  texts: strings.map((string) => tokenizer.decode(tokenizer.encode(string), { skip_special_tokens: true })),
  guesses: await fill(text),
  written: await write(prompt, { max_new_tokens: 20, do_sample: false }),
}));
"""
HEADS = """
import { env, AutoModelForQuestionAnswering, AutoTokenizer, pipeline } from "@huggingface/transformers";

const [classifier, tagger, answerer, text, question] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = "/";
const classify = await pipeline("text-classification", classifier, { dtype: "fp32" });
const tag = await pipeline("token-classification", tagger, { dtype: "fp32" });
const model = await AutoModelForQuestionAnswering.from_pretrained(answerer, { dtype: "fp32" });
const tokenizer = await AutoTokenizer.from_pretrained(answerer);
const { start_logits, end_logits } = await model(await tokenizer(question, { text_pair: text }));
console.log(JSON.stringify({
  labels: await classify(text, { top_k: null }),
  tags: await tag(text, { ignore_labels: [] }),
  starts: start_logits.tolist()[0],
  ends: end_logits.tolist()[0],
}));
"""


def hard_strings(number: int) -> list[str]:
    """The same ones each time: words and marks of many writings, runs of white space, and any code points."""
    draw, found = random.Random(0), []
    planes = [(0x20, 0x7F), (0xA0, 0x2000), (0x2000, 0xD800), (0xE000, 0x110000)]
    for index in range(number):
        if index % 6 == 0:
            found.append("".join(chr(draw.randrange(*draw.choice(planes))) for _ in range(draw.randrange(30))))
        elif index % 6 == 1:
            found.append("".join(draw.choice(" \n\t\r\u00a0\u0085\ufeff\u2003ab#'") for _ in range(draw.randrange(40))))
        else:
            found.append("".join(draw.choice(STRANGE) for _ in range(draw.randrange(12))))
    return found


@pytest.fixture(scope="module")
def exports(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exports")
    for name in ("minibert-tiny", "minigpt-tiny"):
        onnx.export(model_folder(name), str(folder / name))
    return {name: folder / name for name in ("minibert-tiny", "minigpt-tiny")}


@pytest.fixture(scope="module")
def node(tmp_path_factory) -> Path:
    """A folder in which node finds transformers.js."""
    if shutil.which("npm") is None:
        pytest.skip("needs Node.js")
    place = tmp_path_factory.mktemp("node")
    settings = {"name": "reader", "type": "module", "dependencies": {browser.LIBRARY: browser.LIBRARY_VERSION}}
    (place / "package.json").write_text(json.dumps(settings))
    words = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"]  # the runtime for GPUs is fetched by one
    subprocess.run(words, cwd=place, check=True, capture_output=True)
    return place


def said_by(node: Path, code: str, *arguments: object) -> dict[str, Any]:
    """What a script prints as JSON."""
    (node / "reader.js").write_text(code)
    words = ["node", "reader.js", *map(str, arguments)]
    done = subprocess.run(words, cwd=node, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_node_reads_the_same_tokens_and_predicts_the_same(exports, node, tmp_path):
    strings = hard_strings(1000)
    (tmp_path / "strings.json").write_text(json.dumps(strings))
    found = said_by(node, READER, *exports.values(), tmp_path / "strings.json", TEXT, PROMPT)

    tokenizer = AutoTokenizer.from_pretrained(model_folder("minibert-tiny"))
    ids = [tokenizer(string).input_ids for string in strings]
    assert found["ids"] == ids
    assert found["texts"] == [tokenizer.decode(row, skip_special_tokens=True) for row in ids]
    fill = pipeline("fill-mask", model_folder("minibert-tiny"), dtype=torch.float32)
    for ours, theirs in zip(fill(TEXT), found["guesses"], strict=True):
        assert ours["token"] == theirs["token"]
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-4)
    write = pipeline("text-generation", model_folder("minigpt-tiny"), dtype=torch.float32)
    expected = write(PROMPT, max_new_tokens=20, do_sample=False)
    assert found["written"][0]["generated_text"] == expected[0]["generated_text"]

    here = exports["minibert-tiny"]  # the code that the export prints, for a folder beside the one where it is called
    (node / "printed.js").write_text(onnx.opening({"pipeline": "fill-mask", "inputs": []}, repr(here.name)))
    words = ["node", str(node / "printed.js")]
    done = subprocess.run(words, cwd=here.parent, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "He opened the door and went in." in done.stdout


def test_node_predicts_the_same_with_other_heads(node, tmp_path):
    labels = {"id2label": {0: "O", 1: "B-PER", 2: "I-PER"}, "label2id": {"O": 0, "B-PER": 1, "I-PER": 2}}
    tokenizer = AutoTokenizer.from_pretrained(model_folder("minibert-tiny"))
    heads = {
        "classifier": (MiniBertForSequenceClassification, "modern", labels),
        "tagger": (MiniBertForTokenClassification, "modern", labels),
        "answerer": (MiniBertForQuestionAnswering, "classic", {}),  # the modern one has no stock class
    }
    models, folders = {}, []
    for name, (head, architecture, fields) in heads.items():
        torch.manual_seed(1)
        config = build_config("minibert-tiny", architecture, vocab_size=len(tokenizer), **fields)
        models[name] = head(config).eval()
        with torch.no_grad():
            for parameter in models[name].parameters():
                parameter.mul_(3)  # so that the answers are not all alike
        models[name].save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        onnx.export(str(tmp_path / name), str(tmp_path / f"{name}-onnx"))
        folders.append(tmp_path / f"{name}-onnx")
    text, question = "Ada Lovelace met Charles Babbage.", "Who met Babbage?"
    found = said_by(node, HEADS, *folders, text, question)

    classify = pipeline("text-classification", models["classifier"], tokenizer=tokenizer, top_k=None)
    expected = classify([text])[0]
    assert [one["label"] for one in found["labels"]] == [one["label"] for one in expected]
    for ours, theirs in zip(expected, found["labels"], strict=True):
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-4)
    tag = pipeline("token-classification", models["tagger"], tokenizer=tokenizer, ignore_labels=[])
    tagged = tag(text)
    assert [one["entity"] for one in found["tags"]] == [one["entity"] for one in tagged]
    assert len({one["entity"] for one in tagged}) > 1
    for ours, theirs in zip(tagged, found["tags"], strict=True):
        assert float(ours["score"]) == pytest.approx(theirs["score"], abs=1e-4)
    with torch.no_grad():
        outputs = models["answerer"](**tokenizer(question, text, return_tensors="pt"))
    for logits, theirs in ((outputs.start_logits, found["starts"]), (outputs.end_logits, found["ends"])):
        torch.testing.assert_close(logits[0], torch.tensor(theirs), rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def pictures():
    """The module that takes the pictures of the pages, which also knows how to use them."""
    pytest.importorskip("selenium")
    place = importlib.util.spec_from_file_location("pictures", ROOT / "docs/images/make.py")
    assert place is not None
    assert place.loader is not None
    module = importlib.util.module_from_spec(place)
    sys.modules["pictures"] = module
    place.loader.exec_module(module)
    return module


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_a_tab_fills_in_and_goes_on_with_what_is_typed(pictures, tmp_path):
    for name in ("minibert-tiny", "minigpt-tiny"):
        browser.write(model_folder(name), str(tmp_path / name))
    with pictures.chromium() as driver:
        with pictures.served(tmp_path / "minibert-tiny") as address:
            typed = "She closed the [MASK] and went out."
            answer = pictures.use(driver, address, typed).splitlines()
            fill = pipeline("fill-mask", model_folder("minibert-tiny"), dtype=torch.float32, top_k=8)
            assert answer[::2] == [guess["token_str"].strip() for guess in fill(typed)]
            assert answer[1::2] == [f"{100 * guess['score']:.1f} %" for guess in fill(typed)]
            with pytest.raises(RuntimeError, match="where a word is missing; it stands there 2 times"):
                pictures.use(driver, "", "[MASK] and [MASK]")
            assert not driver.find_element("id", "result").text, "the answer to another text"
            long = "word " * 600 + "[MASK]"
            with pytest.raises(
                RuntimeError,
                match=f"The text has {len(fill.tokenizer(long).input_ids)} tokens, and the model reads 512",
            ):
                pictures.use(driver, "", long)
        with pictures.served(tmp_path / "minigpt-tiny") as address:
            driver.get(address)
            pictures.use(driver, "", PROMPT)
            temperature = driver.find_element("id", "temperature")
            temperature.clear()
            temperature.send_keys("0")
            answer = pictures.use(driver, "", PROMPT)
            write = pipeline("text-generation", model_folder("minigpt-tiny"), dtype=torch.float32)
            expected = write(PROMPT, max_new_tokens=60, do_sample=False)[0]["generated_text"]
            assert " ".join(answer.split()) == " ".join(expected.split())
        messages = [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
        assert not messages


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_a_tab_shows_every_label_as_it_is_written(pictures, tmp_path):
    labels = ["<b>bad</b>", "good & fine", "so so"]
    model = MiniBertForSequenceClassification.from_pretrained(
        model_folder("minibert-tiny"), dtype=torch.float32, id2label=dict(enumerate(labels))
    )
    torch.manual_seed(0)
    torch.nn.init.normal_(model.classifier.weight)
    model.save_pretrained(tmp_path / "ours")
    AutoTokenizer.from_pretrained(model_folder("minibert-tiny")).save_pretrained(tmp_path / "ours")
    browser.write(str(tmp_path / "ours"), str(tmp_path / "page"))
    with pictures.chromium() as driver, pictures.served(tmp_path / "page") as address:
        answer = pictures.use(driver, address, "A good film.").splitlines()
        driver.find_element("id", "second").send_keys("A bad one.")
        of_pair = pictures.use(driver, "", "A good film.").splitlines()
        assert not [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
    classify = pipeline("text-classification", str(tmp_path / "ours"), top_k=None)
    expected = classify(["A good film."])[0]
    assert answer[::2] == [each["label"] for each in expected]
    assert sorted(answer[::2]) == sorted(labels)
    assert answer[1::2] == [f"{100 * each['score']:.1f} %" for each in expected]
    expected = classify([{"text": "A good film.", "text_pair": "A bad one."}])[0]
    assert of_pair[1::2] == [f"{100 * each['score']:.1f} %" for each in expected]
