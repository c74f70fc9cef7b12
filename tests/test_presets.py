import json
import math
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from hf_minibert.assets import asset
from hf_minibert.command_line import field_docstrings
from hf_minibert.errors import UserError
from hf_minibert.export.convert import open_checkpoint
from hf_minibert.presets import (
    FAMILIES,
    LEARNING_RATES,
    MODELS,
    SIZES,
    build_config,
    load_config,
    load_pretrained,
    parse_overrides,
)
from hf_minibert.pretraining.arguments import ObjectiveName, PretrainArguments
from hf_minibert.pretraining.objectives import OBJECTIVES
from hf_minibert.pretraining.optimization import EMBEDDINGS_RATE
from hf_minibert.pretraining.plan import decide
from hf_minibert.runs.hardware import TOKENS_PER_BATCH
from hf_minibert.tokenization import load_tokenizer

# Layers, width, heads: Turc et al. 2019, arXiv:1908.08962, table 1.
SHAPES = {"tiny": (2, 128, 2), "mini": (4, 256, 4), "small": (4, 512, 8), "medium": (8, 512, 8)}


@pytest.mark.parametrize("model", MODELS)
def test_shapes_are_those_of_the_published_miniatures(model, architecture):
    config = build_config(model, architecture)
    shape = (config.num_hidden_layers, config.hidden_size, config.num_attention_heads)
    assert shape == SHAPES[model.split("-")[1]]
    assert config.model_type == model.split("-")[0]
    assert config.hidden_size // config.num_attention_heads == 64, "heads as wide as BERT's"


def test_the_names_of_models():
    assert set(SHAPES) == set(SIZES)
    assert [f"{family}-{size}" for family in ("minibert", "minigpt") for size in SHAPES] == MODELS


def test_the_objectives_of_each_family_its_default_first():
    assert {name: [each for each, row in OBJECTIVES.items() if row.family == name] for name in FAMILIES} == {
        "minibert": ["mlm", "mlm+nsp", "mlm+sop", "hybrid"],
        "minigpt": ["clm"],
    }
    assert tuple(OBJECTIVES) == get_args(ObjectiveName), "the flag takes what the table has"


def test_the_documented_learning_rates_are_those_of_the_table():
    text = " ".join(field_docstrings(PretrainArguments)["learning_rate"].split())
    muon, adamw = LEARNING_RATES["muon"], LEARNING_RATES["adamw"]
    assert muon["modern"] == {"tiny": 6e-3, "mini": 6e-3, "small": 3e-3, "medium": 3e-3}
    assert muon["classic"] == {size: rate / 3 for size, rate in muon["modern"].items()}
    assert [set(rates.values()) for rates in adamw.values()] == [{1.5e-3}, {1e-3}]
    assert "6e-3 for tiny and mini, 3e-3 for small and medium, and a third of either for classic" in text
    assert text.endswith("with adamw, 1.5e-3, and 1e-3 for classic.")
    assert EMBEDDINGS_RATE == 8, "eight times as fast"


def test_the_documented_decay_is_that_of_the_families():
    said = ", ".join(f"{family.weight_decay} for {name}" for name, family in FAMILIES.items())
    assert field_docstrings(PretrainArguments)["weight_decay"].endswith(f"Default: {said}.")


def test_the_documented_batches_are_those_of_the_devices():
    text = " ".join(field_docstrings(PretrainArguments)["per_device_train_batch_size"].split())
    assert TOKENS_PER_BATCH == {"cpu": 2_048, "cuda": 16_384}
    assert "as many as make 2,048 tokens, or on a CUDA GPU, which takes more in the same time, 16,384" in text


def parameters(model: str, architecture: str) -> tuple[int, int]:
    """All of the model that is trained by default, and those of its layers."""
    config = build_config(model, architecture)
    with torch.device("meta"):
        made = OBJECTIVES[decide(PretrainArguments(output_dir="x", model=model)).objective].model_class(config)
    layers = sum(parameter.numel() for name, parameter in made.named_parameters() if ".layers." in name)
    return made.num_parameters(), layers


@pytest.mark.parametrize("model", MODELS)
def test_architectures_are_of_one_size(model):
    """Layers differ by less than 5%; in all, classic has learned positions too, which show in a tiny model."""
    modern, classic = parameters(model, "modern"), parameters(model, "classic")
    assert modern[1] > 0
    assert modern[1] == pytest.approx(classic[1], rel=0.05)
    assert modern[0] < classic[0]
    assert modern[0] == pytest.approx(classic[0], rel=0.08 if model.endswith("tiny") else 0.05)


@pytest.mark.parametrize(
    ("model", "suggestion"), [("minibert-mni", "minibert-mini"), ("minigpt-meduim", "minigpt-medium"), ("zzz", None)]
)
def test_unknown_models(model, suggestion):
    with pytest.raises(UserError, match=f"unknown model '{model}'") as caught:
        build_config(model, "modern")
    assert ("did you mean" in str(caught.value)) == (suggestion is not None)
    assert (suggestion or "minibert-tiny") in str(caught.value)


# ---------------------------------------------------------------- trained models


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "there is no folder absent"),
        ("./absent", "there is no folder ./absent"),
        ("a/b/c", "there is no folder a/b/c"),
        ("runs/absent", "'runs/absent' is no folder here, and no model on the Hub: nothing there"),
        (".", "'.' holds no model: nothing there"),
    ],
)
def test_the_hub_is_asked_only_of_what_could_be_there(name, message, monkeypatch, tmp_path):
    def nothing(_name, **_options):
        raise OSError("nothing\nthere")

    monkeypatch.setattr(AutoConfig, "from_pretrained", nothing)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=re.escape(message)):
        load_config(name)


