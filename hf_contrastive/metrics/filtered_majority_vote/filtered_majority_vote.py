"""Majority vote filtered by token-level Q-values, as an `evaluate` metric.

`evaluate` copies this file and reads its import lines to find what must be installed: one import a line.
"""

import datasets
import evaluate

from hf_contrastive.evaluation import filtered_majority_vote


_DESCRIPTION = """\
Majority vote over sampled answers, without the samples whose token-level Q-value falls below a threshold: accuracy with and
without the filter, samples filtered out, tokens that need not be written. In `accuracy` a tie between the correct samples
and a wrong answer counts as right, as in the published code; in `accuracy_strict` it counts as wrong.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: the final answer of each sample, a text or `None` for no answer, [samples].
    references: 1 (or True) where the sample is correct, otherwise 0, [samples].
    q_values: Q-values after every token of each sample, without prompt and padding: a list of sequences.
    questions: which question each sample answers, texts or numbers in any order, [samples].
    threshold (`float`, defaults to 0.0): smallest Q-value that survives.
    skip_tokens (`int`, defaults to 5): first tokens of each sample that are not looked at.

Returns:
    `accuracy`, `accuracy_strict` of the filtered vote, `accuracy_unfiltered`, `accuracy_unfiltered_strict` of all samples;
    `questions`, `samples`, `filtered`, `filtered_share`, `all_filtered` (questions without a survivor: all of their samples
    vote), `tokens`, `tokens_saved`, `tokens_saved_share` (the skipped tokens do not count), `mean_proportion_correct` and
    `mean_proportion_correct_filtered` (correct samples before and after the filter), `p_value` of the paired t-test of both
    and `p_value_unpaired` of the published code (`None` when undefined).

Example:
    >>> import evaluate
    >>> from hf_contrastive.metrics import metric_path
    >>> metric = evaluate.load(metric_path("filtered_majority_vote"))
    >>> result = metric.compute(
    ...     predictions=["7", "3", "3"],
    ...     references=[1, 0, 0],
    ...     q_values=[[0.1, 0.2, 0.3], [0.1, -0.2, 0.1], [0.0, 0.1, -0.1]],
    ...     questions=["3 + 4", "3 + 4", "3 + 4"],
    ...     skip_tokens=1,
    ... )
    >>> result["accuracy_unfiltered"], result["accuracy"], result["tokens_saved_share"]
    (0.0, 1.0, 0.5)
"""

_CITATION = """\
@inproceedings{nath2024learning,
  title={Learning Goal-Conditioned Representations for Language Reward Models},
  author={Nath, Vaskar and Slack, Dylan and Da, Jeff and Ma, Yuntao and Zhang, Hugh and Whitehead, Spencer and Hendryx, Sean},
  booktitle={NeurIPS},
  year={2024}
}
"""


class FilteredMajorityVote(evaluate.Metric):
    """The metric; see the module's description."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    # evaluate refuses a batch whose first `string` is missing, and an answer may be
                    "predictions": datasets.Value("large_string"),
                    "references": datasets.Value("int64"),
                    "q_values": datasets.List(datasets.Value("float64")),
                    "questions": datasets.Value("large_string"),
                }
            ),
        )

    def _compute(self, predictions, references, q_values, questions, threshold=0.0, skip_tokens=5):
        return filtered_majority_vote(
            predictions, references, q_values, questions, threshold=threshold, skip_tokens=skip_tokens
        ).summary()
