"""SimSiam: one network predicts its own output for the other view, whose gradient is stopped."""

from __future__ import annotations

import torch

from hf_contrastive.families.siamese.modeling_prediction import PredictsViews
from hf_contrastive.families.siamese.modeling_siamese import SiameseForPreTraining, SiameseModel
from hf_contrastive.losses import simsiam_loss
from hf_contrastive.models.simsiam.configuration_simsiam import SimSiamConfig
from hf_contrastive.modules.projection_head import ProjectionHead


class SimSiamModel(SiameseModel):
    """SimSiam's backbone and projection head for inference; `encode` gives the features.

    Args:
        config ([`SimSiamConfig`]): backbone and head.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive import ConvEncoderConfig, SimSiamConfig, SimSiamModel
    >>> backbone = ConvEncoderConfig(channels=[8, 16])
    >>> model = SimSiamModel(SimSiamConfig(backbone_config=backbone, projection_dims=[16, 16, 8]))
    >>> model.encode(torch.rand(2, 3, 32, 32), readout="projection").shape
    torch.Size([2, 8])

    ```
    """

    config: SimSiamConfig


class SimSiamForPreTraining(PredictsViews, SiameseForPreTraining):
    """SimSiam with its objective (https://arxiv.org/abs/2011.10566, equations 1 to 4); with more than two views every view
    predicts every other one.

    Args:
        config ([`SimSiamConfig`]): backbone, head and predictor.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive import ConvEncoderConfig, SimSiamConfig, SimSiamForPreTraining
    >>> backbone = ConvEncoderConfig(channels=[8, 16])
    >>> config = SimSiamConfig(backbone_config=backbone, projection_dims=[16, 16, 8], predictor_hidden_dim=4)
    >>> outputs = SimSiamForPreTraining(config)(torch.rand(4, 2, 3, 32, 32))
    >>> outputs.loss.backward()
    >>> outputs.predictions.shape, -1 <= outputs.loss.item() <= 1
    (torch.Size([4, 2, 8]), True)

    ```
    """

    config: SimSiamConfig
    objective_formula = (
        "SimSiam: - cosine of the prediction of one view and the projection of the other (stop-gradient), both ways"
    )

    def build_training_parts(self) -> None:
        """The predictor."""
        dim = (self.config.projection_dims or [0])[-1]
        self.predictor = ProjectionHead(
            dim, [self.config.predictor_hidden_dim, dim], batch_norm=self.config.projection_batch_norm
        )

    def loss_terms(self, embeds: dict[str, torch.Tensor], sample_ids: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """The negative cosine; no gradient through the projections that are predicted."""
        return {"loss": simsiam_loss(embeds["predictions"], embeds["projections"])}


__all__ = ["SimSiamForPreTraining", "SimSiamModel"]