# ---------------------------------------------------------------- overrides


def test_overrides_replace_fields(architecture):
    config = build_config("minigpt-mini", architecture, **parse_overrides("hidden_size=384, num_attention_heads=6"))
    assert (config.hidden_size, config.num_attention_heads, config.num_hidden_layers) == (384, 6, 4)


def test_overrides_are_parsed_as_what_they_look_like():
    parsed = parse_overrides("a=3, b = 1e-5,c=gelu,d=True,e=false,f=-2,g=x=y")
    assert parsed == {"a": 3, "b": 1e-5, "c": "gelu", "d": True, "e": False, "f": -2, "g": "x=y"}
    assert [type(value) for value in parsed.values()] == [int, float, str, bool, bool, int, str]
    assert parse_overrides(None) == parse_overrides("") == {}


@pytest.mark.parametrize("text", ["hidden_size", "hidden_size=", "=3", "hidden_size=3,", "hidden_size:3"])
def test_overrides_that_are_no_pairs(text):
    with pytest.raises(UserError, match="name=value"):
        parse_overrides(text)


@pytest.mark.parametrize("name", ["attn_implementation", "experts_implementation", "_name", "torch_dtype"])
def test_overrides_of_what_is_no_field(name):
    with pytest.raises(UserError, match=f"sets fields of the model's configuration, and {name} is none"):
        parse_overrides(f"hidden_size=3,{name}=sdpa")


def test_unknown_fields_are_refused_with_a_suggestion(architecture):
    with pytest.raises(UserError, match="unknown config field 'hiden_size'; did you mean hidden_size"):
        build_config("minibert-mini", architecture, hiden_size=3)
    with pytest.raises(UserError, match="unknown config field 'zzz'$"):
        build_config("minibert-mini", architecture, zzz=3)


@pytest.mark.parametrize(
    "fields",
    [
        {"num_attention_heads": 7},
        {"num_attention_heads": 0},
        {"hidden_size": "wide"},
        {"dtype": "float31"},
        {"num_labels": "two"},
    ],
)
@pytest.mark.parametrize("model", ["minibert-mini", "minigpt-mini"])
def test_values_that_do_not_fit_together(model, architecture, fields):
    with pytest.raises(UserError, match=f"the config of {model} does not hold together"):
        build_config(model, architecture, **fields)


DAMAGE: dict[str, Any] = {
    "hidden_size": [-4, "64", None, 1e9, 63],
    "num_hidden_layers": [0, 10**7],
    "num_attention_heads": [0, True],
    "vocab_size": [10**12, -1],
    "norm_eps": [math.nan, "x"],
    "hidden_act": ["__import__", 3],
    "hidden_dropout_prob": [5, "a"],
    "rope_parameters": ["x", {"rope_type": "nope", "rope_theta": -1}],
    "pad_token_id": [10**9],
    "model_type": [["a"], {}, 7, None, "nope"],
    "dtype": ["nope", 7],
    "transformers_weights": ["../model.safetensors", "/etc/passwd", 7],
    "architectures": [[1], [None]],
}
"""Values that a config.json cannot have."""


@pytest.mark.parametrize("name", DAMAGE)
def test_a_config_that_nobody_can_have_saved_is_one_line(name: str, tmp_path: Path) -> None:
    for value in DAMAGE[name]:
        shutil.copytree(asset("checkpoints") / "minigpt-tiny", tmp_path, dirs_exist_ok=True)
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | {name: value}))
        ways = (partial(load_pretrained, AutoModelForCausalLM), load_config, open_checkpoint)
        mistakes = [mistake for mistake in (mistake_of(way, tmp_path) for way in ways) if mistake is not None]
        assert mistakes, f"nothing minds {value!r}"
        assert all("\n" not in mistake and str(tmp_path) in mistake for mistake in mistakes)


def mistake_of(open_it: Callable[[str], Any], folder: Path) -> str | None:
    try:
        open_it(str(folder))
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize("open_it", [load_config, load_tokenizer, open_checkpoint])
def test_a_strangers_code_is_neither_run_nor_asked_about(open_it, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    auto_map = {"AutoConfig": "evil.Config", "AutoTokenizer": ["evil.Tokenizer", None]}
    content = {"model_type": "stranger", "auto_map": auto_map, "tokenizer_class": "StrangersTokenizer"}
    for name in ("config.json", "tokenizer_config.json"):
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'pwned')!r}, 'w')")
    monkeypatch.setattr("builtins.input", lambda _: pytest.fail("it asks"))
    with pytest.raises(UserError) as caught:
        open_it(str(tmp_path))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("entry", [{"AutoModelForMaskedLM": "evil.Model"}, {"AutoModelForVision": "evil.Model"}])
def test_code_of_others_beside_our_weights_is_refused_before_any_work(entry: dict[str, str], tmp_path: Path) -> None:
    shutil.copytree(asset("checkpoints") / "minibert-tiny", tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    ours = {"AutoModel": "somebody/minibert--modeling_minibert.MiniBertModel"}  # as transformers names those of the Hub
    (tmp_path / "config.json").write_text(json.dumps(config | {"auto_map": ours}))
    load_config(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(config | {"auto_map": ours | entry}))
    with pytest.raises(UserError, match=r"has the auto_map entry AutoModelFor\w+: 'evil\.Model', which is no class of"):
        load_config(str(tmp_path))
