"""Export: what is written opens with the stock class alone, computes the same, and comes back bit for bit."""

import json
from pathlib import Path

import pytest
import torch
from commands import call, elsewhere
from safetensors.torch import load_file
from stock_models import HEADS, INGREDIENTS
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    GPT2Config,
    GPT2LMHeadModel,
)
from transformers.models.auto import modeling_auto

import hf_minibert
from hf_minibert import MiniBertConfig, MiniBertForMaskedLM, MiniGPTConfig
from hf_minibert.export.convert import export
from hf_minibert.tokenization import adapt_tokenizer

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}
TEXT = "def walk(path):  # naïve [MASK]"
READER = """
import json, sys
import torch, transformers

found = {}
for folder, auto_class in json.loads(sys.argv[1]):
    model = getattr(transformers, auto_class).from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(sys.argv[2], return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)[0].flatten().tolist()
    found[folder] = {"class": type(model).__name__, "ids": inputs["input_ids"][0].tolist(), "outputs": outputs}
    if model.can_generate():
        found[folder]["generated"] = model.generate(**inputs, max_new_tokens=8, do_sample=False)[0].tolist()
print(json.dumps(found))
"""
CELLS = [
    ("MiniBertForMaskedLM", "classic", "bert", "AutoModelForMaskedLM", "BertForMaskedLM"),
    ("MiniBertForMaskedLM", "modern", "eurobert", "AutoModelForMaskedLM", "EuroBertForMaskedLM"),
    ("MiniGPTForCausalLM", "classic", "gpt2", "AutoModelForCausalLM", "GPT2LMHeadModel"),
    ("MiniGPTForCausalLM", "modern", "llama", "AutoModelForCausalLM", "LlamaForCausalLM"),
]


def save(folder: Path, name: str, architecture: str, tokenizer, **fields: object) -> torch.nn.Module:
    """A tiny checkpoint of ours with the repository's tokenizer."""
    torch.manual_seed(0)
    is_bert = name.startswith("MiniBert")
    config_class = MiniBertConfig if is_bert else MiniGPTConfig
    make = {"classic": config_class.classic, "modern": config_class.modern}[architecture]
    config = make(**SHAPE, vocab_size=len(tokenizer), initializer_range=0.1, **fields)
    model = vars(hf_minibert)[name](config).eval()
    model.save_pretrained(folder)
    adapt_tokenizer(
        tokenizer,
        model_type="minibert" if is_bert else "minigpt",
        uses_token_types=architecture == "classic",
        model_max_length=64,
    ).save_pretrained(folder)
    return model


def test_a_decoders_classifier_finds_the_last_token_before_padding_in_its_stock_class(
    tmp_path: Path, tokenizer
) -> None:
    """Stock classes look for `pad_token_id`; here the tokenizer pads with the token that ends a text."""
    save(tmp_path / "ours", "MiniGPTForSequenceClassification", "classic", tokenizer, pad_token_id=None)
    own = AutoTokenizer.from_pretrained(tmp_path / "ours")
    own.pad_token = own.eos_token
    own.save_pretrained(tmp_path / "ours")
    assert export(str(tmp_path / "ours"), str(tmp_path / "stock"))["largest_difference"] < 1e-4
    batch = own(["one", "a longer text"], padding=True, return_tensors="pt")
    found = []
    for name in ("ours", "stock"):
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path / name).eval()
        with torch.no_grad():
            found.append(model(**batch).logits)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-5)


def test_a_decoders_classifier_of_few_positions_is_exported(tmp_path: Path, tokenizer) -> None:
    """The texts that are compared are no longer than the model reads."""
    shape = SHAPE | {"max_position_embeddings": 8, "vocab_size": len(tokenizer)}
    hf_minibert.MiniGPTForSequenceClassification(MiniGPTConfig.classic(**shape)).save_pretrained(tmp_path / "ours")
    adapt_tokenizer(tokenizer, model_type="minigpt", uses_token_types=False, model_max_length=8).save_pretrained(
        tmp_path / "ours"
    )
    assert export(str(tmp_path / "ours"), str(tmp_path / "stock"))["largest_difference"] < 1e-4


