"""Positives and negatives out of a clustered bank: never the own cluster, uniform, no endless search."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from hf_contrastive.modules import bank_sampling
from hf_contrastive.modules.bank_sampling import SAMPLINGS, draw_other_rows, draw_same_cluster, sample_negatives
from hf_contrastive.modules.keyed_random import KeyedDraws


L, N = 60, 5


def setting(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    features = normalize(torch.randn(L, 6, generator=generator), dim=1)
    labels = torch.randint(0, 4, (L,), generator=generator)
    query = torch.randn(N, 6, generator=generator)
    index = torch.randperm(L, generator=generator)[:N]
    return features, labels, query, labels[index], KeyedDraws(seed, 3, index)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_negatives_are_of_other_clusters_and_where_they_should_be(sampling):
    features, labels, query, own, draws = setting()
    found = sample_negatives(query, features, labels, own, 12, sampling, pool_size=30, draws=draws)
    assert found.shape == (N, 12)
    assert not bool((labels[found] == own[:, None]).any())
    similarity = normalize(query, dim=1) @ features.T
    for row in range(N):
        order = similarity[row].argsort(descending=True).tolist()
        other = [number for number in order if labels[number] != own[row]]
        if sampling == "hard":
            assert found[row].tolist() == other[:12]
        elif sampling == "semihard":
            assert set(found[row].tolist()) <= set(order[:30])
            assert len(set(found[row].tolist())) == 12
        elif sampling == "semieasy":
            assert set(found[row].tolist()) <= set(order[-30:])
            assert len(set(found[row].tolist())) == 12
    again = sample_negatives(query, features, labels, own, 12, sampling, pool_size=30, draws=draws)
    assert torch.equal(found, again)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_queries_by_chunks_and_alone(sampling, monkeypatch):
    features, labels, query, own, draws = setting()
    options = {"pool_size": 30, "draws": draws}
    whole = sample_negatives(query, features, labels, own, 12, sampling, **options)
    monkeypatch.setattr(bank_sampling, "_CHUNK", 2 * L)
    assert torch.equal(sample_negatives(query, features, labels, own, 12, sampling, **options), whole)
    alone = sample_negatives(query[2:3], features, labels, own[2:3], 12, sampling, pool_size=30, draws=draws[2:3])
    assert torch.equal(alone, whole[2:3])


def frequencies(sampling: str, draws: int = 3000) -> tuple[torch.Tensor, torch.Tensor]:
    features, labels, query, own, _ = setting()
    counts = torch.zeros(L)
    for start in range(0, draws, 500):
        keys = KeyedDraws(0, start, torch.arange(500))
        found = sample_negatives(
            query[:1].expand(500, -1), features, labels, own[:1].expand(500), 5, sampling, pool_size=30, draws=keys
        )
        counts += torch.bincount(found.flatten(), minlength=L)
    near = (normalize(query[:1], dim=1) @ features.T)[0].argsort(descending=True)
    allowed = labels != own[0]
    if sampling == "semihard":
        allowed &= torch.zeros(L, dtype=torch.bool).index_fill(0, near[:30], True)
    return counts, allowed


@pytest.mark.parametrize("sampling", ["semihard", "random"])
def test_negatives_are_uniform(sampling):
    counts, allowed = frequencies(sampling)
    assert float(counts[~allowed].sum()) == 0
    expected = 15000 / int(allowed.sum())
    assert float((counts[allowed] - expected).abs().max()) < 5.5 * expected**0.5


def test_positives_are_uniform_over_the_cluster():
    _, labels, _, own, _ = setting()
    draws = KeyedDraws(0, 0, torch.arange(4000))
    found = draw_same_cluster(labels, own[:1].expand(4000), draws)
    counts = torch.bincount(found, minlength=L).float()
    inside = labels == own[0]
    assert float(counts[~inside].sum()) == 0
    expected = 4000 / int(inside.sum())
    assert float((counts[inside] - expected).abs().max()) < 5.5 * expected**0.5


def test_other_rows_leave_out_the_own_one():
    index = torch.arange(6)
    drawn = draw_other_rows(6, index, 400, KeyedDraws(0, 0, index))
    assert not bool((drawn == index[:, None]).any())
    assert all(set(row.tolist()) == set(range(6)) - {number} for number, row in enumerate(drawn))
    with pytest.raises(ValueError, match="no negatives"):
        draw_other_rows(1, index[:1], 4, KeyedDraws(0, 0, index[:1]))


def test_a_pool_of_the_own_cluster_is_an_error_and_no_endless_search():
    features = torch.cat([torch.eye(4)[:1].expand(20, 4), -torch.eye(4)[:1].expand(10, 4)])
    labels = torch.cat([torch.zeros(20), torch.ones(10)]).long()
    query, own, draws = torch.eye(4)[:1], labels[:1], KeyedDraws(0, 0, torch.tensor([0]))
    with pytest.warns(UserWarning, match="no larger than the largest cluster"):
        with pytest.raises(
            ValueError, match=r"the whole pool of 15 rows is of the query's own cluster .*raise negative_pool_size"
        ):
            sample_negatives(query, features, labels, own, 5, "semihard", pool_size=15, draws=draws)
    # fewer others than asked for: all of them, and repeats
    found = sample_negatives(query, features, labels, own, 8, "semihard", pool_size=24, draws=draws)
    assert set(found[0].tolist()) <= set(range(20, 30))
    assert len(set(found[0].tolist())) == 4
    with pytest.raises(ValueError, match="8 hard negatives were asked for, but only 7"):
        sample_negatives(query, features, labels.index_fill(0, torch.arange(23), 0), own, 8, "hard")
    with pytest.raises(ValueError, match="all 30 rows of the memory bank are in one cluster"):
        sample_negatives(query, features, torch.zeros(30).long(), own, 5, "random", draws=draws)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling": "soft"}, "known are: hard"),
        ({"sampling": "random", "draws": None}, "pass `draws`"),
        ({"pool_size": 10}, "from num_negatives = 12"),
        ({"pool_size": 61}, "to the 60 rows"),
        ({"num_negatives": 0}, "1 or more"),
    ],
)
def test_sizes_that_do_not_fit(options, message):
    features, labels, query, own, draws = setting()
    given = {"num_negatives": 12, "sampling": "semihard", "pool_size": 30, "draws": draws, **options}
    with pytest.raises(ValueError, match=message):
        sample_negatives(query, features, labels, own, **given)
