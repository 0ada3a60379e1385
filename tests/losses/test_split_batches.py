"""Objectives of pairs and classes: two processes with half a batch each = one process with all of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from helpers.gloo import GlooPool

from hf_contrastive.distributed import get_rank, get_world_size
from hf_contrastive.losses import (
    clip_loss,
    margin_softmax,
    mil_nce,
    pair_margin_loss,
    sample_classes,
    sup_con,
    triplet_margin_loss,
)


N, C = 6, 10  # rows of the joined batch, classes
IDS = torch.tensor([0, 1, 0, 2, 0, 1])  # repeats within a process and across
LABELS = torch.tensor([3, 9, -1, 0, 3, 3])  # the processes differ in how many rows have one


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch() -> dict[str, torch.Tensor]:
    mask = torch.tensor([[True, True, False], [False, True, False], [True, True, True]]).repeat(2, 1)
    return {"a": draw(N, 5), "b": draw(N, 5, seed=1), "c": draw(N, 3, 5, seed=2), "mask": mask, "ids": IDS}


def objective(name: str, x: dict[str, torch.Tensor], layer: torch.Tensor, t: torch.Tensor, tile, gather) -> Any:
    a, b, c = (x[key] @ layer for key in "abc")
    options = {"gather": gather, "tile_size": tile}
    if name.startswith("clip"):
        ids = x["ids"] if name.endswith("ids") else None
        return clip_loss(a, b, 1 / t, weight_a_to_b=float(name.split("_")[1]), sample_ids=ids, **options)
    if name.startswith("mil_nce"):
        ids = x["ids"] if "ids" in name else None
        mask = x["mask"] if "mask" in name else None
        return mil_nce(a, c, temperature=t, candidate_mask=mask, sample_ids=ids, normalize="unit" in name, **options)
    if name == "sup_con":
        return sup_con(a, x["ids"], t, mean_of_nonzero=True, **options)
    if name == "triplet":
        return triplet_margin_loss(a, x["ids"], margin=0.4, gather=gather) / t
    return pair_margin_loss(a, x["ids"], pos_margin=0.1, neg_margin=1.3, gather=gather) / t


def loss_and_gradients(name: str, tile: int | None, in_parts: bool) -> list[torch.Tensor]:
    """Loss, gradient of a layer in front and of the temperature; averaged over processes when the batch is split."""
    x, layer = batch(), draw(5, 5, seed=3).requires_grad_()
    t = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    if in_parts:
        half = slice(get_rank() * N // 2, (get_rank() + 1) * N // 2)
        x = {key: value[half] for key, value in x.items()}
    loss = objective(name, x, layer, t, tile, in_parts)
    loss.backward()
    assert layer.grad is not None
    assert t.grad is not None
    results = [loss.detach(), layer.grad, t.grad]
    if in_parts:
        for result in results:
            dist.all_reduce(result)
            result /= get_world_size()
    return results


NAMES = [
    *("clip_0.75", "clip_0.75_ids", "clip_1", "clip_0_ids"),
    *("mil_nce", "mil_nce_unit", "mil_nce_ids", "mil_nce_mask", "mil_nce_mask_ids"),
    *("sup_con", "pair_margin", "triplet"),
]


@pytest.mark.distributed
@pytest.mark.parametrize("tile", [None, 2])
@pytest.mark.parametrize("name", NAMES)
def test_two_processes_are_one(gloo_pool: GlooPool, name: str, tile: int | None) -> None:
    expected = loss_and_gradients(name, tile, False)
    for results in gloo_pool.run(loss_and_gradients, name, tile, True):
        for got, want in zip(results, expected, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


# ------------------------------------------------------------------------------------------------ classes in parts


def classify(case: str, in_parts: bool, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Loss and gradients: of the layer and the scale averaged over processes, of the class matrix joined."""
    rank, world = (get_rank(), get_world_size()) if in_parts else (0, 1)
    features, layer, weight = draw(N, 5), draw(5, 5, seed=3).requires_grad_(), draw(C, 5, seed=4)
    scale = torch.tensor(8.0, dtype=torch.float64, requires_grad=True)
    options: dict[str, Any] = {}
    classes = C
    if "padded" in case:  # 9 classes, the last row of the second part is none
        options["num_classes"] = classes = C - 1
        labels = labels.clamp_max(C - 2)
    rows = slice(rank * N // world, (rank + 1) * N // world)
    features, labels = features[rows], labels[rows]
    if "sampled" in case:
        options["candidates"] = sample_classes(labels, classes, 6, seed=1, gather=in_parts)
    if "one_sided" in case:  # all candidates lie in the first part
        options["candidates"] = torch.tensor([4, 3, 0])
    sharded = in_parts and "sharded" in case
    if sharded:
        weight = weight[rank * C // world : (rank + 1) * C // world]
    weight = weight.clone().requires_grad_()
    loss = margin_softmax(
        features @ layer,
        weight,
        labels,
        scale=scale,
        margin=0.2,
        gather=in_parts,
        sharded=sharded,
        tile_size=2 if "tiles" in case else None,
        reduction="sum" if "sum" in case else "mean",
        **options,
    )
    loss.backward()
    assert layer.grad is not None
    assert weight.grad is not None
    assert scale.grad is not None
    found = {"loss": loss.detach(), "layer": layer.grad, "scale": scale.grad, "weight": weight.grad}
    for name in found if in_parts else ():
        if sharded and name == "weight":
            parts = [torch.empty_like(found[name]) for _ in range(world)]
            dist.all_gather(parts, found[name])
            found[name] = torch.cat(parts)
        else:
            dist.all_reduce(found[name])
            found[name] /= world
    return found


CASES = [
    *("replicated", "replicated_sampled", "sharded", "sharded_tiles", "sharded_sampled", "sharded_padded"),
    "sharded_sampled_padded_tiles",
]


@pytest.mark.distributed
@pytest.mark.parametrize("labels", [LABELS, torch.tensor([0, 1, 2, -1, -1, -1]), torch.full((N,), -1)])
@pytest.mark.parametrize("case", CASES)
def test_two_processes_classify_as_one(gloo_pool: GlooPool, case: str, labels: torch.Tensor) -> None:
    expected = classify(case, False, labels)
    for found in gloo_pool.run(classify, case, True, labels):
        for name, want in expected.items():
            torch.testing.assert_close(found[name], want, rtol=1e-9, atol=1e-9)


@pytest.mark.distributed
def test_a_process_without_any_candidate(gloo_pool: GlooPool) -> None:
    labels = torch.tensor([3, 0, 4, 0, 3, 3])
    expected = classify("sharded_one_sided", False, labels)
    for found in gloo_pool.run(classify, "sharded_one_sided", True, labels):
        for name, want in expected.items():
            torch.testing.assert_close(found[name], want, rtol=1e-9, atol=1e-9)


@pytest.mark.distributed
def test_a_sum_over_rows_of_two_processes(gloo_pool: GlooPool) -> None:
    expected = classify("sharded_sum", False, LABELS)
    for found in gloo_pool.run(classify, "sharded_sum", True, LABELS):
        for name, want in expected.items():
            torch.testing.assert_close(2 * found[name], want, rtol=1e-9, atol=1e-9)


def wrong_labels() -> str:
    """Only the second process has the label that is too large."""
    labels = torch.tensor([1, 2]) if get_rank() == 0 else torch.tensor([1, 12])
    with pytest.raises(ValueError, match="entity label 12 is outside") as caught:
        margin_softmax(draw(2, 5), draw(5, 5), labels, sharded=True)
    return str(caught.value)


@pytest.mark.distributed
def test_a_wrong_label_is_refused_by_every_process(gloo_pool: GlooPool) -> None:
    first, second = gloo_pool.run(wrong_labels, timeout=30)
    assert first == second
    assert "0 to 9" in first


def sampled() -> list[int]:
    labels = torch.tensor([7, 2, 7]) if get_rank() == 0 else torch.tensor([5, -1, 2])
    torch.manual_seed(get_rank())
    return sample_classes(labels, 30, 9, seed=4, gather=True).tolist()


@pytest.mark.distributed
def test_all_processes_sample_the_same_classes(gloo_pool: GlooPool) -> None:
    first, second = gloo_pool.run(sampled)
    assert first == second
    assert first[:3] == [2, 5, 7]
    assert first == sample_classes(torch.tensor([2, 5, 7]), 30, 9, seed=4).tolist()
