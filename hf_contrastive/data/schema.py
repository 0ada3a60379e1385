"""Checks of rows and columns whose messages say what was seen, what was expected and what to type."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np


def column_names_of(dataset: Any) -> list[str]:
    """Column names of a `datasets` object, a mapping of columns, or a list of row dictionaries.

    Args:
        dataset: a `datasets.Dataset` or `IterableDataset`, a dict of columns, or a sequence of dicts.

    Returns:
        `list[str]`: the names in order; empty when they cannot be known.

    Example:

    ```python
    >>> from hf_contrastive.data import column_names_of
    >>> column_names_of({"image": [], "label": []})
    ['image', 'label']

    ```
    """
    names = getattr(dataset, "column_names", None)
    if isinstance(names, (list, tuple)):
        return list(names)
    if isinstance(dataset, Mapping):
        return list(dataset)
    if isinstance(dataset, Sequence) and dataset and isinstance(dataset[0], Mapping):
        return list(dataset[0])
    if hasattr(dataset, "_resolve_features"):  # a streamed dataset that has not looked at its first row yet
        return list(dataset._resolve_features().column_names or [])
    return []


def missing_column(column: str, found: Iterable[str], argument: str | None = None, source: str = "the data") -> str:
    """The message for a column that is not there.

    Args:
        column (`str`): the column that was looked for.
        found (`Iterable[str]`): the columns that exist.
        argument (`str`, *optional*): the argument that names another column.
        source (`str`): what was searched, as it should stand in the sentence.

    Returns:
        `str`: what was seen, what was expected, what to type.

    Example:

    ```python
    >>> from hf_contrastive.data import missing_column
    >>> missing_column("image", ["picture", "label"], "image_column")
    "column 'image' not found; the data has picture, label; pass image_column='picture' (the name of the right column)"

    ```
    """
    found = list(found)
    text = f"column {column!r} not found; {source} has {', '.join(found) if found else 'no columns'}"
    if argument is not None:
        example = repr(found[0]) if found else "..."
        text += f"; pass {argument}={example} (the name of the right column)"
    return text


def require_columns(dataset: Any, columns: Mapping[str, str] | Sequence[str], source: str = "the dataset") -> None:
    """Raises when a column is missing.

    Args:
        dataset: anything [`column_names_of`] understands.
        columns: the names that must be there; as a mapping, each name with the argument that would name another one.
        source (`str`): what the dataset is called in the message.

    Raises:
        ValueError: names the missing column, lists the columns found and the argument to pass.

    Example:

    ```python
    >>> from hf_contrastive.data import require_columns
    >>> require_columns({"image": [], "label": []}, {"image": "image_column"})

    ```
    """
    found = column_names_of(dataset)
    wanted = columns if isinstance(columns, Mapping) else dict.fromkeys(columns)
    for column, argument in wanted.items():
        if column not in found:
            raise ValueError(missing_column(column, found, argument, source))


def integer_column(values: Any, column: str) -> np.ndarray:
    """A column as an int64 array; the first value that is not a whole number is named with its row.

    Args:
        values: the values, one a row.
        column (`str`): the column's name, for the message.

    Returns:
        `np.ndarray` [n]: int64.

    Raises:
        ValueError: names column, row and value.

    Example:

    ```python
    >>> from hf_contrastive.data import integer_column
    >>> integer_column([3, 1], "label")
    array([3, 1])

    ```
    """
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    if not isinstance(values, np.ndarray):
        values = list(values)
        if all(type(value) is int for value in values):
            return np.array(values, dtype=np.int64)
    elif values.ndim == 1 and values.dtype.kind in "iub":
        return values.astype(np.int64)
    numbers = np.empty(len(values), dtype=np.int64)
    for row, value in enumerate(values):
        if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
            value = value.item()
        if not isinstance(value, (int, float)) or value != value or value in (np.inf, -np.inf) or value != int(value):
            raise ValueError(
                f"column {column!r}, row {row}: {str(value)[:60]!r} is not a whole number; "
                "this column must hold one integer a row"
            )
        numbers[row] = int(value)
    return numbers
