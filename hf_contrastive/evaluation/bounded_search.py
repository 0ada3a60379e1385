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


# items of the first two blocks; each further one is twice as large, up to the second number and what is too little for a block of its own
_FIRST_BLOCK, _LARGEST_BLOCK = 1024, 4096
# a product of very few rows or columns rounds otherwise than a larger one, and equal vectors would get different scores
_FEWEST_ROWS = 16
# columns that the largest of them stands for, in a block and, to find a first floor, in the first one
_GROUP, _FOLDED = 32, 8
# more candidates than so many times k are sorted out by `top_k`
_CROWDED = 4


@dataclass
class _Block:
    """Items of similar length: their numbers (rising), vectors as columns, and the length that none exceeds."""

    items: Tensor
    columns: Tensor
    length: float


class BoundedSearch:
    """The k best items of users by dot product; of equal scores the lower item number wins.

    Scores are those of matrix products of some users and some items. In float32 they may differ from those of one product of all by
    its rounding, and so may the order of two items whose scores differ by no more.

    Args:
        items (`Tensor` `[I, D]`): finite vectors, float32 or float64.
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

    @torch.no_grad()
    def __init__(self, items: Tensor, max_scores: int = 2**21) -> None:
        self.max_scores = max_scores
        self.num_items, dim = items.shape
        info = torch.finfo(items.dtype)
        # more than what rounding adds to a product or takes from a length, and than what is too small to be squared
        self._slack = 1 + 8 * (dim + 8) * info.eps + (4 * 2**-8 if _coarse_products(items.dtype) else 0)
        self._smallest = (dim * info.tiny) ** 0.5
        lengths = self._lengths(items)
        order = lengths.argsort(descending=True)
        self.blocks: list[_Block] = []
        start, size = 0, _FIRST_BLOCK
        while start < self.num_items:
            end = start + size if self.num_items - start - size >= _FIRST_BLOCK else self.num_items
            own = order[start:end].sort().values
            self.blocks.append(_Block(own, items[own].T.contiguous(), float(lengths[order[start]])))
            start, size = end, min(_LARGEST_BLOCK, max(_FIRST_BLOCK, end))
        self.scores_made = 0
        self._room: Tensor | None = None

    @property
    def promising(self) -> bool:
        """Whether lengths differ enough to pass over something; if not, a search through all scores is quicker."""
        return self.blocks[-1].length < 0.8 * self.blocks[0].length

    def _lengths(self, vectors: Tensor) -> Tensor:
        return vectors.norm(dim=1) + self._smallest

    @torch.no_grad()
    def __call__(
        self, users: Tensor, k: int, hide: Callable[[Tensor, int], tuple[Tensor, Tensor]] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Search for some users.

        Args:
            users (`Tensor` `[U, D]`): vectors, of the items' dtype.
            k (`int`): at most the number of items.
            hide (`Callable`, *optional*): gets numbers of users, rows of `users`, and the number of a block, and returns places `(row,
                column)` in their matrix of scores that are not to be found (score -inf).

        Returns:
            `(scores [U, k], items [U, k])`, best first.
        """
        lengths = self._lengths(users) * self._slack
        values = users.new_full((len(users), k), -torch.inf)
        found = torch.full((len(users), k), self.num_items, device=users.device)
        left = torch.arange(len(users), device=users.device)
        for number, block in enumerate(self.blocks):
            if number:
                left = left[lengths[left] * block.length >= values[left, -1]]
                if not len(left):
                    break
            width = len(block.items)
            for part in left.split(max(_FEWEST_ROWS, self.max_scores // width)):
                scores = self._scores(users, part, block)
                if hide is not None:
                    scores[hide(part, number)] = -torch.inf
                self.scores_made += scores.numel()
                self._take(part, scores, block.items, values, found, first=not number)
        return values, found

    def _scores(self, users: Tensor, rows: Tensor, block: _Block) -> Tensor:
        size, width = max(len(rows), _FEWEST_ROWS), len(block.items)
        vectors = users[rows]
        if len(rows) < size:
            vectors = torch.cat([vectors, vectors.new_zeros(size - len(rows), vectors.shape[1])])
        # one array for all blocks: new memory takes a CPU as long as the product. What is given an `out` is not rounded by autocast
        if self._room is None or len(self._room) < size * width:
            self._room = users.new_empty(max(self.max_scores, size * width))
        return torch.mm(vectors, block.columns, out=self._room[: size * width].view(size, width))[: len(rows)]

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
            place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
            best = scores.new_full((len(rows), int(counts.max())), -torch.inf)
            numbers = torch.full(best.shape, self.num_items, device=row.device)
            best[row, place], numbers[row, place] = scores[row, column], items[column]
            some = counts.nonzero().flatten()
            _merge(rows[some], best[some], numbers[some], values, found)


def _merge(rows: Tensor, best: Tensor, numbers: Tensor, values: Tensor, found: Tensor) -> None:
    """The k best of what was found and of what comes anew, in its place."""
    k = values.shape[1]
    numbers, order = torch.cat([found[rows], numbers], 1).sort(dim=1)
    best, places = torch.cat([values[rows], best], 1).gather(1, order).sort(dim=1, descending=True, stable=True)
    values[rows], found[rows] = best[:, :k], numbers.gather(1, places[:, :k])


def _coarse_products(dtype: torch.dtype) -> bool:
    """Whether float32 products may be made of shorter numbers; also where torch does not tell, as its newer names were used."""
    try:
        return dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:
        return True


def _low_floor(scores: Tensor, k: int) -> Tensor:
    """Of every row a number that at least k reach, and few more: the k-th largest of the maxima of groups."""
    width = scores.shape[1]
    if width % _FOLDED == 0 and width >= 4 * _FOLDED * k:
        scores = scores.unflatten(1, (_FOLDED, -1)).amax(1)
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
