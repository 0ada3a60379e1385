"""Alignment, uniformity, effective rank, spread: naive formulas, exact values, invariances, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hf_contrastive.evaluation import (
    alignment,
    bootstrap_interval,
    effective_rank,
    embedding_std,
    positive_negative_similarity,
    uniformity,
)


def unit(z):
    return z / np.linalg.norm(z, axis=1, keepdims=True)


@pytest.fixture
def views():
    rng = np.random.default_rng(0)
    first = rng.normal(size=(30, 5))
    return first, first + 0.5 * rng.normal(size=(30, 5))


@pytest.mark.parametrize("alpha", [1, 2, 3.5])
def test_alignment_is_the_formula(views, alpha):
    expected = (np.linalg.norm(unit(views[0]) - unit(views[1]), axis=1) ** alpha).mean()
    assert alignment(*views, alpha=alpha) == pytest.approx(expected, rel=1e-12)
    raw = (np.linalg.norm(views[0] - views[1], axis=1) ** alpha).mean()
    assert alignment(*views, alpha=alpha, normalize=False) == pytest.approx(raw, rel=1e-12)


@pytest.mark.parametrize("t", [2, 0.5, 500])
def test_uniformity_is_the_formula_for_every_chunk_size(views, t):
    distances = torch.pdist(torch.as_tensor(unit(views[0])))
    expected = float(torch.logsumexp(-t * distances**2, 0) - math.log(len(distances)))
    for chunk_size in (None, 1, 4, 29, 30, 100):
        assert uniformity(views[0], t=t, chunk_size=chunk_size) == pytest.approx(expected, rel=1e-9)


def test_uniformity_exact_values():
    assert uniformity(np.ones((4, 3))) == pytest.approx(0.0, abs=1e-12)  # collapse
    assert uniformity(np.eye(4)) == pytest.approx(-4.0)  # all squared distances are 2
    assert uniformity(np.array([[1.0], [-1.0], [1.0]])) == pytest.approx(math.log((1 + 2 * math.exp(-8)) / 3))


def test_effective_rank_is_the_formula_for_every_chunk_size(views):
    values = np.linalg.svd(views[0], compute_uv=False)
    shares = values / values.sum()
    expected = math.exp(-(shares * np.log(shares)).sum())
    for chunk_size in (None, 1, 3, 7, 30):
        assert effective_rank(views[0], chunk_size=chunk_size) == pytest.approx(expected, rel=1e-10)
    assert effective_rank(views[0].T) == pytest.approx(expected, rel=1e-10)  # fewer rows than features
    centered = effective_rank(views[0] + 100, center=True, chunk_size=4)
    assert centered == pytest.approx(effective_rank(views[0] - views[0].mean(0)), rel=1e-8)


def test_effective_rank_exact_values():
    assert effective_rank(np.eye(6)) == pytest.approx(6.0)
    assert effective_rank(np.ones((9, 4))) == pytest.approx(1.0)
    assert effective_rank(np.diag([1e-200, 1e-200])) == pytest.approx(2.0)
    # singular values 3 and 1: exp(H(3/4, 1/4))
    assert effective_rank(np.diag([3.0, 1.0])) == pytest.approx(4 / 3**0.75)
    for center, rows in ((False, np.zeros((3, 2))), (True, np.full((50, 8), 0.1))):
        with pytest.raises(ValueError, match="have collapsed"):
            effective_rank(rows, center=center)


def test_embedding_std():
    rng = np.random.default_rng(1)
    z = rng.normal(size=(4000, 64))
    assert embedding_std(z) == pytest.approx(1 / 8, rel=0.01)  # 1 / sqrt(D) on the whole sphere
    assert embedding_std(z) == pytest.approx(unit(z).std(0).mean(), rel=1e-12)
    assert embedding_std(np.outer(np.arange(1, 9), np.ones(4))) == pytest.approx(0.0, abs=1e-12)  # one direction


def test_positive_negative_similarity_equals_the_matrix(views):
    cosines = unit(views[0]) @ unit(views[1]).T
    off = cosines[~np.eye(30, dtype=bool)]
    result = positive_negative_similarity(*views)
    assert result["pos_sim"] == pytest.approx(np.diag(cosines).mean(), rel=1e-12)
    assert result["neg_sim"] == pytest.approx(off.mean(), rel=1e-10)
    assert result["margin"] == pytest.approx(np.diag(cosines).mean() - off.mean())


def test_invariances(views):
    rng = np.random.default_rng(2)
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    order = rng.permutation(30)
    scales = rng.uniform(0.1, 10, size=(30, 1))
    for moved in ([z @ rotation for z in views], [z[order] for z in views], [z * scales for z in views]):
        assert alignment(*moved) == pytest.approx(alignment(*views))
        assert uniformity(moved[0]) == pytest.approx(uniformity(views[0]))
        assert positive_negative_similarity(*moved) == pytest.approx(positive_negative_similarity(*views))
    assert effective_rank(views[0] @ rotation * 7) == pytest.approx(effective_rank(views[0]))
    assert embedding_std(views[0] * scales) == pytest.approx(embedding_std(views[0]))


def test_half_precision_tensors_that_need_grad_are_taken(views):
    tensors = [torch.tensor(z, dtype=torch.bfloat16, requires_grad=True) for z in views]
    exact = [z.detach().double().numpy() for z in tensors]
    assert alignment(*tensors) == pytest.approx(alignment(*exact), rel=1e-12)
    assert effective_rank(tensors[0]) == pytest.approx(effective_rank(exact[0]), rel=1e-12)


def test_refusals(views):
    broken = views[0].copy()
    broken[[3, 7], 2] = [np.nan, np.inf]
    for call in (
        lambda: alignment(broken, views[1]),
        lambda: uniformity(broken),
        lambda: effective_rank(broken),
        lambda: embedding_std(broken),
        lambda: positive_negative_similarity(broken, views[1]),
    ):
        with pytest.raises(ValueError, match=r"2 of 30 rows hold NaN or infinity \(first: row 3\)"):
            call()
    with pytest.raises(ValueError, match="they must be equal"):
        alignment(views[0], views[1][:29])
    with pytest.raises(ValueError, match="`alpha` is 0"):
        alignment(*views, alpha=0)
    with pytest.raises(ValueError, match="`t` is -1"):
        uniformity(views[0], t=-1)
    for call in (uniformity, embedding_std, lambda z: positive_negative_similarity(z, z)):
        with pytest.raises(ValueError, match="has one row"):
            call(np.ones((1, 3)))
    with pytest.raises(TypeError, match="must be an array of numbers"):
        effective_rank("three")


def test_bootstrap_interval_covers_as_promised():
    rng = np.random.default_rng(3)
    inside = 0
    for trial in range(200):
        low, high = bootstrap_interval(rng.random(100) < 0.7, confidence=0.9, resamples=500, seed=trial)
        inside += low <= 0.7 <= high
    assert 0.83 < inside / 200 < 0.96


def test_bootstrap_interval_of_scores_and_edges():
    scores = np.random.default_rng(4).normal(2.0, 1.0, 400)
    low, high = bootstrap_interval(scores)
    error = scores.std() / 20
    assert low == pytest.approx(scores.mean() - 1.96 * error, abs=0.015)
    assert high == pytest.approx(scores.mean() + 1.96 * error, abs=0.015)
    assert bootstrap_interval(scores) == (low, high)
    assert bootstrap_interval([True, True]) == (1.0, 1.0)
    # both draws of 0/1 answers, by rows and by the binomial, are the same interval
    answers = np.array([1] * 60 + [0] * 40)
    assert bootstrap_interval(answers) == pytest.approx(bootstrap_interval(answers * 2.0 / 2 + 1e-12), abs=0.015)
    for bad, message in (([], "at least one row"), ([[1]], r"shape \[1, 1\]"), ([np.nan], "1 of 1 values are NaN")):
        with pytest.raises(ValueError, match=message):
            bootstrap_interval(bad)
    with pytest.raises(ValueError, match="`confidence` is 95"):
        bootstrap_interval([1, 0], confidence=95)
