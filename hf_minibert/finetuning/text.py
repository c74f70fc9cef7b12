"""Text classification: a text, or a pair of texts, and its label, its labels, or a number."""

import copy
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedTokenizerFast,
)

from hf_minibert.data.tables import listed, shown
from hf_minibert.errors import UserError
from hf_minibert.evaluation.metrics import (
    ClassificationMetrics,
    MultiLabelMetrics,
    RegressionMetrics,
    classification_draws,
    confidence_intervals,
    multi_label_draws,
    regression_draws,
)
from hf_minibert.finetuning.arguments import ProblemType
from hf_minibert.finetuning.durable import DurableTrainer
from hf_minibert.finetuning.labelled import each_id, label_counts, load_labelled, score_summary
from hf_minibert.finetuning.pictures import draw_confusion, draw_scatter, draw_shares
from hf_minibert.finetuning.start import Start, early_ends, end_between, pooling_fields
from hf_minibert.finetuning.task import Task, TaskData, Usage
from hf_minibert.models.configuration_minibert import MiniBertConfig
from hf_minibert.runs.scores import score_of

KINDS: dict[ProblemType, dict[str, Any]] = {
    "single_label_classification": {
        "metric_class": ClassificationMetrics,
        "metrics": ("accuracy", "macro_f1", "positive_f1", "matthews_correlation"),
        "best_metric": "accuracy",
        "baseline_names": {"accuracy": "majority_accuracy"},
        "baseline_words": "always the commonest label",
    },
    "multi_label_classification": {
        "metric_class": MultiLabelMetrics,
        "metrics": ("micro_f1", "macro_f1", "exact_match", "hamming_loss"),
        "best_metric": "micro_f1",
        "baseline_names": {"micro_f1": "constant_micro_f1"},
        "baseline_words": "always the same labels",
    },
    "regression": {
        "metric_class": RegressionMetrics,
        "metrics": ("pearson", "spearman", "mse"),
        "best_metric": "pearson",
        "baseline_names": {"mse": "mean_mse"},
        "baseline_words": "always the mean",
    },
}
"""What differs between the kinds of label; the attributes are those of `Task`."""


class WeightedTrainer(DurableTrainer):
    """A `Trainer` in whose loss the labels have weights."""

    def __init__(self, *, class_weights: Tensor, **arguments: Any) -> None:
        """`class_weights`: (labels,); or (2, labels) where a text may have several: if it has it not, and if it has."""
        super().__init__(**arguments)
        self._class_weights = class_weights.to(self.args.device)

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """As `Trainer`; then what the weights change is added, so that MiniGPT's other loss stays as it is."""
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        labels, logits = inputs["labels"], outputs["logits"].float()
        if self._class_weights.ndim == 2:
            losses = F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none")
            weights = torch.where(labels > 0, self._class_weights[1], self._class_weights[0])
        else:
            losses = F.cross_entropy(logits, labels, reduction="none")
            weights = self._class_weights[labels]
        change = ((weights - 1) * losses).sum()
        if num_items_in_batch is None:
            loss = loss + change / labels.numel()
        else:  # a share of all processes' items, whose gradients `Trainer` has averaged
            processes = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
            loss = loss + change / num_items_in_batch * processes
        return (loss, outputs) if return_outputs else loss


