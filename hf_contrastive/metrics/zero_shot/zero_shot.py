"""Zero-shot accuracy of image embeddings, as an `evaluate` metric.

`evaluate` copies this file and reads its import lines to find what must be installed: one import a line.
"""

import datasets
import evaluate

from hf_contrastive.evaluation import zero_shot_accuracy, zero_shot_class_embeddings


_DESCRIPTION = """\
Zero-shot classification: classes are described by texts, and the class whose text embedding is nearest to the image's is the
answer. The prompts of a class are normalised, averaged and normalised again.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: image embeddings, [rows, features].
    references: their classes (integers from 0), [rows].
    prompt_embeddings: for every class a list of text embeddings, [classes, prompts, features]; classes may differ in how many.
    ks (`list[int]`, *optional*): also the shares of images whose class is among the k nearest.

Returns:
    `accuracy`, `mean_per_class_accuracy`, `top<k>` for every k of `ks` (all 0 to 1), `n`, `n_classes`.

Example:
    >>> import evaluate
    >>> from hf_contrastive.metrics import metric_path
    >>> zero_shot = evaluate.load(metric_path("zero_shot"))
    >>> prompts = [[[1.0, 0.0], [0.9, 0.1]], [[0.0, 1.0]]]
    >>> result = zero_shot.compute(predictions=[[1.0, 0.1], [0.2, 1.0]], references=[0, 1], prompt_embeddings=prompts)
    >>> result["accuracy"]
    1.0
"""

_CITATION = """\
@inproceedings{radford2021learning,
  title={Learning Transferable Visual Models From Natural Language Supervision},
  author={Radford, Alec and others},
  booktitle={ICML},
  year={2021}
}
"""


class ZeroShot(evaluate.Metric):
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

    def _compute(self, predictions, references, prompt_embeddings=None, ks=()):
        if prompt_embeddings is None:
            raise ValueError("zero_shot needs `prompt_embeddings`: compute(..., prompt_embeddings=)")
        return zero_shot_accuracy(predictions, zero_shot_class_embeddings(prompt_embeddings), references, ks=ks)
