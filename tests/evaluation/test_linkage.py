"""Linkage, clusters and hard negatives against loops over the definitions, and against DBSCAN."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import DBSCAN
from sklearn.metrics import adjusted_rand_score

from hf_contrastive.evaluation import (
    _checks,
    choose_clustering,
    choose_match_threshold,
    clustering_scores,
    link_to_exemplars,
    linkage_accuracy,
    mine_hard_negatives,
    single_link_clusters,
)
from hf_contrastive.tensor_utils import pool_modalities


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def blobs(n: int, kinds: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, kinds, n)
    return rng.normal(size=(kinds, 8))[labels] + noise * rng.normal(size=(n, 8)), labels


# ----------------------------------------------------------------------------------------------------------- links


def test_links_equal_the_loop():
    rng = np.random.default_rng(0)
    queries, exemplars = rng.normal(size=(30, 5)), rng.normal(size=(12, 5))
    names = np.repeat([f"firm {k}" for k in range(6)], 2)
    cosines = unit(queries) @ unit(exemplars).T
    always = link_to_exemplars(queries, exemplars, names, chunk_size=7)
    assert always.rows.tolist() == cosines.argmax(1).tolist()
    np.testing.assert_allclose(always.scores, cosines.max(1), rtol=1e-12)
    assert always.labels.tolist() == names[cosines.argmax(1)].tolist()
    some = link_to_exemplars(queries, exemplars, names, threshold=0.7, no_match="")
    expected = [name if top > 0.7 else "" for name, top in zip(always.labels, cosines.max(1), strict=True)]
    assert some.labels.tolist() == expected
    assert 0 < expected.count("") < 30
    assert some.rows.tolist() == always.rows.tolist()
    numbers = link_to_exemplars(torch.as_tensor(queries).float(), exemplars, threshold=0.7)
    assert numbers.labels.tolist() == np.where(cosines.max(1) > 0.7, cosines.argmax(1), -9).tolist()


def test_a_score_equal_to_the_threshold_is_no_match():
    links = link_to_exemplars([[3.0, 4.0]], [[1.0, 0.0], [-1.0, 0.0]], ["a", "b"], threshold=0.6, no_match="none")
    assert links.scores[0] == 0.6
    assert links.labels.tolist() == ["none"]
    assert link_to_exemplars([[3.0, 4.0]], [[1.0, 0.0]], ["a"], threshold=0.59, no_match="none").labels[0] == "a"


def test_accuracy_with_labels_and_sets():
    assert linkage_accuracy([1, 2, 3, -9], [1, 2, 4, -9]) == 0.75
    assert linkage_accuracy(np.array([1, 2]), torch.tensor([1, 3])) == 0.5
    assert linkage_accuracy([1, 2, 3], [{1, 5}, [7, 2], (4,)]) == pytest.approx(2 / 3)
    assert linkage_accuracy(["a", "bc"], ["a", "b"]) == 0.5
    assert linkage_accuracy(["a", "bc"], [{"a"}, {"b", "bc"}]) == 1.0


def test_best_match_threshold_equals_the_grid():
    rng = np.random.default_rng(1)
    exemplars, truth = rng.normal(size=(15, 6)), rng.integers(-4, 15, 80)
    truth[truth < 0] = -9
    queries = np.where(
        truth[:, None] >= 0, exemplars[truth] + 0.6 * rng.normal(size=(80, 6)), rng.normal(size=(80, 6))
    )
    links = link_to_exemplars(queries, exemplars)
    found = choose_match_threshold(links, truth)
    grid = [step / 100 for step in range(101)]
    accuracies = [linkage_accuracy(link_to_exemplars(queries, exemplars, threshold=t).labels, truth) for t in grid]
    assert found["accuracies"].tolist() == pytest.approx(accuracies)
    assert found["threshold"] == grid[int(np.argmax(accuracies))]
    assert found["accuracy"] == max(accuracies)
    assert min(accuracies) < found["accuracy"]
    sets = [{label} for label in truth]
    assert choose_match_threshold(links, sets, thresholds=[0.2, 0.5])["accuracies"].tolist() == [
        accuracies[20],
        accuracies[50],
    ]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: link_to_exemplars(np.eye(2), np.eye(3)), ValueError, "same encoder"),
        (lambda: link_to_exemplars(np.eye(2), np.eye(2), [1]), ValueError, "`exemplar_labels` has 1 labels"),
        (lambda: link_to_exemplars(np.eye(2), np.eye(2), threshold=np.nan), ValueError, "`threshold` is nan"),
        (
            lambda: link_to_exemplars(np.eye(2), np.eye(2), [1, -9], threshold=0.5),
            ValueError,
            "`exemplar_labels` holds -9, which means no match",
        ),
        (
            lambda: link_to_exemplars(np.eye(2), np.eye(2), ["a", "b"], threshold=0.5),
            TypeError,
            "`no_match` is -9 and the labels have dtype <U1",
        ),
        (lambda: linkage_accuracy([], []), ValueError, "expected one a record, and at least one"),
        (lambda: linkage_accuracy([1, 2], [1]), ValueError, "`predicted` has 2 entries and `true` 1"),
        (lambda: linkage_accuracy([1, 2], [{1}, set()]), ValueError, r"1 records have no right label \(first: 1\)"),
        (lambda: linkage_accuracy([1, 2], [{1}, 2]), ValueError, "`true` mixes labels and collections"),
        (lambda: linkage_accuracy([1, 2], ["1", "2"]), TypeError, "labels of two kinds"),
    ],
)
def test_refusals_of_links(call, error, message):
    with pytest.raises(error, match=message):
        call()


# -------------------------------------------------------------------------------------------------------- clusters


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    return len({*zip(a.tolist(), b.tolist(), strict=True)}) == len(set(a.tolist())) == len(set(b.tolist()))


@pytest.mark.parametrize("chunk_size", [None, 1, 13])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_clusters_are_those_of_dbscan(chunk_size, dtype):
    x, _ = blobs(90, 6, 0.5)
    x = x.astype(dtype)
    thresholds = [0.01, 0.05, 0.1, 0.2, 0.4, 1.0]
    found = single_link_clusters(x, thresholds, chunk_size=chunk_size)
    numbers = set()
    for threshold, clusters in zip(thresholds, found, strict=True):
        expected = DBSCAN(eps=threshold, min_samples=1, metric="cosine").fit_predict(x)
        assert same_partition(clusters, expected)
        assert np.array_equal(single_link_clusters(x, threshold, chunk_size=chunk_size), clusters)
        # numbered by first appearance
        first = [clusters.tolist().index(number) for number in range(clusters.max() + 1)]
        assert first == sorted(first)
        numbers.add(int(clusters.max()))
    assert len(numbers) > 3


def test_a_chain_is_one_cluster():
    angles = np.arange(0, 1.0, 0.1)
    x = np.c_[np.cos(angles), np.sin(angles)]
    step, ends = 1 - np.cos(0.1), 1 - np.cos(0.9)
    assert ends > 50 * step
    assert single_link_clusters(x, 1.01 * step).tolist() == [0] * 10
    assert single_link_clusters(x, 0.99 * step).tolist() == list(range(10))


def test_rows_of_one_direction_are_at_distance_0():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 33)).astype(np.float32)
    twice = np.r_[x, x]
    assert single_link_clusters(twice, 0.0).tolist() == [*range(20), *range(20)]
    assert single_link_clusters(x[:1], 0.5).tolist() == [0]


def test_no_matrix_of_all_pairs_is_kept(monkeypatch):
    """Everything within reach: 1,225 pairs, and a tree of 49 edges between the blocks."""
    from hf_contrastive.evaluation import linkage

    sizes = []
    graph = linkage._graph
    monkeypatch.setattr(linkage, "_graph", lambda left, *rest: sizes.append(len(left)) or graph(left, *rest))
    monkeypatch.setattr(_checks, "BLOCK_ELEMENTS", 5 * 50)
    x, _ = blobs(50, 3, 0.5)
    assert single_link_clusters(x, 2.0).tolist() == [0] * 50
    assert max(sizes) <= 49 + 5 * 50


def test_scores_of_thresholds():
    x, labels = blobs(80, 5, 0.35)
    thresholds = [0.02, 0.1, 0.2, 0.6]
    found = clustering_scores(x, labels, thresholds, chunk_size=11)
    expected = [
        adjusted_rand_score(labels, DBSCAN(eps=t, min_samples=1, metric="cosine").fit_predict(x)) for t in thresholds
    ]
    assert found["ari_per_threshold"].tolist() == pytest.approx(expected)
    assert found["ari"] == max(expected)
    assert found["threshold"] == thresholds[int(np.argmax(expected))]
    assert found["n_clusters"][0] > found["n_clusters"][-1]


def test_weight_and_threshold_are_chosen_together():
    """Images tell the clusters apart, texts are noise: the more weight on the image the better."""
    images, labels = blobs(60, 5, 0.3)
    images, texts = unit(images), unit(np.random.default_rng(9).normal(size=images.shape))
    weights, thresholds = [0.0, 0.5, 1.0], [0.05, 0.1, 0.2]
    found = choose_clustering(images, texts, labels, thresholds=thresholds, image_weights=weights)
    table = [
        clustering_scores(pool_modalities(torch.as_tensor(images), torch.as_tensor(texts), w), labels, thresholds)[
            "ari_per_threshold"
        ]
        for w in weights
    ]
    np.testing.assert_allclose(found["ari_table"], table)
    assert found["ari"] == np.max(table)
    assert found["image_weight"] == 1.0
    assert found["ari_table"][0].max() < 0.2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: single_link_clusters(np.eye(3), -0.1), "`threshold` is -0.1; expected cosine distances from 0 to 2"),
        (lambda: single_link_clusters(np.eye(3), [0.1, 2.5]), "expected cosine distances"),
        (lambda: single_link_clusters(np.eye(3), []), "`threshold` is empty"),
        (lambda: single_link_clusters(np.full((2, 2), np.nan), 0.1), "NaN or infinity"),
        (lambda: clustering_scores(np.eye(3), [0, 1], [0.1]), "`labels` has 2 labels"),
        (
            lambda: choose_clustering(np.eye(3), np.eye(3), [0, 1, 2], thresholds=[0.1], image_weights=[1.1]),
            r"image_weight must be in \[0, 1\], got 1.1",
        ),
        (lambda: choose_clustering(np.eye(3), np.eye(2), [0, 1, 2], thresholds=[0.1]), "they must be equal"),
    ],
)
def test_refusals_of_clusters(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# -------------------------------------------------------------------------------------------------- hard negatives


@pytest.mark.parametrize("k", [1, 2, 4])
def test_hard_negatives_equal_the_loop(k):
    rng = np.random.default_rng(3)
    x, names = rng.normal(size=(12, 4)), rng.permutation(100)[:12]
    found = mine_hard_negatives(x, names, k, chunk_size=5)
    for row in range(12):
        squared = ((x - x[row]) ** 2).sum(1)
        ranking = [row, *sorted((j for j in range(12) if j != row), key=lambda j: (squared[j], j))][:k]
        assert found.rows[row].tolist() == ranking
        assert found.labels[row].tolist() == names[ranking].tolist()
        assert found.squared_distances[row].tolist() == pytest.approx(squared[ranking].tolist(), abs=1e-12)
    assert found.anchor_ids.tolist() == [row for row in range(12) for _ in range(k)]


def test_the_label_itself_comes_first_even_when_another_lies_there_too():
    found = mine_hard_negatives([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], ["a", "b", "c", "d"], 2)
    assert found.labels.tolist() == [["a", "b"], ["b", "a"], ["c", "a"], ["d", "a"]]
    assert found.squared_distances.tolist() == pytest.approx(np.array([[0, 0], [0, 0], [0, 0], [0, 2.0]]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["a", "b", "a"]}, "`labels` holds 'a' 2 times; expected one exemplar"),
        ({"k": 4}, "`k` is 4 but there are only 3 labels"),
        ({"k": 0}, "`k` is 0"),
        ({"labels": [1, 2]}, "`labels` has 2 labels"),
    ],
)
def test_refusals_of_hard_negatives(change, message):
    with pytest.raises(ValueError, match=message):
        mine_hard_negatives(**{"exemplar_x": np.eye(3), "labels": [1, 2, 3], "k": 2, **change})
