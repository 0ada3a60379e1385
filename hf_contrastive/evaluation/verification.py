"""Verification: do two embeddings belong to the same thing? A score per pair, compared with a threshold."""

from __future__ import annotations

from typing import Any

import numpy as np

from hf_contrastive.evaluation._checks import as_binary, as_scores
from hf_contrastive.evaluation.reward import auroc


def verification_metrics(scores: Any, same: Any) -> dict[str, Any]:
    """AUROC of pair scores, the threshold that tells the two kinds of pairs apart best, and the accuracy there.

    A pair counts as the same when its score is at least the threshold. The best threshold is the score with the largest
    difference of true and false positive rate (Youden's index), the largest of several. It is chosen on the pairs given:
    to use it on others, choose it on pairs that are not counted. Equal scores of a pair of either kind count one half in the
    AUROC, see [`auroc`].

    Args:
        scores (`[N]` list, array or tensor): a score for each pair, higher for more alike; for example cosines.
        same (`[N]` list, array or tensor): 1 or `True` where both sides are the same thing, otherwise 0 or `False`.

    Returns:
        `dict`: `auroc` (0 to 1, 0.5 is chance), `threshold`, `accuracy` (0 to 1, at the threshold),
        `true_positive_rate` and `false_positive_rate` (there), `n_pairs`, `n_same`.

    Raises:
        TypeError: scores or labels that are no numbers.
        ValueError: no pair, lengths that differ, NaN or infinity, other labels than 0 and 1, pairs of one kind only.

    Example:

    ```python
    >>> from hf_contrastive.evaluation import verification_metrics
    >>> found = verification_metrics([0.9, 0.7, 0.6, 0.1], [True, True, False, False])
    >>> found["auroc"], found["threshold"], found["accuracy"]
    (1.0, 0.7, 1.0)

    ```
    """
    values = as_scores("scores", scores)
    positive = as_binary("same", same, len(values), "scores", yes="same")
    area = auroc(values, positive)
    order = np.argsort(-values, kind="stable")
    ranked = values[order]
    true, false = np.cumsum(positive[order]), np.cumsum(~positive[order])
    # a threshold takes all pairs of its score or none
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    total, others = int(true[-1]), int(false[-1])
    # whole numbers: no rounding decides between two thresholds
    best = ends[np.argmax(true[ends] * others - false[ends] * total)]
    return {
        "auroc": area,
        "threshold": float(ranked[best]),
        "accuracy": float((int(true[best]) + others - int(false[best])) / len(values)),
        "true_positive_rate": float(true[best] / total),
        "false_positive_rate": float(false[best] / others),
        "n_pairs": len(values),
        "n_same": total,
    }


__all__ = ["verification_metrics"]
