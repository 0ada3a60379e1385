"""Measures of rewards: pair by pair, question by question, values worked out by hand, refusals."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from hf_contrastive.evaluation import (
    FilteredVote,
    auroc,
    auroc_within,
    filtered_majority_vote,
    min_q_values,
    pairwise_accuracy,
    partial_auroc,
)


relaxed = settings(max_examples=100, deadline=None, derandomize=True)
# few values, so that many are equal
coarse = st.integers(-3, 3).map(lambda value: value / 4)
fine = st.floats(-1e6, 1e6)
scored = st.lists(st.tuples(st.one_of(coarse, fine), st.booleans()), min_size=2, max_size=25)


def pair_by_pair(scores, labels):
    right = [score for score, label in zip(scores, labels, strict=True) if label]
    wrong = [score for score, label in zip(scores, labels, strict=True) if not label]
    won = sum(Fraction(int(r > w) * 2 + int(r == w), 2) for r in right for w in wrong)
    return float(won / (len(right) * len(wrong)))


# ---- AUROC


def test_auroc_by_hand():
    assert auroc([3.0, 2.0, 1.0], [1, 1, 0]) == 1.0
    assert auroc([1.0, 2.0, 3.0], [1, 0, 0]) == 0.0
    assert auroc([1.0, 1.0, 1.0], [0, 1, 0]) == 0.5
    # 2 > 1, 2 = 2, 0 < 1, 0 < 2
    assert auroc([2.0, 0.0, 1.0, 2.0], [True, True, False, False]) == 1.5 / 4


@relaxed
@given(scored)
def test_auroc_is_pair_by_pair(rows):
    scores, labels = zip(*rows, strict=True)
    assume(len(set(labels)) == 2)
    assert auroc(scores, labels) == pair_by_pair(scores, labels)


@relaxed
@given(st.lists(st.tuples(st.integers(-40, 40), st.booleans()), min_size=2, max_size=25))
def test_auroc_is_about_the_order_alone(rows):
    scores, labels = zip(*rows, strict=True)
    assume(len(set(labels)) == 2)
    expected = auroc(scores, labels)
    assert auroc([math.exp(score / 10) for score in scores], labels) == expected
    assert auroc([score**3 - 7 for score in scores], labels) == expected
    # turned round, and with the classes exchanged
    assert auroc([-score for score in scores], labels) == pytest.approx(1 - expected, abs=1e-15)
    assert auroc(scores, [not label for label in labels]) == pytest.approx(1 - expected, abs=1e-15)
    # in another order of the rows
    assert auroc(scores[::-1], labels[::-1]) == expected


def test_auroc_of_many_is_that_of_scikit_learn():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    labels = rng.random(200_000) < 0.3
    scores = np.round(rng.normal(size=200_000) + 0.5 * labels, 2)
    assert auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), rel=1e-12)


def test_kinds_of_input_are_the_same():
    scores, labels = [0.5, 0.25, 0.25, -1.0], [1, 1, 0, 0]
    expected = 3.5 / 4
    for kind in (list, tuple, np.array, torch.tensor):
        assert auroc(kind(scores), kind(labels)) == expected
    assert (
        auroc(torch.tensor(scores, dtype=torch.bfloat16, requires_grad=True), torch.tensor(labels).bool()) == expected
    )
    assert auroc(np.array(scores, dtype=np.float16), np.array(labels, dtype=np.uint8)) == expected
    assert auroc([torch.tensor(score) for score in scores], [1.0, 1.0, 0.0, 0.0]) == expected
    assert auroc([2, 1, 1, 0], iter(labels)) == expected


@pytest.mark.parametrize(
    ("scores", "labels", "error", "message"),
    [
        ([], [], ValueError, "`scores` is empty; at least one value"),
        ([0.1, 0.2], [1], ValueError, "`labels` has 1 labels but `scores` has 2 rows"),
        ([0.1, math.nan, math.inf], [1, 0, 0], ValueError, r"`scores`: 2 of 3 values are NaN.*first: index 1\)"),
        (torch.tensor([-math.inf, 0.0]), [1, 0], ValueError, r"`scores`: 1 of 2 values.*first: index 0\)"),
        ([0.1, 0.2, 0.3], [1, 1, 1], ValueError, "AUROC is undefined: of 3 labels 3 are 1 and 0 are 0"),
        ([0.1, 0.2], [False, False], ValueError, "AUROC is undefined: of 2 labels 0 are 1 and 2 are 0"),
        ([0.1, 0.2], [1, -1], ValueError, "`labels` holds -1 at index 1; expected 1 or True"),
        ([0.1, 0.2], ["yes", "no"], ValueError, "`labels` holds 'yes' at index 0"),
        ([0.1, 0.2], [0.5, 1], ValueError, "`labels` holds fractions"),
        ([0.1, 0.2], [None, 1], TypeError, "`labels` has dtype object"),
        ([0.1, None], [0, 1], TypeError, "`scores` has dtype object; expected real numbers"),
        (["0.1", "0.2"], [0, 1], TypeError, "`scores` has dtype"),
        ([[0.1], [0.2]], [0, 1], ValueError, r"`scores` has shape \[2, 1\]; expected one number an entry"),
        (torch.zeros(2, 1), [0, 1], ValueError, r"`scores` has shape \[2, 1\]"),
        (torch.zeros(2, dtype=torch.complex64), [0, 1], TypeError, "`scores` has dtype torch.complex64"),
        ([torch.zeros(1, requires_grad=True), 1.0], [0, 1], TypeError, "`scores` must be a sequence of numbers"),
    ],
)
def test_auroc_refuses(scores, labels, error, message):
    with pytest.raises(error, match=message):
        auroc(scores, labels)


# ---- pairs


def test_pairwise_accuracy_by_hand():
    # a tie is wrong
    assert pairwise_accuracy([1.0, 2.0, 3.0, 4.0], [0.0, 2.0, 5.0, 3.0]) == 0.5
    assert pairwise_accuracy(torch.zeros(3), torch.zeros(3)) == 0.0
    assert pairwise_accuracy(torch.ones(3, dtype=torch.bfloat16), np.zeros(3)) == 1.0


@pytest.mark.parametrize(
    ("chosen", "rejected", "message"),
    [
        ([], [], "`chosen_rewards` is empty"),
        ([1.0, 2.0], [1.0], "`chosen_rewards` has 2 values and `rejected_rewards` 1"),
        ([1.0, 2.0], [1.0, math.nan], r"`rejected_rewards`: 1 of 2 values are NaN.*index 1\)"),
        ([math.inf, 2.0], [1.0, 1.0], r"`chosen_rewards`: 1 of 2 values are NaN or infinity.*index 0\)"),
        ([[1.0]], [[0.0]], r"`chosen_rewards` has shape \[1, 1\]"),
    ],
)
def test_pairwise_accuracy_refuses(chosen, rejected, message):
    with pytest.raises(ValueError, match=message):
        pairwise_accuracy(chosen, rejected)


# ---- unfinished answers


def test_which_token_is_read():
    """Every reward is the number of its token, so that the AUROC of two answers says which tokens were read."""

    def token(n, share):
        # the reward of one answer is its position, that of the other a bar between two positions
        rows = [[float(t) for t in range(n)]] * 2
        bars = [partial_auroc([rows[0], [bar] * n], [1, 0], [share])[share] for bar in np.arange(n) - 0.5]
        return sum(bars) - 1

    for n, share, expected in (
        (1, 0.0, 0),
        (1, 1.0, 0),
        (7, 0.0, 0),
        (7, 0.1, 0),
        (7, 0.5, 2),
        (7, 1.0, 6),
        (10, 0.1, 0),
        (10, 0.2, 1),
        (10, 0.3, 2),
        (10, 0.7, 6),
        (100, 0.29, 27),  # 100 * 0.29 is 28.999...
        (100, 0.58, 56),
    ):
        assert token(n, share) == expected, (n, share)


@relaxed
@given(
    st.lists(st.tuples(st.lists(coarse, min_size=1, max_size=12), st.booleans()), min_size=2, max_size=8),
    st.lists(st.floats(0, 1), min_size=1, max_size=4, unique=True),
)
def test_partial_auroc_is_auroc_of_the_tokens_read(rows, shares):
    answers, labels = zip(*rows, strict=True)
    assume(len(set(labels)) == 2)
    found = partial_auroc(answers, labels, shares)
    assert list(found) == shares
    for share in shares:
        read = [answer[max(int(len(answer) * share) - 1, 0)] for answer in answers]
        assert found[share] == pair_by_pair(read, labels)


def test_partial_auroc_at_its_ends():
    answers, labels = [torch.tensor([1.0, 5.0, 2.0]), np.array([2.0, 3.0]), [0.0]], torch.tensor([1, 0, 1])
    found = partial_auroc((answer for answer in answers), labels)
    assert list(found) == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert found[0.0] == auroc([1.0, 2.0, 0.0], labels) == 0.0
    assert found[1.0] == auroc([2.0, 3.0, 0.0], labels) == 0.0
    # two thirds of three tokens, half of two: 5 against 2
    assert found[0.7] == auroc([5.0, 2.0, 0.0], labels) == 0.5
    # numbers that are not floats
    assert partial_auroc(answers, labels, [0, 1]) == {0.0: 0.0, 1.0: 0.0}


@pytest.mark.parametrize(
    ("answers", "labels", "shares", "error", "message"),
    [
        ([], [], [0.5], ValueError, "`token_rewards` is empty; at least one answer"),
        ([[1.0], [], []], [1, 0, 0], [0.5], ValueError, r"`token_rewards`: 2 of 3 answers have no token.*index 1\)"),
        ([[1.0], [2.0]], [1], [0.5], ValueError, "`labels` has 1 labels but `token_rewards` has 2 rows"),
        ([[1.0], [2.0]], [1, 1], [0.5], ValueError, "AUROC is undefined"),
        ([[1.0], [2.0, math.nan]], [1, 0], [0.0], ValueError, r"`token_rewards\[1\]`: 1 of 2 values.*index 1\)"),
        ([[1.0], [None]], [1, 0], [0.5], TypeError, r"`token_rewards\[1\]` has dtype object"),
        ([1.0, 2.0], [1, 0], [0.5], ValueError, r"`token_rewards\[0\]` has shape \[\]"),
        (torch.zeros(2, 3), [1, 0], [0.5], ValueError, r"one array of shape \[2, 3\], in which padding.*a list"),
        (np.zeros((2, 3)), [1, 0], [0.5], ValueError, r"one array of shape \[2, 3\]"),
        (
            [[1.0], [2.0]],
            [1, 0],
            [0.5, 1.5],
            ValueError,
            r"`percentiles` is \[0.5, 1.5\]; expected shares from 0 to 1",
        ),
        ([[1.0], [2.0]], [1, 0], [-0.1], ValueError, "expected shares from 0 to 1"),
        ([[1.0], [2.0]], [1, 0], [math.nan], ValueError, "`percentiles`: 1 of 1 values are NaN"),
        ([[1.0], [2.0]], [1, 0], [], ValueError, "`percentiles` is empty"),
        ([[1.0], [2.0]], [1, 0], 0.5, ValueError, r"`percentiles` has shape \[\]"),
    ],
)
def test_partial_auroc_refuses(answers, labels, shares, error, message):
    with pytest.raises(error, match=message):
        partial_auroc(answers, labels, shares)


# ---- smallest Q-value


def test_min_q_values_by_hand():
    rows = [[-1.0, -1.0, -1.0, -1.0, -1.0, 0.5, 0.25], torch.tensor([0.0] * 5 + [-0.5]), np.array([0.5, -0.75])]
    # the last has nothing behind the first five: the smallest of all
    found = min_q_values(rows)
    assert found.tolist() == [0.25, -0.5, -0.75]
    assert found.dtype == np.float64
    assert min_q_values(rows, skip_tokens=0).tolist() == [-1.0, -0.5, -0.75]
    assert min_q_values(rows, skip_tokens=1).tolist() == [-1.0, -0.5, -0.75]
    assert min_q_values(rows, skip_tokens=6).tolist() == [0.25, -0.5, -0.75]
    # an array of rows of different length is a list of rows
    ragged = np.empty(2, dtype=object)
    ragged[:] = [[0.5, 0.25], [1.0]]
    assert min_q_values(ragged, skip_tokens=0).tolist() == [0.25, 1.0]


@pytest.mark.parametrize(
    ("rows", "skip", "message"),
    [
        ([[0.1], []], 5, r"`q_values`: 1 of 2 answers have no token \(first: index 1\)"),
        ([[0.1], [math.nan]], 5, r"`q_values\[1\]`: 1 of 1 values are NaN"),
        (torch.zeros(2, 3), 5, r"`q_values` is one array of shape \[2, 3\]"),
        ("0.1", 5, "`q_values` is one text"),
        ([[0.1]], -1, "`skip_tokens` is -1; expected a whole number of at least 0"),
        ([[0.1]], 2.0, "`skip_tokens` is 2.0"),
        ([[0.1]], True, "`skip_tokens` is True"),
    ],
)
def test_min_q_values_refuses(rows, skip, message):
    with pytest.raises(ValueError, match=message):
        min_q_values(rows, skip)


# ---- the vote


def vote_one_question(samples, threshold, skip):
    """(filtered, tokens, saved, before, after, right, strictly right, the same two of all) of (answer, correct, q)."""
    survivors, tokens, saved = [], 0, 0
    for sample in samples:
        q = list(sample[2])[skip:]
        tokens += len(q)
        first = next((t for t, value in enumerate(q) if value < threshold), None)
        if first is None:
            survivors.append(sample)
        else:
            saved += len(q) - first
    filtered = len(samples) - len(survivors)
    if not survivors:
        survivors, saved, filtered = samples, 0, 0

    def share(group):
        return sum(correct for _, correct, _ in group) / len(group)

    def outcome(group):
        right = sum(correct for _, correct, _ in group)
        counts = Counter(answer for answer, correct, _ in group if not correct).values()
        return [all(right >= count for count in counts), all(right > count for count in counts)]

    return filtered, tokens, saved, share(samples), share(survivors), *outcome(survivors), *outcome(samples)


sampled = st.tuples(
    st.sampled_from("qrs"), st.sampled_from(["1", "2", None]), st.booleans(), st.lists(coarse, max_size=6)
)


@settings(relaxed, max_examples=200)
@given(st.lists(sampled, min_size=1, max_size=18), st.sampled_from([-1.0, -0.25, 0.0, 0.1]), st.integers(0, 4))
def test_vote_is_question_by_question(rows, threshold, skip):
    questions, answers, correct, q_values = zip(*rows, strict=True)
    vote = filtered_majority_vote(answers, correct, q_values, questions, threshold, skip)
    assert vote.questions == tuple(dict.fromkeys(questions))
    naive = [
        vote_one_question([row[1:] for row in rows if row[0] == question], threshold, skip)
        for question in vote.questions
    ]
    filtered, tokens, saved, before, after, *outcomes = zip(*naive, strict=True)
    assert vote.samples_per_question == tuple(questions.count(question) for question in vote.questions)
    assert vote.filtered_per_question == filtered
    assert vote.tokens_per_question == tokens
    assert vote.tokens_saved_per_question == saved
    assert vote.proportion_correct == pytest.approx(before)
    assert vote.proportion_correct_filtered == pytest.approx(after)
    assert [
        vote.accuracy,
        vote.accuracy_strict,
        vote.accuracy_unfiltered,
        vote.accuracy_unfiltered_strict,
    ] == pytest.approx([np.mean(outcome) for outcome in outcomes])


def test_nothing_filtered_is_the_plain_vote():
    answers, correct = ["1", "2", "2", "1"], [True, False, False, True]
    vote = filtered_majority_vote(answers, correct, [[-1.0] * 9] * 4, ["q", "q", "r", "r"], threshold=-math.inf)
    assert (vote.filtered, vote.tokens, vote.tokens_saved, vote.all_filtered) == (0, 16, 0, 0)
    assert vote.accuracy == vote.accuracy_unfiltered == 1.0
    assert vote.accuracy_strict == vote.accuracy_unfiltered_strict == 0.0
    assert vote.proportion_correct == vote.proportion_correct_filtered == (0.5, 0.5)


def test_the_first_token_below_is_saved_with_all_after_it():
    # below at 1 of 4 (and back again): 3 are saved; equal to the threshold is not below
    rows = [[-9.0, 0.5, 0.1, 0.9, -0.9], [-9.0, 0.2, 0.2, 0.2]]
    vote = filtered_majority_vote(["1", "2"], [False, True], rows, ["q", "q"], threshold=0.2, skip_tokens=1)
    assert vote.filtered_per_question == (1,)
    assert vote.tokens_per_question == (7,)
    assert vote.tokens_saved_per_question == (3,)
    assert (vote.filtered_share, vote.tokens_saved_share) == (0.5, 3 / 7)
    # the whole of a sample
    vote = filtered_majority_vote(["1", "2"], [False, True], rows, ["q", "q"], threshold=0.0, skip_tokens=0)
    assert vote.tokens_per_question == (9,)
    assert vote.all_filtered == 1


def test_all_filtered_votes_with_all():
    answers, correct = ["1", "2", "2", "1", "2"], [True, False, False, True, False]
    low, high = [0.0] * 5 + [-0.5, 0.5], [0.0] * 5 + [0.5, 0.5]
    vote = filtered_majority_vote(answers, correct, [low, low, low, high, low], ["q", "q", "q", "r", "r"])
    assert vote.filtered_per_question == (0, 1)
    assert vote.tokens_saved_per_question == (0, 2)
    assert vote.tokens_per_question == (6, 4)
    assert vote.all_filtered == 1
    assert vote.proportion_correct == (1 / 3, 0.5)
    assert vote.proportion_correct_filtered == (1 / 3, 1.0)
    # of the first the wrong answer has two; of the second the correct one is alone, and before it was a tie
    assert (vote.accuracy, vote.accuracy_strict) == (0.5, 0.5)
    assert (vote.accuracy_unfiltered, vote.accuracy_unfiltered_strict) == (0.5, 0.0)


def test_correct_samples_are_one_class_and_wrong_answers_each_their_own():
    def accuracies(answers, correct):
        vote = filtered_majority_vote(answers, correct, [[0.0]] * len(answers), ["q"] * len(answers))
        return vote.accuracy, vote.accuracy_strict

    # two spellings of the right answer beat a wrong one
    assert accuracies(["1/2", "0.5", "3"], [True, True, False]) == (1.0, 1.0)
    # three wrong answers are three classes
    assert accuracies(["1", "2", "3", "4"], [True, False, False, False]) == (1.0, 0.0)
    # one wrong answer of three
    assert accuracies(["1", "2", "2", "2"], [True, False, False, False]) == (0.0, 0.0)
    # a wrong sample with the text of a right one
    assert accuracies(["1", "1", "1"], [True, False, False]) == (0.0, 0.0)
    # all correct, none correct
    assert accuracies(["1", "1"], [True, True]) == (1.0, 1.0)
    assert accuracies(["1", "2"], [False, False]) == (0.0, 0.0)


@pytest.mark.parametrize("missing", [(None, None), (math.nan, float("nan")), (None, np.float64("nan"))])
def test_no_answer_is_a_wrong_answer_of_its_own(missing):
    def accuracy(answers, correct):
        vote = filtered_majority_vote(answers, correct, [[0.0]] * len(answers), ["q"] * len(answers))
        return vote.accuracy, vote.accuracy_strict

    # together they are two against one, and not the same as a text
    assert accuracy(["1", *missing], [True, False, False]) == (0.0, 0.0)
    assert accuracy(["1", missing[0], ""], [True, False, False]) == (1.0, 0.0)
    assert accuracy(["1", missing[1], "None"], [True, False, False]) == (1.0, 0.0)
    # graded correct without an answer: with the correct
    assert accuracy([missing[0], "1", "2"], [True, True, False]) == (1.0, 1.0)


def test_the_order_of_samples_does_not_matter():
    rng = np.random.default_rng(0)
    rows = [
        (int(rng.integers(4)), str(rng.integers(3)), bool(rng.integers(2)), rng.normal(0.8, 0.5, int(rng.integers(9))))
        for _ in range(60)
    ]
    sorted_rows = sorted(rows, key=lambda row: row[0])

    def vote(rows):
        questions, answers, correct, q_values = zip(*rows, strict=True)
        return filtered_majority_vote(answers, correct, q_values, questions, skip_tokens=2)

    mixed, grouped = vote(rows), vote(sorted_rows)
    assert mixed.questions != grouped.questions == (0, 1, 2, 3)
    assert {**mixed.summary(), "p_value": 0, "p_value_unpaired": 0} == pytest.approx(
        {**grouped.summary(), "p_value": 0, "p_value_unpaired": 0}
    )
    assert 0 < mixed.filtered < 60
    places = [mixed.questions.index(question) for question in grouped.questions]
    for name in ("samples", "filtered", "tokens", "tokens_saved"):
        per_question = getattr(mixed, f"{name}_per_question")
        assert tuple(per_question[place] for place in places) == getattr(grouped, f"{name}_per_question")


@pytest.mark.parametrize("length", [0, 1, 5])
def test_a_sample_no_longer_than_the_skipped_tokens_survives(length):
    short, low = [-1.0] * length, [0.0] * 5 + [-1.0]
    vote = filtered_majority_vote(["1", "2"], [True, False], [short, low], ["q", "q"])
    assert (vote.filtered, vote.tokens, vote.tokens_saved) == (1, 1, 1)
    assert vote.accuracy_strict == 1.0
    alone = filtered_majority_vote(["1"], [True], [short], ["q"])
    assert (alone.filtered, alone.tokens, alone.tokens_saved, alone.all_filtered) == (0, 0, 0, 0)
    assert alone.tokens_saved_share == 0.0


def test_totals_are_sums():
    rng = np.random.default_rng(1)
    rows = [rng.normal(0.5, 0.5, 8) for _ in range(40)]
    correct = rng.random(40) < 0.5
    vote = filtered_majority_vote(rng.integers(0, 3, 40), correct, rows, np.arange(40) % 7)
    assert vote.samples == sum(vote.samples_per_question) == 40
    assert vote.filtered == sum(vote.filtered_per_question) > 0
    assert vote.tokens == sum(vote.tokens_per_question) == 120
    assert vote.tokens_saved == sum(vote.tokens_saved_per_question) > 0
    assert vote.filtered_share == vote.filtered / 40
    assert vote.tokens_saved_share == vote.tokens_saved / 120
    assert vote.mean_proportion_correct == pytest.approx(np.mean(vote.proportion_correct))
    assert vote.mean_proportion_correct_filtered == pytest.approx(np.mean(vote.proportion_correct_filtered))
    summary = vote.summary()
    assert summary.pop("questions") == 7
    assert {name: getattr(vote, name) for name in summary} == summary
    # plain numbers, as JSON wants them
    for value in (*dataclasses.astuple(vote), *summary.values()):
        for part in value if isinstance(value, tuple) else (value,):
            assert type(part) in (int, float, type(None)), value
    with pytest.raises(dataclasses.FrozenInstanceError):
        vote.accuracy = 1.0
    assert isinstance(vote, FilteredVote)


# ---- its t-tests


def student_t_p(t, degrees):
    """Two-sided p-value by numerical integration of the density."""
    x = np.linspace(-abs(t), abs(t), 200_001)
    density = (1 + x**2 / degrees) ** (-(degrees + 1) / 2)
    scale = math.gamma((degrees + 1) / 2) / (math.sqrt(degrees * math.pi) * math.gamma(degrees / 2))
    return 1 - scale * float(np.sum((density[1:] + density[:-1]) / 2) * (x[1] - x[0]))


def test_p_values_are_the_formulas():
    rng = np.random.default_rng(2)
    correct = rng.random(60) < 0.5
    rows = [rng.normal(0.3 + 0.3 * right, 0.3, 7) for right in correct]
    vote = filtered_majority_vote(["1"] * 60, correct, rows, [i % 10 for i in range(60)])
    before, after = np.array(vote.proportion_correct), np.array(vote.proportion_correct_filtered)
    change = after - before
    paired = change.mean() / (change.std(ddof=1) / math.sqrt(10))
    assert vote.p_value == pytest.approx(student_t_p(paired, 9), rel=1e-6)
    unpaired = change.mean() / math.sqrt((before.var(ddof=1) + after.var(ddof=1)) / 10)
    assert vote.p_value_unpaired == pytest.approx(student_t_p(unpaired, 18), rel=1e-6)
    assert vote.p_value < vote.p_value_unpaired < 1
    # those of scipy, the unpaired one is what the published code prints
    assert vote.p_value == pytest.approx(stats.ttest_rel(after, before).pvalue, rel=1e-9)
    assert vote.p_value_unpaired == pytest.approx(stats.ttest_ind(after, before).pvalue, rel=1e-9)


@pytest.mark.filterwarnings("error")
def test_p_values_that_are_undefined():
    high, low = [1.0], [-1.0]
    # one question
    vote = filtered_majority_vote(["1", "2"], [True, False], [high, low], ["q", "q"], skip_tokens=0)
    assert (vote.p_value, vote.p_value_unpaired) == (None, None)
    # the filter changes nothing
    arguments = (["1", "2"] * 3, [1, 0, 0, 0, 1, 1])
    vote = filtered_majority_vote(*arguments, [high] * 6, [0, 0, 1, 1, 2, 2], skip_tokens=0)
    assert vote.p_value is None
    assert vote.p_value_unpaired == pytest.approx(1.0)
    # the same change in each question: 1/3 to 1/2 (whose differences differ in their last digits), 1/2 to 2/3
    one = (["1", "2", "2"], [1, 0, 0], [high, high, low])
    two = (["1", "1", "2", "2", "2", "2"], [1, 1, 1, 0, 0, 0], [high] * 4 + [high, low])
    rows = [a + b + c for a, b, c in zip(one, one, two, strict=True)]
    vote = filtered_majority_vote(*rows, [0] * 3 + [1] * 3 + [2] * 6, skip_tokens=0)
    assert vote.p_value is not None
    rows = [a + b for a, b in zip(one, one, strict=True)]
    vote = filtered_majority_vote(*rows, [0] * 3 + [1] * 3, skip_tokens=0)
    assert vote.proportion_correct_filtered == (0.5, 0.5)
    assert (vote.p_value, vote.p_value_unpaired) == (None, None)
    # equal shares before, different ones after: 1/3 to 1/2, 1/3 to 1
    rows = [a + b for a, b in zip(one, (["1", "2", "2"], [1, 0, 0], [high, low, low]), strict=True)]
    vote = filtered_majority_vote(*rows, [0] * 3 + [1] * 3, skip_tokens=0)
    assert vote.p_value == pytest.approx(student_t_p((1 / 6 + 2 / 3) / 2 / 0.25, 1), rel=1e-6)
    assert vote.p_value_unpaired == pytest.approx(student_t_p((1 / 6 + 2 / 3) / 2 / 0.25, 2), rel=1e-6)
    # 1/5 to 1/4 and 3/20 to 1/5 are the same change up to rounding
    first = (["1"] * 5, [1, 0, 0, 0, 0], [high] * 4 + [low])
    second = (["1"] * 20, [1] * 3 + [0] * 17, [high] * 15 + [low] * 5)
    rows = [a + b for a, b in zip(first, second, strict=True)]
    vote = filtered_majority_vote(*rows, [0] * 5 + [1] * 20, skip_tokens=0)
    change = np.subtract(vote.proportion_correct_filtered, vote.proportion_correct)
    assert change[0] != change[1]
    assert vote.p_value is None
    assert vote.p_value_unpaired is not None


# ---- what it refuses

GOOD = {
    "predicted_answers": ["1", "2"],
    "is_correct": [True, False],
    "q_values": [[0.1], [0.2]],
    "questions": ["q", "q"],
}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"predicted_answers": ["1"]},
            ValueError,
            "`predicted_answers` has 1 entries, `q_values` 2 and `questions` 2",
        ),
        ({"q_values": [[0.1]]}, ValueError, "`predicted_answers` has 2 entries, `q_values` 1 and `questions` 2"),
        ({"questions": ["q"] * 3}, ValueError, "`q_values` 2 and `questions` 3; entry i of all is one sample"),
        ({"is_correct": [True]}, ValueError, "`is_correct` has 1 labels but `predicted_answers` has 2 rows"),
        ({name: [] for name in GOOD}, ValueError, "`q_values` is empty"),
        ({"is_correct": [2, 0]}, ValueError, "`is_correct` holds 2 at index 0; expected 1 or True"),
        ({"is_correct": [True, None]}, TypeError, "`is_correct` has dtype object"),
        ({"predicted_answers": "12"}, ValueError, "`predicted_answers` is one text; pass a list"),
        ({"questions": "qq"}, ValueError, "`questions` is one text"),
        ({"predicted_answers": ["1", ["2"]]}, TypeError, "`predicted_answers` holds a list at index 1"),
        ({"questions": [torch.tensor(1), torch.tensor(1)]}, TypeError, "`questions` holds a Tensor at index 0"),
        ({"questions": torch.zeros(2, 1)}, TypeError, "`questions` holds a list at index 0"),
        ({"questions": ["q", None]}, ValueError, "`questions` holds None at index 1; every sample needs its question"),
        ({"questions": [math.nan, 1.0]}, ValueError, "`questions` holds nan at index 0"),
        ({"q_values": torch.zeros(2, 3)}, ValueError, r"`q_values` is one array of shape \[2, 3\]"),
        ({"q_values": [[0.1], [0.2, math.inf]]}, ValueError, r"`q_values\[1\]`: 1 of 2 values.*index 1\)"),
        ({"q_values": [[0.1], ["a"]]}, TypeError, r"`q_values\[1\]` has dtype"),
        ({"threshold": math.nan}, ValueError, "`threshold` is nan; expected a number"),
        ({"threshold": "0"}, ValueError, "`threshold` is '0'; expected a number"),
        ({"threshold": None}, ValueError, "`threshold` is None"),
        ({"threshold": True}, ValueError, "`threshold` is True"),
        ({"skip_tokens": -1}, ValueError, "`skip_tokens` is -1"),
        ({"skip_tokens": 0.5}, ValueError, "`skip_tokens` is 0.5"),
    ],
)
def test_vote_refuses(change, error, message):
    with pytest.raises(error, match=message):
        filtered_majority_vote(**{**GOOD, **change})


def test_auroc_within_questions_counts_pairs_of_one_question():
    generator = np.random.default_rng(0)
    scores = generator.integers(0, 5, 60).astype(float)
    labels, questions = generator.integers(0, 2, 60).astype(bool), [f"q{n}" for n in generator.integers(0, 12, 60)]
    won = [
        (scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j])
        for i in range(60)
        for j in range(60)
        if labels[i] and not labels[j] and questions[i] == questions[j]
    ]
    assert auroc_within(scores, labels, questions) == pytest.approx(np.mean(won))
    assert auroc_within(scores, labels, ["same"] * 60) == auroc(scores, labels)
    with pytest.raises(ValueError, match="none of 60 questions has both"):
        auroc_within(scores, labels, range(60))
    with pytest.raises(ValueError, match="60 scores and 3 questions"):
        auroc_within(scores, labels, [1, 2, 3])
