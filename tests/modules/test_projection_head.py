"""Projection heads: layers, readouts, batch norms, initial values."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hf_contrastive import ConvEncoderConfig, GSimCLRConfig, GSimCLRModel, SimCLRConfig, SimCLRModel
from hf_contrastive.modules.projection_head import ProjectionHead


def naive(head: ProjectionHead, features: torch.Tensor, num_layers: int) -> torch.Tensor:
    """By hand, in eval mode."""
    for number, layer in enumerate(list(head.layers)[:num_layers]):
        modules = list(layer)
        features = features @ modules[0].weight.T + (0 if modules[0].bias is None else modules[0].bias)
        for module in modules[1:]:
            if isinstance(module, nn.BatchNorm1d):
                features = (features - module.running_mean) / (module.running_var + module.eps).sqrt()
                if module.affine:
                    features = features * module.weight + module.bias
        if number < len(head.layers) - 1:
            features = features.clamp(min=0)
    return features


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("last_batch_norm", [True, False])
def test_layers_by_hand(batch_norm, last_batch_norm):
    torch.manual_seed(0)
    head = ProjectionHead(6, [5, 4, 3], batch_norm=batch_norm, last_batch_norm=last_batch_norm).train()
    features = torch.randn(16, 6)
    head(features)  # running statistics that are not those of a new layer
    head.eval()
    for number, size in ((1, 5), (2, 4), (3, 3)):
        found = head(features, num_layers=number)
        assert found.shape == (16, size)
        torch.testing.assert_close(found, naive(head, features, number))
    assert torch.equal(head(features), head(features, num_layers=3))


def test_hidden_layers_end_in_relu_and_the_last_does_not():
    torch.manual_seed(0)
    head = ProjectionHead(6, [5, 3], batch_norm=False)
    features = torch.randn(64, 6)
    assert head(features, num_layers=1).min() == 0
    assert head(features).min() < 0


def test_bias_where_no_batch_norm_follows():
    head = ProjectionHead(6, [5, 3])
    assert head.layers[0][0].bias is None
    assert head.layers[1][0].bias is not None
    head = ProjectionHead(6, [5, 3], last_batch_norm=True)
    assert head.layers[1][0].bias is None
    assert head.layers[1][1].weight is None
    head = ProjectionHead(6, [5, 3], batch_norm=False)
    assert all(layer[0].bias is not None for layer in head.layers)


def test_three_readouts_of_gsimclr():
    """P1 leaves out the last layer, P2 the last two, P3 the whole head (table of the paper: 128, 256, backbone)."""
    torch.manual_seed(0)
    config = GSimCLRConfig(backbone_config=ConvEncoderConfig(channels=[8, 16]))
    model = GSimCLRModel(config).eval()
    images = torch.rand(3, 3, 16, 16)
    assert model.readouts == ("backbone", "projection_1", "projection_2", "projection")
    features = model.backbone(images).pooler_output
    linear = [layer[0] for layer in model.projection_head.layers]
    assert [layer.out_features for layer in linear] == [256, 128, 50]
    p3 = features
    p2 = linear[0](p3).relu()
    p1 = linear[1](p2).relu()
    torch.testing.assert_close(model.encode(images), p3)
    torch.testing.assert_close(model.encode(images, readout="projection_1"), p2)
    torch.testing.assert_close(model.encode(images, readout="projection_2"), p1)
    torch.testing.assert_close(model.encode(images, readout="projection"), linear[2](p1))
    torch.testing.assert_close(model(images).projections, linear[2](p1))


def test_readouts_of_a_head_with_one_layer():
    config = SimCLRConfig(backbone_config=ConvEncoderConfig(channels=[8]), projection_dims=[4])
    assert SimCLRModel(config).readouts == ("backbone", "projection")


def test_initial_values_are_those_of_torch():
    """Not transformers' normal(0, 0.02), with which the projections of a deep head vanish."""
    torch.manual_seed(0)
    config = GSimCLRConfig(backbone_config=ConvEncoderConfig(channels=[8, 16]))
    for layer in GSimCLRModel(config).projection_head.layers:
        bound = layer[0].in_features ** -0.5
        for tensor in (layer[0].weight, layer[0].bias):
            assert float(tensor.abs().max()) <= bound
            assert float(tensor.abs().max()) > 0.9 * bound