@pytest.fixture
def tiny_bert(tmp_path: Path, tokenizer) -> Path:
    save(tmp_path / "tiny", "MiniBertForMaskedLM", "classic", tokenizer)
    return tmp_path / "tiny"


def test_exports_open_where_this_package_is_not_installed(
    tmp_path: Path, tokenizer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    models = {}
    for name, architecture, to, auto_class, stock_name in CELLS:
        models[to] = save(tmp_path / "ours" / to, name, architecture, tokenizer)
        flags = ["--model_name_or_path", tmp_path / "ours" / to, "--output_dir", tmp_path / to, "--to", to]
        assert call("export.py", monkeypatch, *flags) == 0
        printed = capsys.readouterr().out
        assert f"as a {stock_name}" in printed
        assert f"model = {auto_class}.from_pretrained({str(tmp_path / to)!r})\n" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*models, "ours"])  # nothing half-made is left

    wanted = json.dumps([(to, auto_class) for _, _, to, auto_class, _ in CELLS])
    found = json.loads(elsewhere(READER, tmp_path, wanted, TEXT))
    for _, _, to, _, stock_name in CELLS:
        assert found[to]["class"] == stock_name
        inputs = AutoTokenizer.from_pretrained(tmp_path / "ours" / to)(TEXT, return_tensors="pt")
        assert found[to]["ids"] == inputs["input_ids"][0].tolist()
        with torch.no_grad():
            expected = models[to](**inputs)[0].flatten()
        torch.testing.assert_close(torch.tensor(found[to]["outputs"]), expected, rtol=0, atol=1e-5)
        if models[to].can_generate():
            generated = models[to].generate(**inputs, max_new_tokens=8, do_sample=False)
            assert found[to]["generated"] == generated[0].tolist()


@pytest.mark.parametrize(("family", "stock_class", "our_class"), HEADS)
def test_every_head_goes_there_and_back(family: str, stock_class, our_class, tmp_path: Path, tokenizer) -> None:
    architecture = "classic" if family in ("bert", "gpt2") else "modern"
    save(tmp_path / "ours", our_class.__name__, architecture, tokenizer, **INGREDIENTS.get(family, {}))
    for source, target, expected in (("ours", "stock", stock_class), ("stock", "back", our_class)):
        record = export(str(tmp_path / source), str(tmp_path / target))
        auto_class = vars(modeling_auto)[record["auto_class"]]
        assert type(auto_class.from_pretrained(tmp_path / target)) is expected
    weights, again = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "back"))
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[key], weight) for key, weight in weights.items())
    assert (tmp_path / "back/tokenizer.json").read_bytes() == (tmp_path / "ours/tokenizer.json").read_bytes()


def test_the_card_keeps_the_licence_and_names_no_folder_of_this_machine(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tiny_bert / "README.md").write_text("---\nlicense: cc-by-4.0\nlanguage: en\n---\n\n# Tiny\n")
    flags = ["--model_name_or_path", tiny_bert, "--output_dir", tmp_path / "out"]
    assert call("export.py", monkeypatch, *flags) == 0
    card = (tmp_path / "out/README.md").read_text()
    assert "license: cc-by-4.0\n" in card
    assert "# `BertForMaskedLM` from `tiny`" in card
    record = json.loads((tmp_path / "out/export.json").read_text())
    assert record["from"] == "MiniBertForMaskedLM"
    assert record["largest_difference"] <= 1e-5
    assert str(tmp_path) not in card + json.dumps(record)
    (snippet,) = card.split("```python\n")[1:]
    monkeypatch.chdir(tmp_path / "out")
    exec(snippet.split("```")[0], names := {})
    assert type(names["model"]) is BertForMaskedLM


