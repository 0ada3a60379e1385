"""Evaluation of generated text: repetition, diversity, coherence, isotropy, MAUVE."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from hf_contrastive.utils import evaluation_mode


def _check_list(texts: Any, name: str) -> None:
    if isinstance(texts, str):
        raise ValueError(f"`{name}` is one text; pass a list of texts.")


def repetition(texts: Sequence[str], n: int, official: bool = False) -> float:
    """Share of repeated n-grams, rep-n in percent (Welleck et al. 2020; as used by SimCTG, https://arxiv.org/abs/2202.06417).

        rep-n = 100 * (1 - unique n-grams / n-grams), words split at white space

    unique n-grams are counted in each text, and both counts are summed over the texts.

    Args:
        texts (`Sequence[str]`): generated texts.
        n (`int`): words of an n-gram.
        official (`bool`, defaults to `False`): the published code leaves out the last n-gram of every text and rounds to
            two decimals; so does this then.

    Returns:
        `float` from 0 to 100; 0 when no text is long enough.

    Raises:
        ValueError: `n` below 1, or one text instead of a list of texts.

    Example:

    ```python
    >>> from hf_contrastive.evaluation import repetition
    >>> repetition(["a b a b"], n=2)
    33.333333333333336

    ```
    """
    _check_list(texts, "texts")
    if n < 1:
        raise ValueError(f"`n` is {n}, but it must be 1 or more.")
    total = unique = 0
    for text in texts:
        words = text.split()
        grams = [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
        if official:
            grams = grams[:-1]
        total += len(grams)
        unique += len(set(grams))
    share = 100 * (1 - unique / total) if total else 0.0
    return round(share, 2) if official else share


def diversity(texts: Sequence[str], official: bool = False) -> dict[str, float]:
    """Repetition of 2-, 3- and 4-grams and the diversity that follows (https://arxiv.org/abs/2202.06417, section 5.1).

        diversity = product over n = 2, 3, 4 of (1 - rep-n / 100)

    Args:
        texts (`Sequence[str]`): generated texts.
        official (`bool`, defaults to `False`): as in [`repetition`].

    Returns:
        `dict`: `rep-2`, `rep-3`, `rep-4` in percent and `diversity` from 0 to 1.

    Example:

    ```python
    >>> from hf_contrastive.evaluation import diversity
    >>> diversity(["one two three four five"])["diversity"]
    1.0

    ```
    """
    results = {f"rep-{n}": repetition(texts, n, official) for n in (2, 3, 4)}
    results["diversity"] = float(np.prod([1 - value / 100 for value in results.values()]))
    return results


def continuation_log_probability(logits: torch.Tensor, ids: torch.Tensor, prefix_length: int) -> float:
    """Mean log-probability of a continuation given its prefix, natural logarithm, per token.

    Args:
        logits (`Tensor` `[length, vocabulary]`): of a scorer at every position of `ids`.
        ids (`Tensor` `[length]`): prefix and continuation.
        prefix_length (`int`): tokens of the prefix, at least 1.

    Returns:
        `float`, at most 0.

    Raises:
        ValueError: shapes that do not fit, or nothing behind the prefix.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.evaluation import continuation_log_probability
    >>> round(continuation_log_probability(torch.zeros(4, 8), torch.tensor([1, 2, 3, 4]), prefix_length=2), 4)
    -2.0794

    ```
    """
    if logits.dim() != 2 or ids.dim() != 1 or len(logits) != len(ids):
        raise ValueError(
            f"`logits` {list(logits.shape)} and `ids` {list(ids.shape)} must be [length, vocabulary] and [length]."
        )
    if not 1 <= prefix_length < len(ids):
        raise ValueError(
            f"`prefix_length` is {prefix_length}, but it must be from 1 to {len(ids) - 1} for {len(ids)} ids."
        )
    logits = logits if logits.dtype == torch.float64 else logits.float()
    log_probabilities = logits[prefix_length - 1 : -1].log_softmax(-1)
    return float(log_probabilities.gather(1, ids[prefix_length:, None]).mean())


def _read(model: Any, ids: torch.Tensor, number: int, advice: str, **options: Any) -> Any:
    """The model's outputs for one text `[length]`."""
    try:
        return model(input_ids=ids[None], attention_mask=torch.ones_like(ids[None]), **options)
    except IndexError as error:  # a table has no such row
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        raise ValueError(
            f"{type(model).__name__} cannot read text {number}: it has {len(ids)} tokens, the largest id is "
            f"{int(ids.max())}, the model has {limit} positions and {model.get_input_embeddings().num_embeddings} tokens; "
            f"{advice}, and use the tokenizer of this model."
        ) from error


def coherence(
    prefixes: Sequence[str],
    continuations: Sequence[str],
    model: Any,
    tokenizer: Any,
) -> float:
    """Mean log-probability of continuations under a language model that scores them.

    As in https://arxiv.org/abs/2210.14140 (there with OPT): per token given the prefix, then the mean over texts; texts
    without a continuation are left out. The beginning-of-text token is put before the prefix if the scorer has one.

    Args:
        prefixes, continuations (`Sequence[str]`): one continuation for each prefix.
        model (`PreTrainedModel`): any causal language model of transformers; scores in eval mode and stays as it was.
        tokenizer (`PreTrainedTokenizerBase`): its tokenizer.

    Returns:
        `float`, at most 0; nearer to 0 is more coherent, and very repetitive text is too.

    Raises:
        ValueError: one text instead of a list, lists of different length, no continuation at all, a text longer than the
            scorer can read.

    Example:

    ```python
    >>> import torch
    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
    >>> from hf_contrastive.evaluation import coherence
    >>> words = Tokenizer(models.WordLevel({"the": 0, "sun": 1, "shines": 2, "?": 3}, unk_token="?"))
    >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
    >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    >>> scorer = GPT2LMHeadModel(GPT2Config(vocab_size=4, n_embd=8, n_layer=1, n_head=2))
    >>> _ = torch.nn.init.zeros_(scorer.lm_head.weight)  # all four words are as likely
    >>> round(coherence(["the"], ["sun shines"], scorer, tokenizer), 4)
    -1.3863

    ```
    """
    _check_list(prefixes, "prefixes")
    _check_list(continuations, "continuations")
    if len(prefixes) != len(continuations):
        raise ValueError(f"there are {len(prefixes)} prefixes, but {len(continuations)} continuations.")
    scores = []
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    with torch.no_grad(), evaluation_mode(model):
        for number, (prefix, continuation) in enumerate(zip(prefixes, continuations, strict=True)):
            before = start + tokenizer(prefix, add_special_tokens=False)["input_ids"]
            after = tokenizer(continuation, add_special_tokens=False)["input_ids"]
            if not after or not before or not continuation.strip():
                continue
            ids = torch.tensor(before + after, device=model.device)
            logits = _read(model, ids, number, "shorten prefix or continuation").logits[0]
            scores.append(continuation_log_probability(logits, ids, len(before)))
    if not scores:
        raise ValueError("no text has a continuation: nothing can be scored.")
    return float(np.mean(scores))


def isotropy(hidden_states: Iterable[torch.Tensor]) -> dict[str, float]:
    """How different the hidden states of the tokens of one text are (https://arxiv.org/abs/2210.14140, section 3).

        isotropy = 1 - (sum over texts of cosines of different positions) / (sum over texts of length * (length - 1))

    Contrastive search works on models of high isotropy (gpt2-large 0.70) and badly on others (gpt2 0.10).

    Args:
        hidden_states (iterable of `Tensor` `[length, dim]`): last hidden states of each text, without padding.

    Returns:
        `dict`: `self_similarity` (mean cosine) and `isotropy`.

    Raises:
        ValueError: a tensor of another shape, or no text of two tokens.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive.evaluation import isotropy
    >>> isotropy([torch.eye(3)])["isotropy"]
    1.0

    ```
    """
    total, pairs = 0.0, 0
    for number, hidden in enumerate(hidden_states):
        if hidden.dim() != 2:
            raise ValueError(
                f"hidden states of text {number} have shape {list(hidden.shape)}, expected [length, dim]."
            )
        unit = torch.nn.functional.normalize(hidden.double(), dim=-1)
        # the sum of all cosines is the squared length of the sum of the unit vectors: no matrix is needed
        total += float(unit.sum(0).square().sum() - unit.square().sum())
        pairs += len(unit) * (len(unit) - 1)
    if not pairs:
        raise ValueError("isotropy compares tokens of one text, but no text has two tokens.")
    return {"self_similarity": total / pairs, "isotropy": 1 - total / pairs}


def isotropy_of_texts(
    texts: Sequence[str], model: Any, tokenizer: Any, max_length: int | None = 256
) -> dict[str, float]:
    """[`isotropy`] of a language model, from texts (https://arxiv.org/abs/2210.14140, section 3).

    Every text is read by itself, as the model reads prompts (with the special tokens of its tokenizer), so there is no
    padding. The paper takes up to 2,000 texts of the language that will be generated.

    Args:
        texts (`Sequence[str]`): texts; those of fewer than two tokens do not count.
        model (`PreTrainedModel`): any causal language model of transformers; reads in eval mode and stays as it was.
        tokenizer (`PreTrainedTokenizerBase`): its tokenizer.
        max_length (`int`, *optional*, defaults to 256): tokens of a text that are read, 2 or more; `None` for all.

    Returns:
        `dict`: `self_similarity` (mean cosine) and `isotropy`.

    Raises:
        ValueError: one text instead of a list, `max_length` below 2, no text of two tokens, a text longer than the model
            can read, a model that returns no hidden states.

    Example:

    ```python
    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
    >>> from hf_contrastive.evaluation import isotropy_of_texts
    >>> words = Tokenizer(models.WordLevel({"the": 0, "sun": 1, "shines": 2, "?": 3}, unk_token="?"))
    >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
    >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=4, n_embd=8, n_layer=1, n_head=2))
    >>> result = isotropy_of_texts(["the sun shines", "the sun"], model, tokenizer)
    >>> round(result["isotropy"] + result["self_similarity"], 6)
    1.0

    ```
    """
    _check_list(texts, "texts")
    if max_length is not None and max_length < 2:
        raise ValueError(f"`max_length` is {max_length}, but isotropy compares tokens of one text: 2 or more.")

    def hidden_states() -> Iterator[torch.Tensor]:
        for number, text in enumerate(texts):
            ids = tokenizer(text)["input_ids"][:max_length]
            if len(ids) < 2:
                continue
            ids = torch.tensor(ids, device=model.device)
            outputs = _read(model, ids, number, "lower `max_length`", output_hidden_states=True)
            states = getattr(outputs, "hidden_states", None)
            if not states:
                raise ValueError(
                    f"{type(model).__name__} returned no hidden states, which isotropy is made of; it needs a causal "
                    "language model that takes `output_hidden_states=True`."
                )
            yield states[-1][0]

    with torch.no_grad(), evaluation_mode(model):
        return isotropy(hidden_states())


def mauve(references: Sequence[str], predictions: Sequence[str], tokenizer: Any = None, **options: Any) -> float:
    """MAUVE, how near the distribution of generated texts is to that of human ones, in percent (needs `mauve-text`).

    Empty predictions are left out with their references. The package downloads the features' model (gpt2-large) unless
    `p_features` and `q_features` are given.

    Args:
        references, predictions (`Sequence[str]`): texts of people and of the model, in pairs.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): cuts both texts of a pair to as many of its tokens as the shorter
            one has, as https://arxiv.org/abs/2210.14140 does with that of gpt2-large; MAUVE sees length otherwise.
        **options: of `mauve.compute_mauve`, for example `featurize_model_name`, `device_id`, `max_text_length` (200 here),
            `p_features` (of the references) and `q_features` (of the predictions) `[texts, dim]`, one row for each text.

    Returns:
        `float` from 0 to 100.

    Raises:
        ImportError: `mauve-text` is not installed; the message says what to type.
        ValueError: one text instead of a list, lists of different length, no prediction with text, features that are not
            one row for each text.
    """
    _check_list(references, "references")
    _check_list(predictions, "predictions")
    if len(references) != len(predictions):
        raise ValueError(f"there are {len(references)} references, but {len(predictions)} predictions.")
    pairs = list(zip(references, predictions, strict=True))
    if tokenizer is not None:
        pairs = [_cut_alike(*pair, tokenizer) for pair in pairs]
    kept = [number for number, (_, prediction) in enumerate(pairs) if prediction.strip()]
    if not kept:
        raise ValueError("no prediction has text: there is nothing to compare.")
    options = {"max_text_length": 200, "verbose": False, **options}
    for name in ("p_features", "q_features"):
        if options.get(name) is not None:
            features = np.asarray(options[name])
            if features.ndim != 2 or len(features) != len(pairs):
                raise ValueError(
                    f"`{name}` has shape {list(features.shape)}, but it must be [{len(pairs)}, dim]: a row for each text."
                )
            options[name] = features[kept]
    try:
        from mauve import compute_mauve
    except ImportError as error:
        raise ImportError("MAUVE needs the package mauve-text; type: pip install 'hf-contrastive[text]'") from error
    texts = {"p_text": [pairs[number][0] for number in kept], "q_text": [pairs[number][1] for number in kept]}
    return 100 * float(compute_mauve(**{**texts, **options}).mauve)


def _cut_alike(reference: str, prediction: str, tokenizer: Any) -> tuple[str, str]:
    first, second = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (reference, prediction))
    # a text that needs no cut stays as it was: decoding need not give it back exactly
    if len(first) > len(second):
        return tokenizer.decode(first[: len(second)]), prediction
    if len(second) > len(first):
        return reference, tokenizer.decode(second[: len(first)])
    return reference, prediction


__all__ = [
    "coherence",
    "continuation_log_probability",
    "diversity",
    "isotropy",
    "isotropy_of_texts",
    "mauve",
    "repetition",
]
