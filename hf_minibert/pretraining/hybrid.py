"""Hybrid pre-training: one MiniBERT learns from masked and from causal rows, and is an encoder and a decoder.

GPT-BERT: Charpentier and Samuel 2024, arXiv:2410.24159. Its rows, its losses and the decoder made of its
weights are all in this file.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast
from transformers.modeling_outputs import MaskedLMOutput
from transformers.utils.generic import ModelOutput

from hf_minibert.data.rows import Batch, CausalRows, Draw, Integers, MaskedRows, RowSettings, uniform
from hf_minibert.data.token_store import Documents
from hf_minibert.errors import UserError
from hf_minibert.files import DECODER
from hf_minibert.models.configuration_minibert import MiniBertConfig
from hf_minibert.models.configuration_minigpt import MiniGPTConfig
from hf_minibert.models.configuration_transformer import TransformerConfig
from hf_minibert.models.losses import IGNORE_INDEX
from hf_minibert.models.modeling_minibert import MiniBertForMaskedLM, MiniBertModelKwargs
from hf_minibert.models.modeling_minigpt import MiniGPTForCausalLM
from hf_minibert.presets import Config
from hf_minibert.pretraining.arguments import PretrainArguments
from hf_minibert.tokenization import adapt_tokenizer, save_tokenizer


class HybridRows:
    """Masked and causal rows in one batch. In both, a token's label is at the token's own position.

    Which rows are causal is drawn for each (epoch, row).
    """

    def __init__(self, documents: Documents, settings: RowSettings) -> None:
        self._masked = MaskedRows(documents, masking=settings.masking, **settings.frame)
        self._causal = CausalRows(documents, **settings.frame)
        self.masked_share, self.seed = settings.masked_share, settings.seed
        self.num_rows = self._masked.num_rows

    def batch(self, epoch: int, rows: Integers) -> Batch:
        """`input_ids`, `position_ids`, `labels` and `causal_rows`."""
        kinds = uniform(self.seed, epoch, Draw.KIND, rows, np.zeros_like(rows))
        causal_rows = torch.from_numpy(kinds >= self.masked_share)
        masked, causal = self._masked.batch(epoch, rows), self._causal.batch(epoch, rows)
        causal["labels"][:, 0] = IGNORE_INDEX  # nothing leads to the first token of a row
        mixed = {name: torch.where(causal_rows[:, None], causal[name], masked[name]) for name in masked}
        return mixed | {"causal_rows": causal_rows}


@dataclass
class MiniBertForHybridPreTrainingOutput(ModelOutput):
    """Losses of `MiniBertForHybridPreTraining`, in nats."""

    loss: Tensor | None = None
    mlm_loss: Tensor | None = None
    clm_loss: Tensor | None = None


class MiniBertForHybridPreTraining(MiniBertForMaskedLM):
    """MiniBERT that learns to fill in masked tokens and to continue a text, with one set of weights for both.

    Masked rows hide some tokens, causal rows all later ones; in both, the state before a token predicts it (GPT-BERT,
    Charpentier and Samuel 2024, arXiv:2410.24159). The trained weights open as `MiniBertForMaskedLM`, and through
    `as_decoder` as `MiniGPTForCausalLM`.
    """

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        causal_rows: Tensor | None = None,
        predicted_places: Tensor | None = None,
        causal_places: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        num_causal_items_in_batch: Tensor | int | None = None,
        masked_share: float = 0.5,
        full_logits: bool | None = None,
        **kwargs: Unpack[MiniBertModelKwargs],
    ) -> MiniBertForHybridPreTrainingOutput | MaskedLMOutput:
        """The loss of both kinds of rows; without `causal_rows` or labels, or with `full_logits`, the parent's output.

        Args:
            input_ids: (batch, sequence).
            attention_mask: see `MiniBertModel.forward`.
            position_ids: see `MiniBertModel.forward`.
            labels: (batch, sequence); -100 where nothing is predicted.
            causal_rows: (batch,), true for rows in which no token sees a later one.
            predicted_places: (predicted tokens,), where in `labels.flatten()` masked rows' tokens to predict stand.
            causal_places: the same of causal rows. Without both, the labels say so.
            num_items_in_batch: tokens to predict in masked rows over all accumulation steps; default, this batch's.
            num_causal_items_in_batch: the same for causal rows.
            masked_share: weight of the masked rows' loss; the causal rows' loss has the rest.
            full_logits: see `MiniBertForMaskedLM.forward`.
            kwargs: for `MiniBertModel.forward`.
        """
        inputs = {"attention_mask": attention_mask, "position_ids": position_ids, "causal_rows": causal_rows, **kwargs}
        if causal_rows is None or labels is None or full_logits is not None:
            outputs: MaskedLMOutput = super().forward(
                input_ids, labels=labels, num_items_in_batch=num_items_in_batch, full_logits=full_logits, **inputs
            )
            return outputs
        states = self.model(input_ids, **inputs, return_dict=True).last_hidden_state
        if predicted_places is None or causal_places is None:
            of_causal_rows, is_predicted = causal_rows[:, None], labels != IGNORE_INDEX
            predicted_places = (is_predicted & ~of_causal_rows).flatten()
            causal_places = (is_predicted & of_causal_rows).flatten()
        losses = [
            self.predict_masked(states, labels, items, None, places)[0]
            for places, items in (
                (predicted_places, num_items_in_batch),
                (causal_places, num_causal_items_in_batch),
            )
        ]
        mlm_loss, clm_loss = (loss for loss in losses if loss is not None)
        loss = masked_share * mlm_loss + (1 - masked_share) * clm_loss
        return MiniBertForHybridPreTrainingOutput(loss=loss, mlm_loss=mlm_loss, clm_loss=clm_loss)


def decoder_config(config: MiniBertConfig) -> MiniGPTConfig:
    """The configuration of the decoder that has the encoder's weights.

    Raises:
        UserError: the encoder was not trained for hybrid, or has parts that MiniGPT lacks.
    """
    needed = {"shifted_predictions": True, "type_vocab_size": 0, "mlm_head_transform": False, "use_bias": False}
    wrong = [f"{name}={getattr(config, name)!r}" for name, value in needed.items() if getattr(config, name) != value]
    if wrong:
        raise UserError(f"only a MiniBERT of `--objective hybrid` is a decoder, too; this one has {', '.join(wrong)}")
    shared = {name: getattr(config, name) for name in TransformerConfig.__annotations__ if name != "auto_map"}
    return MiniGPTConfig(**shared)


def decoder_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's weights under the names that they have in the decoder."""
    return {name.replace("lm_head.decoder.", "lm_head."): weight for name, weight in weights.items()}


