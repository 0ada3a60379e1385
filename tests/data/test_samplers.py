"""Guided order and distinct-label batches: properties on any cluster sizes, the reference's orders, Accelerate."""

from __future__ import annotations

import json
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import skip_first_batches
from accelerate.data_loader import BatchSamplerShard, prepare_data_loader
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from torch.utils.data import DataLoader

from hf_contrastive.data import (
    DistinctLabelBatchSampler,
    duplicates_per_batch,
    guided_order,
    set_dataloader_epoch,
)


GOLDEN = Path(__file__).parents[1] / "golden" / "gsimclr"


def make_labels(sizes: list[int], seed: int = 0) -> np.ndarray:
    # cluster ids with gaps, rows in random order
    labels = np.repeat(np.arange(len(sizes)) * 3 + 1, sizes)
    return np.random.default_rng(seed).permutation(labels)


def quiet(*args, **kwargs) -> DistinctLabelBatchSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return DistinctLabelBatchSampler(*args, **kwargs)


def batches_by_fullest_first(sizes: list[int], total: int) -> int:
    """How many batches drawing from the fullest clusters first fills, by doing it."""
    left, count = sorted(sizes, reverse=True), 0
    while len(left) >= total and left[total - 1] > 0:
        left = sorted([n - 1 for n in left[:total]] + left[total:], reverse=True)
        count += 1
    return count


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.one_of(st.integers(1, 6), st.integers(1, 120)), min_size=2, max_size=14),
    batch_size=st.integers(1, 5),
    num_processes=st.integers(1, 3),
    reshuffle=st.booleans(),
    epoch=st.integers(0, 3),
)
def test_strict_batches_are_distinct_full_and_as_many_as_possible(sizes, batch_size, num_processes, reshuffle, epoch):
    total = batch_size * num_processes
    labels = make_labels(sizes)
    if len(sizes) < total:
        with pytest.raises(ValueError, match=r"lower batch_size|cannot fill"):
            DistinctLabelBatchSampler(labels, batch_size, num_processes=num_processes)
        return
    sampler = quiet(labels, batch_size, num_processes=num_processes, reshuffle=reshuffle, seed=5)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert len(batches) == len(sampler) == num_processes * batches_by_fullest_first(sizes, total)
    assert all(len(batch) == batch_size for batch in batches)
    used = np.array(batches).reshape(-1, total)
    assert all(len(set(labels[row])) == total for row in used)
    assert len(np.unique(used)) == used.size
    assert sampler.dropped == len(labels) - used.size
    # only the fullest clusters lose images: whoever loses one has at least as many placed as anyone else, less one
    placed = np.array([np.isin(np.flatnonzero(labels == value), used).sum() for value in np.unique(labels)])
    losers = placed < np.array(sizes)
    assert not losers.any() or placed[losers].min() >= placed.max() - 1


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8), batch_size=st.integers(1, 6))
def test_official_order_matches_a_plain_loop(sizes, batch_size):
    labels = make_labels(sizes)
    seen: dict[int, int] = {}
    expected_rank = []
    for label in labels.tolist():
        seen[label] = seen.get(label, 0) + 1
        expected_rank.append(seen[label])
    expected_order = sorted(range(len(labels)), key=lambda row: (expected_rank[row], labels[row]))
    rank, order = guided_order(labels)
    assert rank.tolist() == expected_rank
    assert order.tolist() == expected_order
    expected = [
        batch_size - len({labels[row] for row in expected_order[start : start + batch_size]})
        for start in range(0, len(labels) - batch_size + 1, batch_size)
    ]
    assert duplicates_per_batch(labels, order, batch_size).tolist() == expected
    if len(labels) >= batch_size:
        sampler = quiet(labels, batch_size, strict=False, reshuffle=False)
        flat = [row for batch in sampler for row in batch]
        assert flat == expected_order[: len(labels) // batch_size * batch_size]


@pytest.mark.parametrize("stem", ["batch_order_balanced", "batch_order_skewed"])
def test_official_order_of_the_reference(stem):
    if not (GOLDEN / f"{stem}.safetensors").is_file():
        pytest.skip(f"tests/golden/gsimclr/{stem}.safetensors is not here")
    tensors = load_file(GOLDEN / f"{stem}.safetensors")
    config = json.loads((GOLDEN / f"{stem}.json").read_text())["config"]
    rank, order = guided_order(tensors["cluster_labels"])
    assert (rank == tensors["rank"]).all()
    assert (order == tensors["order_stable"]).all()
    duplicates = duplicates_per_batch(tensors["cluster_labels"], order, config["batch_size"])
    assert (duplicates == tensors["duplicates_per_batch_stable"]).all()


def test_reshuffle_draws_anew_each_epoch_and_is_reproducible():
    labels = make_labels([40, 20, 20, 9])
    sampler = quiet(labels, 2, seed=1)
    epochs = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        epochs.append(list(sampler))
    assert epochs[0] != epochs[1] != epochs[2]
    again = quiet(labels, 2, seed=1)
    again.set_epoch(1)
    assert list(again) == epochs[1]
    assert list(quiet(labels, 2, seed=2)) != epochs[0]
    fixed = quiet(labels, 2, reshuffle=False)
    first = list(fixed)
    fixed.set_epoch(1)
    assert list(fixed) == first


def test_every_image_is_used_over_the_epochs():
    labels = make_labels([50, 10, 10])
    sampler = quiet(labels, 2)
    used: set[int] = set()
    for epoch in range(25):
        sampler.set_epoch(epoch)
        used.update(row for batch in sampler for row in batch)
    assert used == set(range(70))


def test_each_process_sees_every_cluster():
    labels = make_labels([30] * 4)
    sampler = quiet(labels, 2, num_processes=2)
    of_first = {int(labels[row]) for batch in list(sampler)[::2] for row in batch}
    assert of_first == set(labels.tolist())


def test_warning_counts_what_is_left_out():
    with pytest.warns(UserWarning, match=r"80 of 120 images \(67%\) are left out"):
        sampler = DistinctLabelBatchSampler(make_labels([100, 20]), 2)
    assert sampler.dropped == 80
    assert "80 of 120 images left out" in sampler.describe()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DistinctLabelBatchSampler(make_labels([10, 11]), 2)  # less than a batch left over is not worth a word


def test_refusals_say_what_to_do():
    with pytest.raises(ValueError, match=r"3 non-empty clusters for a batch of 4 .*lower batch_size to at most 1"):
        DistinctLabelBatchSampler([0, 0, 5, 5, 9, 9], 2, num_processes=2)
    with pytest.raises(ValueError, match="labels is empty"):
        DistinctLabelBatchSampler([], 2)
    with pytest.raises(ValueError, match=r"'labels', row 1: 'b'"):
        DistinctLabelBatchSampler([0, "b"], 1)
    with pytest.raises(ValueError, match="batch_size must be a whole number of at least 1, got 0"):
        DistinctLabelBatchSampler([0, 1], 0)
    with pytest.raises(ValueError, match="2 images cannot fill one batch of 3"):
        DistinctLabelBatchSampler([0, 0], 3, strict=False)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        duplicates_per_batch([0], [0], 0)


def test_batch_of_one_and_a_single_cluster():
    sampler = DistinctLabelBatchSampler(torch.zeros(5, dtype=torch.long), 1)
    assert sorted(row for batch in sampler for row in batch) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("even_batches", [True, False])
@pytest.mark.parametrize("strict", [True, False])
def test_accelerate_hands_each_process_its_part_of_a_distinct_global_batch(even_batches, strict):
    labels = make_labels([30, 12, 7, 7, 5, 5])
    sampler = quiet(labels, 2, num_processes=2, strict=strict)
    shards = [
        list(BatchSamplerShard(sampler, num_processes=2, process_index=rank, even_batches=even_batches))
        for rank in range(2)
    ]
    assert len(shards[0]) == len(shards[1]) == len(sampler) // 2
    rows = [row for shard in shards for batch in shard for row in batch]
    assert len(rows) == len(set(rows))
    if strict:
        for first, second in zip(*shards, strict=True):
            assert len(set(labels[first + second])) == 4


@pytest.mark.parametrize("num_processes", [1, 2])
def test_accelerate_dataloader_sets_the_epoch_and_resumes(num_processes):
    labels = make_labels([20, 20, 20, 20])

    def loader() -> DataLoader:
        sampler = DistinctLabelBatchSampler(labels, 2, num_processes=num_processes)
        plain = DataLoader(range(len(labels)), batch_sampler=sampler)  # ty: ignore
        return prepare_data_loader(plain, num_processes=num_processes, process_index=0)

    running = loader()
    epochs = [[batch.tolist() for batch in running] for _ in range(3)]  # Accelerate counts the epochs
    assert epochs[0] != epochs[1]
    expected = list(DistinctLabelBatchSampler(labels, 2, num_processes=num_processes).global_batches(2))
    assert epochs[2] == [row[:2].tolist() for row in expected]
    resumed = loader()
    set_dataloader_epoch(resumed, 2)
    continued = skip_first_batches(resumed, 4)
    set_dataloader_epoch(continued, 2)
    assert [batch.tolist() for batch in continued] == epochs[2][4:]


def test_fifty_thousand_images_are_ordered_in_a_moment():
    labels = np.random.default_rng(0).integers(0, 64, 50_000)
    sampler = quiet(labels, 64)
    times = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        start = time.perf_counter()
        count = sum(1 for _ in sampler)
        times.append(time.perf_counter() - start)
    assert count == len(sampler)
    assert min(times) < 0.2
