"""A few predictions on held-out text, for people to compare before and after training."""

import re
from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_minibert.data.documents import document_hash
from hf_minibert.data.token_store import Documents
from hf_minibert.tokenization import word_starts

SENTENCE = re.compile(r"(?<=[.!?\n]) *([A-Z][a-z]*(?: [A-Za-z][\w'-]*,?){7,20}[.!?])(?=\s)")
PROMPT_WORDS = 6
NEW_TOKENS = 24
SEARCHED_DOCUMENTS = 1_000


def held_out_sentences(documents: Documents, tokenizer: PreTrainedTokenizerFast, count: int) -> list[str]:
    """Whole sentences from `count` documents; if there are none, the beginnings of texts."""
    sentences: list[str] = []
    beginnings: list[str] = []
    for document in range(min(len(documents), SEARCHED_DOCUMENTS)):
        text = tokenizer.decode(documents.tokens(document, end=2_000).tolist())
        assert isinstance(text, str)
        found = SENTENCE.search("\n" + text)
        if found:
            sentences.append(found[1])
        elif text.split():
            beginnings.append(" ".join(text.split()[:16]))
        if len(sentences) == count:
            break
    return (sentences + beginnings)[:count]


def masked_sentences(sentences: list[str], tokenizer: PreTrainedTokenizerFast) -> Iterator[tuple[str, list[int], int]]:
    """Each sentence with one word of a single token hidden: the text, its token ids and the place of the mask."""
    starts = word_starts(tokenizer)
    for sentence in sentences:
        ids: list[int] = tokenizer(sentence).input_ids
        words = [
            place
            for place in range(3, len(ids) - 2)
            if starts[ids[place]] and starts[ids[place + 1]] and str(tokenizer.decode([ids[place]])).strip().isalpha()
        ]
        if words:
            hidden = words[document_hash(sentence) % len(words)]
            masked = [*ids[:hidden], tokenizer.mask_token_id, *ids[hidden + 1 :]]
            text = f"{tokenizer.decode(ids[1:hidden])} [MASK]{tokenizer.decode(ids[hidden + 1 : -1])}"
            yield text, masked, hidden


@torch.no_grad()
def fill_ins(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, sentences: list[str], *, logits: str = "logits"
) -> list[dict[str, Any]]:
    """The five likeliest tokens for a word that is masked in each sentence.

    Args:
        model: a masked model.
        tokenizer: its tokenizer.
        sentences: see `held_out_sentences`.
        logits: the name of the logits over the vocabulary in the model's output.

    Returns:
        For each sentence its `text`, as the model saw it, and a list of `predictions`.
    """
    was_training = model.training
    model.eval()
    said: list[dict[str, Any]] = []
    for text, ids, place in masked_sentences(sentences, tokenizer):
        best = model(torch.tensor([ids], device=model.device))[logits][0, place].topk(5).indices.tolist()
        said.append({"text": text, "predictions": [str(tokenizer.decode([token])).strip() for token in best]})
    model.train(was_training)
    return said


@torch.no_grad()
def continuations(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, sentences: list[str]
) -> list[dict[str, Any]]:
    """How a causal model continues the first words of each sentence; returns what `fill_ins` returns."""
    was_training = model.training
    model.eval()
    said: list[dict[str, Any]] = []
    for sentence in sentences:
        prompt = " ".join(sentence.split()[:PROMPT_WORDS])
        inputs = tokenizer(prompt, return_tensors="pt").to(model.device)
        continued = model.generate(  # type: ignore[operator]  # only causal models come here
            **inputs, max_new_tokens=NEW_TOKENS, do_sample=False, repetition_penalty=1.2
        )
        answer = tokenizer.decode(continued[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        said.append({"text": prompt, "predictions": [answer]})
    model.train(was_training)
    return said
