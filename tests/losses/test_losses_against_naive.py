"""Every loss and its gradients against a row-by-row double-precision version, over sizes, temperatures, ids and tiles."""

from __future__ import annotations

import pytest
import torch
from helpers.naive_losses import naive_clip, naive_info_nce, naive_multi_view, naive_sup_con
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_contrastive.losses import clip_loss, info_nce, nt_xent, nt_xent_multi_view, sup_con


pytestmark = pytest.mark.filterwarnings("ignore:.*has no (negatives|positives)")

sizes = st.integers(1, 9)
widths = st.integers(1, 5)
tiles = st.sampled_from([None, 1, 2, 3, 4, 100])
# from the range of one exp for all (float64: 1/T up to 300) and from the range that needs a maximum
temperatures = st.sampled_from([0.002, 0.01, 0.07, 0.5, 1.0])
seeds = st.integers(0, 10_000)
relaxed = settings(max_examples=40, deadline=None, derandomize=True)


def _same(loss: torch.Tensor, reference: torch.Tensor, *inputs: torch.Tensor) -> None:
    torch.testing.assert_close(loss, reference, rtol=1e-10, atol=1e-10)
    weights = torch.linspace(0.5, 1.5, max(loss.numel(), 1), dtype=torch.float64).reshape(loss.shape)
    ours = torch.autograd.grad((loss * weights).sum(), inputs, retain_graph=True)
    # where everything is masked the reference does not touch the inputs at all
    unused = {"allow_unused": True, "materialize_grads": True}
    theirs = torch.autograd.grad((reference * weights).sum(), inputs, retain_graph=True, **unused)
    for got, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9 * max(1.0, float(expected.abs().max())))


def _draw(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def _ids(seed: int, n: int, kinds: int) -> torch.Tensor:
    return torch.randint(0, kinds, (n,), generator=torch.Generator().manual_seed(seed + 1))


@relaxed
@given(
    n=sizes,
    d=widths,
    tile=tiles,
    t=temperatures,
    seed=seeds,
    with_ids=st.booleans(),
    normalize=st.booleans(),
    weight=st.sampled_from([0.0, 0.3, 0.5, 0.75, 1.0]),
)
def test_clip_loss(n, d, tile, t, seed, with_ids, normalize, weight):
    a, b = _draw(seed, n, d), _draw(seed + 7, n, d)
    scale = torch.tensor(1 / t, dtype=torch.float64, requires_grad=True)
    ids = _ids(seed, n, 4) if with_ids else None
    options = {"sample_ids": ids, "normalize": normalize, "tile_size": tile, "reduction": "none"}
    loss = clip_loss(a, b, scale, weight_a_to_b=weight, **options)
    _same(loss, naive_clip(a, b, scale, ids, normalize, weight), a, b, scale)


@relaxed
@given(n=sizes, d=widths, tile=tiles, t=temperatures, seed=seeds, with_ids=st.booleans(), normalize=st.booleans())
def test_nt_xent(n, d, tile, t, seed, with_ids, normalize):
    z = _draw(seed, n, 2, d)
    temperature = torch.tensor(t, dtype=torch.float64, requires_grad=True)
    ids = _ids(seed, n, 4) if with_ids else None
    settings_ = {"sample_ids": ids, "normalize": normalize, "tile_size": tile, "reduction": "none"}
    loss = nt_xent(z[:, 0], z[:, 1], temperature, **settings_)
    reference = naive_multi_view(z, temperature, ids, normalize)
    _same(loss, reference, z)
    # the temperature's gradient is a sum over all pairs: compared at the scale of its terms
    ours, theirs = (torch.autograd.grad(x.sum(), temperature)[0] for x in (loss, reference))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9 / t**2)


@relaxed
@given(n=sizes, v=st.integers(2, 4), tile=tiles, t=temperatures, seed=seeds, with_ids=st.booleans())
def test_nt_xent_multi_view(n, v, tile, t, seed, with_ids):
    z = _draw(seed, n, v, 3)
    ids = _ids(seed, n, 4) if with_ids else None
    loss = nt_xent_multi_view(z, t, sample_ids=ids, tile_size=tile, reduction="none")
    _same(loss, naive_multi_view(z, t, ids), z)


