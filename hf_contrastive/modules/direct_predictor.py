"""Predictors that are set from the statistics of their inputs instead of being trained, and those statistics."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import initialization as init

from hf_contrastive.distributed import all_reduce_sum, broadcast_from_first
from hf_contrastive.losses._engine import accumulation_dtype
from hf_contrastive.modules.training_state import TrainingState


BALANCE_TYPES = ("boost_scale", "direct", "shrink2mean", "clamp")
#: no eigenvalue of a predictor with `boost_scale` is smaller (published code)
SMALLEST_EIGENVALUE = 1e-4


@torch.no_grad()
def direct_set_weight(
    correlation: torch.Tensor,
    *,
    power: float = 2.0,
    eps: float = 0.01,
    eps_inside: bool = False,
    balance_type: str = "boost_scale",
    reg: float | None = None,
    diagonal_only: bool = False,
) -> torch.Tensor:
    """The predictor that belongs to the correlation of its inputs (DirectPred, https://arxiv.org/abs/2102.06810, section
    4, in the scale of the published code; the general power is DirectSet's, https://arxiv.org/abs/2110.04947).

    With F = U diag(s) U^T the predictor is U diag(p) U^T. `boost_scale`: p_j = (max(s_j, 0) / max s)^(1/power) + eps, at
    least 1e-4; with `eps_inside` p_j = max(s_j / max s + eps, 1e-4)^(1/power). `direct`: p_j = max(s_j, 0)^(1/power) + eps.
    `shrink2mean`: halfway to the mean eigenvalue. `clamp`: s_j cut to [0, 1 - reg].

    Args:
        correlation (`torch.Tensor` `[dim, dim]`): F, taken as symmetric.
        power (`float`, defaults to 2.0): c, above 0; 2 is DirectPred's square root, 1 the linear law.
        eps (`float`, defaults to 0.01): lifts small eigenvalues; may be negative.
        eps_inside (`bool`, defaults to `False`): add eps before the root.
        balance_type (`str`, defaults to `"boost_scale"`): `boost_scale`, `direct`, `shrink2mean` or `clamp`.
        reg (`float`, *optional*): `boost_scale` multiplies all p by 1 - reg, `clamp` cuts there.
        diagonal_only (`bool`, defaults to `False`): use the diagonal of F with U = I.

    Returns:
        `torch.Tensor` `[dim, dim]`: float32 (float64 for float64 input), also under autocast.

    Raises:
        ValueError: `correlation` is not square, or an unknown `balance_type`.
        RuntimeError: no eigenvalue is above 0: all inputs of the predictor are zero.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.modules.direct_predictor import direct_set_weight
    >>> direct_set_weight(torch.diag(torch.tensor([4.0, 1.0])), eps=0.0)
    tensor([[1.0000, 0.0000],
            [0.0000, 0.5000]])

    ```
    """
    check_square(correlation)
    if balance_type not in BALANCE_TYPES:
        raise ValueError(f"`balance_type` is {balance_type!r}, but it must be one of {', '.join(BALANCE_TYPES)}.")
    with torch.autocast(correlation.device.type, enabled=False):
        matrix = correlation.to(accumulation_dtype(correlation.dtype))
        if diagonal_only:
            values, vectors = matrix.diagonal(), None
        else:
            values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
        if balance_type == "boost_scale":
            largest = values.max()
            if not float(largest) > 0:
                raise RuntimeError(
                    "the largest eigenvalue of the predictor's running correlation is "
                    f"{float(largest):.3g}: the projections have collapsed to zero, and no predictor belongs to them. Try "
                    "a lower learning rate, less weight decay, or batch norm in the projection head."
                )
            values = values.clamp(min=0) / largest
            if eps_inside:
                values = (values + eps).clamp(min=SMALLEST_EIGENVALUE).pow(1 / power)
            else:
                values = (values.pow(1 / power) + eps).clamp(min=SMALLEST_EIGENVALUE)
            values = values * (1 - (reg or 0))
        elif balance_type == "direct":
            values = values.clamp(min=0).pow(1 / power) + eps
        elif balance_type == "shrink2mean":
            values = (values + values.mean()) / 2
        else:
            values = values.clamp(min=0, max=1 - (reg or 0))
        return torch.diag(values) if vectors is None else (vectors * values) @ vectors.T


@torch.no_grad()
def direct_copy_weight(correlation: torch.Tensor, *, eps: float = 0.01) -> torch.Tensor:
    """DirectCopy's predictor F + eps I, without eigendecomposition (https://arxiv.org/abs/2110.04947, in the scale of the
    published code: eps is absolute).

    Args:
        correlation (`torch.Tensor` `[dim, dim]`): F.
        eps (`float`, defaults to 0.01): added to every eigenvalue.

    Returns:
        `torch.Tensor` `[dim, dim]`.

    Raises:
        ValueError: `correlation` is not square.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.modules.direct_predictor import direct_copy_weight
    >>> direct_copy_weight(torch.eye(2), eps=0.5).diagonal()
    tensor([1.5000, 1.5000])

    ```
    """
    check_square(correlation)
    return correlation + eps * torch.eye(len(correlation), dtype=correlation.dtype, device=correlation.device)


def check_square(matrix: torch.Tensor) -> None:
    """Refuse what is no square matrix.

    Args:
        matrix (`torch.Tensor`): should be `[dim, dim]`.

    Raises:
        ValueError: says what it is and what to do.
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(
            f"the correlation has shape {list(matrix.shape)}, but a predictor is set from a square matrix [dim, dim]: "
            "its inputs and outputs have the size of the projections."
        )


class RunningCorrelation(TrainingState):
    """Second moment and mean of a predictor's inputs over the training, each a moving average over the steps.

    With C the mean of z z^T over all rows of a step (not centred, not normalised, of all processes and of all micro-batches
    of an accumulated step), F is C after the first step and then rho F + (1 - rho) C
    (https://arxiv.org/abs/2102.06810, equation 19). Rows are staged in the forward pass and counted after the optimiser
    step, so that a repeated or skipped forward changes nothing.

    Args:
        dim (`int`): size of the inputs.
        rho (`float`, *optional*): weight of the old value, from 0 to below 1; `None` = the plain average of all steps.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.modules.direct_predictor import RunningCorrelation
    >>> running = RunningCorrelation(dim=2, rho=0.5)
    >>> for rows in (torch.eye(2), 3 * torch.eye(2)):
    ...     running.stage(rows)
    ...     running.after_step(None)
    >>> running.second_moment
    tensor([[2.5000, 0.0000],
            [0.0000, 2.5000]])

    ```
    """

    second_moment: torch.Tensor
    mean: torch.Tensor
    num_updates: torch.Tensor

    def __init__(self, dim: int, rho: float | None = 0.3) -> None:
        super().__init__()
        self.rho = rho
        self.register_buffer("second_moment", torch.zeros(dim, dim))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.long))
        # sum of z z^T, sum of z, number of rows since the last optimiser step
        self._staged: tuple[torch.Tensor, torch.Tensor, int] | None = None
        self._updated = False

    @torch.no_grad()
    def init_state(self, model: Any) -> None:
        """Nothing seen yet, where the checkpoint brought nothing."""
        for buffer in (self.second_moment, self.mean, self.num_updates):
            init.zeros_(buffer)

    @torch.no_grad()
    def stage(self, rows: torch.Tensor) -> None:
        """Remember the inputs of a batch for the end of the optimiser step.

        Args:
            rows (`torch.Tensor` `[rows, dim]`): of this process, all views.
        """
        with torch.autocast(rows.device.type, enabled=False):
            rows = rows.detach().to(accumulation_dtype(rows.dtype))
            staged = (rows.T @ rows, rows.sum(0), len(rows))
        if self._staged is not None:
            before = self._staged
            staged = (before[0] + staged[0], before[1] + staged[1], before[2] + staged[2])
        self._staged = staged

    @torch.no_grad()
    def after_step(self, model: Any) -> None:
        """Count what was staged, of all processes.

        Raises:
            FloatingPointError: it is not finite; the state stays as it was.
        """
        self._updated = self._staged is not None
        if self._staged is None:
            return
        outer, total, rows = self._staged
        self._staged = None
        # one message for all three
        joined = torch.cat([outer.flatten(), total, total.new_tensor([float(rows)])])
        joined = all_reduce_sum(joined)
        joined = joined[:-1] / joined[-1]
        if not bool(torch.isfinite(joined).all()):
            raise FloatingPointError(
                f"the running correlation is not finite at step {int(self.num_updates) + 1} (loss diverged or features "
                "overflowed). Resume from an earlier checkpoint with a lower learning rate; with fp16, use bf16."
            )
        second_moment, mean = joined[: -len(total)].view_as(outer), joined[-len(total) :]
        self.num_updates += 1
        seen = int(self.num_updates)
        old = 0.0 if seen == 1 else (seen - 1) / seen if self.rho is None else self.rho
        for buffer, new in ((self.second_moment, second_moment), (self.mean, mean)):
            buffer.copy_(old * buffer.to(new.dtype) + (1 - old) * new)

    def is_due(self, freq: int) -> bool:
        """Whether the step that just ended changed the statistics and is one of every `freq`, the first one included.

        Args:
            freq (`int`): 1 or more.
        """
        return self._updated and (int(self.num_updates) - 1) % freq == 0

    def correlation(self, zero_mean: bool = False) -> torch.Tensor:
        """F.

        Args:
            zero_mean (`bool`, defaults to `False`): subtract the product of the running mean with itself.

        Returns:
            `torch.Tensor` `[dim, dim]`: a copy.
        """
        return self.second_moment - torch.outer(self.mean, self.mean) if zero_mean else self.second_moment.clone()

    def extra_repr(self) -> str:
        return f"dim={len(self.mean)}, rho={self.rho}"


