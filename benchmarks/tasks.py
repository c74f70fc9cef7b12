"""What a pre-training is worth: ours and stock BERT of the same shape, on the same tasks, by the same command.

::

    python benchmarks/tasks.py --data data --corpus wikipedia_en/train.jsonl.xz books_en/train.jsonl.xz
    python benchmarks/tasks.py --data data --pretrained runs/tasks/ours runs/tasks/stock --tasks rte mrpc

Both models are pre-trained for `--budget` on the same text, one after the other, stock BERT as `peers.py` says. Then
each is fine-tuned on every task with the defaults of `finetune`, but for `--seeds`, and measured on the split that has
public labels: dev, or test for CoNLL-2003. `--data` (default: the variable HF_MINIBERT_DATA) is a folder with ``glue``
(a folder for each task), ``conll2003``, ``squad`` and ``commonsense_qa``. Rows that the result file has are not run
again: delete one to repeat it.
"""

import os
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from hf_minibert.command_line import invocation, run
from hf_minibert.data.tables import text_lines
from hf_minibert.errors import UserError
from hf_minibert.files import write_text
from hf_minibert.pretraining.arguments import PretrainArguments, parse_duration
from hf_minibert.pretraining.data import read_data
from hf_minibert.pretraining.plan import make_plan
from hf_minibert.tokenization import adapt_tokenizer, save_tokenizer
from peers import LENGTH, train_peer
from runs import Benchmark, machine, results_of, results_so_far, script, write_results

MODELS = ("ours", "stock")


@dataclass(frozen=True)
class Row:
    """A task on a data set."""

    folder: str
    """Inside the folder of data; it has a file for each split."""
    metric: str
    """What the table shows, by its name in `results.json`."""
    task: str = "text-classification"
    flags: dict[str, Any] = field(default_factory=dict)
    """More flags of `finetune`."""
    target: str = ""
    """What was asked for."""


ROWS: dict[str, Row] = {
    "sst2": Row("glue/sst2", "eval_accuracy"),
    "cola": Row("glue/cola", "eval_matthews_correlation", flags={"best_metric": "matthews_correlation"}),
    "mrpc": Row("glue/mrpc", "eval_positive_f1"),
    "rte": Row("glue/rte", "eval_accuracy"),
    "stsb": Row("glue/stsb", "eval_spearman", flags={"problem_type": "regression"}),
    "conll2003": Row("conll2003", "test_f1", "token-classification", target="84 (stretch 88)"),
    "squad": Row("squad", "eval_f1", "question-answering", target="5 above stock"),
    "commonsense_qa": Row("commonsense_qa", "eval_accuracy", "multiple-choice", target="2 above stock, 30"),
}
GLUE = ("sst2", "cola", "mrpc", "rte", "stsb")


@dataclass(kw_only=True)
class Arguments(Benchmark):
    """Pre-train ours and stock BERT for the same time, and fine-tune both on each task."""

    data: str | None = None
    """Folder of the data sets. Default: the variable HF_MINIBERT_DATA."""
    tasks: list[str] = field(default_factory=lambda: list(ROWS))
    """Which of the tasks."""
    pretrained: list[str] = field(default_factory=list)
    """Two folders in place of pre-training: ours, and stock BERT's."""
    corpus: list[str] = field(default_factory=lambda: ["builtin"])
    """Text to pre-train on."""
    budget: str = "1h"
    """Time of each pre-training."""
    size: str = "mini"
    """tiny, mini, small or medium."""
    stock_learning_rate: float = 3e-4
    """Of stock BERT; the best of four in the hour of `learning_efficiency.py`."""
    seeds: int = 3
    """Fine-tunings of each model on each task."""
    seed: int = 42
    """Of pre-training, and the first of fine-tuning."""
    max_train_samples: int | None = None
    """Train on so many examples only, to try the command."""
    max_eval_samples: int | None = None
    """Measure on so many only."""
    output_dir: str = "runs/tasks"
    """Folder for the runs."""


def pretrain_both(arguments: Arguments, output: Path) -> list[Path]:
    """Pre-train ours and stock BERT, unless they are there; returns their folders."""
    folders = [output / name for name in MODELS]
    ours, stock = folders
    if not (ours / "results.json").exists():
        script(
            "pretrain.py",
            model=f"minibert-{arguments.size}",
            corpus=arguments.corpus,
            budget=arguments.budget,
            seed=arguments.seed,
            output_dir=ours,
            overwrite_output_dir=True,
        )
    if not (stock / "config.json").exists():
        settings = PretrainArguments(
            model=f"minibert-{arguments.size}",
            corpus=arguments.corpus,
            budget=arguments.budget,
            seed=arguments.seed,
            output_dir=str(stock),
        )
        plan = make_plan(settings)
        data = read_data(plan, Accelerator(cpu=not torch.accelerator.is_available()))
        stock.mkdir(parents=True, exist_ok=True)
        seconds, rate = parse_duration(arguments.budget), arguments.stock_learning_rate
        model, _ = train_peer("stock", plan, data, seconds=seconds, learning_rate=rate, folder=stock)
        tokenizer = adapt_tokenizer(
            plan.tokenizer, model_type="minibert", uses_token_types=True, model_max_length=LENGTH
        )
        save_tokenizer(tokenizer, stock)
        model.save_pretrained(stock)  # type: ignore[operator]  # a stock model, which can
    return folders


