"""Zero-shot classification: classes are described by texts, and the class whose text is nearest to an image is the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from hf_contrastive.evaluation._checks import as_embeddings, as_labels, as_pair, check_count, check_positive
from hf_contrastive.evaluation.neighbours import nearest_neighbours


@torch.no_grad()
def zero_shot_class_embeddings(prompt_embeds: Any) -> torch.Tensor:
    """One unit vector per class from the embeddings of its prompts: normalise each, average, normalise again.

    The ensembling of CLIP (https://arxiv.org/abs/2103.00020, section 3.1.4), in the space of embeddings: the class costs no
    more than with one prompt.

    Args:
        prompt_embeds (`[C, P, D]` array or tensor, or a list of C of shape `[P_c, D]`): text embeddings of P prompts for each
            of C classes, of any length. In a list every class may have another number of prompts.

    Returns:
        `torch.Tensor` `[C, D]`; float32 (float64 for float64 embeddings).

    Raises:
        ValueError: wrong shapes, a class without prompts, NaN or infinity, or prompts of a class that cancel each other
            out.

    Example:

    ```python
    >>> from hf_contrastive.evaluation import zero_shot_class_embeddings
    >>> zero_shot_class_embeddings([[[2.0, 0.0], [0.0, 3.0]], [[0.0, 1.0], [0.0, 5.0]]])
    tensor([[0.7071, 0.7071],
            [0.0000, 1.0000]], dtype=torch.float64)

    ```
    """
    if isinstance(prompt_embeds, (torch.Tensor, np.ndarray)):
        stacked = as_embeddings("prompt_embeds", prompt_embeds, dims=3)
        means = F.normalize(stacked, dim=2).mean(1)
    else:
        classes = [as_embeddings(f"prompt_embeds[{number}]", one) for number, one in enumerate(prompt_embeds)]
        if not classes:
            raise ValueError("`prompt_embeds` is empty; expected the prompts of at least one class")
        widths = sorted({one.shape[1] for one in classes})
        if len(widths) > 1:
            raise ValueError(
                f"`prompt_embeds` holds embeddings of {widths} features; all must come from the same encoder"
            )
        means = torch.stack([F.normalize(one, dim=1).mean(0) for one in classes])
    # the mean of unit vectors in opposite directions is rounding error, not a direction
    lost = (means.norm(dim=1) < 8 * torch.finfo(means.dtype).eps).nonzero().flatten()
    if len(lost):
        raise ValueError(
            f"`prompt_embeds`: the prompts of class {int(lost[0])} have no mean direction (zero vectors, or opposite ones); "
            "check the text encoder"
        )
    return F.normalize(means, dim=1)


@torch.no_grad()
def zero_shot_logits(x: Any, class_embeds: Any, *, logit_scale: float = 100.0) -> torch.Tensor:
    """Scaled cosines of every row with every class; `softmax(1)` of them are the probabilities of the classes.

    Args:
        x (`[N, D]` array or tensor): image embeddings, of any length.
        class_embeds (`[C, D]` array or tensor): of the classes, see [`zero_shot_class_embeddings`].
        logit_scale (`float`, defaults to 100): what cosines are multiplied by, above 0. It changes probabilities, not their
            order.

    Returns:
        `torch.Tensor` `[N, C]`.

    Raises:
        ValueError: wrong shapes, NaN or infinity, a scale that is not above 0.

    Example:

    ```python
    >>> from hf_contrastive.evaluation import zero_shot_logits
    >>> zero_shot_logits([[3.0, 0.0]], [[1.0, 0.0], [0.0, 2.0]], logit_scale=10.0).tolist()
    [[10.0, 0.0]]

    ```
    """
    rows, classes = as_pair("x", x, "class_embeds", class_embeds)
    # the caller may sit inside autocast
    with torch.autocast(rows.device.type, enabled=False):
        return check_positive("logit_scale", logit_scale) * (F.normalize(rows, dim=1) @ F.normalize(classes, dim=1).T)


def zero_shot_predictions(x: Any, class_embeds: Any, *, chunk_size: int | None = None) -> np.ndarray:
    """The nearest class of every row, by cosine; of equally near classes the first.

    Args:
        x (`[N, D]` array or tensor): image embeddings.
        class_embeds (`[C, D]` array or tensor): of the classes, see [`zero_shot_class_embeddings`].
        chunk_size (`int`, *optional*): rows at a time; memory is O(chunk_size * C).

    Returns:
        `ndarray` `[N]` of class numbers, 0 to C-1.

    Raises:
        ValueError: wrong shapes, NaN or infinity.

    Example:

    ```python
    >>> from hf_contrastive.evaluation import zero_shot_predictions
    >>> zero_shot_predictions([[1.0, 0.3], [0.1, 2.0]], [[1.0, 0.0], [0.0, 1.0]]).tolist()
    [0, 1]

    ```
    """
    return nearest_neighbours(x, class_embeds, k=1, exclude_self=False, chunk_size=chunk_size)[1][:, 0]


def zero_shot_accuracy(
    x: Any, class_embeds: Any, labels: Any, *, ks: Sequence[int] = (), chunk_size: int | None = None
) -> dict[str, Any]:
    """Share of the rows whose nearest class is the right one.

    Args:
        x (`[N, D]` array or tensor): image embeddings.
        class_embeds (`[C, D]` array or tensor): of the classes, see [`zero_shot_class_embeddings`].
        labels (`[N]` integers): the right classes, 0 to C-1.
        ks (`Sequence[int]`, *optional*): also the shares of rows whose class is among the k nearest.
        chunk_size (`int`, *optional*): rows at a time; memory is O(chunk_size * C).

    Returns:
        `dict`: `accuracy`, `mean_per_class_accuracy` (each class of `labels` weighs the same), `top<k>` for every k of
        `ks` (all 0 to 1), `n`, `n_classes`.

    Raises:
        ValueError: wrong shapes, NaN or infinity, a label outside 0 to C-1, k larger than C.

    Example:

    ```python
    >>> from hf_contrastive.evaluation import zero_shot_accuracy
    >>> zero_shot_accuracy([[1.0, 0.3], [0.1, 2.0]], [[1.0, 0.0], [0.0, 1.0]], [0, 0])["accuracy"]
    0.5

    ```
    """
    rows, classes = as_pair("x", x, "class_embeds", class_embeds)
    right = as_labels("labels", labels, len(rows), "x")
    found = np.unique(right)  # sorts strings, too
    if right.dtype.kind not in "iu" or found[0] < 0 or found[-1] >= len(classes):
        raise ValueError(
            f"`labels` must be class numbers, integers from 0 to {len(classes) - 1}; got {found[0]!s} to {found[-1]!s}"
        )
    cutoffs = sorted({check_count("ks", k) for k in ks})
    if cutoffs and cutoffs[-1] > len(classes):
        raise ValueError(f"`ks` asks for {cutoffs[-1]} classes but there are only {len(classes)}")
    nearest = nearest_neighbours(rows, classes, k=max(cutoffs, default=1), exclude_self=False, chunk_size=chunk_size)[
        1
    ]
    hit = nearest == right[:, None]
    return {
        "accuracy": float(hit[:, 0].mean()),
        "mean_per_class_accuracy": float(np.mean([hit[right == label, 0].mean() for label in found])),
        **{f"top{k}": float(hit[:, :k].any(1).mean()) for k in cutoffs},
        "n": len(rows),
        "n_classes": len(classes),
    }


__all__ = ["zero_shot_accuracy", "zero_shot_class_embeddings", "zero_shot_logits", "zero_shot_predictions"]
