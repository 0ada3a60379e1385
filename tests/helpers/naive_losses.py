"""The losses once more, written row by row in double precision as the papers have them; slow and hard to get wrong."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def _unit(x: Tensor, normalize: bool) -> Tensor:
    return F.normalize(x.double(), dim=-1) if normalize else x.double()


def _cost(positive: Tensor, negatives: list[Tensor]) -> Tensor:
    return torch.stack([positive, *negatives]).logsumexp(0) - positive


def naive_info_nce(
    query,
    positive,
    negatives=None,
    temperature=0.07,
    ids=None,
    negative_ids=None,
    mask=None,
    in_batch=True,
    normalize=True,
) -> Tensor:
    q, p = _unit(query, normalize), _unit(positive, normalize)
    extra = None if negatives is None else _unit(negatives, normalize)
    costs = []
    for i in range(len(q)):
        others = []
        for j in range(len(p)) if in_batch else []:
            if j != i and (ids is None or ids[i] != ids[j]):
                others.append(q[i] @ p[j] / temperature)
        for j in range(0 if extra is None else extra.shape[-2]):
            other_id = (
                None if negative_ids is None else negative_ids[j] if negative_ids.dim() == 1 else negative_ids[i, j]
            )
            if (mask is None or mask[i, j]) and (other_id is None or other_id != ids[i]):
                others.append(q[i] @ (extra[j] if extra.dim() == 2 else extra[i, j]) / temperature)
        costs.append(_cost(q[i] @ p[i] / temperature, others))
    return torch.stack(costs)


def naive_clip(a, b, scale, ids=None, normalize=True) -> Tensor:
    options = {"temperature": 1 / scale, "ids": ids, "normalize": normalize}
    return (naive_info_nce(a, b, **options) + naive_info_nce(b, a, **options)) / 2


def naive_multi_view(z, temperature=0.5, ids=None, normalize=True) -> Tensor:
    """[V * (V - 1) * N] for z of shape [N, V, D]."""
    n, v, _ = z.shape
    u = _unit(z, normalize)
    ids = torch.arange(n) if ids is None else ids
    costs = []
    for one in range(v):
        for other in range(v):
            for i in range(n) if one != other else []:
                negatives = [u[i, one] @ u[j, w] / temperature for j in range(n) for w in range(v) if ids[j] != ids[i]]
                costs.append(_cost(u[i, one] @ u[i, other] / temperature, negatives))
    return torch.stack(costs)


def naive_sup_con(features, labels, temperature=0.07, normalize=True) -> Tensor:
    """Mean over the rows that have a positive."""
    if features.dim() == 3:
        labels = labels.repeat(features.shape[1])
        features = features.transpose(0, 1).reshape(-1, features.shape[-1])
    u = _unit(features, normalize)
    costs = []
    for i in range(len(u)):
        logits = {k: u[i] @ u[k] / temperature for k in range(len(u)) if k != i}
        positives = [k for k in logits if labels[k] == labels[i]]
        if positives:
            total = torch.stack(list(logits.values())).logsumexp(0)
            costs.append(-torch.stack([logits[p] - total for p in positives]).mean())
    return torch.stack(costs).mean() if costs else u.sum() * 0
