"""Triples: negatives are never chosen items, even over the rest, and the same wherever a row is drawn."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from hf_contrastive.data import TripletDataset, UserHistories, collate_triplets, set_dataloader_epoch


USERS, ITEMS = 7, 11


def pairs(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """User 5 has nothing, user 6 all but one item."""
    chosen = np.random.default_rng(seed).random((USERS, ITEMS)) < 0.4
    chosen[5] = False
    chosen[6] = True
    chosen[6, 4] = False
    users, items = np.nonzero(chosen)
    return users, items


def make(**options) -> TripletDataset:
    return TripletDataset(*pairs(), USERS, ITEMS, **options)


@pytest.mark.parametrize("listed", [True, False])
def test_every_rank_is_the_next_item_outside(listed, monkeypatch):
    """In a small catalogue the items outside are listed, in others searched."""
    if not listed:
        monkeypatch.setattr("hf_contrastive.data.triplets._LISTED", 0)
    users, items = pairs()
    histories = UserHistories(users, items, USERS, ITEMS)
    for user in range(USERS):
        own = items[users == user]
        outside = np.setdiff1d(np.arange(ITEMS), own)
        ranks = np.arange(len(outside))
        assert histories.items_of(user).tolist() == own.tolist()
        assert histories.outside(np.full(len(ranks), user), ranks).tolist() == outside.tolist()
        assert histories.outside(np.array([user]), ranks[None]).tolist() == [outside.tolist()]
    assert (histories._outside is not None) == listed
    assert histories.outside(np.array([0]), np.array([0])).dtype == np.int64
    assert pickle.loads(pickle.dumps(histories))._outside is None


@pytest.mark.parametrize("sampling", ["interactions", "users"])
def test_draws_are_even_and_never_chosen(sampling):
    data = make(num_negatives=400, sampling=sampling)
    users, items = pairs()
    batch = data.__getitems__(range(len(data)))
    chosen = {*zip(users.tolist(), items.tolist(), strict=True)}
    assert {*zip(batch["user_ids"].tolist(), batch["pos_item_ids"].tolist(), strict=True)} <= chosen
    for user, row in zip(batch["user_ids"].tolist(), batch["neg_item_ids"], strict=True):
        outside = np.setdiff1d(np.arange(ITEMS), items[users == user])
        counts = torch.bincount(row, minlength=ITEMS)
        assert int(counts.sum()) == int(counts[outside].sum()) == 400
        if len(outside) > 1:  # within 6 standard deviations
            share = 400 / len(outside)
            assert float((counts[outside] - share).abs().max()) < 6 * share**0.5


def test_users_may_be_drawn_evenly():
    data = make(sampling="users", num_negatives=0)
    seen = []
    for epoch in range(200):
        data.set_epoch(epoch)
        batch = data.__getitems__(range(len(data)))
        assert set(batch) == {"user_ids", "pos_item_ids"}
        seen.append(batch["user_ids"])
    counts = torch.bincount(torch.cat(seen), minlength=USERS)
    share = len(torch.cat(seen)) / 6
    assert int(counts[5]) == 0
    assert float((counts[[0, 1, 2, 3, 4, 6]] - share).abs().max()) < 6 * share**0.5


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_draw_in_any_batch_worker_and_order(workers):
    data = make(num_negatives=2, seed=4)
    data.set_epoch(3)
    expected = data.__getitems__(range(len(data)))
    loader = DataLoader(data, batch_size=5, num_workers=workers, collate_fn=collate_triplets)
    set_dataloader_epoch(loader, 3)
    batches = list(loader)
    for name, tensor in expected.items():
        assert torch.equal(torch.cat([batch[name] for batch in batches]), tensor)
        assert torch.equal(collate_triplets([data[row] for row in range(len(data))])[name], tensor)
    set_dataloader_epoch(loader, 4)
    again = torch.cat([batch["neg_item_ids"] for batch in loader])
    assert not torch.equal(again, expected["neg_item_ids"])
    assert not torch.equal(make(num_negatives=2).__getitems__(range(len(data)))["neg_item_ids"], again)


@pytest.mark.parametrize("negatives", [0, 1, 3])
@pytest.mark.parametrize("sampling", ["interactions", "users"])
@pytest.mark.parametrize("limit", ["_EPOCH_BATCHES", "_EPOCH_NUMBERS"])
def test_an_epoch_drawn_at_once_is_that_of_the_batches(limit, sampling, negatives, monkeypatch):
    whole = make(num_negatives=negatives, sampling=sampling, seed=2)
    rows = np.random.default_rng(0).permutation(len(whole))[:9].tolist()
    drawn = {}
    for epoch in (0, 1, 0):
        whole.set_epoch(epoch)
        batch = whole.__getitems__(rows)
        assert whole._drawn is not None
        drawn[epoch] = {name: column.clone() for name, column in batch.items()}
        for column in batch.values():
            column.fill_(-1)  # a batch is the caller's own
    again = pickle.loads(pickle.dumps(whole))
    assert again._drawn is None
    monkeypatch.setattr(f"hf_contrastive.data.triplets.{limit}", 0)
    for epoch, expected in drawn.items():
        again.set_epoch(epoch)
        batch = again.__getitems__(rows)
        assert again._drawn is None
        assert batch.keys() == expected.keys()
        assert all(torch.equal(batch[name], column) for name, column in expected.items())


def test_bad_input():
    with pytest.raises(ValueError, match=r"1 users chose all 2 items \(first: user 1\)"):
        TripletDataset([0, 1, 1], [0, 0, 1], 2, 2)
    assert len(TripletDataset([0, 1, 1], [0, 0, 1], 2, 2, num_negatives=0)) == 3
    with pytest.raises(ValueError, match="`sampling` is 'items'; expected one of interactions, users"):
        make(sampling="items")
    with pytest.raises(ValueError, match="`num_negatives` is -1"):
        make(num_negatives=-1)
    with pytest.raises(ValueError, match="there is no training pair"):
        TripletDataset([], [], 2, 2)


def test_rows_come_as_arrays():
    """So the trainer's sampler hands them out without lists of numbers; `hand_out_order_at_once` asks for the name."""
    data = make()
    rows = np.array([4, 0, 2])
    assert data.takes_row_arrays
    for name, column in data.__getitems__(rows).items():
        assert torch.equal(column, data.__getitems__(rows.tolist())[name])
