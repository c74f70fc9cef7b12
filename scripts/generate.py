"""Continue a text with a pre-trained MiniGPT, word by word as it comes.

::

    python scripts/generate.py --model_name_or_path runs/minigpt --prompt "The function returns"
"""

import sys
from dataclasses import dataclass

import torch
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedTokenizerBase,
    TextStreamer,
    set_seed,
)
from transformers.utils.logging import disable_progress_bar

from hf_minibert.command_line import run
from hf_minibert.errors import UserError
from hf_minibert.models.configuration_minigpt import MiniGPTConfig
from hf_minibert.presets import load_config
from hf_minibert.tokenization import load_tokenizer


@dataclass(kw_only=True)
class GenerateArguments:
    """Continue a text with a pre-trained MiniGPT."""

    model_name_or_path: str
    """Folder of a pre-trained MiniGPT, or its name on the Hub."""
    prompt: str = ""
    """The text to continue; without it, the model begins a document of its own."""
    max_new_tokens: int = 100
    """Tokens to add at most; the model may end the document sooner."""
    temperature: float = 0.8
    """Below 1, likely words become likelier; 0 always takes the likeliest."""
    top_k: int | None = None
    """Choose among this many likeliest tokens only."""
    top_p: float | None = 0.95
    """Choose among the likeliest tokens that together have this probability (Holtzman et al. 2020)."""
    repetition_penalty: float = 1.1
    """Above 1, what was said before becomes less likely (Keskar et al. 2019)."""
    num_return_sequences: int = 1
    """Continuations, one after another."""
    seed: int = 42
    """Of the choices: the same seed gives the same text."""

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "top_k", "repetition_penalty", "num_return_sequences"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{name} must be positive, got {value}")
        if not self.temperature >= 0:
            raise UserError(f"temperature must not be negative, got {self.temperature}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p must be in (0, 1], got {self.top_p}")
        if self.seed < 0:
            raise UserError(f"seed must not be negative, got {self.seed}")


def generation_config(arguments: GenerateArguments, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """How to choose the next token, in transformers' terms."""
    sampling = (
        {"do_sample": False}
        if arguments.temperature == 0
        else {
            "do_sample": True,
            "temperature": arguments.temperature,
            "top_k": arguments.top_k or 0,
            "top_p": arguments.top_p or 1.0,
        }
    )
    return GenerationConfig(
        max_new_tokens=arguments.max_new_tokens,
        repetition_penalty=arguments.repetition_penalty,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **sampling,
    )


def main(arguments: GenerateArguments) -> int:
    """Load, generate, and print as the tokens come."""
    disable_progress_bar()
    name = arguments.model_name_or_path
    config = load_config(name)
    if not isinstance(config, MiniGPTConfig):
        raise UserError(f"{name} is a {config.model_type}, which does not generate text; give a MiniGPT")
    tokenizer = load_tokenizer(name)
    model = AutoModelForCausalLM.from_pretrained(name, trust_remote_code=False).eval()
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    prompt = tokenizer(arguments.prompt).input_ids or [tokenizer.bos_token_id]
    longest = config.max_position_embeddings - arguments.max_new_tokens
    if len(prompt) > longest:
        raise UserError(
            f"the prompt has {len(prompt)} tokens and {arguments.max_new_tokens} more are asked for, but the model "
            f"knows {config.max_position_embeddings} positions; shorten the prompt or --max_new_tokens"
        )
    set_seed(arguments.seed)
    inputs = torch.tensor([prompt], device=model.device)
    for _ in range(arguments.num_return_sequences):
        model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            generation_config=generation_config(arguments, tokenizer),
            streamer=TextStreamer(tokenizer, skip_special_tokens=True),
        )
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    run(GenerateArguments, main)
