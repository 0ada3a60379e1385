"""`generate` in pieces: rows that end are found, caches are cut to the rows that go on, and every row has its own
draws."""

from __future__ import annotations

import copy
import functools
import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteriaList
from transformers.cache_utils import (
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionCacheLayerMixin,
    LinearAttentionLayer,
)
from transformers.generation import MaxLengthCriteria, StopStringCriteria

from hf_contrastive.generation.search import contrastive_search


_CUTTABLE = (
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
)

# what cannot be done for rows that come and go, and what to type instead
_REFUSED = {
    "assistant_model": "leave it out: an assistant drafts tokens by draws of its own",
    "assistant_early_exit": "leave it out: a draft is made by draws of its own",
    "guidance_scale": "leave it out: it keeps a second cache that cannot be cut to the rows that go on",
    "inputs_embeds": "pass token ids or texts as `inputs`",
    "max_length": "it counts the prompt, padding included; pass max_new_tokens=...",
    "max_time": "leave it out; bound the answers with max_new_tokens=...",
    "min_length": "it counts the prompt, padding included; pass min_new_tokens=...",
    "num_return_sequences": "leave it out; the number of samples is an argument of its own",
    "output_attentions": "leave it out",
    "output_hidden_states": "leave it out",
    "output_logits": "leave it out",
    "output_scores": "leave it out",
    "past_key_values": "leave it out; caches are kept inside",
    "prompt_lookup_num_tokens": "leave it out: a draft is made by draws of its own",
    "return_dict_in_generate": "leave it out",
    "streamer": "leave it out: a text that may be dropped cannot be streamed",
    "token_healing": "leave it out: it changes the prompt",
    "watermarking_config": "leave it out: its state cannot be cut to the rows that go on",
}


# these are refused when the checkpoint's generation settings ask for them, too
_REFUSED_IN_CONFIG = ("guidance_scale", "prompt_lookup_num_tokens", "token_healing", "watermarking_config")
_SWITCHES = (
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "return_dict_in_generate",
    "token_healing",
)


def can_cut(cache: Any) -> bool:
    """Whether rows of a cache can be taken out, and the rest goes on as if nothing had happened.

    Static, quantised and offloaded caches, those of encoder-decoders and models' own kinds cannot.
    """
    if type(cache) is not DynamicCache or not cache.layers or cache.offloading:
        return False
    return all(type(layer) in _CUTTABLE for layer in cache.layers)


def take_rows(cache: DynamicCache, rows: Tensor) -> DynamicCache:
    """A cache with these rows, in this order, perhaps several times; the given one stays as it is.

    Args:
        cache (`DynamicCache`): one that [`can_cut`].
        rows (`LongTensor` `[new_rows]`): numbers of its rows.

    Returns:
        `DynamicCache` of `new_rows` rows.
    """
    taken = copy.copy(cache)
    taken.layers = []
    for layer in cache.layers:
        new: Any
        if isinstance(layer, LinearAttentionCacheLayerMixin):  # states in dictionaries, written in place
            new = copy.deepcopy(layer)
            new.reorder_cache(rows)
        else:
            new = copy.copy(layer)
            if new.is_initialized:
                new.batch_select_indices(rows.to(new.keys.device))
        taken.layers.append(new)
    return taken


