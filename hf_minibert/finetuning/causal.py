"""Causal language modelling: MiniGPT goes on learning to write, from text of another kind."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, EvalPrediction, PreTrainedTokenizerFast

from hf_minibert.data.corpus import open_corpus
from hf_minibert.data.sources import BUILTIN, TEXT_FORMATS
from hf_minibert.data.splits import (
    Source,
    choose_column,
    held_out,
    named,
    read_extra_file,
    read_source,
    split_files,
    tell_files,
)
from hf_minibert.data.tables import SUFFIXES, Table, format_of, listed, shown
from hf_minibert.document_encoder import DocumentEncoder
from hf_minibert.errors import UserError
from hf_minibert.evaluation.metrics import confidence_intervals
from hf_minibert.finetuning.arguments import FinetuneArguments
from hf_minibert.finetuning.durable import DurableTrainer
from hf_minibert.finetuning.lora import whole
from hf_minibert.finetuning.pictures import draw_histogram
from hf_minibert.finetuning.start import Start
from hf_minibert.finetuning.task import Task, TaskData, Usage
from hf_minibert.models.configuration_minigpt import MiniGPTConfig
from hf_minibert.models.losses import IGNORE_INDEX, chunked_losses, next_token_labels
from hf_minibert.models.modeling_minigpt import MiniGPTForCausalLM
from hf_minibert.tokenization import ends_of_text

USUAL_COLUMNS = ("text", "document", "content", "sentence")


class LanguageModelTrainer(DurableTrainer):
    """`Trainer` whose evaluations sum the loss of each row, so that figures are of tokens and bytes, not of batches."""

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
        **settings: Any,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The loss, and for each row its nats, its predicted tokens and the bytes of its text, (batch, 3)."""
        del model, prediction_loss_only, ignore_keys, settings
        own = whole(self.model)
        assert isinstance(own, MiniGPTForCausalLM)
        batch = self._prepare_inputs(inputs)
        with torch.no_grad(), self.accelerator.autocast():
            states = own.model(batch["input_ids"], position_ids=batch["position_ids"], use_cache=False)[0]
            targets = next_token_labels(batch["labels"])
            losses = chunked_losses(states.flatten(0, 1), own.lm_head, targets.flatten()).view_as(targets)
        counts = (targets != IGNORE_INDEX).sum(dim=1)
        sums = torch.stack((losses.sum(dim=1), counts, batch["num_bytes"]), dim=1)
        return losses.sum() / counts.sum().clamp(min=1), sums, counts


class RowCollator:
    """Fills rows up to the longest of the batch with documents of one padding token each, which nothing predicts.

    So there is no mask: where positions restart, MiniGPT keeps documents apart.
    """

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id
        self.pad_to_multiple_of = 1

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """`input_ids`, `position_ids` and `labels`, (batch, longest); in evaluations also `num_bytes`, (batch,)."""
        fillers = {"input_ids": self.pad_id, "position_ids": 0, "labels": IGNORE_INDEX}
        missing = -max(len(row["input_ids"]) for row in rows) % self.pad_to_multiple_of
        batch = {}
        for name, filler in fillers.items():
            padded = pad_sequence([torch.tensor(row[name]) for row in rows], batch_first=True, padding_value=filler)
            batch[name] = F.pad(padded, (0, missing), value=filler)
        if "num_bytes" in rows[0]:
            batch["num_bytes"] = torch.tensor([row["num_bytes"] for row in rows])
        return batch


