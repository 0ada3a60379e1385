"""Classification by cosine with a margin, over all classes or a sample of them; the classes may be spread over processes."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_contrastive.distributed import all_gather_no_grad, all_gather_with_grad, all_reduce_sum
from hf_contrastive.losses._common import (
    EMPTY,
    Exclusion,
    Remote,
    check_embeddings,
    check_ids,
    check_options,
    check_positive,
    negative_log_likelihood,
    reduce,
    unit_rows,
)
from hf_contrastive.losses._engine import lse_rows
from hf_contrastive.losses.margins import check_margin, with_margin


def margin_softmax(
    features: Tensor,
    class_weight: Tensor,
    labels: Tensor,
    *,
    scale: float | Tensor = 32.0,
    margin: float = 0.15,
    margin_type: str = "cosine",
    candidates: Tensor | None = None,
    gather: bool = False,
    sharded: bool = False,
    num_classes: int | None = None,
    tile_size: int | None = None,
    reduction: str = "mean",
) -> Tensor:
    """
    Large-margin cosine softmax (CosFace, https://arxiv.org/abs/1801.09414, equation 4), the classification term of MOFI
    (https://arxiv.org/abs/2306.07952) with entities as classes.

    With s the scale, m the margin, cos(x, e) the cosine of a row and the vector of a class, y the row's class and N the other
    classes, a row costs

        -log( exp(s (cos(x, y) - m)) / ( exp(s (cos(x, y) - m)) + sum over e in N of exp(s cos(x, e)) ) ).

    N are all other classes, or those of `candidates` (see [`sample_classes`]; without a correction for how they were drawn).
    Rows of the label -1 are left out. The matrix of cosines is never held as a whole, and sums are made in float32 (float64
    for float64), whatever the inputs and autocast are.

    With `sharded=True` process r of W holds the rows r * C / W, r * C / W + 1, ... of the class matrix: rows travel, classes
    stay, and the sums under the logarithm are joined over processes.

    Args:
        features (`Tensor` of shape `[N, D]`): the rows.
        class_weight (`Tensor` of shape `[C, D]`): a vector for each class, of any length; with `sharded` those of this
            process, as many on every process.
        labels (integer `Tensor` of shape `[N]`): class of each row, 0 to C-1 over all processes, or -1 for none.
        scale (`float` or `Tensor` with one element, defaults to 32): s, above 0. A tensor gets its gradient.
        margin (`float`, defaults to 0.15), margin_type (`str`, defaults to `"cosine"`): how the cosine of the right class
            is changed, see [`with_margin`].
        candidates (integer `Tensor` of shape `[M]`, *optional*): the classes that take part, each once, the labels among
            them; the same on every process. None: all.
        gather (`bool`, defaults to `False`): count the rows of all processes in the mean. Averaged over processes, the
            result is then the loss of the joined batch, also when they differ in their rows of label -1.
        sharded (`bool`, defaults to `False`): `class_weight` is this process's part. Implies `gather`. The gradient of
            the part is that of the joined loss itself: no other process has one, so it must not be averaged (keep the
            parameter out of DistributedDataParallel).
        num_classes (`int`, *optional*): C, where the parts of the last processes were filled up to equal size; rows of
            the class matrix from C on take no part.
        tile_size (`int`, *optional*): rows and columns of the tile of cosines that is in memory at a time. None
            chooses, and keeps up to 160 MiB of tiles for the backward pass.
        reduction (`"mean"`, `"sum"` or `"none"`, defaults to `"mean"`): over the rows that have a label.

    Returns:
        `Tensor`: a scalar (0 when no row has a label), or `[N]` with `reduction="none"` (0 for rows without a label);
        float32 (float64 for float64 inputs).

    Raises:
        ValueError: for shapes or devices that do not fit, a label outside 0 to C-1, candidates that lack a label or hold a
            class twice, a scale that is not above 0. `TypeError` for arguments that are no tensors.

    Example:

        >>> import torch
        >>> from hf_contrastive.losses import margin_softmax
        >>> loss = margin_softmax(torch.eye(4), torch.eye(4), torch.arange(4), scale=1.0, margin=0.0)
        >>> print(f"{loss:.4f}")
        0.7437
    """
    check_embeddings("features", features)
    _check_classes(features, class_weight)
    check_options(tile_size, reduction)
    check_margin(margin, margin_type)
    check_ids("labels", labels, [(features.shape[0],)], features.device)
    value, scale = check_positive("scale", scale)
    remote = Remote(gather or sharded)
    split = sharded and remote.active
    held = class_weight.shape[0]
    total = held * remote.world if split else held
    if num_classes is not None:
        if not 0 < num_classes <= total:
            raise ValueError(
                f"`num_classes` must be from 1 to {total}, the rows of the class matrix, got {num_classes!r}."
            )
        total = num_classes
    # every process looks at the labels of all, so that all of them refuse a wrong one
    all_labels = (all_gather_no_grad(labels) if split else labels).long()
    _check_labels(all_labels, total)
    place, candidates = _places(all_labels, candidates, total)

    dtype = torch.promote_types(features.dtype, class_weight.dtype)
    x = unit_rows(features.to(dtype))
    first = remote.rank * held if split else 0
    known = all_labels >= 0
    count = known.sum()
    if remote.active and not split:
        count = all_reduce_sum(count)
    weight = _OwnGradient.apply(class_weight, remote.world) if split else class_weight
    if not bool(known.any()):
        # zeros, made from all inputs so that each gets a gradient
        nothing = x[:0].sum() * scale + unit_rows(weight[:0].to(dtype)).sum()
        return reduce(x.new_zeros(labels.shape[0]) + nothing, "sum" if reduction == "mean" else reduction)

    if candidates is None:
        weight = weight[: max(0, min(held, total - first))]
        column = torch.where((place >= first) & (place < first + held), place - first, -1)
    else:
        ours = (candidates >= first) & (candidates < first + held)
        weight = weight[candidates[ours] - first]
        column = torch.where(ours[place], (ours.cumsum(0) - 1)[place], -1)
    w = unit_rows(weight.to(dtype))
    rows = (all_gather_with_grad(x) if split else x)[known]
    column = column[known]
    if w.shape[0]:
        others = lse_rows(rows * scale, w, Exclusion(columns=column), tile_size=tile_size, bound=value * 1.001)
        own = (rows * w[column.clamp_min(0)]).sum(-1)
        own = own if not split else own.masked_fill(column < 0, 0)
    else:  # a process without any candidate: all the same in the graph, the others wait for its gradients
        own = (rows * 0).sum(-1) + w.sum()
        others = own + EMPTY
    if split:
        parts = all_gather_with_grad(torch.stack([own, others], 1)).view(remote.world, -1, 2)
        own, others = parts[..., 0].sum(0), parts[..., 1].logsumexp(0)
    losses = negative_log_likelihood(with_margin(own, margin, margin_type) * scale, others)
    losses = losses.new_zeros(known.shape[0]).masked_scatter(known, losses)
    if split:
        losses = losses[remote.rank * labels.shape[0] :][: labels.shape[0]]
    if reduction != "mean":
        return reduce(losses, reduction)
    # each process divides by its share of all rows that count, so that the average over processes is the joined mean
    return losses.sum() * remote.world / count.clamp_min(1)


def class_cosine(features: Tensor, class_weight: Tensor, classes: Tensor | None = None) -> Tensor:
    """
    Cosines of rows and class vectors, what [`margin_softmax`] scales and compares; in float32 at least.

    Args:
        features (`Tensor` of shape `[N, D]`): the rows.
        class_weight (`Tensor` of shape `[C, D]`): a vector for each class.
        classes (integer `Tensor` of shape `[M]`, *optional*): which classes, in this order. None: all.

    Returns:
        `Tensor` `[N, M]`; float32 (float64 for float64 inputs).

    Raises:
        ValueError: for shapes or devices that do not fit. `TypeError` for arguments that are no tensors.

    Example:

        >>> import torch
        >>> from hf_contrastive.losses import class_cosine
        >>> class_cosine(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.tensor([1, 0]))
        tensor([[0., 1.]])
    """
    check_embeddings("features", features)
    _check_classes(features, class_weight)
    weight = class_weight if classes is None else class_weight[classes]
    dtype = torch.promote_types(features.dtype, class_weight.dtype)
    with torch.autocast(features.device.type, enabled=False):
        return unit_rows(features.to(dtype)) @ unit_rows(weight.to(dtype)).T


def sample_classes(labels: Tensor, num_classes: int, num_sampled: int, *, seed: int, gather: bool = False) -> Tensor:
    """
    Classes for the softmax of a batch: its labels, sorted and each once, then others drawn at random without repeats.

    The draw depends on the labels and the seed alone: with `gather=True` and one seed (made from the number of the step, say)
    all processes get the same classes.

    Args:
        labels (integer `Tensor`, any shape): classes of the batch, 0 to `num_classes` - 1; -1 for none.
        num_classes (`int`): C, number of classes.
        num_sampled (`int`): classes in all, labels included. With C or more, all classes are returned; with fewer than there
            are labels, the labels.
        seed (`int`): of the draw.
        gather (`bool`, defaults to `False`): the labels of all processes; every process brings as many.

    Returns:
        `LongTensor` `[M]`, on the device of the labels.

    Raises:
        ValueError: a label outside 0 to C-1 (-1 aside), labels that are not integers, numbers below 1.

    Example:

        >>> import torch
        >>> from hf_contrastive.losses import sample_classes
        >>> classes = sample_classes(torch.tensor([7, 2, 7, -1]), 10, 5, seed=0)
        >>> classes[:2].tolist(), len(set(classes.tolist()))
        ([2, 7], 5)
    """
    if not isinstance(labels, Tensor):
        raise TypeError(f"`labels` must be a torch.Tensor of integers, got {type(labels).__name__}.")
    check_ids("labels", labels, [tuple(labels.shape)], labels.device)
    for name, number in (("num_classes", num_classes), ("num_sampled", num_sampled)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"`{name}` must be a whole number of at least 1, got {number!r}.")
    labels = (all_gather_no_grad(labels.reshape(-1)) if gather else labels.reshape(-1)).long()
    _check_labels(labels, num_classes)
    present = torch.unique(labels[labels >= 0])
    absent = num_classes - present.numel()
    number = max(0, min(num_sampled, num_classes) - present.numel())
    # on the CPU, where one seed means one draw whatever the device of a process is
    drawn = torch.randperm(absent, generator=torch.Generator().manual_seed(seed))[:number].to(labels.device)
    # the r-th class that is no label: as many labels lie below it as have fewer than r others below them
    shift = present - torch.arange(present.numel(), device=labels.device)
    return torch.cat([present, drawn + torch.searchsorted(shift, drawn, right=True)])


class _OwnGradient(torch.autograd.Function):
    """Divides the gradient by the number of processes: gathering adds up what all of them have computed."""

    @staticmethod
    def forward(ctx, x, world):
        ctx.world = world
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return grad / ctx.world, None


def _check_classes(features: Tensor, class_weight: Tensor) -> None:
    # features of autocast and a float32 matrix belong together: the dtype may differ
    check_embeddings("class_weight", class_weight)
    if class_weight.shape[1] != features.shape[1] or class_weight.device != features.device:
        raise ValueError(
            f"`class_weight` must have the width and device of `features`, got {list(class_weight.shape)} on "
            f"{class_weight.device} and {list(features.shape)} on {features.device}."
        )


def _check_labels(labels: Tensor, num_classes: int) -> None:
    bad = labels[(labels < -1) | (labels >= num_classes)]
    if len(bad):
        raise ValueError(
            f"entity label {int(bad[0])} is outside 0..num_entities-1: there are {num_classes} classes, 0 to "
            f"{num_classes - 1}, and -1 marks a row without one."
        )


def _places(labels: Tensor, candidates: Tensor | None, num_classes: int) -> tuple[Tensor, Tensor | None]:
    """Where the class of each row stands among the candidates (any place, for rows without a class), and these."""
    if candidates is None:
        return labels.clamp_min(0), None
    if not isinstance(candidates, Tensor):
        raise TypeError(f"`candidates` must be a torch.Tensor of integers, got {type(candidates).__name__}.")
    check_ids("candidates", candidates, [tuple(candidates.shape[:1])], labels.device)
    if not len(candidates):
        raise ValueError("`candidates` is empty; give the labels of the batch at least, see `sample_classes`.")
    candidates = candidates.long()
    order = candidates.argsort()
    ordered = candidates[order]
    if int(ordered[0]) < 0 or int(ordered[-1]) >= num_classes:
        raise ValueError(
            f"`candidates` must hold classes from 0 to {num_classes - 1}, got {int(ordered[0])} to {int(ordered[-1])}."
        )
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(twice):
        raise ValueError(
            f"`candidates` holds class {int(twice[0])} twice, which would count it twice; see `sample_classes`."
        )
    spot = torch.searchsorted(ordered, labels).clamp_max(len(ordered) - 1)
    missing = labels[(ordered[spot] != labels) & (labels >= 0)]
    if len(missing):
        raise ValueError(
            f"`candidates` lacks the label {int(missing[0])} of the batch; put all labels first, see `sample_classes`."
        )
    return order[spot], candidates


__all__ = ["class_cosine", "margin_softmax", "sample_classes"]
