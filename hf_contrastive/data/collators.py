"""From rows of a dataset to the tensors a model takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hf_contrastive.data.schema import integer_column, missing_column
from hf_contrastive.data.shared_epoch import SharedEpoch


def _column(examples: Sequence[dict[str, Any]], column: str, argument: str) -> list[Any]:
    try:
        return [example[column] for example in examples]
    except KeyError:
        found = list(next(example for example in examples if column not in example))
        raise ValueError(missing_column(column, found, argument, source="the row")) from None


class MultiViewCollator(SharedEpoch):
    """Makes the views of a batch of rows while it is put together, in the dataloader's workers.

    The epoch lies in shared memory: [`~MultiViewCollator.set_epoch`] in the main process reaches workers that run
    already (persistent workers), forked or spawned.

    Args:
        views (callable): `views(images, indices, epoch) -> Tensor [B, V, C, H, W]`, for example [`SimCLRViews`], or a
            dictionary of such tensors, for example [`MultiCropViews`].
        sample_id_column (`str`, *optional*): integer column that becomes `sample_ids`: rows with equal ids are never
            each other's negatives (`"label"`, `"pseudo_label"`, ...).
        image_column (`str`): column of the images.
        index_column (`str`): column of the row numbers that the random draws depend on.
        keep_index (`bool`): also hand `index` on.

    Returns (when called with a list of rows):
        `dict[str, Tensor]`: `pixel_values` [B, V, C, H, W] float32, with multi-crop also `local_pixel_values`
        [B, crops, C, h, w], `index` [B] int64 and, where asked for, `sample_ids` [B] int64. All other columns are left out.

    Raises (when called):
        ValueError: for a missing column (the found ones are listed), an id that is no whole number, or an image that
            cannot be read (row and file are named).

    Example:

    ```python
    >>> from hf_contrastive.data import MultiViewCollator, SimCLRViews, load_images
    >>> digits = load_images("digits")
    >>> collator = MultiViewCollator(SimCLRViews.digits(), sample_id_column="label")
    >>> {name: tuple(value.shape) for name, value in collator([digits[0], digits[1]]).items()}
    {'pixel_values': (2, 2, 1, 8, 8), 'index': (2,), 'sample_ids': (2,)}

    ```
    """

    def __init__(
        self,
        views: Callable[..., Tensor | dict[str, Tensor]],
        sample_id_column: str | None = None,
        *,
        image_column: str = "image",
        index_column: str = "index",
        keep_index: bool = True,
    ) -> None:
        self.views = views
        self.sample_id_column = sample_id_column
        self.image_column = image_column
        self.index_column = index_column
        self.keep_index = keep_index
        super().__init__()

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        if len(examples) == 0:
            raise ValueError("the batch is empty; expected at least one row")
        images = _column(examples, self.image_column, "image_column")
        index = integer_column(_column(examples, self.index_column, "index_column"), self.index_column)
        made = self.views(images, index, self.epoch)
        batch = dict(made) if isinstance(made, dict) else {"pixel_values": made}
        if self.keep_index:
            batch["index"] = torch.from_numpy(index)
        if self.sample_id_column is not None:
            ids = _column(examples, self.sample_id_column, "sample_id_column")
            batch["sample_ids"] = torch.from_numpy(integer_column(ids, self.sample_id_column))
        return batch


class EvalCollator:
    """Makes the deterministic view of a batch of rows, for embedding and measuring.

    Args:
        transform (callable): `transform(images, rows) -> Tensor [B, C, H, W]`, for example [`EvalTransform`].
        image_column (`str`): column of the images.
        index_column (`str`): column of the row numbers; handed on when it is there.
        label_column (`str`, *optional*): integer column handed on as `label`; by default `label`, when it is there.

    Returns (when called with a list of rows):
        `dict[str, Tensor]`: `pixel_values` [B, C, H, W] float32, and `index`, `label` [B] int64 where the rows have
        them.

    Raises (when called):
        ValueError: for a missing image column or a missing named label column, or an image that cannot be read.

    Example:

    ```python
    >>> from hf_contrastive.data import EvalCollator, EvalTransform, load_images
    >>> digits = load_images("digits", split="test")
    >>> EvalCollator(EvalTransform(8, channels=1))([digits[0]])["pixel_values"].shape
    torch.Size([1, 1, 8, 8])

    ```
    """

    def __init__(
        self,
        transform: Callable[..., Tensor],
        *,
        image_column: str = "image",
        index_column: str = "index",
        label_column: str | None = None,
    ) -> None:
        self.transform = transform
        self.image_column = image_column
        self.index_column = index_column
        self.label_column = label_column

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        if len(examples) == 0:
            raise ValueError("the batch is empty; expected at least one row")
        images = _column(examples, self.image_column, "image_column")
        index = None
        if self.index_column in examples[0]:
            index = integer_column(_column(examples, self.index_column, "index_column"), self.index_column)
        batch = {"pixel_values": self.transform(images, index)}
        if index is not None:
            batch["index"] = torch.from_numpy(index)
        if self.label_column is not None or "label" in examples[0]:
            column = self.label_column or "label"
            batch["label"] = torch.from_numpy(integer_column(_column(examples, column, "label_column"), column))
        return batch
