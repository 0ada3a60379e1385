"""UniCon: one query against every positive and every negative of a labelled queue."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hf_contrastive.losses._common import (
    check_embeddings,
    check_ids,
    check_options,
    check_pairs,
    check_positive,
    unit_rows,
)
from hf_contrastive.losses._common import reduce as reduce_rows
from hf_contrastive.losses._engine import EMPTY


def uni_con(
    query: Tensor,
    key: Tensor,
    labels: Tensor | None,
    queue: Tensor,
    queue_labels: Tensor | None,
    temperature: float | Tensor = 0.07,
    *,
    normalize: bool = True,
    reduction: str = "mean",
) -> Tensor:
    """
    Unified contrastive loss of labelled queries against a queue (Yang et al. 2022, https://arxiv.org/abs/2204.03610,
    equation 3, one direction), as MoCo uses it in https://arxiv.org/abs/2206.08726, section 3.3.

    With similarity s, temperature T, the query's own key and the queue's rows of its label as positives P, and the other
    rows of the queue as negatives N, a query costs

        log( 1 + sum over n in N of exp(s(q, n) / T) * sum over p in P of exp(-s(q, p) / T) ).

    Both sums stay logarithms, so that a small temperature does not overflow; a query without negatives costs exactly 0.
    With one positive it is InfoNCE against the queue.

    Args:
        query (`Tensor` of shape `[N, D]`): the anchors.
        key (`Tensor` of shape `[N, D]`): row i belongs to query i, whatever the labels say.
        labels (integer `Tensor` of shape `[N]`, *optional*): class of every query, 0 or more. None: the whole queue is
            negative.
        queue (`Tensor` of shape `[M, D]`): past keys; used as this process has them, never gathered.
        queue_labels (integer `Tensor` of shape `[M]`, *optional*): their classes, -1 where unknown (never a positive).
        temperature (`float` or `Tensor` with one element, defaults to 0.07): T, above 0. A tensor gets its gradient.
        normalize (`bool`, defaults to `True`): compare by cosine. A zero vector stays zero and gets no gradient.
        reduction (`"mean"`, `"sum"` or `"none"`, defaults to `"mean"`): over the N rows.

    Returns:
        `Tensor`: a scalar, or `[N]` with `reduction="none"`; float32 (float64 for float64 embeddings).

    Raises:
        ValueError: for shapes, dtypes or devices that do not fit, labels without the queue's labels or below 0, a
            temperature that is not above 0. `TypeError` for arguments that are no tensors.

    Example:

        >>> import torch
        >>> from hf_contrastive.losses import uni_con
        >>> query = key = torch.eye(2)
        >>> loss = uni_con(query, key, torch.tensor([0, 1]), torch.eye(2), torch.tensor([1, 0]), temperature=1.0)
        >>> print(f"{loss:.4f}")  # log(1 + e^1 (e^-1 + e^0))
        1.5514
    """
    check_pairs("query", query, "key", key)
    check_embeddings("queue", queue, like=("query", query))
    check_options(None, reduction)
    check_ids("labels", labels, [(len(query),)], query.device)
    check_ids("queue_labels", queue_labels, [(len(queue),)], query.device)
    _, temperature = check_positive("temperature", temperature)
    if labels is not None and queue_labels is None:
        raise ValueError(
            "`labels` came without `queue_labels`; give the class of every row of the queue, -1 for none."
        )
    if labels is not None and int(labels.min()) < 0:
        raise ValueError(f"`labels` holds {int(labels.min())}, but classes are 0 or more (-1 marks an unknown row).")
    q = unit_rows(query, normalize) / temperature
    own = (q * unit_rows(key, normalize)).sum(-1)
    with torch.autocast(q.device.type, enabled=False):  # half precision would round exp(1 / T) away
        logits = q @ unit_rows(queue, normalize).T
    if labels is None or queue_labels is None:
        positives, negatives = -own, logits.logsumexp(1)
    else:
        same = labels[:, None] == queue_labels[None, :]
        positives = torch.cat([-own[:, None], (-logits).masked_fill(~same, EMPTY)], 1).logsumexp(1)
        negatives = logits.masked_fill(same, EMPTY).logsumexp(1)
    # torch's softplus rounds to its argument above 20
    return reduce_rows(-F.logsigmoid(-(negatives + positives)), reduction)


__all__ = ["uni_con"]
