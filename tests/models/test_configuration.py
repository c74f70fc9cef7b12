"""Configurations: what the two architectures are, and what is refused."""

import json
import re
from pathlib import Path

import pytest
import transformers
from huggingface_hub.errors import StrictDataclassError

from hf_minibert import (
    MiniBertConfig,
    MiniBertForSequenceClassification,
    MiniGPTConfig,
    MiniGPTForSequenceClassification,
)
from hf_minibert.models.configuration_transformer import NEWEST_TESTED

BOTH = pytest.mark.parametrize("config_class", [MiniBertConfig, MiniGPTConfig])


@BOTH
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        *(
            ({name: value}, f"{name} must be positive, got {value}")
            for name in (
                *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"),
                *("head_dim", "intermediate_size", "max_position_embeddings", "norm_eps", "rope_theta"),
            )
            for value in ((0.0,) if name == "norm_eps" else (0, -4))
        ),
        ({"hidden_size": 30, "num_attention_heads": 4}, "hidden_size 30 is not a multiple of num_attention_heads 4"),
        ({"hidden_size": 36, "num_attention_heads": 4}, "head_dim 9 is odd .* hidden_size 36 / num_attention_heads 4"),
        ({"head_dim": 7}, "head_dim 7 is odd"),
        ({"num_labels": 0}, "num_labels must be positive"),
        ({"initializer_range": -0.1}, "initializer_range must not be negative, got -0.1"),
        ({"norm_type": "batch_norm"}, "norm_type must be one of rms_norm, layer_norm; got 'batch_norm'"),
        ({"norm_placement": "mid"}, "norm_placement must be one of pre, post; got 'mid'"),
        ({"position_embedding_type": "alibi"}, "position_embedding_type must be one of rotary, absolute; got 'alibi'"),
        ({"hidden_act": "jelu"}, "hidden_act 'jelu' is unknown; transformers has .*gelu"),
        ({"rope_parameters": {"rope_type": "ntk"}}, "rope_type must be one of default, linear, .*yarn.*; got 'ntk'"),
        (
            {"position_embedding_type": "absolute", "rope_parameters": {"rope_type": "linear", "factor": 2.0}},
            "rope_type 'linear' needs position_embedding_type 'rotary'",
        ),
        ({"hidden_dropout_prob": 1.0}, r"hidden_dropout_prob is a probability in \[0, 1\), got 1.0"),
        ({"attention_probs_dropout_prob": -0.1}, "attention_probs_dropout_prob is a probability"),
        ({"classifier_dropout": 1.5}, "classifier_dropout is a probability"),
        ({"norm_eps": float("nan")}, "norm_eps must be positive, got nan"),
        ({"initializer_range": float("nan")}, "initializer_range must not be negative, got nan"),
        ({"rope_parameters": {"rope_type": "linear", "factor": -2.0}}, "rope_parameters must be 1 or more, got -2.0"),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}},
            "partial_rotary_factor: all channels of a head turn here",
        ),
    ],
)
def test_nonsense_is_refused(config_class, fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        config_class(**fields)


@BOTH
@pytest.mark.parametrize(
    "fields",
    [
        {"hidden_size": "32"},
        {"hidden_size": 32.0},
        {"hidden_size": True},
        {"vocab_size": None},
        {"norm_eps": "1e-5"},
        {"use_bias": 1},
        {"norm_type": None},
        {"pad_token_id": "0"},
        {"eos_token_id": "3"},
    ],
)
def test_wrong_types_are_refused(config_class, fields):
    with pytest.raises(StrictDataclassError):
        config_class(**fields)
    config = config_class()
    ((name, value),) = fields.items()
    with pytest.raises(StrictDataclassError):
        setattr(config, name, value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"classifier_pooling": "last"}, "classifier_pooling must be one of cls, mean, max, pair, siamese; got 'last'"),
        ({"classifier_pooling": "pair", "eos_token_id": None}, r"needs an eos_token_id, .* sep_token_id\); got None"),
        ({"type_vocab_size": -1}, "type_vocab_size must not be negative, got -1"),
        ({"classifier_activation": "jelu"}, "classifier_activation 'jelu' is unknown; transformers has .*tanh"),
    ],
)
def test_minibert_refuses(fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        MiniBertConfig(**fields)


def test_minigpt_refuses():
    with pytest.raises(StrictDataclassError, match="lm_loss_weight must not be negative, got -0.5"):
        MiniGPTConfig(lm_loss_weight=-0.5)
    with pytest.raises(StrictDataclassError, match="MiniGPT sees no later tokens; the encoder is MiniBERT"):
        MiniGPTConfig(is_decoder=False)


@BOTH
@pytest.mark.parametrize(
    ("name", "hint"),
    [("hiden_size", "; did you mean hidden_size?"), ("n_layer", ""), ("temperature", "")],
)
def test_unknown_fields_of_a_call_are_refused(config_class, name, hint):
    for make in (config_class, config_class.classic, config_class.modern):
        with pytest.raises(ValueError, match=re.escape(f"unknown config field '{name}'{hint}")):
            make(**{name: 3})


def test_fields_of_the_other_model_are_unknown():
    with pytest.raises(ValueError, match="unknown config field 'classifier_pooling'"):
        MiniGPTConfig(classifier_pooling="mean")
    with pytest.raises(ValueError, match="unknown config field 'add_cross_attention'"):
        MiniBertConfig(add_cross_attention=True)


@BOTH
def test_what_transformers_itself_passes_is_known(config_class):
    config = config_class(
        **{"num_labels": 5, "attn_implementation": "eager", "output_attentions": True, "name_or_path": "here"},
        **{"dtype": "bfloat16", "architectures": ["Some"], "quantization_config": {"quant_method": "torchao"}},
    )
    assert (config.num_labels, config._attn_implementation, config.name_or_path) == (5, "eager", "here")
    assert config_class(**config.to_dict()).to_dict() == config.to_dict()


@BOTH
def test_an_unknown_field_of_a_checkpoint_is_warned_of(config_class, tmp_path):
    config = config_class.classic(hidden_size=64)
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(saved | {"hidden_sizes": 3}))
    with pytest.warns(UserWarning, match="saved config field 'hidden_sizes' is unknown .* did you mean hidden_size"):
        assert config_class.from_pretrained(tmp_path).hidden_size == 64


