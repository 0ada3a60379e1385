"""Retrieval measures against a loop over the definitions, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_contrastive.evaluation import nearest_neighbours, paired_retrieval_metrics, retrieval_metrics


def naive(query, gallery, relevant, ks, exclude_self=False):
    """Straight from the definitions; `relevant[q]` is a set of gallery rows."""
    totals = {**{f"recall@{k}": [] for k in ks}, "map@r": [], "r_precision": [], "mrr": []}
    for q, row in enumerate(query):
        wanted = relevant[q] - ({q} if exclude_self else set())
        if not wanted:
            continue
        scores = gallery @ row / np.linalg.norm(row) / np.linalg.norm(gallery, axis=1)
        ranking = sorted(
            (j for j in range(len(gallery)) if not (exclude_self and j == q)), key=lambda j: (-scores[j], j)
        )
        for k in ks:
            totals[f"recall@{k}"].append(any(j in wanted for j in ranking[:k]))
        r = len(wanted)
        precisions = [sum(j in wanted for j in ranking[: i + 1]) / (i + 1) for i in range(r)]
        totals["map@r"].append(sum(p for p, j in zip(precisions, ranking, strict=False) if j in wanted) / r)
        totals["r_precision"].append(precisions[-1])
        totals["mrr"].append(1 / (1 + next(i for i, j in enumerate(ranking) if j in wanted)))
    return {key: float(np.mean(values)) for key, values in totals.items()}


def check(result, expected):
    assert {key: result[key] for key in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("chunk_size", [None, 1, 7])
def test_self_retrieval_equals_the_loop(chunk_size):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, 60)
    labels[0] = 77  # a class of one: no relevant row
    z = rng.normal(size=(7, 60))[labels % 7].T[:60].T * 0.5 + rng.normal(size=(60, 60)) * 0.5
    z = z[:, :5]
    relevant = [set(np.flatnonzero(labels == label)) for label in labels]
    result = retrieval_metrics(z, query_labels=labels, ks=(1, 3, 10), chunk_size=chunk_size)
    check(result, naive(z, z, relevant, (1, 3, 10), exclude_self=True))
    assert (result["n_queries"], result["queries_without_relevant"], result["n_gallery"]) == (59, 1, 60)
    assert 0.05 < result["map@r"] < 0.95


def test_gallery_with_labels_and_with_pairs_equal_the_loop():
    rng = np.random.default_rng(1)
    query, gallery = rng.normal(size=(20, 4)), rng.normal(size=(35, 4))
    left, right = rng.integers(0, 5, 20), rng.integers(0, 5, 35)
    relevant = [set(np.flatnonzero(right == label)) for label in left]
    expected = naive(query, gallery, relevant, (1, 5))
    check(retrieval_metrics(query, gallery, query_labels=left, gallery_labels=right, ks=(1, 5)), expected)
    pairs = [(q, g) for q in range(20) for g in relevant[q]]
    rng.shuffle(pairs)
    check(retrieval_metrics(query, gallery, relevant_pairs=pairs, ks=(1, 5), chunk_size=3), expected)
    check(
        retrieval_metrics(torch.as_tensor(query), torch.as_tensor(gallery), relevant_pairs=np.array(pairs)), expected
    )


def test_map_at_r_by_hand():
    # query along x; gallery in the order of the ranking; relevant: ranks 1 and 3 of R = 3 (third relevant at rank 5)
    angles = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    gallery = np.c_[np.cos(angles), np.sin(angles)]
    result = retrieval_metrics([[1.0, 0.0]], gallery, query_labels=[1], gallery_labels=[1, 0, 1, 0, 1], ks=(1, 2))
    assert result["map@r"] == pytest.approx((1 + 0 + 2 / 3) / 3)
    assert result["r_precision"] == pytest.approx(2 / 3)
    assert result["mrr"] == 1.0
    late = retrieval_metrics([[1.0, 0.0]], gallery, query_labels=[1], gallery_labels=[0, 0, 0, 1, 0], ks=(1, 4))
    assert (late["recall@1"], late["recall@4"], late["mrr"], late["map@r"]) == (0.0, 1.0, 0.25, 0.0)


def test_perfect_and_collapsed_embeddings():
    labels = np.repeat(np.arange(5), 4)
    perfect = retrieval_metrics(np.eye(5)[labels], query_labels=labels, ks=(1,))
    assert perfect["map@r"] == perfect["recall@1"] == perfect["mrr"] == 1.0
    collapsed = retrieval_metrics(np.ones((20, 3)), query_labels=labels, ks=(1,))
    # all scores equal: every query gets row 0 (row 0 gets row 1), so only class 0 is right
    assert collapsed["recall@1"] == pytest.approx(4 / 20)


def test_invariances():
    rng = np.random.default_rng(2)
    z, labels = rng.normal(size=(40, 6)), rng.integers(0, 4, 40)
    base = retrieval_metrics(z, query_labels=labels)
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    order = rng.permutation(40)
    for other in (
        retrieval_metrics(z @ rotation * 3, query_labels=labels),
        retrieval_metrics(z[order], query_labels=labels[order]),
        retrieval_metrics(z, z, query_labels=labels, gallery_labels=labels, exclude_self=True),
        retrieval_metrics(z, query_labels=labels.astype(str)),
    ):
        assert other == pytest.approx(base)
    assert retrieval_metrics(z, z, query_labels=labels, gallery_labels=labels)["recall@1"] == 1.0  # finds itself


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_labels": None}, "tell what is relevant"),
        ({"relevant_pairs": [(0, 1)]}, "tell what is relevant"),
        ({"query_labels": np.zeros(10, int)}, "one class only"),
        ({"query_labels": np.arange(10)}, "no query has a relevant row"),
        ({"query_labels": np.arange(9)}, "`query_labels` has 9 labels but `query_x` has 10 rows"),
        ({"ks": (1, 10)}, "`ks` asks for 10 neighbours but only 9"),
        ({"ks": (0,)}, "`ks` is 0"),
        ({"gallery_x": np.ones((10, 3))}, "came without `gallery_labels`"),
        ({"gallery_x": np.ones((9, 3)), "exclude_self": True}, "`exclude_self` needs the gallery to be the queries"),
        ({"query_labels": None, "relevant_pairs": [(0, 10)]}, "names gallery rows 10 to 10; there are rows 0 to 9"),
        ({"query_labels": None, "relevant_pairs": [(0, 1, 2)]}, r"\[pairs, 2\]"),
        ({"query_labels": None, "relevant_pairs": []}, r"\[pairs, 2\]"),
        ({"query_labels": None, "relevant_pairs": np.zeros((0, 2), int)}, "at least one pair"),
        ({"metric": "dot"}, "`metric` is 'dot'"),
    ],
)
def test_refusals(change, message):
    call = {"query_x": np.eye(10)[:, :3] + 0.1, "query_labels": np.arange(10) % 3, "ks": (1,), **change}
    with pytest.raises(ValueError, match=message):
        retrieval_metrics(**call)


def test_map_at_k_divides_by_k_and_precision_is_micro_f1():
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, 30)
    labels[7] = 99  # nothing is relevant to it: it counts with 0
    z = rng.normal(size=(4, 5))[labels % 4] + rng.normal(size=(30, 5))
    found = retrieval_metrics(
        z, query_labels=labels, ks=(1,), precision_ks=(1, 3, 29), metric="euclidean", chunk_size=7
    )
    for k in (1, 3, 29):
        rows = nearest_neighbours(z, k=k, metric="euclidean")[1]
        hit = labels[rows] == labels[:, None]
        by_hand = np.mean([sum(hit[q, : r + 1].mean() for r in range(k) if hit[q, r]) / k for q in range(30)])
        assert found[f"map@{k}"] == pytest.approx(by_hand, abs=1e-12)
        f1 = f1_score(np.repeat(labels, k), labels[rows].flatten(), average="micro")
        assert found[f"precision@{k}"] == pytest.approx(f1, abs=1e-12)
    assert "map@5" not in retrieval_metrics(z, query_labels=labels, ks=(5,))
    with pytest.raises(ValueError, match="`precision_ks` asks for 30 neighbours but only 29"):
        retrieval_metrics(z, query_labels=labels, precision_ks=(30,))


@pytest.mark.parametrize("chunk_size", [None, 3])
def test_a_table_of_several_labels_a_row(chunk_size):
    """The protocol of CheXpert 8x200: a candidate is relevant when its column for the query's class is 1."""
    rng = np.random.default_rng(4)
    queries, gallery = rng.normal(size=(12, 5)), rng.normal(size=(40, 5))
    classes, table = rng.integers(0, 4, 12), (rng.random((40, 4)) < 0.3).astype(int)
    table[:, 3] = 0
    classes[0] = 3  # a class that no candidate has
    options = {"ks": (1, 5), "precision_ks": (1, 5, 40), "chunk_size": chunk_size}
    found = retrieval_metrics(queries, gallery, query_labels=classes, gallery_labels=table, per_query=True, **options)
    ranking = nearest_neighbours(queries, gallery, k=40)[1]
    hit = np.stack([table[rows, label] for rows, label in zip(ranking, classes, strict=True)])
    for k in (1, 5, 40):
        assert found[f"precision@{k}"] == pytest.approx(hit[:, :k].mean())
    valid = classes != 3
    np.testing.assert_allclose(found["per_query"]["precision@5"], hit[:, :5].mean(1))
    assert np.isnan(found["per_query"]["recall@5"]).tolist() == (~valid).tolist()
    assert found["queries_without_relevant"] == (~valid).sum() > 0
    pairs = [(q, g) for q in range(12) for g in range(40) if table[g, classes[q]]]
    same = retrieval_metrics(queries, gallery, relevant_pairs=pairs, **options)
    assert {name: found[name] for name in same} == same
    assert (
        retrieval_metrics(
            queries,
            gallery,
            query_labels=torch.as_tensor(classes),
            gallery_labels=torch.as_tensor(table) > 0,
            **options,
        )
        == same
    )


