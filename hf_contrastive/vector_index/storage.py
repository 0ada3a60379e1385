"""The folder of an index: what stands in it, written whole or not at all, read in place or into memory, never a pickle.

index.json     what the index is, and size and hash of the other files
vectors.npy    the vectors, where the index does not hold them itself
index.faiss    graph or inverted lists
ids.arrow      ids, where there are any
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from hf_contrastive.hub.atomic import atomic_folder, complete_quietly
from hf_contrastive.vector_index.exact import Gallery
from hf_contrastive.vector_index.faiss_tools import import_faiss, read_index, write_index
from hf_contrastive.version import __version__


FACTS, VECTORS, INDEX, IDS = "index.json", "vectors.npy", "index.faiss", "ids.arrow"
_FORMAT, _VERSION = "hf_contrastive vector index", 1
_WITHOUT = "Indexes of kind exact and flat can be searched without it."


@dataclass
class Facts:
    """What an index is.

    Args:
        kind (`str`): `"exact"`, `"flat"`, `"hnsw"` or `"ivfpq"`.
        why (`str`): it was chosen.
        rows (`int`), dim (`int`): vectors, and numbers of each.
        normalized (`bool`): whether vectors and queries are scaled to length 1.
        dtype (`str`): of the vectors kept, `"float32"` or `"float16"`.
        longest (`float`): length of the longest vector.
        vectors_kept (`bool`): whether the vectors are there, in a file of their own or in the graph.
        reproducible (`bool`): a graph is made by one thread.
        trained_on (`int`, *optional*): vectors that were there when clusters and codes were trained.
        options (`dict[str, int]`): of the kind.
        about (`dict`): what the vectors are, from whoever made them.
    """

    kind: str
    why: str
    rows: int
    dim: int
    normalized: bool
    dtype: str
    longest: float
    vectors_kept: bool = True
    reproducible: bool = True
    trained_on: int | None = None
    options: dict[str, int] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def vectors_beside(self) -> bool:
        """Whether the vectors are held beside faiss's index: a graph has them itself."""
        return self.vectors_kept and self.kind != "hnsw"


@dataclass
class Content:
    """An index as its folder holds it: vectors (none where the graph has them, or nobody), faiss's index, ids."""

    facts: Facts
    vectors: np.ndarray | None
    index: Any
    ids: Any


def as_ids(ids: Any, rows: int) -> pa.Array:
    """Ids as whole numbers or texts, one a vector; they may repeat.

    Args:
        ids (sequence, array or tensor): as given.
        rows (`int`): vectors.

    Raises:
        ValueError: another number of them, one that is missing, or other things than whole numbers or texts.
    """
    if not isinstance(ids, (pa.Array, pa.ChunkedArray)):
        values = ids.tolist() if isinstance(ids, (np.ndarray, Tensor)) else list(ids)
        try:
            ids = pa.array([value.item() if isinstance(value, np.generic) else value for value in values])
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise ValueError(f"`ids` are not of one type: {str(error).splitlines()[0]}") from error
    if len(ids) != rows:
        raise ValueError(f"{len(ids)} `ids` for {rows} vectors; give one for each, or none to number them.")
    if ids.null_count:
        first = int(np.flatnonzero(ids.is_null().to_numpy(zero_copy_only=False))[0])
        raise ValueError(
            f"{ids.null_count} of {rows} `ids` are missing (first: of vector {first}); give all, or none."
        )
    if pa.types.is_dictionary(ids.type):
        ids = ids.cast(ids.type.value_type)
    if pa.types.is_integer(ids.type):
        ids = ids.cast(pa.int64())
    elif pa.types.is_string(ids.type) or pa.types.is_large_string(ids.type):
        ids = ids.cast(pa.large_string())
    else:
        raise ValueError(f"`ids` are of type {ids.type}; expected whole numbers or texts.")
    return ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids


def write_folder(
    folder: str | Path, facts: Facts, gallery: Gallery | None, index: Any, ids: pa.ChunkedArray | None
) -> None:
    """Write an index; a folder that holds one has either the old or the new one, whatever happens meanwhile.

    Args:
        folder (`str` or `Path`): where.
        facts ([`Facts`]): what it is.
        gallery ([`Gallery`], *optional*): vectors for a file of their own.
        index (`faiss.Index`, *optional*): graph or inverted lists.
        ids (`pa.ChunkedArray`, *optional*): one a vector.
    """
    with atomic_folder(Path(folder).expanduser(), stale=(FACTS, VECTORS, INDEX, IDS)) as written:
        if gallery is not None:
            _write_vectors(written / VECTORS, gallery, facts)
        if index is not None:
            write_index(index, written / INDEX)
        if ids is not None:
            table = pa.table({"id": ids})
            with pa.OSFile(str(written / IDS), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
        files = {path.name: _file_facts(path) for path in sorted(written.iterdir())}
        about = {"format": _FORMAT, "version": _VERSION, "written_by": f"hf_contrastive {__version__}"}
        text = json.dumps({**about, **asdict(facts), "files": files}, indent=1, ensure_ascii=False)
        (written / FACTS).write_text(text + "\n", encoding="utf-8")


def _write_vectors(path: Path, gallery: Gallery, facts: Facts) -> None:
    # not through a memory map: a full disk would end the process instead of raising
    with path.open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(facts.dtype)), "fortran_order": False}
        np.lib.format.write_array_header_1_0(file, {**header, "shape": (facts.rows, facts.dim)})
        for _, block in gallery.blocks(2**14):
            file.write(block.astype(facts.dtype, copy=False).tobytes())


