"""Pairs of programs that do the same: drawing, and batches of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler

from hf_contrastive.data.program_processor import ProgramProcessor
from hf_contrastive.data.program_syntax import UnusableProgram
from hf_contrastive.data.program_transforms import ProgramAugmenter
from hf_contrastive.data.programs import drop_bad
from hf_contrastive.data.schema import integer_column


#: a pair: row of the first program, row of the second one, number of the pair in the run
Pair = tuple[int, int, int]


class PairBatchSampler(Sampler[list[Pair]]):
    """Batches of pairs of rows with one label, as many batches an epoch as asked for.

    The official code of https://arxiv.org/abs/2206.08726 enumerates all pairs of a label, 8 million for POJ-104 in an epoch; here
    every batch is drawn. A batch holds as many labels as it can, each about equally often, so that there are negatives; the
    two programs of a pair are drawn evenly from those of the label.

    Under Accelerate, batch `i` goes to process `i % num_processes`, as in [`DistinctLabelBatchSampler`]. What is drawn depends
    on `(seed, epoch, step)` alone: every process sees the same, and leaving out the first batches of an epoch gives the
    continuation of an interrupted one.

    Args:
        labels (array-like [n]): whole number of each row.
        batch_size (`int`): pairs per batch and process.
        steps (`int`): batches of an epoch and process.
        num_processes (`int`, defaults to 1): processes that share the batches.
        groups (array-like [n], *optional*): a batch holds labels of one group only (copies of solutions of one contest task
            beside those of other solutions of it: hard negatives).
        with_itself (`bool`, defaults to `False`): a row without a partner makes a pair with itself, for disguised copies
            (`ProgramAugmenter`); otherwise it is left out.
        seed (`int`, defaults to 0): of the draws.

    Raises:
        ValueError: no label has two programs, or only one has; a count below 1; labels that are no whole numbers.

    Attributes:
        left_out (`int`): rows whose label has no other program.

    Example:

    ```python
    >>> from hf_contrastive.data import PairBatchSampler
    >>> sampler = PairBatchSampler([0, 0, 1, 1, 1], batch_size=2, steps=3)
    >>> [len({first < 2 for first, second, _ in batch}) for batch in sampler]  # both labels in every batch
    [2, 2, 2]

    ```
    """

    drop_last = True

    def __init__(
        self,
        labels: Any,
        batch_size: int,
        steps: int,
        *,
        num_processes: int = 1,
        groups: Any = None,
        with_itself: bool = False,
        seed: int = 0,
    ) -> None:
        counts = (("batch_size", batch_size), ("steps", steps), ("num_processes", num_processes))
        for name, value in counts:
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        labels = integer_column(labels, "labels")
        if labels.size == 0:
            raise ValueError("labels is empty; expected one whole number per program")
        self.batch_size, self.steps = int(batch_size), int(steps)
        self.num_processes, self.seed = int(num_processes), int(seed)
        self.epoch = 0
        known, codes = np.unique(labels, return_inverse=True)
        members = [np.flatnonzero(codes == code) for code in range(len(known))]
        self.left_out = 0 if with_itself else sum(len(rows) == 1 for rows in members)
        self._members = {code: rows for code, rows in enumerate(members) if len(rows) > 1 or with_itself}
        if not self._members:
            raise ValueError(
                f"none of the {len(known)} labels has two programs, so there is no pair; check the labels"
            )
        if self.left_out:
            warnings.warn(f"{self.left_out} programs are the only ones of their label and make no pair", stacklevel=2)
        by_group: dict[int, list[int]] = {}
        if groups is not None:
            groups = integer_column(groups, "groups")
            if len(groups) != len(labels):
                raise ValueError(f"groups has {len(groups)} rows and labels {len(labels)}; expected the same number")
            for code, rows in self._members.items():
                own = set(groups[rows].tolist())
                if len(own) > 1:
                    raise ValueError(
                        f"programs of label {known[code]} are in groups {sorted(own)}; a label has one group"
                    )
                by_group.setdefault(own.pop(), []).append(code)
        else:
            by_group[0] = list(self._members)
        self._groups = [codes for _, codes in sorted(by_group.items()) if len(codes) > 1]
        if not self._groups:
            raise ValueError(
                "every batch would hold a single label, so there would be no negatives; give programs of two labels or more"
                + (" in a group" if groups is not None else "")
            )

    @property
    def global_batch_size(self) -> int:
        """Pairs in the batches of all processes together at one step."""
        return self.batch_size * self.num_processes

    @property
    def num_labels(self) -> int:
        """Labels that have pairs."""
        return len(self._members)

    @property
    def sampler(self) -> PairBatchSampler:
        """Itself: Accelerate hands the epoch to `batch_sampler.sampler` once it has wrapped the batch sampler."""
        return self

    def global_batch(self, step: int, epoch: int | None = None) -> list[Pair]:
        """The pairs of all processes at one step; process r takes those from `r * batch_size` on.

        Args:
            step (`int`): from 0.
            epoch (`int`, *optional*): the current one by default.
        """
        epoch = self.epoch if epoch is None else epoch
        rng = np.random.default_rng([self.seed, epoch, step])
        total = self.global_batch_size
        codes = self._groups[int(rng.integers(len(self._groups)))] if len(self._groups) > 1 else self._groups[0]
        rounds = -(-total // len(codes))
        order = np.concatenate([rng.permutation(codes) for _ in range(rounds)])[:total]
        if rounds > 1:
            order = rng.permutation(order)
        pairs = []
        for place, code in enumerate(order):
            rows = self._members[int(code)]
            first, second = rng.choice(rows, 2, replace=False) if len(rows) > 1 else (rows[0], rows[0])
            pairs.append((int(first), int(second), (epoch * self.steps + step) * total + place))
        return pairs

    def __iter__(self) -> Iterator[list[Pair]]:
        for step in range(self.steps):
            pairs = self.global_batch(step)
            for process in range(self.num_processes):
                yield pairs[process * self.batch_size : (process + 1) * self.batch_size]

    def __len__(self) -> int:
        return self.steps * self.num_processes

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch that the next iteration draws."""
        self.epoch = int(epoch)

    def describe(self) -> str:
        """One line for the report at the start of a run."""
        sizes = [len(rows) for rows in self._members.values()]
        groups = f" in {len(self._groups)} groups, one a batch" if len(self._groups) > 1 else ""
        return (
            f"{self.steps} steps of {self.num_processes} x {self.batch_size} pairs from {self.num_labels} labels of "
            f"{min(sizes)} to {max(sizes)} programs{groups}; {self.left_out} programs without a partner"
        )


