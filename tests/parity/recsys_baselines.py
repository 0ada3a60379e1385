"""Adapters of what recommenders share: what the library returns for the stored cases of the published codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_contrastive.data import k_core, load_interactions
from hf_contrastive.data.interaction_splits import mmrec_counts
from hf_contrastive.evaluation import rank_items, recommendation_metrics
from hf_contrastive.losses import bpr_loss, embedding_penalty


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


ADAPTERS = {"losses": run_losses, "metrics": run_metrics, "kcore_split": run_kcore_split}
