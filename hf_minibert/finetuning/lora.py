"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv:2106.09685) through PEFT: few weights learn, all others stay.

Each linear layer of the model gets an adapter of two small matrices, and the head learns in full. Adapters are new
weights, and learn as fast as those.
"""

import warnings
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from hf_minibert.errors import needs_extra

ADAPTER = "adapter_model.safetensors"


def _peft() -> Any:
    with needs_extra("peft"):
        import peft
    return peft


def with_adapters(model: PreTrainedModel, rank: int, dropout: float) -> tuple[Any, set[str]]:
    """The model with adapters, and the names of the weights that learn.

    Args:
        model: the model with the head of its task.
        rank: of the adapters' matrices; they are added with a factor of 2, as `alpha` is twice the rank.
        dropout: before the adapters.

    Raises:
        UserError: PEFT is missing.
    """
    peft = _peft()
    base, tied = f"{model.base_model_prefix}.", set(getattr(model, "_tied_weights_keys", None) or ())
    heads = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and (not name.startswith(base) or ".pooler." in name)
        and f"{name}.weight" not in tied
    ]
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name.startswith(base)]
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=dropout,
        target_modules=[name for name in layers if name not in heads],
        modules_to_save=heads or None,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks for what transformers has renamed
        adapted = peft.get_peft_model(model, config)
    return adapted, {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}


def is_adapted(model: nn.Module) -> bool:
    """Whether a model has adapters."""
    return hasattr(model, "peft_config")


def whole(model: Any) -> Any:
    """The model itself, in which the adapters are, if it has some."""
    return model.get_base_model() if is_adapted(model) else model


def take_adapters(model: nn.Module, checkpoint: Path) -> None:
    """Load the adapters and the head of a checkpoint."""
    _peft().set_peft_model_state_dict(model, load_file(checkpoint / ADAPTER))


def save_adapters(model: Any, folder: Path, base: str) -> None:
    """Write adapters and head, and beside them the configuration and the code of the model that they belong to.

    Args:
        model: with adapters.
        folder: to write.
        base: the name of the pre-trained model, which the adapters' configuration tells.
    """
    own = model.get_base_model()
    own.save_pretrained(folder, state_dict={"": next(own.parameters())[:0]})  # no weights: they are those of the base
    (folder / "model.safetensors").unlink()
    model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained(folder, save_embedding_layers=False)  # by default it asks the Hub whether they changed


def merged(model: Any) -> PreTrainedModel:
    """The model with the adapters added to its weights, which computes the same."""
    whole: PreTrainedModel = model.merge_and_unload()
    return whole
