"""Preference pairs for reward models: a prompt with a better and a worse answer, from wherever they are."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import datasets
import numpy as np

from hf_contrastive.data.dialogues import is_blank, is_messages, match_prompt, split_dialogue, split_messages
from hf_contrastive.data.schema import column_names_of, missing_column
from hf_contrastive.data.solutions import QUESTION_TEMPLATE, question_prompt
from hf_contrastive.data.sources import Loaded, Source, load_split, rows_source, split_rank
from hf_contrastive.data.word_problems import make_word_problems


PROMPT_NAMES = ("prompt", "question", "instruction", "query", "problem")
_PAIR_NAMES = (("chosen", "rejected"), ("correct", "incorrect"))
_ACCEPTED = (
    "expected one of: prompt + chosen + rejected; chosen + rejected (whole dialogues, the shared beginning is the prompt); "
    "question + correct + incorrect; texts or lists of chat messages, margin besides if there is one"
)
_ARITHMETIC_PAIRS = {"train": 4000, "test": 400}
_FINE, _EMPTY, _SAME = 0, 1, 2
SMALL = 10_000


def load_preferences(
    path_or_id: Any,
    *,
    split: str = "train",
    name: str | None = None,
    prompt_column: str | None = None,
    chosen_column: str | None = None,
    rejected_column: str | None = None,
    margin_column: str | None = None,
    keep_columns: Sequence[str] = (),
    template: str | None = None,
    on_empty: Literal["error", "drop"] = "error",
    test_fraction: float | None = None,
    max_samples: int | None = None,
    streaming: bool = False,
    cache_dir: str | None = None,
) -> Loaded:
    """Loads preference pairs from wherever they are as a `datasets` object with one set of columns.

    Args:
        path_or_id: one of
            - `"arithmetic"`: word problems with a right and a subtly wrong solution ([`make_word_problems`]; 4,000 pairs to
              train, 400 of other calculations to test);
            - a `.parquet`, `.jsonl`, `.json` or `.csv` file (the last three also as `.gz`), or a folder of those, in which
              `train*`, `valid*`, `test*` are splits;
            - a folder written by `save_to_disk`;
            - the id of a dataset on the hub, such as `"Anthropic/hh-rlhf"`;
            - a `datasets` object, or a list of records.
        split (`str`): name of the split.
        name (`str`, *optional*): configuration of a hub dataset.
        prompt_column, chosen_column, rejected_column, margin_column (`str`, *optional*): the columns where they have other
            names than `prompt` (or `question`, `instruction`, `query`, `problem`), `chosen` and `rejected` (or `correct` and
            `incorrect`), `margin`. Without a prompt, `chosen` and `rejected` hold whole dialogues, and what both begin with
            is the prompt (texts: [`split_dialogue`]; messages: the common leading ones).
        keep_columns (`Sequence[str]`): further columns to hand on as they are.
        template (`str`, *optional*): text with `{question}` that is put around text prompts. By default a column of another
            name than `prompt` gets `"Question: {question}\\nAnswer:\\n"`; `"{question}"` leaves the bare question.
        on_empty (`str`): `"error"` raises when an answer is empty or blank and names the records, `"drop"` leaves those
            records out with a warning.
        test_fraction (`float`, *optional*): where the data has a single split, its last prompts (that share of them) are
            `"test"`, and the others `"train"`. Pairs of the same prompt stay together.
        max_samples (`int`, *optional*): at most so many pairs, the first ones.
        streaming (`bool`): read as you go. Empty answers then raise when their record comes.
        cache_dir (`str`, *optional*): where `datasets` keeps its converted files.

    Returns:
        `datasets.Dataset` (or `IterableDataset` when streaming):
            - `prompt`, `chosen`, `rejected`: texts, or lists of `{role, content}` (a chat template is applied when they are
              tokenised, see [`tokenize_preferences`]);
            - `margin` (`float`), if there is one: by how much the chosen answer is better;
            - `index` (`int64`): number of the record in its split, from 0.
        Pairs of two equal answers say nothing and are left out; without streaming a warning counts them.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: a split or column that is missing (the found ones are listed), a record that cannot be used (its number is
            given), or no pair at all.

    Example:

    ```python
    >>> from hf_contrastive.data import load_preferences
    >>> pairs = load_preferences([{"question": "1 + 1?", "correct": "A: 2", "incorrect": "A: 3"}])
    >>> pairs[0]
    {'prompt': 'Question: 1 + 1?\\nAnswer:\\n', 'chosen': 'A: 2', 'rejected': 'A: 3', 'index': 0}

    ```
    """
    check_options(on_empty, max_samples, template)
    source = _source(path_or_id, name, streaming, cache_dir)
    rows, hold_out = load_split(path_or_id, source, split, test_fraction, streaming)
    rows = with_features(rows)
    names = column_names_of(rows)
    prompt, chosen, rejected = pair_columns(names, prompt_column, chosen_column, rejected_column, source.text)
    margin = margin_column or ("margin" if "margin" in names else None)
    kept = [column for column in keep_columns if column not in ("prompt", "chosen", "rejected", "margin", "index")]
    for column, argument in ((margin, "margin_column"), *((one, "keep_columns") for one in kept)):
        if column is not None and column not in names:
            raise ValueError(missing_column(column, names, argument, source.text))
    own = rows.features
    assert own is not None
    turns = turn_features(own, (prompt, chosen, rejected), source.text)
    features = {"prompt": turns[0], "chosen": turns[1], "rejected": turns[2]}
    if margin is not None:
        features["margin"] = datasets.Value("float64")
    features |= {column: own[column] for column in kept}
    features |= {"index": datasets.Value("int64"), "_state": datasets.Value("int8")}
    convert = _Pair(prompt, chosen, rejected, margin, kept, prompt_template(prompt, template), streaming, on_empty)
    options: dict[str, Any] = {"with_indices": True, "remove_columns": names, "features": datasets.Features(features)}
    wanted = [column for column in features if column != "_state"]
    if isinstance(rows, datasets.IterableDataset):
        stream = rows.map(convert, **options).filter(_is_fine).select_columns(wanted)
        return stream if max_samples is None else stream.take(max_samples)
    pairs = rows.map(convert, keep_in_memory=len(rows) < SMALL, **options)
    pairs = _usable(pairs, on_empty, split, source.text).select_columns(wanted)
    if hold_out:
        assert test_fraction is not None
        pairs = pairs.select(hold_out_prompts(pairs["prompt"], test_fraction)[split == "test"])
    return pairs if max_samples is None else pairs.select(range(min(max_samples, len(pairs))))


def list_preference_splits(path_or_id: Any, *, name: str | None = None) -> list[str]:
    """Names of the splits a source of preference pairs has; arguments as for [`load_preferences`].

    Example:

    ```python
    >>> from hf_contrastive.data import list_preference_splits
    >>> list_preference_splits("arithmetic")
    ['train', 'test']

    ```
    """
    return sorted(_source(path_or_id, name, False, None).splits(), key=split_rank)


def _source(path_or_id: Any, name: str | None, streaming: bool, cache_dir: str | None) -> Source:
    return rows_source(
        path_or_id, name, streaming, cache_dir, {"arithmetic": built_in(_arithmetic, _ARITHMETIC_PAIRS)}
    )


def built_in(make: Any, counts: Mapping[str, int]) -> Source:
    """The word problems as a source: `make(split)` gives the records."""
    return Source(
        "the arithmetic word problems", lambda: list(counts), lambda split: datasets.Dataset.from_list(make(split))
    )


def _arithmetic(split: str) -> list[dict[str, Any]]:
    return make_word_problems(_ARITHMETIC_PAIRS[split], part=split)


# ---------------------------------------------------------------------------- shared with completions


def check_options(on_empty: str, max_samples: int | None, template: str | None) -> None:
    """Refuses options that make no sense."""
    if on_empty not in ("error", "drop"):
        raise ValueError(f"on_empty must be 'error' or 'drop', got {on_empty!r}")
    if max_samples is not None and (isinstance(max_samples, bool) or max_samples < 1):
        raise ValueError(f"max_samples must be at least 1, got {max_samples!r}")
    if template is not None:
        question_prompt("", template)


def with_features(rows: Loaded) -> Loaded:
    """The same rows; a stream has looked at its first ones, so that its columns are known."""
    if isinstance(rows, datasets.IterableDataset) and rows.features is None:
        return rows._resolve_features()
    return rows


def prompt_template(column: str | None, template: str | None) -> str:
    """What is put around text prompts of that column."""
    if template is not None:
        return template
    return "{question}" if column in (None, "prompt") else QUESTION_TEMPLATE


def hold_out_prompts(prompts: Iterable[Any], fraction: float) -> tuple[list[int], list[int]]:
    """Row numbers of the first prompts, and of the last `fraction` of them; rows of the same prompt stay together.

    Args:
        prompts (iterable of `str` or `list[dict]`): one a row.
        fraction (`float`): share of the second part, between 0 and 1.

    Returns:
        `(first, last)`: row numbers in order.

    Raises:
        ValueError: one part would be empty.

    Example:

    ```python
    >>> from hf_contrastive.data.preferences import hold_out_prompts
    >>> hold_out_prompts(["a", "b", "a", "c"], 0.3)
    ([0, 1, 2], [3])

    ```
    """
    numbers = number_prompts(prompts)
    count = max(numbers, default=-1) + 1
    first = count - round(fraction * count)
    if not 0 < first < count:
        raise ValueError(f"test_fraction={fraction} of {count} different prompts leaves one part empty")
    parts: tuple[list[int], list[int]] = ([], [])
    for row, number in enumerate(numbers):
        parts[number >= first].append(row)
    return parts


def number_prompts(prompts: Iterable[Any]) -> list[int]:
    """A number for every row, the same for equal prompts, in the order in which they come first."""
    order: dict[str, int] = {}
    keys = (prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True) for prompt in prompts)
    return [order.setdefault(key, len(order)) for key in keys]


def turn_features(features: Any, columns: Sequence[str | None], text: str) -> list[Any]:
    """Types of columns that hold texts or messages; where one holds messages, texts will become messages as well.

    Args:
        features (`datasets.Features`): of the source.
        columns: the prompt's (`None` = within the answers), then those of the answers.
        text (`str`): what the source is called.

    Raises:
        ValueError: a column of numbers, pictures, ...
    """
    found = []
    for column in columns:
        kind = None if column is None else getattr(features[column], "dtype", None)
        if column is None or kind in ("string", "large_string", "null"):
            found.append(None)
        elif isinstance(features[column], datasets.Value):
            raise ValueError(
                f"column {column!r} of {text} holds {kind}; expected texts, or lists of chat messages "
                '{"role": ..., "content": ...}'
            )
        else:
            found.append(features[column])
    # the answers' first: where there is no prompt, it is cut off them
    messages = next((one for one in found[1:] + found[:1] if one is not None), datasets.Value("string"))
    return [one or messages for one in found]


def numbers_text(numbers: Sequence[int]) -> str:
    """`record 3`, `records 3, 5, 9`, `records 3, 5, 9, 12, 13 and 7 more`."""
    shown = ", ".join(str(number) for number in numbers[:5])
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return f"record{'s' if len(numbers) > 1 else ''} {shown}{more}"


# ---------------------------------------------------------------------------- columns and records


def pair_columns(
    names: Sequence[str], prompt: str | None, chosen: str | None, rejected: str | None, text: str
) -> tuple[str | None, str, str]:
    """Columns of prompt (`None`: whole dialogues), chosen and rejected answer among `names`; those given go first.

    Raises:
        ValueError: a column that is missing, or none that is known; `text` is what the data is called.
    """
    given = {"prompt_column": prompt, "chosen_column": chosen, "rejected_column": rejected}
    for argument, column in given.items():
        if column is not None and column not in names:
            raise ValueError(missing_column(column, names, argument, text))
    if prompt is None:
        prompt = next((name for name in PROMPT_NAMES if name in names), None)
    for better, worse in _PAIR_NAMES:
        pair = chosen or better, rejected or worse
        if set(pair) <= set(names):
            return prompt, *pair
    raise ValueError(
        f"no preference pairs found in {text}: it has the columns {', '.join(names) or 'none'}; {_ACCEPTED}; for other names "
        "pass prompt_column=, chosen_column=, rejected_column="
    )


class _Pair:
    """Makes a record uniform; an object, so that `datasets` can name its cache by it."""

    def __init__(
        self,
        prompt: str | None,
        chosen: str,
        rejected: str,
        margin: str | None,
        kept: Sequence[str],
        template: str,
        streaming: bool,
        on_empty: str,
    ) -> None:
        self.prompt, self.chosen, self.rejected, self.margin = prompt, chosen, rejected, margin
        self.kept, self.template = list(kept), template
        self.stop = streaming and on_empty == "error"

    def __call__(self, row: dict[str, Any], number: int) -> dict[str, Any]:
        chosen, rejected = row[self.chosen], row[self.rejected]
        prompt: Any = None
        if chosen is not None and rejected is not None:
            try:
                prompt, chosen, rejected = self._split(row, chosen, rejected)
            except ValueError as error:
                raise ValueError(f"record {number}: {error}") from error
        state = _EMPTY if is_blank(chosen) or is_blank(rejected) else _SAME if chosen == rejected else _FINE
        if state == _EMPTY:
            if self.stop:
                raise ValueError(_empty_text([number]))
            prompt, chosen, rejected = None, None, None
        made = {"prompt": prompt, "chosen": chosen, "rejected": rejected, "index": number, "_state": state}
        made |= {column: row[column] for column in self.kept}
        if self.margin is not None:
            made["margin"] = self._margin(row[self.margin], number)
        return made

    def _split(self, row: dict[str, Any], chosen: Any, rejected: Any) -> tuple[Any, Any, Any]:
        if self.prompt is None:
            if isinstance(chosen, str) and isinstance(rejected, str):
                return split_dialogue(chosen, rejected)
            return split_messages(*match_prompt([], [chosen, rejected])[1])
        prompt = row[self.prompt]
        if prompt is None:
            raise ValueError(f"column {self.prompt!r} is empty; expected the prompt")
        lists = [answer for answer in (chosen, rejected) if is_messages(answer)]
        if isinstance(prompt, str) and lists and all(one and one[0].get("role") != "assistant" for one in lists):
            # whole conversations; the text beside them repeats what the user said first
            return split_messages(*match_prompt([], [chosen, rejected])[1])
        prompt, answers = match_prompt(prompt, [chosen, rejected])
        if isinstance(prompt, str):
            prompt = question_prompt(prompt, self.template)
        return prompt, answers[0], answers[1]

    def _margin(self, value: Any, number: int) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not np.isfinite(value):
            raise ValueError(f"record {number}: the margin is {value!r}; expected a number, 0 for none")
        return float(value)


def _is_fine(row: dict[str, Any]) -> bool:
    return row["_state"] == _FINE


def _empty_text(numbers: Sequence[int]) -> str:
    return (
        f"{numbers_text(numbers)} (counted from 0): the chosen or the rejected answer is empty; expected at least one word; "
        "mend the data, or pass on_empty='drop' to leave such records out"
    )


def _usable(pairs: datasets.Dataset, on_empty: str, split: str, text: str) -> datasets.Dataset:
    state = np.asarray(pairs["_state"][:], dtype=np.int64)
    empty, same = np.flatnonzero(state == _EMPTY), np.flatnonzero(state == _SAME)
    if len(empty) and on_empty == "error":
        raise ValueError(f"{text}: {_empty_text(empty.tolist())}")
    for numbers, why in ((empty, "an answer is empty"), (same, "both answers are equal, which says nothing")):
        if len(numbers):
            warnings.warn(
                f"{len(numbers)} of {len(state)} pairs of {text} are left out, because {why}: "
                f"{numbers_text(numbers.tolist())}",
                stacklevel=3,
            )
    if len(empty) + len(same) == len(state):
        raise ValueError(f"split {split!r} of {text} has no usable pair; expected at least one")
    return pairs if not len(empty) + len(same) else pairs.select(np.flatnonzero(state == _FINE))


__all__ = ["list_preference_splits", "load_preferences"]
