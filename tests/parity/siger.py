"""Adapter of SIGER: what the library returns for the stored steps of an independent derivation (no official code is known)."""

from __future__ import annotations

from typing import Any

import torch
from parity._recommender import build, sizes
from torch import Tensor

from hf_contrastive.models.siger.configuration_siger import SIGERConfig
from hf_contrastive.models.siger.modeling_siger import SIGERModel
from hf_contrastive.modules.item_graph import co_occurrence_graph


def run_train_step(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    modalities = [str(number) for number in range(len(config["feature_dims"]))]
    names = {"user_embedding.weight": "user_embedding", "item_embedding.weight": "item_embedding"}
    for name in modalities:
        for ours, theirs in (("projections", "proj"), ("gates", "gate")):
            names |= {f"{ours}.{name}.{part}": f"modality.{name}.{theirs}.{part}" for part in ("weight", "bias")}
    names |= {f"mixer.{part}": f"fuse.{part}" for part in ("0.weight", "0.bias", "2.weight")}
    ours = SIGERConfig(
        **sizes(config),
        feature_dims=dict(zip(modalities, config["feature_dims"], strict=True)),
        num_layers=config["n_ui_layers"],
        num_semantic_layers=config["n_semantic_layers"],
        likeness_neighbours=config["knn_k"],
        co_occurrence_neighbours=config["cooccurrence_k"],
        collaborative_share=config["alpha"],
        noise_size=config["eps"],
        temperature=config["temperature"],
        perturbation_weight=config["lambda_perturb"],
        anchor_weight=config["lambda_anchor"],
        fused_weight=config["lambda_fused"],
        reg_weight=config["reg_weight"],
        anchor_mode=config["anchor_mode"],
        detach_anchor=config["detach_anchor"],
    )
    model = build(SIGERModel, ours, {name: inputs[f"param.{theirs}"] for name, theirs in names.items()}, inputs)
    model.set_features({name: inputs[f"features.{name}"] for name in modalities})
    graphs, behaviour, semantics = model.item_graphs(), model.behaviour(), model.semantics()
    mixture, weights = model.mixture(semantics)
    users, items = model.vectors()
    noise = {name: inputs[f"noise.{name}"] for name in modalities}
    counts = co_occurrence_graph(
        inputs["train_users"],
        inputs["train_items"],
        config["n_users"],
        config["n_items"],
        config["cooccurrence_k"],
    )
    outputs = {
        "graph.cooccurrence_topk": counts.to_dense(),
        "graph.collaborative": graphs["collaborative"].to_dense(),
        "out.behavior": behaviour,
        "out.fuse_weights": weights,
        "out.fused": mixture,
        "out.user_embeddings": users,
        "out.item_embeddings": items,
        "out.scores": users @ items.T,
    }
    for name in modalities:
        outputs[f"graph.modality.{name}"] = graphs[f"likeness.{name}"].to_dense()
        outputs[f"graph.enhanced.{name}"] = graphs[f"blend.{name}"].to_dense()
        outputs[f"out.semantic.{name}"] = semantics[name]
        outputs[f"out.view.{name}"] = torch.stack([model.noisy_view(semantics[name], one) for one in noise[name]])
    found = model.train()(
        user_ids=inputs["users"], pos_item_ids=inputs["pos_items"], neg_item_ids=inputs["neg_items"], noise=noise
    )
    found.loss.backward()
    outputs |= {
        "out.loss": found.loss,
        "out.loss_bpr": found.bpr_loss,
        "out.loss_perturb": found.perturbation_loss,
        "out.loss_anchor": found.anchor_loss,
        "out.loss_fused": found.fused_loss,
        "out.loss_reg": found.reg_loss,
    }
    return outputs | {f"grad.{theirs}": model.get_parameter(name).grad for name, theirs in names.items()}


ADAPTERS = {"train_step": run_train_step}
