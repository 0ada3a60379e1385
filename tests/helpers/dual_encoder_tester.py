"""Tester of systems with an image encoder and a text encoder."""

from __future__ import annotations

from typing import Any

import torch
from helpers.testers import ModelTester, Refusal, image_backbones, random_images
from transformers import BertConfig, CLIPTextConfig, CLIPVisionConfig


VOCABULARY = 40


def text_encoders() -> dict[str, Any]:
    """Tiny configurations of text encoders."""
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 12,
        # with the usual 0.02 what so small a network says hardly depends on the text
        "initializer_range": 0.2,
    }
    return {
        # without dropout: passes in training mode can be compared
        "bert": BertConfig(**sizes, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
        "clip_text_model": CLIPTextConfig(**sizes, eos_token_id=3, bos_token_id=2, pad_token_id=1),
    }


def clip_vision() -> CLIPVisionConfig:
    """A tiny image encoder of CLIP."""
    return CLIPVisionConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=16, patch_size=4
    )


def random_texts(batch: int, seed: int, length: int = 7) -> dict[str, torch.Tensor]:
    """Texts of 3 to `length` tokens that end with token 3, padded on the right."""
    generator = torch.Generator().manual_seed(seed + 100)
    ids = torch.randint(4, VOCABULARY, (batch, length), generator=generator)
    sizes = torch.randint(3, length + 1, (batch,), generator=generator)
    sizes[0] = length
    places = torch.arange(length)
    ids[torch.arange(batch), sizes - 1] = 3
    mask = (places < sizes[:, None]).long()
    return {"input_ids": ids * mask + (1 - mask), "attention_mask": mask}


class DualEncoderTester(ModelTester):
    """Complete but for `model_type`; systems add their own fields and refusals."""

    can_freeze = ("vision_model", "text_model", "image_projection")
    lora = True
    refusals = (
        Refusal({"image_pooling": "max"}, "image_pooling", "one of auto, mean, cls, pooler"),
        Refusal({"text_pooling": "auto"}, "text_pooling", "one of max, mean, cls, last, pooler"),
        Refusal({"freeze_text_layers": 13}, "freeze_text_layers", "from 0 to 12"),
        Refusal({"projection_dim": 0}, "projection_dim", "1 or more"),
        Refusal({"temperature": 0.0}, "temperature", "above 0"),
        Refusal({"max_logit_scale": 0.0}, "max_logit_scale", "above 0"),
        Refusal(
            {"learn_temperature": True, "temperature": 0.001}, "temperature", "at least 1 / max_logit_scale = 0.01"
        ),
    )

    #: fields of every tiny configuration, beside the encoders
    options: dict[str, Any] = {"projection_dim": 8, "temperature": 0.3, "freeze_text_layers": 0}

    def configs(self) -> dict[str, Any]:
        make = self.spec.config_class()
        images, texts = image_backbones(), text_encoders()
        return {
            "vit_bert": make(vision_config=images["vit"], text_config=texts["bert"], **self.options),
            "resnet_bert": make(
                vision_config=images["resnet"], text_config=texts["bert"], **self.options, learn_temperature=True
            ),
            "clip": make(
                vision_config=clip_vision(),
                text_config=texts["clip_text_model"],
                image_pooling="pooler",
                text_pooling="pooler",
                **self.options,
            ),
        }

    def inputs(self, config: Any, batch: int, seed: int) -> dict[str, Any]:
        images = random_images(batch, config.num_channels, 16, 16, seed=seed)
        return {"pixel_values": images, **random_texts(batch, seed)}

    def single_inputs(self, config: Any, batch: int, seed: int) -> dict[str, Any]:
        return {"pixel_values": random_images(batch, config.num_channels, 16, 16, seed=seed)}

    def output_shapes(self, config: Any, batch: int) -> dict[str, tuple[int, ...]]:
        return {"image_embeds": (batch, config.projection_dim), "image_features": (batch, config.image_dim)}

    def objective_shapes(self, config: Any, batch: int) -> dict[str, tuple[int, ...]]:
        return {
            "loss": (),
            "image_embeds": (batch, config.projection_dim),
            "text_embeds": (batch, config.projection_dim),
            "image_features": (batch, config.image_dim),
            "text_features": (batch, config.text_dim),
        }

    def readout_sizes(self, config: Any) -> dict[str, int]:
        return {"projection": config.projection_dim, "backbone": config.image_dim}

    def tower_inputs(self, config: Any, part: str) -> dict[str, Any]:
        return self.single_inputs(config, 4, 0) if part == "vision_model" else random_texts(4, 0)
