"""transformers' suites on the models of the library that ours are to match: what they pass, ours must pass."""

import unittest

from suites import CommonSuites, GenerativeSuites
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    GPT2Config,
    GPT2ForQuestionAnswering,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
    GPT2LMHeadModel,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForQuestionAnswering,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    LlamaModel,
)


class Bert(CommonSuites, unittest.TestCase):
    all_model_classes = (
        BertModel,
        BertForPreTraining,
        BertForMaskedLM,
        BertForNextSentencePrediction,
        BertForSequenceClassification,
        BertForTokenClassification,
        BertForQuestionAnswering,
        BertForMultipleChoice,
    )
    masked_lm_class = BertForMaskedLM
    pipeline_model_mapping = {
        "feature-extraction": BertModel,
        "fill-mask": BertForMaskedLM,
        "text-classification": BertForSequenceClassification,
        "token-classification": BertForTokenClassification,
        "zero-shot": BertForSequenceClassification,
    }
    make_config = BertConfig


class GPT2(GenerativeSuites, unittest.TestCase):
    all_model_classes = (
        GPT2Model,
        GPT2LMHeadModel,
        GPT2ForSequenceClassification,
        GPT2ForTokenClassification,
        GPT2ForQuestionAnswering,
    )
    causal_lm_class = GPT2LMHeadModel
    pipeline_model_mapping = {
        "feature-extraction": GPT2Model,
        "text-generation": GPT2LMHeadModel,
        "text-classification": GPT2ForSequenceClassification,
        "token-classification": GPT2ForTokenClassification,
        "zero-shot": GPT2ForSequenceClassification,
    }
    make_config = GPT2Config


class Llama(GenerativeSuites, unittest.TestCase):
    all_model_classes = (
        LlamaModel,
        LlamaForCausalLM,
        LlamaForSequenceClassification,
        LlamaForTokenClassification,
        LlamaForQuestionAnswering,
    )
    causal_lm_class = LlamaForCausalLM
    pipeline_model_mapping = {
        "feature-extraction": LlamaModel,
        "text-generation": LlamaForCausalLM,
        "text-classification": LlamaForSequenceClassification,
        "token-classification": LlamaForTokenClassification,
        "zero-shot": LlamaForSequenceClassification,
    }
    make_config = LlamaConfig
