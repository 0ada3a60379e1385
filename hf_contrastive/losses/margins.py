"""Margins on the similarity of positives."""

from __future__ import annotations

import math

import torch
from torch import Tensor


MARGIN_TYPES = ("cosine", "angle")


def with_margin(cosine: Tensor, margin: float, margin_type: str = "cosine") -> Tensor:
    """
    The cosine of a positive pair as the objective sees it, with a margin m (InterCLR, https://arxiv.org/abs/2008.11702,
    section 3.4; the angle as in ArcFace, https://arxiv.org/abs/1801.07698). m above 0 asks for more likeness, m below 0 for less.

    - `"cosine"`: cos - m.
    - `"angle"`: cos(theta + m). Beyond the angle at which this would turn back it goes on in a straight line:
      for m > 0 and cos <= cos(pi - m) it is cos - m sin(pi - m), for m < 0 and cos >= cos(m) it is cos + m sin(m).

    Args:
        cosine (`Tensor`): similarities of unit rows.
        margin (`float`): m; an angle in radians, between -pi and pi.
        margin_type (`str`, defaults to `"cosine"`): one of `MARGIN_TYPES`.

    Returns:
        `Tensor` like `cosine`. Its gradient is finite at cosines of 1 and -1, too.

    Raises:
        ValueError: an unknown type, or an angle outside the range.

    Example:

        >>> import torch
        >>> from hf_contrastive.losses import with_margin
        >>> with_margin(torch.tensor([0.0, 0.5]), -0.5)
        tensor([0.5000, 1.0000])
    """
    check_margin(margin, margin_type)
    if margin == 0:
        return cosine
    if margin_type == "cosine":
        return cosine - margin
    # the slope of the root is infinite where sin is 0, for example for two equal embeddings: the bound, far below rounding,
    # makes it 0 there
    tiny = torch.finfo(cosine.dtype).eps ** 2
    sine = (1 - cosine.square()).clamp(tiny, 1).sqrt()
    turned = cosine * math.cos(margin) - sine * math.sin(margin)
    if margin < 0:
        return torch.where(cosine >= math.cos(margin), cosine + margin * math.sin(margin), turned)
    return torch.where(cosine <= math.cos(math.pi - margin), cosine - margin * math.sin(math.pi - margin), turned)


def check_margin(margin: float, margin_type: str, name: str = "margin") -> None:
    """Refuse an unknown type and an angle beyond half a turn.

    Args:
        margin (`float`), margin_type (`str`): as in [`with_margin`].
        name (`str`, defaults to `"margin"`): what the caller calls it.

    Raises:
        ValueError: names the argument, its value and what is allowed.
    """
    if margin_type not in MARGIN_TYPES:
        raise ValueError(f"`{name}_type` must be one of {', '.join(map(repr, MARGIN_TYPES))}, got {margin_type!r}.")
    if not math.isfinite(margin) or (margin_type == "angle" and not -math.pi < margin < math.pi):
        raise ValueError(f"`{name}` must be a finite number (an angle between -pi and pi), got {margin!r}.")


__all__ = ["MARGIN_TYPES", "check_margin", "with_margin"]
