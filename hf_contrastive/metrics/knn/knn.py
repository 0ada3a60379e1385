"""kNN accuracy of embeddings, as an `evaluate` metric.

`evaluate` copies this file and reads its import lines to find what must be installed: one import a line.
"""

import datasets
import evaluate

from hf_contrastive.evaluation import knn_accuracy


_DESCRIPTION = """\
k-nearest-neighbour accuracy: every test embedding gets the label that its k nearest training embeddings vote for. No
training, no learning rate; the usual first look at self-supervised embeddings. The search is exact.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: test embeddings, [rows, features].
    references: their labels (integers), [rows].
    train_embeddings: training embeddings, [train rows, features].
    train_labels: their labels (integers), [train rows].
    k (`int`, defaults to 20): neighbours that vote.
    weighting (`str`, defaults to "uniform"): "uniform", or "temperature" for votes of exp(similarity / temperature).
    temperature (`float`, defaults to 0.07): of the weighted vote.
    metric (`str`, defaults to "cosine"): "cosine" or "euclidean".
    ks (`list[int]`, *optional*): further values of k, measured in the same search.

Returns:
    `knn_top1` (0 to 1), `knn_top1_k<n>` for every n of `ks`, and the protocol: k, weighting, metric, n_train, n_test.

Example:
    >>> import evaluate
    >>> from hf_contrastive.metrics import metric_path
    >>> knn = evaluate.load(metric_path("knn"))
    >>> result = knn.compute(
    ...     predictions=[[1.0, 0.1], [0.2, 1.0]],
    ...     references=[0, 1],
    ...     train_embeddings=[[1.0, 0.0], [0.0, 1.0]],
    ...     train_labels=[0, 1],
    ...     k=1,
    ... )
    >>> result["knn_top1"]
    1.0
"""

_CITATION = """\
@inproceedings{wu2018unsupervised,
  title={Unsupervised Feature Learning via Non-Parametric Instance Discrimination},
  author={Wu, Zhirong and Xiong, Yuanjun and Yu, Stella X. and Lin, Dahua},
  booktitle={CVPR},
  year={2018}
}
"""


class KNN(evaluate.Metric):
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
        self,
        predictions,
        references,
        train_embeddings=None,
        train_labels=None,
        k=20,
        weighting="uniform",
        temperature=0.07,
        metric="cosine",
        ks=None,
    ):
        if train_embeddings is None or train_labels is None:
            raise ValueError(
                "knn needs `train_embeddings` and `train_labels`: compute(..., train_embeddings=, train_labels=)"
            )
        return knn_accuracy(
            train_embeddings,
            train_labels,
            predictions,
            references,
            k=k,
            weighting=weighting,
            temperature=temperature,
            metric=metric,
            ks=ks,
        )
