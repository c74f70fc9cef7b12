"""transformers' suites on MiniGPT, all heads."""

import unittest

from suites import GenerativeSuites

from hf_minibert import (
    MiniGPTConfig,
    MiniGPTForCausalLM,
    MiniGPTForMultipleChoice,
    MiniGPTForQuestionAnswering,
    MiniGPTForSequenceClassification,
    MiniGPTForTokenClassification,
    MiniGPTModel,
)


class MiniGPTSuites(GenerativeSuites):
    all_model_classes = (
        MiniGPTModel,
        MiniGPTForCausalLM,
        MiniGPTForSequenceClassification,
        MiniGPTForTokenClassification,
        MiniGPTForQuestionAnswering,
        MiniGPTForMultipleChoice,
    )
    causal_lm_class = MiniGPTForCausalLM
    pipeline_model_mapping = {
        "feature-extraction": MiniGPTModel,
        "text-generation": MiniGPTForCausalLM,
        "text-classification": MiniGPTForSequenceClassification,
        "token-classification": MiniGPTForTokenClassification,
        "zero-shot": MiniGPTForSequenceClassification,
    }


class MiniGPTClassic(MiniGPTSuites, unittest.TestCase):
    make_config = MiniGPTConfig.classic


class MiniGPTModern(MiniGPTSuites, unittest.TestCase):
    make_config = MiniGPTConfig.modern
