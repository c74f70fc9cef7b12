"""How weights start."""

import pytest
import torch
from examples import MODELS
from torch import nn

import hf_minibert
from hf_minibert.models.modeling_transformer import ResidualProjection

WIDE = {"hidden_size": 128, "intermediate_size": 256, "initializer_range": 0.02, "num_hidden_layers": 3}


def check(model, name, module):
    config = model.config
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        assert (module.weight == 1).all(), name
        assert isinstance(module, nn.RMSNorm) or (module.bias == 0).all(), name
        return
    weight = module.weight
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        assert (weight[module.padding_idx] == 0).all(), name
        weight = weight[module.padding_idx + 1 :]
    if isinstance(module, nn.Linear) and module.bias is not None:
        assert (module.bias == 0).all(), name
    expected = config.initializer_range
    if isinstance(module, ResidualProjection):
        expected *= {"normal": 1, "scaled": (2 * config.num_hidden_layers) ** -0.5, "zero": 0}[config.residual_init]
    # Four standard errors of a standard deviation of n numbers.
    assert abs(weight.std().item() - expected) <= 4 * expected / (2 * weight.numel()) ** 0.5, name
    assert abs(weight.mean().item()) <= 4 * expected / weight.numel() ** 0.5, name


def leaves(model):
    return [
        (name, module)
        for name, module in model.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    ]


@pytest.mark.parametrize("start", [{}, {"residual_init": "zero"}])
@pytest.mark.parametrize("name", MODELS)
def test_from_a_configuration(make_config, name, start):
    torch.manual_seed(0)
    model_class = vars(hf_minibert)[name]
    config = make_config(model_class.config_class.__name__, **WIDE | start)
    model = model_class(config)
    modules = leaves(model)
    assert len(modules) > 15
    for path, module in modules:
        check(model, path, module)


def test_which_projections_start_smaller(make_config, architecture):
    model = hf_minibert.MiniGPTModel(make_config("MiniGPTConfig", **WIDE))
    smaller = {name for name, module in leaves(model) if module.weight.ndim == 2 and module.weight.std() < 0.012}
    residual = {f"layers.{index}.{end}" for index in range(3) for end in ("self_attn.o_proj", "mlp.down_proj")}
    assert smaller == (residual if architecture == "classic" else set())


@pytest.mark.parametrize(
    "name",
    [
        "MiniBertForPreTraining",
        "MiniBertForTokenClassification",
        "MiniBertForQuestionAnswering",
        "MiniBertForMultipleChoice",
        "MiniGPTForSequenceClassification",
    ],
)
def test_what_a_checkpoint_lacks(make_config, tmp_path, name):
    torch.manual_seed(0)
    model_class = vars(hf_minibert)[name]
    no_pooler = {"use_pooler": False} if name.startswith("MiniBert") else {}
    config = make_config(model_class.config_class.__name__, **WIDE, **no_pooler)
    base = vars(hf_minibert)[name.split("For")[0] + "Model"](config)
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.fill_(0.5)
    base.save_pretrained(tmp_path)
    model = model_class.from_pretrained(tmp_path, dtype=torch.float32)
    missing = [(path, module) for path, module in leaves(model) if not (module.weight == 0.5).all()]
    expected = {
        "MiniBertForPreTraining": {"model.pooler.dense", "nsp_head"},
        "MiniBertForTokenClassification": {"token_classifier"},
        "MiniBertForQuestionAnswering": {"qa_outputs"},
        "MiniBertForMultipleChoice": {"model.pooler.dense", "score"},
        "MiniGPTForSequenceClassification": {"score"},
    }[name]
    if name == "MiniBertForPreTraining" and config.mlm_head_transform:
        expected |= {"lm_head.dense", "lm_head.norm"}
    assert {path for path, _ in missing} == expected
    for path, module in missing:
        check(model, path, module)


def test_a_new_layer_of_an_old_checkpoint_starts_as_in_a_new_model(make_config, tmp_path):
    torch.manual_seed(0)
    config = make_config("MiniGPTConfig", **WIDE | {"num_hidden_layers": 1})
    hf_minibert.MiniGPTModel(config).save_pretrained(tmp_path)
    model = hf_minibert.MiniGPTModel.from_pretrained(tmp_path, num_hidden_layers=3)
    for path, module in leaves(model.layers[2]):
        check(model, path, module)
