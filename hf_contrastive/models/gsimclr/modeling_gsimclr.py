"""G-SimCLR: the contrastive model and the denoising autoencoder behind its pseudo-labels."""

from __future__ import annotations

import torch
from torch import nn

from hf_contrastive.backbones.configuration_backbones import ConvEncoderConfig
from hf_contrastive.backbones.modeling_backbones import ConvEncoderModel, _BackbonePreTrainedModel, conv_norm_relu
from hf_contrastive.families.siamese.modeling_siamese import SiameseForPreTraining, SiameseModel
from hf_contrastive.models.gsimclr.configuration_gsimclr import DenoisingAutoencoderConfig, GSimCLRConfig
from hf_contrastive.outputs import AutoencoderOutput


class GSimCLRModel(SiameseModel):
    """G-SimCLR's backbone and projection head for inference.

    The paper reads features at three places: `readout="backbone"` (its P3), `"projection_1"` (P2, 256-d) and
    `"projection_2"` (P1, 128-d).

    Args:
        config ([`GSimCLRConfig`]): backbone and head.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive import ConvEncoderConfig, GSimCLRConfig, GSimCLRModel
    >>> model = GSimCLRModel(GSimCLRConfig(backbone_config=ConvEncoderConfig(channels=[8, 16])))
    >>> model.encode(torch.rand(2, 3, 32, 32), readout="projection_2").shape
    torch.Size([2, 128])

    ```
    """

    config: GSimCLRConfig


class GSimCLRForPreTraining(SiameseForPreTraining):
    """G-SimCLR with its objective, NT-Xent; guidance comes from the order of the data.

    Args:
        config ([`GSimCLRConfig`]): backbone, head and temperature.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive import ConvEncoderConfig, GSimCLRConfig, GSimCLRForPreTraining
    >>> model = GSimCLRForPreTraining(GSimCLRConfig(backbone_config=ConvEncoderConfig(channels=[8, 16])))
    >>> model(torch.rand(4, 2, 3, 32, 32)).projections.shape
    torch.Size([4, 2, 50])

    ```
    """

    config: GSimCLRConfig


class DenoisingAutoencoderModel(_BackbonePreTrainedModel):
    """Convolutional autoencoder that reconstructs clean images from noisy ones.

    Encoder: stages of convolution, batch norm, ReLU, 2x2 max pooling. Decoder: nearest upsampling by 2, convolution,
    batch norm, ReLU for every stage, then a convolution and a sigmoid. Trained with the mean squared error
    (https://arxiv.org/abs/2009.12007, stage 1). Features are the spatial mean of the bottleneck.

    Args:
        config ([`DenoisingAutoencoderConfig`]): sizes and noise.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive import DenoisingAutoencoderConfig, DenoisingAutoencoderModel
    >>> outputs = DenoisingAutoencoderModel(DenoisingAutoencoderConfig())(torch.rand(2, 3, 32, 32))
    >>> outputs.embeds.shape, outputs.reconstruction.shape
    (torch.Size([2, 128]), torch.Size([2, 3, 32, 32]))

    ```
    """

    config: DenoisingAutoencoderConfig
    view_inputs = ("pixel_values", "noise")
    readouts = ("latent",)

    def __init__(self, config: DenoisingAutoencoderConfig) -> None:
        super().__init__(config)
        fields = ("channels", "kernel_size", "num_channels", "batch_norm_eps", "batch_norm_momentum")
        self.encoder = ConvEncoderModel(ConvEncoderConfig(**{name: getattr(config, name) for name in fields}))
        self.decoder_stages = nn.ModuleList()
        in_channels = config.hidden_size
        for channels in reversed(config.channels or []):
            self.decoder_stages.append(conv_norm_relu(in_channels, channels, config))
            in_channels = channels
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.decoder_head = nn.Conv2d(in_channels, config.num_channels, config.kernel_size, padding="same")
        self.post_init()

    def decode(self, latent_map: torch.Tensor) -> torch.Tensor:
        """Reconstruct images from the bottleneck.

        Args:
            latent_map (`torch.FloatTensor` `[batch, channels[-1], height, width]`): the bottleneck.

        Returns:
            `torch.FloatTensor` `[batch, num_channels, height * 2^stages, width * 2^stages]`, values in [0, 1].
        """
        hidden = latent_map
        for stage in self.decoder_stages:
            hidden = stage(self.upsample(hidden))
        return self.decoder_head(hidden).sigmoid()

    def embed_views(self, pixel_values: torch.Tensor, noise: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """The bottleneck and the reconstruction of (noisy) images; see `forward`."""
        divisor = 2 ** len(self.decoder_stages)
        if pixel_values.ndim == 4 and any(size % divisor for size in pixel_values.shape[2:]):
            raise ValueError(
                f"images of {pixel_values.shape[2]}x{pixel_values.shape[3]} pixels cannot be reconstructed by "
                f"{len(self.decoder_stages)} stages; resize them to multiples of {divisor}, or use fewer `channels`."
            )
        noisy = pixel_values
        if noise is None and self.training and self.config.noise_std > 0:
            noise = torch.randn_like(pixel_values) * self.config.noise_std
        if noise is not None:
            noisy = pixel_values + noise
        encoded = self.encoder(noisy)
        return {
            "embeds": encoded.pooler_output,
            "latent_map": encoded.last_hidden_state,
            "reconstruction": self.decode(encoded.last_hidden_state),
            "pixel_values": pixel_values,
        }

    def compute_objective(self, embeds: dict[str, torch.Tensor], return_loss: bool = True) -> AutoencoderOutput:
        """Mean squared error between the reconstruction and the clean images."""
        loss = nn.functional.mse_loss(embeds["reconstruction"], embeds["pixel_values"]) if return_loss else None
        return AutoencoderOutput(
            loss=loss,
            embeds=embeds["embeds"],
            reconstruction=embeds["reconstruction"],
            latent_map=embeds["latent_map"],
        )

    def forward(
        self, pixel_values: torch.Tensor, noise: torch.Tensor | None = None, return_loss: bool = True
    ) -> AutoencoderOutput:
        """Reconstruct images.

        Args:
            pixel_values (`torch.FloatTensor` `[batch, channels, height, width]`): clean images in [0, 1]; sides are
                multiples of `2^stages`.
            noise (`torch.FloatTensor` of the same shape, *optional*): added to the input; drawn by default in
                training mode, none in eval mode.
            return_loss (`bool`, defaults to `True`): compute the loss.

        Returns:
            [`AutoencoderOutput`].

        Raises:
            ValueError: a shape that cannot be encoded and decoded.
        """
        return self.compute_objective(self.embed_views(pixel_values, noise), return_loss)

    def _embed_for_encode(self, pixel_values: torch.Tensor, *, readout: str) -> torch.Tensor:
        return self.encoder(pixel_values).pooler_output


__all__ = ["DenoisingAutoencoderModel", "GSimCLRForPreTraining", "GSimCLRModel"]
