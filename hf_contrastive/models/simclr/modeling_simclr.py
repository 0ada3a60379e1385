"""SimCLR: two random views of an image agree, those of different images differ."""

from __future__ import annotations

from hf_contrastive.families.siamese.modeling_siamese import SiameseForPreTraining, SiameseModel
from hf_contrastive.models.simclr.configuration_simclr import SimCLRConfig


class SimCLRModel(SiameseModel):
    """SimCLR's backbone and projection head for inference; `encode` gives the features.

    Args:
        config ([`SimCLRConfig`]): backbone and head.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive import ConvEncoderConfig, SimCLRConfig, SimCLRModel
    >>> model = SimCLRModel(SimCLRConfig(backbone_config=ConvEncoderConfig(channels=[8, 16]), projection_dims=[16, 8]))
    >>> model.encode(torch.rand(2, 3, 32, 32), readout="projection").shape
    torch.Size([2, 8])

    ```
    """

    config: SimCLRConfig


class SimCLRForPreTraining(SiameseForPreTraining):
    """SimCLR with its objective, NT-Xent (https://arxiv.org/abs/2002.05709, equation 1).

    Args:
        config ([`SimCLRConfig`]): backbone, head and temperature.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive import ConvEncoderConfig, SimCLRConfig, SimCLRForPreTraining
    >>> config = SimCLRConfig(backbone_config=ConvEncoderConfig(channels=[8, 16]), projection_dims=[16, 8])
    >>> outputs = SimCLRForPreTraining(config)(torch.rand(4, 2, 3, 32, 32))
    >>> outputs.loss.backward()
    >>> outputs.projections.shape
    torch.Size([4, 2, 8])

    ```
    """

    config: SimCLRConfig


__all__ = ["SimCLRForPreTraining", "SimCLRModel"]
