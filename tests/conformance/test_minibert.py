"""transformers' suites on MiniBERT, all heads."""

import unittest

from suites import CommonSuites

from hf_minibert import (
    MiniBertConfig,
    MiniBertForMaskedLM,
    MiniBertForMultipleChoice,
    MiniBertForNextSentencePrediction,
    MiniBertForPreTraining,
    MiniBertForQuestionAnswering,
    MiniBertForSequenceClassification,
    MiniBertForTokenClassification,
    MiniBertModel,
)


class MiniBertSuites(CommonSuites):
    all_model_classes = (
        MiniBertModel,
        MiniBertForPreTraining,
        MiniBertForMaskedLM,
        MiniBertForNextSentencePrediction,
        MiniBertForSequenceClassification,
        MiniBertForTokenClassification,
        MiniBertForQuestionAnswering,
        MiniBertForMultipleChoice,
    )
    masked_lm_class = MiniBertForMaskedLM
    pipeline_model_mapping = {
        "feature-extraction": MiniBertModel,
        "fill-mask": MiniBertForMaskedLM,
        "text-classification": MiniBertForSequenceClassification,
        "token-classification": MiniBertForTokenClassification,
        "zero-shot": MiniBertForSequenceClassification,
    }


class MiniBertClassic(MiniBertSuites, unittest.TestCase):
    make_config = MiniBertConfig.classic


class MiniBertModern(MiniBertSuites, unittest.TestCase):
    make_config = MiniBertConfig.modern
