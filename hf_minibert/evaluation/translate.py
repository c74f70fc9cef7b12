"""Translate texts with a fine-tuned encoder and decoder; transformers 5 has no pipeline for it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import EncoderDecoderModel, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList


def longest_translation(source_length: int) -> int:
    """The most tokens that a translation may have, of a text with so many: a bound for models that do not end it."""
    return 2 * source_length + 20


class OwnBounds(StoppingCriteria):
    """Ends each translation of a batch at a length of its own, so that it does not depend on its neighbours."""

    def __init__(self, lengths: list[int]) -> None:
        """`lengths`: of each text of the batch, in tokens, with the one that the decoder begins with."""
        self._lengths = lengths

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """Which of (texts x beginnings, written) have reached their length; beam search has several of each text."""
        del scores
        lengths = torch.tensor(self._lengths, device=input_ids.device)
        return input_ids.shape[1] >= lengths.repeat_interleave(len(input_ids) // len(lengths))


@torch.no_grad()
def translate(
    texts: str | Sequence[str],
    model: EncoderDecoderModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    target_tokenizer: PreTrainedTokenizerBase | None = None,
    num_beams: int | None = None,
    length_penalty: float | None = None,
    batch_size: int = 32,
) -> str | list[str]:
    """Translate a text, or several.

    Args:
        texts: sentences; one without anything but white space stays empty.
        model: one that `AutoModelForSeq2SeqLM` opens from a folder of the task `translation`.
        tokenizer: that of the source, and of the target if they share it.
        target_tokenizer: that of the target, if it is another.
        num_beams: how many beginnings beam search keeps; default, what the model's generation settings say.
        length_penalty: above 0, beam search prefers longer translations; default, what the model's settings say.
        batch_size: how many texts are translated at once.

    Returns:
        The translations, in the order of the texts; one text for one text.

    Raises:
        ValueError: a text is longer than the model can read.
    """
    settings: dict[str, Any] = {"num_beams": num_beams, "length_penalty": length_penalty}
    settings = {name: value for name, value in settings.items() if value is not None}
    config: Any = model.config
    many = [texts] if isinstance(texts, str) else texts
    rows = [tokenizer(text).input_ids if text.strip() else [] for text in many]
    most = config.encoder.max_position_embeddings
    for text, row in zip(many, rows, strict=True):
        if len(row) > most:
            raise ValueError(f"{text[:40]!r}... has {len(row)} tokens, and the model reads {most}; split it")
    order = sorted((index for index, row in enumerate(rows) if row), key=lambda index: len(rows[index]))
    translations = [""] * len(rows)
    was_training = model.training
    model.eval()
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = tokenizer.pad({"input_ids": [rows[index] for index in chosen]}, return_tensors="pt").to(model.device)
        written = model.generate(  # type: ignore[misc]  # typed for a protocol of its own
            batch["input_ids"],
            attention_mask=batch["attention_mask"],
            **bounds(model, batch["attention_mask"]),
            do_sample=False,
            **settings,
        )
        for index, tokens in zip(chosen, written, strict=True):
            translations[index] = str((target_tokenizer or tokenizer).decode(tokens, skip_special_tokens=True)).strip()
    model.train(was_training)
    return translations[0] if isinstance(texts, str) else translations


def bounds(model: EncoderDecoderModel, attention_mask: Tensor) -> dict[str, Any]:
    """What tells `generate` where to end the translations of texts with the mask (batch, source).

    Each ends at `longest_translation` of its own source, or at the decoder's last position.
    """
    config: Any = model.config
    most = int(config.decoder.max_position_embeddings)
    lengths = [min(most, longest_translation(length)) for length in attention_mask.sum(1).tolist()]
    return {"max_length": max(lengths), "stopping_criteria": StoppingCriteriaList([OwnBounds(lengths)])}
