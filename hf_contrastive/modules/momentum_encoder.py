"""A slowly moving copy of an encoder: its weights are an exponential moving average of the trained ones."""

from __future__ import annotations

import copy
import math
import re
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import initialization as init

from hf_contrastive.distributed import all_gather_no_grad, broadcast_from_first, get_rank, is_distributed
from hf_contrastive.modules.training_state import TrainingState


SCHEDULES = ("constant", "cosine")


class MomentumEncoder(TrainingState):
    """Copies of parts of a model whose weights follow the originals: `w <- m w + (1 - m) original`.

    The momentum encoder of MoCo (https://arxiv.org/abs/1911.05722, equation 2) and the target network of BYOL
    (https://arxiv.org/abs/2006.07733, equation 1). Weights move after every optimiser step, which is the same as before
    the next forward pass. Only parameters are averaged; the copies keep batch-norm statistics of their own and run in
    the mode of the model. With adapters (LoRA) in the originals the merged weights are followed.

    Args:
        parts (`dict[str, nn.Module]`): the originals by their names in the model, for example
            `{"backbone": backbone, "projection_head": head}`; the copies are called `backbone_copy` and so on.
        momentum (`float`, defaults to 0.999): m at the start, from 0 to 1.
        schedule (`str`, defaults to `"constant"`): `"cosine"` raises m to 1 over the training (BYOL, appendix J), for which
            `model.training_progress` tells how far training is.
        start_as_copy (`bool`, defaults to `True`): start with the originals' weights; otherwise with weights of their own.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.modules.momentum_encoder import MomentumEncoder
    >>> model = torch.nn.Module()
    >>> model.head, model.training_progress = torch.nn.Linear(1, 1, bias=False), 0.0
    >>> slow = MomentumEncoder({"head": model.head}, momentum=0.75)
    >>> _ = torch.nn.init.zeros_(slow.head_copy.weight), torch.nn.init.ones_(model.head.weight)
    >>> slow.after_step(model)
    >>> slow.head_copy.weight.item()
    0.25

    ```
    """

    def __init__(
        self,
        parts: Mapping[str, nn.Module],
        momentum: float = 0.999,
        schedule: str = "constant",
        start_as_copy: bool = True,
    ) -> None:
        super().__init__()
        self.names = tuple(parts)
        self.momentum = momentum
        self.schedule = schedule
        self.start_as_copy = start_as_copy
        for name, part in parts.items():
            # the name must not end like the original's: PEFT matches modules by the end of their names
            setattr(self, f"{name}_copy", copy.deepcopy(part))
        self.requires_grad_(False)
        self._warned = False

    def part(self, name: str) -> nn.Module:
        """The copy of one part.

        Args:
            name (`str`): name of the original in the model.
        """
        return getattr(self, f"{name}_copy")

    def current_momentum(self, progress: float) -> float:
        """m at a point of the training.

        Args:
            progress (`float`): share of the training that is done, from 0 to 1.
        """
        if self.schedule == "cosine":
            return 1 - (1 - self.momentum) * (math.cos(math.pi * progress) + 1) / 2
        return self.momentum

    @torch.no_grad()
    def init_state(self, model: Any) -> None:
        """Copy the originals, where the checkpoint brought nothing."""
        if not self.start_as_copy:
            return
        for name in self.names:
            source, target = getattr(model, name), self.part(name)
            weights = merged_parameters(source)
            for key, parameter in target.named_parameters():
                init.copy_(parameter, weights[key])
            buffers = {_plain(key): buffer for key, buffer in source.named_buffers() if _is_active(key)}
            for key, buffer in target.named_buffers():
                init.copy_(buffer, buffers[key])

    @torch.no_grad()
    def after_step(self, model: Any) -> None:
        """Move towards the originals."""
        momentum = self.current_momentum(model.training_progress)
        slow, fast = [], []
        for name in self.names:
            weights = merged_parameters(getattr(model, name))
            for key, parameter in self.part(name).named_parameters():
                slow.append(parameter)
                fast.append(weights[key])
        self._warn_about_precision(slow[0].dtype, momentum)
        get_ema_multi_avg_fn(momentum)(slow, fast, None)

    def _warn_about_precision(self, dtype: torch.dtype, momentum: float) -> None:
        if self._warned or momentum == 1 or not dtype.is_floating_point or 1 - momentum >= 4 * torch.finfo(dtype).eps:
            return
        self._warned = True
        warnings.warn(
            f"the momentum encoder is in {str(dtype).removeprefix('torch.')}, in which a step of {1 - momentum:g} of the "
            "difference is mostly rounded away: it stands still. Keep the weights in float32 and train with bf16=True "
            "(autocast) instead."
        )

    def extra_repr(self) -> str:
        return f"momentum={self.momentum}, schedule={self.schedule!r}"


def merged_parameters(module: nn.Module) -> dict[str, torch.Tensor]:
    """The weights a module computes with, by their plain names: adapters and trained copies of PEFT are merged in.

    Args:
        module (`nn.Module`): with or without adapters.

    Returns:
        `dict[str, torch.Tensor]`: names as in the module without adapters.
    """
    weights: dict[str, torch.Tensor] = {}
    for name, parameter in module.named_parameters():
        if _is_active(name):
            weights[_plain(name)] = parameter
    for name, layer in module.named_modules():
        if not hasattr(layer, "get_delta_weight") or getattr(layer, "merged", False):
            continue
        key = f"{_plain(name + '.')}weight"
        for adapter in layer.active_adapters:
            if adapter in layer.lora_A:
                weights[key] = weights[key] + layer.get_delta_weight(adapter).to(weights[key].dtype)
    return weights


def _is_active(name: str) -> bool:
    """Not the untouched copy that PEFT keeps of what it trains, and no adapter."""
    return not re.search(r"(^|\.)(original_module|lora_[A-Za-z_]+)\.", name)


def _plain(name: str) -> str:
    return re.sub(r"(^|\.)(base_layer|modules_to_save\.[^.]+)\.", r"\1", name)


def shuffled_forward(function: Any, images: torch.Tensor) -> torch.Tensor:
    """Apply a function to rows that are shuffled over the processes, and bring the results back into order.

    ShuffleBN of MoCo (https://arxiv.org/abs/1911.05722, section 3.3): a key's batch-norm statistics are not those of the
    query's rows, which would give the answer away. Does nothing in a single process. No gradient.

    Args:
        function (callable): `[rows, ...] -> [rows, dim]`.
        images (`torch.Tensor` `[rows, ...]`): of this process.

    Returns:
        `torch.Tensor` `[rows, dim]`: the results for `images`.
    """
    if not is_distributed():
        return function(images)
    rows = len(images)
    everything = all_gather_no_grad(images)
    order = broadcast_from_first(torch.randperm(len(everything), device=images.device))
    mine = order[get_rank() * rows : (get_rank() + 1) * rows]
    results = all_gather_no_grad(function(everything[mine]))
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order), device=order.device)
    return results[back[get_rank() * rows : (get_rank() + 1) * rows]]


__all__ = ["SCHEDULES", "MomentumEncoder", "merged_parameters", "shuffled_forward"]
