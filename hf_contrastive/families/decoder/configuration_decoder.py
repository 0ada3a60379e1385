"""Configuration shared by systems on a decoder of transformers."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from hf_contrastive.configuration_utils import ContrastiveConfig, require, require_model_type


@strict
class DecoderConfig(ContrastiveConfig):
    r"""
    Fields of every system with one decoder as its backbone.

    Args:
        backbone_config (`dict` or `PreTrainedConfig`, *optional*):
            Configuration of any causal language model of transformers (`gpt2`, `llama`, `opt`, ...).
        frozen_modules (`list[str]`, *optional*): as in [`ContrastiveConfig`].
    """

    sub_configs_defaults = {}

    backbone_config: dict | PreTrainedConfig | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        require_model_type(self.backbone_config, "gpt2")
        super().__post_init__(**kwargs)

    def get_text_config(self, *args: Any, **kwargs: Any) -> Any:
        """The language model's own configuration, in which transformers looks for sizes and special tokens."""
        backbone = self.backbone_config
        return self if backbone is None or isinstance(backbone, dict) else backbone.get_text_config(*args, **kwargs)

    @property
    def state_size(self) -> int:
        """Size of the last hidden states."""
        text = self.get_text_config()
        # OPT may project its states down before the output matrix
        return getattr(text, "word_embed_proj_dim", None) or text.hidden_size

    def validate_backbone(self) -> None:
        """Refuse models that predict no next token."""
        kind = getattr(self.backbone_config, "model_type", None)
        encoder_decoder = getattr(self.backbone_config, "is_encoder_decoder", False)
        # BERT and its like, which fill in masks, see what comes after a token, unless they are told that they are decoders
        fills_in = kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES
        causal = not fills_in or getattr(self.backbone_config, "is_decoder", True) is not False
        require(
            kind is None or (kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and causal and not encoder_decoder),
            "backbone_config.model_type",
            kind,
            "that of a causal language model, for example 'gpt2', 'llama' or 'opt'",
        )


__all__ = ["DecoderConfig"]
