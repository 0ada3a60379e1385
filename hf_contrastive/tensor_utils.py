"""Tensors looked up and ranked in ways that several rooms need."""

from __future__ import annotations

import torch
from torch import Tensor


# columns whose maximum is looked at first in `top_k`
_GROUP = 32


def ragged_places(starts: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Where the entries of several lists stand that lie one behind the other in one array.

    Args:
        starts (`LongTensor` `[n]`), ends (`LongTensor` `[n]`): first place of each list, and the one behind its last.

    Returns:
        `(list, place)`, two `LongTensor` of one length: of every entry the number of its list, from 0, and its place in the array.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.tensor_utils import ragged_places
    >>> ragged_places(torch.tensor([4, 0]), torch.tensor([6, 1]))
    (tensor([0, 0, 1]), tensor([4, 5, 0]))

    ```
    """
    counts = ends - starts
    number = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    before = counts.cumsum(0) - counts
    return number, torch.arange(len(number), device=counts.device) + (starts - before)[number]


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and columns of the `k` largest scores of each row, largest first; of equal scores the lower column wins.

    Args:
        scores (`Tensor` `[rows, columns]`): without NaN.
        k (`int`): from 1 to all columns.

    Returns:
        `(values [rows, k], columns [rows, k])`.
    """
    width = scores.shape[1]
    if width < 4 * _GROUP * k or not scores.is_floating_point():
        return _plain_top_k(scores, k)
    # all of them lie in the k groups of columns with the largest maxima, which are found in one quick pass
    full = width // _GROUP
    largest = scores[:, : full * _GROUP].unflatten(1, (full, _GROUP)).amax(2)
    if full * _GROUP < width:
        largest = torch.cat([largest, scores[:, full * _GROUP :].amax(1, keepdim=True)], 1)
    groups = _plain_top_k(largest, k)[1].sort(1).values
    columns = (groups[..., None] * _GROUP + torch.arange(_GROUP, device=scores.device)).flatten(1)
    candidates = scores.gather(1, columns.clamp(max=width - 1)).masked_fill_(columns >= width, -torch.inf)
    values, places = _plain_top_k(candidates, k)
    return values, columns.gather(1, places)


def _plain_top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    wide = min(k + 1, scores.shape[1])
    values, columns = scores.topk(wide, dim=1)
    # the next one tells whether others are as large as the last
    tied = values[:, k] == values[:, k - 1] if wide > k else values.new_zeros(len(values), dtype=torch.bool)
    crowded = tied.nonzero().flatten()
    values, columns = values[:, :k].contiguous(), columns[:, :k].contiguous()
    floor = values[:, -1:]
    if len(crowded):  # topk leaves open which of several equal scores it takes
        some, edge = scores[crowded], floor[crowded]
        above, level = some > edge, some == edge
        keep = above | (level & (level.cumsum(1) <= k - above.sum(1, keepdim=True)))
        columns[crowded] = keep.nonzero()[:, 1].view(len(crowded), k)
        values[crowded] = some.gather(1, columns[crowded])
    columns, order = columns.sort(dim=1)
    values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, order)


__all__ = ["ragged_places", "top_k"]
