"""Step beam search led by a goal-conditioned reward model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.generation import StopStringCriteria

from hf_contrastive.generation.goal_states import (
    check_count,
    check_goal,
    check_vocabularies,
    check_window,
    left_padded,
    read_prompts,
)
from hf_contrastive.generation.row_decoding import RowDecoder, row_draws, text_window
from hf_contrastive.utils import evaluation_mode


Confidence = Callable[[str, list[str], str], float]


@dataclass
class GuidedStep:
    """One step of a beam: a line or a sentence.

    Args:
        text (`str`): what was written.
        tokens (`list[int]`): the same as token ids, a stop string and the end of text included.
        p (`float`): how likely the language model finds it: product of the probabilities of its tokens to the power of
            one over their number.
        c (`float` or `None`): what the confidence function says of it.
        q (`float` or `None`): cosine of the mean of its states with the goal; none without a reward model.
        score (`float`): `c ** r * p ** (1 - r)`.
    """

    text: str
    tokens: list[int]
    p: float
    c: float | None
    q: float | None
    score: float


@dataclass
class GuidedGenerations:
    """Beams of one prompt, best first.

    Args:
        texts (`list[str]`): continuations of the prompt.
        sequences (`list[torch.LongTensor]`): the same as token ids.
        scores (`list[float]`): of the beams, each as of its last step.
        steps (`list[list[GuidedStep]]`): of each beam.
        finished (`list[bool]`): whether the beam ended with the end of text.
    """

    texts: list[str]
    sequences: list[Tensor]
    scores: list[float]
    steps: list[list[GuidedStep]]
    finished: list[bool]


@dataclass
class _Beam:
    steps: list[GuidedStep] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    score: float = -math.inf
    finished: bool = False


def goal_guided_generate(
    model: Any,
    reward_model: Any,
    inputs: Any,
    *,
    tokenizer: Any,
    num_beams: int = 5,
    samples_per_beam: int = 2,
    step_stop: str | Sequence[str] = ("\n",),
    max_steps: int = 16,
    max_step_tokens: int = 64,
    goal_weight: float = 1.0,
    confidence: Confidence | None = None,
    confidence_ratio: float = 0.0,
    temperature_beams: float = 0.0,
    with_prefix: bool = True,
    goal_state: Tensor | None = None,
    seed: int = 0,
    **generate_arguments: Any,
) -> GuidedGenerations | list[GuidedGenerations]:
    """Step beam search towards a goal (https://arxiv.org/abs/2407.13887): beams grow by whole lines, and those whose
    states are near the goal go on.

    A step is what is written up to one of `step_stop`, or to the end of text. Every beam samples `samples_per_beam`
    next steps (the prompt itself `num_beams * samples_per_beam`), and of all beams so made, and of those that have
    ended, the best `num_beams` are kept:

        score of a step  s = c ** r * p ** (1 - r),    r = 2 ** confidence_ratio / (1 + 2 ** confidence_ratio)
        score of a beam  (product of s over its n steps) ** (1 / n) + goal_weight * q

    with p the step's probability (see [`GuidedStep`]), c a confidence in it (without one, r is 0), and q the cosine of
    the mean of its states with the goal. Beams of the same tokens count once.

    Args:
        model (`PreTrainedModel`): a decoder with `generate`.
        reward_model ([`GoalConditionedRewardModel`]): reads the same token ids; may be `None` with `goal_weight=0`.
        inputs (`str`, list of `str`, mapping of tensors or `Tensor`): prompts, searched one after the other.
        tokenizer: of the model.
        num_beams (`int`, defaults to 5): beams that are kept.
        samples_per_beam (`int`, defaults to 2): next steps sampled for each; 1 with contrastive search, which does not
            sample.
        step_stop (`str` or list of `str`, defaults to a line break): where steps end.
        max_steps (`int`, defaults to 16): steps of a beam.
        max_step_tokens (`int`, defaults to 64): tokens of a step; a longer one is cut, and the next begins there. A
            beam for which a model has no room for as many goes on no more.
        goal_weight (`float`, defaults to 1.0): weight of the goal; 0 is plain step beam search.
        confidence (function, *optional*): `confidence(prompt, steps_so_far, step)` gives a number above 0, at most 1,
            for example the model's own judgement of the step.
        confidence_ratio (`float`, defaults to 0.0): above 0 the confidence weighs more than the probability, below 0
            less.
        temperature_beams (`float`, defaults to 0.0): 0 keeps the best beams; above, beams are drawn without
            replacement with probabilities softmax(score / temperature).
        with_prefix (`bool`, defaults to `True`): the states of a step are those it has behind the prompt and the steps
            before it; `False`: those of its text alone, as the official code computes them.
        goal_state (`torch.FloatTensor` `[dim]`, *optional*): in place of the reward model's own goal.
        seed (`int`, defaults to 0): of all draws.
        **generate_arguments: of `generate`, for the steps: `temperature`, `top_p`, `penalty_alpha`, ...

    Returns:
        [`GuidedGenerations`], or a list of them, one for each prompt, when `inputs` is not a single text.

    Raises:
        ValueError: no goal, a setting out of range, a prompt that does not fit a model, models that read different
            tokens, and arguments of `generate` that cannot work here.

    Example:

    ```python
    >>> import torch
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> from hf_contrastive import GoalConditionedRewardModel
    >>> from hf_contrastive.data import train_tokenizer
    >>> from hf_contrastive.generation import goal_guided_generate
    >>> tokenizer = train_tokenizer(["2 + 2 = 4"], 300)
    >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=16, n_layer=1, n_head=2, eos_token_id=tokenizer.eos_token_id))
    >>> reward_model = GoalConditionedRewardModel.from_backbone(model)
    >>> reward_model.set_goal_state(torch.ones(16))
    >>> found = goal_guided_generate(
    ...     model, reward_model, "2 + 2", tokenizer=tokenizer, num_beams=2, max_steps=2, max_step_tokens=4
    ... )
    >>> len(found.texts), found.scores == sorted(found.scores, reverse=True)
    (2, True)

    ```
    """
    counts = {
        "num_beams": num_beams,
        "samples_per_beam": samples_per_beam,
        "max_steps": max_steps,
        "max_step_tokens": max_step_tokens,
    }
    for name, value in counts.items():
        check_count(name, value)
    for name, number in (("goal_weight", goal_weight), ("confidence_ratio", confidence_ratio)):
        if isinstance(number, bool) or not math.isfinite(number):
            raise ValueError(f"`{name}` is {number!r}, expected a finite number.")
    if not 0 <= temperature_beams < math.inf:
        raise ValueError(
            f"`temperature_beams` is {temperature_beams!r}, expected 0 (the best beams) or a number above."
        )
    stops = [step_stop] if isinstance(step_stop, str) else list(step_stop)
    if not stops or not all(isinstance(stop, str) and stop for stop in stops):
        raise ValueError(f"`step_stop` is {step_stop!r}, expected texts at which a step ends, for example ('\\n',).")
    if tokenizer is None:
        raise ValueError("steps are texts; pass tokenizer=AutoTokenizer.from_pretrained(...).")
    for name in ("max_new_tokens", "min_new_tokens", "stop_strings"):
        if generate_arguments.get(name) is not None:
            raise ValueError(f"`{name}` does not work here; set max_steps, max_step_tokens and step_stop.")
    goal = None
    if reward_model is not None:
        goal = check_goal(reward_model, goal_state)
        check_vocabularies(model, reward_model, "use a reward model on the language model's tokens")
    elif goal_weight:
        raise ValueError("`reward_model` is None, which needs goal_weight=0; pass a reward model with a goal.")
    decoder = RowDecoder(model, {**generate_arguments, "min_new_tokens": 0}, tokenizer, "goal_guided_generate")
    decoder.check_samples("samples_per_beam", samples_per_beam)
    decoder.criteria.append(StopStringCriteria(tokenizer, stops))
    prompts = read_prompts(inputs, tokenizer, model)
    for each, what in ((model, "language model"), (reward_model, "reward model")):
        if each is not None:
            check_window(each, what, prompts.lengths(), max_step_tokens, "pass max_step_tokens={room} or fewer")
    ratio = 2.0**confidence_ratio / (1 + 2.0**confidence_ratio) if confidence is not None else 0.0
    search = _Search(
        model, reward_model, goal, tokenizer, decoder, num_beams, samples_per_beam, max_steps, max_step_tokens,
        goal_weight, confidence, ratio, temperature_beams, with_prefix, seed,
    )  # fmt: skip
    with torch.no_grad(), evaluation_mode(model, reward_model):
        found = []
        for number, (ids, mask) in enumerate(zip(prompts.ids, prompts.mask, strict=True)):
            tokens = ids[mask.bool()].tolist()
            text = (
                tokenizer.decode(tokens, skip_special_tokens=True) if prompts.texts is None else prompts.texts[number]
            )
            found.append(search.run(number, tokens, text))
    return found[0] if prompts.single else found


@dataclass
class _Search:
    model: Any
    reward_model: Any
    goal: Tensor | None
    tokenizer: Any
    decoder: RowDecoder
    num_beams: int
    samples: int
    max_steps: int
    max_step_tokens: int
    goal_weight: float
    confidence: Confidence | None
    ratio: float
    temperature: float
    with_prefix: bool
    seed: int

    def run(self, number: int, prompt: list[int], text: str) -> GuidedGenerations:
        """The beams of one prompt."""
        windows = [text_window(each) for each in (self.model, self.reward_model) if each is not None]
        room = min((window for window in windows if window is not None), default=math.inf) - len(prompt)
        pool = [_Beam()]
        for step in range(self.max_steps):
            open_beams = [
                beam for beam in pool if not beam.finished and len(beam.tokens) + self.max_step_tokens <= room
            ]
            if not open_beams:
                break
            made = self._extend(number, step, prompt, text, open_beams)
            going = {id(beam) for beam in open_beams}
            pool = self._choose(number, step, [*(beam for beam in pool if id(beam) not in going), *made])
        pool.sort(key=lambda beam: beam.score, reverse=True)
        return GuidedGenerations(
            texts=[self._text_of(prompt, [], beam.tokens) for beam in pool],
            sequences=[torch.tensor(beam.tokens) for beam in pool],
            scores=[beam.score for beam in pool],
            steps=[beam.steps for beam in pool],
            finished=[beam.finished for beam in pool],
        )

    def _extend(self, number: int, step: int, prompt: list[int], text: str, beams: list[_Beam]) -> list[_Beam]:
        """Beams with one more step, several for each of the given ones."""
        copies = self.samples
        if step == 0 and self.decoder.samples:
            copies = self.samples * self.num_beams  # there is one beam yet, the empty one
        parents = [beam for beam in beams for _ in range(copies)]
        rows = [[*prompt, *beam.tokens] for beam in parents]
        ids, mask = left_padded(rows)
        draws = None
        if self.decoder.samples:
            draws = torch.stack(
                [row_draws(self.seed, (number, step, row), self.max_step_tokens) for row in range(len(rows))]
            )
        width = ids.shape[1]
        piece = self.decoder.piece(
            ids.to(self.model.device), mask.to(self.model.device), self.max_step_tokens, start=width,
            limit=self.max_step_tokens, draws=draws, probabilities=True,
        )  # fmt: skip
        assert piece.log_probabilities is not None
        ends = self._end_tokens()
        made: dict[tuple[int, ...], tuple[_Beam, list[int], float]] = {}
        for row, parent in enumerate(parents):
            count = int(piece.lengths[row]) - width
            new = piece.ids[row, width : width + count].tolist()
            made.setdefault(
                (*parent.tokens, *new), (parent, new, float(piece.log_probabilities[row, :count].mean().exp()))
            )
        similarities = self._similarities(prompt, [(parent.tokens, new) for parent, new, _ in made.values()])
        found = []
        for (tokens, (parent, new, p)), q in zip(made.items(), similarities, strict=True):
            written = self._text_of(prompt, parent.tokens, new)
            c = None if self.confidence is None else self._ask(text, parent, written)
            score = p if c is None else c**self.ratio * p ** (1 - self.ratio)
            steps = [*parent.steps, GuidedStep(written, new, p, c, q, score)]
            total = math.exp(sum(math.log(max(each.score, 1e-300)) for each in steps) / len(steps))
            if q is not None:
                total += self.goal_weight * q
            found.append(replace(parent, steps=steps, tokens=list(tokens), score=total, finished=new[-1] in ends))
        return found

    def _end_tokens(self) -> set[int]:
        end = self.decoder.value("eos_token_id")
        return set() if end is None else {int(token) for token in (end if isinstance(end, (list, tuple)) else [end])}

    def _text_of(self, prompt: list[int], before: list[int], new: list[int]) -> str:
        """Text of a step, decoded behind what is before it, so that a space at its start is not lost."""
        options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        first = self.tokenizer.decode([*prompt, *before], **options)
        whole = self.tokenizer.decode([*prompt, *before, *new], **options)
        return whole[len(first) :] if whole.startswith(first) else self.tokenizer.decode(new, **options)

    def _ask(self, prompt: str, parent: _Beam, written: str) -> float:
        assert self.confidence is not None
        found = float(self.confidence(prompt, [step.text for step in parent.steps], written))
        if not 0 < found <= 1:
            raise ValueError(f"`confidence` returned {found}, expected a number above 0 and at most 1.")
        return found

    def _similarities(self, prompt: list[int], steps: list[tuple[list[int], list[int]]]) -> list[float | None]:
        """Cosine with the goal of the mean state of every step."""
        if self.reward_model is None or self.goal is None:
            return [None] * len(steps)
        rows = [[*prompt, *before, *new] if self.with_prefix else new for before, new in steps]
        ids, mask = (part.to(self.reward_model.device) for part in left_padded(rows))
        hidden = self.reward_model(input_ids=ids, attention_mask=mask).last_hidden_state
        hidden = hidden if hidden.dtype == torch.float64 else hidden.float()
        means = torch.stack([hidden[row, -len(new) :].mean(0) for row, (_, new) in enumerate(steps)])
        return F.cosine_similarity(means, self.goal.to(means), dim=-1).tolist()

    def _choose(self, number: int, step: int, beams: list[_Beam]) -> list[_Beam]:
        """The best beams, or as many drawn without replacement."""
        keys = torch.tensor([beam.score for beam in beams], dtype=torch.float64)
        if self.temperature > 0:
            # the largest of softmax logits with Gumbel noise are a draw without replacement
            draws = row_draws(self.seed, (number, step, -1), len(beams)).clamp_min(1e-300)
            keys = keys / self.temperature - (-draws.log()).log()
        order = keys.argsort(descending=True, stable=True)[: self.num_beams]
        return [beams[place] for place in order.tolist()]


__all__ = ["GuidedGenerations", "GuidedStep", "goal_guided_generate"]
