"""Random numbers for draws inside an objective: each is a hash of what it is for, so there is no state to share or to save."""

from __future__ import annotations

import torch
from torch import Tensor


def _signed(word: int) -> int:
    return word - (1 << 64) if word >= 1 << 63 else word


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_M1 = _signed(0xBF58476D1CE4E5B9)
_M2 = _signed(0x94D049BB133111EB)
_POSITIVE = (1 << 62) - 1


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right; torch's own copies the sign."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """The SplitMix64 finaliser (Steele, Lea and Flood, 2014); the products wrap around, as they have to."""
    x = (x ^ _shift(x, 30)).mul_(_M1)
    x = (x ^ _shift(x, 27)).mul_(_M2)
    return x ^ _shift(x, 31)


class KeyedDraws:
    """Draws for the rows of a batch that depend on seed, step and row alone.

    A generator's next number depends on all numbers asked before: on the batch a row lands in, on the number of processes,
    on where a run was resumed. Here the draws of a row are the same wherever and whenever they are made; the two numbers
    that a resumed run needs, seed and step, are buffers of the memory bank.

    Args:
        seed (`int` or `Tensor` without dimensions): of the run.
        step (`int` or `Tensor` without dimensions): number of the optimiser step.
        rows (`LongTensor` `[N]`): what tells the rows apart, for example their numbers in the data set.
        views (`LongTensor` `[N]`, *optional*): tells apart rows with the same number.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.modules.keyed_random import KeyedDraws
    >>> both = KeyedDraws(seed=0, step=3, rows=torch.tensor([7, 9])).integers(0, 5, high=100)
    >>> alone = KeyedDraws(seed=0, step=3, rows=torch.tensor([9])).integers(0, 5, high=100)
    >>> both.shape, torch.equal(both[1:], alone)
    (torch.Size([2, 5]), True)

    ```
    """

    def __init__(self, seed: int | Tensor, step: int | Tensor, rows: Tensor, views: Tensor | None = None) -> None:
        state = torch.zeros_like(rows)
        for key in (seed, step, rows, 0 if views is None else views):
            word = torch.as_tensor(key, dtype=torch.long, device=rows.device)
            state = _mix((state ^ _mix(word + _GOLDEN)) + _GOLDEN)
        self.state = state

    def words(self, stream: int, counters: Tensor) -> Tensor:
        """Integers from 0 to 2^62 - 1.

        Args:
            stream (`int`): what is drawn; streams are independent of each other.
            counters (`LongTensor` `[M]` or `[N, M]`): number of each draw of a row.

        Returns:
            `LongTensor` `[N, M]`.
        """
        state = _mix(self.state + _signed(((stream + 1) * 0xD1B54A32D192ED03) & 0xFFFFFFFFFFFFFFFF))
        return _mix(state[:, None] + (counters + 1) * _GOLDEN).bitwise_and_(_POSITIVE)

    def integers(self, stream: int, count: int, high: int | Tensor) -> Tensor:
        """Uniform integers from 0 to `high` - 1.

        Args:
            stream (`int`): what is drawn.
            count (`int`): M, draws of each row.
            high (`int` or `LongTensor` `[N]`): below 2^40, so that what the division leaves uneven is below one in a million.

        Returns:
            `LongTensor` `[N, M]`.
        """
        words = self.words(stream, torch.arange(count, device=self.state.device))
        return words % (high[:, None] if isinstance(high, Tensor) else high)

    def __getitem__(self, part: slice) -> KeyedDraws:
        """The draws of some of the rows."""
        some = object.__new__(KeyedDraws)
        some.state = self.state[part]
        return some


__all__ = ["KeyedDraws"]
