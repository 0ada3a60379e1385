"""Configuration of SimCLR."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.models.auto import AutoConfig

from hf_contrastive.families.siamese.configuration_siamese import TemperatureConfig


@strict
class SimCLRConfig(TemperatureConfig):
    r"""
    Configuration of SimCLR (https://arxiv.org/abs/2002.05709): any vision backbone and a two-layer projection head.

    Args:
        backbone_config (`dict` or `PreTrainedConfig`, *optional*):
            Configuration of any transformers vision model. ResNet-50 by default (paper, section 2.1).
        pooling (`str`, defaults to `"auto"`):
            `"mean"` over positions, `"cls"`, `"pooler"`, or `"auto"`: mean for maps, first token for sequences.
        projection_dims (`list[int]`, defaults to `[2048, 128]`):
            Sizes of the head's layers (paper, section 2.1 and appendix B.6: one hidden layer, 128-d output).
        projection_batch_norm (`bool`, defaults to `True`): batch norm after hidden layers (official code).
        projection_last_batch_norm (`bool`, defaults to `False`): batch norm after the last layer.
        temperature (`float`, defaults to 0.1): paper, appendix B.6 (ImageNet); 0.5 is the paper's best on CIFAR-10.
        frozen_modules (`list[str]`, *optional*): parts that are not trained, for example `["backbone"]`.

    Example:

    ```python
    >>> from hf_contrastive import SimCLRConfig
    >>> SimCLRConfig(backbone_config={"model_type": "vit"}, temperature=0.5).embed_dim
    768

    ```
    """

    model_type = "simclr"
    sub_configs_defaults = {"backbone_config": SubConfigSpec(AutoConfig, model_type="resnet")}

    backbone_config: dict | PreTrainedConfig | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.projection_dims = [2048, 128] if self.projection_dims is None else self.projection_dims
        super().__post_init__(**kwargs)


__all__ = ["SimCLRConfig"]
