"""From texts to the inputs of a reward model, and from its outputs to scores."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hf_contrastive.data.preference_tokens import EncodedAnswer, encode_answer
from hf_contrastive.utils import evaluation_mode


@dataclass
class AnswerScores:
    """Scores of answers with their course, answer by answer in the order given.

    Args:
        rewards (`torch.FloatTensor` `[answers]`): of the whole answers.
        tokens (`list[list[int]]`): ids of the tokens of every answer, without the end of text.
        token_rewards (`list[torch.FloatTensor]`): reward of the answer up to every one of its tokens.
        q_values (`list[torch.FloatTensor]`, *optional*): how near the state at every one of its tokens is to the goal, from -1
            to 1; none without a goal.
        cut_prompts, cut_answers (`list[int]`): tokens left out at the start of the prompt and the end of the answer, to fit
            the model.
    """

    rewards: torch.Tensor
    tokens: list[list[int]]
    token_rewards: list[torch.Tensor]
    q_values: list[torch.Tensor] | None
    cut_prompts: list[int]
    cut_answers: list[int]


def find_tokenizer(model: Any, tokenizer: Any) -> Any:
    """The tokenizer given, the model's own, or the one that was saved beside it.

    Args:
        model ([`GoalConditionedRewardModel`]): `tokenizer` and the place it was loaded from are looked at.
        tokenizer (*optional*): as given.

    Raises:
        ValueError: there is none.
    """
    if tokenizer is not None:
        return tokenizer
    if model.tokenizer is None and model.name_or_path:
        from transformers import AutoTokenizer

        try:
            model.tokenizer = AutoTokenizer.from_pretrained(model.name_or_path)
        except (OSError, ValueError):
            model.tokenizer = None
    if model.tokenizer is None:
        raise ValueError(
            "there is no tokenizer to read texts with: none was given and none is saved beside the model; pass "
            "tokenizer=AutoTokenizer.from_pretrained(...), the one that the model was trained with."
        )
    return model.tokenizer


def longest_text(model: Any, max_length: int | None) -> int | None:
    """Tokens that a text may have: what was asked for, at most the model's positions; `None` = no limit.

    Raises:
        ValueError: more than the model has.
    """
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if max_length is not None and positions is not None and max_length > positions:
        raise ValueError(f"`max_length` is {max_length}, but the model has {positions} positions; pass at most that.")
    return positions if max_length is None else max_length


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (
        isinstance(value, Sequence) and len(value) > 0 and all(isinstance(turn, dict) for turn in value)
    )


def paired(prompts: Any, answers: Any) -> tuple[list[Any], list[Any], bool]:
    """Prompts and answers as lists of one length; one prompt goes with all answers.

    Returns:
        `(prompts, answers, whether one single pair was given)`.

    Raises:
        ValueError: lists of different length, or empty ones.
    """
    one = _is_text(answers)
    answers = [answers] if one else list(answers)
    prompts = [prompts] * len(answers) if _is_text(prompts) or prompts == "" else list(prompts)
    if len(prompts) != len(answers) or not answers:
        raise ValueError(
            f"there are {len(prompts)} prompts and {len(answers)} answers; give one answer a prompt, and at least one."
        )
    return prompts, answers, one


def text_batches(
    model: Any,
    tokenizer: Any,
    prompts: Any,
    answers: Any,
    *,
    batch_size: int,
    max_length: int | None,
    end: bool,
    as_chat: bool = False,
) -> Iterator[tuple[dict[str, torch.Tensor], list[int], list[EncodedAnswer]]]:
    """Batches of texts of similar length, padded on the right, on the model's device.

    Args:
        model, tokenizer, max_length, as_chat: as in `score`.
        prompts, answers: lists of one length; without answers, the prompts are whole texts.
        batch_size (`int`): texts a batch.
        end (`bool`): put the end of text behind every answer.

    Yields:
        `(inputs, places of these texts in the lists, their encodings)`.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` is {batch_size!r}, but it must be a whole number of 1 or more.")
    limit = longest_text(model, max_length)
    if answers is None:
        texts = [prompts] if _is_text(prompts) else list(prompts)
        prompts, answers = [""] * len(texts), texts
    else:
        prompts, answers, _ = paired(prompts, answers)
    encoded = []
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        try:
            encoded.append(encode_answer(tokenizer, prompt, answer, max_length=limit, add_end=end, as_chat=as_chat))
        except ValueError as error:
            raise ValueError(f"answer {number}: {error}") from error
    cut = sum(one.cut_prompt > 0 for one in encoded), sum(one.cut_answer > 0 for one in encoded)
    if any(cut):
        warnings.warn(
            f"longer than {limit} tokens: the start of the prompt was left out for {cut[0]} of {len(encoded)} texts; for "
            f"{cut[1]} of them the end of the answer too, so that only its first part is scored."
        )
    order = sorted(range(len(encoded)), key=lambda place: len(encoded[place].input_ids))
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        rows = [encoded[place].input_ids for place in places]
        longest = max(map(len, rows))
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for number, row in enumerate(rows):
            ids[number, : len(row)], mask[number, : len(row)] = torch.tensor(row), 1
        inputs = {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}
        yield inputs, places, [encoded[place] for place in places]


@torch.no_grad()
def score_answers(
    model: Any,
    prompts: Any,
    answers: Any,
    *,
    tokenizer: Any,
    batch_size: int,
    max_length: int | None,
    as_chat: bool,
    details: bool,
    goal_state: torch.Tensor | None,
) -> torch.Tensor | AnswerScores:
    """See `GoalConditionedRewardModel.score`."""
    prompts, answers, _ = paired(prompts, answers)
    count = len(answers)
    rewards = torch.zeros(count)
    tokens: list[Any] = [None] * count
    courses: list[Any] = [None] * count
    q_values: list[Any] = [None] * count
    cut: list[Any] = [None] * count
    batches = text_batches(
        model, tokenizer, prompts, answers, batch_size=batch_size, max_length=max_length, end=True, as_chat=as_chat
    )
    with evaluation_mode(model):
        for inputs, places, encoded in batches:
            outputs = model(**inputs, goal_state=goal_state)
            found = outputs.rewards.float().cpu()
            for row, (place, one) in enumerate(zip(places, encoded, strict=True)):
                rewards[place] = found[row]
                if not details:
                    continue
                last = len(one.input_ids) - 1
                span = slice(last - one.num_actions, last)
                tokens[place], cut[place] = one.input_ids[span], (one.cut_prompt, one.cut_answer)
                courses[place] = outputs.token_rewards[row, span].float().cpu()
                if outputs.q_values is not None:
                    q_values[place] = outputs.q_values[row, span].float().cpu()
    if not bool(torch.isfinite(rewards).all()):
        wrong = int((~torch.isfinite(rewards)).nonzero()[0])
        raise FloatingPointError(
            f"the reward of answer {wrong} is {float(rewards[wrong])}; the model's weights or its precision are broken (float16 "
            "overflows easily; load with dtype=torch.bfloat16 or float32)."
        )
    if not details:
        return rewards
    return AnswerScores(
        rewards,
        tokens,
        courses,
        None if q_values[0] is None else q_values,
        [prompt for prompt, _ in cut],
        [answer for _, answer in cut],
    )


__all__ = ["AnswerScores", "find_tokenizer", "longest_text", "paired", "score_answers", "text_batches"]
