"""Adapter of BM3: what the library returns for the stored steps of the official code."""

from __future__ import annotations

from typing import Any

from parity._recommender import build, sizes
from torch import Tensor

from hf_contrastive.models.bm3.configuration_bm3 import BM3Config
from hf_contrastive.models.bm3.modeling_bm3 import BM3Model


# in the fixtures: image (v) and text (t)
MODALITIES = {"image": "v", "text": "t"}


def run_train_step(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    names = {
        "user_embedding.weight": "user_embedding.weight",
        "item_embedding.weight": "item_id_embedding.weight",
        "predictor.weight": "predictor.weight",
        "predictor.bias": "predictor.bias",
    }
    present = [name for name in MODALITIES if f"param.{name}_embedding.weight" in inputs]
    for name in present:
        names[f"features.{name}.weight"] = f"{name}_embedding.weight"
        names |= {f"projections.{name}.{part}": f"{name}_trs.{part}" for part in ("weight", "bias")}
    ours = BM3Config(
        **sizes(config),
        feature_dims={name: inputs[f"param.{name}_embedding.weight"].shape[1] for name in present},
        num_layers=config["n_layers"],
        dropout=config["dropout"],
        reg_weight=config["reg_weight"],
        modality_weight=config["cl_weight"],
    )
    model = build(BM3Model, ours, {name: inputs[f"param.{theirs}"] for name, theirs in names.items()}, inputs)
    masks = {"user": "u", "item": "i", **{name: MODALITIES[name] for name in present}}
    keep = {name: inputs[f"keep_mask.{letter}"] for name, letter in masks.items() if f"keep_mask.{letter}" in inputs}
    index, weights = model.graph().edges()
    (users, items), (user_vectors, item_vectors) = model.nodes(), model.vectors()
    found = model.train()(user_ids=inputs["users"], pos_item_ids=inputs["items"], keep_masks=keep or None)
    found.loss.backward()
    outputs = {
        "norm_adj.indices": index,
        "norm_adj.values": weights,
        "out.user_embeddings": users,
        "out.item_embeddings": items,
        "out.scores": user_vectors @ item_vectors.T,
        "out.loss": found.loss,
        "out.loss_rec": found.reconstruction_loss,
        "out.loss_align_mask": found.alignment_loss + found.masking_loss,
        "out.loss_reg": found.reg_loss,
    }
    return outputs | {f"grad.{theirs}": model.get_parameter(name).grad for name, theirs in names.items()}


ADAPTERS = {"train_step": run_train_step}
