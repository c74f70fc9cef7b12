"""The flags of `hf-minibert pretrain`, under the headings of its help."""

import importlib.util
import math
import re
from dataclasses import dataclass, field
from typing import Literal

from hf_minibert.data.sources import DocumentUnit
from hf_minibert.errors import UserError
from hf_minibert.hub.arguments import CheckpointSharingArguments, require_license

ObjectiveName = Literal["mlm", "mlm+nsp", "mlm+sop", "hybrid", "clm"]
TRACKERS = ("tensorboard", "trackio", "wandb", "none")
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(text: str) -> float:
    """``90s``, ``5m``, ``1.5h`` or ``1d`` in seconds.

    Raises:
        UserError: it is none of these, or not positive.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if match is None or not 0 < float(match[1]) * UNITS[match[2]] < math.inf:
        raise UserError(f"budget must be a time such as 90s, 5m or 2h, got {text!r}")
    return float(match[1]) * UNITS[match[2]]


@dataclass(kw_only=True)
class DataArguments:
    """Data."""

    corpus: list[str] = field(default_factory=lambda: ["builtin"])
    """`builtin` (documentation of the installed packages), files, globs or folders (.txt .md .jsonl .parquet, also
    .gz .xz .zst), or a data set on the Hub, as NAME, NAME:CONFIG or NAME:CONFIG@REVISION."""
    text_column: str = "text"
    """The column or key that holds the text."""
    corpus_license: list[str] | None = None
    """Licence of the text, by the Hub's identifier, such as cc-by-sa-4.0; several, where its parts differ. The card
    says it. The weights' own licence is a matter of `push`."""
    document: DocumentUnit = "file"
    """What a document of a .txt or .md file is: the file (a long one is divided every 10,000 characters or so), what
    stands between blank lines, or a line."""
    streaming: bool = False
    """Train on a Hub data set while it is read, in parts of some 16 million tokens. At most one part is read ahead. The
    parts stay in the Hugging Face cache (hf_minibert/stores) and take half a byte for each byte of text."""
    tokenizer: str | None = None
    """Folder or Hub name of the tokenizer. Default: the one of this package."""
    max_seq_length: int | None = None
    """Tokens in a row. Default: 128 for MiniBERT, 256 for MiniGPT. Above 512 the model gets as many positions."""


@dataclass(kw_only=True)
class ModelArguments:
    """Model and objective."""

    model: str = "minibert-mini"
    """A family and a size: minibert- or minigpt-, then tiny, mini, small or medium."""
    architecture: Literal["modern", "classic"] = "modern"
    """modern: RMSNorm, rotary positions, gated feed-forward (EuroBERT, Llama); classic: BERT, GPT-2."""
    config_overrides: str | None = None
    """Fields of the config to replace, as in `hidden_size=384,num_hidden_layers=6`."""
    objective: ObjectiveName | None = None
    """What to predict: masked tokens; also whether a segment follows (nsp), or two are in order (sop); the next token;
    or masked tokens and next ones (hybrid), for an encoder and a decoder. Default: mlm for MiniBERT, clm for
    MiniGPT."""
    mlm_probability: float = 0.3
    """Share of tokens to predict in masked language modeling; more than BERT's 15% teaches more in a step (Wettig et
    al. 2022, arXiv:2202.08005, and benchmarks/README.md). Evaluation always takes 15%."""
    masked_share: float = 0.5
    """In hybrid pre-training, the share of masked rows, and of their loss; the rest is causal."""


@dataclass(kw_only=True)
class LengthArguments:
    """Length of the run."""

    budget: str | None = None
    """Time for training and its evaluations, such as 90s, 5m or 2h. The learning rate falls to zero at its end."""
    max_steps: int | None = None
    """End after so many optimizer steps."""
    max_tokens: int | None = None
    """End when the model has read so many tokens, padding not counted."""


@dataclass(kw_only=True)
class OptimizationArguments:
    """Optimisation."""

    optimizer: Literal["muon", "adamw"] = "muon"
    """muon: Muon for the matrices of the layers and AdamW for the rest; adamw: AdamW for everything, as ZeRO needs."""
    learning_rate: float | None = None
    """Peak of the schedule; beside Muon, embeddings and norms learn eight times as fast. Default: 6e-3 for tiny and
    mini, 3e-3 for small and medium, and a third of either for classic; with adamw, 1.5e-3, and 1e-3 for classic."""
    lr_scheduler_type: Literal["linear", "cosine", "warmup_stable_decay"] = "linear"
    """How the rate falls to zero after the warm-up; warmup_stable_decay holds it until the last fifth."""
    warmup_steps: float = 0.05
    """Steps of linear warm-up; below 1, their share of the run, but 40 steps at least; 0, none."""
    weight_decay: float | None = None
    """Decay of matrices; norms, biases and embeddings have none. Default: 0.1 for minibert, 0.8 for minigpt."""
    adam_beta1: float = 0.9
    """How much of AdamW's mean gradient each step keeps."""
    adam_beta2: float = 0.98
    """How much of AdamW's mean squared gradient each step keeps."""
    adam_epsilon: float = 1e-8
    """Added to the denominator of AdamW's step, so that it is never zero."""
    max_grad_norm: float = 1.0
    """Gradients with a larger norm are scaled down to this one."""
    per_device_train_batch_size: int | None = None
    """Rows in a batch on each device. Default: as many as make 2,048 tokens, or on a CUDA GPU, which takes more in
    the same time, 16,384."""
    gradient_accumulation_steps: int = 1
    """Batches that are added up for one optimizer step."""
    seed: int = 42
    """Decides the first weights, the order of the data, the masks and dropout."""


