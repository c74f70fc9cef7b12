"""Held-out loss, and the loss of a model that knows only how frequent each token is."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from hf_minibert.data.rows import Batch
from hf_minibert.data.token_store import TokenStore
from hf_minibert.models.losses import IGNORE_INDEX, next_token_labels
from hf_minibert.tokenization import is_byte_level, token_bytes


def tokens_in_place(batch: Batch) -> Tensor:
    """The tokens of a batch to predict, (predictions,), where each label is at its own token (masked LM)."""
    return batch["labels"][batch["labels"] != IGNORE_INDEX]


def next_tokens(batch: Batch) -> Tensor:
    """The tokens of a batch to predict, (predictions,), where the state before each token predicts it (causal LM)."""
    labels = next_token_labels(batch["labels"])
    return labels[labels != IGNORE_INDEX]


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    accelerator: Accelerator,
    *,
    targets: Callable[[Batch], Tensor] = tokens_in_place,
    logits: str = "logits",
    settings: Mapping[str, Any] | None = None,
    token_lengths: Tensor | None = None,
) -> dict[str, float]:
    """Loss in nats, accuracy and perplexity per predicted token; for pairs of segments, also of their labels.

    Args:
        model: one of ours, on the accelerator's device.
        batches: this process's part of the held-out rows.
        accelerator: sums over the processes.
        targets: the tokens of a batch to predict, in order, (predictions,).
        logits: the name of the logits over the vocabulary in the model's output.
        settings: arguments of the model's `forward` that are the same for every batch.
        token_lengths: bytes of text that each token id stands for, (vocabulary,), for bits per byte; None if the
            tokenizer cannot tell, or if not every token is predicted, so that bits per byte mean nothing.
    """
    was_training = model.training
    model.eval()
    sums = torch.zeros(7, dtype=torch.float64)
    for batch in batches:
        inputs = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
        expected = targets(inputs)
        outputs = model(**inputs, full_logits=False, **(settings or {}))
        scores = outputs[logits]
        loss = F.cross_entropy(scores.float(), expected, reduction="sum")
        correct = (scores.argmax(dim=-1) == expected).sum()
        text_bytes = 0 if token_lengths is None else int(token_lengths[expected.cpu()].sum())
        pairs = [0.0, 0.0, 0.0]
        if "next_sentence_label" in inputs:
            order = inputs["next_sentence_label"]
            of_pairs = outputs.seq_relationship_logits.float()
            pairs = [
                float(F.cross_entropy(of_pairs, order, reduction="sum")),
                float((of_pairs.argmax(dim=-1) == order).sum()),
                float((order != IGNORE_INDEX).sum()),
            ]
        sums += torch.tensor([float(loss), float(correct), len(expected), text_bytes, *pairs], dtype=torch.float64)
    model.train(was_training)
    total = accelerator.reduce(sums.to(accelerator.device, _sum_type(accelerator)), reduction="sum")
    loss_sum, correct_sum, predictions, bytes_sum, nsp_sum, nsp_correct, num_pairs = total.tolist()
    loss_mean = loss_sum / max(predictions, 1)
    metrics = {
        "eval_loss": loss_mean,
        "eval_accuracy": correct_sum / max(predictions, 1),
        "eval_perplexity": float(np.exp(min(loss_mean, 100.0))),
    }
    if num_pairs:
        metrics["eval_mlm_loss"] = loss_mean
        metrics["eval_nsp_loss"] = nsp_sum / num_pairs
        metrics["eval_nsp_accuracy"] = nsp_correct / num_pairs
        metrics["eval_loss"] += metrics["eval_nsp_loss"]
    if bytes_sum:
        metrics["eval_bits_per_byte"] = loss_sum / np.log(2) / bytes_sum
    return metrics


def _sum_type(accelerator: Accelerator) -> torch.dtype:
    """Sums are kept in float64 where the device has it."""
    return torch.float32 if accelerator.device.type == "mps" else torch.float64


def token_lengths(tokenizer: PreTrainedTokenizerFast) -> Tensor | None:
    """How many bytes of text each token id stands for, (vocabulary,); None if the tokenizer is not byte-level."""
    if not is_byte_level(tokenizer):
        return None
    return torch.tensor([len(text) for text in token_bytes(tokenizer)])


def frequency_baselines(
    store: TokenStore, targets: NDArray[np.int64], tokenizer: PreTrainedTokenizerFast, *, of_bytes: bool
) -> dict[str, float]:
    """The loss on the held-out targets of predicting each token, or each byte, by its frequency in the training text.

    Args:
        store: knows how often each token occurs in its training documents.
        targets: the tokens that an evaluation asks for.
        tokenizer: tells what a token stands for.
        of_bytes: whether to add the baseline of bytes, in bits per byte, for targets that are all of a text.
    """
    vocab_size = len(tokenizer)
    counts = np.array(store.info.token_counts, dtype=np.float64)
    is_predicted = np.ones(vocab_size, dtype=np.bool_)
    is_predicted[tokenizer.all_special_ids] = False
    if of_bytes:  # causal rows, which predicts all of the text and where each document ends
        counts[tokenizer.sep_token_id] += len(store.train)
        is_predicted[[tokenizer.sep_token_id, tokenizer.unk_token_id]] = True
    frequencies = (counts + 1) * is_predicted / ((counts + 1) * is_predicted).sum()
    baselines = {"unigram_loss": float(-np.log(frequencies[targets]).mean())}
    if of_bytes and is_byte_level(tokenizer):
        table = np.stack([np.bincount(np.frombuffer(text, np.uint8), minlength=256) for text in token_bytes(tokenizer)])
        byte_counts = counts @ table + 1
        target_bytes = np.bincount(targets, minlength=vocab_size) @ table
        bits = -np.log2(byte_counts / byte_counts.sum())
        if target_bytes.any():  # else there is nothing but ends of documents
            baselines["byte_unigram_bits_per_byte"] = float(target_bytes @ bits / target_bytes.sum())
    return baselines
