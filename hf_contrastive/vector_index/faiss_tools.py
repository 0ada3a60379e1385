"""What every index on faiss needs: the import, rows as it takes them, its options, its files."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor


# rows that are checked at a time
_BLOCK = 2**16


def has_faiss() -> bool:
    """Whether faiss is installed; it is not imported."""
    return importlib.util.find_spec("faiss") is not None


def import_faiss(otherwise: str = "") -> Any:
    """The module.

    Args:
        otherwise (`str`, defaults to `""`): what can be done without it, for the message.

    Raises:
        ImportError: it is missing.
    """
    try:
        import faiss
    except ImportError as error:
        raise ImportError(f"an index needs faiss: pip install faiss-cpu. {otherwise}".strip()) from error
    return faiss


def as_rows(vectors: Any, name: str) -> np.ndarray:
    """Vectors as faiss takes them; an array that is so already is not copied.

    Args:
        vectors (`[rows, dim]` tensor or array): of numbers.
        name (`str`): of the argument, for messages.

    Returns:
        `np.ndarray` `[rows, dim]`: float32, in one piece.

    Raises:
        ValueError: another shape, no numbers, or NaN or infinity among them.

    Example:

    ```python
    >>> from hf_contrastive.vector_index.faiss_tools import as_rows
    >>> as_rows([[1, 2], [3, 4]], "vectors").dtype.name
    'float32'

    ```
    """
    rows = vectors.detach().float().cpu().numpy() if isinstance(vectors, Tensor) else np.asarray(vectors)
    if rows.ndim != 2:
        raise ValueError(f"`{name}` has shape {list(rows.shape)}, expected [rows, dim].")
    if rows.dtype.kind not in "fiu":
        raise ValueError(f"`{name}` holds {rows.dtype}, expected numbers.")
    with np.errstate(over="ignore"):
        rows = np.ascontiguousarray(rows, dtype=np.float32)
    count, first = 0, -1
    for start in range(0, len(rows), _BLOCK):
        bad = np.flatnonzero(~np.isfinite(rows[start : start + _BLOCK]).all(1))
        first = start + int(bad[0]) if len(bad) and first < 0 else first
        count += len(bad)
    if count:
        raise ValueError(
            f"`{name}`: {count} of {len(rows)} rows hold NaN or infinity (first: row {first}); the training diverged, or the file "
            "is broken. Take an earlier checkpoint, or leave these rows out."
        )
    return rows


def check_options(kind: str, own: Mapping[str, Sequence[str]], given: Mapping[str, int | None]) -> None:
    """Refuse an unknown kind, options of another kind, and numbers below 1.

    Args:
        kind (`str`): of the index.
        own (`Mapping[str, Sequence[str]]`): kinds, and the options that each has.
        given (`Mapping[str, int | None]`): options; None is not given.

    Raises:
        ValueError: any of these.
    """
    if kind not in own:
        raise ValueError(f"`kind` is {kind!r}; expected one of {', '.join(own)}.")
    for name, value in given.items():
        if value is None:
            continue
        if name not in own[kind]:
            raise ValueError(f"kind={kind!r} has no {name}; its options are: {', '.join(own[kind]) or 'none'}.")
        if value < 1:
            raise ValueError(f"`{name}` is {value}; expected 1 or more.")


def default_lists(count: int) -> int:
    """Clusters for `count` vectors: 4 sqrt(count), at most one for 39 vectors, below which faiss finds them too few."""
    return max(1, min(int(4 * count**0.5), count // 39))


def search_options(index: Any, k: int, effort: int) -> dict[str, Any]:
    """Arguments of a search: `effort` times as many clusters, or vertices in view, as the index usually takes.

    Args:
        index (`faiss.Index`): IVF and HNSW have something to choose.
        k (`int`): neighbours wanted.
        effort (`int`): from 1.

    Returns:
        `dict`: for `index.search`.
    """
    faiss = import_faiss()
    if isinstance(index, faiss.IndexIVF):
        return {"params": faiss.SearchParametersIVF(nprobe=min(index.nlist, effort * index.nprobe))}
    if isinstance(index, faiss.IndexHNSW):
        return {"params": faiss.SearchParametersHNSW(efSearch=max(k, effort * index.hnsw.efSearch))}
    return {}


@contextlib.contextmanager
def one_thread() -> Generator[None]:
    """One thread of faiss while the block runs: what several build depends on which of them is first."""
    faiss = import_faiss()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def fingerprint(rows: np.ndarray) -> str:
    """Number of rows, size and hash of the vectors."""
    digest = hashlib.blake2b(np.ascontiguousarray(rows).data, digest_size=16).hexdigest()
    return f"{rows.shape[0]}x{rows.shape[1]}:{digest}"


def write_index(index: Any, path: Path) -> None:
    """Write an index in faiss's own format; the file is complete or untouched.

    Args:
        index (`faiss.Index`): what to write.
        path (`Path`): the file; its folder is made when missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        import_faiss().write_index(index, str(temporary))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_index(path: Path, otherwise: str, *, memory_map: bool = False) -> Any:
    """Read an index in faiss's own format; take files from people you trust, faiss checks little.

    Args:
        path (`Path`): the file, which is there.
        otherwise (`str`): what can be done without faiss, for the message.
        memory_map (`bool`, defaults to `False`): leave the numbers on the disk and read those that a search looks at. Such an index
            takes no more vectors. With a faiss before 1.11 this holds for inverted lists only, graphs are read.

    Returns:
        `faiss.Index`.

    Raises:
        ImportError: faiss is missing.
        ValueError: it is no index.
    """
    faiss = import_faiss(otherwise)
    flags = getattr(faiss, "IO_FLAG_MMAP_IFC", faiss.IO_FLAG_MMAP) if memory_map else 0
    try:
        return faiss.read_index(str(path), flags)
    except RuntimeError as error:
        raise ValueError(f"{path} is no index of faiss, or was cut short: {str(error).splitlines()[0]}") from error


__all__ = [
    "as_rows",
    "check_options",
    "default_lists",
    "fingerprint",
    "has_faiss",
    "import_faiss",
    "one_thread",
    "read_index",
    "search_options",
    "write_index",
]
