"""MoCo: a query finds its key, encoded by a momentum encoder, among a queue of past keys."""

from __future__ import annotations

import torch

from hf_contrastive.families.siamese.modeling_siamese import SiameseForPreTraining, SiameseModel
from hf_contrastive.losses import info_nce
from hf_contrastive.models.moco.configuration_moco import MoCoConfig
from hf_contrastive.modules.feature_queue import FeatureQueue
from hf_contrastive.modules.momentum_encoder import MomentumEncoder


class MoCoModel(SiameseModel):
    """MoCo's backbone and projection head (of the queries) for inference; `encode` gives the features.

    Args:
        config ([`MoCoConfig`]): backbone and head.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive import ConvEncoderConfig, MoCoConfig, MoCoModel
    >>> model = MoCoModel(MoCoConfig(backbone_config=ConvEncoderConfig(channels=[8, 16]), projection_dims=[16, 8]))
    >>> model.encode(torch.rand(2, 3, 32, 32), readout="projection").shape
    torch.Size([2, 8])

    ```
    """

    config: MoCoConfig


class MoCoForPreTraining(SiameseForPreTraining):
    """MoCo with its objective: InfoNCE against a queue (https://arxiv.org/abs/1911.05722, equation 1).

    The first view of an image is the query, the second one the key. `projections` of the output holds both, the key's
    without gradient. Call `after_optimizer_step()` in a loop of your own: it moves the momentum encoder and fills the queue.

    Args:
        config ([`MoCoConfig`]): backbone, head, queue, momentum and temperature.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive import ConvEncoderConfig, MoCoConfig, MoCoForPreTraining
    >>> backbone = ConvEncoderConfig(channels=[8, 16])
    >>> model = MoCoForPreTraining(MoCoConfig(backbone_config=backbone, projection_dims=[16, 8], queue_size=8))
    >>> model(torch.rand(4, 2, 3, 32, 32)).loss.backward()
    >>> model.after_optimizer_step()
    >>> model.queue.position
    4

    ```
    """

    config: MoCoConfig
    objective_formula = "InfoNCE: -log softmax(cosine / {temperature:g}) at the key of the other view, among {queue_size} keys of a queue"

    def build_training_parts(self) -> None:
        """The momentum encoder and the queue."""
        parts = {"backbone": self.backbone, "projection_head": self.projection_head}
        self.momentum_encoder = MomentumEncoder(parts, self.config.encoder_momentum)
        self.queue = FeatureQueue(self.config.queue_size, (self.config.projection_dims or [0])[-1])

    def embed_views(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """Query of the first view, key of the second.

        Args:
            pixel_values (`torch.FloatTensor` `[batch, 2, channels, height, width]`): the views.

        Returns:
            `{"projections": [batch, 2, projection_dim], "embeds": [batch, 2, dim]}`, the key's without gradient.
        """
        self._check(pixel_values, "[batch, views, channels, height, width]", 5)
        embeds, projections = self.embed_images(pixel_values[:, :1])
        if pixel_values.shape[1] > 1:
            key_embeds, keys = self.embed_with_momentum(pixel_values[:, 1:2], shuffle=self.config.shuffle_batch_norm)
            embeds, projections = torch.cat([embeds, key_embeds], 1), torch.cat([projections, keys], 1)
        return {"projections": projections, "embeds": embeds}

    def loss_terms(self, embeds: dict[str, torch.Tensor], sample_ids: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """InfoNCE of the queries; the keys wait for the end of the optimiser step to enter the queue."""
        queue = self.queue.rows()
        query, key = embeds["projections"].to(queue.dtype).unbind(1)
        key = key.detach()
        loss = info_nce(
            query,
            key,
            queue,
            temperature=self.config.temperature,
            sample_ids=sample_ids,
            negative_ids=None if sample_ids is None else self.queue.ids,
            in_batch_negatives=False,
        )
        if self.training:
            self.queue.stage(key, sample_ids)
        return {"loss": loss}

    def count_negatives(self, rows: int, views: int) -> int:
        """The queue."""
        return self.config.queue_size


__all__ = ["MoCoForPreTraining", "MoCoModel"]
