"""Configuration of MOFI."""

import math

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.models.auto import AutoConfig

from hf_contrastive.configuration_utils import require
from hf_contrastive.families.dual_encoder.configuration_dual_encoder import DualEncoderConfig


#: what is optimised
OBJECTIVES = ("multitask", "supervised", "contrastive")


@strict
class MofiConfig(DualEncoderConfig):
    r"""
    Configuration of MOFI (https://arxiv.org/abs/2306.07952): an image encoder and a text encoder trained on images whose texts were
    turned into entities. Values marked "code" are those of the released checkpoints, "paper" is from memory of it, "unsure" stands
    where even that is doubtful; no training code is public.

    Args:
        vision_config (`dict` or `PreTrainedConfig`, *optional*): the image encoder, any vision model; that of CLIP ViT-B/16 by default
            (code).
        text_config (`dict` or `PreTrainedConfig`, *optional*): the text encoder, any text encoder; that of CLIP ViT-B by default, 12
            layers of width 512 (code).
        image_pooling (`str`, defaults to `"pooler"`): the encoder's own `pooler_output`, as CLIP does it, `"mean"`, `"cls"`, or
            `"auto"`: mean for maps, first token for sequences.
        text_pooling (`str`, defaults to `"pooler"`): the encoder's own `pooler_output`, as CLIP does it, `"max"`, `"mean"`, `"cls"` or
            `"last"`.
        projection_dim (`int`, defaults to 512): size of the common space, which entities have, too.
        temperature (`float`, defaults to 0.07): divides the cosines of images and texts; its first value where it is learned (paper).
        learn_temperature (`bool`, defaults to `True`): train 1 / temperature (paper).
        max_logit_scale (`float`, defaults to 100): ceiling of a learned 1 / temperature.
        objective (`str`, defaults to `"multitask"`): `"multitask"`, `"supervised"` (which entity an image shows; texts are not read), or
            `"contrastive"` (CLIP; no entities).
        num_entities (`int`, defaults to 0): entities of the training data, about two million in the paper; each has a vector while
            training. 0 is enough for inference and for `"contrastive"`.
        num_sampled_entities (`int`, defaults to 0): entities that an image is compared with, those of the batch and others drawn at
            random; 0 compares with all (512 thousand in the paper, unsure).
        scale (`float`, defaults to 32): s, what cosines of images and entities are multiplied by (unsure).
        margin (`float`, defaults to 0.15): m, taken from the cosine of the right entity (unsure).
        classification_weight (`float`, defaults to 0.5): c, share of the classification in `"multitask"`, from 0 to 1; the contrastive
            loss has the rest (paper).
        sampling_seed (`int`, defaults to 0): of the draws of entities.
        freeze_text_layers (`int`, defaults to 0): first layers of the text encoder that are not trained.
        freeze_text_embeddings (`bool`, defaults to `False`): whether its embeddings are not trained either.
        frozen_modules (`list[str]`, *optional*): as in [`ContrastiveConfig`].

    Example:

    ```python
    >>> from hf_contrastive import MofiConfig
    >>> config = MofiConfig(num_entities=1000, num_sampled_entities=200)
    >>> config.vision_config.model_type, config.text_config.model_type, config.objective
    ('clip_vision_model', 'clip_text_model', 'multitask')

    ```
    """

    model_type = "mofi"
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(AutoConfig, model_type="clip_vision_model", init_kwargs={"patch_size": 16}),
        "text_config": SubConfigSpec(AutoConfig, model_type="clip_text_model"),
    }
    # of a batch against its own candidates: joined over batches they would mean nothing
    keys_to_ignore_at_inference = ["logits_per_image", "logits_per_text", "entity_logits", "entity_candidates"]

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    image_pooling: str = "pooler"
    text_pooling: str = "pooler"
    objective: str = "multitask"
    num_entities: int = 0
    num_sampled_entities: int = 0
    scale: float | int = 32.0
    margin: float | int = 0.15
    classification_weight: float | int = 0.5
    sampling_seed: int = 0

    def validate_objective(self) -> None:
        """Refuse an objective that does not exist, and values with which it is not defined."""
        require(self.objective in OBJECTIVES, "objective", self.objective, f"one of {', '.join(OBJECTIVES)}")
        require(
            math.isfinite(self.scale) and self.scale > 0, "scale", self.scale, "a number above 0 (16 to 64 is usual)"
        )
        margin = self.margin
        require(
            math.isfinite(margin) and 0 <= margin < 2,
            "margin",
            margin,
            "a cosine from 0 to below 2 (0.1 to 0.4 is usual)",
        )
        weight = self.classification_weight
        require(0 <= weight <= 1, "classification_weight", weight, "from 0 to 1")

    def validate_entities(self) -> None:
        """Refuse numbers of entities that make no sense."""
        number = self.num_entities
        require(number == 0 or number >= 2, "num_entities", number, "0, or 2 or more: one entity tells nothing apart")
        require(self.num_sampled_entities >= 0, "num_sampled_entities", self.num_sampled_entities, "0 or more")
        require(0 <= self.sampling_seed < 2**31, "sampling_seed", self.sampling_seed, "from 0 to 2147483647")


__all__ = ["OBJECTIVES", "MofiConfig"]
