"""What the common suite must know about SIGER."""

from __future__ import annotations

from typing import Any

from helpers.recommender_tester import FEATURES, RecommenderTester, uniform
from helpers.testers import Refusal


class SIGERTester(RecommenderTester):
    """On the small log of all recommenders."""

    model_type = "siger"
    fields = {"feature_dims": FEATURES, "likeness_neighbours": 3, "co_occurrence_neighbours": 2}
    variants = {
        "joint": {"anchor_weight": 0.3, "fused_weight": 0.3, "perturbation_weight": 0.3},
        "sum": {"anchor_mode": "sum", "detach_anchor": False, "edge_weight": "binary"},
    }
    terms = ("bpr_loss", "reg_loss", "perturbation_loss", "anchor_loss", "fused_loss")
    can_freeze = ()  # the features are frozen already
    refusals = (
        *RecommenderTester.refusals,
        Refusal({"feature_dims": {}}, "feature_dims", "at least one modality"),
        Refusal({"num_layers": -1}, "num_layers", "0 or more"),
        Refusal({"likeness_neighbours": 0}, "likeness_neighbours", "1 or more"),
        Refusal({"max_history": 1}, "max_history", "2 or more, or none"),
        Refusal({"edge_weight": "l2"}, "edge_weight", "'cosine' or 'binary'"),
        Refusal({"collaborative_share": 1.5}, "collaborative_share", "from 0 to 1"),
        Refusal({"noise_size": -0.1}, "noise_size", "0 or more"),
        Refusal({"perturbation": "none"}, "perturbation", "'modulus' or 'constant'"),
        Refusal({"temperature": 0.0}, "temperature", "above 0"),
        Refusal({"anchor_weight": -1.0}, "anchor_weight", "0 or more"),
        Refusal({"anchor_mode": "max"}, "anchor_mode", "'joint' or 'sum'"),
    )

    def fixed_draws(self, config: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        nodes = config.num_users + config.num_items
        return {"noise": {name: uniform(2, nodes, config.hidden_size) for name in config.feature_dims}}


TESTERS = (SIGERTester,)
