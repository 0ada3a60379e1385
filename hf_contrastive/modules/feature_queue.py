"""A queue of past embeddings that serve as negatives."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import initialization as init

from hf_contrastive.distributed import all_gather_no_grad, get_world_size
from hf_contrastive.modules.training_state import TrainingState


class FeatureQueue(TrainingState):
    """The latest embeddings of all processes, first in, first out, with the id of each (MoCo,
    https://arxiv.org/abs/1911.05722, section 3.2).

    New rows are staged in the forward pass and enter after the optimiser step, when no gradient needs the old ones any
    more; every process holds the same queue. It starts with random unit rows, whose id is -1 (unknown).

    Args:
        size (`int`): rows, a multiple of the global batch.
        dim (`int`): size of the embeddings.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.modules.feature_queue import FeatureQueue
    >>> queue = FeatureQueue(size=4, dim=2)
    >>> queue.stage(torch.tensor([[3.0, 4.0]]), torch.tensor([7]))
    >>> queue.after_step(None)
    >>> queue.features[0], queue.ids.tolist()
    (tensor([0.6000, 0.8000]), [7, -1, -1, -1])

    ```
    """

    is_memory = True

    features: torch.Tensor
    ids: torch.Tensor
    num_written: torch.Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("features", torch.empty(size, dim))
        self.register_buffer("ids", torch.empty(size, dtype=torch.long))
        self.register_buffer("num_written", torch.empty((), dtype=torch.long))
        self._staged: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.init_state(None)

    @property
    def position(self) -> int:
        """Row that is written next."""
        return int(self.num_written) % self.size

    @property
    def is_full(self) -> bool:
        """Whether every row is an embedding that was enqueued, and none a random one of the start."""
        return int(self.num_written) >= self.size

    def rows(self) -> torch.Tensor:
        """The embeddings `[size, dim]`, the same on every process. Bring queries and keys to their type, not the other way
        round: under autocast a copy of the whole queue in half precision would be made at every step.
        """
        self.synchronise()
        return self.features

    @torch.no_grad()
    def init_state(self, model: Any) -> None:
        """Random unit rows without ids, where the checkpoint brought nothing."""
        init.copy_(self.features, nn.functional.normalize(torch.randn_like(self.features), dim=1))
        init.constant_(self.ids, -1)
        init.zeros_(self.num_written)

    @torch.no_grad()
    def stage(self, features: torch.Tensor, ids: torch.Tensor | None = None) -> None:
        """Remember the embeddings of a batch for the end of the optimiser step.

        Args:
            features (`torch.Tensor` `[batch, dim]`): of this process; normalised here.
            ids (`torch.LongTensor` `[batch]`, *optional*): an id or label of each row; -1 by default.

        Raises:
            ValueError: the queue is no multiple of the global batch.
        """
        check_queue_size(self.size, len(features) * get_world_size())
        self.synchronise()
        features = nn.functional.normalize(features.detach().to(self.features.dtype), dim=1)
        if ids is None:
            ids = torch.full((len(features),), -1, device=features.device)
        self._staged.append((all_gather_no_grad(features), all_gather_no_grad(ids.to(torch.long))))
        if len(self._staged) * len(self._staged[0][0]) > self.size:  # more would overwrite each other
            self._staged.pop(0)

    @torch.no_grad()
    def after_step(self, model: Any) -> None:
        """Write what was staged."""
        for features, ids in self._staged:
            rows = (self.num_written + torch.arange(len(features), device=self.features.device)) % self.size
            self.features.index_copy_(0, rows, features)
            self.ids.index_copy_(0, rows, ids)
            self.num_written += len(features)
        self._staged.clear()

    def extra_repr(self) -> str:
        return f"size={self.size}, dim={self.features.shape[1]}"


def check_queue_size(size: int, global_batch: int) -> None:
    """Refuse a queue that is no multiple of the global batch.

    Args:
        size (`int`): rows of the queue.
        global_batch (`int`): rows that enter at a time, of all processes.

    Raises:
        ValueError: names both and the nearest size that fits.
    """
    if global_batch > 0 and size % global_batch:
        fitting = max(1, round(size / global_batch)) * global_batch
        raise ValueError(
            f"the queue has {size} rows, which is no multiple of the global batch of {global_batch} rows; set "
            f"queue_size={fitting}, or change the batch size."
        )


__all__ = ["FeatureQueue", "check_queue_size"]
