"""Sampling with a goal-conditioned reward model that stops hopeless answers while they are written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hf_contrastive.generation.goal_scores import IdScores, TextScores
from hf_contrastive.generation.goal_states import (
    Prompts,
    check_count,
    check_goal,
    check_vocabularies,
    check_window,
    read_prompts,
)
from hf_contrastive.generation.row_decoding import RowDecoder, row_draws, take_rows
from hf_contrastive.utils import evaluation_mode


@dataclass
class FilteredGenerations:
    """Sampled answers, those that were stopped included; row by row, all samples of the first prompt first.

    Args:
        sequences (`list[torch.LongTensor]`): tokens of every answer as far as it was written, without the prompt; the
            end of text and stop strings included.
        texts (`list[str]`, *optional*): the same as text, with a tokenizer.
        kept (`list[bool]`): whether the answer was not stopped by the filter.
        finished (`list[bool]`): whether it ended by itself (end of text, stop string, a criterion), not by
            `max_new_tokens` or the filter.
        stopped_at (`list[int | None]`): place in the answer, from 0, of the first token whose Q-value is too low.
        q_values (`list[torch.FloatTensor]`): Q-value at every token of the answer, from -1 to 1; of another
            tokenizer's reward model, at every token that it reads the answer as.
        rewards (`list[float | None]`): of every kept answer, at its last token; `None` for the others.
        prompt_index, sample_index (`list[int]`): which prompt the row continues, and its how-manieth sample it is.
        tokens_generated (`int`): tokens of all answers as far as they were written.
        tokens_limit (`int`): tokens that there would be if every answer had `max_new_tokens`.
    """

    sequences: list[Tensor]
    texts: list[str] | None
    kept: list[bool]
    finished: list[bool]
    stopped_at: list[int | None]
    q_values: list[Tensor]
    rewards: list[float | None]
    prompt_index: list[int]
    sample_index: list[int]
    tokens_generated: int
    tokens_limit: int

    def rows_of(self, prompt: int, *, kept_only: bool = True) -> list[int]:
        """Numbers of the rows that continue a prompt; by default of those that were kept."""
        prompts = len(set(self.prompt_index))
        if not 0 <= prompt < prompts:
            raise IndexError(f"prompt {prompt} does not exist; there are {prompts}, counted from 0.")
        rows = (row for row, index in enumerate(self.prompt_index) if index == prompt)
        return [row for row in rows if self.kept[row] or not kept_only]

    def answers_of(self, prompt: int, *, kept_only: bool = True) -> list[Any]:
        """Answers to a prompt as texts, or as token ids where there was no tokenizer; by default the kept ones."""
        answers: list[Any] = self.sequences if self.texts is None else self.texts
        return [answers[row] for row in self.rows_of(prompt, kept_only=kept_only)]


@dataclass
class _Row:
    prompt: int
    sample: int
    tokens: list[int] = field(default_factory=list)
    q_values: Tensor = field(default_factory=lambda: torch.zeros(0))
    reward: float = float("nan")
    stopped_at: int | None = None
    finished: bool = False


def filter_generations(
    model: Any,
    reward_model: Any,
    inputs: Any,
    *,
    tokenizer: Any = None,
    num_samples: int = 1,
    threshold: float | None = 0.0,
    skip_tokens: int = 5,
    check_every: int = 8,
    goal_state: Tensor | None = None,
    reward_tokenizer: Any = None,
    reward_inputs: Any = None,
    max_rows: int | None = None,
    seed: int = 0,
    **generate_arguments: Any,
) -> FilteredGenerations:
    """Sample answers and stop those that will not reach the goal, while they are written
    (https://arxiv.org/abs/2407.13887).

    Every `check_every` tokens a goal-conditioned reward model reads what is new of every answer; an answer with a
    token, behind the first `skip_tokens`, whose Q-value is below `threshold` is dropped, and its place in the batch
    with it. What it would have gone on to say costs nothing. The end of text counts as a token of the answer.

    What an answer says follows from `seed`, the number of its prompt and its number among the samples: not from which
    others are dropped, nor from `check_every` and `max_rows` (up to the rounding of batches of another size). The
    answers that are kept are therefore those of the same call with `threshold=None`, token by token.

    Args:
        model (`PreTrainedModel`): a decoder with `generate`.
        reward_model ([`GoalConditionedRewardModel`]): gives Q-values and rewards.
        inputs (`str`, list of `str`, mapping of tensors or `Tensor`): prompts; token ids are padded on the left.
        tokenizer (*optional*): for texts and `stop_strings`.
        num_samples (`int`, defaults to 1): answers to each prompt.
        threshold (`float` or `None`, defaults to 0.0): smallest Q-value that is not dropped, from -1 to 1; `None`
            keeps all.
        skip_tokens (`int`, defaults to 5): first tokens of each answer that are not judged.
        check_every (`int`, defaults to 8): tokens between two looks of the reward model.
        goal_state (`torch.FloatTensor` `[dim]`, *optional*): in place of the reward model's own goal.
        reward_tokenizer (*optional*): of the reward model, where it reads other tokens. Then the answers are turned
            into text and read anew from the start at every look, which takes more time; `skip_tokens` and `q_values`
            refer to its tokens, and the last token of an unfinished answer, which may still become another one, is
            judged at the next look.
        reward_inputs (as `inputs`, *optional*): the prompts as the reward model should see them, one for each prompt.
        max_rows (`int`, *optional*): answers written at the same time. The rows are cut into groups of that many, and
            a group begins when all answers of the one before have ended or were dropped.
        seed (`int`, defaults to 0): of the draws.
        **generate_arguments: of `generate`: `max_new_tokens` (of the whole answer, needed), `min_new_tokens`,
            `temperature`, `top_k` (50 when nothing is said, as in `generate`; 0 for all tokens), `top_p`,
            `stop_strings`, ... Answers are sampled unless `do_sample=False` (greedy search), or `penalty_alpha` with
            `top_k` (contrastive search) is given.

    Returns:
        [`FilteredGenerations`].

    Raises:
        ValueError: no goal, a setting out of range, prompts that do not fit either model, models that read different
            tokens, and arguments of `generate` that cannot work on rows that come and go; the message says what to
            change.

    Example:

    ```python
    >>> import torch
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> from hf_contrastive import GoalConditionedRewardModel
    >>> from hf_contrastive.generation import filter_generations
    >>> config = GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0, pad_token_id=0)
    >>> model = GPT2LMHeadModel(config)
    >>> reward_model = GoalConditionedRewardModel.from_backbone(model)
    >>> reward_model.set_goal_state(torch.ones(16))
    >>> found = filter_generations(
    ...     model, reward_model, torch.tensor([[5, 6, 7]]), num_samples=3, threshold=-1.0, max_new_tokens=6, min_new_tokens=6
    ... )
    >>> found.kept, [len(answer) for answer in found.sequences]
    ([True, True, True], [6, 6, 6])

    ```
    """
    for name, value, least in (
        ("num_samples", num_samples, 1),
        ("check_every", check_every, 1),
        ("skip_tokens", skip_tokens, 0),
    ):
        check_count(name, value, least)
    if max_rows is not None:
        check_count("max_rows", max_rows)
    if threshold is not None and (isinstance(threshold, bool) or not -1 <= threshold <= 1):
        raise ValueError(
            f"`threshold` is {threshold!r}, expected a number from -1 to 1 (a cosine), or None to keep all."
        )
    goal = check_goal(reward_model, goal_state)
    decoder = RowDecoder(model, generate_arguments, tokenizer, "filter_generations")
    decoder.check_samples("num_samples", num_samples)
    limit = generate_arguments.get("max_new_tokens", model.generation_config.max_new_tokens)
    if limit is None:
        raise ValueError("`max_new_tokens` is missing; say how long an answer may be, for example max_new_tokens=256.")
    check_count("max_new_tokens", limit)
    prompts = read_prompts(inputs, tokenizer, model)
    advice = "pass max_new_tokens={room} or fewer, or shorten the prompt"
    check_window(model, "language model", prompts.lengths(), limit, advice)
    scores = _scores(model, reward_model, goal, prompts, tokenizer, reward_tokenizer, reward_inputs, limit)

    rows = [_Row(prompt, sample) for prompt in range(len(prompts)) for sample in range(num_samples)]
    size = len(rows) if max_rows is None else max_rows
    with torch.no_grad(), evaluation_mode(model, reward_model):
        for first in range(0, len(rows), size):
            _write(
                rows[first : first + size], model, decoder, scores, prompts,
                threshold=threshold, skip=skip_tokens, every=check_every, limit=limit, seed=seed, samples=num_samples,
            )  # fmt: skip
    kept = [row.stopped_at is None for row in rows]
    return FilteredGenerations(
        sequences=[torch.tensor(row.tokens) for row in rows],
        texts=None
        if tokenizer is None
        else tokenizer.batch_decode([row.tokens for row in rows], skip_special_tokens=True),
        kept=kept,
        finished=[row.finished for row in rows],
        stopped_at=[row.stopped_at for row in rows],
        q_values=[row.q_values for row in rows],
        rewards=[row.reward if keep else None for row, keep in zip(rows, kept, strict=True)],
        prompt_index=[row.prompt for row in rows],
        sample_index=[row.sample for row in rows],
        tokens_generated=sum(len(row.tokens) for row in rows),
        tokens_limit=len(rows) * limit,
    )


def _scores(
    model: Any,
    reward_model: Any,
    goal: Tensor,
    prompts: Prompts,
    tokenizer: Any,
    reward_tokenizer: Any,
    reward_inputs: Any,
    limit: int,
) -> IdScores | TextScores:
    """How the reward model reads: token ids, where it has the same ones, or texts."""
    same = reward_tokenizer is None or reward_tokenizer is tokenizer
    if not same and tokenizer is not None:
        same = reward_tokenizer.get_vocab() == tokenizer.get_vocab()
    if same:
        if reward_tokenizer is None:
            check_vocabularies(
                model, reward_model, "pass reward_tokenizer=..., with which the answers are read as text"
            )
        read = prompts
        if reward_inputs is not None:
            read = read_prompts(reward_inputs, tokenizer, reward_model, "reward_inputs")
            _check_paired(len(read), len(prompts))
        check_window(reward_model, "reward model", read.lengths(), limit, "pass max_new_tokens={room} or fewer")
        return IdScores(reward_model, goal, read)
    if tokenizer is None:
        raise ValueError(
            "with `reward_tokenizer` the answers are read as text; pass tokenizer=... of the language model, too."
        )
    own = prompts.texts
    if own is None:
        own = [
            tokenizer.decode(ids[mask.bool()], skip_special_tokens=True)
            for ids, mask in zip(prompts.ids, prompts.mask, strict=True)
        ]
    if reward_inputs is not None:
        own = [reward_inputs] if isinstance(reward_inputs, str) else list(reward_inputs)
        if not all(isinstance(text, str) for text in own):
            raise ValueError("`reward_inputs` must be texts here, since `reward_tokenizer` differs from `tokenizer`.")
        _check_paired(len(own), len(prompts))
    lengths = [len(reward_tokenizer(text)["input_ids"]) for text in own]
    check_window(reward_model, "reward model", lengths, 0, "")
    written = [ids[mask.bool()].tolist() for ids, mask in zip(prompts.ids, prompts.mask, strict=True)]
    return TextScores(reward_model, goal, own, written, tokenizer, reward_tokenizer)


def _check_paired(found: int, expected: int) -> None:
    if found != expected:
        raise ValueError(f"`reward_inputs` has {found} prompts, expected one for each of the {expected} in `inputs`.")


def _write(
    rows: list[_Row],
    model: Any,
    decoder: RowDecoder,
    scores: IdScores | TextScores,
    prompts: Prompts,
    *,
    threshold: float | None,
    skip: int,
    every: int,
    limit: int,
    seed: int,
    samples: int,
) -> None:
    """Write the answers of a group of rows until each has ended or was dropped."""
    ids, mask = (part.to(model.device) for part in prompts.rows([row.prompt for row in rows]))
    start = ids.shape[1]
    draws = None
    if decoder.samples:
        draws = torch.stack([row_draws(seed, (row.prompt, row.sample), limit) for row in rows])
    scores.begin([row.prompt for row in rows])
    active, cache = rows, None
    while active:
        width = ids.shape[1]
        piece = decoder.piece(
            ids, mask, min(every, limit - (width - start)), start=start, limit=limit, draws=draws, cache=cache,
            rows=[row.prompt * samples + row.sample for row in active],
        )  # fmt: skip
        new, counts, ended = piece.ids[:, width:], (piece.lengths - width).tolist(), piece.ended.tolist()
        # the last piece is the end, also of answers that were not finished
        over = [end or len(row.tokens) + count >= limit for row, count, end in zip(active, counts, ended, strict=True)]
        found = scores.read(new, counts, over)
        going = []
        for place, (row, one) in enumerate(zip(active, found, strict=True)):
            row.tokens += new[place, : counts[place]].tolist()
            row.q_values, row.reward = one.q_values, one.reward
            if threshold is not None:
                below = (one.q_values[skip : one.settled] < threshold).nonzero()
                if len(below):
                    row.stopped_at = scores.place_in_answer(place, skip + int(below[0]))
                    continue
            row.finished = ended[place]
            if not over[place]:
                going.append(place)
        ids, mask = piece.ids, torch.cat([mask, mask.new_ones(new.shape)], dim=1)
        cache = piece.cache
        if len(going) < len(active):
            active = [active[place] for place in going]
            chosen = torch.tensor(going, dtype=torch.long)
            if not active:
                break
            ids, mask = ids[chosen.to(ids.device)], mask[chosen.to(ids.device)]
            draws = None if draws is None else draws[chosen]
            cache = None if cache is None else take_rows(cache, chosen.to(ids.device))
            scores.select(chosen)


__all__ = ["FilteredGenerations", "filter_generations"]
