"""Multi-layer projection heads."""

from __future__ import annotations

import torch
from torch import nn


class ProjectionHead(nn.Module):
    """A small MLP from features to the space in which the objective compares them.

    Every layer but the last is Linear, optional batch norm, ReLU; the last is Linear alone (optionally with a batch
    norm without scale and shift). A Linear before a batch norm has no bias, unless asked for: the norm would remove it, and
    its gradient would always be zero. SimCLR (https://arxiv.org/abs/2002.05709, section 4.2) uses two layers.

    Args:
        in_dim (`int`): size of the features.
        dims (`list[int]`): output size of every layer, for example `[2048, 128]`.
        batch_norm (`bool`, defaults to `True`): batch norm after hidden layers.
        last_batch_norm (`bool`, defaults to `False`): batch norm after the last layer.
        last_bias (`bool`, defaults to `True`): bias of the last layer where no batch norm follows.
        hidden_affine (`bool`, defaults to `True`): scale and shift in the batch norms of hidden layers.
        hidden_bias (`bool`, defaults to `False`): bias before the batch norms of hidden layers (some published code has one).

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.modules.projection_head import ProjectionHead
    >>> ProjectionHead(16, [32, 8])(torch.rand(4, 16)).shape
    torch.Size([4, 8])

    ```
    """

    def __init__(
        self,
        in_dim: int,
        dims: list[int],
        *,
        batch_norm: bool = True,
        last_batch_norm: bool = False,
        last_bias: bool = True,
        hidden_affine: bool = True,
        hidden_bias: bool = False,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for number, dim in enumerate(dims):
            last = number == len(dims) - 1
            norm = last_batch_norm if last else batch_norm
            bias = (last_bias and not norm) if last else (hidden_bias or not norm)
            layer: list[nn.Module] = [nn.Linear(in_dim, dim, bias=bias)]
            if norm:
                layer.append(nn.BatchNorm1d(dim, affine=hidden_affine and not last))
            if not last:
                layer.append(nn.ReLU())
            self.layers.append(nn.Sequential(*layer))
            in_dim = dim

    def forward(self, features: torch.Tensor, num_layers: int | None = None) -> torch.Tensor:
        """Project.

        Args:
            features (`torch.Tensor` `[batch, in_dim]`): pooled features.
            num_layers (`int`, *optional*): stop after that many layers (their ReLU included); all by default.

        Returns:
            `torch.Tensor` `[batch, dims[num_layers - 1]]`.
        """
        for layer in self.layers[:num_layers]:
            features = layer(features)
        return features
