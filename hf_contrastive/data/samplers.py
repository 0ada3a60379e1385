"""Batches whose images carry pairwise distinct (pseudo) labels: G-SimCLR's guided order, and its strict form."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from hf_contrastive.data.schema import integer_column


def _ranks(codes: np.ndarray, within: np.ndarray) -> np.ndarray:
    """0-based rank of each item inside its cluster, items of a cluster taken in the order of `within`."""
    by_cluster = np.lexsort((within, codes))
    sizes = np.bincount(codes, minlength=0)
    starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    rank = np.empty(len(codes), dtype=np.int64)
    rank[by_cluster] = np.arange(len(codes)) - np.repeat(starts, sizes)
    return rank


def guided_order(labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """The order of G-SimCLR's official code: the first image of every cluster, then the second of every cluster, ...

    "G-SimCLR", arXiv 2009.12007, section III. The official code sorts by rank with an unstable sort; here ties are
    broken by cluster id, so that the order is the same everywhere.

    Args:
        labels (array-like [n]): integer cluster of each image.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: `rank` [n], 1-based number of the image inside its cluster in index order, and
        `order` [n], image numbers sorted by (rank, cluster id).

    Raises:
        ValueError: if a label is not a whole number (named with its row).

    Example:

    ```python
    >>> from hf_contrastive.data import guided_order
    >>> rank, order = guided_order([1, 0, 1, 1])
    >>> rank.tolist(), order.tolist()
    ([1, 1, 2, 3], [1, 0, 2, 3])

    ```
    """
    labels = integer_column(labels, "labels")
    if labels.size == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    codes = np.unique(labels, return_inverse=True)[1].reshape(-1)
    rank = _ranks(codes, np.arange(len(codes)))
    return rank + 1, np.lexsort((codes, rank))


def duplicates_per_batch(labels: Any, order: Any, batch_size: int) -> np.ndarray:
    """How many images of each batch repeat a label that the batch already holds.

    Args:
        labels (array-like [n]): integer label of each image.
        order (array-like [m]): image numbers in the order they are visited.
        batch_size (`int`): images a batch; consecutive slices of `order`, the last incomplete one is left out.

    Returns:
        `np.ndarray` [m // batch_size]: images minus distinct labels, one number a batch.

    Raises:
        ValueError: if `batch_size` is below 1.

    Example:

    ```python
    >>> from hf_contrastive.data import duplicates_per_batch
    >>> duplicates_per_batch([0, 0, 1, 1], [0, 2, 1, 3], batch_size=2).tolist()
    [0, 0]

    ```
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    labels = integer_column(labels, "labels")
    order = integer_column(order, "order")
    count = len(order) // batch_size
    batches = np.sort(labels[order[: count * batch_size]].reshape(count, batch_size), axis=1)
    return (batches[:, 1:] == batches[:, :-1]).sum(axis=1)


class DistinctLabelBatchSampler(Sampler[list[int]]):
    """Batches in which no two images share a label, over all processes together.

    `strict=True`: every global batch (the batches of all processes at one step) holds pairwise distinct labels. An
    epoch has as many global batches as can be filled at all: the largest T with `sum_k min(size_k, T) >= T * batch`,
    what drawing from the fullest clusters first reaches. Small clusters are used whole; the fullest lose what cannot be
    placed (another part of them each epoch when reshuffling). `dropped` says how many images that is.

    `strict=False`: the official order of G-SimCLR (arXiv 2009.12007, see [`guided_order`]) cut into batches, which
    repeats labels once the smallest cluster is used up. With `reshuffle=False` it is the official order exactly.

    Under Accelerate, batch `i` goes to process `i % num_processes`; the sampler yields the batches of all processes one
    after the other, so hand it to a `DataLoader(batch_sampler=...)` on every process and let Accelerate share them
    out. The order depends on `(seed, epoch)` alone: every process sees the same, and leaving out the first k batches of
    an epoch gives the continuation of an interrupted one.

    Args:
        labels (array-like [n]): integer (pseudo) label of each row, in row order.
        batch_size (`int`): images per batch and process.
        num_processes (`int`): number of processes that share the batches.
        strict (`bool`): see above.
        reshuffle (`bool`): draw anew each epoch inside the clusters and the order of the batches.
        seed (`int`): seed of the draws.

    Raises:
        ValueError: if there are fewer non-empty clusters than images in a global batch (strict), fewer images than a
            global batch, no labels, or a label that is not a whole number.

    Attributes:
        dropped (`int`): images left out of each epoch.
        drop_last (`bool`): always true: all batches are full and their number is a multiple of `num_processes`.

    Example:

    ```python
    >>> from hf_contrastive.data import DistinctLabelBatchSampler
    >>> labels = [0, 0, 1, 1, 2, 2]
    >>> sampler = DistinctLabelBatchSampler(labels, batch_size=3)
    >>> [sorted(labels[i] for i in batch) for batch in sampler]
    [[0, 1, 2], [0, 1, 2]]

    ```
    """

    drop_last = True

    def __init__(
        self,
        labels: Any,
        batch_size: int,
        *,
        num_processes: int = 1,
        strict: bool = True,
        reshuffle: bool = True,
        seed: int = 0,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("num_processes", num_processes)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        labels = integer_column(labels, "labels")
        if labels.size == 0:
            raise ValueError("labels is empty; expected one integer per row of the dataset")
        self.batch_size = int(batch_size)
        self.num_processes = int(num_processes)
        self.strict = bool(strict)
        self.reshuffle = bool(reshuffle)
        self.seed = int(seed)
        self.epoch = 0
        self._codes = np.unique(labels, return_inverse=True)[1].reshape(-1)
        self._sizes = np.bincount(self._codes)
        self._steps = self._count_steps()
        self.dropped = len(labels) - self._steps * self.global_batch_size
        if self.dropped >= self.global_batch_size:
            warnings.warn(
                f"{self.dropped} of {len(labels)} images ({self.dropped / len(labels):.0%}) are left out of every epoch: "
                f"{self._steps} batches of {self.global_batch_size} distinct labels can be filled from "
                f"{self.num_clusters} clusters of {self._sizes.min()} to {self._sizes.max()} images. "
                "A smaller batch_size places more of them"
                + (", and reshuffle draws others each epoch." if self.reshuffle else "."),
                stacklevel=2,
            )

    @property
    def global_batch_size(self) -> int:
        """Images in the batches of all processes together at one step."""
        return self.batch_size * self.num_processes

    @property
    def num_clusters(self) -> int:
        """Number of non-empty clusters."""
        return len(self._sizes)

    @property
    def sampler(self) -> DistinctLabelBatchSampler:
        """Itself: Accelerate hands the epoch to `batch_sampler.sampler` once it has wrapped the batch sampler."""
        return self

    def _count_steps(self) -> int:
        total, images = self.global_batch_size, int(self._sizes.sum())
        if images < total:
            raise ValueError(
                f"{images} images cannot fill one batch of {total} (batch_size {self.batch_size} x {self.num_processes} "
                f"process{'es' if self.num_processes > 1 else ''}); lower batch_size"
            )
        if not self.strict:
            return images // total
        if self.num_clusters < total:
            raise ValueError(
                f"labels hold {self.num_clusters} non-empty clusters for a batch of {total} distinct labels (batch_size "
                f"{self.batch_size} x {self.num_processes} process{'es' if self.num_processes > 1 else ''}); lower "
                f"batch_size to at most {max(1, self.num_clusters // self.num_processes)}, make more clusters, or pass "
                "strict=False"
            )
        low, high = 1, images // total  # sum_k min(size_k, t) - t * total is concave in t and not negative at t = 1
        while low < high:
            middle = (low + high + 1) // 2
            if int(np.minimum(self._sizes, middle).sum()) >= middle * total:
                low = middle
            else:
                high = middle - 1
        return low

    def global_batches(self, epoch: int | None = None) -> np.ndarray:
        """Row numbers of one epoch, one global batch a row.

        Args:
            epoch (`int`, *optional*): the epoch; default is the current one.

        Returns:
            `np.ndarray` [steps, num_processes * batch_size]: int64 row numbers; process r takes columns
            `r * batch_size` to `(r + 1) * batch_size`.
        """
        codes, steps, total = self._codes, self._steps, self.global_batch_size
        rng = np.random.default_rng([self.seed, self.epoch if epoch is None else epoch])
        within = rng.permutation(len(codes)) if self.reshuffle else np.arange(len(codes))
        rank = _ranks(codes, within)
        if not self.strict:
            batches = np.lexsort((codes, rank))[: steps * total].reshape(steps, total)
            return batches[rng.permutation(steps)] if self.reshuffle else batches
        if self.reshuffle:
            place = rng.permutation(self.num_clusters)
        else:
            place = np.argsort(np.argsort(-self._sizes, kind="stable"), kind="stable")
        # low ranks first: when not everything fits, the clusters with the most images lose their last ones
        kept = np.lexsort((place[codes], rank))[: steps * total]
        # Lay the kept images out cluster after cluster and deal them to the batches in turn. No cluster has more than
        # `steps` images left (as their number is the largest that can be filled), so none meets itself in a batch.
        dealt = kept[np.lexsort((rank[kept], place[codes[kept]]))]
        batches = dealt.reshape(total, steps).T
        if not self.reshuffle:
            return np.ascontiguousarray(batches)
        # columns are clusters in the order dealt: mix them, or each process would always see the same clusters
        return rng.permuted(batches, axis=1)[rng.permutation(steps)]

    def __iter__(self) -> Iterator[list[int]]:
        yield from self.global_batches().reshape(-1, self.batch_size).tolist()

    def __len__(self) -> int:
        return self._steps * self.num_processes

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch that the next iteration draws."""
        self.epoch = int(epoch)

    def describe(self) -> str:
        """One line for the report at the start of a run."""
        kind = "strict (distinct labels in every global batch)" if self.strict else "official order (rank, cluster)"
        return (
            f"{kind}: {self._steps} steps of {self.num_processes} x {self.batch_size} images from {self.num_clusters} "
            f"clusters of {self._sizes.min()} to {self._sizes.max()}; {self.dropped} of {len(self._codes)} images left "
            f"out per epoch; {'reshuffled each epoch' if self.reshuffle else 'same order every epoch'}"
        )


def set_dataloader_epoch(dataloader: Any, epoch: int) -> None:
    """Tells every part of a dataloader which epoch comes next, through whatever wraps them.

    Accelerate's `DataLoaderShard.set_epoch` does not look past two wrappers (it misses a sampler behind
    `SkipBatchSampler(BatchSamplerShard(...))`, that is, a resumed run on several processes) and knows no collator. Call
    this before iterating.

    Args:
        dataloader: a `DataLoader`, prepared by Accelerate or not.
        epoch (`int`): number of the epoch about to start.

    Example:

    ```python
    >>> from torch.utils.data import DataLoader
    >>> from hf_contrastive.data import DistinctLabelBatchSampler, set_dataloader_epoch
    >>> loader = DataLoader(range(6), batch_sampler=DistinctLabelBatchSampler([0, 0, 1, 1, 2, 2], 3))
    >>> set_dataloader_epoch(loader, 4)
    >>> loader.batch_sampler.epoch
    4

    ```
    """
    seen: set[int] = set()
    waiting: list[Any] = [dataloader]
    while waiting:
        part = waiting.pop()
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        if hasattr(part, "set_epoch"):
            part.set_epoch(epoch)
        for name in ("base_dataloader", "batch_sampler", "sampler", "dataset", "collate_fn", "data_collator"):
            waiting.append(getattr(part, name, None))
