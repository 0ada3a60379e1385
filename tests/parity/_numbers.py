"""What evaluation functions return, as the comparison wants it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def as_tensors(outputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Every number and array as a tensor; a plain number in float64, where torch would round it to float32."""
    return {
        name: torch.tensor(value, dtype=torch.float64) if isinstance(value, float) else torch.as_tensor(value)
        for name, value in outputs.items()
    }
