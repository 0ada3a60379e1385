"""Identification: is a reference of the right label among the nearest, also when the references of others are many?"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from hf_contrastive.evaluation._checks import as_embeddings, as_labels, as_pair, check_choice, check_count
from hf_contrastive.evaluation.neighbours import METRICS, score_blocks


@torch.no_grad()
def identification_accuracy(
    query_x: Any,
    query_labels: Any,
    reference_x: Any,
    reference_labels: Any,
    *,
    ks: Sequence[int] = (1, 5),
    distractor_x: Any = None,
    distractor_counts: Sequence[int] | None = None,
    metric: str = "cosine",
    chunk_size: int | None = None,
) -> dict[str, Any]:
    """Share of the queries that have a reference of their label among the k nearest.

    With one reference a label it is one-shot identification; the protocol with distractors is that of
    https://arxiv.org/abs/2211.12926: further references, of labels that no query has, are added in growing numbers. With all
    images but the queries as references it is the retrieval accuracy of MOFI (https://arxiv.org/abs/2306.07952). A
    label may have several references: any of them counts. Of equal scores the lower reference row ranks first, and
    references rank before distractors. A query whose label has no reference counts as wrong (with a warning).

    Args:
        query_x (`[Q, D]` array or tensor): query embeddings.
        query_labels (`[Q]` integers or strings): their labels.
        reference_x (`[N, D]` array or tensor): reference embeddings.
        reference_labels (`[N]` integers or strings): their labels.
        ks (`Sequence[int]`, defaults to (1, 5)): how many nearest references count. All must fit the references.
        distractor_x (`[M, D]` array or tensor, *optional*): further references that are wrong for every query.
        distractor_counts (`Sequence[int]`, *optional*): how many of them, the first ones, are added; by default 0, half of
            them and all.
        metric (`str`, defaults to `"cosine"`): `"cosine"` or `"euclidean"`.
        chunk_size (`int`, *optional*): queries at a time; memory is O(chunk_size * (N + M)).

    Returns:
        `dict`: `top<k>` for every k (0 to 1), with distractors `top<k>_with_<m>_distractors` for every k and number m;
        `n_queries`, `n_references`, `metric`.

    Raises:
        ValueError: wrong shapes, NaN or infinity, k larger than the number of references, more distractors asked for than
            there are.

    Example:

    ```python
    >>> from hf_contrastive.evaluation import identification_accuracy
    >>> brands, queries = [[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.3], [0.2, 1.0]]
    >>> found = identification_accuracy(queries, [0, 1], brands, [0, 1], ks=(1,), distractor_x=[[1.0, 0.2]])
    >>> found["top1"], found["top1_with_1_distractors"]
    (1.0, 0.5)

    ```
    """
    check_choice("metric", metric, METRICS)
    query, reference = as_pair("query_x", query_x, "reference_x", reference_x)
    left = as_labels("query_labels", query_labels, len(query), "query_x")
    right = as_labels("reference_labels", reference_labels, len(reference), "reference_x")
    if (left.dtype.kind in "US") != (right.dtype.kind in "US"):
        raise TypeError(f"labels of two kinds: {left.dtype} and {right.dtype}; use integers or strings in both")
    cutoffs = sorted({check_count("ks", k) for k in ks})
    if not cutoffs or cutoffs[-1] > len(reference):
        raise ValueError(f"`ks` is {list(ks)}; expected numbers from 1 to {len(reference)}, the number of references")
    counts = [0]
    if distractor_x is not None:
        further = as_embeddings("distractor_x", distractor_x)
        query, further = as_pair("query_x", query, "distractor_x", further)
        reference = torch.cat([reference.to(further), further])
        counts = [0, len(further) // 2, len(further)] if distractor_counts is None else list(distractor_counts)
        if any(isinstance(m, bool) or not 0 <= m <= len(further) or m != int(m) for m in counts):
            raise ValueError(
                f"`distractor_counts` is {counts}; expected whole numbers from 0 to {len(further)}, the number of "
                "distractors"
            )
    elif distractor_counts is not None:
        raise ValueError(
            "`distractor_counts` says how many of `distractor_x` are added, which is None; give both or neither"
        )
    counts = sorted({0, *(int(m) for m in counts)})

    codes = np.unique(np.concatenate([left, right]), return_inverse=True)[1]
    own = torch.as_tensor(codes[: len(left)], device=query.device)
    known = torch.as_tensor(codes[len(left) :], device=query.device)
    numbers = torch.arange(len(known), device=query.device)
    # of every query, how many references and distractors rank before its best reference
    ahead: list[np.ndarray] = []
    unanswered = 0
    for rows, scores in score_blocks(query, reference, metric, chunk_size=chunk_size):
        among, beyond = scores[:, : len(known)], scores[:, len(known) :]
        relevant = own[rows, None] == known[None, :]
        best = among.masked_fill(~relevant, -torch.inf).max(1, keepdim=True).values
        first = (relevant & (among == best)).to(torch.uint8).argmax(1)
        before = ((among > best) | ((among == best) & (numbers < first[:, None]))).sum(1)
        added = torch.cat([torch.zeros_like(before)[:, None], (beyond > best).cumsum(1)], 1)[:, counts]
        answered = relevant.any(1)
        unanswered += int((~answered).sum())
        place = torch.where(answered[:, None], before[:, None] + added, len(reference))
        ahead.append(place.cpu().numpy())
    if unanswered:
        warnings.warn(
            f"{unanswered} of {len(query)} queries have a label without any reference; they count as wrong",
            stacklevel=2,
        )
    places = np.concatenate(ahead)
    result: dict[str, Any] = {f"top{k}": float((places[:, 0] < k).mean()) for k in cutoffs}
    if distractor_x is not None:
        for column, m in enumerate(counts):
            result |= {f"top{k}_with_{m}_distractors": float((places[:, column] < k).mean()) for k in cutoffs}
    return {**result, "n_queries": len(query), "n_references": len(known), "metric": metric}


__all__ = ["identification_accuracy"]
