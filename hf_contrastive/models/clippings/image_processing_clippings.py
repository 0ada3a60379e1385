"""How CLIPPINGS prepares images: crops of names padded to near squares, or newspaper photos cut to their middle."""

# no postponed annotations: transformers reads the types of the keyword arguments at run time
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import CLIPImageProcessor
from transformers.image_utils import PILImageResampling
from transformers.processing_utils import ImagesKwargs, Unpack


#: what the padding is filled with
FILLS = ("white", "median")
# pixels that are added in all beside what makes a square: left and right, top and bottom
_EXTRA = (10, 5)


def pad_widths(width: int, height: int) -> tuple[int, int]:
    """Pixels that [`median_pad`] adds on the left and on the right, and above and below.

    Args:
        width, height (`int`): of the image.

    Example:

    ```python
    >>> from hf_contrastive.models.clippings.image_processing_clippings import pad_widths
    >>> pad_widths(60, 20)
    (5, 22)

    ```
    """
    longest = max(width, height)
    # Python rounds halves to even numbers, and so does the official code
    return round((_EXTRA[0] + longest - width) / 2), round((_EXTRA[1] + longest - height) / 2)


def median_pad(image: Any, fill: str = "white") -> Any:
    """Pads an image to a near square: left and right by round((10 + gap) / 2) each, above and below by round((5 + gap) / 2), where
    gap is what that side lacks of the longest one (`MedianPad` of the official code of CLIPPINGS, https://arxiv.org/abs/2304.03464).

    A long, thin crop of a name keeps its shape when it is then resized to a square.

    Args:
        image (`PIL.Image.Image`, or 8-bit `ndarray` `[height, width]` or `[height, width, channels]`): the image. Pictures of other
            modes than L and RGB become RGB first.
        fill (`str`, defaults to `"white"`): `"white"`, or `"median"`: of every channel the median of the pixels on the border
            (corners count twice), cut to a whole number.

    Returns:
        The same kind as `image`.

    Raises:
        ValueError: another fill, another shape, pixels that are not of 8 bits.

    Example:

    ```python
    >>> import numpy as np
    >>> from hf_contrastive.models.clippings.image_processing_clippings import median_pad
    >>> median_pad(np.zeros((20, 60, 3), np.uint8)).shape
    (64, 70, 3)

    ```
    """
    if isinstance(image, Image.Image):
        if image.mode not in ("L", "RGB"):
            image = image.convert("RGB")
        return Image.fromarray(median_pad(np.asarray(image), fill))
    if fill not in FILLS:
        raise ValueError(f"`fill` is {fill!r}, expected one of {', '.join(FILLS)}.")
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or 0 in image.shape:
        raise ValueError(
            f"`image` has shape {image.shape} and type {image.dtype}, expected [height, width] or [height, width, channels] of uint8."
        )
    height, width = image.shape[:2]
    x, y = pad_widths(width, height)
    value: Any = 255
    if fill == "median":
        border = np.concatenate([image[:, -1], image[:, 0], image[0], image[-1]])
        value = np.median(border, axis=0).astype(np.uint8)
    padded = np.empty((height + 2 * y, width + 2 * x, *image.shape[2:]), dtype=np.uint8)
    padded[:] = value
    padded[y : y + height, x : x + width] = image
    return padded


class ClippingsImageProcessorKwargs(ImagesKwargs, total=False):
    """
    border (`str`, *optional*):
        `"white"` or `"median"`: pad to a near square first, filled with that; see `median_pad`.
    """

    border: str | None


class ClippingsImageProcessor(CLIPImageProcessor):
    """CLIP's image processor with a padding to near squares before it.

    `AutoImageProcessor` opens what it saves. [`~ClippingsImageProcessor.firms`] and [`~ClippingsImageProcessor.newspapers`] are the
    two published preparations.

    Args:
        border (`str`, *optional*): `"white"` or `"median"`: pad with that first, see [`median_pad`]; none does not pad.
        **kwargs: as `transformers.CLIPImageProcessor`.

    Example:

    ```python
    >>> from PIL import Image
    >>> from hf_contrastive import ClippingsImageProcessor
    >>> processor = ClippingsImageProcessor.firms(64)
    >>> processor(images=[Image.new("L", (192, 32))], return_tensors="pt")["pixel_values"].shape
    torch.Size([1, 3, 64, 64])

    ```
    """

    valid_kwargs = ClippingsImageProcessorKwargs
    border = None

    def __init__(self, **kwargs: Unpack[ClippingsImageProcessorKwargs]) -> None:
        super().__init__(**kwargs)
        if self.border not in (None, *FILLS):
            raise ValueError(
                f"`border` is {self.border!r}, expected one of {', '.join(FILLS)}, or None to leave it out."
            )

    @classmethod
    def firms(cls, size: int = 224, border: str | None = "white", **kwargs: Any) -> "ClippingsImageProcessor":
        """For crops of names (the Japanese firms): padded to a near square, then resized to a square (bilinear); nothing is cut off.

        Args:
            size (`int`, defaults to 224): side in pixels.
            border (`str`, *optional*, defaults to `"white"`): what the padding is filled with.
            **kwargs: as of the class, for example `image_mean`.
        """
        square = {"height": size, "width": size}
        options = {"resample": PILImageResampling.BILINEAR, **kwargs}
        return cls(border=border, size=square, do_center_crop=False, crop_size=square, **options)

    @classmethod
    def newspapers(cls, size: int = 224, **kwargs: Any) -> "ClippingsImageProcessor":
        """For photos of newspapers: the shorter side resized (bilinear), the central square.

        Args:
            size (`int`, defaults to 224): side in pixels.
            **kwargs: as of the class, for example `image_mean`.
        """
        options = {"resample": PILImageResampling.BILINEAR, **kwargs}
        return cls(size={"shortest_edge": size}, crop_size={"height": size, "width": size}, **options)

    def _preprocess(self, images: list[Tensor], *args: Any, border: str | None = None, **kwargs: Any) -> Any:
        if border is not None:
            images = [_pad_tensor(image, border) for image in images]
        return super()._preprocess(images, *args, **kwargs)


def _pad_tensor(image: Tensor, fill: str) -> Tensor:
    """[`median_pad`] of `[channels, height, width]`."""
    if image.dtype != torch.uint8:
        raise ValueError(
            f"images of type {image.dtype} cannot be padded, since their white is not known; pass 8-bit images, or border=None."
        )
    padded = median_pad(image.permute(1, 2, 0).cpu().numpy(), fill)
    return torch.from_numpy(padded).permute(2, 0, 1).contiguous().to(image.device)


__all__ = ["FILLS", "ClippingsImageProcessor", "median_pad", "pad_widths"]
