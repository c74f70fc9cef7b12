"""What a fine-tuning leaves: the model, what it was asked for, its metrics and curves, its figures, and its card."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from hf_minibert.data.sources import BUILTIN
from hf_minibert.data.splits import named
from hf_minibert.files import CARD, GENERATED_CARD, write_json, write_text
from hf_minibert.finetuning.durable import DurableTrainer
from hf_minibert.finetuning.lora import is_adapted, merged, save_adapters
from hf_minibert.finetuning.run import Run
from hf_minibert.finetuning.task import Usage
from hf_minibert.finetuning.unfinished import ARGUMENTS, RESULTS, Unfinished, saved_arguments
from hf_minibert.hub.card import render_card
from hf_minibert.runs.curves import plot_curves
from hf_minibert.runs.hardware import hardware
from hf_minibert.runs.results import changed_settings, environment
from hf_minibert.runs.scores import is_better, score_of
from hf_minibert.tokenization import save_tokenizer

METRICS = "metrics.jsonl"


INPUTS = ("data", "tokenizer", "model")
"""What a result is made from: `results.json` notes a hash of the content of each."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What training with one seed gave."""

    seed: int
    metrics: dict[str, float]
    """Of the best epoch, on the evaluation split and the test split."""
    history: list[dict[str, Any]]
    """The log of the training."""
    seconds: float
    steps: int
    epochs: float
    best: str
    """The checkpoint with the best weights."""
    run: Run | None = None
    trainer: DurableTrainer | None = None
    """Present where the training was done or opened by this process."""


def write_result(folder: Path, kept: Outcome, outcomes: dict[int, Outcome]) -> dict[str, Any]:
    """Write all files of the result, the card last. Returns the content of `results.json`.

    Args:
        folder: to write.
        kept: the seed whose model is written.
        outcomes: of all seeds.
    """
    run, history = kept.run, kept.history
    assert run is not None
    if run.arguments.merge_lora:
        merged(run.model).save_pretrained(folder)
    elif is_adapted(run.model):
        save_adapters(run.model, folder, run.start.name)
    else:
        run.model.save_pretrained(folder)
    save_tokenizer(run.tokenizer, folder)
    run.task.save(folder)
    write_json(folder / ARGUMENTS, saved_arguments(run.arguments))
    logged = [entry for entry in history if "loss" in entry or "eval_loss" in entry]
    write_text(folder / METRICS, "".join(json.dumps(entry, allow_nan=False) + "\n" for entry in logged))
    if run.arguments.write_predictions:
        for split in run.measured:
            lines = (json.dumps(line, ensure_ascii=False, allow_nan=False) for line in run.task.predictions(split))
            write_text(folder / f"predictions_{split}.jsonl", "".join(f"{line}\n" for line in lines))
            if (official := run.task.official_predictions(split)) is not None:
                write_json(folder / f"predictions_{split}.json", official)
    results = finetuning_results(run, kept, outcomes) | {"pictures": run.task.pictures(folder, run.data)}
    write_json(folder / RESULTS, results)
    metric, baseline = run.best_metric, baseline_of(run, results)
    plot_curves(
        folder / METRICS,
        folder / "curves.png",
        score=None if metric == "loss" else metric,
        score_baseline=None if baseline is None else (run.task.baseline_words, baseline),
    )
    write_text(folder / CARD, render_card(folder, place=Path(run.arguments.output_dir)))
    return results


def closing_lines(run: Run, results: dict[str, Any]) -> list[str]:
    """Lines for people: what the model has learned, and where it is."""
    task, folder = run.task, Path(run.arguments.output_dir)
    lines = [*task.report(results), *test_lines(run, results), *seed_lines(results)]
    value, baseline = results["metrics"][f"eval_{run.best_metric}"], baseline_of(run, results)
    if baseline is not None and not is_better(run.best_metric, value, baseline):
        lines.append(
            f"  no epoch was better than {task.baseline_words}: give more text or epochs, or another --learning_rate"
        )
    generated = folder / GENERATED_CARD
    return [*lines, f"\nmodel       {folder}", f"model card  {generated if generated.exists() else folder / CARD}"]


def test_lines(run: Run, results: dict[str, Any]) -> list[str]:
    """Lines about the test split, with the interval in which its figures lie by chance alone."""
    lines = []
    for name in run.task.metrics:
        if (value := results["metrics"].get(f"test_{name}")) is None:
            continue
        score, interval = score_of(name), results["intervals"].get(f"test_{name}")
        between = (
            "" if interval is None else f" (95% interval {score.shown(interval[0])} to {score.shown(interval[1])})"
        )
        lines.append(f"  test {score.label} {score.shown(value)}{between}")
    count = results["dataset"].get("test_examples")
    return [f"{count:,} test {run.task.examples_word}, read once:", *lines] if lines else []


