"""Adapters of G-SimCLR: what the library returns for the stored cases of the published code."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from hf_contrastive import CifarResNetConfig, CifarResNetModel, DenoisingAutoencoderConfig, DenoisingAutoencoderModel
from hf_contrastive.data import duplicates_per_batch, guided_order
from hf_contrastive.losses import nt_xent


def run_nt_xent(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    if config.get("beta") or config.get("add_one_in_neg"):
        raise ValueError(f"G-SimCLR's NT-Xent has neither beta nor add_one_in_neg, got {config}; see DirectPred")
    z_i, z_j = (inputs[name].requires_grad_() for name in ("z_i", "z_j"))
    loss = nt_xent(z_i, z_j, config["temperature"])
    grad_i, grad_j = torch.autograd.grad(loss, (z_i, z_j))
    # the second loss of the published code carries the factor beta, which is 0 here
    return {"loss": loss, "loss_intra": torch.zeros(()), "grad_z_i": grad_i, "grad_z_j": grad_j}


def run_batch_order(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    labels = inputs["cluster_labels"].numpy()
    rank, order = guided_order(labels)
    outputs = {
        "rank": rank,
        "order_stable": order,
        "duplicates_per_batch_stable": duplicates_per_batch(labels, order, config["batch_size"]),
    }
    return {name: torch.as_tensor(value) for name, value in outputs.items()}


# The networks run in float64, so that what differs from a float32 reference is the reference's own rounding alone.
NETWORK_DTYPE = torch.float64


def load_weights(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Fill all of a module's tensors; anything left over or not given is an error."""
    own = module.state_dict()
    counters = {name: tensor for name, tensor in own.items() if name.endswith("num_batches_tracked")}
    module.load_state_dict({**counters, **weights}, strict=True)


def numbered(inputs: dict[str, Tensor], kind: str) -> list[int]:
    """Numbers of the layers `<kind><number>.*`, in order."""
    found = {match.group(1) for name in inputs if (match := re.match(rf"{kind}(\d+)\.", name))}
    return sorted(int(number) for number in found)


def layer(inputs: dict[str, Tensor], source: str, target: str) -> dict[str, Tensor]:
    """The tensors of the layer `source` under the name `target`."""
    return {f"{target}.{name[len(source) + 1 :]}": t for name, t in inputs.items() if name.startswith(f"{source}.")}


def autoencoder(channels: list[int], num_channels: int, config: dict[str, Any]) -> DenoisingAutoencoderModel:
    return DenoisingAutoencoderModel(
        DenoisingAutoencoderConfig(
            channels=channels,
            num_channels=num_channels,
            kernel_size=config["kernel_size"],
            batch_norm_eps=config["bn_eps"],
            batch_norm_momentum=1 - config.get("bn_momentum_keras", 0.99),
        )
    ).eval()


@torch.no_grad()
def run_autoencoder_encoder(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    images = inputs["pixel_values"].to(NETWORK_DTYPE)
    model = autoencoder(config["channels"], images.shape[1], config).to(NETWORK_DTYPE)
    weights: dict[str, Tensor] = {}
    for stage, number in enumerate(numbered(inputs, "conv")):
        weights |= layer(inputs, f"conv{number}", f"stages.{stage}.0")
        weights |= layer(inputs, f"bn{number}", f"stages.{stage}.1")
    load_weights(model.encoder, weights)
    return {"latent_map": model.encoder(images).last_hidden_state, "embedding": model.encode(images)}


@torch.no_grad()
def run_autoencoder_decoder(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    *stages, num_channels = config["channels"]
    latent_map = inputs["latent_map"].to(NETWORK_DTYPE)
    model = autoencoder(stages[::-1], num_channels, config).to(NETWORK_DTYPE)
    *convolutions, last = numbered(inputs, "conv")
    weights = layer(inputs, f"conv{last}", "decoder_head")
    for stage, number in enumerate(convolutions):
        weights |= layer(inputs, f"conv{number}", f"decoder_stages.{stage}.0")
    for stage, number in enumerate(numbered(inputs, "bn")):
        weights |= layer(inputs, f"bn{number}", f"decoder_stages.{stage}.1")
    load_weights(model, {**layer(model.state_dict(), "encoder", "encoder"), **weights})
    return {"reconstruction": model.decode(latent_map)}


@torch.no_grad()
def run_resnet_cifar_blocks(inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    images, groups = inputs["pixel_values"].to(NETWORK_DTYPE), config["groups"]
    model = CifarResNetModel(
        CifarResNetConfig(
            stem_channels=config["stem_channels"],
            widths=[group["width"] for group in groups],
            expansions=[group["expansion"] for group in groups],
            strides=[group["stride"] for group in groups],
            num_identity_blocks=[group["n_identity_blocks"] for group in groups],
            num_channels=images.shape[1],
            padding=config["padding"],
            batch_norm_eps=config["bn_eps"],
        )
    )
    weights = layer(inputs, "stem.conv", "stem.conv") | layer(inputs, "stem.bn", "stem.norm")
    for number, group in enumerate(groups):
        blocks = ["p", *(f"i{k}" for k in range(group["n_identity_blocks"]))]
        for position, block in enumerate(blocks):
            source, target = f"s{number + 1}.{block}", f"groups.{number}.{position}"
            for ours, theirs in (("reduce", "a"), ("spatial", "b"), ("expand", "c")):
                weights |= layer(inputs, f"{source}.{theirs}.conv", f"{target}.{ours}.conv")
                weights |= layer(inputs, f"{source}.{theirs}.bn", f"{target}.{ours}.norm")
            weights |= layer(inputs, f"{source}.shortcut.conv", f"{target}.shortcut")
    model = model.to(NETWORK_DTYPE).eval()
    load_weights(model, weights)
    return {"feature_map": model(images).last_hidden_state}


ADAPTERS = {
    "autoencoder_decoder": run_autoencoder_decoder,
    "autoencoder_encoder": run_autoencoder_encoder,
    "batch_order": run_batch_order,
    "nt_xent": run_nt_xent,
    "resnet_cifar_blocks": run_resnet_cifar_blocks,
}
