"""What a pre-training run is made of before its first step: folder, text, objective and the shape of the model."""

import dataclasses
import hashlib
import json
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from transformers.utils.import_utils import is_flash_attn_2_available

from hf_minibert.data.corpus import BUILTIN, Corpus, HubStream, open_corpus
from hf_minibert.data.loader import evaluation_batches
from hf_minibert.data.objectives import (
    PAIRED,
    CausalLM,
    Hybrid,
    MaskedLM,
    Masking,
    NextSentencePrediction,
    Objective,
    SentenceOrderPrediction,
)
from hf_minibert.data.streamed import StreamedObjective, open_stream
from hf_minibert.data.token_store import (
    Documents,
    TokenStore,
    cached_store,
    is_token_store,
    open_prepared_store,
    open_token_store,
)
from hf_minibert.errors import UserError
from hf_minibert.interop.decoder import decoder_config
from hf_minibert.models.configuration_minibert import MiniBertConfig
from hf_minibert.presets import (
    LEARNING_RATES,
    Config,
    ObjectiveName,
    PretrainingModel,
    build_config,
    family_of,
    parse_overrides,
    size_of,
)
from hf_minibert.tokenization import OWN_TOKENIZER, adapt_tokenizer, load_tokenizer
from hf_minibert.training.arguments import PretrainArguments
from hf_minibert.training.checkpoint import latest_checkpoint
from hf_minibert.training.device import (
    compiling_pays,
    computes_in_bfloat16,
    fastest_attention,
    has_compiler,
    tokens_per_batch,
)
from hf_minibert.training.evaluation import frequency_baselines, predicted_tokens, token_lengths
from hf_minibert.training.optimization import End
from hf_minibert.training.samples import held_out_sentences

