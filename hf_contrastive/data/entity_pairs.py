"""Which entities stay with an image, when entities were found in its text and scored against the picture."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from hf_contrastive.tensor_utils import distinct


class EntityFilter(NamedTuple):
    """What [`filter_entity_pairs`] returns.

    Args:
        kept (bool `ndarray` `[P]`): pairs whose score is at least the threshold.
        best_entity (`ndarray` `[N]`): of every image the entity with the highest kept score, -1 for none.
        images_per_entity (`ndarray` `[E]`): images of every entity, by kept pairs.
        entities (`ndarray` `[K]`): entities with enough images, ascending.
        labels (`ndarray` `[N]`): of every image the best of those entities, -1 for none: what to train with.
    """

    kept: np.ndarray
    best_entity: np.ndarray
    images_per_entity: np.ndarray
    entities: np.ndarray
    labels: np.ndarray


def filter_entity_pairs(
    scores: Any,
    images: Any,
    entities: Any,
    *,
    num_images: int,
    num_entities: int,
    threshold: float,
    min_images: int = 1,
) -> EntityFilter:
    """Keeps the (image, entity) pairs that look right and the entities that then still have enough images: the filter of
    MOFI's image-to-entities data (https://arxiv.org/abs/2306.07952, section 3).

    Args:
        scores (`[P]` numbers): of every pair, for example the cosine of the image and the entity's name in a CLIP model.
        images (`[P]` integers): number of the image of every pair, 0 to `num_images` - 1.
        entities (`[P]` integers): number of its entity, 0 to `num_entities` - 1. A pair that comes twice counts once.
        num_images (`int`): N, number of images.
        num_entities (`int`): E, number of entities.
        threshold (`float`): lowest score of a pair that is kept.
        min_images (`int`, defaults to 1): entities with fewer images are dropped.

    Returns:
        [`EntityFilter`]. Of equal scores the lower entity is better.

    Raises:
        ValueError: lengths that differ, scores that are NaN or infinite, a number out of range.

    Example:

    ```python
    >>> from hf_contrastive.data.entity_pairs import filter_entity_pairs
    >>> found = filter_entity_pairs(
    ...     [0.3, 0.2, 0.4, 0.1], [0, 0, 1, 1], [0, 1, 1, 2], num_images=2, num_entities=3, threshold=0.15, min_images=2
    ... )
    >>> found.best_entity.tolist(), found.entities.tolist(), found.labels.tolist()
    ([0, 1], [1], [1, 1])

    ```
    """
    values = np.asarray(scores, dtype=np.float64).reshape(-1)
    image, entity = (np.asarray(x).reshape(-1) for x in (images, entities))
    if not len(values) == len(image) == len(entity):
        raise ValueError(
            f"`scores`, `images` and `entities` have {len(values)}, {len(image)} and {len(entity)} entries; expected one a pair"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"`scores` holds NaN or infinity at index {int(np.flatnonzero(~np.isfinite(values))[0])}")
    for name, numbers, size in (("images", image, num_images), ("entities", entity, num_entities)):
        if len(numbers) and (numbers.dtype.kind not in "iu" or numbers.min() < 0 or numbers.max() >= size):
            raise ValueError(
                f"`{name}` must be integers from 0 to {size - 1}, got {numbers.dtype} from {numbers.min()} to {numbers.max()}"
            )
    if min_images < 1:
        raise ValueError(f"`min_images` is {min_images!r}; expected a whole number of at least 1")
    image, entity = image.astype(np.int64), entity.astype(np.int64)
    kept = values >= threshold
    once = distinct(image[kept] * num_entities + entity[kept])
    counts = np.bincount(once % max(num_entities, 1), minlength=num_entities)
    enough = counts >= min_images
    usable = kept & enough[entity] if len(entity) else kept
    return EntityFilter(
        kept,
        _best(values, image, entity, kept, num_images),
        counts,
        np.flatnonzero(enough),
        _best(values, image, entity, usable, num_images),
    )


def _best(scores: np.ndarray, images: np.ndarray, entities: np.ndarray, keep: np.ndarray, count: int) -> np.ndarray:
    """Entity with the highest score of every image, -1 for none."""
    best = np.full(count, -1)
    # the last one written stays: from low to high scores, of equal ones from high to low entities
    order = np.lexsort((-entities[keep], scores[keep]))
    best[images[keep][order]] = entities[keep][order]
    return best


__all__ = ["EntityFilter", "filter_entity_pairs"]
