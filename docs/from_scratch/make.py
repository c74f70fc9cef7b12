"""Measure what the tour quotes, draw its pictures, and put the numbers into its page.

::

    python docs/from_scratch/make.py

Every number comes from this package's own code, run on tiny seeded models: offline, on a CPU, in about half a minute.
"""

import contextlib
import importlib
import io
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor, nn
from transformers import TemperatureLogitsWarper, TopPLogitsWarper, set_seed

from hf_minibert.command_line import run
from hf_minibert.data.rows import Masking, NextSentenceRows
from hf_minibert.data.token_store import Documents
from hf_minibert.files import write_json, write_text
from hf_minibert.models.configuration_minibert import MiniBertConfig
from hf_minibert.models.configuration_minigpt import MiniGPTConfig
from hf_minibert.models.losses import IGNORE_INDEX
from hf_minibert.models.modeling_minibert import MiniBertForPreTraining, MiniBertModel
from hf_minibert.models.modeling_minigpt import MiniGPTForCausalLM, MiniGPTForSequenceClassification, MiniGPTModel
from hf_minibert.models.modeling_transformer import (
    Attention,
    RotaryEmbedding,
    TransformerLayer,
    eager_attention,
    rotate,
)
from hf_minibert.tokenization import OWN_TOKENIZER, SPECIAL_TOKENS, load_tokenizer

Table = dict[str, Any]
HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
PAGE = HERE.parent / "from_scratch.md"
FIGURES = HERE / "figures.json"
PLACE = re.compile(r"(<!-- tour:([\w-]+) -->\n).*?(<!-- end:\2 -->)", flags=re.DOTALL)
FILES = (
    "models/modeling_transformer.py",
    "models/masks.py",
    "models/modeling_minibert.py",
    "models/modeling_minigpt.py",
    "models/losses.py",
    "tokenization.py",
    "data/rows.py",
    "pretraining/objectives.py",
    "evaluation/generate.py",
)
"""What the tour reads, in its order, below `hf_minibert/`."""
SHAPE: dict[str, Any] = {
    "vocab_size": 200,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "attn_implementation": "eager",  # which also returns the weights
    "initializer_range": 0.2,  # far more than in training, so that tiny models that have learnt nothing show something
}
STEPS = 200
MODULE = nn.Identity().eval()  # what an attention function asks whether it trains


@dataclass(kw_only=True)
class Arguments:
    """Measure and draw what docs/from_scratch.md shows."""


def table(columns: dict[str, str], rows: list[list[Any]], note: str = "") -> Table:
    """Rows of raw values, with the format of each column beside its heading, and a sentence for below."""
    return {"columns": columns, "rows": rows, "note": note}


def files() -> Table:
    """How long each file is."""
    folder = REPOSITORY / "hf_minibert"
    lengths = [len((folder / name).read_text(encoding="utf-8").splitlines()) for name in FILES]
    rows = [
        [f"{place}. [`{name}`](../hf_minibert/{name})", length]
        for place, (name, length) in enumerate(zip(FILES, lengths, strict=True), start=1)
    ]
    return table({"file of `hf_minibert/`": "", "lines": ","}, rows, f"Together {sum(lengths):,} lines.")


def scaling() -> Table:
    """Scores and weights of random queries among 64 random keys, with and without the square root."""
    rows: list[list[Any]] = []
    for width in (16, 64, 256, 1024):
        query, key, value = torch.randn(3, 1, 1, 64, width).unbind()
        weights = [eager_attention(MODULE, query, key, value, None, each)[1] for each in (1.0, width**-0.5)]
        largest = [float(each.amax(dim=-1).mean()) for each in weights]
        rows.append([width, float((query @ key.transpose(2, 3)).std()), *largest])
    headings = ("width d", "spread of the scores", "largest of 64 weights, without √d", "with √d")
    return table(dict(zip(headings, ("", ".1f", ".2f", ".2f"), strict=True)), rows)


