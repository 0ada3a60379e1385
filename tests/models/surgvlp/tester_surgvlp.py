"""What the common suite must know about SurgVLP."""

from __future__ import annotations

from typing import Any

import torch
from helpers.dual_encoder_tester import DualEncoderTester, clip_vision, random_texts, text_encoders
from helpers.testers import Refusal, image_backbones, random_images


TEXTS, FRAMES = 2, 3


class SurgVLPTester(DualEncoderTester):
    model_type = "surgvlp"
    options = {"temperature": 0.3, "text_layers": 2, "text_length": 9, "alpha": 0.7}
    refusals = (
        *(one for one in DualEncoderTester.refusals if one.fields != {"text_pooling": "auto"}),
        Refusal({"text_pooling": "auto"}, "text_pooling", "one of word_sum, max, mean, cls, last, pooler"),
        Refusal({"layer_aggregation": "max"}, "layer_aggregation", "one of sum, mean"),
        Refusal({"text_length": 0}, "text_length", "1 or more"),
        Refusal({"text_layers": 14}, "text_layers", "from 1 to 13"),
        Refusal({"merge_word_pieces": False, "text_length": 600}, "text_length", "at most 512"),
        Refusal({"projection_dim": 8}, "projection_dim", "768, the width of the text features"),
        Refusal({"objective": "all"}, "objective", "one of paper, released, info_nce"),
        Refusal({"alpha": 1.5}, "alpha", "from 0 to 1"),
        Refusal({"mil_temperature": 0.0}, "mil_temperature", "above 0"),
        Refusal({"num_frames": 0}, "num_frames", "1 or more"),
    )

    def configs(self) -> dict[str, Any]:
        make = self.spec.config_class()
        images, texts = image_backbones(), text_encoders()
        pair = {"vision_config": images["vit"], "text_config": texts["bert"], **self.options}
        return {
            "clips": make(**pair),
            "images_resnet": make(
                **{**pair, "vision_config": images["resnet"]},
                normalize_mil=True,
                mil_temperature=0.2,
                learn_temperature=True,
                project_text=True,
                projection_dim=8,
            ),
            "released": make(**pair, objective="released", layer_aggregation="mean"),
            "clip": make(
                vision_config=clip_vision(),
                text_config=texts["clip_text_model"],
                merge_word_pieces=False,
                objective="info_nce",
                image_pooling="pooler",
                **self.options,
            ),
        }

    def pixels(self, config: Any, batch: int, seed: int) -> torch.Tensor:
        # images for the configuration that compares by cosine, clips for the others
        frames = () if config.normalize_mil else (FRAMES,)
        return random_images(batch, *frames, config.num_channels, 16, 16, seed=seed)

    def inputs(self, config: Any, batch: int, seed: int) -> dict[str, Any]:
        inputs = {"pixel_values": self.pixels(config, batch, seed), **random_texts(batch, seed)}
        if config.objective != "info_nce":
            others = random_texts(TEXTS * batch, seed + 1, length=6)
            inputs |= {f"mil_{name}": value.view(batch, TEXTS, -1) for name, value in others.items()}
        if config.objective == "released":
            for number in (1, 2):
                noise = 0.3 * self.pixels(config, batch, seed + number)
                inputs[f"pixel_values_aug{number}"] = 0.7 * inputs["pixel_values"] + noise
        return inputs

    def single_inputs(self, config: Any, batch: int, seed: int) -> dict[str, Any]:
        return {"pixel_values": self.pixels(config, batch, seed)}

    def objective_shapes(self, config: Any, batch: int) -> dict[str, tuple[int, ...]]:
        shapes = {**super().objective_shapes(config, batch), "info_nce_loss": ()}
        if config.objective != "info_nce":
            shapes |= {"mil_nce_loss": (), "mil_text_embeds": (batch, TEXTS, config.projection_dim)}
        if config.objective == "released":
            shapes |= {"nt_xent_loss": (), "simclr_loss": ()}
            shapes |= {f"aug{number}_embeds": (batch, config.projection_dim) for number in (1, 2)}
        return shapes

    def tower_inputs(self, config: Any, part: str) -> dict[str, Any]:
        return {"pixel_values": random_images(4, 3, 16, 16, seed=0)} if part == "vision_model" else random_texts(4, 0)


TESTERS = (SurgVLPTester,)
