"""Triples for recommenders: a user, an item of the training part, items that the user did not choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from hf_contrastive.data.random_numbers import stateless_uniform
from hf_contrastive.data.shared_epoch import SharedEpoch
from hf_contrastive.tensor_utils import distinct


SAMPLINGS = ("interactions", "users")
_POSITIVE, _NEGATIVE = range(2)
# the triples of an epoch are kept while they are at most so many batches and so many numbers (64 MB)
_EPOCH_BATCHES, _EPOCH_NUMBERS = 256, 2**23
# what every user did not choose is listed while users x items are at most so many (32 MB)
_LISTED = 2**23


class UserHistories:
    """What every user chose, sorted: looked up, and drawn from what is left, without trial and error.

    Args:
        users (`[E]` whole numbers), items (`[E]` whole numbers): the training pairs; repeats count once.
        num_users (`int`), num_items (`int`): how many there are.

    Example:

    ```python
    >>> import numpy as np
    >>> from hf_contrastive.data import UserHistories
    >>> histories = UserHistories([0, 0, 1], [1, 3, 0], num_users=2, num_items=4)
    >>> histories.items_of(0).tolist(), histories.outside(np.array([0, 0]), np.array([0, 1])).tolist()
    ([1, 3], [0, 2])

    ```
    """

    def __init__(self, users: Any, items: Any, num_users: int, num_items: int) -> None:
        users, items = (np.asarray(ids, dtype=np.int64) for ids in (users, items))
        self.num_users, self.num_items = num_users, num_items
        keys = distinct(users * num_items + items)
        user, self.items = keys // num_items, keys % num_items
        self.starts = np.searchsorted(user, np.arange(num_users + 1))
        self.counts = np.diff(self.starts)
        place = np.arange(len(keys)) - self.starts[user]
        # items outside the history that come before each item of it; grows within a user
        self._before = user * (num_items + 1) + self.items - place
        self._outside: tuple[np.ndarray, np.ndarray] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_outside": None}  # workers list their own

    def items_of(self, user: int) -> np.ndarray:
        """Items of one user, sorted."""
        return self.items[self.starts[user] : self.starts[user + 1]]

    def outside(self, users: np.ndarray, ranks: np.ndarray) -> np.ndarray:
        """The r-th item (from 0, by number) that is not in the user's history.

        Args:
            users (`[B]`), ranks (`[B]` or `[B, M]`): each rank below `num_items - counts[user]`.
        """
        own = users[:, None] if ranks.ndim == 2 else users
        if self.num_users * self.num_items <= _LISTED:
            if self._outside is None:
                self._outside = self._list_outside()
            listed, starts = self._outside
            return listed[starts[own] + ranks].astype(np.int64)
        wanted = (own * (self.num_items + 1) + ranks).ravel()
        # in order: a search that goes on where the last one ended is twice as fast as one that jumps about in memory
        order = np.argsort(wanted)
        passed = np.empty_like(order)
        passed[order] = np.searchsorted(self._before, wanted[order], side="right")
        return ranks + passed.reshape(ranks.shape) - self.starts[own]

    def _list_outside(self) -> tuple[np.ndarray, np.ndarray]:
        left = np.ones((self.num_users, self.num_items), dtype=bool)
        left[np.repeat(np.arange(self.num_users), self.counts), self.items] = False
        items = np.broadcast_to(np.arange(self.num_items, dtype=np.int32), left.shape)[left]
        return items, np.arange(self.num_users) * self.num_items - self.starts[:-1]


class TripletDataset(SharedEpoch, Dataset):
    """The training pairs, one row each, with items drawn for each that the user did not choose.

    Negatives are uniform over all items outside the user's training history, every one an exact draw (no draw is repeated
    until it fits). All draws depend on seed, epoch and row alone: not on batch, worker, process or where a run was resumed.

    Args:
        users (`[E]` whole numbers), items (`[E]` whole numbers): the pairs, for example `data.part("train")`.
        num_users (`int`), num_items (`int`): how many there are.
        num_negatives (`int`, defaults to 1): items drawn for each row; 0 for objectives without (BM3).
        sampling (`str`, defaults to `"interactions"`): `"interactions"` goes through the pairs, so that active users come more
            often (RecBole, MMRec, SELFRec); `"users"` draws a user evenly among those with a history, then one of the user's
            items, as many times (LightGCN's and DCCF's codes).
        seed (`int`, defaults to 0): of the draws.

    Raises:
        ValueError: no pair, an unknown sampling, or a user who chose every item where negatives are needed.

    Example:

    ```python
    >>> from torch.utils.data import DataLoader
    >>> from hf_contrastive.data import TripletDataset, collate_triplets
    >>> data = TripletDataset([0, 0, 1], [0, 1, 2], num_users=2, num_items=3)
    >>> batch = next(iter(DataLoader(data, batch_size=3, collate_fn=collate_triplets)))
    >>> batch["user_ids"].tolist(), batch["neg_item_ids"].shape
    ([0, 0, 1], torch.Size([3]))

    ```
    """

    takes_row_arrays = True

    def __init__(
        self,
        users: Any,
        items: Any,
        num_users: int,
        num_items: int,
        *,
        num_negatives: int = 1,
        sampling: str = "interactions",
        seed: int = 0,
    ) -> None:
        if sampling not in SAMPLINGS:
            raise ValueError(f"`sampling` is {sampling!r}; expected one of {', '.join(SAMPLINGS)}")
        if not num_negatives >= 0:
            raise ValueError(f"`num_negatives` is {num_negatives!r}; expected 0 or more")
        self.users, self.items = (np.asarray(ids, dtype=np.int64) for ids in (users, items))
        if not len(self.users):
            raise ValueError("there is no training pair; check the split")
        self.histories = UserHistories(self.users, self.items, num_users, num_items)
        full = np.flatnonzero(self.histories.counts == num_items)
        if num_negatives and len(full):
            raise ValueError(
                f"{len(full)} users chose all {num_items} items (first: user {full[0]}), so that nothing is left as a negative; "
                "leave them out of the log"
            )
        self.active = np.flatnonzero(self.histories.counts)
        self.num_items = num_items
        self.num_negatives = num_negatives
        self.sampling = sampling
        self.seed = seed
        self._drawn: tuple[tuple[int, int], dict[str, np.ndarray]] | None = None
        super().__init__()

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: tensor[0] for name, tensor in self.__getitems__([index]).items()}

    def __getitems__(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """A whole batch at once; dataloaders call this where it exists."""
        index = np.asarray(rows, dtype=np.int64)
        epoch, columns = int(self._epoch[0]), 2 + self.num_negatives
        if len(self.users) > _EPOCH_BATCHES * len(index) or len(self.users) * columns > _EPOCH_NUMBERS:
            return _tensors(self._draw(index, epoch))
        # an epoch of few batches is drawn at once, which takes less than half the time of drawing it batch by batch
        if self._drawn is None or self._drawn[0] != (epoch, self.seed):
            self._drawn = (epoch, self.seed), self._draw(np.arange(len(self.users)), epoch)
        return _tensors({name: column[index] for name, column in self._drawn[1].items()})

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_drawn": None}  # workers draw their own

    def _draw(self, index: np.ndarray, epoch: int) -> dict[str, np.ndarray]:
        users, items = self.users[index], self.items[index]
        if self.sampling == "users":
            draw = self._uniform(index, epoch, _POSITIVE, 2)
            users = self.active[(draw[:, 0] * len(self.active)).astype(np.int64)]
            place = (draw[:, 1] * self.histories.counts[users]).astype(np.int64)
            items = self.histories.items[self.histories.starts[users] + place]
        batch = {"user_ids": users, "pos_item_ids": items}
        if self.num_negatives:
            left = self.num_items - self.histories.counts[users]
            ranks = (self._uniform(index, epoch, _NEGATIVE, self.num_negatives) * left[:, None]).astype(np.int64)
            negatives = self.histories.outside(users, ranks)
            batch["neg_item_ids"] = negatives[:, 0] if self.num_negatives == 1 else negatives
        return batch

    @staticmethod
    def collate(batch: Any) -> dict[str, Tensor]:
        """[`collate_triplets`]."""
        return collate_triplets(batch)

    def _uniform(self, index: np.ndarray, epoch: int, kind: int, draws: int) -> np.ndarray:
        return stateless_uniform(self.seed, epoch, index, np.array([kind]), draws)


def _tensors(columns: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(column) for name, column in columns.items()}


def collate_triplets(batch: Any) -> dict[str, Tensor]:
    """A batch of a [`TripletDataset`], which comes ready from it, or row by row."""
    if isinstance(batch, Mapping):
        return dict(batch)
    return {name: torch.stack([row[name] for row in batch]) for name in batch[0]}


__all__ = ["SAMPLINGS", "TripletDataset", "UserHistories", "collate_triplets"]
