"""Supervised contrastive loss: every row with the same label is a positive."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hf_contrastive.distributed import all_reduce_sum
from hf_contrastive.losses._common import (
    Exclusion,
    Remote,
    check_embeddings,
    check_ids,
    check_options,
    check_positive,
    operands,
    reduce,
    unit_rows,
    warn_without_negatives,
    warn_without_positives,
)
from hf_contrastive.losses._engine import lse_rows, lse_self


def sup_con(
    features: Tensor,
    labels: Tensor | None = None,
    temperature: float | Tensor = 0.07,
    *,
    normalize: bool = True,
    mean_of_nonzero: bool = False,
    gather: bool = False,
    tile_size: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    """
    Supervised contrastive loss (Khosla et al. 2020, https://arxiv.org/abs/2004.11362, equation 2, L_out).

    With similarity s, temperature T and P(i) all other rows that have the label of row i, row i costs

        -1/|P(i)| * sum over p in P(i) of log( exp(s(z_i, z_p) / T) / sum over k != i of exp(s(z_i, z_k) / T) ).

    Rows without a positive cost nothing and are left out of the mean (a batch without any positive warns). With one label
    for each sample it is NT-Xent that keeps further views in the denominator.

    Args:
        features (`Tensor` of shape `[N, V, D]` or `[N, D]`): V views of N samples, or one row for each sample.
        labels (integer `Tensor` of shape `[N]`, *optional*): class of each sample. None: each sample its own class
            (needs V >= 2).
        temperature (`float` or `Tensor` with one element, defaults to 0.07): T, above 0. A tensor gets its gradient.
        normalize (`bool`, defaults to `True`): compare by cosine. A zero vector stays zero and gets no gradient.
        mean_of_nonzero (`bool`, defaults to `False`): the conventions of pytorch-metric-learning, with which CLIPPINGS was
            trained: the mean is over the rows that cost more than 0 only, and a batch of one label, which has no
            negatives, costs nothing (otherwise its rows still attract each other).
        gather (`bool`, defaults to `False`): compare with the rows of all processes, with gradient. Averaged over
            processes, the result is the loss of the joined batch.
        tile_size (`int`, *optional*): rows and columns of the similarity tile that is in memory at a time. None
            chooses, and keeps up to 160 MiB of tiles for the backward pass.
        reduction (`"mean"`, `"sum"` or `"none"`, defaults to `"mean"`): over the rows that have a positive.

    Returns:
        `Tensor`: a scalar, or `[V * N]` with `reduction="none"` (by view, then sample; 0 for rows without positive);
        float32 (float64 for float64 features).

    Raises:
        ValueError: for shapes, dtypes or devices that do not fit, labels that are not integers, a temperature that is
            not above 0. `TypeError` for arguments that are no tensors.

    Example:

        >>> import torch
        >>> from hf_contrastive.losses import sup_con
        >>> features = torch.eye(2).repeat(2, 1)  # rows 0 and 2 agree, and so do 1 and 3
        >>> print(f"{sup_con(features, torch.tensor([0, 1, 0, 1]), temperature=1.0):.4f}")
        0.5514
    """
    check_embeddings("features", features, (2, 3))
    check_options(tile_size, reduction)
    n = features.shape[0]
    v = features.shape[1] if features.dim() == 3 else 1
    check_ids("labels", labels, [(n,)], features.device)
    value, temperature = check_positive("temperature", temperature)
    bound = 1.001 / value if normalize else None
    remote = Remote(gather)
    if labels is None:
        if v < 2:
            raise ValueError(
                f"`labels` may be None only with two or more views, `features` of shape [N, V >= 2, D], got "
                f"{list(features.shape)}."
            )
        labels = torch.arange(n, device=features.device) + remote.rank * n

    rows = features.transpose(0, 1).reshape(v * n, -1) if features.dim() == 3 else features
    labels = labels.repeat(v)
    x = unit_rows(rows, normalize) / temperature**0.5
    (z,) = operands(features, x)
    total = lse_self(z, Exclusion((0,)), tile_size=tile_size, bound=bound)
    everyone, all_labels = x, labels
    if remote.active:
        # the process's own rows stay as they are, so that their gradient does not travel
        others = remote.rows(x)
        everyone, all_labels = torch.cat([x, others]), torch.cat([labels, remote.ids(labels)])
        (others,) = operands(features, others)
        total = torch.logaddexp(total, lse_rows(z, others, tile_size=tile_size, bound=bound))

    # the mean similarity to the positives needs only the sum of each class
    _, group, sizes = torch.unique(all_labels, return_inverse=True, return_counts=True)
    sums = x.new_zeros(sizes.numel(), x.shape[1]).index_add(0, group, everyone)
    mine = group[: x.shape[0]]
    positives = (sizes[mine] - 1).to(x.dtype)
    likeness = (x * (sums[mine] - x)).sum(-1) / positives.clamp_min(1)
    has_positive = positives > 0
    losses = torch.where(has_positive, total - likeness, 0.0)
    if sizes.numel() == 1:  # nothing but positives, or one row alone
        warn_without_negatives("sup_con", "Use a batch with two or more labels.")
        if mean_of_nonzero:
            losses = losses * 0
    elif sizes.numel() == all_labels.numel():
        warn_without_positives("sup_con", "Use a batch in which labels repeat.")
    if reduction != "mean":
        return reduce(losses, reduction)
    counted = has_positive
    if mean_of_nonzero:
        losses = losses.relu()  # what rounding has put below 0 does not count either
        counted = losses > 0
    # each process divides by its share of all rows that count, so that the average over processes is the joined mean
    count = all_reduce_sum(counted.sum()) if remote.active else counted.sum()
    return losses.sum() * remote.world / count.clamp_min(1)


class SupConLoss(nn.Module):
    """
    [`sup_con`] as a module: the settings are given once, the tensors at each call.

    Args:
        temperature (`float`, defaults to 0.07), normalize (`bool`, defaults to `True`), mean_of_nonzero (`bool`, defaults to
        `False`), gather (`bool`, defaults to `False`), tile_size (`int`, *optional*), reduction (`str`, defaults to
        `"mean"`): as in [`sup_con`].

    Example:

        >>> import torch
        >>> from hf_contrastive.losses import SupConLoss
        >>> SupConLoss(temperature=0.1)(torch.randn(8, 2, 16), torch.arange(8) % 3).shape
        torch.Size([])
    """

    def __init__(
        self,
        temperature: float = 0.07,
        *,
        normalize: bool = True,
        mean_of_nonzero: bool = False,
        gather: bool = False,
        tile_size: int | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        check_options(tile_size, reduction)
        self.temperature = temperature
        self.normalize = normalize
        self.mean_of_nonzero = mean_of_nonzero
        self.gather = gather
        self.tile_size = tile_size
        self.reduction = reduction

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        return sup_con(
            features,
            labels,
            self.temperature,
            normalize=self.normalize,
            mean_of_nonzero=self.mean_of_nonzero,
            gather=self.gather,
            tile_size=self.tile_size,
            reduction=self.reduction,
        )

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}, normalize={self.normalize}, gather={self.gather}"
