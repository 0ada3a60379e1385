"""One whole step of MoCo with a small encoder, for the stored results of published code (`code_clone`)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from parity._linear_backbone import LinearBackbone
from torch import Tensor

from hf_contrastive import ConvEncoderConfig, MoCoConfig, MoCoForPreTraining


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
