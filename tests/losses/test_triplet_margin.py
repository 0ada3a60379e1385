"""The triplet loss against a loop over all triplets."""

from __future__ import annotations

import pytest
import torch
from helpers.naive_losses import naive_triplets
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_contrastive.losses import triplet_margin_loss


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    n=st.integers(1, 9),
    kinds=st.integers(1, 5),
    seed=st.integers(0, 10_000),
    margin=st.sampled_from([0.0, 0.3, 3.0]),
    normalize=st.booleans(),
)
def test_equals_the_formula(n, kinds, seed, margin, normalize):
    features = draw(n, 3, seed=seed).requires_grad_()
    labels = torch.randint(0, kinds, (n,), generator=torch.Generator().manual_seed(seed))
    options = {"margin": margin, "normalize": normalize}
    loss, expected = triplet_margin_loss(features, labels, **options), naive_triplets(features, labels, **options)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    (ours,) = torch.autograd.grad(loss, features)
    torch.testing.assert_close(ours, torch.autograd.grad(expected, features)[0], rtol=1e-9, atol=1e-9)


def test_in_blocks(monkeypatch):
    features, labels = draw(12, 4), torch.arange(12) % 3
    whole = triplet_margin_loss(features, labels)
    monkeypatch.setattr("hf_contrastive.losses.triplet_margin._BLOCK", 24)
    torch.testing.assert_close(triplet_margin_loss(features, labels), whole)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    half = draw(8, 16).to(dtype).requires_grad_()
    labels = torch.arange(8) % 3
    found = triplet_margin_loss(half, labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found.double(), triplet_margin_loss(half.detach().double(), labels), rtol=1e-5, atol=1e-6
    )
    found.backward()
    assert half.grad.dtype == dtype


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"labels": torch.arange(4)}, ValueError, "`labels` must have shape \\[3\\]"),
        ({"margin": -0.1}, ValueError, "`margin` must be a finite distance of 0 or more, got -0.1"),
        ({"margin": float("nan")}, ValueError, "`margin` must be a finite distance"),
        ({"margin": "wide"}, TypeError, "`margin` must be a number, got str"),
    ],
)
def test_wrong_arguments_are_refused(change, error, message):
    given = {"features": torch.rand(3, 2), "labels": torch.tensor([0, 0, 1]), **change}
    with pytest.raises(error, match=message):
        triplet_margin_loss(**given)
