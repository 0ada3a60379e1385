"""Adapters of CLIPPINGS: what the library returns for the stored results of the published recipe and its loss library."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from parity._numbers import as_tensors
from PIL import Image
from torch import Tensor

from hf_contrastive.evaluation import (
    clustering_scores,
    link_to_exemplars,
    linkage_accuracy,
    mine_hard_negatives,
    single_link_clusters,
)
from hf_contrastive.losses import clip_loss, pair_margin_loss, sup_con
from hf_contrastive.models.clippings.image_processing_clippings import median_pad
from hf_contrastive.tensor_utils import pool_modalities


def run_pooled_loss(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    images, texts = (inputs[f"in.{name}_embeds"].requires_grad_() for name in ("image", "text"))
    labels = inputs["in.labels"]
    pooled = pool_modalities(images, texts, config["image_weight"])
    if config["loss_type"] == "supcon":
        loss = sup_con(pooled, labels, config["temperature"], mean_of_nonzero=True)
    else:
        assert config["loss_type"] == "contrastive", config
        loss = pair_margin_loss(pooled, labels, pos_margin=config["pos_margin"], neg_margin=config["neg_margin"])
    grad_images, grad_texts = torch.autograd.grad(loss, (images, texts))
    return {
        "out.pooled_embeds": pooled,
        "out.loss": loss,
        "out.grad_image_embeds": grad_images,
        "out.grad_text_embeds": grad_texts,
    }


def run_clip_alignment(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    images, texts, log_scale = (
        inputs[f"in.{name}"].requires_grad_() for name in ("image_embeds", "text_embeds", "logit_scale")
    )
    # the rows are those of CLIPModel, of length 1
    loss = clip_loss(images, texts, log_scale.exp(), normalize=False)
    grad_images, grad_texts, grad_scale = torch.autograd.grad(loss, (images, texts, log_scale))
    return {
        "out.loss": loss,
        "out.grad_image_embeds": grad_images,
        "out.grad_text_embeds": grad_texts,
        "out.grad_logit_scale": grad_scale,
    }


def run_hard_negative_groups(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    groups = mine_hard_negatives(inputs["in.exemplar_embeds"], inputs["in.exemplar_labels"], config["k"])
    return as_tensors(
        {
            "out.neighbour_index": groups.rows,
            "out.neighbour_labels": groups.labels,
            "out.neighbour_squared_l2": groups.squared_distances,
            "out.anchor_id": groups.anchor_ids,
        }
    )


def run_link_to_exemplars(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    vectors = inputs["in.query_embeds"], inputs["in.reference_embeds"], inputs["in.reference_labels"]
    always = link_to_exemplars(*vectors)
    links = link_to_exemplars(*vectors, threshold=config["threshold"], no_match=config["no_match_label"])
    return as_tensors(
        {
            "out.nearest_index": always.rows,
            "out.nearest_score": always.scores,
            "out.matched_accuracy": linkage_accuracy(always.labels, inputs["in.true_labels"]),
            "out.predicted_labels_with_no_match": links.labels,
            "out.accuracy_with_no_match": linkage_accuracy(links.labels, inputs["in.true_labels_with_no_match"]),
        }
    )


def run_single_link_clusters(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    pooled = pool_modalities(inputs["in.image_embeds"], inputs["in.text_embeds"], config["image_weight"])
    labels, threshold = inputs["in.labels"], config["threshold"]
    return as_tensors(
        {
            "out.pooled_embeds": pooled,
            "out.cluster_labels": single_link_clusters(pooled, threshold),
            "out.ari": clustering_scores(pooled, labels, [threshold])["ari"],
            "out.ari_per_threshold": clustering_scores(pooled, labels, inputs["in.thresholds"])["ari_per_threshold"],
        }
    )


def run_median_pad(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    image = inputs["in.image_hwc"].to(torch.uint8).numpy()
    padded = {f"out.padded_{fill}": median_pad(image, fill) for fill in ("white", "median")}
    # pictures and arrays are the same
    assert all(
        (np.asarray(median_pad(Image.fromarray(image), name[11:])) == one).all() for name, one in padded.items()
    )
    return as_tensors(padded)


ADAPTERS = {
    "clip_alignment": run_clip_alignment,
    "hard_negative_groups": run_hard_negative_groups,
    "link_to_exemplars": run_link_to_exemplars,
    "median_pad": run_median_pad,
    "pooled_loss": run_pooled_loss,
    "single_link_clusters": run_single_link_clusters,
}
