"""Fine-tuning with `Trainer`: a pre-trained folder and labelled text in, a classifier that a pipeline opens out."""

import copy
import dataclasses
import json
import logging
import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from datasets import Dataset, disable_progress_bars
from torch import Tensor
from tqdm import tqdm
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.utils.logging import disable_progress_bar

from hf_minibert.data.corpus import BUILTIN
from hf_minibert.data.labelled import LabelledData, load_labelled
from hf_minibert.errors import UserError
from hf_minibert.evaluation.metrics import ClassificationMetrics
from hf_minibert.files import write_json, write_text
from hf_minibert.hub.card import write_card
from hf_minibert.models.configuration_minibert import MiniBertConfig
from hf_minibert.presets import load_config
from hf_minibert.tokenization import load_tokenizer, save_tokenizer
from hf_minibert.training.curves import plot_curves
from hf_minibert.training.device import computes_in_bfloat16, fastest_attention, hardware, use_all_cores
from hf_minibert.training.report import changed_settings, environment

USUAL_RMS = 0.05
"""Matrices up to this root mean square learn at the rate itself, larger ones in proportion (benchmarks/README.md)."""
NEW_WEIGHTS_RATE = 10.0
"""What is not pre-trained, the classifier, learns so many times as fast (benchmarks/README.md)."""


