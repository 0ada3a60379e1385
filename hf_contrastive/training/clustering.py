"""Clusters all images of a training set for models with a clustered memory bank."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from hf_contrastive.distributed import (
    all_gather_no_grad,
    broadcast_from_first,
    get_rank,
    get_world_size,
    is_main_process,
)
from hf_contrastive.modules.kmeans import kmeans_labels
from hf_contrastive.training.unwrap import unwrap_model


class ClusterMemoryBankCallback(TrainerCallback):
    """Embeds all images (one view without augmentation, eval mode), clusters them by k-means and fills the model's memory
    bank, at the beginning of every epoch for which `model.clustering_due(epoch)` says so.

    The processes share the embedding, the first one clusters. The training's own random numbers are not touched, so that a
    resumed run stays the uninterrupted one. The first time rows and labels are set; later, with labels that are already
    there, the labels alone.

    Args:
        dataset (`Dataset`): the training set, one row for each row of the bank.
        collator (`Callable`): rows to `pixel_values` `[batch, channels, height, width]`, for example an [`EvalCollator`]; `index`,
            where it is there, says which row of the bank an image has.
        batch_size (`int`, defaults to 256): images at a time.
        seed (`int`, defaults to 0): of k-means; the number of the epoch is added.
        num_iterations (`int`, defaults to 20): rounds of k-means.
        backend (`str`, defaults to `"auto"`): of k-means, see `hf_contrastive.modules.kmeans`.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.training import ClusterMemoryBankCallback
    >>> rows = [{"pixel_values": torch.rand(3, 16, 16)} for _ in range(8)]
    >>> def collate(batch):
    ...     return {"pixel_values": torch.stack([row["pixel_values"] for row in batch])}
    >>> callback = ClusterMemoryBankCallback(rows, collate)  # ContrastiveTrainer(..., callbacks=[callback])

    ```
    """

    def __init__(
        self,
        dataset: Any,
        collator: Any,
        *,
        batch_size: int = 256,
        seed: int = 0,
        num_iterations: int = 20,
        backend: str = "auto",
    ) -> None:
        self.dataset = dataset
        self.collator = collator
        self.batch_size = batch_size
        self.seed = seed
        self.num_iterations = num_iterations
        self.backend = backend
        self.epoch = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A new run starts without clusters, whatever checkpoint its weights come from; a resumed one keeps them."""
        self.epoch = int(state.epoch or 0)
        if state.global_step == 0:
            unwrap_model(kwargs["model"]).memory_bank.forget_clusters()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Clusters where it is due; not again in the rest of an epoch that a resumed run begins with."""
        model = unwrap_model(kwargs["model"])
        if model.clustering_due(self.epoch):
            self.cluster(model, self.epoch, args.device, args.dataloader_num_workers)
        self.epoch += 1

    def on_dry_run(self, model: Any) -> None:
        """Clusters of a recipe's dry run: labels in turn, nothing is embedded."""
        bank = unwrap_model(model).memory_bank
        bank.init_clusters(bank.features.clone(), torch.arange(bank.length) % bank.num_clusters)

    def cluster(self, model: Any, epoch: int = 0, device: torch.device | str = "cpu", num_workers: int = 0) -> None:
        """Embed and cluster all images now.

        Args:
            model: with `memory_bank` and `embed_for_bank`, not wrapped.
            epoch (`int`, defaults to 0): noted in the bank.
            device: where to embed.
            num_workers (`int`, defaults to 0): of the dataloader.

        Raises:
            ValueError: data of another length than the bank.
        """
        bank = model.memory_bank
        with torch.random.fork_rng(devices=[]):
            features = self.embed(model, device, num_workers).to(bank.features.device)
            labels = torch.empty(bank.length, dtype=torch.long, device=features.device)
            if is_main_process():
                labels = kmeans_labels(
                    features,
                    bank.num_clusters,
                    num_iterations=self.num_iterations,
                    seed=self.seed + epoch,
                    backend=self.backend,
                )
            broadcast_from_first(labels)
        if bank.is_clustered:
            bank.set_labels(labels, epoch)
        else:
            bank.init_clusters(features, labels, epoch)

    def embed(self, model: Any, device: torch.device | str = "cpu", num_workers: int = 0) -> torch.Tensor:
        """Embeddings of all images in the order of the bank, complete on every process.

        Batches are those that one process would make, shared in turn, so that the result does not depend on the number of
        processes.

        Args:
            model: with `memory_bank` and `embed_for_bank`, not wrapped.
            device: where to embed.
            num_workers (`int`, defaults to 0): of the dataloader.

        Returns:
            `torch.Tensor` `[L, dim]`, float32.
        """
        bank, length = model.memory_bank, len(self.dataset)
        if length != bank.length:
            raise ValueError(
                f"the memory bank has {bank.length} rows, but the data set {length}; build the bank with length=len(dataset) "
                f"(in a configuration num_samples={length})."
            )
        model.to(device)
        dim, world = bank.features.shape[1], get_world_size()
        batches = [
            list(range(start, min(start + self.batch_size, length))) for start in range(0, length, self.batch_size)
        ]
        batches += [[]] * (-len(batches) % world)
        mine = batches[get_rank() :: world]
        # places that nothing is embedded for point behind the bank
        rows = torch.full((len(mine), self.batch_size), length, dtype=torch.long, device=bank.features.device)
        features = torch.zeros(len(mine), self.batch_size, dim, device=bank.features.device)
        loader = DataLoader(
            self.dataset, batch_sampler=[b for b in mine if b], collate_fn=self.collator, num_workers=num_workers
        )
        for number, batch in enumerate(loader):
            index = batch.get("index")
            index = torch.tensor(mine[number]) if index is None else index
            rows[number, : len(index)] = index.to(rows.device)
            features[number, : len(index)] = model.embed_for_bank(batch["pixel_values"].to(device)).to(features)
        rows, features = all_gather_no_grad(rows).flatten(), all_gather_no_grad(features).flatten(0, 1)
        if not torch.equal(rows[rows < length].sort().values, torch.arange(length, device=rows.device)):
            raise ValueError(
                f"the column `index` of the data set must hold every number from 0 to {length - 1} once, since it names the rows "
                "of the memory bank."
            )
        joined = torch.zeros(length + 1, dim, device=features.device)
        return joined.index_copy_(0, rows.clamp(max=length), features)[:length]


__all__ = ["ClusterMemoryBankCallback"]
