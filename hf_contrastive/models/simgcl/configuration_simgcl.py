"""Configuration of SimGCL."""

from huggingface_hub.dataclasses import strict

from hf_contrastive.configuration_utils import require
from hf_contrastive.families.recommender.configuration_recommender import RecommenderConfig
from hf_contrastive.families.recommender.step_memory import StepMemory


@strict
class SimGCLConfig(RecommenderConfig):
    r"""
    Configuration of SimGCL (https://arxiv.org/abs/2112.08679): LightGCN beside a contrast of two noisy views of the same graph.

    Defaults are those of the official code (SELFRec).

    Args:
        num_users (`int`, defaults to 2): Users, numbered from 0.
        num_items (`int`, defaults to 2): Items of the catalogue, numbered from 0.
        num_interactions (`int`, defaults to 0): Training pairs that the checkpoint holds.
        hidden_size (`int`, defaults to 64): Numbers of an embedding.
        num_layers (`int`, defaults to 2): Steps along the edges.
        noise_size (`float`, defaults to 0.1): Length of the noise that a view adds to every row in every layer (eps).
        contrastive_weight (`float`, defaults to 0.5): Weight of the contrast (lambda).
        temperature (`float`, defaults to 0.2): Of the contrast.
        include_tables (`bool`, defaults to `False`): Take layer 0, too, into the means over the layers (SSLRec).
        bpr_form (`str`, defaults to `"softplus"`): Form of the pairwise loss: `"softplus"` or `"log_sigmoid_eps"`.
        penalty_form (`str`, defaults to `"half_sq"`): Form of the penalty: `"half_sq"`, `"frobenius"` or `"frobenius_sq"`.
        reg_weight (`float`, defaults to 1e-4): Weight of the penalty.
        initializer (`str`, defaults to `"xavier_uniform"`): How tables are drawn: `"normal"`, `"xavier_uniform"` or `"xavier_normal"`.
        initializer_range (`float`, defaults to 0.1): Deviation of `"normal"`.
        frozen_modules (`list[str]`, *optional*): as in [`ContrastiveConfig`].

    Example:

    ```python
    >>> from hf_contrastive.models.simgcl.configuration_simgcl import SimGCLConfig
    >>> SimGCLConfig(num_users=10, num_items=20).temperature
    0.2

    ```
    """

    model_type = "simgcl"

    num_layers: int = 2
    noise_size: float = 0.1
    contrastive_weight: float = 0.5
    temperature: float = 0.2
    include_tables: bool = False
    initializer: str = "xavier_uniform"

    def step_memory(self) -> StepMemory:
        """Three passes, and noise for all layers of two of them."""
        return StepMemory(rows=6 + 2 * self.num_layers, edge_bytes=24 * self.num_layers, contrasts=2)

    def validate_views(self) -> None:
        """Refuse views without a layer, and numbers out of range."""
        require(self.num_layers >= 1, "num_layers", self.num_layers, "1 or more")
        require(self.noise_size >= 0, "noise_size", self.noise_size, "0 or more")
        require(self.contrastive_weight >= 0, "contrastive_weight", self.contrastive_weight, "0 or more")
        require(self.temperature > 0, "temperature", self.temperature, "above 0")


__all__ = ["SimGCLConfig"]
