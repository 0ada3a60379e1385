"""What the common suite must know about BM3."""

from __future__ import annotations

from typing import Any

from helpers.recommender_tester import FEATURES, RecommenderTester, uniform
from helpers.testers import Refusal


class BM3Tester(RecommenderTester):
    """On the small log of all recommenders."""

    model_type = "bm3"
    fields = {"feature_dims": FEATURES}
    variants = {"two": {}, "one": {"feature_dims": {"sound": 3}, "num_layers": 2}}
    terms = ("reconstruction_loss", "alignment_loss", "masking_loss", "reg_loss")
    refusals = (
        *RecommenderTester.refusals,
        Refusal({"feature_dims": {}}, "feature_dims", "at least one modality"),
        Refusal({"num_layers": -1}, "num_layers", "0 or more"),
        Refusal({"dropout": 1.0}, "dropout", "from 0 to below 1"),
        Refusal({"modality_weight": -1.0}, "modality_weight", "0 or more"),
    )

    def fixed_draws(self, config: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        rows = {"user": config.num_users, **dict.fromkeys(("item", *config.feature_dims), config.num_items)}
        return {
            "keep_masks": {name: (uniform(count, config.hidden_size) < 0.5).float() for name, count in rows.items()}
        }


TESTERS = (BM3Tester,)
