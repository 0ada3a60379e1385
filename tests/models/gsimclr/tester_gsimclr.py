"""What the common suite must know about G-SimCLR and its autoencoder."""

from __future__ import annotations

from typing import Any

from helpers.siamese_tester import TemperatureTester
from helpers.testers import ModelTester, Refusal, random_images

from hf_contrastive import DenoisingAutoencoderConfig


class GSimCLRTester(TemperatureTester):
    """G-SimCLR on its own backbone too."""

    model_type = "gsimclr"
    backbones = ("cifar_resnet", "conv_encoder", "vit")


class DenoisingAutoencoderTester(ModelTester):
    """The autoencoder; its objective is part of the model."""

    model_type = "denoising_autoencoder"
    can_freeze = ("encoder",)
    refusals = (
        Refusal({"noise_std": -0.5}, "noise_std", "0 or more"),
        Refusal({"channels": []}, "channels", "positive numbers"),
        Refusal({"kernel_size": 2}, "kernel_size", "odd"),
        Refusal({"num_channels": 0}, "num_channels", "1 or more"),
    )

    def configs(self) -> dict[str, Any]:
        return {"two_stages": DenoisingAutoencoderConfig(channels=[6, 8], noise_std=0.05)}

    def inputs(self, config: Any, batch: int, seed: int) -> dict[str, Any]:
        return {"pixel_values": random_images(batch, config.num_channels, 16, 16, seed=seed)}

    single_inputs = inputs

    def output_shapes(self, config: Any, batch: int) -> dict[str, tuple[int, ...]]:
        return self.objective_shapes(config, batch)

    def objective_shapes(self, config: Any, batch: int) -> dict[str, tuple[int, ...]]:
        return {
            "loss": (),
            "embeds": (batch, config.channels[-1]),
            "latent_map": (batch, config.channels[-1], 4, 4),
            "reconstruction": (batch, config.num_channels, 16, 16),
        }

    def readout_sizes(self, config: Any) -> dict[str, int]:
        return {"latent": config.channels[-1]}


TESTERS = (GSimCLRTester, DenoisingAutoencoderTester)
