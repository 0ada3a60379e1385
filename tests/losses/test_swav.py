"""Sinkhorn and swapped prediction where they could go wrong: extremes, queues, several processes."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.gloo import GlooPool

from hf_contrastive.distributed import get_rank, get_world_size
from hf_contrastive.losses import sinkhorn, swapped_prediction


def scores(*shape: int, seed: int = 0) -> torch.Tensor:
    return 2 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1


@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("shape", [(8, 5), (3, 12)])
def test_sinkhorn_against_the_plain_form(shape, iterations):
    q = torch.exp(scores(*shape) / 0.05)
    for _ in range(iterations):
        q = q / q.sum(0, keepdim=True) / shape[1]
        q = q / q.sum(1, keepdim=True) / shape[0]
    torch.testing.assert_close(sinkhorn(scores(*shape), 0.05, iterations), q * shape[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_scores_are_shared_out_equally(dtype):
    codes = sinkhorn(torch.full((4, 5), 0.3, dtype=dtype))
    torch.testing.assert_close(codes, torch.full((4, 5), 0.2, dtype=dtype))


@pytest.mark.parametrize("scale", [1e3, 1e6])
def test_huge_scores_stay_finite(scale):
    codes = sinkhorn(scores(6, 4).float() * scale, 0.01)
    assert bool(torch.isfinite(codes).all())
    torch.testing.assert_close(codes.sum(1), torch.ones(6))


def test_one_sample():
    torch.testing.assert_close(sinkhorn(scores(1, 4)), torch.full((1, 4), 0.25, dtype=torch.float64))


def test_earlier_samples_share_the_prototypes():
    earlier, own = scores(7, 4, seed=1), scores(3, 4)
    torch.testing.assert_close(sinkhorn(own, earlier=earlier), sinkhorn(torch.cat([earlier, own]))[7:])
    # their order is of no account
    torch.testing.assert_close(sinkhorn(own, earlier=earlier), sinkhorn(own, earlier=earlier.flip(0)))
    with pytest.raises(ValueError, match="`earlier` and `scores` must have the same embedding width"):
        sinkhorn(own, earlier=earlier[:, :3])


def test_swapped_prediction_against_naive():
    found, codes = scores(4, 5, 6).requires_grad_(), torch.rand(2, 5, 6, dtype=torch.float64)
    log_p = (found / 0.1).log_softmax(-1)
    terms = [-(codes[a] * log_p[v]).sum(-1).mean() for a in range(2) for v in range(4) if v != a]
    loss, expected = swapped_prediction(found, codes), torch.stack(terms).mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(one, found)[0] for one in (loss, expected)))


def test_level_of_a_model_that_tells_nothing_apart():
    level = swapped_prediction(torch.zeros(2, 4, 7), sinkhorn(torch.zeros(4, 7)).expand(2, 4, 7))
    assert float(level) == pytest.approx(math.log(7), rel=1e-6)


def test_swapped_prediction_needs_two_views():
    with pytest.raises(ValueError, match="holds 1 view, but a code is predicted from another view"):
        swapped_prediction(scores(1, 4, 3), scores(1, 4, 3))


def job() -> torch.Tensor:
    """Runs in each process: the codes of its rows."""
    share = 6 // get_world_size()
    rows = slice(get_rank() * share, (get_rank() + 1) * share)
    return sinkhorn(scores(6, 4)[rows], earlier=scores(5, 4, seed=1), gather=True)


@pytest.mark.distributed
def test_two_processes_equal_one(gloo_pool: GlooPool):
    expected = sinkhorn(scores(6, 4), earlier=scores(5, 4, seed=1))
    torch.testing.assert_close(torch.cat(gloo_pool.run(job)), expected)
