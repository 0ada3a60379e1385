"""Decoding: contrastive search for `generate`. Names are imported on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_contrastive.utils import import_later


_HOME = {
    "ContrastiveGenerationMixin": "door",
    "contrastive_search": "search",
    "generate_contrastive": "door",
    "push_contrastive_search_to_hub": "publish",
    "rank_candidates": "ranking",
    "save_contrastive_search": "publish",
}

__all__ = [
    "ContrastiveGenerationMixin",
    "contrastive_search",
    "generate_contrastive",
    "push_contrastive_search_to_hub",
    "rank_candidates",
    "save_contrastive_search",
]

if TYPE_CHECKING:
    from hf_contrastive.generation.door import ContrastiveGenerationMixin, generate_contrastive
    from hf_contrastive.generation.publish import push_contrastive_search_to_hub, save_contrastive_search
    from hf_contrastive.generation.ranking import rank_candidates
    from hf_contrastive.generation.search import contrastive_search


__getattr__ = import_later(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
