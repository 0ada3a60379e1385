"""Adapters of logo identification: what the library returns for an independent derivation (no official code is public)."""

from __future__ import annotations

from typing import Any

import torch
from parity._numbers import as_tensors
from torch import Tensor

from hf_contrastive.evaluation import identification_accuracy, verification_metrics
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
    "multiview_loss": run_multiview_loss,
    "one_shot_identification": run_one_shot_identification,
    "verification": run_verification,
}
