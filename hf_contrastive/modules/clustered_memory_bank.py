"""A memory bank whose rows carry cluster labels that follow the training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init

from hf_contrastive.distributed import broadcast_from_first
from hf_contrastive.modules.kmeans import split_in_two
from hf_contrastive.modules.memory_bank import BankUpdate, MemoryBank


class ClusteredMemoryBank(MemoryBank):
    """A memory bank with pseudo-labels, updated online with its rows (InterCLR, https://arxiv.org/abs/2008.11702,
    section 3.2; the clustering is that of ODC, https://arxiv.org/abs/2006.10645).

    A new row gets the label of the centroid with the largest dot product. Centroids are plain means of their rows, not
    normalised, so that tight clusters, whose means are longer, win; they are computed anew every `centroid_interval`
    steps, and a cluster without rows keeps its old one. Every `repair_interval` steps clusters with fewer than
    `min_cluster_size` rows are emptied into the best of the other clusters, and each takes one half (2-means) of what is
    then the largest cluster.

    There are no clusters at first: call [`~ClusteredMemoryBank.init_clusters`] with embeddings and k-means labels of all
    images (`ClusterMemoryBankCallback` does it in the trainer). `is_clustered` tells; labels and centroids are saved.

    Args:
        length (`int`): number of images in the training set.
        dim (`int`): size of the embeddings.
        num_clusters (`int`): C.
        momentum (`float`, defaults to 1.0): weight of the new embedding; 1 replaces the row.
        min_cluster_size (`int`, defaults to 20): smaller clusters are taken apart.
        online_labels (`bool`, defaults to `True`): labels follow the rows; otherwise they stay until they are set again.
        centroid_interval (`int`, defaults to 10), repair_interval (`int`, defaults to 1): in optimiser steps; both happen with
            online labels only.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.modules.clustered_memory_bank import ClusteredMemoryBank
    >>> bank = ClusteredMemoryBank(length=4, dim=2, num_clusters=2, min_cluster_size=1)
    >>> bank.init_clusters(torch.eye(2).repeat(2, 1), torch.tensor([0, 1, 0, 1]))
    >>> float(bank.stage(torch.tensor([2]), torch.tensor([[0.0, 5.0]])).change_ratio)
    1.0
    >>> bank.after_step(None)
    >>> bank.labels.tolist()
    [0, 1, 1, 1]

    ```
    """

    labels: Tensor
    centroids: Tensor
    num_clusterings: Tensor
    clustered_epoch: Tensor

    def __init__(
        self,
        length: int,
        dim: int,
        num_clusters: int,
        momentum: float = 1.0,
        *,
        min_cluster_size: int = 20,
        online_labels: bool = True,
        centroid_interval: int = 10,
        repair_interval: int = 1,
    ) -> None:
        super().__init__(length, dim, momentum)
        self.num_clusters = num_clusters
        self.min_cluster_size = min_cluster_size
        self.online_labels = online_labels
        self.centroid_interval = centroid_interval
        self.repair_interval = repair_interval
        self.register_buffer("labels", torch.empty(length, dtype=torch.long))
        self.register_buffer("centroids", torch.empty(num_clusters, dim))
        self.register_buffer("num_clusterings", torch.empty((), dtype=torch.long))
        self.register_buffer("clustered_epoch", torch.empty((), dtype=torch.long))
        self._init_clusters()

    @torch.no_grad()
    def init_state(self, model: Any) -> None:
        """Random unit rows and no clusters, where the checkpoint brought nothing."""
        super().init_state(model)
        self._init_clusters()

    @torch.no_grad()
    def _init_clusters(self) -> None:
        init.constant_(self.labels, -1)
        init.zeros_(self.centroids)
        init.zeros_(self.num_clusterings)
        init.constant_(self.clustered_epoch, -1)

    @property
    def is_clustered(self) -> bool:
        """Whether rows have labels; a bank that was not saved with its checkpoint has none."""
        return int(self.num_clusterings) > 0

    def cluster_sizes(self) -> Tensor:
        """Rows of every cluster, `[C]`."""
        return torch.bincount(self.labels.clamp(min=0), minlength=self.num_clusters)

    @torch.no_grad()
    def init_clusters(self, features: Tensor, labels: Tensor, epoch: int = 0) -> None:
        """Fill the bank with embeddings of all images and their clusters.

        Args:
            features (`Tensor` `[L, dim]`): of all images, in the order of the data set; normalised here.
            labels (`LongTensor` `[L]`): cluster of each, from 0 to C - 1, none of them empty.
            epoch (`int`, defaults to 0): when; for those who cluster again later.

        Raises:
            ValueError: other shapes, rows that are not finite, labels outside the range, or an empty cluster.
        """
        if tuple(features.shape) != tuple(self.features.shape):
            raise ValueError(
                f"`features` has shape {tuple(features.shape)}, but the bank is {tuple(self.features.shape)}; give one row for "
                "each image of the training set, and build the bank with length=len(dataset)."
            )
        if not bool(torch.isfinite(features).all()):
            raise ValueError("`features` holds numbers that are not finite: the encoder has diverged.")
        self._check_labels(labels)
        self.features.copy_(nn.functional.normalize(features.to(self.features), dim=1))
        self.set_labels(labels, epoch)

    @torch.no_grad()
    def set_labels(self, labels: Tensor, epoch: int = 0) -> None:
        """Replace all labels, and compute the centroids of the bank's rows (the offline variant does it every epoch).

        Args:
            labels (`LongTensor` `[L]`): cluster of each row, from 0 to C - 1, none of them empty.
            epoch (`int`, defaults to 0): when.

        Raises:
            ValueError: another shape, labels outside the range, or an empty cluster.
        """
        self._check_labels(labels)
        self.labels.copy_(labels)
        self.update_centroids()
        self.num_clusterings += 1
        self.clustered_epoch.fill_(epoch)

    @torch.no_grad()
    def forget_clusters(self) -> None:
        """Back to a bank without clusters; its rows stay."""
        self.labels.fill_(-1)
        self.centroids.zero_()
        self.num_clusterings.zero_()
        self.clustered_epoch.fill_(-1)

    def _check_labels(self, labels: Tensor) -> None:
        if tuple(labels.shape) != (self.length,) or labels.is_floating_point():
            raise ValueError(
                f"`labels` must hold one integer for each of the {self.length} rows, got {labels.dtype} of shape "
                f"{tuple(labels.shape)}."
            )
        low, high = (int(value) for value in labels.aminmax())
        if low < 0 or high >= self.num_clusters:
            raise ValueError(
                f"`labels` goes from {low} to {high}, but the bank has the clusters 0 to {self.num_clusters - 1}; set num_clusters."
            )
        empty = (torch.bincount(labels, minlength=self.num_clusters) == 0).nonzero().flatten().tolist()
        if empty:
            raise ValueError(
                f"{len(empty)} of {self.num_clusters} clusters are empty (first: {empty[0]}); take fewer clusters, or a k-means "
                "that leaves none empty (hf_contrastive.modules.kmeans)."
            )

    @torch.no_grad()
    def propose(self, index: Tensor, features: Tensor) -> BankUpdate:
        """What a batch would change: rows, and with online labels their clusters.

        Args:
            index (`LongTensor` `[batch]`), features (`Tensor` `[batch, dim]`): of this process.

        Returns:
            [`BankUpdate`] of all processes.

        Raises:
            ValueError: a number outside the bank.
        """
        update = super().propose(index, features)
        if self.online_labels and self.is_clustered:
            with torch.autocast(features.device.type, enabled=False):
                update.labels = (update.features @ self.centroids.T).argmax(1)
            update.change_ratio = (update.labels != self.labels[update.index]).float().mean()
        return update

    @torch.no_grad()
    def after_step(self, model: Any) -> None:
        """Write what was staged; centroids and small clusters at their intervals."""
        super().after_step(model)
        if not (self.online_labels and self.is_clustered):
            return
        step = int(self.num_updates)
        if step % self.centroid_interval == 0:
            self.update_centroids()
        if step % self.repair_interval == 0:
            self.repair_small_clusters()

    def _write_labels(self, rows: Tensor, labels: Tensor) -> None:
        self.labels.index_copy_(0, rows, labels)

    @torch.no_grad()
    def update_centroids(self) -> None:
        """Centroids are the means of their rows; those without rows stay."""
        sizes = self.cluster_sizes()
        sums = torch.zeros_like(self.centroids).index_add_(0, self.labels, self.features)
        means = sums / sizes.clamp(min=1)[:, None]
        self.centroids.copy_(torch.where(sizes[:, None] > 0, means, self.centroids))
        # sums on a GPU may differ in their last digits from process to process
        broadcast_from_first(self.centroids)

    @torch.no_grad()
    def repair_small_clusters(self) -> list[int]:
        """Take clusters with fewer than `min_cluster_size` rows apart, and fill each with half of the largest.

        Returns:
            The clusters that were emptied and filled again, in increasing order.
        """
        sizes = self.cluster_sizes()
        is_small = sizes < self.min_cluster_size
        small = is_small.nonzero().flatten()
        if len(small) == 0 or len(small) == self.num_clusters:  # all of them: nothing is left to give their rows to
            return []
        rows = is_small[self.labels].nonzero().flatten()
        if len(rows):
            large = (~is_small).nonzero().flatten()
            with torch.autocast(self.features.device.type, enabled=False):
                nearest = (self.features[rows] @ self.centroids[large].T).argmax(1)
            self.labels[rows] = large[nearest]
            sizes = self.cluster_sizes()
        emptied = small.tolist()
        for cluster in emptied:
            largest = int(sizes.argmax())
            members = (self.labels == largest).nonzero().flatten()
            # computed everywhere and taken from the first process: all hold the same labels
            half = split_in_two(self.features[members]).to(members.device, torch.uint8)
            second = broadcast_from_first(half).bool()
            moved = members[second]
            self.labels[moved] = cluster
            for number, part in ((largest, members[~second]), (cluster, moved)):
                self.centroids[number] = self.features[part].mean(0)
                sizes[number] = len(part)
        return emptied

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, num_clusters={self.num_clusters}, online_labels={self.online_labels}"


__all__ = ["ClusteredMemoryBank"]