ARGUMENTS = "arguments.json"
TOKENS_PER_EVALUATION = {"masked": 49_152, "causal": 24_576}  # of which 15% are predicted, or all
EVALUATION_SEED = 0
EVALUATION_MASKING = 0.15
SAMPLES = 3
FEW_DOCUMENTS = 2
LENGTH_OF_OLD_FINGERPRINTS = 16


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The arguments with every default decided, and what can be known without reading the corpus."""

    arguments: PretrainArguments
    objective: ObjectiveName
    max_seq_length: int
    batch_size: int
    learning_rate: float
    max_eval_samples: int
    folder: Path
    config: Config
    tokenizer: PreTrainedTokenizerFast


@dataclass(frozen=True, kw_only=True)
class RunData:
    """What a run reads: training and held-out rows, and what an evaluation compares with."""

    corpus: Corpus | Path
    """Where the text comes from, or a folder in which it lies tokenised."""
    store: TokenStore
    """Of a stream, the first part."""
    fingerprint: str
    """Of what is trained on, by its content."""
    train: Objective
    held_out: Objective
    held_out_causal: Objective | None
    """In hybrid pre-training, the same rows to be read causally."""
    baselines: dict[str, float]
    token_lengths: Tensor | None
    sentences: list[str]


def make_plan(arguments: PretrainArguments) -> Plan:
    """Decide the defaults and check everything that is cheap to check; nothing is written.

    Raises:
        UserError: the arguments ask for something that cannot be.
    """
    family = family_of(arguments.model)
    default, *_ = family.objectives
    objective = arguments.objective or default
    if objective not in family.objectives:
        raise UserError(
            f"{arguments.model} cannot be trained for {objective}; its objectives are {', '.join(family.objectives)}"
        )
    length = arguments.max_seq_length or family.max_seq_length
    batch_size = arguments.per_device_train_batch_size or max(1, tokens_per_batch() // length)
    evaluated = TOKENS_PER_EVALUATION["causal" if objective == "clm" else "masked"]
    max_eval_samples = arguments.max_eval_samples or max(1, evaluated // length)
    rates = LEARNING_RATES[arguments.optimizer][arguments.architecture]
    learning_rate = arguments.learning_rate or rates[size_of(arguments.model)]
    if objective == "hybrid" and arguments.architecture != "modern":
        raise UserError("hybrid needs --architecture modern: classic MiniBERT has no counterpart among decoders")
    tokenizer = load_tokenizer(arguments.tokenizer or OWN_TOKENIZER)
    tokens: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
    }
    if objective == "hybrid":
        tokens["shifted_predictions"] = True
    config = build_config(
        arguments.model, arguments.architecture, **tokens | parse_overrides(arguments.config_overrides)
    )
    if objective == "hybrid":
        assert isinstance(config, MiniBertConfig)
        decoder_config(config)  # which refuses what MiniGPT has not
    if config.vocab_size < len(tokenizer):
        raise UserError(f"vocab_size {config.vocab_size} is smaller than the tokenizer's {len(tokenizer)} entries")
    if length > config.max_position_embeddings:
        raise UserError(
            f"max_seq_length {length} is more than the model's {config.max_position_embeddings} positions; make it "
            f"smaller, or add --config_overrides max_position_embeddings={length}"
        )
    if arguments.attn_implementation == "flash_attention_2" and not is_flash_attn_2_available():
        raise UserError("attn_implementation flash_attention_2 needs a GPU and its package: pip install flash-attn")
    if arguments.attn_implementation == "flash_attention_2" and objective == "hybrid":
        raise UserError("attn_implementation flash_attention_2 cannot mix masked and causal rows; use sdpa")
    if arguments.attn_implementation == "flex_attention" and not torch.accelerator.is_available():
        raise UserError("attn_implementation flex_attention has no gradient on a CPU; use sdpa or eager")
    if arguments.compile and not has_compiler():
        raise UserError(
            "compile needs a C++ compiler (g++, or what CXX names) and Python's headers (Python.h) on a CPU; install "
            "them, or say --compile no"
        )
    is_bert = isinstance(config, MiniBertConfig)
    seconds = End.of(arguments).seconds
    return Plan(
        # What a default depends on is written down, so that a resumed run does not depend on it again.
        arguments=dataclasses.replace(
            arguments,
            objective=objective,
            max_seq_length=length,
            per_device_train_batch_size=batch_size,
            max_eval_samples=max_eval_samples,
            learning_rate=learning_rate,
            weight_decay=family.weight_decay if arguments.weight_decay is None else arguments.weight_decay,
            attn_implementation=arguments.attn_implementation or fastest_attention(length),
            mixed_precision=arguments.mixed_precision or ("bf16" if computes_in_bfloat16() else "no"),
            compile=has_compiler() and compiling_pays(length, seconds)
            if arguments.compile is None
            else arguments.compile,
        ),
        objective=objective,
        max_seq_length=length,
        batch_size=batch_size,
        learning_rate=learning_rate,
        max_eval_samples=max_eval_samples,
        folder=Path(arguments.output_dir),
        config=config,
        tokenizer=adapt_tokenizer(
            tokenizer,
            model_type="minibert" if is_bert else "minigpt",
            uses_token_types=isinstance(config, MiniBertConfig) and config.type_vocab_size > 0,
            model_max_length=config.max_position_embeddings,
        ),
    )


def build_model(plan: Plan) -> PretrainingModel:
    """The plan's model, with new weights."""
    model_class: Any = family_of(plan.arguments.model).objectives[plan.objective]
    model: PretrainingModel = model_class(plan.config)
    model.set_attn_implementation(str(plan.arguments.attn_implementation))
    return model


def find_corpus(arguments: PretrainArguments) -> Corpus | Path:
    """The corpus that the arguments name, or the folder that `prepare_data.py` made of one."""
    folder = Path(arguments.corpus[0])
    is_prepared = arguments.corpus != [BUILTIN] and len(arguments.corpus) == 1 and is_token_store(folder)
    if is_prepared and not arguments.streaming:
        if arguments.document != "file":
            raise UserError(f"{folder} is tokenised already; --document is for the command that prepares it")
        return folder
    return open_corpus(
        arguments.corpus,
        text_column=arguments.text_column,
        streaming=arguments.streaming,
        document=arguments.document,
    )


