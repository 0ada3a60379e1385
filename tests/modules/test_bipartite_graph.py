"""The graph of users and items: dense products, gradients of both kinds, dropped edges, bad input."""

from __future__ import annotations

import pytest
import torch

from hf_contrastive.modules import bipartite_graph
from hf_contrastive.modules.bipartite_graph import BipartiteGraph


USERS, ITEMS = 9, 7


def make(seed: int = 0) -> tuple[BipartiteGraph, torch.Tensor]:
    """A graph with a user and an item without edges, and its binary adjacency."""
    generator = torch.Generator().manual_seed(seed)
    users = torch.randint(0, USERS - 1, (30,), generator=generator)
    items = torch.randint(1, ITEMS, (30,), generator=generator)
    dense = torch.zeros(USERS + ITEMS, USERS + ITEMS, dtype=torch.float64)
    dense[users, USERS + items] = dense[USERS + items, users] = 1.0
    return BipartiteGraph(users, items, USERS, ITEMS), dense


def normalised(dense: torch.Tensor) -> torch.Tensor:
    degrees = dense.sum(1)
    scale = torch.where(degrees > 0, degrees, 1.0).rsqrt()
    return scale[:, None] * dense * scale


def to_dense(graph: BipartiteGraph, weights: torch.Tensor) -> torch.Tensor:
    dense = torch.zeros(graph.num_nodes, graph.num_nodes, dtype=weights.dtype)
    dense[tuple(graph.edges()[0])] = weights
    return dense


def test_edges_are_the_normalised_adjacency():
    graph, dense = make()
    index, weights = graph.edges()
    torch.testing.assert_close(to_dense(graph, weights), normalised(dense))
    assert torch.equal(index, dense.nonzero().T)  # row by row, each row sorted
    assert torch.equal(graph.degrees(), dense.sum(1).long())
    # the edge in the other direction
    assert torch.equal(index[:, graph.mirror], index.flip(0))
    assert not graph.state_dict()  # data, not weights


