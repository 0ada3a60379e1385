"""What the common suite must know about DirectPred."""

from __future__ import annotations

from typing import Any

from helpers.siamese_tester import SiameseTester
from helpers.testers import Refusal


class DirectPredTester(SiameseTester):
    """DirectPred on the library's light backbone: the predictor set after every step, and set now and then."""

    model_type = "directpred"
    training_parts = ("momentum_encoder", "predictor", "running_correlation")
    backbones = ("conv_encoder",)
    options = {**SiameseTester.options, "encoder_momentum": 0.9, "eps": 0.1}
    refusals = (
        *SiameseTester.refusals,
        Refusal({"predictor_hidden_dim": 0}, "predictor_hidden_dim", "1 or more"),
        Refusal({"encoder_momentum": 1.5}, "encoder_momentum", "from 0 to 1"),
        Refusal({"momentum_schedule": "linear"}, "momentum_schedule", "one of constant, cosine"),
        Refusal({"target_init": "zero"}, "target_init", "'copy' or 'random'"),
        Refusal({"predictor_mode": "directpred"}, "predictor_mode", "one of direct_pred, direct_set, direct_copy"),
        Refusal({"rho": 1.0}, "rho", "from 0 to below 1"),
        Refusal({"power": 0, "predictor_mode": "direct_set"}, "power", "above 0"),
        Refusal({"power": 3}, "power", "2 with predictor_mode='direct_pred'"),
        Refusal({"balance_type": "scale"}, "balance_type", "one of boost_scale, direct, shrink2mean, clamp"),
        Refusal({"reg": 1.0}, "reg", "from 0 to below 1"),
        Refusal({"freq": 0}, "freq", "1 or more"),
    )

    def configs(self) -> dict[str, Any]:
        found = super().configs()
        found["vit_plain_head"].freq = 2
        return found

    def objective_shapes(self, config: Any, batch: int) -> dict[str, tuple[int, ...]]:
        shapes = super().objective_shapes(config, batch)
        return {**shapes, "predictions": shapes["projections"], "target_projections": shapes["projections"]}


TESTERS = (DirectPredTester,)
