"""The encoder of several stored runs, in the place of a model's backbone."""

from __future__ import annotations

from types import SimpleNamespace

from torch import Tensor, nn


class LinearBackbone(nn.Module):
    """One linear layer and ReLU over images of one pixel.

    Args:
        weight (`Tensor` `[hidden, channels]`), bias (`Tensor` `[hidden]`, *optional*): of the layer `lin`.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.lin = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype)
        self.lin.load_state_dict({"weight": weight} if bias is None else {"weight": weight, "bias": bias})

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.lin(pixel_values.flatten(1)).relu()[:, :, None, None])
