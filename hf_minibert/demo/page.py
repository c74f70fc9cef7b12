"""A page that tries a checkpoint by hand: a tab for each thing that its head can do, and for attention and neighbours.

This file travels into Spaces, so it imports nothing of this package: `ABILITIES` is the table of tabs.
"""

import functools
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import torch
import transformers
from matplotlib.figure import Figure
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, TextIteratorStreamer
from transformers.models.auto.tokenization_auto import get_tokenizer_config

matplotlib.use("agg")

AUTO_CLASSES = {
    "ForMaskedLM": "AutoModelForMaskedLM",
    "ForPreTraining": "AutoModelForMaskedLM",
    "ForCausalLM": "AutoModelForCausalLM",
    "LMHeadModel": "AutoModelForCausalLM",
    "ForSequenceClassification": "AutoModelForSequenceClassification",
    "ForTokenClassification": "AutoModelForTokenClassification",
    "ForQuestionAnswering": "AutoModelForQuestionAnswering",
    "EncoderDecoderModel": "AutoModelForSeq2SeqLM",
}
"""How a class ends that a checkpoint names, and what opens it with that head."""

TARGET_TOKENIZER = "target_tokenizer"
"""Subfolder of the tokenizer that a translator writes with, where it is another than that of its source."""

MOST_PICTURED = 64
"""Tokens of a text whose attention is drawn."""

WITHOUT_SPACES = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\ua4cf\uf900-\ufaff\U00020000-\U0003ffff]")
"""Characters of scripts that write words one behind another: Thai, Lao, Burmese, Khmer, Chinese, Japanese."""

Answers = Callable[[str, str, PreTrainedModel, PreTrainedTokenizerBase], Sequence[Any]]


