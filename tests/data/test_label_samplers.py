"""Batches in which labels repeat: what every batch holds, epochs, processes, resuming."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from torch.utils.data import DataLoader

from hf_contrastive.data import HardNegativeBatchSampler, MPerClassBatchSampler, set_dataloader_epoch
from hf_contrastive.evaluation import mine_hard_negatives


RANDOM = np.random.default_rng(0)
LABELS = np.repeat(np.arange(40) * 7 - 3, RANDOM.integers(1, 12, 40))  # any integers, some below 0
RANDOM.shuffle(LABELS)


@pytest.mark.parametrize(("m", "batch", "processes"), [(3, 12, 1), (2, 8, 2), (4, 16, 3), (1, 5, 1)])
def test_every_step_holds_m_of_each_of_distinct_classes(m, batch, processes):
    sampler = MPerClassBatchSampler(LABELS, batch, m, num_processes=processes, num_passes=3, seed=4)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    assert len(batches) % processes == 0
    for start in range(0, len(batches), processes):
        step = [row for one in batches[start : start + processes] for row in one]
        assert set(Counter(LABELS[step]).values()) == {m}
    for one in batches:
        assert len(one) == batch
        for label, rows in ((label, [row for row in one if LABELS[row] == label]) for label in set(LABELS[one])):
            size = int((label == LABELS).sum())
            # different rows, as far as there are any
            assert len(set(rows)) == min(m, size)


def test_no_row_comes_again_before_its_class_is_used_up():
    labels = [0] * 6 + [1] * 7 + [2] * 2
    sampler = MPerClassBatchSampler(labels, 6, 2, num_passes=1)
    seen: dict[int, list[int]] = {0: [], 1: []}
    for epoch in range(9):
        sampler.set_epoch(epoch)
        for row in sampler.global_batches().ravel():
            if labels[row] in seen:
                seen[labels[row]].append(int(row))
    for label in (0, 1):  # used up after three times two, across epochs
        rounds = [seen[label][start : start + 6] for start in range(0, 18, 6)]
        assert all(len(set(one)) == 6 for one in rounds)
        assert rounds[0] != rounds[1]
    # of seven rows another one is left out each time
    assert len(set(seen[1])) == 7


def test_order_is_that_of_seed_and_epoch():
    def order(seed=0, epoch=0):
        return MPerClassBatchSampler(LABELS, 12, 3, seed=seed).global_batches(epoch).tolist()

    assert order() == order()
    assert order() != order(epoch=1)
    assert order() != order(seed=1)
    sampler = MPerClassBatchSampler(LABELS, 12, 3)
    loader = DataLoader(range(len(LABELS)), batch_sampler=sampler)
    set_dataloader_epoch(loader, 5)
    assert [batch.tolist() for batch in loader] == sampler.global_batches(5).tolist()


def test_processes_share_one_order():
    alone = MPerClassBatchSampler(LABELS, 24, 3, seed=2).global_batches(1)
    shared = MPerClassBatchSampler(LABELS, 12, 3, seed=2, num_processes=2).global_batches(1)
    assert (alone == shared).all()


def test_an_epoch_draws_about_all_rows():
    labels = np.repeat(np.arange(20), 30)
    sampler = MPerClassBatchSampler(labels, 15, 3)
    assert sampler.num_passes == 10
    assert len(sampler) * 15 == 600
    assert sorted(sampler.global_batches().ravel().tolist()) == list(range(600))
    assert (
        "3 rows of each of 5 classes in a batch; 10 passes an epoch over 20 classes of 30 to 30 rows"
        in sampler.describe()
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 10}, "batch_size must be divisible by m = 3, got 10; the nearest are 9 and 12"),
        ({"batch_size": 150}, "labels hold 40 classes, but a step needs 50 .* lower batch_size to at most 120"),
        ({"batch_size": 99, "num_processes": 2}, "a step needs 66 .*99 x 2 processes.*at most 60"),
        ({"m": 0}, "m must be a whole number of at least 1, got 0"),
        ({"num_passes": 0}, "num_passes must be at least 1"),
        ({"labels": []}, "labels is empty"),
        ({"labels": [0.5, 1]}, "labels"),
    ],
)
def test_wrong_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MPerClassBatchSampler(**{"labels": LABELS, "batch_size": 12, "m": 3, **options})


# ----------------------------------------------------------------------------------------------------- hard negatives


def mined(k: int = 3):
    classes = np.unique(LABELS)
    x = np.random.default_rng(1).normal(size=(len(classes), 5))
    return mine_hard_negatives(x, classes, k)


@pytest.mark.parametrize("processes", [1, 2])
def test_batches_are_whole_groups(processes):
    groups = mined()
    sampler = HardNegativeBatchSampler(LABELS, groups, 18, num_processes=processes, seed=3)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 20
    rows, anchors = sampler.draw()
    flat = [row for one in rows for row in one]
    assert [row for batch in batches for row in batch] == flat
    # in the order in which they were mined, an anchor's id for every row in every group
    assert anchors.tolist() == list(range(40))
    for group, anchor in zip(rows, anchors, strict=True):
        assert LABELS[group].tolist() == np.repeat(groups.labels[anchor], 3).tolist()


def test_rows_change_with_the_epoch_only():
    sampler = HardNegativeBatchSampler(LABELS, mined(), 18)
    first = list(sampler)
    assert list(sampler) == first
    sampler.set_epoch(1)
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first
    assert list(HardNegativeBatchSampler(LABELS, mined().labels, 18, seed=9)) != first


def test_what_is_left_out_changes():
    sampler = HardNegativeBatchSampler(LABELS, mined(), 9 * 7)
    assert len(sampler) == 5
    left = []
    for epoch in range(8):
        anchors = sampler.draw(epoch)[1]
        assert len(set(anchors.tolist())) == 35
        left.append(set(range(40)) - set(anchors.tolist()))
    assert set.union(*left) == set(range(40))


def test_all_rows_of_small_labels():
    sampler = HardNegativeBatchSampler(LABELS, mined(), 18, all_of_small=True)
    sizes = Counter(LABELS.tolist())
    rows, anchors = sampler.draw()
    assert len(rows) == len(anchors) == 40
    for group, anchor in zip(rows, anchors, strict=True):
        labels = mined().labels[anchor]
        assert len(group) == sum(min(3, sizes[label]) for label in labels.tolist())
        assert len(set(group.tolist())) == len(group)
    assert max(map(len, sampler)) <= 18
    with pytest.raises(ValueError, match=r"batches of different sizes .* 2 processes cannot share"):
        HardNegativeBatchSampler(LABELS, mined(), 18, all_of_small=True, num_processes=2)
    # where every label has enough, they are of one size
    many = np.repeat(np.arange(40), 5)
    groups = mined().labels
    numbered = np.searchsorted(np.unique(LABELS), groups)
    assert set(map(len, HardNegativeBatchSampler(many, numbered, 18, all_of_small=True, num_processes=2))) == {18}


def test_mined_once_or_at_every_epoch():
    for remine, expected in ((False, [4]), (True, [4, 5, 6])):
        asked: list[int] = []

        def mine(epoch, asked=asked):
            asked.append(epoch)
            return mined()

        sampler = HardNegativeBatchSampler(LABELS, mine, 18, remine=remine)
        assert len(sampler) == 20  # known before anything is mined
        assert asked == []
        for epoch in (4, 5, 6):
            sampler.set_epoch(epoch)
            list(sampler), list(sampler)
        assert asked == expected
    with pytest.raises(ValueError, match="3 groups were mined, expected one for each of 40 labels"):
        HardNegativeBatchSampler(LABELS, lambda epoch: mined().labels[:3], 18).draw()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 12}, r"batch_size must be divisible by k\*m = 9, got 12"),
        ({"batch_size": 20, "m": 2}, r"batch_size must be divisible by k\*m = 6, got 20"),
        ({"batch_size": 9 * 41}, "40 groups are fewer than the 41 of one step .* lower batch_size to at most 360"),
        ({"groups": [[0, 1]]}, r"groups has shape \[1, 2\], expected \[groups, k = 3\]"),
        ({"groups": [[4, 11, 5]]}, "groups holds the label 5, which no row has"),
    ],
)
def test_wrong_groups_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        HardNegativeBatchSampler(**{"labels": LABELS, "groups": mined(), "batch_size": 18, **options})