@dataclass(kw_only=True)
class HardwareArguments:
    """Hardware."""

    mixed_precision: Literal["no", "bf16"] | None = None
    """Number format of the large matrix products; weights stay in float32. Default: bf16 if the device computes in it,
    else no."""
    attn_implementation: Literal["eager", "sdpa", "flex_attention", "flash_attention_2"] | None = None
    """How attention is computed. Default: sdpa; but eager on a CPU that computes in bfloat16, where it is faster: for
    rows of up to 256 tokens, or 512 if the model is compiled."""
    compile: bool | None = None
    """Compile the model with torch.compile. The run starts later, and its steps are faster (benchmarks/README.md says
    by how much). On a CPU it needs a C++ compiler. Default: yes on a CPU that has one, for rows of up to 512 tokens
    and a time limit of at least five minutes, which is also the default limit; 256 and fifteen minutes if the CPU does
    not compute in bfloat16. Else no."""
    gradient_checkpointing: bool = False
    """Compute each layer again for its gradient instead of storing its values: slower, but needs less memory."""
    dataloader_num_workers: int | None = None
    """Processes that prepare batches beside each training process. Default: one for a CUDA GPU, else none."""


@dataclass(kw_only=True)
class WatchingArguments:
    """Watching and saving."""

    per_device_eval_batch_size: int = 32
    """Rows in a batch of an evaluation."""
    max_eval_samples: int | None = None
    """Rows of held-out text in an evaluation. Default: as many as make 49,152 tokens, or for clm, which predicts them
    all, 24,576."""
    eval_steps: int | None = None
    """Steps between evaluations. Default: eight evaluations a run, at least 20 steps apart. With a --budget there are
    fewer if they would take more than some 5% of it."""
    save_steps: int | None = None
    """Steps between checkpoints. Default: at each evaluation, each eighth of the run, and after half an hour without
    one."""
    save_total_limit: int = 2
    """Checkpoints to keep. With warmup_stable_decay the last one before the decay is kept, too: a longer run can go on
    from it."""
    logging_steps: int = 10
    """Steps between lines of metrics.jsonl."""
    report_to: list[str] = field(default_factory=lambda: ["tensorboard"])
    """Trackers beside metrics.jsonl: tensorboard, trackio, wandb, or none."""


@dataclass(kw_only=True)
class PretrainArguments(
    CheckpointSharingArguments,
    WatchingArguments,
    HardwareArguments,
    OptimizationArguments,
    LengthArguments,
    ModelArguments,
    DataArguments,
):
    """Pre-train a model on a corpus, and leave a folder that `from_pretrained` opens.

    The run ends with the first of --budget, --max_steps and --max_tokens; without any of them, after five minutes.
    """

    not_flags = ("num_processes", "replay")
    """What `arguments.json` has beside the arguments: how many processes shared a step, and an earlier flag."""

    output_dir: str
    """Folder for the checkpoint, its card and everything that resumes."""
    resume: bool = False
    """Go on from the newest checkpoint in output_dir, with the arguments of that run where no flag says otherwise. A
    run that was stopped before its first checkpoint begins anew."""
    overwrite_output_dir: bool = False
    """Replace an earlier run in output_dir. Files that the run did not write stay."""

    def __post_init__(self) -> None:
        for name in (
            "max_steps",
            "max_tokens",
            "max_seq_length",
            "per_device_train_batch_size",
            "gradient_accumulation_steps",
            "learning_rate",
            "adam_epsilon",
            "max_grad_norm",
            "per_device_eval_batch_size",
            "max_eval_samples",
            "eval_steps",
            "save_steps",
            "save_total_limit",
            "logging_steps",
        ):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{name} must be positive, got {value}")
        for name in ("warmup_steps", "weight_decay", "dataloader_num_workers", "seed"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise UserError(f"{name} must not be negative, got {value}")
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if self.seed >= 2**32:
            raise UserError(f"seed must be below 2**32, got {self.seed}")
        if not 0 < self.mlm_probability < 1:
            raise UserError(f"mlm_probability must be between 0 and 1, got {self.mlm_probability}")
        if not 0 < self.masked_share < 1:
            raise UserError(f"masked_share must be between 0 and 1, got {self.masked_share}")
        if self.max_seq_length is not None and self.max_seq_length < 8:
            raise UserError(f"max_seq_length must be at least 8, got {self.max_seq_length}")
        if self.resume and self.overwrite_output_dir:
            raise UserError("--resume goes on from a run that --overwrite_output_dir would delete; give one of them")
        if self.budget is not None:
            parse_duration(self.budget)
        for identifier in self.corpus_license or ():
            require_license(identifier, "corpus_license")
        for tracker in self.report_to:
            if tracker not in TRACKERS:
                raise UserError(f"report_to {tracker!r} is unknown; have {', '.join(TRACKERS)}")
            if tracker != "none" and importlib.util.find_spec(tracker) is None:
                raise UserError(f"report_to {tracker} needs its package: pip install {tracker}")
