"""Sinkhorn and SwAV with crops and queue, for the stored results of published code (`code_clone`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hf_contrastive.losses import sinkhorn, swapped_prediction
from hf_contrastive.modules.prototypes import Prototypes
from hf_contrastive.modules.rolling_queue import RollingQueue


def run_sinkhorn(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    return {"codes": sinkhorn(inputs["scores"], config["epsilon"], config["iterations"])}


def run_swav_head(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    steps, weight = inputs["x"], inputs["proto_0"]
    crops, assigning = sum(config["num_crops"]), list(config["crops_for_assign"])
    order = [*assigning, *(crop for crop in range(crops) if crop not in assigning)]
    prototypes = Prototypes(weight.shape[1], len(weight)).double()
    with torch.no_grad():
        prototypes.weight.copy_(weight)
    size = config["queue_len"]
    queue = RollingQueue(len(assigning), size, weight.shape[1]).double() if size else None
    found: dict[str, list[Tensor]] = {"loss": [], "grad_x": [], "grad_proto": [], "queue_after": []}
    for step in steps:
        prototypes.normalize_()
        x = step.clone().requires_grad_()
        features = x.unflatten(0, (crops, -1))
        scores = prototypes(features)[order]
        past = queue.features if queue is not None and queue.is_full else [None] * len(assigning)
        codes = [
            sinkhorn(
                scores[crop].detach(),
                config["epsilon"],
                config["sinkhorn_iterations"],
                earlier=None if past[crop] is None else prototypes(past[crop]).detach(),
            )
            for crop in range(len(assigning))
        ]
        loss = swapped_prediction(scores, torch.stack(codes), config["temperature"])
        grad_x, grad_proto = torch.autograd.grad(loss, (x, prototypes.weight))
        found["loss"].append(loss)
        found["grad_x"].append(grad_x)
        found["grad_proto"].append(grad_proto)
        if queue is not None:
            queue.stage(features[assigning])
            queue.after_step(None)
            found["queue_after"].append(queue.features.clone())
    return {name: torch.stack(values) for name, values in found.items() if values}
