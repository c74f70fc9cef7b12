"""Trained side by side from the same weights on the same batches, ours and the stock classes have the same losses."""

import pytest
import torch
from stock_models import HEADS, example, make_stock

from hf_minibert.export.stock import from_stock

STEPS = 8
WITH_LOSS = [head for head in HEADS if "For" in head.id or "LMHead" in head.id]


def train(model, stock_class):
    """The loss at each step, over two batches in turn."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model.train()
    losses = []
    for step in range(STEPS):
        loss = model(**example(stock_class, seed=step % 2)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return torch.tensor(losses)


@pytest.mark.parametrize(("family", "stock_class", "our_class"), WITH_LOSS)
def test_the_loss_curves_are_one(family, stock_class, our_class):
    stock = make_stock(family, stock_class, has_dropout=False)
    ours = from_stock(stock)
    assert type(ours) is our_class
    expected, actual = train(stock, stock_class), train(ours, stock_class)
    assert (expected[-2:] < expected[:2]).all()
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)
