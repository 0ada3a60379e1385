"""How much memory the training of a recommender takes, known before it starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hf_contrastive.families.recommender.configuration_recommender import RecommenderConfig


# numbers that an optimizer keeps for each that is trained; others are counted like Adam
_OPTIMIZER_NUMBERS = {"sgd": 0, "adafactor": 0, "adagrad": 1, "rmsprop": 1, "lion": 1, "adamw": 2, "adam": 2}
# tiles of a contrast that are kept for the way back, at most (`losses/_engine.py`), and as much again to work in
_CONTRAST_BYTES = 2 * 160 * 2**20


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes at the peak of a training step, by part.

    Args:
        tables (`int`): rows of users and items, their final vectors, features of the items.
        gradients (`int`): of all that is trained.
        optimizer (`int`): what the optimizer keeps.
        activations (`int`): of all layers and views, or what the optimizer needs for a moment, where that is more.
        graph (`int`): edges in both directions, and the training pairs.
        batch (`int`): rows of the batch, and what contrasts compare.
        hidden_size (`int`): as configured.
        sampled_neighbours (`str`): fan-out of sampled training, where the system has it and it is not yet used.
    """

    tables: int
    gradients: int
    optimizer: int
    activations: int
    graph: int
    batch: int
    hidden_size: int
    sampled_neighbours: str = ""

    @property
    def parts(self) -> dict[str, int]:
        """Bytes by part."""
        names = ("tables", "gradients", "optimizer", "activations", "graph", "batch")
        return {name: getattr(self, name) for name in names}

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return sum(self.parts.values())


def estimate_training_memory(
    config: RecommenderConfig,
    num_interactions: int,
    batch_size: int,
    *,
    optimizer: str = "adamw",
    num_negatives: int = 1,
    dtype_bytes: int = 4,
    fan_out: Sequence[int] | None = None,
) -> MemoryEstimate:
    """How much memory the training of a recommender takes on its device, within about 30 % where it was measured; an upper
    bound for sampled training, which finds the same nodes several times.

    Copies that others make (an untrained model to compare with, a log, a process's libraries) are not in it. A system of your own
    says what its steps hold in `step_memory` of its configuration.

    Args:
        config ([`RecommenderConfig`]): of the system.
        num_interactions (`int`): pairs of the training part.
        batch_size (`int`): rows of a step on one device.
        optimizer (`str`, defaults to `"adamw"`): `optim` of the training arguments; one that is not known counts like AdamW.
        num_negatives (`int`, defaults to 1): items drawn for each row.
        dtype_bytes (`int`, defaults to 4): of a number of the tables.
        fan_out (`Sequence[int]`, *optional*): neighbours of a node in sampled training; the whole graph by default.

    Returns:
        [`MemoryEstimate`].

    Raises:
        ValueError: a size below 0.

    Example:

    ```python
    >>> from hf_contrastive.families.recommender.memory import estimate_training_memory
    >>> from hf_contrastive.models.lightgcn.configuration_lightgcn import LightGCNConfig
    >>> config = LightGCNConfig(num_users=7_000_000, num_items=3_000_000)
    >>> full = estimate_training_memory(config, num_interactions=100_000_000, batch_size=2048)
    >>> sampled = estimate_training_memory(config, 100_000_000, 2048, fan_out=(15, 10, 5))
    >>> round(full.total / 1e9), round(sampled.total / 1e9)
    (28, 23)

    ```
    """
    for name, value in (
        ("num_interactions", num_interactions),
        ("batch_size", batch_size),
        ("num_negatives", num_negatives),
        ("dtype_bytes", dtype_bytes),
    ):
        if value < 0:
            raise ValueError(f"`{name}` is {value}; expected 0 or more")
    users, items, width = config.num_users, config.num_items, config.hidden_size
    nodes, row = users + items, width * dtype_bytes
    features = [items * size * dtype_bytes for size in getattr(config, "feature_dims", {}).values()]
    need = config.step_memory()
    trained = [users * row, items * row, *(features if need.trained_features else [])]
    kept = next((n for name, n in _OPTIMIZER_NUMBERS.items() if optimizer.lower().startswith(name)), 2)
    layers = getattr(config, "num_layers", 0)
    edge_bytes = need.edge_bytes * num_interactions
    found = nodes
    seeds = min(nodes, batch_size * (2 + num_negatives))
    if fan_out is not None:
        found, edges, front = seeds, 0, seeds
        for count in fan_out:
            reached = min(2 * num_interactions, front * count if count >= 0 else 2 * num_interactions)
            front = min(nodes - found, reached)
            found, edges = found + front, min(2 * num_interactions, edges + reached)
        edge_bytes = 64 * edges
    activations = need.rows * found * row + need.numbers * nodes * dtype_bytes + edge_bytes
    # the optimizer's step comes after them: two copies of its largest table, unless it is one kernel
    activations = max(activations, 2 * max(trained) if kept and "fused" not in optimizer else 0)
    compared = min(batch_size, max(users, items))
    contrast = min(4.5 * compared**2 + 3000 * compared, _CONTRAST_BYTES)
    gradients, optimizer_bytes = sum(trained), kept * sum(trained)
    batch = int(batch_size * (2 + num_negatives) * (6 * row + 16) + need.contrasts * contrast)
    activations = max(activations, need.feature_copies * max(features, default=0))
    samples = need.sampled and layers and fan_out is None
    return MemoryEstimate(
        tables=2 * nodes * row + sum(features),
        gradients=gradients,
        optimizer=optimizer_bytes,
        activations=int(activations),
        graph=52 * num_interactions + 8 * nodes,
        batch=batch,
        hidden_size=width,
        sampled_neighbours=" ".join(str(max(5, 15 - 5 * layer)) for layer in range(layers)) if samples else "",
    )


