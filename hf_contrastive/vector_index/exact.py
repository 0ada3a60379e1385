"""Exact search by inner products, block by block: the same rows and scores whatever computes the products.

Matrix products round differently with the library, the size of a block and the place in it, so near ties would fall either way.
Here they only choose candidates; the scores are products in float64, one pair at a time, rounded to float32, and of equal scores
the lower row is first. Candidates that could be wrong by rounding are looked for once more, with the bound of that rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from hf_contrastive.tensor_utils import top_k
from hf_contrastive.vector_index.faiss_tools import import_faiss


# queries at a time, products and numbers of vectors that are held at a time
_QUERIES, _PRODUCTS, _NUMBERS = 256, 2**23, 2**24
# rows from which on a block of added vectors is worth its own pass
_PART = 2**14

Engine = Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]


class Gallery:
    """Vectors in one or several arrays, in memory or mapped from a file, numbered through.

    Args:
        parts (`Sequence[np.ndarray]`): `[rows, dim]` each, float32 or float16, not empty.
        longest (`float`, *optional*): length of the longest vector; all are read where it is not given.

    Example:

    ```python
    >>> import numpy as np
    >>> from hf_contrastive.vector_index.exact import Gallery, exact_search
    >>> gallery = Gallery([np.eye(2, dtype=np.float32)])
    >>> gallery.append(np.eye(2, dtype=np.float32))
    >>> scores, rows = exact_search(gallery, np.array([[0.5, 2.0]], dtype=np.float32), k=3)
    >>> scores.tolist(), rows.tolist()
    ([[2.0, 2.0, 0.5]], [[1, 3, 0]])

    ```
    """

    def __init__(self, parts: Sequence[np.ndarray], longest: float | None = None) -> None:
        self.parts = list(parts)
        self.longest = max(_longest(part) for part in self.parts) if longest is None else longest

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    @property
    def dim(self) -> int:
        """Numbers of a vector."""
        return int(self.parts[0].shape[1])

    def append(self, rows: np.ndarray) -> None:
        """Further vectors of the same type; many small pieces become few."""
        self.longest = max(self.longest, _longest(rows))
        self.parts.append(rows)
        while len(self.parts) > 1 and not isinstance(self.parts[-2], np.memmap):
            if len(self.parts[-2]) > max(_PART, 2 * len(self.parts[-1])):
                break  # nothing large is copied for little
            self.parts[-2:] = [np.concatenate(self.parts[-2:])]

    def blocks(self, size: int) -> Iterator[tuple[int, np.ndarray]]:
        """`(first row, vectors)` in order, as float32, at most `size` rows each."""
        before = 0
        for part in self.parts:
            for start in range(0, len(part), size):
                yield before + start, np.asarray(part[start : start + size], dtype=np.float32)
            before += len(part)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The vectors of some rows, as float32 `[len(rows), dim]`; of mapped ones only these are read."""
        if len(self.parts) == 1:
            return np.asarray(self.parts[0][rows], dtype=np.float32)
        starts = np.cumsum([0, *(len(part) for part in self.parts)])
        which = np.searchsorted(starts, rows, side="right") - 1
        taken = np.empty((len(rows), self.dim), dtype=np.float32)
        for number, part in enumerate(self.parts):
            places = which == number
            taken[places] = part[rows[places] - starts[number]]
        return taken


def _longest(part: np.ndarray) -> float:
    squares = (
        np.square(part[start : start + 2**14], dtype=np.float64).sum(1).max() for start in range(0, len(part), 2**14)
    )
    return float(max(squares)) ** 0.5


