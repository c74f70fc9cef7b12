"""What a fine-tuning can be told: the flags of `hf-minibert finetune`."""

import math
from dataclasses import dataclass
from typing import Literal

from hf_minibert.errors import UserError
from hf_minibert.hub.arguments import SharingArguments, require_license

TaskName = Literal[
    "text-classification",
    "token-classification",
    "question-answering",
    "multiple-choice",
    "causal-lm",
    "translation",
]

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]

LEARNING_RATE = 3e-4
"""Default of the rate of pre-trained weights."""
NEW_LEARNING_RATE = 1e-3
"""Default of the rate where all weights are new."""
MUON_LEARNING_RATES = {"tiny": 6e-3, "mini": 6e-3, "small": 3e-3, "medium": 3e-3}
"""Default of Muon's rate by size, with which a translation learns whose weights are all new: those of pre-training in
`presets.py`, which would load torch."""

_LORA = ("lora_rank", "merge_lora")
TASK_FLAGS: dict[TaskName, tuple[str, ...]] = {
    "text-classification": (
        *("text_column", "text_pair_column", "label_column", "label_names", "label_separator", "problem_type"),
        *("class_weights", "classifier_pooling", "lm_loss_weight", *_LORA),
    ),
    "token-classification": ("text_column", "label_column", "label_names", *_LORA),
    "question-answering": ("question_column", "context_column", "answers_column", "doc_stride", *_LORA),
    "multiple-choice": (
        *("question_column", "context_column", "choices_columns", "label_column", "classifier_pooling", *_LORA),
    ),
    "causal-lm": ("text_column", "one_document_per_row", *_LORA),
    "translation": (
        *("source_lang", "target_lang", "decoder_name_or_path", "num_beams", "length_penalty"),
        "label_smoothing_factor",
    ),
}
"""What a task takes of the flags that not all tasks take; the others of them are errors."""


@dataclass(kw_only=True)
class DataArguments:
    """Data."""

    dataset: str = "builtin"
    """`builtin` (which package a documentation text is from), a file (.jsonl .json .csv .tsv .parquet, also
    compressed), a folder with one train, dev and test file each (train.csv, dev.csv, ...), or a data set on the Hub, as
    NAME or NAME:CONFIG. For token-classification also CoNLL files, for causal-lm text files, and for translation pairs
    of them (train.en and train.de, ...)."""
    eval_dataset: str | None = None
    """A file to evaluate on after every epoch, in place of a part of the training set or a split of the data set; for
    translation also the beginning of two text files, as in data/dev."""
    test_dataset: str | None = None
    """A file to measure once, at the end, likewise."""
    dataset_license: str | None = None
    """The licence of the data by the Hub's identifier, such as cc-by-4.0, for the model card."""
    text_column: str | None = None
    """The column of the text. Default: text, or another usual name that is unmistakable. For text-classification also a
    sentence with columns in braces, as in `--text_column "Question: {question}"`."""
    text_pair_column: str | None = None
    """The column of a second text that belongs to the first. Default: none, or an unmistakable one, such as sentence2
    beside sentence1."""
    label_column: str | None = None
    """The column of the label, which is what is written there, as text. Default: label, or another usual name that is
    unmistakable."""
    label_names: list[str] | None = None
    """The labels in the order of their class ids, or what the class ids 0, 1, ... in the column mean, as in
    `--label_names negative positive`."""
    label_separator: str | None = None
    """What stands between the labels where a text has several, as in `--label_separator ";"`; lists need none."""
    problem_type: ProblemType | None = None
    """One label a text, several labels a text, or a number to predict. Default: several where labels are lists, a
    number where there are many that are not whole, else one."""
    max_seq_length: int | None = None
    """Longer examples are cut, in tokens. Default: as many as the model has positions. More only in the modern
    architecture, whose positions are computed and not learnt."""
    max_train_samples: int | None = None
    """Train on so many texts only, chosen by the seed."""
    max_eval_samples: int | None = None
    """Evaluate and test on so many texts only, chosen by the seed."""


