"""Drawn letters and digits that move, with captions: clips and texts with something real to align, made by code."""

from __future__ import annotations

import io
from typing import Any

import datasets
import numpy as np

from hf_contrastive.data.glyphs import COLOURS, GLYPHS, GROUND, captions, draw_glyph, glyph_name


_ROWS = {"train": 1024, "test": 256}
#: name of a size -> share of the frame's side that the glyph is high; less than of still images: it has to have room to move
_SIZES = {"small": 0.5, "large": 0.8}


def make_glyph_clips(split: str = "train", num_frames: int = 4) -> datasets.Dataset:
    """Clips of drawn letters and digits with captions, the same ones every time.

    Each shows one of 18 characters in one of 5 colours on black, small or large, which moves along a line and sways. The test part
    holds other clips of the same.

    Args:
        split (`str`, defaults to `"train"`): `"train"` (1,024 clips) or `"test"` (256).
        num_frames (`int`, defaults to 4): frames of a clip.

    Returns:
        `datasets.Dataset`: `frames` (32 x 32 images), `texts` (list of `str`, the whole description first), `label` (the character),
        `index`.

    Raises:
        ValueError: another split, or no frame.

    Example:

    ```python
    >>> from hf_contrastive.data.glyph_clips import make_glyph_clips
    >>> row = make_glyph_clips("test", num_frames=2)[0]
    >>> len(row["frames"]), row["frames"][0].size
    (2, (32, 32))

    ```
    """
    if split not in _ROWS:
        raise ValueError(f"split {split!r} not found; the built-in clips have {', '.join(_ROWS)}; pass one of them")
    if num_frames < 1:
        raise ValueError(f"`num_frames` is {num_frames!r}, but it must be 1 or more")
    # its stream is frozen: the drawings never change with the numpy version
    random = np.random.RandomState({"train": 11, "test": 12}[split])
    pairs = [(glyph, colour) for glyph in GLYPHS for colour in COLOURS]
    order = np.concatenate([random.permutation(len(pairs)) for _ in range(_ROWS[split] // len(pairs) + 1)])
    columns: dict[str, list[Any]] = {"frames": [], "texts": [], "label": [], "index": []}
    for index, number in enumerate(order[: _ROWS[split]]):
        glyph, colour = pairs[number]
        size = list(_SIZES)[random.randint(2)]
        noise, ends = random.uniform(-1, 1, size=4), random.uniform(-1, 1, size=(2, 2))
        paint, paper = (
            tuple(int(np.clip(value + 24 * shade, 0, 255)) for value in base)
            for base, shade in ((COLOURS[colour], noise[0]), (GROUND, noise[1]))
        )
        room = 0.7 * (0.5 - _SIZES[size] / 2)
        columns["frames"].append([])
        for time in np.linspace(0, 1, num_frames):
            shift = room * ((1 - time) * ends[0] + time * ends[1])
            angle = 10 * noise[3] * np.cos(2 * np.pi * time)
            height = _SIZES[size] * (1 + 0.1 * noise[2])
            image = draw_glyph(glyph, paint, paper, height, angle=angle, shift=(shift[0], shift[1]))
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            columns["frames"][-1].append({"bytes": buffer.getvalue(), "path": None})
        columns["texts"].append(captions(glyph, colour, size))
        columns["label"].append(GLYPHS.index(glyph))
        columns["index"].append(index)
    features = datasets.Features(
        {
            "frames": datasets.List(datasets.Image()),
            "texts": datasets.List(datasets.Value("string")),
            "label": datasets.ClassLabel(names=[glyph_name(glyph) for glyph in GLYPHS]),
            "index": datasets.Value("int64"),
        }
    )
    return datasets.Dataset.from_dict(columns, features=features)


__all__ = ["make_glyph_clips"]
