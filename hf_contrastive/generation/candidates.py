"""Forward passes of the k candidates of one step, three ways with the same result.

- `SharedPrefix`: the k candidates are k tokens at one position over one cache; a mask lets each see the prefix and
  itself. Nothing is copied, and the output matrix is applied to the chosen candidate alone. Used where the model shows
  that it can: its result for one candidate is compared with an ordinary forward pass.
- `BatchedRows`: k rows for every prompt; works with every cache whose rows can be reordered.
- `OneByOne`: candidate after candidate over one cache: the memory of greedy search.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import cache_utils
from transformers.cache_utils import DynamicLayer, EncoderDecoderCache

from hf_contrastive.generation.few_rows import few_rows, packed_queries, packing_config, swappable_layers


# inputs of images, sound and video: read in the prefill, never again
_READ_ONCE = (
    "pixel_values",
    "pixel_values_videos",
    "pixel_mask",
    "pixel_attention_mask",
    "image_sizes",
    "input_features",
    "input_values",
    "inputs_embeds",
    "mm_encoder_outputs",
)

# how far two ways of computing one state may differ, relative to its size: rounding, not another context
_SAME = {torch.float64: 1e-6, torch.float32: 1e-3}
_SAME_HALF = 5e-2


# new tokens to make room for at once; then by doubling
FIRST_ROOM = 256


@dataclass
class Kept:
    """What a step leaves behind: everything about the chosen candidates.

    Args:
        logits (`Tensor` `[batch, vocabulary]`): of the token after the chosen one, before any processor.
        hidden_states, attentions, cross_attentions: per layer, in the form `generate` returns them.
    """

    logits: Tensor
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cross_attentions: tuple[Tensor, ...] | None = None


class RoomyLayer(DynamicLayer):
    """A cache layer with room for what will come: a new token is written, not joined to a copy of everything before.

    Args:
        keys, values (`Tensor` `[batch, heads, length, dim]`): what is cached so far.
        capacity (`int`): positions to make room for.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, keys: Tensor, values: Tensor, capacity: int) -> None:
        super().__init__()
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True
        self._take(keys, values, max(capacity, keys.shape[2]))

    def _take(self, keys: Tensor, values: Tensor, capacity: int) -> None:
        length = keys.shape[2]
        self._all_keys = keys.new_empty(*keys.shape[:2], capacity, keys.shape[3])
        self._all_values = values.new_empty(*values.shape[:2], capacity, values.shape[3])
        self._all_keys[:, :, :length] = keys
        self._all_values[:, :, :length] = values
        self.show(length)

    def show(self, length: int) -> None:
        """Let the first `length` positions be the cache."""
        self.keys = self._all_keys[:, :, :length]
        self.values = self._all_values[:, :, :length]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        old = self.keys.shape[2]
        new = old + key_states.shape[2]
        if new > self._all_keys.shape[2]:
            self._take(self.keys, self.values, 2 * new)
        self._all_keys[:, :, old:new] = key_states
        self._all_values[:, :, old:new] = value_states
        self.show(new)
        return self.keys, self.values

    def move(self, source: Tensor, target: int) -> None:
        """Copy one position of every row, `source` `[batch]`, to position `target`, and end the cache there."""
        for states in (self._all_keys, self._all_values):
            index = source.view(-1, 1, 1, 1).expand(-1, states.shape[1], 1, states.shape[3])
            states[:, :, target : target + 1] = states.gather(2, index)
        self.show(target + 1)

    def spread_last(self, rows: Tensor, repeats: int) -> None:
        """Give every group of `repeats` rows the last position of one of them, `rows` `[groups]`."""
        for states in (self.keys, self.values):
            states[:, :, -1] = states[rows, :, -1].repeat_interleave(repeats, dim=0)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        index = beam_idx.to(self.keys.device)
        keys, values = self.keys.index_select(0, index), self.values.index_select(0, index)
        self._take(keys, values, self._all_keys.shape[2])

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.reorder_cache(torch.arange(self.keys.shape[0]).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        index = indices.nonzero().flatten() if indices.dtype == torch.bool else indices
        self.reorder_cache(index)


def _self_attention_cache(cache: Any) -> Any:
    return cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache


def _is_standard(cache: Any) -> bool:
    """Whether all of a cache lies in its layers; models with states of another kind bring a class of their own."""
    kinds = (cache_utils.DynamicCache, cache_utils.StaticCache)
    if isinstance(cache, EncoderDecoderCache):
        return type(cache.self_attention_cache) in kinds and type(cache.cross_attention_cache) in kinds
    return type(cache) in kinds


def make_roomy(cache: Any, capacity: int, room: int = 0) -> bool:
    """Put `RoomyLayer`s in place of the layers of a cache, where all of them are plain and no window closes.

    Args:
        cache (`Cache`): after the prefill.
        capacity (`int`): positions that the generation may reach.
        room (`int`): how many of these are for candidates. Room is made for at most 256 new tokens and them at first, since a
            limit on the length may never be reached.

    Returns:
        `bool`: whether all layers are such ones now. Otherwise those of a static cache without a window are: `generate` makes
        no room there for the token after the last one, whose look-ahead is needed here.
    """
    own = _self_attention_cache(cache)
    layers = getattr(own, "layers", None)
    if not _is_standard(cache) or not layers or own.offloading:
        return False
    plain = (cache_utils.DynamicLayer, cache_utils.StaticLayer)
    windowed = (cache_utils.DynamicSlidingWindowLayer, cache_utils.StaticSlidingWindowLayer)
    roomy = all(
        type(layer) is RoomyLayer
        or (
            (type(layer) in (*plain, *windowed) and layer.is_initialized)
            and not (type(layer) in windowed and _window(layer) <= capacity)
        )
        for layer in layers
    )
    for number, layer in enumerate(layers):
        alone = type(layer) is cache_utils.StaticLayer and layer.is_initialized
        if type(layer) is not RoomyLayer and (roomy or alone):
            length = int(layer.get_seq_length())
            first = min(capacity, length + FIRST_ROOM + room)
            layers[number] = RoomyLayer(layer.keys[:, :, :length], layer.values[:, :, :length], first)
    return roomy


def _lengths(cache: Any) -> list[int | None]:
    """Positions that each layer has seen; `None` for layers that do not count."""
    layers = getattr(_self_attention_cache(cache), "layers", None) or ()
    return [int(layer.get_seq_length()) if hasattr(layer, "get_seq_length") else None for layer in layers]


def _window(layer: Any) -> int:
    # a static layer holds at most its window, so a full one may have dropped something
    window = getattr(layer, "sliding_window", None)
    return int(layer.max_cache_len if window is None else window)


def _last_hidden(outputs: Any) -> Tensor:
    return _hidden_states(outputs)[-1]


def _hidden_states(outputs: Any) -> tuple[Tensor, ...]:
    states = getattr(outputs, "decoder_hidden_states", None)
    states = getattr(outputs, "hidden_states", None) if states is None else states
    if not states:
        raise ValueError(
            f"the model returned no hidden states ({type(outputs).__name__}); contrastive search compares the last "
            "hidden states of tokens, so it needs a model that takes `output_hidden_states=True`."
        )
    return states


def _attentions(outputs: Any) -> tuple[Any, Any]:
    own = getattr(outputs, "decoder_attentions", None)
    own = getattr(outputs, "attentions", None) if own is None else own
    return own, getattr(outputs, "cross_attentions", None)


class CandidateForward:
    """What the three ways share. After the prefill they own the cache and `model_kwargs`.

    Args:
        model (`PreTrainedModel`): generates.
        model_kwargs (`dict`): of `generate`, brought up to date after the prefill.
        k (`int`): candidates of a row.
        capacity (`int`): positions that the generation may reach.
        details (`dict[str, bool]`): `output_hidden_states`, `output_attentions`.
    """

    name = ""

    def __init__(
        self, model: Any, model_kwargs: dict[str, Any], k: int, capacity: int, details: dict[str, bool]
    ) -> None:
        self.model, self.k, self.details = model, k, details
        self.encoder_decoder = bool(model.config.is_encoder_decoder)
        self.kwargs = {name: value for name, value in model_kwargs.items() if name not in _READ_ONCE}
        self.kwargs["output_hidden_states"] = True
        self.cache = model_kwargs["past_key_values"]
        self.roomy = make_roomy(self.cache, capacity + k, room=k)
        self.swappable = swappable_layers(model)
        # layers that grow with the text; others hold something else, as a picture (Llama 3.2 Vision)
        self.grows: list[bool] | None = None

    def forward(self, input_ids: Tensor, tokens: Tensor) -> Tensor:
        """Last hidden states `[batch, k, dim]` of the candidates `tokens` `[batch, k]` after `input_ids`."""
        raise NotImplementedError

    def keep(self, selected: Tensor) -> Kept:
        """Let the cache go on with the chosen candidates, `selected` `[batch]`."""
        raise NotImplementedError

    def _plain_forward(self, input_ids: Tensor) -> Any:
        """The last column of `input_ids`, as `generate` itself would pass it on."""
        inputs = self.model.prepare_inputs_for_generation(input_ids, next_sequence_length=1, **self.kwargs)
        before = _lengths(self.cache) if self.grows is None else None
        outputs = self.model(**inputs, return_dict=True)
        if before is not None:
            after = _lengths(self.cache)
            self.grows = [old is None or old != new for old, new in zip(before, after, strict=True)]
        return outputs

    def drop_last(self) -> None:
        """Take the last token out of the cache; picture and the like stay."""
        own = _self_attention_cache(self.cache)
        if self.grows is None or all(self.grows):
            own.crop(-1)
            return
        for layer, grows in zip(own.layers, self.grows, strict=True):
            if grows:
                layer.crop(-1)

    def _advance(self, outputs: Any) -> None:
        self.kwargs = self.model._update_model_kwargs_for_generation(
            outputs, self.kwargs, is_encoder_decoder=self.encoder_decoder
        )


class SharedPrefix(CandidateForward):
    """All candidates in one pass over one cache."""

    name = "shared"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        positions = self.kwargs["position_ids"]
        self.position = positions[..., -1:].clone()  # [..., batch, 1]; of the token to come
        layers = _self_attention_cache(self.cache).layers
        self.length = layers[0].keys.shape[2]
        batch = layers[0].keys.shape[0]
        dtype, device = self.model.dtype, positions.device
        hidden = torch.finfo(dtype).min
        self._alone = torch.full((self.k, self.k), hidden, dtype=dtype, device=device).fill_diagonal_(0.0)
        capacity = max(layers[0]._all_keys.shape[2], self.length + self.k)
        self.mask = torch.zeros(batch, 1, self.k, capacity, dtype=dtype, device=device)
        padding = self.kwargs.get("attention_mask")
        if padding is not None:
            left_out = ~padding[:, : self.length].bool()
            self.mask[..., : self.length].masked_fill_(left_out[:, None, None, :], hidden)
        self.body = _body_of(self.model) if not any(self.details.values()) else None
        self.packing = packing_config(self.model)
        self.outputs: Any = None
        self.hidden: Tensor | None = None

    @staticmethod
    def obstacle(model: Any, model_kwargs: dict[str, Any], details: dict[str, bool], roomy: bool) -> str | None:
        """Why this way is closed, in words; `None` when it is worth a try."""
        if model.config.is_encoder_decoder:
            return "the model is an encoder-decoder"
        if details["output_attentions"]:
            return "attention weights were asked for"
        if not roomy:
            return "the cache has layers of another kind than full attention, or a sliding window that closes"
        if model_kwargs.get("position_ids") is None:
            return "the model takes no position ids"
        if model_kwargs.get("token_type_ids") is not None:
            return "token type ids were given"
        attention = getattr(model.config.get_text_config(decoder=True), "_attn_implementation", None)
        if attention not in ("sdpa", "eager"):
            return f"attention implementation {attention!r} takes no mask of its own"
        mask = model_kwargs.get("attention_mask")
        if mask is not None and (not isinstance(mask, Tensor) or mask.dim() != 2):
            return "the attention mask is not [batch, length]"
        return None

    def _grow_mask(self, needed: int) -> None:
        more = self.mask.new_zeros(*self.mask.shape[:3], needed)
        self.mask = torch.cat([self.mask, more], dim=3)

    def forward(self, input_ids: Tensor, tokens: Tensor) -> Tensor:
        end = self.length + self.k
        if end > self.mask.shape[3]:
            self._grow_mask(end)
        self.mask[..., self.length : end] = self._alone
        inputs: dict[str, Any] = {
            "input_ids": tokens,
            "attention_mask": self.mask[..., :end],
            "position_ids": self.position.expand(*self.position.shape[:-1], self.k),
            "past_key_values": self.cache,
            "use_cache": True,
            "return_dict": True,
        }
        with few_rows(self.swappable), packed_queries(self.packing):
            if self.body is not None:
                self.outputs = None
                self.hidden = self.body(**inputs).last_hidden_state
            else:
                self.outputs = self.model(**inputs, output_hidden_states=True)
                self.hidden = _last_hidden(self.outputs)
        return self.hidden

    def keep(self, selected: Tensor) -> Kept:
        assert self.hidden is not None
        source = self.length + selected
        for layer in _self_attention_cache(self.cache).layers:
            layer.move(source.to(layer.device), self.length)
        self.mask[..., self.length] = 0.0
        self.length += 1
        self.position = self.position + 1
        if self.outputs is None:
            return Kept(self.model.get_output_embeddings()(_row(self.hidden, selected))[:, 0])
        logits = _row(self.outputs.logits, selected)[:, 0]
        if not self.details["output_hidden_states"]:
            return Kept(logits)
        return Kept(logits, tuple(_row(states, selected) for states in _hidden_states(self.outputs)))

    def agrees(self, input_ids: Tensor, tokens: Tensor) -> str | None:
        """Try it on the first step's candidates; leaves the result in place for `keep`.

        Returns:
            `None` when the state of the last candidate is what an ordinary forward pass gives; else what differs.
        """
        layers = _self_attention_cache(self.cache).layers
        outputs = self._plain_forward(torch.cat([input_ids, tokens[:, -1:]], dim=1))
        expected, logits = _last_hidden(outputs)[:, -1], outputs.logits[:, -1]
        if not all(self.grows or ()):
            self.drop_last()
            return "a layer of the cache holds something else than the text"
        if self.body is not None and not _same_logits(self.model.get_output_embeddings()(expected[:, None]), logits):
            self.body = None  # the logits are changed after the output matrix
        for layer in layers:
            layer.show(self.length)
        problem = None
        packing = self.packing
        ways = dict.fromkeys((body, packed) for packed in (packing is not None, False) for body in (self.body, None))
        for body, packed in ways:
            self.body, self.packing = body, packing if packed else None
            try:
                hidden = self.forward(input_ids, tokens)
                if hidden.shape[1] != self.k:
                    problem = f"the model returned {hidden.shape[1]} states for {self.k} tokens"
                elif not _alike(hidden[:, -1], expected):
                    problem = "a candidate's state depends on the candidates beside it"
                else:
                    last = torch.full_like(tokens[:, 0], self.k - 1)
                    if body is not None:
                        found = self.model.get_output_embeddings()(_row(hidden, last))[:, 0]
                    else:
                        found = self.outputs.logits[:, -1]
                    problem = None if _alike(found, logits) else "its logits differ from those of an ordinary pass"
            except (ValueError, TypeError, RuntimeError, IndexError, AttributeError) as error:
                problem = f"the model refused: {type(error).__name__}: {error}"
            if problem is None:
                return None
            for layer in layers:
                layer.show(self.length)
        return problem


def _row(states: Tensor, selected: Tensor) -> Tensor:
    """`[batch, k, dim]` -> `[batch, 1, dim]`, the selected one."""
    index = selected.to(states.device).view(-1, 1, 1).expand(-1, 1, states.shape[2])
    return states.gather(1, index)


def _same_logits(found: Tensor, expected: Tensor) -> bool:
    """Whether the output matrix alone gives the model's logits, those that matter included."""
    found, expected = found[:, 0].float(), expected.float()
    largest = expected.topk(min(8, expected.shape[-1]), dim=-1).indices
    found, expected = found.gather(1, largest), expected.gather(1, largest)
    return bool(((found - expected).abs() <= 0.01 * expected.abs() + 1e-3).all())


def _alike(found: Tensor, expected: Tensor) -> bool:
    limit = _SAME.get(found.dtype, _SAME_HALF)
    difference = (found.float() - expected.float()).norm(dim=-1)
    return bool((difference <= limit * expected.float().norm(dim=-1) + 1e-6).all())


def _body_of(model: Any) -> Any:
    """The model without its output matrix, where the two can be called one after the other."""
    body, head = getattr(model, "base_model", None), model.get_output_embeddings()
    if body is None or body is model or head is None:
        return None
    config = model.config.get_text_config(decoder=True)
    # small logits do not show that large ones would be changed
    changed = ("final_logit_softcapping", "logit_scale", "logits_scaling", "output_multiplier_scale", "logit_softcap")
    if any(getattr(config, name, None) not in (None, 0, 1) for name in changed):
        return None
    # weights that live elsewhere are fetched by hooks of the whole model
    return None if hasattr(model, "_hf_hook") or getattr(model, "hf_device_map", None) else body


class BatchedRows(CandidateForward):
    """k rows for every prompt."""

    name = "batched"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        expanded = {name: value for name, value in self.kwargs.items() if name != "past_key_values"}
        _, expanded = self.model._expand_inputs_for_generation(
            expand_size=self.k, is_encoder_decoder=self.encoder_decoder, **expanded
        )
        self.kwargs = {**expanded, "past_key_values": self.cache}
        # rows that stay repeated need one reordering a step; a cache of an unknown kind is repeated for each step
        self.stays = _is_standard(self.cache)
        self.repeated = False
        self.outputs: Any = None

    def forward(self, input_ids: Tensor, tokens: Tensor) -> Tensor:
        batch = tokens.shape[0]
        if not self.repeated:
            if self.stays:
                self.cache.reorder_cache(torch.arange(batch, device=tokens.device).repeat_interleave(self.k))
            else:
                self.cache.batch_repeat_interleave(self.k)
            self.repeated = True
        ids = torch.cat([input_ids.repeat_interleave(self.k, dim=0), tokens.reshape(-1, 1)], dim=1)
        with few_rows(self.swappable):
            self.outputs = self._plain_forward(ids)
        return _last_hidden(self.outputs)[:, -1].unflatten(0, (batch, self.k))

    def keep(self, selected: Tensor) -> Kept:
        rows = torch.arange(len(selected), device=selected.device) * self.k + selected
        if self.roomy:  # the k rows of a prompt differ in their last position only
            for layer in _self_attention_cache(self.cache).layers:
                layer.spread_last(rows.to(layer.device), self.k)
        elif self.stays:
            self.cache.reorder_cache(rows.repeat_interleave(self.k))
        else:
            self.cache.batch_select_indices(rows)
            self.repeated = False
        self._advance(self.outputs)
        self.kwargs["past_key_values"] = self.cache
        return _kept(self.outputs, rows, self.details)

    def finish(self, batch: int) -> None:
        """One row for each prompt again, for a cache that is returned."""
        if self.repeated:
            self.cache.reorder_cache(torch.arange(batch, device=self.model.device) * self.k)
            self.repeated = False


def _kept(outputs: Any, rows: Tensor, details: dict[str, bool]) -> Kept:
    def pick(states: Sequence[Tensor] | None) -> tuple[Tensor, ...] | None:
        return None if states is None else tuple(state[rows.to(state.device)] for state in states)

    kept = Kept(outputs.logits[rows.to(outputs.logits.device), -1])
    if details["output_hidden_states"]:
        kept.hidden_states = pick(_hidden_states(outputs))
    if details["output_attentions"]:
        own, cross = _attentions(outputs)
        kept.attentions, kept.cross_attentions = pick(own), pick(cross)
    return kept


class OneByOne(CandidateForward):
    """Candidate after candidate over one cache; the chosen one's keys and values are put back."""

    name = "sequential"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        if not self.roomy:
            if not getattr(self.cache, "is_croppable", False):
                raise ValueError(
                    f"`low_memory` takes the last token out of the cache again, which {type(self.cache).__name__} of "
                    f"{type(self.model).__name__} cannot do; leave `low_memory` out."
                )
            self.cache.activate_past_recording()
        self.input_ids: Tensor | None = None
        self.tokens: Tensor | None = None
        self.outputs: list[Any] = []
        self.states: list[list[tuple[Tensor, Tensor]]] = []

    def forward(self, input_ids: Tensor, tokens: Tensor) -> Tensor:
        self.input_ids, self.tokens = input_ids, tokens
        self.outputs, self.states = [], []
        hidden = []
        for number in range(self.k):
            outputs = self._plain_forward(torch.cat([input_ids, tokens[:, number : number + 1]], dim=1))
            hidden.append(_last_hidden(outputs)[:, -1])
            self.outputs.append(outputs)
            if self.roomy:
                layers = _self_attention_cache(self.cache).layers
                self.states.append(
                    [(layer.keys[:, :, -1:].clone(), layer.values[:, :, -1:].clone()) for layer in layers]
                )
            self.drop_last()
        return torch.stack(hidden, dim=1)

    def keep(self, selected: Tensor) -> Kept:
        assert self.input_ids is not None
        assert self.tokens is not None
        if self.roomy:
            for number, layer in enumerate(_self_attention_cache(self.cache).layers):
                if self.grows is not None and not self.grows[number]:
                    continue
                chosen = [_choose([step[number][part] for step in self.states], selected) for part in range(2)]
                layer.update(*chosen)
        else:
            chosen_token = self.tokens.gather(1, selected[:, None])
            self._plain_forward(torch.cat([self.input_ids, chosen_token], dim=1))
            _self_attention_cache(self.cache).crop(0)
        kept = Kept(_choose([outputs.logits[:, -1] for outputs in self.outputs], selected))
        if self.details["output_hidden_states"]:
            kept.hidden_states = _choose_each([_hidden_states(outputs) for outputs in self.outputs], selected)
        if self.details["output_attentions"]:
            own, cross = zip(*(_attentions(outputs) for outputs in self.outputs), strict=True)
            kept.attentions, kept.cross_attentions = _choose_each(own, selected), _choose_each(cross, selected)
        self._advance(self.outputs[-1])
        self.kwargs["past_key_values"] = self.cache
        self.outputs, self.states = [], []
        return kept


def _choose(options: Sequence[Tensor], selected: Tensor) -> Tensor:
    """k tensors `[batch, ...]` -> one, row b from option `selected[b]`."""
    stacked = torch.stack(list(options))
    rows = torch.arange(stacked.shape[1], device=stacked.device)
    return stacked[selected.to(stacked.device), rows]


def _choose_each(options: Sequence[Any], selected: Tensor) -> tuple[Tensor, ...] | None:
    if options[0] is None:
        return None
    return tuple(_choose([option[layer] for option in options], selected) for layer in range(len(options[0])))


__all__ = ["BatchedRows", "CandidateForward", "Kept", "OneByOne", "RoomyLayer", "SharedPrefix", "make_roomy"]