@pytest.mark.parametrize("exclude_self", [False, True])
def test_average_precision_over_the_whole_ranking(exclude_self):
    rng = np.random.default_rng(5)
    labels = np.r_[rng.integers(0, 5, 50), 99]
    z = rng.normal(size=(30, 4))[rng.integers(0, 30, 51)]  # with ties: rows that come several times
    found = retrieval_metrics(
        z,
        query_labels=labels,
        ks=(1,),
        average_precision=True,
        per_query=True,
        exclude_self=exclude_self,
        chunk_size=8,
    )
    values = []
    for q in range(51):
        ranking = nearest_neighbours(z[q : q + 1], z, k=51)[1][0]
        hit = [labels[j] == labels[q] for j in ranking if not (exclude_self and j == q)]
        precisions = [sum(hit[: i + 1]) / (i + 1) for i in range(len(hit)) if hit[i]]
        values.append(np.mean(precisions) if precisions else np.nan)
    np.testing.assert_allclose(found["per_query"]["map"], values, rtol=1e-12)
    assert np.isnan(values).sum() == exclude_self
    assert found["map"] == pytest.approx(np.nanmean(values))
    assert found["map@r"] < found["map"]
    assert "map" not in retrieval_metrics(z, query_labels=labels, ks=(1,))


def test_values_of_queries_average_to_the_measures():
    rng = np.random.default_rng(6)
    z, labels = rng.normal(size=(30, 4)), rng.integers(0, 4, 30)
    found = retrieval_metrics(z, query_labels=labels, ks=(1, 5), precision_ks=(3,), per_query=True, chunk_size=7)
    values = found["per_query"]
    for name in ("recall@1", "recall@5", "map@3", "precision@3", "map@r", "r_precision"):
        assert values[name].shape == (30,)
        assert found[name] == pytest.approx(values[name].mean())
    assert found["mrr"] == pytest.approx((1 / values["rank"]).mean())
    assert found["median_rank"] == np.median(values["rank"])
    plain = retrieval_metrics(z, query_labels=labels, ks=(1, 5), precision_ks=(3,))
    assert plain == {name: value for name, value in found.items() if name != "per_query"}


