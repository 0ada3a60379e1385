"""Configuration of BM3."""

from huggingface_hub.dataclasses import strict

from hf_contrastive.configuration_utils import require
from hf_contrastive.families.recommender.configuration_recommender import FeatureRecommenderConfig
from hf_contrastive.families.recommender.step_memory import StepMemory


@strict
class BM3Config(FeatureRecommenderConfig):
    r"""
    Configuration of BM3 (https://arxiv.org/abs/2207.05969): recommendation with item features and without negatives; views are
    made by dropout on final vectors, and gradients stop at the targets.

    Defaults are those of the official code for Amazon Baby.

    Args:
        num_users (`int`, defaults to 2): Users, numbered from 0.
        num_items (`int`, defaults to 2): Items of the catalogue, numbered from 0.
        num_interactions (`int`, defaults to 0): Training pairs that the checkpoint holds.
        feature_dims (`dict[str, int]`, defaults to image 4096 and text 384):
            By modality the size of an item's features; at least one, names are free.
        hidden_size (`int`, defaults to 64): Numbers of an embedding, and of projected features.
        num_layers (`int`, defaults to 1): Steps along the edges.
        dropout (`float`, defaults to 0.5): Share of the targets' numbers that is zeroed, in eval mode too.
        modality_weight (`float`, defaults to 2.0):
            Weight of the alignment and masking terms (`cl_weight` of the code; not in the paper's total, from memory).
        freeze_features (`bool`, defaults to `False`):
            Leave the features as they are; the official code trains them.
        bpr_form (`str`, defaults to `"softplus"`): Without use here, there are no negatives.
        penalty_form (`str`, defaults to `"half_sq"`): Without use here.
        reg_weight (`float`, defaults to 0.1): Weight of the norms of all final vectors (not squared) over the number of items.
        initializer (`str`, defaults to `"xavier_uniform"`): How tables are drawn: `"normal"`, `"xavier_uniform"` or `"xavier_normal"`.
        initializer_range (`float`, defaults to 0.1): Deviation of `"normal"`.
        frozen_modules (`list[str]`, *optional*): as in [`ContrastiveConfig`].

    Example:

    ```python
    >>> from hf_contrastive.models.bm3.configuration_bm3 import BM3Config
    >>> BM3Config(num_users=10, num_items=20, feature_dims={"audio": 128}).dropout
    0.5

    ```
    """

    model_type = "bm3"

    num_layers: int = 1
    dropout: float = 0.5
    modality_weight: float = 2.0
    freeze_features: bool = False
    reg_weight: float = 0.1
    initializer: str = "xavier_uniform"

    def step_memory(self) -> StepMemory:
        """One pass; features are trained unless they are frozen."""
        return StepMemory(rows=5, edge_bytes=8 * self.num_layers, trained_features=not self.freeze_features)

    def validate_views(self) -> None:
        """Refuse numbers out of range."""
        require(self.num_layers >= 0, "num_layers", self.num_layers, "0 or more")
        require(0 <= self.dropout < 1, "dropout", self.dropout, "from 0 to below 1")
        require(self.modality_weight >= 0, "modality_weight", self.modality_weight, "0 or more")


__all__ = ["BM3Config"]