@relaxed
@given(n=sizes, v=st.integers(0, 3), kinds=st.integers(1, 5), tile=tiles, t=temperatures, seed=seeds)
def test_sup_con(n, v, kinds, tile, t, seed):
    features = _draw(seed, n, v, 3) if v else _draw(seed, n, 3)
    labels = _ids(seed, n, kinds)
    _same(sup_con(features, labels, t, tile_size=tile), naive_sup_con(features, labels, t), features)


@relaxed
@given(
    n=sizes,
    m=st.integers(1, 6),
    tile=tiles,
    t=temperatures,
    seed=seeds,
    own=st.booleans(),
    masked=st.booleans(),
    with_ids=st.sampled_from(["none", "shared", "distinct", "by_row"]),
    in_batch=st.booleans(),
)
def test_info_nce(n, m, tile, t, seed, own, masked, with_ids, in_batch):
    query, positive = _draw(seed, n, 3), _draw(seed + 3, n, 3)
    negatives = _draw(seed + 5, n, m, 3) if own else _draw(seed + 5, m, 3)
    ids = negative_ids = None
    if with_ids != "none":
        ids = _ids(seed, n, 4)
        negative_ids = _ids(seed + 2, n * m, 4).view(n, m) if own and with_ids == "by_row" else _ids(seed + 2, m, 4)
        if with_ids == "distinct":  # every row meets itself once at most
            negative_ids = torch.randperm(m + 2, generator=torch.Generator().manual_seed(seed))[:m]
    mask = torch.rand(n, m, generator=torch.Generator().manual_seed(seed)) < 0.6 if masked else None
    temperature = torch.tensor(t, dtype=torch.float64, requires_grad=True)
    loss = info_nce(
        query,
        positive,
        negatives,
        temperature=temperature,
        sample_ids=ids,
        negative_ids=negative_ids,
        negative_mask=mask,
        in_batch_negatives=in_batch,
        tile_size=tile,
        reduction="none",
    )
    reference = naive_info_nce(query, positive, negatives, temperature, ids, negative_ids, mask, in_batch)
    _same(loss, reference, query, positive, negatives)
    ours, theirs = (torch.autograd.grad(x.sum(), temperature)[0] for x in (loss, reference))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9 / t**2)


@pytest.mark.parametrize("tile", [None, 2])
@pytest.mark.parametrize("t", [0.5, 0.002])
def test_gradcheck(tile, t):
    """Finite differences, also where a running maximum is used; embeddings short enough to move the loss at T=0.002."""
    scale = 1.0 if t == 0.5 else 0.05
    a, b, c = ((_draw(k, 4, 3) * scale).detach().requires_grad_() for k in range(3))
    ids = torch.tensor([0, 1, 0, 2])
    options = {"tile_size": tile, "normalize": t == 0.5}
    temperature = torch.tensor(t, dtype=torch.float64, requires_grad=t == 0.5)
    check = torch.autograd.gradcheck
    assert check(lambda x, y, s: clip_loss(x, y, 1 / s, sample_ids=ids, **options), (a, b, temperature))
    assert check(lambda x, y, s: nt_xent(x, y, s, sample_ids=ids, **options), (a, b, temperature))
    assert check(lambda x, y, z, s: info_nce(x, y, z, temperature=s, **options), (a, b, c, temperature))
    assert check(lambda x, y, s: sup_con(torch.stack([x, y], 1), ids, s, **options), (a, b, temperature))


def test_only_the_wanted_gradient_is_made():
    """Keys of a momentum encoder or a queue carry no gradient: None for them, the right one for the query."""
    query, positive, queue = _draw(0, 5, 4), _draw(1, 5, 4).detach(), _draw(2, 6, 4).detach()
    loss = info_nce(query, positive, queue, tile_size=2)
    loss.backward()
    reference = torch.autograd.grad(naive_info_nce(query, positive, queue).mean(), query)[0]
    torch.testing.assert_close(query.grad, reference, rtol=1e-9, atol=1e-9)
    assert positive.grad is None
    assert queue.grad is None


def test_backward_twice_gives_the_same():
    """Tiles kept from the forward pass are read, not used up."""
    a, b = _draw(0, 6, 4), _draw(1, 6, 4)
    loss = clip_loss(a, b, 5.0)
    first = torch.autograd.grad(loss, (a, b), retain_graph=True)
    second = torch.autograd.grad(loss, (a, b))
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)
