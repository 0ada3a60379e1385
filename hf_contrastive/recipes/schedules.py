"""Learning rates that transformers has no schedule for."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def restarting_cosine(optimizer: Optimizer, period: int, factor: int) -> LambdaLR:
    """Cosine decay to 0 over `period` steps, then again over `factor` times as many, and so on (Keras CosineDecayRestarts).

    With `factor` 0 it decays once and stays at 0 (Keras CosineDecay). With a factor of 1 or more it is torch's
    `CosineAnnealingWarmRestarts(T_0=period, T_mult=factor)` stepped at every batch.

    Args:
        optimizer (`Optimizer`): its learning rates are the highest.
        period (`int`): steps of the first decay.
        factor (`int`): every period is that many times the one before.
    """

    def share(step: int) -> float:
        length = period
        while step >= length:
            if factor == 0:
                return 0.0
            step, length = step - length, length * factor
        return 0.5 * (1 + math.cos(math.pi * step / length))

    return LambdaLR(optimizer, share)


__all__ = ["restarting_cosine"]
