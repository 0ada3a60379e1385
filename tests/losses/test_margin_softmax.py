"""The cosine softmax with a margin against a loop over the formula; candidates, sampling, rows without a label, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.naive_losses import naive_margin_softmax
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_contrastive.losses import class_cosine, info_nce, margin_softmax, sample_classes


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mean_of_labelled(costs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return costs.sum() / (labels >= 0).sum().clamp_min(1)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    n=st.integers(1, 8),
    c=st.integers(2, 12),
    d=st.integers(1, 5),
    tile=st.sampled_from([None, 1, 3, 100]),
    s=st.sampled_from([1.0, 32.0, 400.0]),
    m=st.sampled_from([0.0, 0.15, -0.1]),
    seed=st.integers(0, 10_000),
    sampled=st.booleans(),
    unlabelled=st.booleans(),
)
def test_equals_the_formula(n, c, d, tile, s, m, seed, sampled, unlabelled):
    features, weight = draw(n, d, seed=seed).requires_grad_(), draw(c, d, seed=seed + 1).requires_grad_()
    low = -1 if unlabelled else 0
    labels = torch.randint(low, c, (n,), generator=torch.Generator().manual_seed(seed))
    classes = sample_classes(labels, c, max(2, c // 2), seed=seed) if sampled else None
    scale = torch.tensor(s, dtype=torch.float64, requires_grad=True)
    options = {"scale": scale, "margin": m, "candidates": classes, "tile_size": tile}
    expected = naive_margin_softmax(features, weight, labels, scale, m, classes)
    torch.testing.assert_close(
        margin_softmax(features, weight, labels, reduction="none", **options), expected, rtol=1e-10, atol=1e-10
    )
    loss, expected = margin_softmax(features, weight, labels, **options), mean_of_labelled(expected, labels)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    if not (labels >= 0).any():
        return
    unused = {"allow_unused": True, "materialize_grads": True}
    ours = torch.autograd.grad(loss, (features, weight, scale), **unused)
    theirs = torch.autograd.grad(expected, (features, weight, scale), **unused)
    for got, want in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9 * s)


def test_without_a_margin_it_is_a_cosine_softmax():
    features, weight, labels = draw(5, 4), draw(7, 4, seed=1), torch.tensor([0, 6, 3, 3, 1])
    logits = 16 * class_cosine(features, weight)
    expected = torch.nn.functional.cross_entropy(logits, labels)
    torch.testing.assert_close(margin_softmax(features, weight, labels, scale=16.0, margin=0.0), expected)
    # and, against its own class and the others as negatives, InfoNCE with a margin
    own = torch.ones(5, 7, dtype=torch.bool).scatter(1, labels[:, None], False)
    other = info_nce(
        features,
        weight[labels],
        weight,
        temperature=1 / 16,
        margin=0.2,
        margin_type="angle",
        negative_mask=own,
        in_batch_negatives=False,
    )
    options = {"scale": 16.0, "margin": 0.2, "margin_type": "angle"}
    torch.testing.assert_close(margin_softmax(features, weight, labels, **options), other)


def test_the_order_of_candidates_does_not_matter():
    features, weight, labels = draw(5, 4), draw(9, 4, seed=1), torch.tensor([0, 6, 3, 3, 1])
    classes = torch.tensor([6, 8, 3, 0, 5, 1])
    for order in ([5, 4, 3, 2, 1, 0], [2, 0, 4, 1, 5, 3]):
        torch.testing.assert_close(
            margin_softmax(features, weight, labels, candidates=classes[order]),
            margin_softmax(features, weight, labels, candidates=classes),
        )
    torch.testing.assert_close(
        margin_softmax(features, weight, labels, candidates=torch.randperm(9)),
        margin_softmax(features, weight, labels),
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_of_any_integer_type(dtype):
    features, weight, labels = draw(5, 4), draw(9, 4, seed=1), torch.tensor([0, 6, 3, 3, 1])
    classes = sample_classes(labels.to(dtype), 9, 7, seed=0)
    assert torch.equal(classes, sample_classes(labels, 9, 7, seed=0))
    for candidates in (None, classes.to(dtype)):
        found = margin_softmax(features, weight, labels.to(dtype), candidates=candidates, tile_size=2)
        torch.testing.assert_close(found, margin_softmax(features, weight, labels, candidates=candidates))


def test_rows_without_a_label():
    """They change nothing and get nothing; a batch of nothing else costs 0 and still reaches all inputs."""
    features, weight = draw(4, 3).requires_grad_(), draw(6, 3, seed=1).requires_grad_()
    labels = torch.tensor([2, -1, 5, -1])
    loss = margin_softmax(features, weight, labels)
    torch.testing.assert_close(loss, margin_softmax(features[[0, 2]], weight, labels[[0, 2]]))
    loss.backward()
    assert features.grad is not None
    assert float(features.grad[[1, 3]].abs().max()) == 0
    assert float(features.grad[[0, 2]].abs().min()) > 0
    features.grad = weight.grad = None
    for reduction in ("mean", "sum", "none"):
        loss = margin_softmax(features, weight, torch.full((4,), -1), reduction=reduction)
        loss.sum().backward()
        assert loss.tolist() == ([0.0] * 4 if reduction == "none" else 0.0)
        assert not features.grad.any()
        assert not weight.grad.any()


def test_padding_of_the_class_matrix_takes_no_part():
    features, weight, labels = draw(4, 3), draw(6, 3, seed=1), torch.tensor([0, 1, 3, 3])
    expected = margin_softmax(features, weight[:5], labels)
    torch.testing.assert_close(margin_softmax(features, weight, labels, num_classes=5), expected)
    assert float((margin_softmax(features, weight, labels) - expected).abs()) > 1e-6
    # one process holds everything, whatever it is told
    torch.testing.assert_close(margin_softmax(features, weight, labels, num_classes=5, sharded=True), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_has_float32_logits(dtype):
    features, weight = draw(32, 16).to(dtype).requires_grad_(), draw(50, 16, seed=1).float().requires_grad_()
    labels = torch.arange(32)
    loss = margin_softmax(features, weight, labels, scale=64.0)
    assert loss.dtype == torch.float32
    same = margin_softmax(features.detach().double(), weight.detach().double(), labels, scale=64.0)
    torch.testing.assert_close(loss.double(), same, rtol=1e-5, atol=1e-6)
    loss.backward()
    assert (features.grad.dtype, weight.grad.dtype) == (dtype, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(margin_softmax(features, weight, labels, scale=64.0), loss, rtol=1e-6, atol=1e-6)
        cosine = class_cosine(features, weight)
    assert cosine.dtype == torch.float32
    torch.testing.assert_close(cosine.double(), class_cosine(features.double(), weight.double()), rtol=1e-5, atol=1e-6)


def test_a_row_that_lies_on_its_class_costs_next_to_nothing():
    """e^-64 is beyond a difference of float32 sums."""
    weight = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    loss = margin_softmax(weight.clone().requires_grad_(), weight, torch.tensor([0, 1]), scale=32.0, margin=0.0)
    assert loss.item() == pytest.approx(math.exp(-64), rel=1e-4)


def test_zero_rows_and_nan():
    features, weight, labels = draw(3, 4), draw(5, 4, seed=1).requires_grad_(), torch.tensor([0, 4, 2])
    features[1] = 0
    features.requires_grad_()
    margin_softmax(features, weight, labels).backward()
    assert bool(features.grad.isfinite().all())
    assert not features.grad[1].any()
    assert bool(weight.grad.isfinite().all())
    assert bool(margin_softmax(features * torch.nan, weight, labels).isnan())


def test_gradcheck():
    features, weight, labels = (
        draw(3, 4).requires_grad_(),
        draw(5, 4, seed=1).requires_grad_(),
        torch.tensor([0, 4, -1]),
    )
    for options in ({}, {"candidates": torch.tensor([0, 4, 1])}, {"margin": 0.3, "margin_type": "angle"}):
        function = lambda x, w: margin_softmax(x, w, labels, scale=4.0, tile_size=2, **options)  # noqa: B023, E731
        assert torch.autograd.gradcheck(function, (features, weight))


def test_sampled_classes():
    labels = torch.tensor([[7, 2], [-1, 7], [2, 19]])
    found = sample_classes(labels, 20, 8, seed=3)
    assert found.dtype == torch.long
    assert found[:3].tolist() == [2, 7, 19]
    assert len(found) == 8 == len(set(found.tolist()))
    assert set(found.tolist()) <= set(range(20))
    assert torch.equal(found, sample_classes(labels.flip(0), 20, 8, seed=3))
    assert not torch.equal(found, sample_classes(labels, 20, 8, seed=4))
    assert sorted(sample_classes(labels, 20, 99, seed=0).tolist()) == list(range(20))
    assert sample_classes(labels, 20, 2, seed=0).tolist() == [2, 7, 19]
    assert len(sample_classes(torch.tensor([-1]), 20, 5, seed=0)) == 5
    state = torch.get_rng_state()
    sample_classes(labels, 20, 8, seed=3)
    assert torch.equal(torch.get_rng_state(), state)


def test_every_other_class_is_drawn_equally_often():
    labels = torch.tensor([0, 3, 4, 9])
    counts = torch.zeros(10)
    for seed in range(2000):
        counts[sample_classes(labels, 10, 7, seed=seed)[4:]] += 1
    assert counts[labels].sum() == 0
    others = counts[counts > 0]
    assert len(others) == 6
    # 3 of 6: mean 1000, standard deviation 22
    assert bool(((others - 1000).abs() < 120).all())


X, W = torch.ones(3, 4), torch.ones(18, 4)
Y = torch.tensor([0, 5, 17])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: margin_softmax(X, W[:17], Y),
            "entity label 17 is outside 0..num_entities-1: there are 17 classes, 0 to 16",
        ),
        (lambda: margin_softmax(X, W, Y - 2), "entity label -2 is outside"),
        (lambda: margin_softmax(X, W, Y, num_classes=10), "entity label 17 is outside"),
        (lambda: margin_softmax(X, W, Y, num_classes=19), "`num_classes` must be from 1 to 18"),
        (lambda: margin_softmax(X, W, Y, candidates=torch.tensor([0, 5])), "`candidates` lacks the label 17"),
        (lambda: margin_softmax(X, W, Y, candidates=torch.tensor([0, 5, 5, 17])), "`candidates` holds class 5 twice"),
        (
            lambda: margin_softmax(X, W, Y, candidates=torch.tensor([0, 5, 17, 18])),
            "`candidates` must hold classes from 0",
        ),
        (lambda: margin_softmax(X, W, Y, candidates=torch.zeros(0).long()), "`candidates` is empty"),
        (lambda: margin_softmax(X, W, Y, candidates=torch.tensor([0.0, 5, 17])), "`candidates` must hold integers"),
        (lambda: margin_softmax(X, W, Y.float()), "`labels` must hold integers"),
        (lambda: margin_softmax(X, W, Y[:2]), "`labels` must have shape \\[3\\]"),
        (lambda: margin_softmax(X, W[:, :3], Y), "`class_weight` must have the width and device of `features`"),
        (lambda: margin_softmax(X, W, Y, scale=0.0), "`scale` must be a finite number above 0"),
        (lambda: margin_softmax(X, W, Y, margin=float("inf")), "`margin` must be a finite number"),
        (lambda: margin_softmax(X, W, Y, margin_type="sine"), "`margin_type` must be one of"),
        (lambda: sample_classes(Y, 17, 5, seed=0), "entity label 17 is outside"),
        (lambda: sample_classes(Y, 18, 0, seed=0), "`num_sampled` must be a whole number of at least 1"),
        (lambda: sample_classes(Y.float(), 18, 5, seed=0), "`labels` must hold integers"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_wrong_types():
    with pytest.raises(TypeError, match=r"`candidates` must be a torch\.Tensor"):
        margin_softmax(X, W, Y, candidates=[0, 5, 17])
    with pytest.raises(TypeError, match=r"`labels` must be a torch\.Tensor"):
        sample_classes([0, 5], 18, 5, seed=0)
