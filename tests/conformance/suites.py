"""transformers' suites, put together for a model that hf_minibert or transformers itself defines."""

import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from functools import wraps
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from exclusions import EXCLUSIONS
from tests.generation.test_utils import GenerationTesterMixin
from tests.test_configuration_common import ConfigTester
from tests.test_fsdp_mixin import FSDPTesterMixin
from tests.test_modeling_common import ModelTesterMixin
from tests.test_pipeline_mixin import PipelineTesterMixin
from tests.test_tensor_parallel_mixin import TensorParallelTesterMixin
from tests.test_training_mixin import TrainingTesterMixin
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.testing_utils import torch_device
from transformers.trainer_utils import set_seed

from hf_minibert.tokenization import load_tokenizer
from tests import test_pipeline_mixin

TINY = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "max_position_embeddings": 64,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "resid_pdrop", "embd_pdrop", "attn_pdrop")
TOKENIZER = Path(__file__).parents[2] / "tokenizer"
NOT_FIELDS = ("model_type", "transformers_version")  # of a configuration, though `to_dict` has them


class TextModelTester:
    """What the suites ask about a text model: a small configuration, and inputs for it."""

    batch_size = 3
    seq_length = 7
    num_choices = 4
    is_training = True
    vocab_size = TINY["vocab_size"]
    hidden_size = TINY["hidden_size"]
    num_hidden_layers = TINY["num_hidden_layers"]
    num_attention_heads = TINY["num_attention_heads"]

    def __init__(
        self, make_config: Callable[..., PreTrainedConfig], causal_lm_class: type[PreTrainedModel] | None
    ) -> None:
        self.make_config, self.causal_lm_class = make_config, causal_lm_class

    def get_config(self) -> PreTrainedConfig:
        return self.make_config(**TINY)

    def prepare_config_and_inputs_for_common(self) -> tuple[PreTrainedConfig, dict[str, torch.Tensor]]:
        shape = (self.batch_size, self.seq_length)
        mask = torch.ones(shape, dtype=torch.long)
        if self.causal_lm_class is None:
            mask = torch.randint(0, 2, shape)
            mask[:, 0] = 1
        else:
            mask = mask.tril()
        inputs = {"input_ids": torch.randint(5, self.vocab_size, shape), "attention_mask": mask}
        if self.causal_lm_class is None:
            inputs["token_type_ids"] = torch.randint(0, 2, shape)
        return self.get_config(), {name: tensor.to(torch_device) for name, tensor in inputs.items()}


class CommonSuites(
    ModelTesterMixin, PipelineTesterMixin, TrainingTesterMixin, TensorParallelTesterMixin, FSDPTesterMixin
):
    """All suites for one model in one architecture. A subclass is a `unittest.TestCase` as well, and says which.

    A test that `EXCLUSIONS` names must exist, and not pass.
    """

    make_config: Callable[..., PreTrainedConfig]
    masked_lm_class: type[PreTrainedModel] | None = None
    causal_lm_class: type[PreTrainedModel] | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, reason in EXCLUSIONS.get(cls.__name__, {}).items():
            setattr(cls, name, expect_failure(getattr(cls, name), reason))

    def setUp(self) -> None:
        super().setUp()
        set_seed(0)
        self.model_tester = TextModelTester(self.make_config, self.causal_lm_class)

    def _prepare_for_class(
        self, inputs_dict: dict[str, torch.Tensor], model_class: type[PreTrainedModel], return_labels: bool = False
    ) -> dict[str, torch.Tensor]:
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels=return_labels)
        if return_labels and model_class.__name__.endswith("ForPreTraining"):
            inputs["labels"] = torch.zeros_like(inputs["input_ids"])
            inputs["next_sentence_label"] = torch.zeros_like(inputs["input_ids"][:, 0])
        return inputs

    def _get_trainable_model_class(self) -> type[PreTrainedModel] | None:
        return self.masked_lm_class or self.causal_lm_class

    def run_task_tests(self, task: str, dtype: str = "float32") -> None:
        """Run a pipeline on a tiny model that is written for it, where transformers would fetch one."""
        model_class = self.pipeline_model_mapping.get(task)
        summary = {}
        with tempfile.TemporaryDirectory() as folder:
            if model_class is not None:
                tokenizer = load_tokenizer(TOKENIZER)
                config = self.make_config(**TINY | {"vocab_size": len(tokenizer)})
                if model_class.can_generate():
                    tokenizer.model_input_names = ["input_ids", "attention_mask"]
                for part in (model_class(config), tokenizer):
                    part.save_pretrained(Path(folder) / config.model_type / model_class.__name__)
                summary = {model_class.__name__: {"tokenizer_classes": ["TokenizersBackend"], "processor_classes": []}}
            with mock.patch.multiple(
                test_pipeline_mixin, TRANSFORMERS_TINY_MODEL_PATH=folder, tiny_model_summary=summary
            ):
                super().run_task_tests(task, dtype)

    def _get_tiny_config(self) -> tuple[type[PreTrainedConfig], dict[str, Any]]:
        """For FSDP: two ranks with half a batch each would draw other dropout than one process with all of it."""
        config_class, fields = super()._get_tiny_config()
        return config_class, fields | {name: 0.0 for name in DROPOUTS if name in fields}

    def _get_tp_config(self, *args: Any, **kwargs: Any) -> PreTrainedConfig:
        """Two models are compared, one after the other, which would draw other dropout."""
        config = super()._get_tp_config(*args, **kwargs)
        for name in DROPOUTS:
            if name in config.to_dict():
                setattr(config, name, 0.0)
        return config

    def test_config(self) -> None:
        config = self.make_config(**TINY)
        fields = {name: value for name, value in config.to_diff_dict().items() if name not in NOT_FIELDS}
        ConfigTester(self, config_class=type(config), **fields).run_common_tests()


class GenerativeSuites(GenerationTesterMixin, CommonSuites):
    """All suites for a model that generates."""


def expect_failure(test: Callable[..., None], reason: str) -> Callable[..., None]:
    """The test turned over: it is to fail or be skipped, and no longer needs an exclusion if it passes."""

    @wraps(test)
    def fail(self: CommonSuites) -> None:
        with mock.patch.object(self, "subTest", nullcontext):  # so that a failure in a subtest arrives here
            try:
                test(self)
            except Exception:
                pytest.xfail(reason)
        pytest.fail(f"passes, so it needs no exclusion any more ({reason})")

    return fail
