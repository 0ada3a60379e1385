"""Checks and conversions shared by the evaluation functions: what came in is refused or made a clean tensor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


# A block of scores holds at most this many numbers, so memory does not grow with the number of queries.
BLOCK_ELEMENTS = 2**23


def as_embeddings(name: str, value: Any, *, dims: int = 2, dtype: torch.dtype | None = None) -> torch.Tensor:
    """A finite floating-point tensor with `dims` axes, on its own device; refuses everything else by name."""
    if isinstance(value, torch.Tensor):
        tensor = value.detach()
    else:
        try:
            tensor = torch.as_tensor(np.asarray(value))
        except (TypeError, ValueError) as error:
            raise TypeError(f"`{name}` must be an array of numbers, got {type(value).__name__}: {error}") from error
    if tensor.ndim != dims:
        wanted = "[rows, features]" if dims == 2 else f"{dims} axes"
        raise ValueError(f"`{name}` has shape {list(tensor.shape)}; expected {wanted}")
    if tensor.numel() == 0:
        raise ValueError(f"`{name}` is empty (shape {list(tensor.shape)}); at least one row is needed")
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise TypeError(f"`{name}` has dtype {tensor.dtype}; expected real numbers")
    if tensor.device.type == "mps":  # no float64 there
        tensor = tensor.cpu()
    if dtype is None:
        dtype = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    tensor = tensor.to(dtype)
    bad = (~torch.isfinite(tensor).flatten(0, dims - 2).all(dim=1)).nonzero()
    if len(bad):
        total = tensor.flatten(0, dims - 2).shape[0]
        raise ValueError(
            f"`{name}`: {len(bad)} of {total} rows hold NaN or infinity (first: row {int(bad[0])}); "
            "the encoder diverged or the input is broken"
        )
    return tensor


def as_pair(
    name_a: str, a: Any, name_b: str, b: Any, *, same_shape: bool = False, dtype: torch.dtype | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two embedding matrices of equal width, on one device and in one dtype."""
    left, right = as_embeddings(name_a, a, dtype=dtype), as_embeddings(name_b, b, dtype=dtype)
    if same_shape and left.shape != right.shape:
        raise ValueError(
            f"`{name_a}` has shape {list(left.shape)} and `{name_b}` {list(right.shape)}; they must be equal (row i of "
            "both is one pair)"
        )
    if left.shape[1] != right.shape[1]:
        raise ValueError(
            f"`{name_a}` has {left.shape[1]} features a row and `{name_b}` has {right.shape[1]}; both must come from the "
            "same encoder"
        )
    common = torch.promote_types(left.dtype, right.dtype)
    return left.to(common), right.to(device=left.device, dtype=common)


def as_labels(name: str, labels: Any, rows: int, of: str) -> np.ndarray:
    """A 1-D array of integers or strings, one for each row of `of`."""
    array = labels.detach().cpu().numpy() if isinstance(labels, torch.Tensor) else np.asarray(labels)
    if array.ndim != 1:
        raise ValueError(f"`{name}` has shape {list(array.shape)}; expected one label a row, [rows]")
    if len(array) != rows:
        raise ValueError(f"`{name}` has {len(array)} labels but `{of}` has {rows} rows")
    if array.dtype.kind == "f":
        if not np.all(array == np.round(array)):  # NaN fails here too
            raise ValueError(f"`{name}` holds fractions or NaN; labels are integers or strings")
        array = array.astype(np.int64)
    if array.dtype.kind not in "iubUS":
        if array.dtype.kind == "O" and all(isinstance(item, str) for item in array):
            return array.astype(str)
        raise TypeError(f"`{name}` has dtype {array.dtype}; labels are integers or strings (a missing label is not)")
    return array


def as_numbers(name: str, values: Any) -> np.ndarray:
    """A 1-D float64 array; refuses everything that is not one real number an entry."""
    if isinstance(values, torch.Tensor):
        if values.is_complex():
            raise TypeError(f"`{name}` has dtype {values.dtype}; expected real numbers")
        array = values.detach().cpu().to(torch.float64).numpy()  # numpy has no bfloat16, mps no float64
    else:
        try:
            array = np.asarray(values)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"`{name}` must be a sequence of numbers, got {type(values).__name__}: {error}") from error
    if array.ndim != 1:
        raise ValueError(f"`{name}` has shape {list(array.shape)}; expected one number an entry, [entries]")
    if array.dtype.kind not in "biuf":
        raise TypeError(f"`{name}` has dtype {array.dtype}; expected real numbers (a missing one is not)")
    return array.astype(np.float64)


def check_finite(name: str, values: np.ndarray) -> None:
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise ValueError(
            f"`{name}`: {len(bad)} of {len(values)} values are NaN or infinity (first: index {bad[0]}); the model "
            "diverged or the input is broken"
        )


def as_scores(name: str, values: Any) -> np.ndarray:
    """A 1-D float64 array of finite numbers, at least one."""
    array = as_numbers(name, values)
    if not len(array):
        raise ValueError(f"`{name}` is empty; at least one value is needed")
    check_finite(name, array)
    return array


def as_binary(name: str, labels: Any, rows: int, of: str, yes: str = "correct") -> np.ndarray:
    """A boolean array, one entry for each row of `of`; refuses everything but 0, 1, False, True. `yes`: what 1 means."""
    if not isinstance(labels, (torch.Tensor, np.ndarray)):
        labels = list(labels)
    array = as_labels(name, labels, rows, of)
    good = np.isin(array, (0, 1)) if array.dtype.kind in "iub" else np.zeros(len(array), bool)
    if not good.all():
        first = int(np.flatnonzero(~good)[0])
        raise ValueError(
            f"`{name}` holds {array[first].item()!r} at index {first}; expected 1 or True ({yes}) and 0 or False"
        )
    return array.astype(bool)


def encode_labels(known: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classes of `known` in sorted order, and both label arrays as positions in it (-1: not among them)."""
    if (known.dtype.kind in "US") != (other.dtype.kind in "US"):
        raise TypeError(f"labels of two kinds: {known.dtype} and {other.dtype}; use integers or strings in both")
    classes, codes = np.unique(known, return_inverse=True)
    place = np.searchsorted(classes, other).clip(max=len(classes) - 1)
    return classes, codes, np.where(classes[place] == other, place, -1)


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> str:
    """`value` when it is one of `choices`."""
    if value not in choices:
        raise ValueError(f"`{name}` is {value!r}; expected one of {', '.join(map(repr, choices))}")
    return value


def check_positive(name: str, value: float) -> float:
    """`value` when it is a finite number above zero."""
    if not (isinstance(value, (int, float)) and 0 < value < float("inf")):
        raise ValueError(f"`{name}` is {value!r}; expected a finite number above 0")
    return float(value)


def check_count(name: str, value: int) -> int:
    """`value` when it is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"`{name}` is {value!r}; expected a whole number of at least 1")
    return int(value)


def blocks(rows: int, columns: int, chunk_size: int | None) -> Iterator[slice]:
    """Row ranges such that a block of scores stays small; `chunk_size` sets the rows by hand."""
    if chunk_size is None:
        size = max(1, BLOCK_ELEMENTS // max(1, columns))
    else:
        size = check_count("chunk_size", chunk_size)
    for start in range(0, rows, size):
        yield slice(start, min(rows, start + size))
