"""Sinkhorn and swapped prediction against plain loops, at the edges, and over processes."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.gloo import GlooPool

from hf_contrastive.distributed import get_rank, get_world_size
from hf_contrastive.losses import sinkhorn, swapped_prediction


def naive_sinkhorn(scores: torch.Tensor, epsilon: float, num_iterations: int) -> torch.Tensor:
    """As the paper writes it: prototypes by rows, samples by columns."""
    q = torch.exp(scores.double() / epsilon).T
    q /= q.sum()
    prototypes, samples = q.shape
    for _ in range(num_iterations):
        q /= q.sum(1, keepdim=True) * prototypes
        q /= q.sum(0, keepdim=True) * samples
    return (q / q.sum(0, keepdim=True)).T


def scores(*shape: int, seed: int = 0) -> torch.Tensor:
    return 2 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1


@pytest.mark.parametrize("num_iterations", [1, 3, 10])
@pytest.mark.parametrize("shape", [(8, 5), (3, 12), (1, 4), (6, 1)])
def test_sinkhorn_against_loops(shape, num_iterations):
    scores = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    codes = sinkhorn(scores, 0.1, num_iterations)
    torch.testing.assert_close(codes, naive_sinkhorn(scores, 0.1, num_iterations), rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(codes.sum(1), torch.ones(shape[0], dtype=torch.float64))
    assert not codes.requires_grad


def test_many_iterations_use_all_prototypes_equally():
    codes = sinkhorn(torch.randn(40, 8, dtype=torch.float64), 0.5, 300)
    torch.testing.assert_close(codes.sum(0), torch.full((8,), 5.0, dtype=torch.float64), rtol=1e-4, atol=1e-4)


def test_scores_that_would_overflow_or_vanish():
    scores = torch.tensor([[900.0, -900.0], [-900.0, 900.0], [900.0, 899.0]])
    codes = sinkhorn(scores, 0.01)
    assert bool(torch.isfinite(codes).all())
    torch.testing.assert_close(codes.sum(1), torch.ones(3))
    torch.testing.assert_close(sinkhorn(scores + 5e3, 0.01), codes)


def test_equal_scores_are_shared_equally():
    torch.testing.assert_close(sinkhorn(torch.full((4, 5), 0.3)), torch.full((4, 5), 0.2))


def test_half_precision_is_computed_in_float32():
    scores = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    codes = sinkhorn(scores)
    assert codes.dtype == torch.float32
    torch.testing.assert_close(codes, sinkhorn(scores.float()))


@pytest.mark.parametrize(("views", "assigning"), [(2, 2), (4, 2), (3, 1)])
def test_swapped_prediction_against_loops(views, assigning):
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(views, 5, 6, dtype=torch.float64, generator=generator).requires_grad_()
    codes = torch.stack([sinkhorn(scores[view].detach()) for view in range(assigning)])
    terms = []
    for a in range(assigning):
        for v in range(views):
            if v != a:
                terms.append(-(codes[a] * torch.log_softmax(scores[v] / 0.2, -1)).sum(-1).mean())
    expected = torch.stack(terms).view(assigning, views - 1).mean(1).mean()
    loss = swapped_prediction(scores, codes, 0.2)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    (mine,) = torch.autograd.grad(loss, scores, retain_graph=True)
    (theirs,) = torch.autograd.grad(expected, scores)
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-14)


def test_earlier_samples_share_the_prototypes():
    earlier, own = scores(7, 4, seed=1), scores(3, 4)
    torch.testing.assert_close(sinkhorn(own, earlier=earlier), sinkhorn(torch.cat([earlier, own]))[7:])
    # their order is of no account
    torch.testing.assert_close(sinkhorn(own, earlier=earlier), sinkhorn(own, earlier=earlier.flip(0)))
    with pytest.raises(ValueError, match="`earlier` and `scores` must have the same embedding width"):
        sinkhorn(own, earlier=earlier[:, :3])


def test_level_of_a_model_that_tells_nothing_apart():
    level = swapped_prediction(torch.zeros(2, 4, 7), sinkhorn(torch.zeros(4, 7)).expand(2, 4, 7))
    assert float(level) == pytest.approx(math.log(7), rel=1e-6)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda: sinkhorn(torch.eye(3), 0.0), "`epsilon` must be a finite number above 0"),
        (
            lambda: sinkhorn(torch.eye(3), num_iterations=0),
            "`num_iterations` must be a whole number of at least 1, got 0",
        ),
        (lambda: sinkhorn(torch.zeros(3)), "`scores` must have shape"),
        (lambda: swapped_prediction(torch.zeros(1, 3, 4), torch.zeros(1, 3, 4)), "holds 1 view"),
        (lambda: swapped_prediction(torch.zeros(2, 3, 4), torch.zeros(2, 3, 5)), r"must have shape \[V, N, K\]"),
    ],
)
def test_bad_input(function, message):
    with pytest.raises(ValueError, match=message):
        function()


def job() -> torch.Tensor:
    """Runs in each process: the codes of its rows."""
    share = 6 // get_world_size()
    rows = slice(get_rank() * share, (get_rank() + 1) * share)
    return sinkhorn(scores(6, 4)[rows], earlier=scores(5, 4, seed=1), gather=True)


@pytest.mark.distributed
def test_two_processes_equal_one(gloo_pool: GlooPool):
    expected = sinkhorn(scores(6, 4), earlier=scores(5, 4, seed=1))
    torch.testing.assert_close(torch.cat(gloo_pool.run(job)), expected)
