"""Multiple choice: which of several choices is right.

Each choice is read with what it is asked about as a pair of texts, and the best one wins (BERT, Devlin et al. 2019,
section 4.4; GPT, Radford et al. 2018, section 3.3). Questions may have different numbers of choices.
"""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor
from transformers import (
    AutoModelForMultipleChoice,
    DataCollatorForMultipleChoice,
    EvalPrediction,
    PreTrainedTokenizerFast,
)

from hf_minibert.data.splits import choose_column, different_columns, held_out, read_source
from hf_minibert.data.tables import Table, listed, shown
from hf_minibert.errors import UserError
from hf_minibert.evaluation.metrics import confidence_intervals
from hf_minibert.finetuning.pictures import draw_reliability
from hf_minibert.finetuning.start import Start, early_ends, end_between, pooling_fields
from hf_minibert.finetuning.task import Task, TaskData, Usage
from hf_minibert.runs.scores import score_of

QUESTION_COLUMNS = ("question", "query", "prompt", "goal", "premise", "startphrase", "ctx")
CONTEXT_COLUMNS = ("context", "article", "passage", "premise", "story")
CHOICES_COLUMNS = ("choices", "options", "endings")
LABEL_COLUMNS = ("label", "answerkey", "answer_key", "answer", "correct", "target")
"""What columns of questions, of what they are about, of lists of choices and of labels are called."""
_NUMBERED = re.compile(r"(ending|choice|option|sol|solution|answer|alternative)_?([0-9]{1,2}|[a-j])", re.IGNORECASE)
EXAMPLE = ("first", "second", "choices", "label", "row")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class MultipleChoice(Task):
    """Which of several choices is right."""

    auto_class = AutoModelForMultipleChoice
    examples_word = "questions"
    metrics = ("accuracy",)
    best_metric = "accuracy"
    baseline_names = {"accuracy": "chance_accuracy"}
    baseline_words = "guessing"

    def read(self) -> TaskData:
        """Questions and choices, whichever of the usual forms they have; see `_Form`."""
        arguments = self.arguments
        if arguments.dataset == "builtin":
            raise UserError("there is no builtin data with choices; give a file, a folder or a name on the Hub")
        form = _Form(
            question_column=arguments.question_column,
            context_column=arguments.context_column,
            choices_columns=arguments.choices_columns,
            label_column=arguments.label_column,
        )
        read = read_source(
            arguments.dataset, form.choose, eval_source=arguments.eval_dataset, test_source=arguments.test_dataset
        )
        notes = [f"not read: {listed(read.not_read)}"] if read.not_read else []
        tables = dict(read.tables)
        if "test" in tables and form.is_secret(tables["test"]) and not form.is_secret(tables["train"]):
            if arguments.test_dataset is not None:
                raise UserError(f"test_dataset {arguments.test_dataset} has no labels; leave it out")
            notes.append(f"not measured: {tables.pop('test').name}, which has no labels")
        splits = {"train": form.examples(tables.pop("train"), is_train=True)}
        splits |= {split: form.examples(table, is_train=False) for split, table in tables.items()}
        notes = [form.words(), *notes]
        if "eval" not in splits:
            train = splits["train"]
            texts = [" ".join(filter(None, pair)) for pair in zip(train["first"], train["second"], strict=True)]
            out = held_out(texts, arguments.dataset)
            for split, side in (("eval", True), ("train", False)):
                splits[split] = train.select([place for place, is_out in enumerate(out) if is_out is side])
            notes.append(
                f"no evaluation split: {len(splits['eval']):,} of {len(train):,} questions are held out, by their hash"
            )
        self._said: dict[str, NDArray[Any]] = {}
        self._end: str | None = None
        self._examples: dict[str, Dataset] = {}
        return TaskData(name=arguments.dataset, hub_id=read.hub_id, splits=splits, notes=notes)

    def describe(self, data: TaskData, examples: dict[str, Dataset]) -> list[str]:
        """How many questions there are, and of how many choices."""
        counts = ", ".join(f"{split} {len(some):,}" for split, some in examples.items())
        sizes = {len(choices) for some in examples.values() for choices in some["choices"]}
        several = f"{min(sizes)} to {max(sizes)}" if len(sizes) > 1 else str(min(sizes))
        return [f"questions of {several} choices: {counts}"]

    def config_fields(self, start: Start, data: TaskData) -> dict[str, Any]:
        """How a pair becomes one vector; a head for choices has no names for them."""
        start.keep_pairs_apart()
        fields = pooling_fields(self.arguments, start, is_pair=True)
        self._end = end_between(fields, start)
        return fields

    def encode(self, examples: Dataset, split: str, tokenizer: PreTrainedTokenizerFast, max_length: int) -> Dataset:
        """A row a question, with a pair of texts for each choice; of a pair that is too long, the longer one is cut."""
        tokenizer = copy.deepcopy(tokenizer)  # else `Trainer` would save the cut with its checkpoints

        def encoded(batch: dict[str, list[Any]]) -> dict[str, Any]:
            ends = list(accumulate(map(len, batch["choices"]), initial=0))
            firsts = [first for first, choices in zip(batch["first"], batch["choices"], strict=True) for _ in choices]
            seconds = [
                choice if second is None else f"{second} {choice}"
                for second, choices in zip(batch["second"], batch["choices"], strict=True)
                for choice in choices
            ]
            found = dict(tokenizer(firsts, seconds, truncation=True, max_length=max_length, verbose=False))
            grouped = {name: [values[at:end] for at, end in pairwise(ends)] for name, values in found.items()}
            lengths = [max(map(len, rows)) for rows in grouped["input_ids"]]
            return grouped | {"labels": batch["label"], "length": lengths}

        rows = examples.map(encoded, batched=True, remove_columns=examples.column_names, desc="tokenizing")
        self.notes += early_ends(examples["first"], split, self._end)
        if at_limit := sum(length == max_length for length in rows["length"]):
            self.notes.append(
                f"{split}: {at_limit:,} of {len(rows):,} questions fill {max_length:,} tokens; what is more is cut"
            )
        if split != "train":
            self._examples[split] = examples
        return rows

    def collator(self, tokenizer: PreTrainedTokenizerFast) -> "ChoicesCollator":
        """Pads to the longest pair of the batch, and to the most choices."""
        return ChoicesCollator(tokenizer)

    def reduce_logits(self, logits: Any, labels: Tensor) -> Tensor:
        """The logits of the choices, (questions, choices)."""
        first: Tensor = logits[0] if isinstance(logits, tuple) else logits
        return first.float()

    def measure(self, prediction: EvalPrediction, split: str, *, compute_result: bool = True) -> dict[str, float]:
        """The share of questions of which the right choice is the best."""
        logits = np.asarray(prediction.predictions)
        counts = np.array([len(choices) for choices in self._examples[split]["choices"]])
        self._said[split] = np.where(np.arange(logits.shape[1]) < counts[:, None], logits, -np.inf)
        return {"accuracy": float(np.mean(self._is_right(split)))}

    def _is_right(self, split: str) -> NDArray[Any]:
        right: NDArray[Any] = self._said[split].argmax(axis=-1) == np.array(self._examples[split]["label"][:])
        return right

    def baselines(self, examples: dict[str, Dataset]) -> dict[str, float]:
        """The accuracy of guessing."""
        return {"chance_accuracy": float(np.mean([1 / len(choices) for choices in examples["eval"]["choices"]]))}

    def intervals(self, split: str) -> dict[str, tuple[float, float]]:
        """From draws of the split's questions."""
        right = self._is_right(split)
        counts = np.array([right.sum(), (~right).sum()])
        kinds = np.array([True, False])
        found = confidence_intervals(
            lambda weights: {"accuracy": weights @ kinds / weights.sum(axis=1)}, counts, seed=self.arguments.seed
        )
        return {name: found[name] for name in self.metrics}

    def predictions(self, split: str) -> Iterator[dict[str, Any]]:
        """Each question, the right choice, the best one, and how likely each is."""
        for one, shares in zip(self._examples[split], self._shares(split), strict=True):
            asked = " ".join(filter(None, (one["first"], one["second"])))
            yield {
                "row": one["row"],
                "question": asked,
                "label": one["choices"][one["label"]],
                "prediction": one["choices"][int(shares.argmax())],
                "scores": [round(float(share), 6) for share in shares[: len(one["choices"])]],
            }

    def _shares(self, split: str) -> NDArray[Any]:
        """How probable each choice is, (questions, choices); 0 where there is none."""
        found: NDArray[Any] = softmax(self._said[split], axis=1)
        return found

    def pictures(self, folder: Path, data: TaskData) -> dict[str, str]:
        """How often it is right where it is so sure."""
        split = "test" if "test" in self._said else "eval"
        path = folder / "predictions.png"
        draw_reliability(path, self._shares(split).max(axis=1), self._is_right(split))
        words = "test" if split == "test" else "held-out"
        return {path.name: f"How often the choice is right, by how sure the model is of it, on the {words} questions"}

    def report(self, results: dict[str, Any]) -> list[str]:
        """The accuracy on the evaluation split beside that of guessing."""
        metrics, dataset, score = results["metrics"], results["dataset"], score_of("accuracy")
        return [
            f"{dataset['eval_examples']:,} held-out questions:",
            f"  accuracy {score.shown(metrics['eval_accuracy'])}; {self.baseline_words} "
            f"{score.shown(metrics['chance_accuracy'])}",
        ]

    def headline(self, results: dict[str, Any]) -> str:
        """The share of held-out questions on which the model is right."""
        share, count = results["metrics"]["eval_accuracy"], results["dataset"]["eval_examples"]
        return f"It chooses right in {share:.1%} of the {count:,} questions that were held out."

    def usage(self) -> Usage:
        """Pairs of the question and each choice."""
        return Usage(
            code="from transformers import AutoModelForMultipleChoice, AutoTokenizer\n\n"
            "model = AutoModelForMultipleChoice.from_pretrained({model}{options})\n"
            "tokenizer = AutoTokenizer.from_pretrained({model}{options})\n"
            'question = "Where would you find a seat before you board?"\n'
            'choices = ["in an airport", "in a river", "on the roof"]\n'
            'pairs = tokenizer([question] * len(choices), choices, padding=True, return_tensors="pt")\n'
            "logits = model(**{name: rows[None] for name, rows in pairs.items()}).logits\n"
            "print(choices[int(logits.argmax())])"
        )

    def limits(self, results: dict[str, Any]) -> list[str]:
        """That it always chooses."""
        return ["It says which of the choices is best, also where none of them is right."]


