"""The retrieval lists of ConVIRT: CheXpert 8x200."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np


_CANDIDATES, _IMAGES, _TEXTS = (
    "text_retrieval_candidate.csv",
    "image_retrieval_query.csv",
    "text_retrieval_query.csv",
)


@dataclass(frozen=True)
class RetrievalLists:
    """Queries and candidates of CheXpert 8x200 (https://arxiv.org/abs/2010.00747, section 4.4).

    A candidate is relevant to a query when its column for the query's category holds 1.

    Args:
        categories (`tuple[str, ...]`): the eight categories.
        candidates (`tuple[str, ...]`): paths of the candidate images, as in the list.
        relevant (`np.ndarray` `[candidates, categories]`): 1 where the candidate shows the category.
        image_queries (`tuple[str, ...]`), image_categories (`np.ndarray`): paths of query images, and numbers of their categories.
        text_queries (`tuple[str, ...]`), text_categories (`np.ndarray`): sentences, and numbers of their categories.
    """

    categories: tuple[str, ...]
    candidates: tuple[str, ...]
    relevant: np.ndarray
    image_queries: tuple[str, ...]
    image_categories: np.ndarray
    text_queries: tuple[str, ...]
    text_categories: np.ndarray


def read_retrieval_lists(folder: str | Path) -> RetrievalLists:
    """Read the published lists; the images themselves need CheXpert's own agreement.

    Args:
        folder (`str` or `Path`): with `text_retrieval_candidate.csv`, `image_retrieval_query.csv`, `text_retrieval_query.csv`.

    Returns:
        [`RetrievalLists`]. For [`retrieval_metrics`] give `query_labels=lists.text_categories`, `gallery_labels=lists.relevant`
        and `precision_ks=(5, 10, 50)`.

    Raises:
        FileNotFoundError: a list is missing.
        ValueError: a list without the expected columns, or a query of a category that the candidates have no column for.

    Example:

        >>> from hf_contrastive.models.convirt.data_convirt import read_retrieval_lists
        >>> lists = read_retrieval_lists("chexpert_8x200")  # doctest: +SKIP
        >>> len(lists.candidates), len(lists.text_queries)  # doctest: +SKIP
        (1600, 40)
    """
    folder = Path(folder).expanduser()
    candidates, images, texts = (
        _rows(folder / name, needs)
        for name, needs in ((_CANDIDATES, ("Path",)), (_IMAGES, ("Variable", "Path")), (_TEXTS, ("Variable", "Text")))
    )
    categories = tuple(sorted({row["Variable"] for row in (*images, *texts)}))
    unknown = [name for name in categories if name not in candidates[0]]
    if unknown:
        raise ValueError(
            f"the queries name {', '.join(unknown)}, but {folder / _CANDIDATES} has no such column; it has "
            f"{', '.join(candidates[0])}."
        )
    relevant = np.array([[float(row[name] or 0) == 1 for name in categories] for row in candidates], dtype=np.int64)
    number = {name: place for place, name in enumerate(categories)}
    return RetrievalLists(
        categories,
        tuple(row["Path"] for row in candidates),
        relevant,
        tuple(row["Path"] for row in images),
        np.array([number[row["Variable"]] for row in images]),
        tuple(row["Text"] for row in texts),
        np.array([number[row["Variable"]] for row in texts]),
    )


def _rows(path: Path, needs: tuple[str, ...]) -> list[dict[str, str]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; the lists are those of the repository yuhaozhang/convirt.")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    missing = [name for name in needs if not rows or name not in rows[0]]
    if missing:
        raise ValueError(
            f"{path} has no column {', '.join(missing)}; it has {', '.join(rows[0]) if rows else 'no rows'}."
        )
    return rows


__all__ = ["RetrievalLists", "read_retrieval_lists"]
