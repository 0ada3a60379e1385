"""From whatever an image comes as to an array of the asked number of channels."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image


_SIXTEEN_BIT = ("I", "I;16", "I;16L", "I;16B", "I;16N")
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")


def _from_pil(image: Image.Image, channels: int) -> np.ndarray:
    mode = image.mode
    if mode in _SIXTEEN_BIT or mode == "F":
        return _from_numpy(np.array(image), channels)
    if mode in _WITH_ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    target = "L" if channels == 1 else "RGB"
    if image.mode != target:
        # palette, CMYK, YCbCr... have no direct way to grey that keeps the luma weights
        if target == "L" and image.mode not in ("1", "RGB"):
            image = image.convert("RGB")
        image = image.convert(target)
    array = np.array(image)
    return array[:, :, None] if channels == 1 else array


def _to_eight_bit_or_float(array: np.ndarray) -> np.ndarray:
    """uint8 in 0..255 or float32 in 0..1, scaled by the range that the type stands for."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"pixels of type {array.dtype} are not understood; pass uint8, uint16 or floats in 0..1")
    low, high = array.min(), array.max()
    if array.dtype.kind == "f":
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError("the image holds values that are not finite; expected floats in 0..1")
        if low < -1e-4 or high > 1.0001:
            raise ValueError(
                f"float pixels must lie in 0..1, got {low:.6g}..{high:.6g}; divide by the largest possible value "
                "(255 for 8-bit data) or pass uint8"
            )
        return np.clip(array, 0.0, 1.0).astype(np.float32)
    sixteen_bit = array.dtype.itemsize <= 4 and array.dtype != np.int8
    if low < 0 or high > 65535 or not sixteen_bit:
        if low >= 0 and high <= 255:  # int64, as lists of Python numbers come
            return array.astype(np.uint8)
        raise ValueError(
            f"integer pixels of type {array.dtype} must lie in 0..65535 (16-bit grey), got {low}..{high}; pass uint8"
        )
    # 65535 is white, whatever the brightest pixel of this image: 65535 / 257 = 255
    return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _from_numpy(array: np.ndarray, channels: int, channels_first: bool = False) -> np.ndarray:
    if array.ndim == 2:
        array = array[:, :, None]
    elif array.ndim != 3:
        raise ValueError(f"an image needs 2 or 3 dimensions ([H, W] or [H, W, C]), got shape {tuple(array.shape)}")
    elif channels_first or (array.shape[2] not in (1, 2, 3, 4) and array.shape[0] in (1, 2, 3, 4)):
        array = array.transpose(1, 2, 0)
    if array.shape[2] not in (1, 2, 3, 4):
        raise ValueError(f"an image needs 1 to 4 channels, got shape {tuple(array.shape)}")
    if 0 in array.shape:
        raise ValueError(f"the image has no pixels (shape {tuple(array.shape)})")
    array = _to_eight_bit_or_float(array)
    found = array.shape[2]
    if found in (2, 4):  # grey or colour with alpha: over white
        if array.dtype == np.uint8:
            mode = "LA" if found == 2 else "RGBA"
            return _from_pil(Image.fromarray(np.ascontiguousarray(array), mode), channels)
        alpha = array[:, :, -1:]
        array = array[:, :, :-1] * alpha + (1.0 - alpha)
        found -= 1
    if found == channels:
        return np.ascontiguousarray(array)
    if found == 1:
        return np.repeat(array, 3, axis=2)
    if array.dtype == np.uint8:
        return np.array(Image.fromarray(np.ascontiguousarray(array)).convert("L"))[:, :, None]
    return (array @ np.array([0.299, 0.587, 0.114], dtype=np.float32))[:, :, None]


