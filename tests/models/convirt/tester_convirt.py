"""What the common suite must know about ConVIRT."""

from __future__ import annotations

from helpers.dual_encoder_tester import DualEncoderTester
from helpers.testers import Refusal


class ConVIRTTester(DualEncoderTester):
    model_type = "convirt"
    options = {**DualEncoderTester.options, "freeze_text_embeddings": False, "lambda_image_to_text": 0.7}
    refusals = (
        *DualEncoderTester.refusals,
        Refusal({"lambda_image_to_text": 1.5}, "lambda_image_to_text", "from 0 to 1"),
    )


TESTERS = (ConVIRTTester,)
