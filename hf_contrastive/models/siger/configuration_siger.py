"""Configuration of SIGER."""

from huggingface_hub.dataclasses import strict

from hf_contrastive.configuration_utils import require
from hf_contrastive.families.recommender.configuration_recommender import FeatureRecommenderConfig
from hf_contrastive.families.recommender.step_memory import StepMemory


@strict
class SIGERConfig(FeatureRecommenderConfig):
    r"""
    Configuration of SIGER (https://arxiv.org/abs/2508.06154): item graphs by features, enhanced by what is chosen together.

    A reconstruction from the paper's abstract, not verified against the authors' code: every formula and default is ours.

    Args:
        num_users (`int`, defaults to 2): Users, numbered from 0.
        num_items (`int`, defaults to 2): Items of the catalogue, numbered from 0.
        num_interactions (`int`, defaults to 0): Training pairs that the checkpoint holds.
        feature_dims (`dict[str, int]`, defaults to image 4096 and text 384):
            By modality the size of an item's features; at least one, names are free.
        hidden_size (`int`, defaults to 64): Numbers of an embedding.
        num_layers (`int`, defaults to 2): Steps along the edges of users and items.
        num_semantic_layers (`int`, defaults to 1): Steps along the edges of items.
        likeness_neighbours (`int`, defaults to 10): Edges of an item by the likeness of features.
        co_occurrence_neighbours (`int`, defaults to 10): Edges of an item by common users.
        max_history (`int`, *optional*, defaults to 1000): Users with more items are not counted in common users.
        edge_weight (`str`, defaults to `"cosine"`): Weights by likeness: `"cosine"` or `"binary"`.
        collaborative_share (`float`, defaults to 0.5): Share of common users in the blended graph (alpha).
        noise_size (`float`, defaults to 0.1): Length of the noise of a view, in units of the row's own length (eps).
        perturbation (`str`, defaults to `"modulus"`): `"modulus"`, or `"constant"` for noise of one length (SimGCL).
        temperature (`float`, defaults to 0.2): Of all contrasts.
        perturbation_weight (`float`, defaults to 0.01): Weight of the contrast of noisy views.
        anchor_weight (`float`, defaults to 0.01): Weight of the alignment of modalities with behaviour.
        fused_weight (`float`, defaults to 0.01): Weight of the alignment of behaviour with fused modalities.
        anchor_mode (`str`, defaults to `"joint"`): `"joint"`: all modalities in one softmax; `"sum"`: one for each.
        detach_anchor (`bool`, defaults to `True`): No gradient into the behaviour from its being an anchor.
        bpr_form (`str`, defaults to `"softplus"`): Form of the pairwise loss: `"softplus"` or `"log_sigmoid_eps"`.
        penalty_form (`str`, defaults to `"half_sq"`): Form of the penalty: `"half_sq"`, `"frobenius"` or `"frobenius_sq"`.
        reg_weight (`float`, defaults to 1e-4): Weight of the penalty.
        initializer (`str`, defaults to `"xavier_uniform"`): How tables are drawn: `"normal"`, `"xavier_uniform"` or `"xavier_normal"`.
        initializer_range (`float`, defaults to 0.1): Deviation of `"normal"`.
        frozen_modules (`list[str]`, *optional*): as in [`ContrastiveConfig`].

    Example:

    ```python
    >>> from hf_contrastive.models.siger.configuration_siger import SIGERConfig
    >>> SIGERConfig(num_users=10, num_items=20, feature_dims={"audio": 128}).collaborative_share
    0.5

    ```
    """

    model_type = "siger"

    num_layers: int = 2
    num_semantic_layers: int = 1
    likeness_neighbours: int = 10
    co_occurrence_neighbours: int = 10
    max_history: int | None = 1000
    edge_weight: str = "cosine"
    collaborative_share: float = 0.5
    noise_size: float = 0.1
    perturbation: str = "modulus"
    temperature: float = 0.2
    perturbation_weight: float = 0.01
    anchor_weight: float = 0.01
    fused_weight: float = 0.01
    anchor_mode: str = "joint"
    detach_anchor: bool = True
    initializer: str = "xavier_uniform"

    def step_memory(self) -> StepMemory:
        """Views of every modality; logits of the anchors are not made in tiles, and likeness is measured in float64."""
        modalities = len(self.feature_dims)
        return StepMemory(
            rows=9 + 5 * modalities,
            edge_bytes=8 * self.num_layers,
            contrasts=2 + (2 + 8) * modalities,
            feature_copies=3,
        )

    def validate_graphs(self) -> None:
        """Refuse graphs that cannot be built."""
        for name in ("num_layers", "num_semantic_layers"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        for name in ("likeness_neighbours", "co_occurrence_neighbours"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        require(
            self.max_history is None or self.max_history >= 2, "max_history", self.max_history, "2 or more, or none"
        )
        require(self.edge_weight in ("cosine", "binary"), "edge_weight", self.edge_weight, "'cosine' or 'binary'")
        require(0 <= self.collaborative_share <= 1, "collaborative_share", self.collaborative_share, "from 0 to 1")

    def validate_contrasts(self) -> None:
        """Refuse numbers out of range and unknown forms."""
        require(self.noise_size >= 0, "noise_size", self.noise_size, "0 or more")
        require(
            self.perturbation in ("modulus", "constant"), "perturbation", self.perturbation, "'modulus' or 'constant'"
        )
        require(self.temperature > 0, "temperature", self.temperature, "above 0")
        for name in ("perturbation_weight", "anchor_weight", "fused_weight"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        require(self.anchor_mode in ("joint", "sum"), "anchor_mode", self.anchor_mode, "'joint' or 'sum'")


__all__ = ["SIGERConfig"]
