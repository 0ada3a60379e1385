"""What the configurations of all recommenders share."""

from dataclasses import field

from huggingface_hub.dataclasses import strict

from hf_contrastive.configuration_utils import ContrastiveConfig, require
from hf_contrastive.families.recommender.step_memory import StepMemory


BPR_FORMS = ("softplus", "log_sigmoid_eps")
PENALTY_FORMS = ("half_sq", "frobenius", "frobenius_sq")
INITIALIZERS = ("normal", "xavier_uniform", "xavier_normal")


@strict
class RecommenderConfig(ContrastiveConfig):
    r"""
    Base of the configurations of recommenders: sizes of the tables, and the pairwise objective.

    Args:
        num_users (`int`, defaults to 2): Users, numbered from 0.
        num_items (`int`, defaults to 2): Items of the catalogue, numbered from 0.
        num_interactions (`int`, defaults to 0):
            Training pairs that the checkpoint holds; `set_interactions` sets it.
        hidden_size (`int`, defaults to 64): Numbers of an embedding.
        bpr_form (`str`, defaults to `"softplus"`):
            Form of the pairwise loss: `"softplus"` (exact) or `"log_sigmoid_eps"` (RecBole, MMRec), see `hf_contrastive.losses.bpr_loss`.
        penalty_form (`str`, defaults to `"half_sq"`):
            Form of the penalty on the embeddings of a batch: `"half_sq"`, `"frobenius"` or `"frobenius_sq"`, see
            `hf_contrastive.losses.embedding_penalty`. Weights of different forms cannot be compared.
        reg_weight (`float`, defaults to 1e-4): Weight of the penalty.
        initializer (`str`, defaults to `"normal"`):
            How tables are drawn: `"normal"` (deviation `initializer_range`), `"xavier_uniform"` or `"xavier_normal"`, which are small
            for large tables, so that the first epochs are slow.
        initializer_range (`float`, defaults to 0.1): Deviation of `"normal"`.
        frozen_modules (`list[str]`, *optional*): as in [`ContrastiveConfig`].
    """

    num_users: int = 2
    num_items: int = 2
    num_interactions: int = 0
    hidden_size: int = 64
    bpr_form: str = "softplus"
    penalty_form: str = "half_sq"
    reg_weight: float = 1e-4
    initializer: str = "normal"
    initializer_range: float = 0.1

    def step_memory(self) -> StepMemory:
        """What a training step holds at its peak; by default that of LightGCN with autograd, or of tables alone."""
        layers = getattr(self, "num_layers", 0)
        return StepMemory(rows=4, edge_bytes=8 * layers) if layers else StepMemory(rows=1)

    def validate_tables(self) -> None:
        """Refuse empty tables."""
        for name in ("num_users", "num_items", "hidden_size"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        require(self.num_interactions >= 0, "num_interactions", self.num_interactions, "0 or more")

    def validate_pairwise_objective(self) -> None:
        """Refuse unknown forms and negative weights."""
        require(self.bpr_form in BPR_FORMS, "bpr_form", self.bpr_form, f"one of {', '.join(BPR_FORMS)}")
        require(
            self.penalty_form in PENALTY_FORMS, "penalty_form", self.penalty_form, f"one of {', '.join(PENALTY_FORMS)}"
        )
        require(self.reg_weight >= 0, "reg_weight", self.reg_weight, "0 or more")

    def validate_initializer(self) -> None:
        """Refuse unknown ways to draw tables."""
        require(self.initializer in INITIALIZERS, "initializer", self.initializer, f"one of {', '.join(INITIALIZERS)}")
        require(self.initializer_range > 0, "initializer_range", self.initializer_range, "above 0")


@strict
class FeatureRecommenderConfig(RecommenderConfig):
    r"""
    Base of the configurations of recommenders that read features of the items.

    Args:
        feature_dims (`dict[str, int]`, defaults to image 4096 and text 384):
            By modality the size of an item's features; at least one, names are free.
    """

    feature_dims: dict[str, int] = field(default_factory=lambda: {"image": 4096, "text": 384})

    def validate_features(self) -> None:
        """Refuse no modality, and sizes below 1."""
        good = len(self.feature_dims) > 0 and all(size >= 1 for size in self.feature_dims.values())
        require(good, "feature_dims", self.feature_dims, "sizes of 1 or more of at least one modality")


__all__ = ["FeatureRecommenderConfig", "RecommenderConfig"]
