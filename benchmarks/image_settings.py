"""What the two benchmarks on images share: the pictures, and the same views by this library and by lightly."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import numpy as np
from PIL import Image
from torch import Tensor

from hf_contrastive.data import SimCLRViews


DIFFERENCES = (
    "Not equal: lightly blurs with Pillow's box approximation of the Gaussian, this library with a kernel of a tenth of "
    "the side, as the SimCLR paper says; lightly rounds to 8 bits after every step."
)


def make_images(size: int, count: int) -> list[Image.Image]:
    """Smooth random colour pictures: noise alone would be no picture, and a flat one would flatter the hue step."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return [Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC) for image in coarse]


def is_small(size: int) -> bool:
    """Whether pictures of this side get SimCLR's CIFAR setting (jitter 0.5, no blur) instead of ImageNet's."""
    return size <= 32


def our_views(size: int) -> SimCLRViews:
    """Two views; ImageNet's mean and std for both settings, since lightly takes these."""
    if is_small(size):
        return SimCLRViews.imagenet(size, jitter_strength=0.5, blur_p=0.0)
    return SimCLRViews.imagenet(size)


def lightly_views(size: int) -> Callable[[Image.Image], list[Tensor]] | None:
    """lightly's transform with the same settings, or nothing where lightly is not installed."""
    try:
        transforms = importlib.import_module("lightly.transforms")
    except ImportError:
        return None
    if is_small(size):
        return transforms.SimCLRTransform(input_size=size, cj_strength=0.5, gaussian_blur=0.0)
    return transforms.SimCLRTransform(input_size=size)


def setting(size: int) -> str:
    """The views of this side in a few words."""
    return "jitter 0.5, no blur" if is_small(size) else "full set"
