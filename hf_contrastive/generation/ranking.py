"""The rule of contrastive search: confidence of a token minus its likeness to what was said before."""

from __future__ import annotations

import torch
from torch import Tensor


# Hidden states shorter than this have no direction: their cosine with everything is 0.
_NORM_EPS = 1e-12


def unit_states(hidden: Tensor) -> Tensor:
    """Hidden states in float32 (float64 stays) of length 1; zero vectors stay zero, so that their cosine is 0."""
    hidden = hidden if hidden.dtype == torch.float64 else hidden.float()
    return hidden / torch.linalg.vector_norm(hidden, dim=-1, keepdim=True).clamp_min(_NORM_EPS)


def degeneration_penalty(candidates: Tensor, context: Tensor, left_out: Tensor | None = None) -> Tensor:
    """Largest cosine of every candidate with the states of its context.

    Args:
        candidates (`Tensor` `[batch, k, dim]`): unit states of the candidates.
        context (`Tensor` `[batch, length, dim]`): unit states of all positions before them.
        left_out (bool `Tensor` `[batch, length]`, *optional*): positions that do not count, for example padding.

    Returns:
        `Tensor` `[batch, k]`; 0 for a row without any position that counts.
    """
    if context.shape[1] == 0:
        return candidates.new_zeros(candidates.shape[:2])
    cosines = torch.bmm(candidates, context.transpose(1, 2))
    if left_out is None:
        return cosines.amax(-1)
    penalty = cosines.masked_fill_(left_out[:, None, :], -torch.inf).amax(-1)
    return penalty.masked_fill_(left_out.all(1, keepdim=True), 0.0)


def rank_candidates(
    context_hidden: Tensor,
    candidate_hidden: Tensor,
    candidate_probs: Tensor,
    alpha: float,
    context_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose among the candidates of one step (Su et al. 2022, https://arxiv.org/abs/2202.06417, equation 5).

        score(v) = (1 - alpha) * p(v | x) - alpha * max over j of cos(h_v, h_j)

    Args:
        context_hidden (`Tensor` `[batch, length, dim]`): last hidden states of all positions so far.
        candidate_hidden (`Tensor` `[batch, k, dim]`): last hidden state of each candidate appended to the context.
        candidate_probs (`Tensor` `[batch, k]`): their probabilities under the model, most likely first.
        alpha (`float`): weight of the penalty, from 0 (greedy) to 1.
        context_mask (`Tensor` `[batch, length]`, *optional*): 0 for positions that do not count (padding).

    Returns:
        `(selected [batch], penalty [batch, k], score [batch, k])`: the number of the chosen candidate (of equal scores
        the more likely one), the largest cosine, the score.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.generation import rank_candidates
    >>> context, candidates = torch.eye(2)[None, :1], torch.eye(2)[None]
    >>> rank_candidates(context, candidates, torch.tensor([[0.6, 0.4]]), alpha=0.5)[0].tolist()
    [1]

    ```
    """
    left_out = None if context_mask is None else ~context_mask.bool()
    penalty = degeneration_penalty(unit_states(candidate_hidden), unit_states(context_hidden), left_out)
    score = (1 - alpha) * candidate_probs - alpha * penalty
    return score.argmax(-1), penalty, score


class ContextStates:
    """Unit states of the positions so far, in one buffer that grows by doubling: nothing is normalised or copied twice.

    Args:
        hidden (`Tensor` `[batch, length, dim]`): last hidden states of the prompt.
        counts (`Tensor` `[batch, length]`, *optional*): 0 for positions that do not count; all count by default.
        capacity (`int`): positions to make room for at once.
    """

    def __init__(self, hidden: Tensor, counts: Tensor | None, capacity: int) -> None:
        unit = unit_states(hidden)
        self.length = unit.shape[1]
        self.states = unit.new_empty(unit.shape[0], max(capacity, self.length), unit.shape[2])
        self.states[:, : self.length] = unit
        self.left_out: Tensor | None = None
        if counts is not None and not bool(counts.bool().all()):
            self.left_out = torch.zeros(self.states.shape[:2], dtype=torch.bool, device=unit.device)
            self.left_out[:, : self.length] = ~counts.bool()

    def penalty(self, candidates: Tensor) -> Tensor:
        """[`degeneration_penalty`] of unit states `[batch, k, dim]`."""
        left_out = None if self.left_out is None else self.left_out[:, : self.length]
        return degeneration_penalty(candidates, self.states[:, : self.length], left_out)

    def append(self, unit: Tensor) -> None:
        """Add one unit state `[batch, dim]` to every row."""
        if self.length == self.states.shape[1]:
            self.states = torch.cat([self.states, torch.empty_like(self.states)], dim=1)
            if self.left_out is not None:
                self.left_out = torch.cat([self.left_out, torch.zeros_like(self.left_out)], dim=1)
        self.states[:, self.length] = unit
        self.length += 1


__all__ = ["ContextStates", "degeneration_penalty", "rank_candidates", "unit_states"]
