"""Exact nearest neighbours: search, k-nearest-neighbour classification, N-way one-shot classification."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from hf_contrastive.evaluation._checks import (
    as_embeddings,
    as_labels,
    as_pair,
    blocks,
    check_choice,
    check_count,
    check_positive,
    encode_labels,
)
from hf_contrastive.tensor_utils import top_k


METRICS = ("cosine", "euclidean")


def score_blocks(
    query: torch.Tensor,
    gallery: torch.Tensor,
    metric: str,
    *,
    exclude_self: bool = False,
    chunk_size: int | None = None,
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yields `(rows, scores [rows, gallery])`, larger is nearer: the cosine, or minus half the squared distance.

    For unit vectors both differ by a constant only, so a temperature means the same in either. Equal gallery rows have
    equal scores.
    """
    if metric == "cosine":
        query, gallery = F.normalize(query, dim=1), F.normalize(gallery, dim=1)
        half_norms = None
    else:
        # |a-b|^2 from products cancels badly in single precision
        query, gallery = query.double(), gallery.double()
        half_norms = gallery.square().sum(1) / 2
    columns = gallery.T.contiguous()
    repeated, source = _repeated_rows(gallery)
    for rows in blocks(len(query), len(gallery), chunk_size):
        part = query[rows]
        # the caller may sit inside autocast (evaluation during training): scores are never rounded to half precision
        with torch.autocast(part.device.type, enabled=False):
            scores = part @ columns
        if half_norms is not None:
            scores -= half_norms
            scores -= part.square().sum(1, keepdim=True) / 2
        if len(repeated):
            # a matrix product rounds equal columns differently, depending on where they stand and on the block's size
            scores[:, repeated] = scores[:, source]
        if exclude_self:
            own = torch.arange(rows.start, rows.stop, device=scores.device)
            scores[torch.arange(len(own), device=scores.device), own] = -torch.inf
        yield rows, scores


def _repeated_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers of the rows that occur before, and for each of them the first row that it equals."""
    numbers = torch.arange(len(x), device=x.device)
    group = torch.unique(x, dim=0, return_inverse=True)[1]
    first = torch.full_like(numbers, len(x)).scatter_reduce(0, group, numbers, "amin")[group]
    repeated = (first != numbers).nonzero().flatten()
    return repeated, first[repeated]


@torch.no_grad()
def nearest_neighbours(
    query_x: Any,
    gallery_x: Any = None,
    *,
    k: int = 10,
    metric: str = "cosine",
    exclude_self: bool | None = None,
    chunk_size: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The `k` nearest gallery rows of every query row, by exact search.

    Args:
        query_x (`[Q, D]` array or tensor): the query embeddings.
        gallery_x (`[N, D]` array or tensor, *optional*): where to search. Without it the queries search themselves.
        k (`int`, defaults to 10): how many neighbours.
        metric (`str`, defaults to `"cosine"`): `"cosine"` or `"euclidean"`.
        exclude_self (`bool`, *optional*): leave gallery row i out of the answer to query i. On by default when there is no
            `gallery_x`.
        chunk_size (`int`, *optional*): query rows at a time; memory is O(chunk_size * N). By default a block of scores
            stays below 64 MB.

    Returns:
        `(scores, rows)`, both `[Q, k]`, nearest first: the cosine (or minus the Euclidean distance) and the gallery row.
        Of equal scores the lower row comes first.

    Raises:
        ValueError: wrong shapes, NaN or infinity, more neighbours asked for than there are.

    Example:

    ```python
    >>> from hf_contrastive.evaluation import nearest_neighbours
    >>> scores, rows = nearest_neighbours([[1.0, 0.0]], [[0.0, 1.0], [2.0, 0.0]], k=1)
    >>> rows.tolist(), scores.tolist()
    ([[1]], [[1.0]])

    ```
    """
    check_choice("metric", metric, METRICS)
    alone = gallery_x is None
    query, gallery = as_pair("query_x", query_x, "gallery_x", query_x if alone else gallery_x)
    exclude_self = alone if exclude_self is None else exclude_self
    check_self_exclusion(exclude_self, len(query), len(gallery))
    k = check_count("k", k)
    available = len(gallery) - exclude_self
    if k > available:
        raise ValueError(f"`k` is {k} but only {available} gallery rows can be neighbours; lower `k` or add rows")
    found = [
        top_k(scores, k)
        for _, scores in score_blocks(query, gallery, metric, exclude_self=exclude_self, chunk_size=chunk_size)
    ]
    values = torch.cat([part[0] for part in found]).cpu().numpy()
    if metric == "euclidean":
        values = -np.sqrt(np.maximum(-2 * values, 0))
    return values, torch.cat([part[1] for part in found]).cpu().numpy()


