"""Adapters of logo identification: what the library returns for an independent derivation (no official code is public)."""

from __future__ import annotations

from typing import Any

import torch
from parity._numbers import as_tensors
from torch import Tensor
from transformers import BertConfig

from hf_contrastive import ConvEncoderConfig, LogoConfig, LogoModel
from hf_contrastive.evaluation import identification_accuracy, verification_metrics
from hf_contrastive.families.dual_encoder.modeling_two_towers import unit
from hf_contrastive.losses import sup_con


def run_multiview_loss(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    embeddings, brands = inputs["in.embeddings"].requires_grad_(), inputs["in.brand_ids"]
    loss = sup_con(embeddings, brands, config["temperature"])
    (gradient,) = torch.autograd.grad(loss, embeddings)
    _, numbers, counts = torch.unique(brands, return_inverse=True, return_counts=True)
    return {
        "out.loss": loss,
        "out.per_anchor_loss": sup_con(embeddings, brands, config["temperature"], reduction="none"),
        "out.num_positives": counts[numbers] - 1,
        "out.grad_embeddings": gradient,
    }


def run_fusion(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    images, texts = (inputs[f"in.{name}"].requires_grad_() for name in ("visual_features", "text_features"))
    weights = {name.removeprefix("sd.fusion."): value for name, value in inputs.items() if name.startswith("sd.")}
    hidden_dim, projection_dim = len(weights["0.bias"]), len(weights["2.bias"])
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 4}
    model = LogoModel(
        LogoConfig(
            vision_config=ConvEncoderConfig(channels=[4, images.shape[1]]),
            text_config=BertConfig(hidden_size=texts.shape[1], **sizes),
            hidden_dim=hidden_dim,
            projection_dim=projection_dim,
        )
    ).to(images.dtype)
    model.fusion.load_state_dict(weights)
    fused, embeds = model.fuse(images, texts, inputs["in.has_text"])
    embeds = unit(embeds)
    gradients = torch.autograd.grad((embeds * inputs["in.probe"]).sum(), (images, texts))
    return {
        "out.embeddings": embeds,
        "out.fused_input": fused,
        "out.grad_visual_features": gradients[0],
        "out.grad_text_features": gradients[1],
    }


def run_verification(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    found = verification_metrics(inputs["in.scores"], inputs["in.same_brand"])
    return as_tensors(
        {
            "out.auroc": found["auroc"],
            "out.best_threshold_youden": found["threshold"],
            "out.accuracy_at_best": found["accuracy"],
        }
    )


def run_one_shot_identification(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    references = inputs["in.reference_embeddings"]
    found = identification_accuracy(
        inputs["in.query_embeddings"],
        inputs["in.query_labels"],
        references,
        torch.arange(len(references)),
        ks=config["ks"],
        distractor_x=inputs["in.distractor_embeddings"],
        distractor_counts=config["distractor_counts"],
    )
    return as_tensors({f"out.{name}": value for name, value in found.items() if name.startswith("top")})


ADAPTERS = {
    "fusion": run_fusion,
    "multiview_loss": run_multiview_loss,
    "one_shot_identification": run_one_shot_identification,
    "verification": run_verification,
}
