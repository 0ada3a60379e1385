"""Subgraphs around a batch: even draws, weights that make up for what is left out, the same wherever a batch is drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from hf_contrastive.data import NeighbourSamplingCollator, TripletDataset, set_dataloader_epoch
from hf_contrastive.data.neighbour_sampling import pyg_can_sample
from hf_contrastive.modules.bipartite_graph import BipartiteGraph


USERS, ITEMS = 12, 15
NODES = USERS + ITEMS
each_engine = pytest.mark.parametrize(
    "engine",
    [
        "own",
        pytest.param(
            "pyg",
            marks=pytest.mark.skipif(
                not pyg_can_sample(),
                reason="torch-geometric, or pyg-lib that samples for it, is not installed",
            ),
        ),
    ],
)


def pairs() -> tuple[np.ndarray, np.ndarray]:
    """User 11 and item 14 have nothing; item 0 has nearly all users."""
    chosen = np.random.default_rng(0).random((USERS, ITEMS)) < 0.25
    chosen[:, 0] = True
    chosen[11], chosen[:, 14] = False, False
    users, items = np.nonzero(chosen)
    return users, items


def graph() -> BipartiteGraph:
    return BipartiteGraph(*pairs(), USERS, ITEMS)


def dense(node_ids: torch.Tensor, edge_index: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The subgraph as a matrix over all nodes."""
    matrix = torch.zeros(NODES, NODES, dtype=torch.float64)
    matrix[node_ids[edge_index[0]], node_ids[edge_index[1]]] = weights
    return matrix


def exact() -> torch.Tensor:
    """The normalised adjacency, from the definition."""
    adjacency = torch.zeros(NODES, NODES, dtype=torch.float64)
    users, items = pairs()
    adjacency[users, items + USERS] = adjacency[items + USERS, users] = 1.0
    scale = adjacency.sum(1).clamp(min=1).rsqrt()
    return scale[:, None] * adjacency * scale


def batch() -> dict[str, torch.Tensor]:
    return {
        "user_ids": torch.tensor([3, 11, 3]),
        "pos_item_ids": torch.tensor([0, 14, 2]),
        "neg_item_ids": torch.tensor([[7, 1], [1, 2], [7, 8]]),
    }


def make(fan_out=(3, 2), engine="own", **options) -> NeighbourSamplingCollator:
    return NeighbourSamplingCollator(pairs(), USERS, ITEMS, fan_out, engine=engine, **options)


@each_engine
@pytest.mark.parametrize("fan_out", [(1,), (3, 2), (2, 2, 2), (-1, 2), (100, 100)])
def test_what_is_drawn(engine, fan_out):
    matrix, degrees = exact(), graph().degrees()
    for epoch in range(5):
        collator = make(fan_out, engine)
        collator.set_epoch(epoch)
        found = collator(batch())
        nodes, (heads, tails) = found["node_ids"], found["edge_index"]
        seeds = torch.tensor(sorted({3, 11, *(USERS + item for item in (0, 14, 2, 7, 1, 8))}))
        assert torch.equal(nodes[: len(seeds)], seeds)
        assert len(nodes.unique()) == len(nodes)
        assert torch.equal(heads, heads.sort().values)
        assert len({*zip(heads.tolist(), tails.tolist(), strict=True)}) == len(heads)  # no edge twice
        drawn = torch.bincount(heads, minlength=len(nodes))
        # hop by hop: who is looked at, for how many neighbours, and who was found so
        known, front = len(seeds), torch.arange(len(seeds))
        for count in fan_out:
            wanted = degrees[nodes[front]] if count < 0 else degrees[nodes[front]].clamp(max=count)
            assert torch.equal(drawn[front], wanted)
            reached = tails[torch.isin(heads, front)]
            new = reached[reached >= known].unique()
            assert torch.equal(new, torch.arange(known, known + len(new)))
            known, front = known + len(new), new
        assert known == len(nodes)
        assert not bool(drawn[front].any())  # nothing beyond the last hop
        # weights are those of the whole graph over the share that was drawn
        share = drawn[heads] / degrees[nodes[heads]]
        torch.testing.assert_close(found["edge_weights"], matrix[nodes[heads], nodes[tails]] / share)
        assert bool((found["edge_weights"] > 0).all())


@each_engine
def test_draws_are_even(engine):
    """Item 0 has 11 neighbours; each comes in 3 of 11 draws, and so does each pair of them, evenly."""
    draws = 1500
    collator = make((3,), engine)
    ids = {"user_ids": torch.tensor([11]), "pos_item_ids": torch.tensor([0])}
    chosen = torch.zeros(draws, NODES)
    for epoch in range(draws):
        collator.set_epoch(epoch)
        found = collator(ids)
        chosen[epoch, found["node_ids"][found["edge_index"][1]]] = 1.0
    together = (chosen.T @ chosen)[:11, :11] / draws
    single, pair = 3 / 11, 3 / 11 * 2 / 10
    assert float((together.diagonal() - single).abs().max()) < 5 * (single * (1 - single) / draws) ** 0.5
    others = together[~torch.eye(11, dtype=torch.bool)]
    assert float((others - pair).abs().max()) < 5 * (pair * (1 - pair) / draws) ** 0.5


