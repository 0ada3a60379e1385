"""The library's small backbones against sums written out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.testers import random_images
from torch import nn

from hf_contrastive import (
    CifarResNetConfig,
    CifarResNetModel,
    ConvEncoderConfig,
    ConvEncoderModel,
    SmallAlexNetConfig,
    SmallAlexNetModel,
)
from hf_contrastive.backbones.modeling_backbones import pad_keras_same


def naive_same_convolution(image: torch.Tensor, convolution: nn.Conv2d, stride: int) -> torch.Tensor:
    """Keras' "same", pixel by pixel: output ceil(size / stride); the smaller half of the padding goes top and left."""
    kernel = convolution.weight.shape[-1]
    height, width = image.shape[-2:]
    rows, columns = math.ceil(height / stride), math.ceil(width / stride)
    top = max((rows - 1) * stride + kernel - height, 0) // 2
    left = max((columns - 1) * stride + kernel - width, 0) // 2
    out = torch.zeros(image.shape[0], convolution.out_channels, rows, columns, dtype=image.dtype)
    for row in range(rows):
        for column in range(columns):
            for dy in range(kernel):
                for dx in range(kernel):
                    y, x = row * stride + dy - top, column * stride + dx - left
                    if 0 <= y < height and 0 <= x < width:
                        out[:, :, row, column] += image[:, :, y, x] @ convolution.weight[:, :, dy, dx].T
    return out + convolution.bias.view(1, -1, 1, 1)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("size", [(7, 8), (8, 7), (5, 5), (6, 6), (2, 9)])
@torch.no_grad()
def test_keras_padding(size, kernel, stride):
    torch.manual_seed(0)
    convolution = nn.Conv2d(2, 3, kernel, stride).double()
    image = torch.randn(2, 2, *size, dtype=torch.float64)
    found = convolution(pad_keras_same(image, kernel, stride))
    torch.testing.assert_close(found, naive_same_convolution(image, convolution, stride))


@pytest.mark.parametrize("size", [8, 9])
@torch.no_grad()
def test_padding_of_the_cifar_backbone(size):
    """On even sizes the two paddings differ, on odd sizes they agree."""
    torch.manual_seed(0)
    sizes = {"stem_channels": 4, "widths": [4], "expansions": [2], "strides": [2], "num_identity_blocks": [0]}
    keras = CifarResNetModel(CifarResNetConfig(**sizes)).eval()
    symmetric = CifarResNetModel(CifarResNetConfig(**sizes, padding="symmetric")).eval()
    symmetric.load_state_dict(keras.state_dict())
    images = random_images(2, 3, size, size, seed=0)
    first, second = keras(images).last_hidden_state, symmetric(images).last_hidden_state
    assert first.shape == second.shape
    assert torch.allclose(first, second, atol=1e-6) == (size % 2 == 1)


@torch.no_grad()
def test_one_block_of_the_cifar_backbone_by_hand():
    torch.manual_seed(0)
    config = CifarResNetConfig(stem_channels=3, widths=[4], expansions=[2], strides=[2], num_identity_blocks=[1])
    model = CifarResNetModel(config).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)

    def unit(part, hidden, stride=1):
        hidden = naive_same_convolution(hidden, part.conv, stride)
        norm = part.norm
        scale = norm.weight / (norm.running_var + 1e-3).sqrt()
        return (hidden - norm.running_mean.view(1, -1, 1, 1)) * scale.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)

    images = random_images(2, 3, 7, 6, seed=0).double()
    hidden = unit(model.stem, images).relu()
    project, identity = model.groups[0]
    inner = unit(project.expand, unit(project.spatial, unit(project.reduce, hidden).relu(), 2).relu())
    hidden = (inner + naive_same_convolution(hidden, project.shortcut, 2)).relu()
    inner = unit(identity.expand, unit(identity.spatial, unit(identity.reduce, hidden).relu()).relu())
    hidden = (inner + hidden).relu()
    outputs = model(images)
    torch.testing.assert_close(outputs.last_hidden_state, hidden)
    torch.testing.assert_close(outputs.pooler_output, hidden.mean((2, 3)))


def test_cifar_backbone_of_the_notebook():
    model = CifarResNetModel(CifarResNetConfig()).eval()
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    shortcuts = [module.shortcut for module in model.modules() if hasattr(module, "shortcut")]
    # 38 layers: the stem, three groups of four blocks of three convolutions, and the classifier that is not here
    assert len(convolutions) - sum(isinstance(module, nn.Conv2d) for module in shortcuts) == 37
    assert all(module.bias is not None for module in convolutions)
    with torch.no_grad():
        assert model(torch.rand(1, 3, 32, 32)).last_hidden_state.shape == (1, 256, 8, 8)


