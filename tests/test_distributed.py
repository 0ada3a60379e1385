"""Two processes with half a batch each = one process with all of it: the loss, and every gradient after averaging."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from helpers.gloo import GlooPool, RemoteError

from hf_contrastive import distributed
from hf_contrastive.distributed import (
    all_gather_no_grad,
    all_gather_with_grad,
    get_rank,
    get_world_size,
    is_main_process,
)
from hf_contrastive.losses import clip_loss, info_nce, nt_xent, nt_xent_multi_view, sup_con


N = 6  # rows of the joined batch
IDS = torch.tensor([0, 1, 0, 2, 0, 1])  # repeats within a process and across


def _joined() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"a": (N, 5), "b": (N, 5), "c": (N, 5), "queue": (4, 5), "own": (N, 3, 5)}
    return {name: torch.randn(*shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}


def _loss(
    name: str, x: dict[str, torch.Tensor], weight: torch.Tensor, t: torch.Tensor, ids, tile, gather
) -> torch.Tensor:
    """A linear layer in front stands for the model whose gradients are averaged."""
    a, b, c = (x[key] @ weight for key in "abc")
    options = {"gather": gather, "tile_size": tile}
    if name == "info_nce":
        return info_nce(a, b, temperature=t, sample_ids=ids, **options)
    if name == "info_nce_queue":
        numbers = None if ids is None else torch.arange(len(x["queue"]))
        return info_nce(a, b, x["queue"], temperature=t, sample_ids=ids, negative_ids=numbers, **options)
    if name == "info_nce_own":
        return info_nce(a, b, x["own"] @ weight, temperature=t, sample_ids=ids, **options)
    if name == "clip_loss":
        return clip_loss(a, b, 1 / t, sample_ids=ids, **options)
    if name == "nt_xent":
        return nt_xent(a, b, t, sample_ids=ids, **options)
    if name == "nt_xent_multi_view":
        return nt_xent_multi_view(torch.stack([a, b, c], 1), t, sample_ids=ids, **options)
    if name == "sup_con":
        return sup_con(torch.stack([a, b], 1), ids, t, **options)
    # one row a sample: some rows have no positive, and the processes differ in how many
    return sup_con(a, torch.arange(len(a)) if ids is None else ids, t, **options)


def _parameters() -> tuple[torch.Tensor, torch.Tensor]:
    weight = torch.randn(5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    return weight, torch.tensor(0.1, dtype=torch.float64, requires_grad=True)


def loss_and_gradients(name: str, with_ids: bool, tile: int | None, in_parts: bool) -> list[torch.Tensor]:
    """Loss, gradient of the weight and of the temperature; averaged over processes when the batch is split."""
    x, (weight, t) = _joined(), _parameters()
    ids = IDS if with_ids else None
    if name == "sup_con_lonely":
        ids = torch.tensor([0, 1, 2, 3, 3, 1])
    if in_parts:
        half = slice(get_rank() * N // 2, (get_rank() + 1) * N // 2)
        x = {key: value if key == "queue" else value[half] for key, value in x.items()}
        ids = None if ids is None else ids[half]
    loss = _loss(name, x, weight, t, ids, tile, in_parts)
    loss.backward()
    assert weight.grad is not None
    assert t.grad is not None
    results = [loss.detach(), weight.grad, t.grad]
    if in_parts:
        for result in results:
            dist.all_reduce(result)
            result /= get_world_size()
    return results


LOSSES = ["info_nce", "info_nce_queue", "info_nce_own", "clip_loss", "nt_xent", "nt_xent_multi_view", "sup_con"]


@pytest.mark.distributed
@pytest.mark.parametrize("tile", [None, 2])
@pytest.mark.parametrize("with_ids", [False, True])
@pytest.mark.parametrize("name", [*LOSSES, "sup_con_lonely"])
def test_two_processes_are_one(gloo_pool: GlooPool, name: str, with_ids: bool, tile: int | None) -> None:
    expected = loss_and_gradients(name, with_ids, tile, False)
    for results in gloo_pool.run(loss_and_gradients, name, with_ids, tile, True):
        for got, want in zip(results, expected, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def gather_facts() -> dict[str, object]:
    x = (torch.arange(4.0).view(2, 2) + 10 * get_rank()).requires_grad_()
    everything = all_gather_with_grad(x)
    (everything * torch.arange(1.0, 5.0)[:, None] * (get_rank() + 1)).sum().backward()
    facts = {"rows": everything.detach(), "grad": x.grad, "plain": all_gather_no_grad(x)}
    return {**facts, "rank": get_rank(), "world": get_world_size(), "main": is_main_process()}


def gather_facts_by_other_ways(names: list[str]) -> dict[str, object]:
    """As torch versions offer it: without the newer functions."""
    from torch.distributed import _functional_collectives as collectives

    saved = {name: getattr(collectives, name) for name in names if hasattr(collectives, name)}
    try:
        for name in saved:
            delattr(collectives, name)
        return gather_facts()
    finally:
        for name, value in saved.items():
            setattr(collectives, name, value)


@pytest.mark.distributed
@pytest.mark.parametrize(
    "absent", [[], ["all_gather_single_autograd"], ["all_gather_single_autograd", "all_gather_tensor_autograd"]]
)
def test_gather_rows_and_gradients(gloo_pool: GlooPool, absent: list[str]) -> None:
    if absent == ["all_gather_single_autograd"]:
        from torch.distributed import _functional_collectives as collectives

        if hasattr(collectives, "all_gather_single_autograd"):
            pytest.skip("in this torch the older name calls the newer one")
    results = gloo_pool.run(gather_facts_by_other_ways, absent)
    rows = torch.cat([torch.arange(4.0).view(2, 2), torch.arange(4.0).view(2, 2) + 10])
    for rank, facts in enumerate(results):
        assert torch.equal(facts["rows"], rows)
        assert torch.equal(facts["plain"], rows)
        # row r of the joined rows weighs r + 1, once by rank 0 and twice by rank 1
        assert torch.equal(facts["grad"], torch.tensor([[3.0, 3.0], [6.0, 6.0]]) + 6 * rank)
        assert (facts["rank"], facts["world"], facts["main"]) == (rank, 2, rank == 0)


def uneven() -> list[str]:
    """A short last batch on one process: the message that each process gets, from every way to gather."""
    messages = []
    x = torch.randn(3 - get_rank(), 4, requires_grad=True)
    for call in (all_gather_with_grad, all_gather_no_grad, lambda z: nt_xent(z, z, gather=True)):
        with pytest.raises(ValueError, match="same shape") as caught:
            call(x)
        messages.append(str(caught.value))
    return messages


@pytest.mark.distributed
def test_uneven_batches_are_refused_by_every_process(gloo_pool: GlooPool) -> None:
    for messages in gloo_pool.run(uneven, timeout=30):
        assert "rank 0: [3, 4], rank 1: [2, 4]" in messages[0]
        assert all("drop_last=True" in message for message in messages)


def fails_on(rank: int) -> str:
    if rank in (get_rank(), -1):
        raise KeyError(f"made to fail on rank {get_rank()}")
    return "fine"


def waits_for_the_other(rank: int) -> None:
    if get_rank() == rank:
        raise KeyError(f"made to fail on rank {rank}")
    dist.barrier()


@pytest.mark.distributed
def test_the_pool_raises_what_a_process_raised_and_goes_on(gloo_pool: GlooPool) -> None:
    for rank in (0, 1, -1):
        with pytest.raises(RemoteError, match=f"made to fail on rank {max(rank, 0)}"):
            gloo_pool.run(fails_on, rank)
    assert gloo_pool.run(fails_on, 5) == ["fine", "fine"]


@pytest.mark.distributed
def test_the_pool_does_not_hang() -> None:
    """One process fails, the other waits for it in a collective: the message comes, and the next call works."""
    pool = GlooPool()
    try:
        with pytest.raises(RemoteError, match="made to fail on rank 1"):
            pool.run(waits_for_the_other, 1, timeout=2)
        assert pool.run(fails_on, 5) == ["fine", "fine"]
    finally:
        pool.stop()


def test_one_process_needs_no_group() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    assert all_gather_with_grad(x) is x
    assert all_gather_no_grad(x) is x
    assert distributed.all_reduce_sum(x) is x
    assert (get_rank(), get_world_size(), is_main_process()) == (0, 1, True)
    assert torch.equal(nt_xent(x, x + 1, gather=True), nt_xent(x, x + 1))
