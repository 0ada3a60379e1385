"""Configuration of DCCF."""

from huggingface_hub.dataclasses import strict

from hf_contrastive.configuration_utils import require
from hf_contrastive.families.recommender.configuration_recommender import RecommenderConfig
from hf_contrastive.families.recommender.step_memory import StepMemory


@strict
class DCCFConfig(RecommenderConfig):
    r"""
    Configuration of DCCF (https://arxiv.org/abs/2305.02759): a graph encoder with shared intents and learned edge weights,
    whose views are contrasted with the plain graph.

    Defaults are those of the official code.

    Args:
        num_users (`int`, defaults to 2): Users, numbered from 0.
        num_items (`int`, defaults to 2): Items of the catalogue, numbered from 0.
        num_interactions (`int`, defaults to 0): Training pairs that the checkpoint holds.
        hidden_size (`int`, defaults to 32): Numbers of an embedding.
        num_layers (`int`, defaults to 2): Layers, each with a graph, an intent and two weighted views.
        num_intents (`int`, defaults to 128): Prototypes of users, and as many of items.
        temperature (`float`, defaults to 1.0): Of the contrast.
        contrastive_weight (`float`, defaults to 0.1): Weight of the contrast (`ssl_reg`), a sum over layers and views.
        intent_reg_weight (`float`, defaults to 5e-3): Weight of the squared norms of the prototypes (`cen_reg`).
        bpr_form (`str`, defaults to `"softplus"`): Form of the pairwise loss: `"softplus"` or `"log_sigmoid_eps"`.
        penalty_form (`str`, defaults to `"frobenius_sq"`):
            Form of the penalty; the default is a sum over the batch, so that another batch size means another penalty.
        reg_weight (`float`, defaults to 2.5e-5): Weight of the penalty (`emb_reg`).
        initializer (`str`, defaults to `"xavier_normal"`): How tables are drawn (as in `RecommenderConfig`); prototypes always so.
        initializer_range (`float`, defaults to 0.1): Deviation of `"normal"`.
        frozen_modules (`list[str]`, *optional*): as in [`ContrastiveConfig`].

    Example:

    ```python
    >>> from hf_contrastive.models.dccf.configuration_dccf import DCCFConfig
    >>> DCCFConfig(num_users=10, num_items=20).num_intents
    128

    ```
    """

    model_type = "dccf"

    hidden_size: int = 32
    num_layers: int = 2
    num_intents: int = 128
    temperature: float = 1.0
    contrastive_weight: float = 0.1
    intent_reg_weight: float = 5e-3
    penalty_form: str = "frobenius_sq"
    reg_weight: float = 2.5e-5
    initializer: str = "xavier_normal"

    def step_memory(self) -> StepMemory:
        """Four views a layer, mixtures of intents, weights of the edges by two views; six contrasts, of fewer nodes than rows."""
        layers = self.num_layers
        numbers = 2 * layers * self.num_intents
        return StepMemory(rows=4 + 8 * layers, edge_bytes=100 * layers, contrasts=4 * layers, numbers=numbers)

    def validate_layers_and_intents(self) -> None:
        """Refuse sizes below 1 and numbers out of range."""
        for field in ("num_layers", "num_intents"):
            require(getattr(self, field) >= 1, field, getattr(self, field), "1 or more")
        require(self.temperature > 0, "temperature", self.temperature, "above 0")
        for field in ("contrastive_weight", "intent_reg_weight"):
            require(getattr(self, field) >= 0, field, getattr(self, field), "0 or more")


__all__ = ["DCCFConfig"]