def decode_image(value: Any) -> Any:
    """Opens an undecoded image: bytes, a path, or the `{"bytes", "path"}` record of a `datasets.Image` column.

    Args:
        value: what a column holds; anything that is not one of these is handed back.

    Returns:
        A loaded `PIL.Image.Image`, or `value` itself.

    Raises:
        OSError: if the bytes are no image, are cut short, or the file is missing.

    Example:

    ```python
    >>> import io
    >>> from PIL import Image
    >>> from hf_contrastive.data import decode_image
    >>> buffer = io.BytesIO()
    >>> Image.new("L", (4, 2)).save(buffer, "PNG")
    >>> decode_image({"bytes": buffer.getvalue(), "path": None}).size
    (4, 2)

    ```
    """
    path = None
    if isinstance(value, dict) and ("bytes" in value or "path" in value):
        path, value = value.get("path"), value.get("bytes")
        if value is None and path is None:
            raise OSError("the record holds neither bytes nor a path")
    if isinstance(value, (bytes, bytearray)):
        image = Image.open(io.BytesIO(value))
    elif value is None and path is not None:
        image = Image.open(path)
    elif isinstance(value, (str, Path)):
        image = Image.open(value)
    else:
        return value
    image.load()
    return image


def image_to_array(image: Any, channels: int = 3) -> np.ndarray:
    """One image as an array with the asked number of channels.

    Grey is repeated to colour, colour turned to grey with luma weights, transparency laid over white, palettes, CMYK
    and other modes converted, 16-bit grey scaled so that 65535 is white (never cut off at 255).

    Args:
        image: a `PIL.Image.Image` of any mode, a numpy array [H, W], [H, W, C] or [C, H, W], a tensor [C, H, W] or
            [H, W], nested lists, encoded bytes, a path, or a `{"bytes", "path"}` record. Integers are 8 or 16 bit,
            floats lie in 0..1.
        channels (`int`): 1 or 3.

    Returns:
        `np.ndarray` [H, W, channels]: uint8 in 0..255, or float32 in 0..1 when the image came as floats.

    Raises:
        ValueError: for a shape, type or range that is no image.
        OSError: when bytes or file cannot be read.

    Example:

    ```python
    >>> from PIL import Image
    >>> from hf_contrastive.data import image_to_array
    >>> image_to_array(Image.new("RGBA", (2, 2), (0, 0, 0, 0)), channels=1)[0, 0].tolist()
    [255]

    ```
    """
    if channels not in (1, 3):
        raise ValueError(f"channels must be 1 or 3, got {channels!r}")
    image = decode_image(image)
    if isinstance(image, Image.Image):
        return _from_pil(image, channels)
    if isinstance(image, torch.Tensor):
        return _from_numpy(image.detach().cpu().numpy(), channels, channels_first=image.ndim == 3)
    if isinstance(image, (list, tuple)):
        image = np.asarray(image)
    if isinstance(image, np.ndarray):
        return _from_numpy(image, channels)
    raise ValueError(f"cannot read an image from a {type(image).__name__}; pass a PIL image, an array or a tensor")


def images_to_arrays(images: Any, channels: int, rows: Any = None) -> list[np.ndarray]:
    """[`image_to_array`] over a batch; an image that cannot be read is named with its row and file.

    Args:
        images: sequence of images, or an array [B, H, W] or [B, H, W, C].
        channels (`int`): 1 or 3.
        rows (sequence of `int`, *optional*): row numbers for the message.

    Returns:
        `list[np.ndarray]`: B arrays [H, W, channels].

    Raises:
        ValueError: names row and file of the first image that cannot be read.
    """
    arrays = []
    for position, image in enumerate(images):
        try:
            arrays.append(image_to_array(image, channels))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            row = position if rows is None else int(rows[position])
            raise ValueError(f"{unreadable_name(row, image)}: {error}") from error
    return arrays


def unreadable_name(row: int, image: Any) -> str:
    """How a message calls an image that cannot be read: its row and, where known, its file."""
    path = image.get("path") if isinstance(image, dict) else image if isinstance(image, (str, Path)) else None
    path = path or getattr(image, "filename", None)
    return f"image in row {row}" + (f" (file {path})" if path else "") + " cannot be read"
