"""Configuration of LightGCN."""

from huggingface_hub.dataclasses import strict

from hf_contrastive.configuration_utils import require
from hf_contrastive.families.recommender.configuration_recommender import RecommenderConfig
from hf_contrastive.families.recommender.step_memory import StepMemory


@strict
class LightGCNConfig(RecommenderConfig):
    r"""
    Configuration of LightGCN (https://arxiv.org/abs/2002.02126): embeddings averaged over neighbourhoods of growing size.

    Defaults are those of the official code, whose tables are drawn with a deviation of 0.1 (the paper: Xavier).

    Args:
        num_users (`int`, defaults to 2): Users, numbered from 0.
        num_items (`int`, defaults to 2): Items of the catalogue, numbered from 0.
        num_interactions (`int`, defaults to 0): Training pairs that the checkpoint holds.
        hidden_size (`int`, defaults to 64): Numbers of an embedding.
        num_layers (`int`, defaults to 3): Steps along the edges; 0 is matrix factorisation.
        edge_dropout (`float`, defaults to 0.0):
            Share of the stored edges that is left out of a training step, each direction of a pair on its own; the others are
            scaled up, not normalised anew (official code).
        bpr_form (`str`, defaults to `"softplus"`): Form of the pairwise loss: `"softplus"` or `"log_sigmoid_eps"`.
        penalty_form (`str`, defaults to `"half_sq"`): Form of the penalty: `"half_sq"`, `"frobenius"` or `"frobenius_sq"`.
        reg_weight (`float`, defaults to 1e-4): Weight of the penalty.
        initializer (`str`, defaults to `"normal"`): How tables are drawn: `"normal"`, `"xavier_uniform"` or `"xavier_normal"`.
        initializer_range (`float`, defaults to 0.1): Deviation of `"normal"`.
        frozen_modules (`list[str]`, *optional*): as in [`ContrastiveConfig`].

    Example:

    ```python
    >>> from hf_contrastive.models.lightgcn.configuration_lightgcn import LightGCNConfig
    >>> LightGCNConfig(num_users=10, num_items=20).num_layers
    3

    ```
    """

    model_type = "lightgcn"

    num_layers: int = 3
    edge_dropout: float = 0.0

    def step_memory(self) -> StepMemory:
        """As much, but sums of all nodes are made in arrays that are used again."""
        return StepMemory(rows=3, edge_bytes=8 * self.num_layers, sampled=True)

    def validate_propagation(self) -> None:
        """Refuse negative depth, and a share that leaves nothing."""
        require(self.num_layers >= 0, "num_layers", self.num_layers, "0 or more")
        require(0 <= self.edge_dropout < 1, "edge_dropout", self.edge_dropout, "from 0 to below 1")


__all__ = ["LightGCNConfig"]
