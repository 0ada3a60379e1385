"""Configuration of CLIPPINGS."""

import math

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.models.auto import AutoConfig

from hf_contrastive.configuration_utils import require
from hf_contrastive.families.dual_encoder.configuration_dual_encoder import DualEncoderConfig


#: objectives of the second stage
LOSS_TYPES = ("supcon", "contrastive")


@strict
class ClippingsConfig(DualEncoderConfig):
    r"""
    Configuration of CLIPPINGS (https://arxiv.org/abs/2304.03464): a CLIP-like pair of encoders whose image and text embeddings of
    one record are pooled into one vector. Values marked "code" are those of the two official repositories.

    Args:
        vision_config (`dict` or `PreTrainedConfig`, *optional*): the image encoder, any vision model; that of CLIP ViT-B/32 by default
            (code).
        text_config (`dict` or `PreTrainedConfig`, *optional*): the text encoder, any text encoder; that of CLIP by default (code).
        image_pooling (`str`, defaults to `"pooler"`): the encoder's own `pooler_output`, as CLIP does it (code), `"mean"`, `"cls"`,
            or `"auto"`: mean for maps, first token for sequences.
        text_pooling (`str`, defaults to `"pooler"`): the encoder's own `pooler_output`, as CLIP does it (code), `"max"`, `"mean"`,
            `"cls"` or `"last"`.
        projection_dim (`int`, defaults to 512): size of the common space (code).
        temperature (`float`, defaults to 0.07): of the first stage; divides the cosines of images and texts, its first value where it
            is learned.
        learn_temperature (`bool`, defaults to `True`): train 1 / temperature in the first stage (code).
        max_logit_scale (`float`, defaults to 100): ceiling of a learned 1 / temperature.
        image_weight (`float`, defaults to 0.5): weight w of the image in the pooled embedding, from 0 (text only) to 1 (image only);
            the text has the rest. In training both weigh the same (code); for linking it may be given anew.
        loss_type (`str`, defaults to `"supcon"`): objective of the second stage on pooled embeddings: `"supcon"`, the supervised
            contrastive loss, or `"contrastive"`, the margins of pairs (code has both).
        supcon_temperature (`float`, defaults to 0.1): of the supervised contrastive loss; fixed (code).
        pos_margin (`float`, defaults to 0): with `"contrastive"`, records of one label are pulled until they are this close, as a
            Euclidean distance from 0 to 2 (code).
        neg_margin (`float`, defaults to 0.5): with `"contrastive"`, records of different labels are pushed until they are this far
            apart (code).
        freeze_text_layers (`int`, defaults to 0): first layers of the text encoder that are not trained.
        freeze_text_embeddings (`bool`, defaults to `False`): whether its embeddings are not trained either.
        frozen_modules (`list[str]`, *optional*): as in [`ContrastiveConfig`].

    Example:

    ```python
    >>> from hf_contrastive import ClippingsConfig
    >>> config = ClippingsConfig(image_weight=0.7)
    >>> config.vision_config.model_type, config.text_config.model_type, config.loss_type
    ('clip_vision_model', 'clip_text_model', 'supcon')

    ```
    """

    model_type = "clippings"
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(AutoConfig, model_type="clip_vision_model"),
        "text_config": SubConfigSpec(AutoConfig, model_type="clip_text_model"),
    }

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    image_pooling: str = "pooler"
    text_pooling: str = "pooler"
    image_weight: float | int = 0.5
    loss_type: str = "supcon"
    supcon_temperature: float | int = 0.1
    pos_margin: float | int = 0.0
    neg_margin: float | int = 0.5

    def validate_pooling(self) -> None:
        """Refuse a weight that is none."""
        if not 0 <= self.image_weight <= 1:
            raise ValueError(f"`image_weight` is {self.image_weight!r}, but image_weight must be in [0, 1].")

    def validate_objective(self) -> None:
        """Refuse an objective that does not exist, and values with which it is not defined."""
        require(self.loss_type in LOSS_TYPES, "loss_type", self.loss_type, f"one of {', '.join(LOSS_TYPES)}")
        temperature = self.supcon_temperature
        require(temperature > 0, "supcon_temperature", temperature, "a number above 0 (0.05 to 0.5 is usual)")
        for name in ("pos_margin", "neg_margin"):
            margin = getattr(self, name)
            require(math.isfinite(margin) and margin >= 0, name, margin, "a distance of 0 or more, up to 2")


__all__ = ["LOSS_TYPES", "ClippingsConfig"]
