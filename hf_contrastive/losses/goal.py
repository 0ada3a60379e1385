"""The contrastive loss of goal-conditioned reward models: states on the way to a good answer resemble its later states."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_contrastive.distributed import all_gather_with_grad


STRATEGIES = ("cosine", "cosine_avg")


class GoalLoss(NamedTuple):
    """What [`goal_contrastive_loss`] returns.

    Args:
        loss (`Tensor`, scalar): the loss, not yet multiplied with the weight beta.
        pos_sim, neg_sim (`Tensor`, scalar, without gradient): mean cosine of the positive and of the negative pairs.
    """

    loss: Tensor
    pos_sim: Tensor
    neg_sim: Tensor


def goal_state_index(
    draws: Tensor, num_actions: Tensor, percentile: float = 0.0, lengths: Tensor | int | None = None
) -> Tensor:
    """
    Places in an answer that uniform draws stand for, counted from the end (official sampling of
    https://arxiv.org/abs/2407.13887).

        fraction = (percentile - 1) * u + 1,   index = -min(floor(fraction * n + 1), length - 1)

    so that -1 is the end-of-text token and -(n + 1) the first token of the answer. A percentile above 0 keeps the places
    at fractions above it: the earlier 1 - percentile of the answer.

    Args:
        draws (`Tensor` of shape `[batch, ...]`): uniform in [0, 1).
        num_actions (`Tensor` of shape `[batch]`): tokens of the answer, without the end-of-text token.
        percentile (`float`, defaults to 0): from 0 to 1.
        lengths (`Tensor` of shape `[batch]` or `int`, *optional*): tokens of the whole sequence; without padding, an index
            never leaves the text. No limit without it.

    Returns:
        `LongTensor` of the shape of `draws`, negative.

    Raises:
        ValueError: a percentile outside [0, 1], or shapes that do not fit.

    Example:

        >>> import torch
        >>> from hf_contrastive.losses import goal_state_index
        >>> goal_state_index(torch.tensor([[0.0, 0.5, 0.999]]), torch.tensor([10]))
        tensor([[-11,  -6,  -1]])
    """
    if not 0 <= percentile <= 1:
        raise ValueError(f"`percentile` is {percentile!r}, but it must be a number from 0 to 1.")
    if num_actions.dim() != 1 or draws.dim() < 1 or len(draws) != len(num_actions):
        raise ValueError(
            f"`draws` {list(draws.shape)} and `num_actions` {list(num_actions.shape)} must be [batch, ...] and [batch]."
        )
    shape = [len(draws)] + [1] * (draws.dim() - 1)
    fraction = (percentile - 1) * draws + 1
    places = torch.floor(fraction * num_actions.to(draws.dtype).view(shape) + 1)
    if lengths is not None:
        limit = torch.as_tensor(lengths, device=places.device).to(places.dtype) - 1
        places = torch.minimum(places, (limit.view(shape) if limit.dim() else limit).clamp_min(1))
    return -places.long()


def sorted_goal_draws(draws: Tensor) -> tuple[Tensor, Tensor]:
    """
    Draws of the positive pairs as the official code uses them: the smaller of two is the source, the larger the goal, so
    that the i-th source (with equal percentiles) never comes after the i-th goal.

    Args:
        draws (`Tensor` of shape `[batch, 2, pairs]`): uniform in [0, 1).

    Returns:
        `(source, goal)`: each `[batch, pairs]`.

    Raises:
        ValueError: another shape.

    Example:

        >>> import torch
        >>> from hf_contrastive.losses.goal import sorted_goal_draws
        >>> [part.tolist() for part in sorted_goal_draws(torch.tensor([[[0.75], [0.5]]]))]
        [[[0.5]], [[0.75]]]
    """
    if draws.dim() != 3 or draws.shape[1] != 2:
        raise ValueError(f"draws of positive pairs have shape {list(draws.shape)}, expected [batch, 2, pairs].")
    source, goal = draws.sort(dim=1).values.unbind(1)
    return source, goal


def goal_contrastive_loss(
    source_states: Tensor,
    goal_states: Tensor,
    negative_source_states: Tensor,
    negative_goal_states: Tensor,
    *,
    strategy: str = "cosine",
    source_index: Tensor | None = None,
    goal_index: Tensor | None = None,
    future_only: bool = False,
    per_sample: bool = False,
    gather: bool = False,
) -> GoalLoss:
    """
    Binary contrast of states of answers (https://arxiv.org/abs/2407.13887, as in the official code).

        P = mean of sigmoid(cos(h_source, h_goal)) over samples and all pairs of their states
        N = mean of sigmoid(cos(h_negative source, h_negative goal))
        loss = -log P - log(1 - N)

    The cosine has no temperature, so the sigmoid stays between 0.269 and 0.731 and the loss between about 0.63 and 2.63.
    The means come before the logarithms, over the whole batch; samples are coupled, and the loss depends on the batch.

    Args:
        source_states, goal_states (`Tensor` of shape `[batch, S, dim]`): states of the preferred answer.
        negative_source_states, negative_goal_states (`Tensor` of shape `[batch, U, dim]`): states of the preferred answer,
            and of the one that is not.
        strategy (`str`, defaults to `"cosine"`): `"cosine_avg"` averages the goal states of a sample first.
        source_index, goal_index (`Tensor` of shape `[batch, S]`, *optional*): where the states stand; needed by
            `future_only`.
        future_only (`bool`, defaults to `False`): leave out positive pairs whose goal stands before the source. The paper
            asks for future states; the official code takes all pairs.
        per_sample (`bool`, defaults to `False`): take the logarithms per sample and average them afterwards; then samples do
            not depend on each other.
        gather (`bool`, defaults to `False`): the means are over the samples of all processes.

    Returns:
        [`GoalLoss`], in float32 (float64 for float64 states).

    Raises:
        ValueError: shapes that do not fit, an unknown strategy, or `future_only` without the indices.

    Example:

        >>> import torch
        >>> from hf_contrastive.losses import goal_contrastive_loss
        >>> states = torch.ones(2, 3, 4)
        >>> round(float(goal_contrastive_loss(states, states, states, -states).loss), 4)
        0.6265
    """
    sums = goal_pair_sums(
        source_states,
        goal_states,
        negative_source_states,
        negative_goal_states,
        strategy=strategy,
        source_index=source_index,
        goal_index=goal_index,
        future_only=future_only,
    )
    return goal_loss_of_sums(all_gather_with_grad(sums) if gather else sums, per_sample=per_sample)


def goal_pair_sums(
    source_states: Tensor,
    goal_states: Tensor,
    negative_source_states: Tensor,
    negative_goal_states: Tensor,
    *,
    strategy: str = "cosine",
    source_index: Tensor | None = None,
    goal_index: Tensor | None = None,
    future_only: bool = False,
) -> Tensor:
    """
    The part of [`goal_contrastive_loss`] that treats every sample on its own.

    Args:
        source_states, ..., future_only: as for [`goal_contrastive_loss`].

    Returns:
        `Tensor` of shape `[batch, 5]` for [`goal_loss_of_sums`]: sum of the sigmoids of the positive pairs, number of these
        pairs, mean sigmoid of the negative pairs, sum of the cosines of the positive pairs, mean cosine of the negative.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"`strategy` is {strategy!r}, but it must be one of {', '.join(STRATEGIES)}.")
    shapes = [list(s.shape) for s in (source_states, goal_states, negative_source_states, negative_goal_states)]
    if any(len(shape) != 3 for shape in shapes) or len({(shape[0], shape[2]) for shape in shapes}) > 1:
        raise ValueError(f"states must be [batch, states, dim] with one batch and dim, got {shapes}.")
    later = None
    if future_only:
        if source_index is None or goal_index is None:
            raise ValueError("`future_only` needs `source_index` and `goal_index`, the places of the states.")
        later = goal_index[:, None, :] >= source_index[:, :, None]
    positive = _cosines(source_states, goal_states, strategy, later)
    negative = _cosines(negative_source_states, negative_goal_states, strategy, None)
    weights = torch.ones_like(positive)
    if later is not None:
        # with averaged goals, a source without any later goal has no pair
        weights = (later if strategy == "cosine" else later.any(2, keepdim=True)).to(positive.dtype)
    return torch.stack(
        [
            (positive.sigmoid() * weights).sum((1, 2)),
            weights.sum((1, 2)),
            negative.sigmoid().mean((1, 2)),
            (positive.detach() * weights).sum((1, 2)),
            negative.detach().mean((1, 2)),
        ],
        dim=1,
    )


def goal_loss_of_sums(sums: Tensor, per_sample: bool = False) -> GoalLoss:
    """
    The loss of samples that [`goal_pair_sums`] has summed up.

    Args:
        sums (`Tensor` of shape `[batch, 5]`): of all samples that the means go over.
        per_sample (`bool`, defaults to `False`): as for [`goal_contrastive_loss`].

    Returns:
        [`GoalLoss`].
    """
    if sums.dim() != 2 or sums.shape[1] != 5 or not len(sums):
        raise ValueError(f"`sums` has shape {list(sums.shape)}, expected [batch, 5] of at least one sample.")
    positive_sum, pairs, far, positive_cosine, negative_cosine = sums.unbind(1)
    pairs = pairs.detach()
    if per_sample:
        has_pair = (pairs > 0).to(pairs.dtype)
        near = positive_sum / pairs.clamp_min(1)
        first = -(near.clamp_min(torch.finfo(near.dtype).tiny).log() * has_pair).sum() / has_pair.sum().clamp_min(1)
        loss = first - (1 - far).log().mean()
    else:
        loss = -(positive_sum.sum() / pairs.sum().clamp_min(1)).log() - (1 - far.mean()).log()
    pos_sim = positive_cosine.detach().sum() / pairs.sum().clamp_min(1)
    return GoalLoss(loss, pos_sim, negative_cosine.detach().mean())


def _cosines(source: Tensor, goal: Tensor, strategy: str, later: Tensor | None) -> Tensor:
    """`[batch, sources, goals]`; `[batch, sources, 1]` with averaged goals."""
    if source.dtype != torch.float64:  # half precision has too few digits for a cosine
        source, goal = source.float(), goal.float()
    with torch.autocast(source.device.type, enabled=False):
        source = F.normalize(source, dim=-1)
        if strategy == "cosine":
            return source @ F.normalize(goal, dim=-1).transpose(1, 2)
        if later is None:
            goal = goal.mean(1, keepdim=True)
        else:
            chosen = later.to(goal.dtype)
            goal = chosen @ goal / chosen.sum(2, keepdim=True).clamp_min(1)
        return (source * F.normalize(goal, dim=-1)).sum(2, keepdim=True)


def goal_contrastive_loss_at(
    chosen_hidden: Tensor,
    rejected_hidden: Tensor,
    source_index: Tensor,
    goal_index: Tensor,
    negative_source_index: Tensor,
    negative_goal_index: Tensor,
    **options: object,
) -> GoalLoss:
    """
    [`goal_contrastive_loss`] of whole sequences of hidden states, at given places.

    Args:
        chosen_hidden, rejected_hidden (`Tensor` of shape `[batch, length, dim]`): last hidden states, padded on the left.
        source_index, goal_index (`LongTensor` of shape `[batch, S]`): places in the preferred answer, from the end or the
            start of the row.
        negative_source_index, negative_goal_index (`LongTensor` of shape `[batch, U]`): places in the preferred answer, and
            in the other one.
        **options: as for [`goal_contrastive_loss`].

    Returns:
        [`GoalLoss`].

    Example:

        >>> import torch
        >>> from hf_contrastive.losses import goal_contrastive_loss_at
        >>> hidden = torch.ones(1, 4, 2)
        >>> last = torch.tensor([[-1]])
        >>> round(float(goal_contrastive_loss_at(hidden, hidden, last, last, last, last).pos_sim), 4)
        1.0
    """
    rows = torch.arange(len(chosen_hidden), device=chosen_hidden.device)[:, None]
    return goal_contrastive_loss(
        chosen_hidden[rows, source_index],
        chosen_hidden[rows, goal_index],
        chosen_hidden[rows, negative_source_index],
        rejected_hidden[rows, negative_goal_index],
        source_index=source_index,
        goal_index=goal_index,
        **options,  # ty: ignore[invalid-argument-type]
    )


class GoalContrastiveLoss(nn.Module):
    """
    [`goal_contrastive_loss`] as a module, multiplied with its weight.

    Args:
        beta (`float`, defaults to 0.5): weight (the paper's lambda).
        strategy, future_only, per_sample, gather: as in [`goal_contrastive_loss`].

    Example:

        >>> import torch
        >>> from hf_contrastive.losses import GoalContrastiveLoss
        >>> states = torch.ones(2, 3, 4)
        >>> round(float(GoalContrastiveLoss(beta=0.5)(states, states, states, -states)), 4)
        0.3133
    """

    def __init__(
        self,
        beta: float = 0.5,
        strategy: str = "cosine",
        future_only: bool = False,
        per_sample: bool = False,
        gather: bool = False,
    ) -> None:
        super().__init__()
        if strategy not in STRATEGIES:
            raise ValueError(f"`strategy` is {strategy!r}, but it must be one of {', '.join(STRATEGIES)}.")
        if not beta >= 0:
            raise ValueError(f"`beta` is {beta!r}, but it must be a number of 0 or more.")
        self.beta, self.strategy = beta, strategy
        self.future_only, self.per_sample, self.gather = future_only, per_sample, gather

    def forward(
        self,
        source_states: Tensor,
        goal_states: Tensor,
        negative_source_states: Tensor,
        negative_goal_states: Tensor,
        source_index: Tensor | None = None,
        goal_index: Tensor | None = None,
    ) -> Tensor:
        found = goal_contrastive_loss(
            source_states,
            goal_states,
            negative_source_states,
            negative_goal_states,
            strategy=self.strategy,
            source_index=source_index,
            goal_index=goal_index,
            future_only=self.future_only,
            per_sample=self.per_sample,
            gather=self.gather,
        )
        return self.beta * found.loss

    def extra_repr(self) -> str:
        return f"beta={self.beta}, strategy={self.strategy!r}, future_only={self.future_only}, per_sample={self.per_sample}"


__all__ = [
    "GoalContrastiveLoss",
    "GoalLoss",
    "goal_contrastive_loss",
    "goal_contrastive_loss_at",
    "goal_loss_of_sums",
    "goal_pair_sums",
    "goal_state_index",
    "sorted_goal_draws",
]
