"""Configuration of BYOL."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.models.auto import AutoConfig

from hf_contrastive.families.siamese.configuration_siamese import PredictionConfig, require_momentum


@strict
class BYOLConfig(PredictionConfig):
    r"""
    Configuration of BYOL (https://arxiv.org/abs/2006.07733): a predictor of what a slowly moving target network sees.

    Args:
        backbone_config (`dict` or `PreTrainedConfig`, *optional*):
            Configuration of any transformers vision model. ResNet-50 by default (paper, section 3.1).
        pooling (`str`, defaults to `"auto"`):
            `"mean"` over positions, `"cls"`, `"pooler"`, or `"auto"`: mean for maps, first token for sequences.
        projection_dims (`list[int]`, defaults to `[4096, 256]`): sizes of the head's layers (paper, section 3.2).
        projection_batch_norm (`bool`, defaults to `True`): batch norm after hidden layers, of the predictor too (paper,
            section 3.2).
        projection_last_batch_norm (`bool`, defaults to `False`): batch norm after the last layer; the paper has none.
        predictor_hidden_dim (`int`, defaults to 4096): size of the predictor's hidden layer (paper, section 3.2).
        encoder_momentum (`float`, defaults to 0.996): tau of the target network at the start, from 0 to 1 (paper, section
            3.2; 0.99 for 300 epochs).
        momentum_schedule (`str`, defaults to `"cosine"`): `"cosine"` raises tau to 1 over the training (paper, section
            3.2), `"constant"` keeps it.
        frozen_modules (`list[str]`, *optional*): parts that are not trained, for example `["backbone"]`.

    Example:

    ```python
    >>> from hf_contrastive import BYOLConfig
    >>> BYOLConfig(encoder_momentum=0.99).projection_dims
    [4096, 256]

    ```
    """

    model_type = "byol"
    sub_configs_defaults = {"backbone_config": SubConfigSpec(AutoConfig, model_type="resnet")}

    backbone_config: dict | PreTrainedConfig | None = None
    encoder_momentum: float | int = 0.996
    momentum_schedule: str = "cosine"

    def __post_init__(self, **kwargs: Any) -> None:
        self.projection_dims = [4096, 256] if self.projection_dims is None else self.projection_dims
        super().__post_init__(**kwargs)

    def validate_target(self) -> None:
        """Refuse values with which the target network is not defined."""
        require_momentum(self)


__all__ = ["BYOLConfig"]
