"""InterCLR: another view of the same image and another image of the same online cluster are positives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch.nn.functional import normalize

from hf_contrastive.families.siamese.modeling_siamese import SiameseForPreTraining, SiameseModel
from hf_contrastive.losses import info_nce, memory_bank_nce
from hf_contrastive.models.interclr.configuration_interclr import InterCLRConfig
from hf_contrastive.modules.bank_sampling import draw_other_rows, draw_same_cluster, sample_negatives
from hf_contrastive.modules.clustered_memory_bank import ClusteredMemoryBank
from hf_contrastive.modules.feature_queue import FeatureQueue
from hf_contrastive.modules.momentum_encoder import MomentumEncoder, shuffled_forward
from hf_contrastive.modules.projection_head import ProjectionHead
from hf_contrastive.outputs import ViewsOutput
from hf_contrastive.tensor_utils import fast_layout
from hf_contrastive.utils import evaluation_mode


@dataclass
class InterCLROutput(ViewsOutput):
    """Output of InterCLR with its objective.

    Args:
        loss (`torch.FloatTensor`, scalar): `intra_weight` x `intra_loss` + `inter_weight` x `inter_loss`; the mean over the
            queries of this process.
        intra_loss (`torch.FloatTensor`, scalar): MoCo's or NPID's loss, without its weight.
        inter_loss (`torch.FloatTensor`, scalar): the loss of the cluster's positive, without its weight; 0 in the warm-up.
        change_ratio (`torch.FloatTensor`, scalar, *optional*): share of the images of the batch, over all processes, whose
            cluster changes with this step; with online labels, after the warm-up.
        embeds (`torch.FloatTensor` `[batch, views, dim]`): pooled backbone output of every view.
        projections (`torch.FloatTensor` `[batch, views, projection_dim]`): what the intra-image loss compares.
    """

    intra_loss: torch.Tensor | None = None
    inter_loss: torch.Tensor | None = None
    change_ratio: torch.Tensor | None = None


class InterCLRModel(SiameseModel):
    """InterCLR's backbone and projection head (of the queries) for inference; `encode` gives the features.

    Args:
        config ([`InterCLRConfig`]): backbone and head.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive import ConvEncoderConfig, InterCLRConfig, InterCLRModel
    >>> model = InterCLRModel(InterCLRConfig(backbone_config=ConvEncoderConfig(channels=[8, 16]), projection_dims=[16, 8]))
    >>> model.encode(torch.rand(2, 3, 32, 32), readout="projection").shape
    torch.Size([2, 8])

    ```
    """

    config: InterCLRConfig


class InterCLRForPreTraining(SiameseForPreTraining):
    """InterCLR with its objective (https://arxiv.org/abs/2008.11702, equations 1 to 4): MoCo's or NPID's loss, and InfoNCE of
    the same queries with a bank row of their cluster as the positive and rows of other clusters as negatives.

    On MoCo the first view of an image is the query, the second the key, which goes into the queue and into the image's bank
    row. On NPID every view is a query, and the row moves towards their mean.

    The bank has to be clustered before the inter-image loss exists: `ClusterMemoryBankCallback` does it in the trainer; in a
    loop of your own embed all images with `embed_for_bank` and call `memory_bank.init_clusters(features, labels)`. Until
    then `warmup_epochs` above 0 trains the intra-image loss alone, otherwise the loss is refused. Call
    `after_optimizer_step()` in a loop of your own: it moves the momentum encoder, fills the queue, and updates the bank,
    its labels and clusters.

    Args:
        config ([`InterCLRConfig`]): backbone, head, base, bank, negatives, margins and weights.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive import ConvEncoderConfig, InterCLRConfig, InterCLRForPreTraining
    >>> config = InterCLRConfig(
    ...     backbone_config=ConvEncoderConfig(channels=[8, 16]), projection_dims=[16, 8], queue_size=8, num_samples=12,
    ...     num_clusters=3, min_cluster_size=1, num_inter_negatives=4, negative_pool_size=10,
    ... )
    >>> model = InterCLRForPreTraining(config)
    >>> model.memory_bank.init_clusters(torch.randn(12, 8), torch.arange(12) % 3)
    >>> output = model(torch.rand(4, 2, 3, 32, 32), index=torch.arange(4))
    >>> output.loss.backward()
    >>> model.after_optimizer_step()
    >>> 0 <= float(output.change_ratio) <= 1
    True

    ```
    """

    config: InterCLRConfig
    objective_formula = (
        "{intra_weight:g} x intra ({base}) + {inter_weight:g} x inter: InfoNCE, cosine / {temperature:g}, at a bank row of the "
        "same of {num_clusters} clusters with margin {inter_margin:g} ({inter_margin_type}), among {num_inter_negatives} "
        "{negative_sampling} rows of others"
    )
    output_class: type[ViewsOutput] = InterCLROutput

    def __init__(self, config: InterCLRConfig) -> None:
        super().__init__(config)
        self.min_views = 2 if config.base == "moco" else 1  # ty: ignore[invalid-attribute-access]

    def build_training_parts(self) -> None:
        """The inter-image head, momentum encoder and queue where there are any, and the clustered bank."""
        config = self.config
        dims = config.projection_dims or []
        parts: dict[str, torch.nn.Module] = {"backbone": self.backbone, "projection_head": self.projection_head}
        if not config.share_neck:
            self.inter_head = ProjectionHead(
                config.embed_dim,
                dims,
                batch_norm=config.projection_batch_norm,
                last_batch_norm=config.projection_last_batch_norm,
                last_bias=config.projection_last_bias,
            )
            parts["inter_head"] = self.inter_head
        if config.base == "moco":
            self.momentum_encoder = MomentumEncoder(parts, config.encoder_momentum)
            self.queue = FeatureQueue(config.queue_size, dims[-1])
        self.memory_bank = ClusteredMemoryBank(
            config.num_samples,
            dims[-1],
            config.num_clusters,
            cast(float, config.bank_momentum),
            min_cluster_size=config.min_cluster_size,
            online_labels=config.online_labels,
            centroid_interval=config.centroid_interval,
            repair_interval=config.repair_interval,
        )

    def embed_views(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """Query of the first view and key of the second; on NPID queries of all views.

        Args:
            pixel_values (`torch.FloatTensor` `[batch, views, channels, height, width]`): the views.

        Returns:
            `{"projections": [batch, views, projection_dim], "embeds": [batch, views, dim]}`, with a head for the inter-image
            loss `inter_projections` like `projections`; a key's without gradient.
        """
        self._check(pixel_values, "[batch, views, channels, height, width]", 5)
        on_moco = self.config.base == "moco"
        embeds, projections = self.embed_images(pixel_values[:, :1] if on_moco else pixel_values)
        found = {"projections": projections, "embeds": embeds}
        if not self.config.share_neck:
            found["inter_projections"] = self.inter_head(embeds.flatten(0, 1)).unflatten(0, embeds.shape[:2])
        if on_moco and pixel_values.shape[1] > 1:
            keys = self._embed_keys(pixel_values[:, 1:2])
            found = {name: torch.cat([value, keys[name].to(value.dtype)], 1) for name, value in found.items()}
        return found

    @torch.no_grad()
    def _embed_keys(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        slow = self.momentum_encoder
        names = ["projections", "embeds"]

        def run(images: torch.Tensor) -> torch.Tensor:
            embeds, projections = self.embed_images(images, slow.part("backbone"), slow.part("projection_head"))
            columns = [projections, embeds]
            if not self.config.share_neck:
                columns.append(slow.part("inter_head")(embeds.flatten(0, 1)).unflatten(0, embeds.shape[:2]))
            return torch.cat(columns, -1)

        shuffle = self.config.shuffle_batch_norm and self.training
        joined = shuffled_forward(run, pixel_values) if shuffle else run(pixel_values)
        sizes = [(self.config.projection_dims or [0])[-1], self.config.embed_dim]
        if not self.config.share_neck:
            names.append("inter_projections")
            sizes.append(sizes[0])
        return dict(zip(names, joined.split(sizes, -1), strict=True))

    @torch.no_grad()
    def embed_for_bank(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """What clustering compares: unit projections of single images by the trained (query) encoder, in eval mode.

        Args:
            pixel_values (`torch.FloatTensor` `[batch, channels, height, width]`): images without augmentation.

        Returns:
            `torch.Tensor` `[batch, projection_dim]`.
        """
        self._check(pixel_values, "[batch, channels, height, width]", 4)
        with evaluation_mode(self):
            head = self.projection_head if self.config.share_neck else self.inter_head
            return normalize(head(self.pool(self.backbone(pixel_values=fast_layout(pixel_values)))).float(), dim=1)

    def clustering_due(self, epoch: int) -> bool:
        """Whether all images have to be clustered at the beginning of an epoch: at the end of the warm-up, with offline labels
        at every epoch from then on, and where a checkpoint brought no clusters.

        Args:
            epoch (`int`): number of the epoch, from 0.
        """
        config, bank = self.config, self.memory_bank
        if config.inter_weight == 0 or epoch < config.warmup_epochs or int(bank.clustered_epoch) >= epoch:
            return False
        return epoch == config.warmup_epochs or not config.online_labels or not bank.is_clustered

    def compute_objective(
        self,
        embeds: dict[str, torch.Tensor],
        sample_ids: torch.Tensor | None = None,
        return_loss: bool = True,
        index: torch.Tensor | None = None,
        positive_index: torch.Tensor | None = None,
        inter_negative_index: torch.Tensor | None = None,
        negative_index: torch.Tensor | None = None,
    ) -> ViewsOutput:
        """Both losses over the queries of the batch.

        Args:
            embeds (`dict`): what `embed_views` returns, for the whole batch.
            sample_ids (`torch.LongTensor` `[batch]`, *optional*): rows with the same id are never negatives.
            return_loss (`bool`, defaults to `True`): compute the loss.
            index (`torch.LongTensor` `[batch]`, *optional*): the images' numbers in the training set; needed for the loss.
            positive_index (`torch.LongTensor` `[batch]`, *optional*), inter_negative_index (`torch.LongTensor` `[batch,
                negatives]`, *optional*), negative_index (`torch.LongTensor` `[batch, negatives]`, *optional*): bank rows to
                use instead of drawn ones; see `forward`.

        Returns:
            [`InterCLROutput`].
        """
        terms: dict[str, torch.Tensor] = {}
        if return_loss:
            self.check_views(embeds, sample_ids)
            index = self.memory_bank.check_index(index, len(embeds["projections"]))
            given = (positive_index, inter_negative_index, negative_index)
            terms = self._terms(embeds, sample_ids, index, given)
        return self.make_output(embeds, terms)

    def _terms(
        self,
        embeds: dict[str, torch.Tensor],
        sample_ids: torch.Tensor | None,
        index: torch.Tensor,
        given: tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None],
    ) -> dict[str, torch.Tensor]:
        config, bank = self.config, self.memory_bank
        intra_weight, inter_weight = self._weights()
        projections = embeds["projections"]
        inter_projections = embeds.get("inter_projections", projections)
        if config.base == "moco":
            key = projections[:, 1].detach()
            query, new_rows = inter_projections[:, 0], inter_projections[:, 1].detach()
            rows, views, ids = index, None, sample_ids
            intra = self._moco(projections[:, 0], key, sample_ids)
        else:
            number = projections.shape[1]
            query, new_rows = projections.flatten(0, 1), normalize(projections.detach(), dim=-1).mean(1)
            rows, views = index.repeat_interleave(number), torch.arange(number, device=index.device).repeat(len(index))
            ids = None if sample_ids is None else sample_ids.repeat_interleave(number)
            given = tuple(None if one is None else one.repeat_interleave(number, 0) for one in given)  # ty: ignore[invalid-assignment]
            intra = self._npid(query, rows, views, ids, given[2])
        inter = torch.zeros_like(intra)
        if inter_weight > 0:
            inter = self._inter(query, rows, views, ids, given[0], given[1])
        terms = {
            "loss": intra_weight * intra + inter_weight * inter,
            "intra_loss": intra.detach(),
            "inter_loss": inter.detach(),
        }
        # against the old queue and the old bank; both are written after the optimiser step
        if self.training:
            if config.base == "moco":
                self.queue.stage(key, sample_ids)
            update = bank.stage(index, new_rows, sample_ids)
        else:
            update = bank.propose(index, new_rows)
        if update.change_ratio is not None:
            terms["change_ratio"] = update.change_ratio
        return terms

    def _weights(self) -> tuple[float, float]:
        """Of the two losses; the inter-image one waits for the first clustering."""
        config = self.config
        if config.inter_weight == 0 or self.memory_bank.is_clustered:
            return config.intra_weight, config.inter_weight
        if config.warmup_epochs == 0:
            raise RuntimeError(
                "the memory bank has no clusters yet (a checkpoint saved without memory has none either), so there is no "
                "inter-image loss. Give the trainer a ClusterMemoryBankCallback, or embed all images with embed_for_bank, "
                "cluster them with hf_contrastive.modules.kmeans and call memory_bank.init_clusters(features, labels); "
                "warmup_epochs above 0 trains the intra-image loss alone until then."
            )
        return 1.0, 0.0

    def _moco(self, query: torch.Tensor, key: torch.Tensor, sample_ids: torch.Tensor | None) -> torch.Tensor:
        queue = self.queue.rows()
        return info_nce(
            query.to(queue.dtype),
            key.to(queue.dtype),
            queue,
            temperature=cast(float, self.config.temperature),
            sample_ids=sample_ids,
            negative_ids=None if sample_ids is None else self.queue.ids,
            in_batch_negatives=False,
            margin=self.config.intra_margin,
            margin_type=self.config.intra_margin_type,
        )

    def _npid(
        self,
        query: torch.Tensor,
        rows: torch.Tensor,
        views: torch.Tensor | None,
        ids: torch.Tensor | None,
        negatives: torch.Tensor | None,
    ) -> torch.Tensor:
        bank, config = self.memory_bank, self.config
        if negatives is None:
            negatives = draw_other_rows(bank.length, rows, config.num_negatives, bank.draws(rows, views))
        return memory_bank_nce(
            query,
            bank.features,
            rows,
            negatives,
            temperature=cast(float, config.temperature),
            margin=config.intra_margin,
            margin_type=config.intra_margin_type,
            sample_ids=ids,
            bank_ids=None if ids is None else bank.ids,
        )

    def _inter(
        self,
        query: torch.Tensor,
        rows: torch.Tensor,
        views: torch.Tensor | None,
        ids: torch.Tensor | None,
        positives: torch.Tensor | None,
        negatives: torch.Tensor | None,
    ) -> torch.Tensor:
        bank, config = self.memory_bank, self.config
        draws, own_labels = bank.draws(rows, views), bank.labels[rows]
        if positives is None:
            positives = draw_same_cluster(bank.labels, own_labels, draws)
        if negatives is None:
            negatives = sample_negatives(
                query,
                bank.features,
                bank.labels,
                own_labels,
                config.num_inter_negatives,
                config.negative_sampling,
                pool_size=config.negative_pool_size,
                draws=draws,
            )
        return memory_bank_nce(
            query,
            bank.features,
            positives,
            negatives,
            temperature=cast(float, config.temperature),
            margin=config.inter_margin,
            margin_type=config.inter_margin_type,
            sample_ids=ids,
            bank_ids=None if ids is None else bank.ids,
        )

    def count_positives(self, views: int) -> int:
        """Another view (or the own row), and a row of the cluster."""
        return 2 if self.config.inter_weight > 0 else 1

    def count_negatives(self, rows: int, views: int) -> int:
        """Of the intra-image loss: the queue, or drawn rows of the bank."""
        return self.config.queue_size if self.config.base == "moco" else self.config.num_negatives

    def chance_loss(self, rows: int, views: int) -> float | None:
        """All similarities alike; with an angle as margin there is no such level."""
        config = self.config
        intra_weight, inter_weight = self._weights()
        total = 0.0
        for weight, count, margin, kind in (
            (intra_weight, self.count_negatives(rows, views), config.intra_margin, config.intra_margin_type),
            (inter_weight, config.num_inter_negatives, config.inter_margin, config.inter_margin_type),
        ):
            if weight > 0 and margin != 0 and kind != "cosine":
                return None
            total += weight * math.log1p(count * math.exp(margin / cast(float, config.temperature)))
        return total

    def forward(
        self,
        pixel_values: torch.Tensor | Sequence[torch.Tensor],
        sample_ids: torch.Tensor | None = None,
        return_loss: bool = True,
        index: torch.Tensor | None = None,
        positive_index: torch.Tensor | None = None,
        inter_negative_index: torch.Tensor | None = None,
        negative_index: torch.Tensor | None = None,
    ) -> ViewsOutput:
        """Embed views and compare them with each other and with the bank.

        Args:
            pixel_values (`torch.FloatTensor` `[batch, views, channels, height, width]`, or a sequence of one tensor
                `[batch, channels, height, width]` per view): the views; two on MoCo, one or more on NPID.
            sample_ids (`torch.LongTensor` `[batch]`, *optional*): rows with the same id are never negatives of each
                other (exact false-negative mask); queue and bank keep the ids they have seen.
            return_loss (`bool`, defaults to `True`): compute the loss.
            index (`torch.LongTensor` `[batch]`, *optional*): the images' numbers in the training set (a MultiViewCollator
                hands them on); needed for the loss.
            positive_index (`torch.LongTensor` `[batch]`, *optional*): the bank row that is each image's inter-image positive;
                drawn among the rows of its cluster by default.
            inter_negative_index (`torch.LongTensor` `[batch, negatives]`, *optional*): the bank rows that are its
                inter-image negatives; `negative_sampling` finds them by default.
            negative_index (`torch.LongTensor` `[batch, negatives]`, *optional*): on NPID the bank rows that are intra-image
                negatives; drawn among the other images' rows by default.

        Returns:
            [`InterCLROutput`].

        Raises:
            ValueError: a wrong shape, no `index`, a number outside the bank, or a pool without negatives.
            RuntimeError: no clusters yet and no warm-up.
        """
        if not isinstance(pixel_values, torch.Tensor):
            pixel_values = torch.stack(list(pixel_values), dim=1)
        return self.compute_objective(
            self.embed_views(pixel_values),
            sample_ids,
            return_loss,
            index,
            positive_index,
            inter_negative_index,
            negative_index,
        )


__all__ = ["InterCLRForPreTraining", "InterCLRModel", "InterCLROutput"]
