"""What decoding with a reward model shares: its states for new tokens only, and how prompts come in."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from hf_contrastive.generation.candidates import _alike
from hf_contrastive.generation.row_decoding import can_cut, take_rows, takes, text_window


logger = logging.getLogger(__name__)

# reward models whose reading in pieces was compared with reading at once, by settings that could change the answer
_verified: weakref.WeakKeyDictionary[Any, dict[tuple, str]] = weakref.WeakKeyDictionary()
# last tokens of a prompt that are read over a cache for the comparison: two, since recurrent states may take one only
_TAIL = 2


class StateReader:
    """Last hidden states of a reward model's backbone for rows that grow: every token is read once, over a cache.

    Recurrent states that take one token at a time get them one after the other. Where the backbone keeps no cache
    whose rows can be taken out, or reads padded rows over it otherwise than at once, everything is read anew each
    time: slower, the same states. Which way a model can go is found out by comparison when it is first used.

    Args:
        reward_model ([`GoalConditionedRewardModel`]): has `backbone`, and `last_hidden_state` in its output.
        ids, mask (`LongTensor` `[rows, length]`): prompts, padded on the left.
    """

    def __init__(self, reward_model: Any, ids: Tensor, mask: Tensor) -> None:
        self.model = reward_model
        self.device = reward_model.device
        self.takes_positions = takes(reward_model.backbone.forward, "position_ids")
        # : "pieces": several new tokens at once; "columns": one after the other, as recurrent states need; "anew":
        # everything
        self.way = "pieces" if takes(reward_model.backbone.forward, "past_key_values") else "anew"
        self.cache: Any = None
        self._branches: Any = None
        ids, mask = ids.to(self.device), mask.to(self.device)
        self.padded = not bool(mask.all())
        self.ids, self.mask = ids[:, :0], mask[:, :0]
        self._read_prompts(ids, mask)

    @property
    def length(self) -> int:
        """Columns read so far, padding included."""
        return self.ids.shape[1]

    def _read_prompts(self, ids: Tensor, mask: Tensor) -> None:
        """Read the prompts, and find out how what follows can be read."""
        attention = getattr(self.model.backbone.config, "_attn_implementation", None)
        key = (attention, self.model.dtype, str(self.device), self.padded)
        known = _verified.setdefault(self.model, {})
        if self.way == "anew" or known.get(key) == "anew":
            self._restart("anew")
            self.ids, self.mask = ids, mask
            return
        if ids.shape[1] <= _TAIL:  # too short to compare anything
            self.read(ids, mask)
            if self.way != "anew":
                self.way = known.get(key, "columns" if self._is_recurrent() else "pieces")
            return
        # a model that is known reads the same pieces as one that is compared, so that its numbers are the same to the
        # last bit
        expected = None if key in known else self._read_all(ids, mask)[:, -1]
        for way in ("pieces", "columns") if key not in known else (known[key],):
            self._restart(way)
            self.read(ids[:, :-_TAIL], mask[:, :-_TAIL])
            found = self.read(ids[:, -_TAIL:], mask[:, -_TAIL:])[:, -1]
            if expected is None or (self.way == way and _alike(found, expected)):
                known[key] = way
                return
        logger.info("the states of %s are read anew each time", type(self.model.backbone).__name__)
        known[key] = "anew"
        self._restart("anew")
        self.ids, self.mask = ids, mask

    def _restart(self, way: str) -> None:
        self.way, self.cache, self._branches = way, None, None
        self.ids, self.mask = self.ids[:, :0], self.mask[:, :0]

    def _is_recurrent(self) -> bool:
        return any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in getattr(self.cache, "layers", ()))

    def _forward(self, tokens: Tensor, mask: Tensor, cache: Any) -> Any:
        inputs = {
            "input_ids": tokens,
            "attention_mask": mask,
            "past_key_values": cache,
            "use_cache": True,
            "return_dict": True,
        }
        if self.takes_positions:
            positions = (mask.long().cumsum(1) - 1).clamp_min(0)
            inputs["position_ids"] = positions[:, -tokens.shape[1] :]
        return self.model.backbone(**inputs)

    def read(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """States `[rows, new, dim]` of new tokens `[rows, new]` behind what was read."""
        tokens = tokens.to(self.device)
        new_mask = torch.ones_like(tokens) if mask is None else mask
        if self.way == "columns" and self.length and tokens.shape[1] > 1:
            columns = [self.read(tokens[:, [place]], new_mask[:, [place]]) for place in range(tokens.shape[1])]
            return torch.cat(columns, dim=1)
        self.ids = torch.cat([self.ids, tokens], dim=1)
        self.mask = torch.cat([self.mask, new_mask.to(self.mask)], dim=1)
        self._branches = None
        if self.way == "anew":
            return self._read_all(self.ids, self.mask)[:, -tokens.shape[1] :]
        outputs = self._forward(tokens, self.mask, self.cache)
        self.cache = getattr(outputs, "past_key_values", None)
        if not can_cut(self.cache):
            self.way, self.cache = "anew", None
        return outputs.last_hidden_state

    def _read_all(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.model(input_ids=ids, attention_mask=mask).last_hidden_state

    def select(self, rows: Tensor) -> None:
        """Go on with these rows, `[new_rows]`, in this order, perhaps several times."""
        rows = rows.to(self.device)
        self.ids, self.mask = self.ids[rows], self.mask[rows]
        self._branches = None
        if self.cache is not None:
            self.cache = take_rows(self.cache, rows)

    def branch(self, tokens: Tensor) -> Tensor:
        """States `[rows, k, dim]` of k tokens `[rows, k]` that could come next; what was read stays as it is."""
        rows, k = tokens.shape
        tokens = tokens.to(self.device)
        spread = torch.arange(rows, device=self.device).repeat_interleave(k)
        mask = torch.cat([self.mask[spread], self.mask.new_ones(rows * k, 1)], dim=1)
        column = tokens.reshape(-1, 1)
        if self.way == "anew":
            hidden = self._read_all(torch.cat([self.ids[spread], column], dim=1), mask)[:, -1]
            return hidden.unflatten(0, (rows, k))
        outputs = self._forward(column, mask, take_rows(self.cache, spread))
        self._branches = (tokens, outputs.past_key_values)
        return outputs.last_hidden_state[:, -1].unflatten(0, (rows, k))

    def follow(self, parents: Tensor, tokens: Tensor) -> None:
        """Go on with rows `parents` `[new_rows]`, each with one more token, `tokens` `[new_rows]`.

        Nothing is computed when these are tokens of the last `branch`.
        """
        parents, tokens = parents.to(self.device), tokens.to(self.device)
        if self._branches is not None:
            candidates, cache = self._branches
            found = candidates[parents] == tokens[:, None]
            if bool(found.any(1).all()):
                places = parents * candidates.shape[1] + found.int().argmax(1)
                self._branches = None
                self.cache = take_rows(cache, places)
                self.ids = torch.cat([self.ids[parents], tokens[:, None]], dim=1)
                self.mask = torch.cat([self.mask[parents], self.mask.new_ones(len(parents), 1)], dim=1)
                return
        self.select(parents)
        if self.way != "anew":
            self.read(tokens[:, None])
        else:
            self.ids = torch.cat([self.ids, tokens[:, None]], dim=1)
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(parents), 1)], dim=1)


@dataclass
class Prompts:
    """Prompts as a batch padded on the left, as short as they can be.

    Args:
        ids, mask (`LongTensor` `[prompts, length]`): token ids, and 0 for padding.
        texts (`list[str]`, *optional*): when they came as texts.
        single (`bool`): one text was given, not a list.
    """

    ids: Tensor
    mask: Tensor
    texts: list[str] | None = None
    single: bool = False

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, places: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Ids and mask of some prompts, without columns in which none of them has a token."""
        ids, mask = self.ids[list(places)], self.mask[list(places)]
        first = int(mask.any(0).int().argmax())
        return ids[:, first:], mask[:, first:]

    def lengths(self) -> list[int]:
        """Tokens of every prompt."""
        return self.mask.sum(1).tolist()


