"""What is read from the hidden states of a reward model: values, the last token, similarity with a goal."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init


VALUE_HEADS = ("linear", "mlp")


class ValueHead(nn.Module):
    """
    One number for every hidden state (https://arxiv.org/abs/2407.13887, as in the official code).

    `"linear"` is one layer without bias; `"mlp"` has three hidden layers with ReLU, of sizes D/2, D/2 and D.

    Args:
        dim (`int`): size D of the hidden states.
        kind (`str`, defaults to `"linear"`): `"linear"` or `"mlp"`.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.modules.reward_readout import ValueHead
    >>> ValueHead(8, "mlp")(torch.ones(2, 3, 8)).shape
    torch.Size([2, 3])

    ```
    """

    def __init__(self, dim: int, kind: str = "linear") -> None:
        super().__init__()
        if kind not in VALUE_HEADS:
            raise ValueError(f"`kind` is {kind!r}, but it must be one of {', '.join(VALUE_HEADS)}.")
        sizes = [dim, 1] if kind == "linear" else [dim, dim // 2, dim // 2, dim, 1]
        last = len(sizes) - 2
        self.layers = nn.ModuleList(
            nn.Linear(size, sizes[place + 1], bias=place < last) for place, size in enumerate(sizes[:-1])
        )
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Weights from a normal distribution of standard deviation 1 / (inputs + 1); what is loaded stays."""
        for module in self.layers:
            layer = cast(nn.Linear, module)
            init.normal_(layer.weight, std=1 / (layer.in_features + 1))
            if layer.bias is not None:
                bound = layer.in_features**-0.5
                init.uniform_(layer.bias, -bound, bound)

    def forward(self, hidden: Tensor) -> Tensor:
        """Values `[...]` of states `[..., dim]`."""
        for layer in self.layers[:-1]:
            hidden = torch.relu(layer(hidden))
        return self.layers[-1](hidden).squeeze(-1)


def last_token_index(attention_mask: Tensor) -> Tensor:
    """
    Place of the last token of every row, wherever the padding is.

    Args:
        attention_mask (`Tensor` of shape `[batch, length]`): 0 for padding.

    Returns:
        `LongTensor` of shape `[batch]`; 0 for a row without any token.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.modules.reward_readout import last_token_index
    >>> last_token_index(torch.tensor([[1, 1, 0], [0, 1, 1]])).tolist()
    [1, 2]

    ```
    """
    places = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    return places.masked_fill(attention_mask == 0, 0).amax(1)


def goal_similarity(hidden: Tensor, goal_state: Tensor) -> Tensor:
    """
    Q-value of every state: its cosine with the goal state (https://arxiv.org/abs/2407.13887).

    Args:
        hidden (`Tensor` of shape `[..., dim]`): hidden states.
        goal_state (`Tensor` of shape `[dim]`, or one that broadcasts): the goal.

    Returns:
        `Tensor` of shape `[...]` from -1 to 1, in float32 (float64 for float64 states).

    Raises:
        ValueError: a goal of another width, or one that is zero or not finite.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.modules.reward_readout import goal_similarity
    >>> goal_similarity(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([1.0, 0.0])).tolist()
    [1.0, 0.0]

    ```
    """
    check_goal_state(goal_state, hidden.shape[-1])
    if hidden.dtype != torch.float64:
        hidden, goal_state = hidden.float(), goal_state.float()
    return F.cosine_similarity(hidden, goal_state.to(hidden), dim=-1)


def check_goal_state(goal_state: Any, dim: int) -> None:
    """Refuse a goal state that no state can be compared with.

    Args:
        goal_state (`Tensor` of shape `[..., dim]`): the goal.
        dim (`int`): size of the hidden states.

    Raises:
        ValueError: no tensor, another width, zero, or not finite; on GPUs the values are not looked at.
    """
    if not isinstance(goal_state, Tensor) or not goal_state.is_floating_point():
        raise ValueError(f"`goal_state` is {type(goal_state).__name__}, expected a floating-point tensor [{dim}].")
    if goal_state.dim() == 0 or goal_state.shape[-1] != dim:
        raise ValueError(
            f"`goal_state` has shape {list(goal_state.shape)}, but the hidden states of this model have {dim} numbers; "
            "compute it with this model (compute_goal_state)."
        )
    if goal_state.device.type == "cpu":  # elsewhere the look would make every step wait
        if not bool(torch.isfinite(goal_state).all()):
            raise ValueError("`goal_state` has NaN or infinite numbers; compute it again from finite states.")
        if bool((goal_state == 0).all(-1).any()):
            raise ValueError("`goal_state` is zero, which has no direction; compute it with compute_goal_state.")


__all__ = ["VALUE_HEADS", "ValueHead", "check_goal_state", "goal_similarity", "last_token_index"]
