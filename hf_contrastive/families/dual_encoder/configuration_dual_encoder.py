"""Configuration shared by systems with an image encoder and a text encoder."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.models.auto import AutoConfig

from hf_contrastive.configuration_utils import (
    IMAGE_POOLINGS,
    TEXT_POOLINGS,
    ContrastiveConfig,
    feature_size_of,
    require,
    require_model_type,
)


@strict
class TwoTowerConfig(ContrastiveConfig):
    r"""
    Fields of every system with one image encoder and one text encoder.

    Args:
        vision_config (`dict` or `PreTrainedConfig`, *optional*):
            Configuration of any transformers vision model (`resnet`, `vit`, `clip_vision_model`, ...) or of an image backbone of
            this library (`conv_encoder`, `cifar_resnet`); ResNet-50 by default.
        text_config (`dict` or `PreTrainedConfig`, *optional*):
            Configuration of any transformers text encoder (`bert`, `roberta`, `clip_text_model`, ...); BERT-base by default.
        image_pooling (`str`, defaults to `"auto"`):
            How the image encoder's output becomes one vector: `"mean"` over positions, `"cls"` (first token), `"pooler"` (its own
            `pooler_output`), or `"auto"`: mean for maps, first token for sequences.
        text_pooling (`str`, defaults to `"mean"`):
            How the text encoder's output becomes one vector: `"max"` or `"mean"` over tokens, `"cls"` (first token), `"last"` (last
            token) or `"pooler"` (its own `pooler_output`). Padding never takes part.
        freeze_text_layers (`int`, defaults to 0): first layers of the text encoder that are not trained. They stay in training
            mode, so that their dropout goes on.
        freeze_text_embeddings (`bool`, defaults to `False`): whether the text encoder's embeddings (of tokens, positions and
            types, with their norm) are not trained either.
        frozen_modules (`list[str]`, *optional*): whole parts that are not trained and stay in eval mode, for example
            `["vision_model"]`.
    """

    sub_configs_defaults = {
        "vision_config": SubConfigSpec(AutoConfig, model_type="resnet"),
        "text_config": SubConfigSpec(AutoConfig, model_type="bert"),
    }

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    image_pooling: str = "auto"
    text_pooling: str = "mean"
    freeze_text_layers: int | None = 0
    freeze_text_embeddings: bool = False
    #: what `text_pooling` may be; a system that knows further ways says so here
    text_poolings = TEXT_POOLINGS

    def __post_init__(self, **kwargs: Any) -> None:
        require_model_type(self.vision_config, "resnet", "vision_config")
        require_model_type(self.text_config, "bert", "text_config")
        super().__post_init__(**kwargs)

    @property
    def num_channels(self) -> int:
        """Channels of the images that the image encoder takes."""
        return getattr(self.vision_config, "num_channels", 3)

    @property
    def image_dim(self) -> int:
        """Size of the image encoder's pooled features."""
        return feature_size_of(self.vision_config, "vision_config")

    @property
    def text_dim(self) -> int:
        """Size of the text encoder's pooled features."""
        return feature_size_of(self.text_config, "text_config")

    @property
    def max_text_length(self) -> int | None:
        """Tokens of the longest text that the text encoder takes; `None` where its configuration names no limit."""
        limit = getattr(self.text_config, "max_position_embeddings", None)
        if limit is None:
            return None
        # RoBERTa and its kin count positions from behind the padding token's
        offset = 2 if getattr(self.text_config, "model_type", "") in _OFFSET_POSITIONS else 0
        return limit - offset

    def validate_encoders(self) -> None:
        """Refuse poolings that do not exist, and layers that cannot be frozen."""
        for name, known in (("image_pooling", IMAGE_POOLINGS), ("text_pooling", self.text_poolings)):
            require(getattr(self, name) in known, name, getattr(self, name), f"one of {', '.join(known)}")
        layers = getattr(self.text_config, "num_hidden_layers", None)
        frozen = self.freeze_text_layers or 0
        allowed = "0 or more" if layers is None else f"from 0 to {layers}, the layers of the text encoder"
        require(0 <= frozen <= (frozen if layers is None else layers), "freeze_text_layers", frozen, allowed)


@strict
class DualEncoderConfig(TwoTowerConfig):
    r"""
    Fields of every system with one image encoder, one text encoder and a projection from each into a common space.

    Args:
        vision_config (`dict` or `PreTrainedConfig`, *optional*):
            Configuration of any transformers vision model (`resnet`, `vit`, `clip_vision_model`, ...) or of an image backbone of
            this library (`conv_encoder`, `cifar_resnet`); ResNet-50 by default.
        text_config (`dict` or `PreTrainedConfig`, *optional*):
            Configuration of any transformers text encoder (`bert`, `roberta`, `clip_text_model`, ...); BERT-base by default.
        image_pooling (`str`, defaults to `"auto"`):
            How the image encoder's output becomes one vector: `"mean"` over positions, `"cls"` (first token), `"pooler"` (its own
            `pooler_output`), or `"auto"`: mean for maps, first token for sequences.
        text_pooling (`str`, defaults to `"mean"`):
            How the text encoder's output becomes one vector: `"max"` or `"mean"` over tokens, `"cls"` (first token), `"last"` (last
            token) or `"pooler"` (its own `pooler_output`). Padding never takes part.
        projection_dim (`int`, defaults to 512): size of the common space.
        temperature (`float`, defaults to 0.07): divides the cosine similarities; its first value where it is learned.
        learn_temperature (`bool`, defaults to `True`): train 1 / temperature, through its logarithm.
        max_logit_scale (`float`, defaults to 100): ceiling of a learned 1 / temperature
            (https://arxiv.org/abs/2103.00020, section 2.5).
        freeze_text_layers (`int`, defaults to 0): first layers of the text encoder that are not trained. They stay in training
            mode, so that their dropout goes on.
        freeze_text_embeddings (`bool`, defaults to `False`): whether the text encoder's embeddings (of tokens, positions and
            types, with their norm) are not trained either.
        frozen_modules (`list[str]`, *optional*): whole parts that are not trained and stay in eval mode, for example
            `["vision_model"]`.
    """

    # [images, texts] matrices of a batch; an evaluation that joined batches would pad them with nonsense
    keys_to_ignore_at_inference = ["logits_per_image", "logits_per_text"]

    projection_dim: int = 512
    temperature: float | int = 0.07
    learn_temperature: bool = True
    max_logit_scale: float | int = 100.0
    #: layers of both projection heads but the last are as wide as their input, with ReLU; a bias in the last
    projection_layers = 1
    projection_bias = False

    def validate_space(self) -> None:
        """Refuse values with which common space and temperature are not defined."""
        require(self.projection_dim > 0, "projection_dim", self.projection_dim, "1 or more")
        require(self.temperature > 0, "temperature", self.temperature, "a number above 0 (0.01 to 1 is usual)")
        ceiling = self.max_logit_scale
        require(ceiling > 0, "max_logit_scale", ceiling, "a number above 0")
        if self.learn_temperature:
            require(
                1 / self.temperature <= ceiling,
                "temperature",
                self.temperature,
                f"at least 1 / max_logit_scale = {1 / ceiling:g}",
            )


_OFFSET_POSITIONS = (
    "roberta",
    "xlm-roberta",
    "camembert",
    "mpnet",
    "roberta-prelayernorm",
    "data2vec-text",
    "longformer",
)


__all__ = ["DualEncoderConfig", "TwoTowerConfig"]
