"""InfoNCE: find the positive of each query among negatives."""

from __future__ import annotations

from dataclasses import replace

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
from hf_contrastive.losses._engine import lse_rows
from hf_contrastive.losses.margins import check_margin, with_margin


def info_nce(
    query: Tensor,
    positive: Tensor,
    negatives: Tensor | None = None,
    *,
    temperature: float | Tensor = 0.07,
    sample_ids: Tensor | None = None,
    negative_ids: Tensor | None = None,
    negative_mask: Tensor | None = None,
    in_batch_negatives: bool = True,
    normalize: bool = True,
    gather: bool = False,
    margin: float = 0.0,
    margin_type: str = "cosine",
    tile_size: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    """
    InfoNCE: the cross-entropy of finding each query's positive among its negatives
    (van den Oord et al. 2018, https://arxiv.org/abs/1807.03748, equation 4).

    With similarity s and temperature T, row i costs

        -log( exp(s(q_i, p_i) / T) / (exp(s(q_i, p_i) / T) + sum over negatives n of exp(s(q_i, n) / T)) ).

    The negatives of row i are the positives of the other rows (`in_batch_negatives`), and the given `negatives`: a queue
    shared by all rows, or hard negatives of each row. One direction only; see [`clip_loss`] for both.

    Args:
        query (`Tensor` of shape `[N, D]`): the anchors.
        positive (`Tensor` of shape `[N, D]`): row i is the positive of query i.
        negatives (`Tensor` of shape `[M, D]` or `[N, M, D]`, *optional*): further negatives, for all rows or by row.
            They are used as this process has them, never gathered.
        temperature (`float` or `Tensor` with one element, defaults to 0.07): T, above 0. A tensor gets its gradient.
        sample_ids (integer `Tensor` of shape `[N]`, *optional*): rows with the same id are never each other's
            negatives; the positive of the row stays.
        negative_ids (integer `Tensor` of shape `[M]` or `[N, M]`, *optional*): ids of `negatives`; one that equals the
            id of the query is left out. Needs `sample_ids`.
        negative_mask (bool `Tensor` of shape `[N, M]`, *optional*): True where the given negative counts for the row.
        in_batch_negatives (`bool`, defaults to `True`): use the positives of the other rows as negatives.
        normalize (`bool`, defaults to `True`): compare by cosine. A zero vector stays zero and gets no gradient.
        gather (`bool`, defaults to `False`): take in-batch negatives from all processes, with gradient. The result is
            the mean over the rows of this process; averaged over processes it is the loss of the joined batch.
        margin (`float`, defaults to 0), margin_type (`str`, defaults to `"cosine"`): changes the cosine of the positive, see
            [`with_margin`].
        tile_size (`int`, *optional*): rows and columns of the similarity tile that is in memory at a time. None
            chooses, and keeps up to 160 MiB of tiles for the backward pass.
        reduction (`"mean"`, `"sum"` or `"none"`, defaults to `"mean"`): over the N rows.

    Returns:
        `Tensor`: a scalar, or `[N]` with `reduction="none"`; float32 (float64 for float64 embeddings).

    Raises:
        ValueError: for shapes, dtypes or devices that do not fit, ids that are not integers, a temperature that is not
            above 0. `TypeError` for arguments that are no tensors.

    Example:

        >>> import torch
        >>> from hf_contrastive.losses import info_nce
        >>> query, key = torch.eye(4), torch.eye(4)
        >>> queue = -torch.eye(4)
        >>> print(f"{info_nce(query, key, queue, temperature=1.0):.4f}")
        1.2068
    """
    check_pairs("query", query, "positive", positive)
    check_options(tile_size, reduction)
    check_margin(margin, margin_type)
    n = query.shape[0]
    check_ids("sample_ids", sample_ids, [(n,)], query.device)
    _check_negatives(query, negatives, sample_ids, negative_ids, negative_mask)
    value, temperature = check_positive("temperature", temperature)
    bound = 1.001 / value if normalize else None

    q = unit_rows(query, normalize) / temperature
    p = unit_rows(positive, normalize)
    likeness = (q * p).sum(-1)
    if margin != 0:
        likeness = with_margin((unit_rows(query, normalize) * p).sum(-1), margin, margin_type) / temperature
    sums = []
    count = 0
    if in_batch_negatives:
        remote = Remote(gather)
        exclude = Exclusion((0,)) if sample_ids is None else id_exclusion(sample_ids, sample_ids, (0,))
        a, b = operands(query, q, p)
        sums.append(lse_rows(a, b, exclude, tile_size=tile_size, bound=bound))
        count += n * remote.world - 1
        if remote.active:
            exclude = Exclusion()
            if sample_ids is not None:
                exclude = id_exclusion(sample_ids, remote.ids(sample_ids))
            sums.append(lse_rows(a, remote.rows(b), exclude, tile_size=tile_size, bound=bound))
    if negatives is not None:
        count += negatives.shape[-2]
        others = unit_rows(negatives, normalize)
        if others.dim() == 2:
            exclude = Exclusion()
            if sample_ids is not None and negative_ids is not None:
                exclude = id_exclusion(sample_ids, negative_ids)
            exclude = replace(exclude, keep=negative_mask)
            a, b = operands(query, q, others)
            sums.append(lse_rows(a, b, exclude, tile_size=tile_size, bound=bound))
        else:
            sums.append(_own_negatives(q, others, sample_ids, negative_ids, negative_mask))
    if count == 0:
        warn_without_negatives("info_nce", "Use a batch of two or more rows, or give `negatives`.")
    return reduce(negative_log_likelihood(likeness, *sums), reduction)


def _own_negatives(
    q: Tensor, negatives: Tensor, sample_ids: Tensor | None, negative_ids: Tensor | None, mask: Tensor | None
) -> Tensor:
    """Log-sum over the negatives that belong to each row alone: N * M numbers, no more than the input holds."""
    # autocast would multiply in half precision
    with torch.autocast(q.device.type, enabled=False):
        logits = torch.einsum("nd,nmd->nm", q, negatives)
    if negative_ids is not None and sample_ids is not None:
        logits = logits.masked_fill(sample_ids[:, None] == negative_ids, -1e30)
    if mask is not None:
        logits = logits.masked_fill(~mask, -1e30)
    return logits.logsumexp(1)


def _check_negatives(
    query: Tensor,
    negatives: Tensor | None,
    sample_ids: Tensor | None,
    negative_ids: Tensor | None,
    negative_mask: Tensor | None,
) -> None:
    if negatives is None:
        for name, value in (("negative_ids", negative_ids), ("negative_mask", negative_mask)):
            if value is not None:
                raise ValueError(f"`{name}` describes `negatives`, which is None; give both or neither.")
        return
    if not isinstance(negatives, Tensor):
        raise TypeError(f"`negatives` must be a torch.Tensor, got {type(negatives).__name__}.")
    n, d = query.shape
    if negatives.dim() not in (2, 3) or (negatives.dim() == 3 and negatives.shape[0] != n):
        raise ValueError(
            f"`negatives` must have shape [M, {d}] (shared by all rows) or [{n}, M, {d}] (by row), got "
            f"{list(negatives.shape)}."
        )
    check_embeddings("negatives", negatives, (2, 3), like=("query", query))
    m = negatives.shape[-2]
    check_ids("negative_ids", negative_ids, [(m,)] if negatives.dim() == 2 else [(m,), (n, m)], query.device)
    if negative_ids is not None and sample_ids is None:
        raise ValueError("`negative_ids` is compared with `sample_ids`, which is None; give both or neither.")
    if negative_mask is not None:
        if negative_mask.dtype != torch.bool or tuple(negative_mask.shape) != (n, m):
            raise ValueError(
                f"`negative_mask` must be bool of shape [{n}, {m}] (True = counts), got {negative_mask.dtype} of shape "
                f"{list(negative_mask.shape)}."
            )
        if negative_mask.device != query.device:
            raise ValueError(
                f"`negative_mask` must be on {query.device} like the embeddings, got {negative_mask.device}."
            )


class InfoNCELoss(nn.Module):
    """
    [`info_nce`] as a module: the settings are given once, the tensors at each call.

    Args:
        temperature (`float`, defaults to 0.07), in_batch_negatives (`bool`, defaults to `True`), normalize (`bool`,
        defaults to `True`), gather (`bool`, defaults to `False`), tile_size (`int`, *optional*), reduction (`str`,
        defaults to `"mean"`): as in [`info_nce`].

    Example:

        >>> import torch
        >>> from hf_contrastive.losses import InfoNCELoss
        >>> loss = InfoNCELoss(temperature=0.2)
        >>> loss(torch.randn(8, 16), torch.randn(8, 16)).shape
        torch.Size([])
    """

    def __init__(
        self,
        temperature: float = 0.07,
        *,
        in_batch_negatives: bool = True,
        normalize: bool = True,
        gather: bool = False,
        tile_size: int | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        check_options(tile_size, reduction)
        self.temperature = temperature
        self.in_batch_negatives = in_batch_negatives
        self.normalize = normalize
        self.gather = gather
        self.tile_size = tile_size
        self.reduction = reduction

    def forward(
        self,
        query: Tensor,
        positive: Tensor,
        negatives: Tensor | None = None,
        *,
        sample_ids: Tensor | None = None,
        negative_ids: Tensor | None = None,
        negative_mask: Tensor | None = None,
    ) -> Tensor:
        return info_nce(
            query,
            positive,
            negatives,
            temperature=self.temperature,
            sample_ids=sample_ids,
            negative_ids=negative_ids,
            negative_mask=negative_mask,
            in_batch_negatives=self.in_batch_negatives,
            normalize=self.normalize,
            gather=self.gather,
            tile_size=self.tile_size,
            reduction=self.reduction,
        )

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}, normalize={self.normalize}, gather={self.gather}"
