"""DirectPred: a linear predictor that is set from the correlation of its inputs, without negatives and without training it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hf_contrastive.families.siamese.modeling_prediction import PredictsViews
from hf_contrastive.families.siamese.modeling_siamese import SiameseForPreTraining, SiameseModel
from hf_contrastive.losses import byol_loss
from hf_contrastive.models.directpred.configuration_directpred import DirectPredConfig
from hf_contrastive.modules.direct_predictor import (
    PeriodicallySetPredictor,
    RunningCorrelation,
    SetPredictor,
    SymmetricPredictor,
)
from hf_contrastive.modules.momentum_encoder import MomentumEncoder
from hf_contrastive.modules.projection_head import ProjectionHead


class DirectPredModel(SiameseModel):
    """DirectPred's online backbone and projection head for inference; `encode` gives the features.

    Args:
        config ([`DirectPredConfig`]): backbone and head.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive import ConvEncoderConfig, DirectPredConfig, DirectPredModel
    >>> backbone = ConvEncoderConfig(channels=[8, 16])
    >>> model = DirectPredModel(DirectPredConfig(backbone_config=backbone, projection_dims=[16, 8]))
    >>> model.encode(torch.rand(2, 3, 32, 32), readout="projection").shape
    torch.Size([2, 8])

    ```
    """

    config: DirectPredConfig


class DirectPredForPreTraining(PredictsViews, SiameseForPreTraining):
    """DirectPred with its objective (https://arxiv.org/abs/2102.06810): BYOL's loss without its constant, from -4 to 4.

    After every optimiser step `after_optimizer_step()` (call it in a loop of your own) updates the running correlation of
    the projections, sets the predictor from it (section 4 of the paper), and moves the target network, in this order; the
    first step is made with a random predictor. With `freq=1` the predictor is a buffer: it has no gradient, no optimiser
    state, and is not clipped.

    Args:
        config ([`DirectPredConfig`]): backbone, head, predictor and momentum.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive import ConvEncoderConfig, DirectPredConfig, DirectPredForPreTraining
    >>> backbone = ConvEncoderConfig(channels=[8, 16])
    >>> model = DirectPredForPreTraining(DirectPredConfig(backbone_config=backbone, projection_dims=[16, 8]))
    >>> model(torch.rand(4, 2, 3, 32, 32)).loss.backward()
    >>> model.after_optimizer_step()
    >>> weight = model.predictor.weight
    >>> torch.allclose(weight, weight.T, atol=1e-5), round(torch.linalg.eigvalsh(weight)[-1].item(), 4)
    (True, 1.01)

    ```
    """

    config: DirectPredConfig
    objective_formula = (
        "DirectPred ({predictor_mode}): - 2 cosine of the prediction of one view and the target's projection of the other, "
        "both ways"
    )

    def build_training_parts(self) -> None:
        """Running correlation, predictor and target network; in this order they follow an optimiser step."""
        config = self.config
        dim = (config.projection_dims or [0])[-1]
        if config.sets_predictor:
            self.running_correlation = RunningCorrelation(dim, config.rho)
        self.predictor = self._make_predictor(dim)
        copied = config.target_init == "copy"
        # a copied backbone counts as initialised already, so that it would keep the online network's weights
        parts = {"backbone": self.backbone if copied else self.new_backbone(), "projection_head": self.projection_head}
        self.momentum_encoder = MomentumEncoder(
            parts, config.encoder_momentum, config.momentum_schedule, start_as_copy=copied
        )

    def _make_predictor(self, dim: int) -> nn.Module | None:
        config = self.config
        if config.predictor_mode == "none":
            return None
        if config.predictor_mode == "linear":
            return nn.Linear(dim, dim, bias=False)
        if config.predictor_mode == "symmetric":
            return SymmetricPredictor(dim)
        if config.predictor_mode == "mlp":
            return ProjectionHead(
                dim,
                [config.predictor_hidden_dim, dim],
                batch_norm=config.projection_batch_norm,
                hidden_affine=config.projection_hidden_affine,
                hidden_bias=config.projection_hidden_bias,
            )
        options: dict[str, Any] = {
            "zero_mean": config.zero_mean,
            "copy": config.predictor_mode == "direct_copy",
            "eps": config.eps,
        }
        if config.predictor_mode != "direct_copy":
            power = 2.0 if config.predictor_mode == "direct_pred" else 1.0
            options |= {
                "power": power if config.power is None else config.power,
                "eps_inside": config.eps_inside,
                "balance_type": config.balance_type,
                "reg": config.reg,
                "diagonal_only": config.diagonal_only,
            }
        if config.freq == 1:
            return SetPredictor(dim, **options)
        return PeriodicallySetPredictor(dim, config.freq, **options)

    def loss_terms(self, embeds: dict[str, torch.Tensor], sample_ids: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """The regression of the targets; the predictor's inputs wait for the end of the optimiser step to be counted."""
        if self.training and self.config.sets_predictor:
            self.running_correlation.stage(embeds["projections"].flatten(0, 1))
        loss = byol_loss(
            embeds["predictions"],
            embeds["target_projections"],
            normalize=self.config.use_l2_normalization,
            constant=False,
        )
        return {"loss": loss}


__all__ = ["DirectPredForPreTraining", "DirectPredModel"]
