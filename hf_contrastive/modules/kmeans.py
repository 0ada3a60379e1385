"""k-means of many embeddings, by FAISS where it is installed and by scikit-learn otherwise."""

from __future__ import annotations

import importlib.util
import warnings

import numpy as np
import torch
from torch import Tensor


BACKENDS = ("auto", "faiss", "sklearn")


def kmeans_labels(
    features: Tensor,
    num_clusters: int,
    *,
    num_iterations: int = 20,
    seed: int = 0,
    backend: str = "auto",
) -> Tensor:
    """
    Clusters of the directions of embeddings: k-means of rows of length 1, without a cluster that is empty.

    The same rows, seed and backend give the same clusters on the same kind of machine; the two backends give different ones.

    Args:
        features (`Tensor` `[L, dim]`): rows; normalised here.
        num_clusters (`int`): C, from 2 to L.
        num_iterations (`int`, defaults to 20): rounds of k-means.
        seed (`int`, defaults to 0): of the first centroids.
        backend (`str`, defaults to `"auto"`): `"faiss"`, `"sklearn"` (mini-batches from 100,000 rows on), or FAISS where it is
            installed.

    Returns:
        `LongTensor` `[L]`: clusters from 0 to C - 1, each with at least one row; on the device of `features`.

    Raises:
        ValueError: a number of clusters that does not fit, rows that are not finite, or an unknown backend.
        ImportError: FAISS was asked for and is not installed.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.modules.kmeans import kmeans_labels
    >>> labels = kmeans_labels(torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0], [0.1, 3.0]]), num_clusters=2)
    >>> bool(labels[0] == labels[1] != labels[2] == labels[3])
    True

    ```
    """
    if features.dim() != 2 or not 2 <= num_clusters <= len(features):
        raise ValueError(
            f"{num_clusters} clusters were asked for of rows of shape {tuple(features.shape)}; give [rows, dim], and from 2 "
            f"clusters to as many as there are rows."
        )
    if not bool(torch.isfinite(features).all()):
        bad = int((~torch.isfinite(features).all(1)).sum())
        raise ValueError(f"{bad} of {len(features)} rows are not finite; the encoder has diverged.")
    if backend not in BACKENDS:
        raise ValueError(f"`backend` is {backend!r}; known are: {', '.join(BACKENDS)}.")
    if backend == "auto":
        backend = "faiss" if importlib.util.find_spec("faiss") is not None else "sklearn"
    rows = torch.nn.functional.normalize(features.detach().float(), dim=1).cpu().numpy()
    run = _faiss_kmeans if backend == "faiss" else _sklearn_kmeans
    labels, distances = run(np.ascontiguousarray(rows), num_clusters, num_iterations, seed)
    return torch.from_numpy(_fill_empty(labels, distances, num_clusters)).to(features.device)


def _faiss_kmeans(
    rows: np.ndarray, num_clusters: int, num_iterations: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    try:
        import faiss
    except ImportError as error:
        raise ImportError("k-means with FAISS needs it: pip install faiss-cpu, or take backend='sklearn'.") from error
    kmeans = faiss.Kmeans(
        rows.shape[1],
        num_clusters,
        niter=num_iterations,
        seed=seed,
        # every row takes part; fewer than 39 a centroid are fine, too
        max_points_per_centroid=len(rows),
        min_points_per_centroid=1,
    )
    kmeans.train(rows)
    distances, labels = kmeans.index.search(rows, 1)
    return labels[:, 0].astype(np.int64), distances[:, 0]


def _sklearn_kmeans(
    rows: np.ndarray, num_clusters: int, num_iterations: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.cluster import KMeans, MiniBatchKMeans

    if len(rows) >= 100_000:
        kmeans = MiniBatchKMeans(
            num_clusters, max_iter=num_iterations, random_state=seed, batch_size=8192, n_init="auto"
        )
    else:
        kmeans = KMeans(num_clusters, max_iter=num_iterations, random_state=seed, n_init="auto")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer distinct rows than clusters: filled below
        labels = kmeans.fit(rows).labels_
    return labels.astype(np.int64), np.square(rows - kmeans.cluster_centers_[labels]).sum(1)


def _fill_empty(labels: np.ndarray, distances: np.ndarray, num_clusters: int) -> np.ndarray:
    """Each empty cluster takes the row of what is then the largest cluster that lies farthest from its centroid."""
    sizes = np.bincount(labels, minlength=num_clusters)
    for cluster in np.flatnonzero(sizes == 0):
        largest = int(sizes.argmax())
        members = np.flatnonzero(labels == largest)
        labels[members[distances[members].argmax()]] = cluster
        sizes[largest] -= 1
        sizes[cluster] = 1
    return labels


def split_in_two(rows: Tensor) -> Tensor:
    """
    Two halves of a cluster by 2-means, as InterCLR's published code makes them (scikit-learn, 20 rounds, `random_state` 0).

    Args:
        rows (`Tensor` `[N, dim]`): the cluster, 2 or more rows.

    Returns:
        Bool `Tensor` `[N]`, on the CPU: the rows of the second half. Where 2-means leaves one side empty (equal rows), every
        other row.

    Raises:
        ValueError: fewer than two rows.
    """
    from sklearn.cluster import KMeans

    if len(rows) < 2:
        raise ValueError(
            f"a cluster of {len(rows)} rows cannot be split; take fewer clusters or a smaller min_cluster_size."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # equal rows: handled below
        kmeans = KMeans(n_clusters=2, random_state=0, max_iter=20, n_init="auto")
        second = torch.from_numpy(kmeans.fit(rows.detach().float().cpu().numpy()).labels_ == 1)
    if bool(second.all()) or not bool(second.any()):
        second = torch.arange(len(rows)) % 2 == 1
    return second


__all__ = ["BACKENDS", "kmeans_labels", "split_in_two"]
