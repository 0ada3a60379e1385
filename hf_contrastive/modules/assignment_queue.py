"""Past features that take part in the assignment to prototypes."""

from __future__ import annotations

from typing import Any

import torch
from transformers import initialization as init

from hf_contrastive.distributed import all_gather_no_grad
from hf_contrastive.modules.training_state import TrainingState


class AssignmentQueue(TrainingState):
    """The latest features of every assigning view, newest first (SwAV, https://arxiv.org/abs/2006.09882, section 3.2).

    A small batch cannot use all prototypes equally; with past features beside it the assignment can. The queue starts with
    zeros and counts as full from the moment its last row is not zero, as in the official code.

    Args:
        num_views (`int`): views that assign, each with a queue of its own.
        size (`int`): rows of each queue.
        dim (`int`): size of the features.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.modules.assignment_queue import AssignmentQueue
    >>> queue = AssignmentQueue(num_views=1, size=2, dim=1)
    >>> for number in (1.0, 2.0, 3.0):
    ...     queue.stage(torch.tensor([[[number]]]))
    ...     queue.after_step(None)
    >>> queue.is_full, queue.features.flatten().tolist()
    (True, [3.0, 2.0])

    ```
    """

    is_memory = True

    features: torch.Tensor

    def __init__(self, num_views: int, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("features", torch.empty(num_views, size, dim))
        self._staged: list[torch.Tensor] = []
        self.init_state(None)

    @property
    def is_full(self) -> bool:
        """Whether the last row was written."""
        return bool((self.features[:, -1] != 0).any())

    @torch.no_grad()
    def init_state(self, model: Any) -> None:
        """Zeros, where the checkpoint brought nothing."""
        init.zeros_(self.features)

    @torch.no_grad()
    def stage(self, features: torch.Tensor) -> None:
        """Remember the features of a batch for the end of the optimiser step.

        Args:
            features (`torch.Tensor` `[num_views, batch, dim]`): of this process; those of all processes enter.
        """
        features = features.detach().to(self.features.dtype).transpose(0, 1).contiguous()
        self._staged.append(all_gather_no_grad(features).transpose(0, 1))

    @torch.no_grad()
    def after_step(self, model: Any) -> None:
        """Push what was staged in at the front."""
        for features in self._staged:
            self.features.copy_(torch.cat([features, self.features], 1)[:, : self.features.shape[1]])
        self._staged.clear()

    def extra_repr(self) -> str:
        return f"num_views={len(self.features)}, size={self.features.shape[1]}, dim={self.features.shape[2]}"


__all__ = ["AssignmentQueue"]
