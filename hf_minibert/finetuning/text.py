"""Text classification: one text, one label."""

import copy
from collections import Counter
from collections.abc import Mapping
from typing import Any

from datasets import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedTokenizerFast,
)

from hf_minibert.data.tables import listed, shown
from hf_minibert.errors import UserError
from hf_minibert.evaluation.metrics import ClassificationMetrics
from hf_minibert.finetuning.labelled import label_counts, load_labelled
from hf_minibert.finetuning.task import Task, TaskData, Usage
from hf_minibert.models.configuration_minibert import MiniBertConfig
from hf_minibert.presets import Config


class TextClassification(Task):
    """Which of several labels a text has."""

    auto_class = AutoModelForSequenceClassification
    examples_word = "texts"
    metrics = ("accuracy", "macro_f1", "positive_f1", "matthews_correlation")
    best_metric = "accuracy"
    baseline_names: Mapping[str, str] = {"accuracy": "majority_accuracy"}
    baseline_words = "always the commonest label"

    def read(self) -> TaskData:
        """See `load_labelled`."""
        arguments = self.arguments
        data = load_labelled(
            arguments.dataset,
            test_source=arguments.test_dataset,
            text_column=arguments.text_column,
            label_column=arguments.label_column,
            label_names=arguments.label_names,
        )
        splits = {"train": data.train, "eval": data.eval} | ({} if data.test is None else {"test": data.test})
        return TaskData(name=data.name, hub_id=data.hub_id, splits=splits, labels=data.labels, notes=data.notes)

    def describe(self, data: TaskData, examples: dict[str, Dataset]) -> list[str]:
        """How many texts have which label."""
        return label_counts(data.labels, examples)

    def config_fields(self, config: Config, data: TaskData) -> dict[str, Any]:
        """The labels, and how a text becomes one vector."""
        labels = data.labels
        is_classifier = any(each.endswith("ForSequenceClassification") for each in config.architectures or ())
        if is_classifier and (its_own := list((config.id2label or {}).values())) != labels:
            raise UserError(
                f"{self.arguments.model_name_or_path} tells {listed(its_own)} apart already, but the data has the "
                f"labels {listed(labels)}; fine-tune the pre-trained model that it was made from, or name the labels "
                "alike (--label_names)"
            )
        fields: dict[str, Any] = {
            "id2label": dict(enumerate(labels)),
            "label2id": {label: index for index, label in enumerate(labels)},
            "problem_type": "single_label_classification",
        }
        if isinstance(config, MiniBertConfig):
            usual = config.classifier_pooling if config.norm_placement == "post" else "mean"
            return fields | {"classifier_pooling": self.arguments.classifier_pooling or usual}
        return fields | {"lm_loss_weight": self.arguments.lm_loss_weight}

    def encode(self, examples: Dataset, split: str, tokenizer: PreTrainedTokenizerFast, max_length: int) -> Dataset:
        """Texts as token ids, cut to `max_length`; the collator pads them."""
        tokenizer = copy.deepcopy(tokenizer)  # else `Trainer` would save the cut with its checkpoints
        return examples.map(
            lambda batch: tokenizer(batch["text"], truncation=True, max_length=max_length),
            batched=True,
            remove_columns=["text"],
            desc="tokenizing",
        )

    def collator(self, tokenizer: PreTrainedTokenizerFast) -> DataCollatorWithPadding:
        """Pads to the longest text of the batch."""
        return DataCollatorWithPadding(tokenizer)

    def measure(self, prediction: EvalPrediction, split: str, *, compute_result: bool = True) -> dict[str, float]:
        """Accuracy, F1 and Matthews correlation of the likeliest class."""
        logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
        computed = ClassificationMetrics().compute(
            predictions=logits.argmax(axis=-1), references=prediction.label_ids, num_labels=logits.shape[-1]
        )
        assert computed is not None
        return dict(computed)

    def baselines(self, examples: dict[str, Dataset]) -> dict[str, float]:
        """The accuracy of always giving the commonest label of the evaluation split."""
        labels = examples["eval"]["label"]
        return {"majority_accuracy": max(Counter(labels).values()) / len(labels)}

    def report(self, results: dict[str, Any]) -> list[str]:
        """Accuracy beside its baseline, F1, and accuracy on the test split."""
        metrics, dataset = results["metrics"], results["dataset"]
        lines = [
            f"{dataset['eval_examples']:,} held-out texts, {len(dataset['labels'])} labels:",
            f"  accuracy {metrics['eval_accuracy']:.1%}; {self.baseline_words} {metrics['majority_accuracy']:.1%}",
            f"  F1 {metrics['eval_macro_f1']:.1%} as the mean of all labels' (macro)",
        ]
        if "eval_positive_f1" in metrics:
            lines.append(f"  F1 {metrics['eval_positive_f1']:.1%} of the positive label, {shown(dataset['labels'][1])}")
        if "test_accuracy" in metrics:
            lines.append(f"  test accuracy {metrics['test_accuracy']:.1%} on {dataset['test_examples']:,} texts")
        return lines

    def headline(self, results: dict[str, Any]) -> str:
        """The share of held-out examples on which the model is right."""
        share, count = results["metrics"]["eval_accuracy"], results["dataset"]["eval_examples"]
        return f"It is right on {100 * share:.1f}% of the {count:,} examples that were held out."

    def usage(self) -> Usage:
        """A call of the pipeline."""
        return Usage(
            code="from transformers import pipeline\n\n"
            'classify = pipeline("text-classification", model={model}{options})\n'
            'print(classify("The function returns the list in sorted order."))'
        )

    def limits(self, results: dict[str, Any]) -> list[str]:
        """That it always answers."""
        count = len(results["dataset"]["labels"])
        return [f"It answers with one of its {count} labels whatever it is given."]
