"""Objectives without negatives: every view predicts what the target network makes of the other views."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hf_contrastive.losses._common import check_embeddings, unit_rows


def byol_loss(predictions: Tensor, targets: Tensor, *, normalize: bool = True, constant: bool = True) -> Tensor:
    """
    The loss of BYOL (Grill et al. 2020, https://arxiv.org/abs/2006.07733, equation 2), in both directions.

    Every view v of a sample predicts the target t_w of every other view w. With rows of length 1 a pair costs
    ||p_v - t_w||^2 = 2 - 2 cos(p_v, t_w); the loss is twice the mean over the ordered pairs of views, that is, for two
    views, the sum of both directions, from 0 to 8.

    Args:
        predictions (`Tensor` of shape `[N, V, D]`): of V >= 2 views of N samples, by the predictor.
        targets (`Tensor` of shape `[N, V, D]`): what the target network makes of the same views; no gradient goes there.
        normalize (`bool`, defaults to `True`): bring the rows to length 1; otherwise the squared distance of the rows as
            they are.
        constant (`bool`, defaults to `True`): `False` leaves out the 2 of each pair, as DirectPred
            (https://arxiv.org/abs/2102.06810) does: from -4 to 4. Without effect where rows keep their length.

    Returns:
        `Tensor`: a scalar, the mean over the samples of this process; float32 (float64 for float64 embeddings).

    Raises:
        ValueError: for shapes or dtypes that do not fit, or fewer than two views.

    Example:

        >>> import torch
        >>> from hf_contrastive.losses import byol_loss
        >>> views = torch.eye(4).unsqueeze(1).repeat(1, 2, 1)
        >>> byol_loss(views, views).item(), byol_loss(views, -views).item(), byol_loss(views, views, constant=False).item()
        (0.0, 8.0, -4.0)
    """
    predictions, targets, pairs = _pairs(predictions, targets, normalize)
    if not normalize:
        costs = [(predictions[:, v] - targets[:, w]).square().sum(-1) for v, w in pairs]
        return 2 * torch.stack(costs).mean()
    similarity = _mean_similarity(predictions, targets, pairs)
    return (4 - 4 * similarity) if constant else -4 * similarity


def simsiam_loss(predictions: Tensor, targets: Tensor) -> Tensor:
    """
    The loss of SimSiam (Chen and He 2021, https://arxiv.org/abs/2011.10566, equations 1, 2 and 4).

    The mean of -cos(p_v, z_w) over the ordered pairs of views; for two views D(p_1, z_2) / 2 + D(p_2, z_1) / 2, from -1 to 1.

    Args:
        predictions (`Tensor` of shape `[N, V, D]`): of V >= 2 views of N samples, by the predictor.
        targets (`Tensor` of shape `[N, V, D]`): projections of the same views; no gradient goes there (stop-gradient).

    Returns:
        `Tensor`: a scalar, the mean over the samples of this process; float32 (float64 for float64 embeddings).

    Raises:
        ValueError: for shapes or dtypes that do not fit, or fewer than two views.

    Example:

        >>> import torch
        >>> from hf_contrastive.losses import simsiam_loss
        >>> views = torch.eye(4).unsqueeze(1).repeat(1, 2, 1)
        >>> simsiam_loss(views, views).item()
        -1.0
    """
    return -_mean_similarity(*_pairs(predictions, targets, True))


def _pairs(predictions: Tensor, targets: Tensor, normalize: bool) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
    """Rows to compare, the targets without gradient, and which view predicts which."""
    check_embeddings("predictions", predictions, (3,))
    # under autocast the two come in different precisions; both are compared in that of the sums
    check_embeddings("targets", targets, (3,))
    if predictions.shape != targets.shape:
        raise ValueError(
            f"`predictions` and `targets` must have the same shape [N, V, D] (the same views of the same samples), got "
            f"{list(predictions.shape)} and {list(targets.shape)}."
        )
    views = predictions.shape[1]
    if views < 2:
        raise ValueError(f"`predictions` holds {views} view, but every view predicts another one: give 2 or more.")
    pairs = [(v, w) for v in range(views) for w in range(views) if v != w]
    return unit_rows(predictions, normalize), unit_rows(targets.detach(), normalize), pairs


def _mean_similarity(predictions: Tensor, targets: Tensor, pairs: list[tuple[int, int]]) -> Tensor:
    return torch.stack([(predictions[:, v] * targets[:, w]).sum(-1) for v, w in pairs]).mean()


class BYOLLoss(nn.Module):
    """
    [`byol_loss`] as a module: the settings are given once, the tensors at each call.

    Args:
        normalize (`bool`, defaults to `True`), constant (`bool`, defaults to `True`): as in [`byol_loss`].

    Example:

        >>> import torch
        >>> from hf_contrastive.losses import BYOLLoss
        >>> BYOLLoss(constant=False)(torch.ones(3, 2, 4), torch.ones(3, 2, 4)).item()
        -4.0
    """

    def __init__(self, *, normalize: bool = True, constant: bool = True) -> None:
        super().__init__()
        self.normalize = normalize
        self.constant = constant

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return byol_loss(predictions, targets, normalize=self.normalize, constant=self.constant)

    def extra_repr(self) -> str:
        return f"normalize={self.normalize}, constant={self.constant}"


class SimSiamLoss(nn.Module):
    """
    [`simsiam_loss`] as a module.

    Example:

        >>> import torch
        >>> from hf_contrastive.losses import SimSiamLoss
        >>> SimSiamLoss()(torch.ones(3, 2, 4), torch.ones(3, 2, 4)).item()
        -1.0
    """

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return simsiam_loss(predictions, targets)
