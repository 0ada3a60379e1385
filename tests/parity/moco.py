"""MoCo against stored results of published code: one whole step with a small encoder."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from hf_contrastive import ConvEncoderConfig, MoCoConfig, MoCoForPreTraining


class LinearBackbone(nn.Module):
    """One linear layer and ReLU over images of one pixel, as the stored results have it."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.lin = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
        self.lin.load_state_dict({"weight": weight, "bias": bias})

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.lin(pixel_values.flatten(1)).relu()[:, :, None, None])


def moco_infonce(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """Momentum update, keys, loss against the old queue, enqueue."""
    dim, size = inputs["queue_before"].shape
    hidden, channels = inputs["q.0.lin.weight"].shape
    model = MoCoForPreTraining(
        MoCoConfig(
            backbone_config=ConvEncoderConfig(channels=[hidden], num_channels=channels),
            projection_dims=[dim],
            queue_size=size,
            temperature=config["temperature"],
            encoder_momentum=config["momentum"],
        )
    )
    model.double().train()
    model.backbone = LinearBackbone(inputs["q.0.lin.weight"], inputs["q.0.lin.bias"])
    head = model.projection_head.layers[0][0]
    head.load_state_dict({name: inputs[f"q.1.fc.{name}"] for name in ("weight", "bias")})
    slow = model.momentum_encoder
    slow.backbone_copy = LinearBackbone(inputs["k_before.0.lin.weight"], inputs["k_before.0.lin.bias"])
    slow_head = slow.projection_head_copy.layers[0][0]
    slow_head.load_state_dict({name: inputs[f"k_before.1.fc.{name}"] for name in ("weight", "bias")})
    slow.requires_grad_(False)
    with torch.no_grad():
        model.queue.features.copy_(inputs["queue_before"].T)
        model.queue.num_written.fill_(config["queue_ptr"])

    slow.after_step(model)  # the reference moves it at the start of the step
    k_after = {
        **{f"k_after.0.lin.{name}": p.clone() for name, p in slow.backbone_copy.lin.named_parameters()},
        **{f"k_after.1.fc.{name}": p.clone() for name, p in slow_head.named_parameters()},
    }
    views = torch.stack([inputs["im_q"], inputs["im_k"]], 1)[..., None, None]
    loss = model(pixel_values=views).loss
    loss.backward()
    model.queue.after_step(model)
    return {
        "loss": loss,
        **{f"grad_q.0.lin.{name}": p.grad for name, p in model.backbone.lin.named_parameters()},
        **{f"grad_q.1.fc.{name}": p.grad for name, p in head.named_parameters()},
        **k_after,
        "queue_after": copy.deepcopy(model.queue.features).T,
        "queue_ptr_after": torch.tensor([model.queue.position]),
    }


ADAPTERS = {"moco_infonce": moco_infonce}
