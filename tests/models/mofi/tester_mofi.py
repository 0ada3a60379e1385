"""What the common suite must know about MOFI."""

from __future__ import annotations

from typing import Any

import torch
from helpers.dual_encoder_tester import DualEncoderTester, clip_vision, text_encoders
from helpers.testers import Refusal, image_backbones


ENTITIES = 12


class MofiTester(DualEncoderTester):
    model_type = "mofi"
    options = {
        **DualEncoderTester.options,
        "num_entities": ENTITIES,
        "scale": 8.0,
        "margin": 0.1,
        "classification_weight": 0.4,
    }
    refusals = (
        *DualEncoderTester.refusals,
        Refusal({"objective": "both"}, "objective", "one of multitask, supervised, contrastive"),
        Refusal({"scale": 0.0}, "scale", "above 0"),
        Refusal({"margin": -0.1}, "margin", "from 0 to below 2"),
        Refusal({"classification_weight": 1.5}, "classification_weight", "from 0 to 1"),
        Refusal({"num_entities": 1}, "num_entities", "2 or more"),
        Refusal({"num_sampled_entities": -1}, "num_sampled_entities", "0 or more"),
        Refusal({"sampling_seed": -1}, "sampling_seed", "from 0 to"),
    )

    def parts_of(self, config: Any) -> tuple[str, ...]:
        return () if config.objective == "contrastive" else ("entity_head",)

    def configs(self) -> dict[str, Any]:
        make = self.spec.config_class()
        images, texts = image_backbones(), text_encoders()
        options = {**self.options, "image_pooling": "auto", "text_pooling": "mean"}
        pair = {"vision_config": images["vit"], "text_config": texts["bert"], **options}
        return {
            "vit_bert": make(**pair),
            "resnet_bert": make(**{**pair, "vision_config": images["resnet"]}),
            "sampled": make(**pair, num_sampled_entities=9, sampling_seed=3),
            "contrastive": make(**{**pair, "num_entities": 0}, objective="contrastive"),
            "clip": make(vision_config=clip_vision(), text_config=texts["clip_text_model"], **self.options),
        }

    def inputs(self, config: Any, batch: int, seed: int) -> dict[str, Any]:
        inputs = super().inputs(config, batch, seed)
        if config.objective == "contrastive":
            return inputs
        # repeated labels, and a row without an entity
        labels = torch.randint(0, ENTITIES, (batch,), generator=torch.Generator().manual_seed(seed))
        labels[-1] = labels[0]
        labels[1] = -1
        return {**inputs, "entity_labels": labels}

    def objective_shapes(self, config: Any, batch: int) -> dict[str, tuple[int, ...]]:
        terms = {"contrastive_loss": (), **({} if config.objective == "contrastive" else {"classification_loss": ()})}
        return {**super().objective_shapes(config, batch), **terms}


TESTERS = (MofiTester,)
