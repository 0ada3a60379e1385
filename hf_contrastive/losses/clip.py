"""The loss of CLIP and ConVIRT: two towers, each side finds its partner among the other side's rows."""

from __future__ import annotations

from torch import Tensor, nn

from hf_contrastive.losses._common import (
    Exclusion,
    Remote,
    check_ids,
    check_options,
    check_pairs,
    check_positive,
    check_share,
    id_exclusion,
    negative_log_likelihood,
    operands,
    reduce,
    unit_rows,
    warn_without_negatives,
)
from hf_contrastive.losses._engine import lse_both, lse_rows


def clip_loss(
    a: Tensor,
    b: Tensor,
    logit_scale: float | Tensor,
    *,
    weight_a_to_b: float = 0.5,
    sample_ids: Tensor | None = None,
    normalize: bool = True,
    gather: bool = False,
    tile_size: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    """
    The symmetric contrastive loss of CLIP (Radford et al. 2021, https://arxiv.org/abs/2103.00020, figure 3): the mean
    of the cross-entropies of rows and of columns of `logit_scale * a b^T`, whose diagonal is right. With another weight
    of the two it is the loss of ConVIRT (Zhang et al. 2020, https://arxiv.org/abs/2010.00747, equations 2 to 4):

        loss = mean over i of ( w l_i(a -> b) + (1 - w) l_i(b -> a) ),
        l_i(a -> b) = -log( exp(scale s(a_i, b_i)) / sum over k of exp(scale s(a_i, b_k)) ).

    Only rows of the other side are in a sum. Rows and columns are summed in one pass over the matrix, so both directions
    cost about as much as one.

    Args:
        a (`Tensor` of shape `[N, D]`): embeddings of one side (images).
        b (`Tensor` of shape `[N, D]`): embeddings of the other side (texts); row i belongs to row i of `a`.
        logit_scale (`float` or `Tensor` with one element): what similarities are multiplied by, that is
            1 / temperature, NOT its logarithm. Above 0. A tensor gets its gradient; see [`LogitScale`].
        weight_a_to_b (`float`, defaults to 0.5): w, from 0 to 1: the share of the direction in which a row of `a` finds
            its partner in `b`. With 1 or 0 the other direction is not computed.
        sample_ids (integer `Tensor` of shape `[N]`, *optional*): rows with the same id are never each other's
            negatives (the same caption twice, say); the pair itself stays.
        normalize (`bool`, defaults to `True`): compare by cosine. A zero vector stays zero and gets no gradient.
        gather (`bool`, defaults to `False`): take negatives from all processes, with gradient. The result is the mean
            over the rows of this process; averaged over processes it is the loss of the joined batch.
        tile_size (`int`, *optional*): rows and columns of the similarity tile that is in memory at a time. None
            chooses, and keeps up to 160 MiB of tiles for the backward pass.
        reduction (`"mean"`, `"sum"` or `"none"`, defaults to `"mean"`): over the N pairs.

    Returns:
        `Tensor`: a scalar, or `[N]` with `reduction="none"` (for each pair, its two directions weighted; with a weight of
        1 or 0 one direction alone); float32 (float64 for float64 embeddings).

    Raises:
        ValueError: for shapes, dtypes or devices that do not fit, ids that are not integers, a scale that is not above
            0, a weight outside 0 to 1. `TypeError` for arguments that are no tensors.

    Example:

        >>> import torch
        >>> from hf_contrastive.losses import clip_loss
        >>> print(f"{clip_loss(torch.eye(4), torch.eye(4), logit_scale=1.0):.4f}")
        0.7437
    """
    check_pairs("a", a, "b", b)
    check_options(tile_size, reduction)
    check_ids("sample_ids", sample_ids, [(a.shape[0],)], a.device)
    check_share("weight_a_to_b", weight_a_to_b)
    value, logit_scale = check_positive("logit_scale", logit_scale)
    bound = value * 1.001 if normalize else None

    x = unit_rows(a, normalize) * logit_scale
    y = unit_rows(b, normalize)
    likeness = (x * y).sum(-1)
    exclude = Exclusion((0,)) if sample_ids is None else id_exclusion(sample_ids, sample_ids, (0,))
    p, q = operands(a, x, y)
    row_sums, col_sums = [], []
    if weight_a_to_b == 1:
        row_sums = [lse_rows(p, q, exclude, tile_size=tile_size, bound=bound)]
    elif weight_a_to_b == 0:
        col_sums = [lse_rows(q, p, exclude, tile_size=tile_size, bound=bound)]
    else:
        rows, cols = lse_both(p, q, exclude, tile_size=tile_size, bound=bound)
        row_sums, col_sums = [rows], [cols]
    remote = Remote(gather)
    if remote.active:
        exclude = Exclusion()
        if sample_ids is not None:
            exclude = id_exclusion(sample_ids, remote.ids(sample_ids))
        if row_sums:
            row_sums.append(lse_rows(p, remote.rows(q), exclude, tile_size=tile_size, bound=bound))
        if col_sums:
            col_sums.append(lse_rows(q, remote.rows(p), exclude, tile_size=tile_size, bound=bound))
    elif a.shape[0] == 1:
        warn_without_negatives("clip_loss", "Use a batch of two or more pairs.")
    # a direction that was not summed costs 0
    to_b = negative_log_likelihood(likeness, *row_sums)
    to_a = negative_log_likelihood(likeness, *col_sums)
    return reduce(weight_a_to_b * to_b + (1 - weight_a_to_b) * to_a, reduction)


class ClipLoss(nn.Module):
    """
    [`clip_loss`] as a module: the settings are given once, the tensors (the scale among them) at each call.

    Args:
        weight_a_to_b (`float`, defaults to 0.5), normalize (`bool`, defaults to `True`), gather (`bool`, defaults to
        `False`), tile_size (`int`, *optional*), reduction (`str`, defaults to `"mean"`): as in [`clip_loss`].

    Example:

        >>> import torch
        >>> from hf_contrastive.losses import ClipLoss
        >>> from hf_contrastive.modules.logit_scale import LogitScale
        >>> loss, scale = ClipLoss(), LogitScale()
        >>> loss(torch.randn(8, 16), torch.randn(8, 16), scale()).backward()
        >>> scale.log_scale.grad is not None
        True
    """

    def __init__(
        self,
        *,
        weight_a_to_b: float = 0.5,
        normalize: bool = True,
        gather: bool = False,
        tile_size: int | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        check_options(tile_size, reduction)
        check_share("weight_a_to_b", weight_a_to_b)
        self.weight_a_to_b = weight_a_to_b
        self.normalize = normalize
        self.gather = gather
        self.tile_size = tile_size
        self.reduction = reduction

    def forward(
        self, a: Tensor, b: Tensor, logit_scale: float | Tensor, *, sample_ids: Tensor | None = None
    ) -> Tensor:
        return clip_loss(
            a,
            b,
            logit_scale,
            weight_a_to_b=self.weight_a_to_b,
            sample_ids=sample_ids,
            normalize=self.normalize,
            gather=self.gather,
            tile_size=self.tile_size,
            reduction=self.reduction,
        )

    def extra_repr(self) -> str:
        return f"weight_a_to_b={self.weight_a_to_b}, normalize={self.normalize}, gather={self.gather}"
