"""CACR's losses against sums written out instance by instance, and what must not go wrong."""

from __future__ import annotations

import pytest
import torch
from helpers.gloo import GlooPool

from hf_contrastive.distributed import get_rank, get_world_size
from hf_contrastive.losses import cacr_loss, cacr_momentum_loss, cacr_queue_loss


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def softmax(values: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(values).softmax(0)


def naive_loss(z, tau_pos, tau_neg, choice="full", cost="euclidean", ids=None, rbf_t=2.0):
    """Attraction and repulsion, one query at a time."""
    views, instances = z.shape[:2]
    ids = list(range(instances)) if ids is None else ids

    def squared(a, b):
        return ((a - b) ** 2).sum()

    attractions = []
    for v in range(views):
        for n in range(instances):
            costs = [squared(z[v, n], z[w, n]) for w in range(views) if w != v]
            weights = softmax([tau_pos * c for c in costs])
            if choice in ("without_w1", "none"):
                weights = torch.full_like(weights, 1 / len(costs))
            attractions.append((weights * torch.stack(costs)).sum())
    repulsions = []
    for v in range(views):
        for w in range(v + 1, views):
            rows = []
            for n in range(instances):
                costs = [squared(z[v, n], z[w, m]) for m in range(instances) if ids[m] != ids[n]]
                if not costs:
                    rows.append(z.sum() * 0)
                    continue
                weights = softmax([-tau_neg * c for c in costs])
                if choice in ("without_w2", "none"):
                    weights = torch.full_like(weights, 1 / len(costs))
                costs = torch.stack(costs)
                rows.append((weights * (torch.exp(-rbf_t * costs) if cost == "rbf" else -costs)).sum())
            mean = torch.stack(rows).mean()
            repulsions.append(mean.log() if cost == "rbf" else mean)
    return torch.stack(attractions).mean(), torch.stack(repulsions).mean()


@pytest.mark.parametrize("ids", [None, [0, 1, 0, 3, 4]])
@pytest.mark.parametrize("cost", ["euclidean", "rbf"])
@pytest.mark.parametrize("choice", ["full", "without_w1", "without_w2", "none"])
def test_against_naive(choice, cost, ids):
    z = unit(3, 5, 4).requires_grad_()
    sample_ids = None if ids is None else torch.tensor(ids)
    terms = cacr_loss(z, 1.5, 0.7, choice=choice, cost=cost, sample_ids=sample_ids, normalize=False)
    expected = naive_loss(z, 1.5, 0.7, choice, cost, ids)
    torch.testing.assert_close(torch.stack([terms.attraction, terms.repulsion]), torch.stack(expected))
    ours, theirs = (torch.autograd.grad(loss, z)[0] for loss in (terms.loss, sum(expected)))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("cost", ["euclidean", "rbf"])
def test_tau_zero_is_equal_weights(cost):
    z = unit(4, 6, 5)
    torch.testing.assert_close(
        cacr_loss(z, 0, 0, cost=cost).loss, cacr_loss(z, 1.0, 2.0, choice="none", cost=cost).loss
    )


def test_factors_scale_the_terms():
    z = unit(3, 4, 5)
    plain, scaled = cacr_loss(z), cacr_loss(z, alpha=3.0, beta=0.5)
    torch.testing.assert_close(scaled.attraction, 3 * plain.attraction)
    torch.testing.assert_close(scaled.repulsion, 0.5 * plain.repulsion)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identical_views_have_a_finite_gradient(dtype):
    """The root of a distance has an infinite gradient at 0."""
    z = torch.zeros(2, 3, 4, dtype=dtype)
    z[..., 0] = 1
    z.requires_grad_()
    terms = cacr_loss(z)
    terms.loss.backward()
    assert terms.attraction.item() == 0
    assert bool(torch.isfinite(z.grad).all())


def test_detached_weights_leave_the_value():
    z = unit(3, 4, 5).requires_grad_()
    one, two = cacr_loss(z), cacr_loss(z, detach_weights=True)
    torch.testing.assert_close(one.loss, two.loss)
    assert not torch.allclose(*(torch.autograd.grad(terms.loss, z)[0] for terms in (one, two)))


@pytest.mark.parametrize("cost", ["euclidean", "rbf"])
def test_no_negatives_left_by_the_ids(cost):
    z = unit(2, 3, 4).requires_grad_()
    terms = cacr_loss(z, cost=cost, sample_ids=torch.zeros(3, dtype=torch.long))
    terms.loss.backward()
    assert terms.repulsion.item() == 0
    assert bool(torch.isfinite(z.grad).all())


def test_rows_are_scaled():
    z = unit(3, 4, 5)
    torch.testing.assert_close(cacr_loss(7 * z).loss, cacr_loss(z, normalize=False).loss)


def test_distances_need_no_differences_of_all_pairs():
    """N x N x D numbers would be 8 GB here."""
    z = unit(2, 1000, 1000).float()
    assert bool(torch.isfinite(cacr_loss(z).loss))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"views": unit(1, 4, 3)}, "CACR needs at least 2 views per instance"),
        ({"views": unit(2, 1, 3)}, "CACR needs at least 2 instances for repulsion"),
        ({"views": unit(4, 3)}, r"must have shape \[N, V, D\]"),
        ({"tau_neg": -1.0}, "`tau_neg` must be a number of at least 0, got -1.0"),
        ({"choice": "half"}, "`choice` must be one of 'full'"),
        ({"cost": "cosine"}, "`cost` must be one of 'euclidean', 'rbf'"),
        ({"rbf_t": 0.0}, "`rbf_t` must be a finite number above 0"),
        ({"debiased": True, "tau_plus": 1.0}, "`tau_plus` must be from 0 to below 1"),
        ({"debiased": True, "cost": "rbf"}, "`debiased` is defined for weighted negatives"),
        ({"sample_ids": torch.zeros(3)}, "`sample_ids` must hold integers"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        cacr_loss(**{"views": unit(2, 4, 3), **arguments})


def test_queue_loss_against_naive():
    q, k, past = unit(3, 4, 5, seed=1).requires_grad_(), unit(3, 4, 5, seed=2), unit(6, 5, seed=3)
    ids, past_ids = torch.tensor([0, 1, 0, 3]), torch.tensor([1, 9, 9, -1, -1, 3])
    terms = cacr_queue_loss(q, k, past, 1.2, 0.8, sample_ids=ids, queue_ids=past_ids, normalize=False)
    attractions, repulsions = [], []
    for v in range(3):
        for n in range(4):
            costs = torch.stack([((q[v, n] - k[w, n]) ** 2).sum() for w in range(3) if w != v])
            attractions.append(((1.2 * costs).softmax(0).detach() * costs).sum())
            far = [((q[v, n] - row) ** 2).sum() for row, other in zip(past, past_ids, strict=True) if other != ids[n]]
            near = [((q[v, n] - q[v, m]) ** 2).sum() for m in range(4) if ids[m] != ids[n]]
            weights = softmax([-0.8 * c.detach() for c in far] + [-0.8 * c for c in near])
            repulsions.append(-(weights * torch.stack(far + near)).sum())
    expected = torch.stack([torch.stack(attractions).mean(), torch.stack(repulsions).mean()])
    torch.testing.assert_close(torch.stack([terms.attraction, terms.repulsion]), expected)
    ours, theirs = (torch.autograd.grad(loss, q)[0] for loss in (terms.loss, expected.sum()))
    torch.testing.assert_close(ours, theirs)


def test_queue_loss_refuses():
    z, past = unit(2, 4, 3), unit(5, 3)
    with pytest.raises(ValueError, match="CACR needs at least 2 views"):
        cacr_queue_loss(z[:1], z[:1], past)
    with pytest.raises(ValueError, match="must have one shape"):
        cacr_queue_loss(z, z[:, :3], past)
    with pytest.raises(ValueError, match="`queue_ids` is compared with `sample_ids`"):
        cacr_queue_loss(z, z, past, queue_ids=torch.arange(5))


@pytest.mark.parametrize("cost", ["euclidean", "rbf"])
def test_momentum_loss_of_one_query_without_weights(cost):
    """A single query has weight 1: plain InfoNCE, or plain attraction and repulsion."""
    q, k, ids = unit(1, 5, 4, seed=1), unit(5, 4, seed=2), torch.tensor([0, 1, 2, 1, 4])
    terms = cacr_momentum_loss(q, k, 0.3, cost=cost, reduction="mean", sample_ids=ids)
    losses = []
    for n in range(5):
        others = [m for m in range(5) if ids[m] != ids[n]]
        cosines = torch.stack([q[0, n] @ k[m] for m in others])
        if cost == "rbf":
            logits = torch.cat([(q[0, n] @ k[n])[None], cosines]) / 0.3
            losses.append(2 * 0.3 * (logits.logsumexp(0) - logits[0]))
        else:
            weights = (-(1 - cosines) / 0.3).softmax(0)
            losses.append((1 - q[0, n] @ k[n]) - (weights * (1 - cosines)).sum())
    torch.testing.assert_close(terms.loss, torch.stack(losses).mean())
    torch.testing.assert_close(terms.attraction + terms.repulsion, terms.loss)
    assert torch.equal(terms.positive_weights, torch.ones(1, 5, dtype=torch.float64))


def test_reductions():
    q, k = unit(3, 5, 4, seed=1), unit(5, 4, seed=2)
    for cost, published in (("rbf", "mean"), ("euclidean", "sum")):
        found = {name: cacr_momentum_loss(q, k, cost=cost, reduction=name).loss for name in ("auto", "mean", "sum")}
        torch.testing.assert_close(found["sum"], 5 * found["mean"])
        assert torch.equal(found["auto"], found[published])


JOBS = {
    "batch": lambda z, ids, gather: cacr_loss(z, sample_ids=ids, gather=gather),
    "rbf": lambda z, ids, gather: cacr_loss(z, cost="rbf", sample_ids=ids, gather=gather),
    "debiased": lambda z, ids, gather: cacr_loss(z, debiased=True, gather=gather),
    "queue": lambda z, ids, gather: cacr_queue_loss(
        z, z.detach().flip(0), unit(6, 4, seed=5), sample_ids=ids, queue_ids=torch.arange(6), gather=gather
    ),
    "momentum rbf": lambda z, ids, gather: cacr_momentum_loss(z, z[0].detach(), sample_ids=ids, gather=gather),
    "momentum euclidean": lambda z, ids, gather: cacr_momentum_loss(
        z[1:], z[0].detach(), cost="euclidean", sample_ids=ids, gather=gather
    ),
}
IDS = torch.tensor([0, 1, 2, 3, 2, 5])


def job(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Runs in each process: loss and gradient of its half of the rows."""
    z = unit(3, 6, 4, seed=1).requires_grad_()
    half = 6 // get_world_size()
    rows = slice(get_rank() * half, (get_rank() + 1) * half)
    loss = JOBS[name](z[:, rows], IDS[rows], True).loss
    loss.backward()
    return loss.detach(), z.grad


@pytest.mark.distributed
@pytest.mark.parametrize("name", list(JOBS))
def test_two_processes_equal_one(name, gloo_pool: GlooPool):
    (one, first), (two, second) = gloo_pool.run(job, name)
    z = unit(3, 6, 4, seed=1).requires_grad_()
    loss = JOBS[name](z, IDS, False).loss
    loss.backward()
    torch.testing.assert_close((one + two) / 2, loss.detach())
    # what DistributedDataParallel makes of it
    torch.testing.assert_close((first + second) / 2, z.grad)
