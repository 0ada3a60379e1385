"""What the common suite must know about CLIPPINGS."""

from __future__ import annotations

from typing import Any

import torch
from helpers.dual_encoder_tester import DualEncoderTester, clip_vision, text_encoders
from helpers.testers import Refusal, image_backbones


class ClippingsTester(DualEncoderTester):
    model_type = "clippings"
    options = {
        **DualEncoderTester.options,
        "image_weight": 0.6,
        "supcon_temperature": 0.2,
    }
    refusals = (
        *DualEncoderTester.refusals,
        Refusal({"image_weight": 1.5}, "image_weight", "must be in [0, 1]"),
        Refusal({"loss_type": "triplet"}, "loss_type", "one of supcon, contrastive"),
        Refusal({"supcon_temperature": 0.0}, "supcon_temperature", "above 0"),
        Refusal({"pos_margin": -0.1}, "pos_margin", "0 or more"),
        Refusal({"neg_margin": float("inf")}, "neg_margin", "0 or more"),
    )

    def configs(self) -> dict[str, Any]:
        make = self.spec.config_class()
        images, texts = image_backbones(), text_encoders()
        options = {**self.options, "image_pooling": "auto", "text_pooling": "mean"}
        pair = {"vision_config": images["vit"], "text_config": texts["bert"], **options}
        return {
            "vit_bert": make(**pair),
            "resnet_bert": make(**{**pair, "vision_config": images["resnet"]}),
            "clip": make(vision_config=clip_vision(), text_config=texts["clip_text_model"], **self.options),
            # no temperature is learned: these are trained in the second stage
            "supcon": make(**pair, learn_temperature=False),
            "contrastive": make(
                **pair, learn_temperature=False, loss_type="contrastive", pos_margin=0.1, neg_margin=1.5
            ),
        }

    def inputs(self, config: Any, batch: int, seed: int) -> dict[str, Any]:
        inputs = super().inputs(config, batch, seed)
        return inputs if config.learn_temperature else {**inputs, "labels": torch.arange(batch) % 2}

    def output_shapes(self, config: Any, batch: int) -> dict[str, tuple[int, ...]]:
        shapes = super().output_shapes(config, batch)
        return {**shapes, "pooled_embeds": shapes["image_embeds"]}

    def objective_shapes(self, config: Any, batch: int) -> dict[str, tuple[int, ...]]:
        shapes = super().objective_shapes(config, batch)
        return {**shapes, "pooled_embeds": shapes["image_embeds"]}


TESTERS = (ClippingsTester,)
