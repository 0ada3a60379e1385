"""Which rows of a clustered memory bank are positives and negatives of a query."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from hf_contrastive.losses._common import unit_rows
from hf_contrastive.modules.keyed_random import KeyedDraws


SAMPLINGS = ("hard", "semihard", "semieasy", "random")

# similarities that are in memory at a time (64 MiB in float32)
_CHUNK = 2**24

# what is drawn for a row; draws of one step must not meet
_POSITIVE, _RANDOM, _POOL, _REPEAT, _OTHERS = range(5)


def draw_same_cluster(labels: Tensor, own_labels: Tensor, draws: KeyedDraws) -> Tensor:
    """
    One row of each query's cluster, drawn uniformly among all of them; it may be the query's own (InterCLR,
    https://arxiv.org/abs/2008.11702, section 3.1).

    Args:
        labels (`LongTensor` `[L]`): clusters of the bank's rows.
        own_labels (`LongTensor` `[N]`): the queries' clusters; each has a row in the bank.
        draws ([`KeyedDraws`]): of the queries.

    Returns:
        `LongTensor` `[N]`: rows of the bank.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.modules.bank_sampling import draw_same_cluster
    >>> from hf_contrastive.modules.keyed_random import KeyedDraws
    >>> labels = torch.tensor([0, 1, 0, 1])
    >>> draw_same_cluster(labels, torch.tensor([1]), KeyedDraws(0, 0, torch.tensor([3]))).item() in (1, 3)
    True

    ```
    """
    rows, starts, sizes = _members(labels, own_labels)
    return rows[starts + draws.integers(_POSITIVE, 1, sizes)[:, 0]]


def draw_other_rows(length: int, index: Tensor, count: int, draws: KeyedDraws) -> Tensor:
    """
    Rows of a bank other than the query's own, uniformly and with replacement (the negatives of NPID).

    Args:
        length (`int`): rows of the bank, 2 or more.
        index (`LongTensor` `[N]`): the queries' own rows.
        count (`int`): how many are drawn for each.
        draws ([`KeyedDraws`]): of the queries.

    Returns:
        `LongTensor` `[N, count]`: rows of the bank.

    Raises:
        ValueError: the bank has no other row.
    """
    if length < 2:
        raise ValueError(f"a memory bank of {length} row has no negatives; it needs 2 or more images.")
    drawn = draws.integers(_OTHERS, count, length - 1)
    return drawn.add_(drawn >= index[:, None])


def sample_negatives(
    query: Tensor,
    features: Tensor,
    labels: Tensor,
    own_labels: Tensor,
    num_negatives: int,
    sampling: str = "semihard",
    *,
    pool_size: int | None = None,
    draws: KeyedDraws | None = None,
) -> Tensor:
    """
    Rows of a clustered bank that are negatives of each query: never of its own cluster (InterCLR,
    https://arxiv.org/abs/2008.11702, section 3.3).

    - `"hard"`: the `num_negatives` most similar ones.
    - `"semihard"`: drawn from the `pool_size` most similar rows, `"semieasy"`: from the least similar ones; uniformly and
      without replacement among those of other clusters. Where a pool holds fewer, all of them and repeats of them.
    - `"random"`: uniform over the rows of other clusters, with replacement.

    Similarities are made for a few queries at a time; the bank is not copied. Nothing is drawn again and again: the published
    code redraws rows of the own cluster until none is left, which never ends where the whole pool is of it.

    Args:
        query (`Tensor` `[N, dim]`): normalised here.
        features (`Tensor` `[L, dim]`): the bank's unit rows.
        labels (`LongTensor` `[L]`): their clusters.
        own_labels (`LongTensor` `[N]`): the queries' clusters.
        num_negatives (`int`): M.
        sampling (`str`, defaults to `"semihard"`): one of `SAMPLINGS`.
        pool_size (`int`, *optional*): for the two pools, from M to L.
        draws ([`KeyedDraws`], *optional*): of the queries; needed for all but `"hard"`.

    Returns:
        `LongTensor` `[N, M]`: rows of the bank; for `"hard"` the most similar first.

    Raises:
        ValueError: sizes that do not fit, or a query without a row of another cluster.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.modules.bank_sampling import sample_negatives
    >>> bank, labels = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-1.0, 0.0]]), torch.tensor([0, 0, 1, 1])
    >>> sample_negatives(bank[:1], bank, labels, labels[:1], 1, "hard")
    tensor([[2]])

    ```
    """
    length = len(features)
    _check_sampling(num_negatives, sampling, pool_size, length, draws)
    sizes = torch.bincount(labels)
    others = length - sizes[own_labels]
    if len(own_labels) and int(others.min()) == 0:
        raise ValueError(
            f"all {length} rows of the memory bank are in one cluster, so there are no negatives: the features have collapsed, "
            "or the labels are wrong."
        )
    if sampling == "random":
        assert draws is not None
        return _random_rows(labels, own_labels, num_negatives, others, draws)
    if sampling == "hard" and int(others.min()) < num_negatives:
        raise ValueError(
            f"{num_negatives} hard negatives were asked for, but only {int(others.min())} rows of the bank are in other clusters "
            f"(the largest has {int(sizes.max())} of {length}); lower num_negatives."
        )
    if sampling != "hard" and pool_size is not None and pool_size <= int(sizes.max()):
        warnings.warn(
            f"the pool of {pool_size} rows is no larger than the largest cluster, so a pool may hold few rows of other clusters. "
            "Raise negative_pool_size, or take more clusters."
        )
    found = []
    with torch.no_grad(), torch.autocast(query.device.type, enabled=False):
        unit = unit_rows(query.detach()).to(features.dtype)
        step = max(1, _CHUNK // length)
        for start in range(0, len(unit), step):
            part = slice(start, start + step)
            similarity = unit[part] @ features.T
            if sampling == "hard":
                similarity.masked_fill_(labels == own_labels[part, None], -torch.inf)
                found.append(similarity.topk(num_negatives).indices)
            else:
                assert pool_size is not None
                assert draws is not None
                pool = similarity.topk(pool_size, largest=sampling == "semihard", sorted=False).indices
                found.append(_draw_from_pool(pool, labels, own_labels[part], num_negatives, draws[part]))
    return torch.cat(found)


def _draw_from_pool(pool: Tensor, labels: Tensor, own_labels: Tensor, count: int, draws: KeyedDraws) -> Tensor:
    """Each row of the bank has a random priority of its own, so that what is drawn does not depend on the pool's order."""
    own = labels[pool] == own_labels[:, None]
    available = (~own).sum(1)
    if int(available.min()) == 0:
        row = int(available.argmin())
        raise ValueError(
            f"the whole pool of {pool.shape[1]} rows is of the query's own cluster (cluster {int(own_labels[row])}, "
            f"{int((labels == own_labels[row]).sum())} rows), so there are no negatives; raise negative_pool_size above the size "
            "of the largest cluster, or take more clusters."
        )
    priority = draws.words(_POOL, pool).masked_fill_(own, torch.iinfo(torch.long).max)
    chosen = priority.topk(count, largest=False).indices
    rows = pool.gather(1, chosen)
    if int(available.min()) < count:
        # places beyond what is there repeat one of the rows before them
        place = torch.arange(count, device=pool.device)
        again = draws.integers(_REPEAT, count, available.clamp(max=count))
        rows = torch.where(place < available[:, None], rows, rows.gather(1, again))
    return rows


def _random_rows(labels: Tensor, own_labels: Tensor, count: int, others: Tensor, draws: KeyedDraws) -> Tensor:
    """The r-th row outside the own cluster, for r drawn below their number: no rejection."""
    rows, starts, sizes = _members(labels, own_labels)
    drawn = draws.integers(_RANDOM, count, others)
    for number, (start, size) in enumerate(zip(starts.tolist(), sizes.tolist(), strict=True)):
        members = rows[start : start + size]
        # rows outside the cluster before each member
        before = members - torch.arange(size, device=members.device)
        drawn[number] += torch.searchsorted(before, drawn[number], right=True)
    return drawn


def _members(labels: Tensor, own_labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of the wanted clusters sorted by cluster, and where each query's cluster starts and how long it is."""
    wanted = torch.zeros(int(labels.max()) + 1, dtype=torch.bool, device=labels.device)
    wanted[own_labels] = True
    rows = wanted[labels].nonzero().flatten()
    grouped, order = labels[rows].sort(stable=True)
    starts = torch.searchsorted(grouped, own_labels.contiguous())
    ends = torch.searchsorted(grouped, own_labels.contiguous(), right=True)
    return rows[order], starts, ends - starts


def _check_sampling(
    num_negatives: int, sampling: str, pool_size: int | None, length: int, draws: KeyedDraws | None
) -> None:
    if sampling not in SAMPLINGS:
        raise ValueError(f"`sampling` is {sampling!r}; known are: {', '.join(SAMPLINGS)}.")
    if not num_negatives >= 1:
        raise ValueError(f"`num_negatives` is {num_negatives!r}, but it must be 1 or more.")
    if sampling != "hard" and draws is None:
        raise ValueError(f"`sampling` {sampling!r} draws rows; pass `draws`, for example bank.draws(index).")
    if sampling in ("semihard", "semieasy") and (pool_size is None or not num_negatives <= pool_size <= length):
        raise ValueError(
            f"`pool_size` is {pool_size!r}, but it must be from num_negatives = {num_negatives} to the {length} rows of the bank."
        )


__all__ = ["SAMPLINGS", "draw_other_rows", "draw_same_cluster", "sample_negatives"]
