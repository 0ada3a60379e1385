"""Cleaning and splitting of interaction logs: rows with users and items as whole numbers, nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


TRAIN, VALID, TEST = range(3)


def k_core(users: np.ndarray, items: np.ndarray, user_core: int, item_core: int) -> np.ndarray:
    """
    Which rows are left when users with fewer than `user_core` rows and items with fewer than `item_core` are removed, round
    after round, until nothing changes. Both counts are taken at the start of a round.

    Args:
        users (`[E]` whole numbers), items (`[E]` whole numbers): of the rows.
        user_core (`int`), item_core (`int`): least number of rows; 0 and 1 remove nothing.

    Returns:
        `np.ndarray` `[E]` of bool; all False where no such core exists.

    Example:

    ```python
    >>> import numpy as np
    >>> from hf_contrastive.data import k_core
    >>> k_core(np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 0]), 2, 2).tolist()
    [True, True, True, True, False]

    ```
    """
    keep = np.ones(len(users), dtype=bool)
    while keep.any():
        user_counts = np.bincount(users[keep], minlength=int(users.max()) + 1)
        item_counts = np.bincount(items[keep], minlength=int(items.max()) + 1)
        good = (user_counts[users] >= user_core) & (item_counts[items] >= item_core)
        left = keep & good
        if left.sum() == keep.sum():
            break
        keep = left
    return keep


def mmrec_counts(count: int) -> tuple[int, int, int]:
    """How MMRec cuts a user's `count` rows into train, valid and test.

    Below 10 one row each is held out; otherwise a fifth (rounded down), of it the smaller half for validation. A single row
    is for training; of two nothing is left for it.

    Args:
        count (`int`): rows of the user.

    Example:

    ```python
    >>> from hf_contrastive.data.interaction_splits import mmrec_counts
    >>> mmrec_counts(9), mmrec_counts(25)
    ((7, 1, 1), (20, 2, 3))

    ```
    """
    if count < 2:
        return count, 0, 0
    if count < 10:
        return count - 2, 1, 1
    held_out = int(0.2 * count)
    valid = held_out // 2
    return count - held_out, valid, held_out - valid


def ratio_counts(count: int, ratios: Sequence[float]) -> tuple[int, int, int]:
    """How RecBole cuts a user's `count` rows into train, valid and test.

    The held-out parts are rounded down; one that would be empty gets a row (the test part first) as long as training keeps
    one.

    Args:
        count (`int`): rows of the user.
        ratios (three shares): train, valid, test.

    Example:

    ```python
    >>> from hf_contrastive.data.interaction_splits import ratio_counts
    >>> ratio_counts(25, (0.8, 0.1, 0.1)), ratio_counts(4, (0.8, 0.1, 0.1)), ratio_counts(2, (0.8, 0.1, 0.1))
    ((21, 2, 2), (2, 1, 1), (1, 0, 1))

    ```
    """
    held_out = [int(share * count) for share in ratios[1:]]
    train = count - sum(held_out)
    for place in (1, 0):
        if train > 1 and 0 < ratios[1 + place] * count < 1:
            held_out[place] += 1
            train -= 1
    return train, held_out[0], held_out[1]


def split_per_user(
    users: np.ndarray,
    *,
    ratios: Sequence[float] | None = (0.8, 0.1, 0.1),
    times: np.ndarray | None = None,
    leave_out: bool = False,
    seed: int = 0,
) -> np.ndarray:
    """
    Splits every user's rows into train, valid and test.

    Rows of a user stand in random order (seeded), or in the order of time. With `ratios` they are cut by RecBole's rule
    ([`ratio_counts`]); without, by MMRec's ([`mmrec_counts`]); with `leave_out` the last row is for testing and the one before
    it for validation.

    Args:
        users (`[E]` whole numbers): of the rows.
        ratios (three numbers, *optional*): shares of train, valid and test, which add up to 1.
        times (`[E]` numbers, *optional*): sort by these instead of at random; equal ones keep their order.
        leave_out (`bool`, defaults to `False`): one row for each part.
        seed (`int`, defaults to 0): of the random order.

    Returns:
        `np.ndarray` `[E]` of int8: 0, 1 or 2.

    Raises:
        ValueError: ratios that are no three shares.
    """
    rows = len(users)
    order = np.random.RandomState(seed).permutation(rows) if times is None else np.argsort(times, kind="stable")
    order = order[np.argsort(users[order], kind="stable")]
    _, starts, counts = np.unique(users[order], return_index=True, return_counts=True)
    place = np.arange(rows) - np.repeat(starts, counts)
    if leave_out:
        cuts = [(count - 2, 1, 1) if count > 2 else (count, 0, 0) for count in counts.tolist()]
    elif ratios is None:
        cuts = [mmrec_counts(count) for count in counts.tolist()]
    else:
        _check_ratios(ratios)
        cuts = [ratio_counts(count, ratios) for count in counts.tolist()]
    cut = np.asarray(cuts, dtype=np.int64).reshape(-1, 3)
    train, valid = np.repeat(cut[:, 0], counts), np.repeat(cut[:, 0] + cut[:, 1], counts)
    split = np.empty(rows, dtype=np.int8)
    split[order] = np.where(place < train, TRAIN, np.where(place < valid, VALID, TEST))
    return split


def split_by_time(times: np.ndarray, ratios: Sequence[float] = (0.8, 0.1, 0.1)) -> np.ndarray:
    """
    One moment for everybody: the earliest rows are for training, the next for validation, the last for testing. The
    strictest split, since nothing from the future is ever seen; rows of the same moment are not torn apart.

    Args:
        times (`[E]` numbers): of the rows.
        ratios (three numbers, defaults to (0.8, 0.1, 0.1)): shares of train, valid and test.

    Returns:
        `np.ndarray` `[E]` of int8: 0, 1 or 2.

    Example:

    ```python
    >>> import numpy as np
    >>> from hf_contrastive.data.interaction_splits import split_by_time
    >>> split_by_time(np.arange(10)).tolist()
    [0, 0, 0, 0, 0, 0, 0, 0, 1, 2]

    ```
    """
    _check_ratios(ratios)
    ordered = np.sort(times)
    bounds = [min(len(times) - 1, int(round(len(times) * share, 9))) for share in (ratios[0], ratios[0] + ratios[1])]
    first, second = ordered[bounds[0]], ordered[bounds[1]]
    return np.where(times < first, TRAIN, np.where(times < second, VALID, TEST)).astype(np.int8)


def _check_ratios(ratios: Sequence[float]) -> None:
    if len(ratios) != 3 or min(ratios) < 0 or abs(sum(ratios) - 1) > 1e-6 or ratios[0] == 0:
        raise ValueError(f"`ratios` is {list(ratios)}; expected three shares (train, valid, test) that add up to 1")


__all__ = ["k_core", "mmrec_counts", "ratio_counts", "split_by_time", "split_per_user"]
