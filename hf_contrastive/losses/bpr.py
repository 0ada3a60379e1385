"""Bayesian personalised ranking and the penalties on embeddings that recommenders add to it, in each code's own form."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_contrastive.distributed import all_gather_with_grad, get_world_size
from hf_contrastive.losses._common import check_embeddings, check_options, reduce
from hf_contrastive.losses._engine import accumulation_dtype


BPR_FORMS = ("softplus", "log_sigmoid_eps")
PENALTY_FORMS = ("half_sq", "frobenius", "frobenius_sq")


def bpr_loss(
    positive_scores: Tensor,
    negative_scores: Tensor,
    *,
    form: str = "softplus",
    eps: float = 1e-10,
    reduction: str = "mean",
) -> Tensor:
    """
    Bayesian personalised ranking: an item the user chose shall score higher than one the user did not (Rendle et al. 2009,
    https://arxiv.org/abs/1205.2618, section 4.1).

    With s the score of the chosen item minus that of the other:

    - `"softplus"`: log(1 + exp(-s)), exact for any s (the code of LightGCN);
    - `"log_sigmoid_eps"`: -log(eps + sigmoid(s)) (RecBole and MMRec with eps 1e-10, SELFRec with 1e-5): ends at -log(eps), where
      a pair that is very wrong has no gradient.

    Args:
        positive_scores (`Tensor` of shape `[N]`): of chosen items.
        negative_scores (`Tensor` of shape `[N]` or `[N, M]`): of items that were not chosen, one or M a row; with M, the mean.
        form (`str`, defaults to `"softplus"`): one of the two.
        eps (`float`, defaults to 1e-10): of the second form, above 0.
        reduction (`"mean"`, `"sum"` or `"none"`, defaults to `"mean"`): over the N rows.

    Returns:
        `Tensor`: a scalar, or `[N]` with `reduction="none"`; float32 (float64 for float64 scores).

    Raises:
        ValueError: shapes that do not fit, an unknown form, eps that is not above 0.

    Example:

        >>> import torch
        >>> from hf_contrastive.losses import bpr_loss
        >>> print(f"{bpr_loss(torch.tensor([2.0]), torch.tensor([2.0])):.4f}")
        0.6931
    """
    check_options(None, reduction)
    for name, scores in (("positive_scores", positive_scores), ("negative_scores", negative_scores)):
        if not isinstance(scores, Tensor) or not scores.is_floating_point():
            raise ValueError(
                f"`{name}` must be a floating point tensor, got {getattr(scores, 'dtype', type(scores))}."
            )
    n = positive_scores.shape[:1]
    if positive_scores.dim() != 1 or negative_scores.dim() not in (1, 2) or negative_scores.shape[:1] != n:
        raise ValueError(
            f"`positive_scores` must have shape [N] and `negative_scores` [N] or [N, M] with the same N, got "
            f"{list(positive_scores.shape)} and {list(negative_scores.shape)}."
        )
    if positive_scores.numel() == 0 or negative_scores.numel() == 0:
        raise ValueError("the scores are empty; give at least one chosen and one other item.")
    if form not in BPR_FORMS:
        raise ValueError(f"`form` is {form!r}; known are: {', '.join(BPR_FORMS)}.")
    positive = positive_scores.to(accumulation_dtype(positive_scores.dtype))
    negative = negative_scores.to(positive.dtype)
    difference = (positive[:, None] if negative.dim() == 2 else positive) - negative
    if form == "softplus":
        loss = F.softplus(-difference)
    else:
        if not eps > 0:
            raise ValueError(f"`eps` is {eps!r}, but it must be above 0.")
        loss = -(eps + difference.sigmoid()).log()
    return reduce(loss.mean(1) if loss.dim() == 2 else loss, reduction)


def embedding_penalty(*embeddings: Tensor, form: str = "half_sq", gather: bool = False) -> Tensor:
    """
    The penalty on the embeddings of a batch that keeps them short, without its weight. Codes differ, so that their weights
    cannot be compared. For matrices E of B rows each:

    - `"half_sq"`: sum over E of ||E||_F^2 / (2 B) (LightGCN; RecBole with `require_pow`);
    - `"frobenius"`: sum over E of ||E||_F / B, the norm not squared (RecBole, MMRec, SELFRec);
    - `"frobenius_sq"`: sum over E of ||E||_F^2, not divided: it grows with the batch (DCCF).

    Args:
        *embeddings (`Tensor` of shape `[B, D]`): for example of users, chosen items and other items.
        form (`str`, defaults to `"half_sq"`): one of the three.
        gather (`bool`, defaults to `False`): of the batch of all processes together. Averaged over processes, the gradient is
            that of the joined batch.

    Returns:
        `Tensor`: a scalar; float32 (float64 for float64 embeddings). A matrix that is 0 everywhere gets no gradient.

    Raises:
        ValueError: no matrix, other shapes, or an unknown form.

    Example:

        >>> import torch
        >>> from hf_contrastive.losses import embedding_penalty
        >>> ones = torch.ones(2, 8)
        >>> [embedding_penalty(ones, form=form).item() for form in ("half_sq", "frobenius", "frobenius_sq")]
        [4.0, 2.0, 16.0]
    """
    if form not in PENALTY_FORMS:
        raise ValueError(f"`form` is {form!r}; known are: {', '.join(PENALTY_FORMS)}.")
    if not embeddings:
        raise ValueError("no embeddings were given; give at least one matrix [B, D].")
    for number, matrix in enumerate(embeddings):
        check_embeddings(f"embeddings[{number}]", matrix)
    rows = len(embeddings[0])
    if any(len(matrix) != rows for matrix in embeddings):
        raise ValueError(
            f"all embeddings must have one row a sample, got {', '.join(str(len(matrix)) for matrix in embeddings)} rows."
        )
    squares = torch.stack([matrix.to(accumulation_dtype(matrix.dtype)).square().sum() for matrix in embeddings])
    if gather:
        rows *= get_world_size()
        squares = all_gather_with_grad(squares[None]).sum(0)
    if form == "frobenius_sq":
        return squares.sum()
    if form == "half_sq":
        return squares.sum() / (2 * rows)
    # the slope of a root is infinite at 0
    empty = squares == 0
    return torch.where(empty, 0.0, squares.where(~empty, 1.0).sqrt()).sum() / rows


class BPRLoss(nn.Module):
    """
    [`bpr_loss`] as a module: the settings are given once, the scores at each call.

    Args:
        form (`str`, defaults to `"softplus"`), eps (`float`, defaults to 1e-10), reduction (`str`, defaults to `"mean"`): as in
            [`bpr_loss`].

    Example:

        >>> import torch
        >>> from hf_contrastive.losses import BPRLoss
        >>> BPRLoss(reduction="sum")(torch.tensor([900.0]), torch.tensor([1.0])).item()
        0.0
    """

    def __init__(self, *, form: str = "softplus", eps: float = 1e-10, reduction: str = "mean") -> None:
        super().__init__()
        self.form = form
        self.eps = eps
        self.reduction = reduction

    def forward(self, positive_scores: Tensor, negative_scores: Tensor) -> Tensor:
        return bpr_loss(positive_scores, negative_scores, form=self.form, eps=self.eps, reduction=self.reduction)

    def extra_repr(self) -> str:
        return f"form={self.form!r}, eps={self.eps}, reduction={self.reduction!r}"


__all__ = ["BPR_FORMS", "PENALTY_FORMS", "BPRLoss", "bpr_loss", "embedding_penalty"]
