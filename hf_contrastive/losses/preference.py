"""Losses of preference pairs: an answer that is preferred, and one that is not."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


def bradley_terry_loss(
    chosen_rewards: Tensor, rejected_rewards: Tensor, margin: Tensor | float | None = None
) -> Tensor:
    """
    Loss of a reward model on preference pairs (Bradley and Terry 1952; Ouyang et al. 2022,
    https://arxiv.org/abs/2203.02155, equation 1).

        mean over pairs of -log sigmoid(r_chosen - r_rejected - margin)

    Over several processes with batches of one size, the mean of their values and gradients is that of the joined batch.

    Args:
        chosen_rewards, rejected_rewards (`Tensor` of shape `[batch]`): rewards of both answers of every pair.
        margin (`Tensor` of shape `[batch]` or `float`, *optional*): by how much the rewards should differ at least
            (Touvron et al. 2023, https://arxiv.org/abs/2307.09288, equation 2); 0 without it.

    Returns:
        `Tensor`: a scalar in nats, in float32 (float64 for float64 rewards).

    Raises:
        ValueError: for shapes that do not fit.

    Example:

        >>> import torch
        >>> from hf_contrastive.losses import bradley_terry_loss
        >>> round(float(bradley_terry_loss(torch.zeros(4), torch.zeros(4))), 4)  # log(2)
        0.6931
    """
    if chosen_rewards.dim() != 1 or chosen_rewards.shape != rejected_rewards.shape or not len(chosen_rewards):
        raise ValueError(
            f"`chosen_rewards` {list(chosen_rewards.shape)} and `rejected_rewards` {list(rejected_rewards.shape)} must "
            "both be [batch], with at least one pair."
        )
    gap = chosen_rewards - rejected_rewards
    if margin is not None:
        if isinstance(margin, Tensor) and margin.dim() and margin.shape != gap.shape:
            raise ValueError(
                f"`margin` has shape {list(margin.shape)}, expected one number a pair, {list(gap.shape)}."
            )
        gap = gap - margin
    # a margin in float64 must not make a float32 loss of double precision
    gap = gap.to(chosen_rewards.dtype) if chosen_rewards.dtype.itemsize >= 4 else gap.float()
    return -F.logsigmoid(gap).mean()


class BradleyTerryLoss(nn.Module):
    """
    [`bradley_terry_loss`] as a module.

    Example:

        >>> import torch
        >>> from hf_contrastive.losses import BradleyTerryLoss
        >>> round(float(BradleyTerryLoss()(torch.full((2,), 100.0), torch.zeros(2))), 4)
        0.0
    """

    def forward(
        self, chosen_rewards: Tensor, rejected_rewards: Tensor, margin: Tensor | float | None = None
    ) -> Tensor:
        return bradley_terry_loss(chosen_rewards, rejected_rewards, margin)


__all__ = ["BradleyTerryLoss", "bradley_terry_loss"]
