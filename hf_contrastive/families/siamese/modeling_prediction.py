"""Views that predict each other: what BYOL and its relatives add to the family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from hf_contrastive.outputs import ViewsOutput


@dataclass
class PredictionOutput(ViewsOutput):
    """Output of a system whose views predict each other.

    Args:
        loss (`torch.FloatTensor`, scalar): the objective; the mean over the samples of this process.
        embeds (`torch.FloatTensor` `[batch, views, dim]`): pooled backbone output of every view.
        projections (`torch.FloatTensor` `[batch, views, projection_dim]`): of the online network, the predictor's inputs.
        predictions (`torch.FloatTensor` `[batch, views, projection_dim]`): of the predictor.
        target_projections (`torch.FloatTensor` `[batch, views, projection_dim]`): of the target network for the same views,
            without gradient; absent where the online network is its own target.
    """

    predictions: torch.Tensor | None = None
    target_projections: torch.Tensor | None = None


class PredictsViews:
    """Mixin, before `SiameseForPreTraining`: every view goes through the network, the predictor and the target network on its
    own, so that batch-norm statistics are those of one view, and no sample is a negative of another.

    `build_training_parts` makes `predictor` (a module, or `None` for the identity) and, where the target is another
    network, `momentum_encoder`; `loss_terms` compares `predictions` with targets.
    """

    has_negatives: ClassVar[bool] = False
    joint_views: ClassVar[bool] = False
    output_class: type[ViewsOutput] = PredictionOutput
    predictor: nn.Module | None

    def embed_views(self: Any, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """Projections, predictions and targets of every view.

        Args:
            pixel_values (`torch.FloatTensor` `[batch, views, channels, height, width]`): the views.

        Returns:
            `{"projections", "predictions": [batch, views, projection_dim], "embeds": [batch, views, dim]}`, and with a target
            network `"target_projections"` `[batch, views, projection_dim]` without gradient.

        Raises:
            ValueError: a wrong shape, or one sample for batch norm.
        """
        self._check(pixel_values, "[batch, views, channels, height, width]", 5)
        self._check_rows(len(pixel_values))
        embeds, projections = self.embed_images(pixel_values)
        found = {"projections": projections, "embeds": embeds, "predictions": projections}
        if self.predictor is not None:
            found["predictions"] = torch.stack([self.predictor(view) for view in projections.unbind(1)], 1)
        if hasattr(self, "momentum_encoder"):
            found["target_projections"] = self.embed_with_momentum(pixel_values)[1]
        return found

    def _check_rows(self: Any, rows: int) -> None:
        if rows > 1 or not self.training:
            return
        norms = [n for n, m in self.named_modules() if isinstance(m, nn.BatchNorm1d) and m.training]
        if norms:
            raise ValueError(
                f"{type(self).__name__} got a batch of one sample, which batch norm ({norms[0]} and others) has no statistics "
                "for; training needs at least 2 samples per device. Set per_device_train_batch_size (and "
                "gradient_cache_chunk_size) to 2 or more, and drop an incomplete last batch."
            )


__all__ = ["PredictionOutput", "PredictsViews"]