class ChoicesCollator(DataCollatorForMultipleChoice):
    """As transformers', where questions may have different numbers of choices: what is missing is masked as a whole."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask`, (batch, choices, sequence), and `labels`, (batch,)."""
        most = max(len(row["input_ids"]) for row in examples)
        fillers = {"input_ids": [self.tokenizer.pad_token_id], "attention_mask": [0], "token_type_ids": [0]}
        filled = [
            {
                name: value if name == "labels" else value + [fillers[name]] * (most - len(value))
                for name, value in row.items()
            }
            for row in examples
        ]
        return dict(super().torch_call(filled))


class _Form:
    """How a table writes choices: in columns of their own (SWAG), in a list, or with letters (CommonsenseQA, ARC)."""

    def __init__(
        self,
        *,
        question_column: str | None,
        context_column: str | None,
        choices_columns: list[str] | None,
        label_column: str | None,
    ) -> None:
        self._question, self._context, self._choices, self._label = (
            question_column,
            context_column,
            choices_columns,
            label_column,
        )
        self._first_number = 0
        self._are_choices = False
        """Whether each label is one of the choices itself, also where it looks like a number or a letter."""

    def choose(self, there: Sequence[str], where: str) -> Mapping[str, str]:
        """The columns, by the options that name them."""
        label = self._label or choose_column(there, where, "label_column", LABEL_COLUMNS)
        chosen = {"label_column": label}
        rest = [name for name in there if name != label]
        is_swag = {"sent1", "sent2"} <= set(there) and self._question is None and self._context is None
        if is_swag:
            chosen |= {"context_column": "sent1", "question_column": "sent2"}
        else:
            question = self._question or choose_column(rest, where, "question_column", QUESTION_COLUMNS)
            chosen["question_column"] = question
            about = [name for name in rest if name.lower() in CONTEXT_COLUMNS and name != question]
            if self._context is not None:
                chosen["context_column"] = self._context
            elif self._question is None and about:
                chosen["context_column"] = choose_column(about, where, "context_column", CONTEXT_COLUMNS)
        different_columns(chosen)
        choices = self._choices or self._usual_choices(rest, where)
        if len(choices) > len(set(choices)) or set(choices) & set(chosen.values()):
            raise UserError(f"{where}: the columns {listed([*chosen.values(), *choices])} are not all different")
        self._chosen, self._lists = chosen, choices
        return chosen | {f"choices_columns {name}": name for name in choices}

    def _usual_choices(self, there: Sequence[str], where: str) -> list[str]:
        """The columns of choices that need not be named; none where the question holds them (CommonsenseQA)."""
        if lists := [name for name in there if name.lower() in CHOICES_COLUMNS]:
            return [choose_column(lists, where, "choices_columns", CHOICES_COLUMNS)]
        families: dict[str, list[str]] = {}
        for name in there:
            if found := _NUMBERED.fullmatch(name):
                families.setdefault(found[1].lower(), []).append(name)
        whole = [names for names in families.values() if len(names) > 1]
        if len(whole) > 1:
            raise UserError(
                f"{where} has the columns {listed(chain(*whole))}; say which hold choices: --choices_columns"
            )
        return sorted(whole[0], key=lambda name: (len(name), name)) if whole else []

    def is_secret(self, table: Table) -> bool:
        """Whether labels are kept secret, as those of many test splits are."""
        return set(map(str, table.columns[self._chosen["label_column"]])) <= {"-1", "-1.0", "", "None", "nan"}

    def words(self) -> str:
        """A line that says which columns are read."""
        words = {"context_column": "context", "question_column": "question", "label_column": "label"}
        columns = [f"{word} {shown(self._chosen[name])}" for name, word in words.items() if name in self._chosen]
        choices = f"choices {listed(self._lists)}" if self._lists else "choices within the question"
        counting = "; labels count from 1" if self._first_number else ""
        return f"columns: {', '.join([*columns, choices])}{counting}"

    def examples(self, table: Table, *, is_train: bool) -> Dataset:
        """Questions with `first`, `second` (None, or what begins every choice), `choices`, `label` and `row`."""
        rows, labels = list[dict[str, Any]](), list[Any]()
        names_of = list[list[str]]()
        for index in range(len(table)):
            where = table.where(index)
            question = table.columns[self._chosen["question_column"]][index]
            choices, names = self._choices_of(table, index, question)
            while choices and choices[-1] in (None, ""):  # of a question that has fewer than others
                choices, names = choices[:-1], names[: len(choices) - 1]
            if isinstance(question, dict):
                question = question.get("stem", question.get("text"))
            context = table.columns[self._chosen["context_column"]][index] if "context_column" in self._chosen else None
            texts = {"question": question, **({} if "context_column" not in self._chosen else {"context": context})}
            for what, text in [*texts.items(), *(("choice", choice) for choice in choices)]:
                if not isinstance(text, str) or not text.strip():
                    raise UserError(f"{where}: the {what} is {shown(repr(text))}; give a text")
            if len(choices) < 2:
                raise UserError(f"{where} has {len(choices)} choices; give at least two")
            first, second = (question, None) if context is None else (context, question)
            row = {"first": first, "second": second, "choices": choices, "row": int(table.numbers[index])}
            rows.append(row | {"index": index})
            names_of.append(names)
            labels.append(table.columns[self._chosen["label_column"]][index])
        if is_train:
            self._are_choices = self._labels_are_choices(table.name, labels, rows, names_of)
            numbers = [_number(_without_fraction(label)) for label in labels]
            # No name, number or letter goes beyond the last choice, which the number of choices would do from 0 on.
            is_beyond = any(number == len(row["choices"]) for number, row in zip(numbers, rows, strict=True))
            self._first_number = int(is_beyond and not {0, None} & set(numbers) and not self._are_choices)
        for row, label, names in zip(rows, labels, names_of, strict=True):
            row["label"] = self._place(label, row["choices"], names, table.where(row["index"]))
        return Dataset.from_list([{name: row[name] for name in EXAMPLE} for row in rows])

    def _choices_of(self, table: Table, index: int, question: Any) -> tuple[list[Any], list[str]]:
        """The choices of a row, and the names that its labels may use for them."""
        if len(self._lists) > 1:
            return [table.columns[name][index] for name in self._lists], []
        values = table.columns[self._lists[0]][index] if self._lists else None
        if not self._lists and isinstance(question, dict):
            values = question.get("choices")
        if isinstance(values, list) and values and all(isinstance(one, dict) for one in values):
            values = {name: [one.get(name) for one in values] for name in ("text", "label")}
        names = values.get("label") if isinstance(values, dict) else None
        choices = values.get("text") if isinstance(values, dict) else values
        if not isinstance(choices, list):
            what = f"the choices are {shown(repr(values))}" if self._lists else "there is no column of choices"
            raise UserError(
                f"{table.where(index)}: {what}; give lists, or one column each, and name them with --choices_columns"
            )
        if isinstance(names, list) and len(names) != len(choices):
            raise UserError(f"{table.where(index)} has {len(choices)} choices and {len(names)} labels for them")
        return choices, [str(name) for name in names] if isinstance(names, list) else []

    def _labels_are_choices(
        self, name: str, labels: Sequence[Any], rows: Sequence[Mapping[str, Any]], names_of: Sequence[Sequence[str]]
    ) -> bool:
        """Whether all labels are choices themselves, and some of them nothing else.

        Raises:
            UserError: all could be numbers or letters of other choices as well.
        """
        are_both, differ = True, ""
        for label, row, names in zip(labels, rows, names_of, strict=True):
            text, choices = label.strip() if isinstance(label, str) else None, list(row["choices"])
            if text is None or names or choices.count(text) != 1:
                return False
            number = _number(text) if len(text) > 1 or text not in _LETTERS + _LETTERS.lower() else _letter(text)
            are_both &= number is not None and 0 <= number <= len(choices)
            differ = differ or (shown(repr(label)) if number != choices.index(text) else "")
        if are_both and differ:
            raise UserError(
                f"{name}: labels as {differ} are choices themselves, and could be the numbers or letters of others; "
                "write them as numbers (no texts, in .jsonl or .parquet), or make the choices differ from numbers"
            )
        return bool(differ)

    def _place(self, label: Any, choices: Sequence[str], names: Sequence[str], where: str) -> int:
        """Which of the choices a label means: by its name, its letter, its number, or its text."""
        text = label.strip() if isinstance(label, str) else label
        if isinstance(text, str) and text in names:
            return list(names).index(text)
        if self._are_choices and isinstance(text, str) and list(choices).count(text) == 1:
            return list(choices).index(text)
        number = _number(label)
        if number is not None and 0 <= number - self._first_number < len(choices):
            return number - self._first_number
        if isinstance(text, str) and len(text) == 1 and text.upper() in _LETTERS[: len(choices)]:
            return _letter(text)
        if isinstance(text, str) and list(choices).count(text) == 1:
            return list(choices).index(text)
        if isinstance(text, str) and (whole := _without_fraction(text)) != text:
            return self._place(whole, choices, names, where)
        raise UserError(
            f"{where}: the label {shown(repr(label))} is none of the {len(choices)} choices; give a number from 0 on, "
            "a letter, or the choice itself"
        )


def _letter(text: str) -> int:
    return _LETTERS.index(text.upper())


def _without_fraction(label: Any) -> Any:
    """1.0, which a column of floats has in place of 1, as a number where it is text; all else as it is."""
    return float(label) if isinstance(label, str) and re.fullmatch(r"\s*[0-9]{1,3}\.0+\s*", label) else label


def _number(label: Any) -> int | None:
    """A label as a whole number, also where it is written as text, or 1 as 1.0."""
    if isinstance(label, bool):
        return None
    if isinstance(label, float):
        return int(label) if label.is_integer() else None
    if isinstance(label, int):
        return label
    return int(label) if isinstance(label, str) and re.fullmatch(r"\s*[0-9]{1,3}\s*", label) else None
