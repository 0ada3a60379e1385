"""Item vectors in an index of faiss, for catalogues that are too large to score every item."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_contrastive.vector_index.faiss_tools import (
    as_rows,
    check_options,
    default_lists,
    fingerprint,
    import_faiss,
    read_index,
    search_options,
    write_index,
)


KINDS = ("flat", "ivf", "hnsw")
_OPTIONS = {"flat": (), "ivf": ("nlist", "nprobe"), "hnsw": ("links", "ef_search")}
_OTHERWISE = "Without one, recommend() scores every item, exactly."


class ItemIndex:
    """Item vectors in an index of faiss, searched by inner product.

    Made by [`~RecommendsItems.build_index`] or `ItemIndex.build`. Its file is one of faiss, without anything beside it.

    Args:
        index (`faiss.IndexFlat`, `faiss.IndexIVFFlat` or `faiss.IndexHNSWFlat`): with the metric of inner products.

    Raises:
        ValueError: an index of another type or metric.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.families.recommender.item_index import ItemIndex
    >>> index = ItemIndex.build(torch.eye(4), "flat")
    >>> scores, items = index.search(torch.tensor([[0.1, 0.9, 0.5, 0.0]]), k=2)
    >>> items.tolist(), index.recall(torch.rand(3, 4), k=2)
    ([[1, 2]], 1.0)

    ```
    """

    def __init__(self, index: Any) -> None:
        faiss = import_faiss(_OTHERWISE)
        types = {"flat": faiss.IndexFlat, "ivf": faiss.IndexIVFFlat, "hnsw": faiss.IndexHNSWFlat}
        kind = next((name for name, one in types.items() if isinstance(index, one)), None)
        if kind is None or index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise ValueError(
                f"expected an index of kind {', '.join(KINDS)} with inner products, got {type(index).__name__}; make one with "
                "model.build_index()."
            )
        self.index, self.kind = index, kind

    @classmethod
    def build(
        cls,
        item_vectors: Tensor | np.ndarray,
        kind: str = "flat",
        *,
        nlist: int | None = None,
        nprobe: int | None = None,
        links: int | None = None,
        ef_search: int | None = None,
    ) -> ItemIndex:
        """Put vectors into a new index.

        Args:
            item_vectors (`[num_items, dim]`): rows by item number.
            kind (`str`, defaults to `"flat"`): `"flat"`, `"ivf"` or `"hnsw"`.
            nlist (`int`, *optional*): `"ivf"`: clusters; by default 4 sqrt(num_items), at most one for 39 items.
            nprobe (`int`, *optional*): `"ivf"`: clusters that a search looks into; by default one in eight. More: slower and closer to
                exact.
            links (`int`, *optional*): `"hnsw"`: neighbours of an item in the graph, 32 by default.
            ef_search (`int`, *optional*): `"hnsw"`: items that a search keeps in view, 128 by default.

        Raises:
            ImportError: faiss is missing.
            ValueError: an unknown kind, options of another kind or out of range, or vectors that are not finite.
        """
        faiss = import_faiss(_OTHERWISE)
        given = {"nlist": nlist, "nprobe": nprobe, "links": links, "ef_search": ef_search}
        check_options(kind, _OPTIONS, given)
        vectors = as_rows(item_vectors, "item_vectors")
        count, dim = vectors.shape
        if kind == "flat":
            index = faiss.IndexFlatIP(dim)
        elif kind == "ivf":
            nlist = default_lists(count) if nlist is None else nlist
            if nlist > count:
                raise ValueError(f"`nlist` is {nlist}, but there are {count} items; expected at most as many.")
            index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, nlist, faiss.METRIC_INNER_PRODUCT)
            index.nprobe = min(nlist, -(-nlist // 8) if nprobe is None else nprobe)
            index.train(vectors)
        else:
            index = faiss.IndexHNSWFlat(dim, links or 32, faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efSearch = ef_search or 128
        index.add(vectors)
        return cls(index)

    @property
    def num_items(self) -> int:
        """Vectors in the index."""
        return int(self.index.ntotal)

    @property
    def dim(self) -> int:
        """Numbers of a vector."""
        return int(self.index.d)

    @cached_property
    def fingerprint(self) -> str:
        """Number of items, size and hash of the vectors, read back from the index."""
        return fingerprint(self.index.reconstruct_n(0, self.num_items))

    def ready_for(self, model: Any) -> bool:
        """Whether the index holds the item vectors that the model has now; a model that was trained further needs a new one.

        Args:
            model ([`RecommenderModel`]): to recommend with.
        """
        found = model.kept("fingerprint", lambda: fingerprint(as_rows(model.vectors()[1], "item vectors")))
        return found == self.fingerprint

    def search(self, user_vectors: Tensor | np.ndarray, k: int = 10) -> tuple[Tensor, Tensor]:
        """The k items with the largest products.

        Args:
            user_vectors (`[U, dim]`): of the users.
            k (`int`, defaults to 10): how many.

        Returns:
            `(scores [U, k], items [U, k])` on the CPU, best first; item -1 and score -infinity where an approximate index found no
            more.

        Raises:
            ValueError: vectors of another size or not finite, or k out of range.
        """
        if not 1 <= k <= self.num_items:
            raise ValueError(f"`k` is {k}, but the index has {self.num_items} items; expected 1 to {self.num_items}.")
        return self._search(user_vectors, k, 1)

    def _search(self, user_vectors: Tensor | np.ndarray, k: int, effort: int) -> tuple[Tensor, Tensor]:
        """`effort` times as many clusters, or items in view, as usual."""
        queries = as_rows(user_vectors, "user_vectors")
        if queries.shape[1] != self.dim:
            raise ValueError(f"`user_vectors` have {queries.shape[1]} numbers, but the index has {self.dim}.")
        if not len(queries):
            return torch.zeros(0, k), torch.zeros(0, k, dtype=torch.long)
        options = search_options(self.index, k, effort)
        scores, items = (torch.from_numpy(found) for found in self.index.search(queries, k, **options))
        return torch.where(items >= 0, scores, -torch.inf), items

    def recall(self, user_vectors: Tensor | np.ndarray, k: int = 10) -> float:
        """Share of the exact k best items that the index finds, a mean over users: what approximation costs.

        Args:
            user_vectors (`[U, dim]`): of some hundred users, for example `model.vectors()[0][:500]`.
            k (`int`, defaults to 10): length of the lists.

        Returns:
            `float`: 0 to 1; 1 for `"flat"`.
        """
        queries = as_rows(user_vectors, "user_vectors")
        if not len(queries):
            raise ValueError("`user_vectors` has no row; give the vectors of some users.")
        _, found = self.search(queries, k)
        flat = ItemIndex.build(self.index.reconstruct_n(0, self.num_items), "flat")
        _, exact = flat.search(queries, k)
        rows = torch.arange(len(queries))[:, None] * self.num_items
        return float(((found >= 0) & torch.isin(rows + found, rows + exact)).float().mean())

    def save(self, path: str | Path) -> None:
        """Write the index in faiss's own format; the file is complete or untouched.

        Args:
            path (`str` or `Path`): file, for example `items.faiss`.
        """
        write_index(self.index, Path(path).expanduser())

    @classmethod
    def load(cls, path: str | Path) -> ItemIndex:
        """Read an index that `save` wrote; take files from people you trust, faiss checks little.

        Args:
            path (`str` or `Path`): the file.

        Raises:
            FileNotFoundError: it is not there.
            ValueError: it is no index, or one of another kind.
        """
        path = Path(path).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"no index {path}; make one with model.build_index().save({str(path)!r}).")
        return cls(read_index(path, _OTHERWISE))

    def __repr__(self) -> str:
        return f"ItemIndex(kind={self.kind!r}, num_items={self.num_items}, dim={self.dim})"


__all__ = ["KINDS", "ItemIndex"]
