"""Geometry of embeddings: alignment, uniformity, effective rank, spread, similarity of pairs. All without labels."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from hf_contrastive.evaluation._checks import as_embeddings, as_pair, blocks, check_positive


@torch.no_grad()
def alignment(z_i: Any, z_j: Any, alpha: float = 2, *, normalize: bool = True) -> float:
    """Mean distance of positive pairs, to the power alpha: `mean ||u_i - v_i||^alpha`. Lower is better; 0 is perfect.

    Equation 1 of Wang and Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity on
    the Hypersphere", 2020 (alpha = 2 there).

    Args:
        z_i (`[N, D]` array or tensor): embeddings of one view.
        z_j (`[N, D]` array or tensor): embeddings of the other view; row i of both is one positive pair.
        alpha (`float`, defaults to 2): the power.
        normalize (`bool`, defaults to `True`): put the rows on the unit sphere first, as the definition asks. With alpha 2
            the range is then 0 to 4.

    Returns:
        `float`: the alignment.

    Raises:
        ValueError: shapes that differ, NaN or infinity, alpha not above 0.

    Example:

    ```python
    >>> from hf_contrastive.evaluation import alignment
    >>> alignment([[1.0, 0.0]], [[0.0, 3.0]])
    2.0

    ```
    """
    check_positive("alpha", alpha)
    left, right = as_pair("z_i", z_i, "z_j", z_j, same_shape=True, dtype=torch.float64)
    if normalize:
        left, right = F.normalize(left, dim=1), F.normalize(right, dim=1)
    return float((left - right).square().sum(1).pow(alpha / 2).mean())


@torch.no_grad()
def uniformity(z: Any, t: float = 2, *, normalize: bool = True, chunk_size: int | None = None) -> float:
    """Log of the mean Gaussian potential of all pairs: `log mean_{i<j} exp(-t ||u_i - u_j||^2)`. Lower is better.

    Equation 2 of Wang and Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity on
    the Hypersphere", 2020 (t = 2 there). 0 means that all embeddings are one point; on a sphere of many dimensions the
    best value comes near `-2 t` (-4 for t = 2).

    Args:
        z (`[N, D]` array or tensor): embeddings, at least two rows.
        t (`float`, defaults to 2): sharpness of the potential.
        normalize (`bool`, defaults to `True`): put the rows on the unit sphere first, as the definition asks.
        chunk_size (`int`, *optional*): rows at a time; memory is O(chunk_size * N), never N * N.

    Returns:
        `float`: the uniformity.

    Raises:
        ValueError: fewer than two rows, NaN or infinity, t not above 0.

    Example:

    ```python
    >>> from hf_contrastive.evaluation import uniformity
    >>> uniformity([[1.0, 0.0], [-1.0, 0.0]])
    -8.0

    ```
    """
    check_positive("t", t)
    rows = as_embeddings("z", z, dtype=torch.float64)
    n = len(rows)
    if n < 2:
        raise ValueError("`z` has one row; uniformity is a mean over pairs and needs at least two")
    rows = F.normalize(rows, dim=1) if normalize else rows
    norms = rows.square().sum(1)
    total = torch.full((), -torch.inf, dtype=torch.float64, device=rows.device)
    for part in blocks(n, n, chunk_size):
        # only the pairs i < j: column 0 of this block is row `part.start`
        distances = norms[part, None] + norms[None, part.start :] - 2 * (rows[part] @ rows[part.start :].T)
        exponents = -t * distances.clamp_min(0)
        above = torch.ones_like(exponents, dtype=torch.bool).triu(1)
        if above.any():  # a last block of one row has no pair
            total = torch.logaddexp(total, exponents.masked_fill(~above, -torch.inf).flatten().logsumexp(0))
    return float(total) - math.log(n * (n - 1) / 2)


@torch.no_grad()
def effective_rank(z: Any, *, center: bool = False, squared: bool = False, chunk_size: int | None = None) -> float:
    """Number of directions that the embeddings really use: `exp(entropy of the normalised singular values)`.

    Roy and Vetterli, "The effective rank: a measure of effective dimensionality", 2007, definition 1: with singular
    values s_k and p_k = s_k / sum(s), the value is exp(-sum p_k log p_k), between 1 and min(N, D). A value that falls
    towards 1 during training tells of (dimensional) collapse.

    Args:
        z (`[N, D]` array or tensor): embeddings.
        center (`bool`, defaults to `False`): subtract the mean row first, so that a common offset does not count as a
            direction.
        squared (`bool`, defaults to `False`): share out the squared singular values (variances) instead, as papers on
            collapse often do; the value is smaller.
        chunk_size (`int`, *optional*): rows at a time; memory beyond the input is O((chunk_size + D) * D). The result is
            the exact one.

    Returns:
        `float`: the effective rank.

    Raises:
        ValueError: NaN or infinity, or a matrix of zeros (also when all rows are equal and `center` is on): no singular
            value is left to share out.

    Example:

    ```python
    >>> from hf_contrastive.evaluation import effective_rank
    >>> round(effective_rank([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), 6)
    2.0

    ```
    """
    rows = as_embeddings("z", z, dtype=torch.float64)
    mean = (
        rows.mean(0, keepdim=True) if center else torch.zeros(1, rows.shape[1], dtype=rows.dtype, device=rows.device)
    )
    size = max(rows.abs().max().item(), 1e-300)
    # Stacked QR: R of [R of the rows so far; next rows] has the singular values of all rows, and stays D x D. The scale is
    # taken out first so that tiny embeddings do not underflow.
    reduced = rows.new_zeros(0, rows.shape[1])
    for part in blocks(len(rows), rows.shape[1], chunk_size):
        reduced = torch.cat([reduced, (rows[part] - mean) / size])
        if len(reduced) > rows.shape[1]:
            reduced = torch.linalg.qr(reduced, mode="r").R
    values = torch.linalg.svdvals(reduced)
    values = values.square() if squared else values
    total = values.sum()
    # relative to the input: after centring equal rows only rounding is left
    if float(total) <= 1e-14 * len(rows):
        what = "after subtracting the mean, all rows of `z` are zero" if center else "all rows of `z` are zero"
        raise ValueError(f"{what}: the effective rank is not defined (the embeddings have collapsed)")
    shares = values / total
    return float(torch.special.entr(shares).sum().exp())


@torch.no_grad()
def embedding_std(z: Any) -> float:
    """Mean over the dimensions of the standard deviation of the L2-normalised embeddings.

    The collapse monitor of Chen and He, "Exploring Simple Siamese Representation Learning", 2021, section 4.1: about
    `1 / sqrt(D)` for embeddings spread evenly over the sphere, 0 when all are one point. The population standard
    deviation is taken.

    Args:
        z (`[N, D]` array or tensor): embeddings, at least two rows.

    Returns:
        `float`: the spread.

    Raises:
        ValueError: fewer than two rows, NaN or infinity.

    Example:

    ```python
    >>> from hf_contrastive.evaluation import embedding_std
    >>> embedding_std([[2.0, 2.0], [2.0, 2.0]])
    0.0

    ```
    """
    rows = as_embeddings("z", z, dtype=torch.float64)
    if len(rows) < 2:
        raise ValueError("`z` has one row; a spread needs at least two")
    return float(F.normalize(rows, dim=1).std(0, correction=0).mean())


@torch.no_grad()
def positive_negative_similarity(z_i: Any, z_j: Any) -> dict[str, float]:
    """Mean cosine of the positive pairs (row i with row i) and of the negative pairs (row i with row j, across views).

    Args:
        z_i (`[N, D]` array or tensor): embeddings of one view.
        z_j (`[N, D]` array or tensor): embeddings of the other view.

    Returns:
        `dict`: `pos_sim`, `neg_sim` (-1 to 1) and `margin`, their difference. Exact over all N (N - 1) negatives, in
        O(N D) time and memory.

    Raises:
        ValueError: shapes that differ, fewer than two rows, NaN or infinity.

    Example:

    ```python
    >>> from hf_contrastive.evaluation import positive_negative_similarity
    >>> positive_negative_similarity([[1.0, 0.0], [0.0, 1.0]], [[2.0, 0.0], [0.0, 2.0]])
    {'pos_sim': 1.0, 'neg_sim': 0.0, 'margin': 1.0}

    ```
    """
    left, right = as_pair("z_i", z_i, "z_j", z_j, same_shape=True, dtype=torch.float64)
    n = len(left)
    if n < 2:
        raise ValueError("`z_i` has one row; without a second there is no negative pair")
    left, right = F.normalize(left, dim=1), F.normalize(right, dim=1)
    positives = float((left * right).sum())
    # the sum over all pairs is the product of the sums
    negatives = float(left.sum(0) @ right.sum(0)) - positives
    pos_sim, neg_sim = positives / n, negatives / (n * (n - 1))
    return {"pos_sim": pos_sim, "neg_sim": neg_sim, "margin": pos_sim - neg_sim}
