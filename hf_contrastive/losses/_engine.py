"""The one computation under every contrastive loss here: log-sum-exp of similarities, one tile at a time.

For rows `q` [N, D] and columns `k` [M, D] the similarity matrix S = q k^T is never held as a whole. It is made in tiles,
each tile is turned into sums of exponentials and thrown away, and the backward pass makes it again (or takes it from a
small fixed store, see `KEPT_BYTES`). Three shapes of the same pass:

- `lse_rows(q, k)`: one value per row (queries against keys);
- `lse_both(q, k)`: one value per row and one per column from a single pass (CLIP);
- `lse_self(x)`: rows against themselves; S is symmetric, so only tiles on and above the diagonal are made and each is
  used twice, forward and backward (NT-Xent, SupCon).

Everything else a loss needs (the positives, the temperature, the mean) is a matter of N numbers and is left to autograd.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


# Log-sum-exp of nothing. Finite, so that differences and `logaddexp` of two empty sums stay free of NaN; exp of it is 0.
EMPTY = -1e30

# Tiles of the forward pass up to this many bytes are kept for the backward pass, which saves making them again. The
# bound is fixed, so memory stays O(N * tile). A `tile_size` given by the caller keeps none.
KEPT_BYTES = 160 * 2**20

# Arrays for tiles that wait for the next pass, on a CPU: what is handed out anew costs as much time as the product in it,
# because its pages come one by one. On an accelerator the allocator of torch keeps them by itself.
POOL_BYTES = KEPT_BYTES + 64 * 2**20
_UNROUNDED = 2**16

# Tiles of half this size are some 5% faster on idle cores, but threads wait for each other after every operation: with
# other work on the same cores (data loaders) small tiles cost up to twice the time.
_TILE = {"cpu": 2048}
_TILE_ACCELERATOR = 4096

# As long as |logit| stays below this, exp(logit) itself, its sums over millions of columns and the reciprocals the
# gradient needs are all normal numbers of the type: then no maximum has to be found and one exp serves rows and columns.
_UNSHIFTED_LIMIT = {torch.float32: 50.0, torch.float64: 300.0}


@dataclass(frozen=True)
class Exclusion:
    """The (row, column) pairs that a sum leaves out.

    Args:
        diagonals: differences `column - row` that are left out everywhere.
        row_ids, col_ids: integers [N] and [M]; pairs with equal ids are left out.
        columns: integers [N]; of each row the one column that is left out, below 0 for none.
        keep: bool [N, M]; pairs that are False are left out.
    """

    diagonals: tuple[int, ...] = ()
    row_ids: Tensor | None = None
    col_ids: Tensor | None = None
    columns: Tensor | None = None
    keep: Tensor | None = None

    def apply_(self, tile: Tensor, row: int, col: int) -> None:
        """Write -inf into the left-out places of the tile whose corner is (row, col)."""
        rows, cols = tile.shape
        for diagonal in self.diagonals:
            offset = diagonal + row - col
            if -rows < offset < cols:
                tile.diagonal(offset).fill_(-torch.inf)
        if self.row_ids is not None and self.col_ids is not None:
            same = self.row_ids[row : row + rows, None] == self.col_ids[None, col : col + cols]
            tile.masked_fill_(same, -torch.inf)
        if self.columns is not None:  # a write to each row, where comparing ids would read the whole tile
            place = self.columns[row : row + rows, None] - col
            inside = (place >= 0) & (place < cols)
            place = place.clamp(0, cols - 1)
            tile.scatter_(1, place, tile.gather(1, place).masked_fill_(inside, -torch.inf))
        if self.keep is not None:
            tile.masked_fill_(~self.keep[row : row + rows, col : col + cols], -torch.inf)


NOTHING = Exclusion()


def lse_rows(
    q: Tensor, k: Tensor, exclude: Exclusion = NOTHING, *, tile_size: int | None = None, bound: float | None = None
) -> Tensor:
    """log sum_j exp(q_i . k_j) for every row i: [N]; `EMPTY` where every column is left out."""
    return _TiledLogSumExp.apply(q, k, "rows", exclude, tile_size, bound)[0]


def lse_both(
    q: Tensor, k: Tensor, exclude: Exclusion = NOTHING, *, tile_size: int | None = None, bound: float | None = None
) -> tuple[Tensor, Tensor]:
    """`lse_rows(q, k)` [N] and `lse_rows(k, q)` [M] from one pass over the matrix."""
    return _TiledLogSumExp.apply(q, k, "both", exclude, tile_size, bound)


def lse_self(
    x: Tensor, exclude: Exclusion = NOTHING, *, tile_size: int | None = None, bound: float | None = None
) -> Tensor:
    """`lse_rows(x, x)` [N] at half the work. What is left out must be symmetric."""
    return _TiledLogSumExp.apply(x, x, "self", exclude, tile_size, bound)[0]


class _Plan:
    """Sizes, number format and tiles of one pass; the same in forward and backward."""

    def __init__(self, q: Tensor, k: Tensor, mode: str, exclude: Exclusion, tile_size: int | None) -> None:
        tile = tile_size or _TILE.get(q.device.type, _TILE_ACCELERATOR)
        if tile_size is None and mode == "self":  # a single tile would leave no mirror image to save
            tile = min(tile, max(512, -(-q.shape[0] // 4)))
        self.mode, self.exclude = mode, exclude
        self.n, self.m = q.shape[0], k.shape[0]
        self.rows, self.cols = min(tile, self.n), min(tile, self.m)
        # a single tile, of a small batch, is not worth the memory that would wait for the next one
        self.several = self.rows * self.cols < self.n * self.m
        self.q, self.k = _operand(q), _operand(k)
        # sums and tiles are at least float32, whatever the embeddings are
        self.options: dict[str, Any] = {"dtype": accumulation_dtype(q.dtype), "device": q.device}

    def tiles(self) -> Iterator[tuple[slice, slice, bool]]:
        """Row slice, column slice, and whether the tile also stands for its mirror image or for column sums."""
        for row in range(0, self.n, self.rows):
            for col in range(row if self.mode == "self" else 0, self.m, self.cols):
                r, c = slice(row, min(row + self.rows, self.n)), slice(col, min(col + self.cols, self.m))
                yield r, c, self.mode == "both" or (self.mode == "self" and row != col)

    def buffer(self) -> Tensor:
        """An array for a tile, of any content; to be given to `done` once nothing reads it any more."""
        if not self.several:
            return torch.empty(self.rows * self.cols, **self.options)
        return _POOL.take(self.rows * self.cols, **self.options)

    def done(self, *arrays: Tensor | None) -> None:
        if self.several:
            _POOL.give_back(*arrays)

    def logits(self, r: slice, c: slice, out: Tensor) -> Tensor:
        """The logits of one tile, written into the flat buffer `out`, what is left out set to -inf."""
        rows, cols = r.stop - r.start, c.stop - c.start
        tile = out[: rows * cols].view(rows, cols)
        _matmul(self.q[r], self.k[c].t(), tile)
        self.exclude.apply_(tile, r.start, c.start)
        return tile


class _Pool:
    """Arrays that are done with, for the next pass; passes may run in several threads."""

    def __init__(self) -> None:
        self.free: list[Tensor] = []
        self.lock = threading.Lock()

    def take(self, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """An array of any content, of at least so many numbers."""
        if device.type != "cpu":
            return torch.empty(size, dtype=dtype, device=device)
        # up to an eighth more, so that batches of changing size (distinct nodes of a graph) find each other's
        step = 2 ** max(0, size.bit_length() - 4) if size > _UNROUNDED else 1
        size = -(-size // step) * step
        with self.lock:
            # from behind: the one that was used last is the one that is in the cache
            for place in reversed(range(len(self.free))):
                if self.free[place].dtype == dtype and self.free[place].numel() == size:
                    return self.free.pop(place)
        return torch.empty(size, dtype=dtype, device=device)

    def give_back(self, *arrays: Tensor | None) -> None:
        """Nothing reads them any more."""
        with self.lock:
            self.free += [one for one in arrays if one is not None and one.device.type == "cpu"]
            held = sum(one.nbytes for one in self.free)
            while held > POOL_BYTES:  # of other sizes, not used for the longest time
                held -= self.free.pop(0).nbytes


_POOL = _Pool()


class _TiledLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, mode, exclude, tile_size, bound):
        with torch.autocast(q.device.type, enabled=False):
            plan = _Plan(q, k, mode, exclude, tile_size)
            if bound is None:  # Cauchy-Schwarz
                bound = float(q.detach().norm(dim=1).max() * k.detach().norm(dim=1).max())
            # a bound that is not a number takes this branch too, and the loss then says so itself
            shifted = not bound <= _UNSHIFTED_LIMIT[plan.options["dtype"]]
            kept: dict[tuple[int, int], Tensor] = {}
            budget = 0
            if tile_size is None and (ctx.needs_input_grad[0] or ctx.needs_input_grad[1]):
                budget = KEPT_BYTES
            row = _Sums(plan.n, shifted, plan.options)
            col = row if mode == "self" else _Sums(plan.m, shifted, plan.options) if mode == "both" else None
            work = spare = None
            for r, c, mirrored in plan.tiles():
                size = plan.rows * plan.cols * row.total.element_size()
                if size <= budget:
                    kept[r.start, c.start] = out = plan.buffer()
                    budget -= size
                else:
                    out = work = plan.buffer() if work is None else work
                tile = plan.logits(r, c, out)
                if shifted:
                    spare = plan.buffer() if spare is None else spare
                    row.add_shifted(r, tile, 1, spare)
                    if mirrored and col is not None:
                        col.add_shifted(c, tile, 0, spare)
                else:
                    tile.exp_()
                    row.total[r] += tile.sum(1)
                    if mirrored and col is not None:
                        col.total[c] += tile.sum(0)
            row_lse = row.log()
            col_lse = col.log() if mode == "both" and col is not None else None
        plan.done(work, spare)
        ctx.save_for_backward(q, k, row_lse, *(() if col_lse is None else (col_lse,)))
        ctx.settings = mode, exclude, tile_size, shifted
        ctx.kept = kept
        return row_lse, col_lse

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_row, grad_col):
        q, k, row_lse, *rest = ctx.saved_tensors
        mode, exclude, tile_size, shifted = ctx.settings
        want_q, want_k = ctx.needs_input_grad[:2]
        with torch.autocast(q.device.type, enabled=False):
            plan = _Plan(q, k, mode, exclude, tile_size)
            # d loss / d S_ij = exp(S_ij) * (grad_row_i / sum_i + grad_col_j / sum_j)
            row = _Weights(row_lse, grad_row, shifted)
            col = _Weights(rest[0], grad_col, shifted) if mode == "both" else row if mode == "self" else None
            dq = torch.zeros(q.shape, **plan.options) if want_q or mode == "self" else None
            dk = dq if mode == "self" else torch.zeros(k.shape, **plan.options) if want_k else None
            work = None
            weights = plan.buffer()
            for r, c, mirrored in plan.tiles():
                flat = ctx.kept.get((r.start, c.start))
                if flat is None:
                    work = plan.buffer() if work is None else work
                    tile = plan.logits(r, c, work)
                    if not shifted:
                        tile.exp_()
                else:
                    rows, cols = r.stop - r.start, c.stop - c.start
                    tile = flat[: rows * cols].view(rows, cols)
                w = weights[: tile.numel()].view(tile.shape)
                if not shifted:
                    if col is None:
                        torch.mul(tile, row.factor[r, None], out=w)
                    else:
                        torch.add(row.factor[r, None], col.factor[None, c], out=w).mul_(tile)
                else:
                    torch.sub(tile, row.lse[r, None], out=w).exp_().mul_(row.factor[r, None])
                    if col is not None:
                        w.addcmul_((tile - col.lse[None, c]).exp_(), col.factor[None, c])
                if dq is not None:
                    _add_matmul(dq[r], w, plan.k[c])
                if dk is not None and (mirrored or mode != "self"):
                    _add_matmul(dk[c], w.t(), plan.q[r])
        plan.done(work, weights, *ctx.kept.values())
        ctx.kept = {}  # others write into them now; a second pass through a kept graph makes tiles anew
        dq = None if dq is None else dq.to(q.dtype)
        # lse_self passes one tensor twice: all of its gradient goes back by the first
        dk = None if dk is None or mode == "self" else dk.to(k.dtype)
        return dq, dk, None, None, None, None


class _Sums:
    """Running sums of exponentials, one per row (or column), with a running maximum where the range asks for one."""

    def __init__(self, size: int, shifted: bool, options: dict[str, Any]) -> None:
        self.total = torch.zeros(size, **options)
        self.top = torch.full((size,), EMPTY, **options) if shifted else None

    def add_shifted(self, part: slice, tile: Tensor, dim: int, spare: Tensor) -> None:
        assert self.top is not None
        top = torch.maximum(self.top[part], tile.amax(dim))
        shifted = spare[: tile.numel()].view(tile.shape)
        torch.sub(tile, top.unsqueeze(dim), out=shifted).exp_()
        self.total[part] = self.total[part] * (self.top[part] - top).exp() + shifted.sum(dim)
        self.top[part] = top

    def log(self) -> Tensor:
        lse = self.total.log()
        if self.top is not None:
            lse += self.top
        return lse.masked_fill_(self.total == 0, EMPTY)


class _Weights:
    """What each row (or column) multiplies its exponentials by in the backward pass."""

    def __init__(self, lse: Tensor, grad: Tensor, shifted: bool) -> None:
        self.lse = lse
        empty = lse == EMPTY
        self.factor = grad if shifted else grad * (-lse.masked_fill(empty, 0)).exp()
        self.factor = self.factor.masked_fill(empty, 0)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 stays, everything else is summed in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _operand(x: Tensor) -> Tensor:
    """The matrix as the multiplication takes it: half precision only where the hardware sums it in float32."""
    if x.dtype == torch.bfloat16 and x.device.type == "cuda":
        return x.detach()
    return x.detach().to(accumulation_dtype(x.dtype))


def _matmul(a: Tensor, b: Tensor, out: Tensor) -> None:
    if a.dtype == out.dtype:
        torch.mm(a, b, out=out)
    else:
        out.copy_(torch.mm(a, b, out_dtype=out.dtype))


def _add_matmul(out: Tensor, a: Tensor, b: Tensor) -> None:
    if b.dtype == out.dtype:
        out.addmm_(a, b)
    else:
        out += torch.mm(a.to(b.dtype), b, out_dtype=out.dtype)
