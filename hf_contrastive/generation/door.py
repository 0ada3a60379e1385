"""One call for contrastive search: texts or ids in, everything wired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import GenerationMixin, StoppingCriteriaList
from transformers.generation import StopStringCriteria

from hf_contrastive.generation.search import contrastive_search


def generate_contrastive(
    model: Any,
    inputs: str | Sequence[str] | Mapping[str, torch.Tensor] | torch.Tensor,
    tokenizer: Any = None,
    *,
    penalty_alpha: float = 0.6,
    top_k: int = 4,
    penalty_scope: str = "all",
    low_memory: bool = False,
    streamer: Any = None,
    stop_strings: str | Sequence[str] | None = None,
    **generate_arguments: Any,
) -> Any:
    """Generate with contrastive search; see [`contrastive_search`] for what it does.

    The wiring that `model.generate(..., custom_generate=contrastive_search)` leaves to its user is done here: a streamer
    gets every token, `stop_strings` work, a batch of texts is padded on the left.

    Args:
        model (`PreTrainedModel`): any causal language model or encoder-decoder of transformers.
        inputs (`str`, list of `str`, mapping of tensors or `Tensor`): texts (these need `tokenizer`), what a tokenizer or
            processor returns, or ids `[batch, length]`.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): for texts and `stop_strings`.
        penalty_alpha, top_k, penalty_scope, low_memory: as in [`contrastive_search`].
        streamer (*optional*): for example a `TextStreamer`; one prompt at a time.
        stop_strings (`str` or list of `str`, *optional*): generation of a text ends when it ends with one of them.
        **generate_arguments: of `generate`, for example `max_new_tokens`, `return_dict_in_generate`.

    Returns:
        For texts: the continuation (`str`), or a list of them. Otherwise, or with `return_dict_in_generate`, what
        `generate` returns.

    Raises:
        ValueError: texts or `stop_strings` without a tokenizer, a tokenizer without padding for texts of different
            length, several prompts with a streamer, and what [`contrastive_search`] refuses.

    Example:

    ```python
    >>> import torch
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> from hf_contrastive.generation import generate_contrastive
    >>> config = GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0, pad_token_id=0)
    >>> ids = torch.tensor([[5, 6, 7]])
    >>> inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    >>> generate_contrastive(GPT2LMHeadModel(config), inputs, max_new_tokens=2, min_new_tokens=2).shape
    torch.Size([1, 5])

    ```
    """
    for name in ("custom_generate", "contrastive_streamer"):
        if name in generate_arguments:
            raise ValueError(f"`{name}` is set by generate_contrastive itself; leave it out.")
    one = isinstance(inputs, str)
    texts = one or (isinstance(inputs, Sequence) and all(isinstance(text, str) for text in inputs))
    if (texts or stop_strings is not None) and tokenizer is None:
        what = "texts" if texts else "`stop_strings`"
        raise ValueError(f"{what} need a tokenizer; pass tokenizer=AutoTokenizer.from_pretrained(...).")
    arguments = dict(generate_arguments)
    if texts:
        listed = [inputs] if isinstance(inputs, str) else list(inputs)
        if not listed or not all(listed):
            raise ValueError("`inputs` is empty or holds an empty text; give every prompt at least one character.")
        batch = _tokenize(tokenizer, listed, left=not model.config.is_encoder_decoder)
        arguments.update({name: value.to(model.device) for name, value in batch.items()})
        if tokenizer.eos_token_id is not None and model.generation_config.pad_token_id is None:
            pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
            arguments.setdefault("pad_token_id", pad)
    elif isinstance(inputs, Mapping):
        arguments.update(inputs)
    else:
        arguments["inputs"] = inputs
    if stop_strings is not None:
        _add_stop_strings(arguments, tokenizer, stop_strings)
    output = model.generate(
        custom_generate=contrastive_search,
        penalty_alpha=penalty_alpha,
        top_k=top_k,
        penalty_scope=penalty_scope,
        low_memory=low_memory,
        streamer=streamer,
        contrastive_streamer=streamer,
        **arguments,
    )
    if not texts or not isinstance(output, torch.Tensor):
        return output
    start = 0 if model.config.is_encoder_decoder else arguments["input_ids"].shape[1]
    continuations = tokenizer.batch_decode(output[:, start:], skip_special_tokens=True)
    return continuations[0] if one else continuations


def _tokenize(tokenizer: Any, texts: list[str], left: bool) -> dict[str, torch.Tensor]:
    encoded = [tokenizer(text)["input_ids"] for text in texts]
    lengths = [len(ids) for ids in encoded]
    if min(lengths) == 0:
        raise ValueError(f"text {lengths.index(0)} has no token; give every prompt at least one.")
    longest = max(lengths)
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    if pad is None:
        if min(lengths) < longest:
            raise ValueError("texts of different length are padded, but the tokenizer has no pad token; set one.")
        pad = 0
    ids = torch.full((len(texts), longest), pad)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(encoded):
        place = slice(longest - len(tokens), longest) if left else slice(0, len(tokens))
        ids[row, place] = torch.tensor(tokens)
        mask[row, place] = 1
    return {"input_ids": ids, "attention_mask": mask}


def wire_contrastive_search(config: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `generate` with contrastive search wired in, where `penalty_alpha` asks for it.

    Args:
        config (`GenerationConfig`): in force for the call.
        arguments (`dict`): keyword arguments of the call.

    Returns:
        `dict`: the arguments themselves for other ways of decoding.

    Raises:
        ValueError: `stop_strings` without a tokenizer.
    """
    alpha = arguments.get("penalty_alpha", config.penalty_alpha)
    if not alpha or arguments.get("custom_generate") is not None:
        return arguments
    wired: dict[str, Any] = {
        **arguments,
        "custom_generate": contrastive_search,
        "contrastive_streamer": arguments.get("streamer"),
    }
    if (strings := wired.pop("stop_strings", None)) is not None:
        tokenizer = wired.pop("tokenizer", None)
        if tokenizer is None:
            raise ValueError("`stop_strings` need a tokenizer; pass tokenizer=... to generate.")
        _add_stop_strings(wired, tokenizer, strings)
    return wired


def _add_stop_strings(arguments: dict[str, Any], tokenizer: Any, strings: str | Sequence[str]) -> None:
    """`generate` drops the tokenizer for a decoding loop of one's own, so the criterion is made here."""
    strings = strings if isinstance(strings, str) else list(strings)
    given = arguments.get("stopping_criteria") or []
    arguments["stopping_criteria"] = StoppingCriteriaList([*given, StopStringCriteria(tokenizer, strings)])


class ContrastiveGenerationMixin(GenerationMixin):
    """`generate` that does contrastive search when `penalty_alpha` is set, in the call or in the generation config.

    transformers itself raises then. Put it before `PreTrainedModel` in the bases of a model class.
    """

    def generate(self, inputs: Any = None, generation_config: Any = None, **kwargs: Any) -> Any:
        """As `transformers.GenerationMixin.generate`, with contrastive search for `penalty_alpha` above 0."""
        config = self.generation_config if generation_config is None else generation_config
        parent: Any = super()
        return parent.generate(inputs, generation_config, **wire_contrastive_search(config, kwargs))


__all__ = ["ContrastiveGenerationMixin", "generate_contrastive", "wire_contrastive_search"]
