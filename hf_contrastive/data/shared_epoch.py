"""The epoch that random draws depend on, where dataloader workers can see it change."""

from __future__ import annotations

import torch


class SharedEpoch:
    """Base of collators and datasets whose draws depend on the epoch; it lies in shared memory.

    [`~SharedEpoch.set_epoch`] in the main process reaches workers that run already (persistent workers), forked or spawned.

    Example:

    ```python
    >>> from hf_contrastive.data.shared_epoch import SharedEpoch
    >>> draws = SharedEpoch()
    >>> draws.set_epoch(3)
    >>> draws.epoch
    3

    ```
    """

    def __init__(self) -> None:
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        """The epoch that the next batch draws for."""
        return int(self._epoch[0])

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch, in this process and in all dataloader workers that hold this object."""
        self._epoch[0] = int(epoch)


__all__ = ["SharedEpoch"]
