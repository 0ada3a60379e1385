"""How pictures of logos are prepared: padded to squares, never stretched and never cut."""

# no postponed annotations: transformers reads the types of the keyword arguments at run time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPImageProcessor
from transformers.image_utils import PILImageResampling
from transformers.processing_utils import ImagesKwargs, Unpack


class LogoImageProcessorKwargs(ImagesKwargs, total=False):
    """
    square (`bool`, *optional*):
        Pad to a square with white first, the picture in the middle.
    """

    square: bool


class LogoImageProcessor(CLIPImageProcessor):
    """CLIP's image processor with a padding to white squares before it: a word mark keeps its shape, and nothing of it is cut off.

    Transparent pictures are laid over white. `AutoImageProcessor` opens what it saves; [`~LogoImageProcessor.of_size`] makes one.

    Args:
        square (`bool`, defaults to `True`): pad to a square with white first, the picture in the middle.
        **kwargs: as `transformers.CLIPImageProcessor`.

    Example:

    ```python
    >>> from PIL import Image
    >>> from hf_contrastive import LogoImageProcessor
    >>> processor = LogoImageProcessor.of_size(64)
    >>> processor(images=[Image.new("RGB", (192, 32))], return_tensors="pt")["pixel_values"].shape
    torch.Size([1, 3, 64, 64])

    ```
    """

    valid_kwargs = LogoImageProcessorKwargs
    square = True

    def __init__(self, **kwargs: Unpack[LogoImageProcessorKwargs]) -> None:
        super().__init__(**kwargs)

    @classmethod
    def of_size(cls, size: int = 224, **kwargs: Any) -> "LogoImageProcessor":
        """Padded to a square, resized to `size` x `size` (bilinear), normalised.

        Args:
            size (`int`, defaults to 224): side in pixels.
            **kwargs: as of the class, for example `image_mean`.
        """
        box = {"height": size, "width": size}
        options = {"resample": PILImageResampling.BILINEAR, **kwargs}
        return cls(size=box, do_center_crop=False, crop_size=box, **options)

    def _preprocess(self, images: list[Tensor], *args: Any, square: bool = True, **kwargs: Any) -> Any:
        if square:
            images = [_pad_to_square(image) for image in images]
        return super()._preprocess(images, *args, **kwargs)


def _pad_to_square(image: Tensor) -> Tensor:
    """`[channels, height, width]` in the middle of a white square."""
    height, width = image.shape[1:]
    if height == width:
        return image
    if image.dtype != torch.uint8:
        raise ValueError(
            f"images of type {image.dtype} cannot be padded, since their white is not known; pass 8-bit images, or square=False."
        )
    gap_y, gap_x = max(width - height, 0), max(height - width, 0)
    return F.pad(image, (gap_x // 2, gap_x - gap_x // 2, gap_y // 2, gap_y - gap_y // 2), value=255)


__all__ = ["LogoImageProcessor"]
