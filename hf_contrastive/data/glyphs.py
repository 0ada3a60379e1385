"""Drawn letters and digits with captions: images and texts with something real to align, made by code."""

from __future__ import annotations

import io
from typing import Any

import datasets
import numpy as np
from PIL import Image, ImageDraw, ImageFont


#: name of a colour -> red, green, blue
COLOURS = {
    "red": (214, 40, 40),
    "green": (46, 160, 67),
    "blue": (41, 98, 255),
    "yellow": (250, 204, 21),
    "white": (245, 245, 245),
}
GROUND = (20, 20, 20)
#: characters that small networks can tell apart at 32 pixels
GLYPHS = "ACEFHJKLMNPRTX2457"
_DIGITS = {"2": "two", "4": "four", "5": "five", "7": "seven"}
#: name of a size -> share of the image's side that the glyph is high
_SIZES = {"small": 0.65, "large": 0.95}
SIDE = 32
_ROWS = {"train": 1536, "test": 384}
_DRAWN_AT = 4  # times larger, then shrunk: smooth edges whatever the font's rasteriser


def glyph_name(glyph: str) -> str:
    """What a caption calls a glyph: "letter a", "digit seven"."""
    return f"digit {_DIGITS[glyph]}" if glyph in _DIGITS else f"letter {glyph.lower()}"


def captions(glyph: str, colour: str, size: str) -> list[str]:
    """The texts of an image: the whole description first, then parts of it.

    Args:
        glyph (`str`): the character.
        colour (`str`): name of its colour.
        size (`str`): `"small"` or `"large"`.

    Example:

    ```python
    >>> from hf_contrastive.data.glyphs import captions
    >>> captions("A", "red", "large")
    ['a large red letter a', 'red letter a', 'large letter a', 'letter a']

    ```
    """
    name = glyph_name(glyph)
    return [f"a {size} {colour} {name}", f"{colour} {name}", f"{size} {name}", name]


def draw_glyph(
    glyph: str,
    colour: tuple[int, ...],
    ground: tuple[int, ...],
    height: float,
    *,
    angle: float = 0.0,
    shift: tuple[float, float] = (0.0, 0.0),
    side: int = SIDE,
) -> Image.Image:
    """One character on a plain background.

    Args:
        glyph (`str`): the character.
        colour, ground (`tuple[int, ...]`): its colour (red, green, blue) and the background's.
        height (`float`): of the character, as a share of `side`.
        angle (`float`, defaults to 0): degrees it is turned by.
        shift (`tuple[float, float]`, defaults to (0, 0)): to the right and down, as shares of `side`.
        side (`int`, defaults to 32): of the image, in pixels.
    """
    big = side * _DRAWN_AT
    font = ImageFont.load_default(size=big * height)
    mask = Image.new("L", (big, big))
    ImageDraw.Draw(mask).text(
        (big * (0.5 + shift[0]), big * (0.5 + shift[1])), glyph, fill=255, font=font, anchor="mm"
    )
    mask = mask.rotate(angle, Image.Resampling.BILINEAR).resize((side, side), Image.Resampling.BOX)
    return Image.composite(Image.new("RGB", (side, side), colour), Image.new("RGB", (side, side), ground), mask)


def make_glyphs(split: str = "train") -> datasets.Dataset:
    """Drawn letters and digits with captions, the same ones every time.

    Every image shows one of 18 characters in one of 5 colours on black, small or large, turned and moved a little. The test part
    holds other drawings of the same.

    Args:
        split (`str`, defaults to `"train"`): `"train"` (1,536 images) or `"test"` (384).

    Returns:
        `datasets.Dataset`: `image` (32 x 32), `texts` (list of `str`, the whole description first), `label` (the character).

    Raises:
        ValueError: another split.

    Example:

    ```python
    >>> from hf_contrastive.data.glyphs import make_glyphs
    >>> len(make_glyphs("test"))
    384

    ```
    """
    if split not in _ROWS:
        raise ValueError(f"split {split!r} not found; the built-in glyphs have {', '.join(_ROWS)}; pass one of them")
    # its stream is frozen: the drawings never change with the numpy version
    random = np.random.RandomState({"train": 1, "test": 2}[split])
    pairs = [(glyph, colour) for glyph in GLYPHS for colour in COLOURS]
    order = np.concatenate([random.permutation(len(pairs)) for _ in range(_ROWS[split] // len(pairs) + 1)])
    columns: dict[str, list[Any]] = {"image": [], "texts": [], "label": []}
    for number in order[: _ROWS[split]]:
        glyph, colour = pairs[number]
        size = list(_SIZES)[random.randint(2)]
        noise = random.uniform(-1, 1, size=6)
        paint, paper = (
            tuple(int(np.clip(value + 24 * shade, 0, 255)) for value in base)
            for base, shade in ((COLOURS[colour], noise[0]), (GROUND, noise[1]))
        )
        room = 0.5 - _SIZES[size] / 2
        image = draw_glyph(
            glyph,
            paint,
            paper,
            _SIZES[size] * (1 + 0.1 * noise[2]),
            angle=12 * noise[3],
            shift=(0.7 * room * noise[4], 0.7 * room * noise[5]),
        )
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        columns["image"].append({"bytes": buffer.getvalue(), "path": None})
        columns["texts"].append(captions(glyph, colour, size))
        columns["label"].append(GLYPHS.index(glyph))
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "texts": datasets.List(datasets.Value("string")),
            "label": datasets.ClassLabel(names=[glyph_name(glyph) for glyph in GLYPHS]),
        }
    )
    return datasets.Dataset.from_dict(columns, features=features)


__all__ = ["COLOURS", "GLYPHS", "GROUND", "captions", "draw_glyph", "glyph_name", "make_glyphs"]
