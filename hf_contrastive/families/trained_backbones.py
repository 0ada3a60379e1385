"""How every family starts from a trained backbone."""

from __future__ import annotations

import inspect
import os
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_MAPPING


def without_pooler(config: PreTrainedConfig) -> dict[str, Any]:
    """Options that leave out a trainable pooler which nothing would use: it would get no gradient.

    Args:
        config (`PreTrainedConfig`): of the backbone.

    Returns:
        `dict`: for `AutoModel.from_config` and `from_pretrained`; empty where the backbone has no such option.
    """
    model_class = MODEL_MAPPING.get(type(config), None)
    accepted = {} if model_class is None else inspect.signature(model_class.__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in accepted else {}


def load_backbone(
    backbone: str | os.PathLike | nn.Module, auto_class: Any = AutoModel, pooler: bool = False
) -> tuple[Any, list[str]]:
    """A trained backbone, from safetensors, in float32.

    Args:
        backbone (`str`, `Path` or `PreTrainedModel`): a folder, a hub id, or the model itself.
        auto_class (defaults to `AutoModel`): what opens it.
        pooler (`bool`, defaults to `False`): with its trainable pooler, if it has one.

    Returns:
        `(model, names of tensors that the checkpoint does not hold)`; transformers would only warn, and draw them.
    """
    if not isinstance(backbone, (str, os.PathLike)):
        return backbone, []
    options = {} if pooler or auto_class is not AutoModel else without_pooler(AutoConfig.from_pretrained(backbone))
    model, info = auto_class.from_pretrained(
        backbone, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **options
    )
    return model, sorted(info["missing_keys"])


def fill_backbone(
    model: Any, trained: nn.Module, missing: list[str], what: str = "backbone", part: str = "backbone"
) -> None:
    """Copy a trained backbone's weights into a model, and let what training builds start from them too.

    What the source has beyond the model's backbone (an unused pooler, a classification head) is left behind.

    Args:
        model (`ContrastivePreTrainedModel`): changed in place.
        trained (`nn.Module`): the source.
        missing (`list[str]`): of [`load_backbone`].
        what (`str`, defaults to `"backbone"`): what a user calls it, for the message.
        part (`str`, defaults to `"backbone"`): the part of the model that is filled.

    Raises:
        ValueError: the source lacks tensors that the backbone has; the first one is named.
    """
    target = getattr(model, part)
    missing = missing or list(target.load_state_dict(trained.state_dict(), strict=False).missing_keys)
    if missing:
        raise ValueError(
            f"the given {what} has no weights for {len(missing)} tensors of {type(target).__name__}, for example "
            f"{missing[0]!r}; give a checkpoint of the same architecture."
        )
    for _, part in model.training_state():
        part.init_state(model)


__all__ = ["fill_backbone", "load_backbone", "without_pooler"]
