"""What the common suite must know about MF."""

from __future__ import annotations

from helpers.recommender_tester import RecommenderTester


class MFTester(RecommenderTester):
    """On the small log of all recommenders."""

    model_type = "mf"
    variants = {"small": {}, "recbole": {"bpr_form": "log_sigmoid_eps", "penalty_form": "frobenius"}}


TESTERS = (MFTester,)
