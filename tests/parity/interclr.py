"""Adapters of InterCLR and NPID: what the library returns for the stored cases of the published code."""

from __future__ import annotations

from typing import Any

import torch
from parity._linear_backbone import LinearBackbone
from torch import Tensor, nn

from hf_contrastive import (
    ConvEncoderConfig,
    InterCLRConfig,
    InterCLRForPreTraining,
    NPIDConfig,
    NPIDForPreTraining,
)
from hf_contrastive.losses import info_nce, memory_bank_nce
from hf_contrastive.modules.bank_sampling import sample_negatives
from hf_contrastive.modules.clustered_memory_bank import ClusteredMemoryBank


def margin(config: dict[str, Any], loss: str) -> dict[str, Any]:
    """The margin of one of the losses in the words of the library."""
    if config.get(f"{loss}_arc"):
        return {"margin": config[f"{loss}_arc_margin"], "margin_type": "angle"}
    return {"margin": config[f"{loss}_cos_margin"] if config.get(f"{loss}_cos") else 0.0, "margin_type": "cosine"}


def run_contrast_losses(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    query, bank, labels = inputs["q"].requires_grad_(), inputs["feature_bank"], inputs["label_bank"]
    own = labels[inputs["idx"]]
    outputs = {}
    negatives = inputs.get("neg_idx")
    if negatives is None:
        if config["neg_sampling"] != "hard":
            raise ValueError(f"only hard negatives are found without a draw, got {config['neg_sampling']!r}")
        negatives = sample_negatives(query, bank, labels, own, config["neg_num"], "hard")
        outputs["neg_idx"] = negatives.sort(1).values
    temperature = config["temperature"]
    intra = info_nce(
        query,
        inputs["k"],
        inputs["queue"].T.contiguous(),
        temperature=temperature,
        in_batch_negatives=False,
        **margin(config, "intra"),
    )
    inter = memory_bank_nce(
        query, bank, inputs["pos_idx"], negatives, temperature=temperature, **margin(config, "inter")
    )
    return {
        **outputs,
        "intra_loss_unweighted": intra,
        "inter_loss_unweighted": inter,
        "grad_q_intra": torch.autograd.grad(intra, query)[0],
        "grad_q_inter": torch.autograd.grad(inter, query)[0],
        "loss": config["intra_loss_weight"] * intra + config["inter_loss_weight"] * inter,
    }


def run_memory_update(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    bank = ClusteredMemoryBank(
        config["length"],
        config["feat_dim"],
        config["num_classes"],
        config["momentum"],
        min_cluster_size=config["min_cluster"],
        # each part of the update is called by itself
        centroid_interval=10**9,
        repair_interval=10**9,
    )
    outputs = {}
    bank.init_clusters(inputs["init_features"], inputs["init_labels"])
    outputs["feature_bank_0"], outputs["centroids_0"] = bank.features.clone(), bank.centroids.clone()
    update = bank.stage(inputs["update_idx"], inputs["update_features"])
    bank.after_step(None)
    outputs["change_ratio"] = update.change_ratio
    outputs["feature_bank_1"], outputs["label_bank_1"] = bank.features.clone(), bank.labels.clone()
    outputs["cluster_sizes_before_small"] = bank.cluster_sizes()
    bank.update_centroids()
    outputs["centroids_2"] = bank.centroids.clone()
    bank.repair_small_clusters()
    outputs["label_bank_3"], outputs["centroids_3"] = bank.labels.clone(), bank.centroids.clone()
    outputs["cluster_sizes_after_small"] = bank.cluster_sizes()
    return outputs


def linear(inputs: dict[str, Tensor], name: str) -> nn.Linear:
    weight, bias = inputs[f"{name}.weight"], inputs[f"{name}.bias"]
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


def run_train_step(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    hidden, channels = inputs["q.0.lin.weight"].shape
    queue, bank = inputs["queue_before"].T.contiguous(), inputs["feature_bank_before"]
    dim = bank.shape[1]
    inter = margin(config, "inter")
    intra = margin({"intra_cos_margin": 0, "intra_arc_margin": 0, **config}, "intra")
    model = InterCLRForPreTraining(
        InterCLRConfig(
            backbone_config=ConvEncoderConfig(channels=[hidden], num_channels=channels),
            projection_dims=[dim],
            temperature=config["temperature"],
            queue_size=len(queue),
            encoder_momentum=config["momentum"],
            num_samples=len(bank),
            bank_momentum=config["bank_momentum"],
            num_clusters=len(inputs["centroids"]),
            min_cluster_size=1,
            online_labels=config["online_labels"],
            # of their own case
            centroid_interval=10**9,
            repair_interval=10**9,
            share_neck=config["share_neck"],
            negative_sampling=config["neg_sampling"],
            num_inter_negatives=config["neg_num"],
            negative_pool_size=config.get("semihard_neg_pool_num", len(bank)),
            inter_margin=inter["margin"],
            inter_margin_type=inter["margin_type"],
            intra_margin=intra["margin"],
            intra_margin_type=intra["margin_type"],
            intra_weight=config["intra_loss_weight"],
            inter_weight=config["inter_loss_weight"],
        )
    ).train()
    slow = model.momentum_encoder
    model.backbone = LinearBackbone(inputs["q.0.lin.weight"], inputs["q.0.lin.bias"])
    slow.backbone_copy = LinearBackbone(inputs["k_before.0.lin.weight"], inputs["k_before.0.lin.bias"])
    model.projection_head.layers[0][0] = linear(inputs, "q.1.fc")
    slow.projection_head_copy.layers[0][0] = linear(inputs, "k_before.1.fc")
    if not config["share_neck"]:
        model.inter_head.layers[0][0] = linear(inputs, "interneck_q.fc")
        slow.inter_head_copy.layers[0][0] = linear(inputs, "interneck_k_before.fc")
    slow.requires_grad_(False)
    with torch.no_grad():
        model.queue.features.copy_(queue)
        model.queue.num_written.fill_(int(config["queue_ptr"]))
        model.memory_bank.features.copy_(bank)
        model.memory_bank.set_labels(inputs["label_bank_before"])
        model.memory_bank.centroids.copy_(inputs["centroids"])

    # the published step begins with the momentum encoder's move, with which the library's step ends
    slow.after_step(model)
    k_after = {name: parameter.clone() for name, parameter in slow.named_parameters()}
    views = torch.stack([inputs["im_q"], inputs["im_k"]], 1)[..., None, None]
    index, positives = inputs["idx"], inputs["pos_idx"]
    mined = inputs.get("neg_idx")
    outputs = model(views, index=index, positive_index=positives, inter_negative_index=mined)
    outputs.loss.backward()
    gradients = {
        "0.lin": model.backbone.lin,
        "1.fc": model.projection_head.layers[0][0],
    }
    found = {
        f"grad_q.{name}.{kind}": getattr(layer, kind).grad
        for name, layer in gradients.items()
        for kind in ("weight", "bias")
    }
    if mined is None:
        with torch.no_grad():
            embeds = model.embed_views(views)
            query = embeds.get("inter_projections", embeds["projections"])[:, 0]
            memory = model.memory_bank
            mined = sample_negatives(
                query, memory.features, memory.labels, memory.labels[index], config["neg_num"], config["neg_sampling"]
            )
        found["neg_idx"] = mined.sort(1).values
    model.after_optimizer_step()
    for name, ours in (("0.lin", "backbone_copy.lin"), ("1.fc", "projection_head_copy.layers.0.0")):
        for kind in ("weight", "bias"):
            found[f"k_after.{name}.{kind}"] = k_after[f"{ours}.{kind}"]
    if outputs.change_ratio is not None:
        found["change_ratio"] = outputs.change_ratio
    return {
        **found,
        "intra_loss": config["intra_loss_weight"] * outputs.intra_loss,
        "inter_loss": config["inter_loss_weight"] * outputs.inter_loss,
        "loss": outputs.loss,
        "queue_after": model.queue.features.T,
        "queue_ptr_after": torch.tensor([model.queue.position]),
        "feature_bank_after": model.memory_bank.features,
        "label_bank_after": model.memory_bank.labels,
    }


def run_npid_step(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    bank = inputs["feature_bank_before"]
    features = inputs["features"].requires_grad_()
    model = NPIDForPreTraining(
        NPIDConfig(
            backbone_config=ConvEncoderConfig(channels=[4]),
            projection_dims=[bank.shape[1]],
            temperature=config["temperature"],
            num_samples=len(bank),
            bank_momentum=config["bank_momentum"],
            num_negatives=config["neg_num"],
        )
    ).train()
    model.memory_bank.features.copy_(bank)
    embeds = {"projections": features[:, None], "embeds": features[:, None]}
    loss = model.compute_objective(embeds, index=inputs["idx"], negative_index=inputs["neg_idx"]).loss
    gradient = torch.autograd.grad(loss, features)[0]
    model.after_optimizer_step()
    return {"loss": loss, "grad_features": gradient, "feature_bank_after": model.memory_bank.features}


ADAPTERS = {
    "contrast_losses": run_contrast_losses,
    "memory_update": run_memory_update,
    "npid_step": run_npid_step,
    "train_step": run_train_step,
}
