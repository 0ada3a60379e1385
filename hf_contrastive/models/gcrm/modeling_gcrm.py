"""A goal-conditioned reward model: a decoder, a value head, and a goal that hidden states are compared with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModel, PreTrainedConfig
from transformers import initialization as init
from transformers.utils import ModelOutput

from hf_contrastive.distributed import all_gather_with_grad
from hf_contrastive.families.decoder.modeling_decoder import DecoderPreTrainedModel
from hf_contrastive.losses import (
    bradley_terry_loss,
    goal_loss_of_sums,
    goal_pair_sums,
    goal_state_index,
    sorted_goal_draws,
)
from hf_contrastive.models.gcrm.configuration_gcrm import GoalConditionedRewardConfig
from hf_contrastive.models.gcrm.scoring_gcrm import AnswerScores, find_tokenizer, score_answers, text_batches
from hf_contrastive.modules.reward_readout import ValueHead, check_goal_state, goal_similarity
from hf_contrastive.utils import evaluation_mode


@dataclass
class GoalConditionedRewardOutput(ModelOutput):
    """Output of a goal-conditioned reward model, for single texts and for pairs.

    Args:
        loss (`torch.FloatTensor`, scalar): `preference_loss + beta * contrastive_loss`.
        preference_loss (`torch.FloatTensor`, scalar): Bradley-Terry.
        contrastive_loss (`torch.FloatTensor`, scalar): of the hidden states, not weighted; about 0.63 to 2.63.
        accuracy (`torch.FloatTensor`, scalar): share of pairs whose chosen answer has the higher reward.
        reward_margin (`torch.FloatTensor`, scalar): mean of chosen minus rejected reward.
        pos_sim, neg_sim (`torch.FloatTensor`, scalar): mean cosine of the positive and of the negative pairs of states.
        chosen_rewards, rejected_rewards (`torch.FloatTensor` `[batch]`): of every pair.
        logits (`torch.FloatTensor` `[batch, 1]`): the reward of every text, where programs look for it.
        rewards (`torch.FloatTensor` `[batch]`): the same.
        token_rewards (`torch.FloatTensor` `[batch, length]`): the reward that the text has up to every token; 0 at padding.
        q_values (`torch.FloatTensor` `[batch, length]`): cosine of every token's state with the goal; 0 at padding. With a goal.
        last_hidden_state (`torch.FloatTensor` `[batch, length, dim]`): of the backbone; 0 at padding.
    """

    loss: torch.Tensor | None = None
    preference_loss: torch.Tensor | None = None
    contrastive_loss: torch.Tensor | None = None
    accuracy: torch.Tensor | None = None
    reward_margin: torch.Tensor | None = None
    pos_sim: torch.Tensor | None = None
    neg_sim: torch.Tensor | None = None
    chosen_rewards: torch.Tensor | None = None
    rejected_rewards: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    rewards: torch.Tensor | None = None
    token_rewards: torch.Tensor | None = None
    q_values: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None


class GoalState(nn.Module):
    """Holds the goal of a checkpoint; zero = none is set. A module, so that an adapter takes it along.

    Args:
        dim (`int`): size of the hidden states.
    """

    state: torch.Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("state", torch.zeros(dim))


class GoalConditionedRewardModel(DecoderPreTrainedModel):
    """Reward model of https://arxiv.org/abs/2407.13887 on any decoder: a reward for an answer and, for every prefix of it, how
    likely it is to reach the goal (Q-value).

    Anything that takes a reward model of transformers takes it: `AutoModelForSequenceClassification` loads it, and
    `outputs.logits[:, 0]` is the reward. Padding may be on either side. To train one from a language model, build it with
    [`~GoalConditionedRewardModel.from_backbone`].

    Args:
        config ([`GoalConditionedRewardConfig`]): backbone, head and objective.

    Example:

    ```python
    >>> import torch
    >>> from hf_contrastive import GoalConditionedRewardConfig, GoalConditionedRewardModel
    >>> backbone = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 50}
    >>> backbone |= {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    >>> model = GoalConditionedRewardModel(GoalConditionedRewardConfig(backbone_config=backbone))
    >>> chosen, rejected = torch.tensor([[5, 6, 7, 8, 0]]), torch.tensor([[5, 6, 9, 9, 0]])
    >>> mask, actions = torch.ones_like(chosen), torch.tensor([2])
    >>> outputs = model(
    ...     chosen_input_ids=chosen, chosen_attention_mask=mask, chosen_num_actions=actions,
    ...     rejected_input_ids=rejected, rejected_attention_mask=mask, rejected_num_actions=actions,
    ... )
    >>> outputs.loss.backward()
    >>> sorted(name for name in outputs if name.endswith("loss"))
    ['contrastive_loss', 'loss', 'preference_loss']
    >>> model.eval()(chosen, mask).logits.shape
    torch.Size([1, 1])

    ```
    """

    config: GoalConditionedRewardConfig
    backbone_auto_class = AutoModel
    view_inputs = (
        "chosen_input_ids",
        "chosen_attention_mask",
        "rejected_input_ids",
        "rejected_attention_mask",
        "chosen_num_actions",
        "rejected_num_actions",
        "draw_positive",
        "draw_negative_source",
        "draw_negative_goal",
    )
    has_negatives = False
    readouts = ("last", "mean")
    objective_formula = (
        "-log sigmoid(r_chosen - r_rejected - margin) + {beta:g} * (-log P - log(1 - N)), P and N: mean sigmoid of the cosine "
        "of states of the chosen answer with its own and with the rejected answer's states"
    )

    def __init__(self, config: GoalConditionedRewardConfig) -> None:
        super().__init__(config)
        self.backbone: Any = AutoModel.from_config(cast(PreTrainedConfig, config.backbone_config))
        self.value_head = ValueHead(config.state_size, config.value_head)
        self.goal = GoalState(config.state_size)
        #: for `score` and `goal_state_from_texts`; found beside the checkpoint when it is not set
        self.tokenizer: Any = None
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, ValueHead):
            module.reset_parameters()
        elif isinstance(module, GoalState):
            init.zeros_(module.state)

    def describe_objective(self) -> str:
        """The objective in one line; without the contrastive part at `beta` 0."""
        if self.config.beta == 0:
            return "Bradley-Terry: -log sigmoid(r_chosen - r_rejected - margin)"
        return super().describe_objective()

    # ---- Goal ----

    @property
    def goal_state(self) -> torch.Tensor | None:
        """The goal `[dim]` that Q-values are taken with, or `None`."""
        state = self.goal.state
        return state if bool(state.any()) else None

    def set_goal_state(self, goal_state: torch.Tensor | None) -> None:
        """Set the goal that Q-values are taken with; it is saved with the weights.

        Args:
            goal_state (`torch.FloatTensor` `[dim]` or `None`): for example of `compute_goal_state`; `None` removes it.

        Raises:
            ValueError: another width, zero, or not finite.
        """
        if goal_state is None:
            self.goal.state.zero_()
            return
        check_goal_state(goal_state.detach().cpu(), self.config.state_size)
        self.goal.state.copy_(goal_state.detach().reshape(self.goal.state.shape))

    @torch.no_grad()
    def compute_goal_state(self, batches: Iterable[Mapping[str, torch.Tensor]]) -> torch.Tensor:
        """The goal as the paper takes it: the mean state at the last token of preferred answers, without end of text.

        Args:
            batches: batches with `chosen_input_ids` and `chosen_attention_mask` (as in training; their last token, the end of
                text, is left out), or with `input_ids` and `attention_mask` of texts without it.

        Returns:
            `torch.FloatTensor` `[dim]`, float32, for `set_goal_state`.

        Raises:
            ValueError: no text at all.
        """
        total, count = None, 0
        with evaluation_mode(self):
            for batch in batches:
                chosen = "chosen_input_ids" in batch
                prefix = "chosen_" if chosen else ""
                ids, mask = batch[f"{prefix}input_ids"], batch.get(f"{prefix}attention_mask")
                hidden, lengths, _ = self._states(ids.to(self.device), None if mask is None else mask.to(self.device))
                places = (lengths - (2 if chosen else 1)).clamp_min(0)
                found = hidden[torch.arange(len(hidden), device=hidden.device), places]
                found = found.sum(0, dtype=torch.float64 if found.device.type != "mps" else torch.float32)
                total, count = found if total is None else total + found, count + len(ids)
        if total is None:
            raise ValueError("`batches` is empty; a goal state needs at least one text.")
        return (total / count).float()

    def goal_state_from_texts(
        self,
        prompts: Sequence[Any],
        answers: Sequence[Any] | None = None,
        *,
        tokenizer: Any = None,
        batch_size: int = 8,
        max_length: int | None = None,
    ) -> torch.Tensor:
        """A goal from words: a description of what is wanted, or examples of it.

        Args:
            prompts (list of `str` or of chats): with `answers`, the prompts of example completions; alone, texts as they
                are, for example `["The answer is correct and complete."]`.
            answers (list of `str` or of chats, *optional*): completions with the wanted attribute.
            tokenizer, max_length: as in `score`.
            batch_size (`int`, defaults to 8): texts a forward pass.

        Returns:
            `torch.FloatTensor` `[dim]`: mean over the texts of the state at their last token, for `set_goal_state`.

        Raises:
            ValueError: no text, or one without a token.
        """
        tokenizer = find_tokenizer(self, tokenizer)
        batches = text_batches(
            self, tokenizer, prompts, answers, batch_size=batch_size, max_length=max_length, end=False
        )
        return self.compute_goal_state(batch for batch, _, _ in batches)

    # ---- Scoring ----

    def score(
        self,
        prompts: Any,
        answers: Sequence[Any] | str | None = None,
        *,
        tokenizer: Any = None,
        batch_size: int = 8,
        max_length: int | None = None,
        as_chat: bool = False,
        details: bool = False,
        goal_state: torch.Tensor | None = None,
    ) -> torch.Tensor | AnswerScores:
        """Rewards of answers, from text.

        Args:
            prompts (`str`, chat, or list of them): a chat is a list of `{"role", "content"}`; chats go through the
                tokenizer's chat template.
            answers (`str`, chat, or list of them): one a prompt. Left out only for hidden states, see below.
            tokenizer (*optional*): the one that the model was trained with; `self.tokenizer`, or the one in the
                checkpoint's folder by default.
            batch_size (`int`, defaults to 8): answers a forward pass.
            max_length (`int`, *optional*): the model's positions by default. Of what is longer, the start of the prompt is
                left out, and if the answer alone is too long, its end; a warning counts both.
            as_chat (`bool`, defaults to `False`): treat strings as a user's message and the assistant's answer.
            details (`bool`, defaults to `False`): return [`AnswerScores`] with values for every token of the answers.
            goal_state (`torch.FloatTensor` `[dim]`, *optional*): for the Q-values of the details, in place of the stored one.

        Returns:
            `torch.FloatTensor` `[answers]` on the CPU, in the order given, or [`AnswerScores`].
            For hidden states `[..., dim]` in place of `prompts`, alone: values `[..., 1]`, the convention of TRL's PPO.

        Raises:
            ValueError: an empty answer, lists of different length, or no tokenizer to be found.

        Example:

        ```python
        >>> from hf_contrastive import GoalConditionedRewardConfig, GoalConditionedRewardModel
        >>> from hf_contrastive.data import train_tokenizer
        >>> tokenizer = train_tokenizer(["What is 2 + 2? It is 4."], 300)
        >>> backbone = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 300}
        >>> model = GoalConditionedRewardModel(GoalConditionedRewardConfig(backbone_config=backbone))
        >>> model.score("What is 2 + 2?", [" It is 4.", " It is 5."], tokenizer=tokenizer).shape
        torch.Size([2])

        ```
        """
        if isinstance(prompts, torch.Tensor) and answers is None:
            return self.value_head(prompts)[..., None]
        if answers is None:
            raise ValueError("`answers` is missing; call score(prompts, answers), with one answer a prompt.")
        return score_answers(
            self,
            prompts,
            answers,
            tokenizer=find_tokenizer(self, tokenizer),
            batch_size=batch_size,
            max_length=max_length,
            as_chat=as_chat,
            details=details,
            goal_state=goal_state,
        )

    def read_states(
        self, hidden: torch.Tensor, goal_state: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Reward and Q-value of hidden states.

        Args:
            hidden (`torch.FloatTensor` `[..., dim]`): last hidden states of the backbone.
            goal_state (`torch.FloatTensor` `[dim]`, *optional*): in place of the stored goal.

        Returns:
            `(rewards [...], q_values [...] or None without a goal)`.

        Raises:
            ValueError: a goal of another width or zero.
        """
        values = self.value_head(hidden)
        if self.config.normalize_reward:
            values = (values - self.config.reward_mean) / self.config.reward_std
        goal_state = self.goal_state if goal_state is None else goal_state
        return values, None if goal_state is None else goal_similarity(hidden, goal_state)

    # ---- Objective ----

    def embed_views(
        self,
        chosen_input_ids: torch.Tensor,
        rejected_input_ids: torch.Tensor,
        chosen_attention_mask: torch.Tensor | None = None,
        rejected_attention_mask: torch.Tensor | None = None,
        chosen_num_actions: torch.Tensor | None = None,
        rejected_num_actions: torch.Tensor | None = None,
        draw_positive: torch.Tensor | None = None,
        draw_negative_source: torch.Tensor | None = None,
        draw_negative_goal: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Rewards and drawn states of both answers of every pair, in one forward pass of both.

        Args:
            chosen_input_ids, rejected_input_ids (`torch.LongTensor` `[batch, length]`): prompt, answer, end of text.
            chosen_attention_mask, rejected_attention_mask (`torch.LongTensor` `[batch, length]`, *optional*): 0 for padding.
            chosen_num_actions, rejected_num_actions (`torch.LongTensor` `[batch]`): tokens of the answers, without the end of
                text; the states of the contrastive loss are drawn from them.
            draw_positive (`torch.FloatTensor` `[batch, 2, sim_samples]`, *optional*), draw_negative_source,
                draw_negative_goal (`[batch, unsim_samples]`, *optional*): uniform draws in [0, 1). Drawn here without them; in
                eval mode the quantiles of their distribution are taken, so that nothing is random.

        Returns:
            `chosen_rewards`, `rejected_rewards` `[batch]`, the states `source_states`, `goal_states` `[batch, sim_samples, dim]`,
            `negative_source_states`, `negative_goal_states` `[batch, unsim_samples, dim]`, and the places `source_index`,
            `goal_index` `[batch, sim_samples]`.

        Raises:
            ValueError: shapes that do not fit, or an answer that is empty or longer than its sequence.
        """
        masks = []
        for name, ids, mask in (
            ("chosen", chosen_input_ids, chosen_attention_mask),
            ("rejected", rejected_input_ids, rejected_attention_mask),
        ):
            self.check_ids(ids, mask, f"{name}_input_ids")
            masks.append(self._mask(ids, mask, f"{name}_attention_mask"))
        if len(chosen_input_ids) != len(rejected_input_ids):
            raise ValueError(
                f"there are {len(chosen_input_ids)} chosen and {len(rejected_input_ids)} rejected texts; expected pairs."
            )
        longest = max(chosen_input_ids.shape[1], rejected_input_ids.shape[1])
        ids, mask = (
            torch.cat([nn.functional.pad(part, (0, longest - part.shape[1])) for part in parts])
            for parts in ((chosen_input_ids, rejected_input_ids), masks)
        )
        hidden, lengths, _ = self._states(ids, mask)
        rows = torch.arange(len(hidden), device=hidden.device)
        ends = hidden[rows, (lengths - 1).clamp_min(0)]
        chosen_rewards, rejected_rewards = self.value_head(ends).chunk(2)
        found = {"chosen_rewards": chosen_rewards, "rejected_rewards": rejected_rewards}
        if chosen_num_actions is None or rejected_num_actions is None:
            if self.config.beta == 0:
                return found
            raise ValueError(
                "the contrastive loss needs `chosen_num_actions` and `rejected_num_actions` (tokens of the answers); a "
                "PreferenceCollator makes them. Without them, set beta=0 for Bradley-Terry alone."
            )
        chosen_length, rejected_length = lengths.chunk(2)
        self._check_actions("chosen_num_actions", chosen_num_actions, chosen_length)
        self._check_actions("rejected_num_actions", rejected_num_actions, rejected_length)
        draws = self._draws(
            len(chosen_input_ids), hidden.device, draw_positive, draw_negative_source, draw_negative_goal
        )
        source_draws, goal_draws = sorted_goal_draws(draws[0])
        config = self.config
        source = goal_state_index(source_draws, chosen_num_actions, config.source_state_percentile, chosen_length)
        goal = goal_state_index(goal_draws, chosen_num_actions, config.goal_state_percentile, chosen_length)
        # the official code draws the negative ones with the same percentiles
        far_source = goal_state_index(draws[1], chosen_num_actions, config.source_state_percentile, chosen_length)
        far_goal = goal_state_index(draws[2], rejected_num_actions, config.goal_state_percentile, rejected_length)
        if config.beta == 0:  # only watched
            hidden = hidden.detach()
        chosen, rejected = hidden.chunk(2)
        for name, states, index, length in (
            ("source_states", chosen, source, chosen_length),
            ("goal_states", chosen, goal, chosen_length),
            ("negative_source_states", chosen, far_source, chosen_length),
            ("negative_goal_states", rejected, far_goal, rejected_length),
        ):
            found[name] = states[rows[: len(chosen), None], length[:, None] + index]
        return {**found, "source_index": source, "goal_index": goal}

    def pair_sums(self, embeds: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
        """What the contrastive loss needs of every pair, `[batch, 5]` (see `losses.goal_pair_sums`).

        Args:
            embeds (`Mapping`): what `embed_views` returns.

        Returns:
            `torch.FloatTensor`, or `None` without states (`beta` 0 and no numbers of actions).
        """
        if "source_states" not in embeds:
            return None
        return goal_pair_sums(
            embeds["source_states"],
            embeds["goal_states"],
            embeds["negative_source_states"],
            embeds["negative_goal_states"],
            strategy=self.config.strategy,
            source_index=embeds["source_index"],
            goal_index=embeds["goal_index"],
            future_only=self.config.future_only,
        )

    def loss_terms(
        self,
        chosen_rewards: torch.Tensor,
        rejected_rewards: torch.Tensor,
        sums: torch.Tensor | None,
        margin: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Loss, its terms and what is watched, over the given pairs.

        Args:
            chosen_rewards, rejected_rewards (`torch.FloatTensor` `[batch]`): of every pair.
            sums (`torch.FloatTensor` `[pairs, 5]`): of `pair_sums`, of the pairs that the means go over.
            margin (`torch.FloatTensor` `[batch]`, *optional*): as in `forward`.

        Returns:
            `dict` of scalars, named as in [`GoalConditionedRewardOutput`].
        """
        gap = (chosen_rewards - rejected_rewards).detach().float()
        terms = {"preference_loss": bradley_terry_loss(chosen_rewards, rejected_rewards, margin)}
        terms["loss"] = terms["preference_loss"]
        terms["accuracy"], terms["reward_margin"] = (gap > 0).float().mean(), gap.mean()
        if sums is not None:
            goal = goal_loss_of_sums(sums, self.config.per_sample)
            terms["contrastive_loss"], terms["pos_sim"], terms["neg_sim"] = goal
            if self.config.beta:
                terms["loss"] = terms["preference_loss"] + self.config.beta * goal.loss
        return terms

    def compute_objective(
        self, embeds: dict[str, torch.Tensor], margin: torch.Tensor | None = None, return_loss: bool = True
    ) -> GoalConditionedRewardOutput:
        """Both losses over the batch; the means of the contrastive loss go over the pairs of all processes.

        Args:
            embeds (`dict`): what `embed_views` returns.
            margin (`torch.FloatTensor` `[batch]`, *optional*): as in `forward`.
            return_loss (`bool`, defaults to `True`): compute the loss.

        Returns:
            [`GoalConditionedRewardOutput`].
        """
        rewards = {name: embeds[name] for name in ("chosen_rewards", "rejected_rewards")}
        if not return_loss:
            return GoalConditionedRewardOutput(**rewards)
        sums = self.pair_sums(embeds)
        if sums is not None:
            sums = all_gather_with_grad(sums)
        return GoalConditionedRewardOutput(**self.loss_terms(**rewards, sums=sums, margin=margin), **rewards)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        chosen_input_ids: torch.Tensor | None = None,
        chosen_attention_mask: torch.Tensor | None = None,
        rejected_input_ids: torch.Tensor | None = None,
        rejected_attention_mask: torch.Tensor | None = None,
        chosen_num_actions: torch.Tensor | None = None,
        rejected_num_actions: torch.Tensor | None = None,
        margin: torch.Tensor | None = None,
        goal_state: torch.Tensor | None = None,
        draw_positive: torch.Tensor | None = None,
        draw_negative_source: torch.Tensor | None = None,
        draw_negative_goal: torch.Tensor | None = None,
        return_loss: bool = True,
        use_cache: bool | None = None,
    ) -> GoalConditionedRewardOutput:
        """Rewards of texts (`input_ids`), or the objective on pairs (`chosen_input_ids`, `rejected_input_ids`).

        Args:
            input_ids (`torch.LongTensor` `[batch, length]`): texts, padded on either side.
            attention_mask (`torch.LongTensor` `[batch, length]`, *optional*): 0 for padding. Without it, a run of pad tokens
                at either end of a row counts as padding (but for one at the end, when it is the end-of-text token too).
            margin (`torch.FloatTensor` `[batch]`, *optional*): by how much the rewards of a pair should differ at least.
            goal_state (`torch.FloatTensor` `[dim]`, *optional*): for Q-values, in place of the stored one.
            return_loss (`bool`, defaults to `True`): compute the loss of pairs.
            use_cache (`bool`, *optional*): not used; trainers of TRL pass it.
            chosen_input_ids, ..., draw_negative_goal: as in `embed_views`.

        Returns:
            [`GoalConditionedRewardOutput`]: of texts `logits`, `rewards`, `token_rewards`, `q_values` (with a goal) and
            `last_hidden_state`; of pairs the losses, `chosen_rewards` and `rejected_rewards`.

        Raises:
            ValueError: neither or both kinds of input, or shapes that do not fit.
        """
        if (input_ids is None) == (chosen_input_ids is None):
            raise ValueError(
                "pass either `input_ids` (texts to score) or `chosen_input_ids` and `rejected_input_ids` (pairs to train on)."
            )
        if input_ids is not None:
            return self._score_ids(input_ids, attention_mask, goal_state)
        if chosen_input_ids is None or rejected_input_ids is None:
            raise ValueError(
                "`rejected_input_ids` is missing; pairs have `chosen_input_ids` and `rejected_input_ids`."
            )
        embeds = self.embed_views(
            chosen_input_ids,
            rejected_input_ids,
            chosen_attention_mask,
            rejected_attention_mask,
            chosen_num_actions,
            rejected_num_actions,
            draw_positive,
            draw_negative_source,
            draw_negative_goal,
        )
        return self.compute_objective(embeds, margin, return_loss)

    def _score_ids(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, goal_state: torch.Tensor | None
    ) -> GoalConditionedRewardOutput:
        self.check_ids(input_ids, attention_mask)
        hidden, lengths, places = self._states(input_ids, attention_mask)
        values, q_values = self.read_states(hidden, goal_state)
        rows = torch.arange(len(hidden), device=hidden.device)
        rewards = values[rows, (lengths - 1).clamp_min(0)]
        length = input_ids.shape[1]
        return GoalConditionedRewardOutput(
            logits=rewards[:, None],
            rewards=rewards,
            token_rewards=_spread(values, lengths, places, length),
            q_values=None if q_values is None else _spread(q_values, lengths, places, length),
            last_hidden_state=_spread(hidden, lengths, places, length),
        )

    def _mask(self, ids: torch.Tensor, mask: torch.Tensor | None, name: str = "attention_mask") -> torch.Tensor:
        if mask is None:
            if len(ids) > 1 and getattr(self.config.get_text_config(), "pad_token_id", None) is None:
                raise ValueError(
                    f"a batch of {len(ids)} texts has no `{name}`, and the model has no pad token to tell padding by; pass "
                    f"`{name}`, or set model.config.backbone_config.pad_token_id = tokenizer.pad_token_id."
                )
            mask = self.mask_of(ids)
        return mask

    def _states(self, ids: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Hidden states with the padding moved to the end of every row: states, lengths, and where each token stood.

        So laid out, positions start at 0 and no token sees any padding, whatever the backbone does with masks. The mask is
        not needed any more, and without it attention takes its quickest way.
        """
        mask = self._mask(ids, mask)
        lengths = mask.sum(1)
        if ids.device.type == "cpu" and bool((lengths == 0).any()):
            raise ValueError(f"row {int((lengths == 0).nonzero()[0])} of the batch has no token, only padding.")
        places = (mask == 0).to(torch.uint8).argsort(dim=1, stable=True)
        if ids.device.type == "cpu":  # a GPU would have to wait for the number
            places = places[:, : int(lengths.max())]
        compact = ids.gather(1, places)
        columns = torch.arange(places.shape[1], device=ids.device)
        compact = compact.masked_fill(columns >= lengths[:, None], 0)  # a pad token need not be in the vocabulary
        outputs = self.backbone(input_ids=compact, use_cache=False, return_dict=True)
        return outputs.last_hidden_state, lengths, places

    def _check_actions(self, name: str, actions: torch.Tensor, lengths: torch.Tensor) -> None:
        if actions.shape != lengths.shape:
            raise ValueError(
                f"`{name}` has shape {list(actions.shape)}, expected one number a pair, {list(lengths.shape)}."
            )
        if actions.device.type != "cpu":
            return
        wrong = (actions < 1) | (actions >= lengths)
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise ValueError(
                f"`{name}` of row {row} is {int(actions[row])}, but it must be from 1 to {int(lengths[row]) - 1}: the answer "
                f"has at least one token and ends before the last of the {int(lengths[row])} tokens, the end of text."
            )

    def _draws(
        self,
        batch: int,
        device: torch.device,
        positive: torch.Tensor | None,
        negative_source: torch.Tensor | None,
        negative_goal: torch.Tensor | None,
    ) -> list[torch.Tensor]:
        similar, far = self.config.sim_samples, self.config.unsim_samples
        draws = []
        for name, given, shape in (
            ("draw_positive", positive, (batch, 2, similar)),
            ("draw_negative_source", negative_source, (batch, far)),
            ("draw_negative_goal", negative_goal, (batch, far)),
        ):
            if given is not None:
                if given.shape[0] != batch or given.dim() != len(shape):
                    raise ValueError(f"`{name}` has shape {list(given.shape)}, expected {list(shape)}.")
                draws.append(given.to(device))
            elif self.training:
                draws.append(torch.rand(shape, device=device))
            else:
                draws.append(_quantiles(shape, device))
        return draws

    def estimate_tokens(self, input_dict: dict[str, Any]) -> int:
        """Tokens of a batch, padding included; what the Trainer counts its work by."""
        names = ("input_ids", "chosen_input_ids", "rejected_input_ids")
        return sum(input_dict[name].numel() for name in names if input_dict.get(name) is not None)

    def _embed_for_encode(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, *, readout: str
    ) -> torch.Tensor:
        self.check_ids(input_ids, attention_mask)
        hidden, lengths, _ = self._states(input_ids, attention_mask)
        if readout == "last":
            return hidden[torch.arange(len(hidden), device=hidden.device), (lengths - 1).clamp_min(0)]
        weights = (torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]).to(hidden.dtype)[..., None]
        return (hidden * weights).sum(1) / weights.sum(1).clamp_min(1)


def _spread(values: torch.Tensor, lengths: torch.Tensor, places: torch.Tensor, length: int) -> torch.Tensor:
    """Values of compact rows back where their tokens stood; 0 at padding."""
    shape = [1] * (values.dim() - 2)
    columns = torch.arange(places.shape[1], device=values.device)
    kept = values * (columns < lengths[:, None]).view(*places.shape, *shape)
    target = values.new_zeros(len(values), length, *values.shape[2:])
    return target.scatter(1, places.view(*places.shape, *shape).expand_as(kept), kept)


def _quantiles(shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Evenly spread uniform numbers; of positive pairs, of the smaller and the larger of two."""
    even = (torch.arange(shape[-1], device=device) + 0.5) / shape[-1]
    if len(shape) == 3:
        even = torch.stack([1 - (1 - even).sqrt(), even.sqrt()])
    return even.expand(shape)


__all__ = ["GoalConditionedRewardModel", "GoalConditionedRewardOutput", "GoalState"]
