"""Measures of frames by video, against scikit-learn and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score

from hf_contrastive.evaluation import video_average_precision, video_classification_metrics


def test_means_over_videos():
    rng = np.random.default_rng(0)
    labels = [rng.integers(0, top, n) for top, n in ((7, 40), (3, 15), (5, 90))]
    guesses = [np.where(rng.random(len(y)) < 0.5, y, rng.integers(0, 7, len(y))) for y in labels]
    found = video_classification_metrics(guesses, [torch.as_tensor(y) for y in labels])
    accuracies = [accuracy_score(y, g) for y, g in zip(labels, guesses, strict=True)]
    scores = [f1_score(y, g, average="macro") for y, g in zip(labels, guesses, strict=True)]
    assert found["accuracy"] == pytest.approx(np.mean(accuracies))
    assert found["f1_macro"] == pytest.approx(np.mean(scores))
    assert [video["f1_macro"] for video in found["per_video"]] == pytest.approx(scores)
    assert (found["n_videos"], found["n_frames"], found["dropped_frames"]) == (3, 145, 0)


def test_macro_f1_by_hand():
    """Classes 0 and 1 are shown, 2 is predicted once, 3 does not occur at all."""
    found = video_classification_metrics([[0, 0, 1, 2]], [[0, 0, 1, 1]])
    assert found["f1_macro"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    words = video_classification_metrics([["a", "a", "b", "c"]], [["a", "a", "b", "b"]])
    assert words["f1_macro"] == pytest.approx(found["f1_macro"])


def test_dropped_frames_are_not_seen():
    found = video_classification_metrics([[0, 5, 1], [2]], [[0, 11, 1], [2]], drop_labels=[11])
    assert (found["accuracy"], found["f1_macro"], found["dropped_frames"]) == (1.0, 1.0, 1)
    assert found["per_video"][0]["n_frames"] == 2


def average_precision(scores: np.ndarray, right: np.ndarray) -> float:
    """Sum over distinct thresholds of recall step * precision."""
    total, before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        chosen = scores >= threshold
        recall = (right & chosen).sum() / right.sum()
        total += (recall - before) * (right & chosen).sum() / chosen.sum()
        before = recall
    return total


def test_average_precision_by_video_and_class():
    rng = np.random.default_rng(1)
    scores = [rng.integers(0, 12, size=(n, 4)) / 10 for n in (30, 22, 41)]  # with ties
    targets = [rng.random((len(s), 4)) < 0.3 for s in scores]
    targets[0][:, 1] = False
    for target in targets:
        target[:, 3] = False
    found = video_average_precision(scores, [torch.as_tensor(t) for t in targets])
    table = np.array(
        [
            [average_precision(s[:, c], t[:, c]) if t[:, c].any() else np.nan for c in range(4)]
            for s, t in zip(scores, targets, strict=True)
        ]
    )
    np.testing.assert_allclose(found["per_video"], table, rtol=1e-12)
    assert found["ap"][0] == pytest.approx(table[:, 0].mean())
    assert found["ap"][1] == pytest.approx(table[1:, 1].mean())  # the video without the class does not count
    assert math.isnan(found["ap"][3])
    assert found["map"] == pytest.approx(np.mean(found["ap"][:3]))


def test_a_class_that_no_video_shows():
    found = video_average_precision([np.ones((2, 1))], [np.zeros((2, 1))])
    assert math.isnan(found["map"])
    assert np.isnan(found["ap"]).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: video_classification_metrics([], []), "holds 0 videos and `labels` 0"),
        (lambda: video_classification_metrics([[1]], [[1], [2]]), "holds 1 videos and `labels` 2"),
        (lambda: video_classification_metrics([[1, 2]], [[1]]), r"`predictions\[0\]` has 2 labels"),
        (
            lambda: video_classification_metrics([[1], [2]], [[1], [9]], drop_labels=[9]),
            r"`labels\[1\]`: none of 1 frames is left",
        ),
        (lambda: video_average_precision([np.ones((3, 2))], [np.ones((2, 2))]), r"`targets\[0\]` has shape \[2, 2\]"),
        (
            lambda: video_average_precision([np.ones((3, 2)), np.ones((3, 4))], [np.ones((3, 2)), np.ones((3, 4))]),
            r"expected \[frames, 2\] in both",
        ),
        (lambda: video_average_precision([np.ones((3, 2))], [np.full((3, 2), 2)]), "other values than 0 and 1"),
        (lambda: video_average_precision([np.full((3, 2), np.inf)], [np.ones((3, 2))]), "NaN or infinity"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_labels_of_two_kinds():
    with pytest.raises(TypeError, match="labels of two kinds"):
        video_classification_metrics([[1]], [["a"]])
