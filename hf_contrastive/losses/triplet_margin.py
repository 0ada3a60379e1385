"""All triplets of a batch: the negative farther away than the positive, by a margin."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hf_contrastive.distributed import all_reduce_sum
from hf_contrastive.losses._common import Remote, check_embeddings, check_ids, unit_rows


# entries of [pairs, rows] that are held at a time
_BLOCK = 1 << 22


def triplet_margin_loss(
    features: Tensor, labels: Tensor, *, margin: float = 0.3, normalize: bool = True, gather: bool = False
) -> Tensor:
    """
    Triplet loss (Schroff et al. 2015, https://arxiv.org/abs/1503.03832, equation 2, without the squares) over all triplets of the
    batch ("batch all" of Hermans et al. 2017, https://arxiv.org/abs/1703.07737).

    With d the Euclidean distance of two rows (of unit length, so 0 to 2), it is the mean of max(0, d(a, p) - d(a, n) + margin) over
    all rows a, all other rows p with the label of a and all rows n with another label. That is what one random negative for each
    positive pair costs on average, without the draw.

    Args:
        features (`Tensor` of shape `[N, D]`): the rows.
        labels (integer `Tensor` of shape `[N]`): class of each row.
        margin (`float`, defaults to 0.3): how much farther away the negative has to be.
        normalize (`bool`, defaults to `True`): scale rows to length 1. A zero vector stays zero and gets no gradient.
        gather (`bool`, defaults to `False`): positives and negatives are also the rows of other processes, with gradient. Averaged
            over processes, the result is the loss of the joined batch.

    Returns:
        `Tensor`: a scalar; float32 (float64 for float64 features); 0 where there is no triplet.

    Raises:
        ValueError: for shapes, dtypes or devices that do not fit, labels that are not integers, a margin below 0 or not
            finite. `TypeError` for arguments that are no tensors.

    Example:

        >>> import torch
        >>> from hf_contrastive.losses import triplet_margin_loss
        >>> features = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
        >>> print(f"{triplet_margin_loss(features, torch.tensor([0, 0, 1])):.4f}")
        0.2810
    """
    check_embeddings("features", features)
    check_ids("labels", labels, [(features.shape[0],)], features.device)
    if isinstance(margin, bool) or not isinstance(margin, (int, float)):
        raise TypeError(f"`margin` must be a number, got {type(margin).__name__}.")
    if not (math.isfinite(margin) and margin >= 0):
        raise ValueError(f"`margin` must be a finite distance of 0 or more, got {margin!r}.")

    x = unit_rows(features, normalize)
    remote = Remote(gather)
    everyone, all_labels = x, labels
    if remote.active:
        # the process's own rows come first, so that a row meets itself on the diagonal
        everyone, all_labels = torch.cat([x, remote.rows(x)]), torch.cat([labels, remote.ids(labels)])
    # from differences: from products, close rows would lose their distance to rounding. Its gradient is 0 where d is 0
    distance = torch.cdist(x, everyone, compute_mode="donot_use_mm_for_euclid_dist")
    same = labels[:, None] == all_labels[None, :]
    positive = same.clone()
    positive.fill_diagonal_(False)
    anchors, partners = positive.nonzero(as_tuple=True)
    count = (~same).sum(1)[anchors].sum()
    total = distance.sum() * 0  # joined to the graph also where there is no triplet
    for start in range(0, len(anchors), max(1, _BLOCK // max(1, len(everyone)))):
        rows = slice(start, start + max(1, _BLOCK // max(1, len(everyone))))
        a = anchors[rows]
        costs = (distance[a, partners[rows]][:, None] - distance[a] + margin).relu()
        total = total + costs.masked_fill(same[a], 0).sum()
    if remote.active:
        count = all_reduce_sum(count)
    # each process divides by its share of all triplets, so that the average over processes is the joined mean
    return total * remote.world / count.clamp_min(1)


__all__ = ["triplet_margin_loss"]
