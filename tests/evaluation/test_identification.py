"""Identification against a loop over full rankings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_contrastive.evaluation import identification_accuracy, retrieval_metrics


def naive(queries, labels, references, reference_labels, k) -> float:
    hits = []
    for query, label in zip(queries, labels, strict=True):
        scores = references @ query / np.linalg.norm(references, axis=1) / np.linalg.norm(query)
        ranking = sorted(range(len(references)), key=lambda j: (-scores[j], j))
        hits.append(any(reference_labels[j] == label for j in ranking[:k]))
    return float(np.mean(hits))


@pytest.mark.parametrize("chunk_size", [None, 1, 7])
def test_growing_distractors_equal_the_loop(chunk_size):
    rng = np.random.default_rng(0)
    brands = rng.normal(size=(10, 4))
    references, known = np.r_[brands, brands[:3] + 0.2], np.r_[np.arange(10), 0, 1, 2]  # three brands have two
    labels = rng.integers(0, 10, 40)
    queries = brands[labels] + rng.normal(size=(40, 4))
    distractors = rng.normal(size=(50, 4))
    found = identification_accuracy(
        queries,
        labels,
        references,
        known,
        ks=(1, 5),
        distractor_x=torch.as_tensor(distractors),
        distractor_counts=(0, 1, 20, 50),
        chunk_size=chunk_size,
    )
    for m in (0, 1, 20, 50):
        everything, everyone = np.r_[references, distractors[:m]], np.r_[known, np.full(m, -1)]
        for k in (1, 5):
            expected = naive(queries, labels, everything, everyone, k)
            assert found[f"top{k}_with_{m}_distractors"] == pytest.approx(expected)
    assert found["top1"] == found["top1_with_0_distractors"] > found["top1_with_50_distractors"]
    assert (found["n_queries"], found["n_references"]) == (40, 13)


def test_default_numbers_of_distractors():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(4, 3))
    found = identification_accuracy(x, range(4), x, range(4), ks=(1,), distractor_x=rng.normal(size=(7, 3)))
    assert [name for name in found if "with" in name] == [f"top1_with_{m}_distractors" for m in (0, 3, 7)]
    assert found["top1_with_7_distractors"] == 1.0


def test_it_is_recall_where_every_query_has_an_answer():
    rng = np.random.default_rng(2)
    queries, gallery = rng.normal(size=(20, 5)), rng.normal(size=(60, 5))
    labels, known = rng.integers(0, 6, 20), np.repeat(np.arange(6), 10)
    for metric in ("cosine", "euclidean"):
        found = identification_accuracy(queries, labels, gallery, known, ks=(1, 3), metric=metric)
        same = retrieval_metrics(queries, gallery, query_labels=labels, gallery_labels=known, ks=(1, 3), metric=metric)
        assert [found["top1"], found["top3"]] == pytest.approx([same["recall@1"], same["recall@3"]])


def test_ties():
    """The lower reference ranks first, and a reference before a distractor at the same place."""
    query, references = [[1.0, 0.0]], [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    assert identification_accuracy(query, ["b"], references, ["a", "b", "c"], ks=(1, 2)) == {
        "top1": 0.0,
        "top2": 1.0,
        "n_queries": 1,
        "n_references": 3,
        "metric": "cosine",
    }
    found = identification_accuracy(query, ["a"], references, ["a", "b", "c"], ks=(1,), distractor_x=[[1.0, 0.0]])
    assert found["top1_with_1_distractors"] == 1.0


def test_a_query_without_a_reference_counts_as_wrong():
    with pytest.warns(UserWarning, match="1 of 2 queries have a label without any reference"):
        found = identification_accuracy(
            [[1.0, 0.0], [0.0, 1.0]], ["a", "z"], [[1.0, 0.0], [0.0, 1.0]], ["a", "b"], ks=(1, 2)
        )
    assert (found["top1"], found["top2"]) == (0.5, 0.5)


X = np.eye(3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ks": (4,)}, r"`ks` is \[4\]; expected numbers from 1 to 3"),
        ({"ks": ()}, "expected numbers from 1 to 3"),
        ({"ks": (0,)}, "`ks` is 0"),
        (
            {"distractor_x": X, "distractor_counts": (4,)},
            r"`distractor_counts` is \[4\]; expected whole numbers from 0 to 3",
        ),
        ({"distractor_x": X, "distractor_counts": (-1,)}, "`distractor_counts`"),
        ({"distractor_counts": (1,)}, "`distractor_counts` says how many of `distractor_x`"),
        ({"distractor_x": np.ones((2, 4))}, "same encoder"),
        ({"query_labels": [0, 1]}, "`query_labels` has 2 labels"),
        ({"metric": "dot"}, "`metric` is 'dot'"),
    ],
)
def test_refusals(change, message):
    call = {"query_x": X, "query_labels": [0, 1, 2], "reference_x": X, "reference_labels": [0, 1, 2], "ks": (1,)}
    with pytest.raises(ValueError, match=message):
        identification_accuracy(**{**call, **change})
