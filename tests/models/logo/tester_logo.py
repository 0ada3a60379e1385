"""What the common suite must know about the logo encoder."""

from __future__ import annotations

from typing import Any

import torch
from helpers.dual_encoder_tester import DualEncoderTester, text_encoders
from helpers.testers import Refusal, image_backbones


class LogoTester(DualEncoderTester):
    model_type = "logo"
    can_freeze = ("vision_model", "text_model", "fusion")
    options = {"projection_dim": 8, "hidden_dim": 12, "temperature": 0.3}
    refusals = (
        Refusal({"image_pooling": "max"}, "image_pooling", "one of auto, mean, cls, pooler"),
        Refusal({"text_pooling": "auto"}, "text_pooling", "one of max, mean, cls, last, pooler"),
        Refusal({"freeze_text_layers": 13}, "freeze_text_layers", "from 0 to 2"),
        Refusal({"hidden_dim": 0}, "hidden_dim", "1 or more"),
        Refusal({"projection_dim": 0}, "projection_dim", "1 or more"),
        Refusal({"modalities": "audio"}, "modalities", "one of both, image, text"),
        Refusal({"loss_type": "clip"}, "loss_type", "one of supcon, triplet"),
        Refusal({"temperature": 0.0}, "temperature", "above 0"),
        Refusal({"triplet_margin": -0.1}, "triplet_margin", "0 or more"),
    )

    def configs(self) -> dict[str, Any]:
        make = self.spec.config_class()
        images, texts = image_backbones(), text_encoders()
        pair = {"vision_config": images["vit"], "text_config": texts["bert"], **self.options}
        return {
            "vit_bert": make(**pair),
            "resnet_bert": make(**{**pair, "vision_config": images["resnet"]}),
            "triplet": make(**pair, loss_type="triplet", triplet_margin=0.7),
        }

    def inputs(self, config: Any, batch: int, seed: int) -> dict[str, Any]:
        return {**super().inputs(config, batch, seed), "labels": torch.arange(batch) % 2}

    def output_shapes(self, config: Any, batch: int) -> dict[str, tuple[int, ...]]:
        return {
            "embeds": (batch, config.projection_dim),
            "fused_input": (batch, config.image_dim + config.text_dim),
            "image_features": (batch, config.image_dim),
            "text_features": (batch, config.text_dim),
        }

    def objective_shapes(self, config: Any, batch: int) -> dict[str, tuple[int, ...]]:
        return {"loss": (), **self.output_shapes(config, batch)}


TESTERS = (LogoTester,)
