"""Precision, memory, masks, batches of one and refusals."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from helpers.naive_losses import naive_clip, naive_multi_view, naive_sup_con
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from hf_contrastive.losses import (
    ClipLoss,
    InfoNCELoss,
    NTXentLoss,
    SupConLoss,
    _engine,
    clip_loss,
    info_nce,
    nt_xent,
    nt_xent_multi_view,
    sup_con,
)


ALL_LOSSES = {
    "info_nce": lambda a, b, t, **k: info_nce(a, b, temperature=t, **k),
    "clip_loss": lambda a, b, t, **k: clip_loss(a, b, 1 / t, **k),
    "clip_loss_weighted": lambda a, b, t, **k: clip_loss(a, b, 1 / t, weight_a_to_b=0.75, **k),
    "clip_loss_one_way": lambda a, b, t, **k: clip_loss(a, b, 1 / t, weight_a_to_b=0, **k),
    "nt_xent": lambda a, b, t, **k: nt_xent(a, b, t, **k),
    "sup_con": lambda a, b, t, **k: sup_con(torch.stack([a, b], 1), None, t, **k),
}


def _pair(n: int, d: int, noise: float = 0.5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two views that resemble each other, as in training."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(n, d, generator=generator)
    b = a + noise * torch.randn(n, d, generator=generator)
    return a.requires_grad_(), b.requires_grad_()


@pytest.mark.parametrize("name", ALL_LOSSES)
@pytest.mark.parametrize("t", [0.01, 0.05, 1.0])
def test_tiles_change_nothing(name, t):
    a, b = _pair(37, 16, noise=2.0)
    whole = ALL_LOSSES[name](a, b, t)
    expected = torch.autograd.grad(whole, (a, b))
    for tile in (1, 8, 36):
        tiled = ALL_LOSSES[name](a, b, t, tile_size=tile)
        torch.testing.assert_close(tiled, whole, rtol=1e-5, atol=1e-6)
        for got, want in zip(torch.autograd.grad(tiled, (a, b)), expected, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ALL_LOSSES)
def test_kept_and_remade_tiles_agree(name, monkeypatch):
    """Some tiles from the store, some made again."""
    a, b = _pair(40, 16)
    expected = torch.autograd.grad(ALL_LOSSES[name](a, b, 0.1), (a, b))
    monkeypatch.setitem(_engine._TILE, "cpu", 8)
    monkeypatch.setattr(_engine, "KEPT_BYTES", 5 * 8 * 8 * 4)
    for got, want in zip(torch.autograd.grad(ALL_LOSSES[name](a, b, 0.1), (a, b)), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("t", [0.01, 0.03, 0.07, 1.0])
def test_float32_stays_near_double_precision(t):
    # views far apart: a loss that the reference, a difference of log-sums, can resolve
    a, b = _pair(48, 32, noise=2.0)
    for loss, reference in (
        (clip_loss(a, b, 1 / t), naive_clip(a, b, 1 / t).mean()),
        (nt_xent(a, b, t), naive_multi_view(torch.stack([a, b], 1), t).mean()),
    ):
        ours, theirs = torch.autograd.grad(loss, (a, b)), torch.autograd.grad(reference, (a, b))
        torch.testing.assert_close(loss.double(), reference, rtol=2e-5, atol=1e-9)
        for got, want in zip(ours, theirs, strict=True):
            assert float((got - want).norm() / want.norm()) < 1e-4


@pytest.mark.parametrize("t", [0.01, 1.0])
@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1e3, 1e15])
def test_length_of_the_embeddings_does_not_matter(t, scale):
    a, b = _pair(16, 8)
    for name, function in ALL_LOSSES.items():
        expected = function(a, b, t)
        got = function(a.detach() * scale, b.detach() * scale, t)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ALL_LOSSES)
@pytest.mark.parametrize("t", [0.01, 0.1, 1.0])
def test_half_precision_input_is_summed_in_float32(dtype, name, t):
    """The only error is the rounding of the embeddings themselves."""
    a, b = _pair(64, 32)
    half_a, half_b = (x.detach().to(dtype).requires_grad_() for x in (a, b))
    loss = ALL_LOSSES[name](half_a, half_b, t)
    assert loss.dtype == torch.float32
    same = ALL_LOSSES[name](half_a.detach().double(), half_b.detach().double(), t)
    torch.testing.assert_close(loss.double(), same, rtol=1e-4, atol=1e-6)
    loss.backward()
    assert half_a.grad is not None
    assert half_a.grad.dtype == dtype
    assert bool(half_a.grad.isfinite().all())


@pytest.mark.parametrize("name", ALL_LOSSES)
def test_autocast_does_not_lower_the_precision(name):
    a, b = _pair(64, 32)
    expected = ALL_LOSSES[name](a, b, 0.02)
    expected_grad = torch.autograd.grad(expected, (a, b))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = ALL_LOSSES[name](a, b, 0.02)
        grads = torch.autograd.grad(loss, (a, b))
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-7)
    for got, want in zip(grads, expected_grad, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-7)


def test_autocast_does_not_lower_the_precision_of_negatives_by_row():
    a, b = _pair(16, 32, noise=2.0)
    negatives = a.detach()[:, None] + 2 * torch.randn(16, 7, 32, generator=torch.Generator().manual_seed(1))
    expected = info_nce(a, b, negatives, temperature=0.02)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = info_nce(a, b, negatives, temperature=0.02)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-7)


def test_tiny_loss_keeps_its_digits():
    """Far apart negatives at T = 0.05: the loss is e^-40, which a difference of log-sums would round to 0."""
    x = torch.stack([torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 0.0])])
    torch.testing.assert_close(
        clip_loss(x, x, 20.0).double(), torch.exp(torch.tensor(-40.0).double()), rtol=1e-4, atol=0
    )


class _Largest(TorchDispatchMode):
    """Number of elements of the largest tensor that any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_iter(result):
            if isinstance(leaf, torch.Tensor):
                self.numel = max(self.numel, leaf.untyped_storage().nbytes() // leaf.element_size())
        return result


@pytest.mark.parametrize("name", ALL_LOSSES)
@pytest.mark.parametrize("t", [0.01, 0.5])
@pytest.mark.parametrize("with_ids", [False, True])
def test_no_matrix_of_all_pairs_is_ever_made(name, t, with_ids):
    n, tile, d = 512, 32, 4
    a, b = _pair(n, d)
    options = {}
    if with_ids and name != "sup_con":
        options["sample_ids"] = torch.arange(n) % 100
    with _Largest() as seen:
        ALL_LOSSES[name](a, b, t, tile_size=tile, **options).backward()
    assert seen.numel <= 2 * n * d  # all embeddings; a matrix of pairs would be 512 * 512
    assert seen.numel >= n * d


def test_default_store_is_bounded(monkeypatch):
    monkeypatch.setitem(_engine._TILE, "cpu", 16)
    monkeypatch.setattr(_engine, "KEPT_BYTES", 10 * 16 * 16 * 4)
    monkeypatch.setattr(_engine, "_POOL", _engine._Pool())
    made = []
    empty = torch.empty
    monkeypatch.setattr(_engine.torch, "empty", lambda *a, **k: made.append(a[0]) or empty(*a, **k))
    a, b = _pair(128, 4)
    clip_loss(a, b, 10.0).backward()
    assert made.count(16 * 16) == 10 + 2  # ten kept, one for the other tiles, one for the weights
    # the next pass takes the same ones
    clip_loss(a, b, 10.0).backward()
    assert made.count(16 * 16) == 10 + 2
    # what waits is bounded, too
    monkeypatch.setattr(_engine, "POOL_BYTES", 3 * 16 * 16 * 4)
    clip_loss(a, b, 10.0).backward()
    assert sum(one.numel() for one in _engine._POOL.free) == 3 * 16 * 16


@pytest.mark.parametrize("name", ALL_LOSSES)
def test_a_graph_that_is_kept_goes_back_twice(name, monkeypatch):
    """Tiles of a pass are used by others once it has gone back."""
    monkeypatch.setitem(_engine._TILE, "cpu", 16)
    a, b = _pair(40, 4)
    loss = ALL_LOSSES[name](a, b, 0.5)
    first = torch.autograd.grad(loss, (a, b), retain_graph=True)
    others = _pair(40, 4, seed=1)
    later = ALL_LOSSES[name](*others, 0.5)  # takes the arrays, and keeps them while the first one goes back again
    again = torch.autograd.grad(loss, (a, b))
    for one, other in zip(first, again, strict=True):
        torch.testing.assert_close(one, other)
    expected = torch.autograd.grad(ALL_LOSSES[name](*others, 0.5, tile_size=40), others)
    for one, other in zip(torch.autograd.grad(later, others), expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ALL_LOSSES)
def test_one_sample_costs_nothing_and_says_so(name):
    if name == "sup_con":
        pytest.skip("one sample of several views still has the positive in the denominator; tested below")
    a, b = _pair(1, 4)
    with pytest.warns(UserWarning, match="no negatives"):
        loss = ALL_LOSSES[name](a, b, 0.1)
    assert loss.item() == 0
    loss.backward()
    assert a.grad is not None
    assert float(a.grad.abs().max()) == 0
    assert float(b.grad.abs().max()) == 0


def test_sup_con_without_negatives_or_positives():
    a, b = _pair(1, 4)
    with pytest.warns(UserWarning, match="no negatives"):
        loss = sup_con(torch.stack([a, b], 1))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert float(a.grad.abs().max()) < 1e-6
    lonely = torch.randn(5, 4, requires_grad=True)
    with pytest.warns(UserWarning, match="no positives"):
        loss = sup_con(lonely, torch.arange(5))
    loss.backward()
    assert loss.item() == 0
    assert float(lonely.grad.abs().max()) == 0


@pytest.mark.parametrize("t", [0.005, 0.5])
def test_rows_whose_negatives_are_all_masked(t):
    """One id for everybody: nothing to push away, in either range of the computation; two ids: only the others."""
    a, b = _pair(6, 4)
    for name in ("info_nce", "clip_loss", "nt_xent"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loss = ALL_LOSSES[name](a, b, t, sample_ids=torch.zeros(6, dtype=torch.long), tile_size=4)
        grads = torch.autograd.grad(loss, (a, b))
        assert loss.item() == 0
        assert all(float(g.abs().max()) == 0 for g in grads)


def test_masked_rows_do_not_reach_one_another():
    """The gradient of row 0 does not depend on a row that shares its id."""
    a, b = _pair(5, 4)
    ids = torch.tensor([3, 3, 7, 8, 9])
    for name in ("info_nce", "clip_loss", "nt_xent"):
        losses = ALL_LOSSES[name](a, b, 0.1, sample_ids=ids, reduction="none")
        grads = torch.autograd.grad(losses[0], (a, b))
        assert all(float(g[1].abs().max()) == 0 for g in grads)
        assert float(grads[1][0].abs().max()) > 0


def test_zero_vectors_are_harmless():
    for name, function in ALL_LOSSES.items():
        a, b = _pair(6, 4)
        x = (a * torch.tensor([1.0, 0, 1, 1, 1, 1])[:, None]).detach().requires_grad_()
        loss = function(x, b, 0.1)
        loss.backward()
        assert bool(loss.isfinite()), name
        assert bool(x.grad.isfinite().all()), name
        assert float(x.grad[1].abs().max()) == 0, name


def test_nan_stays_visible():
    for t in (0.01, 0.5):
        for name, function in ALL_LOSSES.items():
            a, b = _pair(6, 4)
            a.data[2, 1] = torch.nan
            assert bool(function(a, b, t).isnan()), name


def test_a_length_beyond_the_number_format_stays_visible():
    """The squares of 1e25 overflow in float32; such a row must not count as the zero vector."""
    for t in (0.01, 0.5):
        for name, function in ALL_LOSSES.items():
            a, b = _pair(6, 4)
            a.data[2] *= 1e25
            assert bool(function(a, b, t).isnan()), name


@pytest.mark.parametrize("t", [0.0115, 0.0125, 0.02, 0.0205])
def test_equal_rows_at_low_temperature_do_not_overflow(t):
    """A collapsed model: every logit is 1 / T, whose exponential times the number of rows may leave float32."""
    a = torch.ones(64, 8, requires_grad=True)
    for name, function in ALL_LOSSES.items():
        candidates = 64 if name.startswith(("info_nce", "clip_loss")) else 127
        loss = function(a, a, t)
        loss.backward()
        assert loss.item() == pytest.approx(math.log(candidates), rel=1e-5), name
        assert bool(a.grad.isfinite().all()), name


def test_second_derivatives_are_refused():
    for name, function in ALL_LOSSES.items():
        a, b = _pair(6, 4)
        (first,) = torch.autograd.grad(function(a, b, 0.5), a, create_graph=True)
        with pytest.raises(RuntimeError, match="differentiate twice"):
            first.sum().backward()
        assert bool(first.isfinite().all()), name


def test_reductions():
    a, b = _pair(6, 4)
    for name, function in ALL_LOSSES.items():
        rows = function(a, b, 0.1, reduction="none")
        assert rows.shape == ((12,) if name in ("nt_xent", "sup_con") else (6,))
        torch.testing.assert_close(function(a, b, 0.1, reduction="sum"), rows.sum())
        torch.testing.assert_close(function(a, b, 0.1), rows.mean())


def test_modules_are_the_functions():
    a, b = _pair(6, 4)
    ids = torch.tensor([0, 0, 1, 2, 3, 4])
    queue = torch.randn(7, 4)
    pairs = [
        (InfoNCELoss(0.2)(a, b, queue, sample_ids=ids), info_nce(a, b, queue, temperature=0.2, sample_ids=ids)),
        (ClipLoss(tile_size=2)(a, b, 9.0, sample_ids=ids), clip_loss(a, b, 9.0, sample_ids=ids, tile_size=2)),
        (ClipLoss(weight_a_to_b=0.75)(a, b, 9.0), clip_loss(a, b, 9.0, weight_a_to_b=0.75)),
        (NTXentLoss(0.3, reduction="sum")(a, b, sample_ids=ids), nt_xent(a, b, 0.3, sample_ids=ids, reduction="sum")),
        (SupConLoss(0.4)(a, ids), sup_con(a, ids, 0.4)),
    ]
    for module, function in pairs:
        assert torch.equal(module, function)
    assert "temperature=0.2" in repr(InfoNCELoss(0.2))


def test_the_directions_of_clip_loss():
    """The weight belongs to the rows of `a` that look for their partner in `b`."""
    a, b = _pair(6, 4)
    one = {weight: clip_loss(a, b, 5.0, weight_a_to_b=weight, reduction="none") for weight in (0, 1)}
    torch.testing.assert_close(one[1], info_nce(a, b, temperature=0.2, reduction="none"))
    torch.testing.assert_close(one[0], info_nce(b, a, temperature=0.2, reduction="none"))
    assert float((one[0] - one[1]).detach().abs().max()) > 0.01
    mixed = clip_loss(a, b, 5.0, weight_a_to_b=0.75, reduction="none")
    torch.testing.assert_close(mixed, 0.75 * one[1] + 0.25 * one[0])


def test_distinct_labels_make_sup_con_nt_xent():
    a, b = _pair(9, 4)
    torch.testing.assert_close(sup_con(torch.stack([a, b], 1), torch.arange(9) * 5, 0.2), nt_xent(a, b, 0.2))
    reference = naive_sup_con(torch.stack([a, b], 1), torch.arange(9) // 2, 0.2)
    torch.testing.assert_close(
        sup_con(torch.stack([a, b], 1), torch.arange(9) // 2, 0.2).double(), reference, rtol=1e-5, atol=1e-6
    )


X = torch.randn(4, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nt_xent(X, X, 0.0), "`temperature` must be a finite number above 0, got 0.0"),
        (lambda: nt_xent(X, X, -0.5), "got -0.5"),
        (lambda: nt_xent(X, X, float("nan")), "`temperature`.*nan"),
        (lambda: nt_xent(X, X, torch.tensor([0.1, 0.2])), "`temperature`.*shape \\[2\\]"),
        (lambda: info_nce(X, X, temperature=0), "`temperature`"),
        (lambda: sup_con(X, torch.arange(4), -1.0), "`temperature`"),
        (lambda: clip_loss(X, X, -1.0), "`logit_scale` must be a finite number above 0"),
        (lambda: clip_loss(X, X, 1.0, weight_a_to_b=1.5), "`weight_a_to_b` must be a number from 0 to 1, got 1.5"),
        (lambda: ClipLoss(weight_a_to_b=float("nan")), "`weight_a_to_b` must be a number from 0 to 1, got nan"),
        (lambda: NTXentLoss(0.0), "`temperature`"),
        (lambda: nt_xent(X, X[:3]), "`z_i` and `z_j` must have the same shape.*\\[4, 3\\] and \\[3, 3\\]"),
        (lambda: nt_xent(X, X[:, :2]), "same embedding width"),
        (lambda: nt_xent(X[0], X[0]), "`z_i` must have shape \\[N, D\\], got \\[3\\]"),
        (lambda: nt_xent(X, X.double()), "one dtype, got torch.float64 and torch.float32"),
        (lambda: nt_xent(X.long(), X.long()), "floating point.*torch.int64"),
        (lambda: nt_xent(X[:0], X[:0]), "at least one row"),
        (lambda: nt_xent(X, X.to("meta")), "one device, got meta and cpu"),
        (lambda: nt_xent(X, X, sample_ids=torch.arange(3)), "`sample_ids` must have shape \\[4\\].*got \\[3\\]"),
        (lambda: nt_xent(X, X, sample_ids=torch.rand(4)), "`sample_ids` must hold integers, got dtype torch.float32"),
        (lambda: nt_xent(X, X, tile_size=0), "`tile_size` must be a positive integer"),
        (lambda: nt_xent(X, X, reduction="avg"), "`reduction` must be one of 'mean', 'sum', 'none', got 'avg'"),
        (lambda: nt_xent_multi_view(X[:, None]), "at least two views"),
        (lambda: info_nce(X, X, torch.randn(2, 5, 3)), "`negatives` must have shape \\[M, 3\\].*\\[4, M, 3\\]"),
        (lambda: info_nce(X, X, torch.randn(5, 2)), "same embedding width"),
        (lambda: info_nce(X, X, X, negative_ids=torch.arange(4)), "`negative_ids` is compared with `sample_ids`"),
        (lambda: info_nce(X, X, negative_mask=torch.ones(4, 4) > 0), "describes `negatives`, which is None"),
        (
            lambda: info_nce(X, X, X, negative_mask=torch.ones(4, 4)),
            "`negative_mask` must be bool of shape \\[4, 4\\]",
        ),
        (lambda: sup_con(X), "`labels` may be None only with two or more views"),
        (lambda: sup_con(X, torch.arange(5)), "`labels` must have shape \\[4\\]"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: nt_xent([[1.0]], X),
        lambda: nt_xent(X, X, "0.1"),
        lambda: nt_xent(X, X, sample_ids=[1, 2, 3, 4]),
        lambda: info_nce(X, X, negatives=3),
        lambda: clip_loss(X, X, 1.0, weight_a_to_b="0.75"),
    ],
)
def test_wrong_types(call):
    with pytest.raises(TypeError, match="must be a"):
        call()
