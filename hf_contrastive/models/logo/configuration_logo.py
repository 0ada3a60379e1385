"""Configuration of the textual-visual logo encoder."""

import math
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.models.auto import AutoConfig

from hf_contrastive.configuration_utils import require
from hf_contrastive.families.dual_encoder.configuration_dual_encoder import TwoTowerConfig


#: what the fused vector is made of
MODALITIES = ("both", "image", "text")
#: objectives
LOSS_TYPES = ("supcon", "triplet")
#: a small encoder of characters: what a scene-text reader gets wrong in a word hurts few of them
CHARACTER_ENCODER = {
    "vocab_size": 47,
    "embedding_size": 64,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "max_position_embeddings": 32,
}


@strict
class LogoConfig(TwoTowerConfig):
    r"""
    Configuration of the contrastive multi-view textual-visual encoder of logos (https://arxiv.org/abs/2211.12926). Its authors
    published no training code: the ResNet-50 is from memory of the paper, values marked "ours" were chosen for this library.

    Args:
        vision_config (`dict` or `PreTrainedConfig`, *optional*): the image encoder, any vision model; ResNet-50 by default.
        text_config (`dict` or `PreTrainedConfig`, *optional*): the encoder of the text that was read in the logo, any text encoder; by
            default a transformer over characters of 2 layers, 128 wide, with embeddings of 64 (ours).
        image_pooling (`str`, defaults to `"auto"`): `"mean"`, `"cls"`, `"pooler"`, or `"auto"`: mean for maps, first token for
            sequences.
        text_pooling (`str`, defaults to `"mean"`): `"max"` or `"mean"` over tokens (ours), `"cls"`, `"last"` or `"pooler"`.
        hidden_dim (`int`, defaults to 512): width of the layer between both features and the embedding (ours).
        projection_dim (`int`, defaults to 128): size of the embedding (ours).
        temperature (`float`, defaults to 0.1): divides the cosine similarities; fixed (ours).
        modalities (`str`, defaults to `"both"`): `"both"`, or `"image"` or `"text"` alone: the other one's features are zeros in the
            fused vector, and its encoder is neither run nor trained.
        loss_type (`str`, defaults to `"supcon"`): the loss over all views of the batch, or `"triplet"`, what it is compared with.
        triplet_margin (`float`, defaults to 0.3): of the triplet loss, a Euclidean distance from 0 to 2 (ours).
        freeze_text_layers (`int`, defaults to 0): first layers of the text encoder that are not trained.
        freeze_text_embeddings (`bool`, defaults to `False`): whether its embeddings are not trained either.
        frozen_modules (`list[str]`, *optional*): as in [`ContrastiveConfig`].

    Example:

    ```python
    >>> from hf_contrastive import LogoConfig
    >>> config = LogoConfig()
    >>> config.vision_config.model_type, config.image_dim, config.text_dim, config.projection_dim
    ('resnet', 2048, 128, 128)

    ```
    """

    model_type = "logo"
    sub_configs_defaults = TwoTowerConfig.sub_configs_defaults

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    hidden_dim: int = 512
    projection_dim: int = 128
    temperature: float | int = 0.1
    modalities: str = "both"
    loss_type: str = "supcon"
    triplet_margin: float | int = 0.3

    def __post_init__(self, **kwargs: Any) -> None:
        if self.text_config is None:
            self.text_config = AutoConfig.for_model("electra", **CHARACTER_ENCODER)
        super().__post_init__(**kwargs)

    def validate_fusion(self) -> None:
        """Refuse sizes and parts that do not exist."""
        for name in ("hidden_dim", "projection_dim"):
            require(getattr(self, name) > 0, name, getattr(self, name), "1 or more")
        require(self.modalities in MODALITIES, "modalities", self.modalities, f"one of {', '.join(MODALITIES)}")

    def validate_objective(self) -> None:
        """Refuse an objective that does not exist, and values with which it is not defined."""
        require(self.loss_type in LOSS_TYPES, "loss_type", self.loss_type, f"one of {', '.join(LOSS_TYPES)}")
        require(self.temperature > 0, "temperature", self.temperature, "a number above 0 (0.05 to 0.5 is usual)")
        margin = self.triplet_margin
        require(math.isfinite(margin) and margin >= 0, "triplet_margin", margin, "a distance of 0 or more, up to 2")


__all__ = ["CHARACTER_ENCODER", "LOSS_TYPES", "MODALITIES", "LogoConfig"]
