"""Continue a text with a pre-trained MiniGPT, and print each word as it comes."""

from dataclasses import dataclass

from hf_minibert.assets import model_folder
from hf_minibert.errors import UserError

LEAST = 1e-3
"""Of a temperature or a penalty: smaller ones make numbers that are too large."""


@dataclass(kw_only=True)
class Arguments:
    """Continue a text with a pre-trained MiniGPT."""

    model_name_or_path: str
    """Folder of a pre-trained MiniGPT, its name on the Hub, or `minigpt-tiny`, which travels with this package."""
    prompt: str = ""
    """The text to continue. Without it, the model begins a new document."""
    max_new_tokens: int = 100
    """Add at most so many tokens; the model may end the document sooner."""
    temperature: float = 0.8
    """Below 1, likely tokens become likelier; above 1, less likely. 0 always takes the likeliest."""
    top_k: int | None = None
    """Choose among this many likeliest tokens only."""
    top_p: float | None = 0.95
    """Choose among the likeliest tokens that together have this probability (Holtzman et al. 2020)."""
    repetition_penalty: float = 1.1
    """Above 1, tokens that are in the text already become less likely (Keskar et al. 2019)."""
    num_return_sequences: int = 1
    """How many continuations to write."""
    seed: int = 42
    """Decides which tokens are drawn: the same seed gives the same text."""

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "top_k", "num_return_sequences"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{name} must be positive, got {value}")
        if not (self.temperature == 0 or self.temperature >= LEAST):
            raise UserError(f"temperature must be 0, or {LEAST} or more, got {self.temperature}")
        if not self.repetition_penalty >= LEAST:
            raise UserError(f"repetition_penalty must be {LEAST} or more, got {self.repetition_penalty}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p must be in (0, 1], got {self.top_p}")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"seed must be 0 or more and below 2**32, got {self.seed}")


def main(arguments: Arguments) -> int:
    """Load, generate, and print as the tokens come."""
    folder = model_folder(arguments.model_name_or_path)
    from hf_minibert.evaluation.generate import generate

    return generate(**vars(arguments) | {"model_name_or_path": folder})
