"""What a fine-tuning leaves: the model, what it was asked for, its metrics and curves, its figures, and its card."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_minibert.data.sources import BUILTIN
from hf_minibert.files import CARD, GENERATED_CARD, write_json, write_text
from hf_minibert.finetuning.durable import DurableTrainer
from hf_minibert.finetuning.run import Run
from hf_minibert.finetuning.unfinished import ARGUMENTS, RESULTS, saved_arguments
from hf_minibert.hub.card import render_card
from hf_minibert.runs.curves import plot_curves
from hf_minibert.runs.hardware import hardware
from hf_minibert.runs.results import changed_settings, environment
from hf_minibert.tokenization import save_tokenizer

METRICS = "metrics.jsonl"


def write_result(
    folder: Path, run: Run, trainer: DurableTrainer, history: list[dict[str, Any]], metrics: dict[str, float]
) -> dict[str, Any]:
    """Write all files of the result, the card last. Returns the content of `results.json`."""
    run.model.save_pretrained(folder)
    save_tokenizer(run.tokenizer, folder)
    write_json(folder / ARGUMENTS, saved_arguments(run.arguments))
    lines = [entry for entry in history if "loss" in entry or "eval_loss" in entry]
    write_text(folder / METRICS, "".join(json.dumps(entry, allow_nan=False) + "\n" for entry in lines))
    results = finetuning_results(run, trainer, metrics)
    write_json(folder / RESULTS, results)
    baseline = (run.task.baseline_words, results["metrics"][run.task.baseline])
    plot_curves(folder / METRICS, folder / "curves.png", score=run.task.best_metric, score_baseline=baseline)
    write_text(folder / CARD, render_card(folder, place=Path(run.arguments.output_dir)))
    return results


def closing_lines(run: Run, results: dict[str, Any]) -> list[str]:
    """Lines for people: what the model has learned, and where it is."""
    task, folder = run.task, Path(run.arguments.output_dir)
    lines = task.report(results)
    if results["metrics"][f"eval_{task.best_metric}"] <= results["metrics"][task.baseline]:
        lines.append(
            f"  no epoch was better than {task.baseline_words}: give more text or epochs, or another --learning_rate"
        )
    generated = folder / GENERATED_CARD
    return [*lines, f"\nmodel       {folder}", f"model card  {generated if generated.exists() else folder / CARD}"]


def finetuning_results(run: Run, trainer: DurableTrainer, metrics: dict[str, float]) -> dict[str, Any]:
    """The content of `results.json`: the run in figures, from which the card is rendered."""
    arguments, task, data, rows, model = run.arguments, run.task, run.data, run.rows, run.model
    config = model.config
    names = [f"{split}_{metric}" for split in ("eval", "test") for metric in ("loss", *task.metrics)]
    kept = {name: metrics[name] for name in names if name in metrics}
    base_model = Path(arguments.model_name_or_path)
    results = {
        "kind": "finetune",
        "task": arguments.task,
        "model_type": config.model_type,
        "architecture": "modern" if config.norm_type == "rms_norm" else "classic",
        "base_model": base_model.resolve().name if base_model.is_dir() else arguments.model_name_or_path,
        "base_model_hub_id": None if base_model.is_dir() else arguments.model_name_or_path,
        "dataset": {
            "name": data.hub_id or Path(arguments.dataset).name,
            "hub_id": data.hub_id,
            "is_builtin": arguments.dataset == BUILTIN,
            "train_examples": len(rows["train"]),
            "eval_examples": len(rows["eval"]),
            "labels": data.labels,
        }
        | ({"test_examples": len(rows["test"])} if "test" in rows else {}),
        "num_parameters": model.num_parameters(),
        "training": {
            "steps": trainer.state.global_step,
            "epochs": arguments.num_train_epochs,
            "seconds": round(trainer.seconds, 1),
            "global_batch_size": arguments.per_device_train_batch_size
            * arguments.gradient_accumulation_steps
            * trainer.args.world_size,
            "max_seq_length": arguments.max_seq_length,
            "num_processes": trainer.args.world_size,
            "hardware": hardware(trainer.args.device),
            "precision": {"no": "fp32"}.get(str(arguments.mixed_precision), arguments.mixed_precision),
        },
        "metrics": kept | task.baselines(rows),
        "changed_settings": changed_settings(replace(arguments, resume=False, overwrite_output_dir=False)),
        "environment": environment(),
    }
    return results | {"headline": task.headline(results)}
