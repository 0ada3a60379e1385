"""Configuration of SwAV."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.models.auto import AutoConfig

from hf_contrastive.configuration_utils import require
from hf_contrastive.families.siamese.configuration_siamese import TemperatureConfig


@strict
class SwAVConfig(TemperatureConfig):
    r"""
    Configuration of SwAV (https://arxiv.org/abs/2006.09882): views predict each other's assignment to prototypes.

    Args:
        backbone_config (`dict` or `PreTrainedConfig`, *optional*):
            Configuration of any transformers vision model. ResNet-50 by default (paper, section 4).
        pooling (`str`, defaults to `"auto"`):
            `"mean"` over positions, `"cls"`, `"pooler"`, or `"auto"`: mean for maps, first token for sequences.
        projection_dims (`list[int]`, defaults to `[2048, 128]`): sizes of the head's layers (paper, appendix A).
        projection_batch_norm (`bool`, defaults to `True`): batch norm after hidden layers (published code).
        projection_last_batch_norm (`bool`, defaults to `False`): batch norm after the last layer.
        temperature (`float`, defaults to 0.1): divides the scores of the predicted assignment (paper, appendix A).
        num_prototypes (`int`, defaults to 3000): prototypes that features are assigned to, 2 or more (paper, appendix A).
        epsilon (`float`, defaults to 0.05): divides the scores in Sinkhorn; smaller assigns harder (paper, appendix A).
        sinkhorn_iterations (`int`, defaults to 3): rounds of Sinkhorn, 1 or more (paper, appendix A).
        num_assigning_views (`int`, defaults to 2): how many of the global views, the first ones, are assigned; the other
            views and the local crops only predict (paper, section 3.3).
        queue_size (`int`, defaults to 0): past features for each assigning view that are assigned along with the batch, at
            least a global batch; 0 is none. For batches smaller than the number of prototypes; the paper's is 3840 for 256
            images (appendix A).
        queue_start_steps (`int`, defaults to 0): optimiser steps before features enter the queue (published code: 15
            epochs).
        freeze_prototypes_steps (`int`, defaults to 313): optimiser steps at the start in which the prototypes do not move
            (published code: 313 iterations).
        frozen_modules (`list[str]`, *optional*): parts that are not trained, for example `["backbone"]`.

    Example:

    ```python
    >>> from hf_contrastive import SwAVConfig
    >>> SwAVConfig(num_prototypes=500).temperature
    0.1

    ```
    """

    model_type = "swav"
    sub_configs_defaults = {"backbone_config": SubConfigSpec(AutoConfig, model_type="resnet")}

    backbone_config: dict | PreTrainedConfig | None = None
    num_prototypes: int = 3000
    epsilon: float | int = 0.05
    sinkhorn_iterations: int = 3
    num_assigning_views: int = 2
    queue_size: int = 0
    queue_start_steps: int = 0
    freeze_prototypes_steps: int = 313

    def __post_init__(self, **kwargs: Any) -> None:
        self.projection_dims = [2048, 128] if self.projection_dims is None else self.projection_dims
        super().__post_init__(**kwargs)

    def validate_assignment(self) -> None:
        """Refuse values with which prototypes and assignments are not defined."""
        require(self.num_prototypes >= 2, "num_prototypes", self.num_prototypes, "2 or more")
        require(self.epsilon > 0, "epsilon", self.epsilon, "a number above 0 (0.03 to 0.1 is usual)")
        require(self.sinkhorn_iterations >= 1, "sinkhorn_iterations", self.sinkhorn_iterations, "1 or more")
        require(self.num_assigning_views >= 1, "num_assigning_views", self.num_assigning_views, "1 or more")
        for name in ("queue_size", "queue_start_steps", "freeze_prototypes_steps"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")


__all__ = ["SwAVConfig"]
