"""What the common suite must know about MoCo."""

from __future__ import annotations

from helpers.siamese_tester import TemperatureTester
from helpers.testers import Refusal


class MoCoTester(TemperatureTester):
    """MoCo on the library's light backbone, with and without batch norm."""

    model_type = "moco"
    training_parts = ("momentum_encoder", "queue")
    backbones = ("conv_encoder",)
    # a multiple of every batch of the suite
    options = {**TemperatureTester.options, "queue_size": 120, "encoder_momentum": 0.9, "projection_batch_norm": True}
    refusals = (
        *TemperatureTester.refusals,
        Refusal({"queue_size": 0}, "queue_size", "1 or more"),
        Refusal({"encoder_momentum": 1.5}, "encoder_momentum", "from 0 to 1"),
    )


TESTERS = (MoCoTester,)
