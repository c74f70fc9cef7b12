"""The order of examples: one endless list, of which each process takes its part of every batch.

Example k is row k mod N of epoch k div N, for N rows an epoch. The epochs of a stream differ in length, and
`StreamedRows` finds the row. So one number, the rows read so far, is the place in the data: resuming costs nothing,
and the number of processes changes who computes an example, not which examples make up a step.
"""

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, nullcontext

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from hf_minibert.data.rows import Batch, Integers, Rows
from hf_minibert.data.streamed import Order, StreamedRows
from hf_minibert.models.losses import IGNORE_INDEX
from hf_minibert.signals import leave_to_parent, withheld_from_children


class _Repeated:
    """All rows of an objective, epoch after epoch."""

    def __init__(self, num_rows: int) -> None:
        self._num_rows = num_rows

    def locate(self, examples: Integers, *, until: int) -> tuple[Integers, Integers]:
        del until
        return np.divmod(examples, self._num_rows)

    def close(self) -> None: ...


class _Examples(Dataset[Batch]):
    """Examples of an objective by their epochs and rows."""

    def __init__(self, objective: Rows, places: Mapping[str, Callable[[Batch], torch.Tensor]]) -> None:
        self._objective, self._places = objective, places

    def __getitem__(self, places: tuple[Integers, Integers]) -> Batch:
        epochs, rows = places
        parts = [self._objective.batch(int(epoch), rows[epochs == epoch]) for epoch in np.unique(epochs)]
        batch = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return batch | {name: find(batch) for name, find in self._places.items()}


class _Plan(Sampler[tuple[Integers, Integers]]):
    """The micro-batches of one process from a row on: where their examples lie."""

    def __init__(
        self, order: Order, *, batch_size: int, rank: int, world_size: int, first_row: int, last_row: int | None
    ) -> None:
        self._order, self._batch_size, self._first_row, self._last_row = order, batch_size, first_row, last_row
        self._rank, self._world_size = rank, world_size

    def __iter__(self) -> Iterator[tuple[Integers, Integers]]:
        start = self._first_row
        while self._last_row is None or start < self._last_row:
            mine = start + self._rank * self._batch_size
            start += self._world_size * self._batch_size
            yield self._order.locate(np.arange(mine, mine + self._batch_size), until=start)


def training_batches(
    objective: Rows,
    *,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    first_row: int = 0,
    last_row: int | None = None,
    num_workers: int = 0,
    places: Mapping[str, Callable[[Batch], torch.Tensor]] | None = None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Generator[Batch]:
    """Micro-batches of one process; the processes take turns. Closing it ends its workers.

    Args:
        objective: what makes rows.
        batch_size: rows in a micro-batch.
        rank: which of the processes this is.
        world_size: how many there are.
        first_row: rows that all processes have read before.
        last_row: the number of rows after which the run ends, so that no more are prepared; None if it is not known.
        num_workers: processes that prepare batches; 0, this one does.
        places: what batches have as well, by name, of all their rows together: see `Objective.places`.
        is_stopped: whether to give up a wait for the next part of a stream.

    Raises:
        StreamError: a stream broke off, or `is_stopped` while it was waited for.
    """
    order: Order = _Repeated(objective.num_rows)
    if isinstance(objective, StreamedRows):
        order = objective.order(last_row, is_stopped)
    plan = _Plan(order, batch_size=batch_size, rank=rank, world_size=world_size, first_row=first_row, last_row=last_row)
    # A generator of its own, since the loader draws from it, and dropout's must not depend on when loading began.
    loader = DataLoader(
        _Examples(objective, places or {}),
        sampler=plan,
        batch_size=None,
        num_workers=num_workers,
        worker_init_fn=_begin_worker,
        generator=torch.Generator(),
        pin_memory=torch.cuda.is_available(),  # else a copy to the GPU waits for it
    )
    with closing(order):
        with withheld_from_children() if num_workers else nullcontext():
            batches = iter(loader)
        yield from batches


def _begin_worker(_worker: int) -> None:
    leave_to_parent()  # the step at hand needs its batches when the run is told to stop


def evaluation_batches(
    objective: Rows, *, batch_size: int, max_rows: int, rank: int = 0, world_size: int = 1
) -> Iterator[Batch]:
    """The same rows at every evaluation, split over the processes; one that runs out gets batches without targets."""
    rows = np.arange(min(max_rows, objective.num_rows))
    for start in range(0, len(rows), world_size * batch_size):
        mine = rows[start + rank * batch_size : start + (rank + 1) * batch_size]
        batch = objective.batch(0, mine if len(mine) else rows[:1])
        if not len(mine):  # all processes take every step, since with FSDP each holds a part of the model
            for name in ("labels", "next_sentence_label"):
                if name in batch:
                    batch[name] = torch.full_like(batch[name], IGNORE_INDEX)
        yield batch