def one_folder(data: Path, row: Row, output: Path) -> Path:
    """The folder of a data set; several training files (`train_*`) become one, in a folder of its own."""
    folder = data / row.folder
    if not folder.is_dir():
        raise UserError(f"{folder} is missing; --data names the folder of the data sets")
    parts = sorted(path for path in folder.iterdir() if path.name.startswith("train_"))
    if not parts:
        return folder
    joined = output / "data" / row.folder
    joined.mkdir(parents=True, exist_ok=True)
    dev = next(path for path in sorted(folder.iterdir()) if path.name.startswith("dev"))
    for name, files in (("train.jsonl", parts), ("dev.jsonl", [dev])):
        write_text(joined / name, "".join(line + "\n" for path in files for _, line in text_lines(path) if line))
    return joined


def finetune(arguments: Arguments, row: Row, model: Path, dataset: Path, folder: Path) -> dict[str, Any]:
    """Fine-tune a model on a task with every seed; its figures."""
    script(
        "finetune.py",
        task=row.task,
        model_name_or_path=model,
        dataset=dataset,
        seed=arguments.seed,
        seeds=arguments.seeds,
        max_train_samples=arguments.max_train_samples,
        max_eval_samples=arguments.max_eval_samples,
        output_dir=folder,
        overwrite_output_dir=True,
        **row.flags,
    )
    results = results_of(folder)
    every = results.get("seeds", {"metrics": {row.metric: {"values": [results["metrics"][row.metric]]}}})
    return {
        "values": every["metrics"][row.metric]["values"],
        "dataset": results["dataset"],
        "training": results["training"],
    }


def shown(values: list[float]) -> str:
    """The mean in per cent, and the spread of several."""
    mean = f"{100 * statistics.mean(values):.1f}"
    return mean + (f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else "")


def table(figures: dict[str, Any]) -> list[str]:
    """What both models reach on each task, and GLUE's average."""
    runs = figures["runs"]
    lines = [
        f"| `minibert-{figures['size']}` after {figures['budget']}, then fine-tuned | metric | ours | stock | asked |",
        "|---|---|---:|---:|---|",
    ]
    for name, row in ROWS.items():
        if name in runs:
            cells = [shown(runs[name][model]["values"]) if model in runs[name] else "" for model in MODELS]
            lines.append(f"| `{name}` | {row.metric.replace('_', ' ')} | {cells[0]} | {cells[1]} | {row.target} |")
    if all(model in runs.get(name, {}) for name in GLUE for model in MODELS):
        means = [statistics.mean(statistics.mean(runs[name][model]["values"]) for name in GLUE) for model in MODELS]
        lines.append(f"| average of the five of GLUE | | {100 * means[0]:.1f} | {100 * means[1]:.1f} | 5 above stock |")
    return [*lines, "", f"(seeds: {figures['seeds']}; text: {', '.join(figures['corpus'])}; `{figures['command']}`)"]


def main(arguments: Arguments) -> int:
    """Pre-train, fine-tune, and write the table."""
    place = arguments.data or os.environ.get("HF_MINIBERT_DATA")
    if place is None:
        raise UserError("where are the data sets? Give --data, or set HF_MINIBERT_DATA")
    unknown = [name for name in arguments.tasks if name not in ROWS]
    if unknown or len(arguments.pretrained) not in (0, 2):
        raise UserError(
            f"tasks are {', '.join(ROWS)}, got {', '.join(unknown)}"
            if unknown
            else "--pretrained takes two folders: ours, and stock BERT's"
        )
    output = Path(arguments.output_dir).resolve()
    output.mkdir(parents=True, exist_ok=True)
    folders = [Path(name).resolve() for name in arguments.pretrained] or pretrain_both(arguments, output)
    settings = {
        "size": arguments.size,
        "budget": arguments.budget,
        "corpus": ["/".join(Path(name).parts[-2:]) for name in arguments.corpus],
        "seeds": arguments.seeds,
    }
    file = arguments.results / ("-".join(["tasks", arguments.size, *machine()]) + ".json")
    figures: dict[str, Any] = results_so_far(file, settings) or {**settings, "command": invocation(), "runs": {}}
    for name in arguments.tasks:
        dataset = one_folder(Path(place).resolve(), ROWS[name], output)
        for model, folder in zip(MODELS, folders, strict=True):
            if model not in figures["runs"].setdefault(name, {}):
                figures["runs"][name][model] = finetune(
                    arguments, ROWS[name], folder, dataset, output / f"{name}-{model}"
                )
                write_results(file, figures)
    print("\n".join(table(figures)))
    return 0


if __name__ == "__main__":
    run(Arguments, main)
