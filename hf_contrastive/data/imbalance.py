"""Long-tailed subsets of balanced data."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


IMBALANCES = ("linear", "exponential")


def imbalanced_subset(
    targets: Sequence[int] | np.ndarray, mode: str = "linear", num_classes: int | None = None, seed: int = 2021
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a subset in which the classes have different sizes, as in the experiments of CACR
    (https://arxiv.org/abs/2105.03746, section 5 and published code).

    Of C classes, class i (from 0) keeps the share (i + 1) / C of its rows (linear) or exp(i + 1) / exp(C) (exponential),
    rounded down. Each class is shuffled with a generator that starts from `seed` anew.

    Args:
        targets (`Sequence[int]` of length N): the class of every row, from 0 to C - 1.
        mode (`str`, defaults to `"linear"`): or `"exponential"`.
        num_classes (`int`, *optional*): C; by default the largest class + 1.
        seed (`int`, defaults to 2021): of the draws (official code: 2021).

    Returns:
        `(selected, sizes)`: row numbers class by class, `int64`, and how many each class keeps `[C]`, `int64`.

    Raises:
        ValueError: an unknown mode, classes out of range, or nothing left.

    Example:

    ```python
    >>> import numpy as np
    >>> from hf_contrastive.data import imbalanced_subset
    >>> selected, sizes = imbalanced_subset(np.repeat([0, 1], 10), "linear")
    >>> sizes.tolist(), len(selected)
    ([5, 10], 15)

    ```
    """
    if mode not in IMBALANCES:
        raise ValueError(f"`mode` is {mode!r}, expected one of: {', '.join(IMBALANCES)}.")
    classes = np.asarray(targets)
    if classes.ndim != 1 or classes.size == 0 or classes.dtype.kind not in "iu":
        raise ValueError(
            f"`targets` must be one whole number per row, got {classes.dtype} of shape {list(classes.shape)}."
        )
    count = int(classes.max()) + 1 if num_classes is None else num_classes
    if classes.min() < 0 or classes.max() >= count:
        raise ValueError(
            f"`targets` must be from 0 to {count - 1} (num_classes={count}), got {classes.min()} to {classes.max()}."
        )
    selected = []
    for label in range(count):
        rows = np.flatnonzero(classes == label)
        share = (label + 1) / count if mode == "linear" else math.exp(label + 1) / math.exp(count)
        order = np.arange(len(rows))
        np.random.RandomState(seed).shuffle(order)
        selected.append(rows[order[: int(share * len(rows))]])
    sizes = np.array([len(rows) for rows in selected], dtype=np.int64)
    if sizes.sum() == 0:
        raise ValueError(
            f"no row is left: the {len(classes)} rows of {count} classes are too few for the {mode} imbalance."
        )
    return np.concatenate(selected).astype(np.int64), sizes


__all__ = ["IMBALANCES", "imbalanced_subset"]
