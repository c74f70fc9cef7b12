"""Attention as a picture: which tokens each head looks at, for an encoder, a decoder, or one that reads an encoder."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from hf_minibert.assets import model_folder
from hf_minibert.errors import UserError
from hf_minibert.evaluation.arguments import AttentionKind, EvaluateArguments
from hf_minibert.evaluation.opening import max_length, open_tokenizer
from hf_minibert.evaluation.representations import open_body
from hf_minibert.evaluation.suites import Result
from hf_minibert.files import TARGET_TOKENIZER
from hf_minibert.models.modeling_encoder_decoder import MiniEncoderDecoderModel
from hf_minibert.runs.attention import attention_function

COLUMNS = 4
MOST_TOKENS = 64
"""Tokens of a picture in which one can still read them."""
NEW_TOKENS = 40
Weights = NDArray[np.float32]


@dataclass(frozen=True)
class AttentionMap:
    """The attention of one layer, or of all."""

    weights: Weights
    """(layers, heads, queries, keys); each query's sum to 1."""
    queries: list[str]
    """The tokens that look."""
    keys: list[str]
    """The tokens that are looked at."""


def attention_map(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    *,
    target: str | None = None,
    kind: AttentionKind | None = None,
    target_tokenizer: PreTrainedTokenizerBase | None = None,
) -> AttentionMap:
    """The attention of a model that reads a text.

    Args:
        model: an encoder, a decoder, or an encoder with a decoder, such as a translator.
        tokenizer: its tokenizer.
        text: what it reads.
        target: what the decoder beside an encoder reads; default, what it writes.
        kind: of an encoder with a decoder, whose attention: "encoder", "decoder", or "cross", that of the decoder to
            the encoder, which is the default. None for other models, which have one kind.
        target_tokenizer: that of the decoder beside an encoder, if it is another.

    Raises:
        UserError: the text has no tokens or too many, the model has no such attention, or does not tell it.
    """
    is_both = bool(model.config.is_encoder_decoder)
    if kind is not None and not is_both:
        raise UserError(f"a {model.config.model_type} has one kind of attention; leave attention_kind ({kind}) out")
    if target is not None and not is_both:
        raise UserError(f"a {model.config.model_type} has no decoder beside an encoder; leave target out")
    ids = _ids(model, tokenizer, text, "text")
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), attention_function(model, "eager"):  # the only one that tells its weights
            if not is_both:
                settings = {"use_cache": False} if model.can_generate() else {}
                outputs = model(input_ids=ids.to(model.device), output_attentions=True, return_dict=True, **settings)
                return _map(outputs.get("attentions"), (tokenizer, ids), (tokenizer, ids))
            return _of_both(model, tokenizer, target_tokenizer or tokenizer, ids, target, kind or "cross")
    finally:
        model.train(was_training)


def _of_both(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    target_tokenizer: PreTrainedTokenizerBase,
    ids: Any,
    target: str | None,
    kind: str,
) -> AttentionMap:
    source = ids.to(model.device)
    begin = model.generation_config.decoder_start_token_id
    begin = model.config.decoder_start_token_id if begin is None else begin
    if begin is None and (target is not None or model.generation_config.bos_token_id is None):
        raise UserError("the model's configuration has no decoder_start_token_id, so a target cannot begin; set it")
    if target is None:
        written = model.generate(
            source, attention_mask=torch.ones_like(source), max_new_tokens=NEW_TOKENS, do_sample=False
        )
    else:  # ours begin a target with one token alone
        given = {"add_special_tokens": False} if isinstance(model, MiniEncoderDecoderModel) else {}
        theirs = _ids(model, target_tokenizer, target, "target", **given)
        written = torch.cat((torch.tensor([[begin]]), theirs), dim=1).to(model.device)
    outputs = model(
        input_ids=source,
        attention_mask=torch.ones_like(source),
        decoder_input_ids=written,
        output_attentions=True,
        use_cache=False,
        return_dict=True,
    )
    own, others = (tokenizer, ids), (target_tokenizer, written.cpu())
    name, queries, keys = {
        "encoder": ("encoder_attentions", own, own),
        "decoder": ("decoder_attentions", others, others),
        "cross": ("cross_attentions", others, own),
    }[kind]
    return _map(outputs.get(name), queries, keys)


