"""Labelled completions for measuring reward models: prompts with an answer and whether it is right."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import datasets
import numpy as np

from hf_contrastive.data.dialogues import is_blank, match_prompt
from hf_contrastive.data.preferences import (
    PROMPT_NAMES,
    SMALL,
    built_in,
    check_options,
    hold_out_prompts,
    number_prompts,
    numbers_text,
    prompt_template,
    turn_features,
)
from hf_contrastive.data.schema import column_names_of, missing_column
from hf_contrastive.data.solutions import question_prompt
from hf_contrastive.data.sources import load_split, rows_source
from hf_contrastive.data.word_problems import make_word_solutions


# what models wrote comes first: files with it often hold the reference as `answer` or `solution` too
_ANSWER_NAMES = ("generated_solution", "completion", "response", "answer", "solution")
_LABEL_NAMES = ("is_correct", "label")
# questions of the built-in completions, each with eight solutions; those of the test split are the ones of the pairs
_ARITHMETIC_QUESTIONS = {"train": 400, "test": 400}
_TRUTH = {"true": True, "false": False, "1": True, "0": False}


def load_completions(
    path_or_id: Any,
    *,
    split: str = "test",
    name: str | None = None,
    prompt_column: str | None = None,
    answer_column: str | None = None,
    label_column: str | None = None,
    keep_columns: Sequence[str] = (),
    template: str | None = None,
    on_empty: Literal["error", "drop"] = "error",
    test_fraction: float | None = None,
    max_samples: int | None = None,
    cache_dir: str | None = None,
) -> datasets.Dataset:
    """Loads answers that are known to be right or wrong, one or several a question.

    Args:
        path_or_id: as for [`load_preferences`]; `"arithmetic"` are word problems with eight solutions each
            ([`make_word_solutions`]), those of `"test"` for the same 400 problems as the test pairs.
        split (`str`): name of the split. A single split of another name is taken for `"test"`.
        name (`str`, *optional*): configuration of a hub dataset.
        prompt_column, answer_column, label_column (`str`, *optional*): the columns where they have other names than `prompt`
            (or `question`, `instruction`, `query`, `problem`), `generated_solution`, `completion`, `response`, `answer` or
            `solution` (the first of them) and `is_correct` (or `label`). The label is true or false, 1 or 0.
        keep_columns (`Sequence[str]`): further columns to hand on as they are.
        template (`str`, *optional*): text with `{question}` around text prompts, as for [`load_preferences`].
        on_empty (`str`): `"error"` raises when an answer is empty and names the records, `"drop"` leaves them out.
        test_fraction (`float`, *optional*): where the data has a single split, its last questions (that share of them) are
            `"test"`, the others `"train"`.
        max_samples (`int`, *optional*): at most so many answers, the first ones.
        cache_dir (`str`, *optional*): where `datasets` keeps its converted files.

    Returns:
        `datasets.Dataset`:
            - `prompt`, `answer`: texts, or lists of `{role, content}`;
            - `is_correct` (`bool`);
            - `predicted_answer` (`str` or `None`): what a vote counts, from the column of that name; all `None` without it;
            - `question_id` (`int64`): the same for answers to the same prompt (from a column of that name with whole
              numbers if there is one);
            - `index` (`int64`): number of the record in its split, from 0.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: a split or column that is missing (the found ones are listed), a record that cannot be used (its number is
            given), or no answer at all.

    Example:

    ```python
    >>> from hf_contrastive.data import load_completions
    >>> rows = load_completions([{"prompt": "1 + 1 = ", "completion": "2", "label": True}])
    >>> rows[0]["answer"], rows[0]["is_correct"], rows[0]["question_id"]
    ('2', True, 0)

    ```
    """
    check_options(on_empty, max_samples, template)
    built = {"arithmetic": built_in(_arithmetic, _ARITHMETIC_QUESTIONS)}
    source = rows_source(path_or_id, name, False, cache_dir, built)
    rows, hold_out = load_split(path_or_id, source, split, test_fraction, False, any_name=True)
    if not isinstance(rows, datasets.Dataset):
        raise ValueError(f"{source.text} is a stream; completions are needed as a whole, load them without streaming")
    names = column_names_of(rows)
    prompt, answer, label = completion_columns(names, prompt_column, answer_column, label_column, source.text)
    kept = [column for column in keep_columns if column not in _STANDARD]
    for column in kept:
        if column not in names:
            raise ValueError(missing_column(column, names, "keep_columns", source.text))
    turns = turn_features(rows.features, (prompt, answer), source.text)
    features = {"prompt": turns[0], "answer": turns[1], **_STANDARD_FEATURES}
    features |= {column: rows.features[column] for column in kept}
    numbered = "question_id" in names and "int" in getattr(rows.features["question_id"], "dtype", "")
    made = rows.map(
        _Completion(prompt, answer, label, kept, prompt_template(prompt, template), numbered),
        with_indices=True,
        remove_columns=names,
        features=datasets.Features(features),
        keep_in_memory=len(rows) < SMALL,
    )
    empty = [number for number, known in enumerate(made["answer"]) if known is None]
    if empty and on_empty == "error":
        raise ValueError(
            f"{source.text}: {numbers_text(empty)} (counted from 0): the answer is empty; expected at least one word; mend "
            "the data, or pass on_empty='drop' to leave such records out"
        )
    if len(empty) == len(made):
        raise ValueError(f"split {split!r} of {source.text} has no answer; expected at least one")
    if empty:
        warnings.warn(
            f"{len(empty)} of {len(made)} answers of {source.text} are empty and left out: {numbers_text(empty)}"
        )
        made = made.select(sorted(set(range(len(made))) - set(empty)))
    if not numbered:
        made = made.remove_columns("question_id").add_column(
            "question_id", np.asarray(number_prompts(made["prompt"]), dtype=np.int64)
        )
    if hold_out:
        assert test_fraction is not None
        made = made.select(hold_out_prompts(made["prompt"], test_fraction)[split == "test"])
    if max_samples is not None:
        made = made.select(range(min(max_samples, len(made))))
    return made.select_columns([*_STANDARD, *kept])


_STANDARD_FEATURES = {
    "is_correct": datasets.Value("bool"),
    "predicted_answer": datasets.Value("string"),
    "question_id": datasets.Value("int64"),
    "index": datasets.Value("int64"),
}
_STANDARD = ("prompt", "answer", *_STANDARD_FEATURES)


def _arithmetic(split: str) -> list[dict[str, Any]]:
    return make_word_solutions(_ARITHMETIC_QUESTIONS[split], part=split)


def completion_columns(
    names: Sequence[str], prompt: str | None, answer: str | None, label: str | None, text: str
) -> tuple[str, str, str]:
    """Columns of prompt, answer and label among `names`; those given go first.

    Raises:
        ValueError: a column that is missing, or none that is known; `text` is what the data is called.
    """
    found: list[str] = []
    given = (("prompt", prompt, PROMPT_NAMES), ("answer", answer, _ANSWER_NAMES), ("label", label, _LABEL_NAMES))
    for what, column, known in given:
        if column is not None and column not in names:
            raise ValueError(missing_column(column, names, f"{what}_column", text))
        found += [column] if column else [name for name in known if name in names][:1]
    if len(found) < 3:
        raise ValueError(
            f"no labelled completions found in {text}: it has the columns {', '.join(names) or 'none'}; expected one of "
            f"{', '.join(PROMPT_NAMES)}; one of {', '.join(_ANSWER_NAMES)}; and one of {', '.join(_LABEL_NAMES)}; for other "
            "names pass prompt_column=, answer_column=, label_column="
        )
    return found[0], found[1], found[2]


class _Completion:
    """Makes a record uniform; an object, so that `datasets` can name its cache by it."""

    def __init__(
        self, prompt: str, answer: str, label: str, kept: Sequence[str], template: str, numbered: bool
    ) -> None:
        self.prompt, self.answer, self.label = prompt, answer, label
        self.kept, self.template, self.numbered = list(kept), template, numbered

    def __call__(self, row: dict[str, Any], number: int) -> dict[str, Any]:
        prompt, answer, label = row[self.prompt], row[self.answer], row[self.label]
        truth = label if isinstance(label, bool) else _TRUTH.get(str(label).strip().lower().removesuffix(".0"))
        if truth is None:
            raise ValueError(f"record {number}: {self.label!r} is {label!r}; expected true or false, 1 or 0")
        if prompt is None:
            raise ValueError(f"record {number}: column {self.prompt!r} is empty; expected the prompt")
        try:
            prompt, answers = match_prompt(prompt, ["" if answer is None else answer])
        except ValueError as error:
            raise ValueError(f"record {number}: {error}") from error
        if isinstance(prompt, str):
            prompt = question_prompt(prompt, self.template)
        predicted = row.get("predicted_answer")
        return {
            "prompt": prompt,
            "answer": None if is_blank(answers[0]) else answers[0],
            "is_correct": truth,
            "predicted_answer": None if predicted is None else str(predicted),
            "question_id": row["question_id"] if self.numbered else None,
            "index": number,
            **{column: row[column] for column in self.kept},
        }


__all__ = ["load_completions"]
