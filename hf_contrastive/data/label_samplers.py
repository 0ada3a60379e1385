"""Batches in which labels repeat: several rows of every class, or groups of classes that are hard to tell apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from hf_contrastive.data.random_numbers import stateless_uniform
from hf_contrastive.data.schema import integer_column


class _LabelBatchSampler(Sampler[list[int]]):
    """What both share: checked sizes, rows by class, the epoch."""

    #: all batches are made for all processes, and none is left over
    drop_last = True

    def __init__(self, labels: Any, batch_size: int, m: int, num_processes: int, seed: int) -> None:
        for name, value in (("batch_size", batch_size), ("m", m), ("num_processes", num_processes)):
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        self.labels = integer_column(labels, "labels")
        if self.labels.size == 0:
            raise ValueError("labels is empty; expected one integer per row of the dataset")
        self.batch_size, self.m = int(batch_size), int(m)
        self.num_processes, self.seed, self.epoch = int(num_processes), int(seed), 0
        self.classes, codes = np.unique(self.labels, return_inverse=True)
        self._codes = codes.reshape(-1)
        self._sizes = np.bincount(self._codes)
        self._starts = np.concatenate(([0], np.cumsum(self._sizes)[:-1]))

    @property
    def global_batch_size(self) -> int:
        """Rows in the batches of all processes together at one step."""
        return self.batch_size * self.num_processes

    @property
    def sampler(self) -> _LabelBatchSampler:
        """Itself: Accelerate hands the epoch to `batch_sampler.sampler` once it has wrapped the batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch that the next iteration draws."""
        self.epoch = int(epoch)

    def _processes(self) -> str:
        return f"batch_size {self.batch_size} x {self.num_processes} process{'es' if self.num_processes > 1 else ''}"


class MPerClassBatchSampler(_LabelBatchSampler):
    """Batches of m rows of each of several classes (the plain batches of CLIPPINGS, https://arxiv.org/abs/2304.03464).

    The classes are shuffled for every pass; a pass goes through them once, and what does not fill a batch of all processes is left
    out of it. The rows of a class are taken m at a time and none comes again before fewer than m are left; then all are shuffled
    anew. A class with fewer than m rows repeats them.

    Under Accelerate, batch `i` goes to process `i % num_processes`; the sampler yields the batches of all processes one after the
    other, and the classes of one step are distinct over all processes. The order depends on `(seed, epoch)` alone: every process
    sees the same, and leaving out the first k batches of an epoch gives the continuation of an interrupted one.

    Args:
        labels (array-like [n]): integer label of each row, in row order; any integers.
        batch_size (`int`): rows per batch and process, a multiple of m.
        m (`int`, defaults to 3): rows of each class.
        num_passes (`int`, *optional*): passes of an epoch; by default as many as draw about n rows.
        num_processes (`int`, defaults to 1): number of processes that share the batches.
        seed (`int`, defaults to 0): seed of the draws.

    Raises:
        ValueError: a batch that m does not divide, fewer classes than a step needs, a label that is not a whole number.

    Example:

    ```python
    >>> from hf_contrastive.data import MPerClassBatchSampler
    >>> labels = [0, 0, 0, 0, 1, 1, 2, 2, 2, 3]
    >>> sampler = MPerClassBatchSampler(labels, batch_size=4, m=2)
    >>> [[labels[row] for row in batch][::2] for batch in sampler]
    [[2, 0], [1, 3]]

    ```
    """

    def __init__(
        self,
        labels: Any,
        batch_size: int,
        m: int = 3,
        *,
        num_passes: int | None = None,
        num_processes: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(labels, batch_size, m, num_processes, seed)
        if batch_size % m:
            raise ValueError(
                f"batch_size must be divisible by m = {m}, got {batch_size}; the nearest are {batch_size // m * m or m} and "
                f"{(batch_size // m + 1) * m}"
            )
        needed = self.global_batch_size // m
        if len(self.classes) < needed:
            raise ValueError(
                f"labels hold {len(self.classes)} classes, but a step needs {needed} ({self._processes()}, {m} rows each); lower "
                f"batch_size to at most {len(self.classes) // self.num_processes * m}, or raise m"
            )
        if num_passes is not None and num_passes < 1:
            raise ValueError(f"num_passes must be at least 1, got {num_passes!r}")
        drawn = m * len(self.classes)
        self.num_passes = max(1, round(len(self.labels) / drawn)) if num_passes is None else int(num_passes)
        self._steps_per_pass = len(self.classes) // needed

    def global_batches(self, epoch: int | None = None) -> np.ndarray:
        """Row numbers of one epoch, one step of all processes a row.

        Args:
            epoch (`int`, *optional*): the epoch; default is the current one.

        Returns:
            `np.ndarray` [steps, num_processes * batch_size]: int64; process r takes columns `r * batch_size` to
            `(r + 1) * batch_size`.
        """
        first = (self.epoch if epoch is None else epoch) * self.num_passes
        steps, parts = self._steps_per_pass, []
        for number in range(first, first + self.num_passes):
            order = np.random.default_rng([self.seed, number]).permutation(len(self.classes))
            chosen = order[: steps * (self.global_batch_size // self.m)]
            parts.append(self._rows_of_pass(number)[chosen].reshape(steps, self.global_batch_size))
        return np.concatenate(parts)

    def _rows_of_pass(self, number: int) -> np.ndarray:
        """`[classes, m]` row numbers: every class's next m, by the number of the pass alone."""
        m, sizes = self.m, self._sizes
        takes = np.maximum(1, sizes // m)  # how often m rows can be taken before the class is used up
        cycle, take = number // takes, number % takes
        rows = np.arange(len(self._codes))
        keys = stateless_uniform(self.seed, 0, rows, cycle[self._codes], 1)[:, 0]
        order = np.lexsort((keys, self._codes))
        places = (take[:, None] * m + np.arange(m)[None, :]) % sizes[:, None]
        return order[self._starts[:, None] + places]

    def __iter__(self) -> Iterator[list[int]]:
        yield from self.global_batches().reshape(-1, self.batch_size).tolist()

    def __len__(self) -> int:
        return self._steps_per_pass * self.num_passes * self.num_processes

    def describe(self) -> str:
        """One line for the report at the start of a run."""
        return (
            f"{self.m} rows of each of {self.batch_size // self.m} classes in a batch; {self.num_passes} passes an epoch over "
            f"{len(self.classes)} classes of {self._sizes.min()} to {self._sizes.max()} rows"
        )


class HardNegativeBatchSampler(_LabelBatchSampler):
    """Batches of whole groups of labels that the model confuses (the hard negatives of CLIPPINGS,
    https://arxiv.org/abs/2304.03464): every label with its k - 1 nearest others, m rows of each.

    A batch holds consecutive groups in the order in which they were mined, k * m rows each; the groups that do not fill a step of
    all processes are left out, others each epoch. Every epoch draws other rows of the labels.

    Under Accelerate, batch `i` goes to process `i % num_processes`; the sampler yields the batches of all processes one after the
    other. The draws depend on `(seed, epoch)` and the groups alone.

    Args:
        labels (array-like [n]): integer label of each row, in row order; any integers.
        groups: `[G, k]` labels, [`~hf_contrastive.evaluation.mine_hard_negatives`] gives them; or a function of the epoch's number
            that mines them with the model of that moment, one group for each label.
        batch_size (`int`): rows per batch and process, a multiple of k * m.
        k (`int`, defaults to 3): labels of a group, the anchor among them.
        m (`int`, defaults to 3): rows of each label of a group, drawn with replacement.
        remine (`bool`, defaults to `False`): ask the function at every epoch; otherwise once, as the official code does.
        all_of_small (`bool`, defaults to `False`): for data with singletons: of a label with fewer than m rows take all, of the
            others m different ones. Batches then hold at most `batch_size` rows, and only one process can share them.
        num_processes (`int`, defaults to 1): number of processes that share the batches.
        seed (`int`, defaults to 0): seed of the draws.

    Raises:
        ValueError: a batch that k * m does not divide, too few groups for a step, a group with a label that has no row.

    Example:

    ```python
    >>> from hf_contrastive.data import HardNegativeBatchSampler
    >>> labels = [0, 0, 1, 1, 2, 2]
    >>> sampler = HardNegativeBatchSampler(labels, [[0, 1], [1, 0], [2, 1]], batch_size=4, k=2, m=2)
    >>> [[labels[row] for row in batch] for batch in sampler]
    [[0, 0, 1, 1], [1, 1, 0, 0], [2, 2, 1, 1]]

    ```
    """

    def __init__(
        self,
        labels: Any,
        groups: Any | Callable[[int], Any],
        batch_size: int,
        *,
        k: int = 3,
        m: int = 3,
        remine: bool = False,
        all_of_small: bool = False,
        num_processes: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(labels, batch_size, m, num_processes, seed)
        self.k, self.remine, self.all_of_small = int(k), bool(remine), bool(all_of_small)
        if batch_size % (k * m):
            raise ValueError(f"batch_size must be divisible by k*m = {k * m}, got {batch_size}")
        small = int((self._sizes < m).sum())
        if all_of_small and small and num_processes > 1:
            raise ValueError(
                f"all_of_small makes batches of different sizes ({small} labels have fewer than {m} rows), which {num_processes} "
                "processes cannot share; use one process, or all_of_small=False, which repeats rows"
            )
        self._mine = groups if callable(groups) else None
        self._mined_at: int | None = None
        self._groups = np.empty((0, self.k), dtype=np.int64)
        if self._mine is None:
            self._set_groups(groups)
        self.num_groups = len(self.classes) if self._mine is not None else len(self._groups)
        if self.num_groups < self._groups_per_step:
            raise ValueError(
                f"{self.num_groups} groups are fewer than the {self._groups_per_step} of one step ({self._processes()}, {k * m} rows a "
                f"group); lower batch_size to at most {self.num_groups // self.num_processes * k * m}"
            )

    @property
    def _groups_per_step(self) -> int:
        return self.global_batch_size // (self.k * self.m)

    def _set_groups(self, groups: Any) -> None:
        found = np.asarray(getattr(groups, "labels", groups))
        if found.ndim != 2 or found.shape[1] != self.k:
            raise ValueError(f"groups has shape {list(found.shape)}, expected [groups, k = {self.k}] labels")
        flat = integer_column(found.reshape(-1), "groups")
        places = np.searchsorted(self.classes, flat).clip(max=len(self.classes) - 1)
        absent = flat[self.classes[places] != flat]
        if len(absent):
            raise ValueError(
                f"groups holds the label {int(absent[0])}, which no row has; mine among the labels of the rows"
            )
        self._groups = places.reshape(found.shape)

    def mine(self, epoch: int | None = None) -> None:
        """Ask for the groups of an epoch, where that is due.

        Args:
            epoch (`int`, *optional*): the epoch; default is the current one.

        Raises:
            ValueError: not one group for each label.
        """
        epoch = self.epoch if epoch is None else epoch
        if self._mine is None or self._mined_at == epoch or (self._mined_at is not None and not self.remine):
            return
        self._set_groups(self._mine(epoch))
        if len(self._groups) != self.num_groups:
            raise ValueError(
                f"{len(self._groups)} groups were mined, expected one for each of {self.num_groups} labels"
            )
        self._mined_at = epoch

    def draw(self, epoch: int | None = None) -> tuple[list[np.ndarray], np.ndarray]:
        """The rows of every group of an epoch, in the order in which batches take them.

        Args:
            epoch (`int`, *optional*): the epoch; default is the current one.

        Returns:
            `(rows, anchors)`: for each group its row numbers, label by label, and the number of the group (the anchor's id; a row
            that stands in several groups has one in each).
        """
        epoch = self.epoch if epoch is None else epoch
        self.mine(epoch)
        count = len(self._groups)
        used = count // self._groups_per_step * self._groups_per_step
        # where some are left out, another epoch begins behind them
        anchors = (np.arange(used) + epoch * (count - used)) % count
        by_class = np.argsort(self._codes, kind="stable")
        random = np.random.default_rng([self.seed, epoch])
        if self.all_of_small:
            rows = [np.concatenate([self._few(code, by_class, random) for code in self._groups[a]]) for a in anchors]
            return rows, anchors
        codes = self._groups[anchors]
        places = (random.random((used, self.k, self.m)) * self._sizes[codes][..., None]).astype(np.int64)
        return list(by_class[self._starts[codes][..., None] + places].reshape(used, -1)), anchors

    def _few(self, code: int, by_class: np.ndarray, random: np.random.Generator) -> np.ndarray:
        own = by_class[self._starts[code] : self._starts[code] + self._sizes[code]]
        return own if len(own) <= self.m else random.permutation(own)[: self.m]

    def __iter__(self) -> Iterator[list[int]]:
        rows, _ = self.draw()
        each = self.batch_size // (self.k * self.m)
        for start in range(0, len(rows), each):
            yield np.concatenate(rows[start : start + each]).tolist()

    def __len__(self) -> int:
        return self.num_groups // self._groups_per_step * self.num_processes

    def describe(self) -> str:
        """One line for the report at the start of a run."""
        when = "given" if self._mine is None else "mined at every epoch" if self.remine else "mined once"
        return (
            f"{self.batch_size // (self.k * self.m)} groups of {self.k} labels x {self.m} rows in a batch, {when}; {self.num_groups} "
            f"groups of {len(self.classes)} labels with {self._sizes.min()} to {self._sizes.max()} rows"
        )


__all__ = ["HardNegativeBatchSampler", "MPerClassBatchSampler"]
