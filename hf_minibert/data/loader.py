"""The order of examples: one endless list for all processes, of which each takes its part of every batch.

Example k is row k mod N of epoch k div N. So the place in the data is one number, the step; resuming costs nothing,
and the number of processes changes who computes an example, not which examples make up a step.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from hf_minibert.data.objectives import Batch, Integers, Objective


class _Examples(Dataset[Batch]):
    """Examples of an objective by their place in the endless list."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective

    def __getitem__(self, examples: Integers) -> Batch:
        epochs, rows = np.divmod(examples, self._objective.num_rows)
        parts = [self._objective.batch(int(epoch), rows[epochs == epoch]) for epoch in np.unique(epochs)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


class _Plan(Sampler[Integers]):
    """The micro-batches of one process from a step on, without end."""

    def __init__(self, *, batch_size: int, accumulation: int, rank: int, world_size: int, first_step: int) -> None:
        self._batch_size, self._accumulation = batch_size, accumulation
        self._rank, self._world_size, self._first_step = rank, world_size, first_step

    def __iter__(self) -> Iterator[Integers]:
        first_micro_batch = self._first_step * self._accumulation
        while True:
            start = (first_micro_batch * self._world_size + self._rank) * self._batch_size
            yield np.arange(start, start + self._batch_size)
            first_micro_batch += 1


def training_batches(
    objective: Objective,
    *,
    batch_size: int,
    accumulation: int = 1,
    rank: int = 0,
    world_size: int = 1,
    first_step: int = 0,
    num_workers: int = 0,
) -> Iterator[Batch]:
    """Micro-batches of one process: `accumulation` of them are its part of one optimizer step.

    Args:
        objective: what makes rows.
        batch_size: rows in a micro-batch.
        accumulation: micro-batches in a step, on each process.
        rank: which of the processes this is.
        world_size: how many there are.
        first_step: steps that were done before.
        num_workers: processes that prepare batches; 0, this one does.
    """
    plan = _Plan(
        batch_size=batch_size, accumulation=accumulation, rank=rank, world_size=world_size, first_step=first_step
    )
    # A generator of its own, since the loader draws from it, and dropout's must not depend on when loading began.
    loader = DataLoader(
        _Examples(objective), sampler=plan, batch_size=None, num_workers=num_workers, generator=torch.Generator()
    )
    return iter(loader)


def evaluation_batches(
    objective: Objective, *, batch_size: int, max_rows: int, rank: int = 0, world_size: int = 1
) -> Iterator[Batch]:
    """The same rows at every evaluation, each on one process."""
    rows = np.arange(min(max_rows, objective.num_rows))
    for start in range(rank * batch_size, len(rows), world_size * batch_size):
        yield objective.batch(0, rows[start : start + batch_size])
