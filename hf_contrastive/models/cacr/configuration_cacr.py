"""Configuration of CACR."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.models.auto import AutoConfig

from hf_contrastive.configuration_utils import require
from hf_contrastive.families.siamese.configuration_siamese import TemperatureConfig


@strict
class CACRConfig(TemperatureConfig):
    r"""
    Configuration of CACR (https://arxiv.org/abs/2105.03746): positives attract the more the farther they are, negatives
    repel the more the closer they are.

    Args:
        backbone_config (`dict` or `PreTrainedConfig`, *optional*):
            Configuration of any transformers vision model. ResNet-50 by default (paper, ImageNet experiments).
        pooling (`str`, defaults to `"auto"`):
            `"mean"` over positions, `"cls"`, `"pooler"`, or `"auto"`: mean for maps, first token for sequences.
        projection_dims (`list[int]`, defaults to `[2048, 128]`): sizes of the head's layers (published code with a queue; one
            layer of 128 in the small experiments, 4096 and 256 with the variant `"momentum"`).
        projection_batch_norm (`bool`, defaults to `False`): batch norm after hidden layers; the published code has it with
            the variant `"momentum"` only.
        projection_last_batch_norm (`bool`, defaults to `False`): batch norm after the last layer; likewise.
        variant (`str`, defaults to `"batch"`): where the negatives come from. `"batch"`: other images of the batch (small
            experiments); `"queue"`: a queue of keys by a momentum encoder (large-scale experiments); `"momentum"`: keys of
            the batch by a momentum encoder, with a predictor (ImageNet experiments).
        cost (`str`, defaults to `"euclidean"`): `"euclidean"` or `"rbf"`; the variant `"queue"` has the Euclidean cost only.
        tau_pos (`float`, defaults to 1.0): sharpness of the positives' weights in the variants `"batch"` and `"queue"`, 0
            makes them equal (published code).
        tau_neg (`float`, defaults to 2.0): sharpness of the negatives' weights, likewise (published code; 0.9 on CIFAR-10).
        alpha (`float`, defaults to 1.0): factor of the attraction (published code).
        beta (`float`, defaults to 1.0): factor of the repulsion (published code).
        choice (`str`, defaults to `"full"`): `"without_w1"` weighs positives equally, `"without_w2"` negatives, `"none"` both
            (the paper's ablations); for the variant `"batch"`.
        num_positives (`int`, *optional*): K, positives of each query, so that K + 1 views are expected (paper: 1 and 4); by
            default whatever the batch holds.
        rbf_t (`float`, defaults to 2.0): t of the RBF cost exp(-t distance) in the variant `"batch"` (published code).
        debiased (`bool`, defaults to `False`): correct the repulsion for false negatives, as the published code does; for the
            variant `"batch"`.
        tau_plus (`float`, defaults to 0.1): assumed share of false negatives, from 0 to below 1 (published code).
        detach_weights (`bool`, defaults to `False`): no gradient through the weights in the variant `"batch"` (the published
            code lets it flow there and stops it in the others).
        temperature (`float`, defaults to 1.0): T of the variant `"momentum"` (published code; 0.2 with ViT).
        reduction (`str`, defaults to `"auto"`): of the variant `"momentum"` over the images: `"mean"`, `"sum"`, or `"auto"`,
            the published code's: mean with the RBF cost, sum with the Euclidean one.
        all_targets (`bool`, defaults to `False`): in the variant `"momentum"` every view and crop is a target (full mode of
            the published code), not only the first two views.
        predictor_dims (`list[int]`, *optional*): sizes of the predictor's layers in the variant `"momentum"`; by default the
            head's first and last (published code: 4096 and 256).
        predictor_last_batch_norm (`bool`, defaults to `False`): batch norm after the predictor's last layer (published code:
            with ViT).
        in_batch_negatives (`bool`, defaults to `True`): in the variant `"queue"` the rest of the batch repels too.
        queue_size (`int`, defaults to 65536): keys in the queue, a multiple of the global batch (published code).
        encoder_momentum (`float`, defaults to 0.999): m of the momentum encoder, from 0 to 1 (published code; 0.996 with the
            variant `"momentum"`).
        momentum_schedule (`str`, defaults to `"constant"`): or `"cosine"`, up to 1 (published code, variant `"momentum"`).
        shuffle_batch_norm (`bool`, defaults to `True`): encode the keys of the queue in an order shuffled over the processes
            (published code); without effect in a single process.
        frozen_modules (`list[str]`, *optional*): parts that are not trained, for example `["backbone"]`.

    Example:

    ```python
    >>> from hf_contrastive import CACRConfig
    >>> CACRConfig(variant="queue", queue_size=4096).tau_neg
    2.0

    ```
    """

    model_type = "cacr"
    sub_configs_defaults = {"backbone_config": SubConfigSpec(AutoConfig, model_type="resnet")}

    backbone_config: dict | PreTrainedConfig | None = None
    projection_batch_norm: bool = False
    variant: str = "batch"
    cost: str = "euclidean"
    tau_pos: float | int = 1.0
    tau_neg: float | int = 2.0
    alpha: float | int = 1.0
    beta: float | int = 1.0
    choice: str = "full"
    num_positives: int | None = None
    rbf_t: float | int = 2.0
    debiased: bool = False
    tau_plus: float | int = 0.1
    detach_weights: bool = False
    temperature: float | int = 1.0
    reduction: str = "auto"
    all_targets: bool = False
    predictor_dims: list[int] | None = None
    predictor_last_batch_norm: bool = False
    in_batch_negatives: bool = True
    queue_size: int = 65536
    encoder_momentum: float | int = 0.999
    momentum_schedule: str = "constant"
    shuffle_batch_norm: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        self.projection_dims = [2048, 128] if self.projection_dims is None else self.projection_dims
        super().__post_init__(**kwargs)

    def validate_objective(self) -> None:
        """Refuse values with which the costs and weights are not defined."""
        for name, allowed in (
            ("variant", ("batch", "queue", "momentum")),
            ("cost", ("euclidean", "rbf")),
            ("choice", ("full", "without_w1", "without_w2", "none")),
            ("reduction", ("auto", "mean", "sum")),
        ):
            require(getattr(self, name) in allowed, name, getattr(self, name), f"one of {', '.join(allowed)}")
        for name in ("tau_pos", "tau_neg", "alpha", "beta"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "a number of at least 0")
        require(self.rbf_t > 0, "rbf_t", self.rbf_t, "a number above 0")
        require(0 <= self.tau_plus < 1, "tau_plus", self.tau_plus, "from 0 to below 1")
        fits = self.num_positives is None or self.num_positives >= 1
        require(fits, "num_positives", self.num_positives, "1 or more, or nothing")

    def validate_variant(self) -> None:
        """Refuse settings that the chosen variant does not have."""
        if self.variant == "queue":
            require(self.cost == "euclidean", "cost", self.cost, "'euclidean' with variant='queue'")
        if self.variant != "batch":
            where = f"for variant='batch' alone, and the variant is {self.variant!r}"
            require(self.choice == "full", "choice", self.choice, f"'full': ablations are {where}")
            require(not self.debiased, "debiased", self.debiased, f"False: it is {where}")
        weighted = self.cost == "euclidean" and self.choice in ("full", "without_w1")
        require(not self.debiased or weighted, "debiased", self.debiased, "False without weighted Euclidean negatives")

    def validate_momentum(self) -> None:
        """Refuse values with which queue, momentum encoder and predictor are not defined."""
        require(self.queue_size >= 1, "queue_size", self.queue_size, "1 or more, a multiple of the global batch")
        require(0 <= self.encoder_momentum <= 1, "encoder_momentum", self.encoder_momentum, "from 0 to 1")
        schedules = ("constant", "cosine")
        fits = self.momentum_schedule in schedules
        require(fits, "momentum_schedule", self.momentum_schedule, f"one of {', '.join(schedules)}")
        last, sizes = (self.projection_dims or [0])[-1], self.predictor_dims
        fits = sizes is None or (bool(sizes) and min(sizes) > 0 and sizes[-1] == last)
        require(fits, "predictor_dims", sizes, f"a list of positive numbers that ends with {last}, as projection_dims")


__all__ = ["CACRConfig"]
