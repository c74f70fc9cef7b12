"""What each head takes and is trained on, for three rows of tokens."""

import torch
from torch import Tensor

import hf_minibert

MODELS = [name for name in hf_minibert.__all__ if name.startswith(("MiniBert", "MiniGPT")) and "Config" not in name]
"""Every model of one part."""


def shaped(name: str, tokens: Tensor) -> Tensor:
    """The rows as the head so named takes them: to multiple choice they are the choices of one example."""
    return tokens[None] if name.endswith("MultipleChoice") else tokens


def labels(name: str, tokens: Tensor) -> dict[str, Tensor]:
    """Labels for the rows, by the name of the argument."""
    classes = torch.tensor([0, 1, 1])
    if name.endswith("QuestionAnswering"):
        return {"start_positions": torch.tensor([1, 0, 7]), "end_positions": torch.tensor([3, 0, 8])}
    if name.endswith("TokenClassification"):
        return {"labels": tokens % 2}
    if name.endswith("MultipleChoice"):
        return {"labels": torch.tensor([1])}
    if name.endswith("ForPreTraining"):
        return {"labels": tokens, "next_sentence_label": classes}
    return {"labels": tokens if name.endswith(("MaskedLM", "CausalLM")) else classes}