def _ids(model: Any, tokenizer: PreTrainedTokenizerBase, text: str, name: str, **options: Any) -> torch.Tensor:
    ids = torch.tensor([tokenizer(text, verbose=False, **options).input_ids], dtype=torch.long)
    most = min(MOST_TOKENS, max_length(model) or MOST_TOKENS)
    if not 0 < ids.shape[1] <= most:
        raise UserError(f"{name} has {ids.shape[1]} tokens; a picture takes 1 to {most}: give another")
    return ids


Tokens = tuple[PreTrainedTokenizerBase, torch.Tensor]
"""Ids, (1, tokens), and the tokenizer that made them."""


def _map(layers: Any, queries: Tokens, keys: Tokens) -> AttentionMap:
    shape = (queries[1].shape[1], keys[1].shape[1])
    if not layers or any(layer is None or layer.shape[-2:] != shape for layer in layers):
        raise UserError("this model does not tell its attention weights; no picture can be drawn of it")
    weights = torch.stack([layer[0].float().cpu() for layer in layers]).numpy()
    names = [[_shown(tokenizer, token) for token in ids[0].tolist()] for tokenizer, ids in (queries, keys)]
    return AttentionMap(weights, *names)


def _shown(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """A token as people read it: with a dot for a space, and its hexadecimal bytes where they are no character."""
    text = str(tokenizer.decode([token], skip_special_tokens=False))
    if not text or "\ufffd" in text:
        text = str(tokenizer.convert_ids_to_tokens(token))
    return text.replace(" ", "\u00b7").replace("\n", "\u21b5").replace("$", r"\$")


def draw(found: AttentionMap, *, layer: int = -1, head: int | None = None) -> bytes:
    """The PNG of the attention of every head of a layer side by side, or of one head large.

    Args:
        found: see `attention_map`.
        layer: from 0, or negative from the end.
        head: from 0; default, all.

    Raises:
        UserError: there is no such layer or head.
    """
    layers, heads = found.weights.shape[:2]
    if not -layers <= layer < layers:
        raise UserError(f"layer must be from 0 to {layers - 1}, or negative from the end, got {layer}")
    if head is not None and not 0 <= head < heads:
        raise UserError(f"head must be from 0 to {heads - 1}, got {head}")
    layer %= layers
    shown = range(heads) if head is None else [head]
    columns = min(COLUMNS, len(shown))
    lines = -(-len(shown) // columns)
    size = 0.19 if head is None else 0.3  # inches a token
    width, height = (max(1.5, size * len(names)) for names in (found.keys, found.queries))
    figure = Figure(
        figsize=(columns * (width + 0.9) + 0.6, lines * (height + 1.1) + 0.4),
        dpi=110,
        facecolor="white",
        layout="constrained",
    )
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for place, each in zip(axes, shown, strict=False):
        image = place.imshow(found.weights[layer, each], cmap="Blues", vmin=0, vmax=1, aspect="auto")
        place.set_title(f"layer {layer}, head {each}", fontsize=9, loc="left")
        font = 6 if head is None else 8
        place.set_xticks(range(len(found.keys)), found.keys, rotation=90, fontsize=font)
        place.set_yticks(range(len(found.queries)), found.queries, fontsize=font)
        place.tick_params(length=0)
        if head is not None and max(len(found.keys), len(found.queries)) <= MOST_TOKENS // 3:
            _write_numbers(place, found.weights[layer, each])
    for place in axes[len(shown) :]:
        place.set_axis_off()
    figure.supxlabel("looked at", fontsize=9)
    figure.supylabel("looking", fontsize=9)
    figure.colorbar(image, ax=axes.tolist(), label="attention", shrink=0.6, aspect=30)
    FigureCanvasAgg(figure)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return content.getvalue()


def _write_numbers(place: Any, weights: Weights) -> None:
    for query, line in enumerate(weights):
        for key, weight in enumerate(line):
            if weight >= 0.05:
                color = "white" if weight > 0.5 else "#30363d"
                place.text(key, query, f"{100 * weight:.0f}", ha="center", va="center", fontsize=6, color=color)


def summary(found: AttentionMap) -> dict[str, list[list[float]]]:
    """What each head of each layer does, (layers, heads): its mean entropy, and its mean weights on some places.

    `entropy` is in bits: 0 where a token looks at one, log2 of the number of keys where it looks at all alike. Of
    self-attention also the weight on the token `itself`, on the ones `before` and `after` it. And on the `first`.
    """
    weights = found.weights.astype(np.float64)
    entropy = -(weights * np.log2(np.maximum(weights, 1e-30))).sum(axis=-1).mean(axis=-1)
    told = {"entropy": entropy, "first": weights[..., 0].mean(axis=-1)}
    if found.queries == found.keys:
        length = len(found.keys)
        for name, offset in (("itself", 0), ("before", -1), ("after", 1)):
            count = max(1, length - abs(offset))
            told[name] = np.trace(weights, offset, axis1=-2, axis2=-1) / count
    return {name: values.tolist() for name, values in told.items()}


def read(arguments: EvaluateArguments) -> tuple[list[str], list[Path]]:
    """The texts, which no file holds.

    Raises:
        UserError: there is none, more targets than texts, or a flag that changes nothing.
    """
    for name in ("dataset", "batch_tokens"):
        if getattr(arguments, name) is not None:
            raise UserError(f"suite attention draws each --text by itself and takes no {name}; leave it out")
    if not arguments.text:
        raise UserError('suite attention needs --text "..."')
    if arguments.target is not None and len(arguments.text) > 1:
        raise UserError(f"target belongs to one text, but {len(arguments.text)} are given; give one")
    if arguments.compare is not None:
        raise UserError("suite attention draws one model; give --model_name_or_path in place of --compare")
    return arguments.text, []


def measure(name: str, texts: Sequence[str], arguments: EvaluateArguments) -> Result:
    """Draw the attention for each text, and say what each head of the layer looks at."""
    model = open_body(name, trust_remote_code=arguments.trust_remote_code)
    tokenizer = open_tokenizer(name, trust_remote_code=arguments.trust_remote_code)
    target_tokenizer = None
    if model.config.is_encoder_decoder and get_tokenizer_config(model_folder(name), subfolder=TARGET_TOKENIZER):
        target_tokenizer = open_tokenizer(
            name, subfolder=TARGET_TOKENIZER, trust_remote_code=arguments.trust_remote_code
        )
    figures, bars, most = list[dict[str, Any]](), dict[str, float](), 0.0
    files: dict[str, str | bytes] = {}
    rows: dict[str, float | None] = {}
    for number, text in enumerate(texts, start=1):
        found = attention_map(
            model,
            tokenizer,
            text,
            target=arguments.target,
            kind=arguments.attention_kind,
            target_tokenizer=target_tokenizer,
        )
        layer = -1 if arguments.attention_layer is None else arguments.attention_layer
        files[f"attention-{number}.png"] = draw(found, layer=layer, head=arguments.attention_head)
        told = summary(found)
        figures.append({"text": text, "queries": found.queries, "keys": found.keys, "heads": told})
        start = f"text {number}, " if len(texts) > 1 else ""
        shown = layer % len(found.weights)
        rows |= {
            f"{start}layer {shown}, head {head}: entropy (bits)": value
            for head, value in enumerate(told["entropy"][shown])
        }
    bars = {
        f"layer {layer}, head {head}": value
        for layer, line in enumerate(figures[0]["heads"]["entropy"])
        for head, value in enumerate(line)
    }
    most = float(np.log2(len(figures[0]["keys"])))
    return Result(
        figures={"texts": figures},
        rows=rows,
        bars=bars,
        axis="entropy of a head's attention (bits)",
        baseline=("all tokens alike", most),
        files=files,
    )
