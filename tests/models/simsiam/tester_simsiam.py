"""What the common suite must know about SimSiam."""

from __future__ import annotations

from typing import Any

from helpers.siamese_tester import SiameseTester
from helpers.testers import Refusal


class SimSiamTester(SiameseTester):
    """SimSiam on the library's light backbone, with and without batch norm."""

    model_type = "simsiam"
    training_parts = ("predictor",)
    backbones = ("conv_encoder",)
    options = {**SiameseTester.options, "predictor_hidden_dim": 14}
    refusals = (
        *SiameseTester.refusals,
        Refusal({"predictor_hidden_dim": 0}, "predictor_hidden_dim", "1 or more"),
    )

    def configs(self) -> dict[str, Any]:
        found = super().configs()
        found["vit_plain_head"].projection_last_batch_norm = False
        return found

    def objective_shapes(self, config: Any, batch: int) -> dict[str, tuple[int, ...]]:
        shapes = super().objective_shapes(config, batch)
        return {**shapes, "predictions": shapes["projections"]}


TESTERS = (SimSiamTester,)