def by_matrix(queries: np.ndarray, block: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k largest products of each query with the rows of a block, by a matrix product: `(values, rows)`."""
    # of numpy, whose float32 is float32: torch's may be lowered by autocast or set_float32_matmul_precision
    values, rows = top_k(torch.from_numpy(queries @ block.T), k)
    return values.numpy(), rows.numpy()


def by_faiss(queries: np.ndarray, block: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The same by faiss, which makes no index for it and no copy of the block."""
    faiss = import_faiss()
    return faiss.knn(queries, block, k, metric=faiss.METRIC_INNER_PRODUCT)


def exact_search(
    gallery: Gallery, queries: np.ndarray, k: int, engine: Engine = by_matrix
) -> tuple[np.ndarray, np.ndarray]:
    """The k rows with the largest products, largest first; of equal ones the lower row is first.

    The answer for a query does not depend on the other queries, the parts of the gallery, the engine or its threads.

    Args:
        gallery ([`Gallery`]): where to search.
        queries (`np.ndarray` `[Q, dim]`): float32.
        k (`int`): from 1 to all rows.
        engine (`Callable`): finds the candidates, [`by_matrix`] or [`by_faiss`].

    Returns:
        `(scores [Q, k] float32, rows [Q, k] int64)`.

    Raises:
        ValueError: vectors so long that products do not fit into float32.
    """
    lengths = np.sqrt(np.square(queries, dtype=np.float64).sum(1))
    if len(queries) and lengths.max() * gallery.longest > 1e37:
        raise ValueError(
            f"vectors of length {gallery.longest:.2g} and queries of length {lengths.max():.2g} have products beyond float32; scale "
            "them, or build the index with normalize=True."
        )
    # every order of summing float32 products stays within this of the true sum (Higham, "Accuracy and Stability of Numerical
    # Algorithms", 2002, section 3.1), the rounding of the scores included
    slack = (gallery.dim + 8) * 2.0**-24 * lengths * gallery.longest + gallery.dim * 2.0**-125
    scores = np.empty((len(queries), k), dtype=np.float32)
    rows = np.empty((len(queries), k), dtype=np.int64)
    for start in range(0, len(queries), _QUERIES):
        part = slice(start, start + _QUERIES)
        scores[part], rows[part] = _search(gallery, queries[part], k, slack[part], engine)
    return scores, rows


def _search(
    gallery: Gallery, queries: np.ndarray, k: int, slack: np.ndarray, engine: Engine
) -> tuple[np.ndarray, np.ndarray]:
    wide = min(len(gallery), k + max(16, k // 4))
    nearly, rows = _candidates(gallery, queries, wide, engine)
    scores, rows = ranked(products(gallery, queries, rows), rows)
    scores, rows = scores[:, :k], rows[:, :k]
    if wide < len(gallery):
        # the best of what is no candidate
        unsure = np.flatnonzero(scores[:, -1] <= nearly.min(1) + slack)
        if len(unsure):
            scores[unsure], rows[unsure] = _sweep(
                gallery, queries[unsure], k, scores[unsure, -1].astype(np.float64) - slack[unsure]
            )
    return scores, rows


def _candidates(gallery: Gallery, queries: np.ndarray, k: int, engine: Engine) -> tuple[np.ndarray, np.ndarray]:
    found: tuple[torch.Tensor, torch.Tensor] | None = None
    for start, block in gallery.blocks(_block_size(gallery, len(queries))):
        values, rows = (torch.from_numpy(one) for one in engine(queries, block, min(k, len(block))))
        rows = rows + start
        if found is not None:
            values, rows = torch.cat([found[0], values], 1), torch.cat([found[1], rows], 1)
            values, places = values.topk(min(k, values.shape[1]), dim=1)
            rows = rows.gather(1, places)
        found = values, rows
    assert found is not None
    return found[0].numpy(), found[1].numpy()


def _sweep(gallery: Gallery, queries: np.ndarray, k: int, floor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores of every row whose product may be as large as that of the k-th: many where many vectors are equal."""
    query = np.empty(0, dtype=np.int64)
    rows, scores = query, np.empty(0, dtype=np.float32)
    for start, block in gallery.blocks(_block_size(gallery, len(queries))):
        new_query, new_rows = np.nonzero(queries @ block.T >= floor[:, None])
        new_scores = _pair_products(queries, new_query, block, new_rows)
        query, rows = np.concatenate([query, new_query]), np.concatenate([rows, new_rows + start])
        scores = np.concatenate([scores, new_scores])
        order = np.lexsort((rows, -scores, query))
        order = order[np.arange(len(order)) - np.searchsorted(query[order], query[order]) < k]
        query, rows, scores = query[order], rows[order], scores[order]
    return scores.reshape(-1, k), rows.reshape(-1, k)


def _block_size(gallery: Gallery, queries: int) -> int:
    return max(1, min(_PRODUCTS // queries, _NUMBERS // gallery.dim))


def products(gallery: Gallery, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Scores of pairs, the same for a pair wherever it stands: sums in float64, rounded to float32.

    Args:
        gallery ([`Gallery`]): the vectors.
        queries (`np.ndarray` `[Q, dim]`): float32.
        rows (`np.ndarray` `[Q, width]`): rows of the gallery for each query; -1 is none.

    Returns:
        `np.ndarray` `[Q, width]`: float32, -infinity where there is no row.
    """
    scores = np.full(rows.shape, -np.inf, dtype=np.float32)
    there = rows >= 0
    query = np.nonzero(there)[0]
    flat = rows[there]
    parts = []
    for start in range(0, len(flat), _chunk(gallery.dim)):
        part = slice(start, start + _chunk(gallery.dim))
        vectors = gallery.take(flat[part])
        parts.append(_pair_products(queries, query[part], vectors, np.arange(len(vectors))))
    scores[there] = np.concatenate(parts) if parts else 0
    return scores


def _pair_products(queries: np.ndarray, query: np.ndarray, vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Products of pairs `(query, row)`; numpy sums each row of its own, in an order that depends on nothing but its length."""
    found = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), _chunk(vectors.shape[1])):
        part = slice(start, start + _chunk(vectors.shape[1]))
        pairs = queries[query[part]].astype(np.float64)
        pairs *= vectors[rows[part]]
        found[part] = pairs.sum(1)
    return found


def _chunk(dim: int) -> int:
    return max(1, 2**20 // dim)


def ranked(scores: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both `[Q, width]` with the largest score first in each row, of equal ones the lower row of the gallery."""
    order = np.lexsort((rows, -scores), axis=-1)
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


__all__ = ["Engine", "Gallery", "by_faiss", "by_matrix", "exact_search", "products", "ranked"]
