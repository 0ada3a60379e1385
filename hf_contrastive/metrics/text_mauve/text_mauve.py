"""MAUVE as the contrastive search papers measure it, as an `evaluate` metric.

`evaluate` copies this file and reads its import lines to find what must be installed: one import a line.
"""

import datasets
import evaluate

from hf_contrastive.evaluation import mauve


_DESCRIPTION = """\
MAUVE, how near the distribution of generated texts is to that of human ones, as the contrastive search papers measure it:
in percent, at most 200 tokens, empty predictions left out and, with a tokenizer, both texts of a pair cut to the same
length. `evaluate` has a metric `mauve` of its own (0 to 1, 1,024 tokens, no cut). Needs the package mauve-text; without
features it downloads gpt2-large.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: generated texts (`str`).
    references: texts of people (`str`), one for each prediction.
    tokenizer (*optional*): cuts both texts of a pair to as many of its tokens as the shorter one has; that of gpt2-large
        in the papers. Without it nothing is cut but at `max_text_length`.
    p_features, q_features (*optional*): features of the references and of the predictions, [texts, features]: no model is
        loaded then.
    **options: further arguments of `mauve.compute_mauve`: featurize_model_name, device_id, max_text_length (200), seed, ...

Returns:
    `mauve`, 0 to 100.

Example:
    >>> import evaluate
    >>> from hf_contrastive.metrics import metric_path
    >>> metric = evaluate.load(metric_path("text_mauve"))
    >>> sorted(metric.features)
    ['predictions', 'references']
    >>> texts = {"predictions": ["The sun shines."], "references": ["It rains."]}
    >>> metric.compute(**texts, device_id=0)["mauve"] <= 100  # doctest: +SKIP
    True
"""

_CITATION = """\
@inproceedings{pillutla2021mauve,
  title={MAUVE: Measuring the Gap Between Neural Text and Human Text using Divergence Frontiers},
  author={Pillutla, Krishna and Swayamdipta, Swabha and Zellers, Rowan and Thickstun, John and Welleck, Sean and Choi, Yejin and Harchaoui, Zaid},
  booktitle={NeurIPS},
  year={2021}
}
"""


class TextMauve(evaluate.Metric):
    """The metric; see the module's description."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions, references, tokenizer=None, **options):
        return {"mauve": mauve(references, predictions, tokenizer=tokenizer, **options)}
