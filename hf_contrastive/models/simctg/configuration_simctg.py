"""Configuration of SimCTG."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.models.auto import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from hf_contrastive.configuration_utils import ContrastiveConfig, require


@strict
class SimCTGConfig(ContrastiveConfig):
    r"""
    Configuration of SimCTG (https://arxiv.org/abs/2202.06417): any causal language model, trained with a contrastive loss
    on the hidden states of its tokens beside the usual one.

    Args:
        backbone_config (`dict` or `PreTrainedConfig`, *optional*):
            Configuration of any causal language model of transformers. GPT-2 small by default, as in the official code.
        margin (`float`, defaults to 0.5):
            The margin rho of equation 2: how much less similar than to itself a token's state should be to the others of
            its text. From -1 to 1; 0.5 in the official code.
        contrastive_weight (`float`, defaults to 1.0):
            Factor of the contrastive loss; the paper adds it as it is (equation 3). 0 is ordinary language modelling.
        frozen_modules (`list[str]`, *optional*): as in [`ContrastiveConfig`].

    Example:

    ```python
    >>> from hf_contrastive import SimCTGConfig
    >>> SimCTGConfig(backbone_config={"model_type": "opt", "num_hidden_layers": 2}).backbone_config.model_type
    'opt'

    ```
    """

    model_type = "simctg"
    sub_configs_defaults = {"backbone_config": SubConfigSpec(AutoConfig, model_type="gpt2")}

    backbone_config: dict | PreTrainedConfig | None = None
    margin: float | int = 0.5
    contrastive_weight: float | int = 1.0

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.backbone_config, dict) and "model_type" not in self.backbone_config:
            raise ValueError(
                f"`backbone_config` has the keys {sorted(self.backbone_config)}, but no 'model_type'; add for example "
                "model_type='gpt2'."
            )
        super().__post_init__(**kwargs)

    def get_text_config(self, *args: Any, **kwargs: Any) -> Any:
        """The language model's own configuration, in which transformers looks for sizes and special tokens."""
        backbone = self.backbone_config
        return self if backbone is None or isinstance(backbone, dict) else backbone.get_text_config(*args, **kwargs)

    def validate_objective(self) -> None:
        """Refuse values with which the objective is not defined."""
        require(-1 <= self.margin <= 1, "margin", self.margin, "a number from -1 to 1 (the paper uses 0.5)")
        weight = self.contrastive_weight
        require(weight >= 0, "contrastive_weight", weight, "a number of 0 or more (the paper uses 1)")

    def validate_backbone(self) -> None:
        """Refuse models that predict no next token."""
        kind = getattr(self.backbone_config, "model_type", None)
        encoder_decoder = getattr(self.backbone_config, "is_encoder_decoder", False)
        # BERT and its like see what comes after a token, unless they are told that they are decoders
        causal = getattr(self.backbone_config, "is_decoder", True) is not False
        require(
            kind is None or (kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and causal and not encoder_decoder),
            "backbone_config.model_type",
            kind,
            "that of a causal language model, for example 'gpt2', 'llama' or 'opt'",
        )


__all__ = ["SimCTGConfig"]
