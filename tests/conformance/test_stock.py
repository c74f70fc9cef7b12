"""transformers' suites on the models of the library that ours are to match: what they pass, ours must pass."""

import unittest

from suites import CommonSuites, GenerativeSuites
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaModel,
)


class Bert(CommonSuites, unittest.TestCase):
    all_model_classes = (
        BertModel,
        BertForPreTraining,
        BertForMaskedLM,
        BertForNextSentencePrediction,
        BertForSequenceClassification,
    )
    masked_lm_class = BertForMaskedLM
    pipeline_model_mapping = {
        "feature-extraction": BertModel,
        "fill-mask": BertForMaskedLM,
        "text-classification": BertForSequenceClassification,
        "zero-shot": BertForSequenceClassification,
    }
    make_config = BertConfig


class GPT2(GenerativeSuites, unittest.TestCase):
    all_model_classes = (GPT2Model, GPT2LMHeadModel, GPT2ForSequenceClassification)
    causal_lm_class = GPT2LMHeadModel
    pipeline_model_mapping = {
        "feature-extraction": GPT2Model,
        "text-generation": GPT2LMHeadModel,
        "text-classification": GPT2ForSequenceClassification,
        "zero-shot": GPT2ForSequenceClassification,
    }
    make_config = GPT2Config


class Llama(GenerativeSuites, unittest.TestCase):
    all_model_classes = (LlamaModel, LlamaForCausalLM, LlamaForSequenceClassification)
    causal_lm_class = LlamaForCausalLM
    pipeline_model_mapping = {
        "feature-extraction": LlamaModel,
        "text-generation": LlamaForCausalLM,
        "text-classification": LlamaForSequenceClassification,
        "zero-shot": LlamaForSequenceClassification,
    }
    make_config = LlamaConfig
