"""NT-Xent, the loss of SimCLR, for two views and for any number."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hf_contrastive.losses._common import (
    Exclusion,
    Remote,
    check_embeddings,
    check_ids,
    check_options,
    check_pairs,
    check_positive,
    id_exclusion,
    negative_log_likelihood,
    operands,
    reduce,
    unit_rows,
    warn_without_negatives,
)
from hf_contrastive.losses._engine import lse_rows, lse_self


def nt_xent(
    z_i: Tensor,
    z_j: Tensor,
    temperature: float | Tensor = 0.5,
    *,
    sample_ids: Tensor | None = None,
    normalize: bool = True,
    gather: bool = False,
    tile_size: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    """
    NT-Xent, the loss of SimCLR (Chen et al. 2020, https://arxiv.org/abs/2002.05709, equation 1).

    The 2N rows of both views are anchors. With similarity s and temperature T, an anchor i with its other view j costs

        -log( exp(s(z_i, z_j) / T) / sum over k != i of exp(s(z_i, z_k) / T) ),

    that is one positive and 2N - 2 negatives. The similarity matrix is symmetric, so half of it is computed.

    Args:
        z_i (`Tensor` of shape `[N, D]`): projections of the first view.
        z_j (`Tensor` of shape `[N, D]`): projections of the second view of the same samples.
        temperature (`float` or `Tensor` with one element, defaults to 0.5): T, above 0. A tensor gets its gradient.
        sample_ids (integer `Tensor` of shape `[N]`, *optional*): samples with the same id are never each other's
            negatives; the other view of the sample stays the positive.
        normalize (`bool`, defaults to `True`): compare by cosine. A zero vector stays zero and gets no gradient.
        gather (`bool`, defaults to `False`): take negatives from all processes, with gradient. The result is the mean
            over the anchors of this process; averaged over processes it is the loss of the joined batch.
        tile_size (`int`, *optional*): rows and columns of the similarity tile that is in memory at a time. None
            chooses, and keeps up to 160 MiB of tiles for the backward pass.
        reduction (`"mean"`, `"sum"` or `"none"`, defaults to `"mean"`): over the 2N anchors.

    Returns:
        `Tensor`: a scalar, or `[2N]` with `reduction="none"` (all of the first view, then all of the second); float32
        (float64 for float64 embeddings). A batch of one sample has no negatives: 0, with a warning.

    Raises:
        ValueError: for shapes, dtypes or devices that do not fit, ids that are not integers, a temperature that is not
            above 0. `TypeError` for arguments that are no tensors.

    Example:

        >>> import torch
        >>> from hf_contrastive.losses import nt_xent
        >>> print(f"{nt_xent(torch.eye(4), torch.eye(4), temperature=1.0):.4f}")
        1.1654
    """
    check_pairs("z_i", z_i, "z_j", z_j)
    check_ids("sample_ids", sample_ids, [(z_i.shape[0],)], z_i.device)
    losses = _view_losses("nt_xent", (z_i, z_j), temperature, sample_ids, normalize, gather, tile_size, reduction)
    return reduce(losses, reduction)


def nt_xent_multi_view(
    z: Tensor,
    temperature: float | Tensor = 0.5,
    *,
    sample_ids: Tensor | None = None,
    normalize: bool = True,
    gather: bool = False,
    tile_size: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    """
    NT-Xent for V views: the mean over all ordered pairs of two views of one sample.

    Each pair costs what equation 1 of SimCLR (https://arxiv.org/abs/2002.05709) says, with the rows of all OTHER
    samples as negatives: the sample's remaining views are positives too and are not pushed away. For V = 2 it equals
    [`nt_xent`]. (To have the remaining views in the denominator use [`sup_con`] with a label for each sample.)

    Args:
        z (`Tensor` of shape `[N, V, D]`): projections of V >= 2 views of N samples.
        temperature, sample_ids, normalize, gather, tile_size: as in [`nt_xent`].
        reduction (`"mean"`, `"sum"` or `"none"`, defaults to `"mean"`): over the V * (V - 1) * N pairs.

    Returns:
        `Tensor`: a scalar, or `[V * (V - 1) * N]` with `reduction="none"` (by anchor view, then other view, then
        sample).

    Raises:
        ValueError: as [`nt_xent`], and for fewer than two views.

    Example:

        >>> import torch
        >>> from hf_contrastive.losses import nt_xent, nt_xent_multi_view
        >>> z = torch.randn(8, 2, 16, dtype=torch.float64)
        >>> torch.allclose(nt_xent_multi_view(z), nt_xent(z[:, 0], z[:, 1]))
        True
    """
    check_embeddings("z", z, (3,))
    if z.shape[1] < 2:
        raise ValueError(f"`z` must hold at least two views, shape [N, V >= 2, D], got {list(z.shape)}.")
    check_ids("sample_ids", sample_ids, [(z.shape[0],)], z.device)
    views = z.unbind(1)
    losses = _view_losses(
        "nt_xent_multi_view", views, temperature, sample_ids, normalize, gather, tile_size, reduction
    )
    return reduce(losses, reduction)


def nt_xent_beta(
    z_i: Tensor,
    z_j: Tensor,
    temperature: float | Tensor = 0.5,
    beta: float = 0.0,
    *,
    add_one_in_neg: bool = False,
    sample_ids: Tensor | None = None,
    normalize: bool = True,
    gather: bool = False,
    tile_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """
    NT-Xent with an extra pull on the positives, the SimCLR baseline of DirectPred's published code (Tian et al. 2021,
    https://arxiv.org/abs/2102.06810; the extra term: https://arxiv.org/abs/2010.00578).

    With l_i the cost of an anchor in [`nt_xent`] and s_i the similarity of its positive, the objective is the sum of

        loss = mean of l_i / (1 + beta)    and    loss_intra = - beta * mean of s_i / (T (1 + beta)).

    Args:
        z_i, z_j (`Tensor` of shape `[N, D]`): projections of the two views of the same samples.
        temperature (`float` or `Tensor` with one element, defaults to 0.5): T, above 0.
        beta (`float`, defaults to 0.0): weight of the extra term, above -1; 0 gives [`nt_xent`] and 0.
        add_one_in_neg (`bool`, defaults to `False`): one more negative of similarity 1 for every anchor.
        sample_ids, normalize, gather, tile_size: as in [`nt_xent`].

    Returns:
        `tuple[Tensor, Tensor]`: `loss` and `loss_intra`, scalars; train their sum.

    Raises:
        ValueError: as [`nt_xent`], and for `beta` of -1 or less.

    Example:

        >>> import torch
        >>> from hf_contrastive.losses import nt_xent_beta
        >>> loss, loss_intra = nt_xent_beta(torch.eye(4), torch.eye(4), temperature=1.0, beta=1.0)
        >>> print(f"{loss:.4f} {loss_intra:.4f}")
        0.5827 -0.5000
    """
    if not beta > -1:
        raise ValueError(f"`beta` must be a number above -1, got {beta!r}.")
    temperature = check_positive("temperature", temperature)[1]
    losses = nt_xent(
        z_i,
        z_j,
        temperature,
        sample_ids=sample_ids,
        normalize=normalize,
        gather=gather,
        tile_size=tile_size,
        reduction="none",
    )
    positives = (unit_rows(z_i, normalize) * unit_rows(z_j, normalize)).sum(-1) / temperature
    if add_one_in_neg:
        # one more summand e^(1/T) under the logarithm, beside e^positive
        losses = torch.logaddexp(losses, 1 / temperature - positives.repeat(2))
    return losses.mean() / (1 + beta), -beta * positives.mean() / (1 + beta)


def _view_losses(
    function: str,
    views: tuple[Tensor, ...],
    temperature: float | Tensor,
    sample_ids: Tensor | None,
    normalize: bool,
    gather: bool,
    tile_size: int | None,
    reduction: str,
) -> Tensor:
    """The loss of every ordered pair of views of one sample: [V * (V - 1) * N]."""
    check_options(tile_size, reduction)
    value, temperature = check_positive("temperature", temperature)
    bound = 1.001 / value if normalize else None
    n, v = views[0].shape[0], len(views)

    # both factors of a similarity carry the square root of 1 / T: the matrix stays symmetric
    units = [unit_rows(z, normalize) / temperature**0.5 for z in views]
    (x,) = operands(views[0], torch.cat(units))
    if sample_ids is None:
        exclude = Exclusion(tuple(n * k for k in range(-v + 1, v)))
    else:
        ids = sample_ids.repeat(v)
        exclude = Exclusion(row_ids=ids, col_ids=ids)
        if id_exclusion(sample_ids, sample_ids, (0,)).row_ids is None:  # no repeats: the diagonals say the same
            exclude = Exclusion(tuple(n * k for k in range(-v + 1, v)))
    sums = [lse_self(x, exclude, tile_size=tile_size, bound=bound)]
    remote = Remote(gather)
    if remote.active:
        exclude = Exclusion()
        if sample_ids is not None:
            exclude = id_exclusion(ids, remote.ids(ids))
        sums.append(lse_rows(x, remote.rows(x), exclude, tile_size=tile_size, bound=bound))
    elif n == 1:
        warn_without_negatives(function, "Use a batch of two or more samples.")
    if v == 2:
        likeness = (units[0] * units[1]).sum(-1).repeat(2)
        return negative_log_likelihood(likeness, *sums)
    pairs = [(one, other) for one in range(v) for other in range(v) if one != other]
    likeness = torch.cat([(units[one] * units[other]).sum(-1) for one, other in pairs])
    by_anchor = [torch.cat([s.view(v, n)[one] for one, _ in pairs]) for s in sums]
    return negative_log_likelihood(likeness, *by_anchor)


class NTXentLoss(nn.Module):
    """
    [`nt_xent`] as a module: the settings are given once, the tensors at each call.

    Args:
        temperature (`float`, defaults to 0.5), normalize (`bool`, defaults to `True`), gather (`bool`, defaults to
        `False`), tile_size (`int`, *optional*), reduction (`str`, defaults to `"mean"`): as in [`nt_xent`].

    Example:

        >>> import torch
        >>> from hf_contrastive.losses import NTXentLoss
        >>> NTXentLoss(temperature=0.1)(torch.randn(8, 16), torch.randn(8, 16)).shape
        torch.Size([])
    """

    def __init__(
        self,
        temperature: float = 0.5,
        *,
        normalize: bool = True,
        gather: bool = False,
        tile_size: int | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        check_options(tile_size, reduction)
        self.temperature = temperature
        self.normalize = normalize
        self.gather = gather
        self.tile_size = tile_size
        self.reduction = reduction

    def forward(self, z_i: Tensor, z_j: Tensor, *, sample_ids: Tensor | None = None) -> Tensor:
        return nt_xent(
            z_i,
            z_j,
            self.temperature,
            sample_ids=sample_ids,
            normalize=self.normalize,
            gather=self.gather,
            tile_size=self.tile_size,
            reduction=self.reduction,
        )

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}, normalize={self.normalize}, gather={self.gather}"