def over_seeds(outcomes: dict[int, Outcome], names: list[str], kept: int) -> dict[str, Any]:
    """The figures of all seeds, with their means and standard deviations; nothing of a single one."""
    if len(outcomes) == 1:
        return {}
    each = {name: [outcome.metrics[name] for outcome in outcomes.values()] for name in names}
    metrics = {
        name: {"values": values, "mean": fmean(values), "standard_deviation": stdev(values)}
        for name, values in each.items()
    }
    return {"seeds": {"seeds": list(outcomes), "kept": kept, "metrics": metrics}}


def seed_lines(results: dict[str, Any]) -> list[str]:
    """Lines about several seeds: the mean and the spread of their figures."""
    if "seeds" not in results:
        return []
    seeds = results["seeds"]
    lines = [
        f"{len(seeds['seeds'])} seeds, mean and standard deviation (kept: seed {seeds['kept']}, best when held out):"
    ]
    for name, figures in seeds["metrics"].items():
        split, _, metric = name.partition("_")
        score = score_of(metric)
        where = {"eval": "held-out"}.get(split, split)
        mean, spread = score.shown(figures["mean"]), score.shown(figures["standard_deviation"])
        lines.append(f"  {where} {score.label} {mean} ± {spread}")
    return lines


def usage(run: Run) -> Usage:
    """How to use the model: as its task says, or with PEFT."""
    if run.arguments.lora_rank is None or run.arguments.merge_lora:
        return run.task.usage()
    auto_class = run.task.auto_class.__name__
    return Usage(
        code="import hf_minibert\n"
        "from peft import PeftModel\n"
        f"from transformers import AutoConfig, {auto_class}\n\n"
        "config = AutoConfig.from_pretrained({model})\n"
        f"base = {auto_class}.from_pretrained({json.dumps(run.start.name)}, config=config)  # where you have it\n"
        "model = PeftModel.from_pretrained(base, {model})",
        needs_package=True,
    )


def baseline_of(run: Run, results: dict[str, Any]) -> float | None:
    """The value that the metric which chooses the best epoch has without any learning, if the task knows one."""
    name = run.task.baseline_names.get(run.best_metric)
    return None if name is None else float(results["metrics"][name])


def finetuning_results(run: Run, kept_seed: Outcome, outcomes: dict[int, Outcome]) -> dict[str, Any]:
    """The content of `results.json`: the run in figures, from which the card is rendered."""
    trainer, metrics = kept_seed.trainer, kept_seed.metrics
    assert trainer is not None
    arguments, task, data, examples, model = run.arguments, run.task, run.data, run.examples, run.model
    config = run.start.config
    names = [f"{split}_{metric}" for split in ("eval", "test") for metric in ("loss", *task.metrics)]
    kept = {name: metrics[name] for name in names if name in metrics}
    begun = Unfinished(arguments.output_dir).begun()
    assert begun is not None
    given = named(arguments.eval_dataset, arguments.test_dataset)
    results = {
        "kind": "finetune",
        "inputs": {name: begun[name] for name in INPUTS},
        "task": arguments.task,
        "model_type": config.model_type,
        "architecture": "modern" if config.norm_type == "rms_norm" else "classic",
        "pipeline_tag": task.pipeline_tag or arguments.task,
        "base_model": run.start.name,
        "base_model_hub_id": run.start.hub_id,
        "from_scratch": run.start.source is None,
        "dataset": {
            "name": data.hub_id or Path(arguments.dataset).name,
            "hub_id": data.hub_id,
            "config": arguments.dataset.partition(":")[2] or None if data.hub_id else None,
            "is_builtin": arguments.dataset == BUILTIN,
            "license": arguments.dataset_license,
            "examples_word": task.examples_word,
            "train_examples": len(examples["train"]),
            "eval_examples": len(examples["eval"]),
            "labels": data.labels,
            "files": {split: Path(file).name for split, file in given.items()},
        }
        | ({"test_examples": len(examples["test"])} if "test" in examples else {}),
        "num_parameters": model.num_parameters(),
        "training": {
            "steps": kept_seed.steps,
            "epochs": kept_seed.epochs,
            "seconds": round(sum(outcome.seconds for outcome in outcomes.values()), 1),
            "global_batch_size": arguments.per_device_train_batch_size
            * arguments.gradient_accumulation_steps
            * trainer.args.world_size,
            "max_seq_length": run.max_length,
            "num_processes": trainer.args.world_size,
            "hardware": hardware(trainer.args.device),
            "precision": {"no": "fp32"}.get(str(arguments.mixed_precision), arguments.mixed_precision),
        },
        "metrics": kept | task.baselines(examples),
        "best_metric": run.best_metric,
        "intervals": {
            f"{run.measured[-1]}_{metric}": interval for metric, interval in task.intervals(run.measured[-1]).items()
        },
        "baselines": {f"eval_{metric}": name for metric, name in task.baseline_names.items()},
        "baseline_words": task.baseline_words,
        "changed_settings": changed_settings(replace(arguments, resume=False, overwrite_output_dir=False)),
        "environment": environment(),
    }
    return (
        results
        | over_seeds(outcomes, list(kept), kept_seed.seed)
        | {
            "headline": task.headline(results),
            "usage": asdict(usage(run)),
            "limits": task.limits(results),
        }
    )
