"""IMDb sentiment: pre-training on the reviews and fine-tuning, no pre-training at all, and linear baselines.

::

    python benchmarks/imdb.py --data FOLDER
    python benchmarks/imdb.py --data FOLDER --total 1h
    python benchmarks/imdb.py --data FOLDER --way scratch
    python benchmarks/imdb.py --data FOLDER --way linear

The folder holds ``train.jsonl.xz``, ``test.jsonl.xz`` and ``unsup.jsonl.xz`` of the Large Movie Review data set (Maas
et al. 2011), a JSON object a line with ``text`` and ``label``. Unlabelled reviews that are also in the test or training
set are left out of pre-training, as are training reviews that are also in the test set. A tenth of the training set is
held out as a dev split; a command measures the test set once.

The linear baselines are a logistic regression on TF-IDF and NB-SVM, an SVM on the log-count ratios of naive Bayes (Wang
and Manning 2012), both on words and pairs of words, by scikit-learn. The dev split chooses the strength of their
penalty; then they are fitted on all training reviews.
"""

import json
import lzma
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, vstack
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from hf_minibert.command_line import invocation, run
from hf_minibert.errors import UserError
from hf_minibert.finetuning.labelled import load_labelled
from hf_minibert.pretraining.arguments import parse_duration
from runs import Benchmark, curves, environment, last_two_parts, log_of, results_of, script, write_results

LABELS = ["negative", "positive"]
POOLINGS = ("cls", "mean", "max")
WORD = r"[\w']+|[^\w\s]"
"""A word, or a punctuation mark, as an expression."""
PENALTIES = tuple(10.0**power for power in range(-3, 4))
"""Weights of the loss beside the penalty (scikit-learn's C), of which the dev split chooses."""
TRIAL_STEPS = 20


