"""Preference pairs and completions as tokens: prompt and answer joined, cut to length and counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import datasets
import numpy as np

from hf_contrastive.data.dialogues import (
    Turns,
    assistant_message,
    clean_message,
    common_length,
    is_blank,
    is_messages,
    user_message,
)
from hf_contrastive.data.preferences import SMALL, with_features
from hf_contrastive.data.schema import column_names_of, require_columns
from hf_contrastive.data.sources import Loaded


OnLong = Literal["truncate", "drop", "error"]
_FINE, _LONG, _SAME = 0, 1, 2


@dataclass
class EncodedAnswer:
    """A prompt and its answer as one row of tokens.

    Args:
        input_ids (`list[int]`): the tokens; the last one is the end-of-text token when it was asked for.
        num_actions (`int`): tokens of the answer without the end-of-text token. With it, place -1 is the end of text and
            -(num_actions + 1) the first token of the answer.
        cut_prompt (`int`): tokens left out at the start of the prompt to fit the length.
        cut_answer (`int`): tokens left out at the end of the answer to fit the length.
    """

    input_ids: list[int]
    num_actions: int
    cut_prompt: int = 0
    cut_answer: int = 0


def encode_answer(
    tokenizer: Any,
    prompt: Turns,
    answer: Turns,
    *,
    max_length: int | None = None,
    add_end: bool = True,
    as_chat: bool = False,
) -> EncodedAnswer:
    """Tokens of a prompt and its answer, and how many of them are the answer's.

    Both are tokenised as one text; a token that holds the end of the prompt and the start of the answer is the answer's.
    What the tokenizer puts before the text belongs to the prompt. Messages are written with the tokenizer's chat template,
    and what the template puts before the answer belongs to the prompt. A row ends in exactly one end-of-text token, also
    where the tokenizer or the template writes one (and white space behind it).

    Args:
        tokenizer (`PreTrainedTokenizerBase`): of the model.
        prompt (`str` or `list[dict]`): a text, or chat messages; empty when the answer is the whole text.
        answer (`str` or `list[dict]`): of the same kind as the prompt.
        max_length (`int`, *optional*): at most so many tokens. The start of the prompt goes first (a token for the beginning
            of the text stays); when that is not enough, the end of the answer.
        add_end (`bool`): end with the end-of-text token, where rewards are read; `False` ends with the answer's last token.
        as_chat (`bool`): texts become a message of the user and one of the assistant.

    Returns:
        [`EncodedAnswer`].

    Raises:
        ValueError: an empty answer, a text beside messages, messages without a chat template, no end-of-text token, or a
            length in which no token of the answer has room.

    Example:

    ```python
    >>> from hf_contrastive.data import encode_answer, train_tokenizer
    >>> tokenizer = train_tokenizer(["2 + 3 = 5"], 300)
    >>> row = encode_answer(tokenizer, "2 + 3 =", " 5")
    >>> tokenizer.decode(row.input_ids[-(row.num_actions + 1) :])
    ' 5<|endoftext|>'

    ```
    """
    end = tokenizer.eos_token_id
    if add_end and end is None:
        raise ValueError("the tokenizer has no end-of-text token; set tokenizer.eos_token, or pass add_end=False")
    if is_blank(answer):
        raise ValueError("the answer is empty; expected at least one word")
    text, start, is_chat = _joined(tokenizer, prompt, answer, as_chat)
    ids, first = _tokens(tokenizer, text, start, special=not is_chat)
    ids = _without_end(tokenizer, ids, end)
    kept = 1 if first and ids and ids[0] == tokenizer.bos_token_id else 0
    actions = len(ids) - first
    if actions < 1:
        raise ValueError("the answer is empty: not one token is left of it; expected at least one")
    cut_prompt = cut_answer = 0
    if max_length is not None:
        least = kept + 1 + int(add_end)
        if max_length < least:
            raise ValueError(f"max_length is {max_length}, but one token of an answer needs {least}; pass more")
        excess = max(0, len(ids) + int(add_end) - max_length)
        cut_prompt = min(excess, first - kept)
        cut_answer = excess - cut_prompt
        ids = [*ids[:kept], *ids[kept + cut_prompt : len(ids) - cut_answer]]
    return EncodedAnswer([*ids, end] if add_end else ids, actions - cut_answer, cut_prompt, cut_answer)


# ---------------------------------------------------------------------------- whole datasets


@dataclass
class LengthReport:
    """How long rows of tokens are, and what was cut or left out.

    Args:
        max_length (`int`, *optional*): what was allowed.
        rows (`int`): rows that are left.
        dropped_long (`int`): rows left out because they are too long.
        dropped_same (`int`): pairs left out because both rows of tokens are equal, perhaps only after cutting.
        prompts_cut, answers_cut (`int`): rows whose prompt lost its start, or of which an answer lost its end.
        lengths (`dict`): for `prompt` and every kind of answer, tokens of each row before anything was cut, without tokens for
            the end of text; rows that were left out are among them.

    Example:

    ```python
    >>> from hf_contrastive.data import LengthReport
    >>> report = LengthReport(max_length=8, rows=2, lengths={"prompt": [3, 5], "answer": [2, 4]})
    >>> report.statistics("prompt")["mean"]
    4.0

    ```
    """

    max_length: int | None = None
    rows: int = 0
    dropped_long: int = 0
    dropped_same: int = 0
    prompts_cut: int = 0
    answers_cut: int = 0
    lengths: dict[str, list[int]] = field(default_factory=dict)

    def add(self, row: Mapping[str, Any]) -> None:
        """Counts one encoded row."""
        for kind in self.lengths:
            self.lengths[kind].append(int(row[f"_{kind}"]))
        state = int(row["_state"])
        self.dropped_long += state == _LONG
        self.dropped_same += state == _SAME
        if state == _FINE:
            self.rows += 1
            self.prompts_cut += bool(row["_cut_prompt"])
            self.answers_cut += bool(row["_cut_answer"])

    def statistics(self, kind: str) -> dict[str, float]:
        """`min`, `median`, `mean`, `p95` (95 of 100 are at most that long) and `max` of one kind; nothing without rows."""
        values = np.asarray(self.lengths[kind], dtype=np.float64)
        if not len(values):
            return {}
        return {
            "min": float(values.min()),
            "median": float(np.median(values)),
            "mean": float(values.mean()),
            "p95": float(np.percentile(values, 95)),
            "max": float(values.max()),
        }

    def to_dict(self) -> dict[str, Any]:
        """The counts and the statistics of every kind, for a JSON file."""
        counts = {name: value for name, value in vars(self).items() if name != "lengths"}
        return {**counts, "tokens": {kind: self.statistics(kind) for kind in self.lengths}}

    def lines(self) -> list[str]:
        """The report as lines to print."""
        limit = "no limit" if self.max_length is None else f"at most {self.max_length:,} tokens a row"
        found = [f"{self.rows:,} rows, {limit}"]
        for count, what in (
            (self.dropped_long, "left out: too long"),
            (self.dropped_same, "left out: both answers are the same tokens"),
            (self.prompts_cut, "with the start of the prompt cut"),
            (self.answers_cut, "with the end of an answer cut"),
        ):
            if count:
                found.append(f"{count:,} rows {what}")
        for kind in self.lengths:
            values = self.statistics(kind)
            shown = ", ".join(f"{name} {value:,.0f}" for name, value in values.items())
            found.append(f"tokens, {kind}: {shown or 'none'}")
        return found

    def __str__(self) -> str:
        return "\n".join(self.lines())


def tokenize_preferences(
    dataset: Loaded,
    tokenizer: Any,
    *,
    max_length: int | None,
    on_long: OnLong = "truncate",
    as_chat: bool = False,
) -> tuple[Loaded, LengthReport]:
    """Preference pairs as rows of tokens for a reward model.

    Args:
        dataset: of [`load_preferences`].
        tokenizer (`PreTrainedTokenizerBase`): of the model.
        max_length (`int`, *optional*): tokens of a row, the end of text among them; `None` = no limit.
        on_long (`str`): what happens to pairs of which a row is longer: `"truncate"` cuts the start of the prompt, then the
            end of the answer; `"drop"` leaves the pair out; `"error"` raises and names the record.
        as_chat (`bool`): write texts with the tokenizer's chat template, as a message of the user and one of the assistant.
            Lists of messages always are.

    Returns:
        `(dataset, report)`: columns `chosen_input_ids`, `rejected_input_ids` (both end in the end of text),
        `chosen_num_actions`, `rejected_num_actions` (see [`EncodedAnswer`]), `margin` if there is one, `index`; and a
        [`LengthReport`]. Pairs with equal tokens are left out. Of a stream, the report counts the rows that have gone by in
        this process (not in workers of a dataloader), again in every epoch.

    Raises:
        ValueError: a column that is missing, an answer that is empty or a row that is too long (with the record's `index`),
            no pair left.

    Example:

    ```python
    >>> from hf_contrastive.data import load_preferences, tokenize_preferences, train_tokenizer
    >>> pairs = load_preferences([{"prompt": "2 + 3 =", "chosen": " 5", "rejected": " 6"}])
    >>> rows, report = tokenize_preferences(pairs, train_tokenizer(["2 + 3 = 5"], 300), max_length=16)
    >>> rows.column_names
    ['chosen_input_ids', 'rejected_input_ids', 'chosen_num_actions', 'rejected_num_actions', 'index']

    ```
    """
    kinds = ("chosen", "rejected")
    encode = _Encode(tokenizer, {f"{kind}_": kind for kind in kinds}, max_length, on_long, as_chat)
    return _tokenize(dataset, encode, kinds, ("margin",), "pairs")


def tokenize_completions(
    dataset: Loaded,
    tokenizer: Any,
    *,
    max_length: int | None,
    on_long: OnLong = "truncate",
    as_chat: bool = False,
) -> tuple[Loaded, LengthReport]:
    """Completions as rows of tokens for a reward model.

    Args:
        dataset: of [`load_completions`].
        tokenizer, max_length, on_long, as_chat: as for [`tokenize_preferences`].

    Returns:
        `(dataset, report)`: the dataset with the columns `input_ids` (ends in the end of text) and `num_actions` besides its
        own; and a [`LengthReport`].

    Raises:
        ValueError: as [`tokenize_preferences`].

    Example:

    ```python
    >>> from hf_contrastive.data import load_completions, tokenize_completions, train_tokenizer
    >>> answers = load_completions([{"prompt": "2 + 3 =", "answer": " 5", "is_correct": True}])
    >>> rows, report = tokenize_completions(answers, train_tokenizer(["2 + 3 = 5"], 300), max_length=16)
    >>> rows[0]["num_actions"], report.rows
    (1, 1)

    ```
    """
    encode = _Encode(tokenizer, {"": "answer"}, max_length, on_long, as_chat)
    names = column_names_of(dataset)
    return _tokenize(dataset, encode, ("answer",), [name for name in names if name != "index"], "answers")


class _Encode:
    """Tokenises one record; an object, so that `datasets` can name its cache by it."""

    def __init__(
        self, tokenizer: Any, columns: Mapping[str, str], max_length: int | None, on_long: str, as_chat: bool
    ) -> None:
        if on_long not in ("truncate", "drop", "error"):
            raise ValueError(f"on_long must be 'truncate', 'drop' or 'error', got {on_long!r}")
        self.tokenizer, self.columns, self.on_long = tokenizer, dict(columns), on_long
        self.max_length, self.as_chat = max_length, as_chat

    def __call__(self, row: Mapping[str, Any], number: int) -> dict[str, Any]:
        index = row.get("index", number)
        found: dict[str, Any] = {"index": index}
        encoded = []
        for prefix, column in self.columns.items():
            try:
                one = encode_answer(
                    self.tokenizer, row["prompt"], row[column], max_length=self.max_length, as_chat=self.as_chat
                )
            except ValueError as error:
                raise ValueError(f"record {index}, {column}: {error}") from error
            if self.on_long == "error" and one.cut_prompt + one.cut_answer:
                raise ValueError(
                    f"record {index}, {column}: {len(one.input_ids) + one.cut_prompt + one.cut_answer} tokens, but max_length "
                    f"is {self.max_length}; pass more, or on_long='truncate' or 'drop'"
                )
            found |= {f"{prefix}input_ids": one.input_ids, f"{prefix}num_actions": one.num_actions}
            found[f"_{column}"] = one.num_actions + one.cut_answer
            encoded.append(one)
        first = encoded[0]
        found["_prompt"] = len(first.input_ids) - first.num_actions - 1 + first.cut_prompt
        found["_cut_prompt"] = any(one.cut_prompt for one in encoded)
        found["_cut_answer"] = any(one.cut_answer for one in encoded)
        same = len(encoded) == 2 and encoded[0].input_ids == encoded[1].input_ids
        long = self.on_long == "drop" and (found["_cut_prompt"] or found["_cut_answer"])
        found["_state"] = _LONG if long else _SAME if same else _FINE
        return found


class _Count:
    """Tells a report of every row that goes by."""

    def __init__(self, encode: _Encode, report: LengthReport) -> None:
        self.encode, self.report = encode, report

    def __call__(self, row: Mapping[str, Any], number: int) -> dict[str, Any]:
        found = self.encode(row, number)
        self.report.add(found)
        return found


def _is_fine(row: Mapping[str, Any]) -> bool:
    return row["_state"] == _FINE


def _tokenize(
    dataset: Loaded, encode: _Encode, kinds: Sequence[str], others: Sequence[str], what: str
) -> tuple[Loaded, LengthReport]:
    dataset = with_features(dataset)
    names = column_names_of(dataset)
    loader = "load_preferences" if len(kinds) == 2 else "load_completions"
    require_columns(dataset, ("prompt", *kinds), f"the data (expected what {loader} returns)")
    report = LengthReport(encode.max_length, lengths={kind: [] for kind in ("prompt", *kinds)})
    ids, number = datasets.List(datasets.Value("int32")), datasets.Value("int64")
    features: dict[str, Any] = {f"{prefix}input_ids": ids for prefix in encode.columns}
    features |= {f"{prefix}num_actions": number for prefix in encode.columns}
    own = dataset.features
    assert own is not None
    features |= {name: own[name] for name in others if name in names}
    features["index"] = number
    wanted = list(features)
    counted = [*(f"_{kind}" for kind in report.lengths), "_cut_prompt", "_cut_answer", "_state"]
    features |= dict.fromkeys(counted, number)
    options: dict[str, Any] = {
        "with_indices": True,
        "remove_columns": [name for name in names if name not in features],
        "features": datasets.Features(features),
    }
    if isinstance(dataset, datasets.IterableDataset):
        stream = dataset.map(_Count(encode, report), **options)
        return stream.filter(_is_fine).select_columns(wanted), report
    made = dataset.map(encode, keep_in_memory=len(dataset) < SMALL, **options)
    for row in made.select_columns(counted):
        report.add(row)
    if not report.rows:
        raise ValueError(
            f"none of the {len(made)} {what} is left: {report.dropped_long} are longer than {encode.max_length} tokens, "
            f"{report.dropped_same} have equal answers; pass a larger max_length, or on_long='truncate'"
        )
    if report.rows < len(made):
        made = made.select(np.flatnonzero(np.asarray(made["_state"][:]) == _FINE))
    return made.select_columns(wanted), report


# ---------------------------------------------------------------------------- one row


def _joined(tokenizer: Any, prompt: Turns, answer: Turns, as_chat: bool) -> tuple[str, int, bool]:
    """The whole text, the character at which the answer starts, and whether a chat template wrote it."""
    if isinstance(prompt, str) and isinstance(answer, str):
        if not as_chat:
            return prompt + answer, len(prompt), False
        prompt, answer = user_message(prompt) if prompt else [], assistant_message(answer)
    elif prompt == "":
        prompt = []
    if isinstance(prompt, str) or isinstance(answer, str) or not is_messages(prompt) or not is_messages(answer):
        raise ValueError(
            f"the prompt is of type {type(prompt).__name__} and the answer of type {type(answer).__name__}; expected two "
            'texts, or two lists of messages {"role": ..., "content": ...}'
        )
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            "chat messages need a template, and the tokenizer has none; set tokenizer.chat_template, or give texts"
        )
    messages = [[clean_message(message) for message in part] for part in (prompt, answer)]
    try:
        whole = tokenizer.apply_chat_template(messages[0] + messages[1], tokenize=False)
        if not messages[0]:
            return whole, 0, True
        before = tokenizer.apply_chat_template(messages[0], add_generation_prompt=True, tokenize=False)
    except Exception as error:  # a template can raise anything
        raise ValueError(f"the tokenizer's chat template cannot write these messages: {error}") from error
    # some templates write earlier turns differently once there is an answer
    return whole, common_length(whole, before), True


def _tokens(tokenizer: Any, text: str, start: int, special: bool) -> tuple[list[int], int]:
    """Tokens of the text, and the place of the first one that reaches beyond the character `start`."""
    options: dict[str, Any] = {"add_special_tokens": special, "verbose": False}
    if getattr(tokenizer, "is_fast", False):
        found = tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True, **options)
        ids, added = list(found["input_ids"]), found["special_tokens_mask"]
        own = [place for place, flag in enumerate(added) if not flag]
        beyond = (place for place in own if found["offset_mapping"][place][1] > start)
        return ids, next(beyond, own[-1] + 1 if own else len(ids))
    ids = list(tokenizer(text, **options)["input_ids"])
    alone = list(tokenizer(text[:start], **options)["input_ids"])
    return ids, common_length(ids, alone)


def _without_end(tokenizer: Any, ids: list[int], end: int | None) -> list[int]:
    """Without an end-of-text token that stands last, or before white space only."""
    if end is None or end not in ids[-2:]:
        return ids
    if ids[-1] == end:
        return ids[:-1]
    return ids if tokenizer.decode(ids[-1:]).strip() else ids[:-2]


__all__ = [
    "EncodedAnswer",
    "LengthReport",
    "encode_answer",
    "tokenize_completions",
    "tokenize_preferences",
]
