"""The small backbones: plain `PreTrainedModel`s that return a pooled output like transformers' own."""

from __future__ import annotations

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndNoAttention

from hf_contrastive.backbones.configuration_backbones import (
    CifarResNetConfig,
    ConvEncoderConfig,
    SmallAlexNetConfig,
)
from hf_contrastive.modeling_utils import ContrastivePreTrainedModel


class _BackbonePreTrainedModel(ContrastivePreTrainedModel):
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    view_inputs = ("pixel_values",)
    supports_gradient_checkpointing = False

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Conv2d):
            # he_normal of the official code; transformers' normal(0, 0.02) starves deep convolutional networks
            init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)

    def _embed_for_encode(self, pixel_values: torch.Tensor, *, readout: str) -> torch.Tensor:
        return self(pixel_values).pooler_output.flatten(1)


class ConvEncoderModel(_BackbonePreTrainedModel):
    """Stages of convolution, batch norm, ReLU and 2x2 max pooling; the pooled output is the spatial mean.

    Args:
        config ([`ConvEncoderConfig`]): sizes.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive import ConvEncoderConfig, ConvEncoderModel
    >>> ConvEncoderModel(ConvEncoderConfig())(torch.rand(2, 3, 32, 32)).last_hidden_state.shape
    torch.Size([2, 128, 4, 4])

    ```
    """

    config: ConvEncoderConfig

    def __init__(self, config: ConvEncoderConfig) -> None:
        super().__init__(config)
        self.stages = nn.ModuleList()
        in_channels = config.num_channels
        for channels in config.channels or []:
            self.stages.append(conv_norm_relu(in_channels, channels, config))
            in_channels = channels
        self.pool = nn.MaxPool2d(2)
        self.post_init()

    def forward(self, pixel_values: torch.Tensor) -> BaseModelOutputWithPoolingAndNoAttention:
        """Encode images.

        Args:
            pixel_values (`torch.FloatTensor` `[batch, num_channels, height, width]`): images.

        Returns:
            `last_hidden_state` `[batch, channels[-1], height / 2^stages, width / 2^stages]` and `pooler_output`
            `[batch, channels[-1]]`.

        Raises:
            ValueError: wrong number of channels, or an image too small for the number of stages.
        """
        check_images(pixel_values, self.config.num_channels, smallest=2 ** len(self.stages))
        hidden = pixel_values
        for stage in self.stages:
            hidden = self.pool(stage(hidden))
        return BaseModelOutputWithPoolingAndNoAttention(last_hidden_state=hidden, pooler_output=hidden.mean((2, 3)))


class CifarResNetModel(_BackbonePreTrainedModel):
    """The bottleneck network for small images of G-SimCLR's notebooks.

    Projection shortcuts are a 1x1 convolution with the stride of the group and no batch norm; convolutions have a bias.

    Args:
        config ([`CifarResNetConfig`]): sizes.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive import CifarResNetConfig, CifarResNetModel
    >>> CifarResNetModel(CifarResNetConfig())(torch.rand(2, 3, 32, 32)).pooler_output.shape
    torch.Size([2, 256])

    ```
    """

    config: CifarResNetConfig

    def __init__(self, config: CifarResNetConfig) -> None:
        super().__init__(config)
        self.stem = _ConvNorm(config.num_channels, config.stem_channels, 3, 1, config)
        self.groups = nn.ModuleList()
        in_channels = config.stem_channels
        for width, expansion, stride, blocks in zip(
            config.widths or [],
            config.expansions or [],
            config.strides or [],
            config.num_identity_blocks or [],
            strict=True,
        ):
            group = nn.ModuleList([_Bottleneck(in_channels, width, width * expansion, stride, True, config)])
            in_channels = width * expansion
            group.extend(_Bottleneck(in_channels, width, in_channels, 1, False, config) for _ in range(blocks))
            self.groups.append(group)
        self.post_init()

    def forward(self, pixel_values: torch.Tensor) -> BaseModelOutputWithPoolingAndNoAttention:
        """Encode images.

        Args:
            pixel_values (`torch.FloatTensor` `[batch, num_channels, height, width]`): images.

        Returns:
            `last_hidden_state` `[batch, hidden_size, height', width']` and `pooler_output` `[batch, hidden_size]`.

        Raises:
            ValueError: wrong number of channels.
        """
        check_images(pixel_values, self.config.num_channels)
        hidden = self.stem(pixel_values).relu()
        for group in self.groups:
            for block in group:  # ty: ignore[not-iterable]
                hidden = block(hidden)
        return BaseModelOutputWithPoolingAndNoAttention(last_hidden_state=hidden, pooler_output=hidden.mean((2, 3)))


