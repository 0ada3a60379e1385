"""What the common suite must know about SimGCL."""

from __future__ import annotations

from typing import Any

from helpers.recommender_tester import RecommenderTester, uniform
from helpers.testers import Refusal


class SimGCLTester(RecommenderTester):
    """On the small log of all recommenders."""

    model_type = "simgcl"
    variants = {"small": {"noise_size": 0.3}, "with_tables": {"include_tables": True, "num_layers": 1}}
    terms = ("bpr_loss", "reg_loss", "contrastive_loss")
    refusals = (
        *RecommenderTester.refusals,
        Refusal({"num_layers": 0}, "num_layers", "1 or more"),
        Refusal({"noise_size": -0.1}, "noise_size", "0 or more"),
        Refusal({"contrastive_weight": -1.0}, "contrastive_weight", "0 or more"),
        Refusal({"temperature": 0.0}, "temperature", "above 0"),
    )

    def fixed_draws(self, config: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        return {"noise": uniform(2, config.num_layers, config.num_users + config.num_items, config.hidden_size)}


TESTERS = (SimGCLTester,)
