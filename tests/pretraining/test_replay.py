import torch

from hf_minibert import MiniBertConfig, MiniBertForMaskedLM
from hf_minibert.pretraining.replay import loss_and_first_fault


def test_the_first_module_whose_output_is_not_finite_is_named():
    config = MiniBertConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    model = MiniBertForMaskedLM(config)
    tokens = torch.randint(5, 64, (1, 8))
    batch = {"input_ids": tokens, "labels": tokens}
    loss, fault = loss_and_first_fault(model, batch)
    assert torch.isfinite(loss)
    assert fault is None
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("inf")
    loss, fault = loss_and_first_fault(model, batch)
    assert not torch.isfinite(loss)
    assert fault == "model.layers.1.mlp.up_proj"
    assert not any(module._forward_hooks for module in model.modules())
