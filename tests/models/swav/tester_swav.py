"""What the common suite must know about SwAV."""

from __future__ import annotations

from typing import Any

from helpers.siamese_tester import TemperatureTester
from helpers.testers import Refusal, random_images


class SwAVTester(TemperatureTester):
    """SwAV with local crops and a queue on the library's light backbone, and without batch norm."""

    model_type = "swav"
    training_parts = ("prototypes", "queue")
    backbones = ("conv_encoder",)
    # shorter than three batches of the trainer's tests: the queue is used there
    options = {
        **TemperatureTester.options,
        "num_prototypes": 7,
        "epsilon": 0.1,
        "queue_size": 12,
        "freeze_prototypes_steps": 1,
    }
    refusals = (
        *TemperatureTester.refusals,
        Refusal({"num_prototypes": 1}, "num_prototypes", "2 or more"),
        Refusal({"epsilon": 0.0}, "epsilon", "above 0"),
        Refusal({"sinkhorn_iterations": 0}, "sinkhorn_iterations", "1 or more"),
        Refusal({"num_assigning_views": 0}, "num_assigning_views", "1 or more"),
        Refusal({"queue_size": -1}, "queue_size", "0 or more"),
        Refusal({"queue_start_steps": -1}, "queue_start_steps", "0 or more"),
        Refusal({"freeze_prototypes_steps": -1}, "freeze_prototypes_steps", "0 or more"),
    )

    def inputs(self, config: Any, batch: int, seed: int) -> dict[str, Any]:
        views = super().inputs(config, batch, seed)
        return {**views, "local_pixel_values": random_images(batch, 2, config.num_channels, 8, 8, seed=seed + 100)}


TESTERS = (SwAVTester,)