@dataclass(kw_only=True)
class QuestionArguments:
    """Questions."""

    question_column: str | None = None
    """The column of the question. Default: question, or another usual name that is unmistakable."""
    context_column: str | None = None
    """The column of the text that answers it, or, before choices, that it is about. Default: likewise; before choices,
    none where --question_column is given or there is none with a usual name."""
    answers_column: str | None = None
    """The column of the answers, as SQuAD writes them: their texts, and the place where each begins. Default:
    answers, or answer."""
    choices_columns: list[str] | None = None
    """The columns of the choices, one each; or the only one, which holds lists. Default: unmistakable ones, such as
    choices, or ending0, ending1, ..."""
    doc_stride: int | None = None
    """Tokens that two neighbouring windows of a long text share, at most a quarter of max_seq_length. Default: 128, or
    that quarter, if it is less."""


@dataclass(kw_only=True)
class ModelArguments:
    """Model."""

    task: TaskName = "text-classification"
    """What to learn."""
    model_name_or_path: str | None = None
    """Folder of a pre-trained MiniBERT or MiniGPT, or of a stock BERT, EuroBERT, GPT-2 or Llama, which is converted; or
    its name on the Hub; or `minibert-tiny` or `minigpt-tiny`, which travel with the package."""
    model: str | None = None
    """In place of a pre-trained model: a named one with new weights, such as minibert-mini."""
    tokenizer_name_or_path: str | None = None
    """Folder or Hub name of a tokenizer. Default: the pre-trained model's own; with --model, the package's."""
    hidden_dropout_prob: float = 0.1
    """Dropout in the layers and before the classifier."""
    classifier_pooling: Literal["cls", "mean", "max", "pair", "siamese"] | None = None
    """How MiniBERT makes one vector of a text. MiniGPT takes its last token. Default: mean, and siamese for two texts
    or for choices: each is read by itself, and their means are compared, which stock classes cannot do (mean can be
    exported); pair compares them where they are read together. In the classic architecture what the model has, cls
    unless it says otherwise, as in BERT, to which others cannot be exported."""
    class_weights: Literal["balanced"] | None = None
    """Weights of the labels in the loss: `balanced` makes rare labels count as much as common ones; where a text may
    have several, the texts that have a label as much as those that have not."""
    lora_rank: int | None = None
    """Train low-rank adapters (LoRA) of this rank and the head in place of all weights; needs the extra `peft`."""
    merge_lora: bool = False
    """Add the adapters to the weights in the end, so that the model opens without PEFT."""
    lm_loss_weight: float = 0.5
    """Weight of MiniGPT's language-model loss beside the classifier's, in every loss that is shown, too; 0 is better
    below about 10,000 examples."""


@dataclass(kw_only=True)
class CausalArguments:
    """Causal language modelling."""

    one_document_per_row: bool = False
    """Train on rows of one document each, padded, in place of rows that are full of documents, which do not see each
    other."""


@dataclass(kw_only=True)
class TranslationArguments:
    """Translation."""

    source_lang: str | None = None
    """What is translated: the end of the text file's name, as in train.en, or the column of a table. Default: the one
    that is not --target_lang, where there are two."""
    target_lang: str | None = None
    """What it is translated into, likewise."""
    decoder_name_or_path: str | None = None
    """Folder of a pre-trained MiniGPT that writes, or its name on the Hub. Default: a new one, of the encoder's shape,
    with its tokenizer and its embeddings."""
    num_beams: int = 5
    """How many beginnings beam search keeps at the end; after each epoch it is one, which is faster."""
    length_penalty: float = 1.0
    """Above 0, beam search prefers longer translations; below 0, shorter ones."""
    label_smoothing_factor: float = 0.1
    """The share of the probability that the other words get in training, and in every loss that is shown (Szegedy et
    al. 2016, arXiv:1512.00567)."""


@dataclass(kw_only=True)
class TrainingArguments:
    """Training."""

    num_train_epochs: float | None = None
    """Passes over the training text. Default: 3; of fewer examples more, as many as give 2,500 steps (4,000 in
    token-classification, 8,000 in translation), but at most 20 (few examples need many passes: Mosbach et al. 2021,
    arXiv:2006.04884)."""
    per_device_train_batch_size: int = 32
    """Texts in a batch."""
    gradient_accumulation_steps: int = 1
    """Batches that are added up for one optimizer step."""
    learning_rate: float | None = None
    """Peak of the schedule, which warms up and falls linearly. Matrices larger than usual, as Muon makes them, learn
    faster in proportion, and beside pre-trained weights new ones ten times as fast. Default: 3e-4; 1e-3 where all
    weights are new, and in translation, where Muon trains them, 6e-3, or 3e-3 for small and medium."""
    warmup_steps: float = 0.1
    """Steps of linear warm-up; below 1, their share of the run."""
    weight_decay: float = 0.01
    """AdamW's decay."""
    best_metric: str | None = None
    """The metric on the evaluation split that chooses the best epoch, or `loss`. Default: the task's usual one, such
    as accuracy, F1 or BLEU; for causal-lm, loss."""
    early_stopping_patience: int = 3
    """End after so many epochs without a better one."""
    seed: int = 42
    """Of the new weights, the order of the data and dropout."""
    seeds: int = 1
    """Train with so many seeds, from `seed` on, and keep the model that is best on the evaluation split; mean and
    spread of all are reported."""


