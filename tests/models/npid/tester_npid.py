"""What the common suite must know about NPID."""

from __future__ import annotations

from typing import Any

import torch
from helpers.siamese_tester import TemperatureTester
from helpers.testers import Refusal


BANK = 40


def row_numbers(batch: int, seed: int) -> torch.Tensor:
    """Different rows of a bank of 40."""
    return torch.randperm(BANK, generator=torch.Generator().manual_seed(seed))[:batch]


class NPIDTester(TemperatureTester):
    """NPID on the library's light backbone, with and without batch norm."""

    model_type = "npid"
    training_parts = ("memory_bank",)
    backbones = ("conv_encoder",)
    options = {
        **TemperatureTester.options,
        "num_samples": BANK,
        "num_negatives": 30,
        "bank_momentum": 0.6,
        # batch norm over a few rows makes more of bfloat16's rounding than the gradient of 30 random rows is long
        "projection_batch_norm": False,
    }
    refusals = (
        *TemperatureTester.refusals,
        Refusal({"num_samples": 1}, "num_samples", "2 or more"),
        Refusal({"bank_momentum": 0.0}, "bank_momentum", "above 0"),
        Refusal({"num_negatives": 0}, "num_negatives", "1 or more"),
    )

    def inputs(self, config: Any, batch: int, seed: int) -> dict[str, Any]:
        return {**super().inputs(config, batch, seed), "index": row_numbers(batch, seed)}

    def backbone_fields(self, config: Any) -> dict[str, Any]:
        return {**super().backbone_fields(config), "num_samples": BANK}


TESTERS = (NPIDTester,)
