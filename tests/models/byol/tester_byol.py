"""What the common suite must know about BYOL."""

from __future__ import annotations

from typing import Any

from helpers.siamese_tester import SiameseTester
from helpers.testers import Refusal


class BYOLTester(SiameseTester):
    """BYOL on the library's light backbone, with and without batch norm."""

    model_type = "byol"
    training_parts = ("momentum_encoder", "predictor")
    backbones = ("conv_encoder",)
    options = {**SiameseTester.options, "predictor_hidden_dim": 14, "encoder_momentum": 0.9}
    refusals = (
        *SiameseTester.refusals,
        Refusal({"predictor_hidden_dim": 0}, "predictor_hidden_dim", "1 or more"),
        Refusal({"encoder_momentum": 1.5}, "encoder_momentum", "from 0 to 1"),
        Refusal({"momentum_schedule": "linear"}, "momentum_schedule", "one of constant, cosine"),
    )

    def objective_shapes(self, config: Any, batch: int) -> dict[str, tuple[int, ...]]:
        shapes = super().objective_shapes(config, batch)
        return {**shapes, "predictions": shapes["projections"], "target_projections": shapes["projections"]}


TESTERS = (BYOLTester,)