@BOTH
def test_the_width_of_a_head(config_class, tmp_path):
    config = config_class(hidden_size=64, num_attention_heads=4)
    assert config.head_dim == 16
    config.head_dim = 32  # a field as any other
    config.save_pretrained(tmp_path)
    assert config_class.from_pretrained(tmp_path).head_dim == 32


@BOTH
@pytest.mark.parametrize("name", ["pad_token_id", "bos_token_id", "eos_token_id"])
def test_a_special_token_outside_the_vocabulary_is_refused(config_class, name):
    for token in (99, -1):
        with pytest.raises(StrictDataclassError, match=f"{name} {token} is not in a vocabulary of vocab_size 99"):
            config_class(vocab_size=99, **{name: token})
    assert getattr(config_class(vocab_size=99, **{name: None}), name) is None


@BOTH
def test_any_of_several_ends_outside_the_vocabulary_is_refused(config_class):
    with pytest.raises(StrictDataclassError, match="eos_token_id 99 is not in a vocabulary of vocab_size 99"):
        config_class(vocab_size=99, eos_token_id=[3, 99])


@BOTH
def test_rotary_positions_lack_nothing_of_their_type(config_class):
    with pytest.raises(StrictDataclassError, match="Missing required keys in `rope_parameters` .*linear.*factor"):
        config_class(rope_parameters={"rope_type": "linear"})
    config = config_class()
    config.rope_parameters = {"rope_type": "linear", "factor": 2.0}  # as `from_pretrained` sets it
    with pytest.raises(StrictDataclassError, match="lack rope_theta; add it, as it was in training"):
        config.validate()


@pytest.mark.parametrize("model_class", [MiniBertForSequenceClassification, MiniGPTForSequenceClassification])
def test_a_field_that_is_replaced_on_loading_is_checked(model_class, tmp_path):
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "vocab_size": 99}
    model_class(model_class.config_class(**shape)).save_pretrained(tmp_path)
    assert model_class.from_pretrained(tmp_path, hidden_dropout_prob=0.5).config.hidden_dropout_prob == 0.5
    with pytest.raises(StrictDataclassError, match=r"hidden_dropout_prob is a probability in \[0, 1\), got 1.5"):
        model_class.from_pretrained(tmp_path, hidden_dropout_prob=1.5)


@BOTH
def test_modern_is_the_default(config_class):
    assert config_class.modern(hidden_size=64).to_dict() == config_class(hidden_size=64).to_dict()
    config = config_class.modern()
    assert (config.norm_type, config.norm_placement, config.position_embedding_type) == ("rms_norm", "pre", "rotary")
    assert config.gated_mlp
    assert not config.use_bias


@pytest.mark.parametrize(("config_class", "placement"), [(MiniBertConfig, "post"), (MiniGPTConfig, "pre")])
def test_classic(config_class, placement):
    config = config_class.classic(hidden_size=64)
    assert (config.norm_type, config.norm_placement) == ("layer_norm", placement)
    assert config.position_embedding_type == "absolute"
    assert config.use_bias
    assert not config.gated_mlp
    assert config.intermediate_size == 256


@BOTH
def test_a_field_that_is_given_overrides_the_architecture(config_class):
    assert config_class.classic(hidden_act="relu").hidden_act == "relu"
    assert config_class.modern(use_bias=True).use_bias


@BOTH
@pytest.mark.parametrize(("hidden_size", "expected"), [(128, 320), (256, 704), (512, 1344), (8, 64)])
def test_the_gated_feed_forward_is_two_thirds_as_wide(config_class, hidden_size, expected):
    assert config_class(hidden_size=hidden_size).intermediate_size == expected
    assert config_class(hidden_size=hidden_size, gated_mlp=False).intermediate_size == 4 * hidden_size


@BOTH
def test_saving_and_loading_changes_nothing(config_class, tmp_path):
    config = config_class.classic(hidden_size=64, eos_token_id=[3, 4], num_labels=5, rope_theta=5)
    config.save_pretrained(tmp_path)
    assert config_class.from_pretrained(tmp_path).to_dict() | {"_name_or_path": ""} == config.to_dict() | {
        "_name_or_path": ""
    }


def test_a_newer_transformers_than_was_tested_is_named_once(make_config, monkeypatch):
    said: list[str] = []
    logger = transformers.logging.get_logger("transformers.hf_minibert")
    monkeypatch.setattr(logger, "warning", said.append)
    for version in ("5.17.0", transformers.__version__, "{}.{}.9".format(*NEWEST_TESTED)):
        monkeypatch.setattr(transformers, "__version__", version)
        make_config("MiniBertConfig")
    assert not said
    monkeypatch.setattr(transformers, "__version__", "5.99.0.dev0")
    type(logger).warning_once.cache_clear()
    for name in ("MiniBertConfig", "MiniGPTConfig"):
        make_config(name)
    (line,) = said
    assert "5.99.0.dev0" in line
    assert "\n" not in line


def test_the_package_allows_one_minor_version_more_than_was_tested():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    (bound,) = re.findall(r'"transformers>=[0-9.]+,<([0-9.]+)"', text)
    major, minor = NEWEST_TESTED
    assert bound == f"{major}.{minor + 2}"
