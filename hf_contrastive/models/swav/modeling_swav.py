"""SwAV: the assignment of one view to prototypes is predicted from the other views."""

from __future__ import annotations

import math

import torch
from torch import nn

from hf_contrastive.families.siamese.modeling_siamese import SiameseForPreTraining, SiameseModel
from hf_contrastive.families.siamese.multi_crop import MultiCropMixin
from hf_contrastive.losses import sinkhorn, swapped_prediction
from hf_contrastive.losses._engine import accumulation_dtype
from hf_contrastive.models.swav.configuration_swav import SwAVConfig
from hf_contrastive.modules.prototypes import Prototypes
from hf_contrastive.modules.rolling_queue import RollingQueue


class SwAVModel(SiameseModel):
    """SwAV's backbone and projection head for inference; `encode` gives the features.

    Args:
        config ([`SwAVConfig`]): backbone and head.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive import ConvEncoderConfig, SwAVConfig, SwAVModel
    >>> model = SwAVModel(SwAVConfig(backbone_config=ConvEncoderConfig(channels=[8, 16]), projection_dims=[16, 8]))
    >>> model.encode(torch.rand(2, 3, 32, 32), readout="projection").shape
    torch.Size([2, 8])

    ```
    """

    config: SwAVConfig


class SwAVForPreTraining(MultiCropMixin, SiameseForPreTraining):
    """SwAV with its objective, swapped prediction (https://arxiv.org/abs/2006.09882, equations 1 to 3).

    Takes local crops beside the global views (multi-crop). Call `before_optimizer_step()` and `after_optimizer_step()` in a
    loop of your own: they keep the prototypes still at the start and at length 1, and fill the queue.

    Args:
        config ([`SwAVConfig`]): backbone, head, prototypes, assignment and queue.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive import ConvEncoderConfig, SwAVConfig, SwAVForPreTraining
    >>> backbone = ConvEncoderConfig(channels=[8, 16])
    >>> model = SwAVForPreTraining(SwAVConfig(backbone_config=backbone, projection_dims=[16, 8], num_prototypes=10))
    >>> outputs = model(torch.rand(4, 2, 3, 32, 32), local_pixel_values=torch.rand(4, 3, 3, 16, 16))
    >>> outputs.loss.backward()
    >>> outputs.projections.shape
    torch.Size([4, 2, 8])

    ```
    """

    config: SwAVConfig
    has_negatives = False
    objective_formula = (
        "swapped prediction: cross-entropy of softmax(scores / {temperature:g}) over {num_prototypes} prototypes and the "
        "Sinkhorn assignment (epsilon {epsilon:g}) of another view"
    )

    def build_training_parts(self) -> None:
        """The prototypes and, where asked for, the queue."""
        config = self.config
        dim = (config.projection_dims or [0])[-1]
        self.prototypes = Prototypes(dim, config.num_prototypes, config.freeze_prototypes_steps)
        self.queue = None
        if config.queue_size:
            self.queue = RollingQueue(config.num_assigning_views, config.queue_size, dim)

    def check_views(self, embeds: dict[str, torch.Tensor], sample_ids: torch.Tensor | None = None) -> None:
        """Refuse too few views to assign and to predict from, and ids.

        Args:
            embeds (`dict`): what `embed_views` returns.
            sample_ids (`torch.LongTensor`, *optional*): as given.

        Raises:
            ValueError: says what to give.
        """
        super().check_views(embeds, sample_ids)
        views, assigning = embeds["projections"].shape[1], self.config.num_assigning_views
        if views < assigning:
            raise ValueError(
                f"`pixel_values` holds {views} views of each image, but num_assigning_views is {assigning}; use a view "
                f"transform with num_views={assigning} or more."
            )

    def loss_terms(self, embeds: dict[str, torch.Tensor], sample_ids: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """Swapped prediction; the features of the assigning views wait for the end of the optimiser step to enter the queue."""
        config = self.config
        projections = embeds["projections"]
        if "local_projections" in embeds:
            projections = torch.cat([projections, embeds["local_projections"]], 1)
        features = nn.functional.normalize(projections.to(accumulation_dtype(projections.dtype)), dim=-1).transpose(
            0, 1
        )
        scores = self.prototypes(features)
        assigning = features[: config.num_assigning_views].detach()
        past = self._past_scores()
        codes = [
            sinkhorn(
                scores[view].detach(),
                config.epsilon,
                config.sinkhorn_iterations,
                earlier=None if past is None else past[view],
                gather=True,
            )
            for view in range(len(assigning))
        ]
        if self.training and self.queue is not None and int(self.prototypes.num_steps) >= config.queue_start_steps:
            self.queue.stage(assigning)
        return {"loss": swapped_prediction(scores, torch.stack(codes), config.temperature)}

    @torch.no_grad()
    def _past_scores(self) -> torch.Tensor | None:
        """Scores `[num_assigning_views, queue_size, num_prototypes]` of the queue by the present prototypes, once it is full."""
        if self.queue is None or not self.queue.is_full:
            return None
        self.queue.synchronise()
        return self.prototypes(self.queue.features)

    def count_negatives(self, rows: int, views: int) -> int:
        """None: rows meet each other in the assignment only."""
        return 0

    def chance_loss(self, rows: int, views: int) -> float | None:
        """The logarithm of the number of prototypes."""
        return math.log(self.config.num_prototypes)


__all__ = ["SwAVForPreTraining", "SwAVModel"]
