"""Configuration of DirectPred."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.models.auto import AutoConfig

from hf_contrastive.configuration_utils import require
from hf_contrastive.families.siamese.configuration_siamese import PredictionConfig, require_momentum


SET_MODES = ("direct_pred", "direct_set", "direct_copy")
PREDICTOR_MODES = (*SET_MODES, "linear", "symmetric", "mlp", "none")
BALANCE_TYPES = ("boost_scale", "direct", "shrink2mean", "clamp")


@strict
class DirectPredConfig(PredictionConfig):
    r"""
    Configuration of DirectPred (https://arxiv.org/abs/2102.06810): BYOL with a linear predictor that is not trained but set
    from the correlation of its own inputs, and the predictors that it is compared with.

    Args:
        backbone_config (`dict` or `PreTrainedConfig`, *optional*):
            Configuration of any transformers vision model. By default a ResNet-18 (published code: torchvision's, with a 3x3
            stem on CIFAR).
        pooling (`str`, defaults to `"auto"`):
            `"mean"` over positions, `"cls"`, `"pooler"`, or `"auto"`: mean for maps, first token for sequences.
        projection_dims (`list[int]`, defaults to `[512, 128]`): sizes of the head's layers (published code); the last one is
            also the size of the predictor's input and output.
        projection_batch_norm (`bool`, defaults to `True`): batch norm, without scale and shift, after hidden layers, of the
            two-layer predictor too (published code).
        projection_last_batch_norm (`bool`, defaults to `False`): batch norm after the last layer; the published code has
            none.
        predictor_mode (`str`, defaults to `"direct_pred"`): `"direct_pred"` (square root of the eigenvalues), `"direct_set"`
            (the general form), `"direct_copy"` (the correlation itself), or trained ones: `"linear"`, `"symmetric"`,
            `"mlp"` (two layers, BYOL), or `"none"` (collapses) (paper, section 4; DirectCopy: arXiv 2110.04947).
        predictor_hidden_dim (`int`, defaults to 512): hidden layer of the predictor with `"mlp"` (published code).
        rho (`float`, *optional*, defaults to 0.3): weight of the old value in the running correlation, from 0 to below 1
            (paper, equation 19; 0.3 in the README of the published code); in Python `None` gives the average of all steps.
        eps (`float`, defaults to 0.01): lifts small eigenvalues, relative to the largest one, with `"direct_copy"` absolute;
            may be negative (paper, equation 18; 0.01 in the README of the published code).
        eps_inside (`bool`, defaults to `False`): add eps before the root (published code).
        power (`float`, *optional*): c, eigenvalues are raised to 1/c; by default 2 with `"direct_pred"`, 1 with
            `"direct_set"` (published code: dyn_convert).
        balance_type (`str`, defaults to `"boost_scale"`): what becomes of the eigenvalues: `"boost_scale"` (root of the
            share of the largest), `"direct"` (root as it is), `"shrink2mean"` or `"clamp"` (published code).
        reg (`float`, *optional*): from 0 to below 1; shrinks the eigenvalues of `"boost_scale"` by that share, and is the
            distance of the cut of `"clamp"` from 1 (published code).
        diagonal_only (`bool`, defaults to `False`): use only the diagonal of the correlation (published code).
        zero_mean (`bool`, defaults to `False`): subtract the running mean (published code).
        freq (`int`, defaults to 1): the predictor is set after every so many steps, the first one included; above 1 it is
            trained in between (paper, section 4; 5 there as well).
        use_l2_normalization (`bool`, defaults to `True`): compare rows of length 1; otherwise squared distances (published
            code).
        encoder_momentum (`float`, defaults to 0.996): of the target network, from 0 to 1 (published code).
        momentum_schedule (`str`, defaults to `"constant"`): `"cosine"` raises it to 1 over the training, `"constant"` keeps it
            (published code).
        target_init (`str`, defaults to `"copy"`): the target network starts as a copy of the online network (BYOL), or with
            weights of its own, `"random"` (published code).
        frozen_modules (`list[str]`, *optional*): parts that are not trained, for example `["backbone"]`.

    Example:

    ```python
    >>> from hf_contrastive import DirectPredConfig
    >>> DirectPredConfig(predictor_mode="direct_copy", eps=0.3).embed_dim
    512

    ```
    """

    model_type = "directpred"
    sub_configs_defaults = {
        "backbone_config": SubConfigSpec(
            AutoConfig,
            model_type="resnet",
            init_kwargs={"hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2], "layer_type": "basic"},
        )
    }
    projection_hidden_affine = False
    projection_hidden_bias = True

    backbone_config: dict | PreTrainedConfig | None = None
    predictor_mode: str = "direct_pred"
    predictor_hidden_dim: int = 512
    rho: float | int | None = 0.3
    eps: float | int = 0.01
    eps_inside: bool = False
    power: float | int | None = None
    balance_type: str = "boost_scale"
    reg: float | int | None = None
    diagonal_only: bool = False
    zero_mean: bool = False
    freq: int = 1
    use_l2_normalization: bool = True
    encoder_momentum: float | int = 0.996
    momentum_schedule: str = "constant"
    target_init: str = "copy"

    def __post_init__(self, **kwargs: Any) -> None:
        self.projection_dims = [512, 128] if self.projection_dims is None else self.projection_dims
        super().__post_init__(**kwargs)

    @property
    def sets_predictor(self) -> bool:
        """Whether the predictor is set from the correlation of its inputs."""
        return self.predictor_mode in SET_MODES

    def validate_target(self) -> None:
        """Refuse values with which the target network is not defined."""
        require_momentum(self)
        require(self.target_init in ("copy", "random"), "target_init", self.target_init, "'copy' or 'random'")

    def validate_direct_predictor(self) -> None:
        """Refuse values with which a set predictor is not defined."""
        modes = PREDICTOR_MODES
        require(self.predictor_mode in modes, "predictor_mode", self.predictor_mode, f"one of {', '.join(modes)}")
        require(self.rho is None or 0 <= self.rho < 1, "rho", self.rho, "from 0 to below 1, or none for an average")
        require(self.power is None or self.power > 0, "power", self.power, "above 0")
        require(
            self.predictor_mode != "direct_pred" or self.power in (None, 2),
            "power",
            self.power,
            "2 with predictor_mode='direct_pred'; 'direct_set' takes other powers",
        )
        require(
            self.balance_type in BALANCE_TYPES, "balance_type", self.balance_type, f"one of {', '.join(BALANCE_TYPES)}"
        )
        require(self.reg is None or 0 <= self.reg < 1, "reg", self.reg, "from 0 to below 1")
        require(self.freq >= 1, "freq", self.freq, "1 or more")


__all__ = ["DirectPredConfig"]