def check_self_exclusion(exclude_self: bool, queries: int, gallery: int) -> None:
    """Refuses `exclude_self` when row i of the gallery cannot be query i."""
    if exclude_self and queries != gallery:
        raise ValueError(
            f"`exclude_self` needs the gallery to be the queries (row i = query i), but there are {queries} queries and "
            f"{gallery} gallery rows"
        )


def _predict_codes(
    train: torch.Tensor,
    codes: np.ndarray,
    classes: int,
    test: torch.Tensor,
    ks: Sequence[int],
    *,
    weighting: str,
    temperature: float,
    metric: str,
    chunk_size: int | None,
) -> dict[int, np.ndarray]:
    """Predicted class positions for every k of `ks`, from one search."""
    labels = torch.as_tensor(codes, device=train.device)
    parts: dict[int, list[np.ndarray]] = {k: [] for k in ks}
    for _, scores in score_blocks(test, train, metric, chunk_size=chunk_size):
        values, rows = top_k(scores, max(ks))
        voters = labels[rows]
        if weighting == "temperature":
            # the largest weight is 1 whatever the temperature: nothing overflows, and not every weight can vanish
            weights = ((values.double() - values[:, :1].double()) / temperature).exp()
        else:
            weights = torch.ones(values.shape, dtype=torch.float64, device=values.device)
        for k in ks:
            votes = torch.zeros(len(values), classes, dtype=torch.float64, device=values.device)
            votes.scatter_add_(1, voters[:, :k], weights[:, :k])
            best = votes == votes.max(dim=1, keepdim=True).values
            parts[k].append(best.to(torch.uint8).argmax(dim=1).cpu().numpy())  # first of the best classes
    return {k: np.concatenate(part) for k, part in parts.items()}


def _check_knn(
    train_x: Any, train_y: Any, test_x: Any, ks: Sequence[int], weighting: str, temperature: float, metric: str
) -> tuple[torch.Tensor, np.ndarray, torch.Tensor]:
    check_choice("metric", metric, METRICS)
    check_choice("weighting", weighting, ("uniform", "temperature"))
    check_positive("temperature", temperature)
    train, test = as_pair("train_x", train_x, "test_x", test_x)
    labels = as_labels("train_y", train_y, len(train), "train_x")
    if max(ks) > len(train):
        raise ValueError(f"`k` is {max(ks)} but there are only {len(train)} training rows; lower `k`")
    return train, labels, test


