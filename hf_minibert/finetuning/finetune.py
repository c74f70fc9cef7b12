"""Fine-tuning with `Trainer`: a pre-trained folder and labelled examples in, a model that a pipeline opens out."""

import dataclasses
import json
import logging
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset, disable_progress_bars
from tqdm import tqdm
from transformers import PreTrainedModel, PrinterCallback, Trainer, set_seed
from transformers.utils.logging import disable_progress_bar

from hf_minibert.errors import UserError
from hf_minibert.files import write_json, write_text
from hf_minibert.finetuning.arguments import FinetuneArguments
from hf_minibert.finetuning.task import Task, TaskData
from hf_minibert.finetuning.tasks import TASKS
from hf_minibert.finetuning.trainer import OneBar, ProportionateTrainer, trainer_arguments
from hf_minibert.hub.card import write_card
from hf_minibert.output_folder import check_folder, held_folder, move_into, staged_folder
from hf_minibert.presets import load_config, load_pretrained
from hf_minibert.runs.curves import plot_curves
from hf_minibert.runs.hardware import computes_in_bfloat16, fastest_attention, hardware, use_all_cores
from hf_minibert.runs.results import changed_settings, environment
from hf_minibert.tokenization import load_tokenizer


def finetune(arguments: FinetuneArguments) -> int:
    """Train, evaluate after every epoch, keep the best, test once, and write the card.

    Raises:
        UserError: the arguments or the data are not acceptable.
    """
    with ExitStack() as held:
        return _finetune(arguments, held)


def folder_rules(arguments: FinetuneArguments) -> dict[str, Any]:
    """What a fine-tuning wants of its folder, as `hf_minibert.output_folder` takes it."""
    return {
        "output_dir": arguments.output_dir,
        "verb": "finetune",
        "kind": "an earlier fine-tuning",
        "replaces": arguments.overwrite_output_dir,
        "remedy": "give another, or --overwrite_output_dir to replace what an earlier fine-tuning wrote there",
        "inputs": [arguments.model_name_or_path, arguments.dataset, arguments.test_dataset or arguments.dataset],
    }


def _finetune(arguments: FinetuneArguments, held: ExitStack) -> int:
    """As `finetune`; `held` keeps the folder from others until it is closed."""
    folder = Path(arguments.output_dir)
    check_folder(**folder_rules(arguments))
    disable_progress_bar()  # of saving and loading, which are short and would break ours
    disable_progress_bars()  # of reading and tokenizing, which are short beside training
    logging.getLogger("transformers.trainer").setLevel(logging.ERROR)  # it takes tied weights for missing ones
    torch.set_flush_denormal(True)  # AdamW on subnormal moments is many times slower on CPUs
    load_config(arguments.model_name_or_path)  # a mistake in the name shows best here
    tokenizer = load_tokenizer(arguments.model_name_or_path)
    task = TASKS[arguments.task]
    data = task.read(arguments)
    set_seed(arguments.seed)
    model, new_weights = build_model(arguments, task, data)
    limits = {"train": arguments.max_train_samples, "eval": arguments.max_eval_samples}
    rows = {
        split: task.encode(sample(some, limits.get(split, limits["eval"]), arguments.seed), tokenizer, arguments)
        for split, some in data.splits.items()
    }
    if arguments.mixed_precision is None:
        arguments = dataclasses.replace(arguments, mixed_precision="bf16" if computes_in_bfloat16() else "no")
    processes = PartialState(cpu=not torch.accelerator.is_available())  # unless told, it joins no processes on a CPU
    use_all_cores(processes.device)
    processes.wait_for_everyone()  # all have found the folder as it was
    places = [""]
    if processes.is_main_process:
        held.enter_context(held_folder(**folder_rules(arguments)))
        places = [str(held.enter_context(staged_folder(folder)))]
        write_json(folder / "arguments.json", dataclasses.asdict(arguments) | {"overwrite_output_dir": False})
    broadcast_object_list(places)
    staged = Path(places[0])
    bar = OneBar(task.best_metric)
    trainer = ProportionateTrainer(
        new_weights=new_weights,
        model=model,
        args=trainer_arguments(
            arguments, staged / "trainer", task.best_metric, len(rows["train"]), processes.num_processes
        ),
        train_dataset=rows["train"],
        eval_dataset=rows["eval"],
        processing_class=tokenizer,
        data_collator=task.collator(tokenizer),
        compute_metrics=task.measure,
        callbacks=[bar],
    )
    trainer.remove_callback(PrinterCallback)
    if trainer.is_world_process_zero():
        for line in (*data.notes, *task.describe(data, rows)):
            tqdm.write(line)
        tqdm.write(
            f"fine-tuning {model.num_parameters() / 1e6:.1f}M parameters on {len(rows['train']):,} examples, "
            f"{len(rows['eval']):,} held out, on {hardware(trainer.args.device)}"
        )
    begin = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - begin
    history = list(trainer.state.log_history)
    metrics = trainer.evaluate()  # the best epoch again, which is no part of the curve
    if "test" in rows:
        metrics |= trainer.evaluate(rows["test"], metric_key_prefix="test")
    bar.close()
    if trainer.is_world_process_zero():
        model.save_pretrained(staged / "model")
        tokenizer.save_pretrained(staged / "model")
        move_into(staged / "model", folder, last="config.json")
        write_metrics(folder / "metrics.jsonl", history)
        results = finetuning_results(arguments, task, model, data, rows, metrics, trainer, seconds)
        baseline = (task.baseline_words, results["metrics"][task.baseline])
        plot_curves(folder / "metrics.jsonl", folder / "curves.png", score=task.best_metric, score_baseline=baseline)
        write_json(folder / "results.json", results)
        card = write_card(folder)
        lines = [*task.report(results), f"\nmodel       {folder}", f"model card  {card}"]
        tqdm.write("\n" + "\n".join(lines))
    return 0


