"""Configuration of SimCTG."""

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import SubConfigSpec
from transformers.models.auto import AutoConfig

from hf_contrastive.configuration_utils import require
from hf_contrastive.families.decoder.configuration_decoder import DecoderConfig


@strict
class SimCTGConfig(DecoderConfig):
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

    margin: float | int = 0.5
    contrastive_weight: float | int = 1.0

    def validate_objective(self) -> None:
        """Refuse values with which the objective is not defined."""
        require(-1 <= self.margin <= 1, "margin", self.margin, "a number from -1 to 1 (the paper uses 0.5)")
        weight = self.contrastive_weight
        require(weight >= 0, "contrastive_weight", weight, "a number of 0 or more (the paper uses 1)")


__all__ = ["SimCTGConfig"]
