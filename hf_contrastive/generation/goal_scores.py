"""Q-values and rewards of answers that grow: over the same tokens, or over another tokenizer's."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_contrastive.generation.goal_states import Prompts, StateReader
from hf_contrastive.generation.row_decoding import text_window


@dataclass
class AnswerReading:
    """What the reward model says of one answer so far.

    Args:
        q_values (`torch.FloatTensor` `[tokens]`): at every token of the answer.
        settled (`int`): how many of them will not change any more.
        reward (`float`): at the last token.
    """

    q_values: Tensor
    settled: int
    reward: float


class IdScores:
    """Reads the tokens as they were written; every one once.

    Args:
        reward_model ([`GoalConditionedRewardModel`]): reads.
        goal (`torch.FloatTensor` `[dim]`): for Q-values.
        prompts ([`Prompts`]): as the reward model should see them.
    """

    def __init__(self, reward_model: Any, goal: Tensor, prompts: Prompts) -> None:
        self.model, self.goal, self.prompts = reward_model, goal, prompts
        self.reader: StateReader | None = None
        self.q_values: list[Tensor] = []

    def begin(self, prompts: Sequence[int]) -> None:
        """Start with rows that continue these prompts; a prompt of several rows is read once."""
        distinct = sorted(set(prompts))
        self.reader = StateReader(self.model, *self.prompts.rows(distinct))
        if list(prompts) != distinct:
            self.reader.select(torch.tensor([distinct.index(prompt) for prompt in prompts]))
        self.q_values = [torch.zeros(0) for _ in prompts]

    def read(self, tokens: Tensor, counts: Sequence[int], over: Sequence[bool]) -> list[AnswerReading]:
        """Read new tokens `[rows, new]`, of which each row has its own count; `over` says whose answer is complete.

        Returns:
            One [`AnswerReading`] a row, of the whole answer.
        """
        assert self.reader is not None
        # behind the end of a row there is padding, which need not be in the reward model's vocabulary; nothing looks
        # at it
        places = torch.arange(tokens.shape[1], device=tokens.device)
        tokens = tokens.masked_fill(places >= torch.tensor(counts, device=tokens.device)[:, None], 0)
        values, q_values = self.model.read_states(self.reader.read(tokens), self.goal)
        values, q_values = values.float().cpu(), q_values.float().cpu()
        found = []
        for row, count in enumerate(counts):
            self.q_values[row] = torch.cat([self.q_values[row], q_values[row, :count]])
            found.append(AnswerReading(self.q_values[row], len(self.q_values[row]), float(values[row, count - 1])))
        return found

    def place_in_answer(self, row: int, place: int) -> int:
        """The token of the answer that a Q-value belongs to."""
        return place

    def select(self, rows: Tensor) -> None:
        """Go on with these rows."""
        assert self.reader is not None
        self.reader.select(rows)
        self.q_values = [self.q_values[row] for row in rows.tolist()]


class TextScores:
    """Reads the answers as text with the reward model's own tokenizer, from the start each time.

    Args:
        reward_model ([`GoalConditionedRewardModel`]): reads.
        goal (`torch.FloatTensor` `[dim]`): for Q-values.
        prompts (`list[str]`): as the reward model should see them.
        written (`list[list[int]]`): the prompts' tokens as they were given to the language model.
        tokenizer, reward_tokenizer: of the language model and of the reward model.
    """

    def __init__(
        self,
        reward_model: Any,
        goal: Tensor,
        prompts: list[str],
        written: list[list[int]],
        tokenizer: Any,
        reward_tokenizer: Any,
    ) -> None:
        self.model, self.goal, self.prompts, self.written = reward_model, goal, prompts, written
        self.tokenizer, self.reward_tokenizer = tokenizer, reward_tokenizer
        self.window = text_window(reward_model)
        self.rows: list[int] = []
        self.answers: list[list[int]] = []
        self.ends: list[list[int]] = []

    def begin(self, prompts: Sequence[int]) -> None:
        """Start with rows that continue these prompts."""
        self.rows, self.answers = list(prompts), [[] for _ in prompts]

    def read(self, tokens: Tensor, counts: Sequence[int], over: Sequence[bool]) -> list[AnswerReading]:
        """As `IdScores.read`."""
        encoded, firsts = [], []
        self.ends = []
        for row, (count, end) in enumerate(zip(counts, over, strict=True)):
            self.answers[row] += tokens[row, :count].tolist()
            ids, first, ends = self._encode(row, end)
            encoded.append(ids)
            firsts.append(first)
            self.ends.append(ends)
        longest = max(map(len, encoded))
        ids = torch.zeros(len(encoded), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, own in enumerate(encoded):
            ids[row, : len(own)], mask[row, : len(own)] = torch.tensor(own), 1
        outputs = self.model(
            input_ids=ids.to(self.model.device), attention_mask=mask.to(self.model.device), goal_state=self.goal
        )
        q_values, values = outputs.q_values.float().cpu(), outputs.rewards.float().cpu()
        found = []
        for row, own in enumerate(encoded):
            answer = q_values[row, firsts[row] : len(own)]
            found.append(AnswerReading(answer, len(answer) - (0 if over[row] else 1), float(values[row])))
        return found

    def _text(self, row: int, count: int | None = None) -> str:
        """Text of an answer, or of its first tokens; decoded behind its prompt, so that a space at its start is not
        lost."""
        options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        written = self.written[self.rows[row]]
        answer = self.answers[row] if count is None else self.answers[row][:count]
        before = self.tokenizer.decode(written, **options)
        whole = self.tokenizer.decode([*written, *answer], **options)
        return whole[len(before) :] if whole.startswith(before) else self.tokenizer.decode(answer, **options)

    def _encode(self, row: int, end: bool) -> tuple[list[int], int, list[int]]:
        """Tokens of prompt and answer, the place of the answer's first one, and how many characters each of them
        reaches."""
        prompt, text = self.prompts[self.rows[row]], self._text(row)
        tokenizer = self.reward_tokenizer
        eos = tokenizer.eos_token_id
        if getattr(tokenizer, "is_fast", False):
            coded = tokenizer(prompt + text, return_offsets_mapping=True, verbose=False)
            ids, reach = list(coded["input_ids"]), [stop - len(prompt) for _, stop in coded["offset_mapping"]]
            first = next((place for place, stop in enumerate(reach) if stop > 0), len(ids))
        else:
            ids = list(tokenizer(prompt + text, verbose=False)["input_ids"])
            alone = list(tokenizer(prompt, verbose=False)["input_ids"])
            pairs = enumerate(zip(ids, alone, strict=False))
            first = next((place for place, (one, other) in pairs if one != other), min(len(ids), len(alone)))
            reach = [0] * first + [len(tokenizer.decode(ids[first : place + 1])) for place in range(first, len(ids))]
        if ids and ids[-1] == eos:
            ids, reach = ids[:-1], reach[:-1]
        first = min(first, len(ids))
        if end and eos is not None and self.answers[row][-1:] == [self.tokenizer.eos_token_id]:
            ids, reach = [*ids, eos], [*reach, len(text) + 1]
        if self.window is not None and len(ids) > self.window:
            excess = len(ids) - self.window
            if excess > first:
                raise ValueError(
                    f"an answer to prompt {self.rows[row]} has {len(ids) - first} tokens of the reward model's tokenizer, more than "
                    f"its {self.window} positions; pass a smaller max_new_tokens."
                )
            warnings.warn(
                f"longer than {self.window} tokens: the reward model does not see the start of a prompt.", stacklevel=2
            )
            ids, reach, first = ids[excess:], reach[excess:], first - excess
        return ids, first, reach[first:]

    def place_in_answer(self, row: int, place: int) -> int:
        """The token of the answer with which the text reaches the end of the reward model's token `place`."""
        reach = self.ends[row][place]
        count = len(self.answers[row])
        return next((number for number in range(count) if len(self._text(row, number + 1)) >= reach), count - 1)

    def select(self, rows: Tensor) -> None:
        """Go on with these rows."""
        self.rows = [self.rows[row] for row in rows.tolist()]
        self.answers = [self.answers[row] for row in rows.tolist()]


__all__ = ["AnswerReading", "IdScores", "TextScores"]
