"""Pseudo-labels by k-means, and how often a batch holds two images of one label."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from datasets import Dataset
from sklearn.cluster import KMeans

from hf_contrastive import PseudoLabeler
from hf_contrastive.models.gsimclr.data_gsimclr import same_label_pair_rate


def blobs(clusters: int, size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Well separated groups of points in a shuffled order, and their true groups."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(clusters), size))
    return 10 * np.eye(clusters)[truth] + rng.normal(0, 0.1, (clusters * size, clusters)), truth


def test_finds_separated_groups():
    points, truth = blobs(5, 12)
    labels = PseudoLabeler(num_clusters=5).fit_predict(points)
    assert labels.dtype == np.int64
    assert set(labels.tolist()) == set(range(5))
    pairs = {(int(label), int(group)) for label, group in zip(labels, truth, strict=True)}
    assert len(pairs) == 5, "every cluster is one group"


def test_tensors_and_seeds():
    points, _ = blobs(6, 8)
    labeler = PseudoLabeler(num_clusters=6)
    tensor = torch.tensor(points, dtype=torch.float32, requires_grad=True)
    assert np.array_equal(labeler.fit_predict(points.astype(np.float32)), labeler.fit_predict(tensor))
    assert labeler.centroids.shape == (6, 6)
    assert np.array_equal(labeler.fit_predict(points), PseudoLabeler(num_clusters=6, seed=0).fit_predict(points))


@pytest.mark.parametrize("seed", [0, 3])
def test_clusters_are_those_of_scikit_learn(seed):
    """Points without groups, so that the seed decides."""
    points = np.random.default_rng(0).normal(size=(60, 3))
    expected = [KMeans(7, random_state=number).fit(points).labels_ for number in (seed, seed + 1)]
    found = PseudoLabeler(num_clusters=7, seed=seed).fit_predict(points)
    assert np.array_equal(found, expected[0])
    assert not np.array_equal(found, expected[1])


def test_as_many_clusters_as_images():
    points = np.arange(8.0).reshape(8, 1)
    assert sorted(PseudoLabeler(num_clusters=8).fit_predict(points).tolist()) == list(range(8))


@pytest.mark.parametrize(
    ("points", "clusters", "message"),
    [
        (
            np.zeros((3, 2)),
            4,
            r"4 clusters were asked for, but there are only 3 images; lower `num_clusters` to at most 3",
        ),
        (np.zeros((6, 2)), 3, r"k-means returned 1 non-empty clusters for 3 asked; lower `num_clusters`"),
        (np.repeat([[0.0], [1.0]], 4, axis=0), 3, r"k-means returned 2 non-empty clusters for 3 asked"),
        (np.array([[0.0], [np.nan], [1.0]]), 2, r"1 of 3 embeddings are not finite"),
        (np.array([[0.0], [np.inf], [-np.inf]]), 2, r"2 of 3 embeddings are not finite"),
        (np.zeros((0, 2)), 2, r"shape \(0, 2\), expected \[rows, dim\] with at least one row"),
        (np.zeros(4), 2, r"shape \(4,\), expected \[rows, dim\]"),
    ],
    ids=["more clusters than images", "all equal", "two distinct", "nan", "inf", "empty", "one axis"],
)
def test_bad_embeddings(points, clusters, message):
    with pytest.raises(ValueError, match=message):
        PseudoLabeler(num_clusters=clusters).fit_predict(points)


@pytest.mark.parametrize("clusters", [1, 0, -3])
def test_too_few_clusters(clusters):
    with pytest.raises(ValueError, match=rf"`num_clusters` is {clusters}, but it must be 2 or more"):
        PseudoLabeler(num_clusters=clusters)


def test_column_of_a_dataset():
    points, _ = blobs(3, 4)
    dataset = Dataset.from_dict({"index": list(range(12))})
    labeler = PseudoLabeler(num_clusters=3)
    labelled = labeler.add_to(dataset, points)
    assert labelled["pseudo_label"][:] == labeler.fit_predict(points).tolist()
    assert labelled["index"][:] == list(range(12))
    # again, under the same and under another name
    again = labeler.add_to(labelled, points[::-1].copy())
    assert again.column_names == ["index", "pseudo_label"]
    assert labeler.add_to(again, points, column="cluster").column_names == ["index", "pseudo_label", "cluster"]
    with pytest.raises(ValueError, match=r"the data set has 12 rows, but there are 11 embeddings"):
        labeler.add_to(dataset, points[:11])


def test_same_label_pair_rate_by_counting():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 60)
    batches = np.split(rng.permutation(60), [7, 20, 21, 40])
    pairs = [pair for batch in batches for pair in itertools.combinations(batch.tolist(), 2)]
    expected = sum(labels[a] == labels[b] for a, b in pairs) / len(pairs)
    assert same_label_pair_rate(labels, batches) == pytest.approx(expected, abs=1e-12)


def test_same_label_pair_rate_without_pairs():
    assert same_label_pair_rate(np.array([0, 0]), [[0], [1]]) == 0.0
    assert same_label_pair_rate(np.array([0, 0]), []) == 0.0


def test_strict_batches_never_repeat_a_pseudo_label():
    """The deterministic part of the paper's claim: random > official order > strict = 0."""
    from hf_contrastive import DistinctLabelBatchSampler

    rng = np.random.default_rng(0)
    labels = rng.choice(16, 400, p=np.linspace(1, 4, 16) / np.linspace(1, 4, 16).sum())
    strict = list(DistinctLabelBatchSampler(labels, 8))
    official = list(DistinctLabelBatchSampler(labels, 8, strict=False, reshuffle=False))
    random = np.split(rng.permutation(400), 50)
    rates = [same_label_pair_rate(labels, batches) for batches in (strict, official, random)]
    assert rates[0] == 0.0
    assert rates[0] < rates[1] < rates[2]
