import pytest
import torch
from torch import Tensor

from hf_minibert.runs import muon
from hf_minibert.runs.muon import Muon, MuonWithAdamW, orthogonalize

SHAPES = [(32, 32), (32, 32), (64, 32), (32, 64)]


def train(optimizer_class, steps: int = 4, **settings) -> list[Tensor]:
    torch.manual_seed(0)
    matrices = [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    optimizer = optimizer_class(matrices, lr=0.1, weight_decay=0.1, **settings)
    for _ in range(steps):
        for matrix in matrices:
            matrix.grad = torch.randn_like(matrix)
        optimizer.step()
    return [matrix.detach() for matrix in matrices]


def test_the_steps_are_those_of_torch(monkeypatch):
    monkeypatch.setattr(muon, "COEFFICIENTS", ((3.4445, -4.7750, 2.0315),) * 5)  # which torch repeats
    started = train(Muon, steps=0)
    ours, theirs = train(Muon), train(torch.optim.Muon, adjust_lr_fn="match_rms_adamw")
    for before, one, other in zip(started, ours, theirs, strict=True):
        assert (one - other).norm() < 0.02 * (one - before).norm(), "torch's are rounded to bfloat16 in another order"


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 64, 32), (3, 32, 64)])
def test_singular_values_come_near_one(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalize(torch.randn(shape)))
    assert values.max() < 2.0
    assert values.min() > 0.1, "the least of a square random matrix is near 0, and takes longest"
    assert 0.7 < values.median() < 1.4


def test_a_matrix_moves_alike_alone_and_in_company():
    torch.manual_seed(0)
    gradients = torch.randn(3, 32, 64)
    together = orthogonalize(gradients)
    for index in range(3):
        torch.testing.assert_close(orthogonalize(gradients[index : index + 1])[0], together[index])


def test_matrices_without_a_gradient_stay():
    used, unused = (torch.nn.Parameter(torch.ones(4, 4)) for _ in range(2))
    used.grad = torch.randn(4, 4)
    Muon([used, unused], lr=0.1).step()
    assert not used.equal(torch.ones(4, 4))
    assert unused.equal(torch.ones(4, 4))


def test_only_matrices():
    with pytest.raises(ValueError, match=r"Muon is for matrices, but got a parameter of shape \(4,\)"):
        Muon([torch.nn.Parameter(torch.ones(4))], lr=0.1)


def test_beside_adamw_it_is_what_both_are_alone():
    """Also after a state was saved and loaded, as `Trainer` does."""
    torch.manual_seed(0)
    start = [torch.randn(4, 8), torch.randn(8)]
    gradients = [[torch.randn(4, 8), torch.randn(8)] for _ in range(4)]

    def parameters():
        return [torch.nn.Parameter(part.clone()) for part in start]

    def both(matrix, vector):
        return MuonWithAdamW([matrix], [vector], lr=0.1, others_lr=0.05, weight_decay=0.1)

    alone, joint = parameters(), parameters()
    optimizers = [
        Muon(alone[:1], lr=0.1, weight_decay=0.1),
        torch.optim.AdamW(alone[1:], lr=0.05, weight_decay=0.0, fused=True),
    ]
    one = both(*joint)
    for step, pair in enumerate(gradients):
        if step == 2:
            state, one = one.state_dict(), both(*joint)
            one.load_state_dict(state)
        for each in (alone, joint):
            for parameter, gradient in zip(each, pair, strict=True):
                parameter.grad = gradient
        for optimizer in (*optimizers, one):
            optimizer.step()
    assert all(torch.equal(first, second) for first, second in zip(alone, joint, strict=True))
    assert not torch.equal(joint[0], start[0])
