"""The learnable temperature of CLIP-like losses."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class LogitScale(nn.Module):
    """
    What similarities are multiplied by (1 / temperature), learned through its logarithm and kept below a ceiling
    (Radford et al. 2021, https://arxiv.org/abs/2103.00020, section 2.5).

    While training, a logarithm that an optimiser step has pushed above the ceiling is set back to it at the next call.
    Clamping only the result would stop the gradient up there, and the scale could never come down again.

    Args:
        init (`float`, defaults to 1 / 0.07): the first value of the scale, above 0 and not above `max_scale`.
        max_scale (`float`, defaults to 100): the ceiling.
        learnable (`bool`, defaults to `True`): whether the scale is trained.

    Raises:
        ValueError: for an `init` or a `max_scale` outside these bounds.

    Example:

        >>> from hf_contrastive.modules.logit_scale import LogitScale
        >>> scale = LogitScale(init=10.0)
        >>> print(f"{scale().item():.4f}")
        10.0000
    """

    def __init__(self, init: float = 1 / 0.07, max_scale: float = 100.0, learnable: bool = True) -> None:
        super().__init__()
        if not (math.isfinite(max_scale) and max_scale > 0):
            raise ValueError(f"`max_scale` must be a finite number above 0, got {max_scale}.")
        if not 0 < init <= max_scale:
            raise ValueError(f"`init` must be above 0 and at most max_scale = {max_scale}, got {init}.")
        self.init = init
        self.max_scale = max_scale
        self.log_scale = nn.Parameter(torch.empty(()), requires_grad=learnable)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the scale to `init`; a model's `_init_weights` calls this, so that a missing key loads well."""
        nn.init.constant_(self.log_scale, math.log(self.init))

    def forward(self) -> Tensor:
        """The scale, a tensor without dimensions, at most `max_scale`."""
        ceiling = math.log(self.max_scale)
        if self.training and self.log_scale.requires_grad:
            with torch.no_grad():
                self.log_scale.clamp_(max=ceiling)
            return self.log_scale.exp()
        return self.log_scale.clamp(max=ceiling).exp()

    def extra_repr(self) -> str:
        return f"init={self.init:.4g}, max_scale={self.max_scale:.4g}"
