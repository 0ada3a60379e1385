"""Adapter of DCCF: what the library returns for the stored steps of the official code."""

from __future__ import annotations

from typing import Any

from parity._recommender import build, sizes
from torch import Tensor

from hf_contrastive.models.dccf.configuration_dccf import DCCFConfig
from hf_contrastive.models.dccf.modeling_dccf import DCCFModel


NAMES = {
    "user_embedding.weight": "user_embedding.weight",
    "item_embedding.weight": "item_embedding.weight",
    "user_intents": "user_intent",
    "item_intents": "item_intent",
}
VIEWS = {"graph": "gnn", "intent": "intent", "weighted_by_graph": "graph_aug", "weighted_by_intent": "intent_aug"}


def run_train_step(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    ours = DCCFConfig(
        **sizes(config, "embed_size"),
        num_layers=config["n_layers"],
        num_intents=config["n_intents"],
        temperature=config["temperature"],
        reg_weight=config["emb_reg"],
        intent_reg_weight=config["cen_reg"],
        contrastive_weight=config["ssl_reg"],
    )
    model = build(DCCFModel, ours, {name: inputs[f"param.{theirs}"] for name, theirs in NAMES.items()}, inputs)
    (heads_and_tails, weights), (users, items) = model.graph().edges(), model.vectors()
    _, views = model.layers()
    outputs = {
        "adj.indices": heads_and_tails,
        "adj.values": weights,
        "mask0.head": heads_and_tails[0],
        "mask0.tail": heads_and_tails[1],
        "mask0.graph_values": model.edge_weights(views[0]["graph"]),
        "mask0.intent_values": model.edge_weights(views[0]["intent"]),
        "out.user_embeddings": users,
        "out.item_embeddings": items,
        "out.scores": users @ items.T,
    }
    for layer, found in enumerate(views):
        outputs |= {f"out.layer{layer}.{theirs}": found[name] for name, theirs in VIEWS.items()}
    found = model.train()(user_ids=inputs["users"], pos_item_ids=inputs["pos_items"], neg_item_ids=inputs["neg_items"])
    found.loss.backward()
    outputs |= {
        "out.loss": found.loss,
        "out.loss_bpr": found.bpr_loss,
        "out.loss_emb": config["emb_reg"] * found.reg_loss,
        "out.loss_intent": config["cen_reg"] * found.intent_reg_loss,
        "out.loss_cl": config["ssl_reg"] * found.contrastive_loss,
    }
    return outputs | {f"grad.{theirs}": model.get_parameter(name).grad for name, theirs in NAMES.items()}


ADAPTERS = {"train_step": run_train_step}
