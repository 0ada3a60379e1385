"""What the common suite must know about code clone detection."""

from __future__ import annotations

from typing import Any

import torch
from helpers.programs import code_backbones, code_inputs
from helpers.testers import ModelTester, Refusal


class CodeCloneTester(ModelTester):
    """Every objective once, every encoder at least once, a text encoder of transformers among them."""

    model_type = "code_clone"
    can_freeze = ("backbone", "projection_head")
    lora = True
    refusals = (
        Refusal({"encoder": "tokens"}, "encoder", "one of text, ast, graph"),
        Refusal({"pooling": "max"}, "pooling", "one of auto, cls, mean"),
        Refusal({"encoder": "ast", "pooling": "mean"}, "pooling", "'auto' with encoder 'ast'"),
        Refusal({"encoder": "graph", "backbone_config": {"model_type": "bert"}}, "backbone_config.model_type", "here"),
        Refusal({"backbone_config": {"model_type": "code_graph"}}, "backbone_config.model_type", "a text encoder"),
        Refusal({"ssl": "byol"}, "ssl", "one of simclr, moco, swav"),
        Refusal({"projection_dims": [8, 0]}, "projection_dims", "positive numbers"),
        Refusal({"temperature": 0.0}, "temperature", "above 0"),
        Refusal({"queue_size": 0}, "queue_size", "1 or more"),
        Refusal({"num_prototypes": 0}, "num_prototypes", "1 or more"),
        Refusal({"sinkhorn_iterations": 0}, "sinkhorn_iterations", "1 or more"),
        Refusal({"encoder_momentum": 1.5}, "encoder_momentum", "from 0 to 1"),
        Refusal({"sinkhorn_epsilon": 0.0}, "sinkhorn_epsilon", "above 0"),
        Refusal({"freeze_prototypes_steps": -1}, "freeze_prototypes_steps", "0 or more"),
    )

    def configs(self) -> dict[str, Any]:
        backbones = code_backbones()
        make = self.spec.config_class()
        options = {"projection_dims": [12, 6], "temperature": 0.3}
        return {
            # without batch norm: rows do not see each other even in training mode
            "text_simclr": make(backbone_config=backbones["text"], projection_batch_norm=False, **options),
            # a multiple of every batch of the suite
            "graph_moco": make(
                encoder="graph",
                ssl="moco",
                backbone_config=backbones["graph"],
                queue_size=120,
                encoder_momentum=0.9,
                **options,
            ),
            "ast_swav": make(
                encoder="ast", ssl="swav", backbone_config=backbones["ast"], num_prototypes=10, **options
            ),
        }

    def parts_of(self, config: Any) -> tuple[str, ...]:
        return {"simclr": (), "moco": ("momentum_encoder", "queue"), "swav": ("prototypes",)}[config.ssl]

    def single_inputs(self, config: Any, batch: int, seed: int) -> dict[str, Any]:
        return code_inputs(config.encoder, config.backbone_config, (batch,), seed)

    def inputs(self, config: Any, batch: int, seed: int) -> dict[str, Any]:
        inputs = code_inputs(config.encoder, config.backbone_config, (batch, 2), seed)
        return {**inputs, "labels": torch.arange(batch) % 5 % 3}

    def output_shapes(self, config: Any, batch: int) -> dict[str, tuple[int, ...]]:
        return {"embeds": (batch, config.embed_dim), "projections": (batch, config.projection_dim)}

    def objective_shapes(self, config: Any, batch: int) -> dict[str, tuple[int, ...]]:
        return {
            "loss": (),
            "embeds": (batch, 2, config.embed_dim),
            "projections": (batch, 2, config.projection_dim),
        }

    def readout_sizes(self, config: Any) -> dict[str, int]:
        return {"backbone": config.embed_dim, "projection": config.projection_dim}

    def backbone_features(self, backbone: Any, inputs: dict[str, Any]) -> torch.Tensor:
        return backbone(**inputs).pooler_output

    def backbone_fields(self, config: Any) -> dict[str, Any]:
        return {"encoder": config.encoder, "ssl": config.ssl, "projection_dims": config.projection_dims}


TESTERS = (CodeCloneTester,)
