"""kNN against scikit-learn and a loop; determinism, invariances, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from hf_contrastive.evaluation import knn_accuracy, knn_predict, nearest_neighbours, one_shot_accuracy
from hf_contrastive.tensor_utils import top_k


def make_data(seed: int = 0, n: int = 120, dim: int = 6, classes: int = 4):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    rows = rng.normal(size=(classes, dim))[labels] + rng.normal(size=(n, dim))
    return rows[:80], labels[:80], rows[80:], labels[80:]


def naive_weighted(train, labels, test, k, temperature):
    """The memory-bank vote, row by row."""
    predictions = []
    for row in test:
        cosines = [row @ other / np.linalg.norm(row) / np.linalg.norm(other) for other in train]
        nearest = sorted(range(len(train)), key=lambda j: (-cosines[j], j))[:k]
        votes = {}
        for j in nearest:
            votes[labels[j]] = votes.get(labels[j], 0.0) + np.exp(cosines[j] / temperature)
        predictions.append(max(sorted(votes), key=votes.get))
    return np.array(predictions)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("k", [1, 2, 7, 80])
def test_uniform_vote_equals_scikit_learn(metric, k):
    train, labels, test, _ = make_data()
    expected = KNeighborsClassifier(k, metric=metric, algorithm="brute").fit(train, labels).predict(test)
    assert (knn_predict(train, labels, test, k=k, metric=metric) == expected).all()


def test_temperature_vote_equals_the_loop_and_differs_from_the_uniform_one():
    train, labels, test, _ = make_data(3)
    weighted = knn_predict(train, labels, test, k=40, weighting="temperature", temperature=0.1)
    assert (weighted == naive_weighted(train, labels, test, 40, 0.1)).all()
    assert (weighted != knn_predict(train, labels, test, k=40)).any()


def test_temperature_limits():
    train, labels, test, _ = make_data(4)
    nearest = knn_predict(train, labels, test, k=1)
    cold = knn_predict(train, labels, test, k=80, weighting="temperature", temperature=1e-6)
    hot = knn_predict(train, labels, test, k=80, weighting="temperature", temperature=1e6)
    assert (cold == nearest).all()  # and no weight overflowed
    assert (hot == np.bincount(labels).argmax()).all()


def test_euclidean_temperature_vote_is_the_cosine_one_on_unit_vectors():
    train, labels, test, _ = make_data(5)
    train /= np.linalg.norm(train, axis=1, keepdims=True)
    test /= np.linalg.norm(test, axis=1, keepdims=True)
    kwargs = {"k": 30, "weighting": "temperature", "temperature": 0.2}
    assert (
        knn_predict(train, labels, test, metric="euclidean", **kwargs) == knn_predict(train, labels, test, **kwargs)
    ).all()


def test_invariances():
    train, labels, test, _ = make_data(6)
    base = knn_predict(train, labels, test, k=9)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
    scales = np.random.default_rng(1).uniform(0.1, 10, size=(80, 1))
    order = np.random.default_rng(2).permutation(80)
    assert (knn_predict(train @ rotation, labels, test @ rotation, k=9) == base).all()
    assert (knn_predict(train * scales, labels, test, k=9) == base).all()
    assert (knn_predict(train[order], labels[order], test, k=9) == base).all()
    assert (knn_predict(train, labels, test, k=9, chunk_size=7) == base).all()
    shifted = knn_predict(train + 3, labels, test + 3, k=9, metric="euclidean")
    assert (shifted == knn_predict(train, labels, test, k=9, metric="euclidean")).all()


def test_equal_distances_take_the_lower_row_and_equal_votes_the_first_class():
    train = np.ones((10, 2))
    labels = np.array([5, 5, 3, 3, 1, 1, 1, 1, 1, 1])
    test = np.ones((1, 2))
    assert nearest_neighbours(test, train, k=4)[1].tolist() == [[0, 1, 2, 3]]
    assert knn_predict(train, labels, test, k=3).tolist() == [5]  # rows 0 1 2
    assert knn_predict(train, labels, test, k=4).tolist() == [3]  # two votes each, 3 < 5


def test_ties_at_the_edge_after_a_clear_winner():
    train = np.array([[0.0], [2.0], [2.0], [1.0], [2.0]])
    distances, rows = nearest_neighbours([[0.0]], train, k=3, metric="euclidean")
    assert rows.tolist() == [[0, 3, 1]]
    assert distances.tolist() == [[0.0, -1.0, -2.0]]  # minus the distance


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_equal_rows_tie_whatever_the_block(dtype, metric):
    """The same image three times: a matrix product alone gives its columns scores that differ in the last digit."""
    generator = torch.Generator().manual_seed(0)
    gallery = torch.randn(50, 33, generator=generator, dtype=dtype).repeat(3, 1)
    query = torch.randn(41, 33, generator=generator, dtype=dtype)
    for chunk_size in (None, 1, 2, 3, 7):
        scores, rows = nearest_neighbours(query, gallery, k=150, metric=metric, chunk_size=chunk_size)
        assert (np.diff(rows.reshape(41, 50, 3), axis=2) == 50).all()
        assert (np.diff(scores.reshape(41, 50, 3), axis=2) == 0).all()


def test_accuracy_several_k_protocol_and_kinds_of_input():
    train, labels, test, answers = make_data(7)
    result = knn_accuracy(train, labels, test, answers, k=5, ks=(1, 11))
    for key, k in {"knn_top1": 5, "knn_top1_k1": 1, "knn_top1_k11": 11}.items():
        assert result[key] == (knn_predict(train, labels, test, k=k) == answers).mean()
    assert {key: result[key] for key in ("k", "weighting", "metric", "n_train", "n_test")} == {
        "k": 5,
        "weighting": "uniform",
        "metric": "cosine",
        "n_train": 80,
        "n_test": 40,
    }
    as_tensors = [torch.as_tensor(value) for value in (train, labels, test, answers)]
    assert knn_accuracy(*as_tensors, k=5, ks=(1, 11)) == result
    names = np.array(["a", "b", "c", "d"])
    assert knn_accuracy(train, names[labels], test, list(names[answers]), k=5, ks=(1, 11)) == result


def test_half_precision_input_and_autocast_do_not_round_the_scores():
    train, _, test, _ = make_data(8)
    exact = nearest_neighbours(test.astype(np.float32), train.astype(np.float32), k=5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = nearest_neighbours(test.astype(np.float32), train.astype(np.float32), k=5)
    assert (exact[0] == inside[0]).all()
    halved = torch.as_tensor(test, dtype=torch.bfloat16)
    same = nearest_neighbours(halved, torch.as_tensor(train), k=5)
    assert (same[1] == nearest_neighbours(halved.double(), train, k=5)[1]).all()


def test_neighbours_of_a_set_in_itself_leave_the_row_out():
    rows = make_data(9)[0]
    scores, found = nearest_neighbours(rows, k=79)
    assert all(i not in found[i] for i in range(80))
    assert (np.diff(scores, axis=1) <= 0).all()
    assert (nearest_neighbours(rows, rows, k=1)[1][:, 0] == np.arange(80)).all()


def test_unseen_test_class_counts_as_wrong():
    train, labels, test, answers = make_data(10)
    answers = answers.copy()
    answers[:10] = 99
    with pytest.warns(UserWarning, match="10 of 40 test rows have a class that does not occur"):
        result = knn_accuracy(train, labels, test, answers, k=3)
    assert result["knn_top1"] == (knn_predict(train, labels, test, k=3) == answers).mean() <= 0.75


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 81}, "`k` is 81 but there are only 80 training rows"),
        ({"k": 0}, "`k` is 0; expected a whole number"),
        ({"k": 2.5}, "`k` is 2.5; expected a whole number"),
        ({"ks": (1, 200)}, "`k` is 200 but"),
        ({"weighting": "distance"}, "`weighting` is 'distance'; expected one of 'uniform', 'temperature'"),
        ({"metric": "dot"}, "`metric` is 'dot'"),
        ({"temperature": 0}, "`temperature` is 0; expected a finite number above 0"),
        ({"train_y": np.zeros(80, int)}, "`train_y` holds one class only"),
        ({"train_y": np.zeros(79, int)}, "`train_y` has 79 labels but `train_x` has 80 rows"),
        ({"train_y": np.full(80, 0.5)}, "fractions or NaN"),
        ({"test_x": np.zeros((40, 5))}, "`train_x` has 6 features a row and `test_x` has 5"),
        ({"test_x": np.zeros((0, 6))}, "`test_x` is empty"),
        ({"test_x": np.zeros(6)}, r"`test_x` has shape \[6\]; expected \[rows, features\]"),
        ({"test_x": np.r_[np.full((2, 6), np.nan), np.zeros((38, 6))]}, "`test_x`: 2 of 40 rows hold NaN"),
        ({"train_x": np.full((80, 6), np.inf)}, "`train_x`: 80 of 80 rows hold NaN or infinity"),
    ],
)
def test_refusals(change, message):
    train, labels, test, answers = make_data()
    call = {"train_x": train, "train_y": labels, "test_x": test, "test_y": answers, "k": 5, **change}
    with pytest.raises(ValueError, match=message):
        knn_accuracy(**call)


def test_labels_of_two_kinds_are_refused():
    train, labels, test, answers = make_data()
    with pytest.raises(TypeError, match="labels of two kinds"):
        knn_accuracy(train, labels, test, answers.astype(str), k=1)
    with pytest.raises(TypeError, match="a missing label is not"):
        knn_accuracy(train, [None] * 80, test, answers, k=1)


def test_one_shot_accuracy_by_hand():
    support = np.array([[[1, 0], [0, 1]], [[1, 1], [-1, 1]]], dtype=float)
    query = np.array([[[2, 1], [1, 2], [3, 0]], [[0, -1], [-5, 4], [1, 0]]], dtype=float)
    # run 0: nearest 0, 1, 0; run 1: (0, -1) is equally far from both -> 0, then 1, 0
    result = one_shot_accuracy(support, query, np.array([[0, 1, 1], [0, 1, 0]]))
    assert result["per_run"] == pytest.approx([2 / 3, 1.0])
    assert result["accuracy"] == pytest.approx(5 / 6)
    assert (result["chance"], result["n_runs"], result["n_ways"], result["n_queries"]) == (0.5, 2, 2, 6)


def test_one_shot_refusals():
    support, query = np.ones((2, 3, 4)), np.ones((2, 5, 4))
    with pytest.raises(ValueError, match="expected 0 to 2"):
        one_shot_accuracy(support, query, np.full((2, 5), 3))
    with pytest.raises(ValueError, match=r"expected integers of shape \[2, 5\]"):
        one_shot_accuracy(support, query, np.zeros((2, 4), int))
    with pytest.raises(ValueError, match="number of runs"):
        one_shot_accuracy(support, query[:1], np.zeros((1, 5), int))
    with pytest.raises(ValueError, match="1 of 6 rows hold NaN"):
        one_shot_accuracy(np.where(np.arange(24).reshape(2, 3, 4) == 5, np.nan, 1.0), query, np.zeros((2, 5), int))


@pytest.mark.parametrize("width", [128, 391, 1000])
@pytest.mark.parametrize("kind", ["different", "many equal", "hardly any left"])
def test_top_k_of_wide_rows_is_that_of_a_full_sort(width, kind):
    """Wide rows are searched in groups of columns; of equal scores the lower column still wins."""
    generator = torch.Generator().manual_seed(width)
    scores = torch.randn(40, width, generator=generator)
    if kind == "many equal":
        scores = scores.round()
        scores[3] = 0.0
    if kind == "hardly any left":
        scores[torch.rand(scores.shape, generator=generator) < 0.98] = -torch.inf
        scores[5] = -torch.inf
    for k in (1, 3):
        values, columns = top_k(scores.clone(), k)
        expected = scores.sort(dim=1, descending=True, stable=True)
        assert torch.equal(values, expected.values[:, :k])
        assert torch.equal(columns, expected.indices[:, :k])
