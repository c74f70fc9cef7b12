"""A checkpoint as a folder of another class: ours to stock, or stock to ours, with its tokenizer and a short card.

In comes a folder or a name on the Hub, out goes a folder that `transformers` opens. What was written is opened again
and compared with the original before it takes its place.
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from hf_minibert import MiniGPTConfig
from hf_minibert.assets import model_folder, without_model
from hf_minibert.errors import UserError, reason_of
from hf_minibert.export.folder import describe, exported_folder, shown_name
from hf_minibert.export.stock import COUNTERPARTS, from_stock, to_stock
from hf_minibert.models import configuration_minibert, configuration_minigpt
from hf_minibert.models.configuration_transformer import TransformerConfig
from hf_minibert.tokenization import save_tokenizer

SAMPLE = ("BERT reads a sentence from both sides at once.", "GPT reads it from left to right.")
TOLERANCE = 1e-5
CLASSES = {kind.__name__: kind for counterpart in COUNTERPARTS for pair in counterpart.heads.items() for kind in pair}
AUTO_CLASSES = {
    our_name: auto_name
    for heads in (configuration_minibert.HEADS, configuration_minigpt.HEADS)
    for auto_name, our_name in heads.items()
}


def export(name_or_path: str, output_dir: str, *, to: str | None = None) -> dict[str, Any]:
    """Convert a checkpoint into `output_dir`. Unchanged files of an earlier export there are replaced.

    Args:
        name_or_path: a checkpoint's folder or name on the Hub; its class must be in `export.stock.COUNTERPARTS`.
        output_dir: the folder to write.
        to: the `model_type` to convert to; default, the one that fits.

    Returns:
        What `export.json` says: the classes, how to open the new one, and how far their outputs lie apart.

    Raises:
        UserError: there is no such checkpoint, it cannot be converted, or the folder holds something else.
    """
    with exported_folder(name_or_path, output_dir, last="config.json") as folder:
        model, tokenizer = open_checkpoint(name_or_path)
        converted = convert(model, to, mask_token_id=tokenizer.mask_token_id)
        if reads_last_token(converted) and tokenizer.pad_token_id is not None:
            converted.config.pad_token_id = tokenizer.pad_token_id  # by which a stock class finds that token
        converted.save_pretrained(folder)
        save_tokenizer(tokenizer, folder)
        ours = model if is_ours(model) else converted
        record = {
            "model": shown_name(name_or_path),
            "from": type(model).__name__,
            "to": type(converted).__name__,
            "auto_class": AUTO_CLASSES[type(ours).__name__],
            "trust_remote_code": converted is ours,
            "sample": SAMPLE,
            "largest_difference": check(folder, model, tokenizer, type(converted)),
            "transformers_version": transformers.__version__,
        }
        lost = "What only training uses, such as a dropout that the class lacks, is not here."
        describe(folder, name_or_path, record, opening(record, '"."'), lost=lost)
    return record


def is_ours(model: PreTrainedModel) -> bool:
    """Whether a model is a MiniBERT or a MiniGPT."""
    return isinstance(model.config, TransformerConfig)


def has_causal_mask(model: PreTrainedModel) -> bool:
    """Whether a token of the model, which is ours or has a counterpart, sees only itself and earlier ones."""
    causal = {
        kind for each in COUNTERPARTS if each.config is MiniGPTConfig for kind in (each.config, each.stock_config)
    }
    return type(model.config) in causal


def reads_last_token(model: PreTrainedModel) -> bool:
    """Whether a model labels a text by the state of its last token, which it must find before padding."""
    return has_causal_mask(model) and type(model).__name__.endswith("ForSequenceClassification")


def open_checkpoint(name_or_path: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model with the head that it was saved with, and its tokenizer.

    Raises:
        UserError: one of them is missing, damaged or incomplete, or they do not belong together.
    """
    name_or_path = model_folder(name_or_path)
    try:
        config = AutoConfig.from_pretrained(name_or_path, trust_remote_code=False)
    except Exception as error:  # a config.json may hold anything
        trouble = without_model(name_or_path)
        raise UserError(f"model_name_or_path {name_or_path!r} {trouble}: {reason_of(error)}") from error
    architecture = (config.architectures or [f"{config.model_type} of unknown class"])[0]
    if architecture not in CLASSES:
        known = ", ".join(CLASSES)
        raise UserError(f"{name_or_path} holds a {architecture}, which has no counterpart; these have: {known}")
    model_class: Any = CLASSES[architecture]  # typed as if it returned the model alone
    try:
        model, loading = model_class.from_pretrained(name_or_path, dtype="auto", output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, trust_remote_code=False)
    except Exception as error:  # safetensors and tokenizers each have an exception of their own for a damaged file
        reason = reason_of(error)
        raise UserError(f"cannot open {name_or_path} ({reason}); it must hold both a model and a tokenizer") from error
    if missing := sorted(loading["missing_keys"]):
        raise UserError(f"{name_or_path} is not a whole {architecture}: it lacks {', '.join(missing)}")
    if len(tokenizer) > config.vocab_size:
        raise UserError(
            f"the tokenizer of {name_or_path} has {len(tokenizer)} entries, but its model knows {config.vocab_size}; "
            "save the tokenizer that the model was trained with beside it"
        )
    return model, tokenizer


