"""Configurations of G-SimCLR: the contrastive model and the denoising autoencoder that finds its pseudo-labels."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.models.auto import AutoConfig

from hf_contrastive.backbones.configuration_backbones import ConvEncoderConfig
from hf_contrastive.configuration_utils import require
from hf_contrastive.families.siamese.configuration_siamese import TemperatureConfig


@strict
class GSimCLRConfig(TemperatureConfig):
    r"""
    Configuration of G-SimCLR (https://arxiv.org/abs/2009.12007): SimCLR with a three-layer head without batch norm.

    What makes it G-SimCLR besides this is the order of the data: [`DistinctLabelBatchSampler`] over the pseudo-labels
    of [`PseudoLabeler`].

    Args:
        backbone_config (`dict` or `PreTrainedConfig`, *optional*):
            Configuration of any vision model. [`CifarResNetConfig`] by default (official CIFAR-10 notebook); the
            ImageNet-subset notebooks use `{"model_type": "resnet"}`.
        pooling (`str`, defaults to `"auto"`):
            `"mean"` over positions, `"cls"`, `"pooler"`, or `"auto"`: mean for maps, first token for sequences.
        projection_dims (`list[int]`, defaults to `[256, 128, 50]`): sizes of the head's layers (official notebook).
        projection_batch_norm (`bool`, defaults to `False`): the official head has none.
        projection_last_batch_norm (`bool`, defaults to `False`): the official head has none.
        temperature (`float`, defaults to 0.1): official notebook.
        frozen_modules (`list[str]`, *optional*): parts that are not trained, for example `["backbone"]`.

    Example:

    ```python
    >>> from hf_contrastive import GSimCLRConfig
    >>> GSimCLRConfig().projection_dims
    [256, 128, 50]

    ```
    """

    model_type = "gsimclr"
    sub_configs_defaults = {"backbone_config": SubConfigSpec(AutoConfig, model_type="cifar_resnet")}

    backbone_config: dict | PreTrainedConfig | None = None
    projection_batch_norm: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        self.projection_dims = [256, 128, 50] if self.projection_dims is None else self.projection_dims
        super().__post_init__(**kwargs)


@strict
class DenoisingAutoencoderConfig(ConvEncoderConfig):
    r"""
    Configuration of the denoising autoencoder of G-SimCLR (https://arxiv.org/abs/2009.12007).

    Args:
        channels (`list[int]`, defaults to `[32, 64, 128]`):
            Channels of the encoder's stages; the decoder mirrors them (CIFAR notebook). The deep form of the
            ImageNet-subset notebook has `[64, 128, 256, 512, 1024]` with `kernel_size=5`.
        kernel_size (`int`, defaults to 3): side of the square convolutions, odd.
        num_channels (`int`, defaults to 3): image channels.
        noise_std (`float`, defaults to 0.01): standard deviation of the Gaussian noise added in training, for images
            in [0, 1] (official notebook).
        batch_norm_eps (`float`, defaults to 1e-3): added to the variance (Keras default).
        batch_norm_momentum (`float`, defaults to 0.01): weight of the new statistics (Keras momentum 0.99).

    Example:

    ```python
    >>> from hf_contrastive import DenoisingAutoencoderConfig
    >>> DenoisingAutoencoderConfig(noise_std=0.1).hidden_size
    128

    ```
    """

    model_type = "denoising_autoencoder"

    noise_std: float | int = 0.01

    def validate_noise(self) -> None:
        """Refuse a negative spread."""
        require(self.noise_std >= 0, "noise_std", self.noise_std, "0 or more")


__all__ = ["DenoisingAutoencoderConfig", "GSimCLRConfig"]
