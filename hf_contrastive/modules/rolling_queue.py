"""Queues of past features, one per view, that help to assign a batch to prototypes."""

from __future__ import annotations

from typing import Any

import torch
from transformers import initialization as init

from hf_contrastive.distributed import all_gather_no_grad, get_world_size
from hf_contrastive.modules.training_state import TrainingState


class RollingQueue(TrainingState):
    """The latest features of every assigning view of all processes, the newest first (SwAV,
    https://arxiv.org/abs/2006.09882, section 3.2 and published code).

    A small batch alone cannot be shared out among many prototypes, so features of the last batches take part. The queues
    start with zeros and are of use once they are full. New rows are staged in the forward pass and enter after the optimiser
    step, when no gradient needs the old ones any more; every process holds the same queues. The oldest rows fall out, also
    where the size is no multiple of the batch.

    Args:
        num_views (`int`): views that are assigned.
        size (`int`): rows of each queue, at least a global batch.
        dim (`int`): size of the features.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.modules.rolling_queue import RollingQueue
    >>> queue = RollingQueue(num_views=1, size=3, dim=2)
    >>> for value in (1.0, 2.0):
    ...     queue.stage(torch.full((1, 2, 2), value))
    ...     queue.after_step(None)
    >>> queue.features[0, :, 0].tolist(), queue.is_full
    ([2.0, 2.0, 1.0], True)

    ```
    """

    is_memory = True

    features: torch.Tensor
    num_written: torch.Tensor

    def __init__(self, num_views: int, size: int, dim: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("features", torch.empty(num_views, size, dim))
        self.register_buffer("num_written", torch.empty((), dtype=torch.long))
        self._staged: list[torch.Tensor] = []
        self.init_state(None)

    @property
    def is_full(self) -> bool:
        """Whether every row is a feature that was enqueued."""
        return int(self.num_written) >= self.size

    @torch.no_grad()
    def init_state(self, model: Any) -> None:
        """Zeros, where the checkpoint brought nothing."""
        init.zeros_(self.features)
        init.zeros_(self.num_written)

    @torch.no_grad()
    def stage(self, features: torch.Tensor) -> None:
        """Remember the features of a batch for the end of the optimiser step.

        Args:
            features (`torch.Tensor` `[num_views, batch, dim]`): of this process, as they are.

        Raises:
            ValueError: the queue is shorter than the global batch.
        """
        rows = features.shape[1] * get_world_size()
        if rows > self.size:
            raise ValueError(
                f"the queue has {self.size} rows, fewer than the global batch of {rows} rows; set queue_size={rows} or "
                "more, or 0 for no queue."
            )
        self.synchronise()
        rows_first = features.detach().to(self.features.dtype).transpose(0, 1).contiguous()
        self._staged.append(all_gather_no_grad(rows_first).transpose(0, 1))
        if (len(self._staged) - 1) * rows >= self.size:  # would have fallen out again
            self._staged.pop(0)

    @torch.no_grad()
    def after_step(self, model: Any) -> None:
        """Write what was staged."""
        for features in self._staged:
            kept = self.features[:, : self.size - features.shape[1]]
            self.features.copy_(torch.cat([features, kept], 1))
            self.num_written += features.shape[1]
        self._staged.clear()

    def extra_repr(self) -> str:
        return f"num_views={self.features.shape[0]}, size={self.size}, dim={self.features.shape[2]}"


__all__ = ["RollingQueue"]
