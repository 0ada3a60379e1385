"""What the losses share: checks with plain messages, normalisation, temperature, false-negative masks, reduction."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from hf_contrastive.distributed import all_gather_no_grad, all_gather_with_grad, get_rank, get_world_size
from hf_contrastive.losses._engine import EMPTY, NOTHING, Exclusion, accumulation_dtype


# Rows shorter than this have no direction: they count as the zero vector and get no gradient.
NORM_EPS = 1e-12

REDUCTIONS = ("mean", "sum", "none")


# ---------------------------------------------------------------------------------------------------------- checks


def check_embeddings(name: str, x: Tensor, dims: Sequence[int] = (2,), like: tuple[str, Tensor] | None = None) -> None:
    """A floating tensor of 1 or more rows with one of the given numbers of dimensions; device and dtype of `like`."""
    if not isinstance(x, Tensor):
        raise TypeError(f"`{name}` must be a torch.Tensor, got {type(x).__name__}.")
    if x.dim() not in dims:
        shapes = " or ".join({1: "[N]", 2: "[N, D]", 3: "[N, V, D]"}[d] for d in dims)
        raise ValueError(f"`{name}` must have shape {shapes}, got {list(x.shape)}.")
    if not x.is_floating_point():
        raise ValueError(f"`{name}` must hold floating point embeddings, got dtype {x.dtype}; call `.float()` on it.")
    if x.shape[0] == 0 or x.shape[-1] == 0:
        raise ValueError(f"`{name}` must hold at least one row and one column, got shape {list(x.shape)}.")
    if like is not None:
        other_name, other = like
        if x.shape[-1] != other.shape[-1]:
            raise ValueError(
                f"`{name}` and `{other_name}` must have the same embedding width, got {list(x.shape)} and "
                f"{list(other.shape)}; project both to one width first."
            )
        if x.device != other.device:
            raise ValueError(
                f"`{name}` and `{other_name}` must be on one device, got {x.device} and {other.device}; move one with "
                f"`.to(...)`."
            )
        if x.dtype != other.dtype:
            raise ValueError(
                f"`{name}` and `{other_name}` must have one dtype, got {x.dtype} and {other.dtype}; convert one with "
                f"`.to(...)`."
            )


def check_pairs(a_name: str, a: Tensor, b_name: str, b: Tensor) -> None:
    """Two [N, D] tensors whose equal rows belong together."""
    check_embeddings(a_name, a)
    check_embeddings(b_name, b, like=(a_name, a))
    if a.shape != b.shape:
        raise ValueError(
            f"`{a_name}` and `{b_name}` must have the same shape (row i of one belongs to row i of the other), got "
            f"{list(a.shape)} and {list(b.shape)}."
        )


def check_ids(name: str, ids: Tensor | None, shapes: Sequence[tuple[int, ...]], device: torch.device) -> None:
    """Integers of one of the given shapes, or None."""
    if ids is None:
        return
    if not isinstance(ids, Tensor):
        raise TypeError(f"`{name}` must be a torch.Tensor of integers, got {type(ids).__name__}.")
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise ValueError(f"`{name}` must hold integers, got dtype {ids.dtype}; call `.long()` on it.")
    if tuple(ids.shape) not in [tuple(s) for s in shapes]:
        expected = " or ".join(str(list(s)) for s in shapes)
        raise ValueError(f"`{name}` must have shape {expected} (one id per row), got {list(ids.shape)}.")
    if ids.device != device:
        raise ValueError(f"`{name}` must be on {device} like the embeddings, got {ids.device}.")


def check_options(tile_size: int | None, reduction: str = "mean") -> None:
    if tile_size is not None and (isinstance(tile_size, bool) or not isinstance(tile_size, int) or tile_size < 1):
        raise ValueError(f"`tile_size` must be a positive integer or None (chosen for you), got {tile_size!r}.")
    if reduction not in REDUCTIONS:
        raise ValueError(f"`reduction` must be one of {', '.join(map(repr, REDUCTIONS))}, got {reduction!r}.")


def check_positive(name: str, value: float | Tensor) -> tuple[float, float | Tensor]:
    """A finite number above zero, given as such or as a tensor with one element: its value, and it without shape."""
    if isinstance(value, Tensor):
        if value.numel() != 1 or not value.is_floating_point():
            raise ValueError(
                f"`{name}` must be a number or a floating point tensor with one element, got {value.dtype} of shape "
                f"{list(value.shape)}."
            )
        value = value.reshape(())
        number = float(value.detach())
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        number = value = float(value)
    else:
        raise TypeError(f"`{name}` must be a number or a tensor with one element, got {type(value).__name__}.")
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"`{name}` must be a finite number above 0, got {number}.")
    return number, value


def check_share(name: str, value: float) -> None:
    """A number from 0 to 1."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"`{name}` must be a number, got {type(value).__name__}.")
    if not 0 <= value <= 1:
        raise ValueError(f"`{name}` must be a number from 0 to 1, got {value!r}.")