def read_prompts(inputs: Any, tokenizer: Any, model: Any, name: str = "inputs") -> Prompts:
    """Prompts from texts, or from token ids padded on the left.

    Args:
        inputs (`str`, list of `str`, mapping of tensors or `Tensor`): texts, what a tokenizer returns, or ids.
        tokenizer (*optional*): for texts.
        model: its pad token tells padding where ids come without a mask.
        name (`str`): what they are called in messages.

    Returns:
        [`Prompts`].

    Raises:
        ValueError: no prompt, one without a token, texts without a tokenizer or pad token, ids padded on the right, or
            other inputs than ids and mask.
    """
    texts = None
    single = isinstance(inputs, str)
    if isinstance(inputs, str) or (isinstance(inputs, Sequence) and all(isinstance(text, str) for text in inputs)):
        texts = [inputs] if isinstance(inputs, str) else list(inputs)
        if not texts:
            raise ValueError(f"`{name}` is empty; give at least one prompt.")
        if tokenizer is None:
            raise ValueError(
                f"`{name}` are texts and need a tokenizer; pass tokenizer=AutoTokenizer.from_pretrained(...)."
            )
        ids, mask = _from_texts(texts, tokenizer, name)
    else:
        ids, mask = _from_tensors(inputs, model, name)
    if mask.shape != ids.shape:
        raise ValueError(
            f"the attention mask of `{name}` has shape {list(mask.shape)}, expected that of the ids, {list(ids.shape)}."
        )
    mask = (mask != 0).long()
    if bool((mask.sum(1) == 0).any()):
        row = int((mask.sum(1) == 0).nonzero()[0])
        raise ValueError(f"prompt {row} of `{name}` has no token; give every prompt at least one.")
    if bool((mask[:, 1:] < mask[:, :-1]).any()):
        raise ValueError(
            f"`{name}` is padded on the right or has gaps; pad it on the left: tokenizer.padding_side = 'left'."
        )
    prompts = Prompts(ids, mask, texts, single)
    prompts.ids, prompts.mask = prompts.rows(range(len(ids)))
    return prompts


