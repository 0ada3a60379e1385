"""Vectors that are searched by inner products, exactly or through faiss, in memory or in place on the disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_contrastive.utils import import_later


_PUBLIC_NAMES = {"KINDS": "index", "Neighbours": "index", "VectorIndex": "index", "choose_kind": "index"}

__all__ = ["KINDS", "Neighbours", "VectorIndex", "choose_kind"]

if TYPE_CHECKING:  # static analysis sees the real names
    from hf_contrastive.vector_index.index import KINDS, Neighbours, VectorIndex, choose_kind


__getattr__ = import_later(__name__, _PUBLIC_NAMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC_NAMES})