def warn_without_negatives(function: str, hint: str, loss: str = "0") -> None:
    """`loss`: what the function returns then, whatever the embeddings are."""
    warnings.warn(
        f"{function} has no negatives: the loss is {loss} and its gradient 0, so this step trains nothing. {hint}",
        UserWarning,
        stacklevel=3,
    )


def warn_without_positives(function: str, hint: str) -> None:
    warnings.warn(
        f"{function} has no positives: the loss is 0 and its gradient 0, so this step trains nothing. {hint}",
        UserWarning,
        stacklevel=3,
    )


# --------------------------------------------------------------------------------------------------- normalisation


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse = norm.clamp_min(NORM_EPS).reciprocal_()
        # 1 / infinity is 0: a diverged row would pass for a zero vector, and the loss for a finite one
        inverse.masked_fill_(norm == torch.inf, torch.nan)
        unit = x * inverse
        ctx.save_for_backward(unit, inverse.masked_fill_(norm <= NORM_EPS, 0))
        return unit

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        unit, inverse = ctx.saved_tensors
        along = torch.linalg.vecdot(grad, unit).unsqueeze(-1)
        return torch.addcmul(grad, unit, along, value=-1).mul_(inverse)


def unit_rows(x: Tensor, normalize: bool = True) -> Tensor:
    """Rows in the type that sums are made in (float32, or float64 for float64), of length 1 if asked."""
    x = x.to(accumulation_dtype(x.dtype))
    return _Normalize.apply(x) if normalize else x


def operands(reference: Tensor, *xs: Tensor) -> list[Tensor]:
    """What the tiles are multiplied from: bfloat16 on a GPU when the input or autocast is bfloat16, else as it is."""
    kind = reference.device.type
    if kind == "cuda":
        autocast = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.bfloat16
        if reference.dtype == torch.bfloat16 or autocast:
            return [x.to(torch.bfloat16) for x in xs]
    return list(xs)


# ------------------------------------------------------------------------------------------ ids, gathering, reduction


def id_exclusion(row_ids: Tensor, col_ids: Tensor, diagonals: tuple[int, ...] = ()) -> Exclusion:
    """Pairs with equal ids are left out, in the cheapest form that leaves out just these.

    Args:
        row_ids (`[N]`), col_ids (`[M]`): whole numbers.
        diagonals: where rows meet their own sample, for the case of no repeats.
    """
    if diagonals:
        repeats = torch.unique(row_ids).numel() < row_ids.numel()
        return Exclusion(row_ids=row_ids, col_ids=col_ids) if repeats else Exclusion(diagonals)
    ids, order = col_ids.long().sort()
    wanted = row_ids.long().contiguous()
    first = torch.searchsorted(ids, wanted)
    matches = torch.searchsorted(ids, wanted, right=True) - first
    most = int(matches.max()) if matches.numel() else 0
    if most == 0:
        return Exclusion()
    if most == 1:
        return Exclusion(columns=order[first.clamp(max=len(ids) - 1)].masked_fill_(matches == 0, -1))
    return Exclusion(row_ids=row_ids, col_ids=col_ids)


class Remote:
    """The rows that the other processes hold, with gradient; nothing without several processes or `gather`."""

    def __init__(self, gather: bool) -> None:
        self.world = get_world_size() if gather else 1
        self.rank = get_rank() if gather else 0

    @property
    def active(self) -> bool:
        return self.world > 1

    def rows(self, x: Tensor) -> Tensor:
        return self._without_own(all_gather_with_grad(x), x.shape[0])

    def ids(self, ids: Tensor) -> Tensor:
        return self._without_own(all_gather_no_grad(ids), ids.shape[0])

    def _without_own(self, everything: Tensor, own: int) -> Tensor:
        start = self.rank * own
        return torch.cat([everything[:start], everything[start + own :]])


def negative_log_likelihood(positive: Tensor, *negatives: Tensor) -> Tensor:
    """-log( e^positive / (e^positive + sum of e^negatives) ), the negatives given as log-sums, `EMPTY` for none.

    Written as a soft plus of the difference: exact when the loss is tiny, and exactly 0 without negatives.
    """
    total = torch.full_like(positive, EMPTY)
    for negative in negatives:
        total = torch.logaddexp(total, negative)
    return -F.logsigmoid(positive - total)


def reduce(values: Tensor, reduction: str) -> Tensor:
    return values.mean() if reduction == "mean" else values.sum() if reduction == "sum" else values


__all__ = [
    "EMPTY",
    "NOTHING",
    "Exclusion",
    "Remote",
    "check_embeddings",
    "check_ids",
    "check_options",
    "check_pairs",
    "check_positive",
    "check_share",
    "id_exclusion",
    "negative_log_likelihood",
    "operands",
    "reduce",
    "unit_rows",
    "warn_without_negatives",
    "warn_without_positives",
]