@each_engine
def test_the_mean_of_two_layers_is_exact(engine):
    """Sums along the drawn edges, twice; a third layer would come back to its head with the same draw."""
    collator, total, square, draws = make(engine=engine), 0.0, 0.0, 800
    for epoch in range(draws):
        collator.set_epoch(epoch)
        found = collator(batch())
        once = dense(found["node_ids"], found["edge_index"], found["edge_weights"])
        both = torch.stack([once, once @ once])[:, found["node_ids"][:8]]
        total, square = total + both, square + both.square()
    mean = total / draws
    spread = ((square / draws - mean.square()).clamp(min=0) / draws).sqrt()
    seeds = collator(batch())["node_ids"][:8]
    expected = torch.stack([exact(), exact() @ exact()])[:, seeds]
    assert bool(((mean - expected).abs() <= 5.5 * spread + 1e-9).all())


@each_engine
@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_draw_in_any_worker_and_another_one_each_epoch(engine, workers):
    data = TripletDataset(*pairs(), USERS, ITEMS, seed=4)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    direct = make(engine=engine, seed=4)
    direct.set_epoch(3)
    data.set_epoch(3)
    expected = [direct(data.__getitems__(range(start, min(start + 8, len(data))))) for start in range(0, len(data), 8)]
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's draws change
    loader = DataLoader(data, batch_size=8, num_workers=workers, collate_fn=make(engine=engine, seed=4))
    set_dataloader_epoch(loader, 3)
    for found, wanted in zip(loader, expected, strict=True):
        assert set(found) == set(wanted)
        assert all(torch.equal(found[name], wanted[name]) for name in found)
    direct.set_epoch(4)
    again = direct({name: expected[0][name] for name in ("user_ids", "pos_item_ids", "neg_item_ids")})
    assert not torch.equal(again["node_ids"], expected[0]["node_ids"])
    other = make(engine=engine, seed=5)
    other.set_epoch(4)
    assert not torch.equal(other(batch())["node_ids"], direct(batch())["node_ids"])


def test_draws_of_another_batch_are_others():
    one = make()({"user_ids": torch.tensor([0]), "pos_item_ids": torch.tensor([0])})
    seen = {
        tuple(
            make((3,))({"user_ids": torch.tensor([user]), "pos_item_ids": torch.tensor([0])})["edge_index"][1].tolist()
        )
        for user in range(10)
    }
    assert len(one["node_ids"]) > 2
    assert len(seen) > 3


def test_a_graph_says_the_same_as_pairs():
    for_graph = NeighbourSamplingCollator(graph(), USERS, ITEMS, (3, 2), engine="own")
    found, expected = for_graph(batch()), make()(batch())
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    users, items = pairs()
    twice = NeighbourSamplingCollator(
        (np.concatenate([users, users]), np.concatenate([items, items])), USERS, ITEMS, (3, 2), engine="own"
    )
    assert all(torch.equal(twice(batch())[name], expected[name]) for name in expected)
    rows = [{name: ids[row] for name, ids in batch().items()} for row in range(3)]
    assert torch.equal(make()(rows)["node_ids"], expected["node_ids"])


def test_the_engine_is_named():
    assert make(engine="auto").engine == ("pyg" if pyg_can_sample() else "own")


@pytest.mark.skipif(pyg_can_sample(), reason="torch-geometric can sample here, so that nothing is missing")
def test_a_missing_engine_says_what_to_install():
    with pytest.raises(ImportError, match=r'pip install "hf-contrastive\[graph\]"|pyg-lib'):
        make(engine="pyg")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "dgl"}, "`engine` is 'dgl'; expected one of auto, own, pyg"),
        ({"fan_out": ()}, r"`fan_out` is \[\]; expected a number of neighbours for every layer"),
        ({"fan_out": (5, 0)}, r"`fan_out` is \[5, 0\]"),
        ({"pairs": ([], [])}, "expected two lists of one length, 1 or more"),
        ({"pairs": ([0, 1], [0])}, r"users of shape \[2\] and items of shape \[1\]"),
        ({"pairs": ([0], [15])}, "`items` go from 15 to 15, but there are 15 of them"),
        ({"pairs": ([-1], [0])}, "`users` go from -1 to -1"),
        ({"pairs": graph(), "num_items": 16}, "the graph has 12 users and 15 items, expected 12 and 16"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        NeighbourSamplingCollator(**{"pairs": pairs(), "num_users": USERS, "num_items": ITEMS, **options})
