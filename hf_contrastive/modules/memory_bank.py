"""A memory bank: one embedding for every image of the training set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init

from hf_contrastive.distributed import all_gather_no_grad
from hf_contrastive.modules.keyed_random import KeyedDraws
from hf_contrastive.modules.training_state import TrainingState


@dataclass
class BankUpdate:
    """What one batch changes in a memory bank, of all processes; the rows of the first process come first.

    Args:
        index (`LongTensor` `[N]`), features (`Tensor` `[N, dim]`): rows and what they become.
        labels (`LongTensor` `[N]`, *optional*): their new clusters; `None` without online labels.
        change_ratio (`Tensor`, scalar, *optional*): share of the rows whose cluster is another one than before.
    """

    index: Tensor
    features: Tensor
    labels: Tensor | None = None
    change_ratio: Tensor | None = None


class MemoryBank(TrainingState):
    """The latest embedding of every image of the training set (NPID, https://arxiv.org/abs/1805.01978, section 3.1).

    A row moves towards the new embedding of its image and is brought back to length 1:

        row <- norm((1 - momentum) row + momentum norm(new)).

    `momentum` weighs the NEW embedding: 1 replaces the row. New rows are computed and staged in the forward pass and written
    after the optimiser step, when no gradient needs the old ones any more. Index and embedding are gathered over the
    processes, so that every process holds the same bank. Of several rows with the same index in one step the last one counts
    (the rows of the first process come first), as if it had come alone.

    Args:
        length (`int`): L, number of images in the training set.
        dim (`int`): size of the embeddings.
        momentum (`float`, defaults to 0.5): weight of the new embedding, above 0 and at most 1.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.modules.memory_bank import MemoryBank
    >>> bank = MemoryBank(length=10, dim=2, momentum=1.0)
    >>> _ = bank.stage(torch.tensor([7]), torch.tensor([[3.0, 4.0]]))
    >>> bank.after_step(None)
    >>> bank.features[7]
    tensor([0.6000, 0.8000])

    ```
    """

    is_memory = True

    features: Tensor
    ids: Tensor
    num_updates: Tensor
    seed: Tensor

    def __init__(self, length: int, dim: int, momentum: float = 0.5) -> None:
        super().__init__()
        if length < 1 or dim < 1:
            raise ValueError(
                f"a memory bank of {length} rows of {dim} numbers cannot be built; give 1 or more of both."
            )
        if not 0 < momentum <= 1:
            raise ValueError(f"`momentum` is {momentum!r}, but it must be above 0 and at most 1 (1 replaces the row).")
        self.length = length
        self.momentum = momentum
        self.register_buffer("features", torch.empty(length, dim))
        self.register_buffer("ids", torch.empty(length, dtype=torch.long))
        self.register_buffer("num_updates", torch.empty((), dtype=torch.long))
        self.register_buffer("seed", torch.empty((), dtype=torch.long))
        self._staged: list[tuple[BankUpdate, Tensor]] = []
        MemoryBank.init_state(self, None)

    @torch.no_grad()
    def init_state(self, model: Any) -> None:
        """Random unit rows without ids and a seed for the draws, where the checkpoint brought nothing."""
        init.copy_(self.features, nn.functional.normalize(torch.randn_like(self.features), dim=1))
        init.constant_(self.ids, -1)
        init.zeros_(self.num_updates)
        init.copy_(self.seed, torch.randint(2**30, 2**31, (), device=self.seed.device))

    def check_index(self, index: Tensor | None, rows: int) -> Tensor:
        """Refuse numbers that are no rows of the bank.

        Args:
            index (`LongTensor` `[rows]`, *optional*): the images' numbers in the training set.
            rows (`int`): how many are expected.

        Returns:
            `index` on the device of the bank.

        Raises:
            ValueError: no index, another shape, or a number outside the bank.
        """
        if index is None:
            raise ValueError(
                "`index` is missing: a memory bank has a row for every image of the training set, so the batch must hold "
                "their row numbers; use a MultiViewCollator, which hands `index` on, or pass `index=`."
            )
        if index.is_floating_point() or tuple(index.shape) != (rows,):
            raise ValueError(
                f"`index` must hold one integer for each of the {rows} images, got {index.dtype} of shape {tuple(index.shape)}."
            )
        if rows:
            low, high = (int(value) for value in index.aminmax())
            if low < 0 or high >= self.length:
                raise ValueError(
                    f"dataset index {low if low < 0 else high} outside the memory bank of length {self.length}; build the "
                    "bank with length=len(dataset) (in a configuration num_samples=len(dataset))."
                )
        return index.to(self.features.device, torch.long)

    def draws(self, index: Tensor, views: Tensor | None = None) -> KeyedDraws:
        """Random draws of this step for rows of a batch; the same until the next update.

        Args:
            index (`LongTensor` `[N]`): their numbers in the training set.
            views (`LongTensor` `[N]`, *optional*): tells apart several views of one image.
        """
        self.synchronise()
        return KeyedDraws(self.seed, self.num_updates, index, views)

    @torch.no_grad()
    def propose(self, index: Tensor, features: Tensor) -> BankUpdate:
        """What a batch would change.

        Args:
            index (`LongTensor` `[batch]`): the images' numbers in the training set, of this process.
            features (`Tensor` `[batch, dim]`): their new embeddings; normalised here.

        Returns:
            [`BankUpdate`] of all processes.

        Raises:
            ValueError: a number outside the bank.
        """
        index = self.check_index(index, len(features))
        self.synchronise()
        features = nn.functional.normalize(features.detach().to(self.features.dtype), dim=1)
        index, features = all_gather_no_grad(index), all_gather_no_grad(features)
        return BankUpdate(
            index, nn.functional.normalize(torch.lerp(self.features[index], features, self.momentum), dim=1)
        )

    @torch.no_grad()
    def stage(self, index: Tensor, features: Tensor, ids: Tensor | None = None) -> BankUpdate:
        """Compute what a batch changes and keep it for the end of the optimiser step.

        Args:
            index (`LongTensor` `[batch]`): the images' numbers in the training set, of this process.
            features (`Tensor` `[batch, dim]`): their new embeddings; normalised here.
            ids (`LongTensor` `[batch]`, *optional*): an id or label of each image; -1 by default.

        Returns:
            [`BankUpdate`]: what was kept, of all processes.

        Raises:
            ValueError: a number outside the bank.
        """
        update = self.propose(index, features)
        ids = torch.full((len(features),), -1, device=update.index.device) if ids is None else ids.to(update.index)
        self._staged.append((update, all_gather_no_grad(ids)))
        return update

    @torch.no_grad()
    def after_step(self, model: Any) -> None:
        """Write what was staged, and count the step."""
        if self._staged:
            updates, ids = zip(*self._staged, strict=True)
            index = torch.cat([update.index for update in updates])
            last = last_of_each(index)
            rows = index[last]
            self.features.index_copy_(0, rows, torch.cat([update.features for update in updates])[last])
            self.ids.index_copy_(0, rows, torch.cat(ids)[last])
            labels = [update.labels for update in updates if update.labels is not None]
            if labels:
                self._write_labels(rows, torch.cat(labels)[last])
            self._staged.clear()
        self.num_updates += 1

    def _write_labels(self, rows: Tensor, labels: Tensor) -> None:
        """For banks with clusters."""

    def extra_repr(self) -> str:
        return f"length={self.length}, dim={self.features.shape[1]}, momentum={self.momentum}"


def last_of_each(index: Tensor) -> Tensor:
    """Positions of the last occurrence of every value, in increasing order of the values.

    Args:
        index (`LongTensor` `[N]`): values, some of them several times.

    Returns:
        `LongTensor`: positions.
    """
    values, inverse = torch.unique(index, return_inverse=True)
    positions = torch.arange(len(index), device=index.device)
    return torch.zeros_like(values).scatter_reduce_(0, inverse, positions, "amax", include_self=False)


__all__ = ["BankUpdate", "MemoryBank", "last_of_each"]
