"""What the testers of recommenders share: a small log, triples, features."""

from __future__ import annotations

from typing import Any

import torch
from helpers.testers import ModelTester, Refusal


USERS, ITEMS = 7, 9
FEATURES = {"image": 5, "text": 4}


class RecommenderTester(ModelTester):
    """Seven users, nine items; user 6 and item 8 have nothing."""

    #: fields that the tester's configurations have in common
    fields: dict[str, Any] = {}
    #: fields of each configuration
    variants: dict[str, dict[str, Any]] = {"small": {}}
    #: scalar terms of the output beside `loss`
    terms: tuple[str, ...] = ("bpr_loss", "reg_loss")
    can_freeze = ("user_embedding",)
    refusals = (
        Refusal({"num_users": 0}, "num_users", "1 or more"),
        Refusal({"num_interactions": -1}, "num_interactions", "0 or more"),
        Refusal({"bpr_form": "hinge"}, "bpr_form", "one of softplus, log_sigmoid_eps"),
        Refusal({"penalty_form": "l1"}, "penalty_form", "one of half_sq, frobenius, frobenius_sq"),
        Refusal({"reg_weight": -0.1}, "reg_weight", "0 or more"),
        Refusal({"initializer": "zeros"}, "initializer", "one of normal, xavier_uniform, xavier_normal"),
        Refusal({"initializer_range": 0.0}, "initializer_range", "above 0"),
    )

    def configs(self) -> dict[str, Any]:
        shared = {"num_users": USERS, "num_items": ITEMS, "hidden_size": 24, "num_interactions": len(pairs()[0])}
        # rows far from 0: half precision sees them, and no view is nearly empty
        shared |= {"initializer": "normal", "initializer_range": 0.5, "reg_weight": 0.01, **self.fields}
        return {name: self.spec.config_class()(**{**shared, **own}) for name, own in self.variants.items()}

    def build(self, model_class: Any, config: Any, seed: int = 0) -> Any:
        model = super().build(model_class, config, seed)
        model.set_interactions(*pairs())
        if hasattr(model, "set_features"):
            generator = torch.Generator().manual_seed(seed + 2)
            model.set_features(
                {name: torch.rand(ITEMS, size, generator=generator) for name, size in config.feature_dims.items()}
            )
        self.settle(model)
        return model

    def settle(self, model: Any) -> None:
        model.refresh_vectors()

    def inputs(self, config: Any, batch: int, seed: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(seed)
        sizes = {"user_ids": USERS, "pos_item_ids": ITEMS, "neg_item_ids": ITEMS}
        names = [name for name in sizes if name in self.model_class.view_inputs]
        return {name: torch.randint(0, sizes[name], (batch,), generator=generator) for name in names}

    def single_inputs(self, config: Any, batch: int, seed: int) -> dict[str, Any]:
        return {"user_ids": (torch.arange(batch) + seed) % USERS}

    def readout_inputs(self, config: Any, batch: int, seed: int, readout: str) -> dict[str, Any]:
        if readout == "user":
            return self.single_inputs(config, batch, seed)
        return {"item_ids": (torch.arange(batch) + seed) % ITEMS}

    def fixed_draws(self, config: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        return {}

    def output_shapes(self, config: Any, batch: int) -> dict[str, tuple[int, ...]]:
        return {"user_embeds": (batch, config.hidden_size)}

    def objective_shapes(self, config: Any, batch: int) -> dict[str, tuple[int, ...]]:
        rows = dict.fromkeys(("user_embeds", "pos_item_embeds"), (batch, config.hidden_size))
        return {**dict.fromkeys(("loss", *self.terms), ()), **rows}

    def readout_sizes(self, config: Any) -> dict[str, int]:
        return {"user": config.hidden_size, "item": config.hidden_size}


def pairs() -> tuple[torch.Tensor, torch.Tensor]:
    """The log."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.rand(USERS, ITEMS, generator=generator) < 0.4
    chosen[6], chosen[:, 8] = False, False
    users, items = chosen.nonzero().T
    return users, items


def uniform(*shape: int) -> torch.Tensor:
    """Draws from 0 to 1."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(5))