@torch.no_grad()
def knn_predict(
    train_x: Any,
    train_y: Any,
    test_x: Any,
    *,
    k: int = 20,
    weighting: str = "uniform",
    temperature: float = 0.07,
    metric: str = "cosine",
    chunk_size: int | None = None,
) -> np.ndarray:
    """Labels for `test_x` by the vote of the `k` nearest training rows (exact search).

    `weighting="uniform"` gives every neighbour one vote. `weighting="temperature"` gives neighbour i the weight
    `exp(cos_i / T)`, the vote of instance discrimination (Wu et al., "Unsupervised Feature Learning via Non-Parametric
    Instance Discrimination", 2018, section 3.4; T = 0.07 and k = 200 there). With the Euclidean metric the weight is
    `exp(-d_i^2 / (2 T))`, which is the same vote on unit vectors.

    The answer is deterministic: of neighbours at equal distance the lower training row counts, and of classes with equal
    votes the first in sorted order wins (as in scikit-learn).

    Args:
        train_x (`[N, D]` array or tensor): embeddings with known labels.
        train_y (`[N]` integers or strings): their labels.
        test_x (`[Q, D]` array or tensor): embeddings to label.
        k (`int`, defaults to 20): neighbours that vote.
        weighting (`str`, defaults to `"uniform"`): `"uniform"` or `"temperature"`.
        temperature (`float`, defaults to 0.07): T of the weighted vote; lower listens more to the nearest.
        metric (`str`, defaults to `"cosine"`): `"cosine"` or `"euclidean"`.
        chunk_size (`int`, *optional*): test rows at a time; memory is O(chunk_size * N).

    Returns:
        `[Q]` labels, of the kind of `train_y`.

    Raises:
        ValueError: wrong shapes, NaN or infinity, `k` larger than the training set, a setting out of range.

    Example:

    ```python
    >>> from hf_contrastive.evaluation import knn_predict
    >>> knn_predict([[1.0, 0.0], [0.0, 1.0]], ["cat", "dog"], [[0.9, 0.2]], k=1).tolist()
    ['cat']

    ```
    """
    k = check_count("k", k)
    train, labels, test = _check_knn(train_x, train_y, test_x, [k], weighting, temperature, metric)
    classes, codes = np.unique(labels, return_inverse=True)
    predicted = _predict_codes(
        train,
        codes,
        len(classes),
        test,
        [k],
        weighting=weighting,
        temperature=temperature,
        metric=metric,
        chunk_size=chunk_size,
    )
    return classes[predicted[k]]


@torch.no_grad()
def knn_accuracy(
    train_x: Any,
    train_y: Any,
    test_x: Any,
    test_y: Any,
    k: int = 20,
    weighting: str = "uniform",
    temperature: float = 0.07,
    metric: str = "cosine",
    ks: Sequence[int] | None = None,
    chunk_size: int | None = None,
) -> dict[str, Any]:
    """Share of the test rows that the vote of their `k` nearest training rows labels rightly.

    See [`knn_predict`] for the vote and its tie-breaking. A test row whose class does not occur in training counts as
    wrong (with a warning).

    Args:
        train_x (`[N, D]` array or tensor): embeddings with known labels.
        train_y (`[N]` integers or strings): their labels, of at least two classes.
        test_x (`[Q, D]` array or tensor): embeddings to label.
        test_y (`[Q]` integers or strings): the right answers.
        k (`int`, defaults to 20): neighbours that vote.
        weighting (`str`, defaults to `"uniform"`): `"uniform"` or `"temperature"`.
        temperature (`float`, defaults to 0.07): T of the weighted vote.
        metric (`str`, defaults to `"cosine"`): `"cosine"` or `"euclidean"`.
        ks (`Sequence[int]`, *optional*): further values of k, measured in the same search.
        chunk_size (`int`, *optional*): test rows at a time; memory is O(chunk_size * N).

    Returns:
        `dict`: `knn_top1` (0 to 1) for `k`; `knn_top1_k<n>` for every n of `ks`; and the protocol: `k`, `weighting`,
        `metric`, `temperature` (only when it was used), `n_train`, `n_test`.

    Raises:
        ValueError: wrong shapes, NaN or infinity, one class only, `k` larger than the training set, a setting out of
            range.

    Example:

    ```python
    >>> from hf_contrastive.evaluation import knn_accuracy
    >>> train, labels = [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]], [0, 0, 1, 1]
    >>> knn_accuracy(train, labels, [[1.0, 0.2], [0.2, 1.0]], [0, 0], k=2)["knn_top1"]
    0.5

    ```
    """
    k = check_count("k", k)
    further = [check_count("ks", value) for value in ks or ()]
    train, train_labels, test = _check_knn(train_x, train_y, test_x, [k, *further], weighting, temperature, metric)
    test_labels = as_labels("test_y", test_y, len(test), "test_x")
    classes, codes, answers = encode_labels(train_labels, test_labels)
    check_classes("train_y", classes)
    warn_unseen(answers)
    predicted = _predict_codes(
        train,
        codes,
        len(classes),
        test,
        sorted({k, *further}),
        weighting=weighting,
        temperature=temperature,
        metric=metric,
        chunk_size=chunk_size,
    )
    result: dict[str, Any] = {"knn_top1": float((predicted[k] == answers).mean())}
    result.update({f"knn_top1_k{value}": float((predicted[value] == answers).mean()) for value in further})
    result.update(k=k, weighting=weighting, metric=metric)
    if weighting == "temperature":
        result["temperature"] = float(temperature)
    result.update(n_train=len(train), n_test=len(test))
    return result


