"""Configuration of MoCo."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.models.auto import AutoConfig

from hf_contrastive.configuration_utils import require
from hf_contrastive.families.siamese.configuration_siamese import TemperatureConfig


@strict
class MoCoConfig(TemperatureConfig):
    r"""
    Configuration of MoCo v2 (https://arxiv.org/abs/2003.04297): a queue of past keys, encoded by a slowly moving encoder.

    MoCo v1 (https://arxiv.org/abs/1911.05722) has `projection_dims=[128]` and `temperature=0.07`.

    Args:
        backbone_config (`dict` or `PreTrainedConfig`, *optional*):
            Configuration of any transformers vision model. ResNet-50 by default (paper, section 3).
        pooling (`str`, defaults to `"auto"`):
            `"mean"` over positions, `"cls"`, `"pooler"`, or `"auto"`: mean for maps, first token for sequences.
        projection_dims (`list[int]`, defaults to `[2048, 128]`): sizes of the head's layers (MoCo v2, section 3).
        projection_batch_norm (`bool`, defaults to `False`): batch norm after hidden layers; the paper has none.
        projection_last_batch_norm (`bool`, defaults to `False`): batch norm after the last layer.
        temperature (`float`, defaults to 0.2): MoCo v2, section 3; 0.07 in MoCo v1.
        queue_size (`int`, defaults to 65536): keys in the queue, a multiple of the global batch (MoCo, section 4).
        encoder_momentum (`float`, defaults to 0.999): m of the momentum encoder, from 0 to 1 (MoCo, section 4.1).
        shuffle_batch_norm (`bool`, defaults to `True`): encode the keys in an order shuffled over the processes (MoCo,
            section 3.3); without effect in a single process.
        frozen_modules (`list[str]`, *optional*): parts that are not trained, for example `["backbone"]`.

    Example:

    ```python
    >>> from hf_contrastive import MoCoConfig
    >>> MoCoConfig(queue_size=4096).temperature
    0.2

    ```
    """

    model_type = "moco"
    sub_configs_defaults = {"backbone_config": SubConfigSpec(AutoConfig, model_type="resnet")}

    backbone_config: dict | PreTrainedConfig | None = None
    projection_batch_norm: bool = False
    temperature: float | int = 0.2
    queue_size: int = 65536
    encoder_momentum: float | int = 0.999
    shuffle_batch_norm: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        self.projection_dims = [2048, 128] if self.projection_dims is None else self.projection_dims
        super().__post_init__(**kwargs)

    def validate_queue(self) -> None:
        """Refuse values with which queue and momentum encoder are not defined."""
        require(self.queue_size >= 1, "queue_size", self.queue_size, "1 or more, a multiple of the global batch")
        require(0 <= self.encoder_momentum <= 1, "encoder_momentum", self.encoder_momentum, "from 0 to 1")


__all__ = ["MoCoConfig"]
