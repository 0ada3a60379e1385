"""Random views of images, drawn and computed for a whole batch at once, every view with its own parameters."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hf_contrastive.data.color import (
    adjust_brightness_,
    adjust_contrast_,
    adjust_hue_,
    adjust_saturation_,
    affine,
    blur_kernel_size,
    gaussian_blur,
    luma,
    perspective,
    solarize_,
)
from hf_contrastive.data.images import images_to_arrays
from hf_contrastive.data.random_numbers import stateless_uniform


IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)

# What each number of a view's row of random numbers is for. Fixed places: switching one step off or changing its
# strength leaves the draws of all others as they were. New steps go to the end.
_CROP_TRIES = 10
_CROP = 0  # 10 x area, then 10 x aspect ratio
_CROP_TOP, _CROP_LEFT = 20, 21
_FLIP = 22
_JITTER, _JITTER_ORDER, _JITTER_FACTORS = 23, 24, 25  # factors: 25 to 28
_GRAY = 29
_BLUR, _BLUR_SIGMA = 30, 31
_SOLARIZE = 32
_AFFINE, _AFFINE_FACTORS = 33, 34  # factors: angle, shift x, shift y, zoom, shear: 34 to 38
_PERSPECTIVE, _CORNERS = 39, 40  # two numbers for each corner: 40 to 47
_DRAWS = 48

#: to the right and down, clockwise from the top left
_INWARDS = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
_JITTER_REACH = (0.8, 0.8, 0.8, 0.2)
_JITTER_OPS = (adjust_brightness_, adjust_contrast_, adjust_saturation_, adjust_hue_)
_ORDERS = tuple(itertools.permutations(range(4)))

# floats worked on at a time: the steps run over the same few views while these lie in the cache
_CHUNK = 1 << 18


def _fraction(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must be a probability from 0 to 1, got {value!r}")
    return float(value)


def _not_negative(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value < math.inf:
        raise ValueError(f"{name} must be a number of at least 0, got {value!r}")
    return float(value)


def _range(name: str, value: Any, low: float, high: float) -> tuple[float, float]:
    pair = tuple(value) if isinstance(value, (list, tuple)) else ()
    if len(pair) != 2 or not all(isinstance(v, (int, float)) and math.isfinite(v) for v in pair):
        raise ValueError(f"{name} must be two numbers (low, high), got {value!r}")
    if not low < pair[0] <= pair[1] <= high:
        raise ValueError(f"{name} must satisfy {low:g} < low <= high <= {high:g}, got {value!r}")
    return float(pair[0]), float(pair[1])


def _whole(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return int(value)


def _statistics(name: str, value: Any, channels: int) -> tuple[float, ...] | None:
    if value is None:
        return None
    values = (value,) * channels if isinstance(value, (int, float)) else tuple(float(v) for v in value)
    if len(values) != channels:
        raise ValueError(f"{name} must hold one number per channel ({channels}), got {list(values)}")
    if name == "std" and min(values) <= 0:
        raise ValueError(f"std must be above 0, got {list(values)}")
    return tuple(float(v) for v in values)


class _Normalizer:
    """`(x - mean) / std` per channel, written into a given tensor."""

    def __init__(self, mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> None:
        self.active = mean is not None or std is not None
        channels = len(mean or std or (0.0,))
        spread = torch.tensor(std or (1.0,) * channels, dtype=torch.float64)
        self.scale = (1.0 / spread).float().view(1, -1, 1, 1)
        self.shift = (-torch.tensor(mean or (0.0,) * channels, dtype=torch.float64) / spread).float().view(1, -1, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        return images.mul_(self.scale).add_(self.shift) if self.active else images


def _as_image_tensor(array: np.ndarray) -> Tensor:
    """[H, W, C] -> [1, C, H, W] without copying: in memory the channels stay last, what resizing 8-bit likes best."""
    if not array.flags.writeable:
        array = array.copy()
    return torch.from_numpy(array).permute(2, 0, 1).unsqueeze(0)


def _resize(image: Tensor, height: int, width: int) -> Tensor:
    """Bilinear with anti-aliasing, as torchvision and Pillow resize; 8-bit images stay 8-bit."""
    if image.shape[2] == height and image.shape[3] == width:
        return image
    return F.interpolate(image, size=(height, width), mode="bilinear", antialias=True)


def _stack(images: list[Tensor]) -> Tensor:
    """[1, C, H, W] tensors, 8-bit or float -> float32 [n, C, H, W] in 0..1, contiguous, never an alias of the source."""
    first = images[0].dtype
    if any(image.dtype != first for image in images):
        images = [image if image.is_floating_point() else image.float() / 255.0 for image in images]
        first = torch.float32
    joined = torch.cat(images)
    floats = torch.empty(joined.shape, dtype=torch.float32)
    floats.copy_(joined)
    return floats.div_(255.0) if first == torch.uint8 else floats


class SimCLRViews:
    """V random views of every image: the SimCLR set of augmentations, each with its own switch.

    Steps in this order, as in "A Simple Framework for Contrastive Learning of Visual Representations" (arXiv
    2002.05709, section 2 and appendix A): random resized crop, affine and perspective (not in the paper, off by default), horizontal
    flip, colour jitter (brightness, contrast, saturation, hue in an order drawn per view), grey, Gaussian blur,
    solarisation, normalisation. Every view of every image draws its own parameters.

    The draws have no state: they depend on `seed`, the epoch, the image's index, the view and the step alone. The same
    image in the same epoch gets the same views whatever batch, worker or process it lands in and wherever training was
    resumed.

    Args:
        size (`int`): side of the views in pixels.
        num_views (`int`): V, views of each image.
        crop_scale (`tuple[float, float]`): share of the image's area that a crop covers.
        crop_ratio (`tuple[float, float]`): aspect ratio (width / height) of a crop.
        flip (`float`): probability of a horizontal flip.
        jitter_strength (`float`): s; brightness, contrast, saturation and hue change by up to s times what `jitter` says.
        jitter_p (`float`): probability of colour jitter.
        gray_p (`float`): probability of turning grey (luma weights).
        blur_p (`float`): probability of Gaussian blur; kernel a tenth of `size`.
        blur_sigma (`tuple[float, float]`): its standard deviation in pixels.
        solarize_p (`float`): probability of inverting the pixels at or above 0.5.
        mean (`float` or sequence, *optional*): per channel, subtracted last, for pixels in 0..1.
        std (`float` or sequence, *optional*): per channel, divided by last.
        crop (`bool`): `False` takes the whole image (its central square) instead of a random crop.
        channels (`int`): 1 or 3; images are converted. With 1 the steps on colour (saturation, hue, grey) do nothing.
        affine_p (`float`): probability of a random affine map, black outside.
        rotate (`float`): largest turn in degrees, either way.
        translate (`float`): largest shift as a share of `size`, either way.
        zoom (`tuple[float, float]`): range of the magnification.
        shear (`float`): largest shear in degrees, either way.
        seed (`int`): seed of all draws.
        first_view (`int`): number of the first view, on which the draws depend; for further views of the same images.
        jitter (`tuple[float, float, float, float]`): largest change of brightness, contrast, saturation (factors about 1)
            and hue (turns, at most 0.5 after multiplying), before `jitter_strength`.
        fill (`float`): grey, 0 black to 1 white, of what an affine map or a perspective brings in from outside the image.
        perspective (`float`): how far corners move inwards, as a share of half of `size` (torchvision's `distortion_scale`).
        perspective_p (`float`): probability of a perspective.

    Raises:
        ValueError: names the argument, its value and what is allowed.

    Example:

    ```python
    >>> from PIL import Image
    >>> from hf_contrastive.data import SimCLRViews
    >>> views = SimCLRViews(size=16, num_views=2)
    >>> views([Image.new("RGB", (32, 24)), Image.new("L", (20, 20))], indices=[0, 1], epoch=0).shape
    torch.Size([2, 2, 3, 16, 16])

    ```
    """

    def __init__(
        self,
        size: int,
        num_views: int = 2,
        crop_scale: Sequence[float] = (0.08, 1.0),
        crop_ratio: Sequence[float] = (3.0 / 4.0, 4.0 / 3.0),
        flip: float = 0.5,
        jitter_strength: float = 1.0,
        jitter_p: float = 0.8,
        gray_p: float = 0.2,
        blur_p: float = 0.5,
        blur_sigma: Sequence[float] = (0.1, 2.0),
        solarize_p: float = 0.0,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        crop: bool = True,
        channels: int = 3,
        affine_p: float = 0.0,
        rotate: float = 0.0,
        translate: float = 0.0,
        zoom: Sequence[float] = (1.0, 1.0),
        shear: float = 0.0,
        seed: int = 0,
        first_view: int = 0,
        jitter: Sequence[float] = _JITTER_REACH,
        fill: float = 0.0,
        perspective: float = 0.0,
        perspective_p: float = 0.0,
    ) -> None:
        if channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, got {channels!r}")
        self.size = _whole("size", size, 1)
        self.num_views = _whole("num_views", num_views, 1)
        self.crop_scale = _range("crop_scale", crop_scale, 0.0, 1.0)
        self.crop_ratio = _range("crop_ratio", crop_ratio, 0.0, math.inf)
        self.flip = _fraction("flip", flip)
        self.jitter_strength = _not_negative("jitter_strength", jitter_strength)
        if len(tuple(jitter)) != 4:
            raise ValueError(f"jitter must be four numbers (brightness, contrast, saturation, hue), got {jitter!r}")
        self.jitter = tuple(_not_negative("jitter", value) for value in jitter)
        if self.jitter_strength * self.jitter[3] > 0.5:
            raise ValueError(
                f"jitter_strength must be at most {0.5 / self.jitter[3]:g} (hue turns by {self.jitter[3]:g} of it), got "
                f"{jitter_strength!r}"
            )
        self.jitter_p = _fraction("jitter_p", jitter_p)
        self.gray_p = _fraction("gray_p", gray_p)
        self.blur_p = _fraction("blur_p", blur_p)
        self.blur_sigma = _range("blur_sigma", blur_sigma, 0.0, math.inf)
        self.solarize_p = _fraction("solarize_p", solarize_p)
        self.mean = _statistics("mean", mean, channels)
        self.std = _statistics("std", std, channels)
        self.crop = bool(crop)
        self.channels = channels
        self.affine_p = _fraction("affine_p", affine_p)
        self.rotate = _not_negative("rotate", rotate)
        self.translate = _fraction("translate", translate)
        self.zoom = _range("zoom", zoom, 0.0, math.inf)
        self.shear = _not_negative("shear", shear)
        if self.shear >= 90:
            raise ValueError(f"shear must be below 90 degrees, got {shear!r}")
        self.fill = _fraction("fill", fill)
        self.perspective = _fraction("perspective", perspective)
        if self.perspective == 1:
            raise ValueError("perspective must be below 1: all corners could meet in the middle")
        self.perspective_p = _fraction("perspective_p", perspective_p)
        self.seed = _whole("seed", seed, 0)
        self.first_view = _whole("first_view", first_view, 0)
        if self.blur_p > 0 and self.size < 2:
            raise ValueError("blur_p must be 0 for views of one pixel")
        self._normalize = _Normalizer(self.mean, self.std)

    @property
    def full_views(self) -> float:
        """Views of an image, by their pixels in units of one view; see [`MultiCropViews`]."""
        return float(self.num_views)

    # ------------------------------------------------------------------ presets

    @classmethod
    def imagenet(cls, size: int = 224, **changes: Any) -> SimCLRViews:
        """SimCLR's ImageNet setting (arXiv 2002.05709, appendix A): the defaults, with ImageNet's mean and std.

        Args:
            size (`int`): side of the views in pixels.
            changes: any argument of the class.
        """
        if changes.get("channels", 3) == 3:
            changes = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, **changes}
        return cls(size, **changes)

    @classmethod
    def cifar(cls, size: int = 32, **changes: Any) -> SimCLRViews:
        """SimCLR's CIFAR-10 setting (appendix B.9): jitter strength 0.5 and no blur; CIFAR-10's mean and std.

        Args:
            size (`int`): side of the views in pixels.
            changes: any argument of the class.
        """
        if changes.get("channels", 3) == 3:
            changes = {"mean": CIFAR10_MEAN, "std": CIFAR10_STD, **changes}
        changes = {"jitter_strength": 0.5, "blur_p": 0.0, **changes}
        return cls(size, **changes)

    @classmethod
    def gsimclr_cifar(cls, size: int = 32, **changes: Any) -> SimCLRViews:
        """G-SimCLR's CIFAR-10 setting (arXiv 2009.12007): flip and weak jitter and grey at 0.5 each, no crop.

        The official notebook draws once for a whole batch and its grey step has no effect by an oversight; here each
        view draws for itself and grey is grey. Pixels stay in 0..1.

        Args:
            size (`int`): side of the views in pixels.
            changes: any argument of the class.
        """
        paper: dict[str, Any] = {
            "crop": False,
            "flip": 0.5,
            "jitter_strength": 0.2,
            "jitter_p": 0.5,
            "gray_p": 0.5,
            "blur_p": 0.0,
        }
        return cls(size, **{**paper, **changes})

    @classmethod
    def gsimclr_imagenet(cls, size: int = 224, **changes: Any) -> SimCLRViews:
        """G-SimCLR's ImageNet-subset setting (arXiv 2009.12007): flip, full jitter, grey at 0.2; no crop, no blur.

        Args:
            size (`int`): side of the views in pixels.
            changes: any argument of the class.
        """
        paper: dict[str, Any] = {
            "crop": False,
            "flip": 0.5,
            "jitter_strength": 1.0,
            "jitter_p": 0.8,
            "gray_p": 0.2,
            "blur_p": 0.0,
        }
        return cls(size, **{**paper, **changes})

    @classmethod
    def digits(cls, size: int = 8, **changes: Any) -> SimCLRViews:
        """For small grey scans of written characters: mild crop, small affine map, some brightness; never mirrored.

        Args:
            size (`int`): side of the views in pixels.
            changes: any argument of the class.
        """
        scans: dict[str, Any] = {
            "crop_scale": (0.5, 1.0),
            "flip": 0.0,
            "jitter_strength": 0.5,
            "jitter_p": 0.8,
            "gray_p": 0.0,
            "blur_p": 0.0,
            "channels": 1,
            "affine_p": 0.8,
            "rotate": 15.0,
            "translate": 0.1,
            "zoom": (0.85, 1.15),
            "shear": 10.0,
        }
        return cls(size, **{**scans, **changes})

    @classmethod
    def convirt(cls, size: int = 224, **changes: Any) -> SimCLRViews:
        """ConVIRT's setting for radiographs (arXiv 2010.00747, section 4.2, from memory): one view; crop, flip, small affine map,
        brightness and contrast by up to 0.4, blur; no colour. ImageNet's mean and std.

        Args:
            size (`int`): side of the views in pixels.
            changes: any argument of the class.
        """
        paper: dict[str, Any] = {
            "num_views": 1,
            "crop_scale": (0.6, 1.0),
            "flip": 0.5,
            "affine_p": 1.0,
            "rotate": 20.0,
            "translate": 0.1,
            "zoom": (0.95, 1.05),
            "jitter": (0.4, 0.4, 0.0, 0.0),
            "jitter_p": 1.0,
            "gray_p": 0.0,
            "blur_p": 1.0,
            "blur_sigma": (0.1, 3.0),
        }
        if changes.get("channels", 3) == 3:
            paper.update(mean=IMAGENET_MEAN, std=IMAGENET_STD)
        return cls(size, **{**paper, **changes})

    @classmethod
    def logos(cls, size: int = 224, **changes: Any) -> SimCLRViews:
        """For logos as they are seen in scenes (chosen here for https://arxiv.org/abs/2211.12926): crop, turn, perspective, colour,
        grey and blur, white outside; never mirrored, as there is text in them. ImageNet's mean and std.

        Args:
            size (`int`): side of the views in pixels.
            changes: any argument of the class.
        """
        scenes: dict[str, Any] = {
            "crop_scale": (0.5, 1.0),
            "flip": 0.0,
            "affine_p": 1.0,
            "rotate": 15.0,
            "fill": 1.0,
            "perspective": 0.2,
            "perspective_p": 0.5,
            "jitter": (0.4, 0.4, 0.4, 0.1),
            "gray_p": 0.2,
            "blur_p": 0.3,
        }
        if changes.get("channels", 3) == 3:
            scenes.update(mean=IMAGENET_MEAN, std=IMAGENET_STD)
        return cls(size, **{**scenes, **changes})

    # ------------------------------------------------------------------ description

    def to_dict(self) -> dict[str, Any]:
        """All arguments, ready for JSON; `SimCLRViews.from_dict` turns them back."""
        values = {
            name: getattr(self, name) for name in inspect.signature(type(self).__init__).parameters if name != "self"
        }
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SimCLRViews:
        """Builds the views from what [`~SimCLRViews.to_dict`] wrote.

        Args:
            values (`dict`): arguments by name.

        Raises:
            ValueError: for a name that is no argument.
        """
        allowed = [name for name in inspect.signature(cls.__init__).parameters if name != "self"]
        unknown = sorted(set(values) - set(allowed))
        if unknown:
            raise ValueError(f"unknown view settings {', '.join(unknown)}; allowed: {', '.join(allowed)}")
        return cls(**values)

    def describe(self) -> str:
        """One line for the report at the start of a run."""
        if self.crop:
            parts = [f"crop {self.crop_scale[0]:g}-{self.crop_scale[1]:g} of the area"]
        else:
            parts = ["no crop"]
        if self.affine_p:
            parts.append(
                f"affine p {self.affine_p:g} (turn {self.rotate:g} deg, shift {self.translate:g}, zoom "
                f"{self.zoom[0]:g}-{self.zoom[1]:g}, shear {self.shear:g} deg)"
            )
        if self.perspective_p and self.perspective:
            parts.append(f"perspective {self.perspective:g} p {self.perspective_p:g}")
        if self.flip:
            parts.append(f"flip p {self.flip:g}")
        if self.jitter_p and self.jitter_strength:
            reach = "" if self.jitter == _JITTER_REACH else f" ({'/'.join(f'{value:g}' for value in self.jitter)})"
            parts.append(f"jitter s {self.jitter_strength:g}{reach} p {self.jitter_p:g}")
        if self.gray_p and self.channels == 3:
            parts.append(f"gray p {self.gray_p:g}")
        if self.blur_p:
            parts.append(f"blur sigma {self.blur_sigma[0]:g}-{self.blur_sigma[1]:g} p {self.blur_p:g}")
        if self.solarize_p:
            parts.append(f"solarise p {self.solarize_p:g}")
        parts.append("normalised" if self._normalize.active else "pixels in 0..1")
        return (
            f"{self.num_views} view{'s' if self.num_views > 1 else ''} of {self.channels}x{self.size}x{self.size}: "
            + ", ".join(parts)
        )

    def __repr__(self) -> str:
        return f"SimCLRViews({self.describe()})"

    # ------------------------------------------------------------------ draws

    def _crop_boxes(self, u: np.ndarray, heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
        """Boxes (top, left, height, width) [n, 4], as torchvision's RandomResizedCrop draws them."""
        low, high = self.crop_ratio
        ratio_of_image = widths / heights
        fallback_w = np.where(ratio_of_image > high, np.rint(heights * high), widths)
        fallback_h = np.where(ratio_of_image < low, np.rint(widths / low), heights)
        if not self.crop:
            side = np.minimum(heights, widths)
            boxes = np.stack(((heights - side) // 2, (widths - side) // 2, side, side), axis=1)
            return boxes.astype(np.int64)
        scale_low, scale_high = self.crop_scale
        areas = (heights * widths)[:, None] * (
            scale_low + (scale_high - scale_low) * u[:, _CROP : _CROP + _CROP_TRIES]
        )
        log_low, log_high = math.log(low), math.log(high)
        ratios = np.exp(log_low + (log_high - log_low) * u[:, _CROP + _CROP_TRIES : _CROP + 2 * _CROP_TRIES])
        tried_w, tried_h = np.rint(np.sqrt(areas * ratios)), np.rint(np.sqrt(areas / ratios))
        fits = (tried_w > 0) & (tried_w <= widths[:, None]) & (tried_h > 0) & (tried_h <= heights[:, None])
        found, first, rows = fits.any(axis=1), fits.argmax(axis=1), np.arange(len(u))
        width = np.where(found, tried_w[rows, first], np.maximum(fallback_w, 1))
        height = np.where(found, tried_h[rows, first], np.maximum(fallback_h, 1))
        top = np.where(found, np.floor(u[:, _CROP_TOP] * (heights - height + 1)), (heights - height) // 2)
        left = np.where(found, np.floor(u[:, _CROP_LEFT] * (widths - width + 1)), (widths - width) // 2)
        return np.stack((top, left, height, width), axis=1).astype(np.int64)

    def draw(
        self, sizes: Any, indices: Any, epoch: int = 0, occurrences: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """The parameters of every view, image after image (B * V rows), without touching a pixel.

        Args:
            sizes (array-like [B, 2]): height and width of each image in pixels.
            indices (array-like [B]): row number of each image.
            epoch (`int`): number of the epoch.
            occurrences (`np.ndarray` [B], *optional*): how often the same image has come before in this batch; its views are then
                further ones.

        Returns:
            `dict[str, np.ndarray]`: `box` [BV, 4] (top, left, height, width in pixels), `flip` [BV] bool, `jitter` [BV]
            bool, `order` [BV] (number of the order of the four jitter steps), `factors` [BV, 4] (brightness, contrast,
            saturation, hue shift), `gray`, `blur`, `solarize`, `affine`, `perspective` [BV] bool, `sigma` [BV] pixels, `geometry`
            [BV, 5] (degrees, pixels right, pixels down, zoom, degrees of shear), `corners` [BV, 4, 2] (pixels right and down, clockwise
            from the top left).
        """
        views = self.num_views
        index = np.repeat(np.asarray(indices, dtype=np.int64), views)
        view = np.tile(self.first_view + np.arange(views), len(index) // views)
        if occurrences is not None:
            view = view + views * np.repeat(np.asarray(occurrences, dtype=np.int64), views)
        dimensions = np.repeat(np.asarray(sizes, dtype=np.int64).reshape(-1, 2), views, axis=0)
        u = stateless_uniform(self.seed, int(epoch), index, view, _DRAWS)
        reach = np.array(self.jitter[:3]) * self.jitter_strength
        low = np.maximum(0.0, 1.0 - reach)
        jitter = u[:, _JITTER_FACTORS : _JITTER_FACTORS + 4]
        hue = self.jitter[3] * self.jitter_strength * (2.0 * jitter[:, 3:] - 1.0)
        geometry = 2.0 * u[:, _AFFINE_FACTORS : _AFFINE_FACTORS + 5] - 1.0
        geometry = geometry * np.array([self.rotate, *(self.translate * self.size,) * 2, 1.0, self.shear])
        log_zoom = np.log(self.zoom)
        geometry[:, 3] = np.exp(log_zoom[0] + (log_zoom[1] - log_zoom[0]) * u[:, _AFFINE_FACTORS + 3])
        inwards = 0.5 * self.perspective * self.size * u[:, _CORNERS : _CORNERS + 8].reshape(-1, 4, 2)
        last = float(self.size - 1)
        return {
            "box": self._crop_boxes(u, dimensions[:, 0], dimensions[:, 1]),
            "flip": u[:, _FLIP] < self.flip,
            "jitter": (u[:, _JITTER] < self.jitter_p) & (self.jitter_strength > 0),
            "order": (u[:, _JITTER_ORDER] * len(_ORDERS)).astype(np.int64),
            "factors": np.concatenate((low + (1.0 + reach - low) * jitter[:, :3], hue), axis=1),
            "gray": (u[:, _GRAY] < self.gray_p) & (self.channels == 3),
            "blur": u[:, _BLUR] < self.blur_p,
            "sigma": self.blur_sigma[0] + (self.blur_sigma[1] - self.blur_sigma[0]) * u[:, _BLUR_SIGMA],
            "solarize": u[:, _SOLARIZE] < self.solarize_p,
            "affine": u[:, _AFFINE] < self.affine_p,
            "geometry": geometry,
            "perspective": u[:, _PERSPECTIVE] < self.perspective_p,
            "corners": np.array([[0, 0], [last, 0], [last, last], [0, last]]) + inwards * _INWARDS,
        }

    # ------------------------------------------------------------------ pixels

    def _work(
        self, chunk: np.ndarray, images: list[Tensor], plan: dict[str, np.ndarray], boxes: list[list[int]]
    ) -> Tensor:
        """The finished views of the rows `chunk`, which share one jitter order."""
        views, size = self.num_views, self.size
        cut = []
        for row in chunk.tolist():
            top, left, height, width = boxes[row]
            cut.append(_resize(images[row // views][:, :, top : top + height, left : left + width], size, size))
        x = _stack(cut)

        def parameter(name: str) -> Tensor:
            return torch.from_numpy(plan[name][chunk]).float()

        def chosen(name: str) -> Tensor | None:
            rows = np.flatnonzero(plan[name][chunk])
            return torch.from_numpy(rows) if rows.size else None

        rows = chosen("affine")
        if rows is not None:
            values = parameter("geometry")[rows]
            # black comes in from outside: shifted by the fill, that is the fill
            moved = x[rows] - self.fill if self.fill else x[rows]
            moved = affine(moved, values[:, 0], values[:, 1:3], values[:, 3], values[:, 4])
            x[rows] = moved + self.fill if self.fill else moved
        rows = chosen("perspective")
        if rows is not None:
            moved = perspective(x[rows] - self.fill if self.fill else x[rows], parameter("corners")[rows])
            x[rows] = moved + self.fill if self.fill else moved
        rows = chosen("flip")
        if rows is not None:
            x[rows] = x[rows].flip(3)
        if plan["jitter"][chunk[0]]:
            factors = parameter("factors")
            for step in _ORDERS[int(plan["order"][chunk[0]])]:
                _JITTER_OPS[step](x, factors[:, step])
        rows = chosen("gray")
        if rows is not None:
            x[rows] = luma(x[rows]).expand(-1, 3, -1, -1)
        rows = chosen("blur")
        if rows is not None:
            # a kernel wider than the image has nothing to reflect: tiny views get the widest that fits
            kernel = min(blur_kernel_size(size), 2 * size - 1)
            x[rows] = gaussian_blur(x[rows], parameter("sigma")[rows], kernel)
        rows = chosen("solarize")
        if rows is not None:
            x[rows] = solarize_(x[rows])
        return self._normalize(x)

    def __call__(self, images: Any, indices: Any, epoch: int = 0, occurrences: np.ndarray | None = None) -> Tensor:
        """Makes the views.

        Args:
            images (sequence of length B): PIL images, arrays or tensors of any sizes and modes (see
                [`image_to_array`]), or one array [B, H, W] or [B, H, W, C].
            indices (sequence of `int`, length B): row number of each image, on which its draws depend.
            epoch (`int`): number of the epoch, on which the draws depend too.
            occurrences (`np.ndarray` [B], *optional*): how often the same image has come before in this batch; its views are then
                further ones.

        Returns:
            `Tensor` [B, V, C, size, size]: float32.

        Raises:
            ValueError: if lengths differ, the batch is empty, or an image cannot be read (named with its row).
        """
        if len(images) != len(indices):
            raise ValueError(f"images and indices must have one length, got {len(images)} and {len(indices)}")
        if len(images) == 0:
            raise ValueError("images is empty; expected at least one image")
        numbers = indices.tolist() if isinstance(indices, (Tensor, np.ndarray)) else [int(index) for index in indices]
        arrays = images_to_arrays(images, self.channels, numbers)
        with torch.no_grad():
            return self._views(arrays, numbers, epoch, occurrences)

    def _views(
        self, arrays: list[np.ndarray], numbers: list[int], epoch: int, occurrences: np.ndarray | None = None
    ) -> Tensor:
        plan = self.draw([array.shape[:2] for array in arrays], numbers, epoch, occurrences)
        tensors = [_as_image_tensor(array) for array in arrays]
        boxes = plan["box"].tolist()
        total, channels, size = len(numbers) * self.num_views, self.channels, self.size
        out = torch.empty(total, channels, size, size)
        # views with the same order of jitter steps go through them together
        group = np.where(plan["jitter"], plan["order"], len(_ORDERS))
        by_group = np.argsort(group, kind="stable")
        ends = np.flatnonzero(np.diff(group[by_group])) + 1
        step = max(1, _CHUNK // (channels * size * size))
        for rows in np.split(by_group, ends):
            for start in range(0, len(rows), step):
                chunk = rows[start : start + step]
                out[torch.from_numpy(chunk)] = self._work(chunk, tensors, plan, boxes)
        return out.view(len(numbers), self.num_views, channels, size, size)


class EvalTransform:
    """The one view used to measure: shorter side resized, central square cut out, normalised. Nothing is random.

    Args:
        size (`int`): side of the result in pixels.
        mean (`float` or sequence, *optional*): per channel, subtracted, for pixels in 0..1.
        std (`float` or sequence, *optional*): per channel, divided by.
        channels (`int`): 1 or 3; images are converted.
        crop_fraction (`float`): the shorter side is resized to `size / crop_fraction`; 0.875 is usual for ImageNet.

    Raises:
        ValueError: names the argument, its value and what is allowed.

    Example:

    ```python
    >>> from PIL import Image
    >>> from hf_contrastive.data import EvalTransform
    >>> EvalTransform(size=8, channels=1)([Image.new("RGB", (16, 12), "white")]).shape
    torch.Size([1, 1, 8, 8])

    ```
    """

    def __init__(
        self,
        size: int,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        channels: int = 3,
        crop_fraction: float = 1.0,
    ) -> None:
        if channels not in (1, 3):
            raise ValueError(f"channels must be 1 or 3, got {channels!r}")
        self.size = _whole("size", size, 1)
        self.mean = _statistics("mean", mean, channels)
        self.std = _statistics("std", std, channels)
        self.channels = channels
        self.crop_fraction = _fraction("crop_fraction", crop_fraction)
        if self.crop_fraction == 0.0:
            raise ValueError("crop_fraction must be above 0, got 0")
        self._normalize = _Normalizer(self.mean, self.std)

    @classmethod
    def like(cls, views: SimCLRViews, crop_fraction: float = 1.0) -> EvalTransform:
        """The transform that fits a model trained on `views`: same size, channels and normalisation.

        Args:
            views (`SimCLRViews`): the training views.
            crop_fraction (`float`): see the class.
        """
        return cls(views.size, views.mean, views.std, views.channels, crop_fraction)

    def to_dict(self) -> dict[str, Any]:
        """All arguments, ready for JSON."""
        mean, std = (None if value is None else list(value) for value in (self.mean, self.std))
        return {
            "size": self.size,
            "mean": mean,
            "std": std,
            "channels": self.channels,
            "crop_fraction": self.crop_fraction,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EvalTransform:
        """Builds the transform from what [`~EvalTransform.to_dict`] wrote."""
        return cls(**values)

    def __repr__(self) -> str:
        return f"EvalTransform({', '.join(f'{name}={value!r}' for name, value in self.to_dict().items())})"

    def __call__(self, images: Any, rows: Any = None) -> Tensor:
        """Transforms a batch.

        Args:
            images (sequence of length B): anything [`image_to_array`] reads, of any sizes.
            rows (sequence of `int`, *optional*): row numbers, for the message when an image cannot be read.

        Returns:
            `Tensor` [B, C, size, size]: float32.
        """
        if len(images) == 0:
            raise ValueError("images is empty; expected at least one image")
        resized = round(self.size / self.crop_fraction)
        done = []
        for array in images_to_arrays(images, self.channels, rows):
            image = _as_image_tensor(array)
            height, width = image.shape[2:]
            short, long = min(height, width), max(height, width)
            other = int(resized * long / short)
            image = _resize(image, *((resized, other) if height <= width else (other, resized)))
            top, left = (round((image.shape[dim] - self.size) / 2.0) for dim in (2, 3))
            done.append(image[:, :, top : top + self.size, left : left + self.size])
        with torch.no_grad():
            return self._normalize(_stack(done))
