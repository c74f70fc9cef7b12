"""An empty text is a text: MiniGPT reads it as the token that begins every document."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2ForTokenClassification, GPT2LMHeadModel, PreTrainedTokenizerFast, pipeline

from hf_minibert.tokenization import adapt_tokenizer

CLASSES = ("MiniGPTForSequenceClassification", "MiniGPTForCausalLM", "MiniGPTModel")


@pytest.fixture
def gpt_tokenizer(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    return adapt_tokenizer(tokenizer, model_type="minigpt", uses_token_types=False, model_max_length=64)


@pytest.mark.parametrize("name", CLASSES)
def test_every_head_reads_an_empty_text(make_model: Callable[..., Any], gpt_tokenizer: Any, name: str) -> None:
    model = make_model(name, vocab_size=8192).eval()
    beginning = torch.tensor([[model.config.bos_token_id]])
    with torch.no_grad():
        assert torch.equal(model(**gpt_tokenizer("", return_tensors="pt"))[0], model(beginning)[0])


def test_an_empty_text_is_classified_alike_alone_and_beside_others(
    make_model: Callable[..., Any], gpt_tokenizer: Any
) -> None:
    model = make_model("MiniGPTForSequenceClassification", vocab_size=8192).eval()
    with torch.no_grad():
        alone = model(**gpt_tokenizer("", return_tensors="pt")).logits
        beside = model(**gpt_tokenizer(["", "a cat sat"], padding=True, return_tensors="pt")).logits
        cat = model(**gpt_tokenizer("a cat sat", return_tensors="pt")).logits
    torch.testing.assert_close(beside, torch.cat([alone, cat]), atol=1e-5, rtol=1e-5)
    classify = pipeline("text-classification", model=model, tokenizer=gpt_tokenizer)
    assert [said["score"] for said in classify(["", "a cat sat"], batch_size=2)] == pytest.approx(
        [said["score"] for said in classify(["", "a cat sat"])]
    )


def test_a_classifier_learns_from_empty_texts(make_model: Callable[..., Any], gpt_tokenizer: Any) -> None:
    model = make_model("MiniGPTForSequenceClassification", vocab_size=8192)
    for texts in (["", ""], ["", "a cat"]):
        outputs = model(**gpt_tokenizer(texts, padding=True, return_tensors="pt"), labels=torch.tensor([0, 1]))
        outputs.loss.backward()
        assert torch.isfinite(outputs.loss)


def test_an_empty_prompt_is_continued_as_the_beginning(make_model: Callable[..., Any], gpt_tokenizer: Any) -> None:
    model = make_model("MiniGPTForCausalLM", vocab_size=8192).eval()
    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    bos = model.config.bos_token_id
    expected = model.generate(torch.tensor([[bos]]), **options)[0].tolist()
    alone = model.generate(**gpt_tokenizer("", return_tensors="pt"), **options)[0].tolist()
    beside = gpt_tokenizer(["", "a cat sat"], padding=True, padding_side="left", return_tensors="pt")
    assert alone == expected
    assert model.generate(**beside, **options)[0, -5:].tolist() == expected
    write = pipeline("text-generation", model=model, tokenizer=gpt_tokenizer)
    said = write("", max_new_tokens=4, do_sample=False, max_length=None)[0]["generated_text"]
    assert said == gpt_tokenizer.decode(expected, skip_special_tokens=True)


@pytest.mark.parametrize("task", ["text-generation", "token-classification"])
@pytest.mark.parametrize("kind", ["MiniGPT", "GPT2"])
def test_these_pipelines_cannot_pad_an_empty_text_for_any_model(
    make_model: Callable[..., Any], gpt_tokenizer: Any, kind: str, task: str
) -> None:
    small = GPT2Config(vocab_size=8192, n_embd=32, n_layer=1, n_head=2, n_positions=512, bos_token_id=2)
    stock = {"text-generation": GPT2LMHeadModel, "token-classification": GPT2ForTokenClassification}[task]
    head = "ForCausalLM" if task == "text-generation" else "ForTokenClassification"
    model = stock(small) if kind == "GPT2" else make_model(f"MiniGPT{head}", vocab_size=8192)
    work = pipeline(task, model=model.eval(), tokenizer=gpt_tokenizer)
    options = {"max_new_tokens": 2, "max_length": None} if task == "text-generation" else {}
    if kind == "MiniGPT":  # GPT-2 labels no empty text, not even alone
        assert len(work(["", "a cat"], batch_size=1, **options)) == 2
    with pytest.raises(
        RuntimeError, match=r"expand\(|expanded size"
    ):  # once there is none, docs/sharing.md can be shorter
        work(["", "a cat"], batch_size=2, **options)


@pytest.mark.parametrize("strategy", ["none", "simple", "first"])
def test_an_empty_text_has_no_token_to_label(make_model: Callable[..., Any], gpt_tokenizer: Any, strategy: str) -> None:
    model = make_model("MiniGPTForTokenClassification", vocab_size=8192).eval()
    inputs = gpt_tokenizer("", return_tensors="pt")
    outputs = model(**inputs, labels=inputs.input_ids.long())
    assert outputs.logits.shape == (1, 0, 2)
    assert outputs.loss == 0
    tag = pipeline("token-classification", model=model, tokenizer=gpt_tokenizer, aggregation_strategy=strategy)
    assert tag("") == []
    assert [bool(found) for found in tag(["", "a cat sat"])] == [False, True]


def test_nothing_is_predicted_of_an_empty_text(make_model: Callable[..., Any], gpt_tokenizer: Any) -> None:
    model = make_model("MiniGPTForCausalLM", vocab_size=8192).eval()
    inputs = gpt_tokenizer("", return_tensors="pt")
    assert model(**inputs, labels=inputs.input_ids).loss == 0
