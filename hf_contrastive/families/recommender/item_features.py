"""Features of items: tables of them in a model, and their checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class HasItemFeatures:
    """Mixin, before `RecommenderModel`: for every modality of `config.feature_dims` a table `features` and a layer `projections`."""

    def build_features(self: Any) -> None:
        """Make tables and layers; to be called in `build_parts`."""
        config = self.config
        self.features = nn.ModuleDict(
            {name: nn.Embedding(config.num_items, dim) for name, dim in config.feature_dims.items()}
        )
        self.projections = nn.ModuleDict(
            {name: nn.Linear(dim, config.hidden_size) for name, dim in config.feature_dims.items()}
        )

    def set_features(self: Any, features: Mapping[str, Any]) -> None:
        """Give the items' features.

        Args:
            features (`Mapping[str, Tensor | np.ndarray]`): by modality `[num_items, dim]`, row = item.

        Raises:
            ValueError: modalities, rows or sizes that are not those of the configuration, or numbers that are not finite.
        """
        checked = check_features(features, self.config.feature_dims, self.config.num_items)
        with torch.no_grad():
            for name, values in checked.items():
                self.get_parameter(f"features.{name}.weight").copy_(values)
        self.vectors_ready.zero_()


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


__all__ = ["HasItemFeatures", "check_features"]