class ProgramPairs:
    """Programs that are asked for in pairs, as [`PairBatchSampler`] names them.

    Args:
        programs (`datasets.Dataset`): of [`load_programs`].
    """

    def __init__(self, programs: Any) -> None:
        self.programs = programs

    def __len__(self) -> int:
        return len(self.programs)

    def __getitem__(self, pair: Pair) -> dict[str, Any]:
        first, second, number = pair
        return {"first": self.programs[first], "second": self.programs[second], "number": number}


class ProgramCollator:
    """Rows of programs to a batch for `encode`; what was read once is kept.

    Args:
        processor ([`ProgramProcessor`]): programs to tensors.

    Returns (when called with a list of rows):
        `dict[str, Tensor]`: what the encoder takes, `[batch, ...]`, and `label` `[batch]` where the rows have it.
    """

    def __init__(self, processor: ProgramProcessor) -> None:
        self.processor = processor
        self._known: dict[tuple[str, str], Any] = {}

    def read(self, row: dict[str, Any]) -> Any:
        """Features of one program, as the processor makes them."""
        key = (row["language"], row["code"])
        if key not in self._known:
            self._known[key] = self.processor.features(row["code"], row["language"])
        return self._known[key]

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = self.processor.pad([self.read(row) for row in rows])
        if "label" in rows[0]:
            batch["label"] = torch.tensor([row["label"] for row in rows])
        return batch


class PairCollator(ProgramCollator):
    """Pairs of programs to a batch for training.

    Args:
        processor ([`ProgramProcessor`]): programs to tensors.
        augmenter ([`ProgramAugmenter`], *optional*): rewrites both programs of every pair, anew for every pair of the run.

    Returns (when called with rows of [`ProgramPairs`]):
        `dict[str, Tensor]`: what the encoder takes, `[batch, 2, ...]`, and `labels` `[batch]`.
    """

    def __init__(self, processor: ProgramProcessor, augmenter: ProgramAugmenter | None = None) -> None:
        super().__init__(processor)
        self.augmenter = augmenter

    def _side(self, row: dict[str, Any], number: int, side: int) -> Any:
        if self.augmenter is None:
            return self.read(row)
        code = self.augmenter(row["code"], row["language"], (number, side))
        try:
            return self.processor.features(code, row["language"])
        except UnusableProgram:  # rewritten, it falls apart for the encoder; as it was, it did not
            return self.read(row)

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        found = [
            self._side(row[name], row["number"], side) for row in rows for side, name in enumerate(("first", "second"))
        ]
        batch = {name: value.unflatten(0, (-1, 2)) for name, value in self.processor.pad(found).items()}
        return {**batch, "labels": torch.tensor([row["first"]["label"] for row in rows])}


def usable_programs(programs: Any, processor: ProgramProcessor, on_bad: str = "skip") -> Any:
    """The programs that an encoder can read.

    Args:
        programs (`datasets.Dataset`): of [`load_programs`].
        processor ([`ProgramProcessor`]): of the encoder.
        on_bad (`str`, defaults to `"skip"`): `"skip"` leaves the others out and says which and why, `"error"` stops.

    Returns:
        `datasets.Dataset`: with a new `index`.

    Raises:
        ValueError: unreadable programs with `on_bad="error"`, or no readable one.
    """
    good, bad = [], []
    for row, program in enumerate(programs):
        try:
            processor.features(program["code"], program["language"])
            good.append(row)
        except UnusableProgram as error:
            bad.append((str(program["id"]), str(error)))
    drop_bad("cannot be read", bad, len(programs), on_bad)
    if not bad:
        return programs
    kept = programs.select(good).remove_columns("index")
    return kept.add_column("index", np.arange(len(good)))


__all__ = ["Pair", "PairBatchSampler", "PairCollator", "ProgramCollator", "ProgramPairs", "usable_programs"]
