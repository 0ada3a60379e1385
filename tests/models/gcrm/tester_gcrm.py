"""What the common suite must know about goal-conditioned reward models."""

from __future__ import annotations

from typing import Any

import torch
from helpers.testers import ModelTester, Refusal
from helpers.text_models import DECODERS
from transformers import AutoConfig


class GoalConditionedRewardTester(ModelTester):
    """On three decoders: learned positions, rotary positions, states that are projected down."""

    model_type = "gcrm"
    lora = True
    refusals = (
        Refusal({"beta": -0.5}, "beta", "0 or more"),
        Refusal({"sim_samples": 0}, "sim_samples", "1 or more"),
        Refusal({"unsim_samples": 0}, "unsim_samples", "1 or more"),
        Refusal({"source_state_percentile": 1.5}, "source_state_percentile", "from 0 to 1"),
        Refusal({"goal_state_percentile": -0.1}, "goal_state_percentile", "from 0 to 1"),
        Refusal({"strategy": "euclid"}, "strategy", "'cosine' or 'cosine_avg'"),
        Refusal({"value_head": "tree"}, "value_head", "'linear' or 'mlp'"),
        Refusal({"reward_std": 0.0}, "reward_std", "above 0"),
        Refusal({"reward_mean": float("inf")}, "reward_mean", "a finite number"),
        Refusal({"num_labels": 2}, "num_labels", "a reward is one number"),
        Refusal(
            {"backbone_config": {"model_type": "resnet"}}, "backbone_config.model_type", "a causal language model"
        ),
    )

    def configs(self) -> dict[str, Any]:
        # dropout would make two passes differ
        still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        options = {
            "gpt2": ({**DECODERS["gpt2"], **still, "initializer_range": 0.2}, {"value_head": "mlp"}),
            "llama": ({**DECODERS["llama"], "initializer_range": 0.2}, {"strategy": "cosine_avg"}),
            "opt": (
                {**DECODERS["opt"], "dropout": 0.0, "attention_dropout": 0.0, "init_std": 0.2},
                {"future_only": True, "goal_state_percentile": 0.3},
            ),
        }
        return {
            name: self.spec.config_class()(
                backbone_config=AutoConfig.for_model(name, **fields),
                beta=0.7,
                sim_samples=4,
                unsim_samples=3,
                reward_mean=0.5,
                reward_std=2.0,
                **others,
            )
            for name, (fields, others) in options.items()
        }

    def single_inputs(self, config: Any, batch: int, seed: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(3, config.get_text_config().vocab_size, (batch, 9), generator=generator)
        # texts of different length, padded on the left
        mask = (torch.arange(9) >= torch.arange(batch)[:, None] % 3).long()
        return {"input_ids": ids * mask, "attention_mask": mask}

    def inputs(self, config: Any, batch: int, seed: int) -> dict[str, Any]:
        found = {}
        for number, name in enumerate(("chosen", "rejected")):
            single = self.single_inputs(config, batch, 2 * seed + number)
            found |= {f"{name}_{key}": value for key, value in single.items()}
            found[f"{name}_num_actions"] = torch.arange(batch) % 4 + 2
        generator = torch.Generator().manual_seed(seed)
        draws = {"positive": (2, config.sim_samples)}
        draws |= dict.fromkeys(("negative_source", "negative_goal"), (config.unsim_samples,))
        for name, shape in draws.items():
            found[f"draw_{name}"] = torch.rand(batch, *shape, generator=generator)
        return {**found, "margin": torch.linspace(0, 0.5, batch)}

    def output_shapes(self, config: Any, batch: int) -> dict[str, tuple[int, ...]]:
        return {
            "logits": (batch, 1),
            "rewards": (batch,),
            "token_rewards": (batch, 9),
            "last_hidden_state": (batch, 9, config.state_size),
        }

    def objective_shapes(self, config: Any, batch: int) -> dict[str, tuple[int, ...]]:
        scalars = ("loss", "preference_loss", "contrastive_loss", "accuracy", "reward_margin", "pos_sim", "neg_sim")
        return {**dict.fromkeys(scalars, ()), "chosen_rewards": (batch,), "rejected_rewards": (batch,)}

    def readout_sizes(self, config: Any) -> dict[str, int]:
        return {"last": config.state_size, "mean": config.state_size}

    def backbone_fields(self, config: Any) -> dict[str, Any]:
        return {"value_head": config.value_head}


TESTERS = (GoalConditionedRewardTester,)
