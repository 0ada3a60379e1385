"""The contrastive loss of goal-conditioned reward models and the loss of preference pairs, against loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from hf_contrastive.losses import (
    BradleyTerryLoss,
    GoalContrastiveLoss,
    bradley_terry_loss,
    goal_contrastive_loss,
    goal_contrastive_loss_at,
    goal_loss_of_sums,
    goal_pair_sums,
    goal_state_index,
    sorted_goal_draws,
)


def states(batch=3, count=4, dim=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, count, dim, dtype=torch.float64, generator=generator) for _ in range(4)]


def mean_sigmoid(one, other):
    return torch.stack(
        [
            F.cosine_similarity(a, b, dim=0).sigmoid()
            for row, goals in zip(one, other, strict=True)
            for a in row
            for b in goals
        ]
    ).mean()


def test_loss_is_that_of_a_loop():
    a, g, b, n = states()
    expected = -mean_sigmoid(a, g).log() - (1 - mean_sigmoid(b, n)).log()
    found = goal_contrastive_loss(a, g, b, n)
    torch.testing.assert_close(found.loss, expected)
    cosines = [F.cosine_similarity(x, y, dim=0) for row, goals in zip(a, g, strict=True) for x in row for y in goals]
    torch.testing.assert_close(found.pos_sim, torch.stack(cosines).mean())
    torch.testing.assert_close(GoalContrastiveLoss(beta=0.3)(a, g, b, n), 0.3 * expected)
    averaged = goal_contrastive_loss(a, g, b, n, strategy="cosine_avg").loss
    expected = -mean_sigmoid(a, g.mean(1, keepdim=True)).log() - (1 - mean_sigmoid(b, n.mean(1, keepdim=True))).log()
    torch.testing.assert_close(averaged, expected)
    assert abs(float(averaged - found.loss)) > 1e-3


def test_per_sample_is_the_mean_over_single_samples():
    parts = states()
    single = [goal_contrastive_loss(*(part[row : row + 1] for part in parts)).loss for row in range(3)]
    torch.testing.assert_close(goal_contrastive_loss(*parts, per_sample=True).loss, torch.stack(single).mean())
    assert abs(float(goal_contrastive_loss(*parts).loss - torch.stack(single).mean())) > 1e-6


def test_sums_of_parts_are_those_of_the_whole():
    parts = states()
    halves = [goal_pair_sums(*(part[rows] for part in parts)) for rows in (slice(0, 1), slice(1, 3))]
    torch.testing.assert_close(goal_loss_of_sums(torch.cat(halves)).loss, goal_contrastive_loss(*parts).loss)


def test_a_sample_without_a_later_goal_does_not_count():
    a, g, b, n = states(batch=2)
    source, goal = torch.tensor([[-1] * 4, [-9] * 4]), torch.tensor([[-5] * 4, [-5] * 4])
    for strategy in ("cosine", "cosine_avg"):
        options = {"strategy": strategy, "source_index": source, "goal_index": goal, "future_only": True}
        found = goal_contrastive_loss(a, g, b, n, **options)
        near = goal_pair_sums(a[1:], g[1:], b[1:], n[1:], strategy=strategy)[0]
        torch.testing.assert_close(found.pos_sim, near[3] / near[1])
        per_sample = goal_contrastive_loss(a, g, b, n, per_sample=True, **options).loss
        assert bool(torch.isfinite(per_sample))
        (gradient,) = torch.autograd.grad(
            goal_contrastive_loss(a.requires_grad_(), g, b, n, per_sample=True, **options).loss, a
        )
        assert bool(torch.isfinite(gradient).all())
        assert not gradient[0].any()


def test_bounds():
    """No temperature: the sigmoid of a cosine lies between 0.269 and 0.731."""
    one = torch.ones(2, 3, 4)
    best, worst = goal_contrastive_loss(one, one, one, -one), goal_contrastive_loss(one, -one, one, one)
    assert float(best.loss) == pytest.approx(-2 * math.log(1 / (1 + math.exp(-1))), abs=1e-5)
    assert float(worst.loss) == pytest.approx(2 * math.log(1 + math.e), abs=1e-5)


def test_half_precision_is_computed_in_float32():
    parts = [part.to(torch.bfloat16) for part in states()]
    found = goal_contrastive_loss(*parts).loss
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, goal_contrastive_loss(*(part.float() for part in parts)).loss)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(goal_contrastive_loss(*(part.float() for part in parts)).loss, found)


def test_places():
    draws = torch.tensor([[0.0, 0.49, 0.51, 0.999], [0.0, 0.49, 0.51, 0.999]])
    found = goal_state_index(draws, torch.tensor([10, 3]))
    assert found.tolist() == [[-11, -6, -5, -1], [-4, -2, -2, -1]]
    # the earlier half alone
    assert goal_state_index(draws, torch.tensor([10, 3]), 0.5).max() <= -6 + 4
    assert goal_state_index(draws[:1], torch.tensor([10]), 0.5).tolist() == [[-11, -8, -8, -6]]
    # nothing outside the text, whether given for all rows or for each
    assert goal_state_index(draws, torch.tensor([10, 3]), lengths=4).tolist() == [[-3, -3, -3, -1], [-3, -2, -2, -1]]
    assert goal_state_index(draws, torch.tensor([10, 3]), lengths=torch.tensor([1, 9])).tolist()[0] == [-1] * 4
    source, goal = sorted_goal_draws(torch.rand(5, 2, 7))
    assert bool((goal_state_index(source, torch.full((5,), 20)) <= goal_state_index(goal, torch.full((5,), 20))).all())


def test_whole_sequences():
    chosen, rejected = torch.randn(2, 9, 4), torch.randn(2, 9, 4)
    index = [torch.randint(-9, 0, (2, 3)) for _ in range(4)]
    picked = [
        torch.stack([sequence[row, places[row]] for row in range(2)])
        for sequence, places in zip((chosen, chosen, chosen, rejected), index, strict=True)
    ]
    torch.testing.assert_close(
        goal_contrastive_loss_at(chosen, rejected, *index).loss, goal_contrastive_loss(*picked).loss
    )


def test_bradley_terry():
    chosen, rejected = torch.randn(6, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    margin = torch.rand(6, dtype=torch.float64)
    expected = -torch.log(1 / (1 + torch.exp(-(chosen - rejected - margin)))).mean()
    torch.testing.assert_close(bradley_terry_loss(chosen, rejected, margin), expected)
    torch.testing.assert_close(BradleyTerryLoss()(chosen, rejected, 0.5), bradley_terry_loss(chosen - 0.5, rejected))
    assert bradley_terry_loss(chosen.float(), rejected.float(), margin).dtype == torch.float32
    assert bradley_terry_loss(chosen.half(), rejected.half()).dtype == torch.float32
    assert bool(torch.isfinite(bradley_terry_loss(torch.tensor([-1e4]), torch.tensor([1e4]))))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bradley_terry_loss(torch.ones(3), torch.ones(2)), r"must both be \[batch\]"),
        (lambda: bradley_terry_loss(torch.ones(0), torch.ones(0)), r"with at least one pair"),
        (lambda: bradley_terry_loss(torch.ones(3), torch.ones(3), torch.ones(2)), r"`margin` has shape \[2\]"),
        (lambda: goal_contrastive_loss(*states()[:3], torch.ones(3, 2, 5)), r"one batch and dim"),
        (lambda: goal_contrastive_loss(*states(), strategy="euclid"), r"`strategy` is 'euclid'"),
        (lambda: goal_contrastive_loss(*states(), future_only=True), r"`future_only` needs `source_index`"),
        (lambda: GoalContrastiveLoss(strategy="x"), r"`strategy` is 'x'"),
        (lambda: GoalContrastiveLoss(beta=-1), r"`beta` is -1"),
        (lambda: goal_state_index(torch.rand(2, 3), torch.ones(2), 1.5), r"`percentile` is 1.5"),
        (lambda: goal_state_index(torch.rand(2, 3), torch.ones(3)), r"must be \[batch, ...\] and \[batch\]"),
        (lambda: sorted_goal_draws(torch.rand(2, 3)), r"expected \[batch, 2, pairs\]"),
        (lambda: goal_loss_of_sums(torch.rand(2, 3)), r"expected \[batch, 5\]"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
