"""The plan of a pre-training run: its arguments with every default decided, its objective, config and tokenizer."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast
from transformers.utils.import_utils import is_flash_attn_2_available

from hf_minibert.errors import UserError
from hf_minibert.models.configuration_minibert import MiniBertConfig
from hf_minibert.presets import (
    LEARNING_RATES,
    Config,
    PretrainingModel,
    build_config,
    family_name,
    family_of,
    parse_overrides,
    size_of,
)
from hf_minibert.pretraining.arguments import ObjectiveName, PretrainArguments
from hf_minibert.pretraining.objectives import OBJECTIVES, Objective, choose_objective
from hf_minibert.pretraining.schedule import End
from hf_minibert.runs.hardware import (
    compiling_pays,
    computes_in_bfloat16,
    fastest_attention,
    has_compiler,
    tokens_per_batch,
)
from hf_minibert.tokenization import OWN_TOKENIZER, adapt_tokenizer, load_tokenizer


@dataclass(kw_only=True)
class DecidedArguments(PretrainArguments):
    """Arguments with every default decided. A resumed run starts from these, and does not decide again."""

    objective: ObjectiveName
    max_seq_length: int
    per_device_train_batch_size: int
    learning_rate: float
    weight_decay: float
    max_eval_samples: int
    attn_implementation: Any
    mixed_precision: Any
    compile: bool
    dataloader_num_workers: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is known of a run before its corpus is read."""

    arguments: DecidedArguments
    objective: Objective
    config: Config
    tokenizer: PreTrainedTokenizerFast

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.arguments.output_dir)


def make_plan(arguments: PretrainArguments) -> Plan:
    """Decide the defaults and check everything that is cheap to check; nothing is written.

    Raises:
        UserError: the arguments ask for something impossible.
    """
    decided = decide(arguments)
    objective = OBJECTIVES[decided.objective]
    if decided.attn_implementation == "flash_attention_2" and not is_flash_attn_2_available():
        raise UserError("attn_implementation flash_attention_2 needs a GPU and its package: pip install flash-attn")
    if decided.attn_implementation == "flash_attention_2" and decided.mixed_precision != "bf16":
        raise UserError(
            f"attn_implementation flash_attention_2 computes in bf16, and this run in {decided.mixed_precision}; give "
            "--mixed_precision bf16, or use sdpa"
        )
    if decided.attn_implementation == "flex_attention" and not torch.accelerator.is_available():
        raise UserError("attn_implementation flex_attention has no gradient on a CPU; use sdpa or eager")
    if decided.compile and not has_compiler():
        raise UserError(
            "compile needs a C++ compiler (g++, or what CXX names) and Python's headers (Python.h) on a CPU; install "
            "them, or say --compile no"
        )
    tokenizer = load_tokenizer(arguments.tokenizer or OWN_TOKENIZER)
    tokens: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
    }
    fields = tokens | dict(objective.config)
    if decided.max_seq_length > MiniBertConfig.max_position_embeddings:
        fields["max_position_embeddings"] = decided.max_seq_length
    fields |= parse_overrides(arguments.config_overrides)
    config = build_config(arguments.model, arguments.architecture, **fields)
    objective.check(decided, config)
    if config.vocab_size < len(tokenizer):
        raise UserError(f"vocab_size {config.vocab_size} is smaller than the tokenizer's {len(tokenizer)} entries")
    if decided.max_seq_length > config.max_position_embeddings:
        raise UserError(
            f"max_seq_length {decided.max_seq_length} is more than the model's {config.max_position_embeddings} "
            "positions; make it smaller, or leave max_position_embeddings out of --config_overrides"
        )
    return Plan(
        arguments=decided,
        objective=objective,
        config=config,
        tokenizer=adapt_tokenizer(
            tokenizer,
            model_type="minibert" if isinstance(config, MiniBertConfig) else "minigpt",
            uses_token_types=isinstance(config, MiniBertConfig) and config.type_vocab_size > 0,
            model_max_length=config.max_position_embeddings,
        ),
    )


def refuse_idle(plan: Plan) -> None:
    """Check that a new run is given no flag that its objective does not use; earlier versions took and saved some.

    Raises:
        UserError: it is.
    """
    for name in ("mlm_probability", "masked_share"):
        if name not in plan.objective.flags and getattr(plan.arguments, name) != getattr(PretrainArguments, name):
            takers = ", ".join(each for each, other in OBJECTIVES.items() if name in other.flags)
            raise UserError(f"{name} is for {takers}, and this run learns {plan.arguments.objective}; leave it out")


def decide(arguments: PretrainArguments) -> DecidedArguments:
    """The arguments with a value in place of every default that depends on others, or on the machine."""
    family = family_of(arguments.model)
    objective = choose_objective(arguments.model, family_name(arguments.model), arguments.objective)
    length = arguments.max_seq_length or family.max_seq_length
    rates = LEARNING_RATES[arguments.optimizer][arguments.architecture]
    compiles = arguments.compile
    if compiles is None:
        compiles = has_compiler() and compiling_pays(length, End.of(arguments).seconds)
    decay, workers = arguments.weight_decay, arguments.dataloader_num_workers
    if workers is None:
        workers = int(torch.cuda.is_available())  # while a GPU computes, it prepares the next batches
    evaluated = OBJECTIVES[objective].evaluated_tokens
    given = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(PretrainArguments)}
    return DecidedArguments(
        **given
        | {
            "objective": objective,
            "max_seq_length": length,
            "per_device_train_batch_size": arguments.per_device_train_batch_size
            or max(1, tokens_per_batch() // length),
            "learning_rate": arguments.learning_rate or rates[size_of(arguments.model)],
            "weight_decay": family.weight_decay if decay is None else decay,
            "max_eval_samples": arguments.max_eval_samples or max(1, evaluated // length),
            "attn_implementation": arguments.attn_implementation or fastest_attention(length, is_compiled=compiles),
            "mixed_precision": arguments.mixed_precision or ("bf16" if computes_in_bfloat16() else "no"),
            "compile": compiles,
            "dataloader_num_workers": workers,
        }
    )


def build_model(plan: Plan) -> PretrainingModel:
    """The plan's model, with new weights."""
    model_class: Any = plan.objective.model_class
    model: PretrainingModel = model_class(plan.config)
    model.set_attn_implementation(str(plan.arguments.attn_implementation))
    return model