@torch.no_grad()
def test_conv_encoder_by_hand():
    torch.manual_seed(0)
    model = ConvEncoderModel(ConvEncoderConfig(channels=[4, 5], kernel_size=5)).eval()
    images = random_images(2, 3, 11, 9, seed=0)
    hidden = images
    for convolution, norm, _ in model.stages:
        hidden = naive_same_convolution(hidden, convolution, 1) / math.sqrt(1 + 1e-3)
        hidden = nn.functional.max_pool2d((hidden * norm.weight.view(1, -1, 1, 1)).relu(), 2)
    outputs = model(images)
    assert outputs.last_hidden_state.shape == (2, 5, 2, 2)
    torch.testing.assert_close(outputs.last_hidden_state, hidden, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs.pooler_output, hidden.mean((2, 3)), rtol=1e-4, atol=1e-5)


def test_images_too_small_for_the_stages():
    model = ConvEncoderModel(ConvEncoderConfig(channels=[4, 4, 4]))
    with pytest.raises(ValueError, match=r"images of 7x16 pixels are too small .* at least 8x8"):
        model(torch.rand(2, 3, 7, 16))
    assert model(torch.rand(2, 3, 8, 8)).pooler_output.shape == (2, 4)


@pytest.mark.parametrize(
    ("model_class", "config_class"), [(ConvEncoderModel, ConvEncoderConfig), (CifarResNetModel, CifarResNetConfig)]
)
def test_batch_norms_have_the_configured_constants(model_class, config_class):
    for fields, expected in (
        ({}, (1e-3, 0.01)),  # those of Keras
        ({"batch_norm_eps": 0.02, "batch_norm_momentum": 0.3}, (0.02, 0.3)),
    ):
        norms = [
            module for module in model_class(config_class(**fields)).modules() if isinstance(module, nn.BatchNorm2d)
        ]
        assert {(norm.eps, norm.momentum) for norm in norms} == {expected}


@pytest.mark.parametrize(
    "model",
    [ConvEncoderModel(ConvEncoderConfig(channels=[32, 64])), CifarResNetModel(CifarResNetConfig())],
    ids=["conv_encoder", "cifar_resnet"],
)
def test_convolutions_start_as_he_normal(model):
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 2000:
            expected = math.sqrt(2 / (module.in_channels * module.kernel_size[0] ** 2))
            assert float(module.weight.detach().std()) == pytest.approx(expected, rel=0.1)
            assert float(module.bias.abs().max()) == 0


@pytest.mark.parametrize(("size", "flat"), [(32, 192 * 3 * 3), (64, 192 * 7 * 7)])
def test_sizes_of_the_small_alexnet(size, flat):
    with torch.device("meta"):
        model = SmallAlexNetModel(SmallAlexNetConfig(image_size=size))
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if p.ndim > 1}
    assert list(shapes.values()) == [
        *((96, 3, 3, 3), (192, 96, 3, 3), (384, 192, 3, 3), (384, 384, 3, 3), (192, 384, 3, 3)),
        *((4096, flat), (4096, 4096)),
    ]
    assert not any(name.endswith("0.bias") for name, _ in model.named_parameters())


@torch.no_grad()
def test_small_alexnet_by_hand():
    torch.manual_seed(0)
    model = SmallAlexNetModel(SmallAlexNetConfig(channels=[4, 5, 6, 6, 5], hidden_size=7, image_size=17)).eval()
    assert float(model.layers[0][0].weight.std()) == pytest.approx(0.02, rel=0.3)
    images = random_images(2, 3, 17, 17, seed=0)
    hidden = images
    for number, stage in enumerate(model.stages):
        hidden = nn.functional.conv2d(hidden, stage[0].weight, padding=1) / math.sqrt(1 + 1e-5)
        hidden = nn.functional.max_pool2d(hidden.relu(), 3, 2) if number in (0, 1, 4) else hidden.relu()
    hidden = hidden.flatten(1)
    for layer in model.layers:
        hidden = (hidden @ layer[0].weight.T / math.sqrt(1 + 1e-5)).relu()
    torch.testing.assert_close(model(images).pooler_output, hidden)
    with pytest.raises(ValueError, match=r"images of 32x32 pixels do not fit .* takes 17x17"):
        model(torch.rand(2, 3, 32, 32))
