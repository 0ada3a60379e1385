"""Pairs of one label closer than one margin, pairs of different labels farther apart than another."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hf_contrastive.distributed import all_reduce_sum
from hf_contrastive.losses._common import Remote, check_embeddings, check_ids, unit_rows


def pair_margin_loss(
    features: Tensor,
    labels: Tensor,
    *,
    pos_margin: float = 0.0,
    neg_margin: float = 0.5,
    normalize: bool = True,
    gather: bool = False,
) -> Tensor:
    """
    Contrastive loss of pairs (Hadsell et al. 2006, equation 4, without the squares), as pytorch-metric-learning has it and
    CLIPPINGS uses it beside [`sup_con`] (https://arxiv.org/abs/2304.03464).

    With d the Euclidean distance of two rows (of unit length, so 0 to 2), it is

        mean of max(0, d - pos_margin) over the pairs of one label for which this is above 0
        + mean of max(0, neg_margin - d) over the pairs of different labels for which this is above 0.

    A pair that has reached its margin does not thin the mean out. Both orders of a pair count, a row is no pair with itself.
    All distances are held at once: memory grows with the square of the batch.

    Args:
        features (`Tensor` of shape `[N, D]`): the rows.
        labels (integer `Tensor` of shape `[N]`): class of each row.
        pos_margin (`float`, defaults to 0): pairs of one label are pulled until they are this close.
        neg_margin (`float`, defaults to 0.5): pairs of different labels are pushed until they are this far apart.
        normalize (`bool`, defaults to `True`): scale rows to length 1. A zero vector stays zero and gets no gradient.
        gather (`bool`, defaults to `False`): also pair with the rows of other processes, with gradient. Averaged over
            processes, the result is the loss of the joined batch.

    Returns:
        `Tensor`: a scalar; float32 (float64 for float64 features). A mean of nothing is 0. Rows at the same place have no
        direction in which to part: such a pair counts, without gradient.

    Raises:
        ValueError: for shapes, dtypes or devices that do not fit, labels that are not integers, a margin below 0 or not
            finite. `TypeError` for arguments that are no tensors.

    Example:

        >>> import torch
        >>> from hf_contrastive.losses import pair_margin_loss
        >>> features = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6]])
        >>> print(f"{pair_margin_loss(features, torch.tensor([0, 0, 1]), neg_margin=0.3):.4f}")
        0.9116
    """
    check_embeddings("features", features)
    check_ids("labels", labels, [(features.shape[0],)], features.device)
    for name, margin in (("pos_margin", pos_margin), ("neg_margin", neg_margin)):
        if isinstance(margin, bool) or not isinstance(margin, (int, float)):
            raise TypeError(f"`{name}` must be a number, got {type(margin).__name__}.")
        if not (math.isfinite(margin) and margin >= 0):
            raise ValueError(f"`{name}` must be a finite distance of 0 or more, got {margin!r}.")

    x = unit_rows(features, normalize)
    remote = Remote(gather)
    everyone, all_labels = x, labels
    if remote.active:
        # the process's own rows come first, so that a row meets itself on the diagonal
        everyone, all_labels = torch.cat([x, remote.rows(x)]), torch.cat([labels, remote.ids(labels)])
    # from differences: from products, close rows would lose their distance to rounding. Its gradient is 0 where d is 0
    distance = torch.cdist(x, everyone, compute_mode="donot_use_mm_for_euclid_dist")
    same = labels[:, None] == all_labels[None, :]
    itself = torch.zeros_like(same)
    itself.fill_diagonal_(True)
    pulled = (distance - pos_margin).relu().masked_fill(~same | itself, 0)
    pushed = (neg_margin - distance).relu().masked_fill(same, 0)
    return _mean_above_zero(pulled, remote) + _mean_above_zero(pushed, remote)


def _mean_above_zero(costs: Tensor, remote: Remote) -> Tensor:
    count = (costs > 0).sum()
    if remote.active:
        count = all_reduce_sum(count)
    # each process divides by its share of all pairs that count, so that the average over processes is the joined mean
    return costs.sum() * remote.world / count.clamp_min(1)


__all__ = ["pair_margin_loss"]