def check_folder(arguments: PretrainArguments) -> None:
    """Whether the run may have its folder; nothing is written.

    Raises:
        UserError: the path is a file, or holds an earlier run that nobody said to delete, or none to resume.
    """
    folder = Path(arguments.output_dir)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"output_dir {folder} is a file; give a folder")
    if arguments.resume:
        latest_checkpoint(folder)
    elif folder.exists() and any(folder.iterdir()):
        if not arguments.overwrite_output_dir:
            raise UserError(
                f"output_dir {folder} is not empty; give another, or --resume to go on with its run, or "
                "--overwrite_output_dir to delete it"
            )
        if not is_pretraining(folder):
            raise UserError(f"output_dir {folder} holds no earlier run of pre-training, so it is not deleted")


def is_pretraining(folder: Path) -> bool:
    """Whether a folder is that of a run like this."""
    try:
        return "objective" in json.loads((folder / ARGUMENTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def make_folder(arguments: PretrainArguments) -> None:
    """Make the run's folder, empty unless the run goes on.

    Raises:
        UserError: as `check_folder`, if something came into the folder since that was called.
    """
    check_folder(arguments)
    folder = Path(arguments.output_dir)
    if folder.exists() and not arguments.resume:
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)


def build_objective(
    plan: Plan, store: TokenStore, *, for_evaluation: bool, masked_share: float | None = None
) -> Objective:
    """What the plan trains for, over the training or the held-out documents; evaluation has fixed masks of its own.

    `masked_share` is that of hybrid pre-training; default, the plan's, or 1 for evaluation.

    Raises:
        UserError: the documents are too few or too short.
    """
    part, documents = ("held-out", store.held_out) if for_evaluation else ("training", store.train)
    share = masked_share if masked_share is not None else 1.0 if for_evaluation else plan.arguments.masked_share
    try:
        return objective_over(plan, documents, for_evaluation=for_evaluation, masked_share=share)
    except UserError as error:
        raise UserError(f"the {part} part of the corpus is too small: {error}") from error


def objective_over(plan: Plan, documents: Documents, *, for_evaluation: bool, masked_share: float = 1.0) -> Objective:
    """What the plan trains for, over any documents; see `build_objective`."""
    tokenizer = plan.tokenizer
    seed = EVALUATION_SEED if for_evaluation else plan.arguments.seed
    shape: dict[str, Any] = {
        "length": plan.max_seq_length,
        "cls_id": tokenizer.cls_token_id,
        "sep_id": tokenizer.sep_token_id,
        "seed": seed,
    }
    if plan.objective == "clm":
        return CausalLM(documents, **shape)
    masking = Masking(
        probability=EVALUATION_MASKING if for_evaluation else plan.arguments.mlm_probability,
        mask_id=tokenizer.mask_token_id,
        special_ids=tokenizer.all_special_ids,
        vocab_size=len(tokenizer),
        seed=seed,
    )
    if plan.objective in PAIRED:
        pairs = NextSentencePrediction if plan.objective == "mlm+nsp" else SentenceOrderPrediction
        return pairs(documents, masking=masking, pad_id=tokenizer.pad_token_id, **shape)
    masked = MaskedLM(documents, masking=masking, **shape)
    if plan.objective == "mlm":
        return masked
    return Hybrid(masked=masked, causal=CausalLM(documents, **shape), masked_share=masked_share, seed=seed)


def _baselines(plan: Plan, store: TokenStore, held_out: Objective, objective: str) -> dict[str, float]:
    """What frequencies alone would reach on the rows of an evaluation."""
    rows = evaluation_batches(held_out, batch_size=64, max_rows=plan.max_eval_samples)
    # Where a decoder's labels stand depends on the objective: in hybrid rows, at the tokens themselves.
    targets = torch.cat([predicted_tokens(batch, plan.objective) for batch in rows])
    return frequency_baselines(store, targets.numpy(), plan.tokenizer, objective)


def check_same_everywhere(store: TokenStore, accelerator: Accelerator) -> None:
    """Nodes may each have a copy of the text.

    Raises:
        UserError: the text is not the same for all, or not in the same order.
    """
    mine = torch.tensor(list(bytes.fromhex(store.identity)), device=accelerator.device)
    everyones = accelerator.gather(mine[None])
    if bool((everyones != everyones[0]).any()):
        raise UserError(
            "the processes have read different text, this one "
            f"{store.info.documents:,} documents with {store.info.tokens:,} tokens; give every node the same corpus "
            "(the builtin one is what is installed there) and tokenizer"
        )


def check_same_data(before: str, data: RunData) -> None:
    """Whether a run goes on with the text that it began with.

    Earlier versions noted places, sizes and times in place of the text. Then the tokens that the run made are asked,
    which are in the cache or in the folder that it was given.

    Raises:
        UserError: it is other text or another tokenizer, or nothing is left that could tell.
    """
    if before == data.fingerprint or before == data.store.info.fingerprint:
        return
    if len(before) == LENGTH_OF_OLD_FINGERPRINTS:
        earlier = cached_store(before)
        if not is_token_store(earlier):
            raise UserError(
                "the run was begun by an earlier version, which told texts apart by place and time, and the tokens "
                f"that it made are no longer at {earlier}, so nothing shows that the corpus is still the same; start "
                "a run of its own in another --output_dir"
            )
        before = TokenStore(earlier).identity
    if before != data.fingerprint:
        raise UserError(
            f"the corpus or the tokenizer is not what the run began with (text {before}, now {data.fingerprint}); "
            "restore it, or start a run of its own in another --output_dir"
        )


def read_data(plan: Plan, accelerator: Accelerator) -> RunData:
    """Tokenise the corpus, or find it tokenised, and cut it into rows."""
    arguments = plan.arguments
    stream = None
    with accelerator.main_process_first(), accelerator.local_main_process_first():  # nodes may share no cache
        corpus = find_corpus(arguments)
        if isinstance(corpus, Path):
            store = open_prepared_store(corpus, plan.tokenizer)
        elif isinstance(corpus, HubStream):
            run = hashlib.sha256(str(plan.folder.resolve()).encode()).hexdigest()[:16]
            stream = open_stream(corpus, plan.tokenizer, run)
            store = TokenStore(stream.part(0))
        else:
            store = open_token_store(corpus, plan.tokenizer)
    check_same_everywhere(store, accelerator)
    fingerprint = store.identity if stream is None else stream.identity(store)
    if isinstance(corpus, Corpus) and corpus.skipped:
        accelerator.print(corpus.skipped)
    empty = f", {store.info.empty_documents:,} empty ones left out" if store.info.empty_documents else ""
    accelerator.print(
        f"{store.info.corpus}{', the first part' if stream else ''}: {store.info.documents:,} documents, "
        f"{store.info.tokens:,} tokens{empty}; "
        f"{len(store.train):,} documents to train on, {len(store.held_out):,} held out"
    )
    if len(store.held_out) <= FEW_DOCUMENTS:
        accelerator.print(
            f"warning: the held-out loss rests on {len(store.held_out)} document(s); more documents make it reliable"
        )
    held_out = build_objective(plan, store, for_evaluation=True)
    baselines = _baselines(plan, store, held_out, plan.objective)
    held_out_causal = None
    if plan.objective == "hybrid":
        held_out_causal = build_objective(plan, store, for_evaluation=True, masked_share=0.0)
        causal = _baselines(plan, store, held_out_causal, "clm")
        baselines |= {name.replace("unigram_loss", "clm_unigram_loss"): value for name, value in causal.items()}
    train = build_objective(plan, store, for_evaluation=False)
    if stream is not None:
        build = partial(build_objective, plan, for_evaluation=False)
        train = StreamedObjective(stream, build, train, makes_parts=accelerator.is_local_main_process)
    return RunData(
        corpus=corpus,
        store=store,
        fingerprint=fingerprint,
        train=train,
        held_out=held_out,
        held_out_causal=held_out_causal,
        baselines=baselines,
        token_lengths=token_lengths(plan.tokenizer) if plan.objective in ("clm", "hybrid") else None,
        sentences=held_out_sentences(store.held_out, plan.tokenizer, SAMPLES),
    )
