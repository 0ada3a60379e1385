"""Small local crops of each image beside its global views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hf_contrastive.data.images import images_to_arrays
from hf_contrastive.data.views import SimCLRViews


# far above any number of views, so that local crops never share their draws with a global view
_FIRST_LOCAL = 1 << 16


class MultiCropViews:
    """Global views as [`SimCLRViews`] makes them, and local crops: smaller, and of a smaller part of the image.

    Multi-crop of SwAV (https://arxiv.org/abs/2006.09882, section 3.3): global views cover 14 to 100 % of the image, local
    crops 5 to 14 %. Crops of a few pixels cost little, so an image is seen in more ways for the same work. Local crops get
    the same augmentations as the views. The draws of the global views are those without local crops.

    Args:
        views ([`SimCLRViews`]): the global views.
        num_local_views (`int`): local crops of each image.
        local_size (`int`): their side in pixels.
        local_crop_scale (`tuple[float, float]`): share of the image's area that a local crop covers.

    Raises:
        ValueError: names the argument, its value and what is allowed.

    Example:

    ```python
    >>> from PIL import Image
    >>> from hf_contrastive.data import MultiCropViews, SimCLRViews
    >>> views = MultiCropViews(SimCLRViews(size=32), num_local_views=6, local_size=12)
    >>> made = views([Image.new("RGB", (32, 24))], indices=[0], epoch=0)
    >>> tuple(made["pixel_values"].shape), tuple(made["local_pixel_values"].shape)
    ((1, 2, 3, 32, 32), (1, 6, 3, 12, 12))

    ```
    """

    def __init__(
        self,
        views: SimCLRViews,
        num_local_views: int = 6,
        local_size: int = 96,
        local_crop_scale: Sequence[float] = (0.05, 0.14),
    ) -> None:
        for name, value in (("num_local_views", num_local_views), ("local_size", local_size)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        try:
            self.local = SimCLRViews.from_dict(
                {
                    **views.to_dict(),
                    "size": local_size,
                    "num_views": num_local_views,
                    "crop_scale": local_crop_scale,
                    "first_view": _FIRST_LOCAL,
                }
            )
        except ValueError as error:
            raise ValueError(str(error).replace("crop_scale", "local_crop_scale")) from None
        if not views.crop:
            raise ValueError(
                "local crops are parts of the image, but the views are made with crop=False; set crop=True"
            )
        self.views = views
        # what recipes and cards read of a set of views is that of the global ones
        self.size, self.mean, self.std, self.channels = views.size, views.mean, views.std, views.channels
        self.num_views, self.seed = views.num_views, views.seed

    @property
    def full_views(self) -> float:
        """Global views that have as many pixels as all views and crops of an image together."""
        return self.num_views + self.local.num_views * (self.local.size / self.size) ** 2

    def to_dict(self) -> dict[str, Any]:
        """All arguments, ready for JSON."""
        return {
            "views": self.views.to_dict(),
            "num_local_views": self.local.num_views,
            "local_size": self.local.size,
            "local_crop_scale": list(self.local.crop_scale),
        }

    def describe(self) -> str:
        """One line for the report at the start of a run."""
        low, high = self.local.crop_scale
        return (
            f"{self.views.describe()}; {self.local.num_views} local crops of {self.channels}x{self.local.size}x"
            f"{self.local.size}: {low:g}-{high:g} of the area"
        )

    def __repr__(self) -> str:
        return f"MultiCropViews({self.describe()})"

    def __call__(self, images: Any, indices: Any, epoch: int = 0) -> dict[str, Tensor]:
        """Makes views and crops.

        Args:
            images (sequence of length B), indices (sequence of `int`, length B), epoch (`int`): as [`SimCLRViews`].

        Returns:
            `dict[str, Tensor]`: `pixel_values` [B, V, C, size, size] and `local_pixel_values` [B, crops, C, local_size,
            local_size], float32.
        """
        # read once for both
        numbers = [int(index) for index in indices]
        arrays = images_to_arrays(images, self.channels, numbers) if len(images) == len(numbers) else images
        with torch.no_grad():
            return {
                "pixel_values": self.views(arrays, numbers, epoch),
                "local_pixel_values": self.local(arrays, numbers, epoch),
            }


__all__ = ["MultiCropViews"]
