"""Where a decoder looks while it writes: its attention to the tokens of the source, as numbers and as a picture."""

from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor
from transformers import EncoderDecoderModel, PreTrainedTokenizerBase

from hf_minibert.tokenization import ends_of_text


@torch.no_grad()
def cross_attention(model: EncoderDecoderModel, source: Tensor, target: Tensor) -> Tensor:
    """How much each token of a translation looks at each token of its source: the mean of all layers and heads.

    Args:
        model: opened by `AutoModelForSeq2SeqLM`.
        source: (1, source) token ids.
        target: (1, target) token ids, without the one that the decoder begins with.

    Returns:
        (target, source), of which each row sums to 1; it belongs to the step that writes the token.
    """
    before, was_training = model.config._attn_implementation, model.training
    model.eval().set_attn_implementation("eager")  # the others do not say where they look
    try:
        begins = model.prepare_decoder_input_ids_from_labels(target)
        layers = model(source, decoder_input_ids=begins, output_attentions=True, use_cache=False).cross_attentions
    finally:
        model.train(was_training).set_attn_implementation(before)
    weights: Tensor = torch.stack(layers).float().mean(dim=(0, 2))[0].cpu()
    return weights


def draw_alignment(
    path: Path,
    model: EncoderDecoderModel,
    tokenizer: PreTrainedTokenizerBase,
    target_tokenizer: PreTrainedTokenizerBase,
    source: str,
    translation: str,
) -> None:
    """Draw the attention of a translation to its source."""
    config: Any = model.config
    tokens = [
        tokenizer(source, truncation=True, max_length=config.encoder.max_position_embeddings).input_ids,
        target_tokenizer(translation, add_special_tokens=False).input_ids + [ends_of_text(target_tokenizer)[1]],
    ]
    ids = [torch.tensor([row], device=model.device) for row in tokens]
    names = [
        [str(each.decode([token])) for token in row]
        for each, row in zip((tokenizer, target_tokenizer), tokens, strict=True)
    ]
    figure = Figure(figsize=(1.5 + 0.35 * len(tokens[0]), 1.5 + 0.3 * len(tokens[1])), layout="constrained")
    draw_weights(figure.subplots(), cross_attention(model, *ids).numpy(), *names)
    figure.savefig(path, dpi=120)


def draw_weights(axes: Any, weights: NDArray[Any], source: list[str], target: list[str]) -> None:
    """Draw (target, source) weights, with the text of each token beside its row or column."""
    axes.imshow(weights, cmap="Greys", vmin=0)
    axes.set_xticks(range(len(source)), [plain(text) for text in source], rotation=90)
    axes.set_yticks(range(len(target)), [plain(text) for text in target])
    axes.xaxis.tick_top()


def plain(text: str) -> str:
    """A token's text as a label: no mark that matplotlib reads as the begin of a formula."""
    return text.strip().replace("$", r"\$") or "␣"
