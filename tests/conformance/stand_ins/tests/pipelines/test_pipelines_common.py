"""Stand-in: what each pipeline must do with a tiny model, in single and half precision."""

from typing import Any

import torch
from transformers import Pipeline, PreTrainedModel, PreTrainedTokenizerBase, pipeline


class PipelineChecks:
    """One task. `PipelineTesterMixin` calls the two methods, then runs `examples` in batches."""

    task: str
    examples: list[str]

    def get_test_pipeline(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dtype: str = "float32"
    ) -> tuple[Pipeline, list[str]]:
        model = model.to(getattr(torch, dtype))
        pipe = pipeline(self.task, model=model, tokenizer=tokenizer, device="cpu", **self.arguments())
        assert pipe.model.dtype == getattr(torch, dtype)
        return pipe, self.examples

    def arguments(self) -> dict[str, Any]:
        return {}

    def run_pipeline_test(self, pipe: Pipeline, examples: list[str]) -> None:
        raise NotImplementedError


class FeatureExtractionPipelineTests(PipelineChecks):
    task = "feature-extraction"
    examples = ["A short text", "Another text, a longer one"]

    def run_pipeline_test(self, pipe: Pipeline, examples: list[str]) -> None:
        for text, states in zip(examples, pipe(examples), strict=True):
            tokens = len(pipe.tokenizer(text)["input_ids"])
            assert torch.tensor(states).shape == (1, tokens, pipe.model.config.hidden_size)
        assert pipe(examples[0], return_tensors=True).dtype == pipe.model.dtype


class FillMaskPipelineTests(PipelineChecks):
    task = "fill-mask"
    examples = ["A [MASK] text", "Another [MASK], a longer one"]

    def run_pipeline_test(self, pipe: Pipeline, examples: list[str]) -> None:
        for guesses in pipe(examples):
            assert len(guesses) == 5
            assert all(set(guess) == {"sequence", "score", "token", "token_str"} for guess in guesses)
            scores = [guess["score"] for guess in guesses]
            assert scores == sorted(scores, reverse=True)
        assert len(pipe(examples[0], top_k=2)) == 2
        (only,) = pipe(examples[0], targets=["the"])
        assert only["token_str"] == "the"
        assert [len(guesses) for guesses in pipe("Two [MASK] [MASK]")] == [5, 5]


class TextClassificationPipelineTests(PipelineChecks):
    task = "text-classification"
    examples = ["A short text", "Another text, a longer one"]

    def run_pipeline_test(self, pipe: Pipeline, examples: list[str]) -> None:
        labels = set(pipe.model.config.id2label.values())
        assert [answer["label"] in labels for answer in pipe(examples)] == [True, True]
        for answers in pipe(examples, top_k=None):
            assert {answer["label"] for answer in answers} == labels
            assert abs(sum(answer["score"] for answer in answers) - 1) < 1e-2
        assert pipe({"text": examples[0], "text_pair": examples[1]})["label"] in labels


class TokenClassificationPipelineTests(PipelineChecks):
    task = "token-classification"
    examples = ["A short text", "Another text, a longer one"]

    def run_pipeline_test(self, pipe: Pipeline, examples: list[str]) -> None:
        labels = set(pipe.model.config.id2label.values())
        for text, answers in zip(examples, pipe(examples), strict=True):
            special = pipe.tokenizer(text, return_special_tokens_mask=True)["special_tokens_mask"]
            assert len(answers) == special.count(0)
            assert {answer["entity"] for answer in answers} <= labels
            covered = "".join(text[answer["start"] : answer["end"]] for answer in answers)
            assert covered.replace(" ", "") == text.replace(" ", "")
            groups = pipe(text, aggregation_strategy="simple")
            assert groups[0]["start"] == 0
            assert groups[-1]["end"] == len(text)


class ZeroShotClassificationPipelineTests(PipelineChecks):
    task = "zero-shot-classification"
    examples = ["A short text", "Another text, a longer one"]

    def arguments(self) -> dict[str, Any]:
        return {"candidate_labels": ["politics", "health"]}

    def run_pipeline_test(self, pipe: Pipeline, examples: list[str]) -> None:
        for text, answer in zip(examples, pipe(examples), strict=True):
            assert answer["sequence"] == text
            assert set(answer["labels"]) == {"politics", "health"}
            assert abs(sum(answer["scores"]) - 1) < 1e-2


class TextGenerationPipelineTests(PipelineChecks):
    task = "text-generation"
    new_tokens = 5
    examples = ["A short text", "Another text, a longer one"]

    def arguments(self) -> dict[str, Any]:
        return {"min_new_tokens": self.new_tokens, "max_new_tokens": self.new_tokens}

    def run_pipeline_test(self, pipe: Pipeline, examples: list[str]) -> None:
        for text, (answer,) in zip(examples, pipe(examples, do_sample=False), strict=True):
            assert answer["generated_text"].startswith(text)
            (alone,) = pipe(text, do_sample=False, return_full_text=False)
            assert answer["generated_text"] == text + alone["generated_text"]
            (ids,) = pipe(text, do_sample=False, return_tensors=True)
            assert ids["generated_token_ids"][: -self.new_tokens] == pipe.tokenizer(text).input_ids
        assert len(pipe(examples[0], do_sample=True, num_return_sequences=3)) == 3
