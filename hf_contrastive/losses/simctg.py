"""The contrastive loss of SimCTG: tokens of one text get hidden states that can be told apart."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hf_contrastive.distributed import all_reduce_sum, get_world_size


def _mean_over_processes(total: Tensor, count: Tensor, gather: bool) -> Tensor:
    """`total / count`; over all processes, this one's share times their number, of which the mean is the joint mean."""
    if not gather:
        return total / count.clamp_min(1)
    return total * get_world_size() / all_reduce_sum(count).clamp_min(1)


def next_token_loss(logits: Tensor, labels: Tensor, gather: bool = False) -> Tensor:
    """
    Mean cross-entropy of the next token: the logits of a position against the label of the position after it.

    Args:
        logits (`Tensor` of shape `[batch, length, vocabulary]`): of a causal language model.
        labels (`Tensor` of shape `[batch, length]`): the tokens themselves, not shifted; -100 is not predicted.
        gather (`bool`, defaults to `False`): the mean is over the tokens of all processes. The value here is this process'
            sum over their joint mean count, so that averaged gradients are those of one process on the whole batch.

    Returns:
        `Tensor`: a scalar in nats, in float32 (float64 for float64 logits); 0 when nothing is predicted.

    Raises:
        ValueError: for shapes that do not fit.

    Example:

        >>> import torch
        >>> from hf_contrastive.losses import next_token_loss
        >>> round(float(next_token_loss(torch.zeros(1, 3, 8), torch.tensor([[1, 2, 3]]))), 4)  # log(8)
        2.0794
    """
    if logits.dim() != 3 or labels.shape != logits.shape[:2]:
        raise ValueError(
            f"`logits` {list(logits.shape)} and `labels` {list(labels.shape)} must be [batch, length, vocabulary] and "
            "[batch, length]."
        )
    targets = labels[:, 1:].flatten()
    scores = logits[:, :-1].flatten(0, 1)
    scores = scores if scores.dtype == torch.float64 else scores.float()
    total = F.cross_entropy(scores, targets, ignore_index=-100, reduction="sum")
    return _mean_over_processes(total, (targets != -100).sum(), gather)


def simctg_loss(
    last_hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    margin: float = 0.5,
    gather: bool = False,
) -> Tensor:
    """
    Token-level contrastive loss of SimCTG (Su et al. 2022, https://arxiv.org/abs/2202.06417, equation 2).

    For every ordered pair of positions i != j of a text, with cosine s, the hinge

        max(0, margin - s(h_i, h_i) + s(h_i, h_j))

    averaged over all such pairs of the batch (pairs are pooled, as in the official code: a long text weighs more).

    Args:
        last_hidden_states (`Tensor` of shape `[batch, length, dim]`): the states that feed the output matrix.
        attention_mask (`Tensor` of shape `[batch, length]`, *optional*): 0 for padding, on either side; all positions
            count without it.
        margin (`float`, defaults to 0.5): from -1 to 1; at 0 nothing is asked for beyond what cosines always satisfy.
        gather (`bool`, defaults to `False`): the mean is over the pairs of all processes, as in [`next_token_loss`].

    Returns:
        `Tensor`: a scalar in float32 (float64 for float64 states); 0 when no text has two positions.

    Raises:
        ValueError: for shapes that do not fit and a margin outside [-1, 1].

    Example:

        >>> import torch
        >>> from hf_contrastive.losses import simctg_loss
        >>> float(simctg_loss(torch.ones(1, 3, 4)))  # all states alike: every pair costs the margin
        0.5
    """
    if last_hidden_states.dim() != 3 or not last_hidden_states.is_floating_point():
        raise ValueError(
            f"`last_hidden_states` must be floating point of shape [batch, length, dim], got "
            f"{last_hidden_states.dtype} {list(last_hidden_states.shape)}."
        )
    if isinstance(margin, bool) or not isinstance(margin, (int, float)) or not -1 <= margin <= 1:
        raise ValueError(f"`margin` is {margin!r}, but it must be a number from -1 to 1; SimCTG uses 0.5.")
    shape = last_hidden_states.shape[:2]
    if attention_mask is not None and attention_mask.shape != shape:
        raise ValueError(
            f"`attention_mask` must have shape {list(shape)} like the states, got {list(attention_mask.shape)}."
        )
    hidden = last_hidden_states
    hidden = hidden if hidden.dtype == torch.float64 else hidden.float()
    # autocast would multiply in half precision
    with torch.autocast(hidden.device.type, enabled=False):
        unit = F.normalize(hidden, dim=-1)
        cosines = unit @ unit.transpose(1, 2)
    hinge = (margin - cosines.diagonal(dim1=1, dim2=2).unsqueeze(2) + cosines).clamp_min(0)
    valid = (
        torch.ones(shape, dtype=torch.bool, device=hidden.device) if attention_mask is None else attention_mask.bool()
    )
    pairs = valid[:, :, None] & valid[:, None, :]
    pairs &= ~torch.eye(shape[1], dtype=torch.bool, device=hidden.device)
    return _mean_over_processes(hinge.masked_fill(~pairs, 0).sum(), pairs.sum(), gather)


class SimCTGLoss(nn.Module):
    """
    [`simctg_loss`] as a module.

    Args:
        margin (`float`, defaults to 0.5): as in [`simctg_loss`].
        gather (`bool`, defaults to `False`): as in [`simctg_loss`].

    Example:

        >>> import torch
        >>> from hf_contrastive.losses import SimCTGLoss
        >>> float(SimCTGLoss(margin=-1.0)(torch.ones(1, 3, 4)))
        0.0
    """

    def __init__(self, margin: float = 0.5, gather: bool = False) -> None:
        super().__init__()
        simctg_loss(torch.zeros(1, 1, 1), margin=margin)  # refuses a bad margin now and not in the first step
        self.margin, self.gather = margin, gather

    def forward(self, last_hidden_states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return simctg_loss(last_hidden_states, attention_mask, self.margin, self.gather)

    def extra_repr(self) -> str:
        return f"margin={self.margin}, gather={self.gather}"


__all__ = ["SimCTGLoss", "next_token_loss", "simctg_loss"]
