"""Linear-probe accuracy of embeddings, as an `evaluate` metric.

`evaluate` copies this file and reads its import lines to find what must be installed: one import a line.
"""

import datasets
import evaluate

from hf_contrastive.evaluation import linear_probe


_DESCRIPTION = """\
Linear-probe accuracy: one linear layer is trained on the training embeddings and tested on the test embeddings. Whatever
is chosen (regularisation, number of epochs) is chosen on a validation part of the training rows.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: test embeddings, [rows, features].
    references: their labels (integers), [rows].
    train_embeddings: training embeddings, [train rows, features].
    train_labels: their labels (integers), [train rows].
    method (`str`, defaults to "logistic"): "logistic" (regularisation chosen by validation) or "sgd" (Adam, early stopping).
    seed (`int`, defaults to 0): of the validation split and the batches.
    **options: further arguments of `hf_contrastive.evaluation.linear_probe`: standardize, validation_fraction, C, epochs ...

Returns:
    `accuracy` (0 to 1), `validation_accuracy`, `per_class`, and the protocol: method, C or epochs, n_train, n_test ...

Example:
    >>> import evaluate
    >>> from hf_contrastive.metrics import metric_path
    >>> probe = evaluate.load(metric_path("linear_probe"))
    >>> result = probe.compute(
    ...     predictions=[[1.0, 0.1], [0.2, 1.0]],
    ...     references=[0, 1],
    ...     train_embeddings=[[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]],
    ...     train_labels=[0, 0, 1, 1],
    ...     C=1.0,
    ... )
    >>> result["accuracy"]
    1.0
"""

_CITATION = """\
@inproceedings{alain2017understanding,
  title={Understanding intermediate layers using linear classifier probes},
  author={Alain, Guillaume and Bengio, Yoshua},
  booktitle={ICLR Workshop},
  year={2017}
}
"""


class LinearProbe(evaluate.Metric):
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
        self, predictions, references, train_embeddings=None, train_labels=None, method="logistic", seed=0, **options
    ):
        if train_embeddings is None or train_labels is None:
            raise ValueError(
                "linear_probe needs `train_embeddings` and `train_labels`: compute(..., train_embeddings=, train_labels=)"
            )
        return linear_probe(
            train_embeddings, train_labels, predictions, references, method=method, seed=seed, **options
        )
