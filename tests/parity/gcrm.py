"""Adapters of goal-conditioned reward models: losses, sampling, read-out, filtered vote."""

from __future__ import annotations

from typing import Any

import torch
from parity._gcrm_vote import run_filtered_majority_vote
from torch import Tensor

from hf_contrastive import GoalConditionedRewardConfig, GoalConditionedRewardModel
from hf_contrastive.losses import (
    bradley_terry_loss,
    goal_contrastive_loss_at,
    goal_state_index,
    sorted_goal_draws,
)
from hf_contrastive.modules.reward_readout import last_token_index


def run_goal_loss(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    chosen, rejected = (inputs[name].requires_grad_() for name in ("chosen_hidden", "rejected_hidden"))
    length = chosen.shape[1]
    source_draws, goal_draws = sorted_goal_draws(inputs["draw_positive"])
    source_percentile, goal_percentile = config["source_state_percentile"], config["goal_state_percentile"]
    chosen_actions, rejected_actions = inputs["chosen_num_actions"], inputs["rejected_num_actions"]
    index = {
        "source_index": goal_state_index(source_draws, chosen_actions, source_percentile, length),
        "goal_index": goal_state_index(goal_draws, chosen_actions, goal_percentile, length),
        "negative_source_index": goal_state_index(
            inputs["draw_negative_source"], chosen_actions, source_percentile, length
        ),
        "negative_goal_index": goal_state_index(
            inputs["draw_negative_goal"], rejected_actions, goal_percentile, length
        ),
    }
    options = {"strategy": config["strategy"]}
    loss = config["beta"] * goal_contrastive_loss_at(chosen, rejected, *index.values(), **options).loss
    gradients = torch.autograd.grad(loss, (chosen, rejected))
    return {
        "expected.loss": loss,
        "expected.grad.chosen_hidden": gradients[0],
        "expected.grad.rejected_hidden": gradients[1],
        **{f"expected.{name}": value for name, value in index.items()},
    }


def run_pairwise(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    chosen, rejected = (inputs[name].requires_grad_() for name in ("chosen_reward", "rejected_reward"))
    loss = bradley_terry_loss(chosen, rejected, inputs.get("margin"))
    gradients = torch.autograd.grad(loss, (chosen, rejected))
    return {
        "expected.loss": loss,
        "expected.grad.chosen": gradients[0],
        "expected.grad.rejected": gradients[1],
        "expected.accuracy": (chosen > rejected).double().mean(),
    }


def run_readout(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    hidden, mask = inputs["hidden"], inputs["attention_mask"]
    size = hidden.shape[-1]
    backbone = {"model_type": "gpt2", "n_embd": size, "n_layer": 1, "n_head": 1, "vocab_size": 8}
    model = GoalConditionedRewardModel(GoalConditionedRewardConfig(backbone_config=backbone)).to(hidden.dtype).eval()
    with torch.no_grad():
        model.value_head.layers[0].weight.copy_(inputs["value_head.weight"].view(1, -1))
    model.set_goal_state(inputs["goal_state"])
    values, q_values = model.read_states(hidden)
    last = last_token_index(mask)
    return {
        "expected.values": values,
        "expected.eos_index": last,
        "expected.reward": values[torch.arange(len(values)), last],
        "expected.q_values": q_values,
    }


ADAPTERS = {
    "contrastive_goal_loss": run_goal_loss,
    "filtered_majority_vote": run_filtered_majority_vote,
    "pairwise_loss": run_pairwise,
    "reward_readout": run_readout,
}
