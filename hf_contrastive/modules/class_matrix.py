"""A vector for each of many classes, for softmax by cosine over all of them or a sample."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import nn
from transformers import initialization as init

from hf_contrastive.distributed import all_gather_no_grad, get_rank, get_world_size
from hf_contrastive.losses import class_cosine, margin_softmax, sample_classes


#: spread of new class vectors; their length does not matter, only how far a step turns them
STD = 0.02


class ClassMatrix(nn.Module):
    """Class vectors that features are compared with by cosine, and the draws of classes where these are too many to compare with all
    (the classification of MOFI, https://arxiv.org/abs/2306.07952).

    A draw depends on the labels of all processes, on `seed`, and on the number of optimiser steps so far, which is saved: every
    process draws the same classes, and a resumed run those of the uninterrupted one. The count goes up in `after_step`.

    Args:
        num_classes (`int`): C, 2 or more.
        dim (`int`): size of the features.
        num_sampled (`int`, defaults to 0): classes in a softmax, those of the batch included; 0 or at least C: all.
        seed (`int`, defaults to 0): of the draws.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.modules.class_matrix import ClassMatrix
    >>> matrix = ClassMatrix(num_classes=10, dim=4, num_sampled=5)
    >>> labels = torch.tensor([3, 8, -1])
    >>> matrix(torch.randn(3, 4), labels).shape, len(matrix.draw(labels))
    (torch.Size([]), 5)

    ```
    """

    num_steps: torch.Tensor

    def __init__(self, num_classes: int, dim: int, num_sampled: int = 0, seed: int = 0) -> None:
        super().__init__()
        for name, value, least in (("num_classes", num_classes, 2), ("dim", dim, 1), ("num_sampled", num_sampled, 0)):
            if value < least:
                raise ValueError(f"`{name}` is {value!r}, but it must be {least} or more.")
        self.num_classes, self.num_sampled, self.seed = num_classes, num_sampled, seed
        self.weight = nn.Parameter(torch.empty(self._held_rows(), dim))
        self.register_buffer("num_steps", torch.empty((), dtype=torch.long))
        self.init_state(None)

    def _held_rows(self) -> int:
        return self.num_classes

    @torch.no_grad()
    def init_state(self, model: Any) -> None:
        """Normal vectors of standard deviation 0.02 and no steps, where the checkpoint brought nothing."""
        init.normal_(self.weight, std=STD)
        init.zeros_(self.num_steps)

    def draw(self, labels: torch.Tensor) -> torch.Tensor | None:
        """The classes of this step's softmax: those of the batch of all processes first, then others at random.

        Args:
            labels (`torch.LongTensor` `[batch]`): of this process; every process brings as many. -1 for none.

        Returns:
            `torch.LongTensor` `[candidates]`, on every process the same; `None` for all classes.

        Raises:
            ValueError: a label that is no class.
        """
        if not 0 < self.num_sampled < self.num_classes:
            return None
        seed = _mixed(self.seed, int(self.num_steps))
        return sample_classes(labels, self.num_classes, self.num_sampled, seed=seed, gather=True)

    def forward(
        self,
        features: torch.Tensor,
        labels: torch.Tensor,
        *,
        scale: float = 32.0,
        margin: float = 0.15,
        candidates: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The margin softmax of a batch; see [`margin_softmax`](hf_contrastive.losses.margin_softmax).

        Args:
            features (`torch.Tensor` `[batch, dim]`): of any length, of this process.
            labels (`torch.LongTensor` `[batch]`): their classes, -1 for rows that have none and are left out.
            scale (`float`, defaults to 32), margin (`float`, defaults to 0.15): of the cosines, and of the right one.
            candidates (`torch.LongTensor` `[candidates]`, *optional*): the classes to compare with, the same on every process;
                drawn by default.

        Returns:
            `torch.Tensor`: a scalar; averaged over processes, the mean over the labelled rows of all of them.

        Raises:
            ValueError: a label that is no class, candidates without a label of the batch.
        """
        if candidates is None:
            candidates = self.draw(labels)
        return margin_softmax(
            features, self.weight, labels, scale=scale, margin=margin, candidates=candidates, gather=True
        )

    def cosine(self, features: torch.Tensor, candidates: torch.Tensor | None = None) -> torch.Tensor:
        """Cosines of features and class vectors.

        Args:
            features (`torch.Tensor` `[batch, dim]`): of any length.
            candidates (`torch.LongTensor` `[candidates]`, *optional*): which classes, in this order; all by default.

        Returns:
            `torch.Tensor` `[batch, candidates]`, in float32 at least.
        """
        return class_cosine(features, self.weight, candidates)

    @torch.no_grad()
    def after_step(self, model: Any) -> None:
        """Count the step: the next one draws other classes."""
        self.num_steps += 1

    def extra_repr(self) -> str:
        return f"num_classes={self.num_classes}, dim={self.weight.shape[1]}, num_sampled={self.num_sampled}"


class ShardedClassMatrix(ClassMatrix):
    """A class matrix that is spread over processes: process r of W holds the rows r * C / W, r * C / W + 1, ... and optimises them
    alone. Rows of features travel, class vectors stay, so memory and optimiser state for the classes are divided by W.

    It stands beside the model in a loop of your own, for three reasons: DistributedDataParallel must not average what
    differs by design (do not put it into the wrapped model), the norm of the gradient for clipping has to be joined over processes
    ([`~ShardedClassMatrix.gradient_norm`]), and every process has to save its part ([`~ShardedClassMatrix.full`] joins them). The
    Trainer does none of that; with it use [`ClassMatrix`], which every process holds as a whole.

    Args:
        num_classes (`int`): C, of all processes together.
        dim, num_sampled, seed: as [`ClassMatrix`]. New vectors differ with the number of processes.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.modules.class_matrix import ShardedClassMatrix
    >>> matrix = ShardedClassMatrix.from_full(torch.randn(10, 4), num_sampled=5)
    >>> loss = matrix(torch.randn(3, 4), torch.tensor([3, 8, -1]))  # embeddings of the model, the same on one process
    >>> loss.backward()
    >>> matrix.full().shape
    torch.Size([10, 4])

    ```
    """

    def _held_rows(self) -> int:
        return -(-self.num_classes // get_world_size())

    @torch.no_grad()
    def init_state(self, model: Any) -> None:
        """Normal vectors of standard deviation 0.02, other ones on every process, and no steps."""
        generator = torch.Generator().manual_seed(_mixed(self.seed, get_rank()))
        drawn = torch.randn(self.weight.shape, generator=generator, dtype=torch.float32) * STD
        self.weight.copy_(drawn)
        self.num_steps.zero_()

    @classmethod
    def from_full(cls, matrix: torch.Tensor, num_sampled: int = 0, seed: int = 0) -> ShardedClassMatrix:
        """This process's part of a whole matrix.

        Args:
            matrix (`torch.Tensor` `[classes, dim]`): the same on every process, for example `model.entity_head.weight`.
            num_sampled, seed (`int`): as of the class.
        """
        made = cls(*matrix.shape, num_sampled=num_sampled, seed=seed).to(matrix.device, matrix.dtype)
        rows = matrix.detach()[get_rank() * len(made.weight) :][: len(made.weight)]
        with torch.no_grad():
            made.weight.zero_()  # rows that fill the last part up
            made.weight[: len(rows)] = rows
        return made

    def full(self) -> torch.Tensor:
        """The whole matrix `[classes, dim]`; every process has to call it."""
        return all_gather_no_grad(self.weight.detach())[: self.num_classes]

    def gradient_norm(self) -> torch.Tensor:
        """Length of the gradient of the whole matrix, for clipping; every process has to call it."""
        own = (
            torch.zeros(1, device=self.weight.device) if self.weight.grad is None else self.weight.grad.norm().view(1)
        )
        return all_gather_no_grad(own).norm()

    def forward(
        self,
        features: torch.Tensor,
        labels: torch.Tensor,
        *,
        scale: float = 32.0,
        margin: float = 0.15,
        candidates: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As [`ClassMatrix.forward`], with classes numbered over all processes."""
        if candidates is None:
            candidates = self.draw(labels)
        return margin_softmax(
            features,
            self.weight,
            labels,
            scale=scale,
            margin=margin,
            candidates=candidates,
            sharded=True,
            num_classes=self.num_classes,
        )

    def cosine(self, features: torch.Tensor, candidates: torch.Tensor | None = None) -> torch.Tensor:
        """As [`ClassMatrix.cosine`], without gradient to the classes; every process has to call it."""
        return class_cosine(features, self.full(), candidates)


def _mixed(seed: int, number: int) -> int:
    """A seed of 32 bits, all that torch's generator on the CPU reads of one."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {number}".encode(), digest_size=4).digest(), "little")


__all__ = ["ClassMatrix", "ShardedClassMatrix"]
