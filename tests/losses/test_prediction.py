"""Losses without negatives, and NT-Xent with its extra pull, against their formulas row by row."""

from __future__ import annotations

import pytest
import torch

from hf_contrastive.losses import (
    BYOLLoss,
    SimSiamLoss,
    byol_loss,
    nt_xent,
    nt_xent_beta,
    simsiam_loss,
)


def views(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pairs(count: int) -> list[tuple[int, int]]:
    return [(v, w) for v in range(count) for w in range(count) if v != w]


@pytest.mark.parametrize("count", [2, 3])
def test_every_view_predicts_every_other_one(count):
    p, t = views(5, count, 4), views(5, count, 4, seed=1)
    cosine = torch.stack([torch.cosine_similarity(p[:, v], t[:, w]).mean() for v, w in pairs(count)]).mean()
    distance = torch.stack([(p[:, v] - t[:, w]).square().sum(1).mean() for v, w in pairs(count)]).mean()
    torch.testing.assert_close(byol_loss(p, t), 2 * (2 - 2 * cosine))
    torch.testing.assert_close(byol_loss(p, t, constant=False), 2 * (-2 * cosine))
    torch.testing.assert_close(byol_loss(p, t, normalize=False), 2 * distance)
    torch.testing.assert_close(simsiam_loss(p, t), -cosine)
    assert torch.equal(BYOLLoss(normalize=False)(p, t), byol_loss(p, t, normalize=False))
    assert torch.equal(SimSiamLoss()(p, t), simsiam_loss(p, t))


@pytest.mark.parametrize("loss", [byol_loss, simsiam_loss])
def test_no_gradient_reaches_the_targets(loss):
    p, t = views(3, 2, 4).requires_grad_(), views(3, 2, 4, seed=1).requires_grad_()
    loss(p, t).backward()
    assert t.grad is None
    assert float(p.grad.abs().min()) > 0


def test_a_zero_prediction_is_no_nan():
    p = torch.zeros(2, 2, 3, requires_grad=True)
    loss = byol_loss(p, torch.ones(2, 2, 3))
    loss.backward()
    assert loss.item() == 4.0
    assert p.grad.abs().max() == 0


@pytest.mark.parametrize(
    ("p", "t", "message"),
    [
        (torch.ones(3, 1, 4), torch.ones(3, 1, 4), "holds 1 view, but every view predicts another one"),
        (torch.ones(3, 2, 4), torch.ones(3, 2, 5), "must have the same shape"),
        (torch.ones(3, 4), torch.ones(3, 4), r"`predictions` must have shape \[N, V, D\]"),
        (torch.ones(3, 2, 4).long(), torch.ones(3, 2, 4), "floating point"),
    ],
)
def test_what_does_not_fit_is_refused(p, t, message):
    with pytest.raises(ValueError, match=message):
        byol_loss(p, t)


@pytest.mark.parametrize("beta", [0.0, 0.3, -0.5])
@pytest.mark.parametrize("one", [False, True])
def test_nt_xent_beta(beta, one):
    z_i, z_j, t = views(5, 4), views(5, 4, seed=1), 0.4
    z = torch.nn.functional.normalize(torch.cat([z_i, z_j]), dim=1)
    logits = z @ z.T / t
    costs, positives = [], []
    for row in range(10):
        positive = logits[row, (row + 5) % 10]
        rest = [logits[row, k] for k in range(10) if k != row]
        if one:
            rest.append(torch.tensor(1 / t, dtype=torch.float64))
        costs.append(torch.stack(rest).logsumexp(0) - positive)
        positives.append(positive)
    loss, intra = nt_xent_beta(z_i, z_j, t, beta, add_one_in_neg=one)
    torch.testing.assert_close(loss, torch.stack(costs).mean() / (1 + beta))
    torch.testing.assert_close(intra, -beta * torch.stack(positives).mean() / (1 + beta))
    if beta == 0 and not one:
        torch.testing.assert_close(loss, nt_xent(z_i, z_j, t))


def test_nt_xent_beta_refuses_a_weight_without_meaning():
    with pytest.raises(ValueError, match=r"`beta` must be a number above -1, got -1"):
        nt_xent_beta(views(4, 3), views(4, 3), beta=-1)
