"""A pass over a few tokens on a CPU, in little more time than one token takes.

Three things cost far more for 2 to 8 rows than for one, although the weights that are read are the same:

- `linear(x, W)` in float32: MKL takes a multiple of the time. Written with the roles swapped, `(W x^T)^T`, up to 4 rows take
  about as long as one with two threads; more rows are shared out among the threads by columns (`few_rows`).
- GPT-2's `Conv1D` keeps its matrix the other way round, for which no such product is quick. While a text is generated the
  matrices are written column by column (`column_layout`): the same values, the same memory.
- attention with grouped queries and a mask: transformers copies keys and values for every query head. The queries of a group
  can stand beside each other as further rows instead (`packed_queries`).

All of it lasts as long as a `with` block, leaves the weights as they are, and changes results by rounding only.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.pytorch_utils import Conv1D


# with more rows the blocks of an ordinary product are filled, and there is nothing to gain
MOST_ROWS = 8
# up to so many rows the swapped product is the quicker one
_MOST_SWAPPED = 4
_PARTS = 8
_PACKED = "sdpa_packed_queries"
_lock = threading.Lock()
_inside: dict[int, int] = {}


def _is_plain(weight: Any) -> bool:
    # a weight of a class of its own (quantised, sharded): whoever made it meant it
    return type(weight) is nn.Parameter and weight.dtype == torch.float32 and weight.device.type == "cpu"


def swappable_layers(model: nn.Module) -> list[nn.Module]:
    """Layers of a model whose product may be written another way: plain ones, float32, on a CPU with MKL.

    Linear layers, and those of GPT-2's kind (`Conv1D`) whose matrix is written column by column, see [`column_layout`].
    """
    if not torch.backends.mkl.is_available():
        return []
    found = []
    for module in model.modules():
        weight: Any = getattr(module, "weight", None)
        if type(module) not in (nn.Linear, Conv1D) or not _is_plain(weight) or "forward" in vars(module):
            continue
        if type(module) is nn.Linear or weight.t().is_contiguous():
            found.append(module)
    return found


@contextmanager
def few_rows(layers: Sequence[nn.Module]) -> Generator[None]:
    """Within it the layers multiply a few rows the quick way; the results are equal up to rounding."""
    for layer in layers:
        # past nn.Module.__setattr__, which costs more than the rest
        vars(layer)["forward"] = partial(_quick_linear if type(layer) is nn.Linear else _quick_conv1d, layer)
    try:
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def _quick_linear(layer: Any, inputs: Tensor) -> Tensor:
    return _multiply(inputs, layer.weight, layer.bias)


def _quick_conv1d(layer: Any, inputs: Tensor) -> Tensor:
    return _multiply(inputs, layer.weight.t(), layer.bias)


def _multiply(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    rows = inputs.reshape(-1, inputs.shape[-1])
    count, size = rows.shape[0], weight.shape[0]
    if not 1 < count <= MOST_ROWS:
        return F.linear(inputs, weight, bias)
    # contiguous: models look at their states through view()
    if count <= _MOST_SWAPPED or size % _PARTS:
        outputs = torch.mm(weight, rows.t()).t().contiguous()
    else:
        # reshape: another thread may just have written the matrix back
        parts = weight.reshape(_PARTS, size // _PARTS, -1).transpose(1, 2)
        outputs = torch.bmm(rows.expand(_PARTS, *rows.shape), parts).transpose(0, 1).reshape(count, size)
    if bias is not None:
        outputs += bias
    return outputs.view(*inputs.shape[:-1], size)


@contextmanager
def column_layout(model: nn.Module) -> Generator[None]:
    """Within it the matrices of plain `Conv1D` layers on the CPU are written column by column; afterwards as before.

    Each costs two copies of itself in time, and the memory of one matrix for a moment. Matrices that others look at too (a
    part of a larger tensor, or shared among processes) are left alone.
    """
    moved = []
    if torch.backends.mkl.is_available():
        weights = {id(m.weight): m.weight for m in model.modules() if type(m) is Conv1D and _is_plain(m.weight)}
        for weight in weights.values():
            alone = weight.untyped_storage().nbytes() == weight.numel() * weight.element_size()
            if weight.is_contiguous() and alone and not weight.is_shared():
                moved.append(weight)
    try:
        # what is made in inference mode could never be trained again
        with torch.inference_mode(False):
            for weight in moved:
                weight.data = weight.data.t().contiguous().t()
        yield
    finally:
        with torch.inference_mode(False):
            for weight in moved:
                weight.data = weight.data.contiguous()


def packing_config(model: Any) -> Any | None:
    """The configuration by which [`packed_queries`] can reach the attention of a model; `None` where it cannot help."""
    config = model.config.get_text_config(decoder=True)
    heads, groups = getattr(config, "num_attention_heads", None), getattr(config, "num_key_value_heads", None)
    grouped = isinstance(heads, int) and isinstance(groups, int) and groups < heads
    used = getattr(config, "_attn_implementation_internal", None)
    return config if grouped and used in ("sdpa", _PACKED) else None


@contextmanager
def packed_queries(config: Any | None) -> Generator[None]:
    """Within it the model of this configuration attends without copying keys and values; does nothing for `None`."""
    if config is None:
        yield
        return
    # several threads may generate with one model: the last one to leave puts things back
    with _lock:
        _inside[id(config)] = _inside.get(id(config), 0) + 1
        config._attn_implementation_internal = _PACKED
    try:
        yield
    finally:
        with _lock:
            _inside[id(config)] -= 1
            if not _inside[id(config)]:
                del _inside[id(config)]
                config._attn_implementation_internal = "sdpa"


def _packed_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    batch, heads, length, _ = query.shape
    groups = key.shape[1]
    # the mask is complete: a window that closes never comes here
    known = {"dropout", "scaling", "is_causal", "position_ids", "use_cache", "sliding_window"}
    further = [
        name for name, value in kwargs.items() if name not in known and value is not None and value is not False
    ]
    plain = attention_mask is not None and attention_mask.dim() == 4 and attention_mask.shape[1] == 1
    if heads == groups or not plain or further:
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, **kwargs)
    assert attention_mask is not None
    shared = heads // groups
    # heads that share keys are neighbours
    packed = query.reshape(batch, groups, shared * length, query.shape[3])
    mask = attention_mask[..., : key.shape[2]].repeat(1, 1, shared, 1)
    output = F.scaled_dot_product_attention(
        packed, key, value, attn_mask=mask, dropout_p=kwargs.get("dropout") or 0.0, scale=kwargs.get("scaling")
    )
    output = output.reshape(batch, heads, length, value.shape[-1])
    return output.transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register(_PACKED, _packed_attention)
# another thread may make its masks while the name stands in the configuration
ALL_MASK_ATTENTION_FUNCTIONS.register(_PACKED, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
