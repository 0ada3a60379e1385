"""How MOFI prepares images: resized without smoothing, the central square."""

# no postponed annotations: transformers reads the types of the keyword arguments at run time
from typing import Any

import torchvision.transforms.v2.functional as F
from torch import Tensor
from transformers import CLIPImageProcessor
from transformers.image_utils import PILImageResampling, SizeDict
from transformers.processing_utils import ImagesKwargs, Unpack


class MofiImageProcessorKwargs(ImagesKwargs, total=False):
    """
    antialias (`bool`, *optional*):
        Smooth before an image is made smaller; the published evaluation does not.
    """

    antialias: bool


class MofiImageProcessor(CLIPImageProcessor):
    """The published preprocessing of MOFI (https://arxiv.org/abs/2306.07952): numbers from 0 to 1, the shorter side resized to 224
    (bilinear, *without* antialias), the central 224 x 224, mean and standard deviation of CLIP.

    A large picture made small without antialias looks rougher than usual; that is part of the published numbers. `AutoImageProcessor`
    opens what it saves.

    Args:
        antialias (`bool`, defaults to `False`): smooth before an image is made smaller, as other processors do.
        **kwargs: as `transformers.CLIPImageProcessor`, for example `size={"shortest_edge": 64}` and
            `crop_size={"height": 64, "width": 64}`; [`~MofiImageProcessor.of_size`] sets both.

    Example:

    ```python
    >>> from PIL import Image
    >>> from hf_contrastive import MofiImageProcessor
    >>> processor = MofiImageProcessor()
    >>> processor(images=[Image.new("RGB", (300, 250))], return_tensors="pt")["pixel_values"].shape
    torch.Size([1, 3, 224, 224])

    ```
    """

    valid_kwargs = MofiImageProcessorKwargs
    resample = PILImageResampling.BILINEAR
    antialias = False

    def __init__(self, **kwargs: Unpack[MofiImageProcessorKwargs]) -> None:
        super().__init__(**kwargs)

    @classmethod
    def of_size(cls, size: int = 224, **kwargs: Any) -> "MofiImageProcessor":
        """The same for squares of another size.

        Args:
            size (`int`, defaults to 224): side in pixels.
            **kwargs: as of the class.
        """
        return cls(size={"shortest_edge": size}, crop_size={"height": size, "width": size}, **kwargs)

    def _preprocess(
        self,
        images: list[Tensor],
        do_resize: bool,
        size: SizeDict,
        resample: Any,
        *args: Any,
        antialias: bool = False,
        **kwargs: Any,
    ) -> Any:
        if do_resize:
            # of whole numbers every pixel would be rounded
            images = [
                self.resize(image if image.is_floating_point() else image.float(), size, resample, antialias=antialias)
                for image in images
            ]
        return super()._preprocess(images, False, size, resample, *args, **kwargs)

    def center_crop(self, image: Tensor, size: SizeDict, **kwargs: Any) -> Tensor:
        """The central part; where it cannot be exactly central, as torchvision rounds (the published code uses that)."""
        return F.center_crop(image, [size.height or 0, size.width or 0])


__all__ = ["MofiImageProcessor"]