def lookup() -> Table:
    """A query that is one of eight keys, longer and longer, and what it finds."""
    key, value = torch.randn(2, 1, 1, 8, 64).unbind()
    rows: list[list[Any]] = []
    for length in (0.0, 0.5, 1.0, 2.0):
        attended, weights = eager_attention(MODULE, length * key[:, :, 2:3], key, value, None, 64**-0.5)
        error = (attended[:, 0] - value[:, :, 2]).norm() / value[:, :, 2].norm()
        rows.append([length, float(weights[..., 2]), float(error)])
    headings = ("the query is the third key times", "weight of the third value", "how far off the result is")
    return table(dict(zip(headings, ("g", ".3f", ".1%"), strict=True)), rows)


def heads() -> Table:
    """One attention layer with more and more heads."""
    rows: list[list[Any]] = []
    for number in (1, 2, 4, 8):
        config = MiniBertConfig(**SHAPE | {"num_attention_heads": number})
        attention = Attention(config, 0, is_causal=False)
        weights = attention(torch.randn(1, 10, 64), None)[1]
        assert weights is not None
        size = sum(parameter.numel() for parameter in attention.parameters())
        rows.append([number, attention.head_dim, size, " × ".join(map(str, weights.shape[1:]))])
    headings = ("heads", "width of each", "weights of the layer", "attention patterns of 10 tokens")
    return table(dict(zip(headings, ("", "", ",", ""), strict=True)), rows)


def cross_attention() -> Table:
    """A decoder of five tokens beside an encoder of seven; then another seventh token."""
    encoder = MiniBertModel(MiniBertConfig(**SHAPE)).eval()
    decoder = MiniGPTModel(MiniGPTConfig(**SHAPE, add_cross_attention=True)).eval()
    source, target = torch.arange(10, 17)[None], torch.arange(20, 25)[None]
    changed = source.clone()
    changed[0, -1] = 99
    first, second = (
        decoder(target, encoder_hidden_states=encoder(ids).last_hidden_state, output_attentions=True)
        for ids in (source, changed)
    )
    difference = (first.last_hidden_state - second.last_hidden_state).abs().amax(dim=-1)[0]
    rows: list[list[Any]] = [
        ["self-attention, queries × keys", " × ".join(map(str, first.attentions[0].shape[2:]))],
        ["cross-attention, queries × keys", " × ".join(map(str, first.cross_attentions[0].shape[2:]))],
        ["the decoder's tokens that change with the encoder's last", int((difference > 1e-3).sum())],
    ]
    return table({"a decoder of 5 tokens beside an encoder of 7": "", "": ""}, rows)


def masks() -> Table:
    """What a change of the last token does to the states before it."""
    before = torch.arange(10, 20)[None]
    after = before.clone()
    after[0, -1] = 99
    rows: list[list[Any]] = []
    for model in (MiniBertModel(MiniBertConfig(**SHAPE)).eval(), MiniGPTModel(MiniGPTConfig(**SHAPE)).eval()):
        difference = model(before).last_hidden_state - model(after).last_hidden_state
        rows.append([f"`{model.config.model_type}`", float(difference[:, :-1].abs().max())])
    return table({"the last of ten tokens is replaced": "", "largest change of the nine states before it": ".2g"}, rows)


def positions() -> Table:
    """Shuffled tokens give shuffled states, unless positions say where each stood; a rotation tells distances only."""
    model = MiniBertModel(MiniBertConfig(**SHAPE)).eval()
    tokens, seen, order, places = torch.arange(10, 20)[None], torch.ones(1, 10), torch.randperm(10), torch.arange(10)

    def states(ids: Tensor, position_ids: Tensor) -> Tensor:
        return model(ids, seen, position_ids=position_ids[None]).last_hidden_state

    def differ(first: Tensor, second: Tensor) -> float:
        return float((first - second).abs().max())

    rows = [
        [words, differ(states(tokens, each)[:, order], states(tokens[:, order], each))]
        for words, each in (
            ("shuffled, every token at position 0", 0 * places),
            ("shuffled, at positions 0 to 9", places),
        )
    ]
    rows.append(["in order, at positions 100 to 109", differ(states(tokens, places), states(tokens, places + 100))])
    return table({"ten tokens": "", "largest change of a token's state": ".0e"}, rows)


