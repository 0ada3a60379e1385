"""Repetition and diversity of generated text, as an `evaluate` metric.

`evaluate` copies this file and reads its import lines to find what must be installed: one import a line.
"""

import datasets
import evaluate

from hf_contrastive.evaluation import diversity


_DESCRIPTION = """\
Repetition of word n-grams in generated text and the diversity that follows: rep-n is the share of n-grams that came before
in the same text, diversity the product of (1 - rep-n / 100) over n = 2, 3, 4. Text of people has about 0.94, greedy search
of gpt2-large about 0.05. No model and no reference text is needed.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: generated texts (`str`).
    official (`bool`, defaults to False): as the published code, which leaves out the last n-gram of every text and rounds
        rep-n to two decimals.

Returns:
    `rep-2`, `rep-3`, `rep-4` (0 to 100) and `diversity` (0 to 1).

Example:
    >>> import evaluate
    >>> from hf_contrastive.metrics import metric_path
    >>> metric = evaluate.load(metric_path("diversity"))
    >>> result = metric.compute(predictions=["a b a b a", "one two three four"])
    >>> result["rep-2"], round(result["diversity"], 4)
    (28.57142857142857, 0.5714)
"""

_CITATION = """\
@inproceedings{su2022contrastive,
  title={A Contrastive Framework for Neural Text Generation},
  author={Su, Yixuan and Lan, Tian and Wang, Yan and Yogatama, Dani and Kong, Lingpeng and Collier, Nigel},
  booktitle={NeurIPS},
  year={2022}
}
"""


class Diversity(evaluate.Metric):
    """The metric; see the module's description."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": datasets.Value("string")}),
        )

    def _compute(self, predictions, official=False):
        return diversity(predictions, official=official)
