"""From what an encoder returns to one vector per input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def pool_image(outputs: Any, pooling: str = "auto", name: str = "the backbone") -> Tensor:
    """One vector per image.

    Args:
        outputs (`ModelOutput`): of a vision model, with `last_hidden_state` as a map `[batch, dim, height, width]` or a
            sequence `[batch, positions, dim]`.
        pooling (`str`, defaults to `"auto"`): `"mean"` over positions, `"cls"` (first token), `"pooler"` (what the model itself
            returns as `pooler_output`), or `"auto"`: mean for maps, first token for sequences.
        name (`str`): what messages call the model.

    Returns:
        `Tensor` `[batch, dim]`.

    Raises:
        ValueError: the model returns nothing that can be read so.

    Example:

    ```python
    >>> import torch
    >>> from transformers.modeling_outputs import BaseModelOutput
    >>> from hf_contrastive.modules.pooling import pool_image
    >>> pool_image(BaseModelOutput(last_hidden_state=torch.rand(2, 8, 4, 4))).shape
    torch.Size([2, 8])

    ```
    """
    hidden = outputs.last_hidden_state
    if pooling == "pooler":
        return _pooler_output(outputs, name, "auto")
    if hidden.ndim == 4:
        if pooling == "cls":
            raise ValueError(f"`pooling` is 'cls', but {name} returns a map; set 'mean' or 'auto'.")
        return hidden.mean((2, 3))
    return hidden.mean(1) if pooling == "mean" else hidden[:, 0]


def pool_text(outputs: Any, attention_mask: Tensor | None, pooling: str, name: str = "the text model") -> Tensor:
    """One vector per text; padding never takes part.

    Args:
        outputs (`ModelOutput`): of a text model, with `last_hidden_state` `[batch, tokens, dim]`.
        attention_mask (`LongTensor` `[batch, tokens]`, *optional*): 0 at padding, on either side; without it every token counts.
        pooling (`str`): `"max"` (element-wise, over tokens), `"mean"`, `"cls"` (first token), `"last"` (last token), or `"pooler"`
            (what the model itself returns as `pooler_output`).
        name (`str`): what messages call the model.

    Returns:
        `Tensor` `[batch, dim]`.

    Raises:
        ValueError: a row without tokens, or a model without `pooler_output` where that is asked for.

    Example:

    ```python
    >>> import torch
    >>> from transformers.modeling_outputs import BaseModelOutput
    >>> from hf_contrastive.modules.pooling import pool_text
    >>> states = BaseModelOutput(last_hidden_state=torch.tensor([[[1.0], [5.0]], [[2.0], [9.0]]]))
    >>> pool_text(states, torch.tensor([[1, 1], [1, 0]]), "max")
    tensor([[5.],
            [2.]])

    ```
    """
    require_tokens(attention_mask)
    if pooling == "pooler":
        return _pooler_output(outputs, name, "mean")
    hidden = outputs.last_hidden_state
    if attention_mask is None:
        attention_mask = torch.ones(hidden.shape[:2], dtype=torch.long, device=hidden.device)
    counts = attention_mask != 0
    places = torch.arange(hidden.shape[1], device=hidden.device)
    if pooling == "max":
        return hidden.masked_fill(~counts[:, :, None], -torch.inf).max(1).values
    if pooling == "mean":
        weights = counts.to(hidden.dtype)
        return (hidden * weights[:, :, None]).sum(1) / weights.sum(1, keepdim=True)
    if pooling == "cls":  # with padding on the left the first token is not at place 0
        place = counts.to(torch.uint8).argmax(1)
    elif pooling == "last":
        place = (counts * (places + 1)).argmax(1)
    else:
        raise ValueError(f"`pooling` is {pooling!r}, expected max, mean, cls, last or pooler.")
    return hidden[torch.arange(len(hidden), device=hidden.device), place]


def require_tokens(attention_mask: Tensor | None) -> None:
    """Refuse a text without tokens: it has no embedding.

    Args:
        attention_mask (`LongTensor` `[batch, tokens]`, *optional*): 0 at padding.

    Raises:
        ValueError: a row of zeros; the first one is named.
    """
    # a graph that is being traced cannot look at numbers
    if attention_mask is None or torch.compiler.is_compiling() or bool((attention_mask != 0).any(1).all()):
        return
    row = int((attention_mask != 0).any(1).logical_not().nonzero()[0])
    raise ValueError(
        f"`attention_mask` has a row without tokens (row {row}); an empty text has no embedding. Leave the row out, or "
        "give it a text."
    )


def _pooler_output(outputs: Any, name: str, instead: str) -> Tensor:
    if getattr(outputs, "pooler_output", None) is None:
        raise ValueError(f"{name} returns no pooler_output; set `pooling` to {instead!r}.")
    return outputs.pooler_output.flatten(1)


__all__ = ["pool_image", "pool_text", "require_tokens"]