def pooling() -> Table:
    """One text alone and with padding behind it, as one vector."""
    text, filler = torch.arange(10, 18)[None], torch.zeros(1, 8, dtype=torch.long)
    padded, mask = torch.cat((text, filler), dim=1), (torch.arange(16)[None] < 8).long()
    rows: list[list[Any]] = []
    for kind in ("cls", "mean"):
        model = MiniBertModel(MiniBertConfig(**SHAPE, classifier_pooling=kind), add_pooling_layer=True).eval()
        alone, encoded = model(text).pooler_output, model(padded, mask)
        rows.append([f"`{kind}`", float((encoded.pooler_output - alone).abs().max())])
    assert model.pooler is not None
    counted = model.pooler(encoded.last_hidden_state, None)
    rows.append(["`mean`, padding counted", float((counted - alone).abs().max())])
    return table({"a text of eight tokens gets eight of padding": "", "largest change of its vector": ".0e"}, rows)


class WithoutResidual(TransformerLayer):
    """A layer in which the input does not go around the branches."""

    def add(self, hidden_states: Tensor, norm: nn.Module, branch: Callable[[Tensor], Tensor]) -> Tensor:
        """The branch alone."""
        return branch(norm(hidden_states))


def residuals() -> Table:
    """How much of the gradient at the top of a stack arrives at its bottom, and what new layers do.

    In double precision: a gradient that grows a hundred million times makes its rounding grow, too.
    """
    rows: list[list[Any]] = []
    exact = {"attn_implementation": "sdpa"}  # eager attention has its softmax in float32
    for depth in (2, 8, 32, 64):
        arrives = []
        for kind, placement in ((WithoutResidual, "pre"), (TransformerLayer, "post"), (TransformerLayer, "pre")):
            set_seed(0)
            config = MiniBertConfig(**SHAPE | exact, norm_placement=placement)
            layers = [kind(config, index, is_causal=False).double() for index in range(depth)]
            for weight in (parameter for layer in layers for parameter in layer.parameters() if parameter.ndim == 2):
                nn.init.normal_(weight, std=0.125)
            bottom = torch.randn(1, 10, 64, dtype=torch.float64, requires_grad=True)
            top = bottom
            for layer in layers:
                top = layer(top, None)
            direction = torch.randn_like(top)
            (gradient,) = torch.autograd.grad((top * direction).sum(), bottom)
            arrives.append(float(gradient.norm() / direction.norm()))
        rows.append([depth, *arrives])
    model = MiniBertModel(MiniBertConfig(**SHAPE | {"num_hidden_layers": 32}, residual_init="zero")).eval()
    model.norm = nn.Identity()
    tokens = torch.arange(10, 20)[None]
    change = float((model(tokens).last_hidden_state - model.embed_tokens(tokens)).detach().abs().max())
    headings = ("layers", "times, without residuals", "norm after the sum", "norm before the branch")
    note = f'With `residual_init="zero"`, 32 new layers change their input by {change:g}.'
    return table(dict(zip(headings, ("", ",.0f", ",.0f", ",.0f"), strict=True)), rows, note)


def wordpiece() -> Table:
    """Words as the package's vocabulary spells them, and how many bytes a token stands for on held-out text."""
    tokenizer = load_tokenizer(OWN_TOKENIZER)
    training = json.loads((OWN_TOKENIZER / "training.json").read_text(encoding="utf-8"))
    rows = [
        [f"`{text}`", " ".join(f"`{piece}`" for piece in tokenizer.tokenize(text))]
        for text in ("walking", "they were walking", "a sleepwalking transformer")
    ]
    lengths = [each["bytes_per_token"] for each in training["validation"].values()]
    note = (
        f"The vocabulary has {len(tokenizer):,} entries. On held-out text a token stands for {min(lengths):.1f} to "
        f"{max(lengths):.1f} bytes."
    )
    return table({"text": "", "pieces": ""}, rows, note)


