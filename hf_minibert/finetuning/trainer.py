"""`Trainer` as fine-tuning uses it: rates in proportion to the weights, one progress bar, and the best epoch kept."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import Trainer, TrainerCallback

from hf_minibert.finetuning.arguments import FinetuneArguments
from hf_minibert.runs.attention import configurations
from hf_minibert.runs.hardware import fastest_attention
from hf_minibert.runs.scores import score_of

CHOSEN = ("eager", "sdpa")
"""Attention that a batch may exchange for the faster of both."""
USUAL_RMS = 0.05
"""Matrices up to this root mean square learn at the rate itself, larger ones in proportion (benchmarks/README.md)."""
NEW_WEIGHTS_RATE = 10.0
"""New weights, those of the classifier, learn this many times as fast (benchmarks/README.md)."""


class ProportionateTrainer(Trainer):
    """`Trainer` with AdamW whose steps are longer where the weights are larger, and in the new classifier.

    Muon leaves larger weights than AdamW, embeddings above all; one learning rate would hardly move them. With steps in
    proportion to weights, as in Adafactor (Shazeer and Stern 2018, arXiv:1804.04235), one rate fits both.
    """

    def __init__(self, *, new_weights: set[str], **arguments: Any) -> None:
        super().__init__(**arguments)
        assert self.model is not None
        self._factors = {  # from the pre-trained weights, also when resumed
            id(parameter): rate_factor(parameter, is_new=name in new_weights)
            for name, parameter in self.model.named_parameters()
        }
        self._configs = configurations(self.model)

    def _prepare_inputs(self, inputs: dict[str, Tensor | Any]) -> dict[str, Tensor | Any]:
        """`Trainer`'s; and the attention that is fastest for a batch of this length, since most are short.

        Only in training: a decoder that writes its text is faster with SDPA (`TransformerBackbone.decodes`).
        """
        assert self.model is not None
        length = max(tensor.shape[-1] for name, tensor in inputs.items() if name.endswith("input_ids"))
        chosen = fastest_attention(length) if self.model.training else "sdpa"
        for config in self._configs:
            if config._attn_implementation in CHOSEN:
                config._attn_implementation = chosen
        return super()._prepare_inputs(inputs)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """`Trainer`'s; each parameter with another rate gets its own group, and decays as fast as the others."""
        assert self.optimizer is None, "rates would be multiplied again"
        optimizer = super().create_optimizer(model)
        usual, others = list[dict[str, Any]](), list[dict[str, Any]]()
        for group in optimizer.param_groups:
            pairs = [(parameter, self._factors[id(parameter)]) for parameter in group["params"]]
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
    """The factor on the learning rate for a parameter; 1 for pre-trained norms and biases."""
    if is_new:
        return NEW_WEIGHTS_RATE
    if parameter.ndim != 2:
        return 1.0
    return max(1.0, float(parameter.square().mean().sqrt()) / USUAL_RMS)


class OneBar(TrainerCallback):
    """One progress bar for training and evaluations, in place of `Trainer`'s bars and the dictionaries between them."""

    def __init__(self, metric: str) -> None:
        """`metric`: the metric of an evaluation to show beside the loss."""
        self._metric = metric
        self._shown: dict[str, str] = {}
        self._batches = 0
        self._bar: tqdm[Any] | None = None
        self._of_evaluation: tqdm[Any] | None = None

    def on_train_begin(self, *event: Any, **_: Any) -> None:
        """Begin the bar."""
        _, state, _ = event
        self._bar = tqdm(
            total=state.max_steps,
            initial=state.global_step,
            desc="training",
            disable=not state.is_world_process_zero,
        )

    def on_step_end(self, *event: Any, **_: Any) -> None:
        """Move on."""
        _, state, _ = event
        assert self._bar is not None
        self._bar.set_description("training", refresh=False)
        self._bar.update(state.global_step - self._bar.n)

    def on_log(self, *_event: Any, **kwargs: Any) -> None:
        """Show the newest loss and metric."""
        logs = kwargs["logs"]
        if "loss" in logs:
            self._shown["loss"] = f"{logs['loss']:.3f}"
        if f"eval_{self._metric}" in logs:
            self._shown[f"held-out {self._metric}"] = score_of(self._metric).shown(logs[f"eval_{self._metric}"])
        if self._bar is not None:
            self._bar.set_postfix(self._shown)

    def on_prediction_step(self, *event: Any, **kwargs: Any) -> None:
        """Show that the evaluation goes on, while the bar stands still; without a training it has its own."""
        _, state, _ = event
        self._batches += 1
        if self._bar is not None:
            if self._batches % 10 == 1:
                self._bar.set_description(f"evaluating, batch {self._batches}")
            return
        if self._of_evaluation is None:
            batches = len(kwargs["eval_dataloader"])
            self._of_evaluation = tqdm(total=batches, desc="evaluating", disable=not state.is_world_process_zero)
        self._of_evaluation.update()

    def on_evaluate(self, *_event: Any, **_: Any) -> None:
        """Let the next evaluation count from 0."""
        self._batches = 0
        if self._of_evaluation is not None:
            self._of_evaluation.close()
            self._of_evaluation = None

    def close(self) -> None:
        """Leave the bar as it is at the end."""
        if self._bar is not None:
            self._bar.set_description("done")
            self._bar.close()


def steps_per_epoch(arguments: FinetuneArguments, num_rows: int, num_processes: int) -> int:
    """Optimizer steps of a pass over the training rows."""
    return math.ceil(
        num_rows / (arguments.per_device_train_batch_size * num_processes) / arguments.gradient_accumulation_steps
    )


def trainer_arguments(
    arguments: FinetuneArguments, folder: Path, metric: str, num_rows: int, num_processes: int, seed: int
) -> dict[str, Any]:
    """Fields of `TrainingArguments`: ours, and those that make it evaluate each epoch and keep the best.

    `Trainer` puts its checkpoints into `folder`. The best is the one with the best `metric`.
    """
    return dict(
        output_dir=str(folder),
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
        load_best_model_at_end=True,
        metric_for_best_model=metric,
        greater_is_better=not score_of(metric).lower_is_better,
        logging_steps=max(1, min(50, steps_per_epoch(arguments, num_rows, num_processes) // 4)),
        dataloader_pin_memory=torch.cuda.is_available(),
        seed=seed,
        logging_nan_inf_filter=False,  # it would hide what `DurableTrainer` stops at
        report_to="none",
        disable_tqdm=True,  # `OneBar` takes its place
    )
