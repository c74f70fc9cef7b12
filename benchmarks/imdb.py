"""IMDb sentiment from scratch: half an hour of pre-training on reviews without labels, then fine-tuning.

::

    python benchmarks/imdb.py --data FOLDER --output_dir runs/imdb

The folder holds ``train.jsonl.xz``, ``test.jsonl.xz`` and ``unsup.jsonl.xz`` of the Large Movie Review data set (Maas
et al. 2011), a JSON object a line with ``text`` and ``label``. Unlabelled reviews that are also in the test or training
set are left out of pre-training, as are training reviews that are also in the test set. A tenth of the training set is
held out as a dev split; a command measures the test set once.
"""

import json
import lzma
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_minibert.command_line import invocation, run
from hf_minibert.errors import UserError
from runs import Benchmark, curves, log_of, results_of, script, write_results


@dataclass(kw_only=True)
class Arguments(Benchmark):
    """IMDb: pre-train on reviews, fine-tune on their labels, test once."""

    data: str
    """Folder with train.jsonl.xz, test.jsonl.xz and unsup.jsonl.xz."""
    output_dir: str = "runs/imdb"
    """Folder for the two runs."""
    budget: str = "30m"
    """Time of pre-training."""
    max_seq_length: int = 256
    """Tokens in a row of pre-training."""
    finetune_max_seq_length: int = 512
    """Tokens of a review. Half of the reviews are longer than 256, and end with the verdict."""
    pretrained: str | None = None
    """The folder of a pre-training that this command made before, to fine-tune again."""
    num_train_epochs: float = 1.0
    """Passes over the labelled reviews."""


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


def table(figures: dict[str, Any]) -> list[str]:
    """The time of pre-training, and the accuracy on the dev split and on the test set."""
    before, after = figures["pretraining"], figures["finetuning"]
    training, metrics = before["training"], after["metrics"]
    return [
        f"| IMDb, `{before['preset']}`, {training['hardware']}, {training['precision']} | |",
        "|---|---:|",
        f"| pre-training on the reviews without labels | {training['seconds'] / 60:.0f} minutes, "
        f"{training['tokens_seen'] / 1e6:.1f} million tokens |",
        f"| masked-LM loss, held out (by frequencies alone) | {before['metrics']['eval_loss']:.2f} "
        f"({before['metrics']['unigram_loss']:.2f}) |",
        f"| accuracy on the dev split, a tenth of the training set | {metrics['eval_accuracy']:.1%} |",
        f"| **accuracy on the test set** | **{metrics['test_accuracy']:.1%}** |",
        "",
        f"(fine-tuned on {after['dataset']['train_examples']:,} reviews, epochs: {after['training']['epochs']:g}, "
        f"seed {figures['seeds']['finetuning']}; `{figures['command']}`)",
    ]


def main(arguments: Arguments) -> int:
    """Both runs, one after the other."""
    data, output = Path(arguments.data).resolve(), Path(arguments.output_dir).resolve()
    output.mkdir(parents=True, exist_ok=True)
    text = output / "reviews.jsonl"
    counts = write_pretraining_text(data, text)
    pretrained, classifier = output / "pretrained", output / "classifier"
    if arguments.pretrained is not None:
        pretrained = Path(arguments.pretrained).resolve()
    else:
        script(
            "pretrain.py",
            model="minibert-mini",
            corpus=text,
            max_seq_length=arguments.max_seq_length,
            budget=arguments.budget,
            output_dir=pretrained,
            overwrite_output_dir=True,
        )
    script(
        "finetune.py",
        model_name_or_path=pretrained,
        dataset=data,
        label_names=["negative", "positive"],
        max_seq_length=arguments.finetune_max_seq_length,
        num_train_epochs=arguments.num_train_epochs,
        hidden_dropout_prob=0.0,  # which costs time, and one pass does not overfit
        output_dir=classifier,
        overwrite_output_dir=True,
    )
    first, second = results_of(pretrained), results_of(classifier)
    seeds = [json.loads((run / "arguments.json").read_text())["seed"] for run in (pretrained, classifier)]
    write_results(
        arguments.results / "imdb.json",
        {
            "command": invocation(),
            "pretraining_text": counts,
            "pretraining": {
                **{key: first[key] for key in ("preset", "architecture", "num_parameters", "training", "metrics")},
                "curves": curves(log_of(pretrained)),
            },
            "finetuning": {key: second[key] for key in ("dataset", "training", "metrics")},
            "seeds": {"pretraining": seeds[0], "finetuning": seeds[1]},
        },
    )
    return 0


if __name__ == "__main__":
    run(Arguments, main)
