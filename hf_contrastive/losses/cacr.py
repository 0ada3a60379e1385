"""Contrastive attraction and contrastive repulsion (CACR): weighted costs of positives and negatives."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from hf_contrastive.distributed import all_gather_no_grad, all_gather_with_grad, get_rank, get_world_size
from hf_contrastive.losses._common import check_embeddings, check_ids, check_pairs, check_positive, unit_rows
from hf_contrastive.losses.info_nce import info_nce


CACR_COSTS = ("euclidean", "rbf")
CACR_CHOICES = ("full", "without_w1", "without_w2", "none")
CACR_REDUCTIONS = ("auto", "mean", "sum")


class CACRTerms(NamedTuple):
    """What the losses of CACR return.

    Args:
        loss (`Tensor`): scalar, attraction + repulsion.
        attraction (`Tensor`): scalar, the weighted cost of positives.
        repulsion (`Tensor`): scalar, minus the weighted cost of negatives (or its logarithm, with the RBF cost).
        positive_weights (`Tensor`): of each query over its positives; see the function.
        negative_weights (`Tensor`): of the last queries over all candidates, `[N, M]`, 0 for what is left out; see the
            function.
    """

    loss: Tensor
    attraction: Tensor
    repulsion: Tensor
    positive_weights: Tensor
    negative_weights: Tensor


def cacr_loss(
    views: Tensor,
    tau_pos: float = 1.0,
    tau_neg: float = 2.0,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    choice: str = "full",
    cost: str = "euclidean",
    rbf_t: float = 2.0,
    debiased: bool = False,
    tau_plus: float = 0.1,
    detach_weights: bool = False,
    sample_ids: Tensor | None = None,
    normalize: bool = True,
    gather: bool = False,
) -> CACRTerms:
    """
    CACR with negatives from the batch (Zheng et al. 2021, https://arxiv.org/abs/2105.03746, equations 4 to 7).

    With c the squared distance, every view of an instance is a query. Its positives are the other views, weighted by
    softmax(tau_pos c): the farther, the heavier. For every pair of views v < w, the negatives of view v of an instance are
    views w of all other instances, weighted by softmax(-tau_neg c): the closer, the heavier. The attraction is alpha times
    the mean over queries of the weighted cost of positives; the repulsion -beta times the mean over pairs and instances of
    the weighted cost of negatives. As in the published code gradients flow through the weights.

    Args:
        views (`Tensor` of shape `[V, N, D]`): embeddings of V >= 2 views of N instances.
        tau_pos, tau_neg (`float`, default to 1.0 and 2.0): sharpness of the weights; 0 makes them equal.
        alpha, beta (`float`, default to 1.0): factors of attraction and repulsion.
        choice (`str`, defaults to `"full"`): `"without_w1"` weighs positives equally, `"without_w2"` negatives, `"none"`
            both (the ablations of the paper).
        cost (`str`, defaults to `"euclidean"`): `"rbf"` pushes by `beta log mean sum weight exp(-rbf_t c)` instead; the
            attraction stays the same.
        rbf_t (`float`, defaults to 2.0): t of the RBF cost, above 0.
        debiased (`bool`, defaults to `False`): correct the repulsion for positives among the negatives as the published
            code does: `(-tau_plus c_positive + repulsion) / (1 - tau_plus)` for every query. (Debiasing a term of the
            form -c would ADD the cost of the positive; the sign is the code's.) Needs weighted negatives and the
            Euclidean cost.
        tau_plus (`float`, defaults to 0.1): the share of positives among negatives, from 0 to below 1.
        detach_weights (`bool`, defaults to `False`): no gradient through the weights.
        sample_ids (integer `Tensor` of shape `[N]`, *optional*): instances with the same id are never each other's
            negatives.
        normalize (`bool`, defaults to `True`): scale rows to length 1. Without it the repulsion has no lower bound.
        gather (`bool`, defaults to `False`): take negatives from all processes, with gradient. Averaged over processes
            the result is the loss of the joined batch.

    Returns:
        [`CACRTerms`]: `positive_weights` `[V, N, V - 1]`, over the other views in their order; `negative_weights`
        `[N, M]` of the last pair, over the M instances of all processes. Both are the softmaxes, used or not.

    Raises:
        ValueError: fewer than two views or two instances, a value out of its range, or shapes that do not fit.

    Example:

        >>> import torch
        >>> from hf_contrastive.losses import cacr_loss
        >>> terms = cacr_loss(torch.eye(4).expand(3, 4, 4))
        >>> terms.attraction.item(), terms.repulsion.item()
        (0.0, -2.0)
    """
    _check_views("views", views)
    _check_factors(tau_pos=tau_pos, tau_neg=tau_neg, alpha=alpha, beta=beta)
    _check_choice("choice", choice, CACR_CHOICES)
    _check_choice("cost", cost, CACR_COSTS)
    check_positive("rbf_t", rbf_t)
    if debiased:
        if not 0 <= tau_plus < 1:
            raise ValueError(f"`tau_plus` must be from 0 to below 1, got {tau_plus!r}.")
        if cost != "euclidean" or choice in ("without_w2", "none"):
            raise ValueError(
                f"`debiased` is defined for weighted negatives with the Euclidean cost, got cost={cost!r} and "
                f"choice={choice!r}; use cost='euclidean' with choice='full' or 'without_w1'."
            )
    count, instances = views.shape[:2]
    check_ids("sample_ids", sample_ids, [(instances,)], views.device)
    with torch.autocast(views.device.type, enabled=False):
        z = unit_rows(views, normalize)
        between = _between_views(z)
        attraction, positive_weights = _attract(
            _other_views(between), tau_pos, detach_weights, uniform=choice in ("without_w1", "none")
        )
        everyone = all_gather_with_grad(z.transpose(0, 1).contiguous()).transpose(0, 1) if gather else z
        _check_instances(everyone[0])
        keep = _negatives_of(z[0], everyone[0], sample_ids, gather)
        terms = []
        negative_weights = keep.to(z.dtype)
        for one in range(count):
            for other in range(one + 1, count):
                squared = _squared_distances(z[one], everyone[other])
                negative_weights = _weights(-tau_neg * squared, keep)
                used = negative_weights.detach() if detach_weights else negative_weights
                if choice in ("without_w2", "none"):
                    used = keep.to(z.dtype) / keep.sum(1, keepdim=True).clamp_min(1)
                if cost == "rbf":
                    terms.append(_log_mean_kernel(used, squared, rbf_t, gather))
                    continue
                pushed = -beta * (used * squared).sum(1)
                if debiased:
                    pushed = (pushed - tau_plus * between[one, other]) / (1 - tau_plus)
                terms.append(pushed.mean())
        repulsion = torch.stack(terms).mean() * (beta if cost == "rbf" else 1)
        attraction = alpha * attraction
    return CACRTerms(
        attraction + repulsion, attraction, repulsion, positive_weights.detach(), negative_weights.detach()
    )


def cacr_queue_loss(
    queries: Tensor,
    keys: Tensor,
    queue: Tensor,
    tau_pos: float = 1.0,
    tau_neg: float = 2.0,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    in_batch_negatives: bool = True,
    reuse_first_view: bool = False,
    sample_ids: Tensor | None = None,
    queue_ids: Tensor | None = None,
    normalize: bool = True,
    gather: bool = False,
) -> CACRTerms:
    """
    CACR with a momentum encoder and a queue of past keys (https://arxiv.org/abs/2105.03746, appendix on large-scale
    experiments; the objective of its published code).

    A query is attracted by the keys of the OTHER views, weighted by softmax(tau_pos c) without gradient. It is pushed from
    the whole queue and, if asked for, from the queries of the same view of other instances, weighted together by
    softmax(-tau_neg c): without gradient through the distances to the queue, with gradient through those in the batch, as
    in the published code. Both are means over views and instances.

    Args:
        queries (`Tensor` of shape `[V, N, D]`): V >= 2 views of N instances by the trained encoder.
        keys (`Tensor` of shape `[V, N, D]`): the same views by the momentum encoder; no gradient.
        queue (`Tensor` of shape `[Q, D]`): past keys; no gradient.
        tau_pos, tau_neg, alpha, beta: as in [`cacr_loss`].
        in_batch_negatives (`bool`, defaults to `True`): push from the rest of the batch too.
        reuse_first_view (`bool`, defaults to `False`): take the distances of the FIRST view to the queue for every view.
            The published code does so by an oversight; here for comparison with it.
        sample_ids (integer `Tensor` of shape `[N]`, *optional*): rows with the same id are never negatives.
        queue_ids (integer `Tensor` of shape `[Q]`, *optional*): ids of the queue; needs `sample_ids`.
        normalize (`bool`, defaults to `True`): scale rows to length 1.
        gather (`bool`, defaults to `False`): take in-batch negatives from all processes, with gradient.

    Returns:
        [`CACRTerms`]: `positive_weights` `[V, N, V - 1]`; `negative_weights` `[N, Q + M]` of the last view, over the queue
        and, with `in_batch_negatives`, the M instances of all processes.

    Raises:
        ValueError: fewer than two views, no negatives, or shapes that do not fit.

    Example:

        >>> import torch
        >>> from hf_contrastive.losses import cacr_queue_loss
        >>> views = torch.eye(4).expand(2, 4, 4)
        >>> print(f"{cacr_queue_loss(views, views, -torch.eye(4)).loss:.4f}")
        -2.0061
    """
    _check_views("queries", queries)
    check_embeddings("keys", keys, (3,), like=("queries", queries))
    check_embeddings("queue", queue, like=("queries", queries))
    if keys.shape != queries.shape:
        raise ValueError(
            f"`queries` and `keys` must have one shape, got {list(queries.shape)} and {list(keys.shape)}."
        )
    _check_factors(tau_pos=tau_pos, tau_neg=tau_neg, alpha=alpha, beta=beta)
    count, instances = queries.shape[:2]
    check_ids("sample_ids", sample_ids, [(instances,)], queries.device)
    check_ids("queue_ids", queue_ids, [(len(queue),)], queries.device)
    if queue_ids is not None and sample_ids is None:
        raise ValueError("`queue_ids` is compared with `sample_ids`, which is None; give both or neither.")
    with torch.autocast(queries.device.type, enabled=False):
        q = unit_rows(queries, normalize)
        k, past = (unit_rows(rows.detach(), normalize) for rows in (keys, queue))
        costs = torch.stack(
            [
                torch.stack([(q[one] - k[other]).square().sum(-1) for other in range(count) if other != one])
                for one in range(count)
            ]
        )
        attraction, positive_weights = _attract(costs, tau_pos, detach_weights=True)
        if sample_ids is None or queue_ids is None:
            keep = torch.ones(instances, len(past), dtype=torch.bool, device=q.device)
        else:
            keep = sample_ids[:, None] != queue_ids[None, :]
        everyone = q
        if in_batch_negatives:
            everyone = all_gather_with_grad(q.transpose(0, 1).contiguous()).transpose(0, 1) if gather else q
            in_batch = _negatives_of(q[0], everyone[0], sample_ids, gather)
            keep = torch.cat([keep, in_batch], 1)
        terms, negative_weights, first = [], keep.to(q.dtype), _squared_distances(q[0], past)
        for view in range(count):
            squared = first if reuse_first_view or view == 0 else _squared_distances(q[view], past)
            logits = squared.detach()
            if in_batch_negatives:
                own = _squared_distances(q[view], everyone[view])
                squared, logits = torch.cat([squared, own], 1), torch.cat([logits, own], 1)
            negative_weights = _weights(-tau_neg * logits, keep)
            terms.append((negative_weights * squared).sum(1).mean())
        attraction, repulsion = alpha * attraction, -beta * torch.stack(terms).mean()
    return CACRTerms(
        attraction + repulsion, attraction, repulsion, positive_weights.detach(), negative_weights.detach()
    )


def cacr_momentum_loss(
    queries: Tensor,
    key: Tensor,
    temperature: float = 1.0,
    *,
    cost: str = "rbf",
    reduction: str = "auto",
    sample_ids: Tensor | None = None,
    gather: bool = False,
) -> CACRTerms:
    """
    CACR of several queries against one key by a momentum encoder, with negatives from the batch
    (https://arxiv.org/abs/2105.03746, the ImageNet experiments of its published code).

    Each query view i of an instance weighs p_i = softmax over the views of ||q_i - k||^2 / T, without gradient. With the RBF
    cost the loss is the sum over views of 2 T p_i times the cross-entropy of q_i k / T at the own key, that is weighted
    InfoNCE, the positive in the denominator included. With the Euclidean cost (here 1 - cosine) it is the sum over views of
    p_i (cost of the own key - sum over other keys of softmax(-cost / T) cost), these weights without gradient.

    Args:
        queries (`Tensor` of shape `[V, N, D]`): V >= 1 views of N instances, after the predictor.
        key (`Tensor` of shape `[N, D]`): another view of each by the momentum encoder; no gradient.
        temperature (`float`, defaults to 1.0): T, above 0.
        cost (`str`, defaults to `"rbf"`): or `"euclidean"`.
        reduction (`str`, defaults to `"auto"`): over the instances, `"mean"` or `"sum"`; `"auto"` is the published code's:
            mean with the RBF cost, sum with the Euclidean one, whose size then grows with the batch.
        sample_ids (integer `Tensor` of shape `[N]`, *optional*): keys of rows with the same id are no negatives.
        gather (`bool`, defaults to `False`): take keys from all processes; the mean over processes is the loss of the
            joined batch, with `"sum"` too.

    Returns:
        [`CACRTerms`]: `positive_weights` `[V, N]`; `negative_weights` `[N, M]` of the last view (Euclidean cost), or empty.
        With the RBF cost the attraction is the weighted squared distance to the key, the repulsion the rest.

    Raises:
        ValueError: fewer than two instances, a value out of its range, or shapes that do not fit.

    Example:

        >>> import torch
        >>> from hf_contrastive.losses import cacr_momentum_loss
        >>> print(f"{cacr_momentum_loss(torch.eye(4).expand(3, 4, 4), torch.eye(4)).loss:.4f}")
        1.4873
    """
    check_embeddings("queries", queries, (3,))
    check_pairs("queries[0]", queries[0], "key", key)
    check_positive("temperature", temperature)
    _check_choice("cost", cost, CACR_COSTS)
    _check_choice("reduction", reduction, CACR_REDUCTIONS)
    instances = queries.shape[1]
    check_ids("sample_ids", sample_ids, [(instances,)], queries.device)
    with torch.autocast(queries.device.type, enabled=False):
        q, k = unit_rows(queries), unit_rows(key.detach())
        distances = (q - k).square().sum(-1)
        positive_weights = (distances.detach() / temperature).softmax(0)
        everyone = all_gather_no_grad(k) if gather else k
        _check_instances(everyone)
        keep = _negatives_of(k, everyone, sample_ids, gather)
        negative_weights = torch.empty(instances, 0, dtype=q.dtype, device=q.device)
        if cost == "rbf":
            options: dict[str, Any] = {"sample_ids": sample_ids, "gather": gather, "reduction": "none"}
            losses = (
                2
                * temperature
                * torch.stack([info_nce(view, k, temperature=temperature, normalize=False, **options) for view in q])
            )
            attracted = distances
        else:
            attracted = distances / 2  # 1 - cosine
            losses = []
            for view, own in zip(q, attracted, strict=True):
                costs = 1 - view @ everyone.T
                negative_weights = _weights(-costs.detach() / temperature, keep)
                losses.append(own - (negative_weights * costs).sum(1))
            losses = torch.stack(losses)
        attraction, loss = ((positive_weights * values).sum(0) for values in (attracted, losses))
        if reduction == "sum" or (reduction == "auto" and cost == "euclidean"):
            # gradients are averaged over the processes
            attraction, loss = (values.sum() * (get_world_size() if gather else 1) for values in (attraction, loss))
        else:
            attraction, loss = attraction.mean(), loss.mean()
    return CACRTerms(loss, attraction, loss - attraction, positive_weights, negative_weights)


def _check_views(name: str, views: Tensor) -> None:
    check_embeddings(name, views, (3,))
    if len(views) < 2:
        raise ValueError(
            f"CACR needs at least 2 views per instance, got `{name}` of shape {list(views.shape)} ([V, N, D]); use a view "
            "transform with num_views=2 or more."
        )


def _check_instances(rows: Tensor) -> None:
    if len(rows) < 2:
        raise ValueError("CACR needs at least 2 instances for repulsion, got 1; use a larger batch.")


def _check_factors(**factors: float) -> None:
    for name, value in factors.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
            raise ValueError(f"`{name}` must be a number of at least 0, got {value!r}.")


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, allowed))}, got {value!r}.")


def _between_views(z: Tensor) -> Tensor:
    """Squared distances `[V, V, N]` of the views of each instance, by differences: exactly 0 for equal views."""
    return torch.stack([(z - view).square().sum(-1) for view in z])


def _other_views(squared: Tensor) -> Tensor:
    """`[V, V, N]` without the diagonal: `[V, V - 1, N]`."""
    count = len(squared)
    off = ~torch.eye(count, dtype=torch.bool, device=squared.device)
    return squared[off].view(count, count - 1, -1)


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """`[N, M]` from one product: no N x M x D differences, and no root whose gradient is infinite at 0."""
    return torch.addmm(a.square().sum(1)[:, None] + b.square().sum(1)[None, :], a, b.T, alpha=-2)


def _attract(
    costs: Tensor, tau_pos: float, detach_weights: bool = False, uniform: bool = False
) -> tuple[Tensor, Tensor]:
    """Mean over queries and instances of the weighted costs `[V, K, N]`, and the weights `[V, N, K]`."""
    weights = (tau_pos * costs).softmax(1)
    used = weights.detach() if detach_weights else weights
    mean = costs.mean() if uniform else (used * costs).sum(1).mean()
    return mean, weights.transpose(1, 2)


def _negatives_of(rows: Tensor, columns: Tensor, sample_ids: Tensor | None, gather: bool) -> Tensor:
    """`[N, M]`, True where a column is a negative of a row: another instance, and no equal id."""
    own = torch.arange(len(rows), device=rows.device) + (get_rank() * len(rows) if gather else 0)
    keep = own[:, None] != torch.arange(len(columns), device=rows.device)[None, :]
    if sample_ids is not None:
        others = all_gather_no_grad(sample_ids) if gather else sample_ids
        keep = keep & (sample_ids[:, None] != others[None, :])
    return keep


def _weights(logits: Tensor, keep: Tensor) -> Tensor:
    """Softmax of every row over what is kept; all 0 where nothing is."""
    return logits.masked_fill(~keep, torch.finfo(logits.dtype).min).softmax(1) * keep


def _log_mean_kernel(weights: Tensor, squared: Tensor, rbf_t: float, gather: bool) -> Tensor:
    """log of the mean over instances of sum weight exp(-t c); 0 where no instance has a negative."""
    # the logarithm of a mean does not split into processes: every one takes the rows of all
    lowest = torch.finfo(squared.dtype).min
    logs = (weights.clamp_min(torch.finfo(squared.dtype).tiny).log() - rbf_t * squared).masked_fill(
        weights == 0, lowest
    )
    rows = logs.logsumexp(1)
    rows = all_gather_with_grad(rows) if gather else rows
    some = rows > lowest / 2
    if not bool(some.any()):
        return squared.sum() * 0
    return torch.where(some, rows, lowest).logsumexp(0) - torch.tensor(float(len(rows)), dtype=rows.dtype).log()


__all__ = [
    "CACR_CHOICES",
    "CACR_COSTS",
    "CACR_REDUCTIONS",
    "CACRTerms",
    "cacr_loss",
    "cacr_momentum_loss",
    "cacr_queue_loss",
]
