"""Answers: the spans of windows, the best of them, and no answer."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from stock_models import make_ours
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import BertForQuestionAnswering, GPT2ForQuestionAnswering, PreTrainedTokenizerFast

from hf_minibert import MiniBertForQuestionAnswering, MiniGPTForQuestionAnswering, answer, answers
from hf_minibert.export.stock import from_stock, to_stock
from hf_minibert.models.answering import candidates, windows
from hf_minibert.tokenization import adapt_tokenizer

CONTEXT = "In 1851 the 👩‍👩‍👧 family of José́ Ñandú moved to [MASK] Street # 7, near the old café. " * 12


@pytest.fixture(params=["minibert", "minigpt"])
def own_tokenizer(request: pytest.FixtureRequest, tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    return adapt_tokenizer(tokenizer, model_type=request.param, uses_token_types=True, model_max_length=64)


def test_a_question_ends_as_in_the_pairs_of_its_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    """BERT's ends once, RoBERTa's twice."""
    for template in ("[CLS] $A [SEP] $B [SEP]", "[CLS] $A [SEP] [SEP] $B [SEP]"):
        backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        specials = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("[CLS]", "[SEP]")]
        backend.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", pair=template, special_tokens=specials)
        own = PreTrainedTokenizerFast(tokenizer_object=backend, cls_token="[CLS]", sep_token="[SEP]")
        ((window,),) = windows(["Who moved?"], ["The family."], own, max_length=32)
        assert window.input_ids == own("Who moved?", "The family.").input_ids


class Oracle(nn.Module):
    """Scores highest the token ids that it is told, as start and as end; "no answer" has the score `none`."""

    def __init__(self, start: int, end: int, none: float = -5.0, **config: Any) -> None:
        super().__init__()
        self.start, self.end, self.none = start, end, none
        self.config = SimpleNamespace(max_position_embeddings=64, to_dict=lambda: config)
        self.device = torch.device("cpu")
        self.rows = 0

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: torch.Tensor) -> SimpleNamespace:
        self.rows += len(input_ids)
        found = [
            torch.where(input_ids == one, 2.0, -3.0).masked_fill(attention_mask == 0, 99.0) for one in vars_of(self)
        ]
        for logits in found:
            logits[:, 0] = self.none / 2
            logits[torch.arange(len(logits)), attention_mask.sum(dim=1) - 1] = self.none / 2
        return SimpleNamespace(start_logits=found[0], end_logits=found[1])


def vars_of(oracle: Oracle) -> tuple[int, int]:
    return oracle.start, oracle.end


def token(tokenizer: PreTrainedTokenizerFast, text: str) -> int:
    (only,) = tokenizer(text, add_special_tokens=False).input_ids
    return only


@pytest.mark.parametrize("max_length", [24, 40, 64])
def test_windows_hold_every_token_and_its_characters(own_tokenizer: PreTrainedTokenizerFast, max_length: int) -> None:
    (parts,) = windows(["Where  [MASK]?"], [CONTEXT], own_tokenizer, max_length=max_length, doc_stride=6)
    question = own_tokenizer("Where  [MASK]?", add_special_tokens=False, split_special_tokens=True).input_ids
    every = own_tokenizer(CONTEXT, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
    ids = list[int]()
    for window in parts:
        assert len(window.input_ids) <= max_length
        assert window.input_ids[: window.begin] == [2, *question, 3][: window.begin]
        assert window.input_ids[-1] == 3
        shared = 6 if ids else 0
        ids += window.input_ids[window.begin + shared : -1]
    assert ids == every["input_ids"]
    spans = {offset for window in parts for offset in window.offsets}
    assert spans == set(every["offset_mapping"])
    is_encoder = own_tokenizer.num_special_tokens_to_add() > 0
    assert all(window.none == (0 if is_encoder else len(window.input_ids) - 1) for window in parts)


def test_a_window_is_what_the_tokenizer_makes_of_a_pair(tokenizer: PreTrainedTokenizerFast) -> None:
    bert = adapt_tokenizer(tokenizer, model_type="minibert", uses_token_types=True, model_max_length=None)
    ((window,),) = windows(["Who?"], ["A man."], bert, max_length=64)
    assert window.inputs(bert) == dict(bert("Who?", "A man."))
    assert "token_type_ids" in window.inputs(bert)


def test_a_question_leaves_room_for_the_text(own_tokenizer: PreTrainedTokenizerFast) -> None:
    (parts,) = windows(["why " * 500], [CONTEXT], own_tokenizer, max_length=32, doc_stride=8)
    assert all(len(window.input_ids) <= 32 and len(window.offsets) <= 16 for window in parts)
    assert parts[-1].offsets[-1][1] == len(CONTEXT.rstrip()) or parts[-1].offsets[-1][1] == len(CONTEXT)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_length": 8}, "max_length 8 is too short"),
        ({"max_length": 64, "doc_stride": 17}, "doc_stride must lie between 0 and 16, .* got 17"),
    ],
)
def test_windows_that_cannot_be(own_tokenizer: PreTrainedTokenizerFast, settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(windows(["Who?"], ["A man."], own_tokenizer, **settings))


@pytest.mark.parametrize("wanted", ["1851", "👩‍👩‍👧", "José́ Ñandú", "[MASK] Street", "# 7", "café"])
def test_spans_and_characters_agree(own_tokenizer: PreTrainedTokenizerFast, wanted: str) -> None:
    start = CONTEXT.index(wanted, 300)
    (parts,) = windows(["Where?"], [CONTEXT], own_tokenizer, max_length=48)
    met = 0
    for window in parts:
        first, last = window.span(start, start + len(wanted))
        if first == window.none:
            continue
        met += 1
        begin, _ = window.offsets[first - window.begin]
        _, end = window.offsets[last - window.begin]
        assert CONTEXT[begin:end].strip() == wanted
    assert met >= 1


def test_the_answer_of_the_last_window_is_found_once(own_tokenizer: PreTrainedTokenizerFast) -> None:
    context = "nothing here " * 60 + "but London and Paris."
    model = Oracle(token(own_tokenizer, " London"), token(own_tokenizer, " Paris")).train()
    found = answers("Where?", context, model, own_tokenizer, top_k=3, doc_stride=16)  # type: ignore[arg-type]
    assert model.rows > 2
    assert model.training
    assert (found[0].text, found[0].start, found[0].end) == (
        "London and Paris",
        context.index("London"),
        len(context) - 1,
    )
    assert [one.score for one in found] == sorted([one.score for one in found], reverse=True)
    assert 0 < found[0].score < 1
    assert len({(one.start, one.end) for one in found}) == 3
    assert answer("Where?", context, model, own_tokenizer, doc_stride=16).text == "London and Paris"  # type: ignore[arg-type]
    short = answer("Where?", context, model, own_tokenizer, doc_stride=16, max_answer_length=2)  # type: ignore[arg-type]
    assert short.text != "London and Paris", "three tokens are more than two"


@pytest.mark.parametrize(
    ("none", "threshold", "text"),
    [
        (9.0, None, "London"),  # trained where every question has an answer
        (9.0, 0.0, ""),
        (9.0, 6.0, "London"),  # 9 is 5 more than 4
        (9.0, 4.0, ""),
        (-9.0, 0.0, "London"),
    ],
)
def test_no_answer(own_tokenizer: PreTrainedTokenizerFast, none: float, threshold: float | None, text: str) -> None:
    one = token(own_tokenizer, " London")
    model: Any = Oracle(one, one, none, **({} if threshold is None else {"no_answer_threshold": threshold}))
    best = answer("Where?", "It is in London now.", model, own_tokenizer)
    assert best.text == text
    assert (best.start, best.end) == ((0, 0) if not text else (9, 15))


def test_no_answer_is_the_least_that_a_window_says(own_tokenizer: PreTrainedTokenizerFast) -> None:
    (parts,) = windows(["Where?"], ["a b c d e f g h i j k l m n o p"], own_tokenizer, max_length=20, doc_stride=2)
    assert len(parts) > 1
    logits = [np.full(len(window.input_ids), -1.0) for window in parts]
    for number, (window, row) in enumerate(zip(parts, logits, strict=True)):
        row[window.none] = 3.0 - number
    found = candidates("a b c d e f g h i j k l m n o p", parts, logits, logits)
    assert found.none == 2 * (3.0 - (len(parts) - 1))
    assert found.excess == found.none - found.spans[0][0] == found.none + 2


@pytest.mark.parametrize(
    ("question", "context", "more", "message"),
    [
        (" ", "text", {}, "the question is empty"),
        ("Who?", "\n", {}, "the context is empty"),
        ("Who?", "text", {"top_k": 0}, "top_k must be positive, got 0"),
        ("Who?", "text", {"max_answer_length": 0}, "max_answer_length must be positive, got 0"),
    ],
)
def test_what_cannot_be_answered(
    own_tokenizer: PreTrainedTokenizerFast, question: str, context: str, more: Any, message: str
) -> None:
    model: Any = Oracle(5, 5)
    with pytest.raises(ValueError, match=message):
        answers(question, context, model, own_tokenizer, **more)


@pytest.mark.parametrize("name", ["MiniBertForQuestionAnswering", "MiniGPTForQuestionAnswering"])
def test_models_answer_by_themselves_and_keep_the_threshold(
    make_model: Callable[..., Any], tokenizer: PreTrainedTokenizerFast, tmp_path: Any, name: str
) -> None:
    model = make_model(name, vocab_size=8192, no_answer_threshold=-1000.0)
    kind = "minibert" if "Bert" in name else "minigpt"
    mine = adapt_tokenizer(tokenizer, model_type=kind, uses_token_types=False, model_max_length=64)  # type: ignore[arg-type]
    assert model.answers("Who?", CONTEXT, mine, top_k=2) == answers("Who?", CONTEXT, model, mine, top_k=2)
    assert model.answers("Who?", CONTEXT, mine)[0].text == ""
    model.save_pretrained(tmp_path)
    assert type(model).from_pretrained(tmp_path).config.no_answer_threshold == -1000.0


def test_the_threshold_survives_the_way_to_stock_and_back() -> None:
    for counterpart, kind, stock_kind in (
        ("bert", MiniBertForQuestionAnswering, BertForQuestionAnswering),
        ("gpt2", MiniGPTForQuestionAnswering, GPT2ForQuestionAnswering),
    ):
        ours = make_ours(counterpart, kind)
        assert "no_answer_threshold" not in to_stock(ours).config.to_dict()
        ours.config.no_answer_threshold = 1.5
        stock = to_stock(ours)
        assert isinstance(stock, stock_kind)
        assert stock.config.no_answer_threshold == 1.5
        assert from_stock(stock).config.no_answer_threshold == 1.5