@dataclass(kw_only=True)
class FinetuneArguments:
    """Fine-tune a pre-trained model on labelled text, and leave a folder that a pipeline opens."""

    model_name_or_path: str
    """Folder of a pre-trained MiniBERT or MiniGPT, or its name on the Hub."""
    output_dir: str
    """Folder for the classifier, its card and its metrics."""
    task: Literal["text-classification"] = "text-classification"
    """What to learn."""
    dataset: str = "builtin"
    """`builtin` (which package a documentation text is from), a file (.jsonl .csv .tsv .parquet, also compressed), a
    folder with train, dev and test files, or a data set on the Hub, as NAME or NAME:CONFIG."""
    test_dataset: str | None = None
    """A file to measure once, at the end."""
    text_column: str = "text"
    """The column of the text."""
    label_column: str = "label"
    """The column of the label: a class id or a name."""
    label_names: list[str] | None = None
    """What class ids 0, 1, ... mean, as in `--label_names negative positive`."""
    overwrite_output_dir: bool = False
    """Write over an earlier fine-tuning in output_dir."""
    max_seq_length: int = 256
    """Longer texts are cut."""
    num_train_epochs: float = 3.0
    """Passes over the training text."""
    per_device_train_batch_size: int = 32
    """Texts in a batch."""
    per_device_eval_batch_size: int = 64
    """Texts in a batch of an evaluation."""
    gradient_accumulation_steps: int = 1
    """Batches that are added up for one optimizer step."""
    learning_rate: float = 3e-4
    """Peak of the schedule, which warms up and falls linearly. Matrices larger than usual, as Muon makes them, learn
    faster in proportion, and new weights ten times as fast."""
    warmup_steps: float = 0.1
    """Steps of linear warm-up; below 1, their share of the run."""
    weight_decay: float = 0.01
    """AdamW's decay."""
    hidden_dropout_prob: float = 0.1
    """Dropout in the layers and before the classifier."""
    classifier_pooling: Literal["cls", "mean", "max"] = "mean"
    """How MiniBERT makes one vector of a text. MiniGPT takes its last token."""
    lm_loss_weight: float = 0.5
    """Weight of MiniGPT's language-model loss beside the classifier's, in every loss that is shown, too; 0 is better
    below about 10,000 examples."""
    mixed_precision: Literal["no", "bf16"] | None = None
    """Number format of the large products; weights stay in float32. Default: bf16 where the device computes in it."""
    max_train_samples: int | None = None
    """Train on so many texts only, chosen by the seed."""
    max_eval_samples: int | None = None
    """Evaluate and test on so many texts only, chosen by the seed."""
    seed: int = 42
    """Of the new weights, the order of the data and dropout."""

    def __post_init__(self) -> None:
        for name in (
            "num_train_epochs",
            "per_device_train_batch_size",
            "per_device_eval_batch_size",
            "gradient_accumulation_steps",
            "learning_rate",
            "max_train_samples",
            "max_eval_samples",
        ):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{name} must be positive, got {value}")
        for name in ("warmup_steps", "weight_decay", "lm_loss_weight", "seed"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.seed >= 2**32:
            raise UserError(f"seed must be below 2**32, got {self.seed}")
        if not 0 <= self.hidden_dropout_prob < 1:
            raise UserError(f"hidden_dropout_prob must be in [0, 1), got {self.hidden_dropout_prob}")
        if self.max_seq_length < 8:
            raise UserError(f"max_seq_length must be at least 8, got {self.max_seq_length}")


def finetune(arguments: FinetuneArguments) -> int:
    """Train, evaluate after every epoch, keep the best, test once, and write the card.

    Raises:
        UserError: the arguments or the data are not acceptable.
    """
    folder = Path(arguments.output_dir)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"output_dir {folder} is a file; give a folder")
    if folder.exists() and any(folder.iterdir()):
        if not arguments.overwrite_output_dir:
            raise UserError(f"output_dir {folder} is not empty; give another, or --overwrite_output_dir")
        if not is_finetuning(folder):
            raise UserError(f"output_dir {folder} holds no earlier fine-tuning, so nothing in it is overwritten")
    disable_progress_bar()  # of saving and loading, which are short and would break ours
    disable_progress_bars()  # of reading and tokenizing, which are short beside training
    logging.getLogger("transformers.trainer").setLevel(logging.ERROR)  # it takes tied weights for missing ones
    torch.set_flush_denormal(True)  # AdamW on subnormal moments is many times slower on CPUs
    load_config(arguments.model_name_or_path)  # a mistake in the name shows best here
    tokenizer = load_tokenizer(arguments.model_name_or_path)
    data = load_labelled(
        arguments.dataset,
        test_source=arguments.test_dataset,
        text_column=arguments.text_column,
        label_column=arguments.label_column,
        label_names=arguments.label_names,
    )
    set_seed(arguments.seed)
    model, new_weights = build_classifier(arguments, data.labels)
    rows = {
        split: encode(
            some if limit is None else sample(some, limit, arguments.seed), tokenizer, arguments.max_seq_length
        )
        for split, some, limit in (
            ("train", data.train, arguments.max_train_samples),
            ("eval", data.eval, arguments.max_eval_samples),
            ("test", data.test, arguments.max_eval_samples),
        )
        if some is not None
    }
    if arguments.mixed_precision is None:
        arguments = dataclasses.replace(arguments, mixed_precision="bf16" if computes_in_bfloat16() else "no")
    processes = PartialState(cpu=not torch.accelerator.is_available())  # unless told, it joins no processes on a CPU
    use_all_cores(processes.device)
    processes.wait_for_everyone()  # all have found the folder as it was
    if processes.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "arguments.json", dataclasses.asdict(arguments) | {"overwrite_output_dir": False})
    bar = OneBar()
    trainer = ProportionateTrainer(
        new_weights=new_weights,
        model=model,
        args=trainer_arguments(arguments, len(rows["train"]), processes.num_processes),
        train_dataset=rows["train"],
        eval_dataset=rows["eval"],
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=classification_metrics,
        callbacks=[bar],
    )
    trainer.remove_callback(PrinterCallback)
    if trainer.is_world_process_zero():
        tqdm.write(
            f"fine-tuning {model.num_parameters() / 1e6:.1f}M parameters on {len(rows['train']):,} texts, "
            f"{len(rows['eval']):,} held out, {len(data.labels)} labels, on {hardware(trainer.args.device)}"
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
        model.save_pretrained(folder)
        save_tokenizer(tokenizer, folder)
        for checkpoint in folder.glob("checkpoint-*"):  # Trainer's own, to return to the best epoch
            shutil.rmtree(checkpoint)
        write_metrics(folder / "metrics.jsonl", history)
        results = summary(arguments, model, data, rows, metrics, trainer, seconds)
        majority = results["metrics"]["majority_accuracy"]
        plot_curves(folder / "metrics.jsonl", folder / "curves.png", majority_accuracy=majority)
        write_json(folder / "results.json", results)
        card = write_card(folder)
        print_report(results, folder, card)
    return 0


class ProportionateTrainer(Trainer):
    """`Trainer` with AdamW whose steps are longer where the weights are larger, and in the new classifier.

    What Muon has trained is larger than what AdamW has, embeddings above all, and would hardly move in steps of one
    length for all. In proportion to weights, as in Adafactor (Shazeer and Stern 2018, arXiv:1804.04235), either is
    fine-tuned with one rate.
    """

    def __init__(self, *, new_weights: set[str], **arguments: Any) -> None:
        super().__init__(**arguments)
        self._new_weights = new_weights

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The usual one; each parameter that learns at another rate has a group of its own, and decays as all do."""
        assert self.model is not None
        assert self.optimizer is None, "rates would be multiplied again"
        optimizer = super().create_optimizer(model)
        new = {id(parameter) for name, parameter in self.model.named_parameters() if name in self._new_weights}
        usual, others = list[dict[str, Any]](), list[dict[str, Any]]()
        for group in optimizer.param_groups:
            factors = [rate_factor(parameter, is_new=id(parameter) in new) for parameter in group["params"]]
            pairs = list(zip(group["params"], factors, strict=True))
            usual.append(group | {"params": [parameter for parameter, factor in pairs if factor == 1]})
            others += [
                group | {"params": [one], "lr": group["lr"] * factor, "weight_decay": group["weight_decay"] / factor}
                for one, factor in pairs
                if factor != 1
            ]
        optimizer.param_groups = usual + others  # Trainer logs the rate of the first group
        return optimizer


@torch.no_grad()
def rate_factor(parameter: Tensor, *, is_new: bool) -> float:
    """How many times the learning rate a parameter is fine-tuned with: once, if it is a pre-trained norm or bias."""
    if is_new:
        return NEW_WEIGHTS_RATE
    if parameter.ndim != 2:
        return 1.0
    return max(1.0, float(parameter.square().mean().sqrt()) / USUAL_RMS)


class OneBar(TrainerCallback):
    """One progress bar for training and evaluations, in place of `Trainer`'s bars and the dictionaries between them."""

    def __init__(self) -> None:
        self._shown: dict[str, str] = {}
        self._batches = 0

    def on_train_begin(self, *event: Any, **_: Any) -> None:
        """Begin the bar."""
        _, state, _ = event
        self._bar = tqdm(total=state.max_steps, desc="training", disable=not state.is_world_process_zero)

    def on_step_end(self, *event: Any, **_: Any) -> None:
        """Move on."""
        _, state, _ = event
        self._bar.set_description("training", refresh=False)
        self._bar.update(state.global_step - self._bar.n)

    def on_log(self, *_event: Any, **kwargs: Any) -> None:
        """Show the newest loss and accuracy."""
        logs = kwargs["logs"]
        if "loss" in logs:
            self._shown["loss"] = f"{logs['loss']:.3f}"
        if "eval_accuracy" in logs:
            self._shown["held-out accuracy"] = f"{logs['eval_accuracy']:.1%}"
        self._bar.set_postfix(self._shown)

    def on_prediction_step(self, *_event: Any, **_: Any) -> None:
        """Say that it goes on, though the bar stands still."""
        self._batches += 1
        if self._batches % 10 == 1:
            self._bar.set_description(f"evaluating, batch {self._batches}")

    def on_evaluate(self, *_event: Any, **_: Any) -> None:
        """The next evaluation counts anew."""
        self._batches = 0

    def close(self) -> None:
        """Leave the bar as it is at the end."""
        self._bar.set_description("training")
        self._bar.close()


def is_finetuning(folder: Path) -> bool:
    """Whether a folder is that of a run like this."""
    try:
        return "task" in json.loads((folder / "arguments.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def build_classifier(arguments: FinetuneArguments, labels: list[str]) -> tuple[PreTrainedModel, set[str]]:
    """The pre-trained model with a new classifier, and the names of the weights that are new.

    Raises:
        UserError: it is not one of ours, its positions are fewer than the texts may have, or it has a classifier of
            other labels.
    """
    name = arguments.model_name_or_path
    config = load_config(name)
    if arguments.max_seq_length > config.max_position_embeddings:
        raise UserError(
            f"max_seq_length {arguments.max_seq_length} is more than the model's {config.max_position_embeddings} "
            "positions; make it smaller"
        )
    is_classifier = any(each.endswith("ForSequenceClassification") for each in config.architectures or ())
    if is_classifier and (its_own := list((config.id2label or {}).values())) != labels:
        raise UserError(
            f"{name} tells {', '.join(its_own)} apart already, but the data has the labels {', '.join(labels)}; "
            "fine-tune the pre-trained model that it was made from, or name the labels alike (--label_names)"
        )
    fields: dict[str, Any] = {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
        "problem_type": "single_label_classification",
        "hidden_dropout_prob": arguments.hidden_dropout_prob,
    }
    if isinstance(config, MiniBertConfig):
        fields["classifier_pooling"] = arguments.classifier_pooling
    else:
        fields["lm_loss_weight"] = arguments.lm_loss_weight
    model, loaded = AutoModelForSequenceClassification.from_pretrained(
        name,
        dtype=torch.float32,  # whatever the checkpoint has: a short step is lost on weights in bfloat16
        attn_implementation=fastest_attention(arguments.max_seq_length),
        output_loading_info=True,
        **fields,
    )
    return model, set(loaded["missing_keys"])


def sample(rows: Dataset, limit: int, seed: int) -> Dataset:
    """At most so many rows, from anywhere: a file may be sorted by label."""
    return rows.shuffle(seed=seed).select(range(min(limit, len(rows))))


def encode(rows: Dataset, tokenizer: PreTrainedTokenizerFast, max_length: int) -> Dataset:
    """Texts as token ids, the longest cut; padded later, batch by batch."""
    tokenizer = copy.deepcopy(tokenizer)  # else `Trainer` would save the cut with its checkpoints
    return rows.map(
        lambda batch: tokenizer(batch["text"], truncation=True, max_length=max_length),
        batched=True,
        remove_columns=["text"],
        desc="tokenizing",
    )


def trainer_arguments(arguments: FinetuneArguments, num_examples: int, num_processes: int) -> TrainingArguments:
    """What `Trainer` is told: ours by name, and its own means of evaluating each epoch and keeping the best."""
    steps_per_epoch = math.ceil(
        num_examples / (arguments.per_device_train_batch_size * num_processes) / arguments.gradient_accumulation_steps
    )
    return TrainingArguments(
        output_dir=arguments.output_dir,
        num_train_epochs=arguments.num_train_epochs,
        per_device_train_batch_size=arguments.per_device_train_batch_size,
        per_device_eval_batch_size=arguments.per_device_eval_batch_size,
        gradient_accumulation_steps=arguments.gradient_accumulation_steps,
        learning_rate=arguments.learning_rate,
        warmup_steps=arguments.warmup_steps,
        weight_decay=arguments.weight_decay,
        lr_scheduler_type="linear",
        use_cpu=not torch.accelerator.is_available(),  # else Trainer refuses bf16
        bf16=arguments.mixed_precision == "bf16",
        train_sampling_strategy="group_by_length",
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        logging_steps=max(1, min(50, steps_per_epoch // 4)),
        dataloader_pin_memory=torch.cuda.is_available(),
        seed=arguments.seed,
        save_only_model=True,
        report_to="none",
        disable_tqdm=True,  # `OneBar` takes its place
    )


def classification_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Accuracy, F1 and Matthews correlation of the likeliest class."""
    logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    computed = ClassificationMetrics().compute(predictions=logits.argmax(axis=-1), references=prediction.label_ids)
    assert computed is not None
    return dict(computed)


def write_metrics(path: Path, history: list[dict[str, Any]]) -> None:
    """`Trainer`'s history in the form of our `metrics.jsonl`."""
    lines = [entry for entry in history if "loss" in entry or "eval_loss" in entry]
    write_text(path, "".join(json.dumps(entry) + "\n" for entry in lines))


def summary(
    arguments: FinetuneArguments,
    model: PreTrainedModel,
    data: LabelledData,
    rows: dict[str, Dataset],
    metrics: dict[str, float],
    trainer: Trainer,
    seconds: float,
) -> dict[str, Any]:
    """The run in figures, `results.json`: what the card is rendered from."""
    config = model.config
    names = ("eval_loss", "eval_accuracy", "eval_f1", "eval_matthews_correlation")
    kept = {
        name: metrics[name] for name in (*names, *(name.replace("eval_", "test_") for name in names)) if name in metrics
    }
    base_model = Path(arguments.model_name_or_path)
    majority = max(rows["eval"]["label"].count(label) for label in range(len(data.labels))) / len(rows["eval"])
    return {
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
            "seconds": round(seconds, 1),
            "global_batch_size": arguments.per_device_train_batch_size
            * arguments.gradient_accumulation_steps
            * trainer.args.world_size,
            "max_seq_length": arguments.max_seq_length,
            "num_processes": trainer.args.world_size,
            "hardware": hardware(trainer.args.device),
            "precision": {"no": "fp32"}.get(str(arguments.mixed_precision), arguments.mixed_precision),
        },
        "metrics": kept | {"majority_accuracy": majority},
        "changed_settings": changed_settings(arguments),
        "environment": environment(),
    }


def print_report(results: dict[str, Any], folder: Path, card: Path) -> None:
    """What was learned, for the person who waited for it."""
    metrics, dataset = results["metrics"], results["dataset"]
    tqdm.write(f"\n{dataset['eval_examples']:,} held-out texts, {len(dataset['labels'])} labels:")
    tqdm.write(
        f"  accuracy {metrics['eval_accuracy']:.1%}; always the commonest label {metrics['majority_accuracy']:.1%}"
    )
    if "test_accuracy" in metrics:
        tqdm.write(f"  test accuracy {metrics['test_accuracy']:.1%} on {dataset['test_examples']:,} texts")
    tqdm.write(f"\nclassifier  {folder}\nmodel card  {card}")
