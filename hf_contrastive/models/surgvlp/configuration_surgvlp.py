"""Configuration of SurgVLP."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from hf_contrastive.configuration_utils import TEXT_POOLINGS, require
from hf_contrastive.families.dual_encoder.configuration_dual_encoder import DualEncoderConfig


#: what is optimised
OBJECTIVES = ("paper", "released", "info_nce")
#: how layers of the text encoder become one
LAYER_AGGREGATIONS = ("sum", "mean")


@strict
class SurgVLPConfig(DualEncoderConfig):
    r"""
    Configuration of SurgVLP (https://arxiv.org/abs/2307.15220): clips of narrated videos and the transcripts of two speech
    recognisers. Values marked "code" are those of the official code for inference and for training.

    Args:
        vision_config (`dict` or `PreTrainedConfig`, *optional*): the image encoder, any vision model; ResNet-50 by default (code).
        text_config (`dict` or `PreTrainedConfig`, *optional*): the text encoder, any text encoder; BERT-base by default (code, which
            starts from the weights of `emilyalsentzer/Bio_ClinicalBERT`).
        image_pooling (`str`, defaults to `"auto"`): `"mean"`, `"cls"`, `"pooler"`, or `"auto"`: mean for maps (code), first token for
            sequences. A clip's features are the mean over its frames (code).
        num_frames (`int`, defaults to 4): frames of a clip (code); what the data are prepared with, the model takes any number.
        text_pooling (`str`, defaults to `"word_sum"`): word pieces summed into words, words averaged over `text_length` places, layers
            aggregated (code); or `"max"`, `"mean"`, `"cls"`, `"last"`, `"pooler"`, which read the last layer.
        text_layers (`int`, defaults to 4): with `"word_sum"`, last layers of the text encoder that are read, its embeddings counted as
            one (code).
        layer_aggregation (`str`, defaults to `"sum"`): with `"word_sum"`, `"sum"` (code) or `"mean"` over these layers.
        text_length (`int`, defaults to 77): with `"word_sum"`, places over which words are averaged, empty ones included: a text of
            n tokens is the sum of their states divided by this number (code). Longer texts are refused.
        merge_word_pieces (`bool`, defaults to `True`): with `"word_sum"`, whether pieces become words (code); otherwise the states
            of all `text_length` places, padding included, are averaged.
        project_text (`bool`, defaults to `False`): a projection of the text features, too; in the published model they are the common
            space (code).
        projection_dim (`int`, *optional*): size of the common space; the width of the text encoder by default (code: 768).
        temperature (`float`, defaults to 0.1): divides the cosine similarities (code).
        learn_temperature (`bool`, defaults to `False`): train 1 / temperature instead.
        max_logit_scale (`float`, defaults to 100): ceiling of a learned 1 / temperature.
        objective (`str`, defaults to `"paper"`): `"paper"`: InfoNCE with the anchor text plus MIL-NCE with the other transcript's texts
            (from memory of the paper); `"released"`: the total loss of the released training code, with two augmented clips;
            `"info_nce"`: InfoNCE alone, for comparisons.
        alpha (`float`, defaults to 0.75): with `"released"`, weight of the direction from clips to texts in its second cross-modal
            term, from 0 to 1; the other direction has the rest (code).
        normalize_mil (`bool`, defaults to `False`): MIL-NCE on cosines instead of on products as they are (code), which are large for
            wide embeddings.
        mil_temperature (`float`, defaults to 0.1): divides these cosines; not read where products are taken as they are.
        freeze_text_layers (`int`, defaults to 0): first layers of the text encoder that are not trained.
        freeze_text_embeddings (`bool`, defaults to `False`): whether its embeddings are not trained either.
        frozen_modules (`list[str]`, *optional*): as in [`ContrastiveConfig`].

    Example:

    ```python
    >>> from hf_contrastive import SurgVLPConfig
    >>> config = SurgVLPConfig()
    >>> config.vision_config.model_type, config.text_config.model_type, config.projection_dim
    ('resnet', 'bert', 768)

    ```
    """

    model_type = "surgvlp"
    sub_configs_defaults = DualEncoderConfig.sub_configs_defaults
    text_poolings = ("word_sum", *TEXT_POOLINGS)

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    num_frames: int = 4
    text_pooling: str = "word_sum"
    text_layers: int = 4
    layer_aggregation: str = "sum"
    text_length: int = 77
    merge_word_pieces: bool = True
    project_text: bool = False
    projection_dim: int | None = None  # ty: ignore[incompatible-attribute-override]
    temperature: float | int = 0.1
    learn_temperature: bool = False
    objective: str = "paper"
    alpha: float | int = 0.75
    normalize_mil: bool = False
    mil_temperature: float | int = 0.1
    projection_bias = True

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.projection_dim is None:
            self.projection_dim = self.text_dim

    @property
    def max_text_length(self) -> int | None:
        """Tokens of the longest text that can be embedded; `None` where there is no limit."""
        limit = super().max_text_length
        if self.text_pooling != "word_sum":
            return limit
        return self.text_length if limit is None else min(limit, self.text_length)

    def validate_word_pooling(self) -> None:
        """Refuse layers and lengths with which words cannot be pooled."""
        require(
            self.layer_aggregation in LAYER_AGGREGATIONS,
            "layer_aggregation",
            self.layer_aggregation,
            f"one of {', '.join(LAYER_AGGREGATIONS)}",
        )
        require(self.text_length > 0, "text_length", self.text_length, "1 or more")
        layers = getattr(self.text_config, "num_hidden_layers", None)
        most = self.text_layers if layers is None or self.text_pooling != "word_sum" else layers + 1
        allowed = "1 or more" if layers is None else f"from 1 to {layers + 1}, the layers of the text encoder"
        require(1 <= self.text_layers <= most, "text_layers", self.text_layers, allowed)
        limit = super().max_text_length
        if self.text_pooling == "word_sum" and not self.merge_word_pieces and limit is not None:
            allowed = f"at most {limit}, the places of the text encoder, since all of them are read"
            require(self.text_length <= limit, "text_length", self.text_length, allowed)

    def validate_projections(self) -> None:
        """Refuse a common space that texts cannot reach."""
        if not self.project_text and (self.projection_dim or 0) > 0:
            allowed = (
                f"{self.text_dim}, the width of the text features, which are not projected; or set project_text=True"
            )
            require(self.projection_dim == self.text_dim, "projection_dim", self.projection_dim, allowed)

    def validate_objective(self) -> None:
        """Refuse an objective that does not exist, and values with which it is not defined."""
        require(self.objective in OBJECTIVES, "objective", self.objective, f"one of {', '.join(OBJECTIVES)}")
        require(0 <= self.alpha <= 1, "alpha", self.alpha, "from 0 to 1")
        require(self.mil_temperature > 0, "mil_temperature", self.mil_temperature, "a number above 0")
        require(self.num_frames > 0, "num_frames", self.num_frames, "1 or more")


__all__ = ["LAYER_AGGREGATIONS", "OBJECTIVES", "SurgVLPConfig"]
