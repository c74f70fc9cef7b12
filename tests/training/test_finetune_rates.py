from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import TrainingArguments

from hf_minibert.training.finetune import USUAL_SCALE, ProportionateTrainer


class Model(nn.Module):
    """An embedding as large as Muon makes it, a matrix as large as usual, and what is no matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 30)
        self.layer = nn.Linear(30, 20)
        self.norm = nn.LayerNorm(20)
        nn.init.constant_(self.embed.weight, 10 * USUAL_SCALE)
        nn.init.constant_(self.layer.weight, 0.5 * USUAL_SCALE)
        nn.init.constant_(self.layer.bias, 1.0)


@pytest.fixture(name="trainer")
def _trainer(tmp_path) -> ProportionateTrainer:
    settings = TrainingArguments(str(tmp_path), learning_rate=1e-3, weight_decay=0.01, use_cpu=True, report_to="none")
    return ProportionateTrainer(model=Model(), args=settings)


def test_matrices_learn_in_proportion_to_their_size(trainer: ProportionateTrainer) -> None:
    optimizer = trainer.create_optimizer()
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    of = {
        names[id(parameter)]: SimpleNamespace(**{key: group[key] for key in ("lr", "weight_decay")})
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert set(of) == set(names.values()), "each once"
    assert of["embed.weight"].lr == pytest.approx(1e-2)
    assert {of[name].lr for name in of if name != "embed.weight"} == {1e-3}
    assert {name for name in of if of[name].weight_decay == 0} == {"layer.bias", "norm.weight", "norm.bias"}

    schedule = trainer.create_scheduler(num_training_steps=10, optimizer=optimizer)
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    for parameter in trainer.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    schedule.step()
    after = {name: parameter.detach() for name, parameter in trainer.model.named_parameters()}
    moved = {name: float((after[name] - before[name]).abs().max()) for name in after}
    assert moved["embed.weight"] == pytest.approx(1e-2, rel=0.05)
    assert moved["layer.weight"] == pytest.approx(1e-3, rel=0.05)
    assert schedule.get_last_lr()[0] == pytest.approx(0.9e-3)
