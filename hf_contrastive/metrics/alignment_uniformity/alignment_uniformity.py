"""Alignment and uniformity of paired embeddings, as an `evaluate` metric.

`evaluate` copies this file and reads its import lines to find what must be installed: one import a line.
"""

import datasets
import evaluate

from hf_contrastive.evaluation import alignment, positive_negative_similarity, uniformity


_DESCRIPTION = """\
Alignment (how near the two views of a thing are) and uniformity (how evenly the embeddings fill the sphere) of Wang and
Isola, and the mean cosine of positive and of negative pairs. No labels are needed. Lower alignment and lower uniformity
are better; uniformity 0 means collapse.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: embeddings of one view, [rows, features].
    references: embeddings of the other view, [rows, features]; row i of both is one positive pair.
    alpha (`float`, defaults to 2): power of the alignment.
    t (`float`, defaults to 2): sharpness of the uniformity.

Returns:
    `alignment`, `uniformity` (mean of both views), `pos_sim`, `neg_sim`, `margin`.

Example:
    >>> import evaluate
    >>> from hf_contrastive.metrics import metric_path
    >>> metric = evaluate.load(metric_path("alignment_uniformity"))
    >>> result = metric.compute(predictions=[[1.0, 0.0], [-1.0, 0.0]], references=[[2.0, 0.0], [-2.0, 0.0]])
    >>> result["alignment"], result["uniformity"]
    (0.0, -8.0)
"""

_CITATION = """\
@inproceedings{wang2020understanding,
  title={Understanding Contrastive Representation Learning through Alignment and Uniformity on the Hypersphere},
  author={Wang, Tongzhou and Isola, Phillip},
  booktitle={ICML},
  year={2020}
}
"""


class AlignmentUniformity(evaluate.Metric):
    """The metric; see the module's description."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "predictions": datasets.List(datasets.Value("float64")),
                    "references": datasets.List(datasets.Value("float64")),
                }
            ),
        )

    def _compute(self, predictions, references, alpha=2, t=2):
        return {
            "alignment": alignment(predictions, references, alpha=alpha),
            "uniformity": (uniformity(predictions, t=t) + uniformity(references, t=t)) / 2,
            **positive_negative_similarity(predictions, references),
        }
