"""The order of an epoch, handed out at once: Accelerate's, row by row, on several processes and after a resume."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from accelerate import skip_first_batches
from accelerate.data_loader import SeedableRandomSampler, prepare_data_loader
from torch.utils.data import DataLoader, Dataset, RandomSampler

from hf_contrastive.training.epoch_order import EpochOrderBatches, EpochOrderSampler, hand_out_order_at_once


class Rows(Dataset):
    """Numbers, and how often a batch came as an array."""

    takes_row_arrays = True

    def __init__(self):
        self.arrays = 0

    def __len__(self):
        return 23

    def __getitems__(self, rows):
        self.arrays += isinstance(rows, np.ndarray)
        return [int(row) for row in rows]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("rows", [range(23), Rows()], ids=["lists", "arrays"])
@pytest.mark.parametrize("num_processes", [1, 2])
def test_the_order_handed_out_at_once_is_that_of_accelerate(num_processes, rows, drop_last):
    def loaders():
        loader = DataLoader(rows, batch_size=4, shuffle=True, drop_last=drop_last)
        for rank in range(num_processes):
            yield prepare_data_loader(
                loader, num_processes=num_processes, process_index=rank, put_on_device=False, use_seedable_sampler=True
            )

    torch.manual_seed(3)
    plain = list(loaders())
    torch.manual_seed(3)
    quick = [hand_out_order_at_once(loader) for loader in loaders()]
    for theirs, ours in zip(plain, quick, strict=True):
        part = ours.batch_sampler
        inner = part if num_processes == 1 else part.batch_sampler
        assert type(inner.sampler) is EpochOrderSampler
        arrays = num_processes == 1 and isinstance(rows, Rows)
        assert (type(part) is EpochOrderBatches) == arrays
        seen = getattr(rows, "arrays", 0)
        orders = []
        for epoch in range(3):  # the epoch goes on by itself, and can be set
            for loader in (theirs, ours):
                if epoch == 2:
                    loader.set_epoch(7)
            expected = [batch.tolist() for batch in theirs]
            assert [batch.tolist() for batch in ours] == expected
            orders.append(expected)
        assert orders[0] != orders[1] != orders[2]
        assert (getattr(rows, "arrays", 0) > seen) == arrays
        skipped = [list(skip_first_batches(loader, 2)) for loader in (theirs, ours)]
        assert [batch.tolist() for batch in skipped[0]] == [batch.tolist() for batch in skipped[1]]


def test_batches_go_on_to_the_next_epoch():
    sampler = EpochOrderSampler(range(7), data_seed=0)
    batches = EpochOrderBatches(sampler, 3, drop_last=True)
    first, second = ([batch.tolist() for batch in batches] for _ in range(2))
    assert [len(batch) for batch in first] == [3, 3]
    assert first != second
    assert sampler.epoch == 2
    sampler.set_epoch(0)
    assert [batch.tolist() for batch in batches] == first


def test_an_order_that_is_not_taken_whole_comes_again():
    for kind in (SeedableRandomSampler, EpochOrderSampler):
        sampler = kind(range(9), data_seed=1)
        first = list(sampler)
        assert sampler.epoch == 1
        next(iter(sampler))
        assert sampler.epoch == 1
        assert list(sampler) != first
        sampler.set_epoch(0)
        assert list(sampler) == first


def test_other_orders_are_left_alone():
    drawn = RandomSampler(range(9), replacement=True, num_samples=30)
    for loader in (DataLoader(range(9), batch_size=2), DataLoader(range(9), batch_size=2, sampler=drawn)):
        prepared = prepare_data_loader(
            loader, num_processes=1, process_index=0, put_on_device=False, use_seedable_sampler=True
        )
        before = prepared.batch_sampler.sampler
        assert hand_out_order_at_once(prepared).batch_sampler.sampler is before
