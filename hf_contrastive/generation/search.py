"""Contrastive search as the decoding loop of `generate`."""

from __future__ import annotations

import contextlib
import logging
import math
import warnings
import weakref
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.generation import GenerateDecoderOnlyOutput, GenerateEncoderDecoderOutput
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.integrations.fsdp import is_fsdp_managed_module

from hf_contrastive.generation.candidates import (
    FIRST_ROOM,
    BatchedRows,
    CandidateForward,
    Kept,
    OneByOne,
    SharedPrefix,
    _attentions,
    _hidden_states,
    make_roomy,
)
from hf_contrastive.generation.few_rows import MOST_ROWS, column_layout
from hf_contrastive.generation.ranking import ContextStates, unit_states


logger = logging.getLogger(__name__)

# from so many new tokens on, a model's matrices may be written another way for the time being
_MANY_TOKENS = 32
PATHS = ("auto", "shared", "batched", "sequential")
SCOPES = ("all", "generated")

# models whose shared-prefix pass was compared with an ordinary one: what came out, by settings that could change it
_verified: weakref.WeakKeyDictionary[Any, dict[tuple, tuple[str | None, bool, bool]]] = weakref.WeakKeyDictionary()


@torch.no_grad()
def contrastive_search(
    model: Any,
    input_ids: Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    streamer: Any = None,
    synced_gpus: bool | None = None,
    contrastive_streamer: Any = None,
    penalty_scope: str = "all",
    candidate_path: str = "auto",
    trace: list[dict[str, Tensor]] | None = None,
    **model_kwargs: Any,
) -> Any:
    """Contrastive search, for `model.generate(**inputs, custom_generate=contrastive_search, penalty_alpha=0.6, top_k=4)`.

    At every step the `top_k` most likely tokens are candidates; the one with the best balance of confidence and
    difference from everything said before is taken (Su et al. 2022, https://arxiv.org/abs/2202.06417, equation 5):

        score(v) = (1 - penalty_alpha) * p(v | x) - penalty_alpha * max over j of cos(h_v, h_j)

    with h the last hidden states. Deterministic. A padded batch gives row by row what each prompt alone gives. Costs one
    forward pass of `top_k` tokens a step, over one cache where the model allows it.

    `generate` calls this function; what is yours to set, in the call of `generate`:

    Args:
        penalty_alpha (`float`): weight of the penalty, 0 to 1; 0 is greedy search. The papers use 0.6; 0.1 to 0.4 for
            models whose hidden states all look alike (low isotropy).
        top_k (`int`): number of candidates, 2 or more.
        penalty_scope (`"all"` or `"generated"`, defaults to `"all"`): compare with the prompt and what was generated, or
            with what was generated only (summarisation of a long prompt; the first token then has no penalty).
        low_memory (`bool`, *optional*): candidates one after the other; the memory of greedy search, more time.
        candidate_path (`"auto"`, `"shared"`, `"batched"` or `"sequential"`): how the candidates are computed. All give
            the same tokens; `"auto"` takes the fastest that the model can.
        contrastive_streamer (streamer, *optional*): gets every token; give the same object as `streamer=` too, which
            `generate` uses for the prompt and then forgets. `generate_contrastive` does both.
        trace (`list`, *optional*): gets a `dict` for each step: `top_k_ids`, `top_k_probs`, `degeneration_penalty`,
            `contrastive_score` `[batch, k]`, `selected_idx` `[batch]`.
        model, input_ids, logits_processor, stopping_criteria, generation_config, streamer, synced_gpus,
            **model_kwargs: from `generate`.

    Returns:
        What `generate` returns: token ids `[batch, length]`, or a `GenerateDecoderOnlyOutput` /
        `GenerateEncoderDecoderOutput` with `return_dict_in_generate=True`.

    Raises:
        ValueError: settings that cannot work; the message says which one to change.

    Example:

    ```python
    >>> import torch
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> from hf_contrastive import contrastive_search
    >>> config = GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0, pad_token_id=0)
    >>> model = GPT2LMHeadModel(config).eval()
    >>> ids = model.generate(
    ...     torch.tensor([[5, 6, 7]]), attention_mask=torch.ones(1, 3), custom_generate=contrastive_search,
    ...     penalty_alpha=0.6, top_k=4, max_new_tokens=3, min_new_tokens=3,
    ... )
    >>> ids.shape
    torch.Size([1, 6])

    ```
    """
    streamer = contrastive_streamer if streamer is None else streamer
    alpha, k = _check_settings(model, generation_config, penalty_scope, candidate_path, model_kwargs)
    limit = stopping_criteria.max_length
    at_once = not (generation_config.low_memory or candidate_path == "sequential")
    # writing the matrices another way, and back, takes about as long as a few tokens
    pays = limit is None or limit - input_ids.shape[1] >= _MANY_TOKENS
    few = at_once and input_ids.shape[0] * k <= MOST_ROWS
    with column_layout(model) if pays and few else contextlib.nullcontext():
        return _search(
            model, input_ids, logits_processor, stopping_criteria, generation_config, streamer, synced_gpus,
            penalty_scope, candidate_path, trace, alpha, k, model_kwargs,
        )  # fmt: skip


