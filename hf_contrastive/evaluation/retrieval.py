"""Retrieval: does the ranking of a gallery put the relevant rows first?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from hf_contrastive.evaluation._checks import as_labels, as_pair, check_choice, check_count
from hf_contrastive.evaluation.neighbours import METRICS, check_self_exclusion, score_blocks
from hf_contrastive.tensor_utils import top_k


@torch.no_grad()
def retrieval_metrics(
    query_x: Any,
    gallery_x: Any = None,
    *,
    query_labels: Any = None,
    gallery_labels: Any = None,
    relevant_pairs: Iterable[tuple[int, int]] | np.ndarray | None = None,
    ks: Sequence[int] = (1, 5, 10),
    precision_ks: Sequence[int] = (),
    average_precision: bool = False,
    per_query: bool = False,
    exclude_self: bool | None = None,
    metric: str = "cosine",
    chunk_size: int | None = None,
) -> dict[str, Any]:
    """Recall@k, MAP@R, R-precision, mean reciprocal rank, median rank and mean average precision of nearest-neighbour
    retrieval.

    What is relevant to a query is told by labels (gallery rows with the query's label), by a table of the gallery's labels
    (gallery rows may have several) or by pairs (any number of gallery rows a query). With R relevant rows for a query and
    P(i) the share of relevant ones among the first i:

    - `recall@k`: 1 if at least one of the first k is relevant (the use of the word in metric learning);
    - `r_precision`: P(R);
    - `map@r`: (1/R) sum over i = 1..R of P(i) if the i-th is relevant, else 0 (Musgrave et al., "A Metric Learning Reality
      Check", 2020, section 3.2);
    - `mrr`: 1 / rank of the first relevant row, in the whole gallery; `median_rank`: the median of these ranks, counted from 1;
    - `map` (only with `average_precision`): (1/R) sum over the whole ranking of P(i) if the i-th is relevant. GPR1200
      (https://arxiv.org/abs/2111.13122) leaves the query itself in the ranking, where it is a hit of rank 1: that is
      `exclude_self=False`;
    - `map@k` (only for `precision_ks`): (1/k) sum over i = 1..k of P(i) if the i-th is relevant, divided by k however many
      rows are relevant, as the code of https://arxiv.org/abs/2206.08726 does;
    - `precision@k` (only for `precision_ks`): P(k); with labels it is the micro-F1 of the k neighbours' labels as predictions.

    `map@k` and `precision@k` are means over all queries, 0 for one without a relevant row. Each of the others is averaged over the queries that have a relevant row; the others are counted in `queries_without_relevant`. Of
    equal scores the lower gallery row ranks first.

    Args:
        query_x (`[Q, D]` array or tensor): query embeddings.
        gallery_x (`[N, D]` array or tensor, *optional*): where to search. Without it the queries search each other.
        query_labels (`[Q]` integers or strings, *optional*): classes or ids of the queries.
        gallery_labels (`[N]` integers or strings, or `[N, C]` of 0 and 1, *optional*): the same for the gallery; left out
            with `gallery_x`. A table has a column for each of C classes, 1 where the row has it; the labels of the queries
            are then columns, 0 to C-1.
        relevant_pairs (`(query row, gallery row)` pairs, *optional*): relevance without labels, `[P, 2]`.
        ks (`Sequence[int]`, defaults to (1, 5, 10)): cut-offs of recall. All must fit the gallery.
        precision_ks (`Sequence[int]`, *optional*): cut-offs of `map@k` and `precision@k`. All must fit the gallery.
        average_precision (`bool`, defaults to `False`): also `map`, for which the whole gallery is sorted.
        per_query (`bool`, defaults to `False`): also the values of every query.
        exclude_self (`bool`, *optional*): leave gallery row i out for query i. On by default when there is no `gallery_x`.
        metric (`str`, defaults to `"cosine"`): `"cosine"` or `"euclidean"`.
        chunk_size (`int`, *optional*): queries at a time; memory is O(chunk_size * N).

    Returns:
        `dict`: `recall@<k>` for every k, `map@<k>` and `precision@<k>` for every k of `precision_ks`, `map` if asked for, `map@r`, `r_precision`, `mrr` (all 0 to 1), `median_rank`, `n_queries` (that were averaged),
        `n_gallery`, `queries_without_relevant`, `metric`. With `per_query` also `per_query`, a `dict` of `ndarray` `[Q]`: the
        names of the means, without `mrr` and `median_rank`, and `rank` (of the first relevant row). A query without a
        relevant row has NaN, and 0 in `map@<k>` and `precision@<k>`.

    Raises:
        ValueError: wrong shapes, NaN or infinity, one class only, no relevant row at all, k larger than the gallery,
            labels and pairs both given or both missing.

    Example:

    ```python
    >>> from hf_contrastive.evaluation import retrieval_metrics
    >>> z = [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]]
    >>> retrieval_metrics(z, query_labels=["a", "a", "b", "b"], ks=(1,))["recall@1"]
    1.0

    ```
    """
    check_choice("metric", metric, METRICS)
    alone = gallery_x is None
    query, gallery = as_pair("query_x", query_x, "gallery_x", query_x if alone else gallery_x)
    exclude_self = alone if exclude_self is None else exclude_self
    check_self_exclusion(exclude_self, len(query), len(gallery))
    cutoffs = sorted({check_count("ks", k) for k in ks})
    available = len(gallery) - exclude_self
    if available < 1:
        raise ValueError("`query_x` has one row and no other row to retrieve; give more rows or a gallery")
    depths = sorted({check_count("precision_ks", k) for k in precision_ks})
    for name, asked in (("ks", cutoffs), ("precision_ks", depths)):
        if asked and asked[-1] > available:
            raise ValueError(
                f"`{name}` asks for {asked[-1]} neighbours but only {available} gallery rows can be retrieved"
            )
    relevance = _Relevance(query, gallery, alone, query_labels, gallery_labels, relevant_pairs)

    # the value of every query
    found: dict[str, np.ndarray] = {}

    def note(name: str, rows: np.ndarray, values: torch.Tensor, otherwise: float = np.nan) -> None:
        found.setdefault(name, np.full(len(query), otherwise))[rows] = values.double().cpu().numpy()

    for rows, scores in score_blocks(query, gallery, metric, exclude_self=exclude_self, chunk_size=chunk_size):
        relevant = relevance.block(rows)
        if exclude_self:
            own = torch.arange(rows.start, rows.stop, device=relevant.device)
            relevant[torch.arange(len(own), device=relevant.device), own] = False
        total = relevant.sum(1)
        valid = total > 0
        if not valid.any():
            continue
        scores, relevant, total = scores[valid], relevant[valid], total[valid]
        numbers = rows.start + valid.nonzero().flatten().cpu().numpy()
        if average_precision:
            ranking = scores.sort(dim=1, descending=True, stable=True).indices
        else:
            ranking = top_k(scores, max(int(total.max()), *cutoffs, *depths, 1))[1]
        hit = relevant.gather(1, ranking)
        for k in cutoffs:
            note(f"recall@{k}", numbers, hit[:, :k].any(1))
        ranks = torch.arange(1, hit.shape[1] + 1, device=hit.device)
        inside = ranks <= total[:, None]
        precision = hit.cumsum(1).double() / ranks
        for k in depths:
            note(f"map@{k}", numbers, (precision * hit)[:, :k].sum(1) / k, otherwise=0.0)
            note(f"precision@{k}", numbers, precision[:, k - 1], otherwise=0.0)
        if average_precision:
            note("map", numbers, (precision * hit).sum(1) / total)
        note("map@r", numbers, (precision * (hit & inside)).sum(1) / total)
        note("r_precision", numbers, (hit & inside).sum(1).double() / total)
        # rank of the best relevant row: everything above it, and equals in a lower row
        best = scores.masked_fill(~relevant, -torch.inf).max(1, keepdim=True).values
        first = (relevant & (scores == best)).to(torch.uint8).argmax(1)
        columns = torch.arange(scores.shape[1], device=scores.device)
        above = (scores > best) | ((scores == best) & (columns < first[:, None]))
        note("rank", numbers, above.sum(1) + 1)
    if not found:
        raise ValueError("no query has a relevant row in the gallery; check the labels or pairs")
    ranks_of_first = found["rank"][~np.isnan(found["rank"])]
    result: dict[str, Any] = {name: float(np.nanmean(values)) for name, values in found.items() if name != "rank"}
    result |= {
        "mrr": float((1 / ranks_of_first).mean()),
        "median_rank": float(np.median(ranks_of_first)),
        "n_queries": len(ranks_of_first),
        "n_gallery": len(gallery),
        "queries_without_relevant": len(query) - len(ranks_of_first),
        "metric": metric,
    }
    if per_query:
        result["per_query"] = found
    return result


def paired_retrieval_metrics(
    x: Any,
    y: Any,
    *,
    ids: Any = None,
    ks: Sequence[int] = (1, 5, 10),
    metric: str = "cosine",
    chunk_size: int | None = None,
) -> dict[str, Any]:
    """[`retrieval_metrics`] of two modalities in both directions: row i of one is the answer to row i of the other.

    Texts and images, texts and clips: recall@k is the share of queries whose partner is among the first k, the median rank
    counts from 1.

    Args:
        x (`[N, D]` array or tensor): embeddings of one side, for example texts.
        y (`[N, D]` array or tensor): of the other side; row i belongs to row i of `x`.
        ids (`[N]` integers or strings, *optional*): pairs with the same id answer each other, too (images with one caption). Without
            them a row has one answer.
        ks, metric, chunk_size: as in [`retrieval_metrics`].

    Returns:
        `dict`: `recall@<k>`, `mrr` and `median_rank` with the prefixes `x_to_y/` and `y_to_x/`, `n_pairs` and `metric`.

    Raises:
        ValueError: wrong shapes, NaN or infinity, k larger than the number of pairs.

    Example:

    ```python
    >>> from hf_contrastive.evaluation import paired_retrieval_metrics
    >>> found = paired_retrieval_metrics([[1.0, 0.0], [0.9, 0.1]], [[1.0, 0.0], [0.0, 1.0]], ks=(1,))
    >>> found["x_to_y/recall@1"], found["y_to_x/recall@1"], found["x_to_y/median_rank"]
    (0.5, 1.0, 1.5)

    ```
    """
    left, right = as_pair("x", x, "y", y, same_shape=True)
    own = np.arange(len(left))
    relevant: dict[str, Any] = {"relevant_pairs": np.stack([own, own], 1)}
    if ids is not None:
        labels = as_labels("ids", ids, len(left), "x")
        # of one id alone every ranking is perfect, which labels are refused for
        if len(np.unique(labels)) > 1:
            relevant = {"query_labels": labels, "gallery_labels": labels}
        else:
            relevant = {"relevant_pairs": np.stack([own.repeat(len(own)), np.tile(own, len(own))], 1)}
    result: dict[str, Any] = {}
    for direction, query, gallery in (("x_to_y", left, right), ("y_to_x", right, left)):
        found = retrieval_metrics(
            query, gallery, **relevant, ks=ks, metric=metric, chunk_size=chunk_size, exclude_self=False
        )
        names = [name for name in found if name.startswith("recall@")]
        result |= {f"{direction}/{name}": found[name] for name in (*names, "mrr", "median_rank")}
    return {**result, "n_pairs": len(left), "metric": metric}


class _Relevance:
    """Blocks `[rows, N]` of the relevance matrix, which is never built whole."""

    def __init__(
        self,
        query: torch.Tensor,
        gallery: torch.Tensor,
        alone: bool,
        query_labels: Any,
        gallery_labels: Any,
        relevant_pairs: Any,
    ) -> None:
        self.device, self.columns = query.device, len(gallery)
        if (query_labels is None) == (relevant_pairs is None):
            raise ValueError("tell what is relevant by `query_labels` (and `gallery_labels`) or by `relevant_pairs`")
        self.pairs: torch.Tensor | None = None
        self.table: torch.Tensor | None = None
        if relevant_pairs is not None:
            array = np.asarray(relevant_pairs if isinstance(relevant_pairs, np.ndarray) else list(relevant_pairs))
            if array.ndim != 2 or array.shape[1] != 2 or not len(array) or array.dtype.kind not in "iu":
                raise ValueError(
                    f"`relevant_pairs` has shape {list(array.shape)} and dtype {array.dtype}; expected integers of shape "
                    "[pairs, 2] with at least one pair: (query row, gallery row)"
                )
            for column, (side, size) in enumerate((("query", len(query)), ("gallery", len(gallery)))):
                low, high = array[:, column].min(), array[:, column].max()
                if low < 0 or high >= size:
                    raise ValueError(
                        f"`relevant_pairs` names {side} rows {low} to {high}; there are rows 0 to {size - 1}"
                    )
            array = array[np.argsort(array[:, 0], kind="stable")].astype(np.int64)
            self.starts = np.searchsorted(array[:, 0], np.arange(len(query) + 1))
            self.pairs = torch.as_tensor(array, device=self.device)
            return
        left = as_labels("query_labels", query_labels, len(query), "query_x")
        table = None if gallery_labels is None else _as_table(gallery_labels, len(gallery))
        if table is not None:
            seen = np.unique(left)  # sorts strings, too
            if left.dtype.kind not in "iu" or seen[0] < 0 or seen[-1] >= table.shape[1]:
                raise ValueError(
                    f"`gallery_labels` is a table of {table.shape[1]} columns, so `query_labels` must be columns, integers from "
                    f"0 to {table.shape[1] - 1}; got {seen[0]!s} to {seen[-1]!s}"
                )
            self.table = torch.as_tensor(table, device=self.device)
            self.left = torch.as_tensor(left.astype(np.int64), device=self.device)
            return
        if gallery_labels is not None:
            right = as_labels("gallery_labels", gallery_labels, len(gallery), "gallery_x")
        elif alone:
            right = left
        else:
            raise ValueError("`gallery_x` came without `gallery_labels`; labels are needed on both sides")
        if (left.dtype.kind in "US") != (right.dtype.kind in "US"):
            raise TypeError(f"labels of two kinds: {left.dtype} and {right.dtype}; use integers or strings in both")
        classes, codes = np.unique(np.concatenate([left, right]), return_inverse=True)
        if len(classes) < 2:
            raise ValueError(
                f"the labels hold one class only ({classes[0]!s}): every ranking would be perfect; at least two are needed"
            )
        self.left = torch.as_tensor(codes[: len(left)], device=self.device)
        self.right = torch.as_tensor(codes[len(left) :], device=self.device)

    def block(self, rows: slice) -> torch.Tensor:
        """Boolean `[rows, N]`."""
        if self.table is not None:
            return self.table[:, self.left[rows]].T.contiguous()
        if self.pairs is None:
            return self.left[rows, None] == self.right[None, :]
        block = torch.zeros(rows.stop - rows.start, self.columns, dtype=torch.bool, device=self.device)
        pairs = self.pairs[self.starts[rows.start] : self.starts[rows.stop]]
        block[pairs[:, 0] - rows.start, pairs[:, 1]] = True
        return block


def _as_table(labels: Any, rows: int) -> np.ndarray | None:
    """Labels as a boolean table `[rows, classes]`; None when they are one label a row."""
    array = labels.detach().cpu().numpy() if isinstance(labels, torch.Tensor) else np.asarray(labels)
    if array.ndim != 2:
        return None
    if len(array) != rows or not array.shape[1]:
        raise ValueError(
            f"`gallery_labels` has shape {list(array.shape)}; expected [{rows}] or [{rows}, classes], a row for each row of "
            "`gallery_x`"
        )
    if array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
        raise ValueError(
            f"`gallery_labels` is a table of dtype {array.dtype} with other values than 0 and 1; expected 1 where the row has "
            "the class and 0 elsewhere"
        )
    return array.astype(bool)
