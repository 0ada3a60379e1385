"""What the adapters of recommenders share: models from stored tables."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def build(model_class: Any, config: Any, parameters: dict[str, Tensor], inputs: dict[str, Tensor]) -> Any:
    """A model in float64 with stored parameters (ours by name) and the stored training pairs."""
    model = model_class(config).double()
    with torch.no_grad():
        for name, value in parameters.items():
            model.get_parameter(name).copy_(value)
    if "train_users" in inputs:
        model.set_interactions(inputs["train_users"], inputs["train_items"])
    return model


def sizes(config: dict[str, Any], width: str = "embedding_size") -> dict[str, Any]:
    """Sizes of the tables in the words of the library."""
    return {"num_users": config["n_users"], "num_items": config["n_items"], "hidden_size": config[width]}
