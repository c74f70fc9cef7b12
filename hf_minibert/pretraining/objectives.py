"""The objectives that models are pre-trained for: one row of `OBJECTIVES` each.

The loop, evaluations, samples, reports and cards find in that table all that differs between objectives.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from hf_minibert.data.rows import (
    Batch,
    CausalRows,
    MaskedRows,
    NextSentenceRows,
    Rows,
    RowSettings,
    SentenceOrderRows,
)
from hf_minibert.data.token_store import Documents
from hf_minibert.errors import UserError
from hf_minibert.evaluation.held_out import next_tokens, tokens_in_place
from hf_minibert.evaluation.samples import continuations, fill_ins
from hf_minibert.models.losses import IGNORE_INDEX
from hf_minibert.models.modeling_minibert import MiniBertForMaskedLM, MiniBertForPreTraining
from hf_minibert.models.modeling_minigpt import MiniGPTForCausalLM
from hf_minibert.presets import Config, PretrainingModel
from hf_minibert.pretraining.arguments import ObjectiveName, PretrainArguments
from hf_minibert.pretraining.hybrid import (
    HybridRows,
    MiniBertForHybridPreTraining,
    check_hybrid,
    write_decoder,
)

MakeRows = Callable[[Documents, RowSettings], Rows]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One way to read held-out text, and what its loss is called."""

    name: str
    """Its name in metrics such as `eval_mlm_loss`, if the objective has several readings."""
    words: str
    """What reports call the loss."""
    rows: MakeRows
    targets: Callable[[Batch], Tensor] = tokens_in_place
    """The tokens to predict, in order, (predictions,)."""
    predicts_all: bool = False
    """Whether every token is predicted, so that bits per byte say how well the text is compressed."""
    weight: Callable[[PretrainArguments], float] = lambda _: 1.0
    """Weight of this reading's loss in the loss of the objective."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What a model is trained for."""

    family: str
    """The family whose models can be trained for it: a key of `presets.FAMILIES`."""
    words: str
    """What cards call it."""
    model_class: type[PretrainingModel]
    rows: MakeRows
    """Training rows."""
    readings: tuple[Reading, ...]
    """How held-out text is read."""
    counts: Mapping[str, Callable[[Batch], Tensor]]
    """Counts of one batch, by the argument of `forward` that takes their sum over a step's batches and processes."""
    places: Mapping[str, Callable[[Batch], Tensor]] = field(default_factory=dict)
    """Where a batch's predicted tokens stand, by the argument of `forward` that takes it; a GPU cannot tell how many
    there are unless it is waited for."""
    flags: tuple[str, ...] = ()
    """Arguments that are for some objectives only, and for this one."""
    is_padded: bool = False
    """Whether rows have padding, and so different numbers of tokens."""
    losses: tuple[str, ...] = ()
    """The parts of the loss, by their names in the model's output."""
    logits: str = "logits"
    """The logits over the vocabulary, by their name in the model's output."""
    samples: Callable[..., list[dict[str, Any]]] = fill_ins
    """Makes the model's predictions for a few texts, for people to read."""
    evaluated_tokens: int = 49_152
    """Tokens that an evaluation reads; of masked rows, 15% are predicted."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the configuration that the objective needs."""
    forward_settings: Callable[[PretrainArguments], dict[str, Any]] = lambda _: {}
    """Arguments of `forward` that are the same for every batch."""
    check: Callable[[PretrainArguments, Config], None] = lambda _arguments, _config: None
    """Raises a `UserError` if arguments or configuration do not suit the objective."""
    saved_class: type[PretrainingModel] | None = None
    """The class that a checkpoint opens as; None if that is `model_class`."""
    write_beside: Callable[[Path, Config, Mapping[str, Tensor], PreTrainedTokenizerFast], None] | None = None
    """Writes what a checkpoint holds beside the model; None if there is nothing."""


def masked_rows(documents: Documents, settings: RowSettings) -> Rows:
    """Full rows of documents that do not see each other, some tokens masked."""
    return MaskedRows(documents, masking=settings.masking, **settings.frame)


def causal_rows(documents: Documents, settings: RowSettings) -> Rows:
    """Full rows of documents that do not see each other, every next token a target."""
    return CausalRows(documents, **settings.frame)


def paired_rows(kind: type[NextSentenceRows]) -> MakeRows:
    """How to make rows of masked pairs of segments, each pair with a label of its own."""
    return lambda documents, settings: kind(
        documents, masking=settings.masking, pad_id=settings.pad_id, **settings.frame
    )


def hybrid_rows(masked_share: float) -> MakeRows:
    """How to make rows of hybrid pre-training with another share of masked rows than the run's."""

    def make(documents: Documents, settings: RowSettings) -> Rows:
        rows = HybridRows(documents, settings)
        rows.masked_share = masked_share
        return rows

    return make


def predicted(batch: Batch) -> Tensor:
    """How many tokens of a batch are predicted."""
    return (batch["labels"] != IGNORE_INDEX).sum()


def real_tokens(batch: Batch) -> int:
    """How many tokens a batch has, without padding."""
    return int(batch["attention_mask"].sum()) if "attention_mask" in batch else batch["input_ids"].numel()


