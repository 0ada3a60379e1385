"""AUROC of rewards, as an `evaluate` metric.

`evaluate` copies this file and reads its import lines to find what must be installed: one import a line.
"""

import datasets
import evaluate

from hf_contrastive.evaluation import auroc, partial_auroc


_DESCRIPTION = """\
Area under the ROC curve of a reward against correct and wrong: how likely a correct answer has the higher reward than a
wrong one; a tie counts half, 0.5 is chance. Counted exactly. With the rewards after every token it says too how early in
an answer the reward tells (partial AUROC).
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: rewards of the answers, [answers].
    references: 1 (or True) where the answer is correct, otherwise 0, [answers].
    token_rewards (*optional*): rewards after every token of each answer, without prompt and padding: a list of sequences.
    percentiles (`list[float]`, defaults to 0.0, 0.1, ..., 1.0): with `token_rewards`, shares of an answer to read them at.

Returns:
    `auroc` (0 to 1); with `token_rewards` also `auroc@<p>` for every share p of `percentiles`.

Example:
    >>> import evaluate
    >>> from hf_contrastive.metrics import metric_path
    >>> metric = evaluate.load(metric_path("auroc"))
    >>> metric.compute(predictions=[0.9, 0.2, 0.2, -1.0], references=[1, 1, 0, 0])
    {'auroc': 0.875}
    >>> metric.compute(
    ...     predictions=[0.9, 0.2], references=[1, 0], token_rewards=[[0.0, 0.9], [0.1, 0.2]], percentiles=[0.0, 1.0]
    ... )
    {'auroc': 1.0, 'auroc@0.0': 0.0, 'auroc@1.0': 1.0}
"""

_CITATION = """\
@inproceedings{nath2024learning,
  title={Learning Goal-Conditioned Representations for Language Reward Models},
  author={Nath, Vaskar and Slack, Dylan and Da, Jeff and Ma, Yuntao and Zhang, Hugh and Whitehead, Spencer and Hendryx, Sean},
  booktitle={NeurIPS},
  year={2024}
}
"""


class AUROC(evaluate.Metric):
    """The metric; see the module's description."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references, token_rewards=None, percentiles=None):
        result = {"auroc": auroc(predictions, references)}
        if token_rewards is None:
            if percentiles is not None:
                raise ValueError("`percentiles` needs `token_rewards`: compute(..., token_rewards=, percentiles=)")
            return result
        options = {} if percentiles is None else {"percentiles": percentiles}
        partial = partial_auroc(token_rewards, references, **options)
        return {**result, **{f"auroc@{share}": value for share, value in partial.items()}}
