"""Configuration of SimSiam."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.models.auto import AutoConfig

from hf_contrastive.families.siamese.configuration_siamese import PredictionConfig


@strict
class SimSiamConfig(PredictionConfig):
    r"""
    Configuration of SimSiam (https://arxiv.org/abs/2011.10566): a predictor and a stop-gradient, nothing else.

    Args:
        backbone_config (`dict` or `PreTrainedConfig`, *optional*):
            Configuration of any transformers vision model. ResNet-50 by default (paper, section 3).
        pooling (`str`, defaults to `"auto"`):
            `"mean"` over positions, `"cls"`, `"pooler"`, or `"auto"`: mean for maps, first token for sequences.
        projection_dims (`list[int]`, defaults to `[2048, 2048, 2048]`): sizes of the head's layers (paper, section 3; two
            layers on CIFAR-10, appendix D).
        projection_batch_norm (`bool`, defaults to `True`): batch norm after hidden layers, of the predictor too (paper,
            section 3).
        projection_last_batch_norm (`bool`, defaults to `True`): batch norm, without scale and shift, after the last layer
            (paper, section 3; without scale and shift: published code).
        predictor_hidden_dim (`int`, defaults to 512): size of the predictor's hidden layer, a quarter of its output (paper,
            section 3).
        frozen_modules (`list[str]`, *optional*): parts that are not trained, for example `["backbone"]`.

    Example:

    ```python
    >>> from hf_contrastive import SimSiamConfig
    >>> SimSiamConfig().projection_dims
    [2048, 2048, 2048]

    ```
    """

    model_type = "simsiam"
    sub_configs_defaults = {"backbone_config": SubConfigSpec(AutoConfig, model_type="resnet")}

    backbone_config: dict | PreTrainedConfig | None = None
    projection_last_batch_norm: bool = True
    predictor_hidden_dim: int = 512

    def __post_init__(self, **kwargs: Any) -> None:
        self.projection_dims = [2048, 2048, 2048] if self.projection_dims is None else self.projection_dims
        super().__post_init__(**kwargs)


__all__ = ["SimSiamConfig"]
