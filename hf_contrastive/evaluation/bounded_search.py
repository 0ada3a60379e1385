"""Exact search for the largest dot products that passes over what cannot be among them.

A dot product is at most the product of both lengths (Cauchy and Schwarz). So once k items are found for a user, items whose length
times the user's is below the k-th of them need not be looked at: with the longest items first, most users are done after a small
part of a catalogue where lengths differ, as those of trained recommenders do. The idea is that of LEMP (Teflioudi, Gemulla &
Mykytiuk 2015, https://doi.org/10.1145/2723372.2747647), here with whole blocks of items and users, for matrix products.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_contrastive.tensor_utils import top_k


# items of the first two blocks, each further one is twice as large up to the second number
_FIRST_BLOCK, _LARGEST_BLOCK = 1024, 4096
# columns whose maxima are looked at first, and how many groups the first block is folded to; more than so many times k are sorted out
# by `top_k`
_GROUP, _FOLDS, _CROWDED = 32, 8, 4


@dataclass
class _Block:
    """Items of similar length: their numbers (rising), vectors as columns, and the length that none exceeds."""

    items: Tensor
    columns: Tensor
    length: float


class BoundedSearch:
    """The k best items of users by dot product, exactly: of equal scores the lower item number wins.

    Args:
        items (`Tensor` `[I, D]`): finite vectors, float32 or float64, on a CPU.
        max_scores (`int`, defaults to 2**21): so many scores are held at a time.

    Attributes:
        scores_made (`int`): scores that were computed so far; without bounds they would be users x items.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.evaluation.bounded_search import BoundedSearch
    >>> search = BoundedSearch(torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    >>> search(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), k=1)[1].tolist()
    [[0], [2]]

    ```
    """

    def __init__(self, items: Tensor, max_scores: int = 2**21) -> None:
        self.max_scores = max_scores
        self.num_items, dim = items.shape
        info = torch.finfo(items.dtype)
        # more than what rounding adds to a product or takes from a length, and than what is too small to be squared
        exact = items.dtype == torch.float64 or torch.get_float32_matmul_precision() == "highest"
        self._slack = 1 + 8 * (dim + 8) * (info.eps if exact else 2**-8)
        self._smallest = (dim * info.tiny) ** 0.5
        lengths = self._lengths(items)
        order = lengths.argsort(descending=True)
        self.blocks: list[_Block] = []
        start, size = 0, _FIRST_BLOCK
        while start < self.num_items:
            own = order[start : start + size].sort().values
            self.blocks.append(_Block(own, items[own].T.contiguous(), float(lengths[order[start]])))
            start += len(own)
            size = min(_LARGEST_BLOCK, max(_FIRST_BLOCK, start))
        self.scores_made = 0

    def _lengths(self, vectors: Tensor) -> Tensor:
        return vectors.norm(dim=1) + self._smallest

    def __call__(
        self, users: Tensor, k: int, hide: Callable[[Tensor, int], tuple[Tensor, Tensor]] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Search for some users.

        Args:
            users (`Tensor` `[U, D]`): vectors.
            k (`int`): at most the number of items.
            hide (`Callable`, *optional*): gets numbers of users, rows of `users`, and the number of a block, and returns places `(row,
                column)` in their matrix of scores that are not to be found (score -inf).

        Returns:
            `(scores [U, k], items [U, k])`, best first.
        """
        lengths = self._lengths(users) * self._slack
        values = users.new_full((len(users), k), -torch.inf)
        found = torch.full((len(users), k), self.num_items)
        left = torch.arange(len(users))
        room = users.new_empty(max(self.max_scores, _LARGEST_BLOCK))
        for number, block in enumerate(self.blocks):
            if number:  # equal is not enough: an item with a lower number would win
                left = left[lengths[left] * block.length >= values[left, -1]]
            width = len(block.items)
            for part in left.split(max(1, self.max_scores // width)):
                size = len(part) * width
                with torch.autocast("cpu", enabled=False):
                    scores = torch.mm(users[part], block.columns, out=room[:size].view(len(part), width))
                if hide is not None:
                    scores[hide(part, number)] = -torch.inf
                self.scores_made += size
                self._take(part, scores, block.items, values, found, first=not number)
        return values, found

    def _take(self, rows: Tensor, scores: Tensor, items: Tensor, values: Tensor, found: Tensor, first: bool) -> None:
        """Writes what is better than what was found, or, of the first block, the best of it."""
        k = values.shape[1]
        row, column = _at_least(scores, _low_floor(scores, k) if first else values[rows, -1])
        counts = torch.bincount(row, minlength=len(rows))
        crowded = counts > _CROWDED * k  # many equal ones, or a list that is not full
        if bool(crowded.any()):
            best, columns = top_k(scores[crowded], min(k, scores.shape[1]))
            _merge(rows[crowded], best, items[columns], values, found)
            few = ~crowded[row]
            row, column = row[few], column[few]
            counts[crowded] = 0
        if len(row):
            place = torch.arange(len(row)) - (counts.cumsum(0) - counts)[row]
            best = scores.new_full((len(rows), int(counts.max())), -torch.inf)
            numbers = torch.full(best.shape, self.num_items)
            best[row, place], numbers[row, place] = scores[row, column], items[column]
            some = counts.nonzero().flatten()
            _merge(rows[some], best[some], numbers[some], values, found)


def _merge(rows: Tensor, best: Tensor, numbers: Tensor, values: Tensor, found: Tensor) -> None:
    """The k best of what was found and of what comes anew, in its place."""
    k = values.shape[1]
    numbers, order = torch.cat([found[rows], numbers], 1).sort(dim=1)
    best, places = torch.cat([values[rows], best], 1).gather(1, order).sort(dim=1, descending=True, stable=True)
    values[rows], found[rows] = best[:, :k], numbers.gather(1, places[:, :k])


def _low_floor(scores: Tensor, k: int) -> Tensor:
    """Of every row a number that at least k reach, and few more: the k-th largest of the maxima of groups."""
    width = scores.shape[1]
    if width % _FOLDS == 0 and width >= 4 * _FOLDS * k:
        scores = scores.unflatten(1, (_FOLDS, -1)).amax(1)
    return scores.topk(min(k, scores.shape[1]), dim=1).values[:, -1]


def _at_least(scores: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns, in order, of the scores that reach the floor of their row."""
    if scores.shape[1] % _GROUP:
        row, column = (scores >= floor[:, None]).nonzero().unbind(1)
        return row, column
    # few do: a quick pass over the maxima of groups finds where they are
    groups = scores.unflatten(1, (-1, _GROUP))
    row, group = (groups.amax(2) >= floor[:, None]).nonzero().unbind(1)
    which, place = (groups[row, group] >= floor[row, None]).nonzero().unbind(1)
    return row[which], group[which] * _GROUP + place


__all__ = ["BoundedSearch"]
