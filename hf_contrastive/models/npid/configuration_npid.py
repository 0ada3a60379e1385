"""Configuration of NPID."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.models.auto import AutoConfig

from hf_contrastive.configuration_utils import require
from hf_contrastive.families.siamese.configuration_siamese import TemperatureConfig


@strict
class NPIDConfig(TemperatureConfig):
    r"""
    Configuration of NPID, non-parametric instance discrimination (https://arxiv.org/abs/1805.01978): every image is a class
    of its own, whose weight is the image's row in a memory bank.

    Args:
        backbone_config (`dict` or `PreTrainedConfig`, *optional*):
            Configuration of any transformers vision model. ResNet-50 by default (paper, section 4.2).
        pooling (`str`, defaults to `"auto"`):
            `"mean"` over positions, `"cls"`, `"pooler"`, or `"auto"`: mean for maps, first token for sequences.
        projection_dims (`list[int]`, defaults to `[128]`): sizes of the head's layers (paper, section 3.1).
        projection_batch_norm (`bool`, defaults to `False`): batch norm after hidden layers; the paper has none of either.
        projection_last_batch_norm (`bool`, defaults to `False`): batch norm after the last layer.
        temperature (`float`, defaults to 0.07): paper, section 4.
        num_samples (`int`, defaults to 1281167): images in the training set, which is the length of the memory bank; that
            of ImageNet by default.
        bank_momentum (`float`, defaults to 0.5): weight of the NEW embedding in a row, above 0 and at most 1 (published code
            of InterCLR).
        num_negatives (`int`, defaults to 65536): rows of other images that are drawn for each view; the published code of
            InterCLR has 65536 with this loss, the paper 4096 with its noise-contrastive one (section 3.2).
        frozen_modules (`list[str]`, *optional*): parts that are not trained, for example `["backbone"]`.

    Example:

    ```python
    >>> from hf_contrastive import NPIDConfig
    >>> NPIDConfig(num_samples=5000, num_negatives=1024).temperature
    0.07

    ```
    """

    model_type = "npid"
    sub_configs_defaults = {"backbone_config": SubConfigSpec(AutoConfig, model_type="resnet")}

    backbone_config: dict | PreTrainedConfig | None = None
    projection_batch_norm: bool = False
    temperature: float | int = 0.07
    num_samples: int = 1281167
    bank_momentum: float | int = 0.5
    num_negatives: int = 65536

    def __post_init__(self, **kwargs: Any) -> None:
        self.projection_dims = [128] if self.projection_dims is None else self.projection_dims
        super().__post_init__(**kwargs)

    def validate_bank(self) -> None:
        """Refuse values with which bank and negatives are not defined."""
        require(self.num_samples >= 2, "num_samples", self.num_samples, "2 or more, the length of the training set")
        require(0 < self.bank_momentum <= 1, "bank_momentum", self.bank_momentum, "above 0 and at most 1")
        require(self.num_negatives >= 1, "num_negatives", self.num_negatives, "1 or more")


__all__ = ["NPIDConfig"]