def _from_texts(texts: list[str], tokenizer: Any, name: str) -> tuple[Tensor, Tensor]:
    encoded = [list(tokenizer(text)["input_ids"]) for text in texts]
    longest = max(map(len, encoded))
    pad = tokenizer.pad_token_id
    if pad is None:
        if any(len(row) < longest for row in encoded):
            raise ValueError(
                f"`{name}` have different lengths and are padded, but the tokenizer has no pad token; set "
                "tokenizer.pad_token = tokenizer.eos_token."
            )
        pad = 0
    return left_padded(encoded, pad)


def left_padded(rows: Sequence[Sequence[int]], pad: int = 0) -> tuple[Tensor, Tensor]:
    """Ids and mask `[rows, longest]` of rows of tokens, padded on the left."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(rows):
        ids[row, longest - len(tokens) :], mask[row, longest - len(tokens) :] = torch.tensor(tokens).long(), 1
    return ids, mask


def _from_tensors(inputs: Any, model: Any, name: str) -> tuple[Tensor, Tensor]:
    mask = None
    if isinstance(inputs, Mapping):
        others = sorted(set(inputs) - {"input_ids", "attention_mask", "token_type_ids"})
        if "input_ids" not in inputs or others:
            raise ValueError(
                f"`{name}` holds {', '.join(map(repr, inputs)) or 'nothing'}; expected 'input_ids' and 'attention_mask'."
            )
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    else:
        ids = inputs
    if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.is_floating_point() or not ids.numel():
        shape = (
            f"shape {list(ids.shape)} and type {ids.dtype}"
            if isinstance(ids, Tensor)
            else f"type {type(ids).__name__}"
        )
        raise ValueError(f"`{name}` has {shape}; expected a text, a list of texts, or token ids [prompts, length].")
    if mask is None:
        config = getattr(model, "generation_config", None) or model.config.get_text_config()
        pad, end = config.pad_token_id, config.eos_token_id
        ends = end if isinstance(end, (list, tuple)) else [end]
        # as in `generate`: where padding and end of text are one token, nothing counts as padding
        mask = torch.ones_like(ids) if pad is None or pad in ends else ((ids != pad).cumsum(1) > 0).long()
    return ids.long(), mask.to(ids.device)


def check_vocabularies(model: Any, reward_model: Any, hint: str) -> None:
    """Refuse a reward model that would read other words than were written.

    Raises:
        ValueError: vocabularies of different size.
    """
    own, other = (len(each.get_input_embeddings().weight) for each in (model, reward_model))
    if own != other:
        raise ValueError(
            f"the language model has {own} tokens and the reward model {other}: they do not read the same token ids; {hint}."
        )


def check_goal(reward_model: Any, goal_state: Tensor | None) -> Tensor:
    """The goal to use: the one given, or the reward model's own.

    Raises:
        ValueError: there is none.
    """
    goal = reward_model.goal_state if goal_state is None else goal_state
    if goal is None:
        raise ValueError(
            "the reward model has no goal state, so there is nothing to compare with; type "
            "reward_model.set_goal_state(reward_model.compute_goal_state(batches)), or pass goal_state=..."
        )
    width = reward_model.config.state_size
    if not isinstance(goal, Tensor) or not goal.is_floating_point() or list(goal.shape) != [width]:
        found = list(goal.shape) if isinstance(goal, Tensor) else type(goal).__name__
        raise ValueError(
            f"`goal_state` is {found}, but the reward model's states need a floating-point tensor [{width}]."
        )
    if not bool(torch.isfinite(goal).all()) or not bool(goal.any()):
        raise ValueError(
            "`goal_state` is zero or not finite, so it has no direction; compute it with compute_goal_state."
        )
    return goal.to(reward_model.device)


def check_window(model: Any, what: str, lengths: Sequence[int], more: int, advice: str) -> None:
    """Refuse texts that would grow beyond the positions of a model.

    Raises:
        ValueError: prompt and new tokens together are longer.
    """
    window = text_window(model)
    if window is None:
        return
    longest = max(lengths)
    if longest >= window:
        raise ValueError(
            f"prompt {lengths.index(longest)} has {longest} tokens, but the {what} has {window} positions, some of which the "
            "answer needs; shorten the prompt."
        )
    if longest + more > window:
        raise ValueError(
            f"prompt {lengths.index(longest)} has {longest} tokens and its answer up to {more} more, but the {what} has {window} "
            f"positions; {advice.format(room=window - longest)}."
        )


def check_count(name: str, value: Any, least: int = 1) -> int:
    """A whole number of at least `least`.

    Raises:
        ValueError: anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"`{name}` is {value!r}, expected a whole number of {least} or more.")
    return value


__all__ = [
    "Prompts",
    "StateReader",
    "check_count",
    "check_goal",
    "check_vocabularies",
    "check_window",
    "left_padded",
    "read_prompts",
]