def _search(
    model: Any,
    input_ids: Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    streamer: Any,
    synced_gpus: bool | None,
    penalty_scope: str,
    candidate_path: str,
    trace: list[dict[str, Tensor]] | None,
    alpha: float,
    k: int,
    model_kwargs: dict[str, Any],
) -> Any:
    if synced_gpus is None:  # `generate` does not pass it on
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        synced_gpus = several and (is_deepspeed_zero3_enabled() or is_fsdp_managed_module(model))
    wanted = bool(generation_config.return_dict_in_generate)
    details = {
        "output_hidden_states": wanted and bool(generation_config.output_hidden_states),
        "output_attentions": wanted and bool(generation_config.output_attentions),
    }
    record = _Record(generation_config, details, wanted)
    if generation_config.do_sample:  # its top-k and temperature would change the probabilities
        logits_processor = type(logits_processor)(
            processor for processor in logits_processor if not type(processor).__name__.endswith("Warper")
        )
    pad_token = getattr(generation_config, "_pad_token_tensor", None)
    has_eos = any(hasattr(criteria, "eos_token_id") for criteria in stopping_criteria)
    limit = stopping_criteria.max_length
    capacity = input_ids.shape[1] + 256 if limit is None else limit

    # prefill: every position's last hidden state, and the logits of the first token
    model_kwargs["output_hidden_states"] = True
    inputs = model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **model_kwargs)
    outputs = model(**inputs, return_dict=True)
    states = _hidden_states(outputs)
    kept = Kept(outputs.logits[:, -1])
    if details["output_hidden_states"]:
        kept.hidden_states = states
    if details["output_attentions"]:
        kept.attentions, kept.cross_attentions = _attentions(outputs)
    counts = _context_counts(model, states[-1], model_kwargs, penalty_scope)
    context = ContextStates(states[-1], counts, min(capacity, states[-1].shape[1] + FIRST_ROOM) + 1)
    model_kwargs = model._update_model_kwargs_for_generation(
        outputs, model_kwargs, is_encoder_decoder=model.config.is_encoder_decoder
    )
    if not isinstance(model_kwargs.get("past_key_values"), Cache):
        raise ValueError(
            f"{type(model).__name__} keeps no cache that contrastive search can use (found "
            f"{type(model_kwargs.get('past_key_values')).__name__}); it works with models whose `past_key_values` is a "
            "transformers Cache, and with `use_cache=True`."
        )
    del outputs, states, inputs

    way: CandidateForward | None = None
    unfinished = torch.ones(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
    finished = False
    while model._has_unfinished_sequences(finished, synced_gpus, device=input_ids.device):
        # a copy: processors may write into it, and what is recorded must not change
        logits = kept.logits.to(copy=True, dtype=torch.float32, device=input_ids.device)
        scores = logits_processor(input_ids, logits.clone() if record.logits is not None else logits)
        probabilities = scores.softmax(dim=-1)
        top_probabilities, top_tokens = probabilities.topk(min(k, probabilities.shape[-1]), dim=-1)
        if not finished:
            record.step(scores, logits, kept)

        if way is None:
            way = _choose_way(
                model, model_kwargs, input_ids, top_tokens, capacity, details, candidate_path,
                bool(generation_config.low_memory), bool(synced_gpus),
            )  # fmt: skip
            hidden = way.hidden if isinstance(way, SharedPrefix) and way.hidden is not None else None
            hidden = way.forward(input_ids, top_tokens) if hidden is None else hidden
        else:
            hidden = way.forward(input_ids, top_tokens)
        unit = unit_states(hidden).to(context.states.device)
        penalty = context.penalty(unit)
        score = (1 - alpha) * top_probabilities.to(penalty.device) - alpha * penalty
        selected = score.argmax(-1)
        if trace is not None and not finished:
            trace.append(
                {
                    "top_k_ids": top_tokens,
                    "top_k_probs": top_probabilities,
                    "degeneration_penalty": penalty,
                    "contrastive_score": score,
                    "selected_idx": selected,
                }
            )
        context.append(unit.gather(1, selected.view(-1, 1, 1).expand(-1, 1, unit.shape[2]))[:, 0])
        kept = way.keep(selected)
        if finished:  # other processes still need their forward passes
            continue

        tokens = top_tokens.gather(1, selected.to(top_tokens.device)[:, None])[:, 0]
        if has_eos and pad_token is not None:
            tokens = torch.where(unfinished, tokens, pad_token.to(tokens.device))
        input_ids = torch.cat([input_ids, tokens[:, None]], dim=-1)
        if streamer is not None:
            streamer.put(tokens.cpu())
        unfinished = unfinished & ~stopping_criteria(input_ids, record.scores)
        finished = not bool(unfinished.any())

    if streamer is not None:
        streamer.end()
    if not wanted:
        return input_ids
    cache = None if way is None else way.cache
    if way is not None:
        if isinstance(way, BatchedRows):
            way.finish(input_ids.shape[0])
        # the last token is in the cache already, which nobody expects
        if getattr(cache, "is_croppable", False):
            way.drop_last()
    return record.output(model, input_ids, cache, model_kwargs)


def _check_settings(
    model: Any, config: Any, penalty_scope: str, candidate_path: str, model_kwargs: dict[str, Any]
) -> tuple[float, int]:
    alpha, k = config.penalty_alpha, config.top_k
    if (
        isinstance(alpha, bool)
        or not isinstance(alpha, (int, float))
        or not 0 <= alpha <= 1
        or not math.isfinite(alpha)
    ):
        raise ValueError(f"`penalty_alpha` is {alpha!r}, but it must be a number from 0 to 1; pass penalty_alpha=0.6.")
    if isinstance(k, bool) or not isinstance(k, int) or k < 2:
        raise ValueError(f"`top_k` is {k!r}, but contrastive search needs 2 or more candidates; pass top_k=4.")
    if penalty_scope not in SCOPES:
        raise ValueError(
            f"`penalty_scope` is {penalty_scope!r}, but it must be one of {', '.join(map(repr, SCOPES))}."
        )
    if candidate_path not in PATHS:
        raise ValueError(
            f"`candidate_path` is {candidate_path!r}, but it must be one of {', '.join(map(repr, PATHS))}."
        )
    if (config.num_beams or 1) > 1:
        raise ValueError(f"`num_beams` is {config.num_beams}; contrastive search has no beams, set num_beams=1.")
    if (config.num_return_sequences or 1) > 1:
        raise ValueError(
            f"`num_return_sequences` is {config.num_return_sequences}; contrastive search is deterministic and returns one "
            "sequence for each prompt, set num_return_sequences=1."
        )
    if not model_kwargs.get("use_cache", config.use_cache):
        raise ValueError("`use_cache` is False; contrastive search works over the cache, set use_cache=True.")
    if config.prefill_chunk_size is not None:
        raise ValueError(
            "`prefill_chunk_size` is set; contrastive search needs the hidden states of the whole prompt, leave it out."
        )
    if config.low_memory and candidate_path not in ("auto", "sequential"):
        raise ValueError(
            f"`low_memory` goes one by one, but `candidate_path` is {candidate_path!r}; leave one of them out."
        )
    cache = model_kwargs.get("past_key_values")
    if "Quantized" in type(cache).__name__:
        raise ValueError(
            "a quantized cache cannot give back the last token, which contrastive search does for every candidate; leave "
            "`cache_implementation` out."
        )
    own = getattr(cache, "self_attention_cache", cache)
    if any(getattr(layer, "is_initialized", False) for layer in getattr(own, "layers", ())):
        raise ValueError(
            "`past_key_values` already holds a context, but contrastive search compares with the hidden states of the "
            "whole context, which no cache holds; pass the whole prompt without it."
        )
    if config.do_sample:
        warnings.warn("`do_sample=True` is ignored: contrastive search is deterministic.", UserWarning, stacklevel=3)
    vocabulary = model.config.get_text_config(decoder=True).vocab_size
    if k > vocabulary:
        warnings.warn(
            f"`top_k` is {k}, more than the {vocabulary} tokens of the vocabulary; {vocabulary} are used.",
            stacklevel=3,
        )
        k = vocabulary
    return float(alpha), k


def _context_counts(model: Any, hidden: Tensor, model_kwargs: dict[str, Any], penalty_scope: str) -> Tensor | None:
    """Which positions of the prompt count for the penalty; `None` = all."""
    if penalty_scope == "generated":
        return torch.zeros(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
    name = "decoder_attention_mask" if model.config.is_encoder_decoder else "attention_mask"
    mask = model_kwargs.get(name)
    return mask if isinstance(mask, Tensor) and mask.shape == hidden.shape[:2] else None


def _choose_way(
    model: Any,
    model_kwargs: dict[str, Any],
    input_ids: Tensor,
    tokens: Tensor,
    capacity: int,
    details: dict[str, bool],
    path: str,
    low_memory: bool,
    synced: bool,
) -> CandidateForward:
    settings = (model, model_kwargs, tokens.shape[1], capacity, details)
    if low_memory or path == "sequential":
        return OneByOne(*settings)
    if path in ("auto", "shared"):
        roomy = make_roomy(model_kwargs["past_key_values"], capacity + tokens.shape[1], room=tokens.shape[1])
        problem = SharedPrefix.obstacle(model, model_kwargs, details, roomy)
        if synced:  # every process must make the same passes, and the comparison may end early in one
            problem = "the weights are spread over processes"
        if problem is None:
            shared = SharedPrefix(*settings)
            problem = _verify(shared, model, model_kwargs, input_ids, tokens)
            if problem is None:
                return shared
        if path == "shared":
            raise ValueError(
                f"candidate_path='shared' is not possible: {problem}. Leave it out, or set candidate_path='batched'."
            )
        logger.info("contrastive search takes one row for each candidate: %s", problem)
    return BatchedRows(*settings)


def _verify(
    shared: SharedPrefix, model: Any, model_kwargs: dict[str, Any], input_ids: Tensor, tokens: Tensor
) -> str | None:
    """What keeps the model from sharing the prefix; compared once for each model and setting, then remembered."""
    attention = getattr(model.config.get_text_config(decoder=True), "_attn_implementation", None)
    padded = model_kwargs.get("attention_mask") is not None
    key = (attention, model.dtype, str(model.device), padded, any(shared.details.values()))
    known = _verified.setdefault(model, {})
    if key not in known:
        problem = shared.agrees(input_ids, tokens)
        known[key] = (problem, shared.body is not None, shared.packing is not None)
        return problem
    problem, with_body, packed = known[key]
    if not with_body:
        shared.body = None
    if not packed:
        shared.packing = None
    return problem


class _Record:
    """What is returned beside the tokens, when it was asked for."""

    def __init__(self, config: Any, details: dict[str, bool], wanted: bool) -> None:
        self.details = details
        self.scores: tuple[Tensor, ...] | None = () if wanted and config.output_scores else None
        self.logits: tuple[Tensor, ...] | None = () if wanted and config.output_logits else None
        self.hidden_states: tuple[Any, ...] | None = () if details["output_hidden_states"] else None
        self.attentions: tuple[Any, ...] | None = () if details["output_attentions"] else None
        self.cross_attentions: tuple[Any, ...] | None = () if details["output_attentions"] else None

    def step(self, scores: Tensor, logits: Tensor, kept: Kept) -> None:
        if self.scores is not None:
            self.scores += (scores,)
        if self.logits is not None:
            self.logits += (logits,)
        if self.hidden_states is not None:
            self.hidden_states += (kept.hidden_states,)
        if self.attentions is not None and self.cross_attentions is not None:
            self.attentions += (kept.attentions,)
            self.cross_attentions += (kept.cross_attentions,)

    def output(self, model: Any, sequences: Tensor, cache: Any, model_kwargs: dict[str, Any]) -> Any:
        parts: dict[str, Any] = {
            "sequences": sequences,
            "scores": self.scores,
            "logits": self.logits,
            "past_key_values": cache,
        }
        if not model.config.is_encoder_decoder:
            parts |= {"attentions": self.attentions, "hidden_states": self.hidden_states}
            return GenerateDecoderOnlyOutput(**parts)
        encoder = model_kwargs["encoder_outputs"]
        parts |= {
            "encoder_attentions": encoder.get("attentions") if self.details["output_attentions"] else None,
            "encoder_hidden_states": encoder.get("hidden_states") if self.details["output_hidden_states"] else None,
            "decoder_attentions": self.attentions,
            "cross_attentions": self.cross_attentions,
            "decoder_hidden_states": self.hidden_states,
        }
        return GenerateEncoderDecoderOutput(**parts)


__all__ = ["contrastive_search"]