def _file_facts(path: Path) -> dict[str, Any]:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return {"bytes": path.stat().st_size, "blake2b": digest.hexdigest()}


def read_facts(folder: Path) -> tuple[Facts, dict[str, dict[str, Any]]]:
    """What an index is, and its files; a save that was interrupted at its end is completed.

    Raises:
        FileNotFoundError: there is no index.
        ValueError: its description is broken, or of a later version.
    """
    complete_quietly(folder)
    path = folder / FACTS
    if not path.is_file():
        raise FileNotFoundError(
            f"no index in {folder} ({FACTS} is not there); make one with VectorIndex.build(vectors).save(folder), or type: "
            "hf-contrastive index build EMBEDDINGS --out FOLDER."
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != _FORMAT:
            raise ValueError(f"its format is {found['format']!r}, expected {_FORMAT!r}")
        if found["version"] > _VERSION:
            raise ValueError(f"its version is {found['version']}, this release reads up to {_VERSION}; update it")
        facts = Facts(**{one.name: found[one.name] for one in fields(Facts)})
        counts = (facts.rows, facts.dim, *facts.options.values(), *(one["bytes"] for one in found["files"].values()))
        if not all(isinstance(count, int) and count > 0 for count in counts) or not 0 <= facts.longest < math.inf:
            raise ValueError("a number in it cannot be")
        if not {*found["files"]} <= {VECTORS, INDEX, IDS}:
            raise ValueError(f"it names the files {', '.join(found['files'])}")
        if facts.kind not in ("exact", "flat", "hnsw", "ivfpq") or facts.dtype not in ("float32", "float16"):
            raise ValueError(f"kind {facts.kind!r} with {facts.dtype!r} is unknown")
        return facts, found["files"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path} does not describe an index: {what}. Build it anew.") from error


def read_folder(folder: str | Path, memory_map: bool) -> Content:
    """Read an index.

    Args:
        folder (`str` or `Path`): where.
        memory_map (`bool`): leave vectors, graph and ids on the disk; then only the sizes of the files are checked, not the content.

    Raises:
        FileNotFoundError: there is none.
        ValueError: a file is missing, cut short, changed, or not what the description says.
        ImportError: the kind needs faiss.
    """
    folder = Path(folder).expanduser()
    facts, files = read_facts(folder)
    wanted = {*([INDEX] if facts.kind in ("hnsw", "ivfpq") else []), *([VECTORS] if facts.vectors_beside else [])}
    for name in sorted({*wanted, *files}):
        _check_file(folder / name, files.get(name), memory_map)
    vectors = _read_vectors(folder / VECTORS, facts, memory_map) if VECTORS in wanted else None
    index = _read_index(folder / INDEX, facts, memory_map) if INDEX in wanted else None
    ids = _read_ids(folder / IDS, facts, memory_map) if IDS in files else None
    return Content(facts, vectors, index, ids)


def _check_file(path: Path, expected: dict[str, Any] | None, memory_map: bool) -> None:
    if expected is None or not path.is_file():
        raise ValueError(f"{path} is missing; copy the whole folder again, or build the index anew.")
    size = path.stat().st_size
    if size != expected["bytes"]:
        raise ValueError(
            f"{path} has {size} bytes, expected {expected['bytes']}: it was cut short or belongs to another index. Copy the whole "
            "folder again, or build the index anew."
        )
    if not memory_map and _file_facts(path)["blake2b"] != expected["blake2b"]:
        raise ValueError(
            f"{path} has changed since it was written; copy the whole folder again, or build the index anew."
        )


def _read_vectors(path: Path, facts: Facts, memory_map: bool) -> np.ndarray:
    try:
        # copies on writing, of which there is none: torch warns of arrays that cannot be written
        vectors = np.load(path, mmap_mode="c" if memory_map else None, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is no array: {str(error).splitlines()[0]} Build the index anew.") from error
    if vectors.shape != (facts.rows, facts.dim) or vectors.dtype != facts.dtype or not vectors.flags.c_contiguous:
        raise ValueError(
            f"{path} holds {vectors.dtype} {list(vectors.shape)}, expected {facts.dtype} {[facts.rows, facts.dim]} in rows; build "
            "the index anew."
        )
    return vectors


def _read_index(path: Path, facts: Facts, memory_map: bool) -> Any:
    faiss = import_faiss(_WITHOUT)
    index = read_index(path, _WITHOUT, memory_map=memory_map)
    types = {"hnsw": (faiss.IndexHNSWFlat, faiss.IndexHNSWSQ), "ivfpq": (faiss.IndexIVFPQ,)}[facts.kind]
    if not isinstance(index, types) or index.ntotal != facts.rows or index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise ValueError(
            f"{path} holds {type(index).__name__} of {index.ntotal} vectors, expected {facts.kind} of {facts.rows} with inner "
            "products; build the index anew."
        )
    return index


def _read_ids(path: Path, facts: Facts, memory_map: bool) -> pa.ChunkedArray:
    try:
        with pa.memory_map(str(path)) if memory_map else pa.OSFile(str(path)) as source:
            ids = pa.ipc.open_file(source).read_all().column("id")
        ids.validate(full=True)
    except (pa.ArrowInvalid, KeyError, OSError) as error:
        raise ValueError(f"{path} holds no ids: {str(error).splitlines()[0]} Build the index anew.") from error
    if len(ids) != facts.rows or ids.null_count or ids.type not in (pa.int64(), pa.large_string()):
        raise ValueError(f"{path} holds {len(ids)} ids of {ids.type} for {facts.rows} vectors; build the index anew.")
    return ids


__all__ = ["Content", "Facts", "as_ids", "read_facts", "read_folder", "write_folder"]