def free_memory(device: torch.device | str) -> int | None:
    """Bytes that are free on a device; None where it cannot be known.

    Args:
        device (`torch.device | str`): `cuda` asks the driver, `cpu` the operating system (through psutil).
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "cpu":
        try:
            import psutil
        except ImportError:
            return None
        return psutil.virtual_memory().available
    return None


def check_memory(estimate: MemoryEstimate, device: torch.device | str, *, processes: int = 1) -> None:
    """Refuse a training that does not fit, before it starts. To be called before the model is made.

    Args:
        estimate ([`MemoryEstimate`]): of one process.
        device (`torch.device | str`): where the model is trained.
        processes (`int`, defaults to 1): those that share the memory of the device (on a CPU).

    Raises:
        ValueError: less is free than needed; where the device does not say what is free, nothing is checked.
    """
    free = free_memory(device)
    if free is None or estimate.total * processes <= free:
        return
    parts = sorted(estimate.parts.items(), key=lambda part: -part[1])
    ways = [f"a smaller --hidden_size (now {estimate.hidden_size})", "a larger machine"]
    fixed = dataclasses.replace(estimate, activations=0, batch=0).total
    if estimate.sampled_neighbours and fixed * processes < free:
        ways.insert(0, f"sampled training (--sampled_neighbours {estimate.sampled_neighbours})")
    elif estimate.optimizer > estimate.activations:
        ways.insert(0, "an optimizer that keeps less (--optim adafactor)")
    each = f" in each of {processes} processes" if processes > 1 else ""
    raise ValueError(
        f"training needs about {_size(estimate.total)} on {torch.device(device)}{each} "
        f"({', '.join(f'{name} {_size(value)}' for name, value in parts[:3])}), and {_size(free)} are free; use "
        f"{', '.join(ways[:-1])}, or {ways[-1]}."
    )


def _size(count: float) -> str:
    return f"{count / 1e9:.0f} GB" if count >= 1e10 else f"{count / 1e9:.1f} GB"


__all__ = ["MemoryEstimate", "check_memory", "estimate_training_memory", "free_memory"]
