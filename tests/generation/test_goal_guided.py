"""Step beam search: the same beams as a plain search written out here, scores and their parts, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.text_models import letter_tokenizer, padded, prompts, tiny_model

from hf_contrastive import GoalConditionedRewardModel, contrastive_search
from hf_contrastive.generation import goal_guided_generate
from hf_contrastive.generation.goal_guided import GuidedStep, _Beam, _Search
from hf_contrastive.generation.row_decoding import row_draws


STOPS = ("a", "e", "K", ".", "xy")
SETTINGS = {"step_stop": STOPS, "num_beams": 4, "samples_per_beam": 3, "max_steps": 4, "max_step_tokens": 7}
#: the two special tokens are no letters
SAMPLING = {"temperature": 2.5, "top_k": 0, "suppress_tokens": [0, 1]}


def reward_of(model, seed=1):
    reward_model = GoalConditionedRewardModel.from_backbone(model)
    generator = torch.Generator().manual_seed(seed)
    reward_model.set_goal_state(torch.randn(reward_model.config.state_size, generator=generator))
    return reward_model


def judge(prompt, steps, step):
    """Some confidence that depends on all it gets."""
    return 0.2 + 0.7 * math.sin(len(prompt) + 3 * len(steps) + sum(map(ord, step))) ** 2


def sample_step(model, tokenizer, ids, draws, most):
    """One step after one unpadded row, token by token, and its probability without temperature."""
    new, total = [], 0.0
    while len(new) < most:
        with torch.no_grad():
            logits = model(torch.tensor([[*ids, *new]])).logits[0, -1]
        scores = logits.clone()
        scores[:2] = -torch.inf
        below = (scores / 2.5).softmax(-1).double().cumsum(0)
        new.append(int((below <= draws[len(new)] * below[-1]).sum()))
        total += float(logits.log_softmax(-1)[new[-1]])
        if new[-1] == 2 or tokenizer.decode(new, skip_special_tokens=True).endswith(STOPS):
            break
        if len(new) == 1 and tokenizer.decode([*ids, *new], skip_special_tokens=True).endswith(STOPS):
            break  # a stop string may begin before the step
    return new, math.exp(total / len(new))


def plain_search(
    model, reward_model, tokenizer, text, number, *, goal_weight=1.0, ratio=None, with_prefix=True, seed=0
):
    reward_model.eval()
    prompt = tokenizer(text)["input_ids"]
    pool = [((), [], -math.inf, False)]
    for step in range(SETTINGS["max_steps"]):
        made, row = {}, 0
        going = [beam for beam in pool if not beam[3]]
        for tokens, steps, _, _ in going:
            for _ in range(3 if step else 12):
                draws = row_draws(seed, (number, step, row), SETTINGS["max_step_tokens"])
                new, p = sample_step(model, tokenizer, [*prompt, *tokens], draws, SETTINGS["max_step_tokens"])
                row += 1
                ids = [*prompt, *tokens, *new] if with_prefix else new
                with torch.no_grad():
                    hidden = reward_model(
                        torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long)
                    ).last_hidden_state[0, -len(new) :]
                q = float(torch.cosine_similarity(hidden.mean(0), reward_model.goal_state, dim=0))
                written = tokenizer.decode(new, skip_special_tokens=True)
                c = None if ratio is None else judge(text, [one[0] for one in steps], written)
                score = p if ratio is None else c**ratio * p ** (1 - ratio)
                all_steps = [*steps, (written, new, p, c, q, score)]
                total = math.prod(one[5] for one in all_steps) ** (1 / len(all_steps)) + goal_weight * q
                made.setdefault((*tokens, *new), ((*tokens, *new), all_steps, total, new[-1] == 2))
        pool = [beam for beam in pool if beam[3]] + list(made.values())
        pool = sorted(pool, key=lambda beam: -beam[2])[: SETTINGS["num_beams"]]
        if all(beam[3] for beam in pool):
            break
    return pool


CASES = {
    "default": {},
    "without goal": {"goal_weight": 0.0},
    "confidence": {"ratio": 0.5},
    "more confidence": {"ratio": 2**1.5 / (1 + 2**1.5), "goal_weight": 0.3},
    "alone": {"with_prefix": False, "goal_weight": 3.0},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_beams_are_those_of_a_plain_search(name, case):
    model, reward_model, tokenizer = tiny_model(name), reward_of(tiny_model("gpt2")), letter_tokenizer()
    texts, settings = ["abcdb", "xyz"], CASES[case]
    options = {key: value for key, value in settings.items() if key != "ratio"}
    if "ratio" in settings:
        options |= {"confidence": judge, "confidence_ratio": 1.5 if case == "more confidence" else 0.0}
    found = goal_guided_generate(
        model, reward_model, texts, tokenizer=tokenizer, seed=3, **SETTINGS, **SAMPLING, **options
    )
    assert len(found) == 2
    lengths, ended = set(), 0
    for number, (text, one) in enumerate(zip(texts, found, strict=True)):
        expected = plain_search(model, reward_model, tokenizer, text, number, seed=3, **settings)
        assert [tuple(row.tolist()) for row in one.sequences] == [beam[0] for beam in expected]
        assert one.texts == ["".join(step[0] for step in beam[1]) for beam in expected]
        assert one.scores == pytest.approx([beam[2] for beam in expected], abs=1e-4)
        assert one.finished == [beam[3] for beam in expected]
        for steps, beam in zip(one.steps, expected, strict=True):
            assert [(step.text, step.tokens) for step in steps] == [step[:2] for step in beam[1]]
            for values in ("p", "c", "q", "score"):
                place = {"p": 2, "c": 3, "q": 4, "score": 5}[values]
                for step, other in zip(steps, beam[1], strict=True):
                    assert getattr(step, values) == (other[place] and pytest.approx(other[place], abs=1e-4))
            lengths |= {len(step.tokens) for step in steps}
            ended += beam[3]
    assert len(lengths) > 2  # so that beams are padded, and steps end by themselves and by their length
    assert case != "default" or ended


def test_the_goal_decides():
    model, reward_model, tokenizer = tiny_model("llama"), reward_of(tiny_model("gpt2")), letter_tokenizer()
    with_goal, without = (
        goal_guided_generate(
            model, reward_model, "abcdb", tokenizer=tokenizer, goal_weight=weight, **SETTINGS, **SAMPLING
        )
        for weight in (50.0, 0.0)
    )
    assert with_goal.texts != without.texts
    assert max(steps[-1].q for steps in with_goal.steps) > max(steps[-1].q for steps in without.steps)
    plain = goal_guided_generate(model, None, "abcdb", tokenizer=tokenizer, goal_weight=0.0, **SETTINGS, **SAMPLING)
    assert (plain.texts, plain.scores) == (without.texts, without.scores)
    assert all(step.q is None and step.c is None for steps in plain.steps for step in steps)


def choose(scores, temperature, seed, beams):
    steps = [GuidedStep("", [number], 1.0, None, None, 1.0) for number in range(len(scores))]
    pool = [_Beam([step], step.tokens, score) for step, score in zip(steps, scores, strict=True)]
    search = _Search(None, None, None, None, None, beams, 1, 1, 1, 1.0, None, 0.0, temperature, True, seed)
    return [beam.tokens[0] for beam in search._choose(0, 0, pool)]


def test_beams_drawn_without_replacement():
    scores, times = [0.9, 0.2, 0.5, -0.3], 3000
    firsts = torch.tensor([choose(scores, 0.5, seed, 2) for seed in range(times)])
    assert (firsts[:, 0] != firsts[:, 1]).all()
    odds = (torch.tensor(scores) / 0.5).softmax(0)
    torch.testing.assert_close(firsts[:, 0].bincount(minlength=4) / times, odds, rtol=0, atol=0.03)
    second = sum(
        odds[first] * odds.clone().index_fill(0, torch.tensor(first), 0) / (1 - odds[first]) for first in range(4)
    )
    torch.testing.assert_close(firsts[:, 1].bincount(minlength=4) / times, second, rtol=0, atol=0.03)
    assert choose(scores, 0.0, 0, 3) == [0, 2, 1]
    assert choose(scores, 1e-6, 5, 3) == [0, 2, 1]
    model, reward_model, tokenizer = tiny_model("llama"), reward_of(tiny_model("gpt2")), letter_tokenizer()
    first, again, other = (
        goal_guided_generate(
            model, reward_model, "abcdb", tokenizer=tokenizer, temperature_beams=2.0, seed=seed, **SETTINGS, **SAMPLING
        )
        for seed in (0, 0, 1)
    )
    assert first.texts == again.texts != other.texts
    assert first.scores == sorted(first.scores, reverse=True)


def test_contrastive_search_writes_the_steps():
    model, reward_model, tokenizer = tiny_model("gpt2"), reward_of(tiny_model("gpt2")), letter_tokenizer()
    inputs = padded(model, prompts(6))
    loop = {"penalty_alpha": 0.6, "top_k": 4}
    whole = model.generate(**inputs, custom_generate=contrastive_search, max_new_tokens=28, **loop)[0, 6:].tolist()
    found = goal_guided_generate(
        model, reward_model, inputs, tokenizer=tokenizer, **{**SETTINGS, "samples_per_beam": 1}, **loop
    )
    assert len(found) == len(found[0].sequences) == 1
    tokens = found[0].sequences[0].tolist()
    assert tokens == whole[: len(tokens)]
    assert len(found[0].steps[0]) == 4 or found[0].finished[0]
    with torch.no_grad():
        likely = model(torch.tensor([[*inputs["input_ids"][0].tolist(), *tokens]])).logits[0, 5:-1].log_softmax(-1)
    likely = likely.gather(1, torch.tensor(tokens)[:, None])[:, 0]
    start = 0
    for step in found[0].steps[0]:
        end = start + len(step.tokens)
        assert step.p == pytest.approx(float(likely[start:end].mean().exp()), rel=1e-4)
        start = end


def test_one_prompt_or_many_and_what_stays_the_same():
    model, reward_model, tokenizer = tiny_model("llama").train(), reward_of(tiny_model("gpt2")), letter_tokenizer()
    options = {"tokenizer": tokenizer, **SETTINGS, **SAMPLING}
    alone = goal_guided_generate(model, reward_model, "abcdb", **options)
    together = goal_guided_generate(model, reward_model, ["abcdb", "xyz"], **options)
    batch = tokenizer(["abcdb", "xyz"], padding=True, padding_side="left", return_tensors="pt")
    assert [one.texts for one in goal_guided_generate(model, reward_model, batch, **options)] == [
        one.texts for one in together
    ]
    assert alone.texts == together[0].texts
    assert alone.scores == together[0].scores
    assert model.training
    assert reward_model.training


def test_a_beam_without_room_goes_on_no_more():
    model, reward_model, tokenizer = tiny_model("llama"), reward_of(tiny_model("gpt2")), letter_tokenizer()
    inputs = padded(model, prompts(110))
    found = goal_guided_generate(
        model, reward_model, inputs, tokenizer=tokenizer, step_stop="a", num_beams=2, max_steps=9, max_step_tokens=8,
        suppress_tokens=[0, 1, 2, 3],
    )[0]  # fmt: skip
    assert [len(tokens) for tokens in found.sequences] == [16, 16]
    assert found.finished == [False, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 0}, r"`num_beams` is 0"),
        ({"samples_per_beam": 0}, r"`samples_per_beam` is 0"),
        ({"max_steps": 0}, r"`max_steps` is 0"),
        ({"max_step_tokens": 1.5}, r"`max_step_tokens` is 1\.5"),
        ({"max_step_tokens": 200}, r"128 positions; pass max_step_tokens=123"),
        ({"goal_weight": math.inf}, r"`goal_weight` is inf"),
        ({"confidence_ratio": math.nan}, r"`confidence_ratio` is nan"),
        ({"temperature_beams": -1.0}, r"`temperature_beams` is -1"),
        ({"step_stop": ()}, r"`step_stop` is \(\)"),
        ({"step_stop": [""]}, r"`step_stop` is \[''\]"),
        ({"tokenizer": None}, r"steps are texts; pass tokenizer"),
        ({"max_new_tokens": 5}, r"`max_new_tokens` does not work here; set max_steps"),
        ({"min_new_tokens": 5}, r"`min_new_tokens` does not work here"),
        ({"stop_strings": "a"}, r"`stop_strings` does not work here"),
        ({"penalty_alpha": 0.6, "top_k": 4}, r"`samples_per_beam` is 2.*samples_per_beam=1"),
        ({"do_sample": False}, r"`samples_per_beam` is 2"),
        ({"confidence": lambda *_: 0.0}, r"`confidence` returned 0\.0"),
        ({"confidence": lambda *_: 1.1}, r"`confidence` returned 1\.1"),
        ({"reward_model": None}, r"`reward_model` is None, which needs goal_weight=0"),
        ({"inputs": []}, r"`inputs` is empty"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_settings_that_cannot_work_are_refused(options, message):
    model, reward_model = tiny_model("gpt2"), reward_of(tiny_model("gpt2"))
    options = {
        "inputs": "abcde",
        "reward_model": reward_model,
        "tokenizer": letter_tokenizer(),
        "step_stop": "a",
        **options,
    }
    inputs, reward_model = options.pop("inputs"), options.pop("reward_model")
    with pytest.raises(ValueError, match=message):
        goal_guided_generate(model, reward_model, inputs, **options)


def test_a_reward_model_without_a_goal_is_refused():
    model, reward_model = tiny_model("gpt2"), reward_of(tiny_model("gpt2"))
    reward_model.set_goal_state(None)
    with pytest.raises(ValueError, match="no goal state"):
        goal_guided_generate(model, reward_model, "abc", tokenizer=letter_tokenizer())
