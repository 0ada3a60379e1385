"""SwAV: predict the cluster assignment of one view from another."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_contrastive.distributed import all_gather_no_grad, get_rank, get_world_size
from hf_contrastive.losses._common import check_embeddings, check_positive
from hf_contrastive.losses._engine import accumulation_dtype


@torch.no_grad()
def sinkhorn(
    scores: Tensor,
    epsilon: float = 0.05,
    num_iterations: int = 3,
    *,
    earlier: Tensor | None = None,
    gather: bool = False,
) -> Tensor:
    """
    Sinkhorn-Knopp: soft assignments of samples to prototypes that use all prototypes equally (Caron et al. 2020,
    https://arxiv.org/abs/2006.09882, equation 3).

    exp(scores / epsilon) is scaled by turns so that every prototype gets the same mass over the batch and every sample has
    the same mass; computed with logarithms, so that a small epsilon neither overflows nor empties a prototype.

    Args:
        scores (`Tensor` of shape `[N, K]`): similarity of every sample to every prototype.
        epsilon (`float`, defaults to 0.05): entropy of the assignment, above 0; smaller is harder.
        num_iterations (`int`, defaults to 3): rounds of scaling, 1 or more.
        earlier (`Tensor` of shape `[M, K]`, *optional*): scores of further samples, for example of a queue, that share the
            prototypes with these and come before them; the same on every process. No assignment is returned for them.
        gather (`bool`, defaults to `False`): share the prototypes among the samples of all processes.

    Returns:
        `Tensor` of shape `[N, K]`, without gradient: each row sums to 1; float32 (float64 for float64 scores).

    Raises:
        ValueError: for a shape that does not fit, `epsilon` not above 0, or no iteration.

    Example:

        >>> import torch
        >>> from hf_contrastive.losses import sinkhorn
        >>> codes = sinkhorn(torch.eye(4), epsilon=0.1)
        >>> codes.argmax(1).tolist(), torch.allclose(codes.sum(1), torch.ones(4))
        ([0, 1, 2, 3], True)
    """
    check_embeddings("scores", scores)
    check_positive("epsilon", epsilon)
    if isinstance(num_iterations, bool) or not isinstance(num_iterations, int) or num_iterations < 1:
        raise ValueError(f"`num_iterations` must be a whole number of at least 1, got {num_iterations!r}.")
    own = slice(0, len(scores))
    if gather and get_world_size() > 1:
        own = slice(get_rank() * len(scores), (get_rank() + 1) * len(scores))
        scores = all_gather_no_grad(scores)
    if earlier is not None:
        check_embeddings("earlier", earlier, like=("scores", scores))
        own = slice(own.start + len(earlier), own.stop + len(earlier))
        scores = torch.cat([earlier, scores])
    log_q = scores.to(accumulation_dtype(scores.dtype)) / epsilon
    for _ in range(num_iterations):
        log_q = log_q - log_q.logsumexp(0, keepdim=True)
        log_q = log_q - log_q.logsumexp(1, keepdim=True)
    return log_q[own].exp()


def swapped_prediction(
    scores: Tensor, codes: Tensor, temperature: float = 0.1, *, mean_over_prototypes: bool = False
) -> Tensor:
    """
    The swapped prediction loss of SwAV (https://arxiv.org/abs/2006.09882, equations 1, 2 and 6): the code of each assigning
    view is predicted from all other views.

    With p_v = softmax(scores_v / T), the loss is the mean over the A assigning views a, over the other views v and over the
    samples of - sum over k of code_ak log p_vk.

    Args:
        scores (`Tensor` of shape `[V, N, K]`): of every view; the assigning views come first.
        codes (`Tensor` of shape `[A, N, K]`): assignments of the first A views, from [`sinkhorn`]; no gradient.
        temperature (`float`, defaults to 0.1): T, above 0.
        mean_over_prototypes (`bool`, defaults to `False`): divide by K, as some published code does, which takes the mean
            over the prototypes where the paper has a sum.

    Returns:
        `Tensor`: a scalar, the mean over the samples of this process.

    Raises:
        ValueError: fewer than two views, or shapes that do not fit.

    Example:

        >>> import torch
        >>> from hf_contrastive.losses import sinkhorn, swapped_prediction
        >>> scores = torch.eye(4).expand(2, 4, 4)
        >>> print(f"{swapped_prediction(scores, sinkhorn(scores[0]).expand(2, 4, 4)):.4f}")
        0.0001
    """
    if scores.dim() != 3 or codes.dim() != 3 or scores.shape[1:] != codes.shape[1:] or len(codes) > len(scores):
        raise ValueError(
            f"`scores` must have shape [V, N, K] and `codes` [A <= V, N, K], got {list(scores.shape)} and "
            f"{list(codes.shape)}."
        )
    if len(scores) < 2:
        raise ValueError(
            f"`scores` holds {len(scores)} view, but a code is predicted from another view: give 2 or more."
        )
    check_positive("temperature", temperature)
    dtype = accumulation_dtype(scores.dtype)
    log_p = (scores.to(dtype) / temperature).log_softmax(-1)
    views, samples = scores.shape[:2]
    # codes.(sum over other views of log p) = codes.(sum over all - own)
    others = log_p.sum(0, keepdim=True) - log_p[: len(codes)]
    loss = -(codes.to(dtype) * others).sum() / (len(codes) * (views - 1) * samples)
    return loss / scores.shape[-1] if mean_over_prototypes else loss


__all__ = ["sinkhorn", "swapped_prediction"]
