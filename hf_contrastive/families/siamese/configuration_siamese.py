"""Configuration shared by systems that compare views of one image."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from hf_contrastive.configuration_utils import (
    IMAGE_POOLINGS,
    ContrastiveConfig,
    feature_size_of,
    require,
    require_model_type,
)


@strict
class SiameseConfig(ContrastiveConfig):
    r"""
    Fields of every system with one image backbone and one projection head.

    Args:
        backbone_config (`dict` or `PreTrainedConfig`, *optional*):
            Configuration of any transformers vision model (`resnet`, `vit`, `convnext`, ...) or of a backbone of this
            library (`conv_encoder`, `cifar_resnet`).
        pooling (`str`, defaults to `"auto"`):
            How the backbone's output becomes one vector: `"mean"` over positions, `"cls"` (first token), `"pooler"`
            (what the backbone itself returns as `pooler_output`), or `"auto"`: mean for maps, first token for
            sequences. Trainable poolers, as ViT's tanh layer, are not built unless `"pooler"` asks for them.
        projection_dims (`list[int]`, *optional*): output sizes of the projection head's layers.
        projection_batch_norm (`bool`, defaults to `True`): batch norm after the head's hidden layers.
        projection_last_batch_norm (`bool`, defaults to `False`): batch norm, without scale and shift, after the last.
    """

    sub_configs_defaults = {}

    backbone_config: dict | PreTrainedConfig | None = None
    pooling: str = "auto"
    projection_dims: list[int] | None = None
    projection_batch_norm: bool = True
    projection_last_batch_norm: bool = False
    #: whether the head's last layer has a bias; objectives that centre the projections give it no gradient
    projection_last_bias = True
    #: scale and shift in the batch norms of the head's hidden layers, and a bias before them
    projection_hidden_affine = True
    projection_hidden_bias = False

    def __post_init__(self, **kwargs: Any) -> None:
        require_model_type(self.backbone_config, "resnet")
        super().__post_init__(**kwargs)

    @property
    def num_channels(self) -> int:
        """Channels of the images that the backbone takes."""
        return getattr(self.backbone_config, "num_channels", 3)

    @property
    def embed_dim(self) -> int:
        """Size of the pooled features."""
        return feature_size_of(self.backbone_config)

    def validate_head(self) -> None:
        """Refuse values with which features and head are not defined."""
        require(
            bool(self.projection_dims) and min(self.projection_dims) > 0,
            "projection_dims",
            self.projection_dims,
            "a list of one or more positive numbers",
        )
        require(self.pooling in IMAGE_POOLINGS, "pooling", self.pooling, f"one of {', '.join(IMAGE_POOLINGS)}")


@strict
class TemperatureConfig(SiameseConfig):
    r"""
    Fields of systems of the family that divide similarities by a temperature.

    Args:
        temperature (`float`, defaults to 0.1): divides the cosine similarities; above 0.
    """

    sub_configs_defaults = {}

    temperature: float | int = 0.1

    def validate_temperature(self) -> None:
        """Refuse values with which the objective is not defined."""
        require(self.temperature > 0, "temperature", self.temperature, "a number above 0 (0.05 to 1 is usual)")


@strict
class PredictionConfig(SiameseConfig):
    r"""
    Fields of systems of the family whose views predict each other, with a two-layer predictor.

    Args:
        predictor_hidden_dim (`int`, defaults to 4096): size of the predictor's hidden layer.
    """

    sub_configs_defaults = {}

    predictor_hidden_dim: int = 4096

    def validate_predictor(self) -> None:
        """Refuse sizes with which the predictor is not defined."""
        require(self.predictor_hidden_dim >= 1, "predictor_hidden_dim", self.predictor_hidden_dim, "1 or more")


def require_momentum(config: Any) -> None:
    """Refuse values of `encoder_momentum` and `momentum_schedule` with which a momentum encoder is not defined.

    Args:
        config ([`SiameseConfig`]): with these two fields.

    Raises:
        ValueError: names the field, the value and what is allowed.
    """
    require(0 <= config.encoder_momentum <= 1, "encoder_momentum", config.encoder_momentum, "from 0 to 1")
    schedules = ("constant", "cosine")
    require(
        config.momentum_schedule in schedules,
        "momentum_schedule",
        config.momentum_schedule,
        f"one of {', '.join(schedules)}",
    )