def test_an_earlier_export_is_replaced_and_nothing_else(
    tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    flags = ["--model_name_or_path", tiny_bert, "--output_dir", out]
    assert call("export.py", monkeypatch, *flags) == 0
    assert call("export.py", monkeypatch, *flags) == 0
    (out / "README.md").write_text("My own words.")
    assert call("export.py", monkeypatch, *flags) == 0
    assert (out / "README.md").read_text() == "My own words."
    assert "# `BertForMaskedLM` from `tiny`" in (out / "README.generated.md").read_text()
    (out / ".hf_minibert.json").unlink()
    assert call("export.py", monkeypatch, *flags) == 2
    assert "holds something other than an earlier export" in capsys.readouterr().err


def break_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def change_config(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def make_small_vocabulary(folder: Path) -> None:
    BertForMaskedLM(BertConfig(**SHAPE, vocab_size=99)).save_pretrained(folder)


def make_other_class(folder: Path) -> None:
    BertLMHeadModel(BertConfig(**SHAPE, vocab_size=99, is_decoder=True)).save_pretrained(folder)


def make_gpt2(folder: Path) -> None:
    GPT2LMHeadModel(GPT2Config(**SHAPE, vocab_size=8192, scale_attn_weights=False)).save_pretrained(folder)


REFUSALS = {
    "nowhere": (None, ["--model_name_or_path", "/no/such/place"], "there is no folder /no/such/place"),
    "no model": (lambda folder: (folder / "config.json").unlink(), [], "holds no model"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), [], "both a model and a tokenizer"),
    "damaged weights": (break_weights, [], "cannot open"),
    "weights that are missing": (lambda folder: change_config(folder, num_hidden_layers=3), [], "it lacks"),
    "a tokenizer of another": (make_small_vocabulary, [], "8192 entries, but its model knows 99"),
    "a class without counterpart": (make_other_class, [], "holds a BertLMHeadModel, which has no counterpart"),
    "a field without counterpart": (make_gpt2, [], "GPT2Config.scale_attn_weights=False has no counterpart"),
    "another architecture": (None, ["--to", "eurobert"], "norm_type='layer_norm' where it has 'rms_norm'"),
    "another mask": (None, ["--to", "gpt2"], "has no gpt2 class; it may become bert or eurobert"),
    "what it is": (None, ["--to", "minibert"], "has no minibert class"),
    "unknown": (
        None,
        ["--to", "roberta"],
        "to must be one of bert, eurobert, gpt2, llama, qwen3",
    ),
    "not a folder": (None, ["--output_dir", "{}/config.json"], "is a file"),
    "the model's folder": (None, ["--output_dir", "{}"], "is the model itself"),
    "somebody's folder": (None, ["--output_dir", "{}/.."], "holds something other than an earlier export"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_is_refused(
    case: str, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, words, message = REFUSALS[case]
    if spoil:
        spoil(tiny_bert)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    flags = ["--model_name_or_path", tiny_bert, "--output_dir", tmp_path / "out"]
    assert call("export.py", monkeypatch, *flags, *(word.format(tiny_bert) for word in words)) == 2
    errors = capsys.readouterr().err.strip().splitlines()[-1]
    assert errors.startswith("export.py: error: ")
    assert message in errors
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_stock_to_ours_of_the_wrong_kind(
    tmp_path: Path, tokenizer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    BertForMaskedLM(BertConfig(**SHAPE, vocab_size=len(tokenizer))).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    flags = ["--model_name_or_path", tmp_path / "bert", "--output_dir", tmp_path / "out"]
    assert call("export.py", monkeypatch, *flags, "--to", "minigpt") == 2
    assert "BertForMaskedLM becomes a minibert, not a minigpt" in capsys.readouterr().err
    assert call("export.py", monkeypatch, *flags, "--to", "minibert") == 0
    assert type(AutoModelForMaskedLM.from_pretrained(tmp_path / "out")) is MiniBertForMaskedLM
