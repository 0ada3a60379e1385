"""MIL-NCE against a loop over the formula, over sizes, masks, ids and tiles; precision and refusals."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.naive_losses import naive_mil_nce
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_contrastive.losses import mil_nce


pytestmark = pytest.mark.filterwarnings("ignore:.*has no negatives")


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some(n: int, k: int, seed: int = 0) -> torch.Tensor:
    """A mask with at least one candidate in every row."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(n, k, generator=generator) < 0.5
    mask[torch.arange(n), torch.randint(0, k, (n,), generator=generator)] = True
    return mask


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    n=st.integers(1, 7),
    k=st.integers(1, 4),
    d=st.integers(1, 5),
    tile=st.sampled_from([None, 1, 3, 100]),
    t=st.sampled_from([0.002, 0.07, 1.0]),
    seed=st.integers(0, 10_000),
    masked=st.booleans(),
    with_ids=st.booleans(),
    normalize=st.booleans(),
)
def test_equals_the_formula(n, k, d, tile, t, seed, masked, with_ids, normalize):
    embeds, candidates = draw(n, d, seed=seed).requires_grad_(), draw(n, k, d, seed=seed + 1).requires_grad_()
    temperature = torch.tensor(t, dtype=torch.float64, requires_grad=True)
    mask = some(n, k, seed) if masked else None
    ids = torch.randint(0, 3, (n,), generator=torch.Generator().manual_seed(seed)) if with_ids else None
    options = {"temperature": temperature, "normalize": normalize}
    loss = mil_nce(
        embeds, candidates, candidate_mask=mask, sample_ids=ids, tile_size=tile, reduction="none", **options
    )
    expected = naive_mil_nce(embeds, candidates, mask, ids=ids, **options)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10 / t)
    weights = torch.linspace(0.5, 1.5, n, dtype=torch.float64)
    ours = torch.autograd.grad((loss * weights).sum(), (embeds, candidates, temperature))
    theirs = torch.autograd.grad((expected * weights).sum(), (embeds, candidates, temperature))
    for got, want, scale in zip(ours, theirs, (1, 1, 1 / t), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9 * scale / t)


def test_one_candidate_a_row():
    """With K = 1 the two sums are the rows and the columns of one matrix, the diagonal in both."""
    v, u = draw(5, 4), draw(5, 4, seed=1)
    x = v @ u.T
    expected = torch.logaddexp(x.logsumexp(1), x.logsumexp(0)) - x.diagonal()
    torch.testing.assert_close(mil_nce(v, u[:, None], reduction="none"), expected)


def test_what_is_masked_reaches_nothing():
    v, u, mask = draw(5, 4), draw(5, 3, 4, seed=1).requires_grad_(), some(5, 3)
    loss = mil_nce(v, u, candidate_mask=mask)
    loss.backward()
    assert u.grad is not None
    assert float(u.grad[~mask].abs().max()) == 0
    assert float(u.grad[mask].abs().min()) > 0
    torch.testing.assert_close(mil_nce(v, u.masked_fill(~mask[..., None], 1e3), candidate_mask=mask), loss)


def test_a_repeated_candidate_is_not_a_mask():
    """Padding with a copy weighs the text twice; a mask does not."""
    v, u = draw(5, 4), draw(5, 1, 4, seed=1)
    twice = u.repeat(1, 2, 1)
    only = torch.tensor([True, False]).repeat(5, 1)
    torch.testing.assert_close(mil_nce(v, twice, candidate_mask=only), mil_nce(v, u))


def test_ids():
    """Rows of one id are not each other's negatives; all of one id cost ln 2 and nothing moves."""
    v, u = draw(4, 3).requires_grad_(), draw(4, 2, 3, seed=1).requires_grad_()
    loss = mil_nce(v, u, sample_ids=torch.tensor([5, 5, 6, 7]), reduction="none")
    grads = torch.autograd.grad(loss[0], (v, u))
    assert all(float(grad[1].abs().max()) == 0 for grad in grads)
    alike = mil_nce(v, u, sample_ids=torch.zeros(4, dtype=torch.long), reduction="none")
    torch.testing.assert_close(alike, torch.full((4,), math.log(2), dtype=torch.float64))
    assert all(float(grad.abs().max()) < 1e-15 for grad in torch.autograd.grad(alike.sum(), (v, u)))
    torch.testing.assert_close(mil_nce(v, u, sample_ids=torch.arange(4) * 3), mil_nce(v, u))


