"""Metrics for `evaluate`: folders that `evaluate.load` opens without a network.

```python
>>> import evaluate
>>> from hf_contrastive.metrics import metric_path
>>> knn = evaluate.load(metric_path("knn"))
>>> knn.compute(
...     predictions=[[1.0, 0.1], [0.2, 1.0]],
...     references=[0, 1],
...     train_embeddings=[[1.0, 0.0], [0.0, 1.0]],
...     train_labels=[0, 1],
...     k=1,
... )["knn_top1"]
1.0

```

Each is a thin face of the plain functions in `hf_contrastive.evaluation`. `evaluate` keeps every value as a number in a
table, so for large arrays the plain functions are the quicker door. The metrics of generated text take texts; two of them
need a language model, `compute(..., model_id=)` or `compute(..., model=, tokenizer=)`.
"""

from __future__ import annotations

from pathlib import Path


METRICS = (
    "alignment_uniformity",
    "auroc",
    "coherence",
    "diversity",
    "effective_rank",
    "filtered_majority_vote",
    "isotropy",
    "knn",
    "linear_probe",
    "linkage",
    "retrieval",
    "text_mauve",
    "zero_shot",
)


def metric_path(name: str) -> str:
    """The folder of a metric, for `evaluate.load(metric_path("knn"))`.

    Args:
        name (`str`): one of `METRICS`: of embeddings `alignment_uniformity`, `effective_rank`, `knn`, `linear_probe`,
            `linkage`, `retrieval`, `zero_shot`; of generated text `coherence`, `diversity`, `isotropy`, `text_mauve`; of rewards `auroc`,
            `filtered_majority_vote`.

    Returns:
        `str`: the folder.

    Raises:
        ValueError: there is no metric of that name; the message lists them.

    Example:

    ```python
    >>> from hf_contrastive.metrics import metric_path
    >>> from pathlib import Path
    >>> Path(metric_path("knn"), "knn.py").exists()
    True

    ```
    """
    if name not in METRICS:
        raise ValueError(f"`name` is {name!r}; the metrics are {', '.join(METRICS)}")
    return str(Path(__file__).parent / name)


__all__ = ["METRICS", "metric_path"]
