"""Frames of videos: measured in each video, then averaged over videos, so that a long video weighs no more than a short one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.metrics import average_precision_score, f1_score

from hf_contrastive.evaluation._checks import as_embeddings, as_labels


def video_classification_metrics(
    predictions: Sequence[Any], labels: Sequence[Any], *, drop_labels: Sequence[Any] = ()
) -> dict[str, Any]:
    """Accuracy and macro-F1 of frames, per video and averaged over videos; the protocol of surgical phase recognition
    (https://arxiv.org/abs/2307.15220, zero-shot evaluation).

    The macro-F1 of a video is the plain mean over the classes that occur in its labels or its predictions, as in
    scikit-learn: a class that the video does not show counts with 0 once it is predicted, otherwise not at all.

    Args:
        predictions (list of `[T_v]` integers or strings): predicted class of every frame, for each video; for example from
            [`zero_shot_predictions`].
        labels (list of `[T_v]` integers or strings): the right classes.
        drop_labels (`Sequence`, *optional*): frames with these labels are left out before anything is counted.

    Returns:
        `dict`: `accuracy` and `f1_macro` (means over videos, 0 to 1), `per_video` (a list of `dict` with `accuracy`,
        `f1_macro` and `n_frames`), `n_videos`, `n_frames`, `dropped_frames`.

    Raises:
        ValueError: no video, numbers of videos or frames that differ, a video of which no frame is left.

    Example:

    ```python
    >>> from hf_contrastive.evaluation import video_classification_metrics
    >>> found = video_classification_metrics([[0, 0, 1, 1], [2, 2]], [[0, 0, 1, 0], [2, 9]], drop_labels=[9])
    >>> found["accuracy"], found["per_video"][0]["accuracy"], found["dropped_frames"]
    (0.875, 0.75, 1)

    ```
    """
    _check_videos("predictions", predictions, "labels", labels)
    per_video, dropped = [], 0
    for number, (guess, right) in enumerate(zip(predictions, labels, strict=True)):
        right = as_labels(f"labels[{number}]", right, len(right), f"labels[{number}]")
        guess = as_labels(f"predictions[{number}]", guess, len(right), f"labels[{number}]")
        if (guess.dtype.kind in "US") != (right.dtype.kind in "US"):
            raise TypeError(f"labels of two kinds: {guess.dtype} and {right.dtype}; use integers or strings in both")
        keep = ~np.isin(right, list(drop_labels))
        dropped += int((~keep).sum())
        if not keep.any():
            raise ValueError(f"`labels[{number}]`: none of {len(right)} frames is left; leave the video out")
        guess, right = guess[keep], right[keep]
        per_video.append(
            {
                "accuracy": float((guess == right).mean()),
                "f1_macro": float(f1_score(right, guess, average="macro", zero_division=0)),
                "n_frames": len(right),
            }
        )
    return {
        "accuracy": float(np.mean([video["accuracy"] for video in per_video])),
        "f1_macro": float(np.mean([video["f1_macro"] for video in per_video])),
        "per_video": per_video,
        "n_videos": len(per_video),
        "n_frames": sum(video["n_frames"] for video in per_video),
        "dropped_frames": dropped,
    }


def video_average_precision(scores: Sequence[Any], targets: Sequence[Any]) -> dict[str, Any]:
    """Video-wise mean average precision of several labels a frame, as the package ivtmetrics defines it
    (https://arxiv.org/abs/2204.05235; tools, verbs, targets and triplets of CholecT50).

    For each video and class the average precision, the sum over recall steps of step * precision, equal scores taken
    together. A class that a video never shows has none there (NaN). `ap[c]` is the mean over the videos that show class c,
    `map` the mean over the classes that any video shows. (ivtmetrics itself returns 0 instead of NaN with recent
    versions of scikit-learn.)

    Args:
        scores (list of `[T_v, C]` arrays or tensors): for each video, scores of C classes for every frame; larger is more
            likely.
        targets (list of `[T_v, C]` arrays or tensors of 0 and 1): the right classes.

    Returns:
        `dict`: `map` (0 to 1; NaN if no class occurs), `ap` (`ndarray` `[C]`), `per_video` (`ndarray` `[V, C]`).

    Raises:
        ValueError: no video, shapes that differ, NaN or infinity, other targets than 0 and 1.

    Example:

    ```python
    >>> from hf_contrastive.evaluation import video_average_precision
    >>> found = video_average_precision([[[0.9, 0.2], [0.1, 0.3], [0.8, 0.1]]], [[[1, 0], [0, 0], [1, 0]]])
    >>> found["ap"].tolist(), found["map"]
    ([1.0, nan], 1.0)

    ```
    """
    _check_videos("scores", scores, "targets", targets)
    rows = []
    for number, (score, target) in enumerate(zip(scores, targets, strict=True)):
        values = as_embeddings(f"scores[{number}]", score, dtype=torch.float64).cpu().numpy()
        right = target.detach().cpu().numpy() if isinstance(target, torch.Tensor) else np.asarray(target)
        if right.shape != values.shape or (rows and values.shape[1] != len(rows[0])):
            raise ValueError(
                f"`targets[{number}]` has shape {list(right.shape)} and `scores[{number}]` {list(values.shape)}; expected "
                f"[frames, {len(rows[0]) if rows else 'classes'}] in both"
            )
        if right.dtype.kind not in "biuf" or not np.isin(right, (0, 1)).all():
            raise ValueError(f"`targets[{number}]` holds other values than 0 and 1")
        # an absent class is looked for here: what scikit-learn returns for it depends on its version
        rows.append(
            [
                float(average_precision_score(right[:, c], values[:, c])) if right[:, c].any() else np.nan
                for c in range(values.shape[1])
            ]
        )
    table = np.array(rows)
    ap = _mean_of_known(table)
    return {"map": float(_mean_of_known(ap[:, None])[0]), "ap": ap, "per_video": table}


def group_maxima(values: Any, groups: Any) -> np.ndarray:
    """For every group of classes the largest value of its classes: how the package ivtmetrics (https://arxiv.org/abs/2204.05235) gets
    scores and targets of the components of a triplet (its instrument with its verb, say) from those of triplets.

    Args:
        values (`[T, C]` array or tensor): scores, or targets of 0 and 1, of C classes.
        groups (`[C]` integers): the group of every class.

    Returns:
        `ndarray` `[T, G]`: one column for each group that occurs, in ascending order.

    Raises:
        ValueError: not one group for each class.

    Example:

    ```python
    >>> from hf_contrastive.evaluation import group_maxima
    >>> group_maxima([[0.2, 0.7, 0.1], [0.3, 0.1, 0.9]], [4, 4, 6]).tolist()
    [[0.7, 0.1], [0.3, 0.9]]

    ```
    """
    table = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    owners = np.asarray(groups)
    if table.ndim != 2 or owners.shape != (table.shape[1],):
        raise ValueError(
            f"`values` has shape {list(table.shape)} and `groups` {list(owners.shape)}; expected [frames, classes] and [classes]"
        )
    return np.stack([table[:, owners == group].max(1) for group in np.unique(owners)], axis=1)


def _mean_of_known(table: np.ndarray) -> np.ndarray:
    """Mean of every column over what is not NaN; NaN where nothing is."""
    known = ~np.isnan(table)
    counts = known.sum(0)
    return np.where(counts > 0, np.where(known, table, 0).sum(0) / np.maximum(counts, 1), np.nan)


def _check_videos(name_a: str, a: Sequence[Any], name_b: str, b: Sequence[Any]) -> None:
    if not len(a) or len(a) != len(b):
        raise ValueError(
            f"`{name_a}` holds {len(a)} videos and `{name_b}` {len(b)}; expected one entry for each video in both, and at "
            "least one"
        )


__all__ = ["group_maxima", "video_average_precision", "video_classification_metrics"]
