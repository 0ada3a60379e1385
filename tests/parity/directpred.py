"""Adapters of DirectPred: what the library returns for the stored cases of the published code."""

from __future__ import annotations

from typing import Any

import torch
from parity._linear_backbone import LinearBackbone
from torch import Tensor

from hf_contrastive import ConvEncoderConfig, DirectPredConfig, DirectPredForPreTraining
from hf_contrastive.losses import nt_xent_beta, simsiam_loss
from hf_contrastive.modules.direct_predictor import direct_copy_weight, direct_set_weight


def set_options(config: dict[str, Any]) -> dict[str, Any]:
    """The general form under the names of this library."""
    # the published code reads dyn_reg in these two only
    reg = config.get("dyn_reg") if config["balance_type"] in ("boost_scale", "clamp") else None
    return {
        "power": config["dyn_convert"],
        "eps": config["dyn_eps"],
        "eps_inside": config["dyn_eps_inside"],
        "balance_type": config["balance_type"],
        "reg": reg,
        "diagonal_only": not config["corr_eigen_decomp"],
    }


def is_direct_copy(config: dict[str, Any]) -> bool:
    """The published code has DirectCopy in this form only."""
    return config["balance_type"] == "direct" and config["dyn_convert"] == 1 and config["corr_eigen_decomp"]


def run_set_predictor(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    if is_direct_copy(config):
        return {"weight": direct_copy_weight(inputs["corr"], eps=config["dyn_eps"])}
    return {"weight": direct_set_weight(inputs["corr"], **set_options(config))}


def run_nt_xent(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    z_i, z_j = (inputs[name].requires_grad_() for name in ("z_i", "z_j"))
    loss, loss_intra = nt_xent_beta(
        z_i,
        z_j,
        config["temperature"],
        config.get("beta") or 0.0,
        add_one_in_neg=bool(config.get("add_one_in_neg")),
    )
    grad_i, grad_j = torch.autograd.grad(loss + loss_intra, (z_i, z_j))
    return {"loss": loss, "loss_intra": loss_intra, "grad_z_i": grad_i, "grad_z_j": grad_j}


def run_simsiam_loss(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    names = ("p1", "p2", "z1", "z2")
    p1, p2, z1, z2 = (inputs[name].requires_grad_() for name in names)
    loss = simsiam_loss(torch.stack([p1, p2], 1), torch.stack([z1, z2], 1))
    gradients = torch.autograd.grad(loss, (p1, p2, z1, z2), allow_unused=True)
    found = {f"grad_{name}": g for name, g in zip(names, gradients, strict=True) if g is not None}
    return {"loss": loss, **found}


# the layers of a head: Linear, BatchNorm, ReLU, Linear
HEAD = {"layers.0": "layers.0.0", "layers.1": "layers.0.1", "layers.3": "layers.1.0"}


def our_name(name: str, two_layers: bool) -> str:
    """The name of a stored tensor, without `_0` or `_end`, in our model."""
    network, rest = name.split(".", 1)
    if network == "predictor":
        if not two_layers:
            return rest.replace("layers.0", "predictor")
        return f"predictor.{HEAD[rest[:8]]}{rest[8:]}"
    part, rest = rest.split(".", 1)
    if part == "encoder":
        own = "backbone", f"lin.{rest}"
    else:  # the published code spells it `projetion`
        own = "projection_head", f"{HEAD[rest[:8]]}{rest[8:]}"
    return ".".join(own) if network == "online" else f"momentum_encoder.{own[0]}_copy.{own[1]}"


def make_model(weights: dict[str, Tensor], config: dict[str, Any]) -> tuple[DirectPredForPreTraining, dict[str, str]]:
    """The model with the stored weights, and the name of each stored tensor in it."""
    two_layers = "predictor.layers.3.weight" in weights
    modes = {None: "mlp" if two_layers else "linear", "symmetric": "symmetric", "corr": "direct_set"}
    if not any(name.startswith("predictor.") for name in weights):
        modes[None] = "none"
    mode = modes[config["predictor_reg"]]
    hidden, channels = weights["online.encoder.weight"].shape
    options: dict[str, Any] = {}
    if mode == "direct_set":
        options = {"zero_mean": config["dyn_zero_mean"], "freq": config["predictor_freq"], "rho": config["dyn_lambda"]}
        options |= set_options(config)
        if is_direct_copy(config):
            mode = "direct_copy"
        elif config["balance_type"] == "boost_scale" and config["dyn_convert"] == 2:
            mode = "direct_pred"
    model = DirectPredForPreTraining(
        DirectPredConfig(
            backbone_config=ConvEncoderConfig(channels=[hidden], num_channels=channels),
            projection_dims=[len(weights[f"online.projetion.layers.{number}.weight"]) for number in (0, 3)],
            predictor_mode=mode,
            predictor_hidden_dim=len(weights["predictor.layers.0.weight"]) if two_layers else 1,
            use_l2_normalization=config["use_l2_normalization"],
            encoder_momentum=config["m"],
            target_init="copy" if config["target_starts_as_copy"] else "random",
            **options,
        )
    ).double()
    model.backbone = LinearBackbone(weights["online.encoder.weight"])
    model.momentum_encoder.backbone_copy = LinearBackbone(weights["target.encoder.weight"]).requires_grad_(False)
    names = {name: our_name(name, two_layers) for name in weights}
    state = {names[name]: tensor for name, tensor in weights.items()}
    left = set(model.state_dict()) - set(state)
    assert all(name.startswith("running_correlation.") for name in left), left
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert set(missing) == left
    assert not unexpected
    return model.train(), names


def run_train_steps(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    weights = {name.replace("_0.", ".", 1): tensor for name, tensor in inputs.items() if "_0." in name}
    model, names = make_model(weights, config)
    optimizer = torch.optim.SGD(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=config["lr"],
        momentum=config["momentum"],
        weight_decay=config["weight_decay"],
    )
    losses, predictors, correlations = [], [], []
    for views in zip(inputs["view1"], inputs["view2"], strict=True):
        loss = model(torch.stack(views, 1)[..., None, None]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.after_optimizer_step()
        losses.append(loss.detach())
        state = model.state_dict()
        if "predictor.layers.0.weight" in names:
            predictors.append(state[names["predictor.layers.0.weight"]].clone())
        if config["predictor_reg"] == "corr":
            correlations.append(state["running_correlation.second_moment"].clone())
    outputs = {name.replace(".", "_end.", 1): model.state_dict()[own] for name, own in names.items()}
    outputs["losses"] = torch.stack(losses)
    if predictors:
        outputs["predictor_weight_per_step"] = torch.stack(predictors)
    if correlations:
        outputs["corr_per_step"] = torch.stack(correlations)
    return outputs


ADAPTERS = {
    "nt_xent": run_nt_xent,
    "set_predictor": run_set_predictor,
    "simsiam_loss": run_simsiam_loss,
    "train_steps": run_train_steps,
}