def as_decoder(model: MiniBertForMaskedLM) -> MiniGPTForCausalLM:
    """The causal model in an encoder of `--objective hybrid`; the weights are copied.

    Raises:
        UserError: see `decoder_config`.
    """
    decoder = MiniGPTForCausalLM(decoder_config(model.config))
    decoder.load_state_dict(decoder_weights(model.state_dict()))
    nn.Module.to(decoder, device=model.device, dtype=model.dtype)
    decoder.train(model.training)
    return decoder


def check_hybrid(arguments: PretrainArguments, config: Config) -> None:
    """Check that a run can train an encoder and a decoder at once.

    Raises:
        UserError: the architecture, a field of the config or the attention implementation stands in the way.
    """
    if arguments.architecture != "modern":
        raise UserError("hybrid needs --architecture modern: classic MiniBERT has no counterpart among decoders")
    if arguments.attn_implementation == "flash_attention_2":
        raise UserError("attn_implementation flash_attention_2 cannot mix masked and causal rows; use sdpa")
    assert isinstance(config, MiniBertConfig)
    with torch.device("meta"):  # transformers takes note of the class now, and not after the encoder is compiled with
        MiniGPTForCausalLM(decoder_config(config))  # what it knows; it would be compiled again


def write_decoder(
    folder: Path, config: Config, weights: Mapping[str, Tensor], tokenizer: PreTrainedTokenizerFast
) -> None:
    """Write the decoder into its own folder; its code also goes beside the encoder's, where transformers looks."""
    assert isinstance(config, MiniBertConfig)
    with torch.device("meta"):
        decoder = MiniGPTForCausalLM(decoder_config(config))
    decoder.save_pretrained(folder / DECODER, state_dict=decoder_weights(weights))
    for code in (folder / DECODER).glob("*.py"):
        shutil.copyfile(code, folder / code.name)
    adapted = adapt_tokenizer(
        tokenizer,
        model_type="minigpt",
        uses_token_types=False,
        model_max_length=config.max_position_embeddings,
    )
    save_tokenizer(adapted, folder / DECODER)
