"""Levenshtein distance against the plain recursion."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from hf_contrastive.evaluation import edit_distances, nearest_texts


def plain(one: str, other: str) -> int:
    @lru_cache(None)
    def distance(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        return min(
            distance(i - 1, j) + 1,
            distance(i, j - 1) + 1,
            distance(i - 1, j - 1) + (one[i - 1] != other[j - 1]),
        )

    return distance(len(one), len(other))


def test_distances_are_those_of_the_recursion():
    random = np.random.default_rng(0)
    texts = ["".join(random.choice(list("abc日本"), random.integers(0, 9))) for _ in range(40)]
    for query in texts[:12]:
        assert edit_distances(query, texts).tolist() == [plain(query, text) for text in texts]
    assert edit_distances("abc", []).tolist() == []
    assert edit_distances("", ["", "ab"]).tolist() == [0, 2]


def test_nearest_is_a_share_of_the_longer_text():
    found = nearest_texts(["ab", "abcdefgh", ""], ["abcdefgx", "abx", "ax"])
    assert found.rows.tolist() == [1, 0, 0]
    assert found.similarities.tolist() == pytest.approx([2 / 3, 7 / 8, 0])
    # of equally near ones the first
    assert nearest_texts(["a"], ["b", "c"]).rows.tolist() == [0]
    with pytest.raises(ValueError, match="`references` is empty"):
        nearest_texts(["a"], [])
