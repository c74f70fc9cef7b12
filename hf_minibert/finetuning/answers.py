"""Question answering: where a text answers a question, or that it does not.

Texts that are longer than the model are read in overlapping windows, each behind the question (BERT, Devlin et al.
2019, section 4.2); windows and answers are those of `models.answering`, which finds answers later, too.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    AutoModelForQuestionAnswering,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from hf_minibert.errors import UserError
from hf_minibert.evaluation.metrics import confidence_intervals
from hf_minibert.evaluation.spans import (
    AnswerMetrics,
    answer_scores,
    best_no_answer_threshold,
    normalized_answer,
    score_answer,
)
from hf_minibert.finetuning.pictures import draw_bars
from hf_minibert.finetuning.questions import load_questions
from hf_minibert.finetuning.start import Start
from hf_minibert.finetuning.task import Task, TaskData, Usage
from hf_minibert.models.answering import Candidates, Window, candidates, windows
from hf_minibert.runs.scores import score_of

N_BEST = 5
NO_ANSWER = 'always "no answer"'
LIKEST_SENTENCE = "the sentence that shares most words with the question"
FIRST_WORDS = ("what", "which", "who", "whom", "whose", "when", "where", "why", "how")
"""Of questions in English, by which the picture sorts them: the first of these words in it."""
OTHER = "other"
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


class QuestionAnswering(Task):
    """Which part of a text answers a question."""

    auto_class = AutoModelForQuestionAnswering
    examples_word = "questions"
    best_metric = "f1"

    def read(self) -> TaskData:
        """See `load_questions`; there may be questions without an answer, as in SQuAD 2.0."""
        arguments = self.arguments
        data = load_questions(
            arguments.dataset,
            eval_source=arguments.eval_dataset,
            test_source=arguments.test_dataset,
            question_column=arguments.question_column,
            context_column=arguments.context_column,
            answers_column=arguments.answers_column,
        )
        self._may_lack = data.may_lack
        self._threshold = 0.0
        # Of the splits that are measured: questions, texts, windows, best answers, and the chosen one.
        self._examples: dict[str, Dataset] = {}
        self._contexts: dict[str, list[str]] = {}
        self._windows: dict[str, list[list[Window]]] = {}
        self._found: dict[str, list[Candidates]] = {}
        self._said: dict[str, list[str]] = {}
        # Of the evaluation at hand: the logits of windows whose question is not complete, and the complete ones.
        self._pending: list[tuple[NDArray[Any], ...]] = []
        self._measured: list[Candidates] = []
        self.metrics = ("f1", "exact_match")
        self.baseline_names, self.baseline_words = {"f1": "sentence_f1"}, LIKEST_SENTENCE
        if data.may_lack:
            self.metrics += ("answerable_f1", "answerable_exact_match", "unanswerable_accuracy")
            self.baseline_names, self.baseline_words = {"f1": "no_answer_f1"}, NO_ANSWER
        return TaskData(name=arguments.dataset, hub_id=data.hub_id, splits=data.splits, notes=data.notes)

    def _check_kinds(self, examples: Dataset) -> None:
        """Check that the metric that chooses the best epoch has questions to be measured on.

        Raises:
            UserError: it is of questions that have an answer, or of those that have none, and none is there.
        """
        chosen = self.arguments.best_metric or ""
        for kind, has_answer in (("answerable", True), ("unanswerable", False)):
            if chosen.startswith(f"{kind}_") and not any(bool(one) is has_answer for one in examples["answers"]):
                raise UserError(
                    f"best_metric {chosen} is of {kind} questions, and none of the {len(examples):,} questions to "
                    "measure is one; choose f1, or measure more of them"
                )

    def describe(self, data: TaskData, examples: dict[str, Dataset]) -> list[str]:
        """How many questions there are, about how many texts, and how many have no answer."""
        rows = {
            "questions": {split: len(some) for split, some in examples.items()},
            "texts": {split: len(set(some["context"])) for split, some in examples.items()},
            "without an answer": {split: sum(not one for one in some["answers"]) for split, some in examples.items()},
        }
        if not self._may_lack:
            del rows["without an answer"]
        width = max(map(len, rows))
        lines = [" " * width + "".join(f"{split:>10}" for split in examples)]
        for name, numbers in rows.items():
            lines.append(f"{name:{width}}" + "".join(f"{numbers[split]:>10,}" for split in examples))
        return lines

    def config_fields(self, start: Start, data: TaskData) -> dict[str, Any]:
        """Two labels, the start and the end, as stock models have them; and a threshold if answers may lack."""
        labels = {0: "LABEL_0", 1: "LABEL_1"}
        return {
            "id2label": labels,
            "label2id": {name: number for number, name in labels.items()},
            "no_answer_threshold": self._threshold if self._may_lack else None,
        }

    def build_model(self, start: Start, data: TaskData, **settings: Any) -> tuple[PreTrainedModel, set[str]]:
        """As any task; the model keeps the threshold that `measure` finds."""
        self._model, new_weights = super().build_model(start, data, **settings)
        return self._model, new_weights

    def encode(self, examples: Dataset, split: str, tokenizer: PreTrainedTokenizerFast, max_length: int) -> Dataset:
        """A row a window, with the first and the last token of the answer; without it there, the token for none."""
        if split == "eval":
            self._check_kinds(examples)
        tokenizer.model_max_length = max_length  # windows are as long where it answers later
        rows = dict[str, list[Any]]()
        found, several, longest = list[list[Window]](), 0, max_length // 2 - 2
        try:
            every = windows(
                examples["question"][:],
                examples["context"][:],
                tokenizer,
                max_length=max_length,
                doc_stride=self.arguments.doc_stride,
            )
            for answers, start, parts in zip(examples["answers"], examples["start"], every, strict=True):
                found.append(parts)
                several += len(parts) > 1
                for window in parts:
                    first = last = window.none
                    if answers and start is not None and start >= 0:
                        first, last = window.span(start, start + len(answers[0]))
                    row = window.inputs(tokenizer) | {"start_positions": first, "end_positions": last}
                    for name, value in row.items():
                        rows.setdefault(name, []).append(value)
        except ValueError as error:  # windows that are too short, or share too much
            raise UserError(str(error)) from error
        total = len(rows["input_ids"])
        if several:
            self.notes.append(
                f"{split}: {several:,} of {len(examples):,} questions have a text that is longer than {max_length:,} "
                f"tokens: {total:,} windows"
            )
        if cut := sum(parts[0].begin - 2 >= longest for parts in found):
            self.notes.append(f"{split}: {cut:,} questions may be cut to {longest:,} tokens, half a window")
        if split != "train":
            self._windows[split] = found
            self._examples[split], self._contexts[split] = examples, examples["context"][:]
        return Dataset.from_dict(rows)

    def collator(self, tokenizer: PreTrainedTokenizerFast) -> DataCollatorWithPadding:
        """Pads to the longest window of the batch."""
        return DataCollatorWithPadding(tokenizer)

    def trainer_settings(self) -> dict[str, Any]:
        """A batch is measured at once, since the logits of all tokens of a data set are many."""
        return {"batch_eval_metrics": True}

    def reduce_logits(self, logits: Any, labels: Any) -> tuple[Tensor, Tensor]:
        """The logits of starts and of ends."""
        return logits[0].float(), logits[1].float()

    def measure(self, prediction: EvalPrediction, split: str, *, compute_result: bool = True) -> dict[str, float]:
        """Compare the windows of each question, and with the last batch score all answers.

        On the evaluation split, the threshold that gives the highest F1 is found; the test split is measured with it.
        """
        examples, parts = self._examples[split], self._windows[split]
        logits = [torch.as_tensor(each).cpu().numpy() for each in prediction.predictions]
        self._pending += zip(*logits, strict=True)
        while len(self._measured) < len(parts) and len(self._pending) >= (size := len(parts[len(self._measured)])):
            place = len(self._measured)
            starts, ends = zip(*self._pending[:size], strict=True)
            del self._pending[:size]
            self._measured.append(candidates(self._contexts[split][place], parts[place], starts, ends))
        if not compute_result:
            return {}
        assert not self._pending
        assert len(self._measured) == len(parts)
        self._found[split], self._measured = self._measured, []
        references = examples["answers"][:]
        best = [self._text(split, place) for place in range(len(parts))]
        excess = [found.excess for found in self._found[split]]
        if self._may_lack and split == "eval":
            self._threshold = best_no_answer_threshold(best, references, excess)
            self._model.config.no_answer_threshold = self._threshold
        self._said[split] = [
            "" if self._may_lack and more > self._threshold else text for text, more in zip(best, excess, strict=True)
        ]
        names = examples["id"][:]
        computed = AnswerMetrics(keep_in_memory=True).compute(
            predictions=[
                {"id": name, "prediction_text": text} for name, text in zip(names, self._said[split], strict=True)
            ],
            references=[  # whose places no rule reads
                {"id": name, "answers": {"text": texts, "answer_start": [0] * len(texts)}}
                for name, texts in zip(names, references, strict=True)
            ],
            may_lack=self._may_lack,
        )
        return dict(computed)

    def _text(self, split: str, place: int, rank: int = 0) -> str:
        """One of the best answers to a question; "" if there are not so many."""
        spans = self._found[split][place].spans
        if rank >= len(spans):
            return ""
        _, start, end = spans[rank]
        return self._contexts[split][place][start:end]

    def baselines(self, examples: dict[str, Dataset]) -> dict[str, float]:
        """F1 of saying always "no answer", or, where there is one, the likest sentence of the text."""
        answers = examples["eval"]["answers"][:]
        if self._may_lack:
            return {"no_answer_f1": sum(not one for one in answers) / len(answers)}
        asked = zip(examples["eval"]["question"], examples["eval"]["context"], strict=True)
        said = [likest_sentence(question, context) for question, context in asked]
        return {"sentence_f1": answer_scores(said, answers, may_lack=False)["f1"]}

    def _each_score(self, split: str) -> NDArray[np.float64]:
        """Exact match and F1 of each question, (questions, 2)."""
        pairs = zip(self._said[split], self._examples[split]["answers"], strict=True)
        return np.array([score_answer(said, true, may_lack=self._may_lack) for said, true in pairs])

    def pictures(self, folder: Path, data: TaskData) -> dict[str, str]:
        """How well each kind of question is answered."""
        split = "test" if "test" in self._said else "eval"
        kinds = np.array([kind_of_question(question) for question in self._examples[split]["question"]])
        names = [name for name in (*FIRST_WORDS, OTHER) if name in kinds]
        scores, path = self._each_score(split), folder / "predictions.png"
        means = np.array([scores[kinds == name].mean(axis=0) for name in names])
        support = np.array([(kinds == name).sum() for name in names])
        draw_bars(path, names, means[:, 0], means[:, 1], support, figures=("exact match", "F1"))
        words = "test" if split == "test" else "held-out"
        return {path.name: f"Exact match and F1 of the {words} questions by their question word"}

    def intervals(self, split: str) -> dict[str, tuple[float, float]]:
        """From draws of the split's questions."""
        references, scores = self._examples[split]["answers"][:], self._each_score(split)
        has_answer = np.array([bool(true) for true in references])
        every = np.ones(len(references), bool)

        def figures(weights: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
            found = {}
            for name, (column, chosen) in {
                "exact_match": (0, every),
                "f1": (1, every),
                "answerable_exact_match": (0, has_answer),
                "answerable_f1": (1, has_answer),
                "unanswerable_accuracy": (0, ~has_answer),
            }.items():
                if not chosen.any():
                    continue
                drawn, kind = weights[:, chosen], scores[chosen, column]
                total = drawn.sum(axis=1)  # a draw without any of them says nothing about them
                found[name] = np.where(total > 0, drawn @ kind / np.maximum(1, total), kind.mean())
            return found

        intervals = confidence_intervals(figures, np.ones(len(scores), int), seed=self.arguments.seed)
        return {name: intervals[name] for name in self.metrics if name in intervals}

    def predictions(self, split: str) -> Iterator[dict[str, Any]]:
        """Each question, its answers, what the model says, and its best candidates; the higher their score the better.

        `no_answer_excess` is how much higher "no answer" scores than the first of them.
        """
        columns = (self._examples[split][name] for name in ("id", "row", "question", "answers"))
        each = zip(*columns, self._found[split], self._said[split], strict=True)
        for place, (name, row, question, answers, found, said) in enumerate(each):
            n_best = [
                {"text": self._text(split, place, rank), "score": round(score, 4), "start": start, "end": end}
                for rank, (score, start, end) in enumerate(found.spans[:N_BEST])
            ]
            line = {"id": name, "row": row, "question": question, "answers": answers, "prediction": said}
            if self._may_lack and found.spans:
                line["no_answer_excess"] = round(found.excess, 4)
            yield line | {"n_best": n_best}

    def official_predictions(self, split: str) -> dict[str, str]:
        """The answer of each id, as SQuAD's scripts read it."""
        return dict(zip(self._examples[split]["id"], self._said[split], strict=True))

    def report(self, results: dict[str, Any]) -> list[str]:
        """The scores on the evaluation split, and the threshold."""
        metrics, dataset = results["metrics"], results["dataset"]
        lines = [f"{dataset['eval_examples']:,} held-out questions:"]
        for name in (name for name in self.metrics if f"eval_{name}" in metrics):
            score = score_of(name)
            line = f"  {score.label} {score.shown(metrics[f'eval_{name}'])}"
            if name in self.baseline_names:
                line += f"; {self.baseline_words} {score.shown(metrics[self.baseline_names[name]])}"
            lines.append(line)
        if self._may_lack:
            lines.append(f'  "no answer" where it scores {self._threshold:.2f} above the best answer')
        return lines

    def headline(self, results: dict[str, Any]) -> str:
        """F1 and exact match on the held-out questions."""
        metrics, count = results["metrics"], results["dataset"]["eval_examples"]
        f1, exact = (score_of(name).shown(metrics[f"eval_{name}"]) for name in ("f1", "exact_match"))
        return f"On the {count:,} questions that were held out: F1 {f1}, exact match {exact}."

    def usage(self) -> Usage:
        """Its own method, since transformers 5 has no pipeline for it."""
        return Usage(
            code="from transformers import AutoModelForQuestionAnswering, AutoTokenizer\n\n"
            "model = AutoModelForQuestionAnswering.from_pretrained({model}{options})\n"
            "tokenizer = AutoTokenizer.from_pretrained({model}{options})\n"
            'text = "Marie Curie was born in Warsaw. She worked in Paris."\n'
            'for found in model.answers("Where was Marie Curie born?", text, tokenizer, top_k=3):\n'
            "    print(found.text, found.start, found.end, found.score)"
        )

    def limits(self, results: dict[str, Any]) -> list[str]:
        """That it copies, and whether it may find nothing."""
        always = (
            'It may say "" where it finds no answer, and is wrong in that, too.'
            if self._may_lack
            else "It always finds an answer, also where the text has none."
        )
        return ["It answers with a part of the text that it is given, and knows nothing else.", always]


def likest_sentence(question: str, context: str) -> str:
    """The sentence of a text that shares most words with a question; the first of several."""
    words = set(normalized_answer(question).split())
    return max(_SENTENCE_END.split(context), key=lambda sentence: len(words & set(normalized_answer(sentence).split())))


def kind_of_question(question: str) -> str:
    """The first question word in a question, or `OTHER`."""
    return next((word for word in normalized_answer(question).split() if word in FIRST_WORDS), OTHER)
