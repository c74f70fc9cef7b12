"""What a smaller form of a model costs in accuracy, measured on a user's file."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from hf_minibert.data.corpus import open_corpus
from hf_minibert.data.labels import label_of
from hf_minibert.data.tables import column_names, listed, read_file, require_texts, shown
from hf_minibert.errors import UserError

Model = Callable[[dict[str, Tensor]], list[Tensor]]
MOST_TEXTS = 500
MASKED = 0.15
MEASURED = ("fill-mask", "text-generation", "text-classification")
"""The uses of a model, as pipelines call them, whose accuracy can be measured."""


def measure(
    models: dict[str, Model], tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, use: str, file: str
) -> dict[str, Any]:
    """The accuracy, and for language models the loss, of several forms of one model on the same examples.

    A classifier is measured on the columns `text`, perhaps `text_pair`, and `label` of a table; a language model on the
    documents of any text file: a decoder on each next token, an encoder on masked ones, the same for all forms.

    Args:
        models: each takes `input_ids`, `attention_mask` and `token_type_ids`, and returns logits first.
        tokenizer: the model's.
        config: the model's.
        use: one of `MEASURED`.
        file: the user's; its first `MOST_TEXTS` texts, or as many rows of tokens, are read.

    Returns:
        `examples`, their number; and for each form `accuracy`, in [0, 1], and `loss`, in nats.

    Raises:
        UserError: the file cannot be read, or holds a label that the classifier does not know.
    """
    is_classifier = use == "text-classification"
    if is_classifier and config.problem_type in ("multi_label_classification", "regression"):
        raise UserError(f"measure_on is for classifiers of one label, and this is {config.problem_type}; leave it out")
    if Path(file).is_file() and not Path(file).stat().st_size:
        raise UserError(f"measure_on {file} is empty; give a text that the model has not seen")
    rows = labelled(tokenizer, config, file) if is_classifier else predicted(tokenizer, config, use, file)
    right, loss, number = dict.fromkeys(models, 0), dict.fromkeys(models, 0.0), 0
    for inputs, places, targets in tqdm(rows, desc=f"measuring on {Path(file).name}", unit="text", delay=2):
        number += len(targets)
        for name, model in models.items():
            logits = model(inputs)[0]
            chosen = logits if is_classifier else logits[0, places]
            right[name] += int((chosen.argmax(-1) == targets).sum())
            loss[name] += float(F.cross_entropy(chosen, targets, reduction="sum"))
    if not number:
        raise UserError(f"measure_on {file} has no text that is long enough to predict something in")
    return {"file": Path(file).name, "examples": number} | {
        name: {"accuracy": right[name] / number, "loss": loss[name] / number} for name in models
    }


def labelled(
    tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, file: str
) -> Iterator[tuple[dict[str, Tensor], Tensor, Tensor]]:
    """Texts and their labels, a row each; pairs if there is a column `text_pair`, or the model compares two texts."""
    known = {name: index for index, name in (config.id2label or {}).items()}
    is_pair = getattr(config, "compares_texts", False) or "text_pair" in column_names(Path(file))
    columns = ["text", "text_pair"] if is_pair else ["text"]
    table = read_file(Path(file), {column: column for column in (*columns, "label")})
    for column in columns:
        require_texts(table, column, column)
    *texts, labels = (list(table.columns[column])[:MOST_TEXTS] for column in (*columns, "label"))
    for index, (*given, label) in enumerate(zip(*texts, labels, strict=True)):
        name = label_of(table, "label", index, label)
        if name not in known:
            raise UserError(f"{table.where(index)}: the model knows no label {shown(repr(name))}, only {listed(known)}")
        yield encoded(tokenizer, config, *given)[0], torch.tensor([0]), torch.tensor([known[name]])


def predicted(
    tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, use: str, file: str
) -> Iterator[tuple[dict[str, Tensor], Tensor, Tensor]]:
    """Texts, the places whose outputs predict a token, and these tokens."""
    generator = torch.Generator().manual_seed(0)
    windows = (window for document in open_corpus([file]) for window in encoded(tokenizer, config, document.text))
    for inputs in islice(windows, MOST_TEXTS):
        (ids,) = inputs["input_ids"]
        if use == "text-generation":
            yield inputs, torch.arange(len(ids) - 1), ids[1:]
            continue
        special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
        masked = (torch.rand(len(ids), generator=generator) < MASKED) & ~special
        if masked.any():
            hidden = ids.masked_fill(masked, int(tokenizer.mask_token_id))
            yield inputs | {"input_ids": hidden[None]}, masked.nonzero().flatten(), ids[masked]


def encoded(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, *texts: str) -> list[dict[str, Tensor]]:
    """A text, or a pair, as rows of one, each as long as the model reads."""
    options = {"truncation": True, "max_length": config.max_position_embeddings, "return_overflowing_tokens": True}
    rows = tokenizer(*texts, **options, split_special_tokens=True)
    return [
        {name: torch.tensor([rows[name][index]]) for name in tokenizer.model_input_names}
        for index in range(len(rows["input_ids"]))
    ]
