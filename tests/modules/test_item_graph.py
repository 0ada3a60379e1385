"""Graphs between items: neighbours and their order, normalisation, blends, gradients."""

from __future__ import annotations

import pytest
import torch

from hf_contrastive.modules import item_graph
from hf_contrastive.modules.item_graph import ItemGraph, co_occurrence_graph, likeness_graph


USERS, ITEMS = 12, 8


def pairs() -> torch.Tensor:
    """A binary matrix; item 7 is chosen by nobody."""
    chosen = (torch.rand(USERS, ITEMS, generator=torch.Generator().manual_seed(0)) < 0.4).double()
    chosen[:, 7] = 0
    return chosen


def best_of_rows(dense: torch.Tensor, k: int) -> torch.Tensor:
    """The k largest positive numbers of each row, of equal ones the first."""
    kept = torch.zeros_like(dense)
    for row, values in enumerate(dense.tolist()):
        for column in sorted(range(len(values)), key=lambda c: (-values[c], c))[:k]:
            if values[column] > 0:
                kept[row, column] = values[column]
    return kept


@pytest.mark.parametrize("block", [None, 3])
def test_items_chosen_together(block, monkeypatch):
    if block is not None:
        monkeypatch.setattr(item_graph, "_BLOCK", block)
    chosen = pairs()
    users, items = chosen.nonzero().T
    counts = chosen.T @ chosen
    counts.fill_diagonal_(0)
    graph = co_occurrence_graph(users.repeat(2), items.repeat(2), USERS, ITEMS, 3)
    assert torch.equal(graph.to_dense(), best_of_rows(counts, 3))
    few = chosen[chosen.sum(1) <= 3]
    counts = few.T @ few
    counts.fill_diagonal_(0)
    graph = co_occurrence_graph(users, items, USERS, ITEMS, 3, max_history=3)
    assert torch.equal(graph.to_dense(), best_of_rows(counts, 3))


@pytest.mark.parametrize("block", [None, 3])
def test_items_that_look_alike(block, monkeypatch):
    if block is not None:
        monkeypatch.setattr(item_graph, "_BLOCK", block)
    features = torch.randn(ITEMS, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    features[4] = features[1]  # equal likeness: the lower item counts
    features[6] = 0.0
    unit = torch.nn.functional.normalize(features, dim=1)
    expected = best_of_rows(unit @ unit.T, 3)
    torch.testing.assert_close(likeness_graph(features, 3).to_dense(), expected)
    assert torch.equal(likeness_graph(features, 3, binary=True).to_dense(), (expected > 0).double())
    assert likeness_graph(features, 99).to_dense().shape == (ITEMS, ITEMS)


def random_graph(seed: int) -> ItemGraph:
    generator = torch.Generator().manual_seed(seed)
    dense = torch.rand(ITEMS, ITEMS, generator=generator) * (torch.rand(ITEMS, ITEMS, generator=generator) < 0.4)
    dense[2] = 0.0  # an item without edges
    heads, tails = dense.nonzero().T
    mixed = torch.randperm(len(heads), generator=generator)
    return ItemGraph(heads[mixed], tails[mixed], dense[heads, tails][mixed], ITEMS)


def test_normalised_by_row_sums_on_both_sides():
    graph = random_graph(0)
    dense = graph.to_dense()
    sums = dense.sum(1)
    scale = torch.where(sums > 0, sums.where(sums > 0, 1.0).rsqrt(), 0.0)
    torch.testing.assert_close(graph.normalised().to_dense(), scale[:, None] * dense * scale)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_blend(share):
    first, second = random_graph(0), random_graph(1)
    blended = first.blend(second, share)
    torch.testing.assert_close(blended.to_dense(), (1 - share) * first.to_dense() + share * second.to_dense())
    assert bool((blended.weights != 0).all())


def test_propagation_and_its_gradient():
    graph = random_graph(0)
    x = torch.randn(ITEMS, 3, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(graph.propagate(x), graph.to_dense() @ x)
    assert torch.autograd.gradcheck(graph.propagate, (x,))
    assert not graph.state_dict()
