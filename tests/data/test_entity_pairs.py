"""The filter of image-entity pairs against a loop over the steps."""

from __future__ import annotations

import numpy as np
import pytest

from hf_contrastive.data.entity_pairs import filter_entity_pairs


@pytest.mark.parametrize("seed", range(5))
def test_equals_the_loop(seed):
    rng = np.random.default_rng(seed)
    n, e, p = 20, 8, 70
    images, entities = rng.integers(0, n, p), rng.integers(0, e, p)
    scores = rng.integers(-5, 10, p) / 10  # with ties, and pairs that come twice
    found = filter_entity_pairs(scores, images, entities, num_images=n, num_entities=e, threshold=0.2, min_images=5)
    kept = [(i, c, s) for i, c, s in zip(images, entities, scores, strict=True) if s >= 0.2]
    counts = [len({i for i, c, _ in kept if c == entity}) for entity in range(e)]
    left = [entity for entity in range(e) if counts[entity] >= 5]
    assert 0 < len(left) < e
    assert found.kept.tolist() == [s >= 0.2 for s in scores]
    assert found.images_per_entity.tolist() == counts
    assert found.entities.tolist() == left
    for image in range(n):
        for answers, allowed in ((found.best_entity, range(e)), (found.labels, left)):
            own = [(-s, c) for i, c, s in kept if i == image and c in allowed]
            assert answers[image] == (min(own)[1] if own else -1)


def test_nothing_is_left():
    found = filter_entity_pairs([], [], [], num_images=2, num_entities=3, threshold=0.0)
    assert (found.labels.tolist(), found.entities.tolist(), found.images_per_entity.tolist()) == (
        [-1, -1],
        [],
        [0, 0, 0],
    )
    found = filter_entity_pairs([0.1], [1], [2], num_images=2, num_entities=3, threshold=0.2)
    assert (found.kept.tolist(), found.best_entity.tolist()) == ([False], [-1, -1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": [0]}, "have 2, 1 and 2 entries"),
        ({"scores": [0.1, float("nan")]}, "`scores` holds NaN or infinity at index 1"),
        ({"images": [0, 3]}, "`images` must be integers from 0 to 2, got int64 from 0 to 3"),
        ({"entities": [-1, 0]}, "`entities` must be integers from 0 to 1"),
        ({"entities": [0.0, 1.0]}, "`entities` must be integers"),
        ({"min_images": 0}, "`min_images` is 0"),
    ],
)
def test_refusals(change, message):
    given = {"scores": [0.1, 0.2], "images": [0, 1], "entities": [0, 1], "num_images": 3, "num_entities": 2}
    with pytest.raises(ValueError, match=message):
        filter_entity_pairs(**{**given, "threshold": 0.0, **change})
