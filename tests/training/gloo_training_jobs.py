"""What the two processes of the pool do in `test_two_processes.py`; also called in one process for comparison."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from helpers.gloo import fresh_accelerator
from helpers.toy_system import ToyForPreTraining, ToyRows, plain_batch, toy_model, toy_trainer

from hf_contrastive.data import DistinctLabelBatchSampler
from hf_contrastive.training import NonFiniteLossError, cached_backward


def _result(trainer: Any) -> dict[str, Any]:
    history = trainer.state.log_history
    return {
        "state": {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()},
        "losses": [line["loss"] for line in history if "loss" in line],
        "norms": [line["grad_norm"] for line in history if "grad_norm" in line],
    }


def train(folder: str, batch_size: int, **options: Any) -> dict[str, Any]:
    """A few steps; every option that differs between one and two processes is `batch_size`."""
    fresh_accelerator()
    trainer = toy_trainer(
        folder,
        toy_model().double(),
        per_device_train_batch_size=batch_size,
        data_collator=_double_views,
        logging_steps=1,
        **{"max_steps": 3, **options},
    )
    trainer.train()
    return _result(trainer)


def _double_views(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    values = torch.stack([row["values"] for row in rows]).double()
    noise = torch.stack(
        [torch.randn(2, 6, generator=torch.Generator().manual_seed(row["index"])).double() for row in rows]
    )
    return {"values": values[:, None] + 0.3 * noise, "label": torch.tensor([row["label"] for row in rows])}


def cached_gradients(chunk_size: int, wrap: bool) -> dict[str, torch.Tensor]:
    """Gradients of the joined batch: this process takes its half, the cache averages."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    model = toy_model().double()
    values = torch.randn(8, 2, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    wrapped = torch.nn.parallel.DistributedDataParallel(model) if wrap else model
    mine = values.chunk(world)[rank]
    # the first half of an accumulated step stays local, the second one averages the sum
    for number in range(2):
        local = wrapped.no_sync() if wrap and number == 0 else nullcontext()
        with local:
            cached_backward(wrapped, {"values": mine + number}, chunk_size, scale=0.5)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def cached_buffers() -> torch.Tensor:
    """What rank 0 holds in a buffer that the objective reads, on every process as after DDP's own forward."""
    model = toy_model().double()
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    model.queue.fill_(1.0 + dist.get_rank())
    values = torch.randn(4, 2, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    cached_backward(wrapped, {"values": values}, 2)
    return model.queue.clone()


def plain_gradients() -> dict[str, torch.Tensor]:
    """The same in one process without cache."""
    model = toy_model().double()
    values = torch.randn(8, 2, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for number in range(2):
        (0.5 * model(values + number).loss).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def resume(folder: str) -> dict[str, Any]:
    """A run of 5 steps over epochs of 2, stopped at 3 and resumed, beside the uninterrupted one."""

    def trainer(name: str, **options: Any) -> Any:
        fresh_accelerator()
        sampler = DistinctLabelBatchSampler([row // 2 for row in range(24)], 4, num_processes=2, seed=1)
        return toy_trainer(
            Path(folder) / name,
            toy_model(dropout=0.2),
            train_batch_sampler=sampler,
            max_steps=5,
            save_strategy="steps",
            save_steps=2,
            logging_steps=3,  # each process has its part of the interval 1-3 before the checkpoint
            **options,
        )

    whole = trainer("whole")
    whole.train()
    again = trainer("whole", seed=42)
    again.train(resume_from_checkpoint=str(Path(folder) / "whole" / "checkpoint-2"))
    return {"whole": _result(whole), "resumed": _result(again)}


def seen_batches(folder: str) -> list[list[int]]:
    """The rows this process was given by a distinct-label sampler."""
    fresh_accelerator()
    seen: list[list[int]] = []
    sampler = DistinctLabelBatchSampler([row // 2 for row in range(24)], 3, num_processes=2, seed=1)
    trainer = toy_trainer(folder, train_batch_sampler=sampler, per_device_train_batch_size=3, max_steps=2)
    collate = trainer.data_collator
    trainer.data_collator = lambda rows: (seen.append([row["index"] for row in rows]), collate(rows))[1]
    trainer.train()
    return seen[:2]


def evaluate(folder: str) -> dict[str, Any]:
    """Embeddings of 11 rows in batches of 2 per process, which do not divide evenly."""
    fresh_accelerator()
    trainer = toy_trainer(
        folder,
        eval_dataset=ToyRows(11, seed=1),
        probe_dataset=ToyRows(13, seed=2),
        eval_data_collator=plain_batch,
        per_device_eval_batch_size=2,
        probe_metrics=["knn", "retrieval", "views"],
        probe_k=3,
    )
    embeds, labels = trainer.embed_dataset(trainer.eval_dataset)
    metrics = trainer.evaluate()
    return {
        "embeds": embeds,
        "labels": labels,
        "numbers": [metrics[f"eval_{name}"] for name in ("knn_top1", "recall@1", "alignment")],
    }


def broken_metric(folder: str) -> str:
    """A function of the user that fails in the process that measures."""
    fresh_accelerator()

    def compute_metrics(prediction: Any) -> dict[str, float]:
        return {"score": prediction.no_such_thing}

    trainer = toy_trainer(
        folder, eval_dataset=ToyRows(8), eval_data_collator=plain_batch, compute_metrics=compute_metrics
    )
    try:
        trainer.evaluate()
    except AttributeError as error:
        return str(error)
    return "no error"


def streamed_evaluation(folder: str) -> str:
    """Rows without a length: Accelerate fills up the shorter shard with rows that were there already."""
    fresh_accelerator()
    trainer = toy_trainer(folder, eval_dataset=_Stream(), eval_data_collator=plain_batch)
    try:
        trainer.evaluate()
    except ValueError as error:
        return str(error)
    return "no error"


class _Stream(torch.utils.data.IterableDataset):
    def __iter__(self) -> Any:
        return (ToyRows(11)[row] for row in range(11))


class _OneBadRow(ToyRows):
    def __getitem__(self, row: int) -> dict[str, Any]:
        item = super().__getitem__(row)
        return {**item, "values": item["values"] * math.nan} if row == 13 else item


class _LocalObjective(ToyForPreTraining):
    """Without gathering, so that only one process sees the NaN."""

    def compute_objective(self, embeds: dict[str, torch.Tensor], sample_ids: Any = None) -> Any:
        output = super().compute_objective({name: part.nan_to_num() for name, part in embeds.items()}, sample_ids)
        output.loss = output.loss + 0 * embeds["projections"].sum()
        return output


def non_finite(folder: str) -> str:
    """Row 13 is in the second step's batch of rank 1."""
    fresh_accelerator()
    trainer = toy_trainer(
        folder,
        _LocalObjective(toy_model().config),
        train_dataset=_OneBadRow(24),
        train_sampling_strategy="sequential",
        max_steps=3,
    )
    try:
        trainer.train()
    except NonFiniteLossError as error:
        finite = all(bool(torch.isfinite(p).all()) for p in trainer.model.parameters())
        return f"{error} finite weights: {finite}"
    return "no error"
