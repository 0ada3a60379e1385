"""Memory banks: what is written when, duplicates, refusals, clusters, k-means, several processes."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from hf_contrastive.distributed import get_rank
from hf_contrastive.modules.clustered_memory_bank import ClusteredMemoryBank
from hf_contrastive.modules.keyed_random import KeyedDraws
from hf_contrastive.modules.kmeans import kmeans_labels, split_in_two
from hf_contrastive.modules.memory_bank import MemoryBank


def random_rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def clustered(length: int = 30, clusters: int = 3, **options) -> ClusteredMemoryBank:
    torch.manual_seed(0)
    bank = ClusteredMemoryBank(length, 4, clusters, **{"min_cluster_size": 2, **options})
    bank.init_clusters(random_rows(length, 4), torch.arange(length) % clusters)
    return bank


def test_momentum_weighs_the_new_row_and_nothing_moves_before_the_step():
    bank = MemoryBank(6, 4, momentum=0.3)
    before, new = bank.features.clone(), random_rows(2, 4)
    bank.stage(torch.tensor([4, 1]), new)
    assert torch.equal(bank.features, before)
    bank.after_step(None)
    expected = before.clone()
    expected[[4, 1]] = normalize(0.7 * before[[4, 1]] + 0.3 * normalize(new, dim=1), dim=1)
    torch.testing.assert_close(bank.features, expected)
    assert int(bank.num_updates) == 1


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_of_several_rows_with_one_index_the_last_counts_as_if_alone(micro_batches):
    bank, alone = (MemoryBank(6, 4, momentum=0.5) for _ in range(2))
    alone.load_state_dict(bank.state_dict())
    index, new = torch.tensor([2, 5, 2, 2]), random_rows(4, 4)
    ids = torch.tensor([10, 11, 12, 13])
    for part in torch.arange(4).chunk(micro_batches):
        bank.stage(index[part], new[part], ids[part])
    bank.after_step(None)
    alone.stage(index[[1, 3]], new[[1, 3]], ids[[1, 3]])
    alone.after_step(None)
    assert torch.equal(bank.features, alone.features)
    assert bank.ids.tolist() == [-1, -1, 13, -1, -1, 11]


def test_rows_outside_the_bank_are_refused():
    bank = MemoryBank(5000, 2)
    said = r"dataset index 5000 outside the memory bank of length 5000; build the bank with length=len\(dataset\)"
    with pytest.raises(ValueError, match=said):
        bank.stage(torch.tensor([3, 5000]), torch.ones(2, 2))
    with pytest.raises(ValueError, match="dataset index -1 outside"):
        bank.stage(torch.tensor([-1]), torch.ones(1, 2))
    with pytest.raises(ValueError, match=r"`index` is missing: .*MultiViewCollator"):
        bank.check_index(None, 2)
    with pytest.raises(ValueError, match="one integer for each of the 2 images"):
        bank.check_index(torch.tensor([1]), 2)
    with pytest.raises(ValueError, match="`momentum` is 0, but"):
        MemoryBank(4, 2, momentum=0)


def test_labels_follow_the_nearest_unnormalised_centroid():
    bank = clustered()
    index, new = torch.tensor([0, 7, 9]), random_rows(3, 4, seed=1)
    expected = (normalize(new, dim=1) @ bank.centroids.T).argmax(1)
    before = bank.labels[index]
    update = bank.stage(index, new)
    assert float(update.change_ratio) == pytest.approx(float((expected != before).float().mean()))
    assert torch.equal(bank.labels[index], before)
    bank.after_step(None)
    assert torch.equal(bank.labels[index], expected)


def test_offline_labels_stay():
    bank = clustered(online_labels=False, centroid_interval=1)
    labels, centroids = bank.labels.clone(), bank.centroids.clone()
    update = bank.stage(torch.arange(20), random_rows(20, 4, seed=1))
    bank.after_step(None)
    assert update.change_ratio is None
    assert torch.equal(bank.labels, labels)
    assert torch.equal(bank.centroids, centroids)
    assert not torch.equal(bank.features[:20], normalize(random_rows(30, 4), dim=1)[:20])


def test_centroids_are_plain_means_at_their_interval():
    bank = clustered(centroid_interval=2, repair_interval=100)
    first = bank.centroids.clone()
    for step in range(2):
        bank.stage(torch.arange(6) + step, random_rows(6, 4, seed=step))
        bank.after_step(None)
        if step == 0:
            assert torch.equal(bank.centroids, first)
    expected = torch.stack([bank.features[bank.labels == number].mean(0) for number in range(3)])
    torch.testing.assert_close(bank.centroids, expected)
    # an empty cluster keeps its centroid
    bank.labels[bank.labels == 2] = 0
    bank.update_centroids()
    torch.testing.assert_close(bank.centroids[2], expected[2])


def test_small_clusters_are_emptied_and_filled_with_half_of_the_largest():
    bank = clustered(length=40, clusters=4, min_cluster_size=4)
    labels = torch.zeros(40, dtype=torch.long)
    labels[:2], labels[2:8], labels[8] = 1, 2, 3  # two small ones: 1 and 3
    bank.set_labels(labels)
    members, others = torch.tensor([0, 1, 8]), torch.tensor([0, 2])
    homes = others[(bank.features[members] @ bank.centroids[others].T).argmax(1)]
    joined = labels.clone()
    joined[members] = homes
    largest = (joined == 0).nonzero().flatten()
    second = split_in_two(bank.features[largest])
    assert bank.repair_small_clusters() == [1, 3]
    # the first of the two in full; the second splits what is largest then
    assert set((bank.labels == 1).nonzero().flatten().tolist()) <= set(largest[second].tolist())
    assert int(bank.cluster_sizes().min()) > 0
    assert int(bank.cluster_sizes().sum()) == 40
    for number in (0, 1, 3):
        torch.testing.assert_close(bank.centroids[number], bank.features[bank.labels == number].mean(0))


def test_a_cluster_of_equal_rows_is_halved():
    assert split_in_two(torch.ones(6, 3)).tolist() == [False, True] * 3
    with pytest.raises(ValueError, match="a cluster of 1 rows cannot be split"):
        split_in_two(torch.ones(1, 3))


@pytest.mark.parametrize(
    ("rows", "labels", "message"),
    [
        (29, torch.arange(30) % 3, "`features` has shape"),
        (30, torch.arange(29) % 3, "`labels` must hold one integer"),
        (30, torch.arange(30) % 4, "goes from 0 to 3, but the bank has the clusters 0 to 2"),
        (30, torch.arange(30) % 2, "1 of 3 clusters are empty"),
    ],
)
def test_wrong_clusters_are_refused(rows, labels, message):
    with pytest.raises(ValueError, match=message):
        clustered().init_clusters(random_rows(rows, 4), labels)


@pytest.mark.parametrize("backend", ["faiss", "sklearn"])
def test_kmeans_finds_directions_and_leaves_no_cluster_empty(backend):
    if backend == "faiss":
        pytest.importorskip("faiss")
    centers = torch.eye(4)[torch.arange(80) % 4]
    rows = (centers + 0.05 * random_rows(80, 4)) * (1 + torch.arange(80)[:, None])  # lengths say nothing
    labels = kmeans_labels(rows, 4, backend=backend)
    assert len({(int(a), int(b)) for a, b in zip(labels, torch.arange(80) % 4, strict=True)}) == 4
    assert torch.equal(labels, kmeans_labels(rows, 4, backend=backend))
    equal = kmeans_labels(torch.ones(9, 3), 5, backend=backend)
    assert torch.bincount(equal, minlength=5).min() > 0
    with pytest.raises(ValueError, match="10 clusters were asked for"):
        kmeans_labels(torch.ones(9, 3), 10, backend=backend)
    with pytest.raises(ValueError, match="1 of 9 rows are not finite"):
        kmeans_labels(torch.ones(9, 3).index_fill(0, torch.tensor([2]), torch.nan), 3, backend=backend)


def test_without_faiss_scikit_learn_does_it(monkeypatch):
    rows = random_rows(40, 4)
    expected = kmeans_labels(rows, 3, backend="sklearn")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert torch.equal(kmeans_labels(rows, 3), expected)


def test_draws_depend_on_seed_step_row_and_view_alone():
    rows = torch.tensor([3, 8, 3])
    draws = KeyedDraws(1, 2, rows, torch.tensor([0, 0, 1])).integers(0, 50, 1000)
    assert torch.equal(KeyedDraws(1, 2, rows[1:2]).integers(0, 50, 1000), draws[1:2])
    others = [
        KeyedDraws(2, 2, rows).integers(0, 50, 1000)[0],
        KeyedDraws(1, 3, rows).integers(0, 50, 1000)[0],
        KeyedDraws(1, 2, rows).integers(1, 50, 1000)[0],
        draws[2],
    ]
    assert all(not torch.equal(other, draws[0]) for other in others)


def test_draws_are_uniform():
    drawn = KeyedDraws(0, 0, torch.arange(200)).integers(0, 500, 10)
    counts = torch.bincount(drawn.flatten(), minlength=10).double()
    assert counts.sum() == 100_000
    # chi square with 9 degrees of freedom exceeds 33.7 once in 10,000 times
    assert float(((counts - 10_000).square() / 10_000).sum()) < 33.7
    high = torch.arange(1, 201)
    assert bool((KeyedDraws(0, 0, torch.arange(200)).integers(0, 20, high) < high[:, None]).all())


def job_updates(steps: int) -> dict[str, torch.Tensor]:
    """Runs in each process: two halves of every batch, one bank per process, seeded differently."""
    torch.manual_seed(0)
    bank = ClusteredMemoryBank(24, 4, 3, 0.7, min_cluster_size=5, centroid_interval=2)
    bank.init_clusters(random_rows(24, 4), torch.arange(24) % 3)
    torch.manual_seed(1 + get_rank())
    if get_rank() == 1:
        bank.features.add_(1.0)  # the first process's rows win
        bank.seed.add_(5)
    part = slice(get_rank() * 4, get_rank() * 4 + 4)
    for step in range(steps):
        index, rows = batch(step)
        bank.stage(index[part], rows[part], index[part])
        bank.after_step(None)
    return dict(bank.state_dict())


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    index = torch.randperm(24, generator=torch.Generator().manual_seed(step))[:8]
    index[6] = index[1]  # of another process
    return index, random_rows(8, 4, seed=step)


@pytest.mark.distributed
def test_two_processes_hold_the_bank_of_one(gloo_pool):
    first, second = gloo_pool.run(job_updates, 5)
    torch.manual_seed(0)
    bank = ClusteredMemoryBank(24, 4, 3, 0.7, min_cluster_size=5, centroid_interval=2)
    bank.init_clusters(random_rows(24, 4), torch.arange(24) % 3)
    for step in range(5):
        index, rows = batch(step)
        bank.stage(index, rows, index)
        bank.after_step(None)
    for name, expected in bank.state_dict().items():
        assert torch.equal(first[name], second[name]), name
        assert torch.equal(first[name], expected), name