class _SetWeight:
    """A square weight that is overwritten after the optimiser step, from the model's `running_correlation`."""

    weight: torch.Tensor
    freq: int
    options: dict[str, Any]

    @torch.no_grad()
    def after_step(self, model: Any) -> None:
        """Overwrite the weight, where this step is due; alike on all processes."""
        running: RunningCorrelation = model.running_correlation
        if not running.is_due(self.freq):
            return
        options = dict(self.options)
        correlation = running.correlation(options.pop("zero_mean"))
        copy = options.pop("copy")
        weight = direct_copy_weight(correlation, **options) if copy else direct_set_weight(correlation, **options)
        if weight.shape != self.weight.shape:
            raise ValueError(
                f"the predictor has a weight of shape {list(self.weight.shape)}, but its inputs give one of "
                f"{list(weight.shape)}: it must be square, of the size of the projections."
            )
        # signs and order of eigenvectors may differ between machines, so that one process decides
        self.weight.copy_(broadcast_from_first(weight.to(self.weight.dtype)))


class SetPredictor(_SetWeight, TrainingState):
    """A linear predictor without bias that is set after every step and never trained: no gradient, no optimiser state.

    Args:
        dim (`int`): size of inputs and outputs.
        zero_mean (`bool`, defaults to `False`): use the centred correlation.
        copy (`bool`, defaults to `False`): [`direct_copy_weight`] instead of [`direct_set_weight`].
        **options: of that function.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.modules.direct_predictor import RunningCorrelation, SetPredictor
    >>> model = torch.nn.Module()
    >>> model.running_correlation, model.predictor = RunningCorrelation(dim=2), SetPredictor(dim=2, eps=0.0)
    >>> model.running_correlation.stage(torch.tensor([[4.0, 0.0], [0.0, 1.0]]))
    >>> model.running_correlation.after_step(model)
    >>> model.predictor.after_step(model)
    >>> model.predictor.weight
    tensor([[1.0000, 0.0000],
            [0.0000, 0.2500]])

    ```
    """

    freq = 1

    def __init__(self, dim: int, *, zero_mean: bool = False, copy: bool = False, **options: Any) -> None:
        super().__init__()
        self.options = {"zero_mean": zero_mean, "copy": copy, **options}
        self.register_buffer("weight", torch.empty(dim, dim))
        self.init_state(None)

    @torch.no_grad()
    def init_state(self, model: Any) -> None:
        """Random, as a linear layer starts, where the checkpoint brought nothing."""
        # the bound of torch.nn.Linear
        bound = len(self.weight) ** -0.5
        init.uniform_(self.weight, -bound, bound)

    def forward(self, projections: torch.Tensor) -> torch.Tensor:
        """Predict.

        Args:
            projections (`torch.Tensor` `[batch, dim]`): of the online network.

        Returns:
            `torch.Tensor` `[batch, dim]`.
        """
        return nn.functional.linear(projections, self.weight)


