"""Graphs between items: who looks like whom, who is chosen together with whom."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hf_contrastive.modules.bipartite_graph import _sum_rows


# numbers of a block of similarities (64 MiB in float32)
_BLOCK = 2**24


class ItemGraph(nn.Module):
    """A weighted graph of items, stored by rows; not symmetric in general. Buffers that are not saved: data, not weights.

    Args:
        heads (`LongTensor` `[E]`), tails (`LongTensor` `[E]`): edges, in any order, each at most once.
        weights (`Tensor` `[E]`): of the edges.
        num_items (`int`): nodes.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.modules.item_graph import ItemGraph
    >>> graph = ItemGraph(torch.tensor([0, 2]), torch.tensor([1, 0]), torch.tensor([1.0, 0.5]), num_items=3)
    >>> graph.propagate(torch.eye(3)).tolist()
    [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.5, 0.0, 0.0]]

    ```
    """

    starts: Tensor
    columns: Tensor
    weights: Tensor
    back_starts: Tensor
    back_columns: Tensor
    back_order: Tensor

    def __init__(self, heads: Tensor, tails: Tensor, weights: Tensor, num_items: int) -> None:
        super().__init__()
        self.num_items = num_items
        order = torch.argsort(heads * num_items + tails)
        heads, tails, weights = heads[order], tails[order], weights[order].double()
        back = torch.argsort(tails * num_items + heads)
        tensors = {
            "starts": _starts(heads, num_items),
            "columns": tails,
            "weights": weights,
            # the same edges by their tails, for the way back
            "back_starts": _starts(tails, num_items),
            "back_columns": heads[back],
            "back_order": back,
        }
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor, persistent=False)

    def heads(self) -> Tensor:
        """The item at the head of every edge."""
        return torch.repeat_interleave(torch.arange(self.num_items, device=self.starts.device), self.starts.diff())

    def propagate(self, x: Tensor) -> Tensor:
        """Row n becomes the weighted sum of the rows that its edges lead to.

        Args:
            x (`Tensor` `[num_items, dim]`): rows.
        """
        weights = self.weights.to(x.dtype)
        back = (weights[self.back_order], self.back_starts, self.back_columns)
        return _ItemPropagate.apply(x, weights, self.starts, self.columns, *back)

    def normalised(self) -> ItemGraph:
        """D^-1/2 S D^-1/2 with the ROW sums on both sides; rows without an edge stay empty."""
        heads = self.heads()
        sums = self.weights.new_zeros(self.num_items).index_add(0, heads, self.weights)
        scale = torch.where(sums > 0, sums.where(sums > 0, 1.0).rsqrt(), 0.0)
        return ItemGraph(heads, self.columns, scale[heads] * self.weights * scale[self.columns], self.num_items)

    def blend(self, other: ItemGraph, share: float) -> ItemGraph:
        """(1 - share) of this graph plus share of the other one.

        Args:
            other ([`ItemGraph`]): of the same items.
            share (`float`): from 0 to 1.
        """
        keys = torch.cat([graph.heads() * self.num_items + graph.columns for graph in (self, other)])
        weights = torch.cat([(1 - share) * self.weights, share * other.weights])
        unique, place = torch.unique(keys, return_inverse=True)
        joined = weights.new_zeros(len(unique)).index_add(0, place, weights)
        kept = joined != 0
        unique, joined = unique[kept], joined[kept]
        return ItemGraph(unique // self.num_items, unique % self.num_items, joined, self.num_items)

    def to_dense(self) -> Tensor:
        """`[num_items, num_items]`, for inspection of small graphs."""
        dense = self.weights.new_zeros(self.num_items, self.num_items)
        dense[self.heads(), self.columns] = self.weights
        return dense

    def extra_repr(self) -> str:
        return f"num_items={self.num_items}, num_edges={len(self.columns)}"


class _ItemPropagate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weights, starts, columns, back_weights, back_starts, back_columns):
        ctx.save_for_backward(back_weights, back_starts, back_columns)
        return _sum_rows(x, weights, starts, columns)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return (_sum_rows(grad.contiguous(), *ctx.saved_tensors), *(None,) * 6)


def _starts(sorted_nodes: Tensor, count: int) -> Tensor:
    return torch.cat([torch.zeros(1, dtype=torch.long), torch.bincount(sorted_nodes, minlength=count).cumsum(0)])


def likeness_graph(features: Tensor, k: int, *, binary: bool = False) -> ItemGraph:
    """Every item's k most similar items by the cosine of their features, itself included.

    Of equal similarities the lower item counts; similarities that are not positive are left out. Similarities are made for a
    block of items at a time.

    Args:
        features (`Tensor` `[num_items, dim]`): of the items.
        k (`int`): edges of an item; at most all items.
        binary (`bool`, defaults to `False`): weights of 1 instead of the cosine.

    Returns:
        [`ItemGraph`], not normalised.
    """
    unit = nn.functional.normalize(features.double(), dim=1)
    count = len(unit)
    k = min(k, count)
    heads, tails, weights = [], [], []
    step = max(1, _BLOCK // count)
    for start in range(0, count, step):
        values, items = _lowest_first_top_k(unit[start : start + step] @ unit.T, k)
        row = torch.arange(start, start + len(values))[:, None].expand_as(items)
        kept = values > 0
        heads.append(row[kept])
        tails.append(items[kept])
        weights.append(values[kept])
    joined = torch.cat(weights)
    return ItemGraph(torch.cat(heads), torch.cat(tails), torch.ones_like(joined) if binary else joined, count)


def _lowest_first_top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    # a stable sort keeps the lower of equal items in front
    values, items = scores.sort(dim=1, descending=True, stable=True)
    return values[:, :k], items[:, :k]


def co_occurrence_graph(
    users: Any, items: Any, num_users: int, num_items: int, k: int, *, max_history: int | None = None
) -> ItemGraph:
    """Every item's k items that most users chose together with it; weights are the numbers of these users.

    Of equal numbers the lower item counts. Counts are made for a block of items at a time.

    Args:
        users (`[E]` whole numbers), items (`[E]` whole numbers): the training pairs; repeats count once.
        num_users (`int`), num_items (`int`): how many there are.
        k (`int`): edges of an item.
        max_history (`int`, *optional*): users with more items do not count: their number of pairs grows with its square.

    Returns:
        [`ItemGraph`], not normalised, without edges from an item to itself.
    """
    from scipy import sparse

    users, items = (np.asarray(torch.as_tensor(ids).cpu(), dtype=np.int64) for ids in (users, items))
    chosen = sparse.csr_matrix((np.ones(len(users)), (users, items)), shape=(num_users, num_items))
    chosen.data[:] = 1.0
    if max_history is not None:
        chosen = chosen[np.diff(chosen.indptr) <= max_history]
    by_item = chosen.T.tocsr()
    heads, tails, weights = [], [], []
    step = max(1, _BLOCK // (8 * num_items))
    for start in range(0, num_items, step):
        counts = (by_item[start : start + step] @ chosen).tocoo()
        row, column, count = counts.row + start, counts.col.astype(np.int64), counts.data
        keep = row != column
        row, column, count = row[keep], column[keep], count[keep]
        order = np.lexsort((column, -count, row))
        row, column, count = row[order], column[order], count[order]
        first = np.searchsorted(row, row)
        best = np.arange(len(row)) - first < k
        heads.append(row[best])
        tails.append(column[best])
        weights.append(count[best])
    return ItemGraph(
        torch.from_numpy(np.concatenate(heads).astype(np.int64)),
        torch.from_numpy(np.concatenate(tails)),
        torch.from_numpy(np.concatenate(weights)),
        num_items,
    )


__all__ = ["ItemGraph", "co_occurrence_graph", "likeness_graph"]
