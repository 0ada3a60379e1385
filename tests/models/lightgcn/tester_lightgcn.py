"""What the common suite must know about LightGCN."""

from __future__ import annotations

from typing import Any

from helpers.recommender_tester import RecommenderTester, uniform
from helpers.testers import Refusal


class LightGCNTester(RecommenderTester):
    """On the small log of all recommenders."""

    model_type = "lightgcn"
    variants = {"small": {"num_layers": 2}, "edge_dropout": {"num_layers": 2, "edge_dropout": 0.3}}
    refusals = (
        *RecommenderTester.refusals,
        Refusal({"num_layers": -1}, "num_layers", "0 or more"),
        Refusal({"edge_dropout": 1.0}, "edge_dropout", "from 0 to below 1"),
    )

    def fixed_draws(self, config: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        return {"edge_keep": (uniform(2 * config.num_interactions) < 0.7).float()}


TESTERS = (LightGCNTester,)
