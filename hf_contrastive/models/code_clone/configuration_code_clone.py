"""Configuration of contrastive code clone detection."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.models.auto import AutoConfig

from hf_contrastive.backbones.configuration_code_encoders import (
    CodeGraphConfig,
    CodePathsConfig,
    CodeTransformerConfig,
)
from hf_contrastive.configuration_utils import ContrastiveConfig, feature_size_of, require, require_model_type


#: kind of encoder -> configuration of the paper's
ENCODERS = {"text": CodeTransformerConfig, "ast": CodePathsConfig, "graph": CodeGraphConfig}
OBJECTIVES = ("simclr", "moco", "swav")
#: temperature of every objective in the official code
_TEMPERATURES = {"simclr": 0.1, "moco": 0.07, "swav": 0.1}


@strict
class CodeCloneConfig(ContrastiveConfig):
    r"""
    Configuration of contrastive code clone detection (https://arxiv.org/abs/2206.08726): an encoder of programs as text, paths
    of the syntax tree or graph, trained on pairs of programs that do the same by SimCLR, MoCo or SwAV.

    Args:
        encoder (`str`, defaults to `"text"`): what a program is given as: `"text"`, `"ast"` (paths of the syntax tree) or
            `"graph"` (section 3.2).
        ssl (`str`, defaults to `"simclr"`): the objective, `"simclr"`, `"moco"` or `"swav"` (section 3.3).
        backbone_config (`dict` or `PreTrainedConfig`, *optional*):
            Configuration of the encoder: by default the paper's (`code_transformer`, `code_paths`, `code_graph`); for
            `"text"` any text encoder of transformers (`bert`, `roberta`, ...).
        pooling (`str`, defaults to `"auto"`): how a text encoder's states become one vector: `"cls"` (first token), `"mean"`
            over tokens, or `"auto"`: the first token (official code). Paths and graphs have their own pooling.
        projection_dims (`list[int]`, *optional*): output sizes of the projection head's layers; by default `[128, 128]`,
            and `[]` (the embeddings themselves are compared) for MoCo (official code).
        projection_batch_norm (`bool`, defaults to `True`): batch norm after the head's hidden layers (official code).
        normalize_features (`bool`, defaults to `True`): SimCLR projects features of length 1 (official code); MoCo and SwAV
            project them as they are.
        temperature (`float`, *optional*): divides the similarities; by default 0.1 for SimCLR and SwAV, 0.07 for MoCo
            (official code).
        queue_size (`int`, defaults to 15360): MoCo's keys in the queue, a multiple of the global batch (official code).
        encoder_momentum (`float`, defaults to 0.999): m of MoCo's momentum encoder, from 0 to 1 (official code).
        num_prototypes (`int`, defaults to 500): SwAV's prototypes (official code).
        sinkhorn_epsilon (`float`, defaults to 0.05): entropy of SwAV's assignments, above 0 (official code).
        sinkhorn_iterations (`int`, defaults to 3): rounds of scaling, 1 or more (official code).
        freeze_prototypes_steps (`int`, defaults to 0): optimiser steps at the start in which the prototypes do not move (the
            official code names one epoch, but its freezing has no effect).
        mean_over_prototypes (`bool`, defaults to `False`): divide SwAV's loss by the number of prototypes, as the official
            code does, which takes a mean where SwAV has a sum.
        frozen_modules (`list[str]`, *optional*): as in [`ContrastiveConfig`].

    Example:

    ```python
    >>> from hf_contrastive import CodeCloneConfig
    >>> config = CodeCloneConfig(encoder="graph", ssl="moco")
    >>> config.backbone_config.model_type, config.temperature
    ('code_graph', 0.07)

    ```
    """

    model_type = "code_clone"
    sub_configs_defaults = {"backbone_config": SubConfigSpec(AutoConfig, model_type="code_transformer")}

    encoder: str = "text"
    ssl: str = "simclr"
    backbone_config: dict | PreTrainedConfig | None = None
    pooling: str = "auto"
    projection_dims: list[int] | None = None
    projection_batch_norm: bool = True
    normalize_features: bool = True
    temperature: float | int | None = None
    queue_size: int = 15360
    encoder_momentum: float | int = 0.999
    num_prototypes: int = 500
    sinkhorn_epsilon: float | int = 0.05
    sinkhorn_iterations: int = 3
    freeze_prototypes_steps: int = 0
    mean_over_prototypes: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        require_model_type(self.backbone_config, "code_transformer")
        if self.backbone_config is None and self.encoder in ENCODERS:
            self.backbone_config = ENCODERS[self.encoder]()
        if self.projection_dims is None:
            self.projection_dims = [] if self.ssl == "moco" else [128, 128]
        if self.temperature is None:
            self.temperature = _TEMPERATURES.get(self.ssl)
        super().__post_init__(**kwargs)

    @property
    def embed_dim(self) -> int:
        """Size of the embeddings."""
        return feature_size_of(self.backbone_config)

    @property
    def projection_dim(self) -> int:
        """Size of what the objective compares."""
        return self.projection_dims[-1] if self.projection_dims else self.embed_dim

    def validate_encoder(self) -> None:
        """Refuse unknown encoders, and one that does not belong to the kind of input."""
        require(self.encoder in ENCODERS, "encoder", self.encoder, f"one of {', '.join(ENCODERS)}")
        require(self.pooling in ("auto", "cls", "mean"), "pooling", self.pooling, "one of auto, cls, mean")
        found = getattr(self.backbone_config, "model_type", None)
        own = {kind: config.model_type for kind, config in ENCODERS.items()}
        wrong = {name for kind, name in own.items() if kind != self.encoder}
        if self.encoder == "text":
            require(found not in wrong, "backbone_config.model_type", found, "a text encoder, or set `encoder`")
        else:
            require(found == own[self.encoder], "backbone_config.model_type", found, f"{own[self.encoder]!r} here")
            require(self.pooling == "auto", "pooling", self.pooling, f"'auto' with encoder {self.encoder!r}")

    def validate_objective(self) -> None:
        """Refuse values with which the objective is not defined."""
        require(self.ssl in OBJECTIVES, "ssl", self.ssl, f"one of {', '.join(OBJECTIVES)}")
        dims = self.projection_dims
        require(not dims or min(dims) > 0, "projection_dims", dims, "a list of positive numbers, [] for no head")
        temperature = self.temperature
        require(temperature is None or temperature > 0, "temperature", temperature, "a number above 0")
        for name in ("queue_size", "num_prototypes", "sinkhorn_iterations"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        require(0 <= self.encoder_momentum <= 1, "encoder_momentum", self.encoder_momentum, "from 0 to 1")
        require(self.sinkhorn_epsilon > 0, "sinkhorn_epsilon", self.sinkhorn_epsilon, "above 0")
        steps = self.freeze_prototypes_steps
        require(steps >= 0, "freeze_prototypes_steps", steps, "0 or more")


__all__ = ["ENCODERS", "OBJECTIVES", "CodeCloneConfig"]
