"""What the common suite must know about CACR."""

from __future__ import annotations

from typing import Any

from helpers.siamese_tester import TemperatureTester
from helpers.testers import Refusal, random_images


class CACRTester(TemperatureTester):
    """CACR's largest variant, with predictor, momentum encoder and local crops; the others are in test_cacr.py."""

    model_type = "cacr"
    training_parts = ("momentum_encoder", "predictor")
    backbones = ("conv_encoder",)
    options = {
        **TemperatureTester.options,
        "variant": "momentum",
        "cost": "rbf",
        "encoder_momentum": 0.9,
        "projection_batch_norm": True,
        # one layer: rounding to bfloat16 in two tiny batch norms on end says nothing of the model
        "predictor_dims": [6],
    }
    refusals = (
        *TemperatureTester.refusals,
        Refusal({"variant": "bank"}, "variant", "one of batch, queue, momentum"),
        Refusal({"cost": "cosine"}, "cost", "one of euclidean, rbf"),
        Refusal({"choice": "w1"}, "choice", "one of full, without_w1"),
        Refusal({"reduction": "max"}, "reduction", "one of auto, mean, sum"),
        Refusal({"tau_pos": -1.0}, "tau_pos", "at least 0"),
        Refusal({"beta": -1.0}, "beta", "at least 0"),
        Refusal({"rbf_t": 0.0}, "rbf_t", "above 0"),
        Refusal({"tau_plus": 1.0}, "tau_plus", "below 1"),
        Refusal({"num_positives": 0}, "num_positives", "1 or more"),
        Refusal({"variant": "queue", "cost": "rbf"}, "cost", "variant='queue'"),
        Refusal({"variant": "momentum", "choice": "none"}, "choice", "variant='batch' alone"),
        Refusal({"variant": "queue", "debiased": True}, "debiased", "variant='batch' alone"),
        Refusal({"cost": "rbf", "debiased": True}, "debiased", "weighted Euclidean"),
        Refusal({"queue_size": 0}, "queue_size", "1 or more"),
        Refusal({"encoder_momentum": 1.5}, "encoder_momentum", "from 0 to 1"),
        Refusal({"momentum_schedule": "linear"}, "momentum_schedule", "one of constant, cosine"),
        Refusal({"predictor_dims": [8, 7]}, "predictor_dims", "ends with 128"),
    )

    def inputs(self, config: Any, batch: int, seed: int) -> dict[str, Any]:
        views = super().inputs(config, batch, seed)
        return {**views, "local_pixel_values": random_images(batch, 2, config.num_channels, 8, 8, seed=seed + 100)}

    def objective_shapes(self, config: Any, batch: int) -> dict[str, tuple[int, ...]]:
        shapes = super().objective_shapes(config, batch)
        return {**shapes, "attraction_loss": (), "repulsion_loss": (), "positive_weights": (batch, 2, 3)}


TESTERS = (CACRTester,)
