"""Checks of item features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def check_features(features: Mapping[str, Any], sizes: Mapping[str, int], num_items: int) -> dict[str, Tensor]:
    """Features by modality as tensors, or an error that says what does not fit.

    Args:
        features (`Mapping[str, Tensor | np.ndarray]`): by modality `[num_items, dim]`.
        sizes (`Mapping[str, int]`): the modalities that are expected, and their sizes.
        num_items (`int`): items of the catalogue.

    Raises:
        ValueError: other modalities, rows or sizes, or numbers that are not finite.
    """
    if set(features) != set(sizes):
        raise ValueError(
            f"features of {', '.join(sorted(features)) or 'nothing'} were given, but the model has {', '.join(sorted(sizes))} "
            "(feature_dims)."
        )
    found = {}
    for name, matrix in features.items():
        values = torch.as_tensor(matrix)
        if len(values) != num_items:
            raise ValueError(f"{name} features have {len(values)} rows but the catalogue has {num_items} items.")
        if tuple(values.shape) != (num_items, sizes[name]):
            raise ValueError(f"{name} features have shape {list(values.shape)}, expected {[num_items, sizes[name]]}.")
        bad = (~torch.isfinite(values.float()).all(1)).nonzero().flatten()
        if len(bad):
            raise ValueError(f"{name} features: {len(bad)} items have NaN or infinity (first: item {int(bad[0])}).")
        found[name] = values
    return found


__all__ = ["check_features"]
