"""BYOL: the online network predicts what a slowly moving target network makes of the other view."""

from __future__ import annotations

import torch

from hf_contrastive.families.siamese.modeling_prediction import PredictsViews
from hf_contrastive.families.siamese.modeling_siamese import SiameseForPreTraining, SiameseModel
from hf_contrastive.losses import byol_loss
from hf_contrastive.models.byol.configuration_byol import BYOLConfig
from hf_contrastive.modules.momentum_encoder import MomentumEncoder
from hf_contrastive.modules.projection_head import ProjectionHead


class BYOLModel(SiameseModel):
    """BYOL's online backbone and projection head for inference; `encode` gives the features.

    Args:
        config ([`BYOLConfig`]): backbone and head.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive import BYOLConfig, BYOLModel, ConvEncoderConfig
    >>> model = BYOLModel(BYOLConfig(backbone_config=ConvEncoderConfig(channels=[8, 16]), projection_dims=[16, 8]))
    >>> model.encode(torch.rand(2, 3, 32, 32), readout="projection").shape
    torch.Size([2, 8])

    ```
    """

    config: BYOLConfig


class BYOLForPreTraining(PredictsViews, SiameseForPreTraining):
    """BYOL with its objective (https://arxiv.org/abs/2006.07733, equation 2), in both directions; with more than two views
    every view predicts every other one.

    Call `after_optimizer_step()` in a loop of your own: it moves the target network.

    Args:
        config ([`BYOLConfig`]): backbone, head, predictor and momentum.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive import BYOLConfig, BYOLForPreTraining, ConvEncoderConfig
    >>> backbone = ConvEncoderConfig(channels=[8, 16])
    >>> model = BYOLForPreTraining(BYOLConfig(backbone_config=backbone, projection_dims=[16, 8], predictor_hidden_dim=16))
    >>> outputs = model(torch.rand(4, 2, 3, 32, 32))
    >>> outputs.loss.backward()
    >>> model.after_optimizer_step()
    >>> outputs.predictions.shape, outputs.target_projections.requires_grad
    (torch.Size([4, 2, 8]), False)

    ```
    """

    config: BYOLConfig
    objective_formula = (
        "BYOL: 2 - 2 cosine of the prediction of one view and the target's projection of the other, both ways"
    )

    def build_training_parts(self) -> None:
        """The predictor and the target network."""
        dim = (self.config.projection_dims or [0])[-1]
        self.predictor = ProjectionHead(
            dim, [self.config.predictor_hidden_dim, dim], batch_norm=self.config.projection_batch_norm
        )
        parts = {"backbone": self.backbone, "projection_head": self.projection_head}
        self.momentum_encoder = MomentumEncoder(parts, self.config.encoder_momentum, self.config.momentum_schedule)

    def loss_terms(self, embeds: dict[str, torch.Tensor], sample_ids: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """The regression of the normalised targets."""
        return {"loss": byol_loss(embeds["predictions"], embeds["target_projections"])}


__all__ = ["BYOLForPreTraining", "BYOLModel"]
