"""What models return. Batch is always the first axis; `None` fields are absent from `keys()`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class EmbeddingOutput(ModelOutput):
    """Output of an inference model over single inputs.

    Args:
        embeds (`torch.FloatTensor` `[batch, dim]`): the features to use downstream (pooled backbone output).
        projections (`torch.FloatTensor` `[batch, projection_dim]`): output of the projection head, not normalised.
        last_hidden_state (`torch.FloatTensor`): the backbone's output before pooling.
    """

    embeds: torch.Tensor | None = None
    projections: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None


@dataclass
class ViewsOutput(ModelOutput):
    """Output of a pre-training model over several views of each input.

    Args:
        loss (`torch.FloatTensor`, scalar): the objective; the mean over the anchors of this process.
        embeds (`torch.FloatTensor` `[batch, views, dim]`): pooled backbone output of every view.
        projections (`torch.FloatTensor` `[batch, views, projection_dim]`): what the objective compares.
    """

    loss: torch.Tensor | None = None
    embeds: torch.Tensor | None = None
    projections: torch.Tensor | None = None


@dataclass
class AutoencoderOutput(ModelOutput):
    """Output of an autoencoder.

    Args:
        loss (`torch.FloatTensor`, scalar): mean squared error between reconstruction and clean input.
        embeds (`torch.FloatTensor` `[batch, dim]`): spatial mean of the latent map.
        reconstruction (`torch.FloatTensor` `[batch, channels, height, width]`): values in [0, 1].
        latent_map (`torch.FloatTensor` `[batch, dim, height', width']`): the bottleneck.
    """

    loss: torch.Tensor | None = None
    embeds: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None
    latent_map: torch.Tensor | None = None
