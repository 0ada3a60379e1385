"""Evaluation of reward models: how well rewards rank answers, majority vote filtered by token-level Q-values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats

from hf_contrastive.evaluation._checks import as_binary, as_numbers, as_scores, check_finite


def _as_answers(name: str, rows: Any) -> list[np.ndarray]:
    """One finite 1-D float64 array for each answer, at least one answer."""
    if isinstance(rows, str):
        raise ValueError(f"`{name}` is one text; pass a list with one sequence of numbers for each answer")
    if isinstance(rows, torch.Tensor) or (isinstance(rows, np.ndarray) and rows.dtype != object):
        raise ValueError(
            f"`{name}` is one array of shape {list(rows.shape)}, in which padding looks like tokens; pass a list with "
            "one sequence for each answer, cut to its own tokens: "
            "[row[mask.bool()] for row, mask in zip(values, masks)]"
        )
    arrays = [as_numbers(f"{name}[{index}]", row) for index, row in enumerate(rows)]
    if not arrays:
        raise ValueError(f"`{name}` is empty; at least one answer is needed")
    # one look at all tokens; which answer is at fault matters only when there is one
    if not np.isfinite(np.concatenate(arrays)).all():
        for index, array in enumerate(arrays):
            check_finite(f"{name}[{index}]", array)
    return arrays


def _check_skip(skip_tokens: int) -> int:
    if isinstance(skip_tokens, bool) or not isinstance(skip_tokens, (int, np.integer)) or skip_tokens < 0:
        raise ValueError(f"`skip_tokens` is {skip_tokens!r}; expected a whole number of at least 0")
    return int(skip_tokens)


def _auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    counts = int(positive.sum()), int((~positive).sum())
    if 0 in counts:
        raise ValueError(
            f"AUROC is undefined: of {len(positive)} labels {counts[0]} are 1 and {counts[1]} are 0; it compares the "
            "scores of the two classes, so both are needed"
        )
    negatives = np.sort(scores[~positive])
    found = scores[positive]
    # counted in halves, as whole numbers: below a positive both sides count, at a tie only one does
    halves = np.searchsorted(negatives, found, "left").sum() + np.searchsorted(negatives, found, "right").sum()
    return int(halves) / (2 * counts[0] * counts[1])


def auroc(scores: Any, labels: Any) -> float:
    """Area under the ROC curve: how likely a correct answer has the higher score than a wrong one.

        AUROC = mean over pairs (i correct, j wrong) of [s_i > s_j] + 1/2 [s_i = s_j]

    Counted exactly from sorted scores, so memory does not grow with the number of pairs. It depends on the order of
    the scores alone: a reward and any increasing function of it have the same.

    Args:
        scores (`[N]` list, array or tensor): for example rewards of answers, higher for better.
        labels (`[N]` list, array or tensor): 1 or `True` where the answer is correct, otherwise 0 or `False`.

    Returns:
        `float` from 0 to 1; 0.5 is chance.

    Raises:
        TypeError: scores or labels that are no numbers, for example `None`.
        ValueError: no score, lengths that differ, NaN or infinity, other labels than 0 and 1, labels of a single class
            (AUROC is undefined then).

    Example:

    ```python
    >>> from hf_contrastive.evaluation import auroc
    >>> auroc([0.9, 0.2, 0.2, -1.0], [True, True, False, False])
    0.875

    ```
    """
    values = as_scores("scores", scores)
    return _auroc(values, as_binary("labels", labels, len(values), "scores"))


def auroc_within(scores: Any, labels: Any, questions: Any) -> float:
    """AUROC within questions: how likely a correct answer has the higher score than a wrong one to the same question.

    [`auroc`] also compares answers to different questions, where a score can win by telling hard questions from easy ones;
    or lose, when nothing in training has compared questions. Every pair of a question weighs the same.

    Args:
        scores, labels: as for [`auroc`].
        questions (`[N]` list of hashable values): what question an answer belongs to, in any order.

    Returns:
        `float` from 0 to 1; 0.5 is chance.

    Raises:
        TypeError, ValueError: as [`auroc`]; the value is undefined when no question has answers of both kinds.

    Example:

    ```python
    >>> from hf_contrastive.evaluation import auroc, auroc_within
    >>> scores, labels = [5.0, 4.0, 1.0, 0.0], [True, False, True, False]
    >>> auroc_within(scores, labels, ["easy", "easy", "hard", "hard"]), auroc(scores, labels)
    (1.0, 0.75)

    ```
    """
    values = as_scores("scores", scores)
    positive = as_binary("labels", labels, len(values), "scores")
    keys = _as_keys("questions", questions)
    if len(keys) != len(values):
        raise ValueError(f"there are {len(values)} scores and {len(keys)} questions; expected one a score")
    rows: dict[Any, list[int]] = {}
    for row, key in enumerate(keys):
        rows.setdefault(key, []).append(row)
    won, pairs = 0.0, 0
    for own in rows.values():
        right = positive[own]
        count = int(right.sum()) * int((~right).sum())
        if count:
            won += count * _auroc(values[own], right)
            pairs += count
    if not pairs:
        raise ValueError(
            f"AUROC within questions is undefined: none of {len(rows)} questions has both a correct and a wrong answer"
        )
    return won / pairs


def pairwise_accuracy(chosen_rewards: Any, rejected_rewards: Any) -> float:
    """Share of preference pairs whose chosen answer has the higher reward.

    A tie counts as wrong, as in the published code: a model that gives every answer the same reward has accuracy 0.

    Args:
        chosen_rewards (`[N]` list, array or tensor): rewards of the preferred answers.
        rejected_rewards (`[N]` list, array or tensor): rewards of the other ones; entry i of both is one pair.

    Returns:
        `float` from 0 to 1.

    Raises:
        TypeError: rewards that are no numbers.
        ValueError: no pair, lengths that differ, NaN or infinity.

    Example:

    ```python
    >>> from hf_contrastive.evaluation import pairwise_accuracy
    >>> pairwise_accuracy([1.0, 0.5, 2.0, 0.0], [0.0, 0.7, 1.0, 0.0])
    0.5

    ```
    """
    chosen, rejected = as_scores("chosen_rewards", chosen_rewards), as_scores("rejected_rewards", rejected_rewards)
    if len(chosen) != len(rejected):
        raise ValueError(
            f"`chosen_rewards` has {len(chosen)} values and `rejected_rewards` {len(rejected)}; entry i of both is "
            "one pair"
        )
    return float(np.mean(chosen > rejected))


def partial_auroc(
    token_rewards: Iterable[Any],
    labels: Any,
    percentiles: Sequence[float] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
) -> dict[float, float]:
    """[`auroc`] of the reward of unfinished answers: how early it tells correct from wrong.

    At the share p of an answer of n tokens it is the reward after token `max(int(n * p) - 1, 0)`, counted from 0
    (https://arxiv.org/abs/2407.13887 and its code). `n * p` is a product of floats that is cut, as there: `100 * 0.29`
    is 28.99..., which gives token 27. p = 0 is the first token, p = 1 the last.

    Args:
        token_rewards (list of `[n_i]` lists, arrays or tensors): rewards after every token of each answer, without
            those of the prompt and of padding.
        labels (`[N]` list, array or tensor): 1 or `True` where the answer is correct, otherwise 0 or `False`.
        percentiles (`Sequence[float]`, defaults to 0.0, 0.1, ..., 1.0): shares p from 0 to 1.

    Returns:
        `dict[float, float]`: AUROC for every p, in their order.

    Raises:
        TypeError: rewards or labels that are no numbers.
        ValueError: one padded array instead of a list, no answer, an answer without tokens, lengths that differ, NaN
            or infinity, other labels than 0 and 1, labels of a single class, p outside 0 to 1 or none.

    Example:

    ```python
    >>> from hf_contrastive.evaluation import partial_auroc
    >>> partial_auroc([[0.0, 0.3, 0.9], [0.1, 0.2]], [True, False], percentiles=(0.0, 1.0))
    {0.0: 0.0, 1.0: 1.0}

    ```
    """
    answers = _as_answers("token_rewards", token_rewards)
    correct = as_binary("labels", labels, len(answers), "token_rewards")
    lengths = [len(answer) for answer in answers]
    if 0 in lengths:
        raise ValueError(
            f"`token_rewards`: {lengths.count(0)} of {len(answers)} answers have no token (first: index "
            f"{lengths.index(0)}); leave them out together with their labels"
        )
    shares = as_scores("percentiles", percentiles)
    if not ((shares >= 0) & (shares <= 1)).all():
        raise ValueError(f"`percentiles` is {shares.tolist()}; expected shares from 0 to 1, for example 0.5 for half")
    result = {}
    for share in shares.tolist():
        read = [answer[max(int(len(answer) * share) - 1, 0)] for answer in answers]
        result[share] = _auroc(np.array(read), correct)
    return result


def min_q_values(q_values: Iterable[Any], skip_tokens: int = 5) -> np.ndarray:
    """The smallest Q-value of each answer, what [`filtered_majority_vote`] compares with its threshold.

    `auroc(min_q_values(q_values), is_correct)` says how well that smallest value alone tells correct from wrong
    answers.

    Args:
        q_values (list of `[n_i]` lists, arrays or tensors): `q_t = cos(h_t, goal)` after every token of each answer,
            without those of the prompt and of padding.
        skip_tokens (`int`, defaults to 5): first tokens that are left out, since they say little. An answer with no
            token behind them gets the smallest of all its values: a ranking needs a value for it.

    Returns:
        `ndarray` `[N]`, float64.

    Raises:
        TypeError: values that are no numbers.
        ValueError: one padded array instead of a list, no answer, an answer without tokens, NaN or infinity,
            `skip_tokens` below 0.

    Example:

    ```python
    >>> from hf_contrastive.evaluation import min_q_values
    >>> min_q_values([[-0.9, 0.4, 0.2], [0.3, -0.1, 0.5]], skip_tokens=1).tolist()
    [0.2, -0.1]

    ```
    """
    skip = _check_skip(skip_tokens)
    answers = _as_answers("q_values", q_values)
    empty = [index for index, answer in enumerate(answers) if not len(answer)]
    if empty:
        raise ValueError(
            f"`q_values`: {len(empty)} of {len(answers)} answers have no token (first: index {empty[0]}); leave them "
            "out"
        )
    return np.array([(answer[skip:] if len(answer) > skip else answer).min() for answer in answers])


@dataclass(frozen=True)
class FilteredVote:
    """What [`filtered_majority_vote`] found. Everything "per question" is in the order of `questions`.

    Args:
        accuracy (`float`): share of questions that the vote of the surviving samples gets right; a tie between the
            correct samples and a wrong answer counts as right, as in the published code, which flatters.
        accuracy_strict (`float`): the same with ties counted as wrong.
        accuracy_unfiltered (`float`): as `accuracy`, for the vote of all samples.
        accuracy_unfiltered_strict (`float`): as `accuracy_strict`, for the vote of all samples.
        questions (`tuple`): the questions in the order of their first sample.
        samples_per_question (`tuple[int, ...]`): samples.
        filtered_per_question (`tuple[int, ...]`): samples that were filtered out; 0 where all were, since then all
            vote.
        tokens_per_question (`tuple[int, ...]`): tokens of all samples, without the skipped ones.
        tokens_saved_per_question (`tuple[int, ...]`): tokens that need not be written when a sample ends at its first
            value below the threshold, that token included; 0 where all samples were filtered.
        proportion_correct (`tuple[float, ...]`): share of correct samples among all.
        proportion_correct_filtered (`tuple[float, ...]`): share of correct samples among those that vote.
        all_filtered (`int`): questions whose samples were all filtered, so that all of them vote.
        p_value (`float`, *optional*): two-sided paired t-test of the proportions before and after the filter, over
            questions; `None` when undefined: fewer than two questions, or the same change in each.
        p_value_unpaired (`float`, *optional*): as the published code tests them, as if before and after were
            proportions of different questions; `None` when undefined. Read `p_value`: the questions are the same.

    Example:

    ```python
    >>> from hf_contrastive.evaluation import filtered_majority_vote
    >>> vote = filtered_majority_vote(["7", "3"], [True, False], [[0.2], [-0.1]], ["sum", "sum"], skip_tokens=0)
    >>> vote.filtered_share, vote.tokens_saved_share
    (0.5, 0.5)

    ```
    """

    accuracy: float
    accuracy_strict: float
    accuracy_unfiltered: float
    accuracy_unfiltered_strict: float
    questions: tuple[Any, ...]
    samples_per_question: tuple[int, ...]
    filtered_per_question: tuple[int, ...]
    tokens_per_question: tuple[int, ...]
    tokens_saved_per_question: tuple[int, ...]
    proportion_correct: tuple[float, ...]
    proportion_correct_filtered: tuple[float, ...]
    all_filtered: int
    p_value: float | None
    p_value_unpaired: float | None

    @property
    def samples(self) -> int:
        """Samples of all questions."""
        return sum(self.samples_per_question)

    @property
    def filtered(self) -> int:
        """Samples filtered out."""
        return sum(self.filtered_per_question)

    @property
    def filtered_share(self) -> float:
        """Samples filtered out, of all samples."""
        return self.filtered / self.samples

    @property
    def tokens(self) -> int:
        """Tokens of all samples, without the skipped ones."""
        return sum(self.tokens_per_question)

    @property
    def tokens_saved(self) -> int:
        """Tokens that need not be written."""
        return sum(self.tokens_saved_per_question)

    @property
    def tokens_saved_share(self) -> float:
        """Tokens that need not be written, of `tokens`; 0 when there are none."""
        return self.tokens_saved / self.tokens if self.tokens else 0.0

    @property
    def mean_proportion_correct(self) -> float:
        """Share of correct samples among all, mean over questions."""
        return float(np.mean(self.proportion_correct))

    @property
    def mean_proportion_correct_filtered(self) -> float:
        """Share of correct samples among those that vote, mean over questions."""
        return float(np.mean(self.proportion_correct_filtered))

    def summary(self) -> dict[str, float | int | None]:
        """The numbers over all questions, for logs and tables."""
        names = (
            *("accuracy", "accuracy_strict", "accuracy_unfiltered", "accuracy_unfiltered_strict"),
            *("samples", "filtered", "filtered_share", "all_filtered", "tokens", "tokens_saved", "tokens_saved_share"),
            *("mean_proportion_correct", "mean_proportion_correct_filtered", "p_value", "p_value_unpaired"),
        )
        return {"questions": len(self.questions), **{name: getattr(self, name) for name in names}}


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, (float, np.floating)) and bool(np.isnan(value)))


def _as_keys(name: str, values: Any) -> list[Any]:
    """A list of hashable values that equal each other when they mean the same."""
    if isinstance(values, str):
        raise ValueError(f"`{name}` is one text; pass a list with one entry for each sample")
    keys = values.tolist() if isinstance(values, (torch.Tensor, np.ndarray)) else list(values)
    for index, key in enumerate(keys):
        try:
            hash(key)
        except TypeError:
            hashable = False
        else:
            hashable = not isinstance(key, torch.Tensor)  # tensors hash by identity: no two would be the same answer
        if not hashable:
            raise TypeError(
                f"`{name}` holds a {type(key).__name__} at index {index}, which cannot be counted; expected texts or "
                "numbers (turn it into a text first)"
            )
    return keys


def _vote(samples: list[int], correct: np.ndarray, answers: list[Any]) -> tuple[int, bool, bool]:
    """(correct samples, right when ties are, right when ties are not)."""
    right = sum(bool(correct[index]) for index in samples)
    wrong = Counter(answers[index] for index in samples if not correct[index])
    largest = max(wrong.values(), default=0)
    return right, right >= largest, right > largest


def _t_tests(before: np.ndarray, after: np.ndarray) -> tuple[float | None, float | None]:
    """Two-sided p-values, paired and unpaired; None where there is no spread, as with one question.

    By hand, since scipy's tests warn when all shares before (or after) are equal, which is no fault here.
    """
    rows, noise = len(before), 1e-12  # equal shares differ in their last digits
    change = after - before
    paired = unpaired = None
    if np.ptp(change) > noise:
        t = change.mean() / np.sqrt(change.var(ddof=1) / rows)
        paired = float(2 * stats.t.sf(abs(t), rows - 1))
    if max(np.ptp(before), np.ptp(after)) > noise:
        t = change.mean() / np.sqrt((before.var(ddof=1) + after.var(ddof=1)) / rows)
        unpaired = float(2 * stats.t.sf(abs(t), 2 * rows - 2))
    return paired, unpaired


def filtered_majority_vote(
    predicted_answers: Sequence[Any],
    is_correct: Any,
    q_values: Iterable[Any],
    questions: Sequence[Any],
    threshold: float = 0.0,
    skip_tokens: int = 5,
) -> FilteredVote:
    """Majority vote over sampled answers, without the samples whose Q-value falls below a threshold.

    The rule of https://arxiv.org/abs/2407.13887 and its code, for each question:

        a sample survives when q_t >= threshold at every token t behind the first skip_tokens ones
        otherwise it saves (tokens - t) tokens, t the first below, counted from 0, both without the skipped ones
        the survivors vote, or all samples when none survives (then 0 are filtered, 0 tokens saved)
        right when the correct samples are at least as many as those of the most frequent wrong answer

    Correct samples are one class, however their answers are written. The rule is kind in two places: a tie is right
    (see `accuracy_strict`), and the token that shows the value below the threshold counts as saved although it is
    written.

    Args:
        predicted_answers (`Sequence` of `N` hashable values): the final answer of each sample. `None` (or NaN) means
            that there is none; the wrong samples of a question without one are together one wrong answer, "no answer".
        is_correct (`[N]` list, array or tensor): 1 or `True` where the sample is correct, otherwise 0 or `False`.
        q_values (list of `[n_i]` lists, arrays or tensors): `q_t = cos(h_t, goal)` after every token of each sample,
            without those of the prompt and of padding.
        questions (`Sequence` of `N` hashable values): which question a sample answers, in any order.
        threshold (`float`, defaults to 0.0): smallest value that survives; minus infinity filters nothing.
        skip_tokens (`int`, defaults to 5): first tokens of each sample that are not looked at. A sample with no token
            behind them survives: nothing speaks against it and nothing is saved.

    Returns:
        [`FilteredVote`]: accuracies of the vote with and without the filter, what was filtered and saved.

    Raises:
        TypeError: values that are no numbers, answers or questions that cannot be counted (lists, tensors).
        ValueError: no sample, lengths that differ, one padded array instead of a list of Q-values, NaN or infinity in
            them, other labels than 0 and 1, a missing question, `threshold` NaN, `skip_tokens` below 0.

    Example:

    ```python
    >>> from hf_contrastive.evaluation import filtered_majority_vote
    >>> vote = filtered_majority_vote(
    ...     predicted_answers=["7", "3", "3"],
    ...     is_correct=[True, False, False],
    ...     q_values=[[0.1, 0.2, 0.3], [0.1, -0.2, 0.1], [0.0, 0.1, -0.1]],
    ...     questions=["3 + 4"] * 3,
    ...     skip_tokens=1,
    ... )
    >>> vote.accuracy_unfiltered, vote.accuracy
    (0.0, 1.0)
    >>> vote.filtered_per_question, vote.tokens_per_question, vote.tokens_saved_per_question
    ((2,), (6,), (3,))

    ```
    """
    skip = _check_skip(skip_tokens)
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float, np.number)) or np.isnan(threshold):
        raise ValueError(f"`threshold` is {threshold!r}; expected a number")
    answers = [None if _is_missing(answer) else answer for answer in _as_keys("predicted_answers", predicted_answers)]
    values = _as_answers("q_values", q_values)
    asked = _as_keys("questions", questions)
    if not len(answers) == len(values) == len(asked):
        raise ValueError(
            f"`predicted_answers` has {len(answers)} entries, `q_values` {len(values)} and `questions` {len(asked)}; "
            "entry i of all is one sample"
        )
    correct = as_binary("is_correct", is_correct, len(answers), "predicted_answers")

    groups: dict[Any, list[int]] = {}
    for index, question in enumerate(asked):
        if _is_missing(question):
            raise ValueError(f"`questions` holds {question!r} at index {index}; every sample needs its question")
        groups.setdefault(question, []).append(index)

    tokens = [max(len(row) - skip, 0) for row in values]
    saved = []
    for row in values:
        below = np.flatnonzero(row[skip:] < threshold)
        saved.append(len(row) - skip - int(below[0]) if len(below) else 0)

    filtered_counts, saved_counts, before, after, outcomes, all_filtered = [], [], [], [], [], 0
    for samples in groups.values():
        # whoever is filtered saves at least the token that is below
        survivors = [index for index in samples if not saved[index]]
        voters = survivors or samples
        all_filtered += not survivors
        filtered_counts.append(len(samples) - len(voters))
        saved_counts.append(sum(saved[index] for index in samples) if survivors else 0)
        right, *unfiltered = _vote(samples, correct, answers)
        right_of_voters, *filtered = _vote(voters, correct, answers)
        before.append(right / len(samples))
        after.append(right_of_voters / len(voters))
        outcomes.append((*filtered, *unfiltered))
    accuracy, strict, unfiltered_accuracy, unfiltered_strict = np.mean(outcomes, axis=0).tolist()
    p_value, p_value_unpaired = _t_tests(np.array(before), np.array(after))
    return FilteredVote(
        accuracy=accuracy,
        accuracy_strict=strict,
        accuracy_unfiltered=unfiltered_accuracy,
        accuracy_unfiltered_strict=unfiltered_strict,
        questions=tuple(groups),
        samples_per_question=tuple(len(samples) for samples in groups.values()),
        filtered_per_question=tuple(filtered_counts),
        tokens_per_question=tuple(sum(tokens[index] for index in samples) for samples in groups.values()),
        tokens_saved_per_question=tuple(saved_counts),
        proportion_correct=tuple(before),
        proportion_correct_filtered=tuple(after),
        all_filtered=all_filtered,
        p_value=p_value,
        p_value_unpaired=p_value_unpaired,
    )


def answer_metrics(
    scores: Sequence[Mapping[str, Any]],
    labels: Any,
    questions: Sequence[Any] | None = None,
    predicted_answers: Sequence[Any] | None = None,
    *,
    threshold: float = 0.0,
    skip_tokens: int = 5,
    percentiles: Sequence[float] = (0.2, 0.4, 0.6, 0.8, 1.0),
) -> dict[str, Any]:
    """How well rewards and Q-values tell right answers from wrong ones: everything the data allows.

    Args:
        scores (`Sequence[Mapping]`): an answer each, with `reward`, `token_rewards` (of every token of the answer) and
            `q_values` (the same, or `None` where no goal is set).
        labels (`[N]` list of `bool`): whether the answer is right.
        questions (`[N]` list of hashable values, *optional*): what question it belongs to.
        predicted_answers (`[N]` list, *optional*): what a vote counts.
        threshold, skip_tokens: of the filter, as for [`filtered_majority_vote`].
        percentiles (`Sequence[float]`): parts of the answers for the partial AUROC.

    Returns:
        `dict`: `answers`, `correct` (share that is right), `auroc` of the reward and `partial_auroc` by percentile;
        `auroc_within` where some question has answers of both kinds; with Q-values `q_auroc` (of the lowest one of an answer)
        and `q_auroc_within`, and with questions and some predicted answer `vote` ([`FilteredVote`]).

    Raises:
        TypeError, ValueError: as the functions that are called; labels of one class only.

    Example:

    ```python
    >>> from hf_contrastive.evaluation import answer_metrics
    >>> scores = [{"reward": r, "token_rewards": [0.0, r], "q_values": None} for r in (0.9, 0.1, 0.4)]
    >>> answer_metrics(scores, [True, False, False], ["a", "a", "b"], percentiles=(1.0,))
    {'answers': 3, 'correct': 0.3333333333333333, 'auroc': 1.0, 'partial_auroc': {1.0: 1.0}, 'auroc_within': 1.0}

    ```
    """
    labels, rewards = list(labels), [one["reward"] for one in scores]
    found: dict[str, Any] = {
        "answers": len(labels),
        "correct": float(np.mean(labels)),
        "auroc": auroc(rewards, labels),
        "partial_auroc": partial_auroc([one["token_rewards"] for one in scores], labels, percentiles),
    }
    kinds = set(zip(questions, labels, strict=True)) if questions is not None else set()
    compared = any((question, not label) in kinds for question, label in kinds)
    if compared:
        found["auroc_within"] = auroc_within(rewards, labels, questions)
    if scores[0]["q_values"] is None:
        return found
    q_values = [one["q_values"] for one in scores]
    lowest = min_q_values(q_values, skip_tokens)
    found["q_auroc"] = auroc(lowest, labels)
    if compared:
        found["q_auroc_within"] = auroc_within(lowest, labels, questions)
    if questions is not None and any(answer is not None for answer in predicted_answers or ()):
        assert predicted_answers is not None
        found["vote"] = filtered_majority_vote(
            list(predicted_answers), labels, q_values, list(questions), threshold, skip_tokens
        )
    return found


__all__ = [
    "FilteredVote",
    "answer_metrics",
    "auroc",
    "auroc_within",
    "filtered_majority_vote",
    "min_q_values",
    "pairwise_accuracy",
    "partial_auroc",
]
