"""From what training wraps around a model back to the model itself."""

from __future__ import annotations

from typing import Any

from torch import nn


def unwrap_model(model: Any) -> Any:
    """The model of this library inside DistributedDataParallel, `torch.compile` and PEFT wrappers.

    Args:
        model (`torch.nn.Module`): wrapped or not.

    Returns:
        The innermost model, the one with `embed_views`, `compute_objective`, `encode` and `after_optimizer_step`. LoRA
        layers live inside it and stay active.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.training import unwrap_model
    >>> layer = torch.nn.Linear(2, 2)
    >>> unwrap_model(torch.nn.DataParallel(layer)) is layer
    True

    ```
    """
    inner = model
    while True:
        if hasattr(inner, "_orig_mod"):  # torch.compile
            inner = inner._orig_mod
        elif hasattr(inner, "get_base_model"):  # PEFT
            inner = inner.get_base_model()
        elif isinstance(inner, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            inner = inner.module
        else:
            return inner
