"""Token classification: a label for every word, such as which entity it belongs to.

Words become one text, joined by spaces, and a token belongs to the word in which it begins: so the model reads what it
reads later, in a pipeline, and its offsets point at the words. The first token of a word carries its label. In
training, the others carry it, too (the inside of an entity, I-), so that a pipeline finds words whole.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    AutoModelForTokenClassification,
    DataCollatorForTokenClassification,
    EvalPrediction,
    PreTrainedTokenizerFast,
)

from hf_minibert.data.tables import listed, shown
from hf_minibert.errors import UserError
from hf_minibert.evaluation.metrics import ClassificationMetrics, confidence_intervals
from hf_minibert.evaluation.spans import EntityMetrics, entity_table, require_seqeval, sum_of_types
from hf_minibert.finetuning.pictures import draw_bars, draw_confusion
from hf_minibert.finetuning.start import Start
from hf_minibert.finetuning.tagged import OUTSIDE, load_tagged, types_of
from hf_minibert.finetuning.task import Task, TaskData, Usage
from hf_minibert.models.losses import IGNORE_INDEX
from hf_minibert.runs.scores import score_of

MOST_CONTEXT = 64
"""Tokens that a window of a long sentence reads on each side of those that it labels, or a quarter of its length."""
TYPES_SHOWN = 20


@dataclass
class Sentences:
    """What `encode` knows of a split that is measured."""

    tags: list[list[int]]
    """The class ids of the words of each sentence."""
    has_token: list[list[bool]]
    """Which words have a token."""
    rows: list[int]
    """The sentence of each row."""
    places: list[int]
    """The place of each sentence in its file."""
    words: list[list[str]]


class TokenClassification(Task):
    """Which label each word of a sentence has."""

    auto_class = AutoModelForTokenClassification
    examples_word = "sentences"
    usual_steps = 4_000  # small models go on learning names for long (benchmarks/notebook.md)

    def read(self) -> TaskData:
        """See `load_tagged`; entities are scored by their F1, other tags by their accuracy."""
        arguments = self.arguments
        data = load_tagged(
            arguments.dataset,
            eval_source=arguments.eval_dataset,
            test_source=arguments.test_dataset,
            words_column=arguments.text_column,
            tags_column=arguments.label_column,
            label_names=arguments.label_names,
        )
        self._labels = data.labels
        self._has_entities = data.scheme is not None
        self._sentences: dict[str, Sentences] = {}
        self._said: dict[str, list[list[int]]] = {}
        self.baseline_words = "each word's commonest tag in training"
        if self._has_entities:
            require_seqeval()
            self.metrics, self.best_metric = ("f1", "precision", "recall", "accuracy"), "f1"
        else:
            self.metrics, self.best_metric = ("accuracy", "macro_f1"), "accuracy"
        self.baseline_names = {self.best_metric: f"word_{self.best_metric}"}
        inside = {label: f"I-{label[2:]}" for label in data.labels if self._has_entities and label != OUTSIDE}
        ids = {label: class_id for class_id, label in enumerate(data.labels)}
        self._inside = [ids[inside.get(label, label)] for label in data.labels]
        return TaskData(
            name=arguments.dataset, hub_id=data.hub_id, splits=data.splits, labels=data.labels, notes=data.notes
        )

    def describe(self, data: TaskData, examples: dict[str, Dataset]) -> list[str]:
        """How many sentences and words there are, and of which entities or tags."""
        counts: dict[str, Counter[str]] = {}
        for split, some in examples.items():
            tags = Counter(self._labels[tag] for tag in chain.from_iterable(some["tags"]))
            counts[split] = Counter({label[2:]: n for label, n in tags.items() if label.startswith("B-")})
            counts[split] = counts[split] if self._has_entities else tags
        names = types_of(self._labels) if self._has_entities else self._labels
        totals = {
            "sentences": {split: len(some) for split, some in examples.items()},
            "words": {split: sum(map(len, some["words"])) for split, some in examples.items()},
        }
        rows = totals | {
            shown(name): {split: counts[split][name] for split in examples} for name in names[:TYPES_SHOWN]
        }
        width = max(map(len, rows))
        lines = [" " * width + "".join(f"{split:>10}" for split in examples)]
        for name, numbers in rows.items():
            lines.append(f"{name:{width}}" + "".join(f"{numbers[split]:>10,}" for split in examples))
        if len(names) > TYPES_SHOWN:
            lines.append(f"and {len(names) - TYPES_SHOWN:,} more {'types' if self._has_entities else 'tags'}")
        return lines

    def config_fields(self, start: Start, data: TaskData) -> dict[str, Any]:
        """The labels."""
        is_tagger = any(each.endswith("ForTokenClassification") for each in start.config.architectures or ())
        its_own = list((start.config.id2label or {}).values())
        if is_tagger and its_own != data.labels:
            raise UserError(
                f"{self.arguments.model_name_or_path} tells {listed(its_own)} apart already, but the data has the tags "
                f"{listed(data.labels)}; fine-tune the pre-trained model that it was made from"
            )
        return {
            "id2label": dict(enumerate(data.labels)),
            "label2id": {label: class_id for class_id, label in enumerate(data.labels)},
        }

    def encode(self, examples: Dataset, split: str, tokenizer: PreTrainedTokenizerFast, max_length: int) -> Dataset:
        """A row a sentence; long sentences are read in several windows, and each word is labelled in one of them."""
        begin, end = around(tokenizer)
        room = max_length - len(begin) - len(end)
        rows: dict[str, list[Any]] = {"input_ids": [], "attention_mask": [], "labels": []}
        of_sentence, has_token, long = list[int](), list[list[bool]](), 0
        is_train = split == "train"
        for batch in examples.iter(1_000):
            for ids, places, words, tags in zip(
                *encode_words(batch["words"], tokenizer), batch["words"], batch["tags"], strict=True
            ):
                is_first = [before != place for before, place in pairwise([-1, *places])]
                labels = [
                    tags[place] if first else self._inside[tags[place]] if is_train else IGNORE_INDEX
                    for place, first in zip(places, is_first, strict=True)
                ]
                there = set(places)
                has_token.append([place in there for place in range(len(words))])
                parts = windows(is_first, room)
                long += len(parts) > 1
                for window in parts:
                    own = range(window.first, window.last)
                    inputs = [*begin, *ids[window.begin : window.end], *end]
                    rows["input_ids"].append(inputs)
                    rows["attention_mask"].append([1] * len(inputs))
                    rows["labels"].append(
                        [IGNORE_INDEX] * len(begin)
                        + [labels[at] if at in own else IGNORE_INDEX for at in range(window.begin, window.end)]
                        + [IGNORE_INDEX] * len(end)
                    )
                    of_sentence.append(len(has_token) - 1)
        if long:
            self.notes.append(
                f"{split}: {long:,} of {len(examples):,} sentences are longer than {max_length:,} tokens, and read in "
                "overlapping windows"
            )
        if lost := sum(not has for some in has_token for has in some):
            self.notes.append(f"{split}: the tokenizer has no token for {lost:,} words, which nothing can label")
        if not is_train:
            self._sentences[split] = Sentences(
                examples["tags"][:], has_token, of_sentence, examples["row"][:], examples["words"][:]
            )
        return Dataset.from_dict(rows)

    def collator(self, tokenizer: PreTrainedTokenizerFast) -> DataCollatorForTokenClassification:
        """Pads to the longest row of the batch, labels with -100."""
        return DataCollatorForTokenClassification(tokenizer)

    def reduce_logits(self, logits: Any, labels: Tensor) -> Tensor:
        """The likeliest label of every token."""
        first: Tensor = logits[0] if isinstance(logits, tuple) else logits
        return first.argmax(dim=-1)

    def measure(self, prediction: EvalPrediction, split: str, *, compute_result: bool = True) -> dict[str, float]:
        """The scores of words: a word has the label of its first token, and one without a token the first label."""
        sentences = self._sentences[split]
        labelled: list[list[int]] = [[] for _ in sentences.tags]
        outputs, references = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
        for sentence, output, reference in zip(sentences.rows, outputs, references, strict=True):
            labelled[sentence] += output[reference != IGNORE_INDEX].tolist()
        said = list[list[int]]()
        for own, has_token in zip(labelled, sentences.has_token, strict=True):
            assert len(own) == sum(has_token)
            each = iter(own)
            said.append([next(each) if has else 0 for has in has_token])
        self._said[split] = said
        metrics = self._scores(sentences.tags, said)
        return {name: metrics[name] for name in self.metrics}

    def _scores(self, true: Sequence[Sequence[int]], said: Sequence[Sequence[int]]) -> dict[str, float]:
        if self._has_entities:
            computed = EntityMetrics(keep_in_memory=True).compute(
                predictions=self._named(said), references=self._named(true)
            )
        else:
            computed = ClassificationMetrics(keep_in_memory=True).compute(
                predictions=list(chain.from_iterable(said)), references=list(chain.from_iterable(true))
            )
        return dict(computed)

    def _named(self, sentences: Sequence[Sequence[int]]) -> list[list[str]]:
        return [[self._labels[tag] for tag in tags] for tags in sentences]

    def baselines(self, examples: dict[str, Dataset]) -> dict[str, float]:
        """The score of tagging each word with its commonest tag in training, and others with the commonest of all."""
        counts: defaultdict[str, Counter[int]] = defaultdict(Counter)
        every = Counter[int]()
        for words, tags in zip(examples["train"]["words"], examples["train"]["tags"], strict=True):
            every.update(tags)
            for word, tag in zip(words, tags, strict=True):
                counts[word][tag] += 1
        commonest = {word: tags.most_common(1)[0][0] for word, tags in counts.items()}
        usual = every.most_common(1)[0][0]
        said = [[commonest.get(word, usual) for word in words] for words in examples["eval"]["words"]]
        return {
            self.baseline_names[self.best_metric]: self._scores(examples["eval"]["tags"][:], said)[self.best_metric]
        }

    def intervals(self, split: str) -> dict[str, tuple[float, float]]:
        """From draws of the split's sentences."""
        pairs = list(zip(self._sentences[split].tags, self._said[split], strict=True))
        words = np.array([[sum(map(int.__eq__, *pair)), len(pair[0])] for pair in pairs])
        names = ("right", "predicted", "support")
        entities = np.zeros((len(pairs), 3))
        if self._has_entities:
            for at, (true, said) in enumerate(pairs):
                counts = sum_of_types(entity_table(self._named([true]), self._named([said])))
                entities[at] = [counts[name] for name in names]

        def figures(weights: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
            right, predicted, support = (weights @ entities).T
            correct, every = (weights @ words).T
            return {
                "f1": 2 * right / np.maximum(1, predicted + support),
                "precision": right / np.maximum(1, predicted),
                "recall": right / np.maximum(1, support),
                "accuracy": correct / every,
            }

        found = confidence_intervals(figures, np.ones(len(pairs), int), seed=self.arguments.seed)
        return {name: found[name] for name in self.metrics if name in found}

    def predictions(self, split: str) -> Iterator[dict[str, Any]]:
        """The words of each sentence, their tags, and what the model says they are."""
        sentences = self._sentences[split]
        lines = zip(
            sentences.places, sentences.words, self._named(sentences.tags), self._named(self._said[split]), strict=True
        )
        for place, words, true, said in lines:
            yield {"row": place, "words": words, "tags": true, "prediction": said}

    def pictures(self, folder: Path, data: TaskData) -> dict[str, str]:
        """How well each type of entity is found, or which tags are taken for which."""
        split = "test" if "test" in self._said else "eval"
        true, said = self._sentences[split].tags, self._said[split]
        path = folder / "predictions.png"
        words = "the test sentences" if split == "test" else "the held-out sentences"
        if not self._has_entities:
            each = [np.array(list(chain.from_iterable(tags))) for tags in (true, said)]
            draw_confusion(path, each[0], each[1], self._labels)
            return {path.name: f"Which tags of {words} are taken for which"}
        table = entity_table(self._named(true), self._named(said))
        commonest = sorted(table, key=lambda kind: -table[kind]["support"])[:TYPES_SHOWN]
        columns = [np.array([table[kind][name] for kind in commonest]) for name in ("precision", "recall", "support")]
        draw_bars(path, commonest, columns[0], columns[1], columns[2].astype(int))
        return {path.name: f"Precision and recall of each type of entity in {words}"}

    def report(self, results: dict[str, Any]) -> list[str]:
        """The scores on the evaluation split beside the baseline."""
        metrics, dataset = results["metrics"], results["dataset"]
        lines = [f"{dataset['eval_examples']:,} held-out sentences, {self._what()}:"]
        for name in self.metrics:
            score = score_of(name)
            line = f"  {self._label(name)} {score.shown(metrics[f'eval_{name}'])}"
            if name in self.baseline_names:
                line += f"; {self.baseline_words} {score.shown(metrics[self.baseline_names[name]])}"
            lines.append(line)
        return lines

    def _what(self) -> str:
        kinds = len(types_of(self._labels)) if self._has_entities else len(self._labels)
        word = "type" if self._has_entities else "tag"
        return f"{kinds:,} {word}{'s' * (kinds > 1)}{' of entities' if self._has_entities else ''}"

    def _label(self, name: str) -> str:
        """What people call a score of words."""
        if self._has_entities:
            return "accuracy of tags" if name == "accuracy" else f"entity {score_of(name).label}"
        return score_of(name).label

    def headline(self, results: dict[str, Any]) -> str:
        """The best score on the held-out sentences."""
        score, count = results["metrics"][f"eval_{self.best_metric}"], results["dataset"]["eval_examples"]
        said = f"{self._label(self.best_metric)} {score_of(self.best_metric).shown(score)}"
        return f"On the {count:,} sentences that were held out: {said}."

    def usage(self) -> Usage:
        """A call of the pipeline, which gives the place of each entity in the text."""
        return Usage(
            code="from transformers import pipeline\n\n"
            'tag = pipeline("token-classification", model={model}, aggregation_strategy="simple"{options})\n'
            'for found in tag("Marie Curie moved from Warsaw to Paris ."):\n'
            '    print(found["entity_group"], found["word"], found["start"], found["end"])'
        )

    def limits(self, results: dict[str, Any]) -> list[str]:
        """What it knows, and that the pipeline cuts."""
        names = types_of(self._labels) if self._has_entities else self._labels
        return [
            f"It knows {self._what()}: {listed(names, TYPES_SHOWN)}.",
            "It learned from words with spaces between them, also before punctuation; other text is harder for it.",
            "The pipeline cuts a text that is longer than the model reads, unless it is called with a stride.",
        ]


def around(tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """The tokens that the tokenizer puts before a text and behind it."""
    ids = [int(one) for one in tokenizer("")["input_ids"]]  # of any type: an empty list may be one of floats
    begins = [at for at, one in enumerate(ids) if one in (tokenizer.cls_token_id, tokenizer.bos_token_id)]
    place = begins[0] + 1 if begins else 0
    return ids[:place], ids[place:]


def encode_words(
    sentences: Sequence[Sequence[str]], tokenizer: PreTrainedTokenizerFast
) -> tuple[list[list[int]], list[list[int]]]:
    """The tokens of each sentence, its words joined by spaces, and the word that each token belongs to.

    The words are read as they are written: "[MASK]" is six characters.
    """
    texts = [" ".join(words) for words in sentences]
    encoded = tokenizer(
        texts, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True, verbose=False
    )
    places = list[list[int]]()
    for words, text, offsets in zip(sentences, texts, encoded["offset_mapping"], strict=True):
        starts, at = list[int](), 0
        for word in words:
            starts.append(at)
            at += len(word) + 1
        own = list[int]()
        for start, end in offsets:
            while start < end and text[start].isspace():  # of tokenizers that count the space before a word
                start += 1
            own.append(bisect_right(starts, start) - 1)
        places.append(own)
    return encoded["input_ids"], places


@dataclass(frozen=True)
class Window:
    """A part of a sentence, in tokens: what is read, and what of it is labelled."""

    begin: int
    end: int
    first: int
    last: int


def windows(is_first: Sequence[bool], room: int) -> list[Window]:
    """The windows of a sentence. Each token is labelled in one of them, with others on both sides where there are any.

    Args:
        is_first: for each token, whether it begins a word; windows part between words where they can.
        room: tokens of a window.
    """
    size = len(is_first)
    if size <= room:
        return [Window(0, size, 0, size)]
    context = min(MOST_CONTEXT, room // 4)
    found, first = list[Window](), 0
    while first < size:
        last = min(size, first + room - 2 * context)
        while first < last < size and not is_first[last]:
            last -= 1
        if last == first:  # one word is longer than that
            last = min(size, first + room - 2 * context)
        begin = max(0, first - context)
        found.append(Window(begin, min(size, begin + room), first, last))
        first = last
    return found