class PeriodicallySetPredictor(_SetWeight, nn.Linear):
    """A linear predictor without bias that is trained, and set after every `freq`-th step, the first one included.

    Args:
        dim (`int`): size of inputs and outputs.
        freq (`int`): k, 1 or more.
        zero_mean (`bool`, defaults to `False`): use the centred correlation.
        copy (`bool`, defaults to `False`): [`direct_copy_weight`] instead of [`direct_set_weight`].
        **options: of that function.
    """

    def __init__(self, dim: int, freq: int, *, zero_mean: bool = False, copy: bool = False, **options: Any) -> None:
        super().__init__(dim, dim, bias=False)
        self.freq = freq
        self.options = {"zero_mean": zero_mean, "copy": copy, **options}


class SymmetricPredictor(nn.Linear):
    """A trained linear predictor without bias that is made symmetric after every step: W <- (W + W^T) / 2.

    Args:
        dim (`int`): size of inputs and outputs.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim, bias=False)

    @torch.no_grad()
    def after_step(self, model: Any) -> None:
        """Make the weight symmetric."""
        self.weight.copy_((self.weight + self.weight.T) / 2)


__all__ = [
    "BALANCE_TYPES",
    "PeriodicallySetPredictor",
    "RunningCorrelation",
    "SetPredictor",
    "SymmetricPredictor",
    "direct_copy_weight",
    "direct_set_weight",
]
