"""Verification against a loop over all thresholds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_contrastive.evaluation import auroc, verification_metrics


@pytest.mark.parametrize("seed", range(8))
def test_equals_the_loop(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 60))
    same = rng.random(n) < 0.5
    same[:2] = True, False
    scores = rng.normal(size=n) + same
    if seed % 2:
        scores = np.round(scores * 2) / 2  # with ties
    found = verification_metrics(torch.as_tensor(scores), same)
    best = max((scores[same] >= t).mean() - (scores[~same] >= t).mean() for t in scores)
    chosen = max(t for t in scores if (scores[same] >= t).mean() - (scores[~same] >= t).mean() > best - 1e-12)
    assert found["threshold"] == chosen
    assert found["accuracy"] == pytest.approx(((scores >= chosen) == same).mean())
    assert found["true_positive_rate"] == pytest.approx((scores[same] >= chosen).mean())
    assert found["false_positive_rate"] == pytest.approx((scores[~same] >= chosen).mean())
    assert found["auroc"] == auroc(scores, same)
    pairs = scores[same][:, None] - scores[~same][None]
    assert found["auroc"] == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    assert (found["n_pairs"], found["n_same"]) == (n, same.sum())


def test_the_threshold_itself_counts_as_same_and_the_largest_is_taken():
    assert verification_metrics([0.9, 0.5, 0.5, 0.1], [1, 1, 0, 0])["threshold"] == 0.9
    found = verification_metrics([0.9, 0.6, 0.3], [True, False, False])
    assert (found["threshold"], found["accuracy"]) == (0.9, 1.0)
    # all scores are one: everything is the same, and nothing is told apart
    flat = verification_metrics([0.4, 0.4, 0.4], [1, 0, 0])
    assert (flat["auroc"], flat["threshold"], flat["accuracy"]) == (0.5, 0.4, pytest.approx(1 / 3))


@pytest.mark.parametrize(
    ("scores", "same", "message"),
    [
        ([], [], "`scores` is empty"),
        ([0.1, 0.2], [1], "`same` has 1 labels but `scores` has 2 rows"),
        ([0.1, np.nan], [1, 0], "NaN or infinity"),
        ([0.1, 0.2], [1, 2], r"`same` holds 2 at index 1; expected 1 or True \(same\)"),
        ([0.1, 0.2], [1, 1], "AUROC is undefined"),
    ],
)
def test_refusals(scores, same, message):
    with pytest.raises(ValueError, match=message):
        verification_metrics(scores, same)