def test_one_row_costs_ln_2_and_says_so():
    v, u = draw(1, 3).requires_grad_(), draw(1, 2, 3, seed=1)
    with pytest.warns(UserWarning, match="mil_nce has no negatives: the loss is ln 2"):
        loss = mil_nce(v, u)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert v.grad is not None
    assert float(v.grad.abs().max()) < 1e-15


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_input_is_summed_in_float32(dtype):
    """Wide rows: the products leave float16 (65504), the loss does not notice."""
    v, u = (4 * draw(6, 768)).to(dtype).requires_grad_(), (40 * draw(6, 2, 768, seed=1)).to(dtype)
    u = u + (40 * v.detach()[:, None]).to(dtype)
    assert float((v.detach().double() @ u.reshape(12, 768).double().T).abs().max()) > 65504
    loss = mil_nce(v, u)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), mil_nce(v.detach().double(), u.double()), rtol=1e-5, atol=0.1)
    loss.backward()
    assert v.grad is not None
    assert v.grad.dtype == dtype
    assert bool(v.grad.isfinite().all())


def test_autocast_does_not_lower_the_precision():
    v, u = draw(16, 64).float().requires_grad_(), draw(16, 3, 64, seed=1).float()
    expected = mil_nce(v, u)
    (wanted,) = torch.autograd.grad(expected, v)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = mil_nce(v, u)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(torch.autograd.grad(loss, v)[0], wanted, rtol=1e-5, atol=1e-6)


def test_gradcheck():
    v, u = draw(4, 3).requires_grad_(), draw(4, 2, 3, seed=1).requires_grad_()
    ids, mask = torch.tensor([0, 1, 0, 2]), some(4, 2)
    for options in ({}, {"normalize": True, "temperature": 0.2}, {"sample_ids": ids, "candidate_mask": mask}):
        for tile in (None, 2):
            assert torch.autograd.gradcheck(lambda a, b: mil_nce(a, b, tile_size=tile, **options), (v, u))  # noqa: B023


def test_reductions_and_nan():
    v, u = draw(4, 3), draw(4, 2, 3, seed=1)
    rows = mil_nce(v, u, reduction="none")
    torch.testing.assert_close(mil_nce(v, u, reduction="sum"), rows.sum())
    torch.testing.assert_close(mil_nce(v, u), rows.mean())
    v[2, 1] = torch.nan
    assert bool(mil_nce(v, u).isnan())


V, U = torch.ones(4, 3), torch.ones(4, 2, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mil_nce(V, V), "`candidates` must have shape \\[4, K, 3\\].*got \\[4, 3\\]"),
        (lambda: mil_nce(V, U[:3]), "`candidates` must have shape \\[4, K, 3\\].*got \\[3, 2, 3\\]"),
        (lambda: mil_nce(V, U[:, :0]), "K >= 1 candidates"),
        (lambda: mil_nce(V, U[..., :2]), "same embedding width"),
        (lambda: mil_nce(V, U.double()), "one dtype"),
        (lambda: mil_nce(V, U, candidate_mask=torch.ones(4, 2)), "`candidate_mask` must be bool of shape \\[4, 2\\]"),
        (lambda: mil_nce(V, U, candidate_mask=torch.ones(4, 3) > 0), "got torch.bool of shape \\[4, 3\\]"),
        (
            lambda: mil_nce(V, U, candidate_mask=torch.tensor([[True, True]] * 2 + [[False, False]] * 2)),
            "`candidate_mask`: row 2 has no candidate",
        ),
        (lambda: mil_nce(V, U, temperature=0), "`temperature` must be a finite number above 0"),
        (lambda: mil_nce(V, U, sample_ids=torch.arange(3)), "`sample_ids` must have shape \\[4\\]"),
        (lambda: mil_nce(V, U, reduction="max"), "`reduction` must be one of"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_wrong_types():
    with pytest.raises(TypeError, match=r"`candidates` must be a torch\.Tensor, got list"):
        mil_nce(V, [[1.0]])
    with pytest.raises(TypeError, match=r"`candidate_mask` must be a torch\.Tensor of bool, got list"):
        mil_nce(V, U, candidate_mask=[[True]])
