"""How sure a measured mean is."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from hf_contrastive.evaluation._checks import check_count


def bootstrap_interval(
    correct: Any, *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean, for example of an accuracy.

    It tells how far the number would move with another test set of this size; it says nothing about other training seeds.
    When every answer is right (or every one wrong) all resamples agree and the interval has no width.

    Args:
        correct (`[N]` booleans or numbers): 1 where a test row was right; any per-row score will do.
        confidence (`float`, defaults to 0.95): share of the resampled means inside the interval.
        resamples (`int`, defaults to 10,000): how often the test set is redrawn.
        seed (`int`, defaults to 0): of the redrawing.

    Returns:
        `(low, high)`.

    Raises:
        ValueError: an empty or not one-dimensional input, NaN or infinity, a confidence outside 0 to 1.

    Example:

    ```python
    >>> from hf_contrastive.evaluation import bootstrap_interval
    >>> low, high = bootstrap_interval([True] * 90 + [False] * 10)
    >>> 0.82 < low < 0.9 < high < 0.97
    True

    ```
    """
    values = correct.detach().cpu().numpy() if isinstance(correct, torch.Tensor) else np.asarray(correct)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"`correct` has shape {list(values.shape)}; expected [rows] with at least one row")
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"`correct`: {int((~np.isfinite(values)).sum())} of {len(values)} values are NaN or infinity")
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` is {confidence!r}; expected a number between 0 and 1")
    check_count("resamples", resamples)
    rng = np.random.default_rng(seed)
    n = len(values)
    if np.isin(values, (0.0, 1.0)).all():
        means = rng.binomial(n, values.mean(), size=resamples) / n  # the same draw without drawing every row
    else:
        size = max(1, 2**22 // n)
        counts = [min(size, resamples - start) for start in range(0, resamples, size)]
        means = np.concatenate([values[rng.integers(0, n, size=(count, n))].mean(1) for count in counts])
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
