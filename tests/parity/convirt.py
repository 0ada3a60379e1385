"""Adapters of ConVIRT: what the library returns for an independent derivation of loss and retrieval (no official code is public)."""

from __future__ import annotations

from typing import Any

import torch
from parity._numbers import as_tensors
from torch import Tensor
from transformers import BertConfig
from transformers.modeling_outputs import BaseModelOutput

from hf_contrastive import ConvEncoderConfig, ConVIRTConfig, ConVIRTForPreTraining
from hf_contrastive.evaluation import nearest_neighbours, retrieval_metrics
from hf_contrastive.losses import clip_loss


def run_contrastive_loss(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    images, texts = (inputs[f"in.{name}_proj"].requires_grad_() for name in ("image", "text"))

    def loss(weight: float, reduction: str = "mean") -> Tensor:
        return clip_loss(images, texts, 1 / config["temperature"], weight_a_to_b=weight, reduction=reduction)

    total = loss(config["lambda_image_to_text"])
    grad_images, grad_texts = torch.autograd.grad(total, (images, texts))
    return {
        "out.loss": total,
        "out.loss_image_to_text_per_example": loss(1, "none"),
        "out.loss_text_to_image_per_example": loss(0, "none"),
        "out.grad_image_proj": grad_images,
        "out.grad_text_proj": grad_texts,
    }


def run_retrieval_precision(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    queries, candidates, ks = inputs["in.query"], inputs["in.candidates"], config["ks"]
    found = retrieval_metrics(
        queries,
        candidates,
        query_labels=inputs["in.query_label"],
        gallery_labels=inputs["in.candidate_labels"],
        ks=(),
        precision_ks=ks,
        per_query=True,
    )
    outputs: dict[str, Any] = {"out.ranking": nearest_neighbours(queries, candidates, k=len(candidates))[1]}
    for k in ks:
        outputs[f"out.precision_at_{k}"] = found[f"precision@{k}"]
        outputs[f"out.per_query_precision_at_{k}"] = found["per_query"][f"precision@{k}"]
    return as_tensors(outputs)


class _Given(torch.nn.Module):
    """Stands for an encoder: its states are given."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states

    def forward(self, **inputs: Tensor) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=self.states)


def run_projection_and_pooling(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    features = inputs["in.image_features"].requires_grad_()
    states = inputs["in.text_hidden_states"].requires_grad_()
    mask = inputs["in.attention_mask"].long()
    text = BertConfig(
        hidden_size=states.shape[-1], num_attention_heads=1, num_hidden_layers=1, intermediate_size=1, vocab_size=2
    )

    def build(pooling: str) -> ConVIRTForPreTraining:
        model = ConVIRTForPreTraining(
            ConVIRTConfig(
                vision_config=ConvEncoderConfig(channels=[features.shape[1]]),
                text_config=text,
                text_pooling=pooling,
                projection_dim=len(inputs["sd.image_projection.2.bias"]),
                temperature=config["temperature"],
                lambda_image_to_text=config["lambda_image_to_text"],
            )
        ).to(features.dtype)
        model.vision_model, model.text_model = _Given(features[:, :, None, None]), _Given(states)
        for side in ("image", "text"):
            head = getattr(model, f"{side}_projection")
            for layer, number in enumerate((0, 2)):
                for name in ("weight", "bias"):
                    getattr(head.layers[layer][0], name).data.copy_(inputs[f"sd.{side}_projection.{number}.{name}"])
        return model

    model, mean = build("max"), build("mean")
    pixels = torch.zeros(len(features), 3, 1, 1, dtype=features.dtype)
    embeds = model.embed_views(pixels, mask, mask)
    loss = model.compute_objective(embeds).loss
    grads = torch.autograd.grad(loss, (features, states))
    others = mean.embed_views(pixels, mask, mask)
    return {
        "out.text_pooled_max": embeds["text_features"],
        "out.text_pooled_mean": others["text_features"],
        "out.image_proj": embeds["image_embeds"],
        "out.text_proj": embeds["text_embeds"],
        "out.loss": loss,
        "out.loss_mean_pool": mean.compute_objective(others).loss,
        "out.grad_image_features": grads[0],
        "out.grad_text_hidden_states": grads[1],
    }


ADAPTERS = {
    "projection_and_pooling": run_projection_and_pooling,
    "contrastive_loss": run_contrastive_loss,
    "retrieval_precision": run_retrieval_precision,
}