def masking() -> Table:
    """What becomes of the tokens of 512 rows of 128, at BERT's rate."""
    vocab_size, special_ids, mask_id = 8192, list(SPECIAL_TOKENS.values()), SPECIAL_TOKENS["[MASK]"]
    rule = Masking(probability=0.15, mask_id=mask_id, special_ids=special_ids, vocab_size=vocab_size, seed=0)
    tokens = np.random.default_rng(0).integers(len(special_ids), vocab_size, size=(512, 128))
    noisy, labels = rule.apply(0, np.arange(512), tokens)
    chosen = labels != IGNORE_INDEX
    hidden, kept = noisy[chosen] == mask_id, noisy[chosen] == tokens[chosen]
    rows = [
        ["chosen", float(chosen.mean())],
        ["of these, become `[MASK]`", float(hidden.mean())],
        ["of these, become another token", float((~hidden & ~kept).mean())],
        ["of these, stay", float(kept.mean())],
    ]
    return table({f"{tokens.size:,} tokens": "", "share": ".1%"}, rows)


def next_sentence() -> Table:
    """Pairs from two hundred documents, each of one token again and again; losses before any training."""
    places = np.array([[document, 0, 60] for document in range(200)])
    documents = Documents([np.full(60, 10 + document, dtype=np.uint16) for document in range(200)], places)
    rule = Masking(probability=0.15, mask_id=4, special_ids=list(range(10)), vocab_size=210, seed=0)
    maker = NextSentenceRows(documents, length=32, cls_id=2, sep_id=3, seed=0, masking=rule, pad_id=0)
    batch = maker.batch(0, np.arange(maker.num_rows))
    model = MiniBertForPreTraining(MiniBertConfig(**SHAPE | {"vocab_size": 210, "initializer_range": 0.02})).eval()
    found = model(**batch)
    rows: list[list[Any]] = [
        ["share of pairs in which B follows A", float((batch["next_sentence_label"] == 0).float().mean()), 0.5],
        ["masked-LM loss, nats", float(found.mlm_loss), math.log(200)],
        ["next-sentence loss, nats", float(found.nsp_loss), math.log(2)],
        ["the loss: their sum", float(found.loss), math.log(200) + math.log(2)],
    ]
    headings = {f"{maker.num_rows} pairs of segments, before training": "", "measured": ".2f", "by chance": ".2f"}
    return table(headings, rows)


def losses() -> Table:
    """L1, L2 and L3 of one batch of eight labelled texts."""
    config = MiniGPTConfig(**SHAPE | {"initializer_range": 0.02, "num_labels": 2, "lm_loss_weight": 0.5})
    model = MiniGPTForSequenceClassification(config).eval()
    tokens, labels = torch.randint(10, 200, (8, 12)), torch.arange(8) % 2
    found = model(tokens, torch.ones_like(tokens), labels=labels)
    weight = config.lm_loss_weight
    rows: list[list[Any]] = [
        ["L1, of the next token", float(found.lm_loss), math.log(200)],
        ["L2, of the label", float(found.classification_loss), math.log(2)],
        [f"L3 = L2 + {weight:g} · L1", float(found.loss), math.log(2) + weight * math.log(200)],
    ]
    return table({"eight texts, before training": "", "nats": ".3f", "by chance": ".3f"}, rows)


