"""Adapters of MOFI: what the library returns for the published evaluation code and for independent derivations of the rest."""

from __future__ import annotations

from typing import Any

import torch
from parity._numbers import as_tensors
from torch import Tensor

from hf_contrastive.data.entity_pairs import filter_entity_pairs
from hf_contrastive.evaluation import (
    identification_accuracy,
    nearest_neighbours,
    retrieval_metrics,
    zero_shot_accuracy,
    zero_shot_class_embeddings,
    zero_shot_logits,
    zero_shot_predictions,
)
from hf_contrastive.losses import class_cosine, clip_loss, margin_softmax


def run_margin_softmax(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    features, weight = (inputs[f"in.{name}"].requires_grad_() for name in ("image_features", "class_weight"))
    labels = inputs["in.labels"]
    # the labels, each once, then what was drawn, as `sample_classes` has them
    candidates = torch.cat([torch.unique(labels[labels >= 0]), inputs["in.sampled_negatives"]])
    options = {"scale": config["scale"], "margin": config["margin"]}
    outputs = {
        "out.candidate_classes": candidates,
        "out.cosine": class_cosine(features, weight),
        "out.loss_full_per_example": margin_softmax(features, weight, labels, reduction="none", **options),
    }
    for name, classes in (("full", None), ("sampled", candidates)):
        loss = margin_softmax(features, weight, labels, candidates=classes, **options)
        grad_features, grad_weight = torch.autograd.grad(loss, (features, weight))
        outputs[f"out.loss_{name}"] = loss
        outputs[f"out.grad_image_features_{name}"] = grad_features
        outputs[f"out.grad_class_weight_{name}"] = grad_weight
    return outputs


def run_multitask(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    names = ("image_features", "text_features", "class_weight", "logit_scale")
    leaves = {name: inputs[f"in.{name}"].requires_grad_() for name in names}
    images, texts, weight, log_scale = leaves.values()
    share = config["classification_weight"]
    classification = margin_softmax(
        images, weight, inputs["in.labels"], scale=config["scale"], margin=config["margin"]
    )
    contrastive = clip_loss(images, texts, log_scale.exp())
    loss = share * classification + (1 - share) * contrastive
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    return {
        "out.loss": loss,
        "out.loss_classification": classification,
        "out.loss_contrastive": contrastive,
        **{f"out.grad_{name}": gradient for name, gradient in zip(names, gradients, strict=True)},
    }


def run_gpr1200_map(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    def measure(exclude_self: bool) -> dict[str, Any]:
        return retrieval_metrics(
            inputs["in.embeddings"],
            query_labels=inputs["in.labels"],
            ks=(),
            average_precision=True,
            per_query=True,
            exclude_self=exclude_self,
        )

    official = measure(False)
    return as_tensors(
        {
            "out.average_precision": official["per_query"]["map"],
            "out.map_gpr1200": official["map"],
            "out.map_self_excluded": measure(True)["map"],
        }
    )


def run_retrieval_accuracy(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    queries, gallery = inputs["in.query_embeddings"], inputs["in.index_embeddings"]
    found = identification_accuracy(
        queries, inputs["in.query_labels"], gallery, inputs["in.index_labels"], ks=config["ks"]
    )
    return as_tensors(
        {
            "out.ranking": nearest_neighbours(queries, gallery, k=max(config["ks"]))[1],
            **{f"out.acc_at_{k}": found[f"top{k}"] for k in config["ks"]},
        }
    )


def run_zero_shot_ensemble(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    images = inputs["in.image_embeds"]
    classes = zero_shot_class_embeddings(inputs["in.prompt_text_features"])
    return as_tensors(
        {
            "out.class_embeds": classes,
            "out.logits": zero_shot_logits(images, classes, logit_scale=1.0),
            "out.predictions": zero_shot_predictions(images, classes),
            "out.accuracy": zero_shot_accuracy(images, classes, inputs["in.labels"])["accuracy"],
        }
    )


def run_i2e_filter(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    similarity = zero_shot_logits(inputs["in.image_embeds"], inputs["in.entity_text_embeds"], logit_scale=1.0)
    images, entities = inputs["in.candidate_mask"].nonzero(as_tuple=True)
    found = filter_entity_pairs(
        similarity[images, entities],
        images,
        entities,
        num_images=similarity.shape[0],
        num_entities=similarity.shape[1],
        threshold=config["threshold"],
        min_images=config["min_images"],
    )
    kept = torch.zeros_like(similarity).index_put((images, entities), torch.as_tensor(found.kept).to(similarity))
    return as_tensors(
        {
            "out.similarity": similarity,
            "out.kept_mask": kept,
            "out.best_entity": found.best_entity,
            "out.images_per_entity": found.images_per_entity,
            f"out.kept_entities_min{config['min_images']}": found.entities,
        }
    )


ADAPTERS = {
    "gpr1200_map": run_gpr1200_map,
    "i2e_filter": run_i2e_filter,
    "margin_softmax": run_margin_softmax,
    "multitask": run_multitask,
    "retrieval_accuracy": run_retrieval_accuracy,
    "zero_shot_ensemble": run_zero_shot_ensemble,
}
