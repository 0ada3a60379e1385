"""Isotropy of a language model, as an `evaluate` metric.

`evaluate` copies this file and reads its import lines to find what must be installed: one import a line.
"""

import datasets
import evaluate

from hf_contrastive.evaluation import isotropy_of_texts
from hf_contrastive.metrics.language_model import language_model


_DESCRIPTION = """\
Isotropy of a language model: how different the last hidden states of the tokens of one text are, 1 - their mean cosine.
It measures the model, not the texts. Contrastive search works on models of high isotropy (gpt2-large 0.70) and badly on
others (gpt2 0.10). The published numbers are over up to 2,000 texts.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: texts (`str`) of the language and kind that the model writes; those of one token do not count.
    model_id (`str`): the language model, a hub id or folder of a causal language model with safetensors; loaded without remote code.
    device (`str`, *optional*): for the model of `model_id`; a GPU if there is one by default.
    model, tokenizer: the language model as objects, in place of `model_id`.
    max_length (`int`, defaults to 256): tokens of a text that are read; None for all.

Returns:
    `isotropy` and `self_similarity` (the mean cosine), which sum to 1.

Example:
    >>> import evaluate
    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
    >>> from hf_contrastive.metrics import metric_path
    >>> words = Tokenizer(models.WordLevel({"the": 0, "sun": 1, "shines": 2, "?": 3}, unk_token="?"))
    >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
    >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=4, n_embd=8, n_layer=1, n_head=2))
    >>> metric = evaluate.load(metric_path("isotropy"))
    >>> result = metric.compute(predictions=["the sun shines", "the sun"], model=model, tokenizer=tokenizer)
    >>> round(result["isotropy"] + result["self_similarity"], 6)
    1.0
"""

_CITATION = """\
@article{su2023contrastive,
  title={Contrastive Search Is What You Need For Neural Text Generation},
  author={Su, Yixuan and Collier, Nigel},
  journal={Transactions on Machine Learning Research},
  year={2023}
}
"""


class Isotropy(evaluate.Metric):
    """The metric; see the module's description."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": datasets.Value("string")}),
        )

    def _compute(self, predictions, model_id=None, device=None, model=None, tokenizer=None, max_length=256):
        reader = language_model("isotropy", model_id, device, model, tokenizer)
        return isotropy_of_texts(predictions, *reader, max_length=max_length)
