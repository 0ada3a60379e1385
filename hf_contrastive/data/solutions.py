"""Worked solutions of questions: the prompt, the final answer, pairs and completions from files of several solvers."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


# The one place where a bare question becomes a prompt. It ends with the end of a line, so that the first line of a solution
# is tokenised as the other ones are.
QUESTION_TEMPLATE = "Question: {question}\nAnswer:\n"

_ANSWER = re.compile(r"^A:(.*)$", re.MULTILINE)
_ANNOTATION = re.compile(r"<<[^<>\n]*>>")


def question_prompt(question: str, template: str = QUESTION_TEMPLATE) -> str:
    """The prompt of a question.

    Args:
        question (`str`): the bare question.
        template (`str`): text with `{question}` where it goes.

    Returns:
        `str`: the prompt; the answer follows without anything between.

    Raises:
        ValueError: a template without `{question}`.

    Example:

    ```python
    >>> from hf_contrastive.data import question_prompt
    >>> question_prompt("What is 1 + 1?")
    'Question: What is 1 + 1?\\nAnswer:\\n'

    ```
    """
    if "{question}" not in template:
        raise ValueError(f"the template {template!r} has no {{question}}; write it where the question goes")
    return template.replace("{question}", question)


def final_answer(solution: str) -> str | None:
    """What stands after the last line of a solution that begins with `A:`.

    Args:
        solution (`str`): text of a worked solution.

    Returns:
        `str` without surrounding white space, or `None` when there is no such line or nothing in it.

    Example:

    ```python
    >>> from hf_contrastive.data import final_answer
    >>> final_answer("2 + 3 = 5\\nA: 5"), final_answer("2 + 3 =")
    ('5', None)

    ```
    """
    found = _ANSWER.findall(solution)
    return (found[-1].strip() or None) if found else None


def same_answer(one: str | None, other: str | None) -> bool:
    """Whether two final answers are the same number, or else the same text.

    Args:
        one, other (`str` or `None`): of [`final_answer`]; dollar signs, commas between digits and a full stop at the end do not
            count.

    Returns:
        `bool`; `False` where one is missing.

    Example:

    ```python
    >>> from hf_contrastive.data import same_answer
    >>> same_answer("$1,200.", "1200.0"), same_answer("12", None)
    (True, False)

    ```
    """
    if one is None or other is None:
        return False
    plain = [text.replace("$", "").replace(",", "").strip().rstrip(".") for text in (one, other)]
    try:
        return float(plain[0]) == float(plain[1])
    except ValueError:
        return plain[0] == plain[1]


def read_records(path: str | Path) -> list[dict[str, Any]]:
    """Records of a file of JSON lines.

    Args:
        path: a `.jsonl` file, such as GSM8K's `example_model_solutions.jsonl`
            (https://github.com/openai/grade-school-math).

    Returns:
        `list[dict]`: one a line; empty lines are left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line that is no JSON object, with its number.
    """
    records = []
    with Path(path).expanduser().open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    record = json.loads(line)
                except json.JSONDecodeError as error:
                    raise ValueError(
                        f"{path}, line {number}, is not JSON: {error}; expected one object a line"
                    ) from error
                if not isinstance(record, dict):
                    raise ValueError(
                        f"{path}, line {number}, holds {type(record).__name__}; expected one object a line"
                    )
                records.append(record)
    return records


def split_questions(
    records: Sequence[dict[str, Any]], test_questions: int = 319, seed: int = 0
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Splits records by their question, so that none is in both parts (GSM8K's 1,319 test questions: 1,000 and 319).

    Args:
        records (`Sequence[dict]`): with a field `question`; several may have the same one.
        test_questions (`int`): how many questions go into the second part.
        seed (`int`): of the shuffle that chooses them, the same on any machine.

    Returns:
        `(train, test)`: lists of records in their order.

    Raises:
        ValueError: a record without a question, or a number that leaves one part empty.

    Example:

    ```python
    >>> from hf_contrastive.data import split_questions
    >>> train, test = split_questions([{"question": letter} for letter in "abcdef"], test_questions=2)
    >>> len(train), len(test)
    (4, 2)

    ```
    """
    questions = list(dict.fromkeys(_question(record, number) for number, record in enumerate(records)))
    if not 0 < test_questions < len(questions):
        raise ValueError(f"test_questions must lie between 1 and {len(questions) - 1} here, got {test_questions!r}")
    # `random()` gives the same numbers in every version of Python, unlike `shuffle`
    draw = random.Random(seed)
    order = {question: draw.random() for question in questions}
    test = set(sorted(questions, key=order.__getitem__)[:test_questions])
    parts: tuple[list, list] = ([], [])
    for record in records:
        parts[record["question"] in test].append(record)
    return parts


def solution_pairs(
    records: Iterable[dict[str, Any]],
    max_pairs_per_question: int = 4,
    seed: int = 0,
    *,
    keep_annotations: bool = True,
) -> list[dict[str, str]]:
    """Preference records from records of several solvers: a right and a wrong solution of the same question.

    Args:
        records (iterable of `dict`): `question`, and for each solver a field `{"solution": ..., "is_correct": ...}`.
        max_pairs_per_question (`int`): where right times wrong solutions are more, so many are drawn.
        seed (`int`): of that draw.
        keep_annotations (`bool`): `False` takes out the calculator's notes, `<<3*4=12>>`.

    Returns:
        `list[dict]`: `question`, `correct`, `incorrect`, for [`load_preferences`]; questions that all solvers got right, or
        all wrong, give none.

    Raises:
        ValueError: a record without a question or without a solver, with its number.

    Example:

    ```python
    >>> from hf_contrastive.data import solution_pairs
    >>> solvers = {"small": {"solution": "A: 3", "is_correct": False}, "large": {"solution": "A: 2", "is_correct": True}}
    >>> solution_pairs([{"question": "1 + 1?", **solvers}])
    [{'question': '1 + 1?', 'correct': 'A: 2', 'incorrect': 'A: 3'}]

    ```
    """
    if isinstance(max_pairs_per_question, bool) or max_pairs_per_question < 1:
        raise ValueError(f"max_pairs_per_question must be at least 1, got {max_pairs_per_question!r}")
    draw, found = random.Random(seed), []
    for number, record in enumerate(records):
        question, solutions = _question(record, number), _solutions(record, number, keep_annotations)
        right = [text for _, text, is_correct in solutions if is_correct]
        wrong = [text for _, text, is_correct in solutions if not is_correct]
        pairs = [{"question": question, "correct": one, "incorrect": other} for one in right for other in wrong]
        if len(pairs) > max_pairs_per_question:
            chosen = sorted(range(len(pairs)), key=[draw.random() for _ in pairs].__getitem__)[:max_pairs_per_question]
            pairs = [pairs[place] for place in sorted(chosen)]
        found += pairs
    return found


def solution_completions(
    records: Iterable[dict[str, Any]], *, keep_annotations: bool = True
) -> list[dict[str, str | bool | int | None]]:
    """Labelled completions from records of several solvers: every solution with whether it is right.

    Args:
        records (iterable of `dict`): as for [`solution_pairs`].
        keep_annotations (`bool`): `False` takes out the calculator's notes, `<<3*4=12>>`.

    Returns:
        `list[dict]`: `question`, `generated_solution`, `predicted_answer` (see [`final_answer`]), `is_correct`, `solver`,
        for [`load_completions`]; the solutions of a question stand together.

    Raises:
        ValueError: a record without a question or without a solver, with its number.

    Example:

    ```python
    >>> from hf_contrastive.data import solution_completions
    >>> solution_completions([{"question": "1 + 1?", "small": {"solution": "A: 3", "is_correct": False}}])
    [{'question': '1 + 1?', 'generated_solution': 'A: 3', 'predicted_answer': '3', 'is_correct': False, 'solver': 'small'}]

    ```
    """
    return [
        {
            "question": _question(record, number),
            "generated_solution": text,
            "predicted_answer": final_answer(text),
            "is_correct": is_correct,
            "solver": solver,
        }
        for number, record in enumerate(records)
        for solver, text, is_correct in _solutions(record, number, keep_annotations)
    ]


def solution_texts(
    records: Iterable[dict[str, Any]], template: str = QUESTION_TEMPLATE, *, keep_annotations: bool = True
) -> list[str]:
    """Texts for training a language model: every question with its right solution, in the form the reward model reads.

    Args:
        records (iterable of `dict`): `question` and `answer`, as GSM8K's training part: worked steps and `#### 24`, which
            becomes `A: 24`.
        template (`str`): of the prompt.
        keep_annotations (`bool`): `False` takes out the calculator's notes, `<<3*4=12>>`.

    Returns:
        `list[str]`: one text a record.

    Raises:
        ValueError: a record without question or answer, with its number.

    Example:

    ```python
    >>> from hf_contrastive.data import solution_texts
    >>> solution_texts([{"question": "1 + 1?", "answer": "1 + 1 = 2\\n#### 2"}])
    ['Question: 1 + 1?\\nAnswer:\\n1 + 1 = 2\\nA: 2']

    ```
    """
    texts = []
    for number, record in enumerate(records):
        if not isinstance(record.get("answer"), str):
            raise ValueError(f"record {number} has no text 'answer'; it has {', '.join(record)}")
        answer = re.sub(r"^#### *", "A: ", record["answer"], flags=re.MULTILINE)
        texts.append(question_prompt(_question(record, number), template) + _plain(answer, keep_annotations))
    return texts


def _question(record: dict[str, Any], number: int) -> str:
    if not isinstance(record.get("question"), str):
        raise ValueError(f"record {number} has no text 'question'; it has {', '.join(record)}")
    return record["question"]


def _plain(text: str, keep_annotations: bool) -> str:
    return text if keep_annotations else _ANNOTATION.sub("", text)


def _solutions(record: dict[str, Any], number: int, keep_annotations: bool) -> list[tuple[str, str, bool]]:
    found = [
        (name, _plain(value["solution"], keep_annotations), bool(value["is_correct"]))
        for name, value in record.items()
        if isinstance(value, dict) and {"solution", "is_correct"} <= set(value)
    ]
    if not found:
        raise ValueError(
            f"record {number} has no solver; it has {', '.join(record)}; expected fields that hold "
            '{"solution": text, "is_correct": true or false}'
        )
    return found


__all__ = [
    "QUESTION_TEMPLATE",
    "final_answer",
    "question_prompt",
    "read_records",
    "same_answer",
    "solution_completions",
    "solution_pairs",
    "solution_texts",
    "split_questions",
]
