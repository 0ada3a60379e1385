"""Full-ranking metrics against their formulas user by user, and what bad input gets."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hf_contrastive.evaluation import rank_items, recommendation_metrics
from hf_contrastive.evaluation.recommendation import RANKING_METRICS


def naive(scores, relevant, exclude, ks):
    """One user at a time, in plain Python."""
    wanted, hidden = ({}, {})
    for table, pairs in ((wanted, relevant), (hidden, exclude)):
        for user, item in pairs:
            table.setdefault(user, set()).add(item)
    sums = {f"{name}@{k}": 0.0 for name in RANKING_METRICS for k in ks}
    everything = 0
    for user, targets in wanted.items():
        everything += len(targets)
        left = [item for item in range(len(scores[user])) if item not in hidden.get(user, ())]
        ranked = sorted(left, key=lambda item: (-scores[user][item], item))
        for k in ks:
            hits = [int(item in targets) for item in ranked[:k]]
            best = sum(1 / math.log2(place + 2) for place in range(min(k, len(targets))))
            sums[f"recall@{k}"] += sum(hits) / len(targets)
            sums[f"recall_micro@{k}"] += sum(hits)
            sums[f"precision@{k}"] += sum(hits) / k
            sums[f"hit@{k}"] += float(any(hits))
            sums[f"mrr@{k}"] += 1 / (hits.index(1) + 1) if any(hits) else 0.0
            sums[f"ndcg@{k}"] += sum(hit / math.log2(place + 2) for place, hit in enumerate(hits)) / best
            found = [hit * sum(hits[: place + 1]) / (place + 1) for place, hit in enumerate(hits)]
            sums[f"map@{k}"] += sum(found) / min(k, len(targets))
    return {
        name: value / (everything if name.startswith("recall_micro") else len(wanted)) for name, value in sums.items()
    }


def example(seed: int = 0, users: int = 12, items: int = 30):
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(users, items))
    kind = rng.random((users, items))
    relevant, exclude = np.argwhere(kind < 0.15), np.argwhere(kind > 0.6)
    return scores, relevant[relevant[:, 0] != 3], exclude  # user 3 has nothing relevant


@pytest.mark.parametrize("chunk_size", [None, 1, 5])
def test_against_the_formulas(chunk_size):
    scores, relevant, exclude = example()
    ks = (1, 3, 10, 30)
    found = recommendation_metrics(
        scores, relevant=relevant, exclude=exclude, ks=ks, metrics=RANKING_METRICS, chunk_size=chunk_size
    )
    for name, value in naive(scores, relevant, exclude, ks).items():
        assert found[name] == pytest.approx(value, rel=1e-12), name
    assert (found["n_users"], found["n_items"], found["users_without_relevant"]) == (11, 30, 1)


def test_vectors_are_scores():
    scores, relevant, exclude = example()
    rng = np.random.default_rng(1)
    users, items = rng.normal(size=(12, 4)), rng.normal(size=(30, 4))
    options = {"relevant": relevant, "exclude": exclude, "ks": (5,), "metrics": RANKING_METRICS}
    assert recommendation_metrics(users, items, **options) == pytest.approx(
        recommendation_metrics(users @ items.T, **options), rel=1e-12
    )
    assert not np.allclose(scores, users @ items.T)


def test_excluded_items_are_never_found():
    # the user has seen all but one item: the list is longer than what is left
    found = recommendation_metrics(
        [[3.0, 2.0, 1.0]], relevant=[(0, 0), (0, 2)], exclude=[(0, 0), (0, 1)], ks=[3], metrics=["recall", "mrr"]
    )
    assert (found["recall@3"], found["mrr@3"]) == (0.5, 1.0)
    scores, items = rank_items([[3.0, 2.0, 1.0]], k=3, exclude=[(0, 0), (0, 1)])
    assert items.tolist() == [[2, -1, -1]]
    assert scores.tolist() == [[1.0, -np.inf, -np.inf]]


def test_equal_scores_rank_by_number():
    scores = np.zeros((3, 50))
    scores[1, 7] = scores[1, 31] = 1.0
    _, items = rank_items(scores, k=4, exclude=[(2, 0), (2, 2)])
    assert items.tolist() == [[0, 1, 2, 3], [7, 31, 0, 1], [1, 3, 4, 5]]


def test_only_some_users():
    scores, relevant, exclude = example()
    found = recommendation_metrics(scores, relevant=relevant, exclude=exclude, users=[5, 3, 8], ks=[10])
    part = relevant[np.isin(relevant[:, 0], (5, 8))]
    expected = naive(scores, part.tolist(), exclude.tolist(), (10,))
    assert found["recall@10"] == pytest.approx(expected["recall@10"], rel=1e-12)
    assert (found["n_users"], found["users_without_relevant"]) == (2, 1)


def test_half_precision_around_it_changes_nothing():
    rng = np.random.default_rng(2)
    users, items = (torch.as_tensor(rng.normal(size=(rows, 16)), dtype=torch.float32) for rows in (4, 300))
    expected = rank_items(users, items, k=20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = rank_items(users, items, k=20)
    assert np.array_equal(found[0], expected[0])
    assert np.array_equal(found[1], expected[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ks": [31]}, "first 31 items, but the catalogue has 30"),
        ({"metrics": ["auc"]}, "metrics out of recall, ndcg"),
        ({"relevant": [(0, 30)]}, "`relevant` names item 30 to 30; there are 0 to 29"),
        ({"exclude": [(12, 0)]}, "`exclude` names user row 12 to 12; there are 0 to 11"),
        ({"relevant": [(0.5, 1.0)]}, r"`relevant` has shape \[1, 2\] and dtype float64"),
        ({"relevant": []}, "no user has a relevant item"),
        ({"users": [3]}, "no user has a relevant item"),
        ({"users": [12]}, "`users` names row 12 to 12"),
    ],
)
def test_bad_input(options, message):
    scores, relevant, exclude = example()
    with pytest.raises(ValueError, match=message):
        recommendation_metrics(scores, **{"relevant": relevant, "exclude": exclude, "ks": [5], **options})


def test_scores_that_are_not_finite():
    scores, relevant, _ = example()
    scores[2, 2] = np.nan
    with pytest.raises(ValueError, match="`user_x`: 1 of 12 rows hold NaN or infinity"):
        recommendation_metrics(scores, relevant=relevant, ks=[5])
    with pytest.raises(ValueError, match="`k` is 31, but the catalogue has 30 items"):
        rank_items(example()[0], k=31)
