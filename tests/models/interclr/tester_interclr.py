"""What the common suite must know about InterCLR."""

from __future__ import annotations

from typing import Any

import torch
from helpers.siamese_tester import TemperatureTester
from helpers.testers import Refusal


BANK = 40


class InterCLRTester(TemperatureTester):
    """InterCLR on MoCo with two necks, online labels and semi-hard negatives; the bank is clustered."""

    model_type = "interclr"
    training_parts = ("inter_head", "momentum_encoder", "queue", "memory_bank")
    backbones = ("conv_encoder",)
    options = {
        **TemperatureTester.options,
        "queue_size": 120,
        "encoder_momentum": 0.9,
        "projection_batch_norm": True,
        "num_samples": BANK,
        "bank_momentum": 0.7,
        "num_clusters": 4,
        "min_cluster_size": 3,
        "share_neck": False,
        "num_inter_negatives": 16,
        "negative_pool_size": 36,
        "centroid_interval": 2,
    }
    refusals = (
        *TemperatureTester.refusals,
        Refusal({"base": "byol"}, "base", "one of moco, npid"),
        Refusal({"base": "npid", "share_neck": False}, "share_neck", "True on NPID"),
        Refusal({"queue_size": 0}, "queue_size", "1 or more"),
        Refusal({"encoder_momentum": 1.5}, "encoder_momentum", "from 0 to 1"),
        Refusal({"num_samples": 1}, "num_samples", "2 or more"),
        Refusal({"bank_momentum": 1.5}, "bank_momentum", "above 0 and at most 1"),
        Refusal({"num_clusters": 1}, "num_clusters", "from 2 to"),
        Refusal({"num_samples": 100, "num_clusters": 6}, "num_clusters", "num_samples / min_cluster_size = 5"),
        Refusal({"negative_sampling": "soft"}, "negative_sampling", "hard, semihard, semieasy, random"),
        Refusal({"negative_pool_size": 100}, "negative_pool_size", "from num_inter_negatives = 16384"),
        Refusal({"negative_pool_size": 2000000}, "negative_pool_size", "to num_samples = 1281167"),
        Refusal(
            {"num_inter_negatives": 2000000, "negative_sampling": "hard"}, "num_inter_negatives", "below num_samples"
        ),
        Refusal({"inter_margin_type": "cos"}, "inter_margin_type", "one of cosine, angle"),
        Refusal({"inter_margin": 4.0, "inter_margin_type": "angle"}, "inter_margin", "between -pi and pi"),
        Refusal({"inter_weight": -0.1}, "inter_weight", "0 or more"),
        Refusal({"warmup_epochs": -1}, "warmup_epochs", "0 or more epochs"),
    )

    def build(self, model_class: Any, config: Any, seed: int = 0) -> Any:
        model = super().build(model_class, config, seed)
        if hasattr(model, "memory_bank"):
            model.memory_bank.init_clusters(model.memory_bank.features.clone(), torch.arange(BANK) % 4)
        return model

    def inputs(self, config: Any, batch: int, seed: int) -> dict[str, Any]:
        index = torch.randperm(BANK, generator=torch.Generator().manual_seed(seed))[:batch]
        return {**super().inputs(config, batch, seed), "index": index}

    def objective_shapes(self, config: Any, batch: int) -> dict[str, tuple[int, ...]]:
        terms = {"intra_loss": (), "inter_loss": (), "change_ratio": ()}
        return {**super().objective_shapes(config, batch), **terms}

    def backbone_fields(self, config: Any) -> dict[str, Any]:
        names = ("num_samples", "num_clusters", "min_cluster_size", "num_inter_negatives", "negative_pool_size")
        return {**super().backbone_fields(config), **{name: getattr(config, name) for name in names}, "queue_size": 8}


TESTERS = (InterCLRTester,)
