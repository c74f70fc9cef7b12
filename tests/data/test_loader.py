import time
from itertools import islice

import numpy as np
import pytest
import torch
from transformers import DataCollatorForLanguageModeling

from hf_minibert.data.loader import evaluation_batches, training_batches
from hf_minibert.data.rows import Batch, MaskedRows, Masking
from hf_minibert.data.token_store import Documents


class Places:
    """An objective whose examples say which they are: epoch and row."""

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows

    def batch(self, epoch: int, rows: np.ndarray) -> Batch:
        assert len(rows) > 0
        assert rows.max() < self.num_rows
        return {
            "epoch": torch.full((len(rows),), epoch),
            "row": torch.from_numpy(rows),
            "labels": torch.from_numpy(rows),
        }


def examples(batches) -> list[tuple[int, int]]:
    """Epoch and row of every example, in order."""
    return [place for batch in batches for place in zip(batch["epoch"].tolist(), batch["row"].tolist(), strict=True)]


def first(num_batches: int, objective=None, **options) -> list[Batch]:
    return list(islice(training_batches(objective or Places(11), **options), num_batches))


def global_batches(num_steps: int, *, batch_size: int, world_size: int = 1, accumulation: int = 1, first_row: int = 0):
    """What each optimizer step sees, over all processes, as a set."""
    by_rank = [
        first(
            num_steps * accumulation,
            batch_size=batch_size,
            rank=rank,
            world_size=world_size,
            first_row=first_row,
        )
        for rank in range(world_size)
    ]
    return [
        sorted(
            examples(batch for batches in by_rank for batch in batches[step * accumulation : (step + 1) * accumulation])
        )
        for step in range(num_steps)
    ]


def test_epochs_follow_one_another_without_loss():
    found = examples(first(11, batch_size=4))
    assert found == [(epoch, row) for epoch in range(4) for row in range(11)]


def test_a_batch_larger_than_an_epoch():
    assert examples(first(1, Places(3), batch_size=8)) == [(n // 3, n % 3) for n in range(8)]


def test_the_first_row_decides_the_rest():
    """A run that is resumed goes on with what the uninterrupted run would have read."""
    options = {"batch_size": 2, "rank": 1, "world_size": 2}
    through = examples(first(30, **options))
    for batches in (1, 4, 7):
        resumed = examples(first(30 - batches, first_row=batches * 4, **options))
        assert resumed == through[batches * 2 :]


@pytest.mark.parametrize(
    "shape",
    [
        {"batch_size": 2, "world_size": 2},
        {"batch_size": 1, "world_size": 4},
        {"batch_size": 2, "accumulation": 2},
        {"batch_size": 1, "accumulation": 2, "world_size": 2},
        {"batch_size": 1, "accumulation": 4},
    ],
)
def test_a_step_has_the_same_examples_however_it_is_divided(shape):
    expected = global_batches(9, batch_size=4)
    assert global_batches(9, **shape) == expected
    assert global_batches(4, first_row=5 * 4, **shape) == expected[5:]


def tiny_objective() -> MaskedRows:
    generator = np.random.default_rng(0)
    lengths = np.full(40, 30)
    places = np.stack([np.zeros(40, dtype=np.int64), np.arange(40) * 30, lengths], axis=1)
    documents = Documents([generator.integers(5, 99, 1_200).astype(np.uint16)], places)
    masking = Masking(probability=0.15, mask_id=4, special_ids=[0, 1, 2, 3, 4], vocab_size=99, seed=7)
    return MaskedRows(documents, length=16, cls_id=2, sep_id=3, seed=7, masking=masking)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker:UserWarning")  # a test has one core
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_workers_change_nothing():
    objective = tiny_objective()
    options = {"batch_size": 32, "first_row": 32}
    alone, helped = (first(6, objective, num_workers=number, **options) for number in (0, 2))
    for one, other in zip(alone, helped, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(alone[0]["input_ids"], alone[1]["input_ids"])


def test_random_state_of_torch_does_not_decide_the_data():
    batches = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        batches.append(first(3, tiny_objective(), batch_size=8))
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one["input_ids"], other["input_ids"])


# ---------------------------------------------------------------- evaluation


def test_evaluation_is_the_same_every_time():
    objective = tiny_objective()
    one, other = (list(evaluation_batches(objective, batch_size=8, max_rows=20)) for _ in range(2))
    assert [len(batch["input_ids"]) for batch in one] == [8, 8, 4]
    assert all(torch.equal(a["labels"], b["labels"]) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize(("max_rows", "expected"), [(7, 7), (11, 11), (500, 11)])
def test_evaluation_rows_are_divided_without_overlap_or_loss(world_size, max_rows, expected):
    by_rank = [
        list(evaluation_batches(Places(11), batch_size=2, max_rows=max_rows, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    labels = [label for batches in by_rank for batch in batches for label in batch["labels"].tolist()]
    assert sorted(label for label in labels if label != -100) == list(range(expected))
    assert len({len(batches) for batches in by_rank}) == 1, "all take every step, since each may hold a part of a model"


# ---------------------------------------------------------------- speed


def test_masking_is_much_faster_than_the_usual_collator(tokenizer):
    """Compared with transformers' collator on the same rows; both on one thread, the best of several."""
    rows = np.random.default_rng(0).integers(5, len(tokenizer), (64, 128))
    masking = Masking(
        probability=0.15,
        mask_id=tokenizer.mask_token_id,
        special_ids=tokenizer.all_special_ids,
        vocab_size=len(tokenizer),
        seed=0,
    )
    collator = DataCollatorForLanguageModeling(tokenizer)
    listed = [{"input_ids": row} for row in rows.tolist()]

    def best(function) -> float:
        times = []
        for _ in range(7):
            started = time.process_time()
            function()
            times.append(time.process_time() - started)
        return min(times)

    ours = best(lambda: masking.apply(0, np.arange(64), rows))
    theirs = best(lambda: collator(listed))
    assert theirs > 3 * ours, f"{1000 * ours:.2f} ms against {1000 * theirs:.2f} ms"
