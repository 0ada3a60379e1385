"""Configurations of the small backbones."""

from typing import Any, cast

from huggingface_hub.dataclasses import strict

from hf_contrastive.configuration_utils import ContrastiveConfig, require


@strict
class ConvEncoderConfig(ContrastiveConfig):
    r"""
    Configuration of [`ConvEncoderModel`]: stages of convolution, batch norm, ReLU and 2x2 max pooling.

    With the defaults it is the encoder of G-SimCLR's CIFAR autoencoder (https://arxiv.org/abs/2009.12007; sizes from
    the official notebook); with `channels=[32, 64, 128, 256]` a light backbone for images of 32x32 pixels.

    Args:
        channels (`list[int]`, defaults to `[32, 64, 128]`): output channels of every stage (official notebook).
        kernel_size (`int`, defaults to 3): side of the square convolutions, odd (official notebook).
        num_channels (`int`, defaults to 3): image channels.
        batch_norm_eps (`float`, defaults to 1e-3): added to the variance (Keras default).
        batch_norm_momentum (`float`, defaults to 0.01): weight of the new statistics (Keras momentum 0.99).

    Example:

    ```python
    >>> from hf_contrastive import ConvEncoderConfig
    >>> ConvEncoderConfig(channels=[16, 32]).hidden_size
    32

    ```
    """

    model_type = "conv_encoder"

    channels: list[int] | None = None
    kernel_size: int = 3
    num_channels: int = 3
    batch_norm_eps: float = 1e-3
    batch_norm_momentum: float = 0.01

    def __post_init__(self, **kwargs: Any) -> None:
        self.channels = [32, 64, 128] if self.channels is None else self.channels
        super().__post_init__(**kwargs)

    @property
    def hidden_size(self) -> int:
        """Channels of the last stage, which is the size of the pooled features."""
        return cast(list[int], self.channels)[-1]

    def validate_architecture(self) -> None:
        """Refuse sizes that no network has."""
        require(
            bool(self.channels) and min(self.channels) > 0, "channels", self.channels, "a list of positive numbers"
        )
        require(self.kernel_size > 0 and self.kernel_size % 2 == 1, "kernel_size", self.kernel_size, "odd, 1 or more")
        require(self.num_channels > 0, "num_channels", self.num_channels, "1 or more")
        require(self.batch_norm_eps > 0, "batch_norm_eps", self.batch_norm_eps, "above 0")


@strict
class CifarResNetConfig(ContrastiveConfig):
    r"""
    Configuration of [`CifarResNetModel`], the bottleneck network for small images that G-SimCLR's notebooks use.

    Stem convolution, then groups of one projection block and `num_identity_blocks` identity blocks. The defaults are
    those of the CIFAR-10 notebook (zoo/resnet/resnet_cifar10.py with n = 4): 256 features from a map of 8x8.

    Args:
        stem_channels (`int`, defaults to 16): channels of the first 3x3 convolution.
        widths (`list[int]`, defaults to `[16, 64, 128]`): inner width of the blocks of every group.
        expansions (`list[int]`, defaults to `[4, 2, 2]`): output channels of a group are width times expansion.
        strides (`list[int]`, defaults to `[1, 2, 2]`): stride of the first block of every group.
        num_identity_blocks (`list[int]`, defaults to `[3, 3, 3]`): further blocks of every group.
        num_channels (`int`, defaults to 3): image channels.
        padding (`str`, defaults to `"keras_same"`): `"keras_same"` pads strided convolutions of even-sized maps at the
            bottom and right only, as the official code does; `"symmetric"` as PyTorch networks do.
        batch_norm_eps (`float`, defaults to 1e-3): added to the variance (Keras default).
        batch_norm_momentum (`float`, defaults to 0.01): weight of the new statistics (Keras momentum 0.99).

    Example:

    ```python
    >>> from hf_contrastive import CifarResNetConfig
    >>> CifarResNetConfig().hidden_size
    256

    ```
    """

    model_type = "cifar_resnet"

    stem_channels: int = 16
    widths: list[int] | None = None
    expansions: list[int] | None = None
    strides: list[int] | None = None
    num_identity_blocks: list[int] | None = None
    num_channels: int = 3
    padding: str = "keras_same"
    batch_norm_eps: float = 1e-3
    batch_norm_momentum: float = 0.01

    def __post_init__(self, **kwargs: Any) -> None:
        self.widths = [16, 64, 128] if self.widths is None else self.widths
        self.expansions = [4, 2, 2] if self.expansions is None else self.expansions
        self.strides = [1, 2, 2] if self.strides is None else self.strides
        self.num_identity_blocks = [3, 3, 3] if self.num_identity_blocks is None else self.num_identity_blocks
        super().__post_init__(**kwargs)

    @property
    def hidden_size(self) -> int:
        """Size of the pooled features."""
        return cast(list[int], self.widths)[-1] * cast(list[int], self.expansions)[-1]

    def validate_architecture(self) -> None:
        """Refuse sizes that no network has."""
        groups = len(self.widths or [])
        lists = {name: getattr(self, name) for name in ("widths", "expansions", "strides", "num_identity_blocks")}
        for name, value in lists.items():
            least = 0 if name == "num_identity_blocks" else 1
            require(
                len(value) == groups > 0 and min(value) >= least,
                name,
                value,
                f"a list with one number of at least {least} for each of the {groups} groups in `widths`",
            )
        require(self.stem_channels > 0, "stem_channels", self.stem_channels, "1 or more")
        require(self.num_channels > 0, "num_channels", self.num_channels, "1 or more")
        require(self.padding in ("keras_same", "symmetric"), "padding", self.padding, "'keras_same' or 'symmetric'")
        require(self.batch_norm_eps > 0, "batch_norm_eps", self.batch_norm_eps, "above 0")


@strict
class SmallAlexNetConfig(ContrastiveConfig):
    r"""
    Configuration of [`SmallAlexNetModel`], the AlexNet for small images of CACR (https://arxiv.org/abs/2105.03746, small
    experiments): five convolutions and two wide linear layers, whose output are the features.

    Args:
        channels (`list[int]`, defaults to `[96, 192, 384, 384, 192]`): output channels of the five convolutions (published
            code); pooling follows the first, second and fifth.
        hidden_size (`int`, defaults to 4096): size of the two linear layers (published code).
        image_size (`int`, defaults to 32): side of the square images in pixels, 15 or more (published code: 32 and 64).
        num_channels (`int`, defaults to 3): image channels.
        initializer_range (`float`, defaults to 0.02): standard deviation of the first weights (published code).

    Example:

    ```python
    >>> from hf_contrastive import SmallAlexNetConfig
    >>> SmallAlexNetConfig(image_size=64).hidden_size
    4096

    ```
    """

    model_type = "small_alexnet"

    channels: list[int] | None = None
    hidden_size: int = 4096
    image_size: int = 32
    num_channels: int = 3
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        self.channels = [96, 192, 384, 384, 192] if self.channels is None else self.channels
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Refuse sizes that no network has."""
        channels = self.channels or []
        require(len(channels) == 5 and min(channels) > 0, "channels", self.channels, "a list of five positive numbers")
        require(self.hidden_size > 0, "hidden_size", self.hidden_size, "1 or more")
        require(self.image_size >= 15, "image_size", self.image_size, "15 or more")
        require(self.num_channels > 0, "num_channels", self.num_channels, "1 or more")
        require(self.initializer_range > 0, "initializer_range", self.initializer_range, "above 0")


__all__ = ["CifarResNetConfig", "ConvEncoderConfig", "SmallAlexNetConfig"]
