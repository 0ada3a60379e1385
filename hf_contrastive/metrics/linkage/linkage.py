"""Accuracy of linking records to known ones, as an `evaluate` metric.

`evaluate` copies this file and reads its import lines to find what must be installed: one import a line.
"""

import datasets
import evaluate

from hf_contrastive.evaluation import link_to_exemplars, linkage_accuracy


_DESCRIPTION = """\
Record linkage: every record is linked to its nearest exemplar by cosine, or to none when the cosine is not above a threshold;
the accuracy is the share of records that are linked rightly.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: embeddings of the records, [rows, features].
    references: the labels they belong to (integers), [rows]; -9 for records that belong to no exemplar.
    exemplar_embeddings: embeddings of the known records, [exemplars, features].
    exemplar_labels: their labels (integers), [exemplars]; a label may have several.
    threshold (`float`, *optional*): link only with a cosine above it.

Returns:
    `accuracy` (0 to 1), `linked` (share of records that are linked to an exemplar).

Example:
    >>> import evaluate
    >>> from hf_contrastive.metrics import metric_path
    >>> linkage = evaluate.load(metric_path("linkage"))
    >>> exemplars = {"exemplar_embeddings": [[1.0, 0.0], [0.0, 1.0]], "exemplar_labels": [4, 7]}
    >>> linkage.compute(predictions=[[1.0, 0.1], [1.0, 0.9]], references=[4, -9], threshold=0.8, **exemplars)
    {'accuracy': 1.0, 'linked': 0.5}
"""

_CITATION = """\
@article{arora2023linking,
  title={Linking Representations with Multimodal Contrastive Learning},
  author={Arora, Abhishek and Yang, Xinmei and Jheng, Shao-Yu and Dell, Melissa},
  journal={arXiv:2304.03464},
  year={2023}
}
"""


class Linkage(evaluate.Metric):
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

    def _compute(self, predictions, references, exemplar_embeddings=None, exemplar_labels=None, threshold=None):
        if exemplar_embeddings is None or exemplar_labels is None:
            raise ValueError(
                "linkage needs `exemplar_embeddings` and `exemplar_labels`: compute(..., exemplar_embeddings=, "
                "exemplar_labels=)"
            )
        links = link_to_exemplars(predictions, exemplar_embeddings, exemplar_labels, threshold=threshold)
        return {
            "accuracy": linkage_accuracy(links.labels, references),
            "linked": float((links.labels != -9).mean()),
        }
