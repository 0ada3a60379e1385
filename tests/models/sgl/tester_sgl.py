"""What the common suite must know about SGL."""

from __future__ import annotations

from helpers.recommender_tester import RecommenderTester
from helpers.testers import Refusal


class SGLTester(RecommenderTester):
    """On the small log of all recommenders."""

    model_type = "sgl"
    fields = {"contrastive_weight": 0.5, "dropout": 0.3}
    variants = {
        "edges": {},
        "nodes": {"augmentation": "node_dropout", "negatives": "all"},
        "walk": {"augmentation": "random_walk", "negatives": "all", "reduction": "sum"},
    }
    terms = ("bpr_loss", "reg_loss", "contrastive_loss")
    refusals = (
        *RecommenderTester.refusals,
        Refusal({"num_layers": 0}, "num_layers", "1 or more"),
        Refusal({"augmentation": "noise"}, "augmentation", "one of edge_dropout, node_dropout, random_walk"),
        Refusal({"dropout": 1.0}, "dropout", "from 0 to below 1"),
        Refusal({"contrastive_weight": -1.0}, "contrastive_weight", "0 or more"),
        Refusal({"temperature": 0.0}, "temperature", "above 0"),
        Refusal({"negatives": "hard"}, "negatives", "'batch' or 'all'"),
        Refusal({"reduction": "max"}, "reduction", "'mean' or 'sum'"),
        Refusal({"reduction": "sum"}, "reduction", "'mean' with negatives='batch'"),
    )


TESTERS = (SGLTester,)
