"""transformers.js on our exports: the same tokens and predictions in node, and a page in a real browser tab."""

import importlib.util
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, pipeline

from hf_minibert import MiniBertForSequenceClassification
from hf_minibert.assets import model_folder
from hf_minibert.export import browser, onnx

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


@pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node.js")
def test_node_reads_the_same_tokens_and_predicts_the_same(exports, tmp_path):
    settings = {"name": "reader", "type": "module", "dependencies": {browser.LIBRARY: browser.LIBRARY_VERSION}}
    (tmp_path / "package.json").write_text(json.dumps(settings))
    words = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"]  # the runtime for GPUs is fetched by one
    subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "reader.js").write_text(READER)
    strings = hard_strings(1000)
    (tmp_path / "strings.json").write_text(json.dumps(strings))
    words = ["node", "reader.js", *map(str, exports.values()), str(tmp_path / "strings.json"), TEXT, PROMPT]
    done = subprocess.run(words, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)

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
    (tmp_path / "printed.js").write_text(onnx.opening({"pipeline": "fill-mask", "inputs": []}, repr(here.name)))
    words = ["node", str(tmp_path / "printed.js")]
    done = subprocess.run(words, cwd=here.parent, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "He opened the door and went in." in done.stdout


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
