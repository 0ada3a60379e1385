"""Word problems: what a solution says is right or wrong as its label says, and nothing else gives the label away."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections import Counter

import datasets
import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from hf_contrastive.data import (
    is_right,
    load_completions,
    load_preferences,
    make_word_problems,
    make_word_solutions,
    word_problem_texts,
)
from hf_contrastive.data.word_problems import MISTAKES


datasets.disable_progress_bars()

LINE = re.compile(r"(\d+) ([-+*]) (\d+) = (\d+) ")


@pytest.fixture(scope="module")
def problems() -> list[dict]:
    return make_word_problems(2000)


def steps(solution: str) -> list[tuple[int, str, int, int]]:
    *lines, last = solution.split("\n")
    found = []
    for line in lines:
        (match,) = LINE.findall(line)
        found.append((int(match[0]), match[1], int(match[2]), int(match[3])))
    assert last == f"A: {found[-1][3]}"
    return found


def read_question(question: str) -> list[tuple[int, str, int, int]]:
    """Reads the question as a person would, without anything that the generator knows."""
    first, *others = re.findall(r"[^.?]+[.?]", question)
    others = others[:-1]
    if " in each" in first or " bags of " in first:
        n, b = map(int, re.findall(r"\d+", first))
        todo = [("*", b)]
    else:
        n = int(re.findall(r"\d+", first)[0])
        todo = []
    for event in others:
        b = int(re.findall(r"\d+", event)[0])
        op = "*" if "times" in event else "-" if re.search(r"fewer|loses|sells|gives \d", event) else "+"
        todo.append((op, b))
    found = []
    for op, b in todo:
        result = {"+": n + b, "-": n - b, "*": n * b}[op]
        found.append((n, op, b, result))
        n = result
    return found


def test_right_solutions_follow_from_the_question(problems):
    for problem in problems:
        assert steps(problem["correct"]) == read_question(problem["question"]), problem
        assert is_right(problem, problem["correct"])
        results = [step[3] for step in steps(problem["correct"])]
        assert results[-1] == problem["answer"]
        assert 2 <= len(results) <= 4
        assert all(1 <= result <= 30 for result in results)


def test_wrong_solutions_go_wrong_once_and_where_they_say(problems):
    for problem in problems:
        right, wrong = steps(problem["correct"]), steps(problem["incorrect"])
        place, mistake = problem["wrong_step"], problem["mistake"]
        assert not is_right(problem, problem["incorrect"])
        assert all(1 <= step[3] <= 30 for step in wrong)
        assert wrong[:place] == right[:place]
        assert wrong[place : place + 1] != right[place : place + 1]
        # every line goes on from the one before
        assert all(one[3] == other[0] for one, other in itertools.pairwise(wrong))
        computed = [{"+": a + b, "-": a - b, "*": a * b}[op] == c for a, op, b, c in wrong]
        assert computed == [mistake != "slip" or number != place for number in range(len(wrong))]
        # behind the mistake, the operations and numbers are the right ones again
        done, expected = ([step[1:3] for step in part] for part in (wrong, right))
        if mistake == "slip":
            assert done == expected
        elif mistake in ("operation", "number"):
            kept = 2 if mistake == "operation" else 1
            assert done[place][kept - 1] == expected[place][kept - 1]
            assert done[place][2 - kept] != expected[place][2 - kept]
            assert [*done[:place], *done[place + 1 :]] == [*expected[:place], *expected[place + 1 :]]
            if mistake == "number":
                assert str(done[place][1]) in re.findall(r"\d+", problem["question"])
        elif mistake == "skipped":
            assert done == [*expected[:place], *expected[place + 1 :]]
        else:
            assert done == [*expected[:place], expected[place - 1], *expected[place:]]
    found = Counter(problem["mistake"] for problem in problems)
    assert set(found) == set(MISTAKES)
    assert min(found.values()) > 200


def auroc(problems: list[dict], score) -> float:
    texts = [problem[kind] for kind in ("correct", "incorrect") for problem in problems]
    return roc_auc_score([1] * len(problems) + [0] * len(problems), [score(text) for text in texts])


def test_form_does_not_give_the_label_away(problems):
    scores = {
        "characters": len,
        "lines": lambda text: text.count("\n"),
        "answer": lambda text: int(text.rsplit(" ", 1)[1]),
        "largest number": lambda text: max(map(int, re.findall(r"\d+", text))),
        "minus": lambda text: text.count(" - "),
    }
    for name, score in scores.items():
        assert 0.45 < auroc(problems, score) < 0.55, name
    longer = [len(problem["correct"]) - len(problem["incorrect"]) for problem in problems]
    assert 0.45 < np.mean(np.sign(longer)) / 2 + 0.5 < 0.55
    # as many lines in right solutions as in wrong ones, so that no number of lines speaks for either
    lines = [Counter(problem[kind].count("\n") for problem in problems) for kind in ("correct", "incorrect")]
    assert all(abs(lines[0][count] - lines[1][count]) < 100 for count in (2, 3, 4))
    assert set(lines[1]) == {2, 3, 4}


def test_words_alone_do_not_give_the_label_away(problems):
    half = len(problems) // 2
    texts = [
        [problem[kind] for kind in ("correct", "incorrect") for problem in part]
        for part in (problems[:half], problems[half:])
    ]
    labels = [1] * half + [0] * half
    counts = CountVectorizer(token_pattern=r"\S+", ngram_range=(1, 2)).fit(texts[0])
    probe = LogisticRegression(C=0.1, max_iter=300).fit(counts.transform(texts[0]), labels)
    assert roc_auc_score(labels, probe.decision_function(counts.transform(texts[1]))) < 0.6


def test_problems_are_the_same_everywhere(problems):
    assert make_word_problems(2000) == problems
    assert make_word_problems(50) == problems[:50]
    assert make_word_problems(50, seed=1) != problems[:50]
    digest = hashlib.sha256(json.dumps(problems[:200]).encode()).hexdigest()
    assert digest[:16] == "14f04295b03999ec", "another version makes other problems: results are no longer comparable"


def calculation(problem: dict) -> str:
    return json.dumps([step[:3] for step in steps(problem["correct"])])


def test_parts_share_no_calculation(problems):
    questions = [problem["question"] for problem in problems]
    assert len(set(questions)) == 2000
    test = [problem for seed in (0, 1) for problem in make_word_problems(400, seed, part="test")]
    assert not {calculation(problem) for problem in problems} & {calculation(problem) for problem in test}
    # were there only 100,000 problems, 4,000 of another seed would have about 80 of these 2,000 among them
    others = {problem["question"] for problem in make_word_problems(4000, seed=5)}
    assert len(others & set(questions)) < 10


def test_built_in_pairs_and_completions():
    train, test = (load_preferences("arithmetic", split=split) for split in ("train", "test"))
    assert (len(train), len(test)) == (4000, 400)
    assert not set(train["prompt"]) & set(test["prompt"])
    assert train[0]["prompt"].startswith("Question: ")
    assert train[0]["prompt"].endswith("?\nAnswer:\n")
    answers = load_completions("arithmetic")
    assert set(answers["prompt"]) == set(test["prompt"])
    assert np.bincount(answers["question_id"]).tolist() == [8] * 400
    right = np.bincount(answers["question_id"], weights=np.array(answers["is_correct"][:], dtype=float))
    assert set(right) == set(range(1, 8))
    assert 0.4 < np.mean(answers["is_correct"][:]) < 0.6
    assert 0.45 < roc_auc_score(answers["is_correct"][:], [len(text) for text in answers["answer"]]) < 0.55


def test_votes_over_the_answers_are_no_formality():
    rows, won = make_word_solutions(200), 0
    for number in range(200):
        mine = [row for row in rows if row["question_id"] == number]
        for row in mine:
            assert is_right(row, row["generated_solution"]) == row["is_correct"]
            assert (row["mistake"] is None) == row["is_correct"] == (row["wrong_step"] is None)
        votes = Counter(row["predicted_answer"] for row in mine)
        won += votes.most_common(1)[0][0] == str(mine[0]["answer"])
    assert 0.4 < won / 200 < 0.85


def test_texts_for_a_language_model():
    texts, problems = word_problem_texts(20, seed=3), make_word_problems(20, seed=3)
    assert texts == [f"Question: {p['question']}\nAnswer:\n{p['correct']}" for p in problems]
    assert word_problem_texts(1, seed=3, template="{question} ")[0].startswith(problems[0]["question"] + " ")


@pytest.mark.parametrize(
    ("solution", "right"),
    [
        ("A: 12", True),
        ("7 + 5 = 12\nA: 12 ", True),
        ("A: 12.", True),
        ("A: $12.0 in all", True),
        ("A: 5\nA: 12", True),
        ("A: 12\nA: 5", False),
        ("A: 13", False),
        ("A: 12th", False),
        ("A:", False),
        ("12", False),
        ("", False),
    ],
)
def test_solutions_that_a_model_writes(solution, right):
    assert is_right({"answer": 12}, solution) is right


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        make_word_problems(0)
    with pytest.raises(ValueError, match="part must be 'train' or 'test', got 'dev'"):
        make_word_problems(1, part="dev")
    with pytest.raises(ValueError, match="samples must be at least 2, got 1"):
        make_word_solutions(1, samples=1)
