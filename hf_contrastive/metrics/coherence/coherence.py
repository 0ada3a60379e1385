"""Coherence of continuations with their prefixes, as an `evaluate` metric.

`evaluate` copies this file and reads its import lines to find what must be installed: one import a line.
"""

import datasets
import evaluate

from hf_contrastive.evaluation import coherence
from hf_contrastive.metrics.language_model import language_model


_DESCRIPTION = """\
Coherence of generated text: mean log-probability (natural, per token) of a continuation given its prefix under a language
model that scores, then the mean over texts. Nearer to 0 is more coherent, and very repetitive text is too: read it beside
`diversity`. The published numbers have OPT-2.7B as the scorer; numbers of different scorers cannot be compared.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: continuations (`str`); empty ones are left out.
    references: the prefixes (`str`) that they continue, in the same order.
    model_id (`str`): the scorer, a hub id or folder of a causal language model with safetensors; loaded without remote code.
    device (`str`, *optional*): for the model of `model_id`; a GPU if there is one by default.
    model, tokenizer: the scorer as objects, in place of `model_id`.

Returns:
    `coherence`, at most 0.

Example:
    >>> import evaluate
    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
    >>> from hf_contrastive.metrics import metric_path
    >>> words = Tokenizer(models.WordLevel({"the": 0, "sun": 1, "shines": 2, "?": 3}, unk_token="?"))
    >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
    >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=4, n_embd=8, n_layer=1, n_head=2))
    >>> _ = model.lm_head.weight.data.zero_()  # all four words are as likely
    >>> metric = evaluate.load(metric_path("coherence"))
    >>> result = metric.compute(predictions=["sun shines"], references=["the"], model=model, tokenizer=tokenizer)
    >>> round(result["coherence"], 4)
    -1.3863
"""

_CITATION = """\
@article{su2023contrastive,
  title={Contrastive Search Is What You Need For Neural Text Generation},
  author={Su, Yixuan and Collier, Nigel},
  journal={Transactions on Machine Learning Research},
  year={2023}
}
"""


class Coherence(evaluate.Metric):
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

    def _compute(self, predictions, references, model_id=None, device=None, model=None, tokenizer=None):
        scorer = language_model("coherence", model_id, device, model, tokenizer)
        return {"coherence": coherence(references, predictions, *scorer)}
