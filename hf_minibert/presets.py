"""Named models: the tables that the command line chooses from."""

import difflib
from dataclasses import dataclass
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from hf_minibert.assets import model_folder, without_model
from hf_minibert.errors import UserError, reason_of
from hf_minibert.models.configuration_minibert import MiniBertConfig
from hf_minibert.models.configuration_minigpt import MiniGPTConfig
from hf_minibert.models.configuration_transformer import NOT_FIELDS
from hf_minibert.models.modeling_minibert import MiniBertForMaskedLM, MiniBertForPreTraining
from hf_minibert.models.modeling_minigpt import MiniGPTForCausalLM

Config = MiniBertConfig | MiniGPTConfig
NO_OVERRIDES = {*NOT_FIELDS} - {"num_labels", "rope_theta", "rope_scaling", "use_cache"}
PretrainingModel = MiniBertForMaskedLM | MiniBertForPreTraining | MiniGPTForCausalLM

# The shapes of the published BERT miniatures (Turc et al. 2019, arXiv:1908.08962).
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"num_hidden_layers": 2, "hidden_size": 128, "num_attention_heads": 2},
    "mini": {"num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 4},
    "small": {"num_hidden_layers": 4, "hidden_size": 512, "num_attention_heads": 8},
    "medium": {"num_hidden_layers": 8, "hidden_size": 512, "num_attention_heads": 8},
}


@dataclass(frozen=True)
class Family:
    """What differs between the two kinds of model."""

    config_class: type[Config]
    max_seq_length: int
    """Tokens in a training row, by default."""
    weight_decay: float
    """Masked LM loses by a strong decay, causal LM gains (benchmarks/README.md)."""


FAMILIES: dict[str, Family] = {
    "minibert": Family(MiniBertConfig, 128, 0.1),
    "minigpt": Family(MiniGPTConfig, 256, 0.8),
}
MODELS = [f"{family}-{size}" for family in FAMILIES for size in SIZES]

# Layers that start at zero leave the plateau of masked LM sooner (benchmarks/README.md).
START: dict[str, dict[str, str]] = {"modern": {"residual_init": "zero"}, "classic": {}}

# By optimizer and architecture, found by benchmarks/recipe.py. Tuned at mini (AdamW stays on the plateau of masked LM
# with 3e-3). Other sizes: only Muon's rate for modern; medium only for MiniBERT. Classic small and medium: an untested
# guess.
LEARNING_RATES = {
    "muon": {
        "modern": {"tiny": 6e-3, "mini": 6e-3, "small": 3e-3, "medium": 3e-3},
        "classic": {"tiny": 2e-3, "mini": 2e-3, "small": 1e-3, "medium": 1e-3},
    },
    "adamw": {"modern": dict.fromkeys(SIZES, 1.5e-3), "classic": dict.fromkeys(SIZES, 1e-3)},
}


def family_of(model: str) -> Family:
    """The family of a named model.

    Raises:
        UserError: there is no such model.
    """
    if model not in MODELS:
        close = difflib.get_close_matches(model, MODELS, n=1)
        raise UserError(
            f"unknown model {model!r}"
            + (f"; did you mean {close[0]}?" if close else "")
            + f" (have {', '.join(MODELS)})"
        )
    return FAMILIES[family_name(model)]


def family_name(model: str) -> str:
    """The family in the name of a model."""
    return model.split("-")[0]


def size_of(model: str) -> str:
    """The size in the name of a model."""
    return model.split("-")[1]


def build_config(model: str, architecture: str, **fields: Any) -> Config:
    """The configuration of a named model, with some of its fields replaced.

    Raises:
        UserError: unknown model or field, or values that do not fit together.
    """
    family = family_of(model)
    make = family.config_class.classic if architecture == "classic" else family.config_class.modern
    try:
        return make(**SIZES[size_of(model)] | START[architecture] | fields)
    except (StrictDataclassError, ValueError, ArithmeticError, AttributeError, TypeError) as error:
        raise UserError(f"the config of {model} does not hold together: {error.__cause__ or error}") from error


def load_config(name_or_path: str) -> Config:
    """The configuration of a model of ours.

    Raises:
        UserError: there is no model, it is of another kind, or it names code that is not ours.
    """
    name_or_path = model_folder(name_or_path)
    try:
        config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
    except Exception as error:  # a config.json may hold anything, and each part of transformers stumbles in its own way
        trouble = without_model(name_or_path)
        raise UserError(f"model_name_or_path {name_or_path!r} {trouble}: {reason_of(error)}") from error
    if not isinstance(config, (MiniBertConfig, MiniGPTConfig)):
        raise UserError(f"{name_or_path} is a {config.model_type}; give a MiniBERT or a MiniGPT")
    if getattr(config, "custom_pipelines", None):
        raise UserError(
            f"the config.json of {name_or_path} has custom_pipelines, which name code that is not run here; delete the "
            "entry, or give another model"
        )
    ours = type(config)().auto_map or {}
    for name, reference in (config.auto_map or {}).items():
        # transformers puts a repository's name before the class, if it comes from the Hub
        if not isinstance(reference, str) or reference.split("--")[-1] != ours.get(name):
            raise UserError(
                f"the config.json of {name_or_path} has the auto_map entry {name}: {str(reference)[:80]!r}, which is "
                "no class of ours; that code is not run here, so delete the entry, or give another model"
            )
    return config


def load_pretrained(
    model_class: Any, name_or_path: str, *, trust_remote_code: bool = False, **settings: Any
) -> tuple[Any, set[str]]:
    """A model with a checkpoint's weights, and the names of weights that the checkpoint lacks (head or pooler).

    Args:
        model_class: one of transformers' Auto classes.
        name_or_path: a folder, or a name on the Hub.
        trust_remote_code: whether to run code that comes with the model.
        settings: for `from_pretrained`.

    Raises:
        UserError: the file of weights is missing, damaged, empty or of another model.
    """
    try:
        model, loaded = model_class.from_pretrained(
            name_or_path,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
            **settings,
        )
    except Exception as error:  # as above; safetensors has one of its own
        reason = reason_of(error)[:300]
        raise UserError(f"the weights of {name_or_path} cannot be opened: {reason}") from error
    missing = set(loaded["missing_keys"])
    base = f"{model.base_model_prefix}."
    lacking = sorted(name for name in missing if name.startswith(base) and not name.startswith(f"{base}pooler."))
    if lacking:
        raise UserError(
            f"{name_or_path} is not a whole model: it lacks {', '.join(lacking[:3])}"
            f"{f' and {len(lacking) - 3} more weights' if len(lacking) > 3 else ''}; save it again"
        )
    return model, missing


def parse_overrides(text: str | None) -> dict[str, Any]:
    """``"hidden_size=384,hidden_act=gelu"`` as a mapping; numbers and booleans become what they look like.

    Raises:
        UserError: a part is not ``name=value``, or its name is one that transformers takes although it is no field.
    """
    fields: dict[str, Any] = {}
    for part in (text or "").split(",") if text else []:
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not name or not value:
            raise UserError(f"config_overrides takes name=value pairs separated by commas, got {part!r}")
        if name in NO_OVERRIDES or name.startswith("_"):
            raise UserError(f"config_overrides sets fields of the model's configuration, and {name} is none")
        fields[name] = _literal(value)
    return fields


def _literal(value: str) -> Any:
    """A value as a configuration file would give it."""
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value
