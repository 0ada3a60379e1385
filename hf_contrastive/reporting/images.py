"""Images of any usual kind as arrays that can be drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def to_display(image: Any) -> np.ndarray:
    """One image as float RGB `[H, W, 3]` in 0 to 1.

    Takes PIL images, arrays and tensors `[H, W]`, `[H, W, C]` or `[C, H, W]` with 1, 3 or 4 channels; integers by the range
    of their kind (16-bit too), floats as 0 to 1. A float image that leaves that range is stretched to it.
    """
    if hasattr(image, "convert") and hasattr(image, "mode"):  # PIL
        if image.mode in ("P", "CMYK", "YCbCr", "HSV", "LAB", "PA", "1"):
            image = image.convert("RGB")
        array = np.asarray(image)
    elif hasattr(image, "detach"):
        array = image.detach().cpu().float().numpy() if image.is_floating_point() else image.detach().cpu().numpy()
    else:
        array = np.asarray(image)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3:
        raise ValueError(f"an image has shape {list(array.shape)}; expected [H, W], [H, W, C] or [C, H, W]")
    if array.shape[2] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.shape[2] not in (1, 3, 4):
        raise ValueError(f"an image has {array.shape[2]} channels (shape {list(array.shape)}); expected 1, 3 or 4")
    if array.dtype.kind in "ui":
        top = {1: 255, 2: 65535}.get(array.dtype.itemsize) or max(255, int(array.max()))
        array = array / top
    array = np.nan_to_num(array.astype(np.float64))
    low, high = array.min(), array.max()
    if low < -1e-3 or high > 1 + 1e-3:
        array = (array - low) / max(high - low, 1e-12)
    array = array.clip(0, 1)
    if array.shape[2] == 4:  # transparency on white
        array = array[:, :, :3] * array[:, :, 3:] + 1 - array[:, :, 3:]
    return np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array


def undo_normalization(
    images: np.ndarray, mean: float | Sequence[float] | None, std: float | Sequence[float] | None
) -> np.ndarray:
    """`[..., C, H, W]` back to 0 to 1: `images * std + mean`."""

    def per_channel(name: str, value: float | Sequence[float] | None, default: float) -> np.ndarray:
        array = np.atleast_1d(np.asarray(default if value is None else value, dtype=np.float64))
        if array.shape not in ((1,), (images.shape[-3],)):
            raise ValueError(
                f"`{name}` has {array.size} values but the views have {images.shape[-3]} channels; give one value or one "
                "a channel"
            )
        return array[:, None, None]

    return images * per_channel("std", std, 1.0) + per_channel("mean", mean, 0.0)
