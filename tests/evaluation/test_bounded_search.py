"""The search that passes over items finds what a search through all scores finds, equal scores, short lists and tiny numbers included."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_contrastive.evaluation import bounded_search, rank_items, recommendation, recommendation_metrics
from hf_contrastive.evaluation.bounded_search import BoundedSearch


def in_full(scores: torch.Tensor, k: int) -> tuple[list, list]:
    values, items = scores.sort(dim=1, descending=True, stable=True)
    return values[:, :k].tolist(), items[:, :k].tolist()


def use_small_blocks(patch: pytest.MonkeyPatch, folded: int = 2, crowded: int = 1) -> None:
    """Blocks of 4, 4, 8, 8 ... items."""
    sizes = {"_FIRST_BLOCK": 4, "_LARGEST_BLOCK": 8, "_GROUP": 2, "_FOLDED": folded, "_CROWDED": crowded}
    for name, value in sizes.items():
        patch.setattr(bounded_search, name, value)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    users=st.integers(1, 6),
    items=st.integers(1, 40),
    k=st.integers(1, 40),
    spread=st.sampled_from([0, 1, 3]),
    max_scores=st.sampled_from([1, 17, 2**21]),
    crowded=st.sampled_from([1, 4]),
    folded=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 10_000),
)
def test_equal_scores_and_short_blocks(users, items, k, spread, max_scores, crowded, folded, seed):
    """Whole numbers, whose products are exact: many scores are equal, in one block and in several."""
    k = min(k, items)
    with pytest.MonkeyPatch.context() as patch:
        use_small_blocks(patch, folded, crowded)
        patch.setattr(recommendation, "_BOUNDED_FROM", 0)
        patch.setattr(recommendation, "_PLACES", 2 * k)  # two users at a time
        patch.setattr(BoundedSearch, "promising", True)
        rng = np.random.default_rng(seed)
        user_x, item_x = (
            torch.from_numpy(rng.integers(-spread, spread + 1, (rows, 2)).astype(float)) for rows in (users, items)
        )
        hidden = rng.random((users, items)) < rng.choice([0, 0.2, 0.9])
        scores = (user_x @ item_x.T).masked_fill(torch.from_numpy(hidden), -torch.inf)
        search = BoundedSearch(item_x, max_scores)
        values, found = search(
            user_x,
            k,
            lambda part, block: torch.from_numpy(hidden)[part][:, search.blocks[block].items].nonzero(as_tuple=True),
        )
        assert (values.tolist(), found.tolist()) == in_full(scores, k)
        ranked = rank_items(user_x, item_x, k=k, exclude=np.argwhere(hidden))
        assert ranked[0].tolist() == values.tolist()
        assert ranked[1].tolist() == found.where(values > -torch.inf, -1).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_most_items_are_passed_over_where_lengths_differ(dtype):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.rand(6000, 1, generator=generator) ** 3
    items = (torch.randn(6000, 16, generator=generator) * lengths).to(dtype)
    users = torch.randn(300, 16, generator=generator).to(dtype)
    search = BoundedSearch(items)
    values, found = search(users, 10)
    expected, places = in_full(users @ items.T, 10)
    assert found.tolist() == places
    torch.testing.assert_close(values, torch.tensor(expected, dtype=dtype))
    assert search.scores_made < 0.5 * 300 * 6000


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1.0, 1e18])
def test_numbers_too_small_or_large_to_be_squared(scale, monkeypatch):
    """A length that rounds to 0 or infinity must not hide an item."""
    use_small_blocks(monkeypatch)
    generator = torch.Generator().manual_seed(1)
    items, users = torch.randn(50, 4, generator=generator), torch.randn(9, 4, generator=generator)
    for left, right in ((users * scale, items), (users, items * scale), (users / scale, items * scale)):
        if bool(left.isfinite().all()):
            assert BoundedSearch(right)(left, 3)[1].tolist() == in_full(left @ right.T, 3)[1]


@pytest.mark.parametrize("items", [4097, 4100, 5119, 9000])
def test_the_same_vector_has_the_same_score_in_every_block(items):
    """A product of few columns or rows would round otherwise, and the higher number of two come first."""
    generator = torch.Generator().manual_seed(items)
    half = torch.randn(items // 2, 64, generator=generator)
    half *= torch.rand(len(half), 1, generator=generator) + 0.1
    vectors = torch.cat([half, half, half[: items % 2]])
    users = torch.randn(300, 64, generator=generator)
    _, found = BoundedSearch(vectors)(users, 20)
    own = found % len(half)
    twins = own[:, 1:] == own[:, :-1]
    assert int(twins.sum()) > 300 * 9
    assert bool((found[:, 1:] > found[:, :-1])[twins].all())


@pytest.mark.parametrize("precision", ["medium", None])
def test_a_coarse_product_has_a_wide_bound(precision, monkeypatch):
    """Also where torch refuses to tell, because its newer names were used."""

    def told():
        if precision is None:
            raise RuntimeError("mix of the legacy and new APIs")
        return precision

    items = torch.randn(8, 64)
    narrow = BoundedSearch(items)._slack
    monkeypatch.setattr(torch, "get_float32_matmul_precision", told)
    assert BoundedSearch(items)._slack > 1 + 2 * 2**-8 > narrow
    if precision:
        assert BoundedSearch(items.double())._slack < narrow


def test_vectors_of_one_length_are_scored_as_a_whole():
    vectors = torch.nn.functional.normalize(torch.randn(5000, 8), dim=1)
    assert not BoundedSearch(vectors).promising
    assert BoundedSearch(vectors * torch.rand(5000, 1)).promising


def test_metrics_are_those_of_all_scores(monkeypatch):
    searches = []
    monkeypatch.setattr(
        recommendation, "BoundedSearch", lambda *args: searches.append(BoundedSearch(*args)) or searches[-1]
    )
    rng = np.random.default_rng(3)
    users, items = rng.normal(size=(40, 8)), rng.normal(size=(5000, 8)) * rng.random((5000, 1))
    kind = rng.random((40, 5000))
    options = {"relevant": np.argwhere(kind < 0.01), "exclude": np.argwhere(kind > 0.8), "users": np.arange(5, 40)}
    quick, full = (recommendation_metrics(users, items, **options, chunk_size=size) for size in (None, 7))
    assert len(searches) == 1
    assert quick == pytest.approx(full, rel=1e-12)
    assert full["recall@20"] > 0
