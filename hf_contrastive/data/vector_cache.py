"""Vectors in a cache on disk, under the hash of all that they depend on."""

from __future__ import annotations

import hashlib
import os
import uuid
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import cached_assets_path
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file


_TENSOR = "features"


class Fingerprint:
    """Hash of a sequence of byte strings."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, *parts: Any) -> None:
        # with numbers and lengths, so that other cuts of the same bytes are others
        self._hash.update(f"({len(parts)}".encode())
        for part in parts:
            self._hash.update(f"[{len(part)}]".encode())
            self._hash.update(part)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def cache_file(cache_dir: str | os.PathLike | None, fingerprint: str) -> Path | None:
    where: Any = None if cache_dir is None else Path(cache_dir).expanduser()
    try:
        folder = cached_assets_path("hf_contrastive", "item_features", fingerprint, assets_dir=where)
    except (OSError, ValueError) as error:
        warnings.warn(f"item features cannot be kept: {error}; pass a cache_dir= that can be written", stacklevel=3)
        return None
    return folder / "features.safetensors"


def read_vectors(file: Path, rows: int) -> tuple[np.ndarray, dict[str, int]] | None:
    """Vectors and counts, or nothing: where there are none, or with a warning where the file is broken."""
    if not file.is_file():
        return None
    try:
        with safe_open(file, "numpy") as content:
            vectors = content.get_tensor(_TENSOR)
            known = content.metadata() or {}
        counts = {name: int(known[name]) for name in ("encoded", "without", "cut", "limit")}
        if vectors.ndim != 2 or len(vectors) != rows or vectors.dtype != np.float32:
            raise ValueError(f"it holds {vectors.dtype} {list(vectors.shape)} for {rows} rows")
        if not np.isfinite(vectors).all():
            raise ValueError("it holds numbers that are not finite")
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        warnings.warn(f"{file} cannot be used ({error}); the features are made anew", stacklevel=3)
        return None
    return vectors, counts


def write_vectors(file: Path, vectors: np.ndarray, counts: dict[str, int]) -> None:
    """Beside, then into place: a reader sees a whole file or none."""
    part = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    try:
        save_file({_TENSOR: vectors}, part, {name: str(count) for name, count in counts.items()})
        with part.open("rb+") as written:
            os.fsync(written.fileno())
        os.replace(part, file)
    except (OSError, SafetensorError) as error:
        # the vectors are there, whatever becomes of the file
        warnings.warn(f"item features cannot be kept in {file}: {error}", stacklevel=3)
    finally:
        part.unlink(missing_ok=True)


__all__ = ["Fingerprint", "cache_file", "read_vectors", "write_vectors"]
