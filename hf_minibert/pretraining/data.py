"""The data of a pre-training run: its text, the rows to train on and to evaluate on, and baselines."""

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from hf_minibert.data.corpus import Corpus, HubStream, open_corpus
from hf_minibert.data.loader import evaluation_batches
from hf_minibert.data.rows import Masking, Rows, RowSettings
from hf_minibert.data.streamed import StreamedRows, open_stream
from hf_minibert.data.token_store import (
    Documents,
    TokenStore,
    is_token_store,
    open_prepared_store,
    open_token_store,
)
from hf_minibert.errors import UserError
from hf_minibert.evaluation.held_out import frequency_baselines, token_lengths
from hf_minibert.evaluation.samples import held_out_sentences
from hf_minibert.pretraining.arguments import PretrainArguments
from hf_minibert.pretraining.objectives import MakeRows, Reading
from hf_minibert.pretraining.plan import Plan

EVALUATION_SEED = 0
EVALUATION_MASKING = 0.15
SAMPLES = 3
FEW_DOCUMENTS = 2


@dataclass(frozen=True, kw_only=True)
class RunData:
    """What a run reads: training and held-out rows, and what an evaluation compares with."""

    corpus: Corpus | Path
    """Where the text comes from, or a folder in which it lies tokenised."""
    store: TokenStore
    """Of a stream, the first part."""
    fingerprint: str
    """Of the store, as the first process has it."""
    train: Rows
    held_out: list[Rows]
    """Held-out rows for each reading of the objective."""
    baselines: dict[str, float]
    token_lengths: Tensor | None
    """Bytes of text that each token id stands for, (vocabulary,); None if the tokenizer cannot tell."""
    sentences: list[str]


def find_corpus(arguments: PretrainArguments) -> Corpus | Path:
    """The corpus that the arguments name, or the folder that `prepare_data.py` made of one."""
    folder = Path(arguments.corpus[0])
    if len(arguments.corpus) == 1 and is_token_store(folder) and not arguments.streaming:
        return folder
    return open_corpus(arguments.corpus, text_column=arguments.text_column, streaming=arguments.streaming)


def training_rows(plan: Plan, store: TokenStore) -> Rows:
    """The rows that the plan trains on.

    Raises:
        UserError: the documents are too few or too short.
    """
    return _rows(plan, plan.objective.rows, store.train, "training", for_evaluation=False)


def held_out_rows(plan: Plan, reading: Reading, documents: Documents) -> Rows:
    """Rows of documents that are not trained on, with masks of their own that no setting changes.

    Raises:
        UserError: the documents are too few or too short.
    """
    return _rows(plan, reading.rows, documents, "held-out", for_evaluation=True)


def _rows(plan: Plan, make: MakeRows, documents: Documents, part: str, *, for_evaluation: bool) -> Rows:
    tokenizer, arguments = plan.tokenizer, plan.arguments
    seed = EVALUATION_SEED if for_evaluation else arguments.seed
    masking = Masking(
        probability=EVALUATION_MASKING if for_evaluation else arguments.mlm_probability,
        mask_id=tokenizer.mask_token_id,
        special_ids=tokenizer.all_special_ids,
        vocab_size=len(tokenizer),
        seed=seed,
    )
    settings = RowSettings(
        length=arguments.max_seq_length,
        cls_id=tokenizer.cls_token_id,
        sep_id=tokenizer.sep_token_id,
        pad_id=tokenizer.pad_token_id,
        seed=seed,
        masking=masking,
        masked_share=arguments.masked_share,
    )
    try:
        return make(documents, settings)
    except UserError as error:
        raise UserError(f"the {part} part of the corpus is too small: {error}") from error


def _baselines(plan: Plan, store: TokenStore, held_out: list[Rows]) -> dict[str, float]:
    """What frequencies alone would reach on the rows of an evaluation; of a second reading, under its name."""
    baselines: dict[str, float] = {}
    for reading, rows in zip(plan.objective.readings, held_out, strict=True):
        batches = evaluation_batches(rows, batch_size=64, max_rows=plan.arguments.max_eval_samples)
        targets = torch.cat([reading.targets(batch) for batch in batches]).numpy()
        found = frequency_baselines(store, targets, plan.tokenizer, of_bytes=reading.predicts_all)
        name = f"{reading.name}_unigram_loss" if baselines else "unigram_loss"
        baselines |= {name: found.pop("unigram_loss")} | found
    return baselines


def shared_fingerprint(store: TokenStore, accelerator: Accelerator) -> str:
    """The fingerprint of the first process's text: where nodes have copies, paths and times give each its own.

    Raises:
        UserError: the text is not the same for all, or not in the same order.
    """
    info = store.info
    content = json.dumps([info.tokenizer, info.documents, info.tokens, info.token_counts])
    lengths = store.train.lengths.tobytes() + store.held_out.lengths.tobytes()
    digest = hashlib.sha256(content.encode() + lengths).digest()[:8]
    mine = torch.tensor(list(digest + bytes.fromhex(info.fingerprint)), device=accelerator.device)
    everyones = accelerator.gather(mine[None]).cpu()
    if bool((everyones[:, :8] != everyones[0, :8]).any()):
        raise UserError(
            "the processes have read different text, this one "
            f"{info.documents:,} documents with {info.tokens:,} tokens; give every node the same corpus (the builtin "
            "one is what is installed there) and tokenizer"
        )
    return bytes(everyones[0, 8:].tolist()).hex()


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
    fingerprint = shared_fingerprint(store, accelerator)
    accelerator.print(
        f"{store.info.corpus}{', the first part' if stream else ''}: {store.info.documents:,} documents, "
        f"{store.info.tokens:,} tokens; "
        f"{len(store.train):,} documents to train on, {len(store.held_out):,} held out"
    )
    if len(store.held_out) <= FEW_DOCUMENTS:
        accelerator.print(
            f"warning: the held-out loss rests on {len(store.held_out)} document(s); more documents make it reliable"
        )
    held_out = [held_out_rows(plan, reading, store.held_out) for reading in plan.objective.readings]
    train = training_rows(plan, store)
    if stream is not None:
        train = StreamedRows(stream, partial(training_rows, plan), train, makes_parts=accelerator.is_local_main_process)
    return RunData(
        corpus=corpus,
        store=store,
        fingerprint=fingerprint,
        train=train,
        held_out=held_out,
        baselines=_baselines(plan, store, held_out),
        token_lengths=token_lengths(plan.tokenizer),
        sentences=held_out_sentences(store.held_out, plan.tokenizer, SAMPLES),
    )
