"""Checks of the common suite that are hard enough to deserve a broken model that they must catch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Memory that torch hands out without writing to it holds NaN (floats) or the largest number (integers).

    So a tensor that nobody initialised is seen every time, and not only when the memory happened to be dirty.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = before[1]


def tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """All parameters and buffers, those that are not saved included."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def drop_tensors(folder: Path, names: set[str]) -> None:
    """Remove tensors from a checkpoint."""
    path = folder / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(path).items() if name not in names}
    save_file(kept, path, metadata={"format": "pt"})


def load_seeded(model_class: Any, folder: Path, seed: int) -> nn.Module:
    """Load a checkpoint with dirty memory and a seed of its own."""
    torch.manual_seed(seed)
    with poisoned_memory():
        return model_class.from_pretrained(folder)


def check_nothing_random_after_loading(model_class: Any, config: Any, folder: Path, dropped: set[str]) -> None:
    """A checkpoint without the tensors `dropped` (all of it is still in `folder`) loads with new, well drawn values.

    A momentum encoder starts as a copy. Dropped tensors, and whatever is never saved, must be finite, follow the seed, and have the spread that a new model
    gives them (equal values where every new model has the same); the others must be the saved ones.
    """
    saved = load_file(folder / "model.safetensors")
    assert dropped <= set(saved), f"not in the checkpoint: {sorted(dropped - set(saved))}"
    drop_tensors(folder, dropped)
    loaded = [tensors_of(load_seeded(model_class, folder, seed)) for seed in (1, 1, 2)]
    new = []
    for seed in (1, 2, 3, 4):
        torch.manual_seed(seed)
        new.append(tensors_of(model_class(type(config).from_dict(config.to_dict()))))
    problems = []
    for name, first in loaded[0].items():
        if name in saved and name not in dropped:
            if not torch.equal(first, saved[name]):
                problems.append(f"{name}: was in the checkpoint and is something else after loading")
            continue
        again, other = loaded[1][name], loaded[2][name]
        if name.startswith("momentum_encoder."):
            source = name.removeprefix("momentum_encoder.").replace("_copy.", ".")
            if not torch.equal(first, loaded[0][source]):
                problems.append(f"{name}: is no copy of {source}")
        elif not bool(torch.isfinite(first).all()):
            problems.append(f"{name}: not finite, nobody initialised it")
        elif not torch.equal(first, again):
            problems.append(f"{name}: differs between two loads with the same seed")
        elif torch.equal(new[0][name], new[1][name]):
            if not torch.equal(first, new[0][name]):
                problems.append(
                    f"{name}: {first.flatten()[:3].tolist()}, a new model has {new[0][name].flatten()[:3].tolist()}"
                )
        else:
            if torch.equal(first, other):
                problems.append(f"{name}: does not follow the seed")
            spread = float(torch.stack([tensors[name].detach().float() for tensors in new]).square().mean().sqrt())
            largest = max(float(tensors[name].detach().abs().max()) for tensors in new)
            values = torch.stack([first, other]).float()
            seen = float(values.square().mean().sqrt())
            # a few numbers spread more freely than many
            slack = 1.3 if values.numel() >= 64 else 3.0
            if not spread / slack <= seen <= spread * slack or float(values.abs().max()) > 2 * largest:
                problems.append(f"{name}: spread {seen:.4g}, a new model has {spread:.4g}")
    assert not problems, "\n".join(problems)


def names_of_part(model: nn.Module, part: str) -> set[str]:
    """Names of the saved tensors of a direct part."""
    return {name for name in model.state_dict() if name == part or name.startswith(f"{part}.")}


def set_training_like_trainer(model: nn.Module) -> None:
    """What a trainer does before the first step."""
    model.train()


def check_frozen(model: Any, parts: list[str], inputs: dict[str, Any], steps: int = 2) -> None:
    """The named parts do not change in training, neither parameters nor running statistics; something else does."""
    set_training_like_trainer(model)
    before = {name: tensor.detach().clone() for name, tensor in tensors_of(model).items()}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if trainable:
        # weight decay moves every parameter that an optimiser holds, gradient or not
        optimizer = torch.optim.AdamW(trainable, lr=1e-2, weight_decay=0.1)
        for _ in range(steps):
            optimizer.zero_grad()
            outputs = model(**inputs)
            loss_of(outputs).backward()
            optimizer.step()
            model.after_optimizer_step()
    after = tensors_of(model)
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    wrong = [name for name in moved if name.split(".")[0] in parts]
    assert not wrong, f"frozen, but changed in training: {wrong}"
    assert moved or not trainable, "nothing was trained"


def loss_of(outputs: Any) -> torch.Tensor:
    """The loss; for a backbone without one, a number that depends on all its features."""
    if getattr(outputs, "loss", None) is not None:
        return outputs.loss
    features = outputs.pooler_output
    weights = torch.linspace(-1, 1, features[0].numel(), dtype=features.dtype).view_as(features[0])
    return (features * weights).square().mean()


def local_paths_in(folder: Path) -> list[str]:
    """Strings of the JSON files in a folder that look like a path of this machine."""
    found: list[str] = []

    def visit(value: Any, file: str) -> None:
        if isinstance(value, dict):
            for item in value.values():
                visit(item, file)
        elif isinstance(value, list):
            for item in value:
                visit(item, file)
        elif isinstance(value, str) and (value.startswith(("/", "~", "./", "../")) or "\\" in value):
            found.append(f"{file}: {value}")

    for path in sorted(folder.glob("*.json")):
        visit(json.loads(path.read_text()), path.name)
    return found
