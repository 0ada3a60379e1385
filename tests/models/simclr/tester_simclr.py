"""What the common suite must know about SimCLR."""

from __future__ import annotations

from helpers.siamese_tester import TemperatureTester


class SimCLRTester(TemperatureTester):
    """SimCLR on the library's light backbone and on two of transformers."""

    model_type = "simclr"


TESTERS = (SimCLRTester,)