def build_model(arguments: FinetuneArguments, task: Task, data: TaskData) -> tuple[PreTrainedModel, set[str]]:
    """The pre-trained model with the task's head, and the names of the weights that are new.

    Raises:
        UserError: it is not one of ours, its positions are fewer than the texts may have, or it has a head for
            something else.
    """
    name = arguments.model_name_or_path
    config = load_config(name)
    if arguments.max_seq_length > config.max_position_embeddings:
        raise UserError(
            f"max_seq_length {arguments.max_seq_length} is more than the model's {config.max_position_embeddings} "
            "positions; make it smaller"
        )
    return load_pretrained(
        task.auto_class,
        name,
        dtype=torch.float32,  # whatever the checkpoint has: a short step is lost on weights in bfloat16
        attn_implementation=fastest_attention(arguments.max_seq_length),
        hidden_dropout_prob=arguments.hidden_dropout_prob,
        **task.config_fields(arguments, config, data),
    )


def sample(rows: Dataset, limit: int | None, seed: int) -> Dataset:
    """At most so many rows, from anywhere, since a file may be sorted by label; all of them without a limit."""
    return rows if limit is None else rows.shuffle(seed=seed).select(range(min(limit, len(rows))))


def write_metrics(path: Path, history: list[dict[str, Any]]) -> None:
    """`Trainer`'s history in the form of our `metrics.jsonl`."""
    lines = [entry for entry in history if "loss" in entry or "eval_loss" in entry]
    write_text(path, "".join(json.dumps(entry) + "\n" for entry in lines))


def finetuning_results(
    arguments: FinetuneArguments,
    task: Task,
    model: PreTrainedModel,
    data: TaskData,
    rows: dict[str, Dataset],
    metrics: dict[str, float],
    trainer: Trainer,
    seconds: float,
) -> dict[str, Any]:
    """The run in figures, `results.json`: what the card is rendered from."""
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
            "train_examples": len(rows["train"]),
            "eval_examples": len(rows["eval"]),
            "labels": data.labels,
        }
        | ({"test_examples": len(rows["test"])} if "test" in rows else {}),
        "num_parameters": model.num_parameters(),
        "training": {
            "steps": trainer.state.global_step,
            "epochs": arguments.num_train_epochs,
            "seconds": round(seconds, 1),
            "global_batch_size": arguments.per_device_train_batch_size
            * arguments.gradient_accumulation_steps
            * trainer.args.world_size,
            "max_seq_length": arguments.max_seq_length,
            "num_processes": trainer.args.world_size,
            "hardware": hardware(trainer.args.device),
            "precision": {"no": "fp32"}.get(str(arguments.mixed_precision), arguments.mixed_precision),
        },
        "metrics": kept | task.baselines(rows),
        "changed_settings": changed_settings(arguments),
        "environment": environment(),
    }
    return results | {"headline": task.headline(results)}