class SmallAlexNetModel(_BackbonePreTrainedModel):
    """Five convolutions and two linear layers, each followed by batch norm and ReLU, for images of one size.

    Args:
        config ([`SmallAlexNetConfig`]): sizes.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive import SmallAlexNetConfig, SmallAlexNetModel
    >>> config = SmallAlexNetConfig(channels=[4, 8, 8, 8, 4], hidden_size=16)
    >>> SmallAlexNetModel(config)(torch.rand(2, 3, 32, 32)).pooler_output.shape
    torch.Size([2, 16])

    ```
    """

    config: SmallAlexNetConfig
    #: numbers of the convolutions that pooling follows
    pooled = (0, 1, 4)

    def __init__(self, config: SmallAlexNetConfig) -> None:
        super().__init__(config)
        self.stages = nn.ModuleList()
        in_channels, side = config.num_channels, config.image_size
        for number, channels in enumerate(config.channels or []):
            layers = [nn.Conv2d(in_channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
            if number in self.pooled:
                layers.append(nn.MaxPool2d(3, 2))
                side = (side - 3) // 2 + 1
            self.stages.append(nn.Sequential(*layers))
            in_channels = channels
        self.layers = nn.ModuleList()
        for size in (in_channels * side * side, config.hidden_size):
            linear = nn.Linear(size, config.hidden_size, bias=False)
            self.layers.append(nn.Sequential(linear, nn.BatchNorm1d(config.hidden_size), nn.ReLU()))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            init.normal_(module.weight, std=self.config.initializer_range)

    def forward(self, pixel_values: torch.Tensor) -> BaseModelOutputWithPoolingAndNoAttention:
        """Encode images.

        Args:
            pixel_values (`torch.FloatTensor` `[batch, num_channels, image_size, image_size]`): images.

        Returns:
            `last_hidden_state` `[batch, hidden_size, 1, 1]` and `pooler_output` `[batch, hidden_size]`.

        Raises:
            ValueError: wrong number of channels or wrong size.
        """
        check_images(pixel_values, self.config.num_channels)
        size = self.config.image_size
        if tuple(pixel_values.shape[2:]) != (size, size):
            raise ValueError(
                f"images of {pixel_values.shape[2]}x{pixel_values.shape[3]} pixels do not fit the linear layers of this "
                f"backbone, which takes {size}x{size}; resize them, or set `image_size` of the backbone configuration."
            )
        hidden = pixel_values
        for stage in self.stages:
            hidden = stage(hidden)
        hidden = hidden.flatten(1)
        for layer in self.layers:
            hidden = layer(hidden)
        return BaseModelOutputWithPoolingAndNoAttention(
            last_hidden_state=hidden[:, :, None, None], pooler_output=hidden
        )


class _ConvNorm(nn.Module):
    """Convolution with bias, then batch norm."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, config: CifarResNetConfig
    ) -> None:
        super().__init__()
        self.keras_same = config.padding == "keras_same"
        padding = 0 if self.keras_same else kernel_size // 2
        # kept here too: a LoRA layer in place of the convolution does not say its sizes
        self.kernel_size, self.stride = kernel_size, stride
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding)
        self.norm = nn.BatchNorm2d(out_channels, config.batch_norm_eps, config.batch_norm_momentum)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.keras_same:
            hidden = pad_keras_same(hidden, self.kernel_size, self.stride)
        return self.norm(self.conv(hidden))


class _Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1; ReLU after the first two and after the addition."""

    def __init__(
        self,
        in_channels: int,
        width: int,
        out_channels: int,
        stride: int,
        project: bool,
        config: CifarResNetConfig,
    ) -> None:
        super().__init__()
        self.reduce = _ConvNorm(in_channels, width, 1, 1, config)
        self.spatial = _ConvNorm(width, width, 3, stride, config)
        self.expand = _ConvNorm(width, out_channels, 1, 1, config)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride) if project else nn.Identity()

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        inner = self.spatial(self.reduce(hidden).relu()).relu()
        return (self.expand(inner) + self.shortcut(hidden)).relu()


def pad_keras_same(hidden: torch.Tensor, kernel_size: int, stride: int) -> torch.Tensor:
    """Zero padding of Keras' "same": the output has `ceil(size / stride)` pixels, odd padding goes bottom and right."""
    pads: list[int] = []
    for size in (hidden.shape[-1], hidden.shape[-2]):
        total = max((-(-size // stride) - 1) * stride + kernel_size - size, 0)
        pads += [total // 2, total - total // 2]
    return nn.functional.pad(hidden, pads) if any(pads) else hidden


def conv_norm_relu(in_channels: int, out_channels: int, config: ConvEncoderConfig) -> nn.Sequential:
    """Convolution of unchanged size with bias, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, config.kernel_size, padding=config.kernel_size // 2),
        nn.BatchNorm2d(out_channels, config.batch_norm_eps, config.batch_norm_momentum),
        nn.ReLU(),
    )


def check_images(pixel_values: torch.Tensor, num_channels: int, smallest: int = 1) -> None:
    """Refuse a batch of images of the wrong shape before a convolution does so in its own words."""
    if pixel_values.ndim != 4 or pixel_values.shape[1] != num_channels:
        raise ValueError(
            f"`pixel_values` has shape {tuple(pixel_values.shape)}, expected [batch, {num_channels}, height, width]; "
            "set `num_channels` of the backbone configuration, or convert the images."
        )
    if min(pixel_values.shape[2:]) < smallest:
        raise ValueError(
            f"images of {pixel_values.shape[2]}x{pixel_values.shape[3]} pixels are too small for this backbone, which "
            f"needs at least {smallest}x{smallest}; enlarge the images or use fewer stages (`channels`)."
        )


__all__ = ["CifarResNetModel", "ConvEncoderModel", "SmallAlexNetModel"]
