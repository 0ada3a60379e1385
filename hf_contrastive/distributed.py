"""Gathering across processes, with gradient; every function also works in a single process without a process group."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """Whether a process group with more than one process is running."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def get_rank() -> int:
    """Number of this process, 0 when there is only one."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def get_world_size() -> int:
    """Number of processes, 1 when no process group is running."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main_process() -> bool:
    """Whether this is the process that writes files and prints."""
    return get_rank() == 0


def all_gather_with_grad(x: Tensor) -> Tensor:
    """
    Joins the rows of all processes; gradients flow back to the process that owns the row.

    The backward pass adds up what every process computed for a row. With DistributedDataParallel, which averages
    gradients over processes, a loss of the local rows against all gathered columns then has exactly the gradient that
    one process has on the joined batch (the mean over all rows).

    Args:
        x (`Tensor` of shape `[B, ...]`): the rows of this process. B must be the same on every process.

    Returns:
        `Tensor` of shape `[W * B, ...]`, rank 0's rows first. `x` itself when there is one process.

    Raises:
        ValueError: on every process, when the shapes differ between processes.

    Example:

        >>> import torch
        >>> from hf_contrastive.distributed import all_gather_with_grad
        >>> all_gather_with_grad(torch.ones(2, 3)).shape  # one process: nothing to do
        torch.Size([2, 3])
    """
    if not is_distributed():
        return x
    _check_same_shape(x)
    from torch.distributed import _functional_collectives as collectives

    # torch renamed this function; the last resort is deprecated but exists in every version
    gather = getattr(collectives, "all_gather_single_autograd", None)
    gather = gather or getattr(collectives, "all_gather_tensor_autograd", None)
    if gather is not None:
        return gather(x.contiguous(), 0, dist.group.WORLD)
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(x.contiguous()))


@torch.no_grad()
def all_gather_no_grad(x: Tensor) -> Tensor:
    """
    Joins the rows of all processes, without gradient (ids, labels, features for an evaluation).

    Args:
        x (`Tensor` of shape `[B, ...]`): the rows of this process. B must be the same on every process.

    Returns:
        `Tensor` of shape `[W * B, ...]`, rank 0's rows first. `x` itself when there is one process.

    Raises:
        ValueError: on every process, when the shapes differ between processes.
    """
    if not is_distributed():
        return x
    _check_same_shape(x)
    x = x.detach().contiguous()
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x)
    return torch.cat(parts)


@torch.no_grad()
def broadcast_from_first(x: Tensor) -> Tensor:
    """The first process's values of a tensor on every process, in place; `x` itself when there is one process."""
    if is_distributed():
        dist.broadcast(x, 0)
    return x


def all_reduce_sum(x: Tensor) -> Tensor:
    """Sum of a tensor over all processes, without gradient; `x` itself when there is one process."""
    if is_distributed():
        x = x.detach().clone()
        dist.all_reduce(x)
    return x


def _check_same_shape(x: Tensor) -> None:
    """A collective on unequal shapes hangs or returns rubbish; compare them first, on every process alike."""
    if x.dim() == 0:
        raise ValueError("`x` must have at least one dimension (its rows are joined), got a tensor without any.")
    mine = torch.full((9,), -1, dtype=torch.int64, device=x.device)
    mine[: x.dim()] = torch.tensor(x.shape, dtype=torch.int64)
    parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, mine)
    shapes = [[int(n) for n in part.tolist() if n >= 0] for part in parts]
    if any(shape != shapes[0] for shape in shapes):
        seen = ", ".join(f"rank {rank}: {shape}" for rank, shape in enumerate(shapes))
        raise ValueError(
            f"Every process must bring the same shape to be gathered, got {seen}. Use `drop_last=True` in the data "
            f"loader so that no process gets a shorter last batch."
        )
