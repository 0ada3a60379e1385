"""Configuration of matrix factorisation."""

from huggingface_hub.dataclasses import strict

from hf_contrastive.families.recommender.configuration_recommender import RecommenderConfig


@strict
class MFConfig(RecommenderConfig):
    r"""
    Configuration of matrix factorisation trained by Bayesian personalised ranking (https://arxiv.org/abs/1205.2618).

    Defaults are those of the code of LightGCN, except for the tables' spread (0.1 instead of 1).

    Args:
        num_users (`int`, defaults to 2): Users, numbered from 0.
        num_items (`int`, defaults to 2): Items of the catalogue, numbered from 0.
        num_interactions (`int`, defaults to 0): Training pairs that the checkpoint holds.
        hidden_size (`int`, defaults to 64): Numbers of an embedding.
        bpr_form (`str`, defaults to `"softplus"`): Form of the pairwise loss: `"softplus"` or `"log_sigmoid_eps"`.
        penalty_form (`str`, defaults to `"half_sq"`): Form of the penalty: `"half_sq"`, `"frobenius"` or `"frobenius_sq"`.
        reg_weight (`float`, defaults to 1e-4): Weight of the penalty.
        initializer (`str`, defaults to `"normal"`): How tables are drawn: `"normal"`, `"xavier_uniform"` or `"xavier_normal"`.
        initializer_range (`float`, defaults to 0.1): Deviation of `"normal"`.
        frozen_modules (`list[str]`, *optional*): as in [`ContrastiveConfig`].

    Example:

    ```python
    >>> from hf_contrastive.models.mf.configuration_mf import MFConfig
    >>> MFConfig(num_users=10, num_items=20).hidden_size
    64

    ```
    """

    model_type = "mf"


__all__ = ["MFConfig"]
