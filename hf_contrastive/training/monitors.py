"""What a run watches about itself: geometry of the embeddings, signs of collapse, numbers that are not finite."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import nn

from hf_contrastive.evaluation import (
    alignment,
    effective_rank,
    embedding_std,
    positive_negative_similarity,
    uniformity,
)


# Rows of a batch that are looked at: singular values of more would cost as much as a training step.
MAX_ROWS = 512
_WHOLE_GRADIENTS = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


class CollapseWarning(UserWarning):
    """The embeddings carry (almost) no information, or the loss does not leave chance level."""


class NonFiniteLossError(FloatingPointError):
    """The loss or the gradient is NaN or infinite; raised before the weights change."""


def find_views(outputs: Mapping[str, Any]) -> tuple[list[torch.Tensor], bool]:
    """The views of a batch in a model output: what the objective compares, one tensor `[batch, dim]` per view.

    Looks for `projections` `[batch, views, dim]`, then for the two towers of a two-modality model (two tensors
    `<name>_embeds` of equal shape), then for `projections` or `embeds` without a view axis.

    Args:
        outputs (`Mapping`): a model output, or what `embed_views` returns.

    Returns:
        `(views, joint)`: the tensors, none when there is nothing to watch; `joint` tells that an anchor is compared with
        all views of the other rows (as in NT-Xent), not only with the other tower.
    """
    tensors = {name: value for name, value in outputs.items() if isinstance(value, torch.Tensor)}
    for name in ("projections", "embeds"):
        if name in tensors and tensors[name].ndim == 3:
            return [view.detach() for view in tensors[name].unbind(1)], True
    towers = [value for name, value in tensors.items() if name.endswith("_embeds") and value.ndim == 2]
    if len(towers) >= 2 and towers[0].shape == towers[1].shape:
        return [tower.detach() for tower in towers[:2]], False
    for name in ("projections", "embeds"):
        if name in tensors and tensors[name].ndim == 2:
            return [tensors[name].detach()], False
    return [], False


def embedding_statistics(views: list[torch.Tensor]) -> dict[str, float]:
    """Geometry of one batch: `std`, `effective_rank`, `uniformity`; with two views `pos_sim`, `neg_sim`, `alignment`.

    Args:
        views (`list[torch.Tensor]`): one tensor `[batch, dim]` per view; the first 512 rows are taken.

    Returns:
        `dict[str, float]`: empty when a batch has fewer than two rows.
    """
    if not views or len(views[0]) < 2 or not all(bool(torch.isfinite(view).all()) for view in views):
        return {}
    first = views[0][:MAX_ROWS].float().cpu()
    statistics = {
        "std": embedding_std(first),
        # a batch of zeros has no direction at all; 0 is outside the range of real values
        "effective_rank": effective_rank(first) if bool(first.any()) else 0.0,
        "uniformity": uniformity(first),
    }
    if len(views) > 1:
        second = views[1][:MAX_ROWS].float().cpu()
        similarity = positive_negative_similarity(first, second)
        statistics["pos_sim"], statistics["neg_sim"] = similarity["pos_sim"], similarity["neg_sim"]
        statistics["alignment"] = alignment(first, second)
    return statistics


def chance_loss(views: list[torch.Tensor], joint: bool, world_size: int) -> float | None:
    """Loss of a model that tells nothing apart: the log of the number of candidates (negatives + 1) of an anchor.

    Args:
        views (`list[torch.Tensor]`): one tensor `[batch, dim]` per view, of this process.
        joint (`bool`): an anchor is compared with all views of all other rows, see `find_views`.
        world_size (`int`): processes whose embeddings are joined.

    Returns:
        `float` or `None` when there is only one view or one row.
    """
    rows = len(views[0]) * world_size if views else 0
    if len(views) < 2 or rows < 2:
        return None
    return math.log(len(views) * rows - 1 if joint else rows)


class CollapseMonitor:
    """Watches the embeddings of training batches and warns once per kind of trouble.

    Args:
        std_threshold (`float`): warn when `std * sqrt(dim)`, 1 for embeddings spread evenly over the sphere, is below.
        rank_threshold (`float`): warn when the effective rank is below; 1 means one single direction.
        patience (`int`): number of consecutive looks at which the trouble must be there.
        chance_tolerance (`float`): relative distance from the chance level that still counts as chance.
    """

    def __init__(self, std_threshold: float, rank_threshold: float, patience: int, chance_tolerance: float) -> None:
        self.std_threshold = std_threshold
        self.rank_threshold = rank_threshold
        self.patience = patience
        self.chance_tolerance = chance_tolerance
        self.latest: dict[str, float] = {}
        self.counts = {"collapse": 0, "chance": 0}
        self.warned: list[str] = []

    def update(
        self,
        outputs: Mapping[str, Any],
        loss: float,
        step: int,
        world_size: int = 1,
        has_negatives: bool = True,
        guess: Callable[[int, int], float | None] | None = None,
    ) -> dict[str, float]:
        """Look at one training batch.

        Args:
            outputs (`Mapping`): the model output of this process.
            loss (`float`): its loss.
            step (`int`): number of the optimiser step, for the message.
            world_size (`int`, defaults to 1): processes whose embeddings are joined.
            has_negatives (`bool`, defaults to `True`): without negatives a loss has no chance level to stay at.
            guess (`Callable`, *optional*): the model's own `chance_loss(rows, views)`, where other rows of the batch are not
                the only negatives.

        Returns:
            `dict[str, float]`: the statistics, also kept in `latest`; scalar outputs (loss terms, scale) included.
        """
        views, joint = find_views(outputs)
        self.latest = embedding_statistics(views)
        for name, value in outputs.items():
            if name != "loss" and isinstance(value, torch.Tensor) and value.numel() == 1 and value.ndim == 0:
                self.latest[name] = float(value.detach())
        collapsed = False
        if "std" in self.latest:
            spread = self.latest["std"] * math.sqrt(views[0].shape[1])
            rank = self.latest["effective_rank"]
            collapsed = spread < self.std_threshold or rank < self.rank_threshold
            self._note(
                "collapse",
                collapsed,
                f"step {step}: the embeddings collapse to (almost) one point or direction: spread {spread:.3f} of 1 "
                f"(std {self.latest['std']:.4f}), effective rank {rank:.2f} of {min(*views[0].shape, MAX_ROWS)}. Try a lower "
                "learning rate with warmup, "
                + ("a temperature between 0.1 and 0.5, a larger batch (more negatives), " if has_negatives else "")
                + "batch norm in the projection head, or stronger augmentation.",
            )
        if guess is not None and views:
            chance = guess(len(views[0]) * world_size, len(views))
        else:
            chance = chance_loss(views, joint, world_size) if has_negatives else None
        if chance is not None:
            # a collapsed model guesses, too; one warning is enough
            self._note(
                "chance",
                not collapsed and abs(loss - chance) <= self.chance_tolerance * chance,
                f"step {step}: the loss has stayed at {loss:.3f}, the level of guessing (ln {round(math.exp(chance))} = "
                f"{chance:.3f}), for {self.patience} looks: nothing is being learned yet. Try a higher learning rate or "
                "longer warmup, a lower temperature, and check that the two views show the same sample and that the "
                "inputs are scaled as the model expects.",
            )
        return self.latest

    def _note(self, kind: str, present: bool, message: str) -> None:
        self.counts[kind] = self.counts[kind] + 1 if present else 0
        if self.counts[kind] >= self.patience and kind not in self.warned:
            self.warned.append(kind)
            warnings.warn(message, CollapseWarning)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to log and warn as the uninterrupted one."""
        return {"latest": dict(self.latest), "counts": dict(self.counts), "warned": list(self.warned)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`."""
        self.latest, self.counts = dict(state["latest"]), dict(state["counts"])
        self.warned = list(state["warned"])


def describe_non_finite(
    model: nn.Module, inputs: Mapping[str, Any] | None, outputs: Mapping[str, Any] | None
) -> list[str]:
    """Names of everything that holds NaN or infinity: inputs, loss terms and embeddings, parameters, buffers, gradients.

    Args:
        model (`torch.nn.Module`): the model.
        inputs, outputs (`Mapping`, *optional*): of the step at hand.

    Returns:
        `list[str]`: for example `["input pixel_values (3 of 512 numbers)", "output loss"]`.
    """
    named: list[tuple[str, Any]] = [(f"input {name}", value) for name, value in (inputs or {}).items()]
    named += [(f"output {name}", value) for name, value in (outputs or {}).items()]
    named += [(f"parameter {name}", value) for name, value in model.named_parameters()]
    named += [(f"buffer {name}", value) for name, value in model.named_buffers()]
    named += [(f"gradient of {name}", value.grad) for name, value in model.named_parameters()]
    found = []
    for name, value in named:
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            bad = int((~torch.isfinite(value.detach())).sum())
            if bad:
                found.append(name if value.numel() == 1 else f"{name} ({bad} of {value.numel()} numbers)")
    return found


def unclipped_norm(accelerator: Any, model: torch.nn.Module, grad_norm: Any = None) -> Any:
    """The norm of the gradient where it is not clipped; Trainer's own way multiplies every gradient by 1 for it.

    Args:
        accelerator (`accelerate.Accelerator`): of the run.
        model (`torch.nn.Module`): after its backward pass.
        grad_norm (*optional*): the norm where it is known, which is returned.

    Returns:
        `Tensor`, a scalar; or None where Trainer has to find it (sharded or scaled gradients).
    """
    if grad_norm is not None or accelerator.scaler is not None or accelerator.distributed_type not in _WHOLE_GRADIENTS:
        return grad_norm
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    if any(type(gradient) is not torch.Tensor or gradient.is_sparse for gradient in gradients):
        return None
    return torch.nn.utils.get_total_norm(gradients)


def non_finite_message(what: str, step: int, found: list[str]) -> str:
    """The text of a `NonFiniteLossError`: what happened at which step, where, and what to try."""
    places = "; ".join(found[:8]) + (f"; and {len(found) - 8} more" if len(found) > 8 else "")
    if any(text.startswith("input") or ": input" in text for text in found):
        advice = "The data itself is not finite: look at these rows and at the transform."
    elif any("parameter" in text for text in found):
        advice = "The weights were already broken: resume from an earlier checkpoint with a lower learning rate."
    else:
        advice = "Try a lower learning rate, longer warmup, a smaller max_grad_norm or a higher temperature; with fp16, bf16."
    return (
        f"{what} is not finite at step {step}; not finite: {places or 'nothing else'}. Training stops before this step "
        f"changes the weights; the last checkpoint is untouched. {advice}"
    )
