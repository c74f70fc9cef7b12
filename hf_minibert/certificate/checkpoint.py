"""A folder with a model and its tokenizer, ours or a stock one, opened with the head that it was saved with."""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.logging import disable_progress_bar

from hf_minibert import models
from hf_minibert.errors import UserError, reason_of
from hf_minibert.models.caches import CACHE_NAME
from hf_minibert.models.configuration_transformer import TransformerConfig
from hf_minibert.presets import load_pretrained

LENGTH = 24
"""Tokens of the rows that the measurements read, where the model knows as many positions."""


RECURRENT = "cache_params"
"""What state-space models such as Mamba call their cache: a state, after which they read one token at a time."""


class NotApplicable(Exception):  # noqa: N818  # not a fault, but an answer
    """A line of the certificate means nothing for this checkpoint; the message says why."""


@dataclass(frozen=True)
class Checkpoint:
    """What the lines of a certificate measure."""

    folder: Path
    model_class: Any
    model: Any
    """With its head, in float32 and evaluation mode."""
    tokenizer: PreTrainedTokenizerBase

    @property
    def is_ours(self) -> bool:
        """Whether it is a MiniBERT or a MiniGPT."""
        return isinstance(self.model.config, TransformerConfig)

    @property
    def name(self) -> str:
        """The name of the class."""
        return type(self.model).__name__

    @property
    def encoder(self) -> Any:
        """The body whose tokens see every other.

        Raises:
            NotApplicable: there is none.
        """
        if self.model.config.is_encoder_decoder:
            return self.model.get_encoder().base_model
        if is_meant_as_decoder(self.model):
            raise NotApplicable(f"a {self.name} is a decoder")
        return self.model.base_model

    @property
    def decoder(self) -> Any:
        """The body whose tokens see none after them, as its class says, whatever it does.

        Raises:
            NotApplicable: there is none.
        """
        if self.model.config.is_encoder_decoder:
            return self.model.get_decoder().base_model
        if not is_meant_as_decoder(self.model):
            raise NotApplicable(f"a {self.name} is an encoder")
        return self.model.base_model

    @property
    def body(self) -> Any:
        """The encoder, or else the decoder."""
        try:
            return self.encoder
        except NotApplicable:
            return self.decoder

    def rows(self, count: int = 1, seed: int = 0) -> Tensor:
        """(count, LENGTH) ids of ordinary tokens; shorter if the model knows fewer positions."""
        special = set(self.tokenizer.all_special_ids)
        ordinary = [token for token in range(min(self.vocab_size, len(self.tokenizer))) if token not in special]
        generator = torch.Generator().manual_seed(seed)
        length = min(LENGTH, self.model.config.get_text_config().to_dict().get("max_position_embeddings") or LENGTH)
        return torch.tensor(ordinary)[torch.randint(len(ordinary), (count, length), generator=generator)]

    @property
    def cache_name(self) -> str | None:
        """What the decoder calls its cache, as it takes and returns it; None: it keeps none that is known here."""
        decoder = self.decoder
        names = (name for name in (CACHE_NAME, RECURRENT) if takes(decoder, name))
        return next(names, None) if takes(decoder, "use_cache") else None

    @property
    def vocab_size(self) -> int:
        """Rows of the table of embeddings."""
        return int(self.body.get_input_embeddings().weight.shape[0])

    def states(self, body: Any, ids: Tensor, **inputs: Any) -> Tensor:
        """(rows, sequence, hidden), of a body, without a cache."""
        found: Tensor = self.outputs(body, ids, use_cache=False, **inputs).last_hidden_state
        return found

    def outputs(self, body: Any, ids: Tensor, *, use_cache: bool, **inputs: Any) -> Any:
        """What a body returns for (rows, sequence) ids; a decoder that has an encoder gets states of one."""
        if takes(body, "use_cache"):
            inputs["use_cache"] = use_cache
        if self.model.config.is_encoder_decoder and body is self.decoder:
            width = int(body.get_input_embeddings().weight.shape[1])
            states = torch.randn(1, 7, width, generator=torch.Generator().manual_seed(1))
            inputs["encoder_hidden_states"] = states.expand(len(ids), -1, -1)
        return body(input_ids=ids, return_dict=True, **inputs)


def takes(model: Any, name: str) -> bool:
    """Whether the `forward` of a model names an argument."""
    return name in inspect.signature(model.forward).parameters


def is_meant_as_decoder(model: PreTrainedModel) -> bool:
    """Whether a model promises that no token sees a later one: by its class and configuration, not by what it does."""
    name, kind = type(model).__name__, type(model.config)
    if name.endswith(("ForCausalLM", "LMHeadModel")) or model.config.to_dict().get("is_decoder"):
        return True
    mappings = AutoModelForCausalLM._model_mapping, AutoModelForMaskedLM._model_mapping
    is_causal, is_masked = (kind in mapping for mapping in mappings)
    return is_causal and not is_masked


def open_folder(folder: Path) -> Checkpoint:
    """The checkpoint in a folder; no code in it is run.

    Raises:
        UserError: it holds no whole model of text with its tokenizer.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give the folder of a checkpoint")
    disable_progress_bar()  # of loading, which is short
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # a config.json may hold anything, and each part of transformers stumbles in its own way
        raise UserError(f"{folder} holds no model that opens: {reason_of(error)[:300]}") from error
    name = (config.architectures or [""])[0]
    model_class: Any = vars(models).get(name) or getattr(transformers, name or "AutoModel", None)
    if model_class is None:
        raise UserError(f"{folder} holds a {name}, which neither hf_minibert nor transformers has; save it as theirs")
    if model_class is AutoModel:
        model_class = AutoModel._model_mapping[type(config)]
    model, missing = load_pretrained(model_class, str(folder), dtype=torch.float32)
    if missing:
        raise UserError(f"{folder} is not a whole {model_class.__name__}: it lacks {', '.join(sorted(missing)[:3])}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # tokenizers raises nothing narrower for a damaged file
        reason = reason_of(error)[:300]
        raise UserError(f"{folder} holds no tokenizer that opens ({reason}); save the model's there") from error
    if model.main_input_name != "input_ids" or not len(tokenizer):
        raise UserError(
            f"{folder} holds a {model_class.__name__}, which reads no text; only models of text are checked"
        )
    return Checkpoint(folder, model_class, model.eval(), tokenizer)
