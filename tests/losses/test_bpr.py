"""BPR and penalties on embeddings: forms, extremes, several processes, bad input."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.gloo import GlooPool

from hf_contrastive.losses import BPRLoss, bpr_loss, embedding_penalty


def rows(count: int = 6, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(count, 4, generator=generator, dtype=torch.float64) for _ in range(3)]


def test_the_two_forms_agree_where_nothing_saturates():
    scores = torch.linspace(-3, 3, 7, dtype=torch.float64)
    other = torch.zeros_like(scores)
    exact = bpr_loss(scores, other)
    torch.testing.assert_close(bpr_loss(scores, other, form="log_sigmoid_eps"), exact, rtol=1e-8, atol=0.0)
    assert float(exact) == pytest.approx(sum(math.log1p(math.exp(-float(s))) for s in scores) / 7)
    assert torch.equal(
        BPRLoss(form="log_sigmoid_eps", eps=1e-5)(scores, other),
        bpr_loss(scores, other, form="log_sigmoid_eps", eps=1e-5),
    )


def test_a_very_wrong_pair_keeps_its_gradient_with_softplus_only():
    slopes = {}
    for form in ("softplus", "log_sigmoid_eps"):
        score = torch.tensor([-200.0], requires_grad=True)
        loss = bpr_loss(score, torch.zeros(1), form=form)
        loss.backward()
        slopes[form] = (round(float(loss.detach()), 2), float(score.grad))
    assert slopes == {"softplus": (200.0, -1.0), "log_sigmoid_eps": (23.03, 0.0)}
    assert bool(torch.isfinite(bpr_loss(torch.tensor([1e30]), torch.tensor([-1e30]))))


def test_several_negatives_are_averaged():
    positive, negative = torch.randn(5), torch.randn(5, 3)
    each = torch.stack([bpr_loss(positive, negative[:, place], reduction="none") for place in range(3)], 1)
    torch.testing.assert_close(bpr_loss(positive, negative, reduction="none"), each.mean(1))
    torch.testing.assert_close(bpr_loss(positive, negative), each.mean())
    torch.testing.assert_close(bpr_loss(positive, negative, reduction="sum"), each.mean(1).sum())


def test_half_precision_is_summed_in_single():
    assert bpr_loss(torch.ones(3).half(), torch.ones(3).bfloat16()).dtype == torch.float32
    # 70000 is more than float16 holds
    assert float(embedding_penalty(torch.full((1, 70), 32.0).half(), form="frobenius_sq")) == 71680.0


def test_penalty_of_zeros_has_no_gradient():
    zeros = torch.zeros(3, 4, requires_grad=True)
    embedding_penalty(zeros, torch.ones(3, 4), form="frobenius").backward()
    assert float(zeros.grad.abs().max()) == 0.0


def gathered(form: str):
    """This process's half of the batch, and the gradient of a weight that all of them share."""
    from hf_contrastive.distributed import get_rank

    weight = torch.eye(4, dtype=torch.float64, requires_grad=True)
    half = slice(3 * get_rank(), 3 * get_rank() + 3)
    loss = embedding_penalty(*(matrix[half] @ weight for matrix in rows()), form=form, gather=True)
    loss.backward()
    return loss.detach(), weight.grad


@pytest.mark.parametrize("form", ["half_sq", "frobenius", "frobenius_sq"])
def test_two_processes_equal_one(form, gloo_pool: GlooPool):
    weight = torch.eye(4, dtype=torch.float64, requires_grad=True)
    expected = embedding_penalty(*(matrix @ weight for matrix in rows()), form=form)
    expected.backward()
    found = gloo_pool.run(gathered, form)
    for loss, _ in found:
        torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=0.0)
    # DistributedDataParallel averages over the processes
    torch.testing.assert_close(sum(grad for _, grad in found) / 2, weight.grad, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bpr_loss(torch.ones(3), torch.ones(2)), r"\[N\] and `negative_scores` \[N\] or \[N, M\]"),
        (lambda: bpr_loss(torch.ones(3), torch.ones(3).long()), "`negative_scores` must be a floating point tensor"),
        (lambda: bpr_loss(torch.ones(0), torch.ones(0)), "the scores are empty"),
        (lambda: bpr_loss(torch.ones(3), torch.ones(3), form="hinge"), "known are: softplus, log_sigmoid_eps"),
        (lambda: bpr_loss(torch.ones(3), torch.ones(3), form="log_sigmoid_eps", eps=0.0), "`eps` is 0.0"),
        (lambda: embedding_penalty(), "no embeddings were given"),
        (lambda: embedding_penalty(torch.ones(2, 3), torch.ones(3, 3)), "one row a sample, got 2, 3 rows"),
        (lambda: embedding_penalty(torch.ones(2, 3), form="l1"), "known are: half_sq, frobenius, frobenius_sq"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
