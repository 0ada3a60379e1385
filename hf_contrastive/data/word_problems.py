"""Arithmetic word problems with right and subtly wrong solutions, for reward models that learn within minutes.

A problem starts with a number and changes it two to four times; every result lies from 1 to 30. A solution has one line a
step and a last line `A: 12`. A wrong one goes wrong in one place only, in one of five ways (`MISTAKES`), and goes on from
there without a further mistake. Neither length nor wording tells right from wrong: the wording of every line is drawn alike
for both, and skipped and repeated steps come in such shares that the number of lines has the same distribution in both.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from hf_contrastive.data.solutions import QUESTION_TEMPLATE, final_answer, question_prompt, same_answer


T = TypeVar("T")

MISTAKES = {
    "slip": "one result is off, and what follows is computed from it",
    "operation": "plus instead of minus, and the like",
    "number": "another number of the question in place of the right one",
    "skipped": "a step is left out",
    "repeated": "a step is done twice",
}
# Share of wrong solutions with a line less (of 3 or 4 steps) and with a line more (of 2 or 3). With equal shares and equally
# many problems of 2, 3 and 4 steps, as many solutions lose a line as win one at every length.
_LINE_SHARE = 0.2
_HIGHEST = 30
_SLIPS = (-10, -2, -1, 1, 2, 10)
# one problem of ten belongs to the test part
_TEST_SHARE = 10

_NAMES = [
    "Tom",
    "Anna",
    "Ben",
    "Clara",
    "Dan",
    "Emma",
    "Finn",
    "Grace",
    "Hugo",
    "Ida",
    "Jack",
    "Kate",
    "Leo",
    "Mia",
    "Noah",
    "Olga",
    "Paul",
    "Rosa",
    "Sam",
    "Tina",
    "Uma",
    "Vera",
    "Will",
    "Zoe",
]
_ITEMS = [
    "apples",
    "books",
    "cards",
    "coins",
    "cups",
    "eggs",
    "flowers",
    "hats",
    "keys",
    "lamps",
    "marbles",
    "nuts",
    "pens",
    "pears",
    "plates",
    "shells",
    "shirts",
    "stamps",
    "stars",
    "stickers",
    "stones",
    "tickets",
    "toys",
    "trees",
]

# {n} is the number at the start, {b} the one of the first step
_OPENINGS = {
    "": ("{name} has {n} {items}.", "{name} starts with {n} {items}."),
    "*": ("{name} has {n} boxes with {b} {items} in each.", "{name} buys {n} bags of {b} {items} each."),
    "+": ("{other} has {n} {items}. {name} has {b} more than {other}.",),
    "-": ("{other} has {n} {items}. {name} has {b} fewer than {other}.",),
}
_EVENTS = {
    "+": ("{name} finds {b} more.", "{other} gives {name} {b} more.", "{name} buys {b} more."),
    "-": ("{name} loses {b}.", "{name} gives {b} to {other}.", "{name} sells {b}."),
    "*": ("After a week {name} has {b} times as many.", "Then {name} has {b} times as many."),
}
_LAST = ("How many {items} does {name} have now?", "How many {items} does {name} have in the end?")
_LINES = (
    "{name} has {a} {op} {b} = {c} {items}.",
    "Now {name} has {a} {op} {b} = {c} {items}.",
    "That makes {a} {op} {b} = {c} {items}.",
)


class _Step(NamedTuple):
    op: str
    number: int
    slip: int = 0


class _Line(NamedTuple):
    left: int
    op: str
    right: int
    result: int


class _Problem(NamedTuple):
    question: str
    name: str
    items: str
    start: int
    steps: tuple[_Step, ...]
    lines: tuple[_Line, ...]

    @property
    def answer(self) -> int:
        return self.lines[-1].result


class _Wrong(NamedTuple):
    lines: tuple[_Line, ...]
    mistake: str
    step: int


def make_word_problems(count: int, seed: int = 0, *, part: str = "train") -> list[dict[str, Any]]:
    """Word problems, each with a right and a wrong solution.

    Args:
        count (`int`): how many; no question comes twice.
        seed (`int`): the same problems for the same seed, on any machine.
        part (`str`): `"train"` or `"test"`. The numbers and operations of a problem decide to which part it belongs, so
            that no calculation of one part is in the other, whatever the seeds.

    Returns:
        `list[dict]`:
            - `question` (`str`), `correct` (`str`), `incorrect` (`str`), for [`load_preferences`];
            - `answer` (`int`): the right one; the wrong solution ends in another;
            - `mistake` (`str`): how the wrong solution goes wrong, a key of `MISTAKES`;
            - `wrong_step` (`int`): the first line of the wrong solution, from 0, that is wrong. With a skipped last step that
              is the line of the answer.

    Raises:
        ValueError: a count below 1, or another part.

    Example:

    ```python
    >>> from hf_contrastive.data import make_word_problems
    >>> problem = make_word_problems(7)[6]
    >>> print(problem["question"])
    Zoe has 13 books. Paul has 3 more than Zoe. Paul finds 4 more. How many books does Paul have now?
    >>> print(problem["correct"])
    Now Paul has 13 + 3 = 16 books.
    Now Paul has 16 + 4 = 20 books.
    A: 20
    >>> print(problem["incorrect"])
    Paul has 13 + 3 = 16 books.
    Now Paul has 16 + 4 = 19 books.
    A: 19

    ```
    """
    records = []
    for number, problem in enumerate(_problems(count, seed, part)):
        draw = _solution_draws(seed, number)
        wrong = _wrong(draw, problem)
        records.append(
            {
                "question": problem.question,
                "answer": problem.answer,
                "correct": _text(draw, problem, problem.lines),
                "incorrect": _text(draw, problem, wrong.lines),
                "mistake": wrong.mistake,
                "wrong_step": wrong.step,
            }
        )
    return records


def make_word_solutions(count: int, samples: int = 8, seed: int = 0, *, part: str = "test") -> list[dict[str, Any]]:
    """Several solutions of every word problem, some right and some wrong, as samples of a language model would be.

    Of the solutions of a question at least one is right and at least one is wrong; how many is drawn evenly. A wrong one
    repeats the mistake of the first wrong one in half of the cases (in its own words), as models do; otherwise a vote over
    the answers would be too easy.

    Args:
        count (`int`): problems, the same ones as [`make_word_problems`] makes of that seed and part.
        samples (`int`): solutions of each, 2 or more.
        seed (`int`): the same solutions for the same seed, on any machine.
        part (`str`): `"train"` or `"test"`.

    Returns:
        `list[dict]`: `question`, `generated_solution`, `predicted_answer` (`str`), `is_correct`, `question_id`, for
        [`load_completions`]; `answer`, `mistake` and `wrong_step` as in [`make_word_problems`], both `None` where the
        solution is right. The solutions of a question stand together.

    Raises:
        ValueError: a count below 1, fewer than two samples, or another part.

    Example:

    ```python
    >>> from hf_contrastive.data import make_word_solutions
    >>> [solution["is_correct"] for solution in make_word_solutions(2, samples=4)]
    [False, False, True, True, False, False, True, True]

    ```
    """
    if isinstance(samples, bool) or samples < 2:
        raise ValueError(f"samples must be at least 2, got {samples!r}")
    records = []
    for number, problem in enumerate(_problems(count, seed, part)):
        draw = _solution_draws(seed, number)
        usual = _wrong(draw, problem)
        right = 1 + int(draw.random() * (samples - 1))
        found: list[tuple[_Wrong | None, str]] = []
        for place in range(samples):
            wrong = (
                None if place < right else usual if place == right or draw.random() < 0.5 else _wrong(draw, problem)
            )
            found.append((wrong, _text(draw, problem, wrong.lines if wrong else problem.lines)))
        order = [draw.random() for _ in found]
        for place in sorted(range(samples), key=order.__getitem__):
            wrong, text = found[place]
            records.append(
                {
                    "question": problem.question,
                    "generated_solution": text,
                    "predicted_answer": final_answer(text),
                    "is_correct": wrong is None,
                    "question_id": number,
                    "answer": problem.answer,
                    "mistake": wrong.mistake if wrong else None,
                    "wrong_step": wrong.step if wrong else None,
                }
            )
    return records


def word_problem_texts(
    count: int, seed: int = 0, *, part: str = "train", template: str = QUESTION_TEMPLATE
) -> list[str]:
    """Texts for training a language model: the prompt of a word problem with a right solution.

    Args:
        count (`int`): texts, of the same problems as [`make_word_problems`] makes of that seed and part.
        seed (`int`): the same texts for the same seed, on any machine.
        part (`str`): `"train"` or `"test"`.
        template (`str`): of the prompt, see [`question_prompt`].

    Returns:
        `list[str]`.

    Raises:
        ValueError: as [`make_word_problems`].

    Example:

    ```python
    >>> from hf_contrastive.data import word_problem_texts
    >>> print(word_problem_texts(7)[6])
    Question: Zoe has 13 books. Paul has 3 more than Zoe. Paul finds 4 more. How many books does Paul have now?
    Answer:
    Now Paul has 13 + 3 = 16 books.
    Now Paul has 16 + 4 = 20 books.
    A: 20

    ```
    """
    return [
        question_prompt(problem["question"], template) + problem["correct"]
        for problem in make_word_problems(count, seed, part=part)
    ]


def is_right(record: dict[str, Any], solution: str) -> bool:
    """Whether a solution that a model has written ends in the right answer.

    Args:
        record (`dict`): of [`make_word_problems`] or [`make_word_solutions`]; its `answer` is what counts.
        solution (`str`): the text behind the prompt.

    Returns:
        `bool`: the first number behind the last `A:` is the answer; `False` when there is none.

    Example:

    ```python
    >>> from hf_contrastive.data import is_right
    >>> is_right({"answer": 12}, "7 + 5 = 12\\nA: 12"), is_right({"answer": 12}, "7 + 5 = 12")
    (True, False)

    ```
    """
    words = (final_answer(solution) or "").replace("$ ", "$").split()
    return bool(words) and same_answer(words[0], str(record["answer"]))


def _pick(draw: random.Random, values: Sequence[T]) -> T:
    # `random()` gives the same numbers in every version of Python, unlike `choice`
    return values[int(draw.random() * len(values))]


def _solution_draws(seed: int, number: int) -> random.Random:
    return random.Random(seed * 1_000_003 + number + 500_000)


def _apply(left: int, op: str, right: int) -> int:
    return left + right if op == "+" else left - right if op == "-" else left * right


def _lines(start: int, steps: Sequence[_Step]) -> tuple[_Line, ...] | None:
    """The lines of a solution, or nothing when a result leaves the range."""
    lines = []
    for op, number, slip in steps:
        result = _apply(start, op, number) + slip
        if not 1 <= result <= _HIGHEST:
            return None
        lines.append(_Line(start, op, number, result))
        start = result
    return tuple(lines)


def _problems(count: int, seed: int, part: str) -> list[_Problem]:
    if isinstance(count, bool) or count < 1:
        raise ValueError(f"count must be at least 1, got {count!r}")
    if part not in ("train", "test"):
        raise ValueError(f"part must be 'train' or 'test', got {part!r}")
    draw, found = random.Random(seed), {}
    while len(found) < count:
        length = _pick(draw, (2, 3, 4))
        before = len(found)
        # again until one is possible: long ones leave the range more often, but all lengths have to be equally frequent
        while len(found) == before:
            problem = _draw_problem(draw, length)
            if problem is not None and _part(problem) == part:
                found.setdefault(problem.question, problem)
    return list(found.values())


def _part(problem: _Problem) -> str:
    calculation = f"{problem.start}" + "".join(f"{op}{number}" for op, number, _ in problem.steps)
    return "train" if zlib.crc32(calculation.encode()) % _TEST_SHARE else "test"


def _draw_problem(draw: random.Random, length: int) -> _Problem | None:
    """A problem of so many steps, or nothing when a result leaves the range or one of the mistakes is not possible in it."""
    name, other = _pick(draw, _NAMES), _pick(draw, _NAMES)
    words = {"name": name, "other": other, "items": _pick(draw, _ITEMS)}
    opening = _pick(draw, tuple(_OPENINGS))
    # small numbers throughout: a model of a few layers has to learn their sums from some thousand texts
    start = 2 + int(draw.random() * (4 if opening == "*" else 14))
    steps = []
    for place in range(length):
        op = opening if opening and not place else _pick(draw, "++--*")
        # later on the number is doubled or tripled, at the start boxes hold up to six
        highest = 3 if op == "*" and (place or not opening) else 6
        steps.append(_Step(op, 2 + int(draw.random() * (highest - 1))))
    lines = _lines(start, steps)
    if lines is None or name == other:
        return None
    sentences = [_pick(draw, _OPENINGS[opening]).format(n=start, b=steps[0].number, **words)]
    for op, number, _ in steps[1:] if opening else steps:
        sentences.append(_pick(draw, _EVENTS[op]).format(b=number, **words))
    sentences.append(_pick(draw, _LAST).format(**words))
    problem = _Problem(" ".join(sentences), name, words["items"], start, tuple(steps), lines)
    return problem if all(any(_candidates(problem, mistake)) for mistake in _shares(problem)) else None


def _shares(problem: _Problem) -> dict[str, float]:
    """How often each mistake is made in a problem of so many steps."""
    shares = {"skipped": _LINE_SHARE} if len(problem.steps) > 2 else {}
    if len(problem.steps) < 4:
        shares["repeated"] = _LINE_SHARE
    left = 1 - sum(shares.values())
    return {**shares, **dict.fromkeys(("slip", "operation", "number"), left / 3)}


def _candidates(problem: _Problem, mistake: str) -> Iterator[_Wrong]:
    """All solutions with that mistake that stay in the range and end in a wrong answer."""
    steps = problem.steps
    numbers = sorted({problem.start, *(step.number for step in steps)})
    for place, (op, number, _) in enumerate(steps):
        if mistake == "slip":
            changed = [(_Step(op, number, slip),) for slip in _SLIPS]
        elif mistake == "operation":
            changed = [(_Step(another, number),) for another in "+-*" if another != op]
        elif mistake == "number":
            changed = [(_Step(op, another),) for another in numbers if another != number]
        else:
            changed = [() if mistake == "skipped" else (steps[place], steps[place])]
        for instead in changed:
            lines = _lines(problem.start, [*steps[:place], *instead, *steps[place + 1 :]])
            if lines is not None and lines[-1].result != problem.answer:
                yield _Wrong(lines, mistake, _first_difference(problem.lines, lines))


def _first_difference(right: Sequence[_Line], wrong: Sequence[_Line]) -> int:
    for place, (one, other) in enumerate(zip(right, wrong, strict=False)):
        if one != other:
            return place
    return min(len(right), len(wrong))


def _wrong(draw: random.Random, problem: _Problem) -> _Wrong:
    left, mistake = draw.random(), "number"
    for kind, share in _shares(problem).items():
        if left < share:
            mistake = kind
            break
        left -= share
    return _pick(draw, list(_candidates(problem, mistake)))


def _text(draw: random.Random, problem: _Problem, lines: Sequence[_Line]) -> str:
    texts = [
        _pick(draw, _LINES).format(name=problem.name, items=problem.items, a=left, op=op, b=right, c=result)
        for left, op, right, result in lines
    ]
    return "\n".join([*texts, f"A: {lines[-1].result}"])


__all__ = ["MISTAKES", "is_right", "make_word_problems", "make_word_solutions", "word_problem_texts"]
