"""What the common suite must know about DCCF."""

from __future__ import annotations

from helpers.recommender_tester import RecommenderTester
from helpers.testers import Refusal


class DCCFTester(RecommenderTester):
    """On the small log of all recommenders."""

    model_type = "dccf"
    fields = {"num_intents": 4, "num_layers": 1}
    terms = ("bpr_loss", "reg_loss", "intent_reg_loss", "contrastive_loss")
    refusals = (
        *RecommenderTester.refusals,
        Refusal({"num_layers": 0}, "num_layers", "1 or more"),
        Refusal({"num_intents": 0}, "num_intents", "1 or more"),
        Refusal({"temperature": 0.0}, "temperature", "above 0"),
        Refusal({"contrastive_weight": -1.0}, "contrastive_weight", "0 or more"),
        Refusal({"intent_reg_weight": -1.0}, "intent_reg_weight", "0 or more"),
    )


TESTERS = (DCCFTester,)
