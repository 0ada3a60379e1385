"""MIL-NCE: each row has several candidates of which some fit, and nobody knows which."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_contrastive.losses._common import (
    EMPTY,
    NOTHING,
    Exclusion,
    Remote,
    check_embeddings,
    check_ids,
    check_options,
    check_positive,
    id_exclusion,
    reduce,
    unit_rows,
    warn_without_negatives,
)
from hf_contrastive.losses._engine import lse_both, lse_rows


def mil_nce(
    embeds: Tensor,
    candidates: Tensor,
    *,
    candidate_mask: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    normalize: bool = False,
    sample_ids: Tensor | None = None,
    gather: bool = False,
    tile_size: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    """
    MIL-NCE (Miech et al. 2020, https://arxiv.org/abs/1912.06430, equation 1) in the form of the published training code of
    SurgVLP (https://arxiv.org/abs/2307.15220): K candidate texts a clip, at least one of which describes it.

    With x_ijk the product of row i and candidate k of row j, divided by the temperature, row i costs

        log( sum over j, k of exp(x_ijk) + sum over j, k of exp(x_jik) ) - log( sum over k of exp(x_iik) ).

    Both sums of the first logarithm hold the row's own candidates: a solved row costs ln 2, not 0. Products are taken as they
    are by default, and they are large for wide embeddings: everything is computed in float32 (float64 for float64), whatever
    the inputs and autocast are.

    Args:
        embeds (`Tensor` of shape `[N, D]`): one row a sample (clips).
        candidates (`Tensor` of shape `[N, K, D]`): K candidates for each (texts around the clip's time).
        candidate_mask (bool `Tensor` of shape `[N, K]`, *optional*): True where a candidate counts; what is False is neither a
            positive nor a negative of any row. At least one a row.
        temperature (`float` or `Tensor` with one element, defaults to 1.0): what products are divided by, above 0. A tensor
            gets its gradient.
        normalize (`bool`, defaults to `False`): compare by cosine. A zero vector stays zero and gets no gradient.
        sample_ids (integer `Tensor` of shape `[N]`, *optional*): rows with the same id are never each other's negatives;
            the row's own candidates stay.
        gather (`bool`, defaults to `False`): take negatives from all processes, with gradient. The result is the mean
            over the rows of this process; averaged over processes it is the loss of the joined batch.
        tile_size (`int`, *optional*): rows and columns of the similarity tile that is in memory at a time. None
            chooses, and keeps up to 160 MiB of tiles for the backward pass.
        reduction (`"mean"`, `"sum"` or `"none"`, defaults to `"mean"`): over the N rows.

    Returns:
        `Tensor`: a scalar, or `[N]` with `reduction="none"`; float32 (float64 for float64 embeddings). A batch of one row
        has no negatives: ln 2, with a warning.

    Raises:
        ValueError: for shapes, dtypes or devices that do not fit, ids that are not integers, a row without a candidate, a
            temperature that is not above 0. `TypeError` for arguments that are no tensors.

    Example:

        >>> import torch
        >>> from hf_contrastive.losses import mil_nce
        >>> clips = torch.eye(2)
        >>> texts = torch.stack([torch.eye(2), torch.eye(2).flip(0)], 1)  # the first of two texts fits
        >>> print(f"{mil_nce(clips, texts):.4f}")
        1.3863
    """
    check_embeddings("embeds", embeds)
    check_options(tile_size, reduction)
    n, d = embeds.shape
    if not isinstance(candidates, Tensor):
        raise TypeError(f"`candidates` must be a torch.Tensor, got {type(candidates).__name__}.")
    if candidates.dim() != 3 or candidates.shape[0] != n or not candidates.shape[1]:
        raise ValueError(
            f"`candidates` must have shape [{n}, K, {d}] (K >= 1 candidates for each row of `embeds`), got "
            f"{list(candidates.shape)}."
        )
    check_embeddings("candidates", candidates, (3,), like=("embeds", embeds))
    k = candidates.shape[1]
    check_ids("sample_ids", sample_ids, [(n,)], embeds.device)
    value, temperature = check_positive("temperature", temperature)
    bound = 1.001 / value if normalize else None
    counts = torch.ones(n, k, dtype=torch.bool, device=embeds.device)
    if candidate_mask is not None:
        _check_mask(candidate_mask, n, k, embeds.device)
        counts = candidate_mask

    x = unit_rows(embeds, normalize) / temperature
    y = unit_rows(candidates.reshape(n * k, d), normalize).view(n, k, d)
    # products of elements, not of matrices: autocast would make those in half precision
    positive = (x[:, None] * y).sum(-1).masked_fill(~counts, EMPTY).logsumexp(1)

    ids = torch.arange(n, device=x.device) if sample_ids is None else sample_ids
    ours, owner = y[counts], counts.nonzero()[:, 0]
    repeats = sample_ids is not None and torch.unique(sample_ids).numel() < n
    exclude = Exclusion(row_ids=ids, col_ids=ids[owner]) if repeats else NOTHING
    rows, cols = lse_both(x, ours, exclude, tile_size=tile_size, bound=bound)
    sums = [rows, _by_row(cols, counts)]
    if repeats:  # then the row's own candidates are left out, too
        sums += [positive, positive]
    remote = Remote(gather)
    if remote.active:
        # masked rows travel along, so that all processes bring one shape
        theirs, their_counts = remote.rows(y), remote.ids(counts.to(torch.uint8)).bool()
        to_theirs = from_theirs = NOTHING
        if sample_ids is not None:
            their_ids = remote.ids(ids)
            to_theirs = id_exclusion(ids, their_ids[their_counts.nonzero()[:, 0]])
            from_theirs = id_exclusion(ids[owner], their_ids)
        sums.append(lse_rows(x, theirs[their_counts], to_theirs, tile_size=tile_size, bound=bound))
        back = lse_rows(ours, remote.rows(x), from_theirs, tile_size=tile_size, bound=bound)
        sums.append(_by_row(back, counts))
    elif n == 1:
        warn_without_negatives("mil_nce", "Use a batch of two or more rows.", loss="ln 2")
    return reduce(torch.stack(sums).logsumexp(0) - positive, reduction)


def _by_row(values: Tensor, counts: Tensor) -> Tensor:
    """Log-sum over the candidates of each row: [N], from one value for each candidate that counts."""
    table = values.new_full(counts.shape, EMPTY)
    return table.masked_scatter(counts, values).logsumexp(1)


def _check_mask(mask: Tensor, n: int, k: int, device: torch.device) -> None:
    if not isinstance(mask, Tensor):
        raise TypeError(f"`candidate_mask` must be a torch.Tensor of bool, got {type(mask).__name__}.")
    if mask.dtype != torch.bool or tuple(mask.shape) != (n, k):
        raise ValueError(
            f"`candidate_mask` must be bool of shape [{n}, {k}] (True = counts), got {mask.dtype} of shape "
            f"{list(mask.shape)}."
        )
    if mask.device != device:
        raise ValueError(f"`candidate_mask` must be on {device} like the embeddings, got {mask.device}.")
    empty = (~mask.any(1)).nonzero()
    if len(empty):
        raise ValueError(
            f"`candidate_mask`: row {int(empty[0])} has no candidate that counts; leave the row out, or give it one."
        )


__all__ = ["mil_nce"]
