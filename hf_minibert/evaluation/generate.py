"""Text that a causal model writes, printed as it comes."""

import sys

import torch
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    TextStreamer,
    set_seed,
)
from transformers.utils.logging import disable_progress_bar

from hf_minibert.errors import UserError
from hf_minibert.models.configuration_minigpt import MiniGPTConfig
from hf_minibert.presets import load_config, load_pretrained
from hf_minibert.tokenization import load_tokenizer


def generate(
    *,
    model_name_or_path: str,
    prompt: str,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    repetition_penalty: float,
    num_return_sequences: int,
    seed: int,
) -> int:
    """Load a model, continue the prompt, and print as the tokens come; `hf-minibert generate` explains the arguments.

    Raises:
        UserError: the model does not generate text, or the prompt leaves no room for what is asked for.
    """
    disable_progress_bar()
    config = load_config(model_name_or_path)
    if not isinstance(config, MiniGPTConfig):
        raise UserError(f"{model_name_or_path} is a {config.model_type}, which does not generate text; give a MiniGPT")
    tokenizer = load_tokenizer(model_name_or_path)
    model, missing = load_pretrained(AutoModelForCausalLM, model_name_or_path)
    if missing:
        raise UserError(f"{model_name_or_path} is not a whole MiniGPT: it lacks {', '.join(sorted(missing))}")
    model.eval()
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    tokens = tokenizer(prompt).input_ids or [tokenizer.bos_token_id]
    longest = config.max_position_embeddings - max_new_tokens
    if len(tokens) > longest:
        raise UserError(
            f"the prompt has {len(tokens)} tokens and {max_new_tokens} more are asked for, but the model knows "
            f"{config.max_position_embeddings} positions; shorten the prompt or --max_new_tokens"
        )
    sampling = {"do_sample": True, "temperature": temperature, "top_k": top_k or 0, "top_p": top_p or 1.0}
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        repetition_penalty=repetition_penalty,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **(sampling if temperature > 0 else {"do_sample": False}),
    )
    set_seed(seed)
    inputs = torch.tensor([tokens], device=model.device)
    for _ in range(num_return_sequences):
        model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            generation_config=settings,
            streamer=TextStreamer(tokenizer, skip_special_tokens=True),
        )
        sys.stdout.flush()
    return 0
