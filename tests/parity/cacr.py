"""Adapters of CACR: what the library returns for the stored cases of the published code."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hf_contrastive.data import imbalanced_subset
from hf_contrastive.losses import cacr_loss, cacr_momentum_loss, cacr_queue_loss
from hf_contrastive.modules.feature_queue import FeatureQueue
from hf_contrastive.modules.momentum_encoder import MomentumEncoder


def run_cacr_loss(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    views = inputs["views"].requires_grad_()
    # the published code leaves equal weights as they are
    weighted = config["choice"] in ("full", "without_w1")
    terms = cacr_loss(
        views,
        config["tau_pos"],
        config["tau_neg"],
        alpha=config["alpha"],
        beta=config["beta"],
        choice=config["choice"],
        cost=config["cost"],
        rbf_t=config["rbf_t"] or 2.0,
        debiased=config["with_debiased"] and weighted,
        tau_plus=config["tau_plus"],
        normalize=False,
    )
    (gradient,) = torch.autograd.grad(terms.loss, views)
    instances = views.shape[1]
    others = ~torch.eye(instances, dtype=torch.bool)
    return {
        "loss": terms.loss,
        "loss_attraction": terms.attraction,
        "loss_repulsion": terms.repulsion,
        "grad_views": gradient,
        "weights_pos_last_query": terms.positive_weights[-1],
        "weights_neg_last_pair": terms.negative_weights[others].view(instances, instances - 1),
    }


def run_queue_step(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    images, start = inputs["images"], inputs["queue_before"].T
    dim, width = inputs["q.fc.weight"].shape

    def linear(prefix: str) -> nn.Linear:
        layer = nn.Linear(width, dim).double()
        layer.load_state_dict({name: inputs[f"{prefix}.fc.{name}"] for name in ("weight", "bias")})
        return layer

    model: Any = nn.Module()
    model.training_progress, model.fc = 0.0, linear("q")
    slow = MomentumEncoder({"fc": linear("k_before")}, config["momentum"])
    queue = FeatureQueue(len(start), dim).double()
    queue.features.copy_(start)
    queue.num_written.fill_(config.get("queue_ptr", 0))

    # after the last step's update is before this step's keys
    slow.after_step(model)
    queries = model.fc(images)
    with torch.no_grad():
        keys = slow.part("fc")(images)
    options = {
        "alpha": config["alpha"],
        "beta": config["beta"],
        "in_batch_negatives": config["intra_batch_negatives"],
    }
    factors = (config["tau_pos"], config["tau_neg"])
    official = cacr_queue_loss(queries, keys, queue.features, *factors, reuse_first_view=True, **options)
    intended = cacr_queue_loss(queries, keys, queue.features, *factors, **options)
    names = [name for name, _ in model.fc.named_parameters()]
    gradients = torch.autograd.grad(official.loss, list(model.fc.parameters()))
    queue.stage(keys[-1])
    queue.after_step(model)
    return {
        "loss1": official.attraction,
        "loss2": official.repulsion,
        "loss2_intended": intended.repulsion,
        **{f"grad_q.fc.{name}": gradient for name, gradient in zip(names, gradients, strict=True)},
        **{f"k_after.fc.{name}": tensor for name, tensor in slow.part("fc").named_parameters()},
        "queue_after": queue.features.T,
        "queue_ptr_after": torch.tensor([queue.position]),
    }


def run_momentum_loss(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    outputs = {}
    for cost in ("rbf", "euclidean"):
        queries = inputs["q"].clone().requires_grad_()
        loss = cacr_momentum_loss(queries, inputs["k"], config["T"], cost=cost).loss
        (outputs[f"grad_q_{cost}"],) = torch.autograd.grad(loss, queries)
        outputs[f"loss_{cost}"] = loss
    return outputs


def run_imbalanced_subset(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    selected, sizes = imbalanced_subset(
        inputs["targets"].numpy(), config["mode"], config["num_classes"], config["shuffle_seed"]
    )
    return {"selected": torch.from_numpy(selected), "sizes": torch.from_numpy(sizes)}


ADAPTERS = {
    "cacr_loss": run_cacr_loss,
    "imbalanced_subset": run_imbalanced_subset,
    "momentum_loss": run_momentum_loss,
    "queue_step": run_queue_step,
}
