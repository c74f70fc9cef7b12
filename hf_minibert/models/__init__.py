"""The models, registered with transformers' Auto classes.

Every other file here travels to the Hub with a checkpoint. So they lie in one folder and import only one another.
"""

from transformers import AutoConfig
from transformers.models.auto import modeling_auto

from hf_minibert.models import (
    configuration_encoder_decoder,
    configuration_minibert,
    configuration_minigpt,
    modeling_encoder_decoder,
    modeling_minibert,
    modeling_minigpt,
)
from hf_minibert.models.answering import answer, answers
from hf_minibert.models.configuration_encoder_decoder import MiniEncoderDecoderConfig
from hf_minibert.models.configuration_minibert import MiniBertConfig
from hf_minibert.models.configuration_minigpt import MiniGPTConfig
from hf_minibert.models.modeling_encoder_decoder import MiniEncoderDecoderModel
from hf_minibert.models.modeling_minibert import (
    MiniBertForMaskedLM,
    MiniBertForMultipleChoice,
    MiniBertForNextSentencePrediction,
    MiniBertForPreTraining,
    MiniBertForQuestionAnswering,
    MiniBertForSequenceClassification,
    MiniBertForTokenClassification,
    MiniBertModel,
)
from hf_minibert.models.modeling_minigpt import (
    MiniGPTForCausalLM,
    MiniGPTForMultipleChoice,
    MiniGPTForQuestionAnswering,
    MiniGPTForSequenceClassification,
    MiniGPTForTokenClassification,
    MiniGPTModel,
)

__all__ = [
    "MiniBertConfig",
    "MiniBertForMaskedLM",
    "MiniBertForMultipleChoice",
    "MiniBertForNextSentencePrediction",
    "MiniBertForPreTraining",
    "MiniBertForQuestionAnswering",
    "MiniBertForSequenceClassification",
    "MiniBertForTokenClassification",
    "MiniBertModel",
    "MiniEncoderDecoderConfig",
    "MiniEncoderDecoderModel",
    "MiniGPTConfig",
    "MiniGPTForCausalLM",
    "MiniGPTForMultipleChoice",
    "MiniGPTForQuestionAnswering",
    "MiniGPTForSequenceClassification",
    "MiniGPTForTokenClassification",
    "MiniGPTModel",
    "answer",
    "answers",
]

for _config, _heads, _modeling in (
    (MiniBertConfig, configuration_minibert.HEADS, modeling_minibert),
    (MiniGPTConfig, configuration_minigpt.HEADS, modeling_minigpt),
    (MiniEncoderDecoderConfig, configuration_encoder_decoder.HEADS, modeling_encoder_decoder),
):
    AutoConfig.register(_config.model_type, _config)
    _config.register_for_auto_class()
    for _auto_name, _class_name in _heads.items():
        _class = vars(_modeling)[_class_name]
        vars(modeling_auto)[_auto_name].register(_config, _class)
        _class.register_for_auto_class(_auto_name)
