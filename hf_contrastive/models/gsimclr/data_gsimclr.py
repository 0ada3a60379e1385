"""Pseudo-labels: k-means clusters of autoencoder features."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch


class PseudoLabeler:
    """Groups embeddings with k-means and names each row's cluster (G-SimCLR, https://arxiv.org/abs/2009.12007, stage 2).

    scikit-learn's KMeans on the embeddings as they are: no normalisation, no PCA, as in the official notebook.

    Args:
        num_clusters (`int`): number of clusters; the paper takes the batch size.
        seed (`int`, defaults to 0): `random_state` of k-means (official notebook).

    Raises:
        ValueError: `num_clusters` below 2.

    Example:

    ```python
    >>> import numpy as np
    >>> from hf_contrastive import PseudoLabeler
    >>> labels = PseudoLabeler(num_clusters=2).fit_predict(np.array([[0.0], [0.1], [5.0], [5.1]]))
    >>> bool(labels[0] == labels[1] != labels[2] == labels[3])
    True

    ```
    """

    def __init__(self, num_clusters: int, seed: int = 0) -> None:
        if num_clusters < 2:
            raise ValueError(f"`num_clusters` is {num_clusters}, but it must be 2 or more.")
        self.num_clusters = num_clusters
        self.seed = seed
        self.centroids: np.ndarray | None = None

    def fit_predict(self, embeds: np.ndarray | torch.Tensor) -> np.ndarray:
        """Cluster and label.

        Args:
            embeds (`[rows, dim]`): features, one row per image.

        Returns:
            `numpy.ndarray` `[rows]` of cluster numbers from 0.

        Raises:
            ValueError: fewer rows than clusters, non-finite features, or clusters that came out empty.
        """
        from sklearn.cluster import KMeans

        rows = embeds.detach().float().cpu().numpy() if isinstance(embeds, torch.Tensor) else np.asarray(embeds)
        if rows.ndim != 2 or len(rows) == 0:
            raise ValueError(f"`embeds` has shape {rows.shape}, expected [rows, dim] with at least one row.")
        if self.num_clusters > len(rows):
            raise ValueError(
                f"{self.num_clusters} clusters were asked for, but there are only {len(rows)} images; lower "
                f"`num_clusters` to at most {len(rows)}."
            )
        if not np.isfinite(rows).all():
            bad = int((~np.isfinite(rows).all(axis=1)).sum())
            raise ValueError(f"{bad} of {len(rows)} embeddings are not finite; the autoencoder has diverged.")
        distinct = len(np.unique(rows, axis=0))
        if distinct >= self.num_clusters:
            kmeans = KMeans(n_clusters=self.num_clusters, random_state=self.seed).fit(rows)
            labels = kmeans.labels_
            self.centroids = kmeans.cluster_centers_
            distinct = len(np.unique(labels))
        if distinct < self.num_clusters:
            raise ValueError(
                f"k-means returned {distinct} non-empty clusters for {self.num_clusters} asked; lower `num_clusters`."
            )
        return labels.astype(np.int64)

    def add_to(self, dataset: Any, embeds: np.ndarray | torch.Tensor, column: str = "pseudo_label") -> Any:
        """Add the labels to a dataset as a column.

        Args:
            dataset (`datasets.Dataset`): one row per embedding.
            embeds (`[rows, dim]`): features in the order of the data set.
            column (`str`, defaults to `"pseudo_label"`): name of the new column; an existing one is replaced.

        Returns:
            `datasets.Dataset` with the column.
        """
        if len(dataset) != len(embeds):
            raise ValueError(f"the data set has {len(dataset)} rows, but there are {len(embeds)} embeddings.")
        labels = self.fit_predict(embeds)
        if column in dataset.column_names:
            dataset = dataset.remove_columns(column)
        return dataset.add_column(column, labels.tolist())


def same_label_pair_rate(labels: np.ndarray, batches: list[np.ndarray] | list[list[int]]) -> float:
    """Share of the pairs inside batches whose two images have the same label: the rate of false negatives.

    Args:
        labels (`[rows]`): label of every image.
        batches (list of index lists): the batches.

    Returns:
        `float` in [0, 1].

    Example:

    ```python
    >>> import numpy as np
    >>> from hf_contrastive.models.gsimclr.data_gsimclr import same_label_pair_rate
    >>> same_label_pair_rate(np.array([0, 0, 1]), [[0, 1, 2]])
    0.3333333333333333

    ```
    """
    labels = np.asarray(labels)
    same = pairs = 0
    for batch in batches:
        counts = np.unique(labels[np.asarray(batch)], return_counts=True)[1]
        same += int((counts * (counts - 1) // 2).sum())
        pairs += len(batch) * (len(batch) - 1) // 2
    return same / pairs if pairs else 0.0


def false_negative_report(
    pseudo_labels: np.ndarray, labels: np.ndarray | None, batch_size: int, seed: int = 0
) -> list[dict[str, Any]]:
    """What the three orders of the data put into one batch: repeated pseudo-labels and, where known, true classes.

    Args:
        pseudo_labels (`[rows]`): cluster of every image.
        labels (`[rows]`, *optional*): true class of every image.
        batch_size (`int`): rows of a global batch.
        seed (`int`, defaults to 0): of the random and the strict order.

    Returns:
        One `dict` per order: `order`, `batches`, `images used`, `same pseudo-label pairs` and `same class pairs` (shares of the
        pairs inside a batch), `repeated pseudo-labels` (mean share of a batch whose cluster was already in it).
    """
    from hf_contrastive.data import DistinctLabelBatchSampler, guided_order

    pseudo_labels = np.asarray(pseudo_labels)
    count = len(pseudo_labels) // batch_size

    def cut(order: np.ndarray) -> list[np.ndarray]:
        return [np.asarray(order[start * batch_size : (start + 1) * batch_size]) for start in range(count)]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the images it leaves out are a column of the table
        strict = [np.asarray(batch) for batch in DistinctLabelBatchSampler(pseudo_labels, batch_size, seed=seed)]
    orders: dict[str, list[Any]] = {
        "random": cut(np.random.RandomState(seed).permutation(len(pseudo_labels))),
        "official": cut(np.asarray(guided_order(pseudo_labels)[1])),
        "guided (strict)": strict,
    }
    table = []
    for name, batches in orders.items():
        repeated = [1 - len(np.unique(pseudo_labels[batch])) / len(batch) for batch in batches]
        row: dict[str, Any] = {
            "order": name,
            "batches": len(batches),
            "images used": sum(len(batch) for batch in batches),
            "repeated pseudo-labels": round(float(np.mean(repeated)), 4),
            "same pseudo-label pairs": round(same_label_pair_rate(pseudo_labels, batches), 5),
        }
        if labels is not None:
            row["same class pairs"] = round(same_label_pair_rate(labels, batches), 5)
        table.append(row)
    return table


__all__ = ["PseudoLabeler", "false_negative_report", "same_label_pair_rate"]
