"""A tiny system that the library does not know: it follows the model contract and nothing else."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers import initialization as init

from hf_contrastive.distributed import all_gather_no_grad
from hf_contrastive.losses import nt_xent
from hf_contrastive.modeling_utils import ContrastivePreTrainedModel
from hf_contrastive.outputs import ViewsOutput


class ToyConfig(PreTrainedConfig):
    model_type = "toy_system"

    in_dim: int = 6
    dim: int = 5
    dropout: float = 0.0
    batch_norm: bool = False
    queue_size: int = 3
    frozen_modules: list[str] | None = None


class Temperature(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.log_value = nn.Parameter(torch.tensor(-0.7))

    def forward(self) -> torch.Tensor:
        return self.log_value.exp()


class ToyForPreTraining(ContrastivePreTrainedModel):
    """A small MLP, a learnable temperature used in the objective, and a queue that optimiser steps fill."""

    config: ToyConfig
    main_input_name = "values"
    view_inputs = ("values",)

    def __init__(self, config: ToyConfig) -> None:
        super().__init__(config)
        norm = nn.BatchNorm1d(8) if config.batch_norm else nn.Identity()
        self.backbone = nn.Sequential(nn.Linear(config.in_dim, 8), norm, nn.Tanh(), nn.Dropout(config.dropout))
        self.projection_head = nn.Linear(8, config.dim)
        self.temperature = Temperature()
        self.register_buffer("queue", torch.zeros(config.queue_size, config.dim))
        self.register_buffer("latest", torch.zeros(config.dim))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Temperature):
            init.constant_(module.log_value, -0.7)
        if module is self:
            for buffer in (self.queue, self.latest, self.steps):
                init.zeros_(buffer)

    def embed_views(self, values: torch.Tensor) -> dict[str, torch.Tensor]:
        embeds = self.backbone(values.flatten(0, 1))
        return {
            "projections": self.projection_head(embeds).unflatten(0, values.shape[:2]),
            "embeds": embeds.unflatten(0, values.shape[:2]),
        }

    def compute_objective(self, embeds: dict[str, torch.Tensor], sample_ids: Any = None) -> ViewsOutput:
        z = embeds["projections"]
        loss = nt_xent(z[:, 0], z[:, 1], temperature=self.temperature(), sample_ids=sample_ids, gather=True)
        loss = loss + 0.1 * (z[:, 0] @ self.queue.T).square().mean()
        if self.training:
            self.latest.copy_(all_gather_no_grad(z[:, 0].detach()).mean(0))
        return ViewsOutput(loss=loss, embeds=embeds["embeds"], projections=z)

    def forward(self, values: torch.Tensor, sample_ids: torch.Tensor | None = None) -> ViewsOutput:
        return self.compute_objective(self.embed_views(values), sample_ids)

    def _embed_for_encode(self, values: torch.Tensor, *, readout: str) -> torch.Tensor:
        return self.backbone(values)

    @torch.no_grad()
    def after_optimizer_step(self) -> None:
        self.queue.copy_(torch.cat([self.latest[None], self.queue[:-1]]))
        self.steps += 1


def toy_model(seed: int = 0, **fields: Any) -> ToyForPreTraining:
    torch.manual_seed(seed)
    return ToyForPreTraining(ToyConfig(**fields))


class ToyRows(torch.utils.data.Dataset):
    """Rows of two noisy classes."""

    def __init__(self, rows: int = 24, in_dim: int = 6, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.arange(rows) % 2
        self.values = torch.randn(rows, in_dim, generator=generator) + 3 * self.labels[:, None]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"values": self.values[row], "index": row, "label": int(self.labels[row])}


class ToyViews:
    """Two noisy views; the noise depends on row and epoch alone. Remembers the epochs it was told."""

    def __init__(self) -> None:
        self.epoch = torch.zeros((), dtype=torch.long).share_memory_()
        self.told: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.epoch.fill_(epoch)
        self.told.append(epoch)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        views = []
        for row in rows:
            generator = torch.Generator().manual_seed(1000 * int(self.epoch) + int(row["index"]))
            views.append(row["values"] + 0.3 * torch.randn(2, len(row["values"]), generator=generator))
        return {
            "values": torch.stack(views),
            "index": torch.tensor([row["index"] for row in rows]),
            "label": torch.tensor([row["label"] for row in rows]),
        }


def plain_batch(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Rows without augmentation."""
    return {
        "values": torch.stack([row["values"] for row in rows]),
        "label": torch.tensor([row["label"] for row in rows]),
    }


def toy_trainer(folder: Any, model: Any = None, rows: int = 24, **options: Any) -> Any:
    """A `ContrastiveTrainer` on toy rows; options are arguments of the trainer where it has them, else settings."""
    from hf_contrastive.training import ContrastiveTrainer, ContrastiveTrainingArguments

    names = (
        *("data_collator", "train_dataset", "eval_dataset", "eval_data_collator", "probe_dataset"),
        *("train_batch_sampler", "callbacks", "compute_metrics", "optimizers"),
    )
    own = {name: options.pop(name) for name in names if name in options}
    settings = {
        "use_cpu": True,
        "disable_tqdm": True,
        "per_device_train_batch_size": 4,
        "learning_rate": 0.01,
        "max_steps": 8,
        "logging_steps": 1,
        "save_strategy": "no",
        "monitor_collapse": False,
        **options,
    }
    own.setdefault("data_collator", ToyViews())
    own.setdefault("train_dataset", ToyRows(rows))
    model = toy_model() if model is None else model
    return ContrastiveTrainer(model, ContrastiveTrainingArguments(str(folder), **settings), **own)
