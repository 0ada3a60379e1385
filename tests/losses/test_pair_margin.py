"""The pair loss and the reducer of CLIPPINGS against loops over the formulas."""

from __future__ import annotations

import pytest
import torch
from helpers.naive_losses import naive_pair_margin, naive_sup_con
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_contrastive.losses import SupConLoss, pair_margin_loss, sup_con


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    n=st.integers(1, 9),
    d=st.integers(2, 4),  # in one dimension all unit rows would lie at two places
    kinds=st.integers(1, 5),
    seed=st.integers(0, 10_000),
    pos=st.sampled_from([0.0, 0.3, 3.0]),
    neg=st.sampled_from([0.0, 0.5, 1.5]),
    normalize=st.booleans(),
)
def test_pair_margin_equals_the_formula(n, d, kinds, seed, pos, neg, normalize):
    features = draw(n, d, seed=seed).requires_grad_()
    labels = torch.randint(0, kinds, (n,), generator=torch.Generator().manual_seed(seed))
    options = {"pos_margin": pos, "neg_margin": neg, "normalize": normalize}
    loss, expected = pair_margin_loss(features, labels, **options), naive_pair_margin(features, labels, **options)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    (ours,) = torch.autograd.grad(loss, features)
    torch.testing.assert_close(ours, torch.autograd.grad(expected, features)[0], rtol=1e-9, atol=1e-9)


def test_rows_at_one_place():
    """A pair of different labels at distance 0 counts in full and has no direction; one of equal labels does not count."""
    features = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0]], requires_grad=True)
    loss = pair_margin_loss(features, torch.tensor([0, 1, 1]))
    loss.backward()
    assert loss.item() == pytest.approx(2**0.5 + 0.5)
    assert features.grad is not None
    assert bool(features.grad.isfinite().all())
    same = pair_margin_loss(features[:2], torch.tensor([0, 0]))
    assert same.item() == 0


def test_pair_margin_float32_keeps_small_distances():
    """Two rows 1e-4 apart: a difference of squares would have half of its digits."""
    features = torch.tensor([[1.0, 0.0], [1.0, 1e-4]], requires_grad=True)
    loss = pair_margin_loss(features, torch.tensor([3, 3]))
    assert loss.item() == pytest.approx(1e-4, rel=1e-3)
    for dtype in (torch.float16, torch.bfloat16):
        half = draw(8, 16).to(dtype).requires_grad_()
        found = pair_margin_loss(half, torch.arange(8) % 3)
        assert found.dtype == torch.float32
        torch.testing.assert_close(
            found.double(), pair_margin_loss(half.detach().double(), torch.arange(8) % 3), rtol=1e-5, atol=1e-6
        )
        found.backward()
        assert half.grad.dtype == dtype


def test_pair_margin_gradcheck_nan_and_nothing():
    features, labels = draw(5, 3).requires_grad_(), torch.tensor([0, 0, 1, 1, 2])
    assert torch.autograd.gradcheck(lambda x: pair_margin_loss(x, labels, neg_margin=1.6), (features,))
    assert bool(pair_margin_loss(features * torch.nan, labels).isnan())
    alone = pair_margin_loss(features[:1], labels[:1])
    alone.backward()
    assert alone.item() == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.arange(4)}, "`labels` must have shape \\[3\\]"),
        ({"labels": torch.rand(3)}, "`labels` must hold integers"),
        ({"pos_margin": -0.1}, "`pos_margin` must be a finite distance of 0 or more, got -0.1"),
        ({"neg_margin": float("inf")}, "`neg_margin` must be a finite distance"),
        ({"features": torch.ones(3, 1, 2)}, "`features` must have shape"),
    ],
)
def test_pair_margin_refusals(change, message):
    with pytest.raises(ValueError, match=message):
        pair_margin_loss(**{"features": torch.ones(3, 2), "labels": torch.arange(3), **change})
    with pytest.raises(TypeError, match="`pos_margin` must be a number"):
        pair_margin_loss(torch.ones(3, 2), torch.arange(3), pos_margin="0")


# ------------------------------------------------------------------------------------- sup_con, mean of what is not 0


def test_sup_con_leaves_out_rows_without_cost():
    """Rows 0 and 1 are solved, e^-200 is below rounding; 2 and 3 are not; 4 has no positive."""
    features = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0.6, 0.8], [0, 0, 1]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 1, 2])
    rows = sup_con(features, labels, 0.005, reduction="none")
    assert rows[[0, 1, 4]].tolist() == [0, 0, 0]
    torch.testing.assert_close(sup_con(features, labels, 0.005), rows.sum() / 4)
    torch.testing.assert_close(sup_con(features, labels, 0.005, mean_of_nonzero=True), rows.sum() / 2)
    torch.testing.assert_close(SupConLoss(0.005, mean_of_nonzero=True)(features, labels), rows.sum() / 2)


def test_sup_con_of_nonzero_rows_is_sup_con_elsewhere():
    features, labels = draw(9, 4).requires_grad_(), torch.tensor([0, 0, 1, 1, 1, 2, 3, 3, 4])
    found = sup_con(features, labels, 0.1, mean_of_nonzero=True)
    torch.testing.assert_close(found, naive_sup_con(features, labels, 0.1))
    torch.testing.assert_close(
        torch.autograd.grad(found, features)[0], torch.autograd.grad(sup_con(features, labels, 0.1), features)[0]
    )
    assert bool(sup_con(features * torch.nan, labels, 0.1, mean_of_nonzero=True).isnan())


def test_sup_con_of_one_label():
    features = draw(5, 4).requires_grad_()
    with pytest.warns(UserWarning, match="no negatives"):
        assert sup_con(features, torch.zeros(5).long()).item() > 1
    with pytest.warns(UserWarning, match="no negatives"):
        loss = sup_con(features, torch.zeros(5).long(), mean_of_nonzero=True)
    loss.backward()
    assert loss.item() == 0
    assert features.grad is not None
    assert not features.grad.any()


def test_sup_con_without_positives_says_so():
    features = draw(5, 4).requires_grad_()
    for option in (False, True):
        with pytest.warns(UserWarning, match="sup_con has no positives.*labels repeat"):
            loss = sup_con(features, torch.arange(5), mean_of_nonzero=option)
        loss.backward()
        assert loss.item() == 0
        assert features.grad is not None
        assert not features.grad.any()