class LanguageModelling(Task):
    """The next token of a text, over and over."""

    pipeline_tag = "text-generation"
    auto_class = AutoModelForCausalLM
    trainer_class = LanguageModelTrainer
    examples_word = "documents"
    metrics = ("bits_per_byte", "perplexity")
    best_metric = "loss"
    baseline_names: Mapping[str, str] = {"loss": "unigram_loss"}
    baseline_words = "knowing only how frequent each token is"

    def __init__(self, arguments: FinetuneArguments) -> None:
        super().__init__(arguments)
        self._counts: NDArray[np.int64] | None = None  # of each token in the training text
        self._targets: NDArray[np.int64]
        self._document_of_row: dict[str, list[int]] = {}
        self._place: dict[str, list[int]] = {}
        """Of each document of a split, in its file."""
        self._sums: dict[str, NDArray[np.float64]] = {}
        """Nats, tokens and bytes of each row of a split, (rows, 3)."""

    # ---- data

    def read(self) -> TaskData:
        """Documents: the rows of a table, or what lies between blank lines of long text files."""
        arguments = self.arguments
        given = named(arguments.eval_dataset, arguments.test_dataset)
        source, column = _sources(arguments.dataset, given, arguments.text_column)
        splits = {split: _documents(table, column) for split, table in source.tables.items()}
        notes = [f"text column: {column}"] if column else []
        notes += [f"not read: {listed(source.not_read)}"] if source.not_read else []
        for split, table in source.tables.items():
            if without := len(table) - len(splits[split]):
                notes.append(f"{split}: {without:,} rows without a text are left out")
        if "eval" not in splits:
            train = splits["train"]
            is_out = held_out(train["text"][:], arguments.dataset)
            for split, wanted in (("eval", True), ("train", False)):
                splits[split] = train.select([place for place, out in enumerate(is_out) if out == wanted])
            notes.append(
                f"no evaluation split: {sum(is_out):,} of {len(train):,} documents are held out, by their hash"
            )
        return TaskData(name=arguments.dataset, hub_id=source.hub_id, splits=splits, notes=notes)

    def describe(self, data: TaskData, examples: dict[str, Dataset]) -> list[str]:
        """How many documents and bytes there are."""
        sizes = {split: sum(len(text.encode()) for text in rows["text"]) for split, rows in examples.items()}
        return ["documents: " + ", ".join(f"{len(examples[s]):,} {s} ({sizes[s]:,} bytes)" for s in examples)]

    def config_fields(self, start: Start, data: TaskData) -> dict[str, Any]:
        """Nothing; checks that the model writes."""
        if not isinstance(start.config, MiniGPTConfig):
            name = self.arguments.model_name_or_path or self.arguments.model
            raise UserError(
                f"{name} is a {start.config.model_type}, which does not predict the next token; give a MiniGPT"
            )
        return {}

    def encode(self, examples: Dataset, split: str, tokenizer: PreTrainedTokenizerFast, max_length: int) -> Dataset:
        """Rows of documents as `[CLS] text [SEP]`.

        Training rows are full: they hold documents one behind another, cut where a row ends, unless
        `one_document_per_row` is set. Evaluation rows hold one document each, and a longer one in windows that overlap
        by half, so that every token is predicted once and knows what stood before it.
        """
        begin, end = ends_of_text(tokenizer)
        self._place[split] = list(examples["row"])
        texts = list(examples["text"])
        tokens, lengths = DocumentEncoder(tokenizer)(texts)
        documents = [
            np.concatenate(([begin], part, [end])).astype(np.int64)
            for part in np.split(tokens, np.cumsum(lengths)[:-1])
        ]
        targets = np.concatenate([document[1:] for document in documents])
        if split == "train":
            self._counts = np.bincount(targets, minlength=len(tokenizer))
            is_packed = not self.arguments.one_document_per_row
            return _dataset((_packed if is_packed else _pieces)(documents, max_length))
        if split == "eval":
            self._targets = targets
        sizes = [len(text.encode()) for text in texts]
        rows = _dataset(_windows(documents, sizes, max_length))
        self._document_of_row[split] = list(rows["document"])
        return rows.remove_columns("document")

    def collator(self, tokenizer: PreTrainedTokenizerFast) -> RowCollator:
        """See `RowCollator`."""
        return RowCollator(int(tokenizer.pad_token_id))

    # ---- training and evaluation

    def trainer_settings(self) -> dict[str, Any]:
        """Keep `num_bytes`, which no model takes."""
        return {"remove_unused_columns": False, "label_names": ["labels"]}

    def measure(self, prediction: EvalPrediction, split: str, *, compute_result: bool = True) -> dict[str, float]:
        """Nats and perplexity per token, and bits per byte of the text itself."""
        self._sums[split] = np.asarray(prediction.predictions, dtype=np.float64)
        nats, tokens, num_bytes = self._sums[split].sum(axis=0)
        loss = nats / tokens
        return {
            "loss": float(loss),
            "perplexity": float(np.exp(min(loss, 100.0))),
            "bits_per_byte": float(nats / np.log(2) / num_bytes),
        }

    def baselines(self, examples: dict[str, Dataset]) -> dict[str, float]:
        """The loss of predicting each token by its frequency in the training text; one is added to each count."""
        assert self._counts is not None
        frequencies = (self._counts + 1) / (self._counts + 1).sum()
        return {"unigram_loss": float(-np.log(frequencies[self._targets]).mean())}

    # ---- the result

    def predictions(self, split: str) -> Iterator[dict[str, Any]]:
        """How well each document is predicted: its tokens, its nats, and its bits per byte."""
        each = zip(self._place[split], self._of_documents(split), strict=True)
        for row, (nats, tokens, num_bytes) in each:
            bits = float(nats / np.log(2) / num_bytes)
            yield {"row": row, "tokens": int(tokens), "nats": float(nats), "bits_per_byte": bits}

    def _of_documents(self, split: str) -> NDArray[np.float64]:
        """Nats, tokens and bytes of each document of a split, (documents, 3)."""
        sums = np.zeros((max(self._document_of_row[split]) + 1, 3))
        np.add.at(sums, self._document_of_row[split], self._sums[split])
        return sums

    def intervals(self, split: str) -> dict[str, tuple[float, float]]:
        """From draws of the split's documents."""
        documents = self._of_documents(split)

        def figures(weights: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
            nats, tokens, num_bytes = (weights @ documents).T
            return {"bits_per_byte": nats / np.log(2) / num_bytes, "perplexity": np.exp(np.minimum(nats / tokens, 100))}

        return confidence_intervals(figures, np.ones(len(documents), int), seed=self.arguments.seed)

    def pictures(self, folder: Path, data: TaskData) -> dict[str, str]:
        """How many documents are how hard to predict."""
        split = "test" if "test" in self._sums else "eval"
        nats, _, num_bytes = self._of_documents(split).T
        path = folder / "predictions.png"
        draw_histogram(path, nats / np.log(2) / num_bytes, "bits per byte", "documents")
        return {path.name: f"Bits per byte of the {'test' if split == 'test' else 'held-out'} documents"}

    def report(self, results: dict[str, Any]) -> list[str]:
        """Loss beside its baseline, and bits per byte."""
        metrics, dataset = results["metrics"], results["dataset"]
        return [
            f"{dataset['eval_examples']:,} held-out documents:",
            f"  loss {metrics['eval_loss']:.3f} nats per token; {self.baseline_words} {metrics['unigram_loss']:.3f}",
            f"  perplexity {metrics['eval_perplexity']:.2f}, {metrics['eval_bits_per_byte']:.3f} bits per byte of text",
        ]

    def headline(self, results: dict[str, Any]) -> str:
        """Bits per byte of held-out text."""
        bits, count = results["metrics"]["eval_bits_per_byte"], results["dataset"]["eval_examples"]
        return f"It needs {bits:.3f} bits per byte of the {count:,} documents that were held out."

    def usage(self) -> Usage:
        """A call of the pipeline."""
        return Usage(
            code="from transformers import pipeline\n\n"
            'write = pipeline("text-generation", model={model}{options})\n'
            'print(write("The", max_new_tokens=40)[0]["generated_text"])'
        )

    def limits(self, results: dict[str, Any]) -> list[str]:
        """That it does not know facts."""
        return ["It continues texts of the kind it has read. What it writes is not checked against anything."]


# ---------------------------------------------------------------- documents


def _sources(dataset: str, given: Mapping[str, str], column: str | None) -> tuple[Source, str | None]:
    """A table of documents for each split, and the column that they stand in; none for text files.

    `given`: files that are named beside the data set, by their split.
    """

    def choose(there: Any, where: str) -> dict[str, str]:
        return {"text_column": column or choose_column(there, where, "text_column", USUAL_COLUMNS)}

    path, files, not_read = Path(dataset), dict[str, Path](), list[str]()
    if path.is_dir():
        found, not_read = split_files(path, (*TEXT_FORMATS, *SUFFIXES), beside=given, takes_parts=True)
        files = {split: parts[0] for split, parts in found.items()}
        if any(_is_text(one[0]) and len(one) > 1 for one in found.values()):
            raise UserError(f"{path} has a split in several text files; join them into one")
    elif dataset != BUILTIN:
        files = {"train": path}
    if not all(map(_is_text, files.values())):
        if mixed := [name for name in given.values() if _is_text(Path(name))]:
            raise UserError(f"{mixed[0]} is text, but {dataset} is a table; give both in one form")
        read = read_source(dataset, choose, eval_source=given.get("eval"), test_source=given.get("test"))
        return read, read.columns["text_column"]
    tell_files({split: [file] for split, file in files.items()} if path.is_dir() else {})
    if column is not None:
        raise UserError(f"--text_column {column} names a column, but {dataset} is text; leave it out")
    tables = {split: _corpus(str(file)) for split, file in files.items()} or {"train": _corpus(dataset)}
    for split, name in given.items():
        columns = {"text_column": "text"}
        tables[split] = _corpus(name) if _is_text(Path(name)) else read_extra_file(name, columns, f"{split}_dataset")
    return Source(tables, None, not_read), None


def _is_text(path: Path) -> bool:
    """Whether a file's name says that it is text, perhaps compressed."""
    return format_of(path, TEXT_FORMATS)[1] is not None


def _corpus(source: str) -> Table:
    """The documents of a text file, or of the builtin corpus."""
    texts = [document.text for document in open_corpus([source])]
    return Table(source, {"text": texts}, range(1, len(texts) + 1), "document")


def _documents(table: Table, column: str | None) -> Dataset:
    """The documents that have text, and the `row` of each in its file."""
    found = list[dict[str, Any]]()
    for row, value in enumerate(table.columns[column or "text"]):
        if value is not None and not isinstance(value, str):
            raise UserError(f"{table.where(row)}: {column} is {shown(repr(value))}, not a text")
        if value and not value.isspace():
            found.append({"text": value, "row": int(table.numbers[row])})
    if not found:
        raise UserError(f"{table.name} has no documents: every text in it is empty")
    return Dataset.from_list(found)


# ---------------------------------------------------------------- rows


def _dataset(rows: Iterable[dict[str, Any]]) -> Dataset:
    every = list(rows)
    return Dataset.from_dict({name: [row[name] for row in every] for name in every[0]})


def _row(tokens: Any, positions: Any, first_label: int = 1) -> dict[str, Any]:
    """A row whose labels begin at a place; where a document begins, nothing is predicted."""
    labels = np.where(positions == 0, IGNORE_INDEX, tokens)
    labels[:first_label] = IGNORE_INDEX
    return {"input_ids": tokens, "position_ids": positions, "labels": labels, "length": len(tokens)}


def _packed(documents: list[Any], length: int) -> Iterator[dict[str, Any]]:
    """Documents one behind another, cut into rows; the last one may be shorter. Positions restart with each piece."""
    stream = np.concatenate(documents)
    begins = np.concatenate([np.arange(len(document)) == 0 for document in documents])
    for start in range(0, len(stream), length):
        part, is_begin = stream[start : start + length], begins[start : start + length].copy()
        if len(part) < 2:
            continue
        is_begin[0] = True
        places = np.arange(len(part))
        yield _row(part, places - np.maximum.accumulate(np.where(is_begin, places, 0)))


def _pieces(documents: list[Any], length: int) -> Iterator[dict[str, Any]]:
    """Rows of one document each, or of a piece of it; pieces overlap by the token that leads to the next."""
    for document in documents:
        for start in range(0, max(1, len(document) - 1), length - 1):
            part = document[start : start + length]
            yield _row(part, np.arange(len(part)))


def _windows(documents: list[Any], sizes: list[int], length: int) -> Iterator[dict[str, Any]]:
    """Rows that predict each token of each document once; the first row of a document has its number of bytes."""
    for number, (document, size) in enumerate(zip(documents, sizes, strict=True)):
        done = 1  # the first token is not predicted
        while done < len(document):
            end = min(len(document), length if done == 1 else done + length // 2)
            start = max(0, end - length)
            part = document[start:end]
            yield _row(part, np.arange(len(part)), done - start) | {
                "num_bytes": size if done == 1 else 0,
                "document": number,
            }
            done = end