def predicted_places(batch: Batch) -> Tensor:
    """Where in `labels.flatten()` the tokens stand that are predicted, (predicted tokens,)."""
    return (batch["labels"].flatten() != IGNORE_INDEX).nonzero()[:, 0]


def places_in(kind: str, batch: Batch) -> Tensor:
    """The same in the rows of one kind, masked or causal, of a hybrid batch."""
    is_kind = batch["causal_rows"] == (kind == "causal")
    return predicted_places({"labels": batch["labels"].where(is_kind[:, None], IGNORE_INDEX)})


def predicted_in(kind: str) -> Callable[[Batch], Tensor]:
    """What counts the predicted tokens in the rows of one kind, masked or causal, of a hybrid batch."""
    return lambda batch: torch.tensor(len(places_in(kind, batch)))


def pairs(batch: Batch) -> Tensor:
    """How many pairs of segments a batch has."""
    return (batch["next_sentence_label"] != IGNORE_INDEX).sum()


def _paired(rows: type[NextSentenceRows], words: str) -> Objective:
    make = paired_rows(rows)
    return Objective(
        family="minibert",
        words=f"masked language modelling and {words}",
        model_class=MiniBertForPreTraining,
        rows=make,
        readings=(Reading(name="mlm", words="masked-LM", rows=make),),
        counts={"num_items_in_batch": predicted, "num_sentences_in_batch": pairs},
        places={"predicted_places": predicted_places},
        flags=("mlm_probability",),
        is_padded=True,
        losses=("mlm_loss", "nsp_loss"),
        logits="prediction_logits",
        samples=partial(fill_ins, logits="prediction_logits"),
    )


OBJECTIVES: dict[ObjectiveName, Objective] = {
    "mlm": Objective(
        family="minibert",
        words="masked language modelling",
        model_class=MiniBertForMaskedLM,
        rows=masked_rows,
        readings=(Reading(name="mlm", words="masked-LM", rows=masked_rows),),
        counts={"num_items_in_batch": predicted},
        places={"predicted_places": predicted_places},
        flags=("mlm_probability",),
    ),
    "mlm+nsp": _paired(NextSentenceRows, "next sentence prediction"),
    "mlm+sop": _paired(SentenceOrderRows, "sentence order prediction"),
    "hybrid": Objective(
        family="minibert",
        words="masked language modelling and next-token prediction, for an encoder and a decoder",
        model_class=MiniBertForHybridPreTraining,
        rows=HybridRows,
        readings=(
            Reading(
                name="mlm",
                words="masked-LM",
                rows=hybrid_rows(1.0),
                weight=lambda arguments: arguments.masked_share,
            ),
            Reading(
                name="clm",
                words="next-token",
                rows=hybrid_rows(0.0),
                predicts_all=True,
                weight=lambda arguments: 1 - arguments.masked_share,
            ),
        ),
        counts={
            "num_items_in_batch": predicted_in("masked"),
            "num_causal_items_in_batch": predicted_in("causal"),
        },
        places={"predicted_places": partial(places_in, "masked"), "causal_places": partial(places_in, "causal")},
        flags=("mlm_probability", "masked_share"),
        losses=("mlm_loss", "clm_loss"),
        config={"shifted_predictions": True},
        forward_settings=lambda arguments: {"masked_share": arguments.masked_share},
        check=check_hybrid,
        saved_class=MiniBertForMaskedLM,
        write_beside=write_decoder,
    ),
    "clm": Objective(
        family="minigpt",
        words="next-token prediction",
        model_class=MiniGPTForCausalLM,
        rows=causal_rows,
        readings=(Reading(name="clm", words="next-token", rows=causal_rows, targets=next_tokens, predicts_all=True),),
        counts={"num_items_in_batch": predicted},
        samples=continuations,
        evaluated_tokens=24_576,  # all of which are predicted
        forward_settings=lambda _: {"use_cache": False},
    ),
}


def choose_objective(model: str, family: str, name: ObjectiveName | None) -> ObjectiveName:
    """The objective of a run: the one that is asked for, or the first of the table for the family.

    Raises:
        UserError: models of the family cannot be trained for it.
    """
    possible: list[ObjectiveName] = [each for each, objective in OBJECTIVES.items() if objective.family == family]
    if name is not None and name not in possible:
        raise UserError(f"{model} cannot be trained for {name}; its objectives are {', '.join(possible)}")
    return name or possible[0]


def combined(objective: Objective, measured: list[dict[str, float]], arguments: PretrainArguments) -> dict[str, float]:
    """One evaluation's metrics from those of its readings; of several, each loss by name and their weighted sum."""
    first, *others = measured
    metrics = dict(first)
    if others:
        named = list(zip(objective.readings, measured, strict=True))
        metrics |= {f"eval_{reading.name}_loss": found["eval_loss"] for reading, found in named}
        for found in others:
            metrics |= {name: value for name, value in found.items() if name == "eval_bits_per_byte"}
        metrics["eval_loss"] = sum(reading.weight(arguments) * found["eval_loss"] for reading, found in named)
    return metrics
