"""What a pre-training is worth: ours and stock BERT of the same shape, on the same tasks, by the same command.

::

    python benchmarks/tasks.py --data data --corpus wikipedia_en/train.jsonl.xz books_en/train.jsonl.xz
    python benchmarks/tasks.py --data data --pretrained runs/tasks/ours runs/tasks/stock --tasks rte mrpc
    python benchmarks/tasks.py --data data --pretrained runs/minibert --tasks babylm --seeds 1

Both models are pre-trained for `--budget` on the same text, one after the other, stock BERT as `peers.py` says. Then
each is fine-tuned on every task with the defaults of `finetune`, but for `--seeds`, and measured on the split that has
public labels: dev, or test for CoNLL-2003. `--data` (default: the variable HF_MINIBERT_DATA) is a folder with ``glue``
(a folder for each task), ``conll2003``, ``squad``, ``commonsense_qa`` and ``babylm_finetune`` (``rte.train.jsonl``,
``rte.dev.jsonl``, ...). The tasks of BabyLM's fine-tuning suite have its own settings, and the table their average,
which its board shows. Rows that the result file has are not run again: delete one to repeat it. Models that are there,
made with other settings, are refused, and so are other models than those of the rows.
"""

import json
import os
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from hf_minibert.command_line import invocation, run
from hf_minibert.errors import UserError
from hf_minibert.files import weights_digest, write_json
from hf_minibert.pretraining.arguments import PretrainArguments, parse_duration
from hf_minibert.pretraining.data import read_data
from hf_minibert.pretraining.plan import make_plan
from hf_minibert.tokenization import adapt_tokenizer, save_tokenizer
from peers import LENGTH, train_peer
from runs import (
    REPOSITORY,
    Benchmark,
    has_ended,
    last_two_parts,
    machine,
    require_same,
    results_of,
    results_so_far,
    script,
    write_results,
)

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
    suite_task: str | None = None
    """Its name in BabyLM's suite, by which its settings and its files are called."""


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
BABYLM = ("boolq", "mnli", "mrpc", "multirc", "qqp", "rte", "wsc")
ROWS |= {
    f"babylm-{name}": Row(
        "babylm_finetune",
        "eval_positive_f1" if name in ("mrpc", "qqp") else "eval_accuracy",
        suite_task=name,
    )
    for name in BABYLM
}
GROUPS: dict[str, tuple[str, ...]] = {"glue": GLUE, "babylm": tuple(f"babylm-{name}" for name in BABYLM)}
"""Names of several tasks, whose average the table has."""
TARGETS = {"glue": "5 above stock", "babylm": "63.8 (GPT-2), 70.4 (the best)"}
"""What was asked of the averages; of BabyLM's, what its board has of models of 10 million words."""


@dataclass(kw_only=True)
class Arguments(Benchmark):
    """Pre-train ours and stock BERT for the same time, and fine-tune both on each task."""

    data: str | None = None
    """Folder of the data sets. Default: the variable HF_MINIBERT_DATA."""
    tasks: list[str] = field(default_factory=lambda: [name for name, row in ROWS.items() if row.suite_task is None])
    """Which of the tasks; `glue` and `babylm` stand for all of theirs."""
    pretrained: list[str] = field(default_factory=list)
    """Folders in place of pre-training: ours, and perhaps stock BERT's."""
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


def pretrain_both(arguments: Arguments, ours: Path, stock: Path) -> None:
    """Pre-train ours and stock BERT, unless they are there; a file beside stock's folder has its settings.

    Raises:
        UserError: one of them is there, made with other settings.
    """
    made: dict[str, Any] = {
        "model": f"minibert-{arguments.size}",
        "corpus": [last_two_parts(source) for source in arguments.corpus],
        "budget": arguments.budget,
        "seed": arguments.seed,
    }
    record, made_stock = stock.with_suffix(".json"), made | {"learning_rate": arguments.stock_learning_rate}
    has_stock = record.exists()
    if has_stock or (stock / "config.json").exists():
        recorded = json.loads(record.read_text(encoding="utf-8")) if has_stock else {}
        require_same(recorded, made_stock, stock, "give another --output_dir")
    if not has_ended(ours, made, "output_dir"):
        script(
            "pretrain.py",
            model=f"minibert-{arguments.size}",
            corpus=arguments.corpus,
            budget=arguments.budget,
            seed=arguments.seed,
            output_dir=ours,
            overwrite_output_dir=True,
        )
    if not has_stock:
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
        write_json(record, made_stock)


def files_of(data: Path, row: Row) -> dict[str, Path]:
    """What a task is fine-tuned on, by the flags that name it: a folder, or two files of BabyLM's suite.

    Raises:
        UserError: it is missing.
    """
    found, folder = dict[str, Path](), data / row.folder
    if not folder.is_dir():
        raise UserError(f"{folder} is missing; --data names the folder of the data sets")
    if row.suite_task is None:
        return {"dataset": folder}
    for flag, splits in (("dataset", ("train",)), ("eval_dataset", ("dev", "valid"))):
        names = [f"{row.suite_task}.{split}.jsonl" for split in splits]
        files = [path for name in names for path in sorted(folder.glob(f"{name}*"))]
        if not files:
            raise UserError(f"{folder} has no {names[0]}, also not compressed; leave it out of --tasks")
        found[flag] = files[0]
    return found


