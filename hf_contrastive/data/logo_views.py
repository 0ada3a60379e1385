"""Pictures of logos as they are seen in scenes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from hf_contrastive.data.images import decode_image, images_to_arrays, unreadable_name
from hf_contrastive.data.random_numbers import stateless_uniform
from hf_contrastive.data.schema import integer_column
from hf_contrastive.data.views import SimCLRViews


# numbers of these draws, beside those of the views
_GROUND_VIEW, _SCENE_VIEW = 1 << 22, 1 << 23
_WHITE = (255, 255, 255)


def square(array: np.ndarray, ground: Sequence[float] = _WHITE) -> np.ndarray:
    """The picture in the middle of a square: extreme shapes are padded, never stretched.

    Args:
        array (8-bit `np.ndarray` `[height, width, channels]`): the picture.
        ground (`Sequence[float]`, defaults to white): colour of the padding, one number per channel.

    Returns:
        `np.ndarray` `[side, side, channels]`, or `array` itself where it is a square.

    Example:

    ```python
    >>> import numpy as np
    >>> from hf_contrastive.data.logo_views import square
    >>> square(np.zeros((2, 5, 3), np.uint8)).shape
    (5, 5, 3)

    ```
    """
    height, width, channels = array.shape
    if height == width:
        return array
    side = max(height, width)
    made = np.empty((side, side, channels), dtype=array.dtype)
    made[:] = np.asarray(ground[:channels], dtype=array.dtype)
    top, left = (side - height) // 2, (side - width) // 2
    made[top : top + height, left : left + width] = array
    return made


class LogoViews:
    """One random view of every logo (chosen here for https://arxiv.org/abs/2211.12926): padded to a square, changed as
    [`SimCLRViews.logos`] says. A transparent drawing is laid over a colour that is drawn anew each time.

    The draws have no state: they depend on `seed`, the epoch, the row and how often the row has come in its batch.

    Args:
        views ([`SimCLRViews`]): the changes; of one view.
        random_ground (`bool`, defaults to `True`): `False` lays transparent drawings over white.

    Raises:
        ValueError: more than one view.

    Example:

    ```python
    >>> from PIL import Image
    >>> from hf_contrastive.data import LogoViews, SimCLRViews
    >>> views = LogoViews(SimCLRViews.logos(16, num_views=1))
    >>> views([Image.new("RGBA", (32, 8)), Image.new("L", (9, 20))], [0, 1], epoch=0).shape
    torch.Size([2, 1, 3, 16, 16])

    ```
    """

    def __init__(self, views: SimCLRViews, random_ground: bool = True) -> None:
        if views.num_views != 1:
            raise ValueError(f"views must make one view of an image, got num_views={views.num_views}")
        self.views, self.random_ground = views, random_ground

    def __call__(
        self, images: Sequence[Any], indices: Any, epoch: int, occurrences: np.ndarray | None = None
    ) -> Tensor:
        """One view of every logo.

        Args:
            images: of any kind that [`image_to_array`] takes, any sizes.
            indices (`[B]` integers): row of each image.
            epoch (`int`): number of the epoch.
            occurrences (`np.ndarray` `[B]`, *optional*): how often the row has come before in this batch.

        Returns:
            `torch.FloatTensor` `[B, 1, channels, size, size]`.
        """
        index = integer_column(indices, "indices")
        again = np.zeros(len(index), dtype=np.int64) if occurrences is None else occurrences
        colours = stateless_uniform(self.views.seed, epoch, index, _GROUND_VIEW + again, 3)
        grounds = (256 * colours).astype(np.uint8).tolist()
        opened = []
        for image, row, ground in zip(images, index.tolist(), grounds, strict=True):
            try:
                picture = decode_image(image)
            except OSError as error:
                raise ValueError(f"{unreadable_name(row, image)}: {error}") from error
            opened.append(self._square(picture, row, tuple(ground)))
        return self.views(opened, index, epoch, occurrences=again)

    def _square(self, picture: Any, row: int, ground: tuple[int, ...]) -> np.ndarray:
        transparent = isinstance(picture, Image.Image) and (
            picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info
        )
        if self.random_ground and transparent:
            drawn = picture.convert("RGBA")
            laid = Image.alpha_composite(Image.new("RGBA", drawn.size, (*ground, 255)), drawn)
            return square(np.asarray(laid.convert("RGB")), ground)
        (array,) = images_to_arrays([picture], self.views.channels, [row])
        return square(array, _WHITE if array.dtype == np.uint8 else (1.0,) * 3)

    def describe(self) -> str:
        """One line for reports."""
        ground = "transparent ones over random colours" if self.random_ground else "transparent ones over white"
        return f"squares ({ground}), {self.views.describe()}"


class SceneViews:
    """What a photo does to a logo after [`LogoViews`]: too few pixels, something in front of it, noise.

    Args:
        views ([`LogoViews`]): the changes that come first.
        shrink (`float`, defaults to 0.4): the view is reduced to this share of its side and enlarged again.
        cover (`float`, defaults to 0.4): side of a square of one colour that hides a part, as a share of the view's side.
        noise (`float`, defaults to 0.08): standard deviation of noise, for pixels in 0..1.

    Raises:
        ValueError: a number that makes no sense.

    Example:

    ```python
    >>> from PIL import Image
    >>> from hf_contrastive.data import LogoViews, SceneViews, SimCLRViews
    >>> views = SceneViews(LogoViews(SimCLRViews.logos(16, num_views=1)), cover=0.25)
    >>> views([Image.new("RGB", (32, 8))], [0], epoch=0).shape
    torch.Size([1, 1, 3, 16, 16])

    ```
    """

    def __init__(self, views: LogoViews, shrink: float = 0.4, cover: float = 0.4, noise: float = 0.08) -> None:
        for name, value, least in (("shrink", shrink, 1e-9), ("cover", cover, 0.0)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= 1:
                raise ValueError(f"{name} must be a share of the side, above 0 up to 1, got {value!r}")
        if isinstance(noise, bool) or not isinstance(noise, (int, float)) or noise < 0:
            raise ValueError(f"noise must be a number of at least 0, got {noise!r}")
        self.views, self.shrink, self.cover, self.noise = views, float(shrink), float(cover), float(noise)

    def __call__(
        self, images: Sequence[Any], indices: Any, epoch: int, occurrences: np.ndarray | None = None
    ) -> Tensor:
        """One view of every logo; arguments and result as of [`LogoViews`]."""
        index = integer_column(indices, "indices")
        again = np.zeros(len(index), dtype=np.int64) if occurrences is None else occurrences
        inner = self.views.views
        pixels = self.views(images, index, epoch, again)[:, 0]
        channels, side = pixels.shape[1], pixels.shape[2]
        # of normalised pixels: what is said for pixels in 0..1 is brought to their units
        mean, std = (
            torch.tensor(given if given is not None else (other,) * channels).view(-1, 1, 1)
            for given, other in ((inner.mean, 0.0), (inner.std, 1.0))
        )
        small = max(1, round(self.shrink * side))
        if small < side:
            pixels = F.interpolate(pixels, size=(small, small), mode="bilinear", antialias=True)
            pixels = F.interpolate(pixels, size=(side, side), mode="bilinear", align_corners=False)
        draws = stateless_uniform(inner.seed, epoch, index, _SCENE_VIEW + again, 6)
        hidden = round(self.cover * side)
        made = []
        for picture, draw in zip(pixels, draws, strict=True):
            if hidden:
                top, left = (int(value * (side - hidden + 1)) for value in draw[:2])
                colour = torch.from_numpy(draw[2:5][:channels]).float().view(-1, 1, 1)
                picture[:, top : top + hidden, left : left + hidden] = (colour - mean) / std
            if self.noise:
                generator = torch.Generator().manual_seed(int(draw[5] * 2**53))
                picture = picture + self.noise * torch.randn(picture.shape, generator=generator) / std
            made.append(picture)
        return torch.stack(made)[:, None]

    def describe(self) -> str:
        """One line for reports."""
        return f"{self.views.describe()}; shrunk to {self.shrink:.2g}, covered {self.cover:.2g}, noise {self.noise:g}"


__all__ = ["LogoViews", "SceneViews", "square"]
