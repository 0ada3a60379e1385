"""The graph of users and items, and the propagation of embeddings along its edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


# numbers looked up at a time for the products along edges; on a CPU what stays in a core's cache is four times faster
_CHUNK = {"cpu": 2**18, "cuda": 2**24}
# numbers summed up at a time on a CPU
_BLOCK = 2**18


class BipartiteGraph(nn.Module):
    """Users and items as nodes (users first), an edge in both directions for every pair, weighted by D^-1/2 A D^-1/2.

    A is binary: a repeated pair is one edge. D counts the neighbours of a node; a node without any has no edge, and its row
    is 0. Edges are stored by rows (CSR), each row sorted by column. All tensors are buffers that are not saved: the graph is
    data, not a weight.

    Args:
        users (`LongTensor` `[E]`), items (`LongTensor` `[E]`): the pairs of the training part, numbered from 0.
        num_users (`int`), num_items (`int`): how many there are.

    Raises:
        ValueError: no pair, lists of different length, or a number outside its range.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.modules.bipartite_graph import BipartiteGraph
    >>> graph = BipartiteGraph(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), num_users=2, num_items=2)
    >>> graph.num_edges, graph.propagate(torch.eye(4)).shape
    (6, torch.Size([4, 4]))

    ```
    """

    starts: Tensor
    columns: Tensor
    weights: Tensor
    mirror: Tensor

    def __init__(self, users: Any, items: Any, num_users: int, num_items: int) -> None:
        super().__init__()
        self.num_users, self.num_items = num_users, num_items
        self.num_nodes = num_users + num_items
        users, items = (torch.as_tensor(ids).long().cpu() for ids in (users, items))
        _check_ids(users, items, num_users, num_items)
        # sorted by user, then by item; the other half by item, then by user
        keys = torch.unique(users * num_items + items)
        user, item = keys // num_items, keys % num_items
        by_item = torch.sort(item, stable=True).indices
        degrees = torch.cat([torch.bincount(user, minlength=num_users), torch.bincount(item, minlength=num_items)])
        pairs = len(keys)
        # place of the edge in the other direction
        mirror = torch.empty(2 * pairs, dtype=torch.long)
        mirror[by_item] = torch.arange(pairs) + pairs
        mirror[pairs:] = by_item
        columns = torch.cat([item + num_users, user[by_item]])
        tensors = {
            "starts": torch.cat([torch.zeros(1, dtype=torch.long), degrees.cumsum(0)]),
            "columns": columns,
            "mirror": mirror,
            "weights": _normalised(degrees, columns),
        }
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor, persistent=False)
        self._scratch: dict[str, Tensor] = {}

    @property
    def num_edges(self) -> int:
        """Stored edges, two a pair."""
        return len(self.columns)

    def degrees(self) -> Tensor:
        """Neighbours of every node, `[num_nodes]`."""
        return self.starts.diff()

    def rows(self) -> Tensor:
        """The node at the head of every edge, `[num_edges]`."""
        return torch.repeat_interleave(
            torch.arange(self.num_nodes, device=self.starts.device), self.degrees(), output_size=self.num_edges
        )

    def keep_edges(self, keep: Tensor, *, renormalise: bool = True) -> Tensor:
        """Weights of the graph without some of its pairs.

        Args:
            keep (bool `Tensor` `[num_edges]`): what stays; both directions of a pair alike, unless `renormalise` is off.
            renormalise (`bool`, defaults to `True`): by the degrees that are left (SGL); otherwise the weights of the whole graph.

        Returns:
            `Tensor` `[num_edges]`: 0 for what was dropped.
        """
        kept = keep.to(self.weights.dtype)
        if not renormalise:
            return self.weights * kept
        degrees = torch.zeros(self.num_nodes, dtype=kept.dtype, device=kept.device).index_add_(0, self.rows(), kept)
        scale = torch.where(degrees > 0, degrees, 1.0).rsqrt()
        return kept * torch.repeat_interleave(scale, self.degrees(), output_size=self.num_edges) * scale[self.columns]

    def propagate(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """One step along the edges: row n becomes the weighted sum of its neighbours' rows.

        Args:
            x (`Tensor` `[num_nodes, dim]`): rows of users, then of items.
            weights (`Tensor` `[num_edges]`, *optional*): of the edges instead of the graph's own, with gradient; they need
                not be symmetric.

        Returns:
            `Tensor` `[num_nodes, dim]`, of the type of `x`.
        """
        self._check_rows(x)
        if weights is None:
            # symmetric: the way back is the way there
            return _Propagate.apply(x, self.weights.to(x.dtype), self.starts, self.columns, None)
        self._check_weights(weights)
        return _Propagate.apply(x, weights.to(x.dtype), self.starts, self.columns, self.mirror)

    def _check_weights(self, weights: Tensor) -> None:
        if weights.shape != self.weights.shape:
            raise ValueError(
                f"`weights` has shape {list(weights.shape)}, expected one for each of {self.num_edges} edges."
            )

    def _check_rows(self, x: Tensor) -> None:
        if x.dim() != 2 or len(x) != self.num_nodes:
            raise ValueError(
                f"`x` has shape {list(x.shape)}, expected [{self.num_nodes}, dim]: {self.num_users} users, then "
                f"{self.num_items} items."
            )

    def mean_of_steps(self, x: Tensor, steps: int, weights: Tensor | None = None) -> Tensor:
        """The mean of `x` after 0, 1, ..., `steps` steps along the edges, forward and backward in place.

        Args:
            x (`Tensor` `[num_nodes, dim]`): rows of users, then of items.
            steps (`int`): 0 or more.
            weights (`Tensor` `[num_edges]`, *optional*): of the edges instead of the graph's own, without gradient; both directions
                of a pair must have the same, which is not checked.

        Returns:
            `Tensor` `[num_nodes, dim]`.
        """
        self._check_rows(x)
        if weights is not None:
            self._check_weights(weights)
        return _MeanOfSteps.apply(x, self._work(x, weights), steps)

    def rows_of_mean(
        self, users: Tensor, items: Tensor, user_ids: Tensor, item_ids: Tensor, steps: int
    ) -> tuple[Tensor, Tensor]:
        """Rows of `mean_of_steps` of two tables, and the same rows of the tables; no array of all nodes is made but one gradient.

        Args:
            users (`Tensor` `[num_users, dim]`), items (`Tensor` `[num_items, dim]`): the tables.
            user_ids (`LongTensor` `[n]`), item_ids (`LongTensor` `[m]`): what is looked up.
            steps (`int`): 0 or more.

        Returns:
            `(means [n + m, dim], table rows [n + m, dim])`.
        """
        for name, table, count in (("users", users, self.num_users), ("items", items, self.num_items)):
            if table.dim() != 2 or len(table) != count:
                raise ValueError(f"`{name}` has shape {list(table.shape)}, expected [{count}, dim].")
        nodes = torch.cat([user_ids, item_ids + self.num_users])
        return _RowsOfMean.apply(users, items, nodes, self._work(users), steps)

    def _work(self, x: Tensor, weights: Tensor | None = None) -> _Work:
        weights = self.weights if weights is None else weights
        return _Work(weights.to(x.dtype), self.starts, self.columns, self._scratch if x.device.type == "cpu" else None)

    def similarities(self, x: Tensor) -> Tensor:
        """The product of the rows at both ends of every edge, with gradient; the rows of all edges are never held at once.

        Args:
            x (`Tensor` `[num_nodes, dim]`): rows of users, then of items.

        Returns:
            `Tensor` `[num_edges]`: both directions of a pair alike.
        """
        pairs = _PairProducts.apply(x, self.starts, self.columns, self.mirror)
        return torch.cat([pairs, pairs[self.mirror[len(pairs) :]]])

    def normalise_rows(self, weights: Tensor) -> Tensor:
        """Weights divided by their sum over the edges of the same head; 0 where the sum is 0.

        Args:
            weights (`Tensor` `[num_edges]`): not negative.
        """
        rows = self.rows()
        sums = weights.new_zeros(self.num_nodes).index_add(0, rows, weights)
        return torch.where(sums > 0, 1 / sums.where(sums > 0, 1.0), 0.0)[rows] * weights

    def edges(self) -> tuple[Tensor, Tensor]:
        """Head and tail of every edge and its weight, for inspection.

        Returns:
            `(index [2, num_edges], weights [num_edges])`, row by row.
        """
        return torch.stack([self.rows(), self.columns]), self.weights

    def extra_repr(self) -> str:
        return f"num_users={self.num_users}, num_items={self.num_items}, num_edges={self.num_edges}"


class _Propagate(torch.autograd.Function):
    """Sums of weighted rows, one bag a node; on a CPU the kernel of embedding bags is faster than sparse products.

    The way back is the same sum with the weights of the opposite edges, so that no transposed graph is made.
    """

    @staticmethod
    def forward(ctx, x, weights, starts, columns, mirror):
        ctx.save_for_backward(x if weights.requires_grad else None, weights, starts, columns, mirror)
        return _sum_rows(x, weights, starts, columns)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weights, starts, columns, mirror = ctx.saved_tensors
        grad = grad.contiguous()
        grad_x = grad_weights = None
        if ctx.needs_input_grad[0]:
            grad_x = _sum_rows(grad, weights if mirror is None else weights[mirror], starts, columns)
        if ctx.needs_input_grad[1]:
            grad_weights = _edge_products(grad, x, starts, columns)
        return grad_x, grad_weights, None, None, None


class _MeanOfSteps(torch.autograd.Function):
    """Mean of x, A x, A A x, ...: a polynomial of a symmetric matrix, so that its gradient is the same polynomial."""

    @staticmethod
    def forward(ctx, x, work, steps):
        ctx.work, ctx.steps = work, steps
        return work.mean(x, steps)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return ctx.work.mean(grad.contiguous(), ctx.steps), None, None


class _RowsOfMean(torch.autograd.Function):
    """Some rows of that mean and of what it is of."""

    @staticmethod
    def forward(ctx, users, items, nodes, work, steps):
        ctx.save_for_backward(nodes)
        ctx.work, ctx.steps, ctx.shapes = work, steps, (users.shape, items.shape)
        x = work.borrow("rows", (len(users) + len(items), users.shape[1]), users)
        torch.cat([users, items], out=x)
        rows = work.sum_of_steps(x, steps, borrowed=True).index_select(0, nodes).div_(steps + 1)
        return rows, x.index_select(0, nodes)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_means, grad_tables):
        (nodes,), (users, items) = ctx.saved_tensors, ctx.shapes
        x = ctx.work.borrow("rows", (users[0] + items[0], users[1]), grad_means).zero_()
        x.index_add_(0, nodes, grad_means / (ctx.steps + 1))
        grad = ctx.work.sum_of_steps(x, ctx.steps)
        grad.index_add_(0, nodes, grad_tables)
        return *grad.split([users[0], items[0]]), None, None, None


@dataclass
class _Work:
    """Steps along edges. On a CPU, arrays that are done with are kept: new memory costs as much time as the sum in it."""

    weights: Tensor
    starts: Tensor
    columns: Tensor
    scratch: dict[str, Tensor] | None

    def borrow(self, name: str, shape: tuple[int, int], like: Tensor) -> Tensor:
        """An array to work in, of any content, until it is borrowed again under the same name."""
        if self.scratch is None:
            return like.new_empty(shape)
        kept = self.scratch.get(name)
        if kept is None or kept.shape != shape or kept.dtype != like.dtype:
            kept = self.scratch[name] = like.new_empty(shape)
        return kept

    def mean(self, x: Tensor, steps: int) -> Tensor:
        """The mean of x after 0 to `steps` steps, a new array."""
        return self.sum_of_steps(x, steps).div_(steps + 1)

    def sum_of_steps(self, x: Tensor, steps: int, borrowed: bool = False) -> Tensor:
        """Their sum: x + A (x + A (x + ...)); a new array, unless it may be a borrowed one or `x`."""
        if not steps:
            return x if borrowed else x.clone()
        total = x
        for step in range(steps):
            shape = (len(x), x.shape[1])
            last = step == steps - 1 and not borrowed
            out = torch.empty_like(x) if last else self.borrow(f"sum {step % 2}", shape, x)
            self.step(total, x, out)
            total = out
        return total

    def step(self, total: Tensor, x: Tensor, out: Tensor) -> None:
        """x and the weighted sums of the neighbours' rows in `total`, written into `out`."""
        if self.scratch is None:
            torch.add(_sum_rows(total, self.weights, self.starts, self.columns), x, out=out)
            return
        # in blocks, whose own arrays stay in the cache
        count = max(1, _BLOCK // x.shape[1])
        bounds = [*range(0, len(x), count), len(x)]
        edges = self.starts[bounds].tolist()
        for low, high, first, last in zip(bounds, bounds[1:], edges, edges[1:], strict=False):
            starts = self.starts[low : high + 1] - first
            sums = _sum_rows(total, self.weights[first:last], starts, self.columns[first:last])
            torch.add(sums, x[low:high], out=out[low:high])


class _PairProducts(torch.autograd.Function):
    """x_user . x_item of every pair; its gradient is a propagation along the pairs, weighted by what comes in."""

    @staticmethod
    def forward(ctx, x, starts, columns, mirror):
        ctx.save_for_backward(x, starts, columns, mirror)
        pairs = len(columns) // 2
        return _edge_products(x, x, starts, columns, pairs)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, starts, columns, mirror = ctx.saved_tensors
        weights = torch.cat([grad, grad[mirror[len(grad) :]]])
        return _sum_rows(x.contiguous(), weights, starts, columns), None, None, None


def _sum_rows(x: Tensor, weights: Tensor, starts: Tensor, columns: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return F.embedding_bag(columns, x, starts, mode="sum", per_sample_weights=weights, include_last_offset=True)


def _edge_products(heads: Tensor, tails: Tensor, starts: Tensor, columns: Tensor, count: int | None = None) -> Tensor:
    """heads[row] . tails[column] for the first edges (all by default), without holding the rows of all of them."""
    rows = torch.repeat_interleave(
        torch.arange(len(heads), device=starts.device), starts.diff(), output_size=len(columns)
    )
    count = len(columns) if count is None else count
    products = torch.empty(count, dtype=heads.dtype, device=heads.device)
    step = max(1, _CHUNK.get(heads.device.type, 2**24) // heads.shape[1])
    for start in range(0, count, step):
        part = slice(start, min(count, start + step))
        products[part] = torch.linalg.vecdot(heads.index_select(0, rows[part]), tails.index_select(0, columns[part]))
    return products


def _normalised(degrees: Tensor, columns: Tensor) -> Tensor:
    """1 / sqrt(d_row d_column) of every edge, in float64."""
    scale = degrees.clamp(min=1).double().rsqrt()
    return torch.repeat_interleave(scale, degrees, output_size=len(columns)) * scale[columns]


def _check_ids(users: Tensor, items: Tensor, num_users: int, num_items: int) -> None:
    if users.dim() != 1 or users.shape != items.shape:
        raise ValueError(
            f"`users` and `items` must be lists of the same length, got {list(users.shape)} and {list(items.shape)}."
        )
    if not len(users):
        raise ValueError("there is no pair of user and item: the training part is empty.")
    for name, ids, count in (("users", users, num_users), ("items", items, num_items)):
        low, high = (int(value) for value in ids.aminmax())
        if low < 0 or high >= count:
            raise ValueError(f"`{name}` go from {low} to {high}, but there are {count} of them, 0 to {count - 1}.")


__all__ = ["BipartiteGraph"]
