"""What the mask and the objective each do: models of one shape, trained for the same time on the same text.

::

    python benchmarks/objectives.py --budget 10m
    python benchmarks/objectives.py --corpus 'texts/*.jsonl' --datasets glue/sst2:sentence imdb/train.jsonl

MiniBERT learns `mlm`, `mlm+nsp`, `mlm+sop` and `hybrid`, MiniGPT `clm`; the order of the runs is that of the table. A
masked and a causal loss are not comparable with each other, so each stands beside what frequencies alone would give;
what is comparable is the accuracy on held-out texts after the same fine-tuning (never on a test set: this is a choice
between objectives).
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import charts
from hf_minibert.command_line import invocation, run
from hf_minibert.files import write_json
from hf_minibert.pretraining.report import environment
from runs import Benchmark, keep, results_of, script, short

OBJECTIVES = {
    "mlm": "minibert",
    "mlm+nsp": "minibert",
    "mlm+sop": "minibert",
    "hybrid": "minibert",
    "clm": "minigpt",
}


@dataclass(kw_only=True)
class Arguments(Benchmark):
    """Train both models of one shape with every objective, and fine-tune them all alike."""

    size: str = "mini"
    """tiny, mini, small or medium."""
    corpus: list[str] = field(default_factory=lambda: ["builtin"])
    """Text, as in `scripts/pretrain.py`."""
    budget: str = "10m"
    """Time of each pre-training."""
    max_seq_length: int = 128
    """Tokens in a row, the same for both models."""
    datasets: list[str] = field(default_factory=lambda: ["builtin"])
    """Labelled texts, each as in `scripts/finetune.py`, and after a colon the column of the text, if it is not `text`.
    Give a file where a folder also has test texts."""
    max_train_samples: int = 4_000
    """Fine-tune on so many texts of each."""
    max_eval_samples: int = 2_000
    """Measure on so many of its held-out texts."""
    output_dir: str = "runs/objectives"
    """Folder for the runs."""


def compare(arguments: Arguments, objective: str, output: Path) -> dict[str, Any]:
    """Pre-train with an objective and fine-tune the result; the figures of both."""
    pretrained = output / objective
    script(
        "pretrain.py",
        model=f"{OBJECTIVES[objective]}-{arguments.size}",
        objective=objective,
        corpus=arguments.corpus,
        budget=arguments.budget,
        max_seq_length=arguments.max_seq_length,
        output_dir=pretrained,
        overwrite_output_dir=True,
    )
    keep(pretrained, arguments.results, f"objectives-{arguments.size}-{objective}")
    before = results_of(pretrained)
    accuracies = {}
    for source in arguments.datasets:
        dataset, _, column = source.partition(":")
        classifier = output / f"{objective}-{short(dataset).replace('/', '-')}"
        script(
            "finetune.py",
            model_name_or_path=pretrained,
            dataset=dataset,
            text_column=column or None,
            max_train_samples=arguments.max_train_samples,
            max_eval_samples=arguments.max_eval_samples,
            max_seq_length=arguments.max_seq_length,
            lm_loss_weight=0,  # so that the classifiers learn alike
            output_dir=classifier,
            overwrite_output_dir=True,
        )
        metrics = results_of(classifier)["metrics"]
        accuracies[short(dataset)] = {key: metrics[key] for key in ("eval_accuracy", "majority_accuracy")}
    lines = [json.loads(line) for line in (pretrained / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    name = "eval_loss" if objective in ("mlm", "clm") else "eval_mlm_loss"
    return {
        "model": before["preset"],
        "objective": objective,
        "num_parameters": before["num_parameters"],
        "training": before["training"],
        "metrics": before["metrics"],
        "curve": [[line["seconds"], line[name]] for line in lines if name in line],
        "finetuning": accuracies,
    }


def main(arguments: Arguments) -> int:
    """All runs, the table and the chart."""
    output = Path(arguments.output_dir).resolve() / arguments.size
    runs = [compare(arguments, objective, output) for objective in OBJECTIVES]
    file = arguments.results / f"objectives-{arguments.size}.json"
    write_json(
        file,
        {
            "command": invocation(),
            "budget": arguments.budget,
            "corpus": [short(name) for name in arguments.corpus],
            "runs": runs,
            "environment": environment(),
        },
    )
    charts.draw(file)
    return 0


if __name__ == "__main__":
    run(Arguments, main)
