"""Configuration of ConVIRT."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from hf_contrastive.configuration_utils import require
from hf_contrastive.families.dual_encoder.configuration_dual_encoder import DualEncoderConfig


@strict
class ConVIRTConfig(DualEncoderConfig):
    r"""
    Configuration of ConVIRT (https://arxiv.org/abs/2010.00747): an image encoder and a text encoder trained on images and the
    sentences of their reports. Values marked "paper" are from memory of it, since its authors published no training code.

    Args:
        vision_config (`dict` or `PreTrainedConfig`, *optional*): the image encoder, any vision model; ResNet-50 by default (paper).
        text_config (`dict` or `PreTrainedConfig`, *optional*): the text encoder, any text encoder; BERT-base by default (paper, which
            starts from the weights of `emilyalsentzer/Bio_ClinicalBERT`).
        image_pooling (`str`, defaults to `"auto"`): `"mean"`, `"cls"`, `"pooler"`, or `"auto"`: mean for maps (paper), first token
            for sequences.
        text_pooling (`str`, defaults to `"max"`): element-wise over tokens, `"max"` (paper), `"mean"`, or `"cls"`, `"last"`, `"pooler"`.
        projection_dim (`int`, defaults to 512): size of the common space (paper).
        temperature (`float`, defaults to 0.1): divides the cosine similarities (paper).
        learn_temperature (`bool`, defaults to `False`): train 1 / temperature instead (CLIP).
        max_logit_scale (`float`, defaults to 100): ceiling of a learned 1 / temperature.
        lambda_image_to_text (`float`, defaults to 0.75): weight of the direction from images to texts, from 0 to 1; the other
            direction has the rest (paper).
        freeze_text_layers (`int`, *optional*): first layers of the text encoder that are not trained; by default half of them, 6 of
            BERT's 12 (paper).
        freeze_text_embeddings (`bool`, defaults to `True`): whether its embeddings are not trained either (paper).
        frozen_modules (`list[str]`, *optional*): as in [`ContrastiveConfig`].

    Example:

    ```python
    >>> from hf_contrastive import ConVIRTConfig
    >>> config = ConVIRTConfig()
    >>> config.vision_config.model_type, config.text_config.model_type, config.freeze_text_layers
    ('resnet', 'bert', 6)

    ```
    """

    model_type = "convirt"
    sub_configs_defaults = DualEncoderConfig.sub_configs_defaults

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    text_pooling: str = "max"
    temperature: float | int = 0.1
    learn_temperature: bool = False
    lambda_image_to_text: float | int = 0.75
    freeze_text_layers: int | None = None
    freeze_text_embeddings: bool = True
    projection_layers = 2
    projection_bias = True

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.freeze_text_layers is None:
            self.freeze_text_layers = (getattr(self.text_config, "num_hidden_layers", None) or 0) // 2

    def validate_direction(self) -> None:
        """Refuse a weight that is none."""
        weight = self.lambda_image_to_text
        require(0 <= weight <= 1, "lambda_image_to_text", weight, "from 0 to 1")


__all__ = ["ConVIRTConfig"]
