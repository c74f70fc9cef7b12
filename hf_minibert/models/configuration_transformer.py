# Copyright 2026 The hf_minibert authors.
"""The shape of a Transformer, as plain fields shared by MiniBERT and MiniGPT."""

import difflib
import warnings
from dataclasses import fields
from typing import Any

import transformers
from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

NEWEST_TESTED = (5, 24)
"""The newest transformers that this code was tested with. `pyproject.toml` allows one minor version more."""

CHOICES = {
    "norm_type": ("rms_norm", "layer_norm"),
    "norm_placement": ("pre", "post"),
    "position_embedding_type": ("rotary", "absolute"),
    "residual_init": ("normal", "scaled", "zero"),
}
PROBLEM_TYPES = ("regression", "single_label_classification", "multi_label_classification")
# Keywords that PreTrainedConfig accepts although they are no fields. It also accepts names with a leading underscore.
MOST_LAYERS = 1_000
"""More would take minutes to build, also for a file that only says that it has them."""
NOT_FIELDS = (
    *("model_type", "name_or_path", "num_labels", "torch_dtype", "output_attentions", "quantization_config"),
    *("attn_implementation", "experts_implementation", "per_layer_config"),
    "use_cache",  # which Trainer sets on every model
    "transformers_weights",  # where the weights are while a folder's files are exchanged
    *("rope_theta", "rope_scaling"),  # transformers puts them into rope_parameters
)


def warn_if_untested() -> None:
    """Warn once if transformers is newer than any that this code (perhaps an old checkpoint's copy) was tested with."""
    major, minor = transformers.__version__.split(".")[:2]
    if (int(major), int(minor)) > NEWEST_TESTED:
        # One logger for all copies of this file, so that a process that opens several checkpoints is told once.
        transformers.logging.get_logger("transformers.hf_minibert").warning_once(
            f"MiniBERT and MiniGPT were tested with transformers up to {NEWEST_TESTED[0]}.{NEWEST_TESTED[1]}, and this "
            f"is {transformers.__version__}: if results look wrong, install one of those or a newer hf_minibert."
        )


