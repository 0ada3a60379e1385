"""Records with an image, a text, or both, to embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from hf_contrastive.tensor_utils import pool_modalities


_INPUTS = {"image": ("pixel_values",), "text": ("input_ids", "attention_mask", "token_type_ids")}


@torch.no_grad()
def encode_records(
    model: Any,
    rows: Any,
    collator: Any,
    *,
    batch_size: int = 128,
    device: torch.device | str = "cpu",
    advance: Callable[[int], None] = lambda rows: None,
) -> dict[str, np.ndarray]:
    """Embeddings of both sides of records; zeros where a side lacks.

    Args:
        model ([`DualEncoderModel`]): of any system; its mode is left as it was.
        rows (`datasets.Dataset`): records.
        collator ([`RecordCollator`]): what makes its inputs.
        batch_size (`int`, defaults to 128): records at a time.
        device (defaults to the CPU): where to compute; the model is moved there.
        advance (`Callable`): called with the number of records done, after each batch.

    Returns:
        `dict`: `image`, `text` `[rows, projection_dim]` of length 1; `has_image`, `has_text` bool `[rows]`.
    """
    model.to(device)
    parts: dict[str, list[np.ndarray]] = {"image": [], "text": [], "has_image": [], "has_text": []}
    # no dataloader: it would draw from the random numbers of training
    for start in range(0, len(rows), batch_size):
        size = min(batch_size, len(rows) - start)
        batch = collator([rows[row] for row in range(start, start + size)])
        for side, names in _INPUTS.items():
            given = {name: batch[name].to(device) for name in names if name in batch}
            has = batch.get(f"has_{side}", torch.full((size,), bool(given)))
            found = np.zeros((size, model.config.projection_dim), dtype=np.float32)
            if given:
                chosen = {name: value[has] for name, value in given.items()}
                found[has.numpy()] = model.encode(**chosen).float().cpu().numpy()
            parts[side].append(found)
            parts[f"has_{side}"].append(has.numpy())
        advance(size)
    return {name: np.concatenate(part) for name, part in parts.items()}


def pool_records(encoded: Mapping[str, np.ndarray], image_weight: float) -> np.ndarray:
    """Pooled embeddings of what [`encode_records`] returns.

    Args:
        encoded (`Mapping`): both sides.
        image_weight (`float`): weight of the image; records that lack a side have the other one alone.

    Returns:
        `np.ndarray` `[rows, projection_dim]`, of length 1.
    """
    tensors = {name: torch.from_numpy(value) for name, value in encoded.items()}
    masks = {name: tensors[name] for name in ("has_image", "has_text")}
    return pool_modalities(tensors["image"], tensors["text"], image_weight, **masks).numpy()


@torch.no_grad()
def encode_fused(
    model: Any,
    rows: Any,
    collator: Any,
    *,
    batch_size: int = 128,
    device: torch.device | str = "cpu",
    advance: Callable[[int], None] = lambda rows: None,
) -> np.ndarray:
    """Embeddings of records by a model that makes one vector of picture and text.

    Args:
        model ([`TwoTowerModel`]): whose `encode` takes both, and `has_text`; its mode is left as it was.
        rows (`datasets.Dataset`): records with a picture.
        collator ([`RecordCollator`]): what makes its inputs.
        batch_size (`int`, defaults to 128): records at a time.
        device (defaults to the CPU): where to compute; the model is moved there.
        advance (`Callable`): called with the number of records done, after each batch.

    Returns:
        `np.ndarray` `[rows, dim]`, of length 1.

    Raises:
        ValueError: a record without a picture.
    """
    model.to(device)
    found = []
    # no dataloader: it would draw from the random numbers of training
    for start in range(0, len(rows), batch_size):
        size = min(batch_size, len(rows) - start)
        batch = collator([rows[row] for row in range(start, start + size)])
        has = batch.get("has_image", torch.full((size,), "pixel_values" in batch))
        if not bool(has.all()):
            row = int(batch["index"][~has][0])
            raise ValueError(
                f"record {row} has no picture, which {type(model).__name__} needs; leave it out, or give one"
            )
        given = {name: batch[name].to(device) for name in model.view_inputs if name in batch}
        found.append(model.encode(**given).float().cpu().numpy())
        advance(size)
    return np.concatenate(found)


__all__ = ["encode_fused", "encode_records", "pool_records"]