@dataclass(kw_only=True)
class Arguments(Benchmark):
    """IMDb: pre-train on reviews, fine-tune on their labels, test once; or do without pre-training."""

    data: str
    """Folder with train.jsonl.xz, test.jsonl.xz and unsup.jsonl.xz."""
    way: Literal["pretrained", "scratch", "linear"] = "pretrained"
    """Fine-tune a model that is pre-trained on the reviews, or new weights with each pooling; or fit linear models."""
    output_dir: str = "runs/imdb"
    """Folder for the runs."""
    model: str = "minibert-mini"
    """Its name."""
    budget: str = "30m"
    """Time of pre-training."""
    total: str | None = None
    """Time of pre-training and fine-tuning together, in place of `budget`: the former gets what the latter leaves, of
    which a few steps tell how long it takes."""
    max_seq_length: int = 256
    """Tokens in a row of pre-training."""
    finetune_max_seq_length: int = 1_024
    """Tokens of a review. A fifth of the reviews are longer than 512, and end with the verdict."""
    pretrained: str | None = None
    """The folder of a pre-training that this command made before, to fine-tune again."""
    num_train_epochs: float | None = None
    """Passes over the labelled reviews. Default: 1 with pre-training, 3 without."""
    max_train_samples: int | None = None
    """Fine-tune on so many reviews only, to try the command."""
    max_eval_samples: int | None = None
    """Measure on so many only."""


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file."""
    if not path.is_file():
        raise UserError(f"{path} is missing; --data names the folder of the IMDb files")
    with lzma.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write_pretraining_text(data: Path, output: Path) -> dict[str, int]:
    """Training and unlabelled reviews, each once and none that is also in the test set; returns counts."""
    tested = {row["text"] for row in read(data / "test.jsonl.xz")}
    train = [row["text"] for row in read(data / "train.jsonl.xz")]
    unlabelled = [row["text"] for row in read(data / "unsup.jsonl.xz")]
    texts = [text for text in dict.fromkeys(train + unlabelled) if text not in tested]
    output.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return {"reviews": len(texts), "left_out": len(train) + len(unlabelled) - len(texts)}


def finetune(arguments: Arguments, output: Path, **flags: Any) -> dict[str, Any]:
    """Fine-tune on the labelled reviews; the figures."""
    script(
        "finetune.py",
        label_names=LABELS,
        max_seq_length=arguments.finetune_max_seq_length,
        output_dir=output,
        overwrite_output_dir=True,
        **{
            "dataset": Path(arguments.data).resolve(),
            "max_train_samples": arguments.max_train_samples,
            "max_eval_samples": arguments.max_eval_samples,
        }
        | flags,
    )
    return results_of(output)


def seconds_of_finetuning(arguments: Arguments, epochs: float, output: Path) -> float:
    """About how long the fine-tuning takes: that of a few steps, and with them as many reviews as they have to measure.

    A tenth of the reviews is held out and measured after each epoch, which costs about a third of as many trained ones.
    """
    batch, trial = 32, 32 * TRIAL_STEPS
    results = finetune(
        arguments,
        output,
        dataset=Path(arguments.data).resolve() / "train.jsonl.xz",  # the test set is measured once, at the end
        model=arguments.model,
        num_train_epochs=1,
        max_train_samples=trial,
        max_eval_samples=batch,
    )
    reviews = arguments.max_train_samples or len(read(Path(arguments.data) / "train.jsonl.xz"))
    return float(results["training"]["seconds"]) / trial * reviews * epochs


def pretrained(arguments: Arguments) -> dict[str, Any]:
    """Pre-training on the reviews, and fine-tuning."""
    data, output = Path(arguments.data).resolve(), Path(arguments.output_dir).resolve()
    output.mkdir(parents=True, exist_ok=True)
    folder, epochs = output / "pretrained", arguments.num_train_epochs or 1.0
    if arguments.pretrained is not None:
        folder, counts = Path(arguments.pretrained).resolve(), {}
    else:
        text, budget = output / "reviews.jsonl", arguments.budget
        counts = write_pretraining_text(data, text)
        if arguments.total is not None:
            rest = parse_duration(arguments.total) - seconds_of_finetuning(arguments, epochs, output / "trial")
            if rest <= 0:
                raise UserError(f"total {arguments.total} is less than the fine-tuning alone takes; give more time")
            budget = f"{rest:.0f}s"
        script(
            "pretrain.py",
            model=arguments.model,
            corpus=text,
            max_seq_length=arguments.max_seq_length,
            budget=budget,
            output_dir=folder,
            overwrite_output_dir=True,
        )
    second = finetune(
        arguments,
        output / "classifier",
        model_name_or_path=folder,
        num_train_epochs=epochs,
        hidden_dropout_prob=0.0 if epochs <= 1 else None,  # which costs time, and one pass does not overfit
    )
    first = results_of(folder)
    made, tuned = (json.loads((run / "arguments.json").read_text()) for run in (folder, output / "classifier"))
    return {
        "pretraining_text": {"documents": first["corpus"]["documents"], "tokens": first["corpus"]["tokens"], **counts},
        "pretraining": {
            **{key: first[key] for key in ("preset", "architecture", "num_parameters", "training", "metrics")},
            "budget": made["budget"],
            "corpus": [last_two_parts(source) for source in made["corpus"]],
            "curves": curves(log_of(folder)),
        },
        "finetuning": {key: second[key] for key in ("dataset", "training", "metrics")},
        "seeds": {"pretraining": made["seed"], "finetuning": tuned["seed"]},
    }


def scratch(arguments: Arguments) -> dict[str, Any]:
    """New weights, fine-tuned with each way to make one vector of a review."""
    rows, seeds = [], []
    for pooling in POOLINGS:
        output = Path(arguments.output_dir).resolve() / f"scratch-{pooling}"
        results = finetune(
            arguments,
            output,
            model=arguments.model,
            classifier_pooling=pooling,
            num_train_epochs=arguments.num_train_epochs or 3.0,
        )
        training = results["training"]
        rows.append(
            {
                "name": f"`{arguments.model}` without pre-training, pooling `{pooling}`",
                **{name: results["metrics"][name] for name in ("eval_accuracy", "test_accuracy")},
                **{name: training[name] for name in ("seconds", "epochs", "hardware", "precision")},
            }
        )
        seeds.append(json.loads((output / "arguments.json").read_text(encoding="utf-8"))["seed"])
    return {"rows": rows, "train_reviews": results["dataset"]["train_examples"], "seeds": seeds}


def linear(arguments: Arguments) -> dict[str, Any]:
    """TF-IDF with a logistic regression, and NB-SVM."""
    data = load_labelled(arguments.data, label_names=LABELS)
    if data.test is None:
        raise UserError(f"{arguments.data} has no test split")
    limits = {"train": arguments.max_train_samples, "eval": arguments.max_eval_samples}
    texts, labels = {}, {}
    for split, some in (("train", data.train), ("eval", data.eval), ("test", data.test)):
        limit = limits.get(split, limits["eval"])
        chosen = some if limit is None else some.shuffle(seed=42).select(range(min(limit, len(some))))
        texts[split], labels[split] = chosen["text"][:], np.array(chosen["label"][:])
    pairs: dict[str, Any] = {"ngram_range": (1, 2), "token_pattern": WORD}
    rows = []
    for name, counter, classifier in (
        ("logistic regression on TF-IDF", TfidfVectorizer(**pairs, sublinear_tf=True, min_df=2), logistic),
        ("NB-SVM", CountVectorizer(**pairs, binary=True), nb_svm),
    ):
        begin = time.perf_counter()
        numbers = {"train": counter.fit_transform(texts["train"])}
        numbers |= {split: counter.transform(texts[split]) for split in ("eval", "test")}

        def share(predict: Callable[[csr_matrix], NDArray[Any]], split: str) -> float:
            return float(np.mean(predict(numbers[split]) == labels[split]))  # noqa: B023  # called at once

        on_dev = {c: share(classifier(numbers["train"], labels["train"], c), "eval") for c in PENALTIES}
        best = max(on_dev, key=lambda c: on_dev[c])
        every = vstack([numbers["train"], numbers["eval"]]), np.concatenate([labels["train"], labels["eval"]])
        rows.append(
            {
                "name": f"{name}, words and pairs of words",
                "eval_accuracy": on_dev[best],
                "test_accuracy": share(classifier(*every, best), "test"),
                "seconds": round(time.perf_counter() - begin, 1),
                "penalty": best,
                "features": len(counter.vocabulary_),
            }
        )
    return {"rows": rows, "train_reviews": len(labels["train"]) + len(labels["eval"])}


def logistic(numbers: csr_matrix, labels: NDArray[Any], c: float) -> Callable[[csr_matrix], NDArray[Any]]:
    """A logistic regression."""
    found: Callable[[csr_matrix], NDArray[Any]] = LogisticRegression(C=c, max_iter=1_000).fit(numbers, labels).predict
    return found


def nb_svm(numbers: csr_matrix, labels: NDArray[Any], c: float) -> Callable[[csr_matrix], NDArray[Any]]:
    """An SVM on features times their log-count ratios, its weights drawn to their mean (section 2.3, beta 0.25).

    Args:
        numbers: whether a review has each feature, (reviews, features).
        labels: 0 or 1, (reviews,).
        c: the weight of the loss.
    """
    counts = [1 + np.asarray(numbers[labels == label].sum(axis=0)).ravel() for label in (1, 0)]
    ratios = np.log(counts[0] / counts[0].sum()) - np.log(counts[1] / counts[1].sum())
    svm = LinearSVC(C=c).fit(numbers.multiply(ratios).tocsr(), labels)
    (weights,) = svm.coef_
    drawn = 0.75 * np.abs(weights).mean() + 0.25 * weights

    def predict(others: csr_matrix) -> NDArray[Any]:
        said: NDArray[Any] = (others @ (ratios * drawn) + svm.intercept_ > 0).astype(int)
        return said

    return predict


def table(figures: dict[str, Any]) -> list[str]:
    """The accuracy on the dev split and on the test set, and the time that it took."""
    if "rows" in figures:
        lines = ["| IMDb | dev | **test** | time |", "|---|---:|---:|---:|"]
        for row in figures["rows"]:
            of = f", {row['hardware']}, {row['precision']}" if "hardware" in row else ""
            lines.append(
                f"| {row['name']} | {row['eval_accuracy']:.1%} | **{row['test_accuracy']:.1%}** "
                f"| {row['seconds'] / 60:.1f} minutes{of} |"
            )
        return [*lines, "", f"({figures['train_reviews']:,} training reviews; `{figures['command']}`)"]
    before, after = figures["pretraining"], figures["finetuning"]
    training, metrics = before["training"], after["metrics"]
    return [
        f"| IMDb, `{before['preset']}`, {training['hardware']}, {training['precision']} | |",
        "|---|---:|",
        f"| pre-training on the reviews without labels | {training['seconds'] / 60:.0f} minutes, "
        f"{training['tokens_seen'] / 1e6:.1f} million tokens |",
        f"| fine-tuning | {after['training']['seconds'] / 60:.0f} minutes |",
        f"| masked-LM loss, held out (by frequencies alone) | {before['metrics']['eval_loss']:.2f} "
        f"({before['metrics']['unigram_loss']:.2f}) |",
        f"| accuracy on the dev split, a tenth of the training set | {metrics['eval_accuracy']:.1%} |",
        f"| **accuracy on the test set** | **{metrics['test_accuracy']:.1%}** |",
        "",
        f"(fine-tuned on {after['dataset']['train_examples']:,} reviews, epochs: {after['training']['epochs']:g}, "
        f"seed {figures['seeds']['finetuning']}; `{figures['command']}`)",
    ]


WAYS: dict[str, Callable[[Arguments], dict[str, Any]]] = {
    "pretrained": pretrained,
    "scratch": scratch,
    "linear": linear,
}


def main(arguments: Arguments) -> int:
    """One of the ways, its file and its table."""
    figures = {"command": invocation(), **WAYS[arguments.way](arguments), "environment": environment()}
    what = arguments.total if arguments.way == "pretrained" else arguments.way
    write_results(arguments.results / ("-".join(filter(None, ("imdb", what))) + ".json"), figures)
    print("\n".join(table(figures)))
    return 0


if __name__ == "__main__":
    run(Arguments, main)
