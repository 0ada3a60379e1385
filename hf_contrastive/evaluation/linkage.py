"""Record linkage: the nearest known record, or clusters of records; and the training batches that are hard to link."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from sklearn.metrics import adjusted_rand_score

from hf_contrastive.evaluation._checks import as_embeddings, as_labels, as_pair, as_scores, check_count
from hf_contrastive.evaluation.neighbours import nearest_neighbours, score_blocks
from hf_contrastive.tensor_utils import pool_modalities


# what CLIPPINGS searches for the threshold of a match
MATCH_THRESHOLDS = tuple(step / 100 for step in range(101))


class Links(NamedTuple):
    """What [`link_to_exemplars`] returns, everything `ndarray` `[Q]`.

    Args:
        labels: label of the nearest exemplar (its row, without labels), or `no_match`.
        rows: row of the nearest exemplar, with or without a match.
        scores: its cosine.
    """

    labels: np.ndarray
    rows: np.ndarray
    scores: np.ndarray


def link_to_exemplars(
    query_x: Any,
    exemplar_x: Any,
    exemplar_labels: Any = None,
    *,
    threshold: float | None = None,
    no_match: Any = -9,
    chunk_size: int | None = None,
) -> Links:
    """Links every record to its nearest exemplar by cosine, or to none when even that is too far
    (CLIPPINGS, https://arxiv.org/abs/2304.03464).

    Args:
        query_x (`[Q, D]` array or tensor): records to link.
        exemplar_x (`[N, D]` array or tensor): the known ones; a label may have several.
        exemplar_labels (`[N]` integers or strings, *optional*): what they are. Without it a record is linked to a row.
        threshold (`float`, *optional*): link only with a cosine above it (a cosine equal to it is no match). None: always.
        no_match (`int` or `str`, defaults to -9): the label of a record that is linked to nothing.
        chunk_size (`int`, *optional*): records at a time; memory is O(chunk_size * N).

    Returns:
        [`Links`]. Of equally near exemplars the first counts.

    Raises:
        ValueError: wrong shapes, NaN or infinity, a threshold that is not a number, or an exemplar with the label `no_match`.

    Example:

    ```python
    >>> from hf_contrastive.evaluation import link_to_exemplars
    >>> links = link_to_exemplars([[1.0, 0.1], [1.0, 0.9]], [[1.0, 0.0], [0.0, 1.0]], [40, 41], threshold=0.8)
    >>> links.labels.tolist(), links.rows.tolist()
    ([40, -9], [0, 0])

    ```
    """
    query, exemplars = as_pair("query_x", query_x, "exemplar_x", exemplar_x)
    if exemplar_labels is None:
        labels = np.arange(len(exemplars))
    else:
        labels = as_labels("exemplar_labels", exemplar_labels, len(exemplars), "exemplar_x")
    scores, rows = nearest_neighbours(query, exemplars, k=1, exclude_self=False, chunk_size=chunk_size)
    scores, rows = scores[:, 0], rows[:, 0]
    found = labels[rows]
    if threshold is None:
        return Links(found, rows, scores)
    if not np.isfinite(threshold):
        raise ValueError(f"`threshold` is {threshold!r}; expected a cosine, or None to link every record")
    if (labels.dtype.kind in "US") != isinstance(no_match, str):
        raise TypeError(f"`no_match` is {no_match!r} and the labels have dtype {labels.dtype}; use one kind for both")
    if (labels == no_match).any():
        raise ValueError(f"`exemplar_labels` holds {no_match!r}, which means no match; pass another `no_match`")
    return Links(np.where(scores > threshold, found, no_match), rows, scores)


def linkage_accuracy(predicted: Any, true: Any) -> float:
    """Share of the records that are linked to a right exemplar.

    Args:
        predicted (`[Q]` integers or strings): label or row that each record was linked to, see [`link_to_exemplars`].
        true (`[Q]` integers or strings, or a list of Q collections of them): the right one, or all that are right. A record
            without any has `no_match` here, too.

    Returns:
        `float` from 0 to 1.

    Raises:
        ValueError: no record, lengths that differ, or an empty collection.

    Example:

    ```python
    >>> from hf_contrastive.evaluation import linkage_accuracy
    >>> linkage_accuracy([3, 7, -9, 1], [{3, 4}, {8}, {-9}, {1}])
    0.75

    ```
    """
    return float(_right("predicted", predicted, true).mean())


def _right(name: str, predicted: Any, true: Any) -> np.ndarray:
    """Where a prediction is (one of) the true ones."""
    guesses = as_labels(name, predicted, len(predicted), name)
    if not len(guesses) or len(true) != len(guesses):
        raise ValueError(
            f"`{name}` has {len(guesses)} entries and `true` {len(true)}; expected one a record, and at least one"
        )
    sets: list[Collection[Any]] = []
    if not isinstance(true, (torch.Tensor, np.ndarray)):
        sets = [one for one in true if isinstance(one, Collection) and not isinstance(one, str)]
    if not sets:
        answers = as_labels("true", true, len(guesses), name)
        if (answers.dtype.kind in "US") != (guesses.dtype.kind in "US"):
            raise TypeError(
                f"labels of two kinds: {guesses.dtype} and {answers.dtype}; use integers or strings in both"
            )
        return guesses == answers
    if len(sets) < len(guesses):
        raise ValueError(
            "`true` mixes labels and collections of labels; give every record a collection, {label} for one"
        )
    empty = [number for number, one in enumerate(sets) if not len(one)]
    if empty:
        raise ValueError(
            f"`true`: {len(empty)} records have no right label (first: {empty[0]}); give them `no_match`, or leave them out"
        )
    return np.array([guess in set(one) for guess, one in zip(guesses.tolist(), sets, strict=True)])


def choose_match_threshold(
    links: Links, true: Any, *, thresholds: Sequence[float] = MATCH_THRESHOLDS, no_match: Any = -9
) -> dict[str, Any]:
    """The threshold of [`link_to_exemplars`] with the best accuracy on validation records.

    Args:
        links ([`Links`]): of the validation records, made without a threshold.
        true (`[Q]` labels, or a list of Q collections of labels): as for [`linkage_accuracy`]; `no_match` for records that
            have no exemplar.
        thresholds (`Sequence[float]`, defaults to 0.00, 0.01, ..., 1.00): what is tried.
        no_match (`int` or `str`, defaults to -9): the label of a record that is linked to nothing.

    Returns:
        `dict`: `threshold` (the first of the best), `accuracy` (with it), `accuracies` (`ndarray`, for every threshold).

    Raises:
        ValueError: no record, lengths that differ, no threshold.

    Example:

    ```python
    >>> from hf_contrastive.evaluation import choose_match_threshold, link_to_exemplars
    >>> links = link_to_exemplars([[1.0, 0.1], [1.0, 0.9]], [[1.0, 0.0], [0.0, 1.0]])
    >>> found = choose_match_threshold(links, [0, -9])
    >>> found["threshold"], found["accuracy"]
    (0.75, 1.0)

    ```
    """
    tried = as_scores("thresholds", list(thresholds))
    linked = _right("links.labels", links.labels, true)
    lone = _right("no_match", np.full(len(links.labels), no_match), true)
    accuracies = np.array([np.where(links.scores > threshold, linked, lone).mean() for threshold in tried])
    best = int(accuracies.argmax())
    return {"threshold": float(tried[best]), "accuracy": float(accuracies[best]), "accuracies": accuracies}


# ------------------------------------------------------------------------------------------------------- clusters


@torch.no_grad()
def single_link_clusters(x: Any, threshold: Any, *, chunk_size: int | None = None) -> np.ndarray:
    """Clusters by single linkage: rows are together when a chain of rows leads from one to the other, each closer to the
    next than the threshold.

    That is, the connected components of the graph of pairs whose cosine distance, 1 - cos, is at most the threshold:
    what scikit-learn's DBSCAN with `metric="cosine"`, `eps=threshold`, `min_samples=1` finds (CLIPPINGS,
    https://arxiv.org/abs/2304.03464). The matrix of distances is made in blocks, of which at most a tree over the rows
    is kept: all thresholds together cost one pass.

    Args:
        x (`[N, D]` array or tensor): embeddings, of any length.
        threshold (`float` or a sequence of T of them): largest cosine distance of a link, 0 to 2.
        chunk_size (`int`, *optional*): rows at a time; memory is O(chunk_size * N).

    Returns:
        `ndarray` `[N]` of cluster numbers from 0 by first appearance; `[T, N]` for a sequence.

    Raises:
        ValueError: wrong shapes, NaN or infinity, a threshold outside 0 to 2.

    Example:

    ```python
    >>> from hf_contrastive.evaluation import single_link_clusters
    >>> x = [[1.0, 0.0], [0.0, 1.0], [1.0, 0.3], [0.9, 0.7]]
    >>> single_link_clusters(x, 0.1).tolist(), single_link_clusters(x, [0.01, 0.5])[1].tolist()
    ([0, 1, 0, 0], [0, 0, 0, 0])

    ```
    """
    limits = as_scores("threshold", np.atleast_1d(np.asarray(threshold, dtype=np.float64)))
    if limits.min() < 0 or limits.max() > 2:
        raise ValueError(f"`threshold` is {threshold!r}; expected cosine distances from 0 to 2")
    rows = as_embeddings("x", x)
    left, right, distances = _spanning_forest(rows, float(limits.max()), chunk_size)
    clusters = []
    for limit in limits:
        near = distances <= limit
        found = connected_components(_graph(left[near], right[near], np.ones(int(near.sum())), len(rows)))[1]
        # scipy numbers components in the order of their first row, but does not promise it
        _, first, codes = np.unique(found, return_index=True, return_inverse=True)
        clusters.append(np.argsort(np.argsort(first))[codes])
    return clusters[0] if np.ndim(threshold) == 0 else np.stack(clusters)


def _spanning_forest(x: torch.Tensor, limit: float, chunk_size: int | None) -> tuple[np.ndarray, ...]:
    """Edges (row, row, distance) of a minimum spanning forest of the pairs with a cosine distance up to the limit.

    Whatever a lower threshold joins, the edges of the forest below it join, too.
    """
    left = right = np.empty(0, dtype=np.int64)
    distances = np.empty(0)
    n = len(x)
    columns = torch.arange(n, device=x.device)
    unit = F.normalize(x, dim=1)
    # rows that are equal in direction are at distance 0, whatever their product is rounded to
    group = torch.unique(unit, dim=0, return_inverse=True)[1]
    for rows, scores in score_blocks(unit, unit, "cosine", chunk_size=chunk_size):
        block = (1 - scores).clamp_(min=0)
        block.masked_fill_(group[rows, None] == group[None, :], 0)
        near = (block <= limit) & (columns[None, :] > columns[rows, None])
        place, column = near.nonzero(as_tuple=True)
        left = np.concatenate([left, (place + rows.start).cpu().numpy()])
        right = np.concatenate([right, column.cpu().numpy()])
        distances = np.concatenate([distances, block[place, column].double().cpu().numpy()])
        # scipy takes a weight of 0 for no edge. Only the order of the weights matters
        order = np.unique(distances, return_inverse=True)[1] + 1.0
        tree = minimum_spanning_tree(_graph(left, right, order, n)).tocoo()
        key = left * n + right
        sorter = np.argsort(key)
        kept = sorter[np.searchsorted(key, tree.row.astype(np.int64) * n + tree.col, sorter=sorter)]
        left, right, distances = left[kept], right[kept], distances[kept]
    return left, right, distances


def _graph(left: np.ndarray, right: np.ndarray, weights: np.ndarray, n: int) -> Any:
    return coo_array((weights, (left, right)), shape=(n, n)).tocsr()


def clustering_scores(
    x: Any, labels: Any, thresholds: Sequence[float], *, chunk_size: int | None = None
) -> dict[str, Any]:
    """Adjusted Rand index of [`single_link_clusters`] for each of several thresholds.

    Chains of rows join clusters quickly as the threshold grows, so the index falls sharply beyond the best one: show all.

    Args:
        x (`[N, D]` array or tensor): embeddings.
        labels (`[N]` integers or strings): the right clusters.
        thresholds (`Sequence[float]`): cosine distances, 0 to 2.
        chunk_size (`int`, *optional*): rows at a time; memory is O(chunk_size * N).

    Returns:
        `dict`: `threshold` (the first of the best), `ari` (with it; 1 is perfect, 0 is chance), `ari_per_threshold`
        (`ndarray` `[T]`), `n_clusters` (`ndarray` `[T]`).

    Raises:
        ValueError: wrong shapes, NaN or infinity, no threshold, a threshold outside 0 to 2.

    Example:

    ```python
    >>> from hf_contrastive.evaluation import clustering_scores
    >>> found = clustering_scores([[1.0, 0.0], [0.0, 1.0], [1.0, 0.3], [0.9, 0.7]], [0, 1, 0, 0], [0.01, 0.1, 0.5])
    >>> found["threshold"], found["ari"], found["n_clusters"].tolist()
    (0.1, 1.0, [4, 2, 1])

    ```
    """
    rows = as_embeddings("x", x)
    right = as_labels("labels", labels, len(rows), "x")
    tried = as_scores("thresholds", list(thresholds))
    clusters = single_link_clusters(rows, tried, chunk_size=chunk_size)
    scores = np.array([adjusted_rand_score(right, found) for found in clusters])
    best = int(scores.argmax())
    return {
        "threshold": float(tried[best]),
        "ari": float(scores[best]),
        "ari_per_threshold": scores,
        "n_clusters": clusters.max(1) + 1,
    }


def choose_clustering(
    image_x: Any,
    text_x: Any,
    labels: Any,
    *,
    thresholds: Sequence[float],
    image_weights: Sequence[float] = (0.5,),
    chunk_size: int | None = None,
) -> dict[str, Any]:
    """The weight of the image and the threshold of [`single_link_clusters`] with the best adjusted Rand index on validation
    records (CLIPPINGS, https://arxiv.org/abs/2304.03464).

    Args:
        image_x (`[N, D]` array or tensor): image embeddings of length 1.
        text_x (`[N, D]` array or tensor): text embeddings of length 1; row i of both is one record.
        labels (`[N]` integers or strings): the right clusters.
        thresholds (`Sequence[float]`): cosine distances to try, 0 to 2.
        image_weights (`Sequence[float]`, defaults to (0.5,)): weights to try, 0 to 1, see [`pool_modalities`].
        chunk_size (`int`, *optional*): rows at a time; memory is O(chunk_size * N).

    Returns:
        `dict`: `image_weight` and `threshold` (the first of the best), `ari` (with them), `ari_table` (`ndarray` `[W, T]`, for
        every weight and threshold).

    Raises:
        ValueError: wrong shapes, NaN or infinity, nothing to try, a weight or a threshold out of range.

    Example:

    ```python
    >>> from hf_contrastive.evaluation import choose_clustering
    >>> images, texts = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    >>> found = choose_clustering(images, texts, [0, 0, 1], thresholds=[0.1], image_weights=[0.0, 1.0])
    >>> found["image_weight"], found["ari"]
    (1.0, 1.0)

    ```
    """
    images, texts = as_pair("image_x", image_x, "text_x", text_x, same_shape=True)
    weights = as_scores("image_weights", list(image_weights))
    found = [
        clustering_scores(pool_modalities(images, texts, float(weight)), labels, thresholds, chunk_size=chunk_size)
        for weight in weights
    ]
    best = max(range(len(found)), key=lambda number: found[number]["ari"])
    return {
        "image_weight": float(weights[best]),
        "threshold": found[best]["threshold"],
        "ari": found[best]["ari"],
        "ari_table": np.stack([one["ari_per_threshold"] for one in found]),
    }


# ------------------------------------------------------------------------------------------------- hard negatives


class HardNegatives(NamedTuple):
    """What [`mine_hard_negatives`] returns.

    Args:
        rows (`ndarray` `[L, k]`): of every exemplar its k nearest, itself first.
        labels (`ndarray` `[L, k]`): their labels; a group for a batch.
        squared_distances (`ndarray` `[L, k]`): Euclidean.
        anchor_ids (`ndarray` `[L * k]`): number of the group that each entry of `rows.ravel()` stands in.
    """

    rows: np.ndarray
    labels: np.ndarray
    squared_distances: np.ndarray
    anchor_ids: np.ndarray


@torch.no_grad()
def mine_hard_negatives(exemplar_x: Any, labels: Any, k: int = 3, *, chunk_size: int | None = None) -> HardNegatives:
    """Groups of labels that are hard to tell apart: every label with its k - 1 nearest others, by exact search.

    One exemplar a label is embedded with the current model; a batch made of whole groups then holds the negatives that the
    model confuses (CLIPPINGS, https://arxiv.org/abs/2304.03464).

    Args:
        exemplar_x (`[L, D]` array or tensor): an embedding for each label.
        labels (`[L]` integers or strings): the labels, each once.
        k (`int`, defaults to 3): labels of a group, the label itself among them.
        chunk_size (`int`, *optional*): rows at a time; memory is O(chunk_size * L).

    Returns:
        [`HardNegatives`]. Distances are Euclidean; of equally near labels the first row comes first.

    Raises:
        ValueError: wrong shapes, NaN or infinity, a label twice, k larger than the number of labels.

    Example:

    ```python
    >>> from hf_contrastive.evaluation import mine_hard_negatives
    >>> groups = mine_hard_negatives([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]], ["a", "b", "c"], k=2)
    >>> groups.labels.tolist(), groups.anchor_ids.tolist()
    ([['a', 'c'], ['b', 'c'], ['c', 'a']], [0, 0, 1, 1, 2, 2])

    ```
    """
    rows = as_embeddings("exemplar_x", exemplar_x)
    names = as_labels("labels", labels, len(rows), "exemplar_x")
    values, counts = np.unique(names, return_counts=True)
    if counts.max() > 1:
        raise ValueError(
            f"`labels` holds {values[counts.argmax()].item()!r} {counts.max()} times; expected one exemplar for each label"
        )
    k = check_count("k", k)
    if k > len(rows):
        raise ValueError(f"`k` is {k} but there are only {len(rows)} labels, the label itself among them; lower `k`")
    own = np.arange(len(rows))[:, None]
    found, squared = own, np.zeros((len(rows), 1))
    if k > 1:  # another exemplar at the same place must not come before the label itself
        distances, others = nearest_neighbours(rows, k=k - 1, metric="euclidean", chunk_size=chunk_size)
        found, squared = np.concatenate([own, others], 1), np.concatenate([squared, distances**2], 1)
    return HardNegatives(found, names[found], squared, np.repeat(np.arange(len(rows)), k))


__all__ = [
    "MATCH_THRESHOLDS",
    "HardNegatives",
    "Links",
    "choose_clustering",
    "choose_match_threshold",
    "clustering_scores",
    "link_to_exemplars",
    "linkage_accuracy",
    "mine_hard_negatives",
    "single_link_clusters",
]