def check_classes(name: str, classes: np.ndarray) -> None:
    """Refuses labels of a single class."""
    if len(classes) < 2:
        raise ValueError(
            f"`{name}` holds one class only ({classes[0]!s}): every classifier would be right; at least two are needed"
        )


def warn_unseen(answers: np.ndarray) -> None:
    """Says how many test rows cannot be right."""
    unseen = int((answers < 0).sum())
    if unseen:
        warnings.warn(
            f"{unseen} of {len(answers)} test rows have a class that does not occur in training; they count as wrong",
            stacklevel=3,
        )


@torch.no_grad()
def one_shot_accuracy(support: Any, query: Any, query_class: Any, *, metric: str = "cosine") -> dict[str, Any]:
    """N-way one-shot accuracy: is the nearest support example of a run the one of the query's class?

    The measure of the Omniglot evaluation runs (Lake et al., "Human-level concept learning through probabilistic program
    induction", 2015): 20 runs of 20 classes with one support drawing each.

    Args:
        support (`[R, W, D]` array or tensor): in each of R runs, the embedding of one example for each of W classes.
        query (`[R, Q, D]` array or tensor): Q queries a run.
        query_class (`[R, Q]` integers): for each query, the position (0 to W-1) of its class in the support set.
        metric (`str`, defaults to `"cosine"`): `"cosine"` or `"euclidean"`.

    Returns:
        `dict`: `accuracy` (0 to 1), `per_run` (R values), `chance` (1/W), `n_runs`, `n_ways`, `n_queries`. Of equally
        near supports the first counts.

    Raises:
        ValueError: shapes that do not fit each other, NaN or infinity, a class outside 0 to W-1.

    Example:

    ```python
    >>> from hf_contrastive.evaluation import one_shot_accuracy
    >>> one_shot_accuracy([[[1.0, 0.0], [0.0, 1.0]]], [[[2.0, 0.1], [3.0, 0.2]]], [[0, 1]])["accuracy"]
    0.5

    ```
    """
    check_choice("metric", metric, METRICS)
    supports = as_embeddings("support", support, dims=3, dtype=torch.float64)
    queries = as_embeddings("query", query, dims=3, dtype=torch.float64).to(supports.device)
    runs, ways, _ = supports.shape
    if queries.shape[0] != runs or queries.shape[2] != supports.shape[2]:
        raise ValueError(
            f"`support` has shape {list(supports.shape)} and `query` {list(queries.shape)}; the number of runs (axis 0) "
            "and of features (axis 2) must be equal"
        )
    if ways < 2:
        raise ValueError("`support` holds one class a run: every answer would be right; at least two are needed")
    right = query_class.detach().cpu().numpy() if isinstance(query_class, torch.Tensor) else np.asarray(query_class)
    if right.shape != tuple(queries.shape[:2]) or right.dtype.kind not in "iu":
        raise ValueError(
            f"`query_class` has shape {list(right.shape)} and dtype {right.dtype}; expected integers of shape "
            f"{list(queries.shape[:2])}"
        )
    if right.min() < 0 or right.max() >= ways:
        raise ValueError(f"`query_class` holds {right.min()} to {right.max()}; expected 0 to {ways - 1}")
    per_run = []
    for run in range(runs):
        for _, scores in score_blocks(queries[run], supports[run], metric, chunk_size=queries.shape[1]):
            _, nearest = top_k(scores, 1)
            per_run.append(float((nearest[:, 0].cpu().numpy() == right[run]).mean()))
    return {
        "accuracy": float(np.mean(per_run)),
        "per_run": per_run,
        "chance": 1 / ways,
        "n_runs": runs,
        "n_ways": ways,
        "n_queries": int(right.size),
    }
