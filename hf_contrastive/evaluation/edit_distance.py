"""How many characters must change: the baseline that linking by learned embeddings has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class NearestTexts(NamedTuple):
    """What [`nearest_texts`] returns.

    Args:
        rows (`ndarray` `[Q]`): of every query the nearest reference, of equally near ones the first.
        similarities (`ndarray` `[Q]`): 1 - distance / length of the longer text; 1 is equal.
    """

    rows: np.ndarray
    similarities: np.ndarray


def edit_distances(query: str, references: Sequence[str]) -> np.ndarray:
    """Levenshtein distance of one text to many: characters that must be put in, left out or changed.

    Args:
        query (`str`): a text.
        references (`Sequence[str]`): texts.

    Returns:
        `ndarray` `[len(references)]` of whole numbers.

    Example:

    ```python
    >>> from hf_contrastive.evaluation import edit_distances
    >>> edit_distances("kitten", ["sitting", "kitten", ""]).tolist()
    [3, 0, 6]

    ```
    """
    table, lengths = _table(references)
    return _distances(query, table, lengths)


def nearest_texts(queries: Sequence[str], references: Sequence[str]) -> NearestTexts:
    """The nearest reference of every query by Levenshtein distance as a share of the longer text.

    Args:
        queries (`Sequence[str]`): texts to link.
        references (`Sequence[str]`): the known ones.

    Returns:
        [`NearestTexts`].

    Raises:
        ValueError: nothing to link to.

    Example:

    ```python
    >>> from hf_contrastive.evaluation import nearest_texts
    >>> nearest_texts(["Smth & Co"], ["Smythe", "Smith & Co"]).rows.tolist()
    [1]

    ```
    """
    if len(references) == 0:
        raise ValueError("`references` is empty; expected at least one text to link to")
    table, lengths = _table(references)
    rows, similarities = np.zeros(len(queries), dtype=np.int64), np.zeros(len(queries))
    for number, query in enumerate(queries):
        longer = np.maximum(np.maximum(lengths, len(query)), 1)
        near = 1 - _distances(query, table, lengths) / longer
        rows[number] = near.argmax()
        similarities[number] = near[rows[number]]
    return NearestTexts(rows, similarities)


def _table(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Characters as numbers, a text a row, and the lengths."""
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    table = np.full((len(texts), int(lengths.max(initial=0))), -1, dtype=np.int64)
    for row, text in enumerate(texts):
        table[row, : len(text)] = [ord(character) for character in text]
    return table, lengths


def _distances(query: str, table: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """One column of the usual table of prefixes at a time, for all references together."""
    count, width = table.shape
    steps = np.arange(width + 1)
    before = np.tile(steps, (count, 1))
    for number, character in enumerate(query, 1):
        changed = before[:, :-1] + (table != ord(character))
        now = np.empty_like(before)
        now[:, 0] = number
        now[:, 1:] = np.minimum(changed, before[:, 1:] + 1)
        # what is put in costs 1 more a place: the lowest of all places before, each with its way
        before = np.minimum.accumulate(now - steps, axis=1) + steps
    return before[np.arange(count), lengths]


__all__ = ["NearestTexts", "edit_distances", "nearest_texts"]
