"""Small datasets decoded once: for small images, decoding every epoch costs more than the views."""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np
import torch

from hf_contrastive.data.images import images_to_arrays
from hf_contrastive.data.schema import require_columns


class PreloadedImages(torch.utils.data.Dataset):
    """All images of a dataset as 8-bit arrays in memory, with its other columns beside them.

    Rows come out as the dataset's own do (`{"image": array [H, W, C], "label": ..., "index": ...}`), so that the
    collators take either. Forked dataloader workers share the memory.

    Args:
        dataset (`datasets.Dataset`): rows with an `image` column, for example from [`load_images`].
        channels (`int`): 1 or 3; images are converted.
        image_column (`str`): column of the images.
        max_bytes (`int`): refuse to hold more than this.

    Raises:
        ValueError: if the column is missing, an image cannot be read (row and file are named), or the images together
            take more than `max_bytes`.

    Example:

    ```python
    >>> from hf_contrastive.data import PreloadedImages, load_images
    >>> digits = PreloadedImages(load_images("digits"), channels=1)
    >>> len(digits), digits[0]["image"].shape
    (898, (8, 8, 1))

    ```
    """

    def __init__(
        self, dataset: datasets.Dataset, channels: int = 3, *, image_column: str = "image", max_bytes: int = 2 << 30
    ) -> None:
        require_columns(dataset, {image_column: "image_column"})
        self.image_column = image_column
        self.column_names = list(dataset.column_names)
        raw = dataset
        if isinstance(dataset.features[image_column], datasets.Image):
            raw = dataset.cast_column(
                image_column, datasets.Image(decode=False)
            )  # opened here, so that files are named
        self._images: list[np.ndarray] = []
        held = 0
        for start in range(0, len(raw), 512):
            rows = range(start, min(start + 512, len(raw)))
            for array in images_to_arrays(raw[start : start + 512][image_column], channels, rows):
                held += array.nbytes
                if held > max_bytes:
                    raise ValueError(
                        f"{len(raw)} images take more than max_bytes={max_bytes} decoded ({len(self._images)} fitted); "
                        "use the dataset itself, or raise max_bytes"
                    )
                self._images.append(array)
        if self._images and len({(array.shape, array.dtype) for array in self._images}) == 1:
            self._images = list(np.stack(self._images))  # one block of memory instead of one an image
        self._columns: dict[str, Any] = {
            name: list(dataset.with_format(None)[name]) for name in self.column_names if name != image_column
        }

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            name: self._images[index] if name == self.image_column else self._columns[name][index]
            for name in self.column_names
        }