def settings_of(arguments: Arguments, folders: list[Path]) -> dict[str, Any]:
    """What rows of a result file must have in common: the models and the fine-tuning.

    Our model, its time and its text are those of this command, or what a folder that stands in its place says.
    """
    if not arguments.pretrained:
        made: dict[str, Any] = {
            "model": f"minibert-{arguments.size}",
            "budget": arguments.budget,
            "corpus": [last_two_parts(source) for source in arguments.corpus],
            "stock_learning_rate": arguments.stock_learning_rate,
        }
    elif (folders[0] / "results.json").exists():
        results, given = results_of(folders[0]), folders[0] / "arguments.json"
        minutes = round(results["training"]["seconds"] / 60, 1)
        corpus = [results["corpus"]["name"]]  # of several texts, their names as one
        if given.exists():
            corpus = [last_two_parts(source) for source in json.loads(given.read_text(encoding="utf-8"))["corpus"]]
        made = {"model": results["preset"], "budget": f"{minutes:g}m", "corpus": corpus}
    else:
        made = {"model": None, "budget": None, "corpus": ["not known"]}
    return {
        **made,
        "weights": {
            name: weights_digest(folder)[:16] if (folder / "config.json").exists() else None
            for name, folder in zip(MODELS, folders, strict=False)
        },
        **{name: vars(arguments)[name] for name in ("seed", "seeds", "max_train_samples", "max_eval_samples")},
    }


def finetune(arguments: Arguments, row: Row, model: Path, files: dict[str, Path], folder: Path) -> dict[str, Any]:
    """Fine-tune a model on a task with every seed; its figures."""
    is_own = row.suite_task is None
    script(
        "finetune.py",
        *([] if is_own else [REPOSITORY / "scripts" / "configs" / "babylm" / f"{row.suite_task}.yaml"]),
        task=row.task if is_own else None,
        model_name_or_path=model,
        seed=arguments.seed,
        seeds=arguments.seeds,
        max_train_samples=arguments.max_train_samples,
        max_eval_samples=arguments.max_eval_samples,
        output_dir=folder,
        overwrite_output_dir=True,
        **files,
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
    runs, model = figures["runs"], figures["model"]
    what = "a given checkpoint" if model is None else f"`{model}` after {figures['budget']}"
    lines = [
        f"| {what}, then fine-tuned | metric | ours | stock | asked |",
        "|---|---|---:|---:|---|",
    ]
    for name, row in ROWS.items():
        if name in runs:
            cells = [shown(runs[name][model]["values"]) if model in runs[name] else "" for model in MODELS]
            lines.append(f"| `{name}` | {row.metric.replace('_', ' ')} | {cells[0]} | {cells[1]} | {row.target} |")
    for group, names in GROUPS.items():
        there = [name for name in names if name in runs]
        if len(there) < (len(names) if group == "glue" else 1):
            continue
        cells = [
            f"{100 * statistics.mean(statistics.mean(runs[name][model]['values']) for name in there):.1f}"
            if all(model in runs[name] for name in there)
            else ""
            for model in MODELS
        ]
        of = f"{len(there)} of {group}" if len(there) == len(names) else f"{len(there)} of {group}'s {len(names)}"
        lines.append(f"| average of the {of} | | {cells[0]} | {cells[1]} | {TARGETS[group]} |")
    hardware = {figures_of["training"]["hardware"] for run_of in runs.values() for figures_of in run_of.values()}
    limits = [
        f"at most {figures[name]:,} examples to {verb}"
        for name, verb in (("max_train_samples", "train on"), ("max_eval_samples", "measure on"))
        if figures[name] is not None
    ]
    words = [*sorted(hardware), f"seeds: {figures['seeds']}", *limits, f"text: {', '.join(figures['corpus'])}"]
    return [*lines, "", f"({'; '.join(words)}; `{figures['command']}`)"]


def main(arguments: Arguments) -> int:
    """Pre-train, fine-tune, and write the table."""
    place = arguments.data or os.environ.get("HF_MINIBERT_DATA")
    if place is None:
        raise UserError("where are the data sets? Give --data, or set HF_MINIBERT_DATA")
    names = [name for given in arguments.tasks for name in GROUPS.get(given, (given,))]
    unknown = [name for name in names if name not in ROWS]
    if unknown or len(arguments.pretrained) > len(MODELS):
        raise UserError(
            f"tasks are {', '.join((*ROWS, *GROUPS))}, got {', '.join(unknown)}"
            if unknown
            else "--pretrained takes one folder or two: ours, and stock BERT's"
        )
    data, files = Path(place).resolve(), dict[str, dict[str, Path]]()
    for given in arguments.tasks:
        for name in GROUPS.get(given, (given,)):
            try:
                files[name] = files_of(data, ROWS[name])
            except UserError as error:
                if given not in GROUPS:
                    raise
                print(f"{name} is left out: {error}")
    output = Path(arguments.output_dir).resolve()
    output.mkdir(parents=True, exist_ok=True)
    folders = [Path(name).resolve() for name in arguments.pretrained] or [output / name for name in MODELS]
    settings = settings_of(arguments, folders)
    size = "given" if settings["model"] is None else settings["model"].partition("-")[2]
    file = arguments.results / ("-".join(["tasks", size, *machine()]) + ".json")
    if not arguments.pretrained:
        results_so_far(file, settings)  # which may refuse, before hours are spent
        pretrain_both(arguments, *folders)
        settings = settings_of(arguments, folders)
    figures: dict[str, Any] = results_so_far(file, settings) or {**settings, "command": invocation(), "runs": {}}
    for name, named in files.items():
        row = ROWS[name]
        for model, folder in zip(MODELS, folders, strict=False):
            if model not in figures["runs"].setdefault(name, {}):
                figures["runs"][name][model] = finetune(arguments, row, folder, named, output / f"{name}-{model}")
                write_results(file, figures)
    print("\n".join(table(figures)))
    return 0


if __name__ == "__main__":
    run(Arguments, main)