def sampling() -> Table:
    """What a tiny MiniGPT says next at several temperatures, once it has read the Zen of Python often."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        importlib.reload(importlib.import_module("this"))
    lines = printed.getvalue().splitlines()[-19:]
    tokenizer = load_tokenizer(OWN_TOKENIZER)
    batch = tokenizer(lines, add_special_tokens=False, padding=True, return_tensors="pt")
    labels = batch.input_ids.masked_fill(batch.attention_mask == 0, IGNORE_INDEX)
    model = MiniGPTForCausalLM(MiniGPTConfig(**SHAPE | {"vocab_size": len(tokenizer), "initializer_range": 0.02}))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(STEPS):
        loss = model(batch.input_ids, batch.attention_mask, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    prompt = tokenizer("Simple is better than", add_special_tokens=False, return_tensors="pt").input_ids
    logits = model.eval()(prompt).logits[:, -1].detach()
    rows: list[list[Any]] = []
    for temperature in (0.5, 1.0, 1.5, 2.0):
        warm = TemperatureLogitsWarper(temperature)(prompt, logits)
        probabilities, kept = warm.softmax(dim=-1)[0], TopPLogitsWarper(0.95)(prompt, warm).isfinite().sum()
        best = probabilities.topk(3)
        words = [
            f"`{str(tokenizer.decode(token)).strip()}` {share:.0%}"
            for token, share in zip(best[1], best[0], strict=True)
        ]
        entropy = -(probabilities * probabilities.log()).sum()
        rows.append([temperature, ", ".join(words), float(entropy), int(kept)])
    headings = ("temperature", "likeliest after “Simple is better than”", "entropy, nats", "tokens in the top 95%")
    note = f"(after {STEPS} steps on 19 lines, at {float(loss.detach()):.2f} nats a token)"
    return table(dict(zip(headings, ("g", "", ".2f", ","), strict=True)), rows, note)


MEASUREMENTS: dict[str, Callable[[], Table]] = {
    "files": files,
    "scaling": scaling,
    "lookup": lookup,
    "heads": heads,
    "cross-attention": cross_attention,
    "masks": masks,
    "positions": positions,
    "pooling": pooling,
    "residuals": residuals,
    "wordpiece": wordpiece,
    "masking": masking,
    "next-sentence": next_sentence,
    "losses": losses,
    "sampling": sampling,
}


def measure(name: str) -> Table:
    """One measurement, always from the same seed; numbers to four digits."""
    set_seed(0)
    with torch.set_grad_enabled(name in ("residuals", "sampling")):
        found = MEASUREMENTS[name]()
    rows = [[float(f"{value:.4g}") if isinstance(value, float) else value for value in row] for row in found["rows"]]
    return found | {"rows": rows}


def markdown(found: Table) -> list[str]:
    """A table as the page has it."""
    columns: dict[str, str] = found["columns"]
    lines = [f"| {' | '.join(columns)} |", "|---" + "|---:" * (len(columns) - 1) + "|"]
    for row in found["rows"]:
        cells = (format(value, form) for value, form in zip(row, columns.values(), strict=True))
        lines.append(f"| {' | '.join(cells)} |")
    return lines + (["", found["note"]] if found["note"] else [])


def render(page: str, figures: dict[str, Any]) -> str:
    """The page with every number as the file of figures has it."""

    def fill(place: re.Match[str]) -> str:
        begin, name, end = place.groups()
        return begin + "\n".join(markdown(figures[name])) + "\n" + end

    return PLACE.sub(fill, page)


def draw_masks(path: Path) -> None:
    """Attention weights of both models, from the same seed, of the same ten tokens."""
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    models: list[Any] = [(MiniBertModel, MiniBertConfig), (MiniGPTModel, MiniGPTConfig)]
    for axes, (kind, config_class) in zip(figure.subplots(1, 2), models, strict=True):
        set_seed(0)
        model = kind(config_class(**SHAPE)).eval()
        weights = model(torch.arange(10, 20)[None], output_attentions=True).attentions[0][0, 0]
        axes.imshow(weights.detach().sqrt().numpy(), cmap="Blues", vmin=0)
        axes.set_title(config_class.model_type)
        axes.set_xlabel("key: the token that is seen")
        axes.set_ylabel("query: the token that looks")
    figure.savefig(path, dpi=100, metadata={"Software": None})


def draw_rotation(path: Path) -> None:
    """The score of a query and a key, both of ones, which depends on how far apart they stand and on nothing else."""
    rotary = RotaryEmbedding(MiniBertConfig(**SHAPE))
    ones = torch.ones(1, 1, 128, 16)
    figure = Figure(figsize=(7, 2.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for start, style in ((0, "-"), (300, "--")):
        turned = rotate(ones, rotary(torch.arange(start, start + 128)[None], torch.float32))
        axes.plot((turned[0, 0] @ turned[0, 0, 0]).numpy(), style, label=f"the query at position {start}")
    axes.set_xlabel("how far behind it the key stands")
    axes.set_ylabel("score")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=100, metadata={"Software": None})


def main(_: Arguments) -> int:
    """Measure, draw, and render the page."""
    torch.set_num_threads(1)
    figures = {name: measure(name) for name in MEASUREMENTS}
    write_json(FIGURES, figures)
    draw_masks(HERE / "masks.png")
    draw_rotation(HERE / "rotation.png")
    write_text(PAGE, render(PAGE.read_text(encoding="utf-8"), figures))
    return 0


if __name__ == "__main__":
    run(Arguments, main)