def row_draws(seed: int, row: Sequence[int], steps: int) -> Tensor:
    """Uniform draws `[steps]` (float64, from 0 to below 1) of one row: they follow from `seed` and the numbers in
    `row` alone.

    Whatever else is drawn, in which order, and how many steps are asked for, changes nothing about them.
    """
    digest = hashlib.sha256(repr((int(seed), *map(int, row))).encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.rand(steps, dtype=torch.float64, generator=generator)


def _wide(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


class InverseSampler(LogitsProcessor):
    """Leaves one finite score a row: that of the token which the row's draw for this step picks.

    The draw is put through the inverse of the distribution function, tokens in the order of the vocabulary. It has to
    come after everything else that changes scores.

    Args:
        draws (`Tensor` `[rows, steps]`): numbers from 0 to below 1.
        start (`int`): length of `input_ids` at the first step.
    """

    def __init__(self, draws: Tensor, start: int) -> None:
        self.draws, self.start = draws, start

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        below = scores.softmax(-1).cumsum(-1, dtype=_wide(scores.device))
        total = below[:, -1:].contiguous()
        if scores.device.type == "cpu" and not bool(torch.isfinite(total).all()):
            raise FloatingPointError(
                "the scores of the next token are NaN or all minus infinity; the model's weights or its precision are broken "
                "(float16 overflows easily; load with dtype=torch.bfloat16 or float32), or a processor bans every token."
            )
        # on some devices `generate` makes a step too many and takes it back
        step = min(input_ids.shape[1] - self.start, self.draws.shape[1] - 1)
        draws = self.draws[:, step].to(total)[:, None]
        token = torch.searchsorted(below, draws * total, right=True)
        # rounding may reach the total: then it is the last token that has a probability
        token = torch.minimum(token, torch.searchsorted(below, total))
        return torch.full_like(scores, -torch.inf).scatter_(1, token, 0.0)


class TokenProbabilities(LogitsProcessor):
    """Notes how likely the model itself finds each token that is taken; before all processors.

    The chosen token is known at the next step only, so the last one is taken from the finished sequences.
    """

    def __init__(self) -> None:
        self.seen: list[Tensor] = []
        self.last: Tensor | None = None
        self.start = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.last is None:
            self.start = input_ids.shape[1]
        else:
            self.seen.append(self.last.gather(1, input_ids[:, -1:]))
        self.last = scores.float().log_softmax(-1)
        return scores

    def of(self, sequences: Tensor) -> Tensor:
        """Log-probabilities `[rows, new]` of the new tokens of finished sequences `[rows, length]`."""
        count = sequences.shape[1] - self.start
        if self.last is None or count <= 0:
            return torch.zeros(len(sequences), 0, device=sequences.device)
        done = self.seen[: count - 1]
        if len(done) == count - 1 == len(self.seen):
            done = [*done, self.last.gather(1, sequences[:, -1:])]
        else:  # a step too many was made and undone
            done = self.seen[:count]
        return torch.cat(done, dim=1)


class _Ends(StoppingCriteriaList):
    """The criteria of `generate`, noting where every row ended for another reason than the length of the piece."""

    def __init__(self, criteria: Any) -> None:
        super().__init__(criteria)
        self.places: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        ended = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        full = torch.zeros_like(ended)
        for criterion in self:
            found = criterion(input_ids, scores, **kwargs)
            if isinstance(criterion, MaxLengthCriteria):
                full = full | found
            else:
                ended = ended | found
        if self.places is None:
            self.places = torch.full_like(ended, -1, dtype=torch.long)
        self.places = torch.where((self.places < 0) & ended, input_ids.shape[1], self.places)
        return ended | full


@dataclass
class Piece:
    """What a piece of generation added.

    Args:
        ids (`LongTensor` `[rows, length]`): everything, the new tokens at the end.
        lengths (`LongTensor` `[rows]`): columns of `ids` up to the end of every row; behind it there is padding.
        ended (bool `Tensor` `[rows]`): rows that ended by themselves: end of text, stop string, a criterion.
        cache (`Cache` or `None`): to go on with, where that is possible.
        log_probabilities (`Tensor` `[rows, new]`, *optional*): of the new tokens.
    """

    ids: Tensor
    lengths: Tensor
    ended: Tensor
    cache: Any
    log_probabilities: Tensor | None = None


class RowDecoder:
    """`model.generate` in pieces that together are one uninterrupted `generate`.

    Lengths refer to the whole answer, whatever the pieces. Sampling takes its draws from outside (see
    [`InverseSampler`]), behind temperature, top-k and the like. Greedy search and contrastive search
    (`penalty_alpha=0.6, top_k=4`, or `custom_generate=contrastive_search`) work too; a loop of one's own reads the
    context anew for each piece.

    Args:
        model (`PreTrainedModel`): a decoder.
        arguments (`dict`): of `generate`.
        tokenizer (*optional*): for `stop_strings`.
        owner (`str`): name of the function that was called, for messages.

    Raises:
        ValueError: an encoder-decoder, and arguments that cannot work on rows that come and go.
    """

    def __init__(self, model: Any, arguments: dict[str, Any], tokenizer: Any, owner: str) -> None:
        self.model, self.owner = model, owner
        arguments = dict(arguments)
        if model.config.is_encoder_decoder:
            raise ValueError(
                f"{type(model).__name__} is an encoder-decoder; {owner} continues prompts with decoders "
                "(AutoModelForCausalLM), whose text the reward model can read from the start."
            )
        given = arguments.pop("generation_config", None)
        if given is not None:
            fields = set(GenerationConfig().to_dict())
            difference = {name: value for name, value in given.to_diff_dict().items() if name in fields}
            difference.pop("transformers_version", None)
            arguments = {**difference, **arguments}
        self.arguments = arguments
        for name, reason in _REFUSED.items():
            value = self.value(name) if name in _REFUSED_IN_CONFIG else arguments.get(name)
            if value is not None and not (isinstance(value, (bool, int, float)) and value in (0, 1)):
                raise ValueError(f"`{name}` does not work in {owner}: {reason}.")
            if value is True and name in _SWITCHES:
                raise ValueError(f"`{name}` does not work in {owner}: {reason}.")
            arguments.pop(name, None)
        if self.value("num_beams") not in (None, 1):
            raise ValueError(
                f"`num_beams` is {self.value('num_beams')}; rows of {owner} stand alone, set num_beams=1."
            )
        self.inner: Callable[..., Any] | None = self._inner_loop()
        self.minimum = int(self.value("min_new_tokens") or 0)
        self.criteria = [*(arguments.pop("stopping_criteria", None) or [])]
        strings = self.value("stop_strings")
        if strings is not None:
            if tokenizer is None:
                raise ValueError("`stop_strings` need a tokenizer; pass tokenizer=AutoTokenizer.from_pretrained(...).")
            strings = strings if isinstance(strings, str) else list(strings)
            self.criteria.append(StopStringCriteria(tokenizer, strings))
        self.processors = [*(arguments.pop("logits_processor", None) or [])]
        self.allowed = arguments.pop("prefix_allowed_tokens_fn", None)
        self.decay = self.value("exponential_decay_length_penalty")
        for name in ("max_new_tokens", "min_new_tokens", "stop_strings", "tokenizer", "do_sample", "custom_generate"):
            arguments.pop(name, None)
        kind = self.value("cache_implementation")
        self.keeps_cache = self.inner is None and kind in (None, "dynamic")

    def value(self, name: str) -> Any:
        """What is in force: of the call, or of the checkpoint's generation settings."""
        return self.arguments.get(name, getattr(self.model.generation_config, name, None))

    def _inner_loop(self) -> Callable[..., Any] | None:
        """The decoding loop: `None` for the ordinary one."""
        inner, sample = self.arguments.get("custom_generate"), self.arguments.get("do_sample")
        if inner is None and self.value("penalty_alpha") and sample is not True:
            inner = contrastive_search
        if inner is None and sample is True and self.arguments.get("penalty_alpha"):
            raise ValueError(
                "`penalty_alpha` asks for contrastive search, `do_sample` for sampling; leave one of them out."
            )
        if inner is not None and not callable(inner):
            raise ValueError(f"`custom_generate` is {inner!r}; pass a function, for example contrastive_search.")
        if inner is not None and sample:
            raise ValueError(
                "`do_sample` is True, but a decoding loop of one's own (contrastive search) makes its choices itself; leave "
                "do_sample or custom_generate and penalty_alpha out."
            )
        if inner is contrastive_search and self.arguments.get("penalty_scope", "all") != "all":
            raise ValueError(
                f"`penalty_scope` is {self.arguments['penalty_scope']!r}, but every piece of {self.owner} would start its scope "
                "anew; leave it out."
            )
        self.samples = inner is None and sample is not False
        return inner

    def piece(
        self,
        ids: Tensor,
        mask: Tensor,
        steps: int,
        *,
        start: int,
        limit: int,
        rows: Sequence[int] | None = None,
        draws: Tensor | None = None,
        cache: Any = None,
        probabilities: bool = False,
    ) -> Piece:
        """Up to `steps` more tokens for every row.

        Args:
            ids, mask (`LongTensor` `[rows, length]`): everything so far, padded on the left.
            steps (`int`): tokens to add at most; fewer when all rows end.
            start (`int`): length of the prompts, padding included.
            limit (`int`): tokens that an answer may have in all.
            rows (list of `int`, *optional*): their numbers for `prefix_allowed_tokens_fn`; 0, 1, ... by default.
            draws (`Tensor` `[rows, limit]`, *optional*): for sampling, from `start` on.
            cache (`Cache`, *optional*): of the piece before, cut to these rows.
            probabilities (`bool`): note the model's own probabilities of the new tokens.

        Returns:
            [`Piece`].
        """
        done, width = ids.shape[1] - start, ids.shape[1]
        end = width + steps
        arguments: dict[str, Any] = dict(self.arguments)
        arguments |= {
            "max_length": end,
            "max_new_tokens": None,
            "min_length": min(start + self.minimum, end),  # of the whole answer: the prompt's length stays the same
            "min_new_tokens": None,
            "stop_strings": None,
            "do_sample": self.samples,
            "return_dict_in_generate": self.keeps_cache,
        }
        if done:
            arguments["begin_suppress_tokens"] = None
        if done + steps < limit:
            arguments["forced_eos_token_id"] = None
        if self.decay is not None:
            arguments["exponential_decay_length_penalty"] = (self.decay[0] - done, self.decay[1])
        if cache is not None:
            arguments |= {"past_key_values": cache, "cache_implementation": None}
        if self.allowed is not None:
            numbers = list(range(len(ids))) if rows is None else rows
            arguments["prefix_allowed_tokens_fn"] = lambda row, text: self.allowed(numbers[row], text)
        ends: list[_Ends] = []
        takes_cache: list[bool] = []
        noted = TokenProbabilities() if probabilities else None

        def loop(model: Any, input_ids: Any, logits_processor: Any, stopping_criteria: Any, **kwargs: Any) -> Any:
            ends.append(_Ends(stopping_criteria))
            takes_cache.append(takes(model.forward, "past_key_values"))
            first = [] if noted is None else [noted]
            last = []
            if self.samples:  # `generate` puts processors from outside before the warpers, so the choice is made here
                assert draws is not None
                last = [InverseSampler(draws.to(_wide(input_ids.device)).to(input_ids.device), start)]
                kwargs["generation_config"].do_sample = False
            processors = LogitsProcessorList([*first, *logits_processor, *last])
            inner = self.inner if self.inner is not None else type(model)._sample
            return inner(model, input_ids, logits_processor=processors, stopping_criteria=ends[0], **kwargs)

        if self.inner is not None:  # `generate` finds the loop's own arguments by its signature
            functools.update_wrapper(loop, self.inner)
        output = self.model.generate(
            input_ids=ids,
            attention_mask=mask,
            custom_generate=loop,
            logits_processor=LogitsProcessorList(self.processors),
            stopping_criteria=StoppingCriteriaList(self.criteria),
            **arguments,
        )
        found = output if isinstance(output, Tensor) else output.sequences
        places = ends[0].places if ends else None
        if places is None:
            raise ValueError(
                "the decoding loop never asked its `stopping_criteria`; it has to call them at every step."
            )
        ended = (places >= 0) & (places <= found.shape[1])
        lengths = torch.where(ended, places, found.shape[1])
        kept = getattr(output, "past_key_values", None)
        if not (self.keeps_cache and takes_cache[0] and can_cut(kept)):
            kept = None
        return Piece(found, lengths, ended, kept, None if noted is None else noted.of(found))

    def check_samples(self, name: str, count: int) -> None:
        """Refuse several samples where all would be the same."""
        if count > 1 and not self.samples:
            raise ValueError(
                f"`{name}` is {count}, but the decoder is deterministic and gives one answer; set {name}=1, or leave "
                "penalty_alpha and custom_generate out and pass do_sample=True."
            )


def text_window(model: Any) -> int | None:
    """Positions of a model; `None` where there is no limit."""
    config = model.config.get_text_config()
    found = getattr(config, "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else None


def takes(function: Callable[..., Any], name: str) -> bool:
    """Whether a function has a parameter of that name."""
    return name in inspect.signature(function).parameters


__all__ = [
    "InverseSampler",
    "Piece",
    "RowDecoder",
    "TokenProbabilities",
    "can_cut",
    "row_draws",
    "take_rows",
    "takes",
    "text_window",
]
