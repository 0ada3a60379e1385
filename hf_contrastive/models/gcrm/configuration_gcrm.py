"""Configuration of goal-conditioned reward models."""

import math
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import SubConfigSpec
from transformers.models.auto import AutoConfig

from hf_contrastive.configuration_utils import require
from hf_contrastive.families.decoder.configuration_decoder import DecoderConfig


@strict
class GoalConditionedRewardConfig(DecoderConfig):
    r"""
    Configuration of a goal-conditioned reward model (https://arxiv.org/abs/2407.13887): any decoder with a value head, trained
    on preference pairs with a contrastive loss on its hidden states beside the usual one.

    Defaults are those of the official code, which the paper's runs use, too.

    Args:
        backbone_config (`dict` or `PreTrainedConfig`, *optional*):
            Configuration of any causal language model of transformers; its output matrix is not built. Llama by default (the
            paper starts from a CodeLlama and from Llama 3, both of 7 to 8 billion weights).
        value_head (`str`, defaults to `"linear"`):
            `"linear"`: one layer without bias; `"mlp"`: three hidden layers with ReLU.
        beta (`float`, defaults to 0.5):
            Weight of the contrastive loss (the paper's lambda). 0 is an ordinary reward model (Bradley-Terry).
        sim_samples (`int`, defaults to 16):
            Source states, and as many goal states, drawn from the preferred answer of every pair.
        unsim_samples (`int`, defaults to 16):
            States of the preferred and of the other answer that are drawn for the negative pairs.
        source_state_percentile (`float`, defaults to 0.0):
            Sources come from the earlier 1 - percentile of the answer. From 0 to 1.
        goal_state_percentile (`float`, defaults to 0.0):
            The same for goals.
        strategy (`str`, defaults to `"cosine"`):
            `"cosine"` compares every source with every goal, `"cosine_avg"` with the mean of the sample's goals.
        future_only (`bool`, defaults to `False`):
            Leave out pairs whose goal stands before the source. The paper asks for future states, the official code takes all
            pairs.
        per_sample (`bool`, defaults to `False`):
            Take the logarithms of the contrastive loss per sample, so that samples do not depend on each other. The official
            code takes them of means over the (micro-)batch.
        normalize_reward (`bool`, defaults to `False`):
            At inference, return (reward - reward_mean) / reward_std.
        reward_mean (`float`, defaults to 0.0):
            Mean of the rewards of a reference set, for `normalize_reward`.
        reward_std (`float`, defaults to 1.0):
            Their standard deviation.
        frozen_modules (`list[str]`, *optional*): as in [`ContrastiveConfig`].

    Example:

    ```python
    >>> from hf_contrastive import GoalConditionedRewardConfig
    >>> GoalConditionedRewardConfig(backbone_config={"model_type": "gpt2", "n_layer": 2}, beta=0.2).num_labels
    1

    ```
    """

    model_type = "gcrm"
    sub_configs_defaults = {"backbone_config": SubConfigSpec(AutoConfig, model_type="llama")}

    value_head: str = "linear"
    beta: float | int = 0.5
    sim_samples: int = 16
    unsim_samples: int = 16
    source_state_percentile: float | int = 0.0
    goal_state_percentile: float | int = 0.0
    strategy: str = "cosine"
    future_only: bool = False
    per_sample: bool = False
    normalize_reward: bool = False
    reward_mean: float | int = 0.0
    reward_std: float | int = 1.0

    def __post_init__(self, **kwargs: Any) -> None:
        # one output, a number: what `pipeline("text-classification")` and trainers of policies look at
        if self.id2label is None:
            self.id2label = {0: "reward"}
        if self.problem_type is None:
            self.problem_type = "regression"
        super().__post_init__(**kwargs)

    def validate_objective(self) -> None:
        """Refuse values with which the objective is not defined."""
        require(self.beta >= 0, "beta", self.beta, "a number of 0 or more (0.5 in the paper, 0 = Bradley-Terry alone)")
        for name in ("sim_samples", "unsim_samples"):
            require(
                getattr(self, name) >= 1, name, getattr(self, name), "a whole number of 1 or more (16 in the paper)"
            )
        for name in ("source_state_percentile", "goal_state_percentile"):
            value = getattr(self, name)
            require(0 <= value <= 1, name, value, "a number from 0 to 1 (0 in the paper)")
        require(self.strategy in ("cosine", "cosine_avg"), "strategy", self.strategy, "'cosine' or 'cosine_avg'")

    def validate_head(self) -> None:
        """Refuse unknown heads, and rewards that cannot be scaled."""
        require(self.value_head in ("linear", "mlp"), "value_head", self.value_head, "'linear' or 'mlp'")
        require(math.isfinite(self.reward_mean), "reward_mean", self.reward_mean, "a finite number")
        std = self.reward_std
        require(math.isfinite(std) and std > 0, "reward_std", std, "a finite number above 0")
        labels = self.id2label
        require(labels is None or len(labels) == 1, "num_labels", len(labels or ()), "1: a reward is one number")


__all__ = ["GoalConditionedRewardConfig"]
