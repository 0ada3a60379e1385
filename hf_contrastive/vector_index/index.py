"""Vectors in an index: built, extended, searched, measured, saved, and searched in place on the disk."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from hf_contrastive.vector_index.exact import Gallery, by_faiss, by_matrix, exact_search, products, ranked
from hf_contrastive.vector_index.faiss_tools import (
    as_rows,
    check_options,
    default_lists,
    has_faiss,
    import_faiss,
    one_thread,
    search_options,
)
from hf_contrastive.vector_index.storage import Facts, as_ids, read_folder, write_folder


KINDS = ("auto", "exact", "flat", "hnsw", "ivfpq")
DTYPES = ("float32", "float16")
#: vectors to which `auto` searches all of them, and to which it makes a graph
FLAT_TO, HNSW_TO = 50_000, 1_000_000
#: bytes of vectors and graph to which `auto` makes a graph
HNSW_BYTES = 4 * 2**30

_OPTIONS = {
    "exact": (),
    "flat": (),
    "hnsw": ("links", "ef_construction", "ef_search"),
    "ivfpq": ("nlist", "nprobe", "code_size"),
}
_OTHERWISE = "Without one, kind='exact' finds what kind='flat' finds."
# vectors a cluster and a code are trained on at most: more change little and take long
_PER_LIST, _PER_CODE, _CODES = 64, 256, 256
# vectors that are scaled or added at a time
_BLOCK = 2**16
# pieces of ids that are held at most
_CHUNKS = 16
_TYPES = {pa.int64(): "whole numbers", pa.large_string(): "texts"}


@dataclass(frozen=True)
class Neighbours:
    """What a search found, for each query the best first.

    Args:
        scores (`Tensor` `[Q, k]`): inner products, cosines where the index normalises; -infinity where an approximate index found
            no more.
        rows (`LongTensor` `[Q, k]`): numbers of the vectors in the order in which they were put in; -1 there.
        ids (`list[list]`): their ids, or the numbers again where the index has none; None there.
    """

    scores: Tensor
    rows: Tensor
    ids: list[list[Any]]


def choose_kind(rows: int, dim: int, dtype: str = "float32", links: int = 32) -> tuple[str, str]:
    """The kind that `auto` takes, and why.

    Args:
        rows (`int`), dim (`int`): vectors, and numbers of each.
        dtype (`str`, defaults to `"float32"`): of the vectors.
        links (`int`, defaults to 32): neighbours of a vector in a graph.

    Returns:
        `(kind, why)`.

    Example:

    ```python
    >>> from hf_contrastive.vector_index import choose_kind
    >>> [choose_kind(rows, 128)[0] for rows in (10_000, 100_000, 10_000_000)]
    ['flat', 'hnsw', 'ivfpq']

    ```
    """
    if not has_faiss():
        return "exact", "faiss is not installed, and an exact search needs none"
    if rows <= FLAT_TO:
        return "flat", f"up to {FLAT_TO:,} vectors a search through all takes milliseconds and misses nothing"
    needed = rows * (dim * np.dtype(dtype).itemsize + 8 * links + 16)
    size = f"{needed / 2**30:.1f} GiB of vectors and graph"
    if rows <= HNSW_TO and needed <= HNSW_BYTES:
        return "hnsw", f"up to {HNSW_TO:,} vectors a graph is quick and finds nearly all, and {size} fit into memory"
    why = f"more than {HNSW_TO:,} vectors" if rows > HNSW_TO else f"{size} are more than {HNSW_BYTES / 2**30:.0f}"
    return "ivfpq", f"{why}: short codes take little memory, and the vectors on the disk set their order right"


class VectorIndex:
    """Vectors that are searched by inner product, of scaled vectors the cosine.

    Made by [`VectorIndex.build`] or [`VectorIndex.load`]. Its folder holds numbers and JSON, no pickle.

    - `"exact"`: all products, block by block, without faiss.
    - `"flat"`: the same by faiss, the same answer to the last bit: of equal scores the vector that was put in first.
    - `"hnsw"`: a walk along a graph of near vectors (Malkov and Yashunin, "Efficient and robust approximate nearest neighbor search
      using Hierarchical Navigable Small World graphs", 2018). Quick, finds nearly all; the graph takes about 270 bytes a vector.
    - `"ivfpq"`: a look into some clusters of short codes (Jégou and others, "Product Quantization for Nearest Neighbor Search",
      2011), then exact scores of the best. At most 64 bytes and a number a vector; the vectors themselves stay on the disk.
    - `"auto"`: flat up to 50,000 vectors, where a search through all takes milliseconds; hnsw up to a million, if vectors and graph
      take at most 4 GiB; ivfpq above; exact where faiss is missing.

    Scores are the exact products of the vectors kept whatever the kind, so they can be compared across kinds; only an ivfpq
    without vectors or with `rescore=False` gives those of its codes.

    Example:

    ```python
    >>> import tempfile
    >>> from hf_contrastive import VectorIndex
    >>> index = VectorIndex.build([[1.0, 0.0], [3.0, 3.0], [0.0, 2.0]], ids=["east", "north-east", "north"], kind="exact")
    >>> index.search([[0.0, 5.0]], k=2).ids
    [['north', 'north-east']]
    >>> index.add([[-1.0, 4.0]], ids=["north-west"])
    >>> folder = tempfile.mkdtemp()
    >>> index.save(folder)
    >>> found = VectorIndex.load(folder).search([[-1.0, 4.0]], k=2)
    >>> found.ids, found.rows.tolist()
    ([['north-west', 'north']], [[3, 2]])

    ```
    """

    def __init__(
        self,
        facts: Facts,
        *,
        gallery: Gallery | None = None,
        index: Any = None,
        ids: pa.ChunkedArray | None = None,
        folder: Path | None = None,
    ) -> None:
        self.facts, self.index, self.ids = facts, index, ids
        self._vectors = gallery
        # where a mapped index can be read into memory from, once it has to change
        self._folder = folder

    # ------------------------------------------------------------------------------------------------------ building

    @classmethod
    def build(
        cls,
        vectors: Tensor | np.ndarray | Sequence[Sequence[float]],
        ids: Any = None,
        kind: str = "auto",
        *,
        normalize: bool = True,
        dtype: str = "float32",
        keep_vectors: bool = True,
        reproducible: bool = True,
        nlist: int | None = None,
        nprobe: int | None = None,
        code_size: int | None = None,
        links: int | None = None,
        ef_construction: int | None = None,
        ef_search: int | None = None,
        about: dict[str, Any] | None = None,
    ) -> VectorIndex:
        """Put vectors into a new index; two builds of the same vectors give the same index.

        Args:
            vectors (`[rows, dim]`): finite numbers, at least one row.
            ids (sequence of whole numbers or texts, *optional*): one a vector, repeats are kept; without them vectors are known by number.
            kind (`str`, defaults to `"auto"`): one of `KINDS`.
            normalize (`bool`, defaults to `True`): scale vectors and queries to length 1, so that products are cosines; a vector of
                zeros stays one.
            dtype (`str`, defaults to `"float32"`): of the vectors kept; `"float16"` takes half the room, and searches the rounded ones.
            keep_vectors (`bool`, defaults to `True`): `"ivfpq"`: keep the vectors beside the codes, for exact scores, `recall` and
                `vectors`.
            reproducible (`bool`, defaults to `True`): `"hnsw"`: one thread makes the graph. With False all do, which is quicker, and
                two graphs of the same vectors differ a little.
            nlist (`int`, *optional*): `"ivfpq"`: clusters; by default 4 sqrt(rows), at most one for 39 vectors.
            nprobe (`int`, *optional*): `"ivfpq"`: clusters that a search looks into, 64 by default.
            code_size (`int`, *optional*): `"ivfpq"`: bytes of a code; by default one for four numbers of a vector, at most 64.
            links (`int`, *optional*): `"hnsw"`: neighbours of a vector in the graph, 32 by default.
            ef_construction (`int`, *optional*): `"hnsw"`: vectors in view while the graph is made, 80 by default.
            ef_search (`int`, *optional*): `"hnsw"`: vectors in view of a search, 128 by default.
            about (`dict`, *optional*): what the vectors are, as JSON; kept with the index.

        Raises:
            ImportError: the kind needs faiss, and it is missing.
            ValueError: an unknown kind or dtype, options of another kind or out of range, vectors that are none, not finite or too few
                to train on, ids that do not fit.
        """
        rows = as_rows(vectors, "vectors")
        if not rows.size:
            raise ValueError(f"`vectors` has shape {list(rows.shape)}; an index needs at least one vector.")
        if dtype not in DTYPES:
            raise ValueError(f"`dtype` is {dtype!r}; expected one of {', '.join(DTYPES)}.")
        given = {
            "nlist": nlist,
            "nprobe": nprobe,
            "code_size": code_size,
            "links": links,
            "ef_construction": ef_construction,
            "ef_search": ef_search,
        }
        why = "asked for"
        if kind == "auto":
            kind, why = choose_kind(*rows.shape, dtype=dtype, links=links or 32)
        if kind not in _OPTIONS:
            raise ValueError(f"`kind` is {kind!r}; expected one of {', '.join(KINDS)}.")
        check_options(kind, _OPTIONS, given)
        if kind != "ivfpq" and not keep_vectors:
            raise ValueError(f"kind={kind!r} searches the vectors; only kind='ivfpq' can do with keep_vectors=False.")
        if kind != "exact":
            import_faiss(_OTHERWISE)
        known = None if ids is None else pa.chunked_array([as_ids(ids, len(rows))])
        # what the caller has may change, a file that is mapped hardly: that one may be larger than the memory
        rows = rows if normalize or dtype != "float32" or isinstance(vectors, np.memmap) else rows.copy()
        gallery = Gallery([_stored(rows, normalize, dtype, "vectors")])
        facts = Facts(
            kind=kind,
            why=why,
            rows=len(rows),
            dim=gallery.dim,
            normalized=normalize,
            dtype=dtype,
            longest=gallery.longest,
            vectors_kept=keep_vectors,
            reproducible=reproducible,
            options=_options(kind, len(rows), gallery.dim, given),
            about=dict(about or {}),
        )
        index = None
        if kind == "hnsw":
            index = _new_graph(facts)
        elif kind == "ivfpq":
            index = _new_lists(facts, gallery)
            facts.trained_on = len(rows)
        if index is not None:
            _fill(index, gallery, facts)
        return cls(facts, gallery=gallery if facts.vectors_beside else None, index=index, ids=known)

    def add(self, vectors: Tensor | np.ndarray | Sequence[Sequence[float]], ids: Any = None) -> None:
        """Put further vectors in, behind those that are there; nothing is trained anew.

        An index that was loaded with `memory_map=True` reads its graph or codes into memory for it. What is in the folder changes
        with `save`.

        Args:
            vectors (`[rows, dim]`): finite numbers.
            ids (sequence, *optional*): as for `build`; needed when the index has ids.

        Raises:
            ValueError: vectors of another size or not finite, ids that do not fit; the index stays as it was.
        """
        rows = self._rows(vectors, "vectors")
        if not len(rows):
            return
        chunks: list[pa.Array] = []
        if self.ids is not None and ids is not None:
            chunks = [*self.ids.chunks, as_ids(ids, len(rows))]
            if chunks[-1].type != self.ids.type:
                seen = [_TYPES[one] for one in (self.ids.type, chunks[-1].type)]
                raise ValueError(f"the ids of the index are {seen[0]}, the new ones {seen[1]}; give {seen[0]}.")
        elif ids is not None or self.ids is not None:
            seen = (
                "the index knows its vectors by number"
                if ids is not None
                else "the index has ids, the new vectors none"
            )
            raise ValueError(f"{seen}; give ids for all vectors, or for none.")
        gallery = Gallery([_stored(rows, False, self.facts.dtype, "vectors")])
        if self._folder is not None:
            content = read_folder(self._folder, memory_map=False)
            if content.facts != self.facts:
                raise ValueError(f"{self._folder.name} has changed since it was loaded; load it again.")
            self.index, self._folder = content.index, None
        if self.index is not None:
            _fill(self.index, gallery, self.facts)
        if self._vectors is not None:
            # scaled vectors are nobody else's
            self._vectors.append(gallery.parts[0] if self.facts.normalized else gallery.parts[0].copy())
        if chunks:
            self.ids = pa.chunked_array(chunks if len(chunks) < _CHUNKS else [pa.concat_arrays(chunks)])
        self.facts.rows += len(rows)
        self.facts.longest = max(self.facts.longest, gallery.longest)

    # ----------------------------------------------------------------------------------------------------- searching

    def search(
        self,
        queries: Tensor | np.ndarray | Sequence[Sequence[float]],
        k: int = 10,
        *,
        effort: int = 1,
        rescore: bool | None = None,
    ) -> Neighbours:
        """The k vectors with the largest products.

        Args:
            queries (`[Q, dim]`): scaled here where the index does so.
            k (`int`, defaults to 10): how many.
            effort (`int`, defaults to 1): look into so many times as many clusters, or vectors of the graph, as usual: slower, and
                closer to exact.
            rescore (`bool`, *optional*): `"ivfpq"`: order the best 10 k (at least 100) by their exact products; on by default where the
                vectors are kept. The other kinds give exact scores in any case.

        Returns:
            [`Neighbours`]: on the CPU.

        Raises:
            ValueError: queries of another size or not finite, k or effort out of range, or no vectors to rescore with.
        """
        rows = self._rows(queries, "queries")
        scores, found = self._search(rows, k, effort, rescore)
        return Neighbours(torch.from_numpy(scores), torch.from_numpy(found), self.ids_of(found))

    def neighbours_of(
        self, rows: Sequence[int] | Tensor | np.ndarray, k: int = 10, *, effort: int = 1, rescore: bool | None = None
    ) -> Neighbours:
        """The k nearest of vectors of the index, without themselves.

        Args:
            rows (sequence of `int`): numbers of the vectors, see `rows_of`.
            k (`int`, defaults to 10): how many.
            effort (`int`), rescore (`bool`): as for `search`.

        Raises:
            ValueError: as `search`, rows that are not there, or an index that keeps no vectors.
        """
        own = np.asarray(rows, dtype=np.int64).reshape(-1)
        if not 1 <= k < len(self):
            raise ValueError(
                f"`k` is {k}, but there are {len(self) - 1} other vectors; expected 1 to {len(self) - 1}."
            )
        scores, found = self._search(self.vectors(own), k + 1, effort, rescore)
        scores, found = _without(own, scores, found)
        return Neighbours(torch.from_numpy(scores), torch.from_numpy(found), self.ids_of(found))

    def recall(
        self,
        queries: Tensor | np.ndarray | Sequence[Sequence[float]],
        k: int = 10,
        *,
        effort: int = 1,
        rescore: bool | None = None,
    ) -> float:
        """Share of the exact k best that the index finds, a mean over queries: what approximation costs.

        A vector counts when its product is at least that of the k-th best: which of several equal ones is found does not matter.

        Args:
            queries (`[Q, dim]`): some hundred.
            k (`int`, defaults to 10): length of the lists.
            effort (`int`), rescore (`bool`): as for `search`.

        Returns:
            `float`: 0 to 1; 1 for `"exact"` and `"flat"`.

        Raises:
            ValueError: as `search`, no query, or an index that keeps no vectors.
        """
        rows = self._rows(queries, "queries")
        if not len(rows):
            raise ValueError("`queries` has no row; give some vectors.")
        _, found = self._search(rows, k, effort, rescore)
        gallery = self._gallery()
        exact, _ = exact_search(gallery, rows, k)
        return float((products(gallery, rows, found) >= exact[:, -1:]).mean())

    def sample_recall(
        self, k: int = 10, *, size: int = 1000, seed: int = 0, effort: int = 1, rescore: bool | None = None
    ) -> float:
        """`recall` with vectors of the index itself as queries, each without itself.

        Args:
            k (`int`, defaults to 10): length of the lists, less than there are vectors.
            size (`int`, defaults to 1000): vectors drawn.
            seed (`int`, defaults to 0): of the draw.
            effort (`int`), rescore (`bool`): as for `search`.

        Returns:
            `float`: 0 to 1.
        """
        own = np.sort(np.random.default_rng(seed).permutation(len(self))[:size])
        found = self.neighbours_of(own, k, effort=effort, rescore=rescore).rows.numpy()
        gallery, queries = self._gallery(), self.vectors(own)
        exact, _ = _without(own, *exact_search(gallery, queries, k + 1))
        return float((products(gallery, queries, found) >= exact[:, -1:]).mean())

    def _search(self, queries: np.ndarray, k: int, effort: int, rescore: bool | None) -> tuple[np.ndarray, np.ndarray]:
        """`(scores, rows)` for queries that are checked and scaled."""
        if not 1 <= k <= len(self):
            raise ValueError(f"`k` is {k}, but the index has {len(self)} vectors; expected 1 to {len(self)}.")
        if effort < 1:
            raise ValueError(f"`effort` is {effort}; expected 1 or more.")
        if not len(queries):
            return np.zeros((0, k), dtype=np.float32), np.zeros((0, k), dtype=np.int64)
        kind = self.facts.kind
        if kind in ("exact", "flat"):
            engine = by_faiss if kind == "flat" and has_faiss() else by_matrix
            return exact_search(self._gallery(), queries, k, engine)
        rescore = self.facts.vectors_kept if rescore is None else rescore
        if kind == "hnsw" or not rescore:
            wide = k
        else:
            self._gallery()
            wide = min(len(self), max(100, 10 * k))
        padded = _padded(queries, self.index.d)
        scores, rows = self.index.search(padded, wide, **search_options(self.index, wide, effort))
        if kind == "hnsw" or rescore:
            scores, rows = ranked(products(self._gallery(), queries, rows), rows)
        return np.where(rows >= 0, scores, -np.inf).astype(np.float32)[:, :k], rows[:, :k]

    # -------------------------------------------------------------------------------------------------- vectors, ids

    def __len__(self) -> int:
        return self.facts.rows

    @property
    def kind(self) -> str:
        """`"exact"`, `"flat"`, `"hnsw"` or `"ivfpq"`."""
        return self.facts.kind

    @property
    def dim(self) -> int:
        """Numbers of a vector."""
        return self.facts.dim

    def vectors(self, rows: Sequence[int] | Tensor | np.ndarray) -> np.ndarray:
        """Vectors as they are kept: scaled where the index does so.

        Args:
            rows (sequence of `int`): their numbers.

        Returns:
            `np.ndarray` `[len(rows), dim]`: float32.

        Raises:
            ValueError: rows that are not there, or an index that keeps no vectors.
        """
        wanted = np.asarray(rows, dtype=np.int64).reshape(-1)
        bad = wanted[(wanted < 0) | (wanted >= len(self))]
        if len(bad):
            raise ValueError(f"there is no vector {bad[0]}; the index has 0 to {len(self) - 1}.")
        return self._gallery().take(wanted)

    def ids_of(self, rows: np.ndarray | Tensor) -> list[list[Any]]:
        """Ids of vectors, or their numbers where the index has no ids; None for -1.

        Args:
            rows (`[Q, k]` whole numbers): as a search gives them.
        """
        found = np.asarray(rows, dtype=np.int64)
        if self.ids is None:
            return [[None if row < 0 else row for row in line] for line in found.tolist()]
        flat = pa.array(found.ravel(), mask=found.ravel() < 0)
        names = self.ids.take(flat).to_pylist()
        width = found.shape[1]
        return [names[start : start + width] for start in range(0, len(names), width)]

    def rows_of(self, name: str | int) -> list[int]:
        """Numbers of all vectors with an id.

        Args:
            name (`str` or `int`): the id, or a number where the index has none.

        Raises:
            ValueError: there is none.
        """
        if self.ids is None:
            rows = [name] if isinstance(name, int) and 0 <= name < len(self) else []
            known = f"vectors are known by number, 0 to {len(self) - 1}"
        else:
            texts = self.ids.type == pa.large_string()
            fits = isinstance(name, str) if texts else isinstance(name, int) and abs(name) < 2**63
            rows, row = [], -1
            while fits and (row := self.ids.index(name, row + 1).as_py()) >= 0:
                rows.append(row)
            first = ", ".join(repr(one) for one in self.ids.slice(0, 3).to_pylist())
            known = f"ids are {_TYPES[self.ids.type]}, the first are {first}"
        if not rows:
            raise ValueError(f"no vector has the id {name!r}; {known}.")
        return rows

    def _gallery(self) -> Gallery:
        if self._vectors is not None:
            return self._vectors
        if self.facts.kind != "hnsw":
            raise ValueError(
                "the index keeps codes alone (keep_vectors=False), and this needs the vectors; build it anew with "
                "keep_vectors=True."
            )
        # the graph's own, in place: they move whenever vectors are added
        faiss = import_faiss(_OTHERWISE)
        storage = faiss.downcast_index(self.index.storage)
        size = self.facts.rows * self.facts.dim
        if self.facts.dtype == "float16":
            numbers = faiss.rev_swig_ptr(storage.codes.data(), 2 * size).view(np.float16)
        else:
            numbers = faiss.rev_swig_ptr(storage.get_xb(), size)
        return Gallery([numbers.reshape(self.facts.rows, self.facts.dim)], self.facts.longest)

    def _rows(self, vectors: Any, name: str) -> np.ndarray:
        """Vectors or queries checked, and scaled where the index does so."""
        rows = as_rows(vectors, name)
        if rows.shape[1] != self.dim:
            raise ValueError(
                f"`{name}` have {rows.shape[1]} numbers, but the index has {self.dim}; they must come from the same encoder."
            )
        return _stored(rows, self.facts.normalized, "float32", name)

    # ------------------------------------------------------------------------------------------------------- folders

    def save(self, folder: str | Path) -> None:
        """Write the index into a folder; one that is there is replaced at the end, or stays as it was.

        Args:
            folder (`str` or `Path`): made when missing.
        """
        write_folder(folder, self.facts, self._vectors, self.index, self.ids)

    @classmethod
    def load(cls, folder: str | Path, memory_map: bool = True) -> VectorIndex:
        """Read an index that `save` wrote; take folders from people you trust, faiss checks little.

        Args:
            folder (`str` or `Path`): where it is.
            memory_map (`bool`, defaults to `True`): leave vectors, graph and ids on the disk, from where a search reads what it looks
                at (graphs with faiss 1.11 or later); only the sizes of the files are checked. With False all is read, and compared
                with the hashes that were taken when it was written.

        Raises:
            FileNotFoundError: there is no index.
            ValueError: it is not whole.
            ImportError: the kind needs faiss. An index of kind `"flat"` is searched without.
        """
        content = read_folder(folder, memory_map)
        gallery = None if content.vectors is None else Gallery([content.vectors], content.facts.longest)
        mapped = Path(folder).expanduser().resolve() if memory_map and content.index is not None else None
        return cls(content.facts, gallery=gallery, index=content.index, ids=content.ids, folder=mapped)

    def __repr__(self) -> str:
        return f"VectorIndex(kind={self.kind!r}, rows={len(self)}, dim={self.dim}, normalized={self.facts.normalized})"


# ---------------------------------------------------------------------------------------------------------------- parts


def _stored(rows: np.ndarray, normalize: bool, dtype: str, name: str) -> np.ndarray:
    """Rows scaled and rounded, each in the same way whatever stands beside it."""
    if not normalize and dtype == "float32":
        return rows
    stored = np.empty(rows.shape, dtype=dtype)
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        if normalize:
            lengths = np.sqrt(np.square(block, dtype=np.float64).sum(1, keepdims=True))
            block = (block / np.where(lengths > 0, lengths, 1)).astype(np.float32)
        with np.errstate(over="ignore"):
            stored[start : start + _BLOCK] = block
    if not normalize and not np.isfinite(stored).all():
        raise ValueError(f"`{name}` holds numbers beyond 65504, the largest of float16; take dtype='float32'.")
    return stored


def _options(kind: str, rows: int, dim: int, given: dict[str, int | None]) -> dict[str, int]:
    defaults = {
        "nlist": default_lists(rows),
        "nprobe": 64,
        "code_size": min(64, -(-dim // 4)),
        "links": 32,
        "ef_construction": 80,
        "ef_search": 128,
    }
    chosen = {name: given[name] or defaults[name] for name in _OPTIONS[kind]}
    if kind == "ivfpq":
        for name, most, what in (("nlist", rows, "vectors"), ("code_size", dim, "numbers in a vector")):
            if chosen[name] > most:
                raise ValueError(f"`{name}` is {chosen[name]}, but there are {most} {what}; expected at most as many.")
        chosen["nprobe"] = min(chosen["nprobe"], chosen["nlist"])
        if rows < _CODES:
            raise ValueError(
                f"kind='ivfpq' trains {_CODES} codes, and there are {rows} vectors; take kind='flat', or build with more and add the "
                "rest later."
            )
    return chosen


def _new_graph(facts: Facts) -> Any:
    faiss = import_faiss(_OTHERWISE)
    links, metric = facts.options["links"], faiss.METRIC_INNER_PRODUCT
    if facts.dtype == "float16":
        index = faiss.IndexHNSWSQ(facts.dim, faiss.ScalarQuantizer.QT_fp16, links, metric)
    else:
        index = faiss.IndexHNSWFlat(facts.dim, links, metric)
    index.hnsw.efConstruction, index.hnsw.efSearch = facts.options["ef_construction"], facts.options["ef_search"]
    return index


def _new_lists(facts: Facts, gallery: Gallery) -> Any:
    faiss = import_faiss(_OTHERWISE)
    nlist, code_size = facts.options["nlist"], facts.options["code_size"]
    # codes are of equal parts of a vector; zeros at its end change no product
    width = code_size * -(-facts.dim // code_size)
    index = faiss.IndexIVFPQ(faiss.IndexFlatIP(width), width, nlist, code_size, 8, faiss.METRIC_INNER_PRODUCT)
    index.nprobe = facts.options["nprobe"]
    index.cp.max_points_per_centroid, index.pq.cp.max_points_per_centroid = _PER_LIST, _PER_CODE
    # few points a centroid are worth no warning: the recall that is measured tells
    index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1
    wanted = max(_PER_LIST * nlist, _PER_CODE * _CODES)
    rows = np.arange(len(gallery))
    if wanted < len(rows):
        rows = np.sort(np.random.default_rng(0).choice(len(rows), wanted, replace=False))
    index.train(_padded(gallery.take(rows), width))
    return index


def _fill(index: Any, gallery: Gallery, facts: Facts) -> None:
    with one_thread() if facts.kind == "hnsw" and facts.reproducible else contextlib.nullcontext():
        for _, block in gallery.blocks(_BLOCK):
            index.add(_padded(block, index.d))


def _padded(rows: np.ndarray, width: int) -> np.ndarray:
    return rows if rows.shape[1] == width else np.pad(rows, ((0, 0), (0, width - rows.shape[1])))


def _without(own: np.ndarray, scores: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lists without the vector they belong to, or without the last where many equal ones stand before it."""
    keep = rows != own[:, None]
    keep[keep.all(1), -1] = False
    shape = (len(own), rows.shape[1] - 1)
    return scores[keep].reshape(shape), rows[keep].reshape(shape)


__all__ = ["KINDS", "Neighbours", "VectorIndex", "choose_kind"]