@dataclass(frozen=True)
class Checkpoint:
    """An open checkpoint."""

    name: str
    model: Any
    tokenizer: Any
    auto_class: str
    answers: Answers
    """Finds the answers to a question in a text: each has `text`, `start`, `end` and `score`."""
    target_tokenizer: Any = None
    """That of the target, if it is another."""

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether it turns one text into another."""
        return self.auto_class == "AutoModelForSeq2SeqLM"


def open_checkpoint(name: str, answers: Answers, *, title: str | None = None, trust_remote_code: bool) -> Checkpoint:
    """Open a checkpoint with the head that it was saved with, in float32, on the CPU or the first GPU.

    Args:
        name: a folder, or a name on the Hub.
        answers: see `Checkpoint`.
        title: what the page calls it; default, its name.
        trust_remote_code: whether the code that lies beside the weights may run.
    """
    config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
    saved_class = (config.architectures or [""])[0]
    auto_class = next((auto for end, auto in AUTO_CLASSES.items() if saved_class.endswith(end)), "AutoModel")
    model = getattr(transformers, auto_class).from_pretrained(
        name,
        trust_remote_code=trust_remote_code,
        use_safetensors=True,
        dtype=torch.float32,
        attn_implementation="eager",  # which alone can show its attention
    )
    tokenizer, target = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code), None
    if auto_class == "AutoModelForSeq2SeqLM" and get_tokenizer_config(name, subfolder=TARGET_TOKENIZER):
        target = AutoTokenizer.from_pretrained(name, subfolder=TARGET_TOKENIZER, trust_remote_code=trust_remote_code)
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    return Checkpoint(title or name, model.to(device).eval(), tokenizer, auto_class, answers, target)


# ---------------------------------------------------------------- what a checkpoint says


def fill(checkpoint: Checkpoint, text: str, count: int = 5) -> list[list[str | float]]:
    """The likeliest tokens for each mask of a text: rows of the mask's number, the token and its percentage.

    Raises:
        ValueError: the text has no mask.
    """
    tokenizer, model = checkpoint.tokenizer, checkpoint.model
    row = _encoded(checkpoint, text)
    places = (row["input_ids"][0] == tokenizer.mask_token_id).nonzero().flatten().tolist()
    if not places:
        raise ValueError(f"Write {tokenizer.mask_token} where a word is to be filled in.")
    with torch.no_grad():
        probabilities = model(**row).logits[0, places].softmax(dim=-1)
    best = probabilities.topk(count)
    return [
        [number, tokenizer.decode([token]).strip(), round(100 * probability, 2)]
        for number, (values, tokens) in enumerate(
            zip(best.values.tolist(), best.indices.tolist(), strict=True), start=1
        )
        for probability, token in zip(values, tokens, strict=True)
    ]


def go_on(checkpoint: Checkpoint, text: str, length: float, temperature: float) -> Iterator[str]:
    """A text and what the model adds to it, longer and longer; a temperature of 0 takes the likeliest token."""
    tokenizer = checkpoint.tokenizer
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    row = _encoded(checkpoint, text)
    options: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        options = {"do_sample": True, "temperature": temperature, "top_p": 0.95}
    if tokenizer.pad_token_id is not None:
        options["pad_token_id"] = tokenizer.pad_token_id
    options |= {"streamer": streamer, "max_new_tokens": int(length), "repetition_penalty": 1.1}
    faults: list[Exception] = []

    def generate() -> None:
        try:
            checkpoint.model.generate(**row, **options)
        except Exception as fault:
            faults.append(fault)
            streamer.end()  # or whoever reads would wait for ever

    thread = threading.Thread(target=generate)
    thread.start()
    yield text
    for piece in streamer:
        text += piece
        yield text
    thread.join()
    if faults:
        raise ValueError(f"The model cannot go on: {faults[0]}") from faults[0]


def classify(checkpoint: Checkpoint, text: str, second: str = "") -> dict[str, float] | str:
    """Every label and its probability, as pipelines give them; of a model that was trained on numbers, its number.

    `second` is for a model that reads two texts.
    """
    with torch.no_grad():
        logits = checkpoint.model(**_encoded(checkpoint, text, second or None)).logits[0].float()
    labels, kind = checkpoint.model.config.id2label, checkpoint.model.config.problem_type
    if kind == "regression":
        return ", ".join(f"{value:.3f}" for value in logits.tolist())
    is_independent = kind == "multi_label_classification" or len(logits) == 1
    values = logits.sigmoid() if is_independent else logits.softmax(dim=-1)
    return {labels[number]: value for number, value in enumerate(values.tolist())}


def mark(checkpoint: Checkpoint, text: str) -> list[tuple[str, str | None]]:
    """A text in pieces, each with its entity's label or None; together they are the text."""
    encoded = _whole(checkpoint, text, return_offsets_mapping=True)
    offsets = encoded.pop("offset_mapping")[0].tolist()
    with torch.no_grad():
        row = {key: value.to(checkpoint.model.device) for key, value in encoded.items()}
        numbers = checkpoint.model(**row).logits[0].argmax(dim=-1).tolist()
    labels = checkpoint.model.config.id2label
    pieces: list[tuple[int, int, str | None]] = []
    for (start, end), number in zip(offsets, numbers, strict=True):
        if start == end or (pieces and start < pieces[-1][1]):  # a part of a character that is marked already
            continue
        label = labels[number]
        kind = None if label == "O" else label.partition("-")[2] if label[:2] in ("B-", "I-") else label
        ends = text[start - 1 : start + 1]
        begins_word = not pieces or not ends.isalnum() or WITHOUT_SPACES.search(ends) is not None
        if pieces and not begins_word and pieces[-1][1] == start:
            kind = pieces[-1][2]  # a word has the label of its first token
        if pieces and pieces[-1][2] == kind and not (kind and label.startswith("B-") and begins_word):
            pieces[-1] = (pieces[-1][0], end, kind)
        else:
            pieces.append((start, end, kind))
    shown: list[tuple[str, str | None]] = []
    before = 0
    for start, end, kind in pieces:
        shown += [(text[before:start], None)] if before < start else []
        shown.append((text[start:end], kind))
        before = end
    return [*shown, (text[before:], None)] if before < len(text) else shown