def test_propagation_is_the_dense_product_with_its_gradient():
    graph, dense = make()
    x = torch.randn(graph.num_nodes, 5, dtype=torch.float64, requires_grad=True)
    y = graph.propagate(graph.propagate(x))
    expected = normalised(dense) @ normalised(dense) @ x
    torch.testing.assert_close(y, expected)
    target = torch.randn_like(y)
    torch.testing.assert_close(*(torch.autograd.grad((out * target).sum(), x)[0] for out in (y, expected)))
    assert float(y.detach()[[USERS - 1, USERS]].abs().max()) == 0.0  # those without an edge
    torch.testing.assert_close(graph.propagate(x.float()).double(), normalised(dense) @ x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_mean_of_steps_is_the_polynomial(steps):
    graph, dense = make()
    x = torch.randn(graph.num_nodes, 5, dtype=torch.float64, requires_grad=True)
    before = x.detach().clone()
    y = graph.mean_of_steps(x, steps)
    adjacency = normalised(dense)
    expected = sum(torch.linalg.matrix_power(adjacency, power) @ x for power in range(steps + 1)) / (steps + 1)
    torch.testing.assert_close(y, expected)
    target = torch.randn_like(y)
    kept = target.clone()
    ours, theirs = (torch.autograd.grad(out, x, target)[0] for out in (y, expected))
    torch.testing.assert_close(ours, theirs)
    # what came in is as it was
    assert torch.equal(x.detach(), before)
    assert torch.equal(target, kept)


@pytest.mark.parametrize("block", [None, 7])  # of 1 row
@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_rows_of_the_mean_of_two_tables(steps, block, monkeypatch):
    if block is not None:
        monkeypatch.setattr(bipartite_graph, "_BLOCK", block)
    graph, _ = make()
    users = torch.randn(graph.num_users, 4, dtype=torch.float64, requires_grad=True)
    items = torch.randn(graph.num_items, 4, dtype=torch.float64, requires_grad=True)
    batches = [(torch.tensor([0, 2, 2]), torch.tensor([1, 0, 1, 3])), (torch.tensor([1]), torch.tensor([2]))]

    def plain(user_ids, item_ids):
        x = torch.cat([users, items])
        nodes = torch.cat([user_ids, item_ids + graph.num_users])
        return graph.mean_of_steps(x, steps)[nodes], x[nodes]

    # both batches forward before either goes back: nothing in between may be shared
    ours = [graph.rows_of_mean(users, items, *ids, steps) for ids in batches]
    theirs = [plain(*ids) for ids in batches]
    targets = [[torch.randn_like(part) for part in parts] for parts in theirs]
    for found, expected, target in zip(ours, theirs, targets, strict=True):
        torch.testing.assert_close(found, expected)
        slopes = [torch.autograd.grad(parts, (users, items), target) for parts in (found, expected)]
        torch.testing.assert_close(*slopes)
    # a single one of both outputs may be used
    torch.testing.assert_close(
        *(
            torch.autograd.grad(make_rows(*batches[0])[0].sum(), users)[0]
            for make_rows in (lambda *ids: graph.rows_of_mean(users, items, *ids, steps), plain)
        )
    )


def test_mean_along_symmetric_weights_of_your_own():
    graph, _ = make()
    x = torch.randn(graph.num_nodes, 3, dtype=torch.float64, requires_grad=True)
    weights = graph.keep_edges(torch.minimum(torch.arange(graph.num_edges), graph.mirror) % 3 > 0)
    first = graph.propagate(x, weights)
    expected = (x + first + graph.propagate(first, weights)) / 3
    found = graph.mean_of_steps(x, 2, weights)
    torch.testing.assert_close(found, expected)
    target = torch.randn_like(x)
    torch.testing.assert_close(*(torch.autograd.grad(out, x, target)[0] for out in (found, expected)))


@pytest.mark.parametrize("chunk", [None, 8])
def test_weights_of_your_own_have_a_gradient(chunk, monkeypatch):
    if chunk is not None:
        monkeypatch.setitem(bipartite_graph._CHUNK, "cpu", chunk)
    graph, _ = make()
    x = torch.randn(graph.num_nodes, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(graph.num_edges, dtype=torch.float64, requires_grad=True)  # not symmetric
    torch.testing.assert_close(graph.propagate(x, weights), to_dense(graph, weights.detach()) @ x)
    assert torch.autograd.gradcheck(graph.propagate, (x, weights))


@pytest.mark.parametrize("chunk", [None, 8])
def test_likeness_of_both_ends(chunk, monkeypatch):
    if chunk is not None:
        monkeypatch.setitem(bipartite_graph._CHUNK, "cpu", chunk)
    graph, _ = make()
    x = torch.randn(graph.num_nodes, 3, dtype=torch.float64, requires_grad=True)
    heads, tails = graph.edges()[0]
    torch.testing.assert_close(graph.similarities(x), (x[heads] * x[tails]).sum(1))
    assert torch.autograd.gradcheck(graph.similarities, (x,))


def test_weights_that_add_up_to_one():
    graph, _ = make()
    weights = torch.rand(graph.num_edges, dtype=torch.float64)
    heads = graph.rows()
    weights[heads == heads[0]] = 0.0  # a node whose edges all weigh nothing
    weights.requires_grad_()
    found = graph.normalise_rows(weights)
    sums = torch.zeros(graph.num_nodes, dtype=torch.float64).index_add(0, heads, found.detach())
    expected = ((graph.degrees() > 0) & (torch.arange(graph.num_nodes) != heads[0])).double()
    torch.testing.assert_close(sums, expected)
    found.sum().backward()
    assert bool(torch.isfinite(weights.grad).all())


def test_dropped_edges():
    graph, dense = make()
    generator = torch.Generator().manual_seed(1)
    pair = torch.rand(graph.num_edges // 2, generator=generator) < 0.5
    keep = torch.cat([pair, pair])
    keep[graph.mirror[: graph.num_edges // 2]] = pair  # both directions of a pair
    left = to_dense(graph, keep.double()) * dense
    assert torch.equal(left, left.T)
    torch.testing.assert_close(to_dense(graph, graph.keep_edges(keep)), normalised(left))
    torch.testing.assert_close(
        to_dense(graph, graph.keep_edges(keep, renormalise=False)), normalised(dense) * (left > 0)
    )
    nothing = graph.keep_edges(torch.zeros_like(keep))
    assert float(nothing.abs().max()) == 0.0


def test_moves_and_casts_like_any_module():
    graph, _ = make()
    x = torch.randn(graph.num_nodes, 4)
    expected = graph.propagate(x)
    half = graph.to(torch.float32)  # a model that is cast takes its graph along
    torch.testing.assert_close(half.propagate(x), expected)
    assert half.columns.dtype == torch.long
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(graph.propagate(x), expected)


@pytest.mark.parametrize(
    ("users", "items", "message"),
    [
        ([0, 1], [0], r"lists of the same length, got \[2\] and \[1\]"),
        ([], [], "the training part is empty"),
        ([0, 9], [0, 1], "`users` go from 0 to 9, but there are 9 of them, 0 to 8"),
        ([0, 1], [-1, 1], "`items` go from -1 to 1"),
    ],
)
def test_bad_pairs(users, items, message):
    with pytest.raises(ValueError, match=message):
        BipartiteGraph(torch.tensor(users, dtype=torch.long), torch.tensor(items, dtype=torch.long), USERS, ITEMS)


def test_bad_rows():
    graph, _ = make()
    with pytest.raises(ValueError, match=r"`x` has shape \[3, 4\], expected \[16, dim\]: 9 users, then 7 items"):
        graph.propagate(torch.ones(3, 4))
    with pytest.raises(ValueError, match=r"`weights` has shape \[2\], expected one for each of"):
        graph.propagate(torch.ones(16, 4), torch.ones(2))


def test_tables_and_weights_of_another_graph():
    graph, _ = make()
    users, items, one = torch.zeros(graph.num_users, 2), torch.zeros(graph.num_items, 2), torch.tensor([0])
    for message, tables in (
        (r"`users` has shape", (users[1:], items)),
        (r"`items` has shape .*, dim\]", (users, items[0])),
    ):
        with pytest.raises(ValueError, match=message):
            graph.rows_of_mean(*tables, one, one, 1)
    with pytest.raises(ValueError, match=r"`weights` has shape \[2\], expected one for each of"):
        graph.mean_of_steps(torch.cat([users, items]), 1, torch.ones(2))
