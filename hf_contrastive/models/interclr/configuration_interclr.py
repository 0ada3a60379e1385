"""Configuration of InterCLR."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.models.auto import AutoConfig

from hf_contrastive.configuration_utils import require
from hf_contrastive.families.siamese.configuration_siamese import TemperatureConfig


BASES = ("moco", "npid")
SAMPLINGS = ("hard", "semihard", "semieasy", "random")
MARGIN_TYPES = ("cosine", "angle")


@strict
class InterCLRConfig(TemperatureConfig):
    r"""
    Configuration of InterCLR (https://arxiv.org/abs/2008.11702): beside another view of the same image, an image of the same
    online cluster is a positive.

    Args:
        backbone_config (`dict` or `PreTrainedConfig`, *optional*):
            Configuration of any transformers vision model. ResNet-50 by default (paper, section 4.1).
        pooling (`str`, defaults to `"auto"`):
            `"mean"` over positions, `"cls"`, `"pooler"`, or `"auto"`: mean for maps, first token for sequences.
        projection_dims (`list[int]`, *optional*): sizes of the head's layers; `[2048, 128]` on MoCo, `[128]` on NPID (published
            code).
        projection_batch_norm (`bool`, defaults to `False`): batch norm after hidden layers; the paper has none.
        projection_last_batch_norm (`bool`, defaults to `False`): batch norm after the last layer.
        temperature (`float`, *optional*): of both losses; 0.2 on MoCo, 0.07 on NPID (published code).
        base (`str`, defaults to `"moco"`): the intra-image loss: `"moco"` (MoCo v2) or `"npid"` (paper, section 3.1).
        queue_size (`int`, defaults to 65536): keys in MoCo's queue, a multiple of the global batch.
        encoder_momentum (`float`, defaults to 0.999): m of MoCo's momentum encoder, from 0 to 1.
        shuffle_batch_norm (`bool`, defaults to `True`): encode MoCo's keys in an order shuffled over the processes; without
            effect in a single process.
        num_negatives (`int`, defaults to 65536): bank rows that NPID's intra-image loss draws for each view.
        num_samples (`int`, defaults to 1281167): images in the training set, which is the length of the memory bank; that
            of ImageNet by default.
        bank_momentum (`float`, *optional*): weight of the NEW embedding in a bank row, above 0 and at most 1; 1 on MoCo (the
            row is replaced), 0.5 on NPID (published code).
        num_clusters (`int`, defaults to 10000): clusters of the bank, 2 or more (paper, section 4.1).
        min_cluster_size (`int`, defaults to 20): smaller clusters are taken apart and filled with half of the largest
            (published code).
        online_labels (`bool`, defaults to `True`): labels follow the bank's rows at every step; otherwise k-means sets them at
            the beginning of every epoch (paper, section 3.2).
        centroid_interval (`int`, defaults to 10): steps from one computation of the centroids to the next (published code).
        repair_interval (`int`, defaults to 1): steps from one look for small clusters to the next (published code).
        share_neck (`bool`, defaults to `True`): one projection head for both losses; otherwise the inter-image loss and the
            bank have a head of their own, on MoCo only (paper, section 3.5).
        negative_sampling (`str`, defaults to `"semihard"`): which bank rows are inter-image negatives: `"hard"`,
            `"semihard"`, `"semieasy"` or `"random"` (paper, section 3.3).
        num_inter_negatives (`int`, defaults to 16384): inter-image negatives of each query (published code).
        negative_pool_size (`int`, defaults to 128000): most (or least) similar bank rows that semi-hard (semi-easy) negatives
            are drawn from, above the size of the largest cluster; a tenth of ImageNet (published code).
        inter_margin (`float`, defaults to -0.5): margin on the inter-image positive; below 0 asks for less likeness (paper,
            section 3.4).
        inter_margin_type (`str`, defaults to `"cosine"`): `"cosine"` subtracts it from the cosine, `"angle"` adds it to the
            angle, in radians (paper, section 3.4).
        intra_margin (`float`, defaults to 0.0): margin on the intra-image positive (paper, section 3.4).
        intra_margin_type (`str`, defaults to `"cosine"`): `"cosine"` or `"angle"`.
        intra_weight (`float`, defaults to 0.75): of the intra-image loss (published code).
        inter_weight (`float`, defaults to 0.25): of the inter-image loss (published code).
        warmup_epochs (`int`, defaults to 0): epochs of the intra-image loss alone, with weight 1, before the images are
            clustered for the first time (published code).
        frozen_modules (`list[str]`, *optional*): parts that are not trained, for example `["backbone"]`.

    Example:

    ```python
    >>> from hf_contrastive import InterCLRConfig
    >>> small = {"num_samples": 5000, "num_clusters": 50, "num_inter_negatives": 512, "negative_pool_size": 1000}
    >>> InterCLRConfig(**small).temperature, InterCLRConfig(**small, base="npid").temperature
    (0.2, 0.07)

    ```
    """

    model_type = "interclr"
    sub_configs_defaults = {"backbone_config": SubConfigSpec(AutoConfig, model_type="resnet")}

    backbone_config: dict | PreTrainedConfig | None = None
    projection_batch_norm: bool = False
    temperature: float | int | None = None  # ty: ignore[incompatible-attribute-override]
    base: str = "moco"
    queue_size: int = 65536
    encoder_momentum: float | int = 0.999
    shuffle_batch_norm: bool = True
    num_negatives: int = 65536
    num_samples: int = 1281167
    bank_momentum: float | int | None = None
    num_clusters: int = 10000
    min_cluster_size: int = 20
    online_labels: bool = True
    centroid_interval: int = 10
    repair_interval: int = 1
    share_neck: bool = True
    negative_sampling: str = "semihard"
    num_inter_negatives: int = 16384
    negative_pool_size: int = 128000
    inter_margin: float | int = -0.5
    inter_margin_type: str = "cosine"
    intra_margin: float | int = 0.0
    intra_margin_type: str = "cosine"
    intra_weight: float | int = 0.75
    inter_weight: float | int = 0.25
    warmup_epochs: int = 0

    def __post_init__(self, **kwargs: Any) -> None:
        on_npid = self.base == "npid"
        if self.projection_dims is None:
            self.projection_dims = [128] if on_npid else [2048, 128]
        if self.temperature is None:
            self.temperature = 0.07 if on_npid else 0.2
        if self.bank_momentum is None:
            self.bank_momentum = 0.5 if on_npid else 1.0
        super().__post_init__(**kwargs)

    def validate_base(self) -> None:
        """Refuse values with which the intra-image loss is not defined."""
        require(self.base in BASES, "base", self.base, f"one of {', '.join(BASES)}")
        require(
            self.share_neck or self.base == "moco",
            "share_neck",
            self.share_neck,
            "True on NPID, whose intra-image positives are rows of the same bank",
        )
        require(self.queue_size >= 1, "queue_size", self.queue_size, "1 or more, a multiple of the global batch")
        require(0 <= self.encoder_momentum <= 1, "encoder_momentum", self.encoder_momentum, "from 0 to 1")
        require(self.num_negatives >= 1, "num_negatives", self.num_negatives, "1 or more")

    def validate_bank(self) -> None:
        """Refuse values with which bank and clusters are not defined."""
        require(self.num_samples >= 2, "num_samples", self.num_samples, "2 or more, the length of the training set")
        require(0 < (self.bank_momentum or 0) <= 1, "bank_momentum", self.bank_momentum, "above 0 and at most 1")
        require(self.min_cluster_size >= 1, "min_cluster_size", self.min_cluster_size, "1 or more")
        largest = self.num_samples // max(1, self.min_cluster_size)
        require(
            2 <= self.num_clusters <= largest,
            "num_clusters",
            self.num_clusters,
            f"from 2 to num_samples / min_cluster_size = {largest}",
        )
        require(self.centroid_interval >= 1, "centroid_interval", self.centroid_interval, "1 or more")
        require(self.repair_interval >= 1, "repair_interval", self.repair_interval, "1 or more")

    def validate_negatives(self) -> None:
        """Refuse negatives that the bank cannot give."""
        count, pool = self.num_inter_negatives, self.negative_pool_size
        known = ", ".join(SAMPLINGS)
        require(self.negative_sampling in SAMPLINGS, "negative_sampling", self.negative_sampling, f"one of {known}")
        require(count >= 1, "num_inter_negatives", count, "1 or more")
        if self.negative_sampling in ("semihard", "semieasy"):
            require(
                count <= pool <= self.num_samples,
                "negative_pool_size",
                pool,
                f"from num_inter_negatives = {count} to num_samples = {self.num_samples}",
            )
        elif self.negative_sampling == "hard":
            require(count < self.num_samples, "num_inter_negatives", count, f"below num_samples = {self.num_samples}")

    def validate_margins(self) -> None:
        """Refuse margins that are not defined."""
        for name in ("inter_margin", "intra_margin"):
            margin, kind = getattr(self, name), getattr(self, f"{name}_type")
            require(kind in MARGIN_TYPES, f"{name}_type", kind, f"one of {', '.join(MARGIN_TYPES)}")
            require(
                kind == "cosine" or -3.14159 < margin < 3.14159,
                name,
                margin,
                "an angle between -pi and pi, in radians",
            )

    def validate_weights(self) -> None:
        """Refuse weights and a warm-up that are not defined."""
        require(self.intra_weight >= 0, "intra_weight", self.intra_weight, "0 or more")
        require(self.inter_weight >= 0, "inter_weight", self.inter_weight, "0 or more")
        require(self.warmup_epochs >= 0, "warmup_epochs", self.warmup_epochs, "0 or more epochs")


__all__ = ["InterCLRConfig"]