def answer(checkpoint: Checkpoint, question: str, text: str) -> tuple[list[tuple[str, str | None]], dict[str, float]]:
    """A text with the best answer marked in it, and the answers with their probabilities.

    Raises:
        ValueError: the question or the text is empty.
    """
    found = checkpoint.answers(question, text, checkpoint.model, checkpoint.tokenizer)
    best = found[0]
    marked = [(text[: best.start], None), (best.text, "answer"), (text[best.end :], None)]
    return [piece for piece in marked if piece[0]], {one.text or "(no answer)": one.score for one in found[::-1]}


def translate(checkpoint: Checkpoint, text: str) -> str:
    """What an encoder and a decoder make of a text."""
    row = _encoded(checkpoint, text)
    limit = getattr(checkpoint.model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    most = 2 * row["input_ids"].shape[1] + 20  # as far as translations go
    tokens = checkpoint.model.generate(**row, max_new_tokens=most if limit is None else min(most, limit - 1))
    tokenizer = checkpoint.target_tokenizer or checkpoint.tokenizer
    return str(tokenizer.decode(tokens[0], skip_special_tokens=True)).strip()


def attention(checkpoint: Checkpoint, text: str, layer: float) -> Figure:
    """What each head of a layer (counted from 1) attends to: a row of a square is a token, its columns what it sees."""
    row = _encoded(checkpoint, text)
    if (length := row["input_ids"].shape[1]) > MOST_PICTURED:
        raise ValueError(f"A picture takes up to {MOST_PICTURED} tokens, and this text has {length}; shorten it.")
    with torch.no_grad():
        if checkpoint.is_encoder_decoder:
            outputs = checkpoint.model.get_encoder()(**row, output_attentions=True)
        else:
            outputs = checkpoint.model(**row, output_attentions=True)
    heads = outputs.attentions[int(layer) - 1][0].float().cpu()
    tokens = [checkpoint.tokenizer.decode([token]).strip() or "·" for token in row["input_ids"][0].tolist()]
    columns = min(4, len(heads))
    rows = -(-len(heads) // columns)
    size = 1.2 + 0.16 * len(tokens)
    figure = Figure(figsize=(columns * size + 0.5, rows * size + 0.5), layout="constrained", dpi=110)
    for number, head in enumerate(heads):
        axes = figure.add_subplot(rows, columns, number + 1)
        axes.imshow(head.numpy(), cmap="Blues", vmin=0, vmax=1)
        axes.set_title(f"head {number + 1}", fontsize=8)
        axes.set_xticks(range(len(tokens)), [_literal(token) for token in tokens], rotation=90, fontsize=6)
        axes.set_yticks(range(len(tokens)), [_literal(token) for token in tokens], fontsize=6)
    return figure


def nearest(checkpoint: Checkpoint, text: str, others: str) -> list[list[str | float]]:
    """The lines of a text, the nearest first, with the cosine between their mean vectors and that of another text.

    Raises:
        ValueError: there is nothing to compare.
    """
    lines = [line.strip() for line in others.splitlines() if line.strip()]
    if not text.strip() or not lines:
        raise ValueError("Write a sentence, and below it others to compare, each on a line.")
    body = checkpoint.model.get_encoder() if checkpoint.is_encoder_decoder else checkpoint.model.base_model
    vectors = []
    for line in [text, *lines]:
        with torch.no_grad():
            vectors.append(body(**_encoded(checkpoint, line)).last_hidden_state[0].float().mean(dim=0))
    cosines = torch.nn.functional.cosine_similarity(vectors[0][None], torch.stack(vectors[1:])).tolist()
    return sorted(([round(cosine, 4), line] for cosine, line in zip(cosines, lines, strict=True)), reverse=True)


def _encoded(checkpoint: Checkpoint, text: str, second: str | None = None) -> dict[str, torch.Tensor]:
    if not text.strip() and checkpoint.auto_class != "AutoModelForCausalLM":
        raise ValueError("Write some text first.")
    row = _whole(checkpoint, text, second)
    return {key: value.to(checkpoint.model.device) for key, value in row.items()}


def _whole(checkpoint: Checkpoint, *texts: str | None, **options: Any) -> Any:
    """A text, or two, as a row of tokens.

    Raises:
        ValueError: it is longer than the model reads.
    """
    row = checkpoint.tokenizer(*texts, return_tensors="pt", verbose=False, **options)
    length, most = row["input_ids"].shape[1], checkpoint.tokenizer.model_max_length
    if length > most:
        raise ValueError(f"The text has {length:,} tokens, and the model reads {most:,} at most.")
    return row


def _literal(text: str) -> str:
    """Text in which matplotlib sees no formula."""
    return text.replace("$", r"\$")


# ---------------------------------------------------------------- the page


@dataclass(frozen=True)
class Ability:
    """A tab of the page."""

    title: str
    auto_classes: tuple[str, ...]
    """The heads that it needs; none for one that every checkpoint has."""
    build: Callable[[Any, Checkpoint], None]
    """Lays out the tab with Gradio, which it is given."""


def _told(gr: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose `ValueError`, what a user does wrong, is shown on the page alone, without a traceback here."""

    @functools.wraps(function)
    def run(*inputs: Any) -> Any:
        try:
            return function(*inputs)
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from None

    return run


def _fill_tab(gr: Any, checkpoint: Checkpoint) -> None:
    text = gr.Textbox(f"He opened the {checkpoint.tokenizer.mask_token} and went into the house.", label="Text")
    button = gr.Button("Fill in", variant="primary")
    table = gr.Dataframe(headers=["mask", "token", "probability (%)"], label="Likeliest tokens", interactive=False)
    gr.on([button.click, text.submit], _told(gr, lambda words: fill(checkpoint, words)), text, table, api_name="fill")


def _go_on_tab(gr: Any, checkpoint: Checkpoint) -> None:
    text = gr.Textbox("The history of", label="Beginning", lines=2)
    with gr.Row():
        length = gr.Slider(10, 300, 80, step=10, label="Tokens to add, at most")
        temperature = gr.Slider(0, 1.5, 0.8, step=0.1, label="Temperature (0: always the likeliest)")
    button = gr.Button("Go on", variant="primary")
    output = gr.Textbox(label="Text", lines=6)

    def stream(words: str, length: float, temperature: float) -> Iterator[str]:
        try:
            yield from go_on(checkpoint, words, length, temperature)
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from None

    gr.on([button.click, text.submit], stream, [text, length, temperature], output, api_name="go_on")


def _classify_tab(gr: Any, checkpoint: Checkpoint) -> None:
    text = gr.Textbox("A fine day, and a better film.", label="Text", lines=3)
    second = gr.Textbox("", label="Second text, if the model was trained on pairs", lines=3)
    button = gr.Button("Classify", variant="primary")
    output = gr.Label(label="Labels", num_top_classes=max(1, checkpoint.model.config.num_labels))
    gr.on(
        [button.click, text.submit, second.submit],
        _told(gr, lambda one, other: classify(checkpoint, one, other)),
        [text, second],
        output,
        api_name="classify",
    )


def _mark_tab(gr: Any, checkpoint: Checkpoint) -> None:
    text = gr.Textbox("Ada Lovelace wrote to Charles Babbage in London.", label="Text", lines=3)
    button = gr.Button("Mark", variant="primary")
    output = gr.HighlightedText(label="Entities", show_legend=True)
    gr.on([button.click, text.submit], _told(gr, lambda words: mark(checkpoint, words)), text, output, api_name="mark")


def _answer_tab(gr: Any, checkpoint: Checkpoint) -> None:
    text = gr.Textbox("The house was built in 1850 by a sailor. He lived there for ten years.", label="Text", lines=5)
    question = gr.Textbox("Who built the house?", label="Question")
    button = gr.Button("Answer", variant="primary")
    marked = gr.HighlightedText(label="Where the answer stands")
    others = gr.Label(label="Answers")
    gr.on(
        [button.click, question.submit],
        _told(gr, lambda asked, words: answer(checkpoint, asked, words)),
        [question, text],
        [marked, others],
        api_name="answer",
    )


def _translate_tab(gr: Any, checkpoint: Checkpoint) -> None:
    text = gr.Textbox(label="Text", lines=3)
    button = gr.Button("Translate", variant="primary")
    output = gr.Textbox(label="What the model makes of it", lines=3)
    gr.on(
        [button.click, text.submit],
        _told(gr, lambda words: translate(checkpoint, words)),
        text,
        output,
        api_name="translate",
    )


def _attention_tab(gr: Any, checkpoint: Checkpoint) -> None:
    config = checkpoint.model.config
    layers = (config.encoder if checkpoint.is_encoder_decoder else config).num_hidden_layers
    text = gr.Textbox("The cat sat on the mat because it was tired.", label="Text")
    layer = gr.Slider(1, layers, 1, step=1, label="Layer")
    button = gr.Button("Show attention", variant="primary")
    gr.Markdown("Each row is a token. Its columns are what it attends to; dark is much.")
    picture = gr.Plot(show_label=False)
    gr.on(
        [button.click, text.submit],
        _told(gr, lambda words, number: attention(checkpoint, words, number)),
        [text, layer],
        picture,
        api_name="attention",
    )


def _nearest_tab(gr: Any, checkpoint: Checkpoint) -> None:
    text = gr.Textbox("A ship sails on the sea.", label="Sentence")
    others = gr.Textbox(
        "The king rules the land.\nA boat is on the water.\nShe drinks hot tea.",
        label="Others, each on a line",
        lines=5,
    )
    button = gr.Button("Compare", variant="primary")
    table = gr.Dataframe(headers=["cosine", "sentence"], label="The nearest first", interactive=False)
    gr.on(
        [button.click, text.submit],
        _told(gr, lambda words, lines: nearest(checkpoint, words, lines)),
        [text, others],
        table,
        api_name="nearest",
    )


ABILITIES = (
    Ability("Fill in words", ("AutoModelForMaskedLM",), _fill_tab),
    Ability("Go on with a text", ("AutoModelForCausalLM",), _go_on_tab),
    Ability("Classify", ("AutoModelForSequenceClassification",), _classify_tab),
    Ability("Mark entities", ("AutoModelForTokenClassification",), _mark_tab),
    Ability("Answer questions", ("AutoModelForQuestionAnswering",), _answer_tab),
    Ability("Translate", ("AutoModelForSeq2SeqLM",), _translate_tab),
    Ability("Attention", (), _attention_tab),
    Ability("Nearest sentences", (), _nearest_tab),
)


def build_page(checkpoint: Checkpoint) -> Any:
    """The page of a checkpoint, as Gradio's `Blocks`; what a user does wrong is shown by `launch(show_error=True)`."""
    import gradio as gr

    parameters = sum(weight.numel() for weight in checkpoint.model.parameters())
    with gr.Blocks(title=checkpoint.name, analytics_enabled=False) as page:
        gr.Textbox(
            f"{checkpoint.name}: {type(checkpoint.model).__name__}, {parameters / 1e6:.1f} million parameters",
            label="Model",
            interactive=False,
        )
        for ability in ABILITIES:
            if not ability.auto_classes or checkpoint.auto_class in ability.auto_classes:
                with gr.Tab(ability.title):
                    ability.build(gr, checkpoint)
    return page
