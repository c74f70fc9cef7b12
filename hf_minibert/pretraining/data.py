"""The data of a pre-training run: its text, the rows to train on and to evaluate on, and baselines."""

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from hf_minibert.data.corpus import HubStream, open_corpus
from hf_minibert.data.documents import Corpus
from hf_minibert.data.loader import evaluation_batches
from hf_minibert.data.rows import Masking, Rows, RowSettings
from hf_minibert.data.sources import BUILTIN, TEXT_COLUMN, expanded
from hf_minibert.data.streamed import StreamedRows, open_stream
from hf_minibert.data.token_store import (
    Documents,
    TokenStore,
    cached_store,
    is_token_store,
    open_prepared_store,
    open_token_store,
)
from hf_minibert.errors import UserError
from hf_minibert.evaluation.held_out import frequency_baselines, token_lengths
from hf_minibert.evaluation.samples import held_out_sentences
from hf_minibert.output_folder import settle
from hf_minibert.pretraining.arguments import PretrainArguments
from hf_minibert.pretraining.objectives import MakeRows, Reading
from hf_minibert.pretraining.plan import Plan

EVALUATION_SEED = 0
EVALUATION_MASKING = 0.15
NUM_SAMPLES = 3
FEW_DOCUMENTS = 2
LENGTH_OF_OLD_FINGERPRINTS = 16


@dataclass(frozen=True, kw_only=True)
class RunData:
    """What a run reads: training and held-out rows, and what an evaluation compares with."""

    corpus: Corpus | Path
    """The source of the text, or the folder that holds it tokenised."""
    store: TokenStore
    """The tokens; of a stream, those of its first part."""
    fingerprint: str
    """Identifies the data by its content."""
    train: Rows
    held_out: list[Rows]
    """Held-out rows for each reading of the objective."""
    baselines: dict[str, float]
    token_lengths: Tensor | None
    """Bytes of text that each token id stands for, (vocabulary,); None if the tokenizer cannot tell."""
    sentences: list[str]


def find_corpus(arguments: PretrainArguments) -> Corpus | Path:
    """The corpus that the arguments name, or the folder that `prepare-data` made of one.

    Raises:
        UserError: there is no such corpus, or the arguments do not suit it.
    """
    if arguments.corpus != [BUILTIN] and len(arguments.corpus) == 1 and not arguments.streaming:
        folder = expanded(arguments.corpus[0])
        settle(folder)
        if is_token_store(folder):
            for name, usual in (("document", "file"), ("text_column", TEXT_COLUMN)):
                if getattr(arguments, name) != usual:
                    raise UserError(f"{folder} is tokenised already; --{name} is for the command that prepares it")
            return folder
    return open_corpus(
        arguments.corpus,
        text_column=arguments.text_column,
        streaming=arguments.streaming,
        document=arguments.document,
    )


def training_rows(plan: Plan, store: TokenStore) -> Rows:
    """The rows that the plan trains on.

    Raises:
        UserError: the documents are too few or too short.
    """
    return _rows(plan, plan.objective.rows, store.train, "training", for_evaluation=False)


def held_out_rows(plan: Plan, reading: Reading, documents: Documents) -> Rows:
    """Rows of documents that are not trained on; share and seed of their masks are the same in every run.

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
    """What token frequencies alone reach on the rows of an evaluation; a second reading's loss carries its name."""
    baselines: dict[str, float] = {}
    for reading, rows in zip(plan.objective.readings, held_out, strict=True):
        batches = evaluation_batches(rows, batch_size=64, max_rows=plan.arguments.max_eval_samples)
        targets = torch.cat([reading.targets(batch) for batch in batches]).numpy()
        found = frequency_baselines(store, targets, plan.tokenizer, of_bytes=reading.predicts_all)
        name = f"{reading.name}_unigram_loss" if baselines else "unigram_loss"
        baselines |= {name: found.pop("unigram_loss")} | found
    return baselines


def check_same_everywhere(store: TokenStore, accelerator: Accelerator) -> None:
    """Check that all processes read the same text: nodes may each have a copy.

    Raises:
        UserError: the copies, or the order of their documents, differ.
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
    """Check that a run goes on with the text that it began with; `before` is the fingerprint that it saved.

    Fingerprints of earlier versions are of the files' places, sizes and times. For these, compare the tokens that the
    run made, which are in the cache or in the folder that it was given.

    Raises:
        UserError: the text or the tokenizer differs, or the tokens of an earlier version are gone.
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
        sentences=held_out_sentences(store.held_out, plan.tokenizer, NUM_SAMPLES),
    )
