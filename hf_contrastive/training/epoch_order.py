"""The random order of an epoch, handed out at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from accelerate.data_loader import SeedableRandomSampler
from torch import Tensor
from torch.utils.data import BatchSampler


class EpochOrderSampler(SeedableRandomSampler):
    """The order of Accelerate's random sampler, epoch by epoch, handed out from a list instead of through two generators.

    Batches are cut from it much faster: with thousands of small rows a batch, asking for every number takes as long as the rows.

    Args:
        *args, **kwargs: as for `accelerate.data_loader.SeedableRandomSampler`, without replacement.

    Example:

    ```python
    >>> from hf_contrastive.training.epoch_order import EpochOrderSampler
    >>> sampler = EpochOrderSampler(range(4), data_seed=0)
    >>> sorted(sampler), sampler.epoch
    ([0, 1, 2, 3], 1)

    ```
    """

    def __iter__(self) -> Iterator[int]:
        return itertools.chain(self.order().tolist(), self._end())

    def order(self) -> Tensor:
        """The rows in the order of this epoch, `[rows]`."""
        if self.generator is None:
            self.generator = torch.Generator(torch.get_default_device())
        self.generator.manual_seed(self.epoch + self.initial_seed)
        return torch.randperm(len(self.data_source), generator=self.generator)

    def end_epoch(self) -> None:
        """The next order is that of the next epoch, once all of this one was taken."""
        self.set_epoch(self.epoch + 1)

    def _end(self) -> Iterator[int]:
        self.end_epoch()
        yield from ()


class EpochOrderBatches(BatchSampler):
    """The batches of an [`EpochOrderSampler`] as arrays, for datasets that look up a whole batch by an array of rows.

    Args:
        sampler ([`EpochOrderSampler`]): the order.
        batch_size (`int`): rows of a batch.
        drop_last (`bool`): leave out a last batch of fewer rows.

    Example:

    ```python
    >>> from hf_contrastive.training.epoch_order import EpochOrderBatches, EpochOrderSampler
    >>> [len(rows) for rows in EpochOrderBatches(EpochOrderSampler(range(7)), 3, drop_last=False)]
    [3, 3, 1]

    ```
    """

    sampler: EpochOrderSampler

    def __iter__(self) -> Iterator[Any]:
        order = self.sampler.order().cpu().numpy()
        end = len(self) * self.batch_size
        for start in range(0, end, self.batch_size):
            yield order[start : start + self.batch_size]
        self.sampler.end_epoch()


def hand_out_order_at_once(dataloader: Any) -> Any:
    """Let a dataloader that Accelerate prepared take its random order from an [`EpochOrderSampler`]; rows and batches stay the same.

    A dataset that says `takes_row_arrays = True` gets batches of [`EpochOrderBatches`], where one process takes them all.

    Args:
        dataloader: a `DataLoader`, changed in place; one with another sampler is left alone.

    Returns:
        The dataloader.

    Example:

    ```python
    >>> from torch.utils.data import DataLoader
    >>> from hf_contrastive.training.epoch_order import hand_out_order_at_once
    >>> len(hand_out_order_at_once(DataLoader(range(6), batch_size=2)))
    3

    ```
    """
    part = batches = getattr(dataloader, "batch_sampler", None)
    while part is not None:
        sampler = getattr(part, "sampler", None)
        plain = type(sampler) is SeedableRandomSampler and not sampler.replacement
        if plain and sampler.num_samples == len(sampler.data_source):
            # Accelerate holds on to both objects, so that they cannot be replaced: they keep what they have, and iterate otherwise
            sampler.__class__ = EpochOrderSampler
            if (
                part is batches
                and type(part) is BatchSampler
                and getattr(dataloader.dataset, "takes_row_arrays", False)
            ):
                part.__class__ = EpochOrderBatches
        part = getattr(part, "batch_sampler", None)
    return dataloader


__all__ = ["EpochOrderBatches", "EpochOrderSampler", "hand_out_order_at_once"]