def test_pairs_of_two_modalities():
    rng = np.random.default_rng(7)
    texts = rng.normal(size=(31, 6))
    clips = texts + 1.5 * rng.normal(size=(31, 6))
    found = paired_retrieval_metrics(texts, clips, ks=(1, 5), chunk_size=4)
    cosines = (texts / np.linalg.norm(texts, axis=1)[:, None]) @ (clips / np.linalg.norm(clips, axis=1)[:, None]).T
    for direction, scores in (("x_to_y", cosines), ("y_to_x", cosines.T)):
        ranks = 1 + (scores > np.diag(scores)[:, None]).sum(1)
        assert found[f"{direction}/recall@1"] == pytest.approx((ranks <= 1).mean())
        assert found[f"{direction}/recall@5"] == pytest.approx((ranks <= 5).mean())
        assert found[f"{direction}/median_rank"] == np.median(ranks)
        assert found[f"{direction}/mrr"] == pytest.approx((1 / ranks).mean())
    assert found["n_pairs"] == 31
    even = paired_retrieval_metrics(texts[:2], clips[:2], ks=(1,))
    assert even["x_to_y/median_rank"] in (1.0, 1.5, 2.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"gallery_labels": np.ones((9, 2))},
            r"`gallery_labels` has shape \[9, 2\]; expected \[10\] or \[10, classes\]",
        ),
        ({"gallery_labels": np.full((10, 3), 2)}, "other values than 0 and 1"),
        ({"gallery_labels": np.ones((10, 2), int)}, "integers from 0 to 1; got 0 to 2"),
        (
            {"gallery_labels": np.ones((10, 3), int), "query_labels": list("abcabcabca")},
            "integers from 0 to 2; got a to c",
        ),
        ({"gallery_labels": np.zeros((10, 3), int)}, "no query has a relevant row"),
    ],
)
def test_refusals_of_tables(change, message):
    x = np.eye(10)[:, :3] + 0.1
    call = {"query_x": x, "gallery_x": x, "query_labels": np.arange(10) % 3, "ks": (1,), **change}
    with pytest.raises(ValueError, match=message):
        retrieval_metrics(**call)


def test_refusals_of_pairs():
    with pytest.raises(ValueError, match="they must be equal"):
        paired_retrieval_metrics(np.eye(3), np.eye(3)[:2])
    with pytest.raises(ValueError, match="`ks` asks for 10 neighbours but only 3"):
        paired_retrieval_metrics(np.eye(3), np.eye(3))
