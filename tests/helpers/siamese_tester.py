"""Tester of systems with one backbone, one projection head and several views of each image."""

from __future__ import annotations

from typing import Any

from helpers.testers import ModelTester, Refusal, image_backbones, random_images


class SiameseTester(ModelTester):
    """Complete but for `model_type`, `config_class` and the backbones to run on."""

    backbones: tuple[str, ...] = ("conv_encoder", "resnet", "vit")
    can_freeze = ("backbone", "projection_head")
    lora = True
    refusals = (
        Refusal({"projection_dims": []}, "projection_dims", "positive numbers"),
        Refusal({"projection_dims": [8, 0]}, "projection_dims", "positive numbers"),
        Refusal({"pooling": "max"}, "pooling", "one of auto, mean, cls, pooler"),
    )

    #: fields of every tiny configuration, beside the backbone
    options: dict[str, Any] = {"projection_dims": [12, 10, 6]}

    def configs(self) -> dict[str, Any]:
        options = self.options
        found = {
            name: self.spec.config_class()(backbone_config=image_backbones()[name], **options)
            for name in self.backbones
        }
        # the same without any batch norm: rows do not see each other even in training mode
        found["vit_plain_head"] = self.spec.config_class()(
            backbone_config=image_backbones()["vit"], pooling="mean", **{**options, "projection_batch_norm": False}
        )
        return found

    def inputs(self, config: Any, batch: int, seed: int) -> dict[str, Any]:
        return {"pixel_values": random_images(batch, 2, config.num_channels, 16, 16, seed=seed)}

    def single_inputs(self, config: Any, batch: int, seed: int) -> dict[str, Any]:
        return {"pixel_values": random_images(batch, config.num_channels, 16, 16, seed=seed)}

    def output_shapes(self, config: Any, batch: int) -> dict[str, tuple[int, ...]]:
        return {"embeds": (batch, config.embed_dim), "projections": (batch, config.projection_dims[-1])}

    def objective_shapes(self, config: Any, batch: int) -> dict[str, tuple[int, ...]]:
        return {
            "loss": (),
            "embeds": (batch, 2, config.embed_dim),
            "projections": (batch, 2, config.projection_dims[-1]),
        }

    def readout_sizes(self, config: Any) -> dict[str, int]:
        first, second, last = config.projection_dims
        return {"backbone": config.embed_dim, "projection_1": first, "projection_2": second, "projection": last}


class TemperatureTester(SiameseTester):
    """Systems of the family with a temperature."""

    options = {**SiameseTester.options, "temperature": 0.3}
    refusals = (
        *SiameseTester.refusals,
        Refusal({"temperature": 0.0}, "temperature", "above 0"),
        Refusal({"temperature": -1}, "temperature", "above 0"),
    )
