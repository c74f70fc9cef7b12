"""A linear probe: how much of the labels a logistic regression reads from a model's vectors, without fine-tuning it.

Probing as Conneau and Kiela (2018, arXiv:1803.05449) do it: the vectors stay as they are, only the classifier learns.
"""

import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hf_minibert.data.labels import SECRET_LABEL, checked_labels, label_of
from hf_minibert.data.splits import held_out, read_source
from hf_minibert.data.tables import listed, require_texts, shown
from hf_minibert.errors import UserError
from hf_minibert.evaluation.arguments import EvaluateArguments
from hf_minibert.evaluation.representations import open_encoder
from hf_minibert.evaluation.suites import Result

logger = logging.getLogger(__name__)

STEPS = 2_000
"""The most steps that the regression takes."""
EVAL_SHARE = 0.2
"""Where there is no other split, this share of the training texts, chosen by hash, is kept out of training."""
SPLIT_WORDS = {"eval": "dev", "test": "test"}


@dataclass(frozen=True)
class Labelled:
    """Texts and their labels, by split: train, and eval or test or both."""

    texts: dict[str, list[str]]
    labels: dict[str, list[str]]


def read(arguments: EvaluateArguments) -> tuple[Labelled, list[Path]]:
    """Read the splits of one source; which files hold them.

    Raises:
        UserError: several sources, no text or no label in a row, a label that no training text has, or training texts
            with labels of one kind only.
    """
    sources = arguments.dataset or []
    if len(sources) != 1:
        raise UserError(
            f"suite probe takes one dataset, a folder with train.jsonl, dev.jsonl and test.jsonl, or one file; got "
            f"{len(sources)}"
        )
    columns = {"text_column": arguments.text_column, "label_column": arguments.label_column}
    source = read_source(sources[0], columns)
    tables = source.tables
    data = Labelled({}, {})
    column, places = arguments.label_column, dict[str, list[str]]()
    for split in sorted(tables, key=lambda split: split != "train"):
        table = tables[split]
        require_texts(table, "text_column", arguments.text_column)
        written = [label_of(table, column, index, value) for index, value in enumerate(table.columns[column])]
        is_secret = set(written) <= {SECRET_LABEL, None} and SECRET_LABEL not in data.labels.get("train", ())
        if split == "test" and (is_secret or set(written) == {None}):
            logger.warning("not measured: %s, which has no labels, only -1 or none in every row", table.name)
            continue
        labels = [str(label) for label in checked_labels(table, written, column)]
        places[split] = [table.where(index) for index in range(len(table))]
        data.texts[split], data.labels[split] = list(table.columns[arguments.text_column]), labels
    if len(data.texts) == 1:
        out = held_out(data.texts["train"], sources[0], fraction=EVAL_SHARE)
        for part in (data.texts, data.labels, places):
            whole = part.pop("train")
            part["train"] = [one for one, is_out in zip(whole, out, strict=True) if not is_out]
            part["eval"] = [one for one, is_out in zip(whole, out, strict=True) if is_out]
    known = sorted(set(data.labels["train"]))
    for split, labels in data.labels.items():
        if strange := set(labels) - set(known):
            index = next(index for index, label in enumerate(labels) if label in strange)
            raise UserError(
                f"the {split} split has the label {shown(repr(labels[index]))} ({places[split][index]}), which the "
                f"training split does not have; it has {listed(known)}"
            )
    labels = data.labels["train"]
    if len(set(labels)) < 2:
        only = f" have only the label {labels[0]!r}" if labels else ""
        raise UserError(f"the {len(labels)} training examples{only}; a probe needs two labels or more")
    return data, source.files


def measure(name: str, data: Labelled, arguments: EvaluateArguments) -> Result:
    """Fit on the vectors of the training texts, and count right answers on the others."""
    encoder = open_encoder(name, arguments)
    way = [(arguments.pooling, arguments.chosen_layer())]
    vectors = {split: encoder.pooled(texts, way)[0] for split, texts in data.texts.items()}
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=STEPS))
    classifier.fit(vectors["train"], data.labels["train"])
    commonest = Counter(data.labels["train"]).most_common(1)[0][0]
    figures: dict[str, Any] = {
        "pooling": arguments.pooling,
        "layer": arguments.chosen_layer(),
        "labels": sorted(set(data.labels["train"])),
        "examples": {split: len(texts) for split, texts in data.texts.items()},
    }
    rows: dict[str, float | None] = {}
    bars: dict[str, float] = {}
    for split, words in SPLIT_WORDS.items():
        if split in vectors:
            labels, said = data.labels[split], classifier.predict(vectors[split])
            figures[f"{split}_accuracy"] = 100 * float(accuracy_score(labels, said))
            figures[f"{split}_macro_f1"] = 100 * float(f1_score(labels, said, average="macro", zero_division=0))
            figures[f"{split}_majority_accuracy"] = 100 * sum(label == commonest for label in labels) / len(labels)
            rows[f"{words} accuracy"] = bars[f"{words} accuracy"] = figures[f"{split}_accuracy"]
            rows[f"{words} F1, the mean over all labels"] = figures[f"{split}_macro_f1"]
            rows[f"{words} accuracy of the commonest label"] = figures[f"{split}_majority_accuracy"]
    first = next(split for split in SPLIT_WORDS if split in vectors)
    return Result(
        figures=figures,
        rows=rows,
        bars={
            f"{words} accuracy": figures[f"{split}_accuracy"]
            for split, words in SPLIT_WORDS.items()
            if split in vectors
        },
        axis="accuracy of a linear probe (%)",
        baseline=("the commonest label", figures[f"{first}_majority_accuracy"]),
    )