def convert(model: PreTrainedModel, to: str | None, *, mask_token_id: int | None) -> PreTrainedModel:
    """Our model as a stock one, or a stock one as ours; `mask_token_id` is the tokenizer's.

    Raises:
        UserError: `to` is not what the model can become, or something in it has no counterpart.
    """
    if is_ours(model):
        return to_stock(model, to, mask_token_id=mask_token_id)
    ours = from_stock(model)
    if to not in (None, ours.config.model_type):
        raise UserError(f"{type(model).__name__} becomes a {ours.config.model_type}, not a {to}; leave --to out")
    return ours


def check(
    folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, written_class: type[PreTrainedModel]
) -> float:
    """How far the outputs of the model in `folder` lie from `model`'s, relative to their size (at least 1).

    Computes in float32, into which it converts `model`.

    Raises:
        UserError: the tokens or the outputs differ.
    """
    inputs = encode_sample(model, tokenizer)
    reread = encode_sample(model, AutoTokenizer.from_pretrained(folder, trust_remote_code=False))
    if inputs.keys() != reread.keys() or any(not torch.equal(inputs[name], reread[name]) for name in inputs):
        raise UserError(
            f"AutoTokenizer reads the {type(tokenizer).__name__} otherwise once it lies beside a "
            f"{written_class.__name__}; nothing was written"
        )
    expected = outputs(model, inputs)
    actual = outputs(written_class.from_pretrained(folder), inputs)
    difference = largest_relative(zip(actual, expected, strict=True))
    if reads_last_token(model) and tokenizer.pad_token_id is not None:
        length = {"truncation": True, "max_length": model.config.max_position_embeddings}
        batch = tokenizer(["A", SAMPLE[0]], padding=True, padding_side="right", return_tensors="pt", **length)
        padded = [outputs(each, dict(batch))[:1] for each in (written_class.from_pretrained(folder), model)]
        difference = max(difference, largest_relative(zip(*padded, strict=True)))
    if not difference <= TOLERANCE:
        raise UserError(
            f"the {written_class.__name__} and the {type(model).__name__} differ by {difference:.1e} on a sample text, "
            "which should not be; nothing was written"
        )
    return difference


def largest_relative(pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
    """How far tensors lie from what was expected, relative to its size (at least 1); infinite for what is no number."""
    found = [float((one - other).abs().max() / other.abs().max().clamp(min=1)) for one, other in pairs]
    return max(math.inf if math.isnan(one) else one for one in found)


def encode_sample(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Tensor]:
    """The sample text as one row, or as one row of one choice."""
    longest = model.config.max_position_embeddings
    encoded = tokenizer(*SAMPLE, truncation=True, max_length=longest, return_tensors="pt")
    is_choice = type(model).__name__.endswith("ForMultipleChoice")
    return {name: tensor[None] if is_choice else tensor for name, tensor in encoded.items()}


@torch.no_grad()
def outputs(model: PreTrainedModel, inputs: dict[str, Tensor]) -> list[Tensor]:
    """All output tensors of a model, in float32, without its cache; converts the model to float32."""
    return [value for value in model.float().eval()(**inputs).to_tuple() if isinstance(value, Tensor)]


def opening(record: dict[str, Any], name: str) -> str:
    """Python code that opens an export; `name` is the Python expression for its folder."""
    auto_class, trust = record["auto_class"], ", trust_remote_code=True" if record["trust_remote_code"] else ""
    return f"""from transformers import {auto_class}, AutoTokenizer

model = {auto_class}.from_pretrained({name}{trust})
tokenizer = AutoTokenizer.from_pretrained({name}{trust})
"""
