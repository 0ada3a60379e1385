"""Decoding on top of `generate`: contrastive search, and a reward model that filters, guides or steers. Names are
imported on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_contrastive.utils import import_later


_HOME = {
    "ContrastiveGenerationMixin": "door",
    "FilteredGenerations": "goal_filter",
    "GoalSteering": "goal_steering",
    "GuidedGenerations": "goal_guided",
    "GuidedStep": "goal_guided",
    "contrastive_search": "search",
    "filter_generations": "goal_filter",
    "generate_contrastive": "door",
    "goal_guided_generate": "goal_guided",
    "goal_steered_generate": "goal_steering",
    "push_contrastive_search_to_hub": "publish",
    "rank_candidates": "ranking",
    "save_contrastive_search": "publish",
}

__all__ = [
    "ContrastiveGenerationMixin",
    "FilteredGenerations",
    "GoalSteering",
    "GuidedGenerations",
    "GuidedStep",
    "contrastive_search",
    "filter_generations",
    "generate_contrastive",
    "goal_guided_generate",
    "goal_steered_generate",
    "push_contrastive_search_to_hub",
    "rank_candidates",
    "save_contrastive_search",
]

if TYPE_CHECKING:
    from hf_contrastive.generation.door import ContrastiveGenerationMixin, generate_contrastive
    from hf_contrastive.generation.goal_filter import FilteredGenerations, filter_generations
    from hf_contrastive.generation.goal_guided import GuidedGenerations, GuidedStep, goal_guided_generate
    from hf_contrastive.generation.goal_steering import GoalSteering, goal_steered_generate
    from hf_contrastive.generation.publish import push_contrastive_search_to_hub, save_contrastive_search
    from hf_contrastive.generation.ranking import rank_candidates
    from hf_contrastive.generation.search import contrastive_search


__getattr__ = import_later(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