@dataclass(kw_only=True)
class HardwareArguments:
    """Hardware."""

    per_device_eval_batch_size: int = 64
    """Texts in a batch of an evaluation."""
    mixed_precision: Literal["no", "bf16"] | None = None
    """Number format of the large products; weights stay in float32. Default: bf16 where the device computes in it."""


@dataclass(kw_only=True)
class FinetuneArguments(
    SharingArguments,
    HardwareArguments,
    TrainingArguments,
    TranslationArguments,
    CausalArguments,
    ModelArguments,
    QuestionArguments,
    DataArguments,
):
    """Fine-tune a pre-trained model on a task, and leave a folder that a pipeline opens.

    SIGTERM, SIGUSR1 and Ctrl-C end it after the step at hand, with a checkpoint.
    """

    output_dir: str
    """Folder for the classifier, its card and its metrics; what an earlier fine-tuning left there stays until the new
    result is whole."""
    write_predictions: bool = False
    """Write predictions_eval.jsonl and predictions_test.jsonl: what is right and what the model says, a line each."""
    resume: bool = False
    """Go on with the unfinished fine-tuning in output_dir, from its newest checkpoint and with its arguments; the same
    data and as many processes give what it would have given."""
    overwrite_output_dir: bool = False
    """Replace an earlier fine-tuning in output_dir, and forget an unfinished one."""

    def __post_init__(self) -> None:
        if self.learning_rate is None:
            self.learning_rate = LEARNING_RATE
            if self.model is not None and self.decoder_name_or_path is None:
                rates = MUON_LEARNING_RATES if self.task == "translation" else {}
                self.learning_rate = rates.get(self.model.rpartition("-")[2], NEW_LEARNING_RATE)
        if self.dataset_license is not None:
            require_license(self.dataset_license, "dataset_license")
        for name, value in vars(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"{name} must be a finite number, got {value}")
        for name in (
            "num_train_epochs",
            "per_device_train_batch_size",
            "per_device_eval_batch_size",
            "gradient_accumulation_steps",
            "learning_rate",
            "num_beams",
            "max_train_samples",
            "max_eval_samples",
            "early_stopping_patience",
            "lora_rank",
            "seeds",
        ):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{name} must be positive, got {value}")
        for name in ("warmup_steps", "weight_decay", "lm_loss_weight", "seed"):
            if not getattr(self, name) >= 0:
                raise UserError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.seed + self.seeds > 2**32:
            raise UserError(f"seed must be below 2**32, got {self.seed + self.seeds - 1}")
        for name in ("hidden_dropout_prob", "label_smoothing_factor"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if self.merge_lora and self.lora_rank is None:
            raise UserError("--merge_lora merges adapters, and there are none without --lora_rank")
        if (self.model_name_or_path is None) == (self.model is None):
            raise UserError(
                "give either --model_name_or_path, a pre-trained model, or --model, a named one with new weights"
                + (f" (not both: {self.model_name_or_path}, {self.model})" if self.model else "")
            )
        for name in {name: None for names in TASK_FLAGS.values() for name in names}:
            tasks = [task for task, names in TASK_FLAGS.items() if name in names]
            if self.task not in tasks and getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise UserError(f"--{name} is a flag of {', '.join(tasks)}; the task {self.task} has no use for it")
        if self.max_seq_length is not None and self.max_seq_length < 8:
            raise UserError(f"max_seq_length must be at least 8, got {self.max_seq_length}")
        if self.resume and self.overwrite_output_dir:
            raise UserError("--resume goes on with what --overwrite_output_dir would forget; give one of them")
