"""Adapters of what recommenders share: what the library returns for the stored cases of the published codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_contrastive.data import k_core, load_interactions
from hf_contrastive.data.interaction_splits import mmrec_counts
from hf_contrastive.evaluation import rank_items, recommendation_metrics
from hf_contrastive.families.recommender.modeling_recommender import contrast_with_all
from hf_contrastive.losses import bpr_loss, embedding_penalty
from hf_contrastive.models.lightgcn.configuration_lightgcn import LightGCNConfig
from hf_contrastive.models.lightgcn.modeling_lightgcn import LightGCNModel
from hf_contrastive.models.mf.configuration_mf import MFConfig
from hf_contrastive.models.mf.modeling_mf import MFModel
from hf_contrastive.models.simgcl.configuration_simgcl import SimGCLConfig
from hf_contrastive.models.simgcl.modeling_simgcl import SimGCLModel


def run_losses(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    user, pos, neg = (inputs[name].double() for name in ("user", "pos", "neg"))
    user.requires_grad_()
    scores = [config["score_scale"] * (user * items).sum(1) for items in (pos, neg)]
    found = {
        "bpr_recbole": bpr_loss(*scores, form="log_sigmoid_eps", eps=1e-10),
        "bpr_softplus": bpr_loss(*scores),
        "emb_loss": embedding_penalty(user, pos, neg, form="frobenius"),
        "emb_loss_pow": embedding_penalty(user, pos, neg, form="half_sq"),
        "l2_selfrec": embedding_penalty(user, pos, neg, form="frobenius"),
        "reg_lightgcn": embedding_penalty(user, pos, neg, form="half_sq"),
    }
    outputs = {f"out.{name}": value for name, value in found.items()}
    for name, value in found.items():
        outputs[f"grad_user.{name}"] = torch.autograd.grad(value, user, retain_graph=True)[0]
    return outputs


def run_metrics(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    ks = config["ks"]
    seen = inputs["train_mask"].nonzero()
    names = {"recall": "recall", "recall2": "recall_micro"}
    names |= {name: name for name in ("ndcg", "precision", "map", "hit", "mrr")}
    found = recommendation_metrics(
        inputs["scores"],
        relevant=inputs["test_mask"].nonzero(),
        exclude=seen,
        ks=ks,
        metrics=list(names.values()),
    )
    outputs = {
        f"out.{name}": torch.tensor([found[f"{ours}@{k}"] for k in ks], dtype=torch.float64)
        for name, ours in names.items()
    }
    outputs["topk"] = torch.as_tensor(rank_items(inputs["scores"], k=max(ks), exclude=seen)[1])
    return outputs


def run_kcore_split(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    users, items = inputs["interactions"].numpy().T
    keep = k_core(users, items, config["k_user"], config["k_item"])
    data = load_interactions(
        [{"user": int(user), "item": int(item)} for user, item in zip(users, items, strict=True)],
        user_core=config["k_user"],
        item_core=config["k_item"],
        split="mmrec",
    )
    return {
        "keep": torch.as_tensor(keep.astype(np.int64)),
        "user_order": torch.tensor([int(token) for token in data.user_tokens]),
        "item_order": torch.tensor([int(token) for token in data.item_tokens]),
        "split_counts": torch.tensor([mmrec_counts(int(count)) for count in inputs["split_counts_n"]]),
    }


def build(model_class: Any, config: Any, user: Tensor, item: Tensor) -> Any:
    model = model_class(config).double()
    with torch.no_grad():
        model.user_embedding.weight.copy_(user)
        model.item_embedding.weight.copy_(item)
    return model


def sizes(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "num_users": config["n_users"],
        "num_items": config["n_items"],
        "hidden_size": config["embedding_size"],
    }


def pairwise(model: Any, inputs: dict[str, Tensor], **draws: Tensor) -> dict[str, Tensor]:
    """Scores in eval mode, losses and gradients in training mode."""
    users, items = model.vectors()
    scores = users @ items.T
    found = model.train()(
        user_ids=inputs["users"], pos_item_ids=inputs["pos_items"], neg_item_ids=inputs["neg_items"], **draws
    )
    found.loss.backward()
    return {
        "out.user_embeddings": users,
        "out.item_embeddings": items,
        "out.scores": scores,
        "out.rating": scores.sigmoid(),
        "out.loss": found.loss,
        "out.loss_bpr": found.bpr_loss,
        "out.loss_reg": found.reg_loss,
        "grad.embedding_user.weight": model.user_embedding.weight.grad,
        "grad.embedding_item.weight": model.item_embedding.weight.grad,
    }


def run_bpr_mf(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    tables = inputs["param.embedding_user.weight"], inputs["param.embedding_item.weight"]
    return pairwise(build(MFModel, MFConfig(**sizes(config), reg_weight=config["decay"]), *tables), inputs)


def run_lightgcn(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    tables = inputs["param.embedding_user.weight"], inputs["param.embedding_item.weight"]
    ours = LightGCNConfig(
        **sizes(config),
        num_layers=config["n_layers"],
        reg_weight=config["decay"],
        edge_dropout=1 - config["keep_prob"] if config["keep_prob"] else 0.0,
    )
    model = build(LightGCNModel, ours, *tables)
    model.set_interactions(inputs["train_users"], inputs["train_items"])
    index, weights = model.graph().edges()
    draws = {"edge_keep": inputs["edge_keep_mask"]} if "edge_keep_mask" in inputs else {}
    return {"adj.indices": index, "adj.values": weights, **pairwise(model, inputs, **draws)}


def run_simgcl(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    ours = SimGCLConfig(
        **sizes(config),
        num_layers=config["n_layers"],
        noise_size=config["eps"],
        temperature=config["temperature"],
        contrastive_weight=config["cl_rate"],
    )
    model = build(SimGCLModel, ours, inputs["param.user_emb"], inputs["param.item_emb"])
    model.set_interactions(inputs["train_users"], inputs["train_items"])
    noise = torch.stack([inputs["noise_view1"], inputs["noise_view2"]])
    outputs = {}
    for number, draw in enumerate(noise, 1):
        outputs[f"out.user_view{number}"], outputs[f"out.item_view{number}"] = model.split(model.view(draw))
    outputs["out.user_embeddings"], outputs["out.item_embeddings"] = model.vectors()
    # the stored gradients are of the contrast alone
    found = model(
        user_ids=inputs["users"], pos_item_ids=inputs["pos_items"], neg_item_ids=inputs["pos_items"], noise=noise
    )
    (config["cl_rate"] * found.contrastive_loss).backward()
    outputs["out.loss_cl"] = found.contrastive_loss
    outputs["grad.user_emb"] = model.user_embedding.weight.grad
    outputs["grad.item_emb"] = model.item_embedding.weight.grad
    return outputs


def run_sgl_ssl(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    names = [f"{side}_view{number}" for side in ("user", "item") for number in (1, 2)]
    views = {name: inputs[name].double().requires_grad_() for name in names}
    parts = [
        contrast_with_all(
            views[f"{side}_view1"], views[f"{side}_view2"], inputs[ids], config["temperature"], reduction="sum"
        )
        for side, ids in (("user", "users"), ("item", "pos_items"))
    ]
    loss = config["ssl_weight"] * (parts[0] + parts[1])
    loss.backward()
    return {"out.loss": loss, **{f"grad.{name}": view.grad for name, view in views.items()}}


ADAPTERS = {
    "bpr_mf": run_bpr_mf,
    "kcore_split": run_kcore_split,
    "lightgcn": run_lightgcn,
    "losses": run_losses,
    "metrics": run_metrics,
    "sgl_ssl": run_sgl_ssl,
    "simgcl": run_simgcl,
}
