"""transformers' suites on MiniGPT, all heads."""

import unittest

from suites import GenerativeSuites

from hf_minibert import MiniGPTConfig, MiniGPTForCausalLM, MiniGPTForSequenceClassification, MiniGPTModel


class MiniGPTSuites(GenerativeSuites):
    all_model_classes = (MiniGPTModel, MiniGPTForCausalLM, MiniGPTForSequenceClassification)
    causal_lm_class = MiniGPTForCausalLM
    pipeline_model_mapping = {
        "feature-extraction": MiniGPTModel,
        "text-generation": MiniGPTForCausalLM,
        "text-classification": MiniGPTForSequenceClassification,
        "zero-shot": MiniGPTForSequenceClassification,
    }


class MiniGPTClassic(MiniGPTSuites, unittest.TestCase):
    make_config = MiniGPTConfig.classic


class MiniGPTModern(MiniGPTSuites, unittest.TestCase):
    make_config = MiniGPTConfig.modern
