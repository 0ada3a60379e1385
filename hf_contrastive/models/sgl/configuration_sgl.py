"""Configuration of SGL."""

from huggingface_hub.dataclasses import strict

from hf_contrastive.configuration_utils import require
from hf_contrastive.families.recommender.configuration_recommender import RecommenderConfig
from hf_contrastive.families.recommender.step_memory import StepMemory


AUGMENTATIONS = ("edge_dropout", "node_dropout", "random_walk")


@strict
class SGLConfig(RecommenderConfig):
    r"""
    Configuration of SGL (https://arxiv.org/abs/2010.10783): LightGCN beside a contrast of two graphs from which edges or nodes
    are missing.

    Defaults are those of SELFRec's code; RecBole sums over the batch and takes all nodes as negatives (`negatives="all"`,
    `reduction="sum"`, 3 layers, temperature 0.5, contrastive_weight 0.05, reg_weight 1e-5).

    Args:
        num_users (`int`, defaults to 2): Users, numbered from 0.
        num_items (`int`, defaults to 2): Items of the catalogue, numbered from 0.
        num_interactions (`int`, defaults to 0): Training pairs that the checkpoint holds.
        hidden_size (`int`, defaults to 64): Numbers of an embedding.
        num_layers (`int`, defaults to 2): Steps along the edges.
        augmentation (`str`, defaults to `"edge_dropout"`):
            `"edge_dropout"` leaves out pairs, `"node_dropout"` users and items with all their pairs, `"random_walk"` other pairs in
            every layer. What is left is normalised anew.
        dropout (`float`, defaults to 0.1): Share that is left out.
        contrastive_weight (`float`, defaults to 0.1): Weight of the contrast.
        temperature (`float`, defaults to 0.2): Of the contrast.
        negatives (`str`, defaults to `"batch"`):
            `"batch"`: the other users (items) of the batch, each once; `"all"`: all users (items), costly beyond 10^5.
        reduction (`str`, defaults to `"mean"`): Of pairwise loss and contrast over the batch: `"mean"`, or `"sum"` (RecBole).
        seed (`int`, defaults to 0): Of what is left out, with the number of the epoch.
        bpr_form (`str`, defaults to `"softplus"`): Form of the pairwise loss: `"softplus"` or `"log_sigmoid_eps"`.
        penalty_form (`str`, defaults to `"half_sq"`): Form of the penalty: `"half_sq"`, `"frobenius"` or `"frobenius_sq"`.
        reg_weight (`float`, defaults to 1e-4): Weight of the penalty.
        initializer (`str`, defaults to `"xavier_uniform"`): How tables are drawn: `"normal"`, `"xavier_uniform"` or `"xavier_normal"`.
        initializer_range (`float`, defaults to 0.1): Deviation of `"normal"`.
        frozen_modules (`list[str]`, *optional*): as in [`ContrastiveConfig`].

    Example:

    ```python
    >>> from hf_contrastive.models.sgl.configuration_sgl import SGLConfig
    >>> SGLConfig(num_users=10, num_items=20).augmentation
    'edge_dropout'

    ```
    """

    model_type = "sgl"

    num_layers: int = 2
    augmentation: str = "edge_dropout"
    dropout: float = 0.1
    contrastive_weight: float = 0.1
    temperature: float = 0.2
    negatives: str = "batch"
    reduction: str = "mean"
    seed: int = 0
    initializer: str = "xavier_uniform"

    def step_memory(self) -> StepMemory:
        """Three passes."""
        return StepMemory(rows=5, edge_bytes=100 + 40 * self.num_layers, contrasts=2)

    def validate_views(self) -> None:
        """Refuse unknown ways to leave something out, and shares that leave nothing."""
        require(self.num_layers >= 1, "num_layers", self.num_layers, "1 or more")
        allowed = f"one of {', '.join(AUGMENTATIONS)}"
        require(self.augmentation in AUGMENTATIONS, "augmentation", self.augmentation, allowed)
        require(0 <= self.dropout < 1, "dropout", self.dropout, "from 0 to below 1")

    def validate_contrast(self) -> None:
        """Refuse numbers out of range and unknown forms."""
        require(self.contrastive_weight >= 0, "contrastive_weight", self.contrastive_weight, "0 or more")
        require(self.temperature > 0, "temperature", self.temperature, "above 0")
        require(self.negatives in ("batch", "all"), "negatives", self.negatives, "'batch' or 'all'")
        require(self.reduction in ("mean", "sum"), "reduction", self.reduction, "'mean' or 'sum'")
        require(
            not (self.reduction == "sum" and self.negatives == "batch"),
            "reduction",
            self.reduction,
            "'mean' with negatives='batch', where every node counts once",
        )


__all__ = ["SGLConfig"]
