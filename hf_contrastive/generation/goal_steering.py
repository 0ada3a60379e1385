"""Steering `generate` token by token towards the goal of a reward model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from hf_contrastive.generation.door import wire_contrastive_search
from hf_contrastive.generation.goal_states import (
    StateReader,
    check_count,
    check_goal,
    check_vocabularies,
    check_window,
    read_prompts,
)
from hf_contrastive.generation.row_decoding import text_window
from hf_contrastive.utils import evaluation_mode


class GoalSteering(LogitsProcessor):
    """Lets a goal-conditioned reward model (https://arxiv.org/abs/2407.13887) have a say in every token of a
    `generate` call.

    The `top_k` most likely tokens of every row are tried: the reward model reads each of them behind the text, and the
    cosine q of its state there with the goal is added. All other tokens are out:

        new score = log_softmax(scores) + weight * q

    Works with greedy search, sampling (temperature, top-k and top-p come after it), beams and several sequences a
    prompt. Costs `top_k` tokens of the reward model a step and row. Its cache follows the text, also where beams are
    reordered; at a text it does not know it starts anew, so one object can serve many calls with the same prompts'
    mask.

    Args:
        reward_model ([`GoalConditionedRewardModel`]): reads the same token ids as the model that writes.
        weight (`float`): of the goal; 0 leaves the order of the `top_k` as it is, below 0 steers away.
        top_k (`int`, defaults to 8): tokens that are tried.
        attention_mask (`LongTensor` `[prompts, length]`, *optional*): of the prompts, when they are padded.
        goal_state (`torch.FloatTensor` `[dim]`, *optional*): in place of the reward model's own goal.

    Raises:
        ValueError: no goal, a weight that is not finite, `top_k` below 1; when called, a mask or a vocabulary that
            does not fit.

    Example:

    ```python
    >>> import torch
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> from hf_contrastive import GoalConditionedRewardModel
    >>> from hf_contrastive.generation import GoalSteering
    >>> config = GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0, pad_token_id=0)
    >>> model = GPT2LMHeadModel(config).eval()
    >>> reward_model = GoalConditionedRewardModel.from_backbone(model)
    >>> reward_model.set_goal_state(torch.ones(16))
    >>> ids = torch.tensor([[5, 6, 7]])
    >>> steering = GoalSteering(reward_model, weight=2.0, top_k=4, attention_mask=torch.ones_like(ids))
    >>> model.generate(
    ...     ids, attention_mask=torch.ones_like(ids), logits_processor=[steering], max_new_tokens=2, min_new_tokens=2
    ... ).shape
    torch.Size([1, 5])

    ```
    """

    def __init__(
        self,
        reward_model: Any,
        weight: float,
        top_k: int = 8,
        *,
        attention_mask: Tensor | None = None,
        goal_state: Tensor | None = None,
    ) -> None:
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not math.isfinite(weight):
            raise ValueError(f"`weight` is {weight!r}, expected a finite number; 0 does not steer.")
        self.top_k = check_count("top_k", top_k)
        self.goal = check_goal(reward_model, goal_state)
        if attention_mask is not None and (attention_mask.ndim != 2 or bool((attention_mask[:, -1] == 0).any())):
            raise ValueError(
                f"`attention_mask` has shape {list(attention_mask.shape)} and must be [prompts, length], of prompts padded on the "
                "left (tokenizer.padding_side = 'left')."
            )
        self.reward_model, self.weight = reward_model, float(weight)
        self.prompt_mask = attention_mask
        self.window = text_window(reward_model)
        self.reader: StateReader | None = None

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        vocabulary = len(self.reward_model.get_input_embeddings().weight)
        if scores.shape[-1] != vocabulary:
            raise ValueError(
                f"the language model scores {scores.shape[-1]} tokens, but the reward model has {vocabulary}: they do not read the "
                "same token ids; use a reward model on the language model's tokens."
            )
        likely = scores.log_softmax(-1)
        best, tokens = likely.topk(min(self.top_k, likely.shape[-1]), dim=-1)
        if self.weight:
            with torch.no_grad(), evaluation_mode(self.reward_model):
                best = best + self.weight * self._q_values(input_ids, tokens).to(best)
        return torch.full_like(likely, -torch.inf).scatter_(1, tokens, best)

    def _q_values(self, ids: Tensor, tokens: Tensor) -> Tensor:
        """Q-values `[rows, k]` of candidates `[rows, k]` behind texts `[rows, length]`."""
        mask = self._mask(ids)
        if self.window is not None and int(mask.sum(1).max()) >= self.window:
            raise ValueError(
                f"the text has reached the {self.window} positions of the reward model; lower max_new_tokens."
            )
        if not self._follow(ids, mask):
            self.reader = StateReader(self.reward_model, ids, mask)
        assert self.reader is not None
        _, q_values = self.reward_model.read_states(self.reader.branch(tokens), self.goal)
        return q_values

    def _mask(self, ids: Tensor) -> Tensor:
        """The prompts' mask for every row, and ones for what was written."""
        mask = torch.ones_like(ids)
        if self.prompt_mask is None:
            return mask
        prompts, length = self.prompt_mask.shape
        if len(ids) % prompts or ids.shape[1] < length:
            raise ValueError(
                f"`attention_mask` is of {prompts} prompts with {length} tokens, but `generate` works on {len(ids)} rows with "
                f"{ids.shape[1]}; make a GoalSteering with the mask of these prompts."
            )
        mask[:, :length] = self.prompt_mask.to(mask).repeat_interleave(len(ids) // prompts, dim=0)
        return mask

    def _follow(self, ids: Tensor, mask: Tensor) -> bool:
        """Go on from what was read, when every row is one of the rows read with one more token."""
        reader = self.reader
        length = ids.shape[1]
        if reader is None or reader.length != length - 1:
            return False
        before = ids[:, :-1].to(reader.device)[:, None]
        same = (before == reader.ids[None]).all(-1)
        if reader.padded or not bool(mask.all()):
            same &= (mask[:, :-1].to(reader.device)[:, None] == reader.mask[None]).all(-1)
        if not bool(same.any(1).all()):
            return False
        reader.follow(same.int().argmax(1), ids[:, -1])
        return True


def goal_steered_generate(
    model: Any,
    reward_model: Any,
    inputs: Any,
    *,
    weight: float,
    top_k: int = 8,
    tokenizer: Any = None,
    goal_state: Tensor | None = None,
    stop_strings: str | Sequence[str] | None = None,
    **generate_arguments: Any,
) -> Any:
    """Generate with [`GoalSteering`], everything wired.

    Args:
        model (`PreTrainedModel`): a decoder with `generate`.
        reward_model ([`GoalConditionedRewardModel`]): reads the same token ids.
        inputs (`str`, list of `str`, mapping of tensors or `Tensor`): texts (these need `tokenizer`), or ids padded on
            the left.
        weight, top_k, goal_state: as in [`GoalSteering`].
        tokenizer (*optional*): for texts and `stop_strings`.
        stop_strings (`str` or list of `str`, *optional*): generation of a text ends when it ends with one of them.
        **generate_arguments: of `generate`, for example `max_new_tokens`, `do_sample`, `num_beams`, `penalty_alpha`
            for contrastive search among the steered tokens.

    Returns:
        For texts: the continuation (`str`), or a list of them. Otherwise, or with `return_dict_in_generate`, what
            `generate` returns.

    Raises:
        ValueError: what [`GoalSteering`] refuses, encoder-decoders, prompts that do not fit a model, and texts without
            tokenizer.

    Example:

    ```python
    >>> import torch
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> from hf_contrastive import GoalConditionedRewardModel
    >>> from hf_contrastive.generation import goal_steered_generate
    >>> config = GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0, pad_token_id=0)
    >>> model = GPT2LMHeadModel(config).eval()
    >>> reward_model = GoalConditionedRewardModel.from_backbone(model)
    >>> reward_model.set_goal_state(torch.ones(16))
    >>> ids = torch.tensor([[5, 6, 7]])
    >>> goal_steered_generate(model, reward_model, ids, weight=2.0, max_new_tokens=2, min_new_tokens=2).shape
    torch.Size([1, 5])

    ```
    """
    if model.config.is_encoder_decoder:
        raise ValueError(
            f"{type(model).__name__} is an encoder-decoder; goal_steered_generate continues prompts with decoders "
            "(AutoModelForCausalLM), whose text the reward model can read from the start."
        )
    check_vocabularies(model, reward_model, "use a reward model on the language model's tokens")
    prompts = read_prompts(inputs, tokenizer, model)
    more = generate_arguments.get("max_new_tokens") or 1
    advice = "pass max_new_tokens={room} or fewer"
    for each, what in ((model, "language model"), (reward_model, "reward model")):
        check_window(each, what, prompts.lengths(), more, advice)
    ids, mask = prompts.ids.to(model.device), prompts.mask.to(model.device)
    arguments = dict(generate_arguments)
    if stop_strings is not None:
        if tokenizer is None:
            raise ValueError("`stop_strings` need a tokenizer; pass tokenizer=AutoTokenizer.from_pretrained(...).")
        arguments |= {"stop_strings": stop_strings, "tokenizer": tokenizer}
    if arguments.get("penalty_alpha"):  # contrastive search among the same candidates
        arguments = wire_contrastive_search(model.generation_config, {"top_k": top_k, **arguments})
    steering = GoalSteering(reward_model, weight, top_k, attention_mask=mask, goal_state=goal_state)
    processors = [*(arguments.pop("logits_processor", None) or []), steering]
    if (
        prompts.texts is not None
        and tokenizer.eos_token_id is not None
        and model.generation_config.pad_token_id is None
    ):
        pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        arguments.setdefault("pad_token_id", pad)
    output = model.generate(
        input_ids=ids, attention_mask=mask, logits_processor=LogitsProcessorList(processors), **arguments
    )
    if prompts.texts is None or not isinstance(output, Tensor):
        return output
    continuations = tokenizer.batch_decode(output[:, ids.shape[1] :], skip_special_tokens=True)
    return continuations[0] if prompts.single and len(continuations) == 1 else continuations


__all__ = ["GoalSteering", "goal_steered_generate"]
