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


def naive_clip(a, b, scale, ids=None, normalize=True, weight=0.5) -> Tensor:
    options = {"temperature": 1 / scale, "ids": ids, "normalize": normalize}
    return weight * naive_info_nce(a, b, **options) + (1 - weight) * naive_info_nce(b, a, **options)


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


def naive_mil_nce(embeds, candidates, mask=None, temperature=1.0, ids=None, normalize=False) -> Tensor:
    v, u = _unit(embeds, normalize), _unit(candidates, normalize)
    n, k = u.shape[:2]
    ids = torch.arange(n) if ids is None else ids
    costs = []
    for i in range(n):
        own = [v[i] @ u[i, c] / temperature for c in range(k) if mask is None or mask[i, c]]
        everything = []
        for j in range(n):
            for c in range(k) if j == i or ids[j] != ids[i] else []:
                if mask is None or mask[j, c]:
                    everything.append(v[i] @ u[j, c] / temperature)
                if mask is None or mask[i, c]:
                    everything.append(v[j] @ u[i, c] / temperature)
        costs.append(torch.stack(everything).logsumexp(0) - torch.stack(own).logsumexp(0))
    return torch.stack(costs)


def naive_margin_softmax(features, weight, labels, scale, margin, classes=None) -> Tensor:
    """One cost a row, 0 for the label -1."""
    x, w = _unit(features, True), _unit(weight, True)
    classes = range(len(w)) if classes is None else classes.tolist()
    costs = []
    for i, label in enumerate(labels.tolist()):
        if label < 0:
            costs.append(x.new_zeros(()))
            continue
        others = [scale * (x[i] @ w[e]) for e in classes if e != label]
        costs.append(_cost(scale * (x[i] @ w[label] - margin), others))
    return torch.stack(costs)


def naive_pair_margin(features, labels, pos_margin=0.0, neg_margin=0.5, normalize=True) -> Tensor:
    u = _unit(features, normalize)
    pulled, pushed = [], []
    for i in range(len(u)):
        for j in range(len(u)):
            if i == j:
                continue
            distance = (u[i] - u[j]).norm()
            if labels[i] == labels[j]:
                pulled.append(distance - pos_margin)
            else:
                pushed.append(neg_margin - distance)
    means = [torch.stack(costs).mean() for part in (pulled, pushed) if (costs := [c for c in part if c > 0])]
    return torch.stack(means).sum() if means else u.sum() * 0


def naive_triplets(features, labels, margin=0.3, normalize=True) -> Tensor:
    u = _unit(features, normalize)
    costs = [
        ((u[a] - u[p]).norm() - (u[a] - u[n]).norm() + margin).relu()
        for a in range(len(u))
        for p in range(len(u))
        for n in range(len(u))
        if a != p and labels[a] == labels[p] and labels[a] != labels[n]
    ]
    return torch.stack(costs).mean() if costs else u.sum() * 0
