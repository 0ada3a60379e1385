"""Random numbers without a state: every number is a hash of what it is for.

An augmentation that asks a generator for its next number depends on everything asked before: on the number of workers,
on the batch the image landed in, on where training was resumed. Here number `d` of view `v` of image `i` in epoch `e`
is a function of `(seed, e, i, v, d)` alone (the SplitMix64 finaliser of Steele, Lea and Flood, 2014, used as a counter
based generator).
"""

from __future__ import annotations

import numpy as np


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_M1 = np.uint64(0xBF58476D1CE4E5B9)
_M2 = np.uint64(0x94D049BB133111EB)


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64 finaliser: a bijection of 64-bit words in which every input bit reaches every output bit."""
    x = (x ^ (x >> np.uint64(30))) * _M1
    x = (x ^ (x >> np.uint64(27))) * _M2
    return x ^ (x >> np.uint64(31))


def _word(value: int | np.ndarray) -> np.ndarray:
    if isinstance(value, (int, np.integer)):
        return np.array([int(value) & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64)
    return np.asarray(value).astype(np.int64).astype(np.uint64)


def stateless_uniform(seed: int, epoch: int, index: np.ndarray, view: np.ndarray, draws: int) -> np.ndarray:
    """Uniform numbers in [0, 1) that depend on their coordinates only.

    Args:
        seed (`int`): the run's seed.
        epoch (`int`): number of the epoch.
        index (`np.ndarray` [n]): row number of each sample, any integers.
        view (`np.ndarray` [n]): number of the view of each sample.
        draws (`int`): how many numbers each (sample, view) pair gets.

    Returns:
        `np.ndarray` [n, draws]: float64 in [0, 1), 53 random bits each.

    Example:

    ```python
    >>> import numpy as np
    >>> from hf_contrastive.data import stateless_uniform
    >>> both = stateless_uniform(0, 3, np.array([7, 9]), np.array([0, 0]), draws=4)
    >>> alone = stateless_uniform(0, 3, np.array([9]), np.array([0]), draws=4)
    >>> bool((both[1] == alone[0]).all())
    True

    ```
    """
    with np.errstate(over="ignore"):  # wrap-around is the arithmetic that is meant
        state = np.zeros(1, dtype=np.uint64)
        # the seed goes through the same steps: mixed in beside the epoch it would be exchangeable with it
        for part in (seed, epoch, index, view):
            state = _mix((state ^ _mix(_word(part) + _GOLDEN)) + _GOLDEN)
        counters = np.arange(1, draws + 1, dtype=np.uint64) * _GOLDEN
        words = _mix(state[:, None] + counters[None, :])
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
