"""Image processors of transformers as deterministic transforms, so that training, evaluation and users see one thing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from hf_contrastive.data.images import images_to_arrays


def image_processor(size: int, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> Any:
    """The image processor to save with a checkpoint: shorter side resized, central square, normalised.

    It is one of transformers' own (`CLIPImageProcessor`), so that `AutoImageProcessor` loads it without this package.

    Args:
        size (`int`): side of the images in pixels.
        mean (`Sequence[float]`, *optional*): per channel, subtracted from pixels in 0..1.
        std (`Sequence[float]`, *optional*): per channel, divided by.

    Returns:
        `transformers.CLIPImageProcessor`.

    Example:

    ```python
    >>> from hf_contrastive.data import image_processor
    >>> image_processor(32).crop_size["height"]
    32

    ```
    """
    from PIL.Image import Resampling
    from transformers import CLIPImageProcessor

    normalize = mean is not None or std is not None
    return CLIPImageProcessor(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        resample=Resampling.BILINEAR,
        do_normalize=normalize,
        image_mean=list(mean) if mean is not None else [0.0] * 3,
        image_std=list(std) if std is not None else [1.0] * 3,
    )


class ProcessorTransform:
    """An image processor as a transform for [`EvalCollator`]: images of any kind in, `pixel_values` out.

    Args:
        processor: an image processor of transformers, as a checkpoint's `preprocessor_config.json` describes it.
        channels (`int`, defaults to 3): 1 or 3; images are converted first.

    Example:

    ```python
    >>> from PIL import Image
    >>> from hf_contrastive.data import ProcessorTransform, image_processor
    >>> ProcessorTransform(image_processor(16))([Image.new("L", (20, 24))]).shape
    torch.Size([1, 3, 16, 16])

    ```
    """

    def __init__(self, processor: Any, channels: int = 3) -> None:
        self.processor = processor
        self.channels = channels

    def __call__(self, images: Sequence[Any], rows: Any = None) -> torch.Tensor:
        """Transforms a batch; returns `torch.FloatTensor` `[batch, channels, height, width]`."""
        arrays = images_to_arrays(images, self.channels, rows)
        # processors rescale by 1/255 whatever the type is
        arrays = [array if array.dtype == np.uint8 else np.rint(array * 255).astype(np.uint8) for array in arrays]
        batch = self.processor(images=arrays, input_data_format="channels_last", return_tensors="pt")
        return batch["pixel_values"].float()
