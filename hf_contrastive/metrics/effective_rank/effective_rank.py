"""Effective rank and spread of embeddings, as an `evaluate` metric.

`evaluate` copies this file and reads its import lines to find what must be installed: one import a line.
"""

import datasets
import evaluate

from hf_contrastive.evaluation import effective_rank, embedding_std


_DESCRIPTION = """\
Effective rank (how many directions the embeddings really use: exp of the entropy of the normalised singular values) and
the spread of the normalised embeddings (about 1 / sqrt(features) when healthy, 0 when collapsed). No labels are needed.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: embeddings, [rows, features].
    center (`bool`, defaults to False): subtract the mean row before the rank is taken.

Returns:
    `effective_rank` (1 to min(rows, features)), `std`, `healthy_std` (1 / sqrt(features)).

Example:
    >>> import evaluate
    >>> from hf_contrastive.metrics import metric_path
    >>> metric = evaluate.load(metric_path("effective_rank"))
    >>> round(metric.compute(predictions=[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])["effective_rank"], 6)
    2.0
"""

_CITATION = """\
@inproceedings{roy2007effective,
  title={The effective rank: a measure of effective dimensionality},
  author={Roy, Olivier and Vetterli, Martin},
  booktitle={EUSIPCO},
  year={2007}
}
"""


class EffectiveRank(evaluate.Metric):
    """The metric; see the module's description."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": datasets.List(datasets.Value("float64"))}),
        )

    def _compute(self, predictions, center=False):
        return {
            "effective_rank": effective_rank(predictions, center=center),
            "std": embedding_std(predictions),
            "healthy_std": len(predictions[0]) ** -0.5,
        }
