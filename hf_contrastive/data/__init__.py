"""Loaders, views, collators and samplers. This room knows no model.

`load_images` -> `datasets` rows -> `MultiViewCollator(SimCLRViews(...))` -> `pixel_values` [B, V, C, H, W].
`load_texts` -> `token_blocks` -> `TextCollator` -> `input_ids` [B, L].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_contrastive.data.collators import EvalCollator, MultiViewCollator
from hf_contrastive.data.images import decode_image, image_to_array, images_to_arrays
from hf_contrastive.data.processors import ProcessorTransform, image_processor
from hf_contrastive.data.random_numbers import stateless_uniform
from hf_contrastive.data.samplers import (
    DistinctLabelBatchSampler,
    duplicates_per_batch,
    guided_order,
    set_dataloader_epoch,
)
from hf_contrastive.data.schema import column_names_of, integer_column, missing_column, require_columns
from hf_contrastive.data.views import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    EvalTransform,
    SimCLRViews,
)
from hf_contrastive.utils import import_later


if TYPE_CHECKING:
    from hf_contrastive.data.loading import list_splits, load_images
    from hf_contrastive.data.preload import PreloadedImages
    from hf_contrastive.data.texts import TextCollator, list_text_splits, load_texts, token_blocks, train_tokenizer

# imported on first use: `datasets` takes seconds, and a spawned dataloader worker needs none of it
_LATER = {
    "PreloadedImages": "hf_contrastive.data.preload",
    "list_splits": "hf_contrastive.data.loading",
    "load_images": "hf_contrastive.data.loading",
    "TextCollator": "hf_contrastive.data.texts",
    "list_text_splits": "hf_contrastive.data.texts",
    "load_texts": "hf_contrastive.data.texts",
    "token_blocks": "hf_contrastive.data.texts",
    "train_tokenizer": "hf_contrastive.data.texts",
}

__all__ = [
    "CIFAR10_MEAN",
    "CIFAR10_STD",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "DistinctLabelBatchSampler",
    "EvalCollator",
    "EvalTransform",
    "MultiViewCollator",
    "PreloadedImages",
    "ProcessorTransform",
    "SimCLRViews",
    "TextCollator",
    "column_names_of",
    "decode_image",
    "duplicates_per_batch",
    "guided_order",
    "image_processor",
    "image_to_array",
    "images_to_arrays",
    "integer_column",
    "list_splits",
    "list_text_splits",
    "load_images",
    "load_texts",
    "missing_column",
    "require_columns",
    "set_dataloader_epoch",
    "stateless_uniform",
    "token_blocks",
    "train_tokenizer",
]


__getattr__ = import_later(__name__, _LATER)
