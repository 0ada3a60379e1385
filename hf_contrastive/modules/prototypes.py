"""Prototype vectors that features are assigned to."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import initialization as init

from hf_contrastive.losses._engine import accumulation_dtype


class Prototypes(nn.Linear):
    """Unit vectors whose products with unit features are the scores of SwAV (https://arxiv.org/abs/2006.09882).

    The rows are brought back to length 1 after every optimiser step (the official code does it before the next forward
    pass, which is the same). In the first steps they can be kept still, which helps the features to spread at the start.

    Args:
        dim (`int`): size of the features.
        num_prototypes (`int`): K, number of prototypes, 2 or more.
        frozen_steps (`int`, defaults to 0): optimiser steps at the start in which the prototypes do not move.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.modules.prototypes import Prototypes
    >>> prototypes = Prototypes(dim=4, num_prototypes=6)
    >>> prototypes(torch.eye(4)).shape, torch.allclose(prototypes.weight.norm(dim=1), torch.ones(6))
    (torch.Size([4, 6]), True)

    ```
    """

    num_steps: torch.Tensor

    def __init__(self, dim: int, num_prototypes: int, frozen_steps: int = 0) -> None:
        if num_prototypes < 2:
            raise ValueError(
                f"`num_prototypes` is {num_prototypes!r}, but one prototype tells nothing apart; give 2 or more."
            )
        super().__init__(dim, num_prototypes, bias=False)
        self.frozen_steps = frozen_steps
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.long))
        self.init_state(None)

    @torch.no_grad()
    def init_state(self, model: Any) -> None:
        """Unit rows and no steps, where the checkpoint brought nothing."""
        init.copy_(self.weight, nn.functional.normalize(self.weight, dim=1))
        init.zeros_(self.num_steps)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Scores.

        Args:
            input (`torch.Tensor` `[..., dim]`): unit rows.

        Returns:
            `torch.Tensor` `[..., num_prototypes]`, in float32 at least: Sinkhorn divides them by a small epsilon.
        """
        dtype = accumulation_dtype(input.dtype)
        with torch.autocast(input.device.type, enabled=False):
            return nn.functional.linear(input.to(dtype), self.weight.to(dtype))

    @torch.no_grad()
    def normalize_(self) -> None:
        """Bring every prototype to length 1."""
        self.weight.copy_(nn.functional.normalize(self.weight, dim=1))

    def before_step(self, model: Any) -> None:
        """Drop the gradient while the prototypes are frozen."""
        if int(self.num_steps) < self.frozen_steps:
            self.weight.grad = None

    @torch.no_grad()
    def after_step(self, model: Any) -> None:
        """Count the step and bring the rows back to length 1."""
        self.num_steps += 1
        if self.weight.requires_grad:  # frozen rows stay what they are to the last digit
            self.normalize_()


__all__ = ["Prototypes"]