@strict
class TransformerConfig(PreTrainedConfig):
    """What BERT and GPT have in common. Names follow transformers' BertConfig and LlamaConfig.

    The defaults are the `modern` architecture (the block of Llama and EuroBERT): RMSNorm before each sub-layer, rotary
    positions, a gated feed-forward, no biases. `classic` is another set of values of the same fields.
    """

    vocab_size: int = 8192
    hidden_size: int = 256
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    head_dim: int | None = None
    """Width of one attention head; default, hidden_size / num_attention_heads."""
    intermediate_size: int | None = None
    """Width of the feed-forward; default, 4 x hidden_size, or 8/3 of it (to a multiple of 64) when gated."""
    hidden_act: str = "silu"
    max_position_embeddings: int = 512
    norm_type: str = "rms_norm"
    norm_placement: str = "pre"
    norm_eps: float = 1e-5
    position_embedding_type: str = "rotary"
    rope_parameters: dict[str, Any] | None = None
    """Settings of rotary positions, as in LlamaConfig. `rope_theta` (10,000) may also be an argument of its own. Texts
    longer than those trained on need a `rope_type` and its settings (linear, dynamic, yarn, longrope, llama3:
    `transformers.modeling_rope_utils`), with `from_pretrained` all of them: `{"rope_type": "yarn", "factor": 4.0,
    "original_max_position_embeddings": 512, "rope_theta": 10000.0}`.
    """
    qk_norm: bool = False
    """Whether the queries and keys of each head are normalised before they are turned (Henry et al. 2020,
    arXiv:2010.04245; Qwen3)."""
    gated_mlp: bool = True
    use_bias: bool = False
    residual_init: str = "normal"
    """Initial weights of the projection that ends a residual branch: `normal`, like all others; `scaled`, smaller by
    sqrt(2 x layers) (GPT-2, Radford et al. 2019); `zero`, so that a new layer does nothing (Zhang et al. 2019,
    arXiv:1901.09321). The presets use `zero`.
    """
    initializer_range: float = 0.02
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    classifier_dropout: float | int | None = None
    """Dropout before a classifier; default, hidden_dropout_prob."""
    no_answer_threshold: float | int | None = None
    """How far, where questions may have no answer, "no answer" must score above the best answer to be given. None:
    every question has one.
    """
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = 2
    eos_token_id: int | list[int] | None = 3
    auto_map: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        warn_if_untested()
        self.refuse_unknown(kwargs)
        if self.head_dim is None:
            self.head_dim = self.hidden_size // max(1, self.num_attention_heads)
        if self.intermediate_size is None:
            self.intermediate_size = (
                max(64, round(self.hidden_size * 8 / 3 / 64) * 64) if self.gated_mlp else 4 * self.hidden_size
            )
        self.rope_parameters = dict(self.rope_parameters or {})  # transformers adds to it
        super().__post_init__(**kwargs)

    def refuse_unknown(self, kwargs: dict[str, Any]) -> None:
        """Refuse a key that is no field; transformers would keep it silently.

        A saved configuration, told by its `model_type`, only causes a warning: a later version of this code or another
        tool may have written the key, and the checkpoint should still open.

        Raises:
            ValueError: a key of a call is unknown.
        """
        for name in kwargs:
            if name in NOT_FIELDS or name.startswith("_"):
                continue
            close = difflib.get_close_matches(name, [field.name for field in fields(self)], n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            if "model_type" not in kwargs:
                raise ValueError(f"unknown config field {name!r}{hint}")
            warnings.warn(f"the saved config field {name!r} is unknown to {type(self).__name__}{hint}", stacklevel=2)

    def validate_architecture(self) -> None:
        """Check that sizes are positive, heads divide the width, and rotary positions have an even `head_dim`."""
        sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
        for name in (*sizes, "head_dim", "intermediate_size", "norm_eps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.num_hidden_layers > MOST_LAYERS:
            raise ValueError(f"num_hidden_layers must be at most {MOST_LAYERS:,}, got {self.num_hidden_layers:,}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        assert self.head_dim is not None
        if self.position_embedding_type == "rotary" and self.head_dim % 2:
            raise ValueError(
                f"rotary positions turn pairs of channels, but head_dim {self.head_dim} is odd (by default, it is "
                f"hidden_size {self.hidden_size} / num_attention_heads {self.num_attention_heads}); change one of them"
            )
        if self.num_labels == 0:
            raise ValueError("num_labels must be positive")
        if not self.initializer_range >= 0:
            raise ValueError(f"initializer_range must not be negative, got {self.initializer_range}")

    def validate_token_ids(self) -> None:
        """Check that special tokens are in the vocabulary; transformers only warns."""
        ends = self.eos_token_id if isinstance(self.eos_token_id, list) else [self.eos_token_id]
        for name, ids in (("pad", [self.pad_token_id]), ("bos", [self.bos_token_id]), ("eos", ends)):
            for token in ids:
                if token is not None and not 0 <= token < self.vocab_size:
                    raise ValueError(
                        f"{name}_token_id {token} is not in a vocabulary of vocab_size {self.vocab_size}; "
                        "None means that there is none"
                    )

    def validate_rope(self) -> None:
        """Let transformers check the settings of `rope_type`; a missing one is a ValueError."""
        try:
            super().validate_rope()
        except KeyError as error:
            raise ValueError(error.args[0]) from error

    def validate_rotary(self) -> None:
        """Check the values of `rope_parameters`, and that only rotary positions have a `rope_type` of their own."""
        assert self.rope_parameters is not None
        theta, kind = self.rope_parameters.get("rope_theta"), self.rope_parameters["rope_type"]
        if theta is None:
            raise ValueError(f"rope_parameters {self.rope_parameters} lack rope_theta; add it, as it was in training")
        if not theta > 0:
            raise ValueError(f"rope_theta must be positive, got {theta}")
        if "partial_rotary_factor" in self.rope_parameters:
            raise ValueError("partial_rotary_factor: all channels of a head turn here; leave it out")
        if not self.rope_parameters.get("factor", 1.0) >= 1:
            raise ValueError(f"the factor of rope_parameters must be 1 or more, got {self.rope_parameters['factor']}")
        kinds = ("default", *ROPE_INIT_FUNCTIONS)
        if kind not in kinds:
            raise ValueError(f"rope_type must be one of {', '.join(kinds)}; got {kind!r}")
        if kind != "default" and self.position_embedding_type != "rotary":
            raise ValueError(f"rope_type {kind!r} needs position_embedding_type 'rotary'")

    def validate_choices(self) -> None:
        """Check that every named choice exists, and that dropouts are probabilities."""
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}; got {getattr(self, name)!r}")
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"hidden_act {self.hidden_act!r} is unknown; transformers has {', '.join(sorted(ACT2FN))}")
        if self.problem_type not in (None, *PROBLEM_TYPES):
            raise ValueError(f"problem_type must be one of {', '.join(PROBLEM_TYPES)}; got {self.problem_type!r}")
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
            probability = getattr(self, name)
            if probability is not None and not 0 <= probability < 1:
                raise ValueError(f"{name} is a probability in [0, 1), got {probability}")
