"""Small local crops beside the global views of each image (multi-crop of SwAV, https://arxiv.org/abs/2006.09882)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from hf_contrastive.modules.momentum_encoder import MomentumEncoder
from hf_contrastive.outputs import ViewsOutput


if TYPE_CHECKING:
    from hf_contrastive.families.siamese.modeling_siamese import SiameseForPreTraining as _Base
else:
    _Base = object


class MultiCropMixin(_Base):
    """Gives a `SiameseForPreTraining` class a second input, `local_pixel_values`; stands before it among the bases.

    Views of one resolution go through the network together, each resolution on its own.
    """

    view_inputs = ("pixel_values", "local_pixel_values")

    def embed_local_crops(
        self, local_pixel_values: torch.Tensor, slow: MomentumEncoder | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features and projections of the local crops.

        Args:
            local_pixel_values (`torch.FloatTensor` `[batch, crops, channels, height, width]`): the crops.
            slow ([`MomentumEncoder`], *optional*): embed with its parts.

        Returns:
            `(embeds [batch, crops, dim], projections [batch, crops, projection_dim])`.

        Raises:
            ValueError: a wrong shape or number of channels.
        """
        self._check(local_pixel_values, "[batch, crops, channels, height, width]", 5, name="local_pixel_values")
        if slow is None:
            return self.embed_images(local_pixel_values, _of_any_size(self.backbone))
        return self.embed_images(local_pixel_values, _of_any_size(slow.part("backbone")), slow.part("projection_head"))

    def forward(
        self,
        pixel_values: torch.Tensor | Sequence[torch.Tensor],
        local_pixel_values: torch.Tensor | None = None,
        sample_ids: torch.Tensor | None = None,
        return_loss: bool = True,
    ) -> ViewsOutput:
        """Embed views and compare them.

        Args:
            pixel_values (`torch.FloatTensor` `[batch, views, channels, height, width]`, or a sequence of one tensor
                `[batch, channels, height, width]` per view): the global views.
            local_pixel_values (`torch.FloatTensor` `[batch, crops, channels, height', width']`, *optional*): small crops
                of the same images.
            sample_ids (`torch.LongTensor` `[batch]`, *optional*): rows with the same id are never negatives of each
                other (exact false-negative mask); refused by objectives without negatives.
            return_loss (`bool`, defaults to `True`): compute the loss.

        Returns:
            The system's output with `loss`, `embeds` and `projections` (of the global views).

        Raises:
            ValueError: a wrong shape, or too few views.
        """
        if not isinstance(pixel_values, torch.Tensor):
            pixel_values = torch.stack(list(pixel_values), dim=1)
        embeds = self.embed_views(pixel_values, local_pixel_values)
        return self.compute_objective(embeds, sample_ids, return_loss)

    def embed_views(
        self, pixel_values: torch.Tensor, local_pixel_values: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Features and projections of every view.

        Args:
            pixel_values (`torch.FloatTensor` `[batch, views, channels, height, width]`): the global views.
            local_pixel_values (`torch.FloatTensor` `[batch, crops, channels, height', width']`, *optional*): small crops.

        Returns:
            `{"projections": [batch, views, projection_dim], "embeds": [batch, views, dim]}`, with crops also
            `"local_projections"` `[batch, crops, projection_dim]`.
        """
        self._check(pixel_values, "[batch, views, channels, height, width]", 5)
        embeds, projections = self.embed_images(pixel_values)
        found = {"projections": projections, "embeds": embeds}
        if local_pixel_values is not None:
            found["local_projections"] = self.embed_local_crops(local_pixel_values)[1]
        return found


def _of_any_size(backbone: Any) -> Callable[..., Any]:
    """Transformers with learned positions take images of another size only when asked to interpolate these."""
    if "interpolate_pos_encoding" in inspect.signature(backbone.forward).parameters:
        return partial(backbone, interpolate_pos_encoding=True)
    return backbone


__all__ = ["MultiCropMixin"]