class TextClassification(Task):
    """Which of several labels a text has, or which labels, or which number."""

    auto_class = AutoModelForSequenceClassification
    examples_word = "texts"
    problem_type: ProblemType

    def read(self) -> TaskData:
        """See `load_labelled`."""
        arguments = self.arguments
        data = load_labelled(
            arguments.dataset,
            eval_source=arguments.eval_dataset,
            test_source=arguments.test_dataset,
            text_column=arguments.text_column,
            text_pair_column=arguments.text_pair_column,
            label_column=arguments.label_column,
            label_names=arguments.label_names,
            label_separator=arguments.label_separator,
            problem_type=arguments.problem_type,
        )
        self.problem_type = data.problem_type
        for name, value in KINDS[data.problem_type].items():
            setattr(self, name, value)
        if data.problem_type == "single_label_classification" and len(data.labels) != 2:
            self.metrics = tuple(name for name in self.metrics if name != "positive_f1")
        if arguments.class_weights is not None and not data.labels:
            raise UserError("--class_weights is for labels, but these are numbers to predict (regression)")
        self._is_pair = "text_pair" in data.train.column_names
        self._labels = data.labels
        self._kept: dict[str, tuple[NDArray[Any], NDArray[Any]]] = {}
        splits = {"train": data.train, "eval": data.eval} | ({} if data.test is None else {"test": data.test})
        self._rows: dict[str, list[int]] = {}
        self._end: str | None = None
        return TaskData(name=data.name, hub_id=data.hub_id, splits=splits, labels=data.labels, notes=data.notes)

    def describe(self, data: TaskData, examples: dict[str, Dataset]) -> list[str]:
        """How many texts have which label, or what the numbers are like."""
        return label_counts(data.labels, examples) if data.labels else score_summary(examples)

    def config_fields(self, start: Start, data: TaskData) -> dict[str, Any]:
        """The labels, and how a text becomes one vector."""
        arguments, labels, config = self.arguments, data.labels, start.config
        is_classifier = any(each.endswith("ForSequenceClassification") for each in config.architectures or ())
        names = list((config.id2label or {}).values())
        kind = config.problem_type or (self.problem_type if (len(names) == 1) is (not labels) else None)
        is_same = kind == self.problem_type and (names == labels if labels else len(names) == 1)
        if is_classifier and not is_same:
            its_own = listed(names) if config.problem_type != "regression" else "one number"
            raise UserError(
                f"{arguments.model_name_or_path} tells {its_own} apart already, but the data has "
                f"{f'the labels {listed(labels)}' if labels else 'numbers to predict'}; fine-tune the pre-trained "
                "model that it was made from, or name the labels alike (--label_names)"
            )
        fields: dict[str, Any] = {"problem_type": self.problem_type}
        if labels:
            fields["id2label"] = dict(enumerate(labels))
            fields["label2id"] = {label: index for index, label in enumerate(labels)}
        else:
            fields |= {"num_labels": 1}
        if not isinstance(config, MiniBertConfig):
            fields |= {"lm_loss_weight": arguments.lm_loss_weight}
        elif not arguments.resume and arguments.lm_loss_weight not in (0, type(arguments).lm_loss_weight):
            raise UserError("--lm_loss_weight is for MiniGPT, which goes on learning to write; leave it out")
        if self._is_pair:
            start.keep_pairs_apart()
        fields |= pooling_fields(arguments, start, is_pair=self._is_pair)
        self._end = end_between(fields, start)
        return fields

    def encode(self, examples: Dataset, split: str, tokenizer: PreTrainedTokenizerFast, max_length: int) -> Dataset:
        """Texts as token ids, cut to `max_length`; the collator pads them. Of a pair, the longer text is cut first."""
        tokenizer = copy.deepcopy(tokenizer)  # else `Trainer` would save the cut with its checkpoints
        num_labels, several = len(self._labels), self.problem_type == "multi_label_classification"

        def encoded(batch: dict[str, list[Any]]) -> dict[str, Any]:
            texts = [batch[name] for name in (["text", "text_pair"] if self._is_pair else ["text"])]
            found = dict(tokenizer(*texts, verbose=False))
            whole = [len(row) for row in found["input_ids"]]
            for place in (place for place, length in enumerate(whole) if length > max_length):
                cut = tokenizer(*(some[place] for some in texts), truncation=True, max_length=max_length)
                for name, values in found.items():
                    values[place] = cut[name]
            labels = batch["label"]
            if several:
                labels = [[float(one in label) for one in range(num_labels)] for label in labels]
            return found | {"labels": labels, "whole_length": whole}

        rows = examples.map(encoded, batched=True, remove_columns=examples.column_names, desc="tokenizing")
        if self._is_pair:
            self.notes += early_ends(examples["text"], split, self._end)
        cut = sum(length > max_length for length in rows["whole_length"])
        if cut:
            self.notes.append(
                f"{split}: {cut:,} of {len(rows):,} texts are longer than {max_length:,} tokens, and cut there "
                f"(--max_seq_length; the longest has {max(rows['whole_length']):,})"
            )
        if split == "train":
            counts = Counter(each_id(examples)) if self._labels else Counter()
            self._counts = torch.tensor([counts[class_id] for class_id in range(num_labels)])
        else:
            if split == "eval" and self.problem_type == "regression" and len({*examples["label"]}) == 1:
                self._choose_without_correlation()
            self._rows[split] = list(examples["row"])
        return rows.remove_columns("whole_length")

    def _choose_without_correlation(self) -> None:
        """Let the squared error choose the best epoch: with numbers that are all alike, every correlation is 0."""
        words = "the numbers of the evaluation split are all alike, so that correlations with them are 0"
        if self.arguments.best_metric in ("pearson", "spearman"):
            raise UserError(f"best_metric {self.arguments.best_metric}: {words}; give other texts, or take mse")
        if self.arguments.best_metric is None:
            self.best_metric = "mse"
            self.baseline_names = {}  # always the mean would be right here
            self.notes.append(f"{words}: the mean squared error chooses the best epoch")

    def collator(self, tokenizer: PreTrainedTokenizerFast) -> DataCollatorWithPadding:
        """Pads to the longest text of the batch."""
        return DataCollatorWithPadding(tokenizer)

    def build_trainer(self, **arguments: Any) -> DurableTrainer:
        """With weights of the labels, if the arguments ask for them."""
        if self.arguments.class_weights is None:
            return super().build_trainer(**arguments)
        counts, texts = self._counts, len(arguments["train_dataset"])
        if self.problem_type == "multi_label_classification":  # each is a question with two answers
            counts = torch.stack([texts - counts, counts])
        balanced = texts / (len(counts) * counts.clamp(min=1))  # as scikit-learn
        weights = torch.where(counts > 0, balanced, 1.0)  # of what training never meets, the loss alone does
        return WeightedTrainer(class_weights=weights, **arguments)

    def reduce_logits(self, logits: Any, labels: Tensor) -> Tensor:
        """The likeliest class, the chosen labels or the number; all logits where predictions are to be written."""
        first: Tensor = logits[0] if isinstance(logits, tuple) else logits
        if self.problem_type == "regression":
            return first.float().squeeze(-1)
        if self.arguments.write_predictions:
            return first.float()
        if self.problem_type == "multi_label_classification":
            return (first > 0).to(torch.int8)
        return first.argmax(dim=-1)

    def measure(self, prediction: EvalPrediction, split: str, *, compute_result: bool = True) -> dict[str, float]:
        """The metrics of the kind of label."""
        outputs, references = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
        self._kept[split] = (outputs, references)
        said, true = self._answers(split)
        options = {"num_labels": len(self._labels)} if self.problem_type == "single_label_classification" else {}
        metric = KINDS[self.problem_type]["metric_class"](keep_in_memory=True)
        computed = metric.compute(predictions=said, references=true, **options)
        return {name: value for name, value in computed.items() if name in self.metrics}

    def _answers(self, split: str) -> tuple[NDArray[Any], NDArray[Any]]:
        """What the model says of a split's texts, and what is right: class ids, 0 and 1, or numbers."""
        outputs, references = self._kept[split]
        if self.problem_type == "regression":
            return outputs, references
        if self.problem_type == "multi_label_classification":
            return (outputs > 0).astype(int), references.astype(int)
        return (outputs.argmax(axis=-1) if outputs.ndim == 2 else outputs), references

    def baselines(self, examples: dict[str, Dataset]) -> dict[str, float]:
        """What the best constant answer would reach on the evaluation split."""
        labels = examples["eval"]["label"][:]
        if self.problem_type == "regression":
            return {"mean_mse": float(np.var(labels))}
        counts = Counter(each_id(examples["eval"]))
        if self.problem_type == "single_label_classification":
            return {"majority_accuracy": max(counts.values()) / len(labels)}
        right = np.cumsum([count for _, count in counts.most_common()])  # of the commonest labels, said of every text
        said = len(labels) * np.arange(1, len(right) + 1)
        return {"constant_micro_f1": float(max(2 * right / (said + counts.total()), default=0.0))}

    def intervals(self, split: str) -> dict[str, tuple[float, float]]:
        """From draws of the split's texts."""
        said, true = self._answers(split)
        seed = self.arguments.seed
        if self.problem_type == "single_label_classification":
            kinds, counts = np.unique(np.stack([true, said]), axis=1, return_counts=True)
            found = confidence_intervals(
                lambda draws: classification_draws(kinds[0], kinds[1], draws), counts, seed=seed
            )
        else:
            of = multi_label_draws if self.problem_type == "multi_label_classification" else regression_draws
            found = confidence_intervals(lambda draws: of(true, said, draws), np.ones(len(true), int), seed=seed)
        return {name: found[name] for name in self.metrics if name in found}

    def predictions(self, split: str) -> Iterator[dict[str, Any]]:
        """The row of the table, what is written there, what the model says, and how sure it is of each label."""
        outputs, _ = self._kept[split]
        said, true = self._answers(split)
        names, several = self._labels, self.problem_type == "multi_label_classification"

        def named(answer: Any) -> Any:
            if not names:
                return float(answer)
            return [name for name, has in zip(names, answer, strict=True) if has] if several else names[int(answer)]

        for row, output, mine, right in zip(self._rows[split], outputs, said, true, strict=True):
            line = {"row": row, "label": named(right), "prediction": named(mine)}
            if names:
                logits = torch.from_numpy(output)
                scores = logits.sigmoid() if several else logits.softmax(-1)
                line["scores"] = dict(zip(names, (round(float(score), 6) for score in scores), strict=True))
            yield line

    def pictures(self, folder: Path, data: TaskData) -> dict[str, str]:
        """Which labels are taken for which, how well each is found, or what is said beside what is right."""
        split = "test" if "test" in self._kept else "eval"
        said, true = self._answers(split)
        words = f"the {'test' if split == 'test' else 'held-out'} texts"
        path = folder / "predictions.png"
        if self.problem_type == "regression":
            draw_scatter(path, true, said)
            return {path.name: f"Predicted and true numbers of {words}"}
        if self.problem_type == "multi_label_classification":
            draw_shares(path, true, said, self._labels)
            return {path.name: f"Precision and recall of the labels on {words}"}
        draw_confusion(path, true, said, self._labels)
        return {path.name: f"Which labels of {words} are taken for which"}

    def report(self, results: dict[str, Any]) -> list[str]:
        """The metrics on the evaluation split beside the baseline, and the best metric on the test split."""
        metrics, dataset = results["metrics"], results["dataset"]
        kind = f"{len(self._labels)} labels" if self._labels else "numbers to predict"
        lines = [f"{dataset['eval_examples']:,} held-out texts, {kind}:"]
        for name in self.metrics:
            label, value = score_of(name).label, score_of(name).shown(metrics[f"eval_{name}"])
            if name == "positive_f1":
                lines.append(f"  F1 {value} of the positive label, {shown(dataset['labels'][1])}")
            elif name == "macro_f1":
                lines.append(f"  F1 {value} as the mean over all labels (macro)")
            elif name in self.baseline_names:
                baseline = score_of(name).shown(metrics[self.baseline_names[name]])
                lines.append(f"  {label} {value}; {self.baseline_words} {baseline}")
            else:
                lines.append(f"  {label} {value}")
        return lines

    def headline(self, results: dict[str, Any]) -> str:
        """How right the model is on the held-out texts."""
        metrics, count = results["metrics"], results["dataset"]["eval_examples"]
        if self.problem_type == "single_label_classification":
            share = 100 * metrics["eval_accuracy"]
            return f"It is right on {share:.1f}% of the {count:,} examples that were held out."
        name = self.best_metric
        score = score_of(name)
        return f"On the {count:,} examples that were held out: {score.label} {score.shown(metrics[f'eval_{name}'])}."

    def usage(self) -> Usage:
        """A call of the pipeline."""
        texts = '"The function returns the list in sorted order."'
        if self._is_pair:
            texts = '{"text": "It is raining.", "text_pair": "The streets are wet."}'
        all_labels = ", top_k=None" if self.problem_type == "multi_label_classification" else ""
        options = (
            f"{texts}{', function_to_apply=' + chr(34) + 'none' + chr(34) if not self._labels else ''}{all_labels}"
        )
        return Usage(
            code="from transformers import pipeline\n\n"
            'classify = pipeline("text-classification", model={model}{options})\n'
            f"print(classify({options}))"
        )

    def limits(self, results: dict[str, Any]) -> list[str]:
        """That it always answers."""
        if not self._labels:
            return ["It gives a number whatever it is given, also beyond the range that it learned."]
        if self.problem_type == "multi_label_classification":
            return [f"It knows {len(self._labels)} labels, and thinks each likely or not whatever it is given."]
        return [f"It answers with one of its {len(self._labels)} labels whatever it is given."]
