"""Retrieval quality of embeddings, as an `evaluate` metric.

`evaluate` copies this file and reads its import lines to find what must be installed: one import a line.
"""

import datasets
import evaluate

from hf_contrastive.evaluation import retrieval_metrics


_DESCRIPTION = """\
Recall@k, MAP@R, R-precision, mean reciprocal rank and median rank of nearest-neighbour retrieval. Rows of the same label are
relevant to each other. Without a gallery every row searches all the others.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: query embeddings, [rows, features].
    references: their labels or ids (integers), [rows].
    gallery_embeddings (*optional*): where to search, [gallery rows, features].
    gallery_labels (*optional*): the labels of the gallery, [gallery rows].
    ks (`list[int]`, defaults to [1, 5, 10]): cut-offs of recall.
    metric (`str`, defaults to "cosine"): "cosine" or "euclidean".

Returns:
    `recall@<k>`, `map@r`, `r_precision`, `mrr` (all 0 to 1), `median_rank`, `n_queries`, `n_gallery`,
    `queries_without_relevant`.

Example:
    >>> import evaluate
    >>> from hf_contrastive.metrics import metric_path
    >>> retrieval = evaluate.load(metric_path("retrieval"))
    >>> embeddings = [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]]
    >>> retrieval.compute(predictions=embeddings, references=[0, 0, 1, 1], ks=[1])["map@r"]
    1.0
"""

_CITATION = """\
@inproceedings{musgrave2020metric,
  title={A Metric Learning Reality Check},
  author={Musgrave, Kevin and Belongie, Serge and Lim, Ser-Nam},
  booktitle={ECCV},
  year={2020}
}
"""


class Retrieval(evaluate.Metric):
    """The metric; see the module's description."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": datasets.List(datasets.Value("float64")), "references": datasets.Value("int64")}
            ),
        )

    def _compute(
        self, predictions, references, gallery_embeddings=None, gallery_labels=None, ks=(1, 5, 10), metric="cosine"
    ):
        return retrieval_metrics(
            predictions,
            gallery_embeddings,
            query_labels=references,
            gallery_labels=gallery_labels,
            ks=ks,
            metric=metric,
        )
